//! What a client sends, in pieces and with pauses, beside a watcher of every topic; afterwards the next client is served.

use std::time::Duration;

use bytes::Bytes;
use fieldgate::broker::spec::{Access, BrokerSpec, Limits};
use fieldgate::broker::{ConnId, Input, Output, Peer};
use fieldgate::clock::Now;

use super::Pieces;
use super::broker_loop::{Loop, MemoryStore, limits};

const CONNECT_4: &[u8] = b"\x10\x0d\0\x04MQTT\x04\0\0\x3c\0\x01c";
const CONNECT_5: &[u8] = b"\x10\x13\0\x04MQTT\x05\0\0\x3c\x05\x11\0\x09\x3a\x80\0\x01c";
const WATCHER: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01w\x82\x06\0\x01\0\x01#\x02";
const NEXT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01n\xc0\0";

struct Rig {
    this: Loop,
    now: Now,
    next: u64,
    received: Vec<u8>,
}

impl Rig {
    fn open(&mut self) -> ConnId {
        self.next += 1;
        let conn = ConnId(self.next);
        let peer = Peer { address: ([10, 0, 0, 1], 5000).into(), listener: 0, certificate_user: None };
        self.this.broker.handle(self.now, Input::Connected { conn, peer });
        conn
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.this.broker.handle(self.now, Input::Bytes { conn, data: Bytes::copy_from_slice(bytes) });
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut written = Vec::new();
            let received = &mut self.received;
            self.this.turn(self.now, |output| match output {
                Output::Send { conn, data } => {
                    written.push((conn, data.len()));
                    received.extend_from_slice(&data);
                    None
                }
                Output::Close { .. } | Output::CheckPassword { .. } | Output::Read { .. } => None,
                other => Some(other),
            });
            if written.is_empty() {
                return;
            }
            for (conn, bytes) in written {
                self.this.broker.handle(self.now, Input::Written { conn, bytes });
            }
        }
        panic!("the broker does not come to rest");
    }

    fn pause(&mut self, by: Duration) {
        self.now = self.now.after(by);
        if self.this.broker.next_timeout().is_some_and(|at| at <= self.now.mono) {
            self.this.broker.handle_timeout(self.now);
            self.settle();
        }
    }
}

fn spec() -> BrokerSpec {
    let access = Access { subscribe: vec!["#".into()], publish: vec!["#".into()], deny: vec!["secret/#".into()] };
    let limits = Limits { max_packet_bytes: 2048, max_queued_bytes: 8192, max_retained_bytes: 4096, ..limits() };
    BrokerSpec { limits, listeners: Vec::new(), users: Vec::new(), anonymous: Some(access) }
}

pub fn run(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    let now = Now::read();
    let this = Loop::new(now, spec(), MemoryStore::default());
    let mut rig = Rig { this, now, next: 0, received: Vec::new() };
    if mode & 4 != 0 {
        let watcher = rig.open();
        rig.send(watcher, WATCHER);
    }
    let mut conn = rig.open();
    match mode & 3 {
        0 => {}
        1 => rig.send(conn, CONNECT_4),
        _ => rig.send(conn, CONNECT_5),
    }
    for (what, piece) in Pieces(rest) {
        match what {
            // A cut, and the same client once more: its session is resumed.
            0xF0.. => {
                rig.this.broker.handle(rig.now, Input::Closed { conn });
                conn = rig.open();
                rig.send(conn, if what & 1 == 0 { CONNECT_4 } else { CONNECT_5 });
            }
            0xE0..=0xEF => rig.pause(Duration::from_secs(u64::from(what & 0x0F))),
            _ => {}
        }
        rig.send(conn, piece);
    }
    // The process dies and starts again with what was committed.
    let store = std::mem::take(&mut rig.this.store);
    rig.this = Loop::new(rig.now, spec(), store);
    rig.settle();
    rig.received.clear();
    let next = rig.open();
    rig.send(next, NEXT);
    assert!(rig.received.ends_with(&[0xD0, 0]), "the next client is not served: {:x?}", rig.received);
}
