//! One message into one connection's buffer: identifier, window, expiry, packet size.

use tracing::debug;

use super::api::Counters;
use super::core::Conn;
use super::encode::{self, Delivery};
use super::packet::AckKind;
use super::record::{self, OutboundRecord};
use super::session::{InFlight, Pending, Phase, Session};
use crate::clock::Now;
use crate::message::Qos;
use crate::store::{Op, Space};

/// Sends one message for the first time. `false`: it must wait. Dropped ones count as sent.
pub(crate) fn launch(
    counters: &mut Counters,
    state: &mut Conn,
    session: &mut Session,
    now: Now,
    pending: Pending,
    ops: &mut Vec<Op>,
) -> bool {
    let outbound = &mut session.outbound;
    if pending.message.expires.is_some_and(|at| at <= now.wall) {
        counters.dropped_expired += 1;
        finished(session, &pending, ops);
        return true;
    }
    if pending.qos == Qos::AtMostOnce {
        send(counters, state, now, &pending, 0);
        finished(session, &pending, ops);
        return true;
    }
    if outbound.in_flight.len() >= state.window {
        return false;
    }
    let Some(id) = outbound.take_id(pending.qos, pending.seq) else { return false };
    outbound.sent_seq = outbound.sent_seq.max(pending.seq);
    outbound.queued_seq = outbound.queued_seq.max(pending.seq);
    let sent = send(counters, state, now, &pending, id);
    outbound.in_flight.push_back(InFlight { id, seq: pending.seq, phase: Phase::Published(pending.clone()) });
    if !sent {
        outbound.finish(id);
        finished(session, &pending, ops);
    } else if pending.qos == Qos::ExactlyOnce && pending.seq.is_none() && session.dest.is_some() {
        // Without a row in the store nothing else tells the next run that this identifier is in use.
        let key = record::packet_id_key(&session.client, id);
        ops.push(Op::Put { space: Space::Outbound, key, value: OutboundRecord { seq: 0 }.encode() });
    }
    true
}

/// The message will not be sent (again): its row goes.
fn finished(session: &mut Session, pending: &Pending, ops: &mut Vec<Op>) {
    session.outbound.sent_seq = session.outbound.sent_seq.max(pending.seq);
    if let (Some(dest), Some(seq)) = (session.dest, pending.seq) {
        ops.push(Op::Delivered { dest, seq });
    }
}

pub(crate) fn resend(counters: &mut Counters, state: &mut Conn, session: &mut Session, now: Now, id: u16) {
    let Some(flight) = session.outbound.find(id) else { return };
    match &mut flight.phase {
        Phase::Published(pending) => {
            pending.dup = true;
            send(counters, state, now, pending, id);
        }
        Phase::Released => encode::ack(&mut state.out, state.version, AckKind::Pubrel, id, 0),
        Phase::Recording { .. } => {}
    }
}

/// Puts a PUBLISH into the connection's buffer. `false`: the client does not take packets of this size (3.1.2.11.4).
pub(crate) fn send(counters: &mut Counters, state: &mut Conn, now: Now, pending: &Pending, id: u16) -> bool {
    let expiry_secs = pending.message.expires.map(|at| {
        let left = at.0.saturating_sub(now.wall.0).max(0);
        u32::try_from((left + 999) / 1000).unwrap_or(u32::MAX)
    });
    let delivery = Delivery {
        message: &pending.message,
        qos: pending.qos,
        retain: pending.retain,
        dup: pending.dup && pending.qos != Qos::AtMostOnce,
        id,
        alias: state.own_aliases.find(&pending.message.topic),
        identifiers: &pending.identifiers,
        expiry_secs,
    };
    if delivery.size(state.version).is_none_or(|size| size > state.max_packet_bytes) {
        counters.dropped_too_large += 1;
        debug!(topic = %pending.message.topic, "message larger than its receiver takes");
        return false;
    }
    delivery.write(state.version, &mut state.out);
    state.own_aliases.sent(&pending.message.topic, delivery.alias);
    counters.messages_sent += 1;
    true
}
