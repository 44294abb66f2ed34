//! Packets to upstream, for both protocol versions.

use bytes::BytesMut;
use mqtt_protocol_core::mqtt::packet::{self as mqtt, Property, RetainHandling, SubEntry, SubOpts, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use crate::message::{Message, Properties, Qos};
use crate::store::Stored;

use super::codec::PACKET_BYTES_MAX;
use super::spec::{ProtocolVersion, UplinkSpec};

/// What the last will and the goodbye say, retained, on the status topic.
pub const OFFLINE: &str = "offline";
/// What is said there after CONNACK.
pub const ONLINE: &str = "online";
/// Messages from upstream that may be unacknowledged at once; told to MQTT 5 servers.
pub const RECEIVE_MAXIMUM: u16 = 32;
/// Seconds between signs of life, unless the server says otherwise.
pub const KEEP_ALIVE_SECS: u16 = 30;
/// A message larger than this is not sent at all; far below what MQTT's length field holds.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A PUBLISH before it is encoded.
pub struct Outgoing<'a> {
    /// As upstream knows it.
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: Qos,
    pub retain: bool,
    /// With QoS 1 and 2.
    pub packet_id: Option<u16>,
    /// MQTT 5 only.
    pub properties: Vec<Property>,
}

/// CONNECT with the last will; a clean start, so that the store is the only truth.
///
/// # Errors
/// A text that MQTT cannot carry (longer than 65,535 bytes).
pub fn connect(spec: &UplinkSpec, password: Option<&[u8]>) -> Result<Vec<u8>, MqttError> {
    let will_topic = status_topic(spec);
    let will_qos = protocol_qos(spec.qos.min(Qos::AtLeastOnce));
    match spec.version {
        ProtocolVersion::V311 => {
            let mut packet = v3_1_1::Connect::builder()
                .client_id(spec.client_id.as_str())?
                .clean_session(true)
                .keep_alive(KEEP_ALIVE_SECS)
                .will_message(will_topic, OFFLINE.as_bytes().to_vec(), will_qos, true)?;
            if let Some(name) = &spec.username {
                packet = packet.user_name(name.as_str())?;
            }
            if let Some(password) = password {
                packet = packet.password(password.to_vec())?;
            }
            Ok(packet.build()?.to_continuous_buffer())
        }
        ProtocolVersion::V5 => {
            let mut packet = v5_0::Connect::builder()
                .client_id(spec.client_id.as_str())?
                .clean_start(true)
                .keep_alive(KEEP_ALIVE_SECS)
                .will_message(will_topic, OFFLINE.as_bytes().to_vec(), will_qos, true)?
                .props(vec![
                    Property::SessionExpiryInterval(mqtt::SessionExpiryInterval::new(0)?),
                    Property::ReceiveMaximum(mqtt::ReceiveMaximum::new(RECEIVE_MAXIMUM)?),
                    Property::MaximumPacketSize(mqtt::MaximumPacketSize::new(PACKET_BYTES_MAX)?),
                ]);
            if let Some(name) = &spec.username {
                packet = packet.user_name(name.as_str())?;
            }
            if let Some(password) = password {
                packet = packet.password(password.to_vec())?;
            }
            Ok(packet.build()?.to_continuous_buffer())
        }
    }
}

/// The status topic as upstream knows it.
pub fn status_topic(spec: &UplinkSpec) -> String {
    format!("{}{}", spec.prefix, spec.status_topic)
}

/// # Errors
/// A filter that MQTT cannot carry.
pub fn subscribe(spec: &UplinkSpec, packet_id: u16, qos: Qos) -> Result<Vec<u8>, MqttError> {
    let options = SubOpts::new().set_qos(protocol_qos(qos));
    let options = match spec.version {
        ProtocolVersion::V311 => options,
        ProtocolVersion::V5 => options.set_nl(true).set_rap(true).set_rh(RetainHandling::SendRetained),
    };
    let entries = spec
        .accept
        .iter()
        .map(|filter| SubEntry::new(format!("{}{filter}", spec.prefix), options))
        .collect::<Result<Vec<_>, _>>()?;
    match spec.version {
        ProtocolVersion::V311 => {
            Ok(v3_1_1::Subscribe::builder().packet_id(packet_id).entries(entries).build()?.to_continuous_buffer())
        }
        ProtocolVersion::V5 => {
            Ok(v5_0::Subscribe::builder().packet_id(packet_id).entries(entries).build()?.to_continuous_buffer())
        }
    }
}

/// # Errors
/// A topic or payload that MQTT cannot carry.
pub fn publish(version: ProtocolVersion, outgoing: Outgoing<'_>) -> Result<Vec<u8>, MqttError> {
    if outgoing.topic.len() + outgoing.payload.len() > MESSAGE_BYTES_MAX {
        return Err(MqttError::PacketTooLarge);
    }
    let qos = protocol_qos(outgoing.qos);
    match version {
        ProtocolVersion::V311 => {
            let mut packet = v3_1_1::Publish::builder()
                .topic_name(outgoing.topic)?
                .qos(qos)
                .retain(outgoing.retain)
                .payload(outgoing.payload);
            if let Some(packet_id) = outgoing.packet_id {
                packet = packet.packet_id(packet_id);
            }
            Ok(packet.build()?.to_continuous_buffer())
        }
        ProtocolVersion::V5 => {
            let mut packet = v5_0::Publish::builder()
                .topic_name(outgoing.topic)?
                .qos(qos)
                .retain(outgoing.retain)
                .props(outgoing.properties)
                .payload(outgoing.payload);
            if let Some(packet_id) = outgoing.packet_id {
                packet = packet.packet_id(packet_id);
            }
            Ok(packet.build()?.to_continuous_buffer())
        }
    }
}

/// The MQTT 5 properties of a stored message: those it came with, what is left of its life, and `boot` and `seq`, which name it
/// for ever (P3).
///
/// # Errors
/// A property that MQTT cannot carry.
pub fn properties(stored: &Stored, prefix: &str, expiry_secs: Option<u32>) -> Result<Vec<Property>, MqttError> {
    let mut properties = given(&stored.message, prefix)?;
    if let Some(secs) = expiry_secs {
        properties.push(Property::MessageExpiryInterval(mqtt::MessageExpiryInterval::new(secs)?));
    }
    properties.push(Property::UserProperty(mqtt::UserProperty::new("boot", &*stored.boot)?));
    properties.push(Property::UserProperty(mqtt::UserProperty::new("seq", stored.seq.to_string())?));
    Ok(properties)
}

fn given(message: &Message, prefix: &str) -> Result<Vec<Property>, MqttError> {
    let mut properties = Vec::new();
    let Some(given) = message.properties.as_deref() else {
        return Ok(properties);
    };
    let Properties { payload_format, content_type, response_topic, correlation_data, user } = given;
    if let Some(format) = payload_format {
        let format = if *format == 1 { mqtt::PayloadFormat::String } else { mqtt::PayloadFormat::Binary };
        properties.push(Property::PayloadFormatIndicator(mqtt::PayloadFormatIndicator::new(format)?));
    }
    if let Some(kind) = content_type {
        properties.push(Property::ContentType(mqtt::ContentType::new(kind.as_str())?));
    }
    if let Some(topic) = response_topic {
        properties.push(Property::ResponseTopic(mqtt::ResponseTopic::new(format!("{prefix}{topic}"))?));
    }
    if let Some(data) = correlation_data {
        properties.push(Property::CorrelationData(mqtt::CorrelationData::new(data.to_vec())?));
    }
    for (name, value) in user {
        properties.push(Property::UserProperty(mqtt::UserProperty::new(name.as_str(), value.as_str())?));
    }
    Ok(properties)
}

/// An acknowledgement without a reason code has the same four bytes in both versions (3.4, 3.5, 3.6, 3.7).
#[derive(Clone, Copy, Debug)]
pub enum Ack {
    Puback = 0x40,
    Pubrec = 0x50,
    Pubrel = 0x62,
    Pubcomp = 0x70,
}

pub fn ack(kind: Ack, packet_id: u16, into: &mut BytesMut) {
    let [high, low] = packet_id.to_be_bytes();
    into.extend_from_slice(&[kind as u8, 2, high, low]);
}

/// PINGREQ is the same in both versions (3.12).
pub const PINGREQ: [u8; 2] = [0xC0, 0];
/// DISCONNECT without a reason code is the same in both versions (3.14).
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

fn protocol_qos(qos: Qos) -> mqtt::Qos {
    match qos {
        Qos::AtMostOnce => mqtt::Qos::AtMostOnce,
        Qos::AtLeastOnce => mqtt::Qos::AtLeastOnce,
        Qos::ExactlyOnce => mqtt::Qos::ExactlyOnce,
    }
}
