//! What became of a request: values, faults, devices set aside and back, the next step of a command.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{DRAIN, Failure, Flight, Pending, Schedule, Work};
use crate::clock::Now;
use crate::modbus::codec;
use crate::modbus::device::{BlockKey, Silence};
use crate::modbus::frame::Heard;
use crate::modbus::lane::{Kind, Poll};
use crate::modbus::pdu::{self, Answer};
use crate::modbus::plan::{Block, Span};
use crate::modbus::spec::Transport;
use crate::modbus::write::Next;
use crate::sample::{Fault, PointId, Sample, Value};

/// A device that says it is busy is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

impl Schedule {
    /// The answer to a request, well formed and its own. Unknown tickets are those of a link that was lost.
    pub fn answered(&mut self, ticket: u64, answer: &Answer, now: Now) {
        let Some(flight) = self.land(ticket, now) else { return };
        self.counters.answers += 1;
        let device = flight.device;
        let exception = if let Answer::Exception(code) = answer { Some(pdu::fault(*code)) } else { None };
        self.counters.exceptions += u64::from(exception.is_some());
        if self.exclusive == Some(device) {
            self.exclusive = None;
            self.pipeline_strikes = self.pipeline_strikes.saturating_add(1);
        }
        let patience = self.patience();
        self.devices[device].owed.answered(&flight.request, patience, now.mono);
        let took = now.mono.saturating_duration_since(flight.sent);
        match flight.work {
            Work::Command { .. } => {
                if exception != Some(Fault::Gateway) {
                    self.came_back(device, None, now);
                }
                let next = self.active.as_mut().map(|active| active.steps.answered(answer));
                self.step(next, now);
            }
            Work::Poll { poll, .. } if exception == Some(Fault::Gateway) => {
                // A gateway answers for a device that does not.
                self.give_up(device, &poll, Fault::Gateway, Some(took), now);
            }
            Work::Poll { poll, tries, again, probe } => {
                self.came_back(device, Some(key(&poll)), now);
                match (answer, exception) {
                    (_, Some(Fault::Busy)) if tries > 0 && !probe => {
                        let not_before = now.mono + BUSY_PAUSE;
                        self.pending.push(Pending { poll, tries: tries - 1, again, not_before });
                        return;
                    }
                    (_, Some(fault)) => self.excepted(device, &poll, fault, now),
                    (answer, None) => self.values(&poll, answer, now),
                }
                if self.devices[device].took(took, again) {
                    self.give_up(device, &poll, Fault::Timeout, None, now);
                }
            }
        }
        self.end_round(now.mono);
    }

    /// A request brought nothing in its time, or nothing usable.
    pub fn failed(&mut self, ticket: u64, failure: Failure, now: Now) {
        let Some(flight) = self.land(ticket, now) else { return };
        let device = flight.device;
        let fault = match failure {
            Failure::Timeout => Fault::Timeout,
            Failure::Discarded | Failure::Damaged => Fault::BadResponse,
        };
        match failure {
            Failure::Timeout => self.counters.timeouts += 1,
            Failure::Discarded | Failure::Damaged => self.counters.discarded += 1,
        }
        // With transaction numbers a late answer is known by its own.
        if failure != Failure::Damaged && !matches!(self.spec.transport, Transport::Tcp { .. }) {
            let patience = self.patience();
            self.devices[device].owed.failed(&flight.request, flight.sent, patience, now.mono);
        }
        match flight.work {
            Work::Command { tries } if tries > 0 => {
                if let Some(active) = &mut self.active {
                    active.ready = Some(flight.request);
                }
            }
            Work::Command { .. } => {
                self.devices[device].erred(fault);
                let next = self.active.as_ref().map(|active| active.steps.failed(fault));
                self.step(next, now);
            }
            Work::Poll { poll, probe: true, .. } => self.give_up(device, &poll, fault, None, now),
            Work::Poll { .. } if self.devices[device].is_offline() => {}
            Work::Poll { poll, tries, again, .. } if flight.shared && failure == Failure::Timeout => {
                // Lost, or dropped by a server that takes one at a time: asked again alone, it tells which.
                self.exclusive.get_or_insert(device);
                self.pending.push(Pending { poll, tries, again, not_before: now.mono });
            }
            Work::Poll { poll, tries, again, .. } if tries > 0 => {
                let again = again || failure == Failure::Timeout;
                self.pending.push(Pending { poll, tries: tries - 1, again, not_before: now.mono });
            }
            Work::Poll { poll, .. } => self.exhausted(device, &poll, fault, now),
        }
        self.end_round(now.mono);
    }

    /// The connection was closed in the middle, and will be made anew: polls are asked again. A write may have acted.
    pub fn interrupted(&mut self, now: Now) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            match flight.work {
                Work::Poll { probe: true, poll, .. } => self.give_up(flight.device, &poll, Fault::Timeout, None, now),
                Work::Poll { poll, tries, again, probe: false } => {
                    self.pending.push(Pending { poll, tries, again, not_before: now.mono });
                }
                Work::Command { .. } => {
                    let next = match &mut self.active {
                        Some(active) if !active.steps.is_writing() => Some(Next::Send(flight.request)),
                        Some(active) => Some(active.steps.failed(Fault::Disconnected)),
                        None => None,
                    };
                    self.step(next, now);
                }
            }
        }
    }

    fn land(&mut self, ticket: u64, now: Now) -> Option<Flight> {
        let flight = self.flights.remove(&ticket)?;
        self.window.busy += now.mono.saturating_duration_since(flight.sent);
        Some(flight)
    }

    /// How long after a request was given up its answer may still come.
    fn patience(&self) -> Duration {
        (self.spec.timeout * 2).max(DRAIN)
    }

    /// A whole frame came that nobody waited for.
    pub fn overheard(&mut self, heard: &Heard, now: Instant) {
        for device in self.devices.iter_mut().filter(|device| device.unit == heard.unit) {
            device.overheard(self.spec.timeout, now);
            device.owed.overheard(heard, now);
        }
    }

    fn came_back(&mut self, device: usize, block: Option<BlockKey>, now: Now) {
        let was_offline = self.devices[device].is_offline();
        self.output.changed |= self.devices[device].answered(block, now);
        if was_offline {
            for lane in self.lanes.iter_mut().filter(|lane| lane.device == device) {
                lane.restart(now.mono);
            }
            self.tell_refused(device, now);
        }
    }

    /// Points that are rarely asked for, because their device refuses them, say so as soon as it is there.
    pub(super) fn tell_refused(&mut self, device: usize, now: Now) {
        let of_device = self.lanes.iter().filter(|lane| lane.device == device);
        let samples =
            of_device.flat_map(|lane| lane.alone()).map(|(point, fault)| self.fault_of(point, fault, now)).collect();
        self.tell(samples);
    }

    fn step(&mut self, next: Option<Next>, now: Now) {
        match next {
            None => {}
            Some(Next::Send(request)) => {
                if let Some(active) = &mut self.active {
                    active.ready = Some(request);
                }
            }
            Some(Next::Finished(result)) => {
                if let Some(active) = &self.active
                    && active.steps.is_written()
                {
                    self.poll_soon(active.point, now.mono);
                }
                self.finish(result);
            }
        }
    }

    /// Reads a point that was written, so that its topic shows what it holds now.
    fn poll_soon(&mut self, index: u32, now: Instant) {
        let Some(point) = self.spec.points.get(usize::try_from(index).unwrap_or(usize::MAX)) else { return };
        let lane = self.lanes.iter().position(|lane| lane.device == point.device && lane.table == point.table);
        if let (Some(lane), Some(block)) = (lane, Block::of(vec![Span::of(index, point)])) {
            let poll = Poll { lane, block: Rc::new(block), due: now, deadline: now, kind: Kind::Extra };
            self.put(poll, self.spec.retries, now);
        }
    }

    fn values(&mut self, poll: &Poll, answer: &Answer, now: Now) {
        self.lanes[poll.lane].answered(poll);
        let read = |span: &Span| {
            let start = usize::from(span.address.saturating_sub(poll.block.address));
            let range = start..start + usize::from(span.count);
            let point = self.spec.points.get(usize::try_from(span.point).unwrap_or(usize::MAX));
            let reading = match (answer, point) {
                (Answer::Bits(bits), Some(_)) => bits.get(start).map(|on| Value::Bool(*on)).ok_or(Fault::BadResponse),
                (Answer::Registers(words), Some(point)) => {
                    let words = words.get(range).ok_or(Fault::BadResponse);
                    words.and_then(|words| codec::decode(point.data, point.order, words))
                }
                _ => Err(Fault::BadResponse),
            };
            Sample { point: PointId { bus: self.bus, index: span.point }, at: now.wall, reading }
        };
        let samples = poll.block.points.iter().map(read).collect();
        self.tell(samples);
    }

    fn excepted(&mut self, device: usize, poll: &Poll, fault: Fault, now: Now) {
        self.devices[device].erred(fault);
        if fault == Fault::IllegalAddress {
            let parts = self.lanes[poll.lane].refused(poll, now.mono);
            if !parts.is_empty() {
                for part in parts {
                    self.put(part, self.spec.retries, now.mono);
                }
                return;
            }
        } else {
            self.lanes[poll.lane].failed(poll, now.mono);
        }
        self.faults(&poll.block, fault, now);
    }

    fn exhausted(&mut self, device: usize, poll: &Poll, fault: Fault, now: Now) {
        self.devices[device].erred(fault);
        self.exclusive = self.exclusive.filter(|lost| *lost != device);
        let alone = matches!(poll.kind, Kind::Alone(_));
        let gone = if alone {
            false
        } else if fault != Fault::Timeout {
            self.devices[device].babbles()
        } else if self.devices[device].silent(key(poll)) == Silence::Block {
            self.lanes[poll.lane].set_alone(&poll.block, fault, now.mono);
            false
        } else {
            true
        };
        if gone {
            self.give_up(device, poll, fault, None, now);
        } else {
            self.lanes[poll.lane].failed(poll, now.mono);
            self.faults(&poll.block, fault, now);
        }
    }

    /// Sets a device aside; its points read the fault once. `took`: how long the answer took that said it is gone.
    fn give_up(&mut self, device: usize, poll: &Poll, fault: Fault, took: Option<Duration>, now: Now) {
        let line_time = self.timing.read(self.lanes[poll.lane].table, poll.block.count);
        self.devices[device].erred(fault);
        self.exclusive = self.exclusive.filter(|lost| *lost != device);
        if !self.devices[device].set_aside(now, self.spec.timeout, took.unwrap_or(line_time), took.is_none()) {
            return;
        }
        self.output.changed = true;
        self.pending.retain(|pending| self.lanes[pending.poll.lane].device != device);
        for lane in self.lanes.iter_mut().filter(|lane| lane.device == device) {
            lane.restart(now.mono);
        }
        let of_device = (0_u32..).zip(&self.spec.points).filter(|(_, point)| point.device == device);
        let samples = of_device.map(|(index, _)| self.fault_of(index, fault, now)).collect();
        self.tell(samples);
    }

    fn faults(&mut self, block: &Block, fault: Fault, now: Now) {
        let samples = block.points.iter().map(|span| self.fault_of(span.point, fault, now)).collect();
        self.tell(samples);
    }

    pub(super) fn fault_of(&self, index: u32, fault: Fault, now: Now) -> Sample {
        Sample { point: PointId { bus: self.bus, index }, at: now.wall, reading: Err(fault) }
    }

    pub(super) fn tell(&mut self, samples: Vec<Sample>) {
        if !samples.is_empty() {
            self.output.samples.push(samples);
        }
    }

    fn end_round(&mut self, now: Instant) {
        if self.pending.is_empty()
            && self.flights.is_empty()
            && let Some(start) = self.round.take()
        {
            self.window.cycle = self.window.cycle.max(now.saturating_duration_since(start));
        }
    }
}

fn key(poll: &Poll) -> BlockKey {
    (poll.lane, poll.block.address, poll.block.count)
}
