//! A segment as bytes: many messages in one row, each costing its payload and a few bytes more.
//!
//! `version, crc32 (LE, over what follows), first seq, first time, count, boot, messages`. Numbers are LEB128,
//! signed ones zigzag. A topic is written once and then named by its number within the segment. The checksum is
//! there because SQLite has none: on an SD card a flipped bit must become an error, never another message.

use std::sync::Arc;

use bytes::Bytes;
use crc::{CRC_32_ISO_HDLC, Crc, Table};

use super::seqset::SeqSet;
use super::{DestId, Seq, Stored};
use crate::clock::UnixMs;
use crate::message::{Message, Properties, Qos};

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

const VERSION: u8 = 1;
const HEAD: usize = 5;

/// The head byte of a message: quality of service in the lowest two bits, then these.
const RETAIN: u8 = 0x04;
const NEXT_SEQ: u8 = 0x08;
const SAME_TOPIC: u8 = 0x10;
const HAS_PROPERTIES: u8 = 0x20;
const HAS_EXPIRY: u8 = 0x40;

/// Why stored bytes are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("ends too early")]
    Short,
    #[error("has format version {0}, which this program does not know")]
    Version(u8),
    #[error("does not match its checksum")]
    Checksum,
    #[error("holds {0} that cannot be")]
    Malformed(&'static str),
}

/// Writes a segment. All messages are of one boot, their numbers rise.
pub(super) fn segment(messages: &[Stored]) -> Vec<u8> {
    let payload: usize = messages.iter().map(|stored| stored.message.cost()).sum();
    let mut out = Vec::with_capacity(payload / 2 + messages.len() * 8 + 64);
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    let (mut seq, mut at) = messages.first().map_or((0, 0), |stored| (stored.seq, stored.at.0));
    unsigned(&mut out, seq);
    signed(&mut out, at);
    unsigned(&mut out, messages.len() as u64);
    bytes(&mut out, messages.first().map_or(&[], |stored| stored.boot.as_bytes()));
    let mut topics = std::collections::HashMap::<&str, u64>::new();
    let mut topic_before = None;
    for (index, stored) in messages.iter().enumerate() {
        let message = &stored.message;
        let step = stored.seq.wrapping_sub(seq);
        let steps_one = if index == 0 { step == 0 } else { step == 1 };
        let topic = &*message.topic;
        let mut head = message.qos as u8;
        for (bit, on) in [
            (RETAIN, message.retain),
            (NEXT_SEQ, steps_one),
            (SAME_TOPIC, topic_before == Some(topic)),
            (HAS_PROPERTIES, message.properties.is_some()),
            (HAS_EXPIRY, message.expires.is_some()),
        ] {
            head |= if on { bit } else { 0 };
        }
        out.push(head);
        if !steps_one {
            unsigned(&mut out, step);
        }
        signed(&mut out, stored.at.0.wrapping_sub(at));
        if topic_before != Some(topic) {
            let fresh = topics.len() as u64;
            match topics.entry(topic) {
                std::collections::hash_map::Entry::Occupied(known) => unsigned(&mut out, known.get() + 1),
                std::collections::hash_map::Entry::Vacant(new) => {
                    new.insert(fresh);
                    unsigned(&mut out, 0);
                    bytes(&mut out, topic.as_bytes());
                }
            }
        }
        bytes(&mut out, &message.payload);
        if let Some(expires) = message.expires {
            signed(&mut out, expires.0);
        }
        if let Some(properties) = &message.properties {
            write_properties(&mut out, properties);
        }
        (seq, at, topic_before) = (stored.seq, stored.at.0, Some(topic));
    }
    let sum = CRC.checksum(&out[HEAD..]).to_le_bytes();
    out[1..HEAD].copy_from_slice(&sum);
    out
}

fn write_properties(out: &mut Vec<u8>, properties: &Properties) {
    let Properties { payload_format, content_type, response_topic, correlation_data, user } = properties;
    out.push(
        u8::from(payload_format.is_some())
            | u8::from(content_type.is_some()) << 1
            | u8::from(response_topic.is_some()) << 2
            | u8::from(correlation_data.is_some()) << 3,
    );
    out.extend(payload_format);
    for text in [content_type, response_topic].into_iter().flatten() {
        bytes(out, text.as_bytes());
    }
    if let Some(data) = correlation_data {
        bytes(out, data);
    }
    unsigned(out, user.len() as u64);
    for text in user.iter().flat_map(|(name, value)| [name, value]) {
        bytes(out, text.as_bytes());
    }
}

/// Whether these bytes are a segment once a right checksum stands before them.
pub(super) fn is_segment(behind_checksum: &[u8]) -> bool {
    let sum = CRC.checksum(behind_checksum).to_le_bytes();
    messages(&[&[VERSION][..], &sum, behind_checksum].concat()).is_ok()
}

/// Reads a segment back.
pub(super) fn messages(body: &[u8]) -> Result<Vec<Stored>, Damage> {
    let (head, rest) = body.split_at_checked(HEAD).ok_or(Damage::Short)?;
    if head[0] != VERSION {
        return Err(Damage::Version(head[0]));
    }
    if head[1..] != CRC.checksum(rest).to_le_bytes() {
        return Err(Damage::Checksum);
    }
    let mut input = Input(rest);
    let (mut seq, mut at) = (input.unsigned()?, input.signed()?);
    let count = input.unsigned()?;
    let boot: Arc<str> = input.text()?.into();
    let mut topics: Vec<Arc<str>> = Vec::new();
    let mut topic: Option<Arc<str>> = None;
    let mut messages = Vec::new();
    for index in 0..count {
        let head = input.byte()?;
        let step = if head & NEXT_SEQ == 0 { input.unsigned()? } else { u64::from(index > 0) };
        seq = seq.checked_add(step).ok_or(Damage::Malformed("a number"))?;
        at = at.wrapping_add(input.signed()?);
        if head & SAME_TOPIC == 0 {
            topic = Some(read_topic(&mut input, &mut topics)?);
        }
        let message = Message {
            topic: topic.clone().ok_or(Damage::Malformed("a topic"))?,
            payload: Bytes::copy_from_slice(input.bytes()?),
            qos: Qos::try_from(head & 0x03).map_err(|_| Damage::Malformed("a quality of service"))?,
            retain: head & RETAIN != 0,
            expires: if head & HAS_EXPIRY == 0 { None } else { Some(UnixMs(input.signed()?)) },
            properties: if head & HAS_PROPERTIES == 0 { None } else { Some(Arc::new(read_properties(&mut input)?)) },
        };
        messages.push(Stored { seq, boot: boot.clone(), at: UnixMs(at), message: Arc::new(message) });
    }
    if input.0.is_empty() { Ok(messages) } else { Err(Damage::Malformed("bytes behind its end")) }
}

fn read_topic(input: &mut Input<'_>, topics: &mut Vec<Arc<str>>) -> Result<Arc<str>, Damage> {
    match input.unsigned()?.checked_sub(1) {
        Some(known) => usize::try_from(known)
            .ok()
            .and_then(|known| topics.get(known))
            .cloned()
            .ok_or(Damage::Malformed("a topic's number")),
        None => {
            let topic: Arc<str> = input.text()?.into();
            topics.push(topic.clone());
            Ok(topic)
        }
    }
}

fn read_properties(input: &mut Input<'_>) -> Result<Properties, Damage> {
    let has = input.byte()?;
    let mut properties = Properties {
        payload_format: if has & 1 == 0 { None } else { Some(input.byte()?) },
        content_type: if has & 2 == 0 { None } else { Some(input.text()?.to_owned()) },
        response_topic: if has & 4 == 0 { None } else { Some(input.text()?.to_owned()) },
        correlation_data: if has & 8 == 0 { None } else { Some(Bytes::copy_from_slice(input.bytes()?)) },
        user: Vec::new(),
    };
    for _ in 0..input.unsigned()? {
        properties.user.push((input.text()?.to_owned(), input.text()?.to_owned()));
    }
    Ok(properties)
}

/// Writes which messages of the segment that begins at `first` the destination still has to receive:
/// gap and length of each range, and two bytes of checksum that also bind it to its row.
pub(super) fn left(dest: DestId, first: Seq, left: &SeqSet) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    let mut behind = first;
    for &(from, to) in left.ranges() {
        unsigned(&mut out, from - behind);
        unsigned(&mut out, to - from);
        behind = to;
    }
    let sum = left_sum(dest, first, &out);
    out.extend_from_slice(&sum);
    out
}

pub(super) fn read_left(dest: DestId, first: Seq, stored: &[u8]) -> Result<SeqSet, Damage> {
    let (ranges, sum) = stored.split_at_checked(stored.len().saturating_sub(2)).ok_or(Damage::Short)?;
    if sum != left_sum(dest, first, ranges) {
        return Err(Damage::Checksum);
    }
    let mut input = Input(ranges);
    let mut left = SeqSet::new();
    let mut behind = first;
    while !input.0.is_empty() {
        let from = behind.checked_add(input.unsigned()?).ok_or(Damage::Malformed("a number"))?;
        behind = from.checked_add(input.unsigned()?).ok_or(Damage::Malformed("a number"))?;
        if !left.push_range(from, behind) {
            return Err(Damage::Malformed("a range"));
        }
    }
    Ok(left)
}

fn left_sum(dest: DestId, first: Seq, ranges: &[u8]) -> [u8; 2] {
    let mut digest = CRC.digest();
    digest.update(&dest.0.to_le_bytes());
    digest.update(&first.to_le_bytes());
    digest.update(ranges);
    let [a, b, _, _] = digest.finalize().to_le_bytes();
    [a, b]
}

fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn signed(out: &mut Vec<u8>, value: i64) {
    unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    unsigned(out, value.len() as u64);
    out.extend_from_slice(value);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Damage> {
        let (byte, rest) = self.0.split_first().ok_or(Damage::Short)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn unsigned(&mut self) -> Result<u64, Damage> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage::Malformed("a number"))
    }

    fn signed(&mut self) -> Result<i64, Damage> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = usize::try_from(self.unsigned()?).map_err(|_| Damage::Short)?;
        let (value, rest) = self.0.split_at_checked(length).ok_or(Damage::Short)?;
        self.0 = rest;
        Ok(value)
    }

    fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage::Malformed("text"))
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
