//! What the bus knows of one device: whether it answers, and when it may be asked again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pdu::Request;
use crate::clock::{Now, UnixMs};
use crate::driver::{DeviceState, DeviceStatus};
use crate::sample::Fault;

/// A device that is set aside takes at most one part in so many of the line's time (P5).
const PROBE_SHARE: u32 = 50;
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(10);
/// How long most probes wait: with the drain that follows, 2 % of [`PROBE_MAX`].
const PROBE_TIMEOUT: Duration = Duration::from_millis(120);
/// Every so many probes one waits for the device's whole timeout: for devices slower than [`PROBE_TIMEOUT`].
const PROBE_PATIENT: u32 = 4;
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
    /// An answer may still be on its way: until then nothing but the same request.
    hold: Option<(Instant, Request)>,
    probe: Option<Probe>,
    garbage: u8,
    culprit: Option<(BlockKey, u8, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Instant,
    interval: Duration,
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
            hold: None,
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

    /// Whether this request may go out now as far as late answers are concerned.
    pub fn is_free(&self, request: &Request, now: Instant) -> bool {
        self.hold.as_ref().is_none_or(|(until, same)| *until <= now || same == request)
    }

    pub fn held_until(&self) -> Option<Instant> {
        self.hold.as_ref().map(|(until, _)| *until)
    }

    /// An answer to this request may come late.
    pub fn hold(&mut self, until: Instant, request: Request) {
        self.hold = Some((until, request));
    }

    /// Whether an answer may still come late, although one has been taken.
    pub fn is_suspect(&self, now: Instant) -> bool {
        self.hold.as_ref().is_some_and(|(until, _)| *until > now)
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
        self.probe = None;
        self.enter(DeviceState::Online, now)
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

    /// Sets it aside, or a probe failed: the next probe comes later. `cost` is the line's time of a probe beside its
    /// wait. True where it was not set aside before.
    pub fn set_aside(&mut self, now: Now, timeout: Duration, cost: Duration) -> bool {
        let made = self.probe.map_or(0, |probe| probe.made + 1);
        let grown = self.probe.map_or(PROBE_MIN, |probe| (probe.interval * 2).min(PROBE_MAX));
        let wait = probe_timeout(made, timeout);
        let at = now.mono + grown.max((wait + cost) * PROBE_SHARE);
        self.probe = Some(Probe { at, interval: grown, made });
        self.enter(DeviceState::Offline, now)
    }

    /// When it is probed next; `None` unless it is set aside.
    pub fn probe_at(&self) -> Option<Instant> {
        self.probe.map(|probe| probe.at)
    }

    /// Which probe it is, and how long it waits.
    pub fn probe(&self, timeout: Duration) -> (u32, Duration) {
        let made = self.probe.map_or(0, |probe| probe.made);
        (made, probe_timeout(made, timeout))
    }

    /// Nothing is known of it: the link was lost, or is new.
    pub fn forget(&mut self, now: Now) {
        self.hold = None;
        self.probe = None;
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

fn probe_timeout(made: u32, timeout: Duration) -> Duration {
    if made % PROBE_PATIENT == PROBE_PATIENT - 1 { timeout } else { timeout.min(PROBE_TIMEOUT) }
}
