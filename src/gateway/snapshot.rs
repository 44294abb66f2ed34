//! What the core knows, as the status page and the status topics take it.

use std::sync::Arc;
use std::time::Duration;

use super::core::{BusSide, Core, UplinkSide};
use crate::clock::{Now, UnixMs};
use crate::config::plan::DriverSpec;
use crate::driver::{BusCounters, BusStatus, CanStatus, DeviceState, DeviceStatus, LinkState};
use crate::mapping::publish::to_json;
use crate::status::snapshot::{Bus, Point, Snapshot, Uplink, UplinkState};
use crate::store::QueueStatus;
use crate::uplink::status::UplinkState as LinkUp;

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Buses, uplinks, store, broker.
    Parts,
    /// Those, and every point's newest reading.
    Points,
}

/// What the core itself does not know.
#[derive(Clone, Debug)]
pub struct About {
    pub gateway: Arc<str>,
    pub started: Now,
    pub ready: bool,
}

pub fn take(core: &Core, about: &About, now: Now, detail: Detail) -> Snapshot {
    Snapshot {
        gateway: about.gateway.clone(),
        version: env!("CARGO_PKG_VERSION"),
        at: now.wall,
        uptime: now.mono.saturating_duration_since(about.started.mono),
        ready: about.ready,
        clock: core.clock,
        buses: core.buses.values().map(|side| bus(side, about)).collect(),
        uplinks: core.uplinks.values().map(|side| uplink(side, core, about)).collect(),
        store: core.store.clone(),
        work: core.work,
        broker: core.broker.as_ref().map(|broker| figures(broker.counters())).unwrap_or_default(),
        points: match detail {
            Detail::Parts => Vec::new(),
            Detail::Points => core.buses.values().flat_map(points).collect(),
        },
    }
}

fn bus(side: &BusSide, about: &About) -> Bus {
    let status = side.status.clone().unwrap_or_else(|| not_yet(side, about.started.wall));
    Bus { name: side.plan.name().clone(), status }
}

/// Before a bus has said anything of itself.
fn not_yet(side: &BusSide, since: UnixMs) -> BusStatus {
    let devices = match &side.plan.driver {
        DriverSpec::Modbus(spec) => spec.devices.as_slice(),
        DriverSpec::Can(_) => &[],
    };
    let device = |name: &Arc<str>| DeviceStatus {
        name: name.clone(),
        state: DeviceState::Unknown,
        since,
        last_fault: None,
        polls: 0,
        errors: 0,
    };
    BusStatus {
        state: LinkState::Connecting,
        since,
        last_error: None,
        utilisation_percent: None,
        lateness: Duration::ZERO,
        cycle: Duration::ZERO,
        counters: BusCounters::default(),
        can: matches!(side.plan.driver, DriverSpec::Can(_)).then(CanStatus::default),
        devices: devices.iter().map(|spec| device(&spec.name)).collect(),
    }
}

fn uplink(side: &UplinkSide, core: &Core, about: &About) -> Uplink {
    let queue = core.store.as_ref().and_then(|store| store.queues.iter().find(|queue| queue.dest == side.dest));
    let count = |of: fn(&QueueStatus) -> u64| queue.map_or(0, of);
    let status = side.status.as_ref();
    Uplink {
        name: side.name.clone(),
        state: match status.map(|status| status.state) {
            Some(LinkUp::Connected) => UplinkState::Connected,
            None | Some(LinkUp::Connecting) => UplinkState::Connecting,
            Some(LinkUp::BackingOff | LinkUp::Refused | LinkUp::Stopped) => UplinkState::Disconnected,
        },
        since: status.map_or(about.started.wall, |status| status.since),
        last_error: status.and_then(|status| status.last_error.clone()),
        in_flight: status.map_or(0, |status| status.in_flight as u64),
        delivered: status.map_or(0, |status| status.delivered),
        refused: status.map_or(0, |status| status.refused),
        last_refusal: status.and_then(|status| status.last_refusal.clone()).map(|last| (last.topic, last.reason)),
        deferred: status.map_or(0, |status| status.deferred),
        expired: status.map_or(0, |status| status.expired),
        rows: count(|queue| queue.messages),
        bytes: count(|queue| queue.bytes),
        dropped: count(|queue| queue.dropped),
        eta: status.and_then(|status| status.eta_secs).map(Duration::from_secs),
    }
}

fn points(side: &BusSide) -> Vec<Point> {
    let bus = side.plan.name();
    (0u32..)
        .zip(&side.plan.rules)
        .map(|(index, rule)| {
            let newest = side.publisher.newest(index);
            let reading = newest.map(|newest| &newest.reading);
            Point {
                bus: bus.clone(),
                device: rule.device.clone(),
                point: rule.point.clone(),
                topic: rule.topic.clone(),
                unit: rule.unit.clone(),
                value: match reading {
                    Some(Ok(reading)) => serde_json::from_str(&to_json(reading)).unwrap_or_default(),
                    None | Some(Err(_)) => serde_json::Value::Null,
                },
                fault: reading.and_then(|reading| reading.as_ref().err().copied()),
                at: newest.map(|newest| newest.at),
            }
        })
        .collect()
}

fn figures(counters: crate::broker::Counters) -> Vec<(Arc<str>, u64)> {
    [
        ("connections/accepted", counters.connections_accepted),
        ("connections/refused", counters.connections_refused),
        ("connections/now", counters.connections_now),
        ("sessions/now", counters.sessions_now),
        ("subscriptions/count", counters.subscriptions_now),
        ("retained messages/count", counters.retained_now),
        ("retained messages/bytes", counters.retained_bytes),
        ("retained messages/refused", counters.retained_refused),
        ("messages/received", counters.messages_received),
        ("messages/sent", counters.messages_sent),
        ("bytes/received", counters.bytes_received),
        ("bytes/sent", counters.bytes_sent),
        ("dropped/qos0", counters.dropped_qos0),
        ("dropped/expired", counters.dropped_expired),
        ("dropped/too large", counters.dropped_too_large),
        ("denied/publish", counters.publish_denied),
        ("denied/subscribe", counters.subscribe_denied),
        ("disconnects/slow", counters.slow_disconnects),
        ("holds", counters.holds),
        ("errors/protocol", counters.protocol_errors),
        ("passwords/wrong", counters.passwords_wrong),
    ]
    .map(|(name, value)| (name.into(), value))
    .into()
}
