//! Connects, and shows what comes until it is told to end or nobody reads it any more.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::anyhow;
use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, sleep_until};

use super::session::{Login, Session};
use super::table::{Rows, Window, line};
use super::target::Target;
use crate::clock::Now;
use crate::gateway::service::block_on;
use crate::uplink::codec::Publish;
use crate::uplink::error::SessionError;
use crate::uplink::spec::ProtocolVersion;
use crate::uplink::transport::task::connect_to;

const REDRAW_EVERY: Duration = Duration::from_millis(500);
const RETRY_AFTER: Duration = Duration::from_secs(2);
const INPUT_BYTES: usize = 64 * 1024;
/// Where the terminal does not tell its size.
const USUAL: Window = Window { columns: 80, lines: 24 };

/// Shows the topics that match `filter` until SIGINT, SIGTERM, or until the pipe is closed.
///
/// # Errors
/// No connection at the start, or a refusal that another try would not change.
pub fn run(target: Target, filter: String, password: Option<String>) -> anyhow::Result<()> {
    let client_id = format!("fieldgate-watch-{:08x}", fastrand::u32(..));
    let login = Login { client_id, username: target.username.clone(), password, filter };
    block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut view = View::new();
        tokio::select! {
            done = watch(&target, &login, &mut view) => done,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    })
}

/// Why the messages of one connection ended.
enum Ended {
    /// Nobody reads the output any more.
    Unread,
    Lost(SessionError),
}

async fn watch(target: &Target, login: &Login, view: &mut View) -> anyhow::Result<()> {
    let (mut version, mut was_up) = (ProtocolVersion::V5, false);
    loop {
        let mut up = false;
        let error = match serve(target, version, login, view, &mut up).await {
            Ended::Unread => return Ok(()),
            Ended::Lost(error) => error,
        };
        // An older broker says that it knows no MQTT 5, or hangs up without a word.
        let older = matches!(error, SessionError::Refused { code: 0x84, .. } | SessionError::Closed);
        if older && !up && version == ProtocolVersion::V5 {
            version = ProtocolVersion::V311;
            continue;
        }
        was_up |= up;
        if !was_up || error.is_lasting() {
            return Err(explained(target, &error));
        }
        view.status(&format!("not connected: {error}"));
        if view.meanwhile(sleep(RETRY_AFTER)).await.is_none() {
            return Ok(());
        }
    }
}

fn explained(target: &Target, error: &SessionError) -> anyhow::Error {
    let hint = match error {
        SessionError::Refused { code: 0x86 | 0x87, .. } if target.username.is_none() => {
            "; name a user (mqtt://USER@HOST), the password goes into FIELDGATE_PASSWORD or is asked for"
        }
        SessionError::Refused { code: 0x86 | 0x87, .. } => "; check the user name and the password",
        SessionError::Transport(_) => "; is a broker running there, and the URL right?",
        SessionError::Closed | SessionError::Malformed(_) | SessionError::NoConnack => {
            "; is it an MQTT port? mqtts:// where it expects TLS"
        }
        SessionError::Refused { .. }
        | SessionError::Ended { .. }
        | SessionError::Protocol(_)
        | SessionError::Silent
        | SessionError::Overtaken(_)
        | SessionError::Unsendable(_) => "",
    };
    let (host, port) = (&target.url.host, target.url.port);
    anyhow!("{host}:{port}: {error}{hint}")
}

async fn serve(target: &Target, version: ProtocolVersion, login: &Login, view: &mut View, up: &mut bool) -> Ended {
    let stream = match view.meanwhile(connect_to(target.url.clone())).await {
        None => return Ended::Unread,
        Some(Err(error)) => return Ended::Lost(SessionError::Transport(error.to_string())),
        Some(Ok(stream)) => stream,
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut session = match Session::new(version, login, Now::read()) {
        Ok(session) => session,
        Err(error) => return Ended::Lost(error),
    };
    let (mut input, mut messages) = (BytesMut::with_capacity(INPUT_BYTES), Vec::new());
    loop {
        let output = session.take_output(Now::read());
        if !output.is_empty() {
            let written = async {
                writer.write_all(&output).await?;
                writer.flush().await
            };
            if let Err(error) = written.await {
                return Ended::Lost(SessionError::Transport(error.to_string()));
            }
        }
        let due = session.poll_timeout();
        input.reserve(INPUT_BYTES);
        let done = tokio::select! {
            read = reader.read_buf(&mut input) => match read {
                Ok(0) => Err(SessionError::Closed),
                Ok(_) => session.handle_input(&input.split(), Now::read(), &mut messages),
                Err(error) => Err(SessionError::Transport(error.to_string())),
            },
            () = sleep_until(due.into()) => session.handle_timeout(Now::read()),
            read = view.tick() => if read { Ok(()) } else { return Ended::Unread },
        };
        if session.is_up() && !*up {
            *up = true;
            view.status("");
        }
        if !view.take(&messages).await {
            return Ended::Unread;
        }
        messages.clear();
        if let Err(error) = done {
            return Ended::Lost(error);
        }
    }
}

/// Standard output, as a terminal or as a pipe.
struct View {
    redraw: Interval,
    screen: Option<Screen>,
}

impl View {
    fn new() -> Self {
        let mut redraw = interval(REDRAW_EVERY);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { redraw, screen: io::stdout().is_terminal().then(Screen::enter) }
    }

    /// What stands below the table, or in the log of a pipe.
    fn status(&mut self, text: &str) {
        match &mut self.screen {
            Some(screen) => text.clone_into(&mut screen.status),
            None if text.is_empty() => {}
            None => tracing::warn!("{text}; trying again"),
        }
    }

    /// False once nobody reads any more.
    async fn take(&mut self, messages: &[Publish]) -> bool {
        let at = Now::read().wall;
        if let Some(screen) = &mut self.screen {
            messages.iter().for_each(|message| screen.rows.take(message, at));
            return true;
        }
        let lines: String = messages.iter().map(|message| line(message, at)).collect();
        if lines.is_empty() {
            return true;
        }
        let mut out = tokio::io::stdout();
        out.write_all(lines.as_bytes()).await.is_ok() && out.flush().await.is_ok()
    }

    /// Draws, or looks whether somebody still reads; false where nobody does. Cancel safe.
    async fn tick(&mut self) -> bool {
        self.redraw.tick().await;
        match &self.screen {
            Some(screen) => screen.draw(),
            None => is_read(),
        }
    }

    /// The result of `work`; `None` where nobody reads any more.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                read = self.tick() => if !read { return None },
            }
        }
    }
}

/// A closed pipe shows itself without a byte being written to it.
fn is_read() -> bool {
    let out = io::stdout();
    let mut watched = [PollFd::new(&out, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&at_once)).is_err() || !watched[0].revents().contains(PollFlags::ERR)
}

/// The terminal's second screen, without a cursor and without line wrap; gives the first one back when dropped.
struct Screen {
    rows: Rows,
    status: String,
}

impl Screen {
    fn enter() -> Self {
        write_out("\x1b[?1049h\x1b[?25l\x1b[?7l");
        Self { rows: Rows::default(), status: "connecting".to_owned() }
    }

    fn lines(&self) -> Vec<String> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        let window =
            size.map_or(USUAL, |size| Window { columns: usize::from(size.ws_col), lines: usize::from(size.ws_row) });
        self.rows.draw(window, Now::read().wall, &self.status)
    }

    fn draw(&self) -> bool {
        // Each line is cleared behind its text, so that nothing flickers.
        write_out(&format!("\x1b[H{}\x1b[K\x1b[J", self.lines().join("\x1b[K\r\n")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What was seen last stays to be read.
        write_out(&format!("\x1b[?7h\x1b[?25h\x1b[?1049l{}\r\n", self.lines().join("\r\n")));
    }
}

fn write_out(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
