//! Session and engine with invented time.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::codec::Publish;
use super::engine::Engine;
use super::error::SessionError;
use super::session::{Published, Session, SessionEvent};
use super::spec::{Drain, ProtocolVersion, Scheme, UplinkSpec, UplinkUrl};
use super::status::{UplinkEvent, UplinkState};
use crate::clock::{Now, UnixMs};
use crate::message::{Message, Qos};
use crate::store::{QueueSpec, Stored, WhenFull};

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

fn spec(version: ProtocolVersion, qos: Qos) -> Arc<UplinkSpec> {
    Arc::new(UplinkSpec {
        name: "cloud".into(),
        url: UplinkUrl { scheme: Scheme::Mqtt, host: "localhost".into(), port: 1883, path: String::new() },
        version,
        client_id: "pi-1".into(),
        username: Some("pi-1".into()),
        password_file: None,
        ca: None,
        client_cert: None,
        forward: vec![],
        accept: vec!["a/+/set".into()],
        prefix: "p/".into(),
        qos,
        queue: QueueSpec { max_bytes: 1, max_age_secs: None, when_full: WhenFull::DropOldest },
        drain: Drain::OldestFirst,
        drain_per_sec: 1000,
        status_topic: "s".into(),
    })
}

fn stored(seq: u64, expires: Option<UnixMs>) -> Stored {
    let message = Message { expires, ..Message::new("t", "x", Qos::AtLeastOnce, false) };
    Stored { seq, boot: "b".into(), at: UnixMs(0), message: Arc::new(message) }
}

fn up(qos: Qos, now: Now) -> Session {
    let mut session = Session::new(spec(ProtocolVersion::V5, qos), 1, None, now).unwrap();
    session.handle_input(CONNACK, now).unwrap();
    assert_eq!(session.poll_event(), Some(SessionEvent::Up));
    session.take_output(now);
    session
}

#[test]
fn a_still_connection_is_pinged_after_the_keep_alive_and_given_up_half_of_it_later() {
    let now = Now::read();
    let mut session = up(Qos::AtLeastOnce, now);
    let at = |secs: u64| now.after(Duration::from_secs(secs));
    session.handle_timeout(at(29)).unwrap();
    assert!(session.take_output(at(29)).is_empty());
    session.handle_timeout(at(30)).unwrap();
    assert_eq!(&session.take_output(at(30))[..], [0xC0, 0]);
    session.handle_timeout(at(44)).unwrap();
    assert_eq!(session.handle_timeout(at(45)), Err(SessionError::Silent));
}

#[test]
fn a_server_keep_alive_is_respected_and_any_byte_is_a_sign_of_life() {
    let now = Now::read();
    let mut session = Session::new(spec(ProtocolVersion::V5, Qos::AtLeastOnce), 1, None, now).unwrap();
    session.handle_input(&[0x20, 6, 0, 0, 3, 0x13, 0, 4], now).unwrap();
    session.take_output(now);
    let at = |secs: u64| now.after(Duration::from_secs(secs));
    session.handle_timeout(at(4)).unwrap();
    assert_eq!(&session.take_output(at(4))[..], [0xC0, 0]);
    session.handle_input(&[0xD0, 0], at(5)).unwrap();
    session.handle_timeout(at(6)).unwrap();
    assert_eq!(session.poll_timeout(), at(8).mono);
}

#[test]
fn qos_0_counts_as_delivered_when_the_socket_has_taken_it_and_not_before() {
    let now = Now::read();
    let mut session = up(Qos::AtMostOnce, now);
    assert_eq!(session.publish(&stored(1, None), now), Published::Sent);
    session.flushed();
    assert_eq!(session.poll_event(), None, "it was not in what was flushed");
    session.take_output(now);
    session.flushed();
    assert_eq!(session.poll_event(), Some(SessionEvent::Delivered(1)));
}

#[test]
fn qos_2_is_delivered_at_pubcomp_whatever_success_pubrec_told() {
    let now = Now::read();
    for code in [0x00, 0x10] {
        let mut session = up(Qos::ExactlyOnce, now);
        session.publish(&stored(9, None), now);
        let publish = session.take_output(now);
        // Identifier 1 is SUBSCRIBE's, 2 the status's.
        assert_eq!(publish[7..9], [0, 3]);
        session.handle_input(&[0x50, 3, 0, 3, code], now).unwrap();
        assert_eq!(&session.take_output(now)[..], [0x62, 2, 0, 3]);
        assert_eq!(session.poll_event(), None);
        session.handle_input(&[0x70, 2, 0, 3], now).unwrap();
        assert_eq!(session.poll_event(), Some(SessionEvent::Delivered(9)));
    }
}

#[test]
fn a_message_past_its_expiry_is_not_sent() {
    let now = Now::read();
    let mut session = up(Qos::AtLeastOnce, now);
    assert_eq!(session.publish(&stored(1, Some(now.wall)), now), Published::Expired);
    assert!(session.take_output(now).is_empty());
    let later = UnixMs(now.wall.0 + 1);
    assert_eq!(session.publish(&stored(2, Some(later)), now), Published::Sent);
}

#[test]
fn a_3_1_1_refusal_is_told_in_the_words_of_mqtt_5() {
    let now = Now::read();
    let mut session = Session::new(spec(ProtocolVersion::V311, Qos::AtLeastOnce), 1, None, now).unwrap();
    let error = session.handle_input(&[0x20, 2, 0, 5], now).unwrap_err();
    assert_eq!(error.to_string(), "the server refused the connection: not authorised (0x87)");
    assert!(error.is_lasting());
}

#[test]
fn a_state_change_is_told_at_once_and_the_rest_once_a_second() {
    let now = Now::read();
    let mut engine = Engine::new(spec(ProtocolVersion::V5, Qos::AtLeastOnce), 3, 1, now);
    engine.opened(None, now).unwrap();
    engine.handle_input(CONNACK, now).unwrap();
    engine.advance(now);
    let Some(UplinkEvent::Status(3, status)) = engine.next_event(now) else { panic!("a status") };
    assert_eq!(status.state, UplinkState::Connected);
    // Not asked for: counted, and told with the next second.
    let unasked = [0x30, 6, 0, 3, b'p', b'/', b'x', 0];
    engine.handle_input(&unasked, now).unwrap();
    let soon = now.after(Duration::from_millis(900));
    engine.advance(soon);
    assert!(!engine.has_event(soon));
    let second = now.after(Duration::from_millis(1000));
    engine.advance(second);
    let Some(UplinkEvent::Status(3, status)) = engine.next_event(second) else { panic!("a status") };
    assert_eq!(status.unasked, 1);
}

#[test]
fn nothing_is_sent_before_the_server_has_accepted_the_connection_also_after_a_refusal_for_now() {
    let now = Now::read();
    let mut engine = Engine::new(spec(ProtocolVersion::V5, Qos::AtLeastOnce), 3, 1, now);
    engine.opened(None, now).unwrap();
    engine.handle_input(CONNACK, now).unwrap();
    engine.committed(3);
    engine.advance(now);
    let read = engine.next_read().unwrap();
    engine.filled(read, (1..=3).map(|seq| stored(seq, None)).collect());
    // One at once: the drain's bucket begins with one token.
    engine.advance(now);
    let sent = engine.take_output(now);
    let at = sent.windows(3).position(|bytes| bytes == b"p/t").unwrap() + 3;
    engine.handle_input(&[0x40, 3, sent[at], sent[at + 1], 0x97], now).unwrap();
    engine.advance(now);
    engine.closed(&SessionError::Silent, now);
    let later = now.after(Duration::from_secs(60));
    engine.opened(None, later).unwrap();
    engine.advance(later);
    let out = engine.take_output(later);
    assert_eq!((out[0], out.len()), (0x10, usize::from(out[1]) + 2), "CONNECT, and nothing behind it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every byte from upstream is hostile: packets of every kind with random bodies, before and after CONNACK.
    #[test]
    fn no_bytes_from_a_server_panic_or_grow_without_bound(
        packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        connected in any::<bool>(), v5 in any::<bool>(),
    ) {
        let now = Now::read();
        let version = if v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        let mut session = Session::new(spec(version, Qos::ExactlyOnce), 1, None, now).unwrap();
        if connected {
            let connack: &[u8] = if v5 { CONNACK } else { &[0x20, 2, 0, 0] };
            session.handle_input(connack, now).unwrap();
            for seq in 1..5 {
                session.publish(&stored(seq, None), now);
            }
        }
        for (header, body) in packets {
            let mut bytes = vec![header, u8::try_from(body.len()).unwrap()];
            bytes.extend(body);
            if session.handle_input(&bytes, now).is_err() {
                break;
            }
        }
        prop_assert!(session.take_output(now).len() < 4096);
    }
}

#[test]
fn upstream_never_speaks_for_the_gateway_or_its_broker() {
    let now = Now::read();
    let spec = UplinkSpec {
        accept: vec!["#".into(), "fieldgate/#".into(), "$SYS/#".into()],
        status_topic: "fieldgate/pi-1/status".into(),
        ..(*spec(ProtocolVersion::V5, Qos::AtLeastOnce)).clone()
    };
    let accepted = |topic: &str| {
        let publish = Publish {
            packet_id: None,
            topic: format!("p/{topic}"),
            payload: "x".into(),
            qos: Qos::AtMostOnce,
            retain: false,
            properties: None,
            expiry: None,
        };
        super::inbox::accepted(&spec, publish, now).is_some()
    };
    for own in ["fieldgate/pi-1/status", "fieldgate/pi-1/device/x", "$SYS/broker/uptime"] {
        assert!(!accepted(own), "{own}");
    }
    for other in ["fieldgate/pi-2/status", "fieldgate/pi-1", "plant/a/set"] {
        assert!(accepted(other), "{other}");
    }
}
