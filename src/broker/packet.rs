//! MQTT control packets as this broker sees them, one form for 3.1.1 and 5.0.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::{Properties, Qos};

/// Protocol level of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.0.
    V5,
}

/// Why a packet or a connection is refused: MQTT 5 reason codes (2.4), and what they are under 3.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    NormalDisconnection = 0x00,
    UnspecifiedError = 0x80,
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    /// A protocol level below 3.1.1's: answered in 3.1.1's form.
    UnsupportedOld = 0x01,
    /// A protocol level above 5.0's: answered in 5.0's form.
    UnsupportedNew = 0x84,
    ClientIdentifierNotValid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    ServerShuttingDown = 0x8B,
    BadAuthenticationMethod = 0x8C,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    TopicFilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
    PacketIdentifierInUse = 0x91,
    PacketIdentifierNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
}

impl Reason {
    /// The CONNACK return code of 3.1.1 (3.2.2.3); `None`: the connection is closed without one.
    pub(crate) fn v4_return_code(self) -> Option<u8> {
        match self {
            Self::UnsupportedOld | Self::UnsupportedNew => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable | Self::ServerBusy | Self::ServerShuttingDown | Self::QuotaExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized => Some(5),
            Self::NormalDisconnection
            | Self::UnspecifiedError
            | Self::MalformedPacket
            | Self::ProtocolError
            | Self::BadAuthenticationMethod
            | Self::KeepAliveTimeout
            | Self::SessionTakenOver
            | Self::TopicFilterInvalid
            | Self::TopicNameInvalid
            | Self::PacketIdentifierInUse
            | Self::PacketIdentifierNotFound
            | Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::PacketTooLarge
            | Self::AdministrativeAction => None,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Packet {
    Connect(Box<Connect>),
    Publish(Publish),
    Ack(Ack),
    Subscribe { id: u16, filters: Vec<(Arc<str>, SubOptions)> },
    Unsubscribe { id: u16, filters: Vec<Arc<str>> },
    Pingreq,
    Disconnect { code: u8, session_expiry_secs: Option<u32> },
}

pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client: Arc<str>,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_secs: u16,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) password: Option<Bytes>,
    pub(crate) will: Option<WillPacket>,
    /// `None` under 3.1.1, where `clean_start` decides alone.
    pub(crate) session_expiry_secs: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) max_packet_bytes: u32,
    /// Topic aliases that the client takes from us.
    pub(crate) topic_alias_maximum: u16,
    /// An Authentication Method was given; this broker has none.
    pub(crate) authentication: bool,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect").field("client", &self.client).field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct WillPacket {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) properties: Option<Arc<Properties>>,
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) delay_secs: u32,
}

#[derive(Debug)]
pub(crate) struct Publish {
    /// Empty: the alias names it.
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// 0 with QoS 0.
    pub(crate) id: u16,
    pub(crate) alias: Option<u16>,
    pub(crate) properties: Option<Arc<Properties>>,
    pub(crate) expiry_secs: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) kind: AckKind,
    pub(crate) id: u16,
    pub(crate) code: u8,
}

/// What a client asked with a filter (MQTT 5, 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubOptions {
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// 0 send retained messages, 1 only for a new subscription, 2 never.
    pub(crate) retain_handling: u8,
    pub(crate) identifier: Option<u32>,
}
