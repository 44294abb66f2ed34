//! Group commit as a plain state machine: what must reach the disk together, and who waits for it.
//!
//! Ops gather in an open batch while the one before is being written. A batch that somebody waits for goes as soon as
//! the writer is free, so the more publishers there are, the more share one commit; samples alone wait for their window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::store::{Batch, Durability, Op};

/// Batches at the writer at once: one being written, one ready when it is done.
const IN_FLIGHT_MAX: usize = 2;
/// What may wait in memory for a disk that does not take it (P7).
const OPEN_BYTES_MAX: usize = 16 << 20;
/// A batch this large goes without waiting for its window: more would not save bytes.
const FULL_BYTES: usize = 256 << 10;

/// The open batch is at its bound: the disk is slower than what comes in.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// Gathers ops into batches. `T` names whoever waits: it comes back when its batch is committed or refused.
#[derive(Debug)]
pub struct Committer<T> {
    window: Duration,
    next_ticket: u64,
    in_flight: usize,
    open: Vec<Op>,
    open_bytes: usize,
    opened: Option<Instant>,
    urgent: bool,
    /// By ticket, rising.
    waiting: VecDeque<(u64, T)>,
}

impl<T> Committer<T> {
    /// `window`: the longest that a sample waits for company.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            next_ticket: 1,
            in_flight: 0,
            open: Vec::new(),
            open_bytes: 0,
            opened: None,
            urgent: false,
            waiting: VecDeque::new(),
        }
    }

    pub fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// Takes an op into the open batch. Only appends can be refused: everything else is small and frees room.
    pub fn push(&mut self, now: Instant, op: Op) -> Result<(), Full> {
        let cost = cost(&op);
        let append = matches!(op, Op::Append { .. });
        if append && self.open_bytes + cost > OPEN_BYTES_MAX {
            return Err(Full);
        }
        self.urgent |= matches!(op, Op::Append { durability: Durability::Acknowledged, .. });
        self.open_bytes += cost;
        self.opened.get_or_insert(now);
        self.open.push(op);
        Ok(())
    }

    /// `waiter` comes back when everything pushed so far is on the disk. With nothing open or under way it comes
    /// back at once, as `Some`. `urgent`: the open batch does not wait for its window.
    pub fn wait(&mut self, waiter: T, urgent: bool) -> Option<T> {
        if !self.open.is_empty() {
            self.urgent |= urgent;
            self.waiting.push_back((self.next_ticket, waiter));
            return None;
        }
        if self.in_flight > 0 {
            self.waiting.push_back((self.next_ticket - 1, waiter));
            return None;
        }
        Some(waiter)
    }

    /// The next batch for the writer, where one is due and the writer has room for it.
    pub fn take(&mut self, now: Instant) -> Option<Batch> {
        let due = self.urgent
            || self.open_bytes >= FULL_BYTES
            || self.opened.is_some_and(|since| now.saturating_duration_since(since) >= self.window);
        (due && self.in_flight < IN_FLIGHT_MAX).then(|| self.close()).flatten()
    }

    /// The open batch, due or not; for a clean stop.
    pub fn flush(&mut self) -> Option<Batch> {
        (self.in_flight < IN_FLIGHT_MAX).then(|| self.close()).flatten()
    }

    fn close(&mut self) -> Option<Batch> {
        if self.open.is_empty() {
            return None;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.in_flight += 1;
        self.open_bytes = 0;
        self.opened = None;
        self.urgent = false;
        Some(Batch { ticket, ops: std::mem::take(&mut self.open) })
    }

    /// The writer has answered for this ticket, for good or ill: those who waited for it or for an earlier one.
    pub fn settled(&mut self, ticket: u64) -> Vec<T> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let count = self.waiting.partition_point(|(waits_for, _)| *waits_for <= ticket);
        self.waiting.drain(..count).map(|(_, waiter)| waiter).collect()
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        (self.in_flight < IN_FLIGHT_MAX).then(|| self.opened.map(|since| since + self.window)).flatten()
    }

    /// Nothing open and nothing at the writer.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.in_flight == 0
    }
}

/// Bytes of memory that an op holds, about.
fn cost(op: &Op) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match op {
            Op::Append { message, .. } => message.cost(),
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
            Op::OpenDestination { .. } | Op::CloseDestination { .. } | Op::Delivered { .. } => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Now, UnixMs};
    use crate::message::{Message, Qos};
    use crate::store::DestId;

    fn append(seq: u64, durability: Durability, bytes: usize) -> Op {
        let message = Arc::new(Message::new("t", vec![0; bytes], Qos::AtLeastOnce, false));
        Op::Append { seq, at: UnixMs(0), message, to: [DestId(1)].into(), durability }
    }

    fn start() -> (Committer<&'static str>, Instant) {
        (Committer::new(Duration::from_millis(250)), Now::read().mono)
    }

    #[test]
    fn samples_wait_for_their_window_and_no_longer() {
        let (mut committer, t0) = start();
        committer.push(t0, append(1, Durability::Sample, 10)).unwrap();
        assert!(committer.take(t0 + Duration::from_millis(249)).is_none());
        assert_eq!(committer.next_timeout(), Some(t0 + Duration::from_millis(250)));
        assert_eq!(committer.take(t0 + Duration::from_millis(250)).unwrap().ops.len(), 1);
    }

    #[test]
    fn a_publish_that_waits_takes_the_samples_with_it_at_once() {
        let (mut committer, t0) = start();
        committer.push(t0, append(1, Durability::Sample, 10)).unwrap();
        committer.push(t0, append(2, Durability::Acknowledged, 10)).unwrap();
        assert_eq!(committer.wait("client", true), None);
        let batch = committer.take(t0).unwrap();
        assert_eq!(batch.ops.len(), 2);
        assert_eq!(committer.settled(batch.ticket), ["client"]);
        assert!(committer.is_idle());
    }

    #[test]
    fn what_comes_while_the_writer_is_busy_shares_the_next_commit() {
        let (mut committer, t0) = start();
        let mut tickets = Vec::new();
        for seq in 0..10 {
            committer.push(t0, append(seq, Durability::Acknowledged, 10)).unwrap();
            tickets.extend(committer.take(t0).map(|batch| batch.ticket));
        }
        assert_eq!(tickets, [1, 2]);
        committer.settled(1);
        assert_eq!(committer.take(t0).unwrap().ops.len(), 8);
    }

    #[test]
    fn nobody_waits_for_a_disk_that_has_nothing_to_do() {
        let (mut committer, _) = start();
        assert_eq!(committer.wait("client", true), Some("client"));
    }

    #[test]
    fn a_waiter_without_an_op_of_its_own_waits_for_what_is_under_way() {
        let (mut committer, t0) = start();
        committer.push(t0, append(1, Durability::Acknowledged, 10)).unwrap();
        let batch = committer.take(t0).unwrap();
        assert_eq!(committer.wait("late", true), None);
        assert_eq!(committer.settled(batch.ticket), ["late"]);
    }

    #[test]
    fn a_disk_that_takes_nothing_fills_a_bounded_batch_and_deliveries_still_fit() {
        let (mut committer, t0) = start();
        let mut taken = 0;
        while committer.push(t0, append(taken, Durability::Sample, 1 << 20)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 15);
        assert_eq!(committer.push(t0, Op::Delivered { dest: DestId(1), seq: 1 }), Ok(()));
    }
}
