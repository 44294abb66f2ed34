//! What the broker keeps in the store's keyed spaces, as bytes: sessions, subscriptions, packet identifiers, retained messages.
//!
//! Every value begins with [`FORMAT`]; one that does not read is dropped and counted by whoever restores.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::packet::SubOptions;
use crate::clock::UnixMs;
use crate::message::{Message, Properties, Qos};

const FORMAT: u8 = 1;

/// A durable session without its subscriptions, which have records of their own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SessionRecord {
    pub(crate) dest: u32,
    pub(crate) expiry_secs: u32,
    pub(crate) user: Option<Arc<str>>,
    /// The will and its delay in seconds, while a connection that left one is up.
    pub(crate) will: Option<(Message, u32)>,
}

/// Outbound QoS 2: which message a packet identifier stands for; `seq` 0: one that is not in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutboundRecord {
    pub(crate) seq: u64,
}

pub(crate) fn session_key(client: &str) -> Bytes {
    Bytes::copy_from_slice(client.as_bytes())
}

/// Client ids hold no NUL, so a key with one is a subscription.
pub(crate) fn subscription_key(client: &str, filter: &str) -> Bytes {
    [client.as_bytes(), b"\0", filter.as_bytes()].concat().into()
}

pub(crate) fn packet_id_key(client: &str, id: u16) -> Bytes {
    [client.as_bytes(), b"\0", &id.to_be_bytes()].concat().into()
}

/// Client id, and what stands after the NUL.
pub(crate) fn split_key(key: &[u8]) -> Option<(&str, Option<&[u8]>)> {
    match key.iter().position(|&byte| byte == 0) {
        None => Some((std::str::from_utf8(key).ok()?, None)),
        Some(at) => Some((std::str::from_utf8(&key[..at]).ok()?, Some(&key[at + 1..]))),
    }
}

impl SessionRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u32(self.dest);
        out.put_u32(self.expiry_secs);
        put_option(&mut out, self.user.as_deref().map(str::as_bytes));
        out.put_u8(u8::from(self.will.is_some()));
        if let Some((message, delay)) = &self.will {
            out.put_u32(*delay);
            put_message(&mut out, message);
        }
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let from = &mut bytes;
        format(from)?;
        let dest = from.try_get_u32().ok()?;
        let expiry_secs = from.try_get_u32().ok()?;
        let user = get_option(from)?.map(|user| text(&user).map(Arc::from));
        let user = match user {
            Some(None) => return None,
            Some(Some(user)) => Some(user),
            None => None,
        };
        let will = match from.try_get_u8().ok()? {
            0 => None,
            _ => {
                let delay = from.try_get_u32().ok()?;
                Some((get_message(from)?, delay))
            }
        };
        Some(Self { dest, expiry_secs, user, will })
    }
}

pub(crate) fn encode_subscription(options: &SubOptions) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    out.put_u8(
        options.qos as u8
            | u8::from(options.no_local) << 2
            | u8::from(options.retain_as_published) << 3
            | options.retain_handling << 4,
    );
    out.put_u32(options.identifier.unwrap_or(0));
    out.freeze()
}

pub(crate) fn decode_subscription(mut bytes: Bytes) -> Option<SubOptions> {
    format(&mut bytes)?;
    let bits = bytes.try_get_u8().ok()?;
    let identifier = bytes.try_get_u32().ok()?;
    Some(SubOptions {
        qos: Qos::try_from(bits & 3).ok()?,
        no_local: bits & 4 != 0,
        retain_as_published: bits & 8 != 0,
        retain_handling: bits >> 4 & 3,
        identifier: (identifier != 0).then_some(identifier),
    })
}

impl OutboundRecord {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u64(self.seq);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        format(&mut bytes)?;
        Some(Self { seq: bytes.try_get_u64().ok()? })
    }
}

pub(crate) fn encode_message(message: &Message) -> Bytes {
    let mut out = BytesMut::with_capacity(message.cost() + 32);
    out.put_u8(FORMAT);
    put_message(&mut out, message);
    out.freeze()
}

pub(crate) fn decode_message(mut bytes: Bytes) -> Option<Message> {
    format(&mut bytes)?;
    get_message(&mut bytes)
}

fn format(from: &mut Bytes) -> Option<()> {
    (from.try_get_u8().ok()? == FORMAT).then_some(())
}

fn put_message(out: &mut BytesMut, message: &Message) {
    out.put_u8(message.qos as u8 | u8::from(message.retain) << 2);
    out.put_i64(message.expires.map_or(i64::MAX, |at| at.0));
    put_bytes(out, message.topic.as_bytes());
    put_bytes(out, &message.payload);
    let Some(properties) = &message.properties else { return out.put_u8(0) };
    out.put_u8(1);
    out.put_u8(properties.payload_format.unwrap_or(u8::MAX));
    put_option(out, properties.content_type.as_deref().map(str::as_bytes));
    put_option(out, properties.response_topic.as_deref().map(str::as_bytes));
    put_option(out, properties.correlation_data.as_deref());
    out.put_u32(u32::try_from(properties.user.len()).unwrap_or(u32::MAX));
    for (name, value) in &properties.user {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn get_message(from: &mut Bytes) -> Option<Message> {
    let bits = from.try_get_u8().ok()?;
    let expires = from.try_get_i64().ok()?;
    let topic = text(&get_bytes(from)?)?;
    let payload = get_bytes(from)?;
    let mut message = Message::new(topic, payload, Qos::try_from(bits & 3).ok()?, bits & 4 != 0);
    message.expires = (expires != i64::MAX).then_some(UnixMs(expires));
    if from.try_get_u8().ok()? != 0 {
        let format = from.try_get_u8().ok()?;
        let mut properties =
            Properties { payload_format: (format != u8::MAX).then_some(format), ..Properties::default() };
        properties.content_type = optional_text(from)?;
        properties.response_topic = optional_text(from)?;
        properties.correlation_data = get_option(from)?;
        for _ in 0..from.try_get_u32().ok()? {
            properties.user.push((text(&get_bytes(from)?)?, text(&get_bytes(from)?)?));
        }
        message.properties = Some(Arc::new(properties));
    }
    Some(message)
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

fn get_bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(from.try_get_u32().ok()?).ok()?;
    (from.len() >= length).then(|| from.split_to(length))
}

fn put_option(out: &mut BytesMut, bytes: Option<&[u8]>) {
    out.put_u8(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

fn get_option(from: &mut Bytes) -> Option<Option<Bytes>> {
    match from.try_get_u8().ok()? {
        0 => Some(None),
        _ => get_bytes(from).map(Some),
    }
}

fn optional_text(from: &mut Bytes) -> Option<Option<String>> {
    match get_option(from)? {
        None => Some(None),
        Some(bytes) => text(&bytes).map(Some),
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        (
            "[a-z/]{1,20}",
            prop::collection::vec(any::<u8>(), 0..50),
            0..3u8,
            any::<bool>(),
            prop::option::of(0..i64::MAX),
            prop::option::of((
                prop::option::of(0..2u8),
                prop::option::of(".*"),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
                prop::collection::vec((".*", ".*"), 0..3),
            )),
        )
            .prop_map(|(topic, payload, qos, retain, expires, properties)| Message {
                expires: expires.map(UnixMs),
                properties: properties.map(|(payload_format, content_type, correlation, user)| {
                    Arc::new(Properties {
                        payload_format,
                        response_topic: content_type.clone(),
                        content_type,
                        correlation_data: correlation.map(Bytes::from),
                        user,
                    })
                }),
                ..Message::new(topic, payload, Qos::try_from(qos).unwrap(), retain)
            })
    }

    proptest! {
        #[test]
        fn a_session_and_its_will_read_back_as_they_were_written(
            will in prop::option::of((message(), any::<u32>())), dest: u32, expiry_secs: u32, user in prop::option::of(".*"),
        ) {
            let record = SessionRecord { dest, expiry_secs, user: user.map(Arc::from), will };
            prop_assert_eq!(SessionRecord::decode(record.encode()), Some(record));
        }

        #[test]
        fn bytes_that_are_no_record_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from(bytes);
            let _ = (SessionRecord::decode(bytes.clone()), decode_message(bytes.clone()), decode_subscription(bytes));
        }
    }
}
