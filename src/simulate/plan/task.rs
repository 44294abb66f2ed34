//! Listens, opens a pseudo-terminal, or sends CAN frames, for each bus of a plan: `fieldgate simulate`, and what `demo` reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_local};
use tracing::warn;

use crate::config::plan::{DriverSpec, Plan};
use crate::mapping::rule::PointRule;
use crate::modbus::spec::{BusSpec, Endpoint, Framing, Transport};
use crate::simulate::can;
use crate::simulate::fault::{Asked, Faults, Rule};
use crate::simulate::modbus::Registers;
use crate::simulate::task::{self, Bench, Pty, Speech, open_pty};

/// Where a simulated bus can be reached.
#[derive(Debug)]
pub enum Place {
    Listener(TcpListener, Option<Arc<ServerConfig>>),
    Terminal(Terminal),
}

/// The devices' end of a pseudo-terminal, and what a gateway opens.
#[derive(Debug)]
pub struct Terminal {
    near: Pty,
    path: PathBuf,
}

impl Terminal {
    /// # Errors
    /// The system's, when it has no pseudo-terminal to give.
    pub fn open() -> anyhow::Result<Self> {
        let (near, path) = open_pty().context("cannot open a pseudo-terminal")?;
        Ok(Self { near, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What `fieldgate simulate` was asked for beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub faults: Vec<Asked>,
    pub seed: u64,
    /// The simulated servers' certificate and key, PEM: for buses with `tls`.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Serves a Modbus bus's devices, whose points have these rules, at `place` until the handle is aborted. Runs inside a
/// `LocalSet`.
pub fn serve(spec: &BusSpec, rules: &[PointRule], faults: Faults, place: Place) -> JoinHandle<()> {
    let bench = Bench::new(Registers::of(spec, rules), faults, Duration::ZERO);
    let speech = match &spec.transport {
        Transport::Tcp { .. } => Speech::Tcp,
        Transport::RtuOverTcp { .. } => Speech::Rtu,
        Transport::AsciiOverTcp { .. } => Speech::Ascii,
        Transport::Serial(serial) => match serial.framing {
            Framing::Rtu => Speech::Rtu,
            Framing::Ascii => Speech::Ascii,
        },
    };
    let name = spec.name.clone();
    #[allow(clippy::disallowed_methods, reason = "one task a simulated bus")]
    spawn_local(async move {
        let ended = match place {
            Place::Listener(listener, tls) => task::serve_port(listener, bench, speech, tls).await,
            Place::Terminal(terminal) => task::serve(terminal.near, bench, speech).await,
        };
        if let Err(failure) = ended {
            warn!(bus = %name, %failure, "the simulated devices ended");
        }
    })
}

/// `fieldgate simulate`: stands in for the devices of a plan until SIGINT or SIGTERM.
///
/// # Errors
/// An address that cannot be bound, a fault of a device that is not there, or a bus that cannot be simulated.
pub async fn run(plan: Plan, wishes: Wishes) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let specs: Vec<&BusSpec> = plan.buses.iter().filter_map(|bus| modbus(&bus.driver)).collect();
    if let Some(lost) = wishes.faults.iter().find(|asked| !specs.iter().any(|spec| rule(spec, asked).is_some())) {
        bail!("no Modbus bus or device is named {:?}; write one of the configuration's names, or *", lost.target);
    }
    let mut serving = Vec::new();
    for bus in &plan.buses {
        let (text, task) = match &bus.driver {
            DriverSpec::Modbus(spec) => {
                let (place, text) = place(spec, &wishes).await?;
                let rules = wishes.faults.iter().filter_map(|asked| rule(spec, asked)).collect();
                (text, serve(spec, &bus.rules, Faults::new(wishes.seed, rules, spec.timeout), place))
            }
            DriverSpec::Can(spec) => (format!("CAN on {}", spec.interface), can::task::stand_in(spec, &bus.rules)),
        };
        tell(&format!("{}: {text}", bus.name()));
        serving.push(task);
    }
    for asked in &wishes.faults {
        tell(&format!("fault {asked} (seed {})", wishes.seed));
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    serving.iter().for_each(JoinHandle::abort);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what the user asked for")]
fn tell(line: &str) {
    println!("{line}");
}

fn modbus(driver: &DriverSpec) -> Option<&BusSpec> {
    match driver {
        DriverSpec::Modbus(spec) => Some(spec),
        DriverSpec::Can(_) => None,
    }
}

/// The fault as this bus's devices have it; `None` where it is about others.
fn rule(spec: &BusSpec, asked: &Asked) -> Option<Rule> {
    let all = asked.target == "*" || asked.target == *spec.name;
    let device = spec.devices.iter().find(|device| *device.name == asked.target);
    let unit = if all { None } else { Some(device?.unit) };
    Some(Rule { unit, kinds: vec![asked.kind], percent: asked.percent })
}

async fn place(spec: &BusSpec, wishes: &Wishes) -> anyhow::Result<(Place, String)> {
    match &spec.transport {
        Transport::Tcp { address, tls: None } => listen(address, "Modbus TCP", None).await,
        Transport::Tcp { address, tls: Some(_) } => {
            let Some((cert, key)) = &wishes.tls else {
                bail!("bus {:?} has tls: give the simulated device's own --tls-cert and --tls-key", spec.name);
            };
            listen(address, "Modbus TCP with TLS", Some(server(cert, key)?)).await
        }
        Transport::RtuOverTcp { address } => listen(address, "RTU over TCP", None).await,
        Transport::AsciiOverTcp { address } => listen(address, "ASCII over TCP", None).await,
        Transport::Serial(serial) => {
            let terminal = Terminal::open()?;
            let path = terminal.path.display().to_string();
            let framing = match serial.framing {
                Framing::Rtu => "RTU",
                Framing::Ascii => "ASCII",
            };
            let text = format!("{framing} on {path}; write serial = \"{path}\" in place of {:?}", serial.path);
            Ok((Place::Terminal(terminal), text))
        }
    }
}

/// A server that asks no client for a certificate, and takes those that show one.
fn server(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(cert).with_context(|| cert.display().to_string())?.collect();
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain.with_context(|| cert.display().to_string())?, private)
        .with_context(|| format!("{} and {}", cert.display(), key.display()))?;
    Ok(Arc::new(config))
}

async fn listen(address: &Endpoint, kind: &str, tls: Option<Arc<ServerConfig>>) -> anyhow::Result<(Place, String)> {
    let Endpoint { host, port } = address;
    let listener = TcpListener::bind((host.as_str(), *port)).await;
    let listener = listener.with_context(|| {
        format!("cannot listen on {host}:{port}; give the bus an address of this machine, as 127.0.0.1:5020")
    })?;
    let local = listener.local_addr()?;
    Ok((Place::Listener(listener, tls), format!("{kind} on {local}")))
}
