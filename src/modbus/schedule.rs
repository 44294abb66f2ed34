//! What a bus does next: polls in deadline order, commands before them, silent devices aside.
//!
//! Sans I/O: [`Schedule::next`] says what to send or how long to wait, [`Schedule::answered`] and
//! [`Schedule::failed`] take what became of it, [`Schedule::take_output`] gives what is to be told.

mod landing;
mod probe;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::device::Device;
use super::lane::{self, Kind, Lane, Poll};
use super::learnt::Learnt;
use super::pdu::{self, Request};
use super::spec::BusSpec;
use super::timing::Timing;
use super::write::Steps;
use crate::clock::Now;
use crate::command::{Command, CommandId, NotDone, Outcome};
use crate::driver::{BusCounters, DeviceStatus};
use crate::sample::{BusId, Fault, Sample};

/// After a time-out or a bad frame a line must have been quiet for so long (measured: after less, late answers still came).
pub const DRAIN: Duration = Duration::from_millis(60);
/// Commands that go before a poll that is due.
const COMMANDS_IN_A_ROW: u8 = 4;
/// So many times a lost request was answered when it was asked alone: the other end takes one at a time.
const PIPELINE_STRIKES: u8 = 2;
/// Commands that wait here; more stay in their channel.
const COMMANDS_MAX: usize = 256;

/// A request to send now.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub ticket: u64,
    pub unit: u8,
    pub request: Request,
    /// From the last byte of the request to the first of its answer.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Send(Job),
    /// Nothing to do until then; `None`: until an answer, a command or the link comes.
    Wait(Option<Instant>),
}

/// Why a request brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Timeout,
    /// Something came that was not its answer, which may still come.
    Discarded,
    /// Its answer came, and was spoilt.
    Damaged,
}

/// What is to be told.
#[derive(Debug, Default)]
pub struct Output {
    /// Those of one answer stand together.
    pub samples: Vec<Vec<Sample>>,
    pub outcomes: Vec<Outcome>,
    /// A device's state changed.
    pub changed: bool,
    /// What is now known of the devices, where that changed.
    pub learnt: Option<Learnt>,
}

/// Figures since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The line was in use for so long.
    pub busy: Duration,
    pub lateness: Duration,
    pub cycle: Duration,
}

#[derive(Debug)]
enum Work {
    Poll { poll: Poll, tries: u8, again: bool, probe: bool },
    Command { tries: u8 },
}

#[derive(Debug)]
struct Flight {
    device: usize,
    request: Request,
    sent: Instant,
    /// Others could be under way beside it.
    shared: bool,
    work: Work,
}

/// A poll that waits for its turn.
#[derive(Debug)]
struct Pending {
    poll: Poll,
    /// Further tries, should it be lost.
    tries: u8,
    /// It was lost before.
    again: bool,
    not_before: Instant,
}

#[derive(Debug)]
struct Active {
    id: CommandId,
    point: u32,
    device: usize,
    expires: Instant,
    steps: Steps,
    /// The request that waits to be sent; `None` while it is under way.
    ready: Option<Request>,
}

#[derive(Debug)]
pub struct Schedule {
    bus: BusId,
    spec: Rc<BusSpec>,
    timing: Timing,
    lanes: Vec<Lane>,
    devices: Vec<Device>,
    pending: Vec<Pending>,
    flights: BTreeMap<u64, Flight>,
    tickets: u64,
    commands: VecDeque<Command>,
    active: Option<Active>,
    commands_in_a_row: u8,
    link_up: bool,
    /// A device whose request was lost among others: nothing else is under way until it is clear why.
    exclusive: Option<usize>,
    pipeline_strikes: u8,
    round: Option<Instant>,
    counters: BusCounters,
    window: Window,
    output: Output,
}

impl Schedule {
    pub fn new(spec: Rc<BusSpec>, bus: BusId, now: Now) -> Self {
        let timing = Timing::of(&spec);
        let device = |device: &super::spec::DeviceSpec| Device::new(device.name.clone(), device.unit, now.wall);
        Self {
            bus,
            timing,
            lanes: lane::lanes(&spec, timing, now.mono),
            devices: spec.devices.iter().map(device).collect(),
            spec,
            pending: Vec::new(),
            flights: BTreeMap::new(),
            tickets: 0,
            commands: VecDeque::new(),
            active: None,
            commands_in_a_row: 0,
            link_up: false,
            exclusive: None,
            pipeline_strikes: 0,
            round: None,
            counters: BusCounters::default(),
            window: Window::default(),
            output: Output::default(),
        }
    }

    /// The line or connection is there: every point is due.
    pub fn link_up(&mut self, now: Now) {
        self.link_up = true;
        for device in &mut self.devices {
            device.forget(now);
        }
        for lane in &mut self.lanes {
            lane.restart(now.mono);
        }
        for device in 0..self.devices.len() {
            self.tell_refused(device, now);
        }
    }

    /// Takes up what was learnt in an earlier run: before the link is up.
    pub fn restore(&mut self, learnt: &Learnt, now: Now) {
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            let cuts = learnt.cuts.iter().filter(|(of, _)| *of == place).map(|(_, at)| *at);
            lane.restore(&learnt.refused, cuts, now.mono);
        }
    }

    /// The line or connection is not there: every point and every command gets that fault.
    pub fn link_down(&mut self, now: Now) {
        self.link_up = false;
        self.pending.clear();
        self.flights.clear();
        self.exclusive = None;
        self.round = None;
        self.abandon_commands();
        for device in &mut self.devices {
            device.forget(now);
        }
        let indices = 0..u32::try_from(self.spec.points.len()).unwrap_or(u32::MAX);
        let samples = indices.map(|index| self.fault_of(index, Fault::Disconnected, now)).collect();
        self.tell(samples);
    }

    /// The bus ends: every command gets its outcome.
    pub fn abandon_commands(&mut self) {
        let active = self.active.take().map(|active| active.id);
        for id in active.into_iter().chain(self.commands.drain(..).map(|command| command.id)) {
            self.output.outcomes.push(Outcome { id, result: Err(NotDone::Fault(Fault::Disconnected)) });
        }
    }

    /// Whether another command may be handed over.
    pub fn takes_commands(&self) -> bool {
        self.commands.len() < COMMANDS_MAX
    }

    pub fn command(&mut self, command: Command) {
        if self.link_up {
            self.commands.push_back(command);
        } else {
            let result = Err(NotDone::Fault(Fault::Disconnected));
            self.output.outcomes.push(Outcome { id: command.id, result });
        }
    }

    pub fn take_output(&mut self) -> Output {
        // Each is to be asked.
        if self.lanes.iter_mut().fold(false, |learnt, lane| lane.take_learnt() | learnt) {
            self.output.learnt = Some(self.learnt());
        }
        std::mem::take(&mut self.output)
    }

    fn learnt(&self) -> Learnt {
        let mut learnt = Learnt::nothing(&self.spec);
        for (place, lane) in self.lanes.iter().enumerate() {
            let refused = lane.alone().filter(|(_, fault)| *fault == Fault::IllegalAddress);
            learnt.refused.extend(refused.map(|(point, _)| point));
            learnt.cuts.extend(lane.cuts().map(|at| (place, at)));
        }
        learnt
    }

    pub fn counters(&self) -> BusCounters {
        self.counters
    }

    pub fn take_window(&mut self) -> Window {
        std::mem::take(&mut self.window)
    }

    pub fn device_status(&self) -> Vec<DeviceStatus> {
        self.devices.iter().map(Device::status).collect()
    }

    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Bytes were heard that answer nothing.
    pub fn discarded(&mut self) {
        self.counters.discarded += 1;
    }

    /// What to send now, or when to ask again.
    pub fn next(&mut self, now: Now) -> Action {
        self.drop_expired(now);
        if !self.link_up || self.flights.len() >= self.in_flight_max() {
            return Action::Wait(self.commands.iter().map(|command| command.expires).min());
        }
        let mut due = Vec::new();
        for lane in self.lanes.iter_mut().filter(|lane| !self.devices[lane.device].is_offline()) {
            lane.collect(now.mono, &mut due);
        }
        for poll in due {
            let unsteady = self.devices[self.lanes[poll.lane].device].is_unsteady(now.mono);
            let tries = if unsteady || matches!(poll.kind, Kind::Alone(_)) { 0 } else { self.spec.retries };
            self.put(poll, tries, now.mono);
        }
        if self.round.is_none() && !self.pending.is_empty() {
            self.round = Some(now.mono);
        }
        let poll = self.choose_poll(now.mono);
        if (poll.is_none() || self.commands_in_a_row < COMMANDS_IN_A_ROW)
            && let Some(job) = self.next_command(now)
        {
            self.commands_in_a_row = self.commands_in_a_row.saturating_add(1);
            return Action::Send(job);
        }
        if let Some(place) = poll {
            self.commands_in_a_row = 0;
            let Pending { poll, tries, again, .. } = self.pending.swap_remove(place);
            self.window.lateness = self.window.lateness.max(now.mono.saturating_duration_since(poll.due));
            let job = self.send_poll(poll, tries, again, None, now.mono);
            return Action::Send(job);
        }
        if let Some(job) = self.next_probe(now.mono) {
            return Action::Send(job);
        }
        Action::Wait(self.wake_up(now.mono))
    }

    /// Some servers take one request at a time and drop the others: found out, and then heeded.
    fn in_flight_max(&self) -> usize {
        if self.exclusive.is_some() || self.pipeline_strikes >= PIPELINE_STRIKES {
            1
        } else {
            usize::from(self.spec.max_in_flight.max(1))
        }
    }

    fn drop_expired(&mut self, now: Now) {
        let outcomes = &mut self.output.outcomes;
        self.commands.retain(|command| {
            let keep = command.expires > now.mono;
            if !keep {
                outcomes.push(Outcome { id: command.id, result: Err(NotDone::Expired) });
            }
            keep
        });
    }

    /// The poll whose deadline comes first; of two, that of the device that was served longer ago.
    fn choose_poll(&self, now: Instant) -> Option<usize> {
        let free = |(_, pending): &(usize, &Pending)| {
            let device = &self.devices[self.lanes[pending.poll.lane].device];
            pending.not_before <= now && device.owed.is_free(&self.request_of(&pending.poll), now)
        };
        let order = |(_, Pending { poll, .. }): &(usize, &Pending)| {
            (poll.deadline, self.devices[self.lanes[poll.lane].device].last_served, poll.block.address)
        };
        self.pending.iter().enumerate().filter(free).min_by_key(order).map(|(place, _)| place)
    }

    fn next_command(&mut self, now: Now) -> Option<Job> {
        if self.active.is_none() {
            let free = |command: &Command| {
                let point = self.spec.points.get(usize::try_from(command.point.index).unwrap_or(usize::MAX));
                point.is_none_or(|point| !self.devices[point.device].is_suspect(now.mono))
            };
            let place = self.commands.iter().position(free)?;
            let command = self.commands.remove(place)?;
            self.begin(&command);
        }
        let active = self.active.as_mut()?;
        let request = active.ready.as_ref()?;
        if !self.devices[active.device].owed.is_free(request, now.mono) {
            return None;
        }
        if active.steps.is_writing() && active.expires <= now.mono {
            self.finish(Err(NotDone::Expired));
            return None;
        }
        let request = active.ready.take()?;
        let (device, writing) = (active.device, active.steps.is_writing());
        self.counters.writes += u64::from(writing);
        // A write may have acted although its answer was lost: it is never sent twice (P4).
        let tries = if writing || self.devices[device].is_offline() { 0 } else { self.spec.retries };
        Some(self.send(device, request, Work::Command { tries }, self.spec.timeout, now.mono))
    }

    fn begin(&mut self, command: &Command) {
        let point = self.spec.points.get(usize::try_from(command.point.index).unwrap_or(usize::MAX));
        let begun = point
            .ok_or(NotDone::Fault(Fault::IllegalAddress))
            .and_then(|point| Steps::start(point, command).map(|(steps, request)| (point.device, steps, request)));
        match begun {
            Ok((device, steps, request)) => {
                let (id, point, expires) = (command.id, command.point.index, command.expires);
                self.active = Some(Active { id, point, device, expires, steps, ready: Some(request) });
            }
            Err(not_done) => self.output.outcomes.push(Outcome { id: command.id, result: Err(not_done) }),
        }
    }

    fn finish(&mut self, result: Result<crate::command::Done, NotDone>) {
        if let Some(active) = self.active.take() {
            self.output.outcomes.push(Outcome { id: active.id, result });
        }
    }

    /// `probe`: how long it waits, where it is one.
    fn send_poll(&mut self, poll: Poll, tries: u8, again: bool, probe: Option<Duration>, now: Instant) -> Job {
        let (device, request) = (self.lanes[poll.lane].device, self.request_of(&poll));
        let timeout = probe.unwrap_or(self.spec.timeout);
        self.send(device, request, Work::Poll { poll, tries, again, probe: probe.is_some() }, timeout, now)
    }

    fn request_of(&self, poll: &Poll) -> Request {
        pdu::read(self.lanes[poll.lane].table, poll.block.address, poll.block.count)
    }

    fn put(&mut self, poll: Poll, tries: u8, now: Instant) {
        self.pending.push(Pending { poll, tries, again: false, not_before: now });
    }

    fn send(&mut self, device: usize, request: Request, work: Work, timeout: Duration, now: Instant) -> Job {
        self.tickets += 1;
        self.counters.requests += 1;
        self.devices[device].last_served = Some(now);
        let shared = self.in_flight_max() > 1;
        let flight = Flight { device, request: request.clone(), sent: now, shared, work };
        self.flights.insert(self.tickets, flight);
        Job { ticket: self.tickets, unit: self.devices[device].unit, request, timeout }
    }
}

#[cfg(test)]
mod tests;
