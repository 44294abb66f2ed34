//! The broker's core in invented time: bytes in, bytes out, a store in memory that waits, refuses or forgets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/broker_loop.rs"]
mod broker_loop;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use broker_loop::{Disk, Loop, MemoryStore, limits};
use bytes::Bytes;
use fieldgate::broker::spec::{Access, BrokerSpec, UserSpec};
use fieldgate::broker::{ConnId, Input, Output, Peer, Reason};
use fieldgate::clock::Now;
use fieldgate::hub::topics::filter_matches;
use fieldgate::message::{Message, Origin, Qos};
use proptest::prelude::*;

fn spec() -> BrokerSpec {
    let all = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect::<Vec<_>>();
    let access = Access { subscribe: all(&["#"]), publish: all(&["#"]), deny: all(&["secret/#"]) };
    let user = |name: &str| UserSpec { name: name.into(), password_hash: Some("hash".into()), access: access.clone() };
    BrokerSpec { limits: limits(), listeners: vec![], users: vec![user("ann"), user("bob")], anonymous: Some(access) }
}

struct Rig {
    this: Loop,
    now: Now,
    spec: BrokerSpec,
    next: u64,
    inbox: BTreeMap<ConnId, Vec<u8>>,
    closed: BTreeMap<ConnId, Reason>,
    /// Connections whose socket takes nothing.
    stuck: BTreeSet<ConnId>,
}

impl Rig {
    fn new() -> Self {
        Self::with(spec())
    }

    fn with(spec: BrokerSpec) -> Self {
        let this = Loop::new(spec.clone(), MemoryStore::default());
        let (inbox, closed, stuck) = Default::default();
        Self { this, now: Now::read(), spec, next: 0, inbox, closed, stuck }
    }

    /// The process dies and starts again with what was committed.
    fn crash(&mut self) {
        let store = std::mem::take(&mut self.this.store);
        self.this = Loop::new(self.spec.clone(), store);
        self.inbox.clear();
        self.run();
    }

    fn run(&mut self) {
        for _ in 0..100 {
            let mut written = Vec::new();
            let (inbox, closed, stuck) = (&mut self.inbox, &mut self.closed, &self.stuck);
            let mut checks = Vec::new();
            self.this.turn(self.now, |output| match output {
                Output::Send { conn, data } => {
                    if !stuck.contains(&conn) {
                        written.push((conn, data.len()));
                    }
                    inbox.entry(conn).or_default().extend_from_slice(&data);
                    None
                }
                Output::Close { conn, reason } => {
                    closed.insert(conn, reason);
                    None
                }
                Output::CheckPassword { conn, password, .. } => {
                    checks.push((conn, &password.0[..] == b"pw"));
                    None
                }
                Output::Publish { .. } | Output::Store(_) | Output::Barrier(_) | Output::Load { .. } => Some(output),
            });
            if written.is_empty() && checks.is_empty() {
                return;
            }
            for (conn, bytes) in written {
                self.this.broker.handle(self.now, Input::Written { conn, bytes });
            }
            for (conn, ok) in checks {
                self.this.broker.handle(self.now, Input::PasswordChecked { conn, ok });
            }
        }
        panic!("the broker does not come to rest");
    }

    fn open(&mut self) -> ConnId {
        self.next += 1;
        let conn = ConnId(self.next);
        let peer = Peer { address: "10.0.0.1:5000".parse().unwrap(), listener: 0, certificate_user: None };
        self.this.broker.handle(self.now, Input::Connected { conn, peer });
        conn
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.this.broker.handle(self.now, Input::Bytes { conn, data: Bytes::copy_from_slice(bytes) });
        self.run();
    }

    /// Opens, connects, and takes the CONNACK away.
    fn join(&mut self, connect: &[u8]) -> ConnId {
        let conn = self.open();
        self.send(conn, connect);
        let frames = self.take(conn);
        assert_eq!((frames[0][0], frames[0][3]), (0x20, 0), "CONNACK: {frames:x?}");
        for frame in frames.iter().skip(1) {
            self.inbox.entry(conn).or_default().extend_from_slice(frame);
        }
        conn
    }

    fn cut(&mut self, conn: ConnId) {
        self.this.broker.handle(self.now, Input::Closed { conn });
        self.run();
    }

    fn after(&mut self, secs: u64) {
        self.now = self.now.after(Duration::from_secs(secs));
        while self.this.broker.next_timeout().is_some_and(|at| at <= self.now.mono) {
            self.this.broker.handle_timeout(self.now);
        }
        self.run();
    }

    /// Whole packets that came since the last call.
    fn take(&mut self, conn: ConnId) -> Vec<Vec<u8>> {
        let bytes = self.inbox.remove(&conn).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (mut length, mut at) = (0usize, 1);
            loop {
                length |= usize::from(rest[at] & 0x7F) << (7 * (at - 1));
                at += 1;
                if rest[at - 1] & 0x80 == 0 {
                    break;
                }
            }
            frames.push(rest[..at + length].to_vec());
            rest = &rest[at + length..];
        }
        frames
    }
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let more = length > 127;
        out.push((length & 0x7F) as u8 | u8::from(more) << 7);
        length >>= 7;
        if !more {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u16).to_be_bytes()[..], s.as_bytes()].concat()
}

fn connect4(client: &str, clean: bool) -> Vec<u8> {
    frame(0x10, &[&text("MQTT")[..], &[4, u8::from(clean) << 1, 0, 60], &text(client)].concat())
}

/// `properties` as they stand on the wire, without their length.
fn connect5(client: &str, clean: bool, properties: &[u8]) -> Vec<u8> {
    let head = [5, u8::from(clean) << 1, 0, 60, properties.len() as u8];
    frame(0x10, &[&text("MQTT")[..], &head, properties, &text(client)].concat())
}

fn login4(client: &str, user: &str, password: &str) -> Vec<u8> {
    frame(0x10, &[&text("MQTT")[..], &[4, 0xC0, 0, 60], &text(client), &text(user), &text(password)].concat())
}

const WEEK: [u8; 5] = [0x11, 0, 9, 0x3A, 0x80];

fn subscribe4(id: u16, filter: &str, qos: u8) -> Vec<u8> {
    frame(0x82, &[&id.to_be_bytes()[..], &text(filter), &[qos]].concat())
}

fn subscribe5(id: u16, filter: &str, options: u8) -> Vec<u8> {
    frame(0x82, &[&id.to_be_bytes()[..], &[0], &text(filter), &[options]].concat())
}

fn publish4(topic: &str, payload: &[u8], qos: u8, id: u16, dup: bool) -> Vec<u8> {
    let id = if qos == 0 { vec![] } else { id.to_be_bytes().to_vec() };
    frame(0x30 | qos << 1 | u8::from(dup) << 3, &[&text(topic)[..], &id, payload].concat())
}

fn publish5(topic: &str, payload: &[u8], qos: u8, id: u16, properties: &[u8]) -> Vec<u8> {
    let id = if qos == 0 { vec![] } else { id.to_be_bytes().to_vec() };
    frame(0x30 | qos << 1, &[&text(topic)[..], &id, &[properties.len() as u8], properties, payload].concat())
}

fn ack(first: u8, id: u16) -> Vec<u8> {
    frame(first, &id.to_be_bytes())
}

/// Payload of a 3.1.1 PUBLISH of QoS 1 or 2 on a topic of one letter, with its identifier.
fn received(frame: &[u8]) -> (u16, Vec<u8>) {
    (u16::from_be_bytes([frame[5], frame[6]]), frame[7..].to_vec())
}

#[test]
fn the_first_packet_must_be_connect_and_the_only_one() {
    let mut rig = Rig::new();
    let conn = rig.open();
    rig.send(conn, &[0xC0, 0]);
    assert_eq!((rig.take(conn).len(), rig.closed[&conn]), (0, Reason::ProtocolError));
    let conn = rig.join(&connect5("a", true, &[]));
    rig.send(conn, &connect5("a", true, &[]));
    assert_eq!((rig.take(conn), rig.closed[&conn]), (vec![vec![0xE0, 1, 0x82]], Reason::ProtocolError));
    let silent = rig.open();
    rig.after(6);
    assert_eq!(rig.closed[&silent], Reason::KeepAliveTimeout);
}

#[test]
fn a_refused_connect_is_told_why_in_its_own_version() {
    let mut rig = Rig::new();
    let mut answer = |connect: &[u8]| {
        let conn = rig.open();
        rig.send(conn, connect);
        assert!(rig.closed.contains_key(&conn));
        rig.take(conn).concat()
    };
    assert_eq!(answer(&connect4("", false)), [0x20, 2, 0, 2], "3.1.1 without a name and not clean");
    assert_eq!(answer(&frame(0x10, &[&text("MQTT")[..], &[6, 2, 0, 0], &text("a")].concat())), [0x20, 3, 0, 0x84, 0]);
    assert_eq!(answer(&frame(0x10, &[&text("MQIsdp")[..], &[3, 2, 0, 0], &text("a")].concat())), [0x20, 2, 0, 1]);
    assert_eq!(answer(&login4("a", "ann", "wrong")), [0x20, 2, 0, 4]);
    let method = [&[0x15][..], &text("SCRAM")].concat();
    assert_eq!(answer(&connect5("a", true, &method)), [0x20, 3, 0, 0x8C, 0]);
    let reserved = frame(0x10, &[&text("MQTT")[..], &[4, 3, 0, 0], &text("a")].concat());
    assert!(answer(&reserved).is_empty(), "a set reserved flag");
}

#[test]
fn a_wrong_password_delays_the_next_guess_but_not_a_known_right_one() {
    let mut rig = Rig::new();
    rig.join(&login4("known", "ann", "pw"));
    for _ in 0..5 {
        let conn = rig.open();
        rig.send(conn, &login4("x", "ann", "no"));
        rig.after(3);
        assert!(rig.closed.contains_key(&conn));
    }
    let conn = rig.open();
    rig.send(conn, &login4("y", "bob", "pw"));
    assert_eq!(rig.take(conn).len(), 0, "this address waits");
    rig.join(&login4("known", "ann", "pw"));
    rig.after(4);
    assert_eq!(rig.take(conn), [[0x20, 2, 0, 0]]);
}

#[test]
fn a_session_is_not_another_user_s_to_take() {
    let mut rig = Rig::new();
    let conn = rig.join(&login4("meter", "ann", "pw"));
    let thief = rig.open();
    rig.send(thief, &login4("meter", "bob", "pw"));
    assert_eq!(rig.take(thief), [[0x20, 2, 0, 2]]);
    assert!(!rig.closed.contains_key(&conn));
}

#[test]
fn a_user_that_a_reload_removes_is_told_and_goes_while_others_stay() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.join(&login4("a", "ann", "pw")), rig.join(&login4("b", "bob", "pw")));
    rig.send(bob, &subscribe4(1, "plant/#", 1));
    let mut spec = spec();
    spec.users.remove(0);
    spec.users[0].access.subscribe = vec!["other/#".to_owned()];
    rig.this.broker.reconfigure(rig.now, spec);
    rig.run();
    assert_eq!(rig.closed[&ann], Reason::NotAuthorized);
    assert!(!rig.closed.contains_key(&bob));
    assert_eq!(rig.this.broker.counters().subscriptions_now, 0, "what is no longer allowed ends");
}

#[test]
fn an_acknowledgement_waits_for_the_store_and_a_refusal_is_told_or_kept_silent() {
    let mut rig = Rig::new();
    let keeper = rig.join(&connect4("keeper", false));
    rig.send(keeper, &subscribe4(1, "q", 1));
    rig.cut(keeper);
    let (old, new) = (rig.join(&connect4("old", true)), rig.join(&connect5("new", true, &[])));
    rig.this.disk = Disk::Waits;
    rig.send(old, &publish4("q", b"1", 1, 7, false));
    rig.send(old, &publish4("nobody", b"1", 1, 8, false));
    assert_eq!(rig.take(old).len(), 0, "neither the stored one nor, for order's sake, the one behind it");
    rig.this.disk = Disk::Writes;
    rig.run();
    assert_eq!(rig.take(old), [ack(0x40, 7), ack(0x40, 8)]);
    rig.this.disk = Disk::Refuses;
    for (conn, qos) in [(old, 1), (old, 2)] {
        rig.send(conn, &publish4("q", b"2", qos, 9, false));
    }
    rig.send(new, &publish5("q", b"2", 1, 9, &[]));
    assert_eq!(rig.take(old).len(), 0, "3.1.1 sends it again");
    assert_eq!(rig.take(new), [[0x40, 3, 0, 9, 0x97]]);
    rig.this.disk = Disk::Writes;
    rig.send(old, &publish4("q", b"2", 2, 9, true));
    assert_eq!(rig.take(old), [ack(0x50, 9)]);
}

#[test]
fn a_qos_2_publish_sent_again_is_not_published_again_over_reconnect_and_restart() {
    let mut rig = Rig::new();
    let keeper = rig.join(&connect4("keeper", false));
    rig.send(keeper, &subscribe4(1, "q", 1));
    rig.cut(keeper);
    let stored = |rig: &Rig| rig.this.store.queues.values().map(BTreeMap::len).sum::<usize>();
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"1", 2, 5, false));
    assert_eq!(rig.take(conn), [ack(0x50, 5)]);
    rig.cut(conn);
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"1", 2, 5, true));
    assert_eq!((rig.take(conn), stored(&rig)), (vec![ack(0x50, 5)], 1));
    rig.crash();
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"1", 2, 5, true));
    assert_eq!((rig.take(conn), stored(&rig)), (vec![ack(0x50, 5)], 1));
    rig.send(conn, &ack(0x62, 5));
    assert_eq!(rig.take(conn), [ack(0x70, 5)]);
    rig.crash();
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"2", 2, 5, false));
    assert_eq!((rig.take(conn), stored(&rig)), (vec![ack(0x50, 5)], 2), "after PUBCOMP the identifier is new");
}

#[test]
fn a_slow_subscriber_loses_its_own_qos_0_first_and_then_its_connection() {
    let mut rig = Rig::new();
    let (slow, fast) = (rig.join(&connect5("slow", true, &[])), rig.join(&connect5("fast", true, &[])));
    rig.send(slow, &subscribe5(1, "q/#", 1));
    rig.send(fast, &subscribe5(1, "q/#", 1));
    rig.take(fast);
    rig.stuck.insert(slow);
    let publisher = rig.join(&connect5("pub", true, &[]));
    let payload = vec![0; 10_000];
    for _ in 0..300 {
        rig.send(publisher, &publish5("q/0", &payload, 0, 0, &[]));
    }
    assert_eq!(rig.take(fast).len(), 300);
    let counters = rig.this.broker.counters();
    assert!(counters.dropped_qos0 > 100 && !rig.closed.contains_key(&slow), "{counters:?}");
    for id in 1..=300 {
        rig.send(publisher, &publish5("q/1", &payload, 1, id, &[]));
        for frame in rig.take(fast) {
            let id = u16::from_be_bytes([frame[8], frame[9]]);
            rig.send(fast, &ack(0x40, id));
        }
    }
    assert_eq!(rig.closed[&slow], Reason::QuotaExceeded);
    assert!(!rig.closed.contains_key(&fast));
}

#[test]
fn a_durable_session_that_falls_behind_gets_everything_from_the_store_in_order() {
    let mut rig = Rig::new();
    let slow = rig.join(&connect4("slow", false));
    rig.send(slow, &subscribe4(1, "q", 1));
    rig.take(slow);
    rig.stuck.insert(slow);
    let publisher = rig.join(&connect4("pub", true));
    for number in 0..2500u16 {
        rig.send(publisher, &publish4("q", &[&number.to_be_bytes()[..], &[0; 1000]].concat(), 1, number + 1, false));
    }
    assert!(!rig.closed.contains_key(&slow));
    assert_eq!(rig.take(publisher).len(), 2500);
    rig.stuck.clear();
    rig.this.broker.handle(rig.now, Input::Written { conn: slow, bytes: 10_000_000 });
    let mut numbers = Vec::new();
    loop {
        rig.run();
        let frames = rig.take(slow);
        if frames.is_empty() {
            break;
        }
        for frame in frames {
            // Two bytes of remaining length.
            numbers.push(u16::from_be_bytes([frame[8], frame[9]]));
            rig.send(slow, &ack(0x40, u16::from_be_bytes([frame[6], frame[7]])));
        }
    }
    assert_eq!(numbers, (0..2500).collect::<Vec<_>>());
    assert!(rig.this.store.queues.values().all(BTreeMap::is_empty));
}

#[test]
fn a_message_that_a_read_of_the_store_brought_is_not_sent_again_by_its_commit() {
    let mut rig = Rig::new();
    let reader = rig.join(&connect4("reader", false));
    rig.send(reader, &subscribe4(1, "q", 1));
    rig.take(reader);
    let message = Arc::new(Message::new("q", &b"1"[..], Qos::AtLeastOnce, false));
    let route = rig.this.broker.route(rig.now, &message, Origin::Gateway);
    for _ in 0..2 {
        rig.this.broker.deliver_stored(rig.now, &route, &message, Some(7));
    }
    rig.run();
    assert_eq!(rig.take(reader).len(), 1);
}

#[test]
fn the_client_s_receive_maximum_and_packet_size_hold() {
    let mut rig = Rig::new();
    let limited = rig.join(&connect5("small", true, &[0x21, 0, 2, 0x27, 0, 0, 0, 100]));
    rig.send(limited, &subscribe5(1, "q", 1));
    rig.take(limited);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("q", &[0; 200], 1, 1, &[]));
    for id in 2..=6 {
        rig.send(publisher, &publish5("q", b"x", 1, id, &[]));
    }
    assert_eq!(rig.take(publisher).len(), 6);
    let frames = rig.take(limited);
    assert_eq!(frames.len(), 2, "two under way, the large one skipped");
    rig.send(limited, &ack(0x40, u16::from_be_bytes([frames[0][5], frames[0][6]])));
    assert_eq!(rig.take(limited).len(), 1);
    assert_eq!(rig.this.broker.counters().dropped_too_large, 1);
}

#[test]
fn a_topic_goes_by_number_once_a_client_that_takes_aliases_knows_it() {
    let mut rig = Rig::new();
    // Topic Alias Maximum 1, Maximum Packet Size 60.
    let subscriber = rig.join(&connect5("sub", true, &[0x22, 0, 1, 0x27, 0, 0, 0, 60]));
    rig.send(subscriber, &subscribe5(1, "plant/#", 0));
    rig.take(subscriber);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("plant/a", &[0; 60], 0, 0, &[]));
    assert!(rig.take(subscriber).is_empty(), "too large: it names nothing");
    for topic in ["plant/a", "plant/a", "plant/b"] {
        rig.send(publisher, &publish5(topic, b"x", 0, 0, &[]));
    }
    let alias = [0x23, 0, 1];
    let expected = [
        publish5("plant/a", b"x", 0, 0, &alias),
        publish5("", b"x", 0, 0, &alias),
        publish5("plant/b", b"x", 0, 0, &[]),
    ];
    assert_eq!(rig.take(subscriber), expected);
    rig.cut(subscriber);
    let again = rig.join(&connect5("sub", true, &[]));
    rig.send(again, &subscribe5(1, "plant/#", 0));
    rig.take(again);
    rig.send(publisher, &publish5("plant/a", b"x", 0, 0, &[]));
    assert_eq!(rig.take(again), [publish5("plant/a", b"x", 0, 0, &[])], "a new connection, without aliases");
}

#[test]
fn a_session_that_is_taken_up_without_expiry_gets_what_was_kept_and_then_ends() {
    let mut rig = Rig::new();
    let first = rig.join(&connect5("sub", true, &[0x11, 0, 0, 1, 0]));
    rig.send(first, &subscribe5(1, "q", 1));
    rig.cut(first);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("q", b"kept", 1, 1, &[]));
    // No Session Expiry Interval: it ends with this connection (3.1.2.11.2).
    let second = rig.join(&connect5("sub", false, &[]));
    let frames = rig.take(second);
    assert_eq!(frames.len(), 1, "{frames:x?}");
    assert!(frames[0].ends_with(b"kept"));
    rig.send(second, &ack(0x40, u16::from_be_bytes([frames[0][5], frames[0][6]])));
    rig.cut(second);
    rig.send(publisher, &publish5("q", b"nobody's", 1, 2, &[]));
    let third = rig.join(&connect5("sub", false, &[]));
    assert!(rig.take(third).is_empty());
    assert!(rig.this.store.queues.values().all(BTreeMap::is_empty));
}

#[test]
fn keep_alive_ends_a_silent_connection_after_one_and_a_half_times_and_publishes_its_will() {
    let mut rig = Rig::new();
    let watcher = rig.join(&frame(0x10, &[&text("MQTT")[..], &[4, 2, 0, 0], &text("watcher")].concat()));
    rig.send(watcher, &subscribe4(1, "w", 0));
    rig.take(watcher);
    let body = [&text("MQTT")[..], &[4, 6, 0, 10], &text("c"), &text("w"), &text("gone")].concat();
    let conn = rig.join(&frame(0x10, &body));
    rig.after(14);
    rig.send(conn, &[0xC0, 0]);
    assert_eq!(rig.take(conn), [[0xD0, 0]]);
    rig.after(14);
    assert!(!rig.closed.contains_key(&conn) && rig.take(watcher).is_empty());
    rig.after(2);
    assert_eq!(rig.closed[&conn], Reason::KeepAliveTimeout);
    assert_eq!(rig.take(watcher), [publish4("w", b"gone", 0, 0, false)]);
    rig.after(1_000_000);
    assert!(!rig.closed.contains_key(&watcher), "keep alive 0 never ends");
}

#[test]
fn a_delayed_will_waits_and_a_client_that_is_back_in_time_takes_it_along() {
    let will5 = |delay: u8| {
        let head = [5, 4, 0, 60, 5];
        let will = [&[5, 0x18, 0, 0, 0, delay][..], &text("w"), &text("gone")].concat();
        frame(0x10, &[&text("MQTT")[..], &head, &WEEK, &text("c"), &will].concat())
    };
    let mut rig = Rig::new();
    let watcher = rig.join(&frame(0x10, &[&text("MQTT")[..], &[4, 2, 0, 0], &text("watcher")].concat()));
    rig.send(watcher, &subscribe4(1, "w", 0));
    rig.take(watcher);
    let conn = rig.join(&will5(10));
    rig.cut(conn);
    rig.after(9);
    let conn = rig.join(&will5(10));
    rig.after(9);
    assert!(rig.take(watcher).is_empty());
    rig.cut(conn);
    rig.after(10);
    assert_eq!(rig.take(watcher), [publish4("w", b"gone", 0, 0, false)]);
    rig.after(3600);
    assert_eq!(rig.this.broker.counters().sessions_now, 1, "the session is over as well");
    assert!(rig.this.store.values.is_empty(), "and left nothing behind: {:?}", rig.this.store.values);
}

#[test]
fn what_expires_is_counted_down_and_then_not_delivered() {
    let mut rig = Rig::new();
    let keeper = rig.join(&connect5("keeper", false, &WEEK));
    rig.send(keeper, &subscribe5(1, "q", 1));
    rig.cut(keeper);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("q", b"a", 1, 1, &[2, 0, 0, 0, 10]));
    rig.send(publisher, &publish5("q", b"b", 1, 2, &[2, 0, 0, 0, 100]));
    rig.after(40);
    let keeper = rig.join(&connect5("keeper", false, &WEEK));
    let frames = rig.take(keeper);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][7..], [5, 2, 0, 0, 0, 60, b'b']);
}

#[test]
fn malformed_and_forbidden_packets_end_the_connection_with_their_reason() {
    let mut rig = Rig::new();
    for (packet, reason) in [
        (publish5("a/#", b"", 0, 0, &[]), 0x90),
        (publish5("", b"", 0, 0, &[]), 0x82),
        (publish5("a", b"", 0, 0, &[0x23, 0, 17]), 0x94),
        (publish5("a", b"", 1, 0, &[]), 0x82),
        (publish5("a", b"", 0, 0, &[0x0B, 1]), 0x82),
        (publish5("a\0b", b"", 0, 0, &[]), 0x81),
        (frame(0x36, &[0, 1, b'a', 0, 1, 0]), 0x81),
        (subscribe5(1, "a/#/b", 0), 0x8F),
        (subscribe5(1, "$share/x", 0), 0x81),
        (subscribe5(1, "$share/x/a", 4), 0x82),
        (frame(0x80, &[0, 1, 0, 0, 1, b'a', 0]), 0x81),
        (vec![0xF0, 0], 0x82),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF], 0x81),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
    ] {
        let conn = rig.join(&connect5("c", true, &[]));
        rig.send(conn, &packet);
        assert_eq!(rig.take(conn), [[0xE0, 1, reason]], "{packet:x?}");
    }
}

/// What a QoS 2 receiver does, and what it has got.
#[derive(Default)]
struct Receiver {
    held: BTreeSet<u16>,
    got: Vec<u16>,
}

impl Receiver {
    fn take(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        match frame[0] >> 4 {
            3 => {
                let (id, payload) = received(frame);
                if self.held.insert(id) {
                    self.got.push(u16::from_be_bytes([payload[0], payload[1]]));
                }
                Some(ack(0x50, id))
            }
            6 => {
                let id = u16::from_be_bytes([frame[2], frame[3]]);
                self.held.remove(&id);
                Some(ack(0x70, id))
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    /// The receiver reads this many packets and answers them.
    Read(usize),
    Cut,
    /// The process is killed; `true`: with writes that were not committed.
    Crash(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        6 => (1..6usize).prop_map(Step::Read),
        1 => Just(Step::Cut),
        1 => any::<bool>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A receiver that answers late, in part, over cuts and kills, has each acknowledged message exactly once, in order.
    #[test]
    fn qos_2_is_exactly_once_over_cuts_and_kills(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = Rig::new();
        let mut receiver = Receiver::default();
        let mut conn = rig.join(&connect4("receiver", false));
        rig.send(conn, &subscribe4(1, "q", 2));
        rig.take(conn);
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        let mut published = 0u16;
        for step in steps.into_iter().chain([Step::Cut, Step::Read(1000), Step::Read(1000), Step::Read(1000)]) {
            match step {
                Step::Publish => {
                    let publisher = rig.join(&connect4("pub", true));
                    rig.send(publisher, &publish4("q", &published.to_be_bytes(), 2, 1, false));
                    prop_assert_eq!(rig.take(publisher), [ack(0x50, 1)]);
                    published += 1;
                }
                Step::Read(count) => {
                    waiting.extend(rig.take(conn));
                    for frame in waiting.drain(..count.min(waiting.len())).collect::<Vec<_>>() {
                        if let Some(answer) = receiver.take(&frame) {
                            rig.send(conn, &answer);
                        }
                    }
                }
                Step::Cut => rig.cut(conn),
                Step::Crash(lost_writes) => {
                    if lost_writes {
                        rig.this.disk = Disk::Waits;
                        for _ in 0..3 {
                            waiting.extend(rig.take(conn));
                            for answer in waiting.drain(..).filter_map(|frame| receiver.take(&frame)).collect::<Vec<_>>() {
                                rig.send(conn, &answer);
                            }
                        }
                    }
                    rig.crash();
                }
            }
            if matches!(step, Step::Cut | Step::Crash(_)) {
                waiting.clear();
                conn = rig.join(&connect4("receiver", false));
            }
        }
        prop_assert_eq!(receiver.got, (0..published).collect::<Vec<_>>());
        prop_assert!(rig.this.store.queues.values().all(BTreeMap::is_empty));
        let left: Vec<_> = rig.this.store.values.keys().filter(|(space, _)| *space == fieldgate::store::Space::Outbound).collect();
        prop_assert!(left.is_empty(), "{:?}", left);
    }

    /// Whatever arrives, in whatever pieces: no panic, and the broker serves the next client.
    #[test]
    fn hostile_bytes_harm_nobody_else(
        packets in prop::collection::vec((hostile(), any::<u16>(), any::<u8>(), 0..4u8), 1..40),
        v5: bool, connected: bool, chunk in 1..64usize,
    ) {
        let mut rig = Rig::new();
        let conn = rig.open();
        let mut bytes = Vec::new();
        if connected {
            bytes.extend(if v5 { connect5("c", false, &WEEK) } else { connect4("c", false) });
        }
        for (mut packet, place, value, mutate) in packets {
            if mutate == 0 {
                let place = usize::from(place) % packet.len();
                packet[place] = value;
            }
            bytes.extend(packet);
        }
        for piece in bytes.chunks(chunk) {
            rig.send(conn, piece);
        }
        rig.after(10_000);
        rig.crash();
        let next = rig.join(&connect4("next", true));
        rig.send(next, &[0xC0, 0]);
        prop_assert_eq!(rig.take(next), [[0xD0, 0]]);
    }
}

fn filter() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("+"), Just("secret")], 1..4)
        .prop_flat_map(|levels| any::<bool>().prop_map(move |hash| levels.join("/") + if hash { "/#" } else { "" }))
}

proptest! {
    /// Against the simplest broker there is: every client, every filter, one after the other.
    #[test]
    fn each_client_gets_what_its_filters_match_once_at_the_highest_qos_and_nothing_denied(
        subscriptions in prop::collection::vec((0..3usize, filter(), 0..3u8, any::<bool>()), 0..20),
        topics in prop::collection::vec(prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("secret")], 1..4), 1..10),
        qos in 0..3u8,
    ) {
        let mut rig = Rig::new();
        let clients: Vec<ConnId> = (0..3).map(|name| rig.join(&connect4(&name.to_string(), true))).collect();
        let mut model: BTreeMap<(usize, String), u8> = BTreeMap::new();
        for (client, filter, granted, add) in subscriptions {
            let packet = if add {
                subscribe4(1, &filter, granted)
            } else {
                frame(0xA2, &[&[0, 1][..], &text(&filter)].concat())
            };
            rig.send(clients[client], &packet);
            let answer = rig.take(clients[client]).concat();
            if add && answer[4] != 0x80 {
                model.insert((client, filter), granted);
            } else if add {
                prop_assert!(filter.starts_with("secret"), "refused: {}", filter);
            } else {
                model.remove(&(client, filter));
            }
        }
        let publisher = rig.join(&connect4("pub", true));
        for (number, topic) in topics.iter().map(|levels| levels.join("/")).enumerate() {
            let id = number as u16 + 1;
            rig.send(publisher, &publish4(&topic, b"x", qos, id, false));
            for (client, conn) in clients.iter().enumerate() {
                let best = model
                    .iter()
                    .filter(|((owner, filter), _)| *owner == client && filter_matches(filter, &topic))
                    .map(|(_, granted)| (*granted).min(qos))
                    .max()
                    .filter(|_| !filter_matches("secret/#", &topic));
                let got: Vec<u8> = rig.take(*conn).iter().map(|frame| frame[0]).collect();
                prop_assert_eq!(got, best.map(|qos| 0x30 | qos << 1).into_iter().collect::<Vec<_>>(), "{}", topic);
            }
        }
    }
}

#[test]
fn a_stop_tells_every_client_and_keeps_what_is_durable() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(&connect5("a", false, &WEEK)), rig.join(&connect4("b", true)));
    rig.send(a, &subscribe5(1, "q", 1));
    rig.take(a);
    rig.this.broker.shutdown(rig.now);
    rig.run();
    assert_eq!((rig.take(a), rig.take(b).len()), (vec![vec![0xE0, 1, 0x8B]], 0));
    rig.crash();
    let conn = rig.open();
    rig.send(conn, &connect5("a", false, &WEEK));
    assert_eq!(rig.take(conn)[0][2], 1, "session present");
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let topic = prop_oneof![Just("a"), Just("a/b"), Just("+"), Just("$share/g/a"), Just("#"), Just("é/x"), Just("")];
    let id = 0..4u16;
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        (topic.clone(), 0..3u8, id.clone(), any::<bool>())
            .prop_map(|(topic, qos, id, dup)| publish4(topic, b"x", qos, id, dup)),
        (topic.clone(), 0..3u8, id.clone(), prop::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(topic, qos, id, properties)| publish5(topic, b"x", qos, id, &properties)),
        (topic.clone(), 0..3u8, id.clone()).prop_map(|(topic, qos, id)| subscribe4(id, topic, qos)),
        (topic, any::<u8>(), id.clone()).prop_map(|(topic, options, id)| subscribe5(id, topic, options & 0x3F)),
        (prop_oneof![Just(0x40u8), Just(0x50), Just(0x62), Just(0x70)], id).prop_map(|(first, id)| ack(first, id)),
        Just(connect4("c", false)),
        Just(connect5("c", false, &WEEK)),
        Just(vec![0xE0, 0]),
        Just(vec![0xC0, 0]),
    ]
}
