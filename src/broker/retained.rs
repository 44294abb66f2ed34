//! Retained messages: the last of each topic that a publisher asked to keep (MQTT 5, 3.3.1.3).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::UnixMs;
use crate::hub::topics::filter_matches;
use crate::message::Message;

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    /// It has a row in the store.
    stored: bool,
}

/// What the store must be told about a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    Put,
    Delete,
    /// A bound is reached: the message was not kept.
    Full,
}

#[derive(Debug)]
pub(crate) struct Retained {
    topics: BTreeMap<Arc<str>, Kept>,
    bytes: u64,
    max_messages: usize,
    max_bytes: u64,
}

impl Retained {
    pub(crate) fn new(max_messages: usize, max_bytes: u64) -> Self {
        Self { topics: BTreeMap::new(), bytes: 0, max_messages, max_bytes }
    }

    pub(crate) fn set_bounds(&mut self, max_messages: usize, max_bytes: u64) {
        (self.max_messages, self.max_bytes) = (max_messages, max_bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps a message whose retain flag is set, or, when its payload is empty, forgets the topic's. `store`: it must outlive a restart.
    pub(crate) fn set(&mut self, message: &Arc<Message>, store: bool) -> Change {
        let before = self.remove(&message.topic);
        let was_stored = before.as_ref().is_some_and(|kept| kept.stored);
        let gone = if was_stored { Change::Delete } else { Change::Nothing };
        if message.payload.is_empty() {
            return gone;
        }
        let cost = message.cost() as u64;
        if self.topics.len() >= self.max_messages || self.bytes.saturating_add(cost) > self.max_bytes {
            // The older value stays rather than none.
            if let Some(kept) = before {
                self.bytes += kept.message.cost() as u64;
                self.topics.insert(kept.message.topic.clone(), kept);
            }
            return Change::Full;
        }
        self.bytes += cost;
        self.topics.insert(message.topic.clone(), Kept { message: message.clone(), stored: store });
        if store { Change::Put } else { gone }
    }

    /// The topic's message, unless it has expired.
    pub(crate) fn get(&self, topic: &str, wall: UnixMs) -> Option<&Arc<Message>> {
        self.topics.get(topic).map(|kept| &kept.message).filter(|message| message.expires.is_none_or(|at| at > wall))
    }

    /// Topics that hold a message and match, in order.
    pub(crate) fn matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let wild = filter.find(['+', '#']);
        // `a/#` matches `a` too, which sorts before `a/`.
        let prefix = wild.map_or(filter, |at| &filter[..at]);
        let prefix = if wild.is_some() { prefix.strip_suffix('/').unwrap_or(prefix) } else { prefix };
        self.topics
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(topic, _)| topic)
            .take_while(move |topic| topic.starts_with(prefix))
            .filter(move |topic| filter_matches(filter, topic))
    }

    fn remove(&mut self, topic: &str) -> Option<Kept> {
        let kept = self.topics.remove(topic)?;
        self.bytes -= kept.message.cost() as u64;
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Qos;

    fn message(topic: &str, payload: &'static str) -> Arc<Message> {
        Arc::new(Message::new(topic, payload, Qos::AtMostOnce, true))
    }

    #[test]
    fn an_empty_payload_forgets_and_a_stored_row_goes_with_it() {
        let mut retained = Retained::new(10, 1000);
        assert_eq!(retained.set(&message("a/b", "1"), true), Change::Put);
        assert_eq!(retained.set(&message("a/b", "2"), false), Change::Delete, "the gateway's own replaces a client's");
        assert_eq!(retained.set(&message("a/b", "3"), true), Change::Put);
        assert_eq!(retained.set(&message("a/b", ""), true), Change::Delete);
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
    }

    #[test]
    fn a_filter_finds_its_topics_and_only_those() {
        let mut retained = Retained::new(10, 1000);
        for topic in ["a", "a/b", "a/b/c", "ab", "b/b", "$SYS/x"] {
            retained.set(&message(topic, "1"), false);
        }
        let found =
            |filter: &str| retained.matching(filter).map(|topic| topic.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(found("a/#"), "a a/b a/b/c");
        assert_eq!(found("+/b"), "a/b b/b");
        assert_eq!(found("#"), "a a/b a/b/c ab b/b");
        assert_eq!(found("a"), "a");
        assert_eq!(found("$SYS/#"), "$SYS/x");
    }

    #[test]
    fn at_the_bound_a_new_topic_is_not_kept_and_an_old_one_stays() {
        let mut retained = Retained::new(1, 6);
        assert_eq!(retained.set(&message("a", "1"), false), Change::Nothing);
        assert_eq!(retained.set(&message("b", "1"), false), Change::Full);
        assert_eq!(retained.set(&message("a", "1234567"), false), Change::Full);
        assert_eq!(retained.get("a", UnixMs(0)).unwrap().payload, "1");
        assert_eq!(retained.set(&message("a", "2"), false), Change::Nothing);
    }
}
