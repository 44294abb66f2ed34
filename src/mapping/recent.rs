//! The command ids that a point has acted on lately, with their results: the same id never acts twice (P4).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Ids remembered for each point; the oldest goes first.
const IDS_MAX: usize = 64;

/// How long an id is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// In the order in which they came.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: String,
    at: Instant,
    /// `None` until the command has its result.
    result: Option<Bytes>,
}

impl Recent {
    /// `None`: not seen. `Some(None)`: seen, and its result is still to come.
    pub(crate) fn find(&mut self, now: Instant, id: &str) -> Option<Option<&Bytes>> {
        while self.entries.front().is_some_and(|entry| now.saturating_duration_since(entry.at) >= REMEMBERED) {
            self.entries.pop_front();
        }
        self.entries.iter().find(|entry| entry.id == id).map(|entry| entry.result.as_ref())
    }

    pub(crate) fn remember(&mut self, now: Instant, id: &str) {
        if self.entries.len() == IDS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { id: id.to_owned(), at: now, result: None });
    }

    pub(crate) fn settle(&mut self, id: &str, result: &Bytes) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.result = Some(result.clone());
        }
    }
}
