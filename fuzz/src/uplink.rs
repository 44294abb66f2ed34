//! What a broker upstream sends to the uplink's session, while messages are in flight.

use std::sync::Arc;
use std::time::Duration;

use fieldgate::clock::{Now, UnixMs};
use fieldgate::message::{Message, Qos};
use fieldgate::store::{QueueSpec, Stored, WhenFull};
use fieldgate::uplink::session::{Session, SessionEvent};
use fieldgate::uplink::spec::{Drain, ProtocolVersion, Scheme, UplinkSpec, UplinkUrl};

use super::Pieces;

fn spec(mode: u8) -> Arc<UplinkSpec> {
    Arc::new(UplinkSpec {
        name: "cloud".into(),
        url: UplinkUrl { scheme: Scheme::Mqtt, host: "h".into(), port: 1883, path: String::new() },
        version: if mode & 1 == 0 { ProtocolVersion::V311 } else { ProtocolVersion::V5 },
        client_id: "pi-1".into(),
        username: None,
        password_file: None,
        ca: None,
        client_cert: None,
        forward: vec!["#".into()],
        accept: vec!["a/+/set".into()],
        prefix: if mode & 8 == 0 { String::new() } else { "p/".into() },
        qos: Qos::try_from((mode >> 1) % 3).unwrap_or_default(),
        queue: QueueSpec { max_bytes: 1, max_age_secs: None, when_full: WhenFull::DropOldest },
        drain: Drain::OldestFirst,
        drain_per_sec: 1000,
        status_topic: "fieldgate/pi-1/status".into(),
    })
}

pub fn run(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    let mut now = Now::read();
    let mut session = Session::new(spec(mode), 1, None, now).expect("CONNECT can be sent");
    if mode & 0x10 != 0 {
        let connack: &[u8] = if mode & 1 == 0 { &[0x20, 2, 0, 0] } else { &[0x20, 3, 0, 0, 0] };
        session.handle_input(connack, now).expect("a CONNACK is taken");
    }
    let (mut seq, mut given, mut settled) = (0, 0_u32, 0_u32);
    for (what, piece) in Pieces(rest) {
        now = now.after(Duration::from_millis(u64::from(what)));
        if what & 1 != 0 && session.vacancy() > 0 {
            seq += 1;
            let message = Message::new("a/b", piece.to_vec(), Qos::AtLeastOnce, what & 2 != 0);
            let stored = Stored { seq, boot: "b".into(), at: UnixMs(0), message: Arc::new(message) };
            given += 1;
            let _ = session.publish(&stored, now);
        }
        if session.handle_timeout(now).and_then(|()| session.handle_input(piece, now)).is_err() {
            return;
        }
        session.take_output(now);
        session.flushed();
        while let Some(event) = session.poll_event() {
            match event {
                SessionEvent::Message { message, token } => {
                    assert!(message.topic.starts_with("a/") && message.topic.ends_with("/set"));
                    session.acknowledge(token);
                }
                SessionEvent::Delivered(_) => settled += 1,
                _ => {}
            }
        }
        assert!(settled <= given, "more delivered than was given");
    }
}
