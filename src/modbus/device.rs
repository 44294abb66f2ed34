//! What the bus knows of one device: whether it answers, and when it may be asked again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::owed::Owed;
use crate::clock::{Now, UnixMs};
use crate::driver::{DeviceState, DeviceStatus};
use crate::sample::Fault;

/// A device that is set aside takes at most one part in so many of the line's time (P5).
const PROBE_SHARE: u32 = 50;
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(10);
/// How long a probe waits for a device that never answered yet; 2 % of [`PROBE_MAX`] is more.
const PROBE_TIMEOUT: Duration = Duration::from_millis(120);
/// How long it waits at least for one that did: half as long again as its answers took.
const PROBE_TIMEOUT_MIN: Duration = Duration::from_millis(50);
/// A device that is set aside again so soon goes on where it was, with rare probes.
const RELAPSE: Duration = Duration::from_secs(5);
/// After so many relapses it gets no second try, until it has been back for [`STEADY`].
const RELAPSES_MAX: u8 = 2;
const STEADY: Duration = Duration::from_secs(2);
/// Polls on end that were lost first and answered when asked again: the device answers too late, and its
/// neighbours pay for it.
const LATE_MAX: u8 = 3;
/// Requests without one well-formed answer after which a device that sends garbage is set aside.
const GARBAGE_MAX: u8 = 3;
/// Time-outs of the same block, other blocks answered between, after which the block is asked for rarely.
const CULPRIT_MAX: u8 = 2;

/// A block by its lane, address and count.
pub type BlockKey = (usize, u16, u16);

#[derive(Debug)]
pub struct Device {
    name: Arc<str>,
    pub unit: u8,
    state: DeviceState,
    since: UnixMs,
    last_fault: Option<Fault>,
    polls: u64,
    errors: u64,
    pub last_served: Option<Instant>,
    pub owed: Owed,
    /// The slowest of its latest answers.
    response: Option<Duration>,
    late: u8,
    /// The last interval between probes, when it came back, and how often it relapsed.
    aside: Duration,
    back: Option<Instant>,
    relapses: u8,
    probe: Option<Probe>,
    garbage: u8,
    culprit: Option<(BlockKey, u8, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Instant,
    made: u32,
}

/// What a silent block means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The device is set aside.
    Device,
    /// Only this block is never answered.
    Block,
}

impl Device {
    pub fn new(name: Arc<str>, unit: u8, wall: UnixMs) -> Self {
        Self {
            name,
            unit,
            state: DeviceState::Unknown,
            since: wall,
            last_fault: None,
            polls: 0,
            errors: 0,
            last_served: None,
            owed: Owed::default(),
            response: None,
            late: 0,
            aside: Duration::ZERO,
            back: None,
            relapses: 0,
            probe: None,
            garbage: 0,
            culprit: None,
        }
    }

    pub fn status(&self) -> DeviceStatus {
        DeviceStatus {
            name: Arc::clone(&self.name),
            state: self.state,
            since: self.since,
            last_fault: self.last_fault,
            polls: self.polls,
            errors: self.errors,
        }
    }

    pub fn is_offline(&self) -> bool {
        self.state == DeviceState::Offline
    }

    /// Whether an answer may still come late.
    pub fn is_suspect(&self, now: Instant) -> bool {
        self.owed.until(now).is_some()
    }

    /// It answered, with values or an exception. True where it was not online before.
    pub fn answered(&mut self, block: Option<BlockKey>, now: Now) -> bool {
        self.polls += u64::from(block.is_some());
        self.garbage = 0;
        match (&mut self.culprit, block) {
            (Some((culprit, ..)), Some(block)) if *culprit == block => self.culprit = None,
            (Some((_, _, between)), Some(_)) => *between = true,
            _ => {}
        }
        if self.probe.take().is_some() {
            self.back = Some(now.mono);
        }
        self.enter(DeviceState::Online, now)
    }

    /// Back only lately, and not for the first time: it is given up at its first silence.
    pub fn is_unsteady(&self, now: Instant) -> bool {
        self.relapses >= RELAPSES_MAX && self.is_back_within(STEADY, now)
    }

    fn is_back_within(&self, time: Duration, now: Instant) -> bool {
        self.back.is_some_and(|back| now.saturating_duration_since(back) < time)
    }

    /// A poll was answered `took` after it was sent; `again`: it had been lost before. True where that has gone on for
    /// too long.
    pub fn took(&mut self, took: Duration, again: bool) -> bool {
        self.response = Some(took.max(self.response.unwrap_or(took) * 7 / 8));
        self.late = if again { self.late.saturating_add(1) } else { 0 };
        self.late >= LATE_MAX
    }

    /// Counts a failure that leaves the device as it is.
    pub fn erred(&mut self, fault: Fault) {
        self.errors += 1;
        self.last_fault = Some(fault);
    }

    /// It never answered a block, whatever was tried.
    pub fn silent(&mut self, block: BlockKey) -> Silence {
        let strikes = match self.culprit {
            Some((culprit, strikes, true)) if culprit == block => strikes + 1,
            Some((culprit, strikes, false)) if culprit == block => strikes,
            _ => 0,
        };
        self.culprit = Some((block, strikes, false));
        if strikes >= CULPRIT_MAX {
            self.culprit = None;
            return Silence::Block;
        }
        Silence::Device
    }

    /// Its answers were no frames, whatever was tried. True when that has gone on for too long.
    pub fn babbles(&mut self) -> bool {
        self.garbage = self.garbage.saturating_add(1);
        self.garbage >= GARBAGE_MAX
    }

    /// Sets it aside, or a probe failed: the next probe comes later. `cost` is the line's time of a probe, beside the
    /// wait for an answer where `silent`. True where it was not set aside before.
    pub fn set_aside(&mut self, now: Now, timeout: Duration, cost: Duration, silent: bool) -> bool {
        let made = self.probe.map_or(0, |probe| probe.made + 1);
        if self.probe.is_some() || self.is_back_within(RELAPSE, now.mono) {
            self.aside = (self.aside * 2).min(PROBE_MAX);
            self.relapses = self.relapses.saturating_add(u8::from(self.probe.is_none()));
        } else {
            (self.aside, self.relapses) = (PROBE_MIN, 0);
        }
        let wait = if silent { self.probe_timeout(timeout) } else { Duration::ZERO };
        let least = (wait + cost) * PROBE_SHARE;
        let at = now.mono + self.aside.max(least).max((least * 2).min(PROBE_MAX));
        self.late = 0;
        self.probe = Some(Probe { at, made });
        self.enter(DeviceState::Offline, now)
    }

    /// When it is probed next; `None` unless it is set aside.
    pub fn probe_at(&self) -> Option<Instant> {
        self.probe.map(|probe| probe.at)
    }

    /// Which probe it is, and how long it waits.
    pub fn probe(&self, timeout: Duration) -> (u32, Duration) {
        (self.probe.map_or(0, |probe| probe.made), self.probe_timeout(timeout))
    }

    fn probe_timeout(&self, timeout: Duration) -> Duration {
        let wait = self.response.map_or(PROBE_TIMEOUT, |response| PROBE_TIMEOUT_MIN.max(response * 3 / 2));
        wait.min(timeout)
    }

    /// An answer came after its probe was given up: the next waits for so long, or, where that would be longer than any
    /// request waits, no longer than for a quick answer.
    pub fn overheard(&mut self, timeout: Duration, now: Instant) {
        if self.probe.is_some()
            && let Some(asked) = self.last_served
        {
            let took = now.saturating_duration_since(asked);
            self.response = Some(if took < timeout { took } else { Duration::ZERO });
        }
    }

    /// Nothing is known of it: the link was lost, or is new.
    pub fn forget(&mut self, now: Now) {
        self.owed.clear();
        self.probe = None;
        self.late = 0;
        self.back = None;
        self.culprit = None;
        self.garbage = 0;
        self.enter(DeviceState::Unknown, now);
    }

    fn enter(&mut self, state: DeviceState, now: Now) -> bool {
        let changed = self.state != state;
        if changed {
            self.state = state;
            self.since = now.wall;
        }
        changed
    }
}
