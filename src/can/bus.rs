//! One CAN bus as a state machine: frames, commands and time in; samples, outcomes, status and frames out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::cycle::Commands;
use super::decode::Decoder;
use super::frame::{self, Frame, Received};
use super::rate::Rates;
use super::request::{Overheard, Requests};
use super::spec::{BusSpec, Source};
use crate::clock::{Now, UnixMs};
use crate::command::{Command, Done, NotDone, Outcome};
use crate::driver::{BusCounters, BusStatus, CanStatus, ControllerState, LinkState};
use crate::sample::{BusId, Fault, Sample};

/// Commands that wait for room in the transmit queue; then the channel behind them fills.
const COMMANDS_MAX: usize = 32;

/// Holds no socket. The task writes what [`Self::poll_transmit`] gives and says what became of it.
#[derive(Debug)]
pub struct Bus {
    decoder: Decoder,
    rates: Rates,
    requests: Requests,
    /// In place of `requests`, where nothing is sent.
    overheard: Option<Overheard>,
    commands: Commands,
    /// Whether a point has readings, so that a lost link is a fault of it.
    readable: Vec<bool>,
    waiting: VecDeque<Command>,
    /// Repetitions and request frames that could not be sent yet: one of each kind at most, and each repetition once.
    others: VecDeque<Frame>,
    offered: Option<Offered>,
    samples: Vec<Sample>,
    outcomes: Vec<Outcome>,
    link: Link,
    writes: u64,
    malformed: u64,
    frames: u64,
    dropped: u64,
    bus_offs: u64,
}

#[derive(Debug)]
struct Link {
    state: LinkState,
    since: UnixMs,
    error: Option<String>,
    controller: ControllerState,
    /// The socket is open, whatever the controller's state.
    open: bool,
}

/// What [`Bus::poll_transmit`] gave last.
#[derive(Debug)]
enum Offered {
    /// The first of `waiting`.
    Command(Frame),
    /// The first of `others`.
    Other,
}

impl Bus {
    pub fn new(spec: &BusSpec, id: BusId, now: Now) -> Self {
        Self {
            decoder: Decoder::new(&spec.points),
            rates: Rates::new(id, &spec.points),
            requests: Requests::new(&spec.points),
            overheard: None,
            commands: Commands::new(&spec.points),
            readable: spec.points.iter().map(|point| !matches!(point.source, Source::Command(_))).collect(),
            waiting: VecDeque::new(),
            others: VecDeque::new(),
            offered: None,
            samples: Vec::new(),
            outcomes: Vec::new(),
            link: Link {
                state: LinkState::Connecting,
                since: now.wall,
                error: None,
                controller: ControllerState::Active,
                open: false,
            },
            writes: 0,
            malformed: 0,
            frames: 0,
            dropped: 0,
            bus_offs: 0,
        }
    }

    /// A bus that only listens, to a log or a mapping's test: it asks nothing, and an answer counts whoever asked.
    pub fn listening(spec: &BusSpec, id: BusId, now: Now) -> Self {
        let overheard = Some(Overheard::new(&spec.points));
        Self { requests: Requests::default(), overheard, ..Self::new(spec, id, now) }
    }

    /// The socket is open and the interface is up.
    pub fn link_up(&mut self, now: Now) {
        self.link.open = true;
        self.link.controller = ControllerState::Active;
        self.enter(LinkState::Up, None, now);
        self.rates.start(now);
        self.requests.start(now.mono);
    }

    /// The socket is closed or could not be opened: every point says so once, every command that waits fails.
    pub fn link_down(&mut self, error: String, now: Now) {
        if self.link.state != LinkState::Down {
            self.silence(now);
        }
        self.link.open = false;
        self.commands.stop();
        self.enter(LinkState::Down, Some(error), now);
    }

    fn silence(&mut self, now: Now) {
        let readable = &self.readable;
        self.rates.stop(now, |index| readable.get(index).copied().unwrap_or(false), &mut self.samples);
        self.requests.stop();
        self.others.clear();
        self.offered = None;
        for command in self.waiting.drain(..) {
            let result = Err(NotDone::Fault(Fault::Disconnected));
            self.outcomes.push(Outcome { id: command.id, result });
        }
    }

    fn enter(&mut self, state: LinkState, error: Option<String>, now: Now) {
        if self.link.state != state {
            self.link.state = state;
            self.link.since = now.wall;
        }
        self.link.error = error;
    }

    /// What one read of the socket brought; `at` by the kernel's clock where it tells.
    pub fn handle(&mut self, received: &Received, at: UnixMs, now: Now) {
        match received {
            Received::Data(frame) => {
                self.frames += 1;
                self.handle_frame(frame, at, now);
            }
            Received::Remote(_) => {}
            Received::Malformed => self.malformed += 1,
            Received::Error(error) => {
                self.dropped += u64::from(error.receive_overflow());
                if let Some(state) = error.state() {
                    self.controller(state, now);
                }
            }
        }
    }

    fn handle_frame(&mut self, frame: &Frame, at: UnixMs, now: Now) {
        if self.link.controller == ControllerState::BusOff {
            self.controller(ControllerState::Active, now);
        }
        let Self { decoder, rates, requests, overheard, commands, samples, .. } = self;
        decoder.handle(frame, now.mono, |index, reading| rates.offer(index, at, reading, now, samples));
        let mut found = |index, reading| rates.offer(index, at, reading, now, samples);
        match overheard {
            Some(overheard) => overheard.handle(frame, now.mono, &mut found),
            None => requests.handle(frame, now.mono, &mut found),
        }
        commands.seen(frame);
    }

    /// Bus-off is a link that is down, and comes back when the controller is restarted; error-passive is only shown.
    fn controller(&mut self, state: ControllerState, now: Now) {
        let before = std::mem::replace(&mut self.link.controller, state);
        let shown = frame::describe(state).map(str::to_owned);
        if state == ControllerState::BusOff {
            if before != state {
                self.bus_offs += 1;
                self.silence(now);
            }
            self.enter(LinkState::Down, shown, now);
        } else if self.link.open {
            if before == ControllerState::BusOff {
                self.rates.start(now);
                self.requests.start(now.mono);
            }
            self.enter(LinkState::Up, shown, now);
        }
    }

    /// The kernel dropped so many frames because they were not read in time.
    pub fn handle_overflow(&mut self, frames: u32) {
        self.dropped += u64::from(frames);
    }

    /// Whether [`Self::handle_command`] has room.
    pub fn accepts_commands(&self) -> bool {
        self.waiting.len() < COMMANDS_MAX
    }

    pub fn handle_command(&mut self, command: Command, now: Now) {
        let refused = if command.expires <= now.mono {
            Some(NotDone::Expired)
        } else if self.link.state != LinkState::Up {
            Some(NotDone::Fault(Fault::Disconnected))
        } else if !self.accepts_commands() {
            Some(NotDone::Fault(Fault::Busy))
        } else {
            self.commands.frame(command.point.index, &command.raw).err().map(NotDone::Fault)
        };
        match refused {
            Some(reason) => self.outcomes.push(Outcome { id: command.id, result: Err(reason) }),
            None => self.waiting.push_back(command),
        }
    }

    pub fn handle_timeout(&mut self, now: Now) {
        let Self { rates, requests, samples, .. } = self;
        requests.handle_timeout(now.mono, &mut |index, reading| rates.offer(index, now.wall, reading, now, samples));
        rates.handle_timeout(now, samples);
        let before = self.waiting.len();
        let outcomes = &mut self.outcomes;
        self.waiting.retain(|command| {
            let alive = command.expires > now.mono;
            if !alive {
                outcomes.push(Outcome { id: command.id, result: Err(NotDone::Expired) });
            }
            alive
        });
        if self.waiting.len() != before {
            self.offered = None;
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_transmit`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let expiry = self.waiting.iter().map(|command| command.expires).min();
        let sending = self.sends().then(|| [self.requests.next_due(), self.commands.next_due()]);
        [self.rates.next_due(), expiry].into_iter().chain(sending.into_iter().flatten()).flatten().min()
    }

    /// When the last of the samples that wait for the end of their interval comes; `None` where none waits.
    pub fn held_until(&self) -> Option<Instant> {
        self.rates.held_until()
    }

    fn sends(&self) -> bool {
        self.link.state == LinkState::Up
    }

    /// The frame to send next: commands first, then repetitions, then requests. The same one again until
    /// [`Self::transmitted`] or [`Self::refused`] is called, unless a command overtakes it.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Frame> {
        if !self.sends() {
            return None;
        }
        while let Some(command) = self.waiting.front() {
            let built = if command.expires <= now.mono {
                Err(NotDone::Expired)
            } else {
                self.commands.frame(command.point.index, &command.raw).map_err(NotDone::Fault)
            };
            match built {
                Ok(frame) => {
                    self.offered = Some(Offered::Command(frame));
                    return Some(frame);
                }
                Err(reason) => {
                    self.outcomes.push(Outcome { id: command.id, result: Err(reason) });
                    self.waiting.pop_front();
                }
            }
        }
        if self.others.is_empty() {
            self.others.extend(self.commands.due(now.mono));
        }
        if self.others.is_empty() {
            self.others.extend(self.requests.poll_transmit(now.mono));
        }
        let frame = *self.others.front()?;
        self.offered = Some(Offered::Other);
        Some(frame)
    }

    /// What [`Self::poll_transmit`] gave is in the transmit queue.
    pub fn transmitted(&mut self, now: Now) {
        match self.offered.take() {
            Some(Offered::Command(frame)) => {
                if let Some(command) = self.waiting.pop_front() {
                    self.writes += 1;
                    self.commands.sent(command.point.index, &frame, now.mono);
                    self.outcomes.push(Outcome { id: command.id, result: Ok(Done { readback: None }) });
                }
            }
            Some(Offered::Other) => {
                self.others.pop_front();
            }
            None => {}
        }
    }

    /// What [`Self::poll_transmit`] gave will never be sent: the interface does not take such a frame.
    pub fn refused(&mut self) {
        match self.offered.take() {
            Some(Offered::Command(_)) => {
                if let Some(command) = self.waiting.pop_front() {
                    let result = Err(NotDone::Fault(Fault::Error));
                    self.outcomes.push(Outcome { id: command.id, result });
                }
            }
            Some(Offered::Other) => {
                self.others.pop_front();
            }
            None => {}
        }
    }

    /// What there is to tell; empty most of the time where rates are limited.
    pub fn take_samples(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.samples)
    }

    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    pub fn link_state(&self) -> LinkState {
        self.link.state
    }

    pub fn controller_state(&self) -> ControllerState {
        self.link.controller
    }

    pub fn status(&self) -> BusStatus {
        let asked = self.requests.counters;
        let lost = (self.dropped > 0).then(|| format!("{} frames lost before they were read", self.dropped));
        BusStatus {
            state: self.link.state,
            since: self.link.since,
            last_error: self.link.error.clone().or(lost),
            utilisation_percent: None,
            lateness: Duration::ZERO,
            cycle: Duration::ZERO,
            counters: BusCounters {
                requests: asked.requests,
                answers: asked.answers,
                timeouts: asked.timeouts,
                exceptions: asked.negative,
                discarded: self.malformed + asked.discarded + self.decoder.discarded(),
                writes: self.writes,
            },
            devices: Vec::new(),
            can: Some(CanStatus {
                controller: self.link.controller,
                frames: self.frames,
                dropped: self.dropped,
                bus_offs: self.bus_offs,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
