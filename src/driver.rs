//! What every driver (Modbus, later CAN) tells the gateway, whatever it drives.
//!
//! A driver's task owns its bus. It gets commands from a bounded channel and ends, cleanly, when that channel
//! closes; it sends [`BusEvent`]s into a bounded channel and waits where that is full.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::UnixMs;
use crate::command::Outcome;
use crate::sample::{BusId, Fault, Sample};

#[derive(Clone, Debug)]
pub enum BusEvent {
    /// The samples of one answer, in the order of their points.
    Samples(BusId, Vec<Sample>),
    Outcome(BusId, Outcome),
    /// At most once a second, and at once when a state changes.
    Status(BusId, BusStatus),
    /// What the driver has learnt about its devices, to be handed to a bus of the same name when it starts again.
    Learnt(BusId, Bytes),
}

/// The line or connection as a whole; published on `fieldgate/{gateway}/bus/NAME`.
#[derive(Clone, Debug, PartialEq)]
pub struct BusStatus {
    pub state: LinkState,
    /// When `state` was entered.
    pub since: UnixMs,
    /// What the operating system or the peer said last when the link was lost.
    pub last_error: Option<String>,
    /// Share of the line's time in use over the last second, 0 to 100; `None` where time is not the limit (TCP).
    pub utilisation_percent: Option<f32>,
    /// The longest that a poll was late over the last second.
    pub lateness: Duration,
    /// The longest time that one round over all due points took.
    pub cycle: Duration,
    pub counters: BusCounters,
    /// In the order of the bus's devices.
    pub devices: Vec<DeviceStatus>,
    /// Of a CAN bus only.
    pub can: Option<CanStatus>,
}

/// What only a CAN bus has to tell. The counts are since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CanStatus {
    pub controller: ControllerState,
    /// Read from the socket: of what is on the bus, what the mapping needs.
    pub frames: u64,
    /// Lost in the controller or in the socket's queue because nobody fetched them in time.
    pub dropped: u64,
    /// How often the controller went bus-off.
    pub bus_offs: u64,
}

/// How a CAN controller stands to its bus (ISO 11898-1, fault confinement).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControllerState {
    #[default]
    Active,
    /// 96 errors and more.
    Warning,
    /// 128 errors and more: it no longer disturbs others.
    Passive,
    /// 256 errors: it neither sends nor hears until it is restarted.
    BusOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    Up,
    Connecting,
    Down,
}

/// Since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusCounters {
    pub requests: u64,
    pub answers: u64,
    pub timeouts: u64,
    pub exceptions: u64,
    /// Answers that were discarded: late, short, long, foreign, corrupted.
    pub discarded: u64,
    pub writes: u64,
}

/// One device; published on `fieldgate/{gateway}/device/NAME`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceStatus {
    pub name: std::sync::Arc<str>,
    pub state: DeviceState,
    pub since: UnixMs,
    pub last_fault: Option<Fault>,
    pub polls: u64,
    pub errors: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Not asked yet.
    Unknown,
    Online,
    /// Set aside, and probed at a growing interval.
    Offline,
}
