//! What is not on the disk yet: ops between their arrival and their commit. While the disk does not take them it
//! is the bounded memory in which samples, deliveries and keyed values wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::seqset::SeqSet;
use super::{Batch, DestId, Durability, Op, Seq, Space, Stored};

/// Bytes that wait in memory at most while the disk takes nothing.
pub(super) const WAITING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What an op costs beside its content.
const OVERHEAD: u64 = 96;
/// Acknowledged places that could not be removed yet, in ranges; above it a destination reads nothing more.
pub(super) const DELIVERED_RANGES_MAX: usize = 65_536;

/// Messages and bytes, by destination.
pub(super) type Tally = BTreeMap<DestId, (u64, u64)>;

pub(super) fn count(tally: &mut Tally, dest: DestId, messages: u64, bytes: u64) {
    let sum = tally.entry(dest).or_default();
    sum.0 += messages;
    sum.1 += bytes;
}

#[derive(Debug, Default)]
pub(super) struct Work {
    /// Only `OpenDestination`, `CloseDestination` and `Append`, in their order.
    ops: VecDeque<Op>,
    /// The last word on each key.
    kept: HashMap<(Space, Bytes), Option<Bytes>>,
    delivered: BTreeMap<DestId, SeqSet>,
    tickets: Vec<u64>,
    bytes: u64,
}

impl Work {
    /// Takes a batch; `highest` is the highest number taken so far. A batch whose numbers do not rise is a
    /// mistake of its sender: it is given back untouched.
    pub(super) fn take(&mut self, batch: Batch, highest: &mut Seq) -> Result<(), Batch> {
        let mut last = *highest;
        for op in &batch.ops {
            if let Op::Append { seq, .. } = op {
                if *seq <= last || i64::try_from(*seq).is_err() {
                    return Err(batch);
                }
                last = *seq;
            }
        }
        *highest = last;
        self.tickets.push(batch.ticket);
        for op in batch.ops {
            match op {
                Op::Delivered { dest, seq } => self.deliver(dest, &[seq]),
                Op::Put { space, key, value } => self.keep(space, key, Some(value)),
                Op::Delete { space, key } => self.keep(space, key, None),
                Op::OpenDestination { .. } | Op::CloseDestination { .. } | Op::Append { .. } => {
                    self.bytes += cost(&op);
                    self.ops.push_back(op);
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        self.bytes += kept_cost(&key, value.as_ref());
        let key_bytes = key.len();
        if let Some(before) = self.kept.insert((space, key), value) {
            self.bytes -= OVERHEAD + (key_bytes + before.map_or(0, |value| value.len())) as u64;
        }
    }

    pub(super) fn deliver(&mut self, dest: DestId, seqs: &[Seq]) {
        let set = self.delivered.entry(dest).or_default();
        seqs.iter().for_each(|seq| set.insert(*seq));
    }

    pub(super) fn is_delivered(&self, dest: DestId, seq: Seq) -> bool {
        self.delivered.get(&dest).is_some_and(|set| set.contains(seq))
    }

    /// Whether so many deliveries wait that the destination may read no more before they are on the disk.
    pub(super) fn is_choked(&self, dest: DestId) -> bool {
        self.delivered.get(&dest).is_some_and(|set| set.ranges().len() >= DELIVERED_RANGES_MAX)
    }

    pub(super) fn delivered_count(&self) -> u64 {
        self.delivered.values().map(SeqSet::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.kept.is_empty() && self.delivered.is_empty() && self.tickets.is_empty()
    }

    pub(super) fn has_batches(&self) -> bool {
        !self.tickets.is_empty()
    }

    pub(super) fn ops(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter()
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = (Space, &Bytes, Option<&Bytes>)> {
        self.kept.iter().map(|((space, key), value)| (*space, key, value.as_ref()))
    }

    pub(super) fn delivered(&self) -> impl Iterator<Item = (DestId, &SeqSet)> {
        self.delivered.iter().map(|(dest, set)| (*dest, set))
    }

    /// Everything is on the disk: gives the tickets of the batches and is empty.
    pub(super) fn done(&mut self) -> Vec<u64> {
        std::mem::take(self).tickets
    }

    /// Nothing is on the disk. Acknowledged appends go, the rest waits within its bound; gives the tickets to
    /// refuse, and counts in `dropped` what the bound cost.
    pub(super) fn refused(&mut self, dropped: &mut Tally) -> Vec<u64> {
        self.ops.retain(|op| !matches!(op, Op::Append { durability: Durability::Acknowledged, .. }));
        self.bytes = self.ops.iter().map(cost).sum::<u64>()
            + self.kept.iter().map(|((_, key), value)| kept_cost(key, value.as_ref())).sum::<u64>();
        let mut behind = VecDeque::new();
        while self.bytes > WAITING_BYTES_MAX {
            let Some(op) = self.ops.pop_front() else { break };
            if let Op::Append { seq, message, to, .. } = &op {
                self.bytes -= cost(&op);
                for dest in to.iter().filter(|dest| !self.is_delivered(**dest, *seq)) {
                    count(dropped, *dest, 1, message.cost() as u64);
                }
            } else {
                behind.push_back(op);
            }
        }
        behind.append(&mut self.ops);
        self.ops = behind;
        std::mem::take(&mut self.tickets)
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.ops.iter().filter(|op| matches!(op, Op::Append { .. })).count() as u64
    }

    /// The newest message that waits, by destination.
    pub(super) fn newest(&self) -> BTreeMap<DestId, Seq> {
        let mut newest = BTreeMap::new();
        for op in &self.ops {
            if let Op::Append { seq, to, .. } = op {
                newest.extend(to.iter().map(|dest| (*dest, *seq)));
            }
        }
        newest
    }

    /// The messages that wait for one destination, oldest first.
    pub(super) fn stored_for(&self, dest: DestId, boot: &Arc<str>) -> impl DoubleEndedIterator<Item = Stored> {
        self.ops.iter().filter_map(move |op| {
            let Op::Append { seq, at, message, to, .. } = op else { return None };
            let waits = to.contains(&dest) && !self.is_delivered(dest, *seq);
            waits.then(|| Stored { seq: *seq, boot: boot.clone(), at: *at, message: message.clone() })
        })
    }
}

fn cost(op: &Op) -> u64 {
    let Op::Append { message, to, .. } = op else { return OVERHEAD };
    OVERHEAD + (message.cost() + to.len() * size_of::<DestId>()) as u64
}

fn kept_cost(key: &Bytes, value: Option<&Bytes>) -> u64 {
    OVERHEAD + (key.len() + value.map_or(0, Bytes::len)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMs;
    use crate::message::{Message, Qos};

    fn append(seq: Seq, bytes: usize, durability: Durability) -> Op {
        let message = Arc::new(Message::new("t", vec![0; bytes], Qos::AtLeastOnce, false));
        Op::Append { seq, at: UnixMs(0), message, to: [DestId(1)].into(), durability }
    }

    #[test]
    fn a_refused_batch_keeps_its_samples_and_loses_what_its_sender_will_send_again() {
        let mut work = Work::default();
        let ops = vec![append(1, 1, Durability::Sample), append(2, 1, Durability::Acknowledged)];
        work.take(Batch { ticket: 7, ops }, &mut 0).unwrap();
        assert_eq!(work.refused(&mut Tally::new()), [7]);
        let waiting: Vec<Seq> = work.stored_for(DestId(1), &"b".into()).map(|stored| stored.seq).collect();
        assert_eq!(waiting, [1]);
    }

    #[test]
    fn waiting_samples_are_bounded_and_the_oldest_go_first_and_are_counted() {
        let mut work = Work::default();
        let (mut highest, mut dropped) = (0, Tally::new());
        for seq in 1..=20 {
            work.take(Batch { ticket: seq, ops: vec![append(seq, 1 << 20, Durability::Sample)] }, &mut highest)
                .unwrap();
            work.refused(&mut dropped);
        }
        assert_eq!(work.waiting(), 15);
        assert_eq!(dropped[&DestId(1)].0, 5);
        assert_eq!(work.stored_for(DestId(1), &"b".into()).next().unwrap().seq, 6);
    }

    #[test]
    fn a_key_put_and_deleted_in_one_commit_is_written_once() {
        let mut work = Work::default();
        let (space, key) = (Space::Outbound, Bytes::from_static(b"k"));
        let put = Op::Put { space, key: key.clone(), value: Bytes::from_static(b"v") };
        work.take(Batch { ticket: 1, ops: vec![put, Op::Delete { space, key: key.clone() }] }, &mut 0).unwrap();
        assert_eq!(work.kept().collect::<Vec<_>>(), [(space, &key, None)]);
    }

    #[test]
    fn a_batch_whose_numbers_do_not_rise_is_given_back() {
        let mut work = Work::default();
        let ops = vec![append(2, 1, Durability::Sample), append(2, 1, Durability::Sample)];
        assert!(work.take(Batch { ticket: 1, ops }, &mut 1).is_err());
        assert!(work.is_empty());
    }
}
