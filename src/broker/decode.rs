//! Bytes from a client → packets. Framing and PUBLISH are read here (no copy of a large payload); the other packets and every property
//! list by `mqtt-protocol-core`. What that library lets pass and the specification does not is refused here.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::packet::{
    MqttBinary, MqttString, Properties as PropertyList, PropertiesParse, Property, SubEntry,
};
use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use super::packet::{Ack, AckKind, Connect, Packet, Publish, Reason, SubOptions, Version, WillPacket};
use crate::message::{Properties, Qos};

/// Payloads below this are copied out of the read buffer, so that a small message that waits does not keep a large buffer.
const SLICE_PAYLOAD_FROM: usize = 4096;

/// Length of the first packet in `bytes`, with its fixed header; `None`: not all there yet. `Err` before the packet is there when it can
/// not be taken.
pub(crate) fn frame_length(bytes: &[u8], max: usize) -> Result<Option<usize>, Reason> {
    let mut remaining = 0usize;
    for place in 0..4 {
        let Some(&byte) = bytes.get(1 + place) else { return Ok(None) };
        remaining |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            let total = 2 + place + remaining;
            if total > max {
                return Err(Reason::PacketTooLarge);
            }
            return Ok((bytes.len() >= total).then_some(total));
        }
    }
    Err(Reason::MalformedPacket)
}

/// One whole frame, as [`frame_length`] measured it. `version` is `None` before CONNECT.
pub(crate) fn packet(frame: &Bytes, version: Option<Version>) -> Result<Packet, Reason> {
    let Some(&first) = frame.first() else { return Err(Reason::MalformedPacket) };
    let header = 1 + frame[1..].iter().position(|byte| byte & 0x80 == 0).ok_or(Reason::MalformedPacket)? + 1;
    let body = frame.slice(header..);
    let (kind, flags) = (first >> 4, first & 0x0F);
    let Some(version) = version else {
        return if kind == 1 && flags == 0 { connect(&body) } else { Err(Reason::ProtocolError) };
    };
    let expected = match kind {
        3 => flags,
        6 | 8 | 10 => 2,
        _ => 0,
    };
    if flags != expected {
        return Err(Reason::MalformedPacket);
    }
    match kind {
        3 => publish(flags, &body, version).map(Packet::Publish),
        4 => ack(AckKind::Puback, &body, version),
        5 => ack(AckKind::Pubrec, &body, version),
        6 => ack(AckKind::Pubrel, &body, version),
        7 => ack(AckKind::Pubcomp, &body, version),
        8 => subscribe(&body, version),
        10 => unsubscribe(&body, version),
        12 if body.is_empty() => Ok(Packet::Pingreq),
        14 => disconnect(&body, version),
        12 => Err(Reason::MalformedPacket),
        _ => Err(Reason::ProtocolError),
    }
}

fn reason(error: MqttError) -> Reason {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the library's other codes do not come from parsing")]
    match error {
        MqttError::ProtocolError => Reason::ProtocolError,
        _ => Reason::MalformedPacket,
    }
}

fn exact<T>(parsed: Result<(T, usize), MqttError>, body: &[u8]) -> Result<T, Reason> {
    let (packet, used) = parsed.map_err(reason)?;
    if used == body.len() { Ok(packet) } else { Err(Reason::MalformedPacket) }
}

/// A UTF-8 string without U+0000 (MQTT 5, 1.5.4).
fn text(s: &str) -> Result<&str, Reason> {
    if s.contains('\0') { Err(Reason::MalformedPacket) } else { Ok(s) }
}

fn connect(body: &Bytes) -> Result<Packet, Reason> {
    // The level decides before anything else: an unknown one is answered, not just dropped (3.1.2.2).
    if body.starts_with(b"\0\x06MQIsdp") {
        return Err(Reason::UnsupportedOld);
    }
    if !body.starts_with(b"\0\x04MQTT") {
        return Err(Reason::ProtocolError);
    }
    let (Some(&level), Some(&flags)) = (body.get(6), body.get(7)) else { return Err(Reason::MalformedPacket) };
    let will_qos = flags >> 3 & 3;
    let will = flags & 4 != 0;
    match level {
        4 | 5 => {}
        0..4 => return Err(Reason::UnsupportedOld),
        _ => return Err(Reason::UnsupportedNew),
    }
    if flags & 1 != 0 || will_qos == 3 || (!will && (will_qos != 0 || flags & 0x20 != 0)) {
        return Err(Reason::MalformedPacket);
    }
    if level == 4 { connect_v4(body) } else { connect_v5(body) }
}

fn connect_v4(body: &Bytes) -> Result<Packet, Reason> {
    let parsed = exact(v3_1_1::Connect::parse(body), body)?;
    let will = match (parsed.will_topic(), parsed.will_payload()) {
        (Some(topic), Some(payload)) => Some(WillPacket {
            topic: text(topic)?.into(),
            payload: Bytes::copy_from_slice(payload),
            qos: qos(parsed.will_qos() as u8)?,
            retain: parsed.will_retain(),
            properties: None,
            expiry_secs: None,
            delay_secs: 0,
        }),
        _ => None,
    };
    Ok(Packet::Connect(Box::new(Connect {
        version: Version::V4,
        client: text(parsed.client_id())?.into(),
        clean_start: parsed.clean_session(),
        keep_alive_secs: parsed.keep_alive(),
        user: parsed.user_name().map(text).transpose()?.map(Into::into),
        password: parsed.password().map(Bytes::copy_from_slice),
        will,
        session_expiry_secs: None,
        receive_maximum: u16::MAX,
        max_packet_bytes: u32::MAX,
        topic_alias_maximum: 0,
        authentication: false,
    })))
}

/// The version that a first packet asks for, where it is a CONNECT of MQTT 5: whatever else is wrong with it is told in a CONNACK.
pub(crate) fn asks_for_v5(frame: &[u8]) -> bool {
    let body = frame.iter().skip(1).position(|byte| byte & 0x80 == 0).and_then(|place| frame.get(place + 2..));
    frame.first() == Some(&0x10) && body.is_some_and(|body| body.starts_with(b"\0\x04MQTT\x05"))
}

const USER_FLAG: u8 = 0x80;
const PASSWORD_FLAG: u8 = 0x40;

/// A CONNECT and its password, which may stand without a user name (3.1.2.9). That the library refuses, so it does not see it.
fn connect_and_password(body: &Bytes) -> Result<(v5_0::Connect, Option<Bytes>), Reason> {
    let flags = body.get(7).copied().unwrap_or_default();
    if flags & (USER_FLAG | PASSWORD_FLAG) != PASSWORD_FLAG {
        let parsed = exact(v5_0::Connect::parse(body), body)?;
        let password = parsed.password().map(Bytes::copy_from_slice);
        return Ok((parsed, password));
    }
    let mut rest = body.to_vec();
    rest[7] &= !PASSWORD_FLAG;
    let (parsed, used) = v5_0::Connect::parse(&rest).map_err(reason)?;
    let password = exact(MqttBinary::decode(&rest[used..]), &rest[used..])?;
    Ok((parsed, Some(Bytes::copy_from_slice(password.as_slice()))))
}

fn connect_v5(body: &Bytes) -> Result<Packet, Reason> {
    let (parsed, password) = connect_and_password(body)?;
    let mut connect = Connect {
        version: Version::V5,
        client: text(parsed.client_id())?.into(),
        clean_start: parsed.clean_start(),
        keep_alive_secs: parsed.keep_alive(),
        user: parsed.user_name().map(text).transpose()?.map(Into::into),
        password,
        will: None,
        session_expiry_secs: Some(0),
        receive_maximum: u16::MAX,
        max_packet_bytes: u32::MAX,
        topic_alias_maximum: 0,
        authentication: false,
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest of CONNECT's properties ask nothing of this broker")]
    for property in parsed.props() {
        match property {
            Property::SessionExpiryInterval(p) => connect.session_expiry_secs = Some(p.val()),
            Property::ReceiveMaximum(p) if p.val() == 0 => return Err(Reason::ProtocolError),
            Property::ReceiveMaximum(p) => connect.receive_maximum = p.val(),
            Property::MaximumPacketSize(p) if p.val() == 0 => return Err(Reason::ProtocolError),
            Property::MaximumPacketSize(p) => connect.max_packet_bytes = p.val(),
            Property::TopicAliasMaximum(p) => connect.topic_alias_maximum = p.val(),
            Property::AuthenticationMethod(_) | Property::AuthenticationData(_) => connect.authentication = true,
            _ => {}
        }
    }
    if let (Some(topic), Some(payload)) = (parsed.will_topic(), parsed.will_payload()) {
        let taken = properties(parsed.will_props())?;
        let mut delay_secs = 0;
        for property in parsed.will_props() {
            if let Property::WillDelayInterval(p) = property {
                delay_secs = p.val();
            }
        }
        connect.will = Some(WillPacket {
            topic: text(topic)?.into(),
            payload: Bytes::copy_from_slice(payload),
            qos: qos(parsed.will_qos() as u8)?,
            retain: parsed.will_retain(),
            properties: taken.properties.map(Arc::new),
            expiry_secs: taken.expiry_secs,
            delay_secs,
        });
    }
    Ok(Packet::Connect(Box::new(connect)))
}

fn qos(level: u8) -> Result<Qos, Reason> {
    Qos::try_from(level).map_err(|_| Reason::MalformedPacket)
}

fn packet_id(body: &[u8]) -> Result<u16, Reason> {
    match body {
        [high, low, ..] => match u16::from_be_bytes([*high, *low]) {
            0 => Err(Reason::ProtocolError),
            id => Ok(id),
        },
        _ => Err(Reason::MalformedPacket),
    }
}

fn publish(flags: u8, body: &Bytes, version: Version) -> Result<Publish, Reason> {
    let (topic, mut at) = MqttString::decode(body).map_err(reason)?;
    let level = qos(flags >> 1 & 3)?;
    let dup = flags & 8 != 0;
    if dup && level == Qos::AtMostOnce {
        return Err(Reason::MalformedPacket);
    }
    let mut id = 0;
    if level != Qos::AtMostOnce {
        id = packet_id(&body[at..])?;
        at += 2;
    }
    let mut taken = Taken::default();
    if version == Version::V5 {
        let (list, used) = PropertyList::parse(&body[at..]).map_err(reason)?;
        taken = properties(&list)?;
        at += used;
    }
    let payload =
        if body.len() - at < SLICE_PAYLOAD_FROM { Bytes::copy_from_slice(&body[at..]) } else { body.slice(at..) };
    Ok(Publish {
        topic: text(topic.as_str())?.into(),
        payload,
        qos: level,
        retain: flags & 1 != 0,
        dup,
        id,
        alias: taken.alias,
        properties: taken.properties.map(Arc::new),
        expiry_secs: taken.expiry_secs,
    })
}

#[derive(Default)]
struct Taken {
    properties: Option<Properties>,
    expiry_secs: Option<u32>,
    alias: Option<u16>,
}

/// The properties of a PUBLISH or a will; one that may stand once and stands twice is a protocol error (2.2.2.2).
fn properties(list: &[Property]) -> Result<Taken, Reason> {
    fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Reason> {
        if slot.replace(value).is_some() { Err(Reason::ProtocolError) } else { Ok(()) }
    }
    let mut taken = Taken::default();
    let mut given = Properties::default();
    for property in list {
        #[allow(clippy::wildcard_enum_match_arm, reason = "any other property is an error here")]
        match property {
            Property::PayloadFormatIndicator(p) => once(&mut given.payload_format, p.val())?,
            Property::ContentType(p) => once(&mut given.content_type, text(p.val())?.to_owned())?,
            Property::ResponseTopic(p) => once(&mut given.response_topic, text(p.val())?.to_owned())?,
            Property::CorrelationData(p) => once(&mut given.correlation_data, Bytes::copy_from_slice(p.val()))?,
            Property::UserProperty(p) => given.user.push((text(p.key())?.to_owned(), text(p.val())?.to_owned())),
            Property::MessageExpiryInterval(p) => once(&mut taken.expiry_secs, p.val())?,
            Property::TopicAlias(p) => once(&mut taken.alias, p.val())?,
            Property::WillDelayInterval(_) => {}
            // A Subscription Identifier among them: only a server sends one (3.3.4).
            _ => return Err(Reason::ProtocolError),
        }
    }
    if given != Properties::default() {
        taken.properties = Some(given);
    }
    Ok(taken)
}

fn ack(kind: AckKind, body: &Bytes, version: Version) -> Result<Packet, Reason> {
    let id = packet_id(body)?;
    if version == Version::V4 {
        return if body.len() == 2 { Ok(Packet::Ack(Ack { kind, id, code: 0 })) } else { Err(Reason::MalformedPacket) };
    }
    let code = match kind {
        AckKind::Puback => exact(v5_0::Puback::parse(body), body)?.reason_code().map_or(0, |code| code as u8),
        AckKind::Pubrec => exact(v5_0::Pubrec::parse(body), body)?.reason_code().map_or(0, |code| code as u8),
        AckKind::Pubrel => exact(v5_0::Pubrel::parse(body), body)?.reason_code().map_or(0, |code| code as u8),
        AckKind::Pubcomp => exact(v5_0::Pubcomp::parse(body), body)?.reason_code().map_or(0, |code| code as u8),
    };
    Ok(Packet::Ack(Ack { kind, id, code }))
}

fn subscribe(body: &Bytes, version: Version) -> Result<Packet, Reason> {
    let id = packet_id(body)?;
    let mut identifier = None;
    let parsed;
    let entries: &[SubEntry] = if version == Version::V4 {
        parsed = exact(v3_1_1::Subscribe::parse(body), body)?.entries().clone();
        &parsed
    } else {
        let packet = exact(v5_0::Subscribe::parse(body), body)?;
        for property in packet.props() {
            if let Property::SubscriptionIdentifier(p) = property
                && (p.val() == 0 || identifier.replace(p.val()).is_some())
            {
                return Err(Reason::ProtocolError);
            }
        }
        parsed = packet.entries().clone();
        &parsed
    };
    let mut filters = Vec::with_capacity(entries.len());
    for entry in entries {
        let bits = entry.sub_opts().to_buffer()[0];
        // Under 3.1.1 the upper six bits are reserved (3.1.1, 3.8.3).
        if version == Version::V4 && bits & !3 != 0 {
            return Err(Reason::MalformedPacket);
        }
        let options = SubOptions {
            qos: qos(bits & 3)?,
            no_local: bits & 4 != 0,
            retain_as_published: bits & 8 != 0,
            retain_handling: bits >> 4 & 3,
            identifier,
        };
        filters.push((text(entry.topic_filter())?.into(), options));
    }
    Ok(Packet::Subscribe { id, filters })
}

fn unsubscribe(body: &Bytes, version: Version) -> Result<Packet, Reason> {
    let id = packet_id(body)?;
    let owned;
    let entries = if version == Version::V4 {
        owned = exact(v3_1_1::Unsubscribe::parse(body), body)?.entries().clone();
        &owned
    } else {
        owned = exact(v5_0::Unsubscribe::parse(body), body)?.entries().clone();
        &owned
    };
    let filters = entries.iter().map(|entry| text(entry.as_str()).map(Into::into)).collect::<Result<_, _>>()?;
    Ok(Packet::Unsubscribe { id, filters })
}

fn disconnect(body: &Bytes, version: Version) -> Result<Packet, Reason> {
    if version == Version::V4 {
        return if body.is_empty() {
            Ok(Packet::Disconnect { code: 0, session_expiry_secs: None })
        } else {
            Err(Reason::MalformedPacket)
        };
    }
    let parsed = exact(v5_0::Disconnect::parse(body), body)?;
    let mut session_expiry_secs = None;
    for property in parsed.props().iter().flatten() {
        if let Property::SessionExpiryInterval(p) = property {
            session_expiry_secs = Some(p.val());
        }
    }
    Ok(Packet::Disconnect { code: parsed.reason_code().map_or(0, |code| code as u8), session_expiry_secs })
}
