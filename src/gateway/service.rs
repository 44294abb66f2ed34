//! `fieldgate run`: the gateway as a service: signals, reload, and what systemd is told.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tracing::{error, info, warn};

use super::journal;
use super::task::{self, Control};
use super::watchdog::notify;
use crate::check;
use crate::config::{self, Diagnostic, Outcome};

/// Requests that wait for the loop.
const CONTROL: usize = 8;

/// Exit status for a configuration that does not check.
const REFUSED: u8 = 2;

/// Runs the gateway until SIGTERM or SIGINT. Exit status as the contract has it: 0 stopped, 1 failed, 2 refused.
pub fn run(file: &Path) -> ExitCode {
    let outcome = check::with_loads(config::load(file));
    let Some(plan) = outcome.plan else {
        if journal::is_stderr() {
            tell(&outcome.diagnostics);
        } else {
            // As `check` prints them, so that an editor finds the place.
            let text: String = outcome.diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect();
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        error!("the configuration does not check; nothing was started");
        return ExitCode::from(REFUSED);
    };
    tell(&outcome.diagnostics);
    match block_on(serve(plan, file.to_owned())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs on one thread, with the tasks that the gateway starts.
///
/// # Errors
/// The runtime's, or what `main` failed with.
pub fn block_on(main: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = LocalSet::new().block_on(&runtime, main);
    // A blocking call (a host name that does not resolve) must not hold up the end.
    runtime.shutdown_background();
    done
}

async fn serve(plan: config::plan::Plan, file: PathBuf) -> anyhow::Result<()> {
    let (control, inbox) = mpsc::channel(CONTROL);
    let signals = Signals::new()?;
    let told = signals.forward(control, file);
    let gateway = task::run(plan, inbox, || {
        info!("ready");
        notify(&[sd_notify::NotifyState::Ready]);
    });
    tokio::pin!(gateway);
    tokio::select! {
        done = &mut gateway => return done,
        () = told => {}
    }
    gateway.await
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Passes signals on until one of them ends the run.
    async fn forward(mut self, control: mpsc::Sender<Control>, file: PathBuf) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => reload(&control, &file).await,
            }
        }
        notify(&[sd_notify::NotifyState::Stopping]);
        // The loop may have ended by itself.
        let _ = control.send(Control::Stop).await;
    }
}

/// Reads the files again and swaps to them; one that does not check changes nothing (P8).
async fn reload(control: &mpsc::Sender<Control>, file: &Path) {
    info!("reloading");
    notify_reloading();
    match read(file.to_owned()).await {
        Ok(Outcome { plan: Some(plan), diagnostics, .. }) => {
            tell(&diagnostics);
            let (answer, done) = oneshot::channel();
            let asked = control.send(Control::Reload(Box::new(plan), answer)).await;
            match done.await {
                Ok(Ok(())) => info!("reloaded"),
                Ok(Err(reason)) => not_reloaded(&reason),
                Err(_) => warn!(asked = asked.is_ok(), "the gateway is stopping: not reloaded"),
            }
        }
        Ok(Outcome { diagnostics, .. }) => {
            tell(&diagnostics);
            let first = diagnostics.iter().find(|diagnostic| diagnostic.is_error());
            not_reloaded(&first.map(ToString::to_string).unwrap_or_default());
        }
        Err(failure) => not_reloaded(&failure.to_string()),
    }
    notify(&[sd_notify::NotifyState::Ready]);
}

#[allow(clippy::disallowed_methods, reason = "reading files must not stop the loop")]
async fn read(file: PathBuf) -> Result<Outcome, tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || check::with_loads(config::load(&file))).await
}

/// In the log, and on the first line of `systemctl status`.
fn not_reloaded(reason: &str) {
    let reason = reason.lines().next().unwrap_or_default();
    error!("not reloaded, the running configuration stays in force: {reason}");
    notify(&[sd_notify::NotifyState::Status(&format!("not reloaded: {reason}"))]);
}

fn tell(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        if diagnostic.is_error() {
            error!("{diagnostic}");
        } else {
            warn!("{diagnostic}");
        }
    }
}

fn notify_reloading() {
    match sd_notify::NotifyState::monotonic_usec_now() {
        Ok(at) => notify(&[sd_notify::NotifyState::Reloading, at]),
        Err(failure) => warn!("cannot tell systemd that a reload began: {failure}"),
    }
}
