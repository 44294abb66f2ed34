//! The store without its thread: takes batches and asks, does one transaction a turn, says what happened.
//!
//! Where the disk takes nothing ("fault") everything but acknowledged appends waits in [`Work`], is still read by
//! its destinations from there, and is tried again every second; the first success ends it.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::super::segment::Segment;
use super::super::work::{Tally, Work};
use super::super::{Batch, DestId, QueueStatus, Seq, StoreError, StoreEvent, StoreStatus};
use super::Watches;
use super::opening::{self, Loaded};
use super::tables;
use super::transaction::{Cache, Clocks, Done, Pass, Queues};
use crate::clock::Now;

const RETRY: Duration = Duration::from_secs(1);
/// Where the file has to be opened again, which reads all places to sum them.
const RECONNECT: Duration = Duration::from_secs(5);
const STATUS: Duration = Duration::from_secs(1);
/// Deliveries that come alone are written together: after this time, or this many.
const DELIVERIES: Duration = Duration::from_secs(1);
const DELIVERIES_MAX: u64 = 1000;

#[derive(Debug)]
pub(super) struct Fault {
    reason: Arc<str>,
    retry_at: Instant,
    /// Only a new connection can help.
    pub(super) reconnect: bool,
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) dir: PathBuf,
    pub(super) boot: Arc<str>,
    pub(super) conn: Option<Connection>,
    /// Whether the sums below are this file's; not so where it could not be opened at the start.
    pub(super) loaded: bool,
    pub(super) queues: Queues,
    pub(super) purging: BTreeSet<DestId>,
    pub(super) reserved: Seq,
    highest: Seq,
    first_of_run: Seq,
    started: Instant,
    pub(super) work: Work,
    pub(super) cache: Cache,
    pub(super) fault: Option<Fault>,
    pub(super) last_error: Option<Arc<str>>,
    more: bool,
    deliver_at: Option<Instant>,
    sweep_at: Instant,
    status_at: Instant,
    changed: bool,
    dropped: u64,
    watches: Watches,
    events: VecDeque<StoreEvent>,
}

impl Engine {
    pub(super) fn new(dir: PathBuf, boot: Arc<str>, watches: Watches, now: Now) -> Self {
        Self {
            dir,
            boot,
            conn: None,
            loaded: false,
            queues: Queues::new(),
            purging: BTreeSet::new(),
            reserved: 1,
            highest: 0,
            first_of_run: 1,
            started: now.mono,
            work: Work::default(),
            cache: Cache::default(),
            fault: None,
            last_error: None,
            more: false,
            deliver_at: None,
            sweep_at: now.mono,
            status_at: now.mono,
            changed: true,
            dropped: 0,
            watches,
            events: VecDeque::new(),
        }
    }

    /// Begins with a file that was opened, or with the reason why none was.
    pub(super) fn begin(&mut self, opened: Result<(Connection, Loaded), String>, now: Now) {
        match opened {
            Ok((conn, loaded)) => {
                self.highest = loaded.next_seq - 1;
                self.first_of_run = loaded.next_seq;
                let read_only = loaded.read_only.clone();
                self.adopt(conn, loaded);
                for dest in self.queues.keys().copied().collect::<Vec<_>>() {
                    let newest = self.conn.as_ref().and_then(|conn| tables::place_at(conn, dest, Seq::MAX).ok()?);
                    if let Some(last) = newest.and_then(|place| place.left?.last()) {
                        self.watches.tell(dest, last);
                    }
                }
                if let Some(reason) = read_only {
                    self.faulty(reason, true, now);
                }
            }
            Err(reason) => self.faulty(reason, true, now),
        }
    }

    pub(super) fn next_seq(&self) -> Seq {
        self.highest + 1
    }

    pub(super) fn take(&mut self, batch: Batch) {
        if let Err(batch) = self.work.take(batch, &mut self.highest) {
            let reason = "message numbers do not rise: use Opened::next_seq and count upwards".into();
            self.events.push_back(StoreEvent::Refused { ticket: batch.ticket, reason });
        }
    }

    pub(super) fn deliver(&mut self, dest: DestId, seqs: &[Seq], now: Now) {
        self.work.deliver(dest, seqs);
        self.deliver_at = self.deliver_at.or(Some(now.mono + DELIVERIES));
    }

    /// Does what is due. What happened is then in [`Self::events`].
    pub(super) fn turn(&mut self, now: Now) {
        let retry = self.fault.as_ref().map(|fault| fault.retry_at <= now.mono);
        let sweep = self.sweep_at <= now.mono;
        let due = self.work.has_batches()
            || self.more
            || sweep
            || self.deliver_at.is_some_and(|at| at <= now.mono)
            || self.work.delivered_count() >= DELIVERIES_MAX;
        match retry {
            Some(true) => self.attempt(now),
            Some(false) => {
                if let Some(reason) = self.fault.as_ref().map(|fault| fault.reason.clone()) {
                    self.refuse(&reason);
                }
            }
            None if due => self.attempt(now),
            None => {}
        }
        // A destination opened meanwhile may ask for an earlier one.
        let next_sweep = now.mono + self.sweep_interval();
        self.sweep_at = if sweep { next_sweep } else { self.sweep_at.min(next_sweep) };
        if self.changed && self.status_at <= now.mono {
            self.status_at = now.mono + STATUS;
            self.changed = false;
            let status = self.status();
            self.events.push_back(StoreEvent::Status(status));
        }
    }

    pub(super) fn events(&mut self) -> VecDeque<StoreEvent> {
        std::mem::take(&mut self.events)
    }

    /// When [`Self::turn`] is to be called at the latest if nothing arrives.
    pub(super) fn deadline(&self, now: Now) -> Option<Instant> {
        let faulty = self.fault.as_ref().map(|fault| fault.retry_at);
        let aging = self.queues.values().any(|queue| queue.spec.max_age_secs.is_some() && queue.messages > 0);
        let healthy = faulty.is_none();
        [
            faulty,
            self.deliver_at.filter(|_| healthy),
            (self.more && healthy).then_some(now.mono),
            aging.then_some(self.sweep_at),
            self.changed.then_some(self.status_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn sweep_interval(&self) -> Duration {
        let shortest = self.queues.values().filter_map(|queue| queue.spec.max_age_secs).min().unwrap_or(u64::MAX);
        Duration::from_secs((shortest / 100).clamp(1, 60))
    }

    fn attempt(&mut self, now: Now) {
        if let Err(error) = self.reconnect() {
            return self.failed(&error, now);
        }
        match self.transact(now) {
            Ok(()) => {}
            Err(error) if opening::is_corrupt(&error) => {
                match self.begin_anew(&error, now).and_then(|()| self.transact(now)) {
                    Ok(()) => {}
                    Err(error) => self.failed(&error, now),
                }
            }
            Err(error) => self.failed(&error, now),
        }
    }

    fn transact(&mut self, now: Now) -> Result<(), StoreError> {
        let Some(conn) = &self.conn else { return Ok(()) };
        let tx = conn.unchecked_transaction()?;
        let mut pass = Pass {
            conn: &tx,
            cache: &mut self.cache,
            boot: &self.boot,
            clocks: Clocks {
                wall: now.wall,
                uptime: now.mono.saturating_duration_since(self.started),
                first_of_run: self.first_of_run,
            },
            queues: self.queues.clone(),
            purging: self.purging.clone(),
            reserved: self.reserved,
            done: Done::default(),
            segment: Segment::default(),
        };
        if self.fault.is_some() {
            // Something has to be written for a success to mean that the disk takes writes again.
            tables::reserve(&tx, pass.reserved)?;
        }
        pass.apply(&self.work)?;
        if self.sweep_at <= now.mono {
            pass.sweep()?;
        }
        pass.remove_leftovers()?;
        // What was dropped while nothing could be written is in the sums only.
        pass.keep_counts(self.fault.is_some())?;
        let Pass { queues, purging, reserved, done, .. } = pass;
        tx.commit()?;
        self.changed |= !self.work.is_empty() || self.fault.is_some() || !done.dropped.is_empty();
        (self.queues, self.purging, self.reserved) = (queues, purging, reserved);
        self.more = done.more || !self.purging.is_empty();
        self.succeeded(done);
        Ok(())
    }

    fn succeeded(&mut self, done: Done) {
        self.fault = None;
        self.deliver_at = None;
        for (first, messages) in done.written {
            self.cache.put(first, messages);
        }
        self.tell_dropped(done.dropped);
        for ticket in self.work.done() {
            self.events.push_back(StoreEvent::Committed { ticket });
        }
        for (dest, seq) in done.latest {
            self.watches.tell(dest, seq);
        }
    }

    pub(super) fn failed(&mut self, error: &StoreError, now: Now) {
        let reconnect = match error {
            StoreError::Sqlite(error) => error.sqlite_error_code() != Some(ErrorCode::DiskFull),
            StoreError::Folder { .. }
            | StoreError::Newer { .. }
            | StoreError::Corrupt(_)
            | StoreError::FoundLate { .. }
            | StoreError::ReadOnly(_)
            | StoreError::Thread(_) => true,
        };
        if let Some(conn) = &self.conn {
            // Starts the log over where it can be: on a full disk that is the room for deliveries, which make more.
            // Where it fails too, the next attempt says so.
            let _ = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        self.faulty(error.to_string(), reconnect, now);
    }

    fn faulty(&mut self, reason: String, reconnect: bool, now: Now) {
        let reason: Arc<str> = reason.into();
        self.cache = Cache::default();
        self.changed = true;
        self.last_error = Some(reason.clone());
        self.refuse(&reason);
        let pause = if reconnect { RECONNECT } else { RETRY };
        self.fault = Some(Fault { reason, retry_at: now.mono + pause, reconnect });
    }

    fn refuse(&mut self, reason: &Arc<str>) {
        let before = self.work.waiting();
        let mut dropped = Tally::new();
        let tickets = self.work.refused(&mut dropped);
        self.changed |= before != 0 || !tickets.is_empty();
        for (dest, (messages, _)) in &dropped {
            if let Some(queue) = self.queues.get_mut(dest) {
                queue.dropped += messages;
            }
        }
        self.tell_dropped(dropped);
        for ticket in tickets {
            self.events.push_back(StoreEvent::Refused { ticket, reason: reason.clone() });
        }
        for (dest, seq) in self.work.newest() {
            self.watches.tell(dest, seq);
        }
    }

    pub(super) fn tell_dropped(&mut self, dropped: Tally) {
        for (dest, (messages, bytes)) in dropped {
            self.changed = true;
            self.dropped += messages;
            self.events.push_back(StoreEvent::Dropped { dest, messages, bytes });
        }
    }

    fn status(&self) -> StoreStatus {
        let path = opening::file(&self.dir);
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let oldest = |dest| self.conn.as_ref().and_then(|conn| tables::oldest_place(conn, dest).ok()?);
        StoreStatus {
            writable: self.fault.is_none(),
            last_error: self.last_error.clone(),
            file_bytes: size(&path) + size(log.as_ref()),
            waiting: self.work.waiting(),
            dropped: self.dropped,
            queues: self
                .queues
                .iter()
                .map(|(dest, queue)| QueueStatus {
                    dest: *dest,
                    name: queue.name.clone(),
                    messages: queue.messages,
                    bytes: queue.bytes,
                    dropped: queue.dropped,
                    oldest: (queue.messages > 0).then(|| oldest(*dest).map(|place| place.at)).flatten(),
                })
                .collect(),
        }
    }

    /// Flushes, gives back the numbers that were reserved and not used, and closes the file.
    pub(super) fn close(&mut self, now: Now) {
        if !self.work.is_empty() {
            self.attempt(now);
        }
        let Some(conn) = self.conn.take() else { return };
        if self.fault.is_none() && self.highest >= self.first_of_run && self.reserved > self.highest + 1 {
            // Without it the next run skips at most 65,536 numbers.
            let _ = tables::reserve(&conn, self.highest + 1);
        }
        // SQLite writes the log to the file and removes it; where it cannot, the next opening does.
        let _ = conn.close();
    }
}
