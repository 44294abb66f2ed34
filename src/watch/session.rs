//! The looker-on's side of MQTT, without a socket or a clock: CONNECT, one SUBSCRIBE with QoS 0, signs of life.
//!
//! Not the uplink's session: that one leaves a last will, says that it is online and forwards, and a looker-on must leave no
//! trace. Decoder and reason codes are the uplink's.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::packet::{self as mqtt, Property, SubEntry, SubOpts, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use crate::clock::Now;
use crate::uplink::codec::{Decoder, Incoming, PACKET_BYTES_MAX, Publish, connect_reason};
use crate::uplink::encode::{KEEP_ALIVE_SECS, PINGREQ};
use crate::uplink::error::{SessionError, described};
use crate::uplink::spec::ProtocolVersion;

const CONNACK_TIMEOUT: Duration = Duration::from_secs(10);

/// As whom, and what for.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    /// A valid topic filter.
    pub(super) filter: String,
}

pub(super) struct Session {
    version: ProtocolVersion,
    filter: String,
    decoder: Decoder,
    out: BytesMut,
    up: bool,
    keep_alive: Duration,
    sent: Instant,
    received: Instant,
    pinged: bool,
}

impl Session {
    /// A connection was made; the output begins with CONNECT.
    ///
    /// # Errors
    /// [`SessionError::Unsendable`] where MQTT cannot carry what `login` holds.
    pub(super) fn new(version: ProtocolVersion, login: &Login, now: Now) -> Result<Self, SessionError> {
        let connect = connect(version, login).map_err(|error| SessionError::Unsendable(error.to_string()))?;
        Ok(Self {
            version,
            filter: login.filter.clone(),
            decoder: Decoder::new(version),
            out: BytesMut::from(connect.as_slice()),
            up: false,
            keep_alive: Duration::from_secs(u64::from(KEEP_ALIVE_SECS)),
            sent: now.mono,
            received: now.mono,
            pinged: false,
        })
    }

    /// CONNACK came.
    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// Everything to be written.
    pub(super) fn take_output(&mut self, now: Now) -> Bytes {
        if !self.out.is_empty() {
            self.sent = now.mono;
        }
        self.out.split().freeze()
    }

    /// Bytes that came; the messages in them go to `messages`.
    ///
    /// # Errors
    /// The connection is over, and why.
    pub(super) fn handle_input(
        &mut self,
        mut bytes: &[u8],
        now: Now,
        messages: &mut Vec<Publish>,
    ) -> Result<(), SessionError> {
        self.received = now.mono;
        self.pinged = false;
        while !bytes.is_empty() {
            let Some(packet) = self.decoder.next(&mut bytes)? else { break };
            self.handle_packet(packet, messages)?;
        }
        Ok(())
    }

    fn handle_packet(&mut self, packet: Incoming, messages: &mut Vec<Publish>) -> Result<(), SessionError> {
        match packet {
            Incoming::Connack { code: 0, limits, .. } if !self.up => {
                self.up = true;
                if let Some(secs) = limits.keep_alive.filter(|secs| *secs > 0) {
                    self.keep_alive = Duration::from_secs(u64::from(secs));
                }
                let subscribe = subscribe(self.version, &self.filter)
                    .map_err(|error| SessionError::Unsendable(error.to_string()))?;
                self.out.extend_from_slice(&subscribe);
                Ok(())
            }
            Incoming::Connack { code, text, .. } if !self.up => {
                Err(SessionError::Refused { code: connect_reason(self.version, code), text })
            }
            Incoming::Disconnect { code, text } => Err(SessionError::Ended { code, text }),
            _ if !self.up => Err(SessionError::Protocol("CONNACK is the first packet")),
            Incoming::Publish(publish) => {
                messages.push(publish);
                Ok(())
            }
            Incoming::Suback(codes) => match codes.first() {
                Some(code) if *code >= 0x80 => {
                    let text = format!("the subscription to {} was refused: {}", self.filter, described(*code, None));
                    Err(SessionError::Ended { code: 0x87, text: Some(text) })
                }
                Some(_) | None => Ok(()),
            },
            Incoming::Connack { .. } => Err(SessionError::Protocol("CONNACK comes once")),
            // Of no meaning where nothing is published.
            Incoming::Puback(_)
            | Incoming::Pubrec(_)
            | Incoming::Pubrel(_)
            | Incoming::Pubcomp(_)
            | Incoming::Pingresp => Ok(()),
        }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        match (self.up, self.pinged) {
            (false, _) => self.sent + CONNACK_TIMEOUT,
            (true, true) => self.sent + self.keep_alive / 2,
            (true, false) => self.sent.min(self.received) + self.keep_alive,
        }
    }

    /// # Errors
    /// The server gives no sign of life.
    pub(super) fn handle_timeout(&mut self, now: Now) -> Result<(), SessionError> {
        if now.mono < self.poll_timeout() {
            return Ok(());
        }
        match (self.up, self.pinged) {
            (false, _) => Err(SessionError::NoConnack),
            (true, true) => Err(SessionError::Silent),
            (true, false) => {
                self.out.extend_from_slice(&PINGREQ);
                self.pinged = true;
                Ok(())
            }
        }
    }
}

fn connect(version: ProtocolVersion, login: &Login) -> Result<Vec<u8>, MqttError> {
    match version {
        ProtocolVersion::V311 => {
            let mut packet = v3_1_1::Connect::builder()
                .client_id(login.client_id.as_str())?
                .clean_session(true)
                .keep_alive(KEEP_ALIVE_SECS);
            if let Some(name) = &login.username {
                packet = packet.user_name(name.as_str())?;
            }
            if let Some(password) = &login.password {
                packet = packet.password(password.as_bytes().to_vec())?;
            }
            Ok(packet.build()?.to_continuous_buffer())
        }
        ProtocolVersion::V5 => {
            let mut packet = v5_0::Connect::builder()
                .client_id(login.client_id.as_str())?
                .clean_start(true)
                .keep_alive(KEEP_ALIVE_SECS)
                .props(vec![Property::MaximumPacketSize(mqtt::MaximumPacketSize::new(PACKET_BYTES_MAX)?)]);
            if let Some(name) = &login.username {
                packet = packet.user_name(name.as_str())?;
            }
            if let Some(password) = &login.password {
                packet = packet.password(password.as_bytes().to_vec())?;
            }
            Ok(packet.build()?.to_continuous_buffer())
        }
    }
}

fn subscribe(version: ProtocolVersion, filter: &str) -> Result<Vec<u8>, MqttError> {
    let entries = vec![SubEntry::new(filter, SubOpts::new().set_qos(mqtt::Qos::AtMostOnce))?];
    match version {
        ProtocolVersion::V311 => {
            Ok(v3_1_1::Subscribe::builder().packet_id(1).entries(entries).build()?.to_continuous_buffer())
        }
        ProtocolVersion::V5 => {
            Ok(v5_0::Subscribe::builder().packet_id(1).entries(entries).build()?.to_continuous_buffer())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(version: ProtocolVersion) -> (Session, Now) {
        let now = Now::read();
        let login = Login {
            client_id: "watch".into(),
            username: Some("ann".into()),
            password: Some("hush".into()),
            filter: "a/#".into(),
        };
        let mut session = Session::new(version, &login, now).unwrap();
        let connect = session.take_output(now);
        assert_eq!(connect[0], 0x10);
        assert!(connect.windows(4).any(|four| four == b"hush"));
        (session, now)
    }

    const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

    #[test]
    fn it_subscribes_once_it_is_let_in_and_hands_on_what_comes_however_it_is_cut() {
        let (mut session, now) = session(ProtocolVersion::V311);
        let stream = [&CONNACK[..], &[0x90, 3, 0, 1, 0], &[0x30, 6, 0, 3], b"a/b1"].concat();
        let mut messages = Vec::new();
        for byte in stream {
            session.handle_input(&[byte], now, &mut messages).unwrap();
        }
        assert!(session.is_up());
        assert_eq!(session.take_output(now)[0], 0x82);
        assert_eq!((messages[0].topic.as_str(), &messages[0].payload[..]), ("a/b", &b"1"[..]));
    }

    #[test]
    fn a_refusal_says_why() {
        let (mut login, now) = session(ProtocolVersion::V311);
        let refused = login.handle_input(&[0x20, 2, 0, 5], now, &mut Vec::new()).unwrap_err();
        assert_eq!(refused, SessionError::Refused { code: 0x87, text: None });
        let (mut filter, now) = session(ProtocolVersion::V311);
        filter.handle_input(&CONNACK, now, &mut Vec::new()).unwrap();
        let refused = filter.handle_input(&[0x90, 3, 0, 1, 0x80], now, &mut Vec::new()).unwrap_err();
        assert!(refused.to_string().contains("subscription to a/# was refused"), "{refused}");
    }

    #[test]
    fn a_still_connection_is_pinged_and_a_dead_one_noticed() {
        let (mut session, now) = session(ProtocolVersion::V311);
        session.handle_input(&CONNACK, now, &mut Vec::new()).unwrap();
        session.take_output(now);
        let later = now.after(Duration::from_secs(30));
        session.handle_timeout(later).unwrap();
        assert_eq!(session.take_output(later)[..], PINGREQ);
        session.handle_timeout(later.after(Duration::from_secs(14))).unwrap();
        assert_eq!(session.handle_timeout(later.after(Duration::from_secs(16))), Err(SessionError::Silent));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
                let (mut session, now) = session(version);
                let _ = session.handle_input(&CONNACK, now, &mut Vec::new());
                let _ = session.handle_input(&bytes, now, &mut Vec::new());
            }
        }
    }
}
