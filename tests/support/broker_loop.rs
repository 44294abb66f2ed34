//! The broker's core and sockets in one loop over a store in memory: what the gateway does with SQLite.

#![allow(dead_code, reason = "each test crate has its own needs")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use fieldgate::broker::spec::{BrokerSpec, Limits};
use fieldgate::broker::task::Net;
use fieldgate::broker::{AckToken, Broker, Input, Output, Refusal, Restored, Route};
use fieldgate::clock::{Now, UnixMs};
use fieldgate::message::Message;
use fieldgate::store::{DestId, Op, Seq, Space, Stored};

/// What outlives a restart.
#[derive(Default, Clone)]
pub(crate) struct MemoryStore {
    pub(crate) values: BTreeMap<(Space, Bytes), Bytes>,
    pub(crate) queues: BTreeMap<DestId, BTreeMap<Seq, Arc<Message>>>,
    pub(crate) next_seq: Seq,
}

impl MemoryStore {
    fn apply(&mut self, op: Op) {
        match op {
            Op::OpenDestination { dest, .. } => {
                self.queues.entry(dest).or_default();
            }
            Op::CloseDestination { dest } => {
                self.queues.remove(&dest);
            }
            Op::Append { seq, message, to, .. } => {
                for dest in to.iter() {
                    self.queues.entry(*dest).or_default().insert(seq, message.clone());
                }
            }
            Op::Delivered { dest, seq } => {
                self.queues.entry(dest).or_default().remove(&seq);
            }
            Op::Put { space, key, value } => {
                self.values.insert((space, key), value);
            }
            Op::Delete { space, key } => {
                self.values.remove(&(space, key));
            }
        }
    }

    fn load(&self, dest: DestId, after: Option<Seq>) -> (Vec<Stored>, bool) {
        let from = after.map_or(0, |seq| seq + 1);
        let mut rows = self.queues.get(&dest).into_iter().flat_map(|queue| queue.range(from..));
        let stored = |(&seq, message): (&Seq, &Arc<Message>)| Stored {
            seq,
            boot: "test".into(),
            at: UnixMs(0),
            message: message.clone(),
        };
        let taken = rows.by_ref().take(100).map(stored).collect();
        (taken, rows.next().is_some())
    }

    pub(crate) fn restored(&self) -> Restored {
        Restored {
            rows: self.values.iter().map(|((space, key), value)| (*space, key.clone(), value.clone())).collect(),
        }
    }
}

/// One turn's writes, and what waits for them.
#[derive(Default)]
struct Turn {
    ops: Vec<Op>,
    deliveries: Vec<(Seq, Arc<Message>, Route)>,
    tokens: Vec<AckToken>,
}

pub(crate) struct Loop {
    pub(crate) broker: Broker,
    pub(crate) store: MemoryStore,
    /// What the disk does with the next commits.
    pub(crate) disk: Disk,
    /// What is read comes late: with what was there when it was asked for.
    pub(crate) slow_reads: bool,
    held: Vec<Turn>,
    late: Vec<Input>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Disk {
    Writes,
    /// Takes its time: nothing is committed until it writes again.
    Waits,
    /// Is full: nothing that somebody waits for is written; keyed values stay in memory and follow later.
    Refuses,
}

impl Loop {
    pub(crate) fn new(now: Now, spec: BrokerSpec, store: MemoryStore) -> Self {
        Self {
            broker: Broker::new(now, "pi-1", spec, store.restored()),
            store,
            disk: Disk::Writes,
            slow_reads: false,
            held: Vec::new(),
            late: Vec::new(),
        }
    }

    /// Does everything that the core asks for; gives the sockets' part to `sockets`. A turn's writes are one commit, and what waits for
    /// them follows it.
    pub(crate) fn turn(&mut self, now: Now, mut sockets: impl FnMut(Output) -> Option<Output>) {
        loop {
            if !self.slow_reads {
                for read in std::mem::take(&mut self.late) {
                    self.broker.handle(now, read);
                }
            }
            let mut turn = Turn::default();
            let mut idle = true;
            while let Some(output) = self.broker.poll_output(now) {
                idle = false;
                if let Some(output) = sockets(output) {
                    self.apply(now, &mut turn, output);
                }
            }
            if !idle {
                self.held.push(turn);
            }
            if self.disk != Disk::Waits && !self.held.is_empty() {
                for turn in std::mem::take(&mut self.held) {
                    self.commit(now, turn);
                }
            } else if idle && (self.slow_reads || self.late.is_empty()) {
                return;
            }
        }
    }

    fn commit(&mut self, now: Now, turn: Turn) {
        let refused = self.disk == Disk::Refuses;
        for op in turn.ops {
            if !(refused && matches!(op, Op::Append { .. })) {
                self.store.apply(op);
            }
        }
        let publishes = turn.deliveries.len();
        for (seq, message, route) in turn.deliveries {
            self.broker.deliver_stored(now, &route, &message, (!refused).then_some(seq));
        }
        let result = if refused && publishes > 0 { Err(Refusal::Quota) } else { Ok(()) };
        for token in turn.tokens {
            self.broker.acknowledge(now, token, result);
        }
    }

    fn apply(&mut self, now: Now, turn: &mut Turn, output: Output) {
        match output {
            Output::Publish { message, origin, ack, .. } => {
                let route = self.broker.route(now, &message, origin);
                self.broker.deliver_live(now, &route, &message);
                if !route.durable().is_empty() {
                    self.store.next_seq += 1;
                    let seq = self.store.next_seq;
                    turn.ops.push(Op::Append {
                        seq,
                        at: now.wall,
                        message: message.clone(),
                        to: route.durable().into(),
                        durability: fieldgate::store::Durability::Acknowledged,
                    });
                    turn.deliveries.push((seq, message, route));
                    turn.tokens.extend(ack);
                } else if route.needs_commit() {
                    turn.tokens.extend(ack);
                } else if let Some(token) = ack {
                    self.broker.acknowledge(now, token, Ok(()));
                }
            }
            Output::Store(op) => turn.ops.push(op),
            Output::Barrier(token) => turn.tokens.push(token),
            Output::Load { dest, read, .. } => {
                let (rows, more) = self.store.load(dest, read.after);
                self.late.push(Input::Loaded { dest, read, rows, more });
            }
            Output::Send { .. } | Output::Close { .. } | Output::Read { .. } | Output::CheckPassword { .. } => {}
        }
    }
}

/// A broker on loopback in a thread of its own.
pub(crate) struct Running {
    pub(crate) addrs: Vec<SocketAddr>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<MemoryStore>,
}

impl Running {
    pub(crate) fn start(spec: BrokerSpec, store: MemoryStore) -> Self {
        let (told, addrs) = mpsc::sync_channel(1);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, run(spec, store, told, stopped))
        });
        Self { addrs: addrs.recv().unwrap(), stop, thread }
    }

    pub(crate) fn stop(self) -> MemoryStore {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

async fn run(
    spec: BrokerSpec,
    store: MemoryStore,
    told: mpsc::SyncSender<Vec<SocketAddr>>,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> MemoryStore {
    let (mut net, mut events) = Net::new(spec.limits);
    net.configure(&spec.listeners, spec.limits).await.unwrap();
    told.send(net.local_addrs()).unwrap();
    let mut this = Loop::new(Now::read(), spec, store);
    loop {
        this.turn(Now::read(), |output| net.apply(output));
        let wake = this.broker.next_timeout().map(tokio::time::Instant::from_std);
        let event = tokio::select! {
            _ = &mut stopped => return this.store,
            event = events.recv() => event,
            () = async { match wake { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => None,
        };
        let now = Now::read();
        match event {
            Some(event) => {
                this.broker.handle(now, event);
                // What else is there already shares this turn's commit.
                for _ in 0..256 {
                    let Ok(event) = events.try_recv() else { break };
                    this.broker.handle(now, event);
                }
            }
            None => this.broker.handle_timeout(now),
        }
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        max_connections: 100,
        max_packet_bytes: 262_144,
        max_queued_bytes: 1 << 26,
        max_outbound_bytes: 1 << 20,
        max_outbound_total_bytes: 1 << 22,
        max_in_flight: 100,
        max_subscriptions_per_client: 100,
        max_topic_levels: 32,
        max_retained_messages: 1000,
        max_retained_bytes: 1 << 20,
        max_sessions: 1000,
        max_connection_rate: 1000,
        max_keep_alive: None,
        session_expiry: Duration::from_secs(3600),
        connect_timeout: Duration::from_secs(5),
    }
}
