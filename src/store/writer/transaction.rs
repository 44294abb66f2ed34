//! One transaction: everything that waits, done to the tables, with the sums that will hold once it is committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::super::segment::Segment;
use super::super::seqset::SeqSet;
use super::super::work::{Tally, Work, count};
use super::super::{DestId, Op, QueueSpec, Seq, StoreError, Stored, encode, policy};
use super::tables::{self, Place};
use crate::clock::UnixMs;

/// Decoded segments that are kept for the next read, in bytes of their messages.
const CACHE_BYTES_MAX: usize = 1024 * 1024;
/// Numbers are reserved this many at a time, so that keeping them unique costs no write with each commit.
const RESERVE: Seq = 65_536;
/// Places that one transaction removes at most for bounds and closed destinations; more waits for the next.
const REMOVALS_MAX: usize = 500;

pub(super) type Messages = Arc<Vec<Stored>>;
pub(super) type Queues = BTreeMap<DestId, Queue>;

/// A destination and the sums of its places.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    pub(super) spec: QueueSpec,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
}

/// Segments as they were last read or written; what is on the disk for a number never changes.
#[derive(Debug, Default)]
pub(super) struct Cache {
    segments: VecDeque<(Seq, Messages, usize)>,
    bytes: usize,
}

impl Cache {
    fn get(&self, first: Seq) -> Option<Messages> {
        self.segments.iter().find(|entry| entry.0 == first).map(|entry| entry.1.clone())
    }

    pub(super) fn put(&mut self, first: Seq, messages: Messages) {
        let bytes = messages.iter().map(|stored| stored.message.cost() + size_of::<Stored>() * 2).sum();
        self.bytes += bytes;
        self.segments.push_back((first, messages, bytes));
        while self.bytes > CACHE_BYTES_MAX && self.segments.len() > 1 || self.segments.len() > 64 {
            self.bytes -= self.segments.pop_front().map_or(0, |entry| entry.2);
        }
    }

    /// `None` where the segment is damaged or missing.
    pub(super) fn load(&mut self, conn: &Connection, first: Seq) -> rusqlite::Result<Option<Messages>> {
        if let Some(messages) = self.get(first) {
            return Ok(Some(messages));
        }
        let decoded = tables::body(conn, first)?.and_then(|body| encode::messages(&body).ok()).map(Arc::new);
        if let Some(messages) = &decoded {
            self.put(first, messages.clone());
        }
        Ok(decoded)
    }
}

/// The clocks as bounds need them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) wall: UnixMs,
    pub(super) uptime: Duration,
    /// Segments from this number on were stored by this run.
    pub(super) first_of_run: Seq,
}

pub(super) struct Pass<'a> {
    pub(super) conn: &'a Connection,
    pub(super) cache: &'a mut Cache,
    pub(super) boot: &'a Arc<str>,
    pub(super) clocks: Clocks,
    pub(super) queues: Queues,
    pub(super) purging: BTreeSet<DestId>,
    pub(super) reserved: Seq,
    pub(super) done: Done,
    pub(super) segment: Segment,
}

/// What a transaction did beside the sums.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) dropped: Tally,
    pub(super) written: Vec<(Seq, Messages)>,
    pub(super) latest: BTreeMap<DestId, Seq>,
    /// A limit was reached: there is more to remove.
    pub(super) more: bool,
}

type Result<T> = std::result::Result<T, StoreError>;

impl Pass<'_> {
    pub(super) fn apply(&mut self, work: &Work) -> Result<()> {
        // First, so that no bound drops and counts what its destination has. An append of the same transaction
        // looks itself whether it was delivered from memory.
        for (dest, set) in work.delivered() {
            self.delivered(dest, set)?;
        }
        for op in work.ops() {
            match op {
                Op::OpenDestination { dest, name, queue } => self.open(*dest, name, *queue)?,
                Op::CloseDestination { dest } => self.close(*dest)?,
                Op::Append { seq, at, message, to, .. } => {
                    let boot = self.boot.clone();
                    let stored = Stored { seq: *seq, boot, at: *at, message: message.clone() };
                    self.append(stored, to, work)?;
                }
                Op::Delivered { .. } | Op::Put { .. } | Op::Delete { .. } => {}
            }
        }
        self.write_segment()?;
        for (space, key, value) in work.kept() {
            tables::keep(self.conn, space, key, value)?;
        }
        Ok(())
    }

    fn open(&mut self, dest: DestId, name: &Arc<str>, spec: QueueSpec) -> Result<()> {
        self.write_segment()?;
        if self.purging.contains(&dest) {
            self.purge(dest, usize::MAX)?;
        }
        let known = self.queues.get(&dest);
        if known.is_some_and(|known| known.name == *name && known.spec == spec) {
            return Ok(());
        }
        let dropped = known.map_or(0, |known| known.dropped);
        tables::put_destination(self.conn, dest, name, &spec, dropped)?;
        let empty = Queue { name: name.clone(), spec, messages: 0, bytes: 0, dropped: 0 };
        let queue = self.queues.entry(dest).or_insert(empty);
        (queue.name, queue.spec) = (name.clone(), spec);
        self.make_room(dest, 0)
    }

    fn close(&mut self, dest: DestId) -> Result<()> {
        self.write_segment()?;
        if self.queues.remove(&dest).is_some() {
            tables::remove_destination(self.conn, dest)?;
            self.purging.insert(dest);
        }
        Ok(())
    }

    fn append(&mut self, stored: Stored, to: &[DestId], work: &Work) -> Result<()> {
        if stored.seq >= self.reserved {
            self.reserved = stored.seq.saturating_add(RESERVE);
            tables::reserve(self.conn, self.reserved)?;
        }
        let cost = stored.message.cost() as u64;
        let mut takers = Vec::with_capacity(to.len());
        for dest in to {
            let Some(queue) = self.queues.get(dest) else { continue };
            if work.is_delivered(*dest, stored.seq) {
                continue;
            }
            match policy::admit(&queue.spec, queue.bytes, self.segment.bytes_for(*dest), cost) {
                policy::Admission::Take => {}
                policy::Admission::WriteFirst => self.write_segment()?,
                policy::Admission::Refuse => {
                    self.drop_counted(*dest, 1, cost);
                    continue;
                }
            }
            takers.push(*dest);
        }
        if takers.is_empty() {
            return Ok(());
        }
        if self.segment.is_full_for(cost) {
            self.write_segment()?;
        }
        self.segment.push(stored, &takers);
        Ok(())
    }

    fn write_segment(&mut self) -> Result<()> {
        let segment = std::mem::take(&mut self.segment);
        let Some(first) = segment.first() else { return Ok(()) };
        let at = segment.at();
        let dests: Vec<DestId> = segment.shares().map(|(dest, _)| dest).collect();
        tables::put_segment(self.conn, first, &dests, &encode::segment(segment.messages()))?;
        for (dest, share) in segment.shares() {
            self.make_room(dest, share.bytes)?;
            let messages = share.left.len();
            let left = Some(share.left.clone());
            tables::put_place(self.conn, dest, &Place { first, at, messages, bytes: share.bytes, left })?;
            if let Some(queue) = self.queues.get_mut(&dest) {
                queue.messages += messages;
                queue.bytes += share.bytes;
            }
            self.done.latest.extend(share.left.last().map(|last| (dest, last)));
        }
        self.done.written.push((first, Arc::new(segment.into_messages())));
        Ok(())
    }

    /// Drops the oldest until `room` bytes more fit.
    fn make_room(&mut self, dest: DestId, room: u64) -> Result<()> {
        for _ in 0..REMOVALS_MAX {
            let Some(queue) = self.queues.get(&dest) else { return Ok(()) };
            let excess = (queue.bytes + room).saturating_sub(queue.spec.max_bytes);
            if excess == 0 {
                return Ok(());
            }
            let Some(place) = tables::oldest_place(self.conn, dest)? else { return Ok(()) };
            if place.bytes <= excess {
                self.drop_place(dest, &place)?;
                continue;
            }
            let messages = self.cache.load(self.conn, place.first)?;
            let (Some(messages), Some(left)) = (messages, &place.left) else {
                self.drop_place(dest, &place)?;
                continue;
            };
            let (gone, freed) = policy::oldest(&messages, left, excess);
            self.drop_counted(dest, gone.len(), freed);
            self.take_from(dest, &place, &gone)?;
        }
        self.done.more = true;
        Ok(())
    }

    /// Drops what is past its age.
    pub(super) fn sweep(&mut self) -> Result<()> {
        let aging: Vec<(DestId, QueueSpec)> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.spec.max_age_secs.is_some() && queue.messages > 0)
            .map(|(dest, queue)| (*dest, queue.spec))
            .collect();
        for (dest, spec) in aging {
            let mut left = REMOVALS_MAX;
            while let Some(place) = tables::oldest_place(self.conn, dest)? {
                let uptime = (place.first >= self.clocks.first_of_run).then_some(self.clocks.uptime);
                if !policy::expired(&spec, place.at, self.clocks.wall, uptime) {
                    break;
                }
                if left == 0 {
                    self.done.more = true;
                    break;
                }
                left -= 1;
                self.drop_place(dest, &place)?;
            }
        }
        Ok(())
    }

    /// Goes on with bounds that were left over, and with closed destinations.
    pub(super) fn remove_leftovers(&mut self) -> Result<()> {
        let over = |queue: &Queue| queue.bytes > queue.spec.max_bytes;
        let full: Vec<DestId> = self.queues.iter().filter(|(_, queue)| over(queue)).map(|(dest, _)| *dest).collect();
        for dest in full {
            self.make_room(dest, 0)?;
        }
        if let Some(dest) = self.purging.first().copied() {
            self.purge(dest, REMOVALS_MAX)?;
        }
        Ok(())
    }

    fn purge(&mut self, dest: DestId, places: usize) -> Result<()> {
        for _ in 0..places {
            let Some(place) = tables::oldest_place(self.conn, dest)? else {
                self.purging.remove(&dest);
                return Ok(());
            };
            tables::remove_place(self.conn, dest, place.first)?;
        }
        Ok(())
    }

    fn delivered(&mut self, dest: DestId, set: &SeqSet) -> Result<()> {
        if !self.queues.contains_key(&dest) {
            return Ok(());
        }
        let mut next = set.first();
        while let Some(seq) = next {
            let place = match tables::place_at(self.conn, dest, seq)? {
                Some(place) if place.left.as_ref().is_none_or(|left| left.at_or_after(seq).is_some()) => Some(place),
                Some(_) | None => tables::place_after(self.conn, dest, seq)?,
            };
            let Some(place) = place else { return Ok(()) };
            let last = place.left.as_ref().and_then(SeqSet::last);
            match last {
                Some(_) => self.take_from(dest, &place, set)?,
                None => self.drop_place(dest, &place)?,
            }
            next = set.at_or_after(last.unwrap_or(place.first).max(seq) + 1);
        }
        Ok(())
    }

    /// Takes messages out of a place, and the place away with its last one.
    fn take_from(&mut self, dest: DestId, place: &Place, gone: &SeqSet) -> Result<()> {
        let Some(before) = &place.left else { return Ok(()) };
        let left = before.minus(gone);
        if left == *before {
            return Ok(());
        }
        let (mut messages, mut bytes) = (0, 0);
        if left.is_empty() {
            tables::remove_place(self.conn, dest, place.first)?;
        } else {
            let Some(content) = self.cache.load(self.conn, place.first)? else {
                return self.drop_place(dest, place);
            };
            (messages, bytes) = (left.len(), policy::bytes(&content, &left));
            let rest = Place { first: place.first, at: place.at, messages, bytes, left: Some(left) };
            tables::put_place(self.conn, dest, &rest)?;
        }
        self.shrink(dest, place.messages.saturating_sub(messages), place.bytes.saturating_sub(bytes));
        Ok(())
    }

    /// Drops a whole place, counted.
    pub(super) fn drop_place(&mut self, dest: DestId, place: &Place) -> Result<()> {
        tables::remove_place(self.conn, dest, place.first)?;
        self.shrink(dest, place.messages, place.bytes);
        self.drop_counted(dest, place.messages, place.bytes);
        Ok(())
    }

    fn shrink(&mut self, dest: DestId, messages: u64, bytes: u64) {
        if let Some(queue) = self.queues.get_mut(&dest) {
            queue.messages = queue.messages.saturating_sub(messages);
            queue.bytes = queue.bytes.saturating_sub(bytes);
        }
    }

    /// Writes the counts of what was dropped, so that they outlive a restart as what is left does.
    pub(super) fn keep_counts(&self, all: bool) -> Result<()> {
        for (dest, queue) in self.queues.iter().filter(|(dest, _)| all || self.done.dropped.contains_key(dest)) {
            tables::put_dropped(self.conn, *dest, queue.dropped)?;
        }
        Ok(())
    }

    fn drop_counted(&mut self, dest: DestId, messages: u64, bytes: u64) {
        count(&mut self.done.dropped, dest, messages, bytes);
        if let Some(queue) = self.queues.get_mut(&dest) {
            queue.dropped += messages;
        }
    }
}
