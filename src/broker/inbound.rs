//! What an open connection brings: PUBLISH, SUBSCRIBE, UNSUBSCRIBE (MQTT 5, 3.3, 3.8, 3.10).

use std::sync::Arc;

use tracing::debug;

use super::api::{AckToken, Awaited, ConnId, Output};
use super::core::Broker;
use super::packet::{Publish, Reason, SubOptions, Version};
use super::record;
use super::routing::{bare_filter, is_valid_subscription, share};
use super::session::{Reply, Taken};
use crate::clock::{Now, UnixMs};
use crate::hub::topics::is_valid_topic;
use crate::message::{Again, Delivery, Message, Origin, Properties, Qos};
use crate::store::{Op, Space};

impl Broker {
    pub(crate) fn publish(&mut self, now: Now, conn: ConnId, key: u32, packet: Publish) {
        self.counters.messages_received += 1;
        let topic = match self.resolve_alias(conn, &packet) {
            Ok(topic) => topic,
            Err(reason) => return self.fail(now, conn, reason),
        };
        if !is_valid_topic(&topic) {
            return self.fail(now, conn, Reason::TopicNameInvalid);
        }
        let response = packet.properties.as_ref().and_then(|properties| properties.response_topic.as_deref());
        if response.is_some_and(|topic| !is_valid_topic(topic)) {
            return self.fail(now, conn, Reason::ProtocolError);
        }
        let deep = !self.depth_is_allowed(&topic);
        let most = self.spec.limits.max_in_flight;
        let Some(version) = self.conns.get(&conn).map(|state| state.version) else { return };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if packet.qos != Qos::AtMostOnce {
            // Its Receive Maximum (3.3.4); 3.1.1 has none, but the same bound with room for the impolite.
            let under_way = session.inbound.len() + session.replies.pubacks();
            let limit = if version == Version::V5 { usize::from(most) } else { usize::from(u16::MAX) };
            if under_way >= limit && !session.inbound.contains_key(&packet.id) {
                return self.fail(now, conn, Reason::ReceiveMaximumExceeded);
            }
        }
        if packet.qos == Qos::ExactlyOnce
            && let Some(taken) = session.inbound.get_mut(&packet.id)
        {
            // Taken before; it is not published again (4.3.3). While the store is busy with it, the answer comes later.
            if taken.committed {
                self.reply(key, Reply::Pubrec(packet.id), Some(0));
            } else {
                taken.asked_again = true;
            }
            return;
        }
        let allowed = session.rules.may_publish(&topic);
        if deep || !allowed {
            self.counters.publish_denied += 1;
            debug!(client = %session.client, %topic, "publish refused");
            let reason = if allowed { Reason::TopicNameInvalid } else { Reason::NotAuthorized };
            return self.refuse_publish(key, version, &packet, reason);
        }
        self.accept_publish(now, key, packet, topic);
    }

    fn resolve_alias(&mut self, conn: ConnId, packet: &Publish) -> Result<Arc<str>, Reason> {
        let Some(alias) = packet.alias else {
            return if packet.topic.is_empty() { Err(Reason::ProtocolError) } else { Ok(packet.topic.clone()) };
        };
        let state = self.conns.get_mut(&conn).ok_or(Reason::UnspecifiedError)?;
        let slot = usize::from(alias).checked_sub(1).and_then(|place| state.aliases.get_mut(place));
        let slot = slot.ok_or(Reason::TopicAliasInvalid)?;
        if packet.topic.is_empty() {
            return slot.clone().ok_or(Reason::ProtocolError);
        }
        *slot = Some(packet.topic.clone());
        Ok(packet.topic.clone())
    }

    pub(crate) fn depth_is_allowed(&self, topic: &str) -> bool {
        topic.bytes().filter(|&byte| byte == b'/').count() < self.spec.limits.max_topic_levels
    }

    /// MQTT 5 says why; 3.1.1 cannot, so the message is acknowledged and dropped (field note 18).
    fn refuse_publish(&mut self, key: u32, version: Version, packet: &Publish, reason: Reason) {
        let code = if version == Version::V5 { reason as u8 } else { 0 };
        match packet.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => {
                self.reply(key, Reply::Puback(packet.id), Some(code));
            }
            Qos::ExactlyOnce => {
                if code == 0 {
                    let taken = Taken { number: u64::MAX, committed: true, asked_again: false };
                    self.take_inbound(key, packet.id, taken);
                }
                self.reply(key, Reply::Pubrec(packet.id), Some(code));
            }
        }
    }

    fn take_inbound(&mut self, key: u32, id: u16, taken: Taken) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.inbound.insert(id, taken);
        if session.dest.is_some() {
            let key = record::packet_id_key(&session.client, id);
            self.store(Op::Put { space: Space::Inbound, key, value: bytes::Bytes::from_static(&[1]) });
        }
    }

    fn accept_publish(&mut self, now: Now, key: u32, packet: Publish, topic: Arc<str>) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let delivery = (packet.qos != Qos::AtMostOnce).then(|| Delivery {
            client: session.client.clone(),
            packet_id: packet.id,
            again: match packet.dup {
                true => Again::Redelivered { after: self.heard.until(&session.client) },
                false => Again::First,
            },
        });
        let mut properties = packet.properties;
        let response = properties.as_ref().and_then(|properties| properties.response_topic.as_deref());
        // An answer that its asker may neither read nor write would be somebody else's writing in its name.
        if response.is_some_and(|topic| !session.rules.may_subscribe(topic) && !session.rules.may_publish(topic)) {
            self.counters.publish_denied += 1;
            properties = properties.map(|given| Arc::new(Properties { response_topic: None, ..(*given).clone() }));
        }
        let message = Arc::new(Message {
            properties,
            expires: packet
                .expiry_secs
                .map(|secs| UnixMs(now.wall.0.saturating_add(i64::from(secs).saturating_mul(1000)))),
            ..Message::new(topic, packet.payload, packet.qos, packet.retain)
        });
        let number = match packet.qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => Some(session.replies.push(Reply::Puback(packet.id), None)),
            Qos::ExactlyOnce => {
                let number = session.replies.push(Reply::Pubrec(packet.id), None);
                self.take_inbound(key, packet.id, Taken { number, committed: false, asked_again: false });
                Some(number)
            }
        };
        self.outputs.push_back(Output::Publish {
            message,
            origin: Origin::Session(key),
            delivery,
            ack: number.map(|number| AckToken { session: key, awaited: Awaited::Answer(number) }),
        });
    }

    pub(crate) fn subscribe(
        &mut self,
        now: Now,
        conn: ConnId,
        key: u32,
        id: u16,
        filters: Vec<(Arc<str>, SubOptions)>,
    ) {
        for (filter, options) in &filters {
            if !is_valid_subscription(filter) {
                return self.fail(now, conn, Reason::TopicFilterInvalid);
            }
            // 3.8.3.1: a shared subscription with No Local.
            if options.no_local && share(filter).is_some() {
                return self.fail(now, conn, Reason::ProtocolError);
            }
        }
        let Some(version) = self.conns.get(&conn).map(|state| state.version) else { return };
        let mut codes = Vec::with_capacity(filters.len());
        for (filter, options) in filters {
            codes.push(match self.grant(key, &filter, options) {
                Ok(()) => options.qos as u8,
                Err(_) if version == Version::V4 => 0x80,
                Err(reason) => reason as u8,
            });
        }
        if self.retained_backlog_is_full(key) {
            self.counters.slow_disconnects += 1;
            return self.fail(now, conn, Reason::QuotaExceeded);
        }
        self.reply_stored(key, Reply::Suback { id, unsuback: false, codes });
        self.pump(now, key);
    }

    /// A client that subscribes over and over without reading would make a list without end.
    fn retained_backlog_is_full(&self, key: u32) -> bool {
        let limits = self.spec.limits;
        self.sessions
            .get(&key)
            .is_some_and(|session| session.outbound.retained.len() > limits.max_retained_messages.saturating_mul(4))
    }

    fn grant(&mut self, key: u32, filter: &Arc<str>, options: SubOptions) -> Result<(), Reason> {
        let limits = self.spec.limits;
        let bare = bare_filter(filter);
        let deep = !self.depth_is_allowed(bare);
        let Some(session) = self.sessions.get_mut(&key) else { return Err(Reason::UnspecifiedError) };
        if let Err(reason) = session.rules.subscribe(bare) {
            self.counters.subscribe_denied += 1;
            debug!(client = %session.client, %filter, "subscription refused");
            return Err(reason);
        }
        let new = !session.subscriptions.contains_key(filter);
        if deep || (new && session.subscriptions.len() >= limits.max_subscriptions_per_client) {
            self.counters.subscribe_denied += 1;
            return Err(Reason::QuotaExceeded);
        }
        session.subscriptions.insert(filter.clone(), options);
        let wanted = match options.retain_handling {
            0 => true,
            1 => new,
            _ => false,
        };
        // None for a shared subscription (4.8.2).
        if wanted && share(filter).is_none() {
            let topics = self.retained.matching(bare).map(|topic| (topic.clone(), options));
            session.outbound.retained.extend(topics);
        }
        if session.dest.is_some() {
            let key = record::subscription_key(&session.client, filter);
            self.store(Op::Put { space: Space::Session, key, value: record::encode_subscription(&options) });
        }
        self.subscribers.insert(filter, key, options);
        Ok(())
    }

    pub(crate) fn unsubscribe(&mut self, now: Now, key: u32, id: u16, filters: &[Arc<str>]) {
        let codes = filters
            .iter()
            // 0x11: no subscription existed.
            .map(|filter| if self.drop_subscription(key, filter) { 0 } else { 0x11 })
            .collect();
        self.reply_stored(key, Reply::Suback { id, unsuback: true, codes });
        self.pump(now, key);
    }

    pub(crate) fn drop_subscription(&mut self, key: u32, filter: &str) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        if session.subscriptions.remove(filter).is_none() {
            return false;
        }
        if session.dest.is_some() {
            let key = record::subscription_key(&session.client, filter);
            self.store(Op::Delete { space: Space::Session, key });
        }
        self.subscribers.remove(filter, key);
        true
    }
}
