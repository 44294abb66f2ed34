//! Getting back to a file that works: opening it again, beginning a new one, dropping what cannot be read.

use rusqlite::Connection;

use super::super::work::{Tally, count};
use super::super::{DestId, StoreError};
use super::engine::Engine;
use super::opening::{self, Loaded};
use super::tables;
use super::transaction::Cache;
use crate::clock::Now;

impl Engine {
    pub(super) fn adopt(&mut self, conn: Connection, loaded: Loaded) {
        let before = std::mem::replace(&mut self.queues, loaded.queues);
        for (dest, queue) in before {
            if let Some(same) = self.queues.get_mut(&dest) {
                same.dropped = queue.dropped;
            }
        }
        self.purging = loaded.purging;
        // A reservation of an earlier run is used up by having been handed out as `next_seq`.
        self.reserved = loaded.next_seq;
        self.conn = Some(conn);
        self.loaded = true;
        self.cache = Cache::default();
    }

    pub(super) fn reconnect(&mut self) -> Result<(), StoreError> {
        if self.conn.is_some() && !self.fault.as_ref().is_some_and(|fault| fault.reconnect) {
            return Ok(());
        }
        self.conn = None;
        let (conn, loaded) = opening::connect(&self.dir)?;
        if loaded.fresh {
            return self.fill_fresh(conn);
        }
        if !self.loaded {
            return Err(StoreError::FoundLate { path: opening::file(&self.dir) });
        }
        match loaded.read_only.clone() {
            None => self.adopt(conn, loaded),
            Some(reason) => {
                self.adopt(conn, loaded);
                return Err(StoreError::ReadOnly(reason));
            }
        }
        Ok(())
    }

    /// The file went bad while running: it is set aside and what was in it is counted as dropped.
    pub(super) fn begin_anew(&mut self, cause: &StoreError, now: Now) -> Result<(), StoreError> {
        self.conn = None;
        let name = opening::set_aside(&self.dir, now.wall)
            .map_err(|error| StoreError::Folder { path: self.dir.clone(), error })?;
        self.last_error = Some(format!("{cause}: the file was moved to {name} and a new one begun").into());
        let (conn, _) = opening::connect(&self.dir)?;
        self.fill_fresh(conn)
    }

    fn fill_fresh(&mut self, conn: Connection) -> Result<(), StoreError> {
        let tx = conn.unchecked_transaction()?;
        for (dest, queue) in &self.queues {
            tables::put_destination(&tx, *dest, &queue.name, &queue.spec, queue.dropped + queue.messages)?;
        }
        tx.commit()?;
        let mut lost = Tally::new();
        for (dest, queue) in &mut self.queues {
            if queue.messages > 0 {
                count(&mut lost, *dest, queue.messages, queue.bytes);
                queue.dropped += queue.messages;
            }
            (queue.messages, queue.bytes) = (0, 0);
        }
        self.purging.clear();
        self.reserved = 1;
        self.conn = Some(conn);
        self.loaded = true;
        self.cache = Cache::default();
        self.tell_dropped(lost);
        Ok(())
    }

    /// A place that cannot be read is of no use to anyone: it goes, counted.
    pub(super) fn drop_damaged(&mut self, dest: DestId, places: &[tables::Place], now: Now) {
        let Some(conn) = &self.conn else { return };
        let result = (|| {
            let tx = conn.unchecked_transaction()?;
            let mut tally = Tally::new();
            for place in places {
                tables::remove_place(&tx, dest, place.first)?;
                count(&mut tally, dest, place.messages, place.bytes);
            }
            let before = self.queues.get(&dest).map_or(0, |queue| queue.dropped);
            let more = tally.get(&dest).map_or(0, |sum| sum.0);
            tables::put_dropped(&tx, dest, before + more)?;
            tx.commit()?;
            Ok::<_, StoreError>(tally)
        })();
        match result {
            Ok(tally) => {
                for (messages, bytes) in tally.values() {
                    if let Some(queue) = self.queues.get_mut(&dest) {
                        queue.messages = queue.messages.saturating_sub(*messages);
                        queue.bytes = queue.bytes.saturating_sub(*bytes);
                        queue.dropped += messages;
                    }
                    self.last_error = Some(format!("{messages} damaged messages were dropped").into());
                }
                self.tell_dropped(tally);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    pub(super) fn read_failed(&mut self, error: StoreError, now: Now) {
        let result = if opening::is_corrupt(&error) { self.begin_anew(&error, now) } else { Err(error) };
        if let Err(error) = result {
            self.failed(&error, now);
        }
    }
}
