//! The snapshot as JSON: `/api/state`, and the parts of it that stand on retained topics.

use serde_json::{Value, json};

use crate::clock::UnixMs;
use crate::clocksync::ClockState;
use crate::driver::{BusStatus, ControllerState, DeviceStatus};
use crate::status::snapshot::{self, Point, Snapshot, Uplink};
use crate::store::StoreStatus;
use crate::timestamp;

/// All of it.
pub fn all(snapshot: &Snapshot) -> Value {
    let named = |name: &str, mut value: Value| {
        value["name"] = json!(name);
        value
    };
    let buses = snapshot.buses.iter().map(|bus| {
        let mut value = named(&bus.name, self::bus(&bus.status));
        let devices = bus.status.devices.iter().map(|device| named(&device.name, self::device(device)));
        value["devices"] = devices.collect();
        value
    });
    json!({
        "gateway": &*snapshot.gateway,
        "version": snapshot.version,
        "time": time(snapshot.at),
        "uptime_secs": snapshot.uptime.as_secs(),
        "ready": snapshot.ready,
        "clock": match snapshot.clock { ClockState::Synced => "synced", ClockState::Unsynced => "unsynced" },
        "buses": buses.collect::<Value>(),
        "uplinks": snapshot.uplinks.iter().map(|uplink| named(&uplink.name, self::uplink(uplink))).collect::<Value>(),
        "store": snapshot.store.as_ref().map(store),
        "work": {
            "samples": snapshot.work.samples,
            "messages": snapshot.work.messages,
            "commands": snapshot.work.commands,
            "unstored": snapshot.work.unstored,
        },
        "broker": snapshot.broker.iter().map(|(name, number)| (name.to_string(), json!(number))).collect::<Value>(),
        "points": snapshot.points.iter().map(|point| self::point(snapshot.at, point)).collect::<Value>(),
    })
}

pub(crate) fn bus(status: &BusStatus) -> Value {
    let mut value = json!({
        "state": snapshot::link(status.state),
        "since": time(status.since),
        "last_error": status.last_error,
        "utilisation_percent": status.utilisation_percent.map(|percent| (f64::from(percent) * 10.0).round() / 10.0),
        "lateness_ms": millis(status.lateness),
        "cycle_ms": millis(status.cycle),
        "requests": status.counters.requests,
        "answers": status.counters.answers,
        "timeouts": status.counters.timeouts,
        "exceptions": status.counters.exceptions,
        "discarded": status.counters.discarded,
        "writes": status.counters.writes,
    });
    if let Some(can) = status.can {
        value["controller"] = json!(controller(can.controller));
        value["bus_off"] = json!(can.controller == ControllerState::BusOff);
        value["bus_offs"] = json!(can.bus_offs);
        value["frames"] = json!(can.frames);
        value["dropped"] = json!(can.dropped);
    }
    value
}

fn controller(state: ControllerState) -> &'static str {
    match state {
        ControllerState::Active => "active",
        ControllerState::Warning => "error_warning",
        ControllerState::Passive => "error_passive",
        ControllerState::BusOff => "bus_off",
    }
}

pub(crate) fn device(status: &DeviceStatus) -> Value {
    json!({
        "state": snapshot::device(status.state),
        "since": time(status.since),
        "last_fault": status.last_fault.map(|fault| fault.to_string()),
        "polls": status.polls,
        "errors": status.errors,
    })
}

pub(crate) fn uplink(uplink: &Uplink) -> Value {
    json!({
        "state": snapshot::uplink(uplink.state),
        "since": time(uplink.since),
        "last_error": uplink.last_error.as_deref(),
        "in_flight": uplink.in_flight,
        "delivered": uplink.delivered,
        "refused": uplink.refused,
        "last_refusal": uplink.last_refusal.as_ref().map(|(topic, reason)| json!({ "topic": &**topic, "reason": &**reason })),
        "deferred": uplink.deferred,
        "expired": uplink.expired,
        "rows": uplink.rows,
        "bytes": uplink.bytes,
        "dropped": uplink.dropped,
        "eta_secs": uplink.eta.map(|eta| eta.as_secs()),
    })
}

pub(crate) fn store(status: &StoreStatus) -> Value {
    let queues = status.queues.iter().map(|queue| {
        json!({
            "name": &*queue.name,
            "rows": queue.messages,
            "bytes": queue.bytes,
            "dropped": queue.dropped,
            "oldest": queue.oldest.map(time),
        })
    });
    json!({
        "state": if status.writable { "writable" } else { "not_writable" },
        "last_error": status.last_error.as_deref(),
        "file_bytes": status.file_bytes,
        "waiting": status.waiting,
        "dropped": status.dropped,
        "queues": queues.collect::<Value>(),
    })
}

fn point(now: UnixMs, point: &Point) -> Value {
    json!({
        "bus": &*point.bus,
        "device": &*point.device,
        "point": &*point.point,
        "topic": &*point.topic,
        "unit": point.unit.as_deref(),
        "value": point.value,
        "fault": point.fault.map(|fault| fault.to_string()),
        "time": point.at.map(time),
        "age_ms": point.at.map(|at| now.0.saturating_sub(at.0).max(0)),
    })
}

fn time(at: UnixMs) -> String {
    timestamp::format(at)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::status::snapshot::tests::snapshot;

    #[test]
    fn everything_is_in_the_state() {
        let state = super::all(&snapshot());
        assert_eq!(state["buses"][0]["name"], "rs485");
        assert_eq!(state["buses"][0]["utilisation_percent"], 42.5);
        assert_eq!(state["buses"][0]["devices"][0]["last_fault"], "timeout");
        assert_eq!(state["uplinks"][0]["rows"], 7);
        assert_eq!(state["store"]["queues"][0]["oldest"], "2026-01-31T12:00:00.123Z");
        assert_eq!(state["broker"]["clients/connected"], 3);
        assert_eq!(state["points"][0]["value"], 230.1);
        assert_eq!(state["points"][0]["age_ms"], 1500);
    }
}
