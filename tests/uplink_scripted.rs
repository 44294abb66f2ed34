//! The uplink against a scripted broker: what a real one does only on a bad day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a scenario runs in real time")]
#![allow(clippy::wildcard_enum_match_arm, reason = "the script answers what it knows")]

mod uplink;

use std::collections::HashSet;
use std::time::Duration;

use fieldgate::message::{Message, Qos};
use fieldgate::store::Seq;
use fieldgate::uplink::spec::ProtocolVersion;
use fieldgate::uplink::status::{UplinkControl, UplinkEvent, UplinkState};
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{PacketBuildResult, PacketBuilder, PacketData, RawPacket};
use mqtt_protocol_core::mqtt::packet::{Property, v5_0};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uplink::{MemoryQueue, Running, on_one_thread, spec, until};

/// CONNACK: accepted, no properties.
const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

/// The broker's end of one connection.
struct Peer {
    socket: TcpStream,
    builder: PacketBuilder,
    input: Vec<u8>,
}

impl Peer {
    /// Takes a connection and its CONNECT, and answers with `connack`.
    async fn accept(listener: &TcpListener, connack: &[u8]) -> Self {
        let (socket, _) = listener.accept().await.unwrap();
        let mut peer = Self { socket, builder: PacketBuilder::new(), input: Vec::new() };
        let connect = peer.packet().await.expect("CONNECT");
        assert_eq!(connect.packet_type(), 1);
        peer.send(connack).await;
        peer
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.ok();
    }

    /// The next packet; `None` at the end of the connection.
    async fn packet(&mut self) -> Option<RawPacket> {
        loop {
            let mut cursor = Cursor::new(self.input.as_slice());
            let built = self.builder.feed(&mut cursor);
            let read = usize::try_from(cursor.position()).unwrap();
            self.input.drain(..read);
            match built {
                PacketBuildResult::Complete(raw) => return Some(raw),
                PacketBuildResult::Incomplete => {
                    let mut chunk = [0; 4096];
                    match self.socket.read(&mut chunk).await {
                        Ok(0) | Err(_) => return None,
                        Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                    }
                }
                PacketBuildResult::Error(error) => panic!("{error}"),
            }
        }
    }

    /// The next message of the queue, with its packet identifier and its `seq`; everything else is answered.
    async fn publish(&mut self) -> Option<(u16, Seq)> {
        loop {
            let raw = self.packet().await?;
            let PacketData::Publish(body) = &raw.data else {
                if raw.packet_type() == 8 {
                    let body = raw.data_as_slice();
                    self.send(&[0x90, 4, body[0], body[1], 0, 1]).await;
                }
                continue;
            };
            let (publish, _) = v5_0::Publish::parse(raw.flags(), body.clone()).unwrap();
            let id = publish.packet_id();
            let seq = publish.props.iter().find_map(|property| match property {
                Property::UserProperty(pair) if pair.key() == "seq" => pair.val().parse().ok(),
                _ => None,
            });
            match (id, seq) {
                (Some(id), Some(seq)) => return Some((id, seq)),
                (Some(id), None) => self.puback(id, 0).await,
                (None, _) => {}
            }
        }
    }

    async fn puback(&mut self, id: u16, code: u8) {
        let [high, low] = id.to_be_bytes();
        self.send(&[0x40, 3, high, low, code]).await;
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_message_that_is_not_authorised_is_set_aside_and_shown_and_the_others_go_on() {
    on_one_thread(async {
        let (listener, port) = listener().await;
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", 100, 100);
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), queue.clone());
        tokio::task::spawn_local(async move {
            let mut peer = Peer::accept(&listener, CONNACK).await;
            while let Some((id, seq)) = peer.publish().await {
                peer.puback(id, if seq == 42 { 0x87 } else { 0 }).await;
            }
        });
        let status = uplink.status(Duration::from_secs(5), |s| s.delivered + s.refused == 100).await;
        assert_eq!((status.delivered, status.refused), (99, 1));
        let refusal = status.last_refusal.unwrap();
        assert_eq!(&*refusal.topic, "plant/a/41");
        assert_eq!(&*refusal.reason, "not authorised (0x87)");
        assert_eq!(queue.len(), 0);
        uplink.stop().await;
    });
}

#[test]
fn a_server_over_its_quota_is_waited_for_and_nothing_is_set_aside() {
    on_one_thread(async {
        let (listener, port) = listener().await;
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", 600, 1);
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), queue.clone());
        let broker = tokio::task::spawn_local(async move {
            let mut peer = Peer::accept(&listener, CONNACK).await;
            let (mut taken, mut refusals, mut tries) = (Vec::new(), 0_u64, 0);
            while taken.len() < 600 {
                // A try after a pause, of one message alone.
                let mut next = tokio::time::timeout(Duration::from_millis(50), peer.publish()).await;
                if next.is_err() {
                    tries += 1;
                    next = Ok(peer.publish().await);
                }
                let (id, seq) = next.unwrap().unwrap();
                // The quota is used up after 300, and there is room again at the third try.
                if taken.len() == 300 && tries < 3 {
                    refusals += 1;
                    peer.puback(id, 0x97).await;
                } else {
                    taken.push(seq);
                    peer.puback(id, 0).await;
                }
            }
            // The connection is held until the uplink has told all.
            (taken, refusals, peer)
        });
        let paused = uplink.status(Duration::from_secs(5), |s| s.deferred > 0).await;
        let status = uplink.status(Duration::from_secs(30), |s| s.delivered == 600).await;
        let (taken, refusals, _peer) = broker.await.unwrap();
        assert!(refusals > 2, "a window full, and then single tries");
        assert_eq!((status.refused, status.deferred), (0, refusals));
        assert_eq!(taken, (1..=600).collect::<Vec<Seq>>(), "once each, and in order");
        assert!(paused.last_error.unwrap().contains("quota exceeded"));
        uplink.stop().await;
    });
}

#[test]
fn no_more_is_in_flight_than_the_server_takes() {
    on_one_thread(async {
        let (listener, port) = listener().await;
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", 30, 1);
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), queue.clone());
        let broker = tokio::task::spawn_local(async move {
            // Receive Maximum 3.
            let mut peer = Peer::accept(&listener, &[0x20, 6, 0, 0, 3, 0x21, 0, 3]).await;
            let mut open = Vec::new();
            let mut most = 0;
            let mut taken = 0;
            while taken < 30 {
                let next = tokio::time::timeout(Duration::from_millis(50), peer.publish()).await;
                if let Ok(publish) = next {
                    open.push(publish.unwrap().0);
                } else {
                    most = most.max(open.len());
                    taken += open.len();
                    for id in open.drain(..) {
                        peer.puback(id, 0).await;
                    }
                }
            }
            most
        });
        assert_eq!(broker.await.unwrap(), 3);
        until(Duration::from_secs(5), "the queue is empty", || queue.len() == 0).await;
        uplink.connected().await;
        uplink.stop().await;
    });
}

#[test]
fn a_message_larger_than_the_server_takes_is_set_aside() {
    on_one_thread(async {
        let (listener, port) = listener().await;
        let queue = MemoryQueue::new();
        queue.push(Message::new("plant/big", vec![b'x'; 2000], Qos::AtLeastOnce, false));
        queue.push(Message::new("plant/small", "1", Qos::AtLeastOnce, false));
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), queue.clone());
        tokio::task::spawn_local(async move {
            // Maximum Packet Size 1024.
            let mut peer = Peer::accept(&listener, &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 4, 0]).await;
            while let Some((id, seq)) = peer.publish().await {
                assert_eq!(seq, 2);
                peer.puback(id, 0).await;
            }
        });
        let status = uplink.status(Duration::from_secs(5), |s| s.delivered == 1).await;
        assert_eq!(status.refused, 1);
        assert!(status.last_refusal.unwrap().reason.contains("packet too large"));
        assert_eq!(queue.len(), 0);
        uplink.stop().await;
    });
}

#[test]
fn a_server_that_never_answers_is_left_within_one_and_a_half_keep_alives() {
    on_one_thread(async {
        tokio::time::pause();
        let (listener, port) = listener().await;
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), MemoryQueue::new());
        let silent = tokio::task::spawn_local(async move {
            let mut peer = Peer::accept(&listener, CONNACK).await;
            // SUBSCRIBE and the status go unanswered, and so does PINGREQ.
            let mut pings = 0;
            while let Some(packet) = peer.packet().await {
                pings += usize::from(packet.packet_type() == 12);
            }
            pings
        });
        uplink.connected().await;
        let begun = tokio::time::Instant::now();
        let status = uplink.status(Duration::from_secs(60), |s| s.state == UplinkState::BackingOff).await;
        let waited = begun.elapsed();
        assert!((44..=47).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(status.last_error.as_deref(), Some("no sign of life from the server"));
        assert_eq!(silent.await.unwrap(), 1);
        uplink.stop().await;
    });
}

#[test]
fn a_socket_that_is_accepted_and_never_speaks_is_left_after_ten_seconds() {
    on_one_thread(async {
        tokio::time::pause();
        let (listener, port) = listener().await;
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), MemoryQueue::new());
        let _held = listener.accept().await.unwrap();
        let begun = tokio::time::Instant::now();
        let status = uplink.status(Duration::from_secs(60), |s| s.state == UplinkState::BackingOff).await;
        assert!((9..=11).contains(&begun.elapsed().as_secs()));
        assert_eq!(status.last_error.as_deref(), Some("no CONNACK within 10 s"));
        uplink.stop().await;
    });
}

#[test]
fn garbage_from_a_server_ends_the_connection_and_nothing_else() {
    const GARBAGE: [&[u8]; 7] = [
        b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        // A second CONNACK, with a session.
        &[0x20, 3, 1, 0, 0],
        // PUBACK for nothing.
        &[0x40, 2, 0xFF, 0xFF],
        // A length that never ends.
        &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        // PUBLISH with packet identifier 0, then with a topic alias that was not allowed.
        &[0x32, 6, 0, 1, b'a', 0, 0, 0],
        &[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 1],
        // CONNECT to a client.
        &[0x10, 2, 0, 0],
    ];
    on_one_thread(async {
        let mut running = Vec::new();
        for bytes in GARBAGE {
            let (listener, port) = listener().await;
            let queue = MemoryQueue::new();
            queue.push_many("plant/a", 50, 1);
            let uplink = Running::start(spec(port, ProtocolVersion::V5), queue.clone());
            tokio::task::spawn_local(async move {
                let mut peer = Peer::accept(&listener, CONNACK).await;
                peer.send(bytes).await;
                while peer.packet().await.is_some() {}
                let mut peer = Peer::accept(&listener, CONNACK).await;
                while let Some((id, _)) = peer.publish().await {
                    peer.puback(id, 0).await;
                }
            });
            running.push((uplink, queue));
        }
        for (mut uplink, queue) in running {
            let status = uplink.status(Duration::from_secs(10), |s| s.delivered == 50).await;
            assert_eq!((status.refused, queue.len()), (0, 0));
            let error = status.last_error.unwrap();
            assert!(error.contains("not MQTT") || error.contains("broke the protocol"), "{error}");
            uplink.stop().await;
        }
    });
}

#[test]
fn cut_connections_lose_nothing_keep_order_and_repeat_only_what_was_in_flight() {
    const COUNT: Seq = 5000;
    on_one_thread(async {
        let (listener, port) = listener().await;
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", usize::try_from(COUNT).unwrap(), 1);
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), queue.clone());
        let broker = tokio::task::spawn_local(async move {
            let (mut all, mut acknowledged, mut repeated) = (Vec::new(), HashSet::new(), 0);
            for connection in 1.. {
                let mut peer = Peer::accept(&listener, CONNACK).await;
                let mut before = 0;
                for n in 0.. {
                    if connection <= 3 && n == 700 {
                        break;
                    }
                    let Some((id, seq)) = peer.publish().await else { break };
                    assert!(seq > before, "in order within a connection");
                    assert!(!acknowledged.contains(&seq), "what was acknowledged never comes again");
                    before = seq;
                    repeated += usize::from(all.contains(&seq));
                    all.push(seq);
                    // The last of a connection are received and not acknowledged.
                    if connection > 3 || n < 600 {
                        acknowledged.insert(seq);
                        peer.puback(id, 0).await;
                    }
                    if acknowledged.len() == usize::try_from(COUNT).unwrap() {
                        return (acknowledged.len(), repeated);
                    }
                }
                // Read to the end first, so that the acknowledgements are not lost to a reset.
                peer.socket.shutdown().await.ok();
                while peer.packet().await.is_some() {}
            }
            unreachable!("it returns when all came")
        });
        let status = uplink.status(Duration::from_secs(60), |s| s.delivered == COUNT).await;
        let (distinct, repeated) = broker.await.unwrap();
        assert_eq!(distinct, usize::try_from(COUNT).unwrap());
        assert!(repeated <= 3 * 256, "{repeated} repeated after three cuts");
        assert_eq!(status.refused, 0);
        uplink.stop().await;
    });
}

#[test]
fn a_qos_2_command_is_handed_out_once_and_received_only_when_the_owner_says_so() {
    on_one_thread(async {
        let (listener, port) = listener().await;
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), MemoryQueue::new());
        let mut peer = Peer::accept(&listener, CONNACK).await;
        let topic = b"site/plant/pi-1/a/b/set";
        let mut publish = vec![0x34, u8::try_from(topic.len() + 2 + 2 + 1 + 2).unwrap(), 0];
        publish.push(u8::try_from(topic.len()).unwrap());
        publish.extend_from_slice(topic);
        publish.extend_from_slice(&[0, 9, 0, b'4', b'2']);
        peer.send(&publish).await;
        publish[0] = 0x3C; // DUP
        peer.send(&publish).await;
        let token = loop {
            if let UplinkEvent::Message { message, token, .. } = uplink.events.recv().await.unwrap() {
                assert_eq!((&*message.topic, message.qos), ("plant/pi-1/a/b/set", Qos::ExactlyOnce));
                break token;
            }
        };
        // Nothing but the uplink's own SUBSCRIBE and status until the owner has spoken.
        while let Ok(packet) = tokio::time::timeout(Duration::from_millis(200), peer.packet()).await {
            assert!(matches!(packet.unwrap().packet_type(), 3 | 8));
        }
        uplink.control.send(UplinkControl::Acknowledge(token)).await.unwrap();
        assert_eq!(peer.packet().await.unwrap().packet_type(), 5, "PUBREC");
        peer.send(&publish).await;
        assert_eq!(peer.packet().await.unwrap().packet_type(), 5, "PUBREC again for a duplicate");
        peer.send(&[0x62, 2, 0, 9]).await;
        assert_eq!(peer.packet().await.unwrap().packet_type(), 7, "PUBCOMP");
        uplink.control.send(UplinkControl::Acknowledge(token)).await.unwrap();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(100), uplink.events.recv()).await {
            assert!(matches!(event, UplinkEvent::Status(..)), "handed out once");
        }
        uplink.stop().await;
    });
}

#[test]
fn the_reason_of_a_server_s_disconnect_is_shown() {
    on_one_thread(async {
        let (listener, port) = listener().await;
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), MemoryQueue::new());
        let mut peer = Peer::accept(&listener, CONNACK).await;
        // DISCONNECT: session taken over, reason string "ab".
        peer.send(&[0xE0, 7, 0x8E, 5, 0x1F, 0, 2, b'a', b'b']).await;
        let status = uplink.status(Duration::from_secs(5), |s| s.state == UplinkState::Refused).await;
        let expected = "the server ended the connection: session taken over (0x8E): ab";
        assert_eq!(status.last_error.as_deref(), Some(expected));
        uplink.stop().await;
    });
}

#[test]
fn a_stop_is_over_in_two_seconds_though_the_server_acknowledges_nothing() {
    on_one_thread(async {
        let (listener, port) = listener().await;
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", 50, 1);
        let mut uplink = Running::start(spec(port, ProtocolVersion::V5), queue.clone());
        let mut peer = Peer::accept(&listener, CONNACK).await;
        uplink.connected().await;
        let told = tokio::task::spawn_local(async move {
            let mut types = Vec::new();
            while let Some(packet) = peer.packet().await {
                types.push(packet.packet_type());
            }
            types
        });
        uplink.stop().await;
        assert_eq!(queue.len(), 50, "what was not acknowledged stays");
        let types = told.await.unwrap();
        assert_eq!(types.last(), Some(&14), "DISCONNECT, after everything else");
        assert_eq!(types.iter().filter(|kind| **kind == 3).count(), 52, "online, 50 messages, offline");
    });
}
