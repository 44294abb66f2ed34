//! The task that owns a bus: connects, keeps the schedule's time, and tells the gateway what it reads.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::sleep_until;

use super::connect::task::{connect, connect_tls, open_serial};
use super::learnt::Learnt;
use super::line::task::Line;
use super::schedule::{Job, Schedule};
use super::spec::{BusSpec, Framing, Transport};
use super::tcp::task::Connection;
use crate::clock::{Now, UnixMs};
use crate::command::Command;
use crate::driver::{BusEvent, BusStatus, LinkState};
use crate::pulse::Pulse;
use crate::sample::BusId;

const STATUS_INTERVAL: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A link that lived for so long was a good one: the next attempt comes soon.
const LIVED: Duration = Duration::from_secs(5);

/// A turn waits for a quiet line, a slow adapter or the next status, beside the time of an exchange.
const TURN: Duration = Duration::from_secs(5);
/// An ASCII frame: twice 255 characters and what stands around them.
const FRAME_CHARACTERS_MAX: u32 = 520;

/// Why a link is no longer served.
pub(super) enum Ended {
    Lost(io::Error),
    /// Nothing is heard, the stream is out of step, or the peer closed a connection that had served: connect anew
    /// when there is something to ask, without telling anybody, unless that fails.
    Stale,
    /// The gateway wants the bus to end.
    Closed,
}

/// The gateway has gone: nothing is left to do.
pub(super) struct Gone;

/// Serves a bus until `commands` closes or nobody takes the events any more. Every command gets its outcome.
pub async fn run(spec: BusSpec, bus: BusId, events: Sender<BusEvent>, commands: Receiver<Command>) {
    run_watched(spec, None, bus, events, commands, Pulse::new(Now::read())).await;
}

/// As [`run`]; `kept` is what [`BusEvent::Learnt`] told last of a bus of this name, and `pulse` is late where it hangs, on
/// a gateway that takes no events or in itself.
pub async fn run_watched(
    spec: BusSpec,
    kept: Option<Bytes>,
    bus: BusId,
    events: Sender<BusEvent>,
    commands: Receiver<Command>,
    pulse: Pulse,
) {
    let mut driver = Driver::new(spec, bus, events, commands, pulse);
    if let Some(kept) = kept {
        driver.schedule.restore(&Learnt::read(&driver.spec, &kept), Now::read());
    }
    // The gateway has gone or closed the commands: both end the bus alike.
    let _ = driver.serve().await;
    driver.end().await;
}

/// Serves a bus over a stream that is open already, until that is lost or as [`run`] ends.
pub async fn run_over<S>(stream: S, spec: BusSpec, bus: BusId, events: Sender<BusEvent>, commands: Receiver<Command>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut driver = Driver::new(spec, bus, events, commands, Pulse::new(Now::read()));
    let framing = match &driver.spec.transport {
        Transport::Serial(serial) => Some(serial.framing),
        Transport::RtuOverTcp { .. } => Some(Framing::Rtu),
        Transport::AsciiOverTcp { .. } => Some(Framing::Ascii),
        Transport::Tcp { .. } => None,
    };
    // Lost, or the gateway has gone: the end is the same.
    let _ = match framing {
        Some(framing) => driver.serve_converter(stream, framing).await,
        None => driver.serve_tcp(Connection::new(stream)).await,
    };
    driver.end().await;
}

pub(super) struct Driver {
    pub(super) schedule: Schedule,
    pub(super) spec: Rc<BusSpec>,
    bus: BusId,
    events: Sender<BusEvent>,
    pub(super) commands: Receiver<Command>,
    link: LinkState,
    since: UnixMs,
    last_error: Option<String>,
    pub(super) last_status: Instant,
    /// Waits for its connection.
    pub(super) held: Option<Job>,
    pulse: Pulse,
    /// The longest that one turn of the loop may take.
    turn_max: Duration,
}

impl Driver {
    fn new(spec: BusSpec, bus: BusId, events: Sender<BusEvent>, commands: Receiver<Command>, pulse: Pulse) -> Self {
        let now = Now::read();
        let spec = Rc::new(spec);
        let schedule = Schedule::new(Rc::clone(&spec), bus, now);
        let turn_max = TURN + spec.timeout + schedule.timing().character() * 2 * FRAME_CHARACTERS_MAX;
        Self {
            schedule,
            spec,
            bus,
            events,
            commands,
            link: LinkState::Connecting,
            since: now.wall,
            last_error: None,
            last_status: now.mono,
            held: None,
            pulse,
            turn_max,
        }
    }

    /// Gives every command that is left its outcome.
    async fn end(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.schedule.command(command);
        }
        self.schedule.abandon_commands();
        // Where nobody takes events any more, nobody waits for outcomes either.
        let _ = self.tell().await;
    }

    async fn serve(&mut self) -> Result<(), Gone> {
        let mut backoff = BACKOFF_MIN;
        self.tell_status(Now::read()).await?;
        loop {
            let opened = Now::read().mono;
            let ended = match &Rc::clone(&self.spec).transport {
                Transport::Serial(serial) => match open_serial(serial) {
                    Ok(port) => {
                        let line = Line::new(port, serial.framing, self.schedule.timing(), None);
                        self.serve_line(line).await?
                    }
                    Err(error) => Ended::Lost(error),
                },
                Transport::RtuOverTcp { address } => match self.while_connecting(connect(address)).await? {
                    Ok(stream) => self.serve_converter(stream, Framing::Rtu).await?,
                    Err(error) => Ended::Lost(error),
                },
                Transport::AsciiOverTcp { address } => match self.while_connecting(connect(address)).await? {
                    Ok(stream) => self.serve_converter(stream, Framing::Ascii).await?,
                    Err(error) => Ended::Lost(error),
                },
                Transport::Tcp { address, tls: None } => match self.while_connecting(connect(address)).await? {
                    Ok(stream) => self.serve_tcp(Connection::new(stream)).await?,
                    Err(error) => Ended::Lost(error),
                },
                Transport::Tcp { address, tls: Some(tls) } => {
                    match self.while_connecting(connect_tls(address, tls)).await? {
                        Ok(stream) => self.serve_tcp(Connection::new(stream)).await?,
                        Err(error) => Ended::Lost(error),
                    }
                }
            };
            match ended {
                Ended::Closed => return Ok(()),
                Ended::Stale => self.until_due().await?,
                Ended::Lost(error) => {
                    let now = Now::read();
                    self.down(&error, now).await?;
                    if now.mono.saturating_duration_since(opened) >= LIVED {
                        backoff = BACKOFF_MIN;
                    }
                    self.while_connecting(sleep_until((now.mono + backoff).into())).await?;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Answers commands while there is no link.
    async fn while_connecting<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Gone> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => self.schedule.command(command.ok_or(Gone)?),
                done = &mut work => return Ok(done),
                () = sleep_until((self.last_status + STATUS_INTERVAL).into()) => self.tell_status(Now::read()).await?,
            }
            self.tell().await?;
        }
    }

    pub(super) async fn up(&mut self, now: Now) -> Result<(), Gone> {
        if self.link == LinkState::Up {
            return Ok(());
        }
        self.schedule.link_up(now);
        self.enter(LinkState::Up, now).await
    }

    async fn down(&mut self, error: &io::Error, now: Now) -> Result<(), Gone> {
        let text = error.to_string();
        if self.last_error.as_ref() != Some(&text) || self.link == LinkState::Up {
            tracing::warn!(bus = %self.spec.name, "{text}");
        }
        self.last_error = Some(text);
        if self.link == LinkState::Down {
            return Ok(());
        }
        self.held = None;
        self.schedule.link_down(now);
        self.enter(LinkState::Down, now).await
    }

    async fn enter(&mut self, link: LinkState, now: Now) -> Result<(), Gone> {
        self.link = link;
        self.since = now.wall;
        self.tell().await?;
        self.tell_status(now).await
    }

    /// Hands over the commands that wait; false once their channel is closed.
    pub(super) fn take_commands(&mut self) -> bool {
        while self.schedule.takes_commands() {
            match self.commands.try_recv() {
                Ok(command) => self.schedule.command(command),
                Err(tokio::sync::mpsc::error::TryRecvError::Empty) => break,
                Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    pub(super) fn wake_up(&self, schedule: Option<Instant>, deadline: Option<Instant>) -> Instant {
        let status = self.last_status + STATUS_INTERVAL;
        [schedule, deadline].into_iter().flatten().fold(status, Instant::min)
    }

    /// Tells what the schedule has to tell; each turn comes by here.
    pub(super) async fn tell(&mut self) -> Result<(), Gone> {
        self.pulse.beat(Now::read(), self.turn_max);
        let output = self.schedule.take_output();
        for samples in output.samples {
            self.events.send(BusEvent::Samples(self.bus, samples)).await.map_err(|_| Gone)?;
        }
        if let Some(learnt) = output.learnt {
            let kept = Bytes::from(learnt.write());
            self.events.send(BusEvent::Learnt(self.bus, kept)).await.map_err(|_| Gone)?;
        }
        for outcome in output.outcomes {
            self.events.send(BusEvent::Outcome(self.bus, outcome)).await.map_err(|_| Gone)?;
        }
        if output.changed { self.tell_status(Now::read()).await } else { Ok(()) }
    }

    pub(super) async fn keep_status(&mut self, now: Now) -> Result<(), Gone> {
        if now.mono.saturating_duration_since(self.last_status) >= STATUS_INTERVAL {
            return self.tell_status(now).await;
        }
        Ok(())
    }

    async fn tell_status(&mut self, now: Now) -> Result<(), Gone> {
        let window = self.schedule.take_window();
        let elapsed = now.mono.saturating_duration_since(self.last_status).as_secs_f32();
        let share = if elapsed > 0.0 { window.busy.as_secs_f32() / elapsed * 100.0 } else { 0.0 };
        self.last_status = now.mono;
        let status = BusStatus {
            can: None,
            state: self.link,
            since: self.since,
            last_error: self.last_error.clone(),
            utilisation_percent: self.schedule.timing().is_limited().then_some(share.clamp(0.0, 100.0)),
            lateness: window.lateness,
            cycle: window.cycle,
            counters: self.schedule.counters(),
            devices: self.schedule.device_status(),
        };
        self.events.send(BusEvent::Status(self.bus, status)).await.map_err(|_| Gone)
    }
}
