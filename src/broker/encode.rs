//! Packets → bytes for a client. Written here rather than by the library: a PUBLISH goes to many, and its payload is not copied for each.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::alias::Alias;
use super::packet::{AckKind, Reason, Version};
use crate::message::{Message, Properties, Qos};

/// A payload from this size on is shared between receivers; a smaller one is copied, which is faster than another write.
const SHARE_PAYLOAD_FROM: usize = 4096;

/// What goes to one connection in this turn.
#[derive(Debug, Default)]
pub(crate) struct OutBuffer {
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks`.
    shared: usize,
    tail: BytesMut,
}

impl OutBuffer {
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.chunks.pop_front() {
            self.shared -= chunk.len();
            return Some(chunk);
        }
        (!self.tail.is_empty()).then(|| self.tail.split().freeze())
    }

    pub(crate) fn len(&self) -> usize {
        self.shared + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put_shared(&mut self, payload: &Bytes) {
        if payload.len() < SHARE_PAYLOAD_FROM {
            self.tail.extend_from_slice(payload);
        } else {
            self.shared += self.tail.len() + payload.len();
            if !self.tail.is_empty() {
                self.chunks.push_back(self.tail.split().freeze());
            }
            self.chunks.push_back(payload.clone());
        }
    }
}

/// One PUBLISH as one receiver gets it.
pub(crate) struct Delivery<'a> {
    pub(crate) message: &'a Message,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// Ignored with QoS 0.
    pub(crate) id: u16,
    pub(crate) identifiers: &'a [u32],
    /// Under MQTT 5 only.
    pub(crate) alias: Option<Alias>,
    /// What is left of the message's life, in seconds.
    pub(crate) expiry_secs: Option<u32>,
}

impl Delivery<'_> {
    /// Bytes of the whole packet, or `None` when MQTT cannot carry it.
    pub(crate) fn size(&self, version: Version) -> Option<usize> {
        let remaining = self.remaining(version);
        (remaining <= 268_435_455).then(|| 1 + varint_size(remaining) + remaining)
    }

    fn remaining(&self, version: Version) -> usize {
        let id = if self.qos == Qos::AtMostOnce { 0 } else { 2 };
        let properties = match version {
            Version::V4 => 0,
            Version::V5 => {
                let size = self.property_size();
                varint_size(size) + size
            }
        };
        2 + self.topic().len() + id + properties + self.message.payload.len()
    }

    fn topic(&self) -> &str {
        match self.alias {
            Some(Alias::Known(_)) => "",
            Some(Alias::New(_)) | None => &self.message.topic,
        }
    }

    fn property_size(&self) -> usize {
        let alias = self.alias.map_or(0, |_| 3);
        let expiry = self.expiry_secs.map_or(0, |_| 5);
        let identifiers: usize = self.identifiers.iter().map(|&id| 1 + varint_size(id as usize)).sum();
        alias
            + expiry
            + identifiers
            + self.message.properties.as_ref().map_or(0, |properties| passed_on_size(properties))
    }

    /// Appends the packet; the caller has checked [`Self::size`].
    pub(crate) fn write(&self, version: Version, out: &mut OutBuffer) {
        let flags = u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain);
        let remaining = self.remaining(version);
        let buffer = &mut out.tail;
        buffer.put_u8(0x30 | flags);
        put_varint(buffer, remaining);
        put_text(buffer, self.topic());
        if self.qos != Qos::AtMostOnce {
            buffer.put_u16(self.id);
        }
        if version == Version::V5 {
            put_varint(buffer, self.property_size());
            if let Some(secs) = self.expiry_secs {
                buffer.put_u8(0x02);
                buffer.put_u32(secs);
            }
            if let Some(alias) = self.alias {
                buffer.put_u8(0x23);
                buffer.put_u16(alias.number());
            }
            for &identifier in self.identifiers {
                buffer.put_u8(0x0B);
                put_varint(buffer, identifier as usize);
            }
            if let Some(properties) = &self.message.properties {
                put_passed_on(buffer, properties);
            }
        }
        out.put_shared(&self.message.payload);
    }
}

fn passed_on_size(properties: &Properties) -> usize {
    properties.payload_format.map_or(0, |_| 2)
        + properties.content_type.as_ref().map_or(0, |text| 3 + text.len())
        + properties.response_topic.as_ref().map_or(0, |text| 3 + text.len())
        + properties.correlation_data.as_ref().map_or(0, |data| 3 + data.len())
        + properties.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>()
}

fn put_passed_on(buffer: &mut BytesMut, properties: &Properties) {
    if let Some(format) = properties.payload_format {
        buffer.put_u8(0x01);
        buffer.put_u8(format);
    }
    if let Some(text) = &properties.content_type {
        buffer.put_u8(0x03);
        put_text(buffer, text);
    }
    if let Some(text) = &properties.response_topic {
        buffer.put_u8(0x08);
        put_text(buffer, text);
    }
    if let Some(data) = &properties.correlation_data {
        buffer.put_u8(0x09);
        put_binary(buffer, data);
    }
    for (name, value) in &properties.user {
        buffer.put_u8(0x26);
        put_text(buffer, name);
        put_text(buffer, value);
    }
}

fn put_binary(buffer: &mut BytesMut, data: &[u8]) {
    // Everything that comes here was read from a packet, where its length has two bytes, or checked on the way in.
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    buffer.put_u16(length);
    buffer.extend_from_slice(&data[..usize::from(length)]);
}

fn put_text(buffer: &mut BytesMut, text: &str) {
    put_binary(buffer, text.as_bytes());
}

fn varint_size(value: usize) -> usize {
    match value {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

fn put_varint(buffer: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            buffer.put_u8(byte);
            return;
        }
        buffer.put_u8(byte | 0x80);
    }
}

/// What CONNACK tells an MQTT 5 client about this server (3.2.2.3).
#[derive(Debug, Default)]
pub(crate) struct ConnackProperties<'a> {
    pub(crate) session_expiry_secs: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) max_packet_bytes: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) assigned_client: Option<&'a str>,
    pub(crate) server_keep_alive_secs: Option<u16>,
}

pub(crate) fn connack(out: &mut OutBuffer, version: Version, session_present: bool, told: &ConnackProperties<'_>) {
    let mut properties = BytesMut::new();
    if version == Version::V5 {
        if let Some(secs) = told.session_expiry_secs {
            properties.put_u8(0x11);
            properties.put_u32(secs);
        }
        properties.put_u8(0x21);
        properties.put_u16(told.receive_maximum);
        properties.put_u8(0x27);
        properties.put_u32(told.max_packet_bytes);
        properties.put_u8(0x22);
        properties.put_u16(told.topic_alias_maximum);
        if let Some(client) = told.assigned_client {
            properties.put_u8(0x12);
            put_text(&mut properties, client);
        }
        if let Some(secs) = told.server_keep_alive_secs {
            properties.put_u8(0x13);
            properties.put_u16(secs);
        }
    }
    connack_head(&mut out.tail, version, session_present, 0, &properties);
}

/// A refusal, in the form of the client's version. Nothing for 3.1.1 where it has no code.
pub(crate) fn connack_refused(out: &mut OutBuffer, version: Version, reason: Reason) {
    match version {
        Version::V4 => {
            if let Some(code) = reason.v4_return_code() {
                connack_head(&mut out.tail, version, false, code, &[]);
            }
        }
        Version::V5 => connack_head(&mut out.tail, version, false, reason as u8, &[]),
    }
}

fn connack_head(buffer: &mut BytesMut, version: Version, session_present: bool, code: u8, properties: &[u8]) {
    buffer.put_u8(0x20);
    match version {
        Version::V4 => buffer.extend_from_slice(&[2, u8::from(session_present), code]),
        Version::V5 => {
            put_varint(buffer, 2 + varint_size(properties.len()) + properties.len());
            buffer.extend_from_slice(&[u8::from(session_present), code]);
            put_varint(buffer, properties.len());
            buffer.extend_from_slice(properties);
        }
    }
}

pub(crate) fn ack(out: &mut OutBuffer, version: Version, kind: AckKind, id: u16, code: u8) {
    let first = match kind {
        AckKind::Puback => 0x40,
        AckKind::Pubrec => 0x50,
        AckKind::Pubrel => 0x62,
        AckKind::Pubcomp => 0x70,
    };
    let buffer = &mut out.tail;
    buffer.put_u8(first);
    if version == Version::V5 && code != 0 {
        buffer.put_u8(3);
        buffer.put_u16(id);
        buffer.put_u8(code);
    } else {
        buffer.put_u8(2);
        buffer.put_u16(id);
    }
}

/// SUBACK (`unsuback` false) or UNSUBACK; under 3.1.1 an UNSUBACK has no codes.
pub(crate) fn suback(out: &mut OutBuffer, version: Version, unsuback: bool, id: u16, codes: &[u8]) {
    let codes = if unsuback && version == Version::V4 { &[] } else { codes };
    let buffer = &mut out.tail;
    buffer.put_u8(if unsuback { 0xB0 } else { 0x90 });
    let properties = usize::from(version == Version::V5);
    put_varint(buffer, 2 + properties + codes.len());
    buffer.put_u16(id);
    if version == Version::V5 {
        buffer.put_u8(0);
    }
    buffer.extend_from_slice(codes);
}

pub(crate) fn pingresp(out: &mut OutBuffer) {
    out.tail.extend_from_slice(&[0xD0, 0]);
}

/// Under 3.1.1 a server has no DISCONNECT: the connection just closes.
pub(crate) fn disconnect(out: &mut OutBuffer, version: Version, reason: Reason) {
    if version == Version::V5 {
        out.tail.extend_from_slice(&[0xE0, 1, reason as u8]);
    }
}
