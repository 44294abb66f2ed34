//! The simulated devices' sockets and pseudo-terminals.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio_modbus::server::{Service, rtu, rtu_over_tcp, tcp};
use tokio_modbus::{ExceptionCode, Response, SlaveRequest};
use tokio_serial::{SerialPort, SerialStream};
use tracing::{debug, warn};

use super::registers::Registers;
use crate::clock::Now;
use crate::config::plan::{BusPlan, DriverSpec, Plan};
use crate::modbus::spec::{BusSpec, Endpoint, Framing, Transport};

/// One bus's devices, shared by everybody who is connected to them.
#[derive(Clone)]
struct Devices {
    registers: Arc<Mutex<Registers>>,
    started: Now,
    /// A TCP gateway answers for a unit that is not there (exception 11); a line stays silent.
    on_tcp: bool,
}

impl Service for Devices {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: SlaveRequest<'static>) -> Self::Future {
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        registers.advance(Now::read().mono.saturating_duration_since(self.started.mono));
        ready(match registers.answer(request.slave, &request.request) {
            Ok(None) if self.on_tcp => Err(ExceptionCode::GatewayTargetDevice),
            reply => reply,
        })
    }
}

/// Where a simulated bus can be reached.
#[derive(Debug)]
pub enum Place {
    Listener(TcpListener),
    Terminal(Terminal),
}

/// Both ends of a pseudo-terminal. The far one stays open, so that the near one never sees a hang-up between users.
#[derive(Debug)]
pub struct Terminal {
    near: SerialStream,
    far: SerialStream,
    /// What a gateway opens.
    pub path: PathBuf,
}

impl Terminal {
    /// # Errors
    /// The system's, when it has no pseudo-terminal to give.
    pub fn open() -> anyhow::Result<Self> {
        let (near, mut far) = SerialStream::pair().context("cannot open a pseudo-terminal")?;
        far.set_exclusive(false)?;
        let path = far.name().context("the pseudo-terminal has no name")?.into();
        Ok(Self { near, far, path })
    }
}

/// Serves a bus's devices at `place` until the handle is aborted. Runs inside a `LocalSet`.
///
/// # Errors
/// A place that is not of the bus's kind.
pub fn serve(bus: &BusPlan, place: Place) -> anyhow::Result<JoinHandle<()>> {
    let DriverSpec::Modbus(spec) = &bus.driver else { anyhow::bail!("{}: only Modbus is simulated", bus.name()) };
    let on_tcp = matches!(spec.transport, Transport::Tcp { .. });
    let registers = Arc::new(Mutex::new(Registers::new(spec, bus)));
    let devices = Devices { registers, started: Now::read(), on_tcp };
    #[allow(clippy::disallowed_methods, reason = "one task a simulated bus")]
    let handle = match (place, &spec.transport) {
        (Place::Listener(listener), Transport::RtuOverTcp { .. }) => spawn_local(rtu_over_tcp(listener, devices)),
        (Place::Listener(listener), _) => spawn_local(modbus_tcp(listener, devices)),
        (Place::Terminal(terminal), _) => spawn_local(line(terminal, devices)),
    };
    Ok(handle)
}

async fn modbus_tcp(listener: TcpListener, devices: Devices) {
    let connected = |stream, peer| {
        let devices = devices.clone();
        async move { tcp::accept_tcp_connection(stream, peer, move |_| Ok(Some(devices.clone()))) }
    };
    let ended = tcp::Server::new(listener).serve(&connected, |failure| debug!(%failure, "a client went")).await;
    told("Modbus TCP", ended);
}

async fn rtu_over_tcp(listener: TcpListener, devices: Devices) {
    let connected = |stream: TcpStream, peer: SocketAddr| {
        let devices = devices.clone();
        async move { rtu_over_tcp::accept_tcp_connection(stream, peer, move |_| Ok(Some(devices.clone()))) }
    };
    let ended =
        rtu_over_tcp::Server::new(listener).serve(&connected, |failure| debug!(%failure, "a client went")).await;
    told("RTU over TCP", ended);
}

async fn line(terminal: Terminal, devices: Devices) {
    let Terminal { near, far, .. } = terminal;
    let ended = rtu::Server::new(near).serve_forever(devices).await;
    told("RTU", ended);
    drop(far);
}

fn told(what: &str, ended: io::Result<()>) {
    if let Err(failure) = ended {
        warn!(%failure, "simulated {what} ended");
    }
}

/// `fieldgate simulate`: stands in for the devices of a plan until SIGINT or SIGTERM.
///
/// # Errors
/// An address that cannot be bound, or a bus that cannot be simulated.
pub async fn run(plan: Plan) -> anyhow::Result<()> {
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut serving = Vec::new();
    for bus in &plan.buses {
        let DriverSpec::Modbus(spec) = &bus.driver else {
            warn!(bus = %bus.name(), "only Modbus is simulated");
            continue;
        };
        let (place, text) = place(spec).await?;
        #[allow(clippy::print_stdout, reason = "what the user asked for")]
        {
            println!("{}: {text}", spec.name);
        }
        serving.push(serve(bus, place)?);
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
            let path = terminal.path.display();
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
