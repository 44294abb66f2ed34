//! `fieldgate replay`: a candump log through the mapping, in the log's own time.
//!
//! [`Replay`] takes one line after the other and makes of each what a running gateway would have published, timers
//! included: intervals that end, heartbeats and silence happen between the lines, at the log's times.

pub mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::can::bus::Bus;
use crate::can::candump::{CandumpError, Content, Entry, parse_line};
use crate::can::frame::Received;
use crate::clock::{Now, UnixMs};
use crate::clocksync::ClockState;
use crate::config::plan::{BusPlan, DriverSpec, Plan};
use crate::mapping::publish::{Boot, Publisher};
use crate::message::Message;
use crate::sample::BusId;
use crate::timestamp::Timestamps;

/// Timers run for so long after a line; a longer pause of the log is passed over, so that a wrong stamp does not repeat
/// heartbeats for years.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// What the timers are told of a longer pause at most; longer than any of them.
const LEAP_MAX: Duration = Duration::from_secs(400 * 86_400);
/// Stamps of several interfaces may be out of order by less than this; beyond it somebody set the clock back.
const DISORDER_MAX: Duration = Duration::from_secs(1);

/// What is wrong with a line, and where; the first column is 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LineError {
    #[error("not UTF-8 text; write what `candump -l` writes")]
    Text { column: usize },
    #[error("no interface is named, and the mapping has several ({0}); write one before the frame")]
    Interface(String),
    #[error("{}", .0.problem)]
    Frame(#[from] CandumpError),
}

impl LineError {
    pub fn column(&self) -> usize {
        match self {
            Self::Text { column } => *column,
            Self::Interface(_) => 1,
            Self::Frame(error) => error.column,
        }
    }
}

/// One `[[can]]` and its rules.
struct Lane {
    name: Arc<str>,
    interface: String,
    bus: Bus,
    publisher: Publisher,
}

/// What the log's time moves on to.
struct Pending {
    until: Now,
    /// Timers run one by one up to here, and all at once at `until`.
    timers_until: Instant,
    entry: Option<Entry>,
}

/// Frames of interfaces that no bus has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// The first of them.
    pub interface: String,
    pub frames: u64,
}

pub struct Replay {
    lanes: Vec<Lane>,
    now: Now,
    /// The highest stamp since the clock was set back last; `None` before the first line.
    newest: Option<UnixMs>,
    pending: Option<Pending>,
    unmatched: Option<Unmatched>,
    messages: Vec<Message>,
    timestamps: Timestamps,
}

impl Replay {
    /// The plan's CAN buses. `start` is any moment: only distances are taken from it.
    pub fn new(plan: &Plan, start: Instant) -> Self {
        let now = Now { mono: start, wall: UnixMs(0) };
        let boot = Boot::new("replay");
        let lanes = (0u32..).zip(&plan.buses).filter_map(|(id, plan)| Lane::new(plan, BusId(id), &boot, now)).collect();
        Self {
            lanes,
            now,
            newest: None,
            pending: None,
            unmatched: None,
            messages: Vec::new(),
            timestamps: Timestamps::default(),
        }
    }

    /// The interfaces of the plan's CAN buses.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.lanes.iter().map(|lane| lane.interface.as_str())
    }

    pub fn unmatched(&self) -> Option<&Unmatched> {
        self.unmatched.as_ref()
    }

    /// Takes a line, without its end; then call [`Self::step`] until it is done. Empty lines and comments (`#`) say
    /// nothing.
    ///
    /// # Errors
    /// [`LineError`]; the line then changes nothing.
    pub fn line(&mut self, line: &[u8]) -> Result<(), LineError> {
        let text =
            std::str::from_utf8(line).map_err(|error| LineError::Text { column: error.valid_up_to() + 1 })?.trim_end();
        if text.trim_start().is_empty() || text.trim_start().starts_with('#') {
            return Ok(());
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let entry = parse_line(text)?;
        if entry.interface.is_none() && self.lanes.len() > 1 {
            return Err(LineError::Interface(self.interfaces().collect::<Vec<_>>().join(", ")));
        }
        // A line without a time comes with the one before.
        let until = self.reach(entry.at.or(self.newest).unwrap_or(self.now.wall));
        self.move_on(until, Some(entry));
        Ok(())
    }

    /// The log is over: what waits for the end of its interval still comes; then call [`Self::step`] until it is done.
    pub fn end(&mut self) {
        let held = self.lanes.iter().filter_map(|lane| lane.bus.held_until()).max();
        if let Some(at) = held {
            self.move_on(self.at(at), None);
        }
    }

    fn move_on(&mut self, until: Now, entry: Option<Entry>) {
        let timers_until = until.mono.min(self.now.mono + PAUSE_MAX);
        self.pending = Some(Pending { until, timers_until, entry });
    }

    /// One moment of the log's time: a timer, or the line itself. Appends what is published then, one JSON object a
    /// line. False: nothing is left to do for this line.
    pub fn step(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(pending) = &self.pending else { return false };
        let (until, timers_until) = (pending.until, pending.timers_until);
        match self.lanes.iter().filter_map(Lane::next_due).min().filter(|at| *at <= timers_until) {
            Some(at) => self.now = self.at(at.max(self.now.mono)),
            None => {
                self.now = until;
                let entry = self.pending.take().and_then(|pending| pending.entry);
                self.timers();
                if let Some(entry) = entry {
                    self.frame(&entry);
                }
                return self.print(out, false);
            }
        }
        self.timers();
        self.print(out, true)
    }

    /// The log's time at a stamp: it never goes back.
    fn reach(&mut self, at: UnixMs) -> Now {
        let Some(newest) = self.newest else {
            self.newest = Some(at);
            self.now.wall = at;
            for lane in &mut self.lanes {
                lane.bus.link_up(self.now);
            }
            return self.now;
        };
        match u64::try_from(at.0.saturating_sub(newest.0)) {
            Ok(ahead) => {
                self.newest = Some(at);
                Now { mono: self.now.mono + Duration::from_millis(ahead).min(LEAP_MAX), wall: at }
            }
            Err(_) if newest.0.abs_diff(at.0) < millis(DISORDER_MAX) => self.now,
            Err(_) => {
                self.newest = Some(at);
                Now { mono: self.now.mono, wall: at }
            }
        }
    }

    fn at(&self, mono: Instant) -> Now {
        self.now.after(mono.saturating_duration_since(self.now.mono))
    }

    fn timers(&mut self) {
        for lane in &mut self.lanes {
            lane.timers(self.now, &mut self.messages);
        }
    }

    fn frame(&mut self, entry: &Entry) {
        let received = match entry.content {
            Content::Data(frame) => Received::Data(frame),
            Content::Remote(id) => Received::Remote(id),
            // Its details are not read: a log's controller is not this one's.
            Content::Error => return,
        };
        let named = entry.interface.as_deref();
        let by_interface = self.lanes.iter().any(|lane| named == Some(&lane.interface));
        let mut matched = false;
        for lane in &mut self.lanes {
            let name = if by_interface { lane.interface.as_str() } else { &*lane.name };
            if named.is_none_or(|named| named == name) {
                matched = true;
                lane.bus.handle(&received, entry.at.unwrap_or(self.now.wall), self.now);
                lane.publish(self.now, &mut self.messages);
            }
        }
        if !matched {
            let interface = || named.unwrap_or("none named").to_owned();
            let unmatched = self.unmatched.get_or_insert_with(|| Unmatched { interface: interface(), frames: 0 });
            unmatched.frames += 1;
        }
    }

    fn print(&mut self, out: &mut Vec<u8>, more: bool) -> bool {
        for message in self.messages.drain(..) {
            write_line(out, &message, self.timestamps.format(self.now.wall));
        }
        more
    }
}

impl Lane {
    fn new(plan: &BusPlan, id: BusId, boot: &Boot, now: Now) -> Option<Self> {
        let DriverSpec::Can(spec) = &plan.driver else { return None };
        Some(Self {
            name: spec.name.clone(),
            interface: spec.interface.clone(),
            bus: Bus::listening(spec, id, now),
            publisher: Publisher::new(plan.rules.clone().into(), boot.clone()),
        })
    }

    fn next_due(&self) -> Option<Instant> {
        [self.bus.next_due(), self.publisher.next_timeout()].into_iter().flatten().min()
    }

    fn timers(&mut self, now: Now, out: &mut Vec<Message>) {
        self.bus.handle_timeout(now);
        self.publish(now, out);
        self.publisher.handle_timeout(now, out);
    }

    fn publish(&mut self, now: Now, out: &mut Vec<Message>) {
        for sample in self.bus.take_samples() {
            self.publisher.sample(now, ClockState::Synced, &sample, out);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `{"topic":…,"payload":…,"retain":…,"qos":…,"time":…}`. A payload that is a JSON object stands as it is, any other
/// as a text.
fn write_line(out: &mut Vec<u8>, message: &Message, time: &[u8]) {
    out.extend_from_slice(b"{\"topic\":");
    string(out, &message.topic);
    out.extend_from_slice(b",\"payload\":");
    let object =
        message.payload.starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(&message.payload).is_ok();
    if object {
        out.extend_from_slice(&message.payload);
    } else {
        string(out, &String::from_utf8_lossy(&message.payload));
    }
    out.extend_from_slice(b",\"retain\":");
    out.extend_from_slice(if message.retain { b"true" } else { b"false" });
    out.extend_from_slice(b",\"qos\":");
    out.push(b'0' + message.qos as u8);
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time);
    out.extend_from_slice(b"\"}\n");
}

fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec does not fail, and a string is always JSON.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests;
