//! Prometheus text format 0.0.4: `/metrics`.

use std::fmt::Write as _;

use crate::clocksync::ClockState;
use crate::driver::{DeviceState, LinkState};
use crate::status::snapshot::{Snapshot, UplinkState};

/// What the answer's `Content-Type` says.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Families in the order in which they were begun; the samples of one stand together, as the format wants.
struct Text(String);

impl Text {
    fn family<'a, L: AsRef<[(&'a str, &'a str)]>>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.sample(name, labels.as_ref(), value);
        }
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            self.0.push(if place == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[allow(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
fn float(count: u64) -> f64 {
    count as f64
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// All of it.
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = Text(String::with_capacity(4096));
    let info = [("gateway", &*snapshot.gateway), ("version", snapshot.version)];
    text.family("fieldgate_info", "gauge", "Always 1; what runs.", [(info.as_slice(), 1.0)]);
    for (name, help, value) in [
        ("fieldgate_uptime_seconds", "Since the start.", snapshot.uptime.as_secs_f64()),
        ("fieldgate_ready", "1 when everything configured has been started.", flag(snapshot.ready)),
        (
            "fieldgate_clock_synced",
            "1 when the system clock is known to be set.",
            flag(snapshot.clock == ClockState::Synced),
        ),
    ] {
        text.family(name, "gauge", help, [(&[][..], value)]);
    }
    buses(&mut text, snapshot);
    devices(&mut text, snapshot);
    uplinks(&mut text, snapshot);
    store(&mut text, snapshot);
    let work = snapshot.work;
    for (name, help, number) in [
        ("samples", "Readings and faults that the buses brought.", work.samples),
        ("messages", "Messages that were routed, from anywhere.", work.messages),
        ("commands", "Messages on set topics.", work.commands),
        ("unstored", "Messages that the disk was too far behind to store.", work.unstored),
    ] {
        text.family(&format!("fieldgate_{name}_total"), "counter", help, [(&[][..], float(number))]);
    }
    for (name, number) in &snapshot.broker {
        let name: String =
            name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
        let help = "As under $SYS/broker/.";
        text.family(&format!("fieldgate_broker_{name}"), "untyped", help, [(&[][..], float(*number))]);
    }
    points(&mut text, snapshot);
    text.0
}

fn buses(text: &mut Text, snapshot: &Snapshot) {
    let buses = &snapshot.buses;
    let name = |place: usize| [("bus", buses.get(place).map_or("", |bus| &*bus.name))];
    let mut family =
        |metric: &str, kind: &str, help: &str, value: &dyn Fn(&crate::driver::BusStatus) -> Option<f64>| {
            let samples = buses.iter().enumerate().filter_map(|(place, bus)| Some((name(place), value(&bus.status)?)));
            text.family(&format!("fieldgate_bus_{metric}"), kind, help, samples);
        };
    family("up", "gauge", "1 when the line or connection is there.", &|s| Some(flag(s.state == LinkState::Up)));
    family("utilisation_percent", "gauge", "Share of the line's time in use.", &|s| {
        s.utilisation_percent.map(f64::from)
    });
    family("lateness_seconds", "gauge", "The latest poll of the last second.", &|s| Some(s.lateness.as_secs_f64()));
    family("cycle_seconds", "gauge", "The longest round over all due points.", &|s| Some(s.cycle.as_secs_f64()));
    family("requests_total", "counter", "Requests sent.", &|s| Some(float(s.counters.requests)));
    family("answers_total", "counter", "Well-formed answers.", &|s| Some(float(s.counters.answers)));
    family("timeouts_total", "counter", "Requests without an answer.", &|s| Some(float(s.counters.timeouts)));
    family("exceptions_total", "counter", "Answers that were exceptions.", &|s| Some(float(s.counters.exceptions)));
    family("discarded_total", "counter", "Answers late, short, foreign or corrupted.", &|s| {
        Some(float(s.counters.discarded))
    });
    family("can_frames_total", "counter", "CAN frames read.", &|s| Some(float(s.can?.frames)));
    family("can_dropped_total", "counter", "CAN frames lost before they were read.", &|s| Some(float(s.can?.dropped)));
    family("can_bus_off_total", "counter", "How often the CAN controller went bus-off.", &|s| {
        Some(float(s.can?.bus_offs))
    });
    family("writes_total", "counter", "Commands written.", &|s| Some(float(s.counters.writes)));
}

fn devices(text: &mut Text, snapshot: &Snapshot) {
    let all = || snapshot.buses.iter().flat_map(|bus| bus.status.devices.iter().map(move |device| (bus, device)));
    let mut family = |metric: &str, kind: &str, help: &str, value: &dyn Fn(&crate::driver::DeviceStatus) -> f64| {
        let samples = all().map(|(bus, device)| ([("bus", &*bus.name), ("device", &*device.name)], value(device)));
        text.family(&format!("fieldgate_device_{metric}"), kind, help, samples);
    };
    family("online", "gauge", "1 when the device answers.", &|d| flag(d.state == DeviceState::Online));
    family("polls_total", "counter", "Requests to the device.", &|d| float(d.polls));
    family("errors_total", "counter", "Requests that failed.", &|d| float(d.errors));
}

fn uplinks(text: &mut Text, snapshot: &Snapshot) {
    let mut family = |metric: &str, kind: &str, help: &str, value: &dyn Fn(&crate::status::snapshot::Uplink) -> f64| {
        let samples = snapshot.uplinks.iter().map(|uplink| ([("uplink", &*uplink.name)], value(uplink)));
        text.family(&format!("fieldgate_uplink_{metric}"), kind, help, samples);
    };
    family("connected", "gauge", "1 when connected.", &|u| flag(u.state == UplinkState::Connected));
    family("in_flight", "gauge", "Published and not acknowledged.", &|u| float(u.in_flight));
    family("queue_rows", "gauge", "Messages that wait on disk.", &|u| float(u.rows));
    family("queue_bytes", "gauge", "Bytes that wait on disk.", &|u| float(u.bytes));
    family("delivered_total", "counter", "Acknowledged upstream.", &|u| float(u.delivered));
    family("refused_total", "counter", "Refused upstream.", &|u| float(u.refused));
    family("deferred_total", "counter", "Times that upstream asked to wait.", &|u| float(u.deferred));
    family("expired_total", "counter", "Expired before they could be sent.", &|u| float(u.expired));
    family("dropped_total", "counter", "Dropped by the queue's bounds.", &|u| float(u.dropped));
}

fn store(text: &mut Text, snapshot: &Snapshot) {
    let Some(store) = &snapshot.store else { return };
    for (metric, kind, help, value) in [
        ("writable", "gauge", "1 when the file takes writes.", flag(store.writable)),
        ("file_bytes", "gauge", "Size of the file.", float(store.file_bytes)),
        ("waiting", "gauge", "Messages in memory because the disk does not take them.", float(store.waiting)),
        ("dropped_total", "counter", "Messages dropped by a bound.", float(store.dropped)),
    ] {
        text.family(&format!("fieldgate_store_{metric}"), kind, help, [(&[][..], value)]);
    }
    let mut family = |metric: &str, kind: &str, help: &str, value: &dyn Fn(&crate::store::QueueStatus) -> f64| {
        let samples = store.queues.iter().map(|queue| ([("queue", &*queue.name)], value(queue)));
        text.family(&format!("fieldgate_queue_{metric}"), kind, help, samples);
    };
    family("rows", "gauge", "Messages that wait for this destination.", &|q| float(q.messages));
    family("bytes", "gauge", "Bytes that wait for this destination.", &|q| float(q.bytes));
    family("dropped_total", "counter", "Dropped by the queue's bounds.", &|q| float(q.dropped));
}

#[allow(clippy::cast_precision_loss, reason = "ages in milliseconds are far below 2^53")]
fn points(text: &mut Text, snapshot: &Snapshot) {
    let mut family = |metric: &str, help: &str, value: &dyn Fn(&crate::status::snapshot::Point) -> Option<f64>| {
        let samples = snapshot.points.iter().filter_map(|point| {
            let labels = [
                ("device", &*point.device),
                ("point", &*point.point),
                ("topic", &*point.topic),
                ("unit", point.unit.as_deref().unwrap_or_default()),
            ];
            Some((labels, value(point)?))
        });
        text.family(&format!("fieldgate_point_{metric}"), "gauge", help, samples);
    };
    family("value", "The newest value, where it is a number or a boolean.", &|point| {
        point.value.as_f64().or_else(|| point.value.as_bool().map(flag))
    });
    family("fault", "1 when the point has a fault.", &|point| Some(flag(point.fault.is_some())));
    family("age_seconds", "Since the newest reading.", &|point| {
        point.at.map(|at| snapshot.at.0.saturating_sub(at.0).max(0) as f64 / 1000.0)
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::status::snapshot::tests::snapshot;

    #[test]
    fn metrics_are_there_with_their_labels_escaped() {
        let text = render(&snapshot());
        for line in [
            r#"fieldgate_info{gateway="pi-1",version="0.1.0"} 1"#,
            "fieldgate_uptime_seconds 12.5",
            r#"fieldgate_bus_utilisation_percent{bus="rs485"} 42.5"#,
            r#"fieldgate_device_online{bus="rs485",device="meter-1"} 1"#,
            r#"fieldgate_uplink_connected{uplink="cloud"} 0"#,
            r#"fieldgate_queue_rows{queue="uplink/cloud"} 7"#,
            "fieldgate_broker_clients_connected 3",
            "fieldgate_samples_total 9",
            r#"fieldgate_point_value{device="meter-1",point="volt\"age\\",topic="plant/<b>/voltage",unit="V"} 230.1"#,
            r#"fieldgate_point_age_seconds{device="meter-1",point="volt\"age\\",topic="plant/<b>/voltage",unit="V"} 1.5"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_family_is_declared_once_before_its_samples() {
        let text = render(&snapshot());
        let mut declared = BTreeSet::new();
        let mut open = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                open = rest.split(' ').next().unwrap().to_owned();
                assert!(declared.insert(open.clone()), "{open} twice");
            } else if !line.starts_with('#') {
                assert_eq!(line.split(['{', ' ']).next().unwrap(), open);
            }
        }
        assert!(text.ends_with('\n'));
    }
}
