//! Packets from upstream, in one shape for both protocol versions.
//!
//! Reason codes are kept as numbers: a server may send one that is newer than this program.

use bytes::Bytes;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{PacketBuildResult, PacketBuilder, PacketData, RawPacket};
use mqtt_protocol_core::mqtt::packet::{PropertiesParse, Property, v3_1_1, v5_0};

use crate::message::{Properties, Qos};

use super::error::SessionError;
use super::spec::ProtocolVersion;

/// The largest packet taken from upstream, in bytes; told to MQTT 5 servers.
pub const PACKET_BYTES_MAX: u32 = 262_144;
/// How much of a server's text is kept.
const TEXT_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub enum Incoming {
    Connack {
        /// 0 is success in both versions.
        code: u8,
        limits: Limits,
        text: Option<String>,
    },
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(u16),
    Pubcomp(Ack),
    /// A code for each filter of the one SUBSCRIBE.
    Suback(Vec<u8>),
    Pingresp,
    Disconnect {
        code: u8,
        text: Option<String>,
    },
}

#[derive(Debug)]
pub struct Ack {
    pub packet_id: u16,
    /// 0 where none was given.
    pub code: u8,
    pub text: Option<String>,
}

#[derive(Debug)]
pub struct Publish {
    /// `None` with QoS 0 only.
    pub packet_id: Option<u16>,
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    pub properties: Option<Properties>,
    /// Message Expiry Interval, in seconds.
    pub expiry: Option<u32>,
}

/// What a CONNACK limits (MQTT 5, 3.2.2.3); 3.1.1 limits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub receive_maximum: u16,
    pub packet_bytes: u32,
    pub qos: Qos,
    pub retain: bool,
    /// Seconds; `None`: what was asked for.
    pub keep_alive: Option<u16>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_maximum: u16::MAX,
            packet_bytes: u32::MAX,
            qos: Qos::ExactlyOnce,
            retain: true,
            keep_alive: None,
        }
    }
}

/// Cuts a stream of bytes into packets.
pub struct Decoder {
    version: ProtocolVersion,
    builder: PacketBuilder,
}

impl Decoder {
    pub fn new(version: ProtocolVersion) -> Self {
        Self { version, builder: PacketBuilder::with_maximum_packet_size(PACKET_BYTES_MAX) }
    }

    /// The next whole packet; what was read is cut off `bytes`. `None`: more bytes are needed.
    ///
    /// # Errors
    /// What came is no MQTT, or larger than [`PACKET_BYTES_MAX`]: the connection is to be closed.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Incoming>, SessionError> {
        let mut cursor = Cursor::new(*bytes);
        let built = self.builder.feed(&mut cursor);
        let read = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        *bytes = bytes.get(read..).unwrap_or_default();
        match built {
            PacketBuildResult::Complete(raw) => decode(self.version, &raw).map(Some),
            PacketBuildResult::Incomplete => Ok(None),
            PacketBuildResult::Error(error) => Err(SessionError::Malformed(error.to_string())),
        }
    }
}

fn decode(version: ProtocolVersion, raw: &RawPacket) -> Result<Incoming, SessionError> {
    let body = raw.data_as_slice();
    match raw.packet_type() {
        2 => connack(version, body),
        3 => publish(version, raw).map(Incoming::Publish),
        4 => ack(version, body).map(Incoming::Puback),
        5 => ack(version, body).map(Incoming::Pubrec),
        6 => ack(version, body).map(|ack| Incoming::Pubrel(ack.packet_id)),
        7 => ack(version, body).map(Incoming::Pubcomp),
        9 => suback(version, body),
        13 => Ok(Incoming::Pingresp),
        14 if version == ProtocolVersion::V5 => {
            let text = body.get(1..).and_then(reason_text);
            Ok(Incoming::Disconnect { code: body.first().copied().unwrap_or(0), text })
        }
        other => Err(SessionError::Malformed(format!("a server does not send packet type {other}"))),
    }
}

fn connack(version: ProtocolVersion, body: &[u8]) -> Result<Incoming, SessionError> {
    let [_flags, code, rest @ ..] = body else {
        return Err(malformed("CONNACK"));
    };
    let (mut limits, mut text) = (Limits::default(), None);
    // A server that knows no MQTT 5 answers in the older form, without properties.
    if version == ProtocolVersion::V5 && !rest.is_empty() {
        let (properties, _) = Vec::<Property>::parse(rest).map_err(|_| malformed("CONNACK properties"))?;
        text = limits_of(&properties, &mut limits);
    }
    Ok(Incoming::Connack { code: *code, limits, text })
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the other properties mean nothing to this client")]
fn limits_of(properties: &[Property], limits: &mut Limits) -> Option<String> {
    let mut text = None;
    for property in properties {
        match property {
            Property::ReceiveMaximum(p) => limits.receive_maximum = p.val().max(1),
            Property::MaximumPacketSize(p) => limits.packet_bytes = p.val(),
            Property::MaximumQos(p) => limits.qos = Qos::try_from(p.val()).unwrap_or(Qos::AtMostOnce),
            Property::RetainAvailable(p) => limits.retain = p.val() != 0,
            Property::ServerKeepAlive(p) => limits.keep_alive = Some(p.val()),
            Property::ReasonString(p) => text = Some(cleaned(p.val())),
            _ => {}
        }
    }
    text
}

fn ack(version: ProtocolVersion, body: &[u8]) -> Result<Ack, SessionError> {
    let [high, low, rest @ ..] = body else {
        return Err(malformed("acknowledgement"));
    };
    if version == ProtocolVersion::V311 && !rest.is_empty() {
        return Err(malformed("acknowledgement"));
    }
    let code = rest.first().copied().unwrap_or(0);
    let text = if code == 0 { None } else { rest.get(1..).and_then(reason_text) };
    Ok(Ack { packet_id: u16::from_be_bytes([*high, *low]), code, text })
}

fn suback(version: ProtocolVersion, body: &[u8]) -> Result<Incoming, SessionError> {
    let codes = match version {
        ProtocolVersion::V311 => {
            let (packet, _) = v3_1_1::Suback::parse(body).map_err(|_| malformed("SUBACK"))?;
            packet.return_codes().into_iter().map(|code| code as u8).collect()
        }
        ProtocolVersion::V5 => {
            let (packet, _) = v5_0::Suback::parse(body).map_err(|_| malformed("SUBACK"))?;
            packet.reason_codes().into_iter().map(|code| code as u8).collect()
        }
    };
    Ok(Incoming::Suback(codes))
}

fn publish(version: ProtocolVersion, raw: &RawPacket) -> Result<Publish, SessionError> {
    let PacketData::Publish(body) = &raw.data else {
        return Err(malformed("PUBLISH"));
    };
    let mut taken = match version {
        ProtocolVersion::V311 => {
            let (packet, _) = v3_1_1::Publish::parse(raw.flags(), body.clone()).map_err(|_| malformed("PUBLISH"))?;
            Publish {
                packet_id: packet.packet_id(),
                topic: packet.topic_name().to_owned(),
                payload: Bytes::copy_from_slice(packet.payload().as_slice()),
                qos: Qos::AtMostOnce,
                retain: packet.retain(),
                properties: None,
                expiry: None,
            }
        }
        ProtocolVersion::V5 => {
            let (packet, _) = v5_0::Publish::parse(raw.flags(), body.clone()).map_err(|_| malformed("PUBLISH"))?;
            let (properties, expiry) = publish_properties(&packet.props)?;
            Publish {
                packet_id: packet.packet_id(),
                topic: packet.topic_name().to_owned(),
                payload: Bytes::copy_from_slice(packet.payload().as_slice()),
                qos: Qos::AtMostOnce,
                retain: packet.retain(),
                properties,
                expiry,
            }
        }
    };
    taken.qos = Qos::try_from((raw.flags() >> 1) & 0b11).map_err(|_| malformed("PUBLISH"))?;
    if taken.packet_id == Some(0) {
        return Err(malformed("PUBLISH packet identifier"));
    }
    Ok(taken)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the parser lets only PUBLISH properties through")]
fn publish_properties(given: &[Property]) -> Result<(Option<Properties>, Option<u32>), SessionError> {
    let (mut properties, mut expiry, mut any) = (Properties::default(), None, false);
    for property in given {
        any = true;
        match property {
            Property::PayloadFormatIndicator(p) => properties.payload_format = Some(p.val()),
            Property::ContentType(p) => properties.content_type = Some(checked(p.val())?),
            Property::ResponseTopic(p) => properties.response_topic = Some(checked(p.val())?),
            Property::CorrelationData(p) => properties.correlation_data = Some(Bytes::copy_from_slice(p.val())),
            Property::UserProperty(p) => properties.user.push((checked(p.key())?, checked(p.val())?)),
            Property::MessageExpiryInterval(p) => expiry = Some(p.val()),
            // None was allowed: Topic Alias Maximum is not in the CONNECT (3.3.2.3.4).
            Property::TopicAlias(_) => return Err(malformed("PUBLISH: a topic alias that was not allowed")),
            _ => {}
        }
    }
    Ok((any.then_some(properties), expiry))
}

/// A UTF-8 string holds no NUL (MQTT 5, 1.5.4).
fn checked(text: &str) -> Result<String, SessionError> {
    if text.contains('\0') { Err(malformed("string with NUL")) } else { Ok(text.to_owned()) }
}

fn reason_text(properties: &[u8]) -> Option<String> {
    let (properties, _) = Vec::<Property>::parse(properties).ok()?;
    limits_of(&properties, &mut Limits::default())
}

/// A server's text as a log may show it: short, and without control characters.
fn cleaned(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

fn malformed(what: &str) -> SessionError {
    SessionError::Malformed(what.to_owned())
}

/// A reason code in words (MQTT 5, 2.4).
pub fn reason_name(code: u8) -> &'static str {
    match code {
        0x00 => "success",
        0x04 => "disconnect with will message",
        0x10 => "no matching subscribers",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorised",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => "unknown reason",
    }
}

/// The MQTT 5 reason code that a 3.1.1 CONNACK return code means (3.1.1, 3.2.2.3).
pub fn connect_reason(version: ProtocolVersion, code: u8) -> u8 {
    match (version, code) {
        // A server that knows no MQTT 5 says so in the older form.
        (_, 1) => 0x84,
        (ProtocolVersion::V311, 2) => 0x85,
        (ProtocolVersion::V311, 3) => 0x88,
        (ProtocolVersion::V311, 4) => 0x86,
        (ProtocolVersion::V311, 5) => 0x87,
        (_, code) => code,
    }
}
