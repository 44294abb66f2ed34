//! A broker in invented time with sockets that are byte vectors, and MQTT packets by hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use fieldgate::broker::spec::{Access, BrokerSpec, UserSpec};
use fieldgate::broker::{ConnId, Input, Output, Peer, Reason};
use fieldgate::clock::Now;

use crate::broker_loop::{Loop, MemoryStore, limits};

pub(crate) fn spec() -> BrokerSpec {
    let all = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect::<Vec<_>>();
    let access = Access { subscribe: all(&["#"]), publish: all(&["#"]), deny: all(&["secret/#"]) };
    let user = |name: &str| UserSpec { name: name.into(), password_hash: Some("hash".into()), access: access.clone() };
    BrokerSpec { limits: limits(), listeners: vec![], users: vec![user("ann"), user("bob")], anonymous: Some(access) }
}

pub(crate) struct Rig {
    pub(crate) this: Loop,
    pub(crate) now: Now,
    pub(crate) spec: BrokerSpec,
    pub(crate) next: u64,
    pub(crate) inbox: BTreeMap<ConnId, Vec<u8>>,
    pub(crate) closed: BTreeMap<ConnId, Reason>,
    /// Connections whose socket takes nothing.
    pub(crate) stuck: BTreeSet<ConnId>,
    /// Connections that are not to be read for now.
    pub(crate) held: BTreeSet<ConnId>,
    /// What they have sent meanwhile.
    unread: BTreeMap<ConnId, VecDeque<Vec<u8>>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(spec())
    }

    pub(crate) fn with(spec: BrokerSpec) -> Self {
        let now = Now::read();
        let this = Loop::new(now, spec.clone(), MemoryStore::default());
        let (inbox, closed, stuck, held, unread) = Default::default();
        Self { this, now, spec, next: 0, inbox, closed, stuck, held, unread }
    }

    /// The process dies and starts again with what was committed.
    pub(crate) fn crash(&mut self) {
        let store = std::mem::take(&mut self.this.store);
        self.this = Loop::new(self.now, self.spec.clone(), store);
        self.inbox.clear();
        self.run();
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            let mut written = Vec::new();
            let (inbox, closed, stuck) = (&mut self.inbox, &mut self.closed, &self.stuck);
            let held = &mut self.held;
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
                Output::Read { conn, on } => {
                    if on {
                        held.remove(&conn)
                    } else {
                        held.insert(conn)
                    };
                    None
                }
                Output::Publish { .. } | Output::Store(_) | Output::Barrier(_) | Output::Load { .. } => Some(output),
            });
            let readable =
                self.unread.iter_mut().find(|(conn, packets)| !self.held.contains(conn) && !packets.is_empty());
            let read = readable.and_then(|(&conn, packets)| Some((conn, packets.pop_front()?)));
            if written.is_empty() && checks.is_empty() && read.is_none() {
                return;
            }
            for (conn, bytes) in written {
                self.this.broker.handle(self.now, Input::Written { conn, bytes });
            }
            for (conn, ok) in checks {
                self.this.broker.handle(self.now, Input::PasswordChecked { conn, ok });
            }
            if let Some((conn, packet)) = read {
                self.this.broker.handle(self.now, Input::Bytes { conn, data: packet.into() });
            }
        }
        panic!("the broker does not come to rest");
    }

    pub(crate) fn open(&mut self) -> ConnId {
        self.next += 1;
        let conn = ConnId(self.next);
        let peer = Peer { address: "10.0.0.1:5000".parse().unwrap(), listener: 0, certificate_user: None };
        self.this.broker.handle(self.now, Input::Connected { conn, peer });
        conn
    }

    pub(crate) fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        if self.held.contains(&conn) {
            return self.unread.entry(conn).or_default().push_back(bytes.to_vec());
        }
        self.this.broker.handle(self.now, Input::Bytes { conn, data: Bytes::copy_from_slice(bytes) });
        self.run();
    }

    /// Opens, connects, and takes the CONNACK away.
    pub(crate) fn join(&mut self, connect: &[u8]) -> ConnId {
        let conn = self.open();
        self.send(conn, connect);
        let frames = self.take(conn);
        assert_eq!((frames[0][0], frames[0][3]), (0x20, 0), "CONNACK: {frames:x?}");
        for frame in frames.iter().skip(1) {
            self.inbox.entry(conn).or_default().extend_from_slice(frame);
        }
        conn
    }

    pub(crate) fn cut(&mut self, conn: ConnId) {
        self.this.broker.handle(self.now, Input::Closed { conn });
        self.run();
    }

    pub(crate) fn after(&mut self, secs: u64) {
        self.pause(secs * 1000);
    }

    pub(crate) fn pause(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
        while self.this.broker.next_timeout().is_some_and(|at| at <= self.now.mono) {
            self.this.broker.handle_timeout(self.now);
        }
        self.run();
    }

    /// Whole packets that came since the last call.
    pub(crate) fn take(&mut self, conn: ConnId) -> Vec<Vec<u8>> {
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

pub(crate) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
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

pub(crate) fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u16).to_be_bytes()[..], s.as_bytes()].concat()
}

pub(crate) fn connect4(client: &str, clean: bool) -> Vec<u8> {
    frame(0x10, &[&text("MQTT")[..], &[4, u8::from(clean) << 1, 0, 60], &text(client)].concat())
}

/// `properties` as they stand on the wire, without their length.
pub(crate) fn connect5(client: &str, clean: bool, properties: &[u8]) -> Vec<u8> {
    let head = [5, u8::from(clean) << 1, 0, 60, properties.len() as u8];
    frame(0x10, &[&text("MQTT")[..], &head, properties, &text(client)].concat())
}

pub(crate) fn login4(client: &str, user: &str, password: &str) -> Vec<u8> {
    frame(0x10, &[&text("MQTT")[..], &[4, 0xC0, 0, 60], &text(client), &text(user), &text(password)].concat())
}

pub(crate) const WEEK: [u8; 5] = [0x11, 0, 9, 0x3A, 0x80];

pub(crate) fn subscribe4(id: u16, filter: &str, qos: u8) -> Vec<u8> {
    frame(0x82, &[&id.to_be_bytes()[..], &text(filter), &[qos]].concat())
}

pub(crate) fn subscribe5(id: u16, filter: &str, options: u8) -> Vec<u8> {
    frame(0x82, &[&id.to_be_bytes()[..], &[0], &text(filter), &[options]].concat())
}

pub(crate) fn publish4(topic: &str, payload: &[u8], qos: u8, id: u16, dup: bool) -> Vec<u8> {
    let id = if qos == 0 { vec![] } else { id.to_be_bytes().to_vec() };
    frame(0x30 | qos << 1 | u8::from(dup) << 3, &[&text(topic)[..], &id, payload].concat())
}

pub(crate) fn publish5(topic: &str, payload: &[u8], qos: u8, id: u16, properties: &[u8]) -> Vec<u8> {
    let id = if qos == 0 { vec![] } else { id.to_be_bytes().to_vec() };
    frame(0x30 | qos << 1, &[&text(topic)[..], &id, &[properties.len() as u8], properties, payload].concat())
}

pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    frame(first, &id.to_be_bytes())
}

/// Payload of a 3.1.1 PUBLISH of QoS 1 or 2 on a topic of one letter, with its identifier.
pub(crate) fn received(frame: &[u8]) -> (u16, Vec<u8>) {
    (u16::from_be_bytes([frame[5], frame[6]]), frame[7..].to_vec())
}
