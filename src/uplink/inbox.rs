//! Messages from upstream: which are let in, and how each is acknowledged, once, when the owner says so.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;

use crate::clock::{Now, UnixMs};
use crate::hub::topics::{filter_matches, is_valid_topic};
use crate::message::{Message, Qos};

use super::codec::Publish;
use super::encode::{Ack, RECEIVE_MAXIMUM, ack};
use super::error::SessionError;
use super::spec::{ProtocolVersion, UplinkSpec};

/// Unacknowledged messages from a 3.1.1 server, which cannot be told a limit.
const OPEN_MAX_V311: usize = 1024;

/// Names a message from upstream until it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    connection: u64,
    /// 0 for QoS 0, which is not acknowledged.
    packet_id: u16,
}

/// A message with QoS 1 or 2 whose exchange is not over.
#[derive(Debug)]
struct Exchange {
    qos: Qos,
    /// PUBREC went out.
    received: bool,
}

/// The exchanges of one connection.
#[derive(Debug)]
pub struct Inbox {
    connection: u64,
    open: HashMap<u16, Exchange>,
    open_max: usize,
}

impl Inbox {
    /// `connection` is a number that no other connection has.
    pub fn new(connection: u64, version: ProtocolVersion) -> Self {
        let open_max = match version {
            ProtocolVersion::V311 => OPEN_MAX_V311,
            ProtocolVersion::V5 => usize::from(RECEIVE_MAXIMUM),
        };
        Self { connection, open: HashMap::new(), open_max }
    }

    /// A PUBLISH came. `None`: it is known already, and not to be handed out again.
    ///
    /// # Errors
    /// More are unacknowledged than the server may send.
    pub fn arrived(&mut self, publish: &Publish, out: &mut BytesMut) -> Result<Option<Token>, SessionError> {
        let Some(packet_id) = publish.packet_id else {
            return Ok(Some(Token { connection: self.connection, packet_id: 0 }));
        };
        if let Some(known) = self.open.get(&packet_id) {
            if known.received {
                ack(Ack::Pubrec, packet_id, out);
            }
            return Ok(None);
        }
        if self.open.len() >= self.open_max {
            return Err(SessionError::Protocol("more unacknowledged messages than allowed"));
        }
        self.open.insert(packet_id, Exchange { qos: publish.qos, received: false });
        Ok(Some(Token { connection: self.connection, packet_id }))
    }

    /// The owner has taken care of it. A token of another connection, or one used before, does nothing.
    pub fn acknowledge(&mut self, token: Token, out: &mut BytesMut) {
        if token.connection != self.connection {
            return;
        }
        let Some(exchange) = self.open.get_mut(&token.packet_id) else {
            return;
        };
        if exchange.qos == Qos::AtLeastOnce {
            self.open.remove(&token.packet_id);
            ack(Ack::Puback, token.packet_id, out);
        } else if !exchange.received {
            exchange.received = true;
            ack(Ack::Pubrec, token.packet_id, out);
        }
    }

    /// PUBREL came; one for an exchange that is over is answered too.
    ///
    /// # Errors
    /// The message was not acknowledged yet.
    pub fn released(&mut self, packet_id: u16, out: &mut BytesMut) -> Result<(), SessionError> {
        if self.open.remove(&packet_id).is_some_and(|exchange| !exchange.received) {
            return Err(SessionError::Protocol("PUBREL before PUBREC"));
        }
        ack(Ack::Pubcomp, packet_id, out);
        Ok(())
    }
}

/// The message as it is known here, if `accept` asks for it: without the prefix, its expiry made absolute. What the
/// gateway and its broker say of themselves nobody above says for them, whatever `accept` covers.
pub fn accepted(spec: &UplinkSpec, publish: Publish, now: Now) -> Option<Message> {
    let topic = publish.topic.strip_prefix(spec.prefix.as_str())?;
    let reserved = topic.starts_with('$') || spec.own_topics().is_some_and(|own| topic.starts_with(own));
    if reserved || !is_valid_topic(topic) || !spec.accept.iter().any(|filter| filter_matches(filter, topic)) {
        return None;
    }
    let properties = publish.properties.map(|mut properties| {
        let local = properties.response_topic.as_deref().and_then(|t| t.strip_prefix(spec.prefix.as_str()));
        if let Some(local) = local {
            properties.response_topic = Some(local.to_owned());
        }
        Arc::new(properties)
    });
    let expires = publish.expiry.map(|secs| UnixMs(now.wall.0.saturating_add(i64::from(secs) * 1000)));
    Some(Message {
        topic: topic.into(),
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        properties,
        expires,
    })
}
