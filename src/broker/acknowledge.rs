//! Both sides' acknowledgements: what clients say about messages sent to them, and what they are told about theirs (MQTT 5, 4.3).

use super::api::{AckToken, Awaited, ConnId, Output, Refusal};
use super::core::{Broker, Conn};
use super::encode;
use super::packet::{Ack, AckKind, Reason, Version};
use super::record::{self, OutboundRecord};
use super::session::{InFlight, Phase, Reply};
use crate::clock::Now;
use crate::message::Qos;
use crate::store::{Op, Space};

impl Broker {
    pub(crate) fn ack(&mut self, now: Now, conn: ConnId, key: u32, ack: Ack) {
        match ack.kind {
            AckKind::Puback => {
                let Some(session) = self.sessions.get_mut(&key) else { return };
                let qos1 = |flight: &InFlight| matches!(&flight.phase, Phase::Published(pending) if pending.qos == Qos::AtLeastOnce);
                match session.outbound.find(ack.id).map(|flight| qos1(flight)) {
                    Some(true) => self.landed(key, ack.id, false),
                    Some(false) => return self.fail(now, conn, Reason::ProtocolError),
                    None => {}
                }
            }
            AckKind::Pubrec => return self.pubrec(now, conn, key, ack),
            AckKind::Pubcomp => {
                let Some(session) = self.sessions.get_mut(&key) else { return };
                match session.outbound.find(ack.id).map(|flight| matches!(flight.phase, Phase::Released)) {
                    Some(true) => self.landed(key, ack.id, true),
                    Some(false) => return self.fail(now, conn, Reason::ProtocolError),
                    None => {}
                }
            }
            AckKind::Pubrel => return self.pubrel(now, conn, key, ack.id),
        }
        self.pump(now, key);
    }

    /// The client has the message for good.
    fn landed(&mut self, key: u32, id: u16, recorded: bool) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(flight) = session.outbound.finish(id) else { return };
        let (dest, client) = (session.dest, session.client.clone());
        let Some(dest) = dest else { return };
        if !matches!(&flight.phase, Phase::Published(pending) if pending.qos != Qos::ExactlyOnce) {
            session.outbound.retire(id);
        }
        if let Some(seq) = flight.seq {
            self.store(Op::Delivered { dest, seq });
        }
        if recorded {
            self.store(Op::Delete { space: Space::Outbound, key: record::packet_id_key(&client, id) });
        }
    }

    fn pubrec(&mut self, now: Now, conn: ConnId, key: u32, ack: Ack) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let (dest, client) = (session.dest, session.client.clone());
        let Some(flight) = session.outbound.find(ack.id) else {
            // Unknown here; PUBREL frees it there (4.3.3).
            self.reply(key, Reply::Pubrel(ack.id), Some(Reason::PacketIdentifierNotFound as u8));
            return;
        };
        match &flight.phase {
            Phase::Published(pending) if pending.qos != Qos::ExactlyOnce => {
                self.fail(now, conn, Reason::ProtocolError);
            }
            // The client will not have it (0x80 and above): that ends it as well.
            Phase::Published(pending) if ack.code >= 0x80 => {
                let recorded = pending.seq.is_none();
                self.landed(key, ack.id, recorded);
                self.pump(now, key);
            }
            Phase::Published(_) => {
                let seq = flight.seq;
                flight.phase = Phase::Released;
                if dest.is_none() {
                    self.reply(key, Reply::Pubrel(ack.id), Some(0));
                    return;
                }
                // From here on the message must not be sent again, also after a restart: PUBREL waits for the store.
                let value = OutboundRecord { seq: seq.unwrap_or(0) }.encode();
                let op = Op::Put { space: Space::Outbound, key: record::packet_id_key(&client, ack.id), value };
                self.store(op);
                let number = self.reply_stored(key, Reply::Pubrel(ack.id));
                let flight = self.sessions.get_mut(&key).and_then(|session| session.outbound.find(ack.id));
                if let (Some(flight), Some(number)) = (flight, number) {
                    flight.phase = Phase::Recording { number };
                }
            }
            Phase::Recording { .. } => {}
            Phase::Released => {
                self.reply(key, Reply::Pubrel(ack.id), Some(0));
            }
        }
    }

    fn pubrel(&mut self, now: Now, conn: ConnId, key: u32, id: u16) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        match session.inbound.get(&id) {
            // Released before it was acknowledged.
            Some(taken) if !taken.committed => self.fail(now, conn, Reason::ProtocolError),
            Some(_) => {
                session.inbound.remove(&id);
                if session.dest.is_some() {
                    let key = record::packet_id_key(&session.client, id);
                    self.store(Op::Delete { space: Space::Inbound, key });
                }
                // After PUBCOMP the client may use the identifier for another message: it must be forgotten on the disk by then.
                self.reply_stored(key, Reply::Pubcomp(id));
            }
            None => {
                // After a reconnect it is the answer to the first PUBREL that was lost (3.7.2.1): some clients take 0x92 for a failure of
                // their message.
                let recovers = self.conns.get(&conn).is_some_and(|state| state.resumed);
                let code = if recovers { 0 } else { Reason::PacketIdentifierNotFound as u8 };
                self.reply(key, Reply::Pubcomp(id), Some(code));
            }
        }
    }

    /// An answer that needs nothing stored.
    pub(crate) fn reply(&mut self, key: u32, reply: Reply, code: Option<u8>) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.replies.push(reply, code);
        self.flush_replies(key);
    }

    /// An answer that a durable session gets once what was told to the store before is committed.
    pub(crate) fn reply_stored(&mut self, key: u32, reply: Reply) -> Option<u64> {
        let session = self.sessions.get_mut(&key)?;
        if session.dest.is_none() {
            self.reply(key, reply, Some(0));
            return None;
        }
        let number = session.replies.push(reply, None);
        self.outputs.push_back(Output::Barrier(AckToken { session: key, awaited: Awaited::Answer(number) }));
        Some(number)
    }

    pub(crate) fn settle(&mut self, now: Now, token: AckToken, result: Result<(), Refusal>) {
        let key = token.session;
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Awaited::Answer(number) = token.awaited else {
            // On a disk that takes nothing they go as well: what it did not take stands in the store's memory.
            session.outbound.reuse();
            return self.pump(now, key);
        };
        let on_time = session.replies.settle(number, result.map(|()| 0));
        // QoS 2 inbound: remembered as taken, or forgotten, whether or not its connection is still there.
        let taken = session.inbound.iter().find(|(_, taken)| taken.number == number).map(|(&id, _)| id);
        if let Some(id) = taken {
            self.settle_inbound(key, id, on_time, result);
        }
        let Some(session) = self.sessions.get_mut(&key) else { return };
        // QoS 2 outbound: recorded, or kept in the store's memory; PUBREL goes either way, now or on the next connection.
        let recorded = session
            .outbound
            .in_flight
            .iter_mut()
            .find(|flight| matches!(flight.phase, Phase::Recording { number: waits } if waits == number));
        if let Some(flight) = recorded {
            flight.phase = Phase::Released;
            let id = flight.id;
            if !on_time {
                session.outbound.resend.push_back(id);
            }
        }
        self.flush_replies(key);
        self.pump(now, key);
    }

    fn settle_inbound(&mut self, key: u32, id: u16, on_time: bool, result: Result<(), Refusal>) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        match result {
            Ok(()) => {
                let Some(taken) = session.inbound.get_mut(&id) else { return };
                taken.committed = true;
                taken.number = u64::MAX;
                if !on_time && std::mem::take(&mut taken.asked_again) && session.conn.is_some() {
                    self.reply(key, Reply::Pubrec(id), Some(0));
                }
            }
            Err(_) => {
                session.inbound.remove(&id);
                if session.dest.is_some() {
                    let key = record::packet_id_key(&session.client, id);
                    self.store(Op::Delete { space: Space::Inbound, key });
                }
            }
        }
    }

    fn flush_replies(&mut self, key: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(conn) = session.conn else { return };
        let Some(state) = self.conns.get_mut(&conn) else { return };
        while let Some((reply, result)) = session.replies.pop_settled() {
            write_reply(state, reply, result);
        }
        self.mark_dirty(conn);
    }
}

fn write_reply(state: &mut Conn, reply: Reply, result: Result<u8, Refusal>) {
    let version = state.version;
    let out = &mut state.out;
    let code = match result {
        Ok(code) => code,
        Err(Refusal::Quota) => Reason::QuotaExceeded as u8,
    };
    let silent = result.is_err() && version == Version::V4;
    match reply {
        Reply::Puback(_) | Reply::Pubrec(_) if silent => {}
        Reply::Puback(id) => encode::ack(out, version, AckKind::Puback, id, code),
        Reply::Pubrec(id) => encode::ack(out, version, AckKind::Pubrec, id, code),
        // What was recorded stands in the store's memory when the disk refused it: the flow goes on.
        Reply::Pubrel(id) => encode::ack(out, version, AckKind::Pubrel, id, result.unwrap_or(0)),
        Reply::Pubcomp(id) => encode::ack(out, version, AckKind::Pubcomp, id, result.unwrap_or(0)),
        Reply::Suback { id, unsuback, codes } => encode::suback(out, version, unsuback, id, &codes),
    }
}
