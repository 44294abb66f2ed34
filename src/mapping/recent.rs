//! The commands that a point has acted on lately, with their results: the same one never acts twice (P4).

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::message::Delivery;

/// Commands remembered for each point and kind of name; the oldest goes first.
const NAMES_MAX: usize = 64;

/// How long a command is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// `Name` is what tells one command from another: the id in its payload, or its delivery.
#[derive(Debug)]
pub(crate) struct Recent<Name> {
    /// In the order in which they came.
    entries: VecDeque<Entry<Name>>,
}

/// A delivery and every redelivery of it: MQTT keeps client, packet identifier and payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryName {
    client: Arc<str>,
    packet_id: u16,
    payload_hash: u64,
}

impl DeliveryName {
    pub(crate) fn new(delivery: &Delivery, payload: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        payload.hash(&mut hasher);
        Self { client: delivery.client.clone(), packet_id: delivery.packet_id, payload_hash: hasher.finish() }
    }
}

#[derive(Debug)]
struct Entry<Name> {
    name: Name,
    at: Instant,
    /// `None` until the command has its result.
    result: Option<Bytes>,
}

impl<Name> Default for Recent<Name> {
    fn default() -> Self {
        Self { entries: VecDeque::new() }
    }
}

impl<Name: PartialEq> Recent<Name> {
    /// `None`: not seen. `Some(None)`: seen, and its result is still to come.
    pub(crate) fn find(&mut self, now: Instant, name: &Name) -> Option<Option<&Bytes>> {
        while self.entries.front().is_some_and(|entry| now.saturating_duration_since(entry.at) >= REMEMBERED) {
            self.entries.pop_front();
        }
        self.entries.iter().rev().find(|entry| entry.name == *name).map(|entry| entry.result.as_ref())
    }

    pub(crate) fn remember(&mut self, now: Instant, name: Name) {
        if self.entries.len() == NAMES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { name, at: now, result: None });
    }

    pub(crate) fn settle(&mut self, name: &Name, result: &Bytes) {
        if let Some(entry) = self.entries.iter_mut().rev().find(|entry| entry.name == *name) {
            entry.result = Some(result.clone());
        }
    }
}
