//! The retained topics under `fieldgate/{gateway}/`: what changed, and not too often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use crate::clock::Now;
use crate::message::{Message, Qos};
use crate::status::snapshot::Snapshot;
use crate::status::state;

/// A change of state is told this soon after the last message on its topic.
const EVERY: Duration = Duration::from_secs(1);

/// Counters alone, which change all the time, wait so long.
const COUNTERS_EVERY: Duration = Duration::from_secs(10);

/// What makes a state: the rest are counters and measurements.
const STATE_KEYS: [&str; 5] = ["state", "since", "last_error", "last_fault", "last_refusal"];

#[derive(Debug)]
struct Told {
    payload: Value,
    at: Instant,
}

/// Remembers what was told last on each topic.
#[derive(Debug)]
pub struct StatusTopics {
    prefix: String,
    told: BTreeMap<String, Told>,
}

impl StatusTopics {
    pub fn new(gateway: &str) -> Self {
        Self { prefix: format!("fieldgate/{gateway}"), told: BTreeMap::new() }
    }

    /// `fieldgate/{gateway}/status`: `online` once started, `offline` before a clean end.
    pub fn presence(&self, online: bool) -> Message {
        let payload: &'static [u8] = if online { b"online" } else { b"offline" };
        retained(&format!("{}/status", self.prefix), Bytes::from_static(payload))
    }

    /// Call about once a second. A topic whose bus, device or uplink is gone is cleared.
    pub fn update(&mut self, now: Now, snapshot: &Snapshot, out: &mut Vec<Message>) {
        let mut current = BTreeMap::new();
        for bus in &snapshot.buses {
            current.insert(format!("{}/bus/{}", self.prefix, bus.name), state::bus(&bus.status));
            for device in &bus.status.devices {
                current.insert(format!("{}/device/{}", self.prefix, device.name), state::device(device));
            }
        }
        for uplink in &snapshot.uplinks {
            current.insert(format!("{}/uplink/{}", self.prefix, uplink.name), state::uplink(uplink));
        }
        if let Some(store) = &snapshot.store {
            current.insert(format!("{}/store", self.prefix), state::store(store));
        }
        self.told.retain(|topic, _| {
            let stays = current.contains_key(topic);
            if !stays {
                out.push(retained(topic, Bytes::new()));
            }
            stays
        });
        for (topic, payload) in current {
            if let Some(told) = self.told.get(&topic) {
                let pause = if is_same_state(&told.payload, &payload) { COUNTERS_EVERY } else { EVERY };
                if told.payload == payload || now.mono < told.at + pause {
                    continue;
                }
            }
            out.push(retained(&topic, payload.to_string().into()));
            self.told.insert(topic, Told { payload, at: now.mono });
        }
    }
}

fn is_same_state(one: &Value, other: &Value) -> bool {
    STATE_KEYS.iter().all(|key| one.get(key) == other.get(key))
}

fn retained(topic: &str, payload: Bytes) -> Message {
    Message::new(Arc::<str>::from(topic), payload, Qos::AtLeastOnce, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{DeviceState, LinkState};
    use crate::status::snapshot::tests::{NOON, snapshot};

    #[allow(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
    fn now() -> Now {
        Now { mono: Instant::now(), wall: NOON }
    }

    fn update(topics: &mut StatusTopics, now: Now, snapshot: &Snapshot) -> Vec<(String, String)> {
        let mut out = Vec::new();
        topics.update(now, snapshot, &mut out);
        assert!(out.iter().all(|message| message.retain));
        let text = |message: &Message| String::from_utf8(message.payload.to_vec()).unwrap();
        out.iter().map(|message| (message.topic.to_string(), text(message))).collect()
    }

    #[test]
    fn each_part_has_its_retained_topic() {
        let mut topics = StatusTopics::new("pi-1");
        let told = update(&mut topics, now(), &snapshot());
        let names: Vec<&str> = told.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(
            names,
            [
                "fieldgate/pi-1/bus/rs485",
                "fieldgate/pi-1/device/meter-1",
                "fieldgate/pi-1/store",
                "fieldgate/pi-1/uplink/cloud"
            ]
        );
        assert!(told[1].1.contains(r#""state":"online""#));
        assert_eq!(topics.presence(true).topic.as_ref(), "fieldgate/pi-1/status");
        assert_eq!(topics.presence(false).payload.as_ref(), b"offline");
    }

    #[test]
    fn what_did_not_change_is_not_told_and_a_state_sooner_than_counters() {
        let (mut topics, start, mut snapshot) = (StatusTopics::new("pi-1"), now(), snapshot());
        update(&mut topics, start, &snapshot);
        assert!(update(&mut topics, start.after(COUNTERS_EVERY), &snapshot).is_empty());
        snapshot.buses[0].status.counters.requests += 1;
        assert!(update(&mut topics, start.after(EVERY), &snapshot).is_empty());
        snapshot.buses[0].status.devices[0].state = DeviceState::Offline;
        assert!(update(&mut topics, start, &snapshot).is_empty(), "at most once a second");
        assert_eq!(update(&mut topics, start.after(EVERY), &snapshot).len(), 1);
        assert_eq!(update(&mut topics, start.after(COUNTERS_EVERY), &snapshot).len(), 1);
        snapshot.buses[0].status.state = LinkState::Down;
        snapshot.uplinks.clear();
        let told = update(&mut topics, start.after(2 * COUNTERS_EVERY), &snapshot);
        assert_eq!(told[0], ("fieldgate/pi-1/uplink/cloud".to_owned(), String::new()), "what is gone is cleared");
        assert_eq!(told.len(), 2);
    }
}
