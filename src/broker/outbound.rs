//! Messages on their way to clients: with their QoS, in order and within every bound.

use std::sync::Arc;

use super::api::{AckToken, Awaited, ConnId, Output, Read};
use super::core::{Broker, CHOKE_BYTES};
use super::packet::Reason;
use super::routing::{Route, Target};
use super::send::{launch, resend, send};
use super::session::{Pending, Session};
use crate::clock::Now;
use crate::hub::topics::filter_matches;
use crate::message::{Message, Qos};
use crate::store::{DestId, Op, Seq, Stored};

/// Stored messages of one session that wait in memory; the rest waits in the store.
const QUEUED_STORED_MAX: usize = 1000;
/// Bytes of one read of a session's queue.
const LOAD_BYTES: usize = 256 * 1024;

impl Broker {
    /// To the receivers that need nothing stored.
    pub fn deliver_live(&mut self, now: Now, route: &Route, message: &Arc<Message>) {
        for target in &route.live {
            self.push(now, target, message, None, route.sender);
        }
    }

    /// To the receivers that must not lose it: with its number once it is committed, in the order of numbers; with `None` when the store
    /// refused it.
    pub fn deliver_stored(&mut self, now: Now, route: &Route, message: &Arc<Message>, stored: Option<Seq>) {
        for target in &route.durable {
            self.push(now, target, message, stored, route.sender);
        }
    }

    fn push(&mut self, now: Now, target: &Target, message: &Arc<Message>, seq: Option<Seq>, sender: Option<u32>) {
        let limits = self.spec.limits;
        let bound = limits.max_outbound_bytes;
        let Some(session) = self.sessions.get_mut(&target.session) else { return };
        let Some(conn) = session.conn else { return };
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let pending = Pending {
            message: message.clone(),
            qos: target.qos,
            retain: target.retain,
            dup: false,
            identifiers: target.identifiers.clone(),
            seq,
        };
        let outbound = &mut session.outbound;
        if pending.qos == Qos::AtMostOnce
            && outbound.queued_qos0 == 0
            && outbound.retained.is_empty()
            && !state.is_choked(bound)
        {
            // The common case: straight into the socket's buffer.
            send(&mut self.counters, state, now, &pending, 0);
            return self.mark_dirty(conn);
        }
        let over = outbound.queue_bytes() + pending.cost() > bound
            || self.ledger.bytes() + pending.cost() > limits.max_outbound_total_bytes;
        if let Some(seq) = seq {
            if outbound.queued_seq.is_some_and(|queued| seq <= queued) {
                // A read of the store that went past its commit has brought it already.
                return;
            }
            if outbound.behind || over || outbound.queue.len() >= QUEUED_STORED_MAX {
                outbound.behind = true;
                outbound.skipped_seq = outbound.skipped_seq.max(Some(seq));
                return;
            }
        } else if over && !self.make_room(now, target.session, conn, &pending) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&target.session) else { return };
        if session.outbound.queue.is_empty() {
            session.pressure.begin(now.mono);
        }
        session.outbound.push(pending);
        self.pump(now, target.session);
        if seq.is_none() {
            self.press(now, target.session, sender);
        }
    }

    /// A slow receiver's queue is full: the oldest QoS 0 goes first, and with none left the receiver itself. `false`: no room.
    fn make_room(&mut self, now: Now, key: u32, conn: ConnId, pending: &Pending) -> bool {
        let limits = self.spec.limits;
        while self.ledger.bytes() + pending.cost() > limits.max_outbound_total_bytes {
            if !self.relieve(now) {
                break;
            }
        }
        let bound = limits.max_outbound_bytes;
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.conn == Some(conn)) else {
            return false;
        };
        while session.outbound.queue_bytes() + pending.cost() > bound {
            if session.outbound.drop_oldest_qos0() {
                session.pressure.dropped();
                self.counters.dropped_qos0 += 1;
            } else if pending.qos == Qos::AtMostOnce {
                self.counters.dropped_qos0 += 1;
                return false;
            } else {
                // One message larger than the whole bound still goes when nothing else waits.
                if session.outbound.queue.is_empty() {
                    return true;
                }
                tracing::warn!(client = %session.client, "disconnected: it does not read what it subscribed to");
                self.counters.slow_disconnects += 1;
                self.fail(now, conn, Reason::QuotaExceeded);
                return false;
            }
        }
        true
    }

    /// All queues together are full: the longest of the slow ones, or else of all, loses its QoS 0, and with none its connection. `false`:
    /// nothing waits for anybody.
    fn relieve(&mut self, now: Now) -> bool {
        let longest = self.sessions.iter_mut().max_by_key(|(key, session)| {
            let bytes = session.outbound.queue_bytes();
            (bytes > 0 && session.pressure.is_slow(), bytes, **key)
        });
        let Some((_, session)) = longest.filter(|(_, session)| session.outbound.queue_bytes() > 0) else {
            return false;
        };
        if session.outbound.queued_qos0 > 0 {
            self.counters.dropped_qos0 += session.outbound.drop_qos0() as u64;
            session.pressure.dropped();
            return true;
        }
        let Some(conn) = session.conn else { return false };
        tracing::warn!(client = %session.client, "disconnected: of all that wait, most waits for it, and no more has room");
        self.counters.slow_disconnects += 1;
        self.fail(now, conn, Reason::QuotaExceeded);
        true
    }

    /// A session is back on a connection: what was under way goes again (4.4), then what waits.
    pub(crate) fn resume(&mut self, now: Now, key: u32) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.outbound.behind = session.dest.is_some();
        }
        self.pump(now, key);
    }

    /// Sends as much as the socket, the client's window and its packet size allow; reads on in the store when the memory is empty.
    pub(crate) fn pump(&mut self, now: Now, key: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(conn) = session.conn else { return };
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let bound = self.spec.limits.max_outbound_bytes;
        let mut ops = Vec::new();
        while !state.is_choked(bound) {
            if let Some(id) = session.outbound.resend.front().copied() {
                if session.outbound.in_flight.len() - session.outbound.resend.len() >= state.window {
                    break;
                }
                session.outbound.resend.pop_front();
                resend(&mut self.counters, state, session, now, id);
                continue;
            }
            if let Some((topic, options)) = session.outbound.retained.front().cloned() {
                let kept = self.retained.get(&topic, now.wall).filter(|_| session.rules.may_receive(&topic)).cloned();
                if let Some(message) = kept {
                    let pending = Pending {
                        qos: options.qos.min(message.qos),
                        message,
                        retain: true,
                        dup: false,
                        identifiers: options.identifier.into_iter().collect(),
                        seq: None,
                    };
                    if !launch(&mut self.counters, state, session, now, pending, &mut ops) {
                        break;
                    }
                }
                session.outbound.retained.pop_front();
                continue;
            }
            let Some(pending) = session.outbound.queue.front().cloned() else { break };
            let cost = pending.cost();
            if !launch(&mut self.counters, state, session, now, pending, &mut ops) {
                break;
            }
            session.outbound.pop();
            session.pressure.took(now.mono, cost);
        }
        let load = next_load(session);
        self.outputs.extend(ops.into_iter().map(Output::Store));
        if session.outbound.wants_ids() {
            self.outputs.push_back(Output::Barrier(AckToken { session: key, awaited: Awaited::Identifiers }));
        }
        self.outputs.extend(load);
        self.mark_dirty(conn);
        self.ease(now, key);
    }

    pub(crate) fn loaded(&mut self, now: Now, dest: DestId, read: Read, rows: Vec<Stored>, more: bool) {
        let Some(&key) = self.dests.get(&dest) else { return };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.conn.is_none() || session.outbound.loading != Some(read.number) {
            return;
        }
        session.outbound.loading = None;
        let done = std::mem::take(&mut session.outbound.done_meanwhile);
        let mut ops = Vec::new();
        let nothing = rows.is_empty();
        for row in rows {
            let outbound = &session.outbound;
            if outbound.queued_seq.is_some_and(|queued| row.seq <= queued)
                || outbound.holds(row.seq)
                || done.contains(&row.seq)
            {
                session.outbound.queued_seq = session.outbound.queued_seq.max(Some(row.seq));
                continue;
            }
            match wanted(session, &row.message) {
                Some((qos, retain, identifiers)) => {
                    let dup = session.outbound.maybe_sent > 0;
                    session.outbound.maybe_sent = session.outbound.maybe_sent.saturating_sub(1);
                    let message = row.message;
                    session.outbound.push(Pending { message, qos, retain, dup, identifiers, seq: Some(row.seq) });
                }
                None => {
                    // Unsubscribed or forbidden meanwhile.
                    session.outbound.queued_seq = session.outbound.queued_seq.max(Some(row.seq));
                    ops.push(Output::Store(Op::Delivered { dest, seq: row.seq }));
                }
            }
        }
        let outbound = &mut session.outbound;
        if (!more || nothing) && outbound.skipped_seq <= outbound.load_covers.max(outbound.queued_seq) {
            outbound.behind = false;
        }
        self.outputs.extend(ops);
        self.pump(now, key);
    }
}

/// The read that a session with an empty queue needs next.
fn next_load(session: &mut Session) -> Option<Output> {
    let dest = session.dest?;
    let outbound = &mut session.outbound;
    if !outbound.behind || outbound.loading.is_some() || !outbound.queue.is_empty() {
        return None;
    }
    outbound.reads += 1;
    outbound.loading = Some(outbound.reads);
    outbound.load_covers = outbound.skipped_seq;
    let read = Read { after: outbound.queued_seq, number: outbound.reads };
    Some(Output::Load { dest, read, max_bytes: LOAD_BYTES })
}

/// How a message read back from the store goes to this session: as its subscriptions are now.
fn wanted(session: &Session, message: &Message) -> Option<(Qos, bool, Vec<u32>)> {
    if !session.rules.may_receive(&message.topic) {
        return None;
    }
    let mut best: Option<(Qos, bool, Vec<u32>)> = None;
    for (filter, options) in &session.subscriptions {
        if !filter_matches(super::routing::bare_filter(filter), &message.topic) {
            continue;
        }
        let (qos, retain, identifiers) = best.get_or_insert((Qos::AtMostOnce, false, Vec::new()));
        *qos = (*qos).max(options.qos.min(message.qos));
        *retain |= message.retain && options.retain_as_published;
        identifiers.extend(options.identifier);
    }
    best
}

const _: () = assert!(LOAD_BYTES <= CHOKE_BYTES);
