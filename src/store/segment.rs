//! Messages on their way into one row: who receives which of them, and when the row is full.

use std::collections::BTreeMap;

use super::seqset::SeqSet;
use super::{DestId, Seq, Stored};
use crate::clock::UnixMs;

/// A segment holds at most this; a single larger message gets one of its own. Larger ones save no bytes, and a
/// reader would hold more memory.
pub(super) const BYTES_MAX: u64 = 256 * 1024;
pub(super) const MESSAGES_MAX: usize = 1000;

/// One destination's share of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) left: SeqSet,
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Segment {
    messages: Vec<Stored>,
    shares: BTreeMap<DestId, Share>,
    bytes: u64,
}

impl Segment {
    /// Whether a message of `cost` bytes begins another segment.
    pub(super) fn is_full_for(&self, cost: u64) -> bool {
        !self.messages.is_empty() && (self.messages.len() >= MESSAGES_MAX || self.bytes + cost > BYTES_MAX)
    }

    pub(super) fn push(&mut self, stored: Stored, to: &[DestId]) {
        let cost = stored.message.cost() as u64;
        for dest in to {
            let share = self.shares.entry(*dest).or_default();
            if !share.left.contains(stored.seq) {
                share.left.insert(stored.seq);
                share.bytes += cost;
            }
        }
        self.bytes += cost;
        self.messages.push(stored);
    }

    pub(super) fn bytes_for(&self, dest: DestId) -> u64 {
        self.shares.get(&dest).map_or(0, |share| share.bytes)
    }

    pub(super) fn shares(&self) -> impl Iterator<Item = (DestId, &Share)> {
        self.shares.iter().map(|(dest, share)| (*dest, share))
    }

    pub(super) fn messages(&self) -> &[Stored] {
        &self.messages
    }

    pub(super) fn into_messages(self) -> Vec<Stored> {
        self.messages
    }

    pub(super) fn first(&self) -> Option<Seq> {
        self.messages.first().map(|stored| stored.seq)
    }

    /// The time of its newest message, by which its age is told.
    pub(super) fn at(&self) -> UnixMs {
        self.messages.iter().map(|stored| stored.at).max().unwrap_or_default()
    }
}
