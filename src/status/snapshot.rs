//! The gateway at one moment: plain data, gathered by its core, rendered by the other files here.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::UnixMs;
use crate::clocksync::ClockState;
use crate::driver::{BusStatus, DeviceState, LinkState};
use crate::sample::Fault;
use crate::store::StoreStatus;

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub gateway: Arc<str>,
    pub version: &'static str,
    pub at: UnixMs,
    pub uptime: Duration,
    /// Everything that was configured has been started.
    pub ready: bool,
    pub clock: ClockState,
    pub buses: Vec<Bus>,
    pub uplinks: Vec<Uplink>,
    pub store: Option<StoreStatus>,
    /// What the gateway's own loop took, sent and could not store, since the start.
    pub work: Work,
    /// Counters and gauges of the broker, by the name under `$SYS/broker/`; none without a broker.
    pub broker: Vec<(Arc<str>, u64)>,
    pub points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub samples: u64,
    /// Messages routed, from anywhere.
    pub messages: u64,
    pub commands: u64,
    /// What should have been stored and found the disk too far behind.
    pub unstored: u64,
}

#[derive(Clone, Debug)]
pub struct Bus {
    pub name: Arc<str>,
    pub status: BusStatus,
}

#[derive(Clone, Debug)]
pub struct Uplink {
    pub name: Arc<str>,
    pub state: UplinkState,
    pub since: UnixMs,
    pub last_error: Option<Arc<str>>,
    /// Published and not acknowledged yet.
    pub in_flight: u64,
    pub delivered: u64,
    /// Set aside: refused by the broker upstream with a reason code, or larger than it takes.
    pub refused: u64,
    /// Topic and reason of the last one.
    pub last_refusal: Option<(Arc<str>, Arc<str>)>,
    /// Times the broker upstream asked to wait.
    pub deferred: u64,
    /// Not sent, because their expiry had passed.
    pub expired: u64,
    /// Waiting on disk.
    pub rows: u64,
    pub bytes: u64,
    /// By the queue's bounds.
    pub dropped: u64,
    /// Until the queue is empty at the present rate.
    pub eta: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkState {
    Connected,
    Connecting,
    Disconnected,
}

#[derive(Clone, Debug)]
pub struct Point {
    pub bus: Arc<str>,
    pub device: Arc<str>,
    pub point: Arc<str>,
    pub topic: Arc<str>,
    pub unit: Option<Arc<str>>,
    /// As published; null before the first reading and with a fault.
    pub value: serde_json::Value,
    pub fault: Option<Fault>,
    /// Of the newest reading.
    pub at: Option<UnixMs>,
}

pub(crate) fn link(state: LinkState) -> &'static str {
    match state {
        LinkState::Up => "up",
        LinkState::Connecting => "connecting",
        LinkState::Down => "down",
    }
}

pub(crate) fn device(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Unknown => "unknown",
        DeviceState::Online => "online",
        DeviceState::Offline => "offline",
    }
}

pub(crate) fn uplink(state: UplinkState) -> &'static str {
    match state {
        UplinkState::Connected => "connected",
        UplinkState::Connecting => "connecting",
        UplinkState::Disconnected => "disconnected",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::driver::{BusCounters, DeviceStatus};
    use crate::store::{DestId, QueueStatus};

    pub(crate) const NOON: UnixMs = UnixMs(1_769_860_800_123);

    /// One of everything, with names that need escaping.
    pub(crate) fn snapshot() -> Snapshot {
        let meter = DeviceStatus {
            name: "meter-1".into(),
            state: DeviceState::Online,
            since: NOON,
            last_fault: Some(Fault::Timeout),
            polls: 100,
            errors: 2,
        };
        let bus = BusStatus {
            state: LinkState::Up,
            since: NOON,
            last_error: None,
            utilisation_percent: Some(42.5),
            lateness: Duration::from_millis(3),
            cycle: Duration::from_millis(120),
            counters: BusCounters { requests: 100, answers: 98, timeouts: 2, ..BusCounters::default() },
            can: None,
            devices: vec![meter],
        };
        let queue = QueueStatus {
            dest: DestId(1),
            name: "uplink/cloud".into(),
            messages: 7,
            bytes: 700,
            dropped: 1,
            oldest: Some(NOON),
        };
        Snapshot {
            gateway: "pi-1".into(),
            version: "0.1.0",
            at: NOON,
            uptime: Duration::from_millis(12_500),
            ready: true,
            clock: ClockState::Synced,
            buses: vec![Bus { name: "rs485".into(), status: bus }],
            uplinks: vec![Uplink {
                name: "cloud".into(),
                state: UplinkState::Disconnected,
                since: NOON,
                last_error: Some("refused: \"bad\"\n".into()),
                in_flight: 0,
                delivered: 5,
                refused: 0,
                last_refusal: None,
                deferred: 0,
                expired: 0,
                rows: 7,
                bytes: 700,
                dropped: 1,
                eta: None,
            }],
            store: Some(StoreStatus {
                writable: true,
                last_error: None,
                file_bytes: 4096,
                waiting: 0,
                dropped: 0,
                queues: vec![queue],
            }),
            work: Work { samples: 9, ..Work::default() },
            broker: vec![("clients/connected".into(), 3)],
            points: vec![Point {
                bus: "rs485".into(),
                device: "meter-1".into(),
                point: "volt\"age\\".into(),
                topic: "plant/<b>/voltage".into(),
                unit: Some("V".into()),
                value: serde_json::json!(230.1),
                fault: None,
                at: Some(UnixMs(NOON.0 - 1500)),
            }],
        }
    }
}
