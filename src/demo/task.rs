//! Starts the simulated devices and the gateway that reads them, and shows what it reads.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::screen;
use crate::check;
use crate::config;
use crate::config::plan::{DriverSpec, Plan};
use crate::gateway::service::block_on;
use crate::gateway::task::{self as gateway, Control};
use crate::modbus::spec::Transport;
use crate::simulate::can;
use crate::simulate::fault::Faults;
use crate::simulate::plan::task::{Place, Terminal, serve};
use crate::status::snapshot::Snapshot;

const GATEWAY: &str = include_str!("gateway.toml");
const MAPPING: &str = include_str!("mapping.toml");
const DBC: &str = include_str!("../../mappings/can/vehicle.dbc");

/// The usual ports; where one is taken the next free one above is.
const MQTT_PORT: u16 = 1883;
const HTTP_PORT: u16 = 8080;
const PORTS_TRIED: u16 = 200;
/// How often a port that was free may be gone when the gateway wants it.
const STARTS: u32 = 20;

const REDRAW_EVERY: Duration = Duration::from_millis(500);

/// Runs until SIGINT or SIGTERM, or for so many seconds.
///
/// # Errors
/// No free port, no pseudo-terminal, no temporary folder.
pub fn run(seconds: Option<u64>) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    block_on(show(&folder, seconds.map(Duration::from_secs)))
}

/// A folder of this run, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("fieldgate-demo-{:08x}", fastrand::u32(..)));
        std::fs::create_dir(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(failure) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {failure}", self.0.display());
        }
    }
}

async fn show(folder: &Folder, within: Option<Duration>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let end = async {
        let time = async {
            match within {
                Some(within) => tokio::time::sleep(within).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = time => {}
        }
    };
    tokio::pin!(end);
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on 127.0.0.1")?;
    let terminal = Terminal::open()?;
    let tcp = listener.local_addr()?.to_string();
    folder.write(
        "mapping.toml",
        &MAPPING.replace("@TCP@", &tcp).replace("@SERIAL@", &terminal.path().to_string_lossy()),
    )?;
    folder.write("vehicle.dbc", DBC)?;

    let mut devices = Some((listener, terminal));
    for attempt in 1.. {
        let ports = (free_port(MQTT_PORT).await?, free_port(HTTP_PORT).await?);
        let plan = compile(&folder.write("fieldgate.toml", &gateway_file(ports))?)?;
        if let Some((listener, terminal)) = devices.take() {
            start_devices(&plan, listener, terminal)?;
        }
        match run_gateway(plan, folder, ports, end.as_mut()).await {
            // Between the look for a free port and the listening another program may have taken it: another demo, say.
            Err(failure) if attempt < STARTS && is_taken(&failure) => {}
            done => return done,
        }
    }
    Ok(())
}

fn gateway_file((mqtt, http): (u16, u16)) -> String {
    GATEWAY.replace("@MQTT@", &mqtt.to_string()).replace("@HTTP@", &http.to_string())
}

fn is_taken(failure: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<io::Error>().map(io::Error::kind);
    failure.chain().any(|cause| kind(cause) == Some(io::ErrorKind::AddrInUse))
}

/// Until `end`, or until the gateway ends by itself.
async fn run_gateway(
    plan: Plan,
    folder: &Folder,
    ports: (u16, u16),
    end: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<()> {
    let (control, inbox) = mpsc::channel(4);
    let (ready, started) = oneshot::channel();
    let vehicle = can::task::userland(plan.buses.clone());
    let running = gateway::run_on(plan, vehicle, inbox, move || {
        // The screen may have ended already.
        let _ = ready.send(());
    });
    let screen = async {
        if started.await.is_ok() {
            print(&introduction(folder, ports));
            draw(&control).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::pin!(running);
    tokio::select! {
        done = &mut running => return done,
        () = screen => {}
        () = end => {}
    }
    // The loop ends when it is told to, or when nobody can tell it any more.
    drop(control);
    running.await
}

fn compile(file: &Path) -> anyhow::Result<Plan> {
    let outcome = check::with_loads(config::load(file));
    outcome.plan.ok_or_else(|| {
        let found: Vec<String> = outcome.diagnostics.iter().map(ToString::to_string).collect();
        anyhow!("the demo's own files do not check: {}", found.join("\n"))
    })
}

fn start_devices(plan: &Plan, listener: TcpListener, terminal: Terminal) -> anyhow::Result<()> {
    let (mut listener, mut terminal) = (Some(listener), Some(terminal));
    for bus in &plan.buses {
        let DriverSpec::Modbus(spec) = &bus.driver else { continue };
        let place = match spec.transport {
            Transport::Serial(_) => terminal.take().map(Place::Terminal),
            Transport::Tcp { .. } | Transport::RtuOverTcp { .. } | Transport::AsciiOverTcp { .. } => {
                listener.take().map(|listener| Place::Listener(listener, None))
            }
        };
        serve(spec, &bus.rules, Faults::none(), place.context("the demo has one line and one endpoint")?);
    }
    Ok(())
}

async fn free_port(usual: u16) -> anyhow::Result<u16> {
    for port in usual..usual.saturating_add(PORTS_TRIED) {
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {usual} on; end another program that listens on 127.0.0.1")
}

fn introduction(folder: &Folder, (mqtt, http): (u16, u16)) -> String {
    format!(
        "fieldgate demo: a heating controller on Modbus TCP, a meter on a serial line and a vehicle on CAN, all simulated.\n\
         Its files: {}   Status page: http://127.0.0.1:{http}/\n\
         See the values:  mosquitto_sub -h 127.0.0.1 -p {mqtt} -v -t 'demo/#'\n\
         Set one:         mosquitto_pub -h 127.0.0.1 -p {mqtt} -t demo/heating/setpoint/set -m 55\n\
         Ctrl-C ends it.\n\n",
        folder.0.display()
    )
}

/// Until the gateway no longer answers.
async fn draw(control: &mpsc::Sender<Control>) {
    let live = std::io::stdout().is_terminal();
    let (mut lines, mut shown) = (0, BTreeSet::new());
    loop {
        let Some(snapshot) = snapshot(control).await else { return };
        if live {
            let table = screen::table(&snapshot);
            // Up over the table that stands there, and clear to the end.
            let back = if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
            print(&format!("{back}{table}"));
            lines = table.lines().count();
        } else {
            print(&screen::first_values(&snapshot, &mut shown));
        }
        tokio::time::sleep(REDRAW_EVERY).await;
    }
}

async fn snapshot(control: &mpsc::Sender<Control>) -> Option<Snapshot> {
    let (ask, answer) = oneshot::channel();
    control.send(Control::Snapshot(ask)).await.ok()?;
    answer.await.ok()
}

/// A reader that went away is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
