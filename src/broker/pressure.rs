//! Back-pressure: whoever publishes faster than a subscriber reads waits for it, as long as it really reads.
//!
//! A subscriber's queue in memory has a bound, beyond which it is disconnected. Once a quarter of that waits, the clients whose messages
//! it gets are not read any more until it has caught up: their TCP connections hold them back, nothing is lost. Only a subscriber that
//! keeps a pace ([`PACE_MESSAGES`] or [`PACE_BYTES`] each [`PERIOD`]) has that power: one that is slower, or stands still, costs the
//! publishers one period at the most, and goes when its bound is reached. Nobody is held for messages to itself.
//!
//! Durable sessions hold nobody: what they have not read waits in the store. Two clients that hold each other (each publishes what the
//! other falls behind with) take nothing for a period, which ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tracing::debug;

use super::api::{ConnId, Output};
use super::core::{Broker, Timer};
use crate::clock::Now;

/// How often a subscriber that others wait for is looked at. Long enough for a reader whose machine or radio link pauses.
const PERIOD: Duration = Duration::from_secs(1);
/// What it must take in one period to be waited for.
const PACE_MESSAGES: usize = 1000;
const PACE_BYTES: usize = 1 << 20;
/// Periods in a row that a slow one must keep the pace in before it is waited for again: a socket takes much at once now and then,
/// however slow its reader is.
const PROOF: u32 = 2;
/// One that took nothing for so long before its queue grew this long is not waited for at all.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Shares of `max_outbound_bytes` that wait when publishers begin to wait, and when they go on.
const HIGH_SHARE: usize = 4;
const LOW_SHARE: usize = 8;

/// Bytes that wait in the queues of all sessions together; every queue counts itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<AtomicUsize>);

impl Ledger {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A queue of `before` bytes now has `after`.
    pub(crate) fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.0.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.0.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// How a subscriber keeps up, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    /// Publishers' connections, each once.
    holding: Vec<ConnId>,
    /// Present while the queue is long.
    judged_at: Option<Instant>,
    /// It was too slow, and has not proved otherwise.
    slow: bool,
    /// The queue is shorter than it was by messages that were dropped.
    dropped: bool,
    /// Periods in a row that it has kept the pace.
    kept: u32,
    taken_messages: usize,
    taken_bytes: usize,
    last_taken: Option<Instant>,
}

impl Pressure {
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    /// The queue was empty and is no longer.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.last_taken = Some(now);
    }

    /// A message left the queue for the socket.
    pub(crate) fn took(&mut self, now: Instant, bytes: usize) {
        self.taken_messages += 1;
        self.taken_bytes += bytes;
        self.last_taken = Some(now);
    }

    /// The queue is long; gives the end of the first period.
    fn start(&mut self, now: Instant) -> Instant {
        let judged_at = now + PERIOD;
        self.slow |= self.last_taken.is_some_and(|last| now.saturating_duration_since(last) >= STANDSTILL);
        self.judged_at = Some(judged_at);
        self.dropped = false;
        (self.taken_messages, self.taken_bytes) = (0, 0);
        judged_at
    }

    /// Whether it has kept the pace for so long of a period.
    fn keeps_pace(&self, long: Duration) -> bool {
        let share = long.as_secs_f64() / PERIOD.as_secs_f64();
        let reached = |taken: usize, pace: usize| taken as f64 >= pace as f64 * share;
        reached(self.taken_messages, PACE_MESSAGES) || reached(self.taken_bytes, PACE_BYTES)
    }

    /// Messages were dropped from the queue: that it is short again proves nothing.
    pub(crate) fn dropped(&mut self) {
        self.dropped = true;
    }

    /// The queue is short again.
    fn end(&mut self, now: Instant) -> Option<Instant> {
        let judged_at = self.judged_at.take()?;
        let left = judged_at.saturating_duration_since(now);
        if !self.dropped && self.keeps_pace(PERIOD.saturating_sub(left)) {
            self.slow = false;
        }
        Some(judged_at)
    }

    /// The period is over: judges the pace in it, and gives the end of the next.
    fn judge(&mut self, now: Instant) -> Instant {
        let judged_at = now + PERIOD;
        let keeps = self.keeps_pace(PERIOD);
        self.kept = if keeps { self.kept.saturating_add(1) } else { 0 };
        self.slow = !keeps || (self.slow && self.kept < PROOF);
        self.judged_at = Some(judged_at);
        (self.taken_messages, self.taken_bytes) = (0, 0);
        judged_at
    }
}

impl Broker {
    /// A message of `sender` was queued for the session: its sender waits where the queue is long.
    pub(crate) fn press(&mut self, now: Now, key: u32, sender: Option<u32>) {
        let high = self.spec.limits.max_outbound_bytes / HIGH_SHARE;
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.outbound.queue_bytes() < high {
            return;
        }
        let pressure = &mut session.pressure;
        if pressure.judged_at.is_none() {
            let at = pressure.start(now.mono);
            self.timers.insert((at, Timer::Pace(key)));
        }
        if pressure.slow {
            return;
        }
        let Some(sender) = sender.filter(|&sender| sender != key) else { return };
        let Some(conn) = self.sessions.get(&sender).and_then(|session| session.conn) else { return };
        self.hold(key, conn);
    }

    fn hold(&mut self, key: u32, conn: ConnId) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if state.held_by.contains(&key) {
            return;
        }
        if state.held_by.is_empty() {
            self.outputs.push_back(Output::Read { conn, on: false });
            self.counters.holds += 1;
        }
        state.held_by.push(key);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.pressure.holding.push(conn);
        }
    }

    /// Lets publishers go on once the session has caught up.
    pub(crate) fn ease(&mut self, now: Now, key: u32) {
        let low = self.spec.limits.max_outbound_bytes / LOW_SHARE;
        let caught_up = self
            .sessions
            .get(&key)
            .is_some_and(|session| session.pressure.judged_at.is_some() && session.outbound.queue_bytes() <= low);
        if caught_up {
            self.release(now, key);
        }
    }

    pub(crate) fn judge_pace(&mut self, now: Now, key: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let at = session.pressure.judge(now.mono);
        self.timers.insert((at, Timer::Pace(key)));
        if session.pressure.slow && !session.pressure.holding.is_empty() {
            debug!(client = %session.client, "too slow to be waited for");
            self.let_go(now, key);
        }
    }

    /// The session waits for nobody, and nobody for it.
    pub(crate) fn release(&mut self, now: Now, key: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if let Some(at) = session.pressure.end(now.mono) {
            self.timers.remove(&(at, Timer::Pace(key)));
            self.let_go(now, key);
        }
    }

    fn let_go(&mut self, now: Now, key: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        for conn in std::mem::take(&mut session.pressure.holding) {
            let Some(state) = self.conns.get_mut(&conn) else { continue };
            state.held_by.retain(|&holder| holder != key);
            if state.held_by.is_empty() {
                state.last_seen = now.mono;
                self.outputs.push_back(Output::Read { conn, on: true });
                self.released.push_back(conn);
            }
        }
    }

    /// Takes a part of what a released connection had sent before; `false`: there is none.
    pub(crate) fn go_on(&mut self, now: Now) -> bool {
        let Some(conn) = self.released.pop_front() else { return false };
        let Some(state) = self.conns.get_mut(&conn).filter(|state| state.held_by.is_empty()) else { return true };
        let data = state.input.split().freeze();
        self.frames(now, conn, data);
        if self.conns.get(&conn).is_some_and(|state| state.ended) && !self.released.contains(&conn) {
            self.lost(now, conn, true);
        }
        true
    }

    /// The peer has ended the connection; what it sent before is still taken, also when it was held.
    pub(crate) fn closed(&mut self, now: Now, conn: ConnId) {
        let waits = self.released.contains(&conn);
        match self.conns.get_mut(&conn) {
            Some(state) if waits || !state.held_by.is_empty() => state.ended = true,
            Some(_) | None => self.lost(now, conn, true),
        }
    }
}
