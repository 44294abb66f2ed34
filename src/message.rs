//! What travels between mapping, broker, store and uplink: one MQTT application message.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::clock::UnixMs;

/// MQTT quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Qos {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl TryFrom<u8> for Qos {
    type Error = u8;

    fn try_from(level: u8) -> Result<Self, u8> {
        match level {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            other => Err(other),
        }
    }
}

/// A topic, payload, QoS and retain flag, with what MQTT 5 adds. Cheap to clone: everything big is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// No wildcards, not empty, at most 65,535 bytes (MQTT 5, 4.7.3).
    pub topic: Arc<str>,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// Only where a publisher gave some; most messages have none.
    pub properties: Option<Arc<Properties>>,
    /// When the message expires (MQTT 5 Message Expiry Interval, made absolute on arrival).
    pub expires: Option<UnixMs>,
}

/// MQTT 5 PUBLISH properties that are passed on unchanged (3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// 0 unspecified bytes, 1 UTF-8.
    pub payload_format: Option<u8>,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Bytes>,
    /// In the order given; names may repeat.
    pub user: Vec<(String, String)>,
}

impl Message {
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>, qos: Qos, retain: bool) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos, retain, properties: None, expires: None }
    }

    /// Bytes that a queue's bound counts for this message.
    pub fn cost(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |p| {
            p.content_type.as_ref().map_or(0, String::len)
                + p.response_topic.as_ref().map_or(0, String::len)
                + p.correlation_data.as_ref().map_or(0, Bytes::len)
                + p.user.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        });
        self.topic.len() + self.payload.len() + properties
    }
}

/// How a client's QoS 1 or 2 publish came: tells a second delivery of it from another one (MQTT 5, 3.3.1.1, 4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub client: Arc<str>,
    pub packet_id: u16,
    pub again: Again,
}

/// What its DUP flag says, joined with what is known of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    First,
    /// The client sent it before. What it sent up to `after` has all come, so this was first sent later, or has come;
    /// `None`: the client was not here before in this run.
    Redelivered {
        after: Option<Instant>,
    },
}

/// Where a message came from: it never goes back there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The gateway itself: samples, results, status.
    Gateway,
    /// A client of the local broker, by the broker's session key.
    Session(u32),
    /// An uplink, by its place in the configuration.
    Uplink(u16),
}
