//! One connection to a broker upstream, from CONNECT to its end, without a socket or a clock.
//!
//! Bytes go in with [`Session::handle_input`] and out with [`Session::take_output`]; what they mean comes out as
//! [`SessionEvent`]s. A session is always clean: what was not acknowledged when it ends is read from the store again.

mod received;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::clock::{Now, UnixMs};
use crate::hub::topics::is_valid_topic;
use crate::message::{Message, Qos};
use crate::store::{Seq, Stored};

use super::codec::{Ack, Decoder, Incoming, Limits, Publish, connect_reason, reason_name};
use super::encode::{self, KEEP_ALIVE_SECS, OFFLINE, ONLINE, Outgoing};
use super::error::{SessionError, described, will_pass};
use super::inbox::{self, Inbox, Token};
use super::spec::{ProtocolVersion, UplinkSpec};

/// Publishes that may be unacknowledged at once, where the server does not ask for fewer: 5,000 messages a second at a round
/// trip of 50 ms.
pub const WINDOW: usize = 256;
/// The same for QoS 2 under 3.1.1, where the server cannot say how many it takes: Mosquitto 2.0 takes 20 by default, and never
/// answers some of those beyond.
const WINDOW_QOS2_V311: usize = 20;
/// QoS 0 publishes that may be on their way to the socket at once.
const WINDOW_QOS0: usize = 1024;
/// No publish is added to more bytes than this that the socket has not taken, and no input is taken then either.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// From the connection being made to CONNACK.
const CONNACK_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent {
    /// CONNACK came.
    Up,
    /// PUBACK, PUBCOMP, or with QoS 0 the socket took it.
    Delivered(Seq),
    /// The server will not take this one, now or never.
    Refused {
        seq: Seq,
        topic: Arc<str>,
        reason: String,
        will_pass: bool,
    },
    Message {
        message: Message,
        token: Token,
    },
    /// A message that nobody asked for.
    Unasked,
    /// Something that a person should know, and that does not end the connection.
    Notice(String),
}

/// What became of a message given to [`Session::publish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    Sent,
    Expired,
    /// It can never be sent; the reason.
    Unsendable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Up,
    Leaving,
}

/// A publish with QoS 1 or 2 that is not acknowledged.
#[derive(Debug)]
struct InFlight {
    /// `None`: the session's own.
    seq: Option<Seq>,
    topic: Arc<str>,
    qos: Qos,
    /// PUBREL went out.
    released: bool,
}

pub struct Session {
    spec: Arc<UplinkSpec>,
    decoder: Decoder,
    limits: Limits,
    phase: Phase,
    out: BytesMut,
    /// QoS 0 in `out`, and in what was taken of it and is not flushed.
    queued: Vec<Seq>,
    taken: Vec<Seq>,
    in_flight: HashMap<u16, InFlight>,
    /// The first of each topic that the server refused for now, until what was under way behind it is settled.
    deferred: HashMap<Arc<str>, Seq>,
    last_id: u16,
    inbox: Inbox,
    events: VecDeque<SessionEvent>,
    opened: Instant,
    sent: Instant,
    received: Instant,
    pinged: Option<Instant>,
}

impl Session {
    /// A connection was made; the output begins with CONNECT. `number` differs from that of every other session.
    ///
    /// # Errors
    /// [`SessionError::Unsendable`] where MQTT cannot carry what the specification holds.
    pub fn new(spec: Arc<UplinkSpec>, number: u64, password: Option<&[u8]>, now: Now) -> Result<Self, SessionError> {
        let connect = encode::connect(&spec, password).map_err(|e| SessionError::Unsendable(e.to_string()))?;
        let inbox = Inbox::new(number, spec.version);
        Ok(Self {
            decoder: Decoder::new(spec.version),
            spec,
            limits: Limits::default(),
            phase: Phase::Connecting,
            out: BytesMut::from(connect.as_slice()),
            queued: Vec::new(),
            taken: Vec::new(),
            in_flight: HashMap::new(),
            deferred: HashMap::new(),
            last_id: 0,
            inbox,
            events: VecDeque::new(),
            opened: now.mono,
            sent: now.mono,
            received: now.mono,
            pinged: None,
        })
    }

    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// Messages sent and not acknowledged, the session's own among them.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len() + self.queued.len() + self.taken.len()
    }

    /// Messages of the queue sent and not settled.
    pub fn unsettled(&self) -> usize {
        self.in_flight.values().filter(|sent| sent.seq.is_some()).count() + self.queued.len() + self.taken.len()
    }

    /// Whether a message of this topic is sent and not settled.
    pub fn is_under_way(&self, topic: &str) -> bool {
        self.in_flight.values().any(|sent| sent.seq.is_some() && &*sent.topic == topic)
    }

    /// How many messages may be published now.
    pub fn vacancy(&self) -> usize {
        if self.phase != Phase::Up || self.out.len() >= OUT_BYTES_MAX {
            return 0;
        }
        let window = match (self.qos(), self.spec.version) {
            (Qos::AtMostOnce, _) => WINDOW_QOS0,
            (Qos::ExactlyOnce, ProtocolVersion::V311) => WINDOW_QOS2_V311,
            (Qos::AtLeastOnce | Qos::ExactlyOnce, _) => WINDOW.min(usize::from(self.limits.receive_maximum)),
        };
        window.saturating_sub(self.in_flight())
    }

    /// Whether input should be read: not while the server does not read what it is answered.
    pub fn wants_input(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX
    }

    /// Everything to be written, leaving nothing behind. [`Session::flushed`] follows before the next call.
    pub fn take_output(&mut self, now: Now) -> Bytes {
        if !self.out.is_empty() {
            self.sent = now.mono;
        }
        self.taken.append(&mut self.queued);
        self.out.split().freeze()
    }

    /// The socket has taken all that [`Session::take_output`] gave.
    pub fn flushed(&mut self) {
        self.events.extend(self.taken.drain(..).map(SessionEvent::Delivered));
    }

    /// Adds a message to the output. The caller has looked at [`Session::vacancy`].
    pub fn publish(&mut self, stored: &Stored, now: Now) -> Published {
        // The owner reads the queue again first, and lets everything settle before.
        self.deferred.clear();
        let message = &stored.message;
        let Some(expiry_secs) = seconds_left(message.expires, now.wall) else {
            return Published::Expired;
        };
        let topic = format!("{}{}", self.spec.prefix, message.topic);
        if !is_valid_topic(&topic) {
            return Published::Unsendable(reason_name(0x90).to_owned());
        }
        let properties = match self.spec.version {
            ProtocolVersion::V311 => Ok(Vec::new()),
            ProtocolVersion::V5 => encode::properties(stored, &self.spec.prefix, expiry_secs),
        };
        let qos = self.qos();
        let packet_id = (qos != Qos::AtMostOnce).then(|| self.next_id());
        let retain = message.retain && self.limits.retain;
        let packet = properties.and_then(|properties| {
            let payload = &message.payload;
            encode::publish(self.spec.version, Outgoing { topic: &topic, payload, qos, retain, packet_id, properties })
        });
        let packet = match packet {
            Ok(packet) if packet.len() > self.limits.packet_bytes as usize => {
                let (size, limit) = (packet.len(), self.limits.packet_bytes);
                return Published::Unsendable(format!("packet too large: {size} bytes, the server takes {limit}"));
            }
            Ok(packet) => packet,
            Err(error) => return Published::Unsendable(error.to_string()),
        };
        self.out.extend_from_slice(&packet);
        match packet_id {
            None => self.queued.push(stored.seq),
            Some(id) => {
                let topic = Arc::clone(&message.topic);
                self.in_flight.insert(id, InFlight { seq: Some(stored.seq), topic, qos, released: false });
            }
        }
        Published::Sent
    }

    /// The owner has taken care of a message from upstream.
    pub fn acknowledge(&mut self, token: Token) {
        if self.phase == Phase::Up {
            self.inbox.acknowledge(token, &mut self.out);
        }
    }

    /// Says `offline` and DISCONNECT; nothing is published after it.
    pub fn disconnect(&mut self) {
        if self.phase == Phase::Up {
            self.say(OFFLINE, Qos::AtMostOnce);
            self.out.extend_from_slice(&encode::DISCONNECT);
        }
        self.phase = Phase::Leaving;
    }

    /// Bytes that came.
    ///
    /// # Errors
    /// The connection is over, and why.
    pub fn handle_input(&mut self, mut bytes: &[u8], now: Now) -> Result<(), SessionError> {
        if bytes.is_empty() || self.phase == Phase::Leaving {
            return Ok(());
        }
        self.received = now.mono;
        self.pinged = None;
        while !bytes.is_empty() {
            let Some(packet) = self.decoder.next(&mut bytes)? else {
                return Ok(());
            };
            self.handle_packet(packet, now)?;
        }
        Ok(())
    }

    /// When [`Session::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        let keep_alive = self.keep_alive();
        match (self.phase, self.pinged) {
            (Phase::Connecting, _) => self.opened + CONNACK_TIMEOUT,
            (_, Some(pinged)) => pinged + keep_alive / 2,
            (_, None) => self.sent.min(self.received) + keep_alive,
        }
    }

    /// PINGREQ when the connection was still for the keep alive, either way; its end when half that passes without a byte.
    ///
    /// # Errors
    /// The server gives no sign of life.
    pub fn handle_timeout(&mut self, now: Now) -> Result<(), SessionError> {
        if now.mono < self.poll_timeout() {
            return Ok(());
        }
        match (self.phase, self.pinged) {
            (Phase::Connecting, _) => Err(SessionError::NoConnack),
            (_, Some(_)) => Err(SessionError::Silent),
            (_, None) => {
                self.out.extend_from_slice(&encode::PINGREQ);
                self.pinged = Some(now.mono);
                Ok(())
            }
        }
    }

    fn handle_packet(&mut self, packet: Incoming, now: Now) -> Result<(), SessionError> {
        if (self.phase == Phase::Connecting) != matches!(packet, Incoming::Connack { .. })
            && !matches!(packet, Incoming::Disconnect { .. })
        {
            return Err(SessionError::Protocol("CONNACK is the first packet, and comes once"));
        }
        match packet {
            Incoming::Connack { code: 0, limits, .. } => self.connected(limits),
            Incoming::Connack { code, text, .. } => {
                Err(SessionError::Refused { code: connect_reason(self.spec.version, code), text })
            }
            Incoming::Publish(publish) => self.received_publish(publish, now),
            Incoming::Puback(ack) => self.received_puback(ack),
            Incoming::Pubrec(ack) => self.received_pubrec(ack),
            Incoming::Pubcomp(ack) => self.received_pubcomp(&ack),
            Incoming::Pubrel(packet_id) => self.inbox.released(packet_id, &mut self.out),
            Incoming::Suback(codes) => {
                for (filter, code) in self.spec.accept.iter().zip(codes).filter(|(_, code)| *code >= 0x80) {
                    let why = described(code, None);
                    self.events.push_back(SessionEvent::Notice(format!("subscription to {filter} refused: {why}")));
                }
                Ok(())
            }
            Incoming::Pingresp => Ok(()),
            Incoming::Disconnect { code, text } => Err(SessionError::Ended { code, text }),
        }
    }

    fn connected(&mut self, limits: Limits) -> Result<(), SessionError> {
        self.limits = limits;
        self.phase = Phase::Up;
        self.events.push_back(SessionEvent::Up);
        if limits.qos < self.spec.qos {
            let (granted, wanted) = (limits.qos as u8, self.spec.qos as u8);
            let text = format!("the server takes QoS {granted} at most: publishing with that instead of {wanted}");
            self.events.push_back(SessionEvent::Notice(text));
        }
        if !self.spec.accept.is_empty() {
            // Some 3.1.1 servers end the connection when asked for QoS 2, and cannot say so before.
            let qos = match self.spec.version {
                ProtocolVersion::V311 => Qos::AtLeastOnce,
                ProtocolVersion::V5 => limits.qos,
            };
            let id = self.next_id();
            let subscribe =
                encode::subscribe(&self.spec, id, qos).map_err(|e| SessionError::Unsendable(e.to_string()))?;
            self.out.extend_from_slice(&subscribe);
        }
        self.say(ONLINE, self.qos().min(Qos::AtLeastOnce));
        Ok(())
    }

    /// Publishes on the status topic, retained where the server can.
    fn say(&mut self, text: &str, qos: Qos) {
        let topic = encode::status_topic(&self.spec);
        let packet_id = (qos != Qos::AtMostOnce).then(|| self.next_id());
        let outgoing = Outgoing {
            topic: &topic,
            payload: text.as_bytes(),
            qos,
            retain: self.limits.retain,
            packet_id,
            properties: Vec::new(),
        };
        match encode::publish(self.spec.version, outgoing) {
            Ok(packet) => {
                self.out.extend_from_slice(&packet);
                if let Some(id) = packet_id {
                    let topic = Arc::clone(&self.spec.status_topic);
                    self.in_flight.insert(id, InFlight { seq: None, topic, qos, released: false });
                }
            }
            Err(error) => self.events.push_back(SessionEvent::Notice(format!("status topic {topic}: {error}"))),
        }
    }

    fn qos(&self) -> Qos {
        self.spec.qos.min(self.limits.qos)
    }

    fn keep_alive(&self) -> Duration {
        // 0 frees the client from sending pings; a dead connection is to be noticed all the same.
        let secs = self.limits.keep_alive.filter(|secs| *secs > 0).unwrap_or(KEEP_ALIVE_SECS);
        Duration::from_secs(u64::from(secs))
    }

    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            // The window is far smaller than the numbers, so a free one is near.
            if !self.in_flight.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }
}

/// `None`: expired. Rounded up, so that what still lives is not sent as expired.
#[allow(clippy::option_option, reason = "expired, without an expiry, and with one are three things")]
fn seconds_left(expires: Option<UnixMs>, now: UnixMs) -> Option<Option<u32>> {
    let Some(expires) = expires else {
        return Some(None);
    };
    let left_ms = expires.0.saturating_sub(now.0);
    if left_ms <= 0 {
        return None;
    }
    Some(Some(u32::try_from(left_ms.saturating_add(999) / 1000).unwrap_or(u32::MAX)))
}
