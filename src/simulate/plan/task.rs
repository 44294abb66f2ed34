//! Listens, opens a pseudo-terminal, or sends CAN frames, for each bus of a plan: `fieldgate simulate`, and what `demo` reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_local};
use tracing::warn;

use crate::config::plan::{DriverSpec, Plan};
use crate::mapping::rule::PointRule;
use crate::modbus::spec::{BusSpec, Endpoint, Framing, Transport};
use crate::simulate::can;
use crate::simulate::fault::Faults;
use crate::simulate::modbus::Registers;
use crate::simulate::task::{Bench, Pty, open_pty, serve_rtu, serve_rtu_over_tcp, serve_tcp};

/// Where a simulated bus can be reached.
#[derive(Debug)]
pub enum Place {
    Listener(TcpListener),
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

/// Serves a Modbus bus's devices, whose points have these rules, at `place` until the handle is aborted. Runs inside a
/// `LocalSet`.
pub fn serve(spec: &BusSpec, rules: &[PointRule], place: Place) -> JoinHandle<()> {
    let bench = Bench::new(Registers::of(spec, rules), Faults::none(), Duration::ZERO);
    let rtu = matches!(spec.transport, Transport::RtuOverTcp { .. });
    let name = spec.name.clone();
    #[allow(clippy::disallowed_methods, reason = "one task a simulated bus")]
    spawn_local(async move {
        let ended = match place {
            Place::Listener(listener) if rtu => serve_rtu_over_tcp(listener, bench).await,
            Place::Listener(listener) => serve_tcp(listener, bench).await,
            Place::Terminal(terminal) => serve_rtu(terminal.near, bench).await,
        };
        if let Err(failure) = ended {
            warn!(bus = %name, %failure, "the simulated devices ended");
        }
    })
}

/// `fieldgate simulate`: stands in for the devices of a plan until SIGINT or SIGTERM.
///
/// # Errors
/// An address that cannot be bound, or a bus that cannot be simulated.
pub async fn run(plan: Plan) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut serving = Vec::new();
    for bus in &plan.buses {
        let (text, task) = match &bus.driver {
            DriverSpec::Modbus(spec) => {
                let (place, text) = place(spec).await?;
                (text, serve(spec, &bus.rules, place))
            }
            DriverSpec::Can(spec) => (format!("CAN on {}", spec.interface), can::task::stand_in(spec, &bus.rules)),
        };
        #[allow(clippy::print_stdout, reason = "what the user asked for")]
        {
            println!("{}: {text}", bus.name());
        }
        serving.push(task);
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    serving.iter().for_each(JoinHandle::abort);
    Ok(())
}

async fn place(spec: &BusSpec) -> anyhow::Result<(Place, String)> {
    match &spec.transport {
        Transport::Tcp { address, tls: None } => listen(address, "Modbus TCP").await,
        Transport::RtuOverTcp { address } => listen(address, "RTU over TCP").await,
        Transport::Serial(serial) if serial.framing == Framing::Rtu => {
            let terminal = Terminal::open()?;
            let path = terminal.path.display().to_string();
            let text = format!("RTU on {path}; write serial = \"{path}\" in place of {:?}", serial.path);
            Ok((Place::Terminal(terminal), text))
        }
        Transport::Tcp { tls: Some(_), .. } => bail!("bus {:?}: Modbus TCP with TLS is not simulated", spec.name),
        Transport::Serial(_) | Transport::AsciiOverTcp { .. } => bail!("bus {:?}: ASCII is not simulated", spec.name),
    }
}

async fn listen(address: &Endpoint, kind: &str) -> anyhow::Result<(Place, String)> {
    let Endpoint { host, port } = address;
    let listener = TcpListener::bind((host.as_str(), *port)).await;
    let listener = listener.with_context(|| {
        format!("cannot listen on {host}:{port}; give the bus an address of this machine, as 127.0.0.1:5020")
    })?;
    let local = listener.local_addr()?;
    Ok((Place::Listener(listener), format!("{kind} on {local}")))
}
