//! One client's state: what it subscribed to, what is under way to it and from it, and the answers it waits for.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::acl::Rules;
use super::api::{ConnId, Refusal};
use super::packet::SubOptions;
use super::pressure::{Ledger, Pressure};
use crate::message::{Message, Qos};
use crate::store::{DestId, Seq};

/// How a session's user proved who it is; a reload ends the connection when this no longer holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Credential {
    Anonymous,
    Certificate(Arc<str>),
    Password(Arc<str>, Arc<str>),
}

impl Credential {
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::Anonymous => None,
            Self::Certificate(user) | Self::Password(user, _) => Some(user),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) message: Message,
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) delay_secs: u32,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) credential: Credential,
    pub(crate) rules: Rules,
    pub(crate) conn: Option<ConnId>,
    /// 0: it ends with its connection.
    pub(crate) expiry_secs: u32,
    /// Present when the session outlives its connection, or has outlived one before.
    pub(crate) dest: Option<DestId>,
    pub(crate) subscriptions: BTreeMap<Arc<str>, SubOptions>,
    pub(crate) will: Option<Will>,
    pub(crate) will_at: Option<Instant>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) outbound: Outbound,
    pub(crate) pressure: Pressure,
    /// QoS 2 packet identifiers taken and not yet released.
    pub(crate) inbound: BTreeMap<u16, Taken>,
    pub(crate) replies: Replies,
}

/// An inbound QoS 2 publish between PUBLISH and PUBREL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Number of the answer that it waits for.
    pub(crate) number: u64,
    pub(crate) committed: bool,
    /// It came again on another connection while the store was still busy with it.
    pub(crate) asked_again: bool,
}

/// A message for this session that is not yet sent.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) identifiers: Vec<u32>,
    /// Its row in the store, when it has one.
    pub(crate) seq: Option<Seq>,
}

/// A queued message without its topic, payload and properties: its place in the queue, and the allocations that it shares.
const PENDING_BYTES: usize = 128;

#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) id: u16,
    pub(crate) seq: Option<Seq>,
    pub(crate) phase: Phase,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// PUBLISH sent; waits for PUBACK or PUBREC.
    Published(Pending),
    /// PUBREC taken; PUBREL goes when the store has it.
    Recording { number: u64 },
    /// PUBREL sent; waits for PUBCOMP.
    Released,
}

impl Pending {
    /// Bytes of memory that it holds, about; the message itself counts for each session that it waits for.
    pub(crate) fn cost(&self) -> usize {
        PENDING_BYTES + self.message.cost()
    }
}

/// Identifiers that no message has and the disk may still know.
#[derive(Debug, Default)]
struct Retired {
    ids: Vec<u16>,
    /// Those that a barrier is under way for.
    leaving: Vec<u16>,
    /// A message waits for one of `ids`.
    wanted: bool,
}

/// More are not collected: one commit frees them all.
const RETIRED_MAX: usize = 1000;

/// Messages on their way to the client.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) queue: VecDeque<Pending>,
    /// What the messages in `queue` cost together.
    queue_bytes: usize,
    ledger: Ledger,
    pub(crate) queued_qos0: usize,
    /// Retained messages still to be sent for a new subscription: topics, read when there is room.
    pub(crate) retained: VecDeque<(Arc<str>, SubOptions)>,
    pub(crate) in_flight: VecDeque<InFlight>,
    ids: HashSet<u16>,
    last_id: u16,
    retired: Retired,
    /// Of those in flight: what a new connection must be sent again.
    pub(crate) resend: VecDeque<u16>,
    /// The store holds messages that the queue in memory does not.
    pub(crate) behind: bool,
    /// The number of the read that is under way.
    pub(crate) loading: Option<u64>,
    pub(crate) reads: u64,
    /// Done while a read is under way, which may still bring them.
    pub(crate) done_meanwhile: HashSet<Seq>,
    /// Stored messages up to here are queued, in flight or done.
    pub(crate) queued_seq: Option<Seq>,
    /// Stored messages up to here were sent.
    pub(crate) sent_seq: Option<Seq>,
    /// The newest stored message that was left to the store, and the newest that a read under way must contain.
    pub(crate) skipped_seq: Option<Seq>,
    pub(crate) load_covers: Option<Seq>,
    /// After a restart: messages read back that the last run may have sent already go with DUP.
    pub(crate) maybe_sent: u16,
}

impl Outbound {
    pub(crate) fn new(ledger: Ledger) -> Self {
        let mut outbound = Self::default();
        outbound.ledger = ledger;
        outbound
    }

    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    fn count(&mut self, bytes: usize) {
        self.ledger.change(self.queue_bytes, bytes);
        self.queue_bytes = bytes;
    }

    pub(crate) fn push(&mut self, pending: Pending) {
        self.count(self.queue_bytes + pending.cost());
        self.queued_qos0 += usize::from(pending.qos == Qos::AtMostOnce);
        self.queued_seq = self.queued_seq.max(pending.seq);
        self.queue.push_back(pending);
    }

    pub(crate) fn pop(&mut self) -> Option<Pending> {
        let pending = self.queue.pop_front()?;
        self.forget(&pending);
        Some(pending)
    }

    fn forget(&mut self, pending: &Pending) {
        self.count(self.queue_bytes - pending.cost());
        self.queued_qos0 -= usize::from(pending.qos == Qos::AtMostOnce);
    }

    /// Drops the oldest QoS 0 message that waits; `false`: there is none.
    pub(crate) fn drop_oldest_qos0(&mut self) -> bool {
        if self.queued_qos0 == 0 {
            return false;
        }
        let Some(place) = self.queue.iter().position(|pending| pending.qos == Qos::AtMostOnce) else { return false };
        if let Some(pending) = self.queue.remove(place) {
            self.forget(&pending);
        }
        true
    }

    /// Drops every QoS 0 message that waits; how many.
    pub(crate) fn drop_qos0(&mut self) -> usize {
        let before = self.queue.len();
        self.queue.retain(|pending| pending.qos != Qos::AtMostOnce);
        self.count(self.queue.iter().map(Pending::cost).sum());
        self.queued_qos0 = 0;
        before - self.queue.len()
    }

    /// An identifier for the message, unless it must wait. A stored QoS 2 message always gets the same one, also after a restart, so that
    /// its receiver knows it again; it is therefore not written down before the message is sent.
    pub(crate) fn take_id(&mut self, qos: Qos, seq: Option<Seq>) -> Option<u16> {
        if let (Qos::ExactlyOnce, Some(seq)) = (qos, seq) {
            let id = u16::try_from(seq % 65_535).unwrap_or(0) + 1;
            if self.ids.insert(id) {
                return Some(id);
            }
            self.retired.wanted |= self.retired.ids.contains(&id);
            return None;
        }
        for _ in 0..u16::MAX {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.ids.insert(self.last_id) {
                return Some(self.last_id);
            }
        }
        None
    }

    /// After a restart: the last run may have sent QoS 2 messages by identifiers that it could not write down any more, and their receiver
    /// would take another message by such a one for the one that it holds. Counting on from anywhere will not meet them.
    pub(crate) fn scatter_ids(&mut self) {
        self.last_id = fastrand::u16(..);
    }

    /// Takes an identifier that the last run had in use. Many receivers hand a message on when it is released, so the order is that of
    /// the messages; identifiers begin anew at 65535.
    pub(crate) fn restore_released(&mut self, id: u16, seq: Option<Seq>) {
        if self.ids.insert(id) {
            let place = self.in_flight.partition_point(|flight| flight.seq <= seq);
            self.in_flight.insert(place, InFlight { id, seq, phase: Phase::Released });
            self.resend.insert(place, id);
        }
    }

    pub(crate) fn find(&mut self, id: u16) -> Option<&mut InFlight> {
        self.in_flight.iter_mut().find(|flight| flight.id == id)
    }

    /// Ends a flight and frees its identifier.
    pub(crate) fn finish(&mut self, id: u16) -> Option<InFlight> {
        let place = self.in_flight.iter().position(|flight| flight.id == id)?;
        self.ids.remove(&id);
        self.resend.retain(|&other| other != id);
        let flight = self.in_flight.remove(place)?;
        if self.loading.is_some() {
            self.done_meanwhile.extend(flight.seq);
        }
        Some(flight)
    }

    /// Keeps an identifier that is free again from the next message until the disk knows it as well. A run that is killed before that
    /// leaves its record, and the next one's PUBREL for the old message would release the new one.
    pub(crate) fn retire(&mut self, id: u16) {
        self.ids.insert(id);
        self.retired.ids.push(id);
    }

    /// Whether the store is now to be waited for, so that retired identifiers can be used; once for all that there are.
    pub(crate) fn wants_ids(&mut self) -> bool {
        let Retired { ids, leaving, wanted } = &mut self.retired;
        let asks = leaving.is_empty() && !ids.is_empty() && (*wanted || ids.len() >= RETIRED_MAX);
        if asks {
            std::mem::swap(ids, leaving);
            *wanted = false;
        }
        asks
    }

    /// The store has all that was said about the identifiers that wait for it.
    pub(crate) fn reuse(&mut self) {
        for id in self.retired.leaving.drain(..) {
            self.ids.remove(&id);
        }
    }

    pub(crate) fn holds(&self, seq: Seq) -> bool {
        self.in_flight.iter().any(|flight| flight.seq == Some(seq))
    }

    /// The connection is gone: what the store holds leaves memory; what was sent waits to be sent again.
    pub(crate) fn park(&mut self, durable: bool) {
        self.queue.retain(|pending| pending.seq.is_none() && pending.qos != Qos::AtMostOnce);
        self.count(self.queue.iter().map(Pending::cost).sum());
        self.queued_qos0 = 0;
        self.retained.clear();
        self.resend = self
            .in_flight
            .iter()
            .filter(|flight| !matches!(flight.phase, Phase::Recording { .. }))
            .map(|flight| flight.id)
            .collect();
        self.queued_seq = self.sent_seq;
        self.behind = durable;
        self.loading = None;
        self.done_meanwhile.clear();
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// Something that the client is told when the store has what it stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Puback(u16),
    Pubrec(u16),
    Pubrel(u16),
    Pubcomp(u16),
    Suback { id: u16, unsuback: bool, codes: Vec<u8> },
}

/// Answers in the order in which their packets came (MQTT 5, 4.6).
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// Number of the first in `queue`.
    first: u64,
    queue: VecDeque<(Reply, Option<Result<u8, Refusal>>)>,
    pubacks: usize,
}

impl Replies {
    /// QoS 1 publishes that their sender still waits for.
    pub(crate) fn pubacks(&self) -> usize {
        self.pubacks
    }

    /// `settled`: nothing to wait for, with this reason code.
    pub(crate) fn push(&mut self, reply: Reply, settled: Option<u8>) -> u64 {
        self.pubacks += usize::from(matches!(reply, Reply::Puback(_)));
        self.queue.push_back((reply, settled.map(Ok)));
        self.first + self.queue.len() as u64 - 1
    }

    /// `false`: the connection that asked is gone.
    pub(crate) fn settle(&mut self, number: u64, result: Result<u8, Refusal>) -> bool {
        let Some(place) = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else {
            return false;
        };
        match self.queue.get_mut(place) {
            Some((_, settled)) => {
                settled.get_or_insert(result);
                true
            }
            None => false,
        }
    }

    pub(crate) fn pop_settled(&mut self) -> Option<(Reply, Result<u8, Refusal>)> {
        match self.queue.front() {
            Some((_, Some(_))) => {
                self.first += 1;
                let (reply, settled) = self.queue.pop_front()?;
                self.pubacks -= usize::from(matches!(reply, Reply::Puback(_)));
                settled.map(|result| (reply, result))
            }
            _ => None,
        }
    }

    /// The connection is gone, and nobody waits any more.
    pub(crate) fn clear(&mut self) {
        self.first += self.queue.len() as u64;
        self.queue.clear();
        self.pubacks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restart_messages_are_released_in_their_order_though_identifiers_began_anew() {
        let mut outbound = Outbound::default();
        for (id, seq) in [(2, 65_536), (3, 65_537), (65_534, 65_533), (65_535, 65_534)] {
            outbound.restore_released(id, Some(seq));
        }
        assert_eq!(outbound.resend, [65_534, 65_535, 2, 3]);
        assert!(outbound.in_flight.iter().map(|flight| flight.id).eq(outbound.resend.iter().copied()));
    }
}
