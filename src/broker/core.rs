//! The broker as a state machine: what happened goes in, what is to be done comes out. No socket, no clock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tracing::debug;

use super::alias::Aliases;
use super::api::{AckToken, ConnId, Counters, Input, Output, Peer, Refusal, Restored};
use super::encode::{self, OutBuffer};
use super::guard::Guard;
use super::heard::Heard;
use super::login::Login;
use super::packet::{Packet, Reason, Version};
use super::pressure::Ledger;
use super::retained::Retained;
use super::routing::Subscribers;
use super::session::Session;
use super::spec::BrokerSpec;
use crate::clock::Now;
use crate::store::{DestId, Op};

/// Topic aliases that a client may use towards us; each holds one topic.
pub(crate) const TOPIC_ALIAS_MAX: u16 = 16;
/// A connection that has this many bytes unwritten gets no more messages until the socket took some.
pub(crate) const CHOKE_BYTES: usize = 256 * 1024;

pub(crate) struct Conn {
    pub(crate) peer: Peer,
    pub(crate) state: State,
    pub(crate) version: Version,
    /// What came and is not taken yet: the beginning of a packet, or all that waits while the connection is held.
    pub(crate) input: BytesMut,
    /// Sessions that are to catch up before more of this connection is taken; see `pressure`.
    pub(crate) held_by: Vec<u32>,
    /// Its peer ended it while it was held.
    pub(crate) ended: bool,
    pub(crate) out: OutBuffer,
    /// Sent and not yet written by the socket.
    pub(crate) unwritten: usize,
    pub(crate) dirty: bool,
    pub(crate) last_seen: Instant,
    /// One and a half times what was agreed; `None`: no limit.
    pub(crate) keep_alive: Option<Duration>,
    /// When the timer of the present state fires.
    pub(crate) timer_at: Option<Instant>,
    /// The client's, and ours towards it.
    pub(crate) aliases: Vec<Option<Arc<str>>>,
    pub(crate) own_aliases: Aliases,
    /// What the client takes: largest packet, QoS 1 and 2 messages under way.
    pub(crate) max_packet_bytes: usize,
    pub(crate) window: usize,
    /// It took up a session that was there.
    pub(crate) resumed: bool,
}

pub(crate) enum State {
    AwaitConnect,
    /// The password is being checked, or waits to be.
    Checking(Box<Login>),
    Open {
        session: u32,
    },
}

impl Conn {
    pub(crate) fn queued_bytes(&self) -> usize {
        self.unwritten + self.out.len()
    }

    pub(crate) fn is_choked(&self, max_outbound_bytes: usize) -> bool {
        self.queued_bytes() >= CHOKE_BYTES.min(max_outbound_bytes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Conn(ConnId),
    Expire(u32),
    Will(u32),
    /// The pace of a session that holds publishers, or would.
    Pace(u32),
}

/// The broker. Whoever owns it calls a `handle…`, then drains [`Broker::poll_output`], and calls [`Broker::handle_timeout`] when
/// [`Broker::next_timeout`] has come.
pub struct Broker {
    pub(crate) spec: BrokerSpec,
    /// `fieldgate/{gateway}/`.
    pub(crate) own: Arc<str>,
    pub(crate) started: Instant,
    pub(crate) conns: HashMap<ConnId, Conn>,
    pub(crate) sessions: HashMap<u32, Session>,
    pub(crate) clients: HashMap<Arc<str>, u32>,
    pub(crate) dests: HashMap<DestId, u32>,
    pub(crate) subscribers: Subscribers,
    pub(crate) retained: Retained,
    pub(crate) guard: Guard,
    pub(crate) heard: Heard,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    pub(crate) outputs: VecDeque<Output>,
    /// Connections with something in `out`.
    pub(crate) dirty: VecDeque<ConnId>,
    /// Connections to be closed once their `out` is sent.
    pub(crate) closing: VecDeque<(ConnId, OutBuffer, Reason)>,
    /// Connections that nothing holds any more, or of which enough was taken at once, and that are to go on.
    pub(crate) released: VecDeque<ConnId>,
    /// Bytes that wait in the queues of all sessions.
    pub(crate) ledger: Ledger,
    pub(crate) next_session: u32,
    pub(crate) next_dest: u32,
    pub(crate) assigned: u64,
    pub(crate) counters: Counters,
}

impl Broker {
    /// `gateway` is the id in `fieldgate/{gateway}/…`, where no client publishes.
    pub fn new(now: Now, gateway: &str, spec: BrokerSpec, restored: Restored) -> Self {
        let mut broker = Self {
            own: format!("fieldgate/{gateway}/").into(),
            started: now.mono,
            conns: HashMap::new(),
            sessions: HashMap::new(),
            clients: HashMap::new(),
            dests: HashMap::new(),
            subscribers: Subscribers::default(),
            retained: Retained::new(spec.limits.max_retained_messages, spec.limits.max_retained_bytes),
            guard: Guard::default(),
            heard: Heard::default(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            dirty: VecDeque::new(),
            closing: VecDeque::new(),
            released: VecDeque::new(),
            ledger: Ledger::default(),
            next_session: 1,
            next_dest: super::api::FIRST_SESSION_DEST,
            assigned: 0,
            counters: Counters::default(),
            spec,
        };
        broker.restore(now, restored);
        broker
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Connected { conn, peer } => self.connected(now, conn, peer),
            Input::Bytes { conn, data } => self.bytes(now, conn, data),
            Input::Closed { conn } => self.closed(now, conn),
            Input::Written { conn, bytes } => self.written(now, conn, bytes),
            Input::PasswordChecked { conn, ok } => self.password_checked(now, conn, ok),
            Input::Loaded { dest, read, rows, more } => self.loaded(now, dest, read, rows, more),
        }
    }

    /// What is to be done next, in order; `None`: nothing more for now.
    pub fn poll_output(&mut self, now: Now) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            // Only when what came before has reached its subscribers is it clear who has to wait.
            if !self.go_on(now) {
                break;
            }
        }
        while let Some(&conn) = self.dirty.front() {
            if let Some(state) = self.conns.get_mut(&conn) {
                if let Some(data) = state.out.pop() {
                    state.unwritten += data.len();
                    self.counters.bytes_sent += data.len() as u64;
                    return Some(Output::Send { conn, data });
                }
                state.dirty = false;
            }
            self.dirty.pop_front();
        }
        if let Some((conn, out, _)) = self.closing.front_mut() {
            let conn = *conn;
            if let Some(data) = out.pop() {
                self.counters.bytes_sent += data.len() as u64;
                return Some(Output::Send { conn, data });
            }
            return self.closing.pop_front().map(|(conn, _, reason)| Output::Close { conn, reason });
        }
        None
    }

    /// When [`Broker::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now.mono {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Conn(conn) => self.conn_timer(now, conn),
                Timer::Expire(session) => self.end_session(now, session),
                Timer::Will(session) => {
                    if let Some(session) = self.sessions.get_mut(&session) {
                        session.will_at = None;
                    }
                    self.publish_will(now, session);
                }
                Timer::Pace(session) => self.judge_pace(now, session),
            }
        }
    }

    /// The gateway stops: every client is told and closed. Wills come out as [`Output::Publish`]; durable sessions stay in the store.
    pub fn shutdown(&mut self, now: Now) {
        let mut conns: Vec<ConnId> = self.conns.keys().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            self.fail(now, conn, Reason::ServerShuttingDown);
        }
    }

    /// The store's answer to a `Publish` or a `Barrier`. A late one, of a connection that is gone, is taken too.
    pub fn acknowledge(&mut self, now: Now, token: AckToken, result: Result<(), Refusal>) {
        self.settle(now, token, result);
    }

    pub(crate) fn store(&mut self, op: Op) {
        self.outputs.push_back(Output::Store(op));
    }

    pub(crate) fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get_mut(&conn)
            && !state.dirty
            && !state.out.is_empty()
        {
            state.dirty = true;
            self.dirty.push_back(conn);
        }
    }

    fn connected(&mut self, now: Now, conn: ConnId, peer: Peer) {
        self.counters.connections_accepted += 1;
        if self.conns.len() >= self.spec.limits.max_connections || self.conns.contains_key(&conn) {
            self.counters.connections_refused += 1;
            self.outputs.push_back(Output::Close { conn, reason: Reason::QuotaExceeded });
            return;
        }
        let deadline = now.mono + self.spec.limits.connect_timeout;
        self.timers.insert((deadline, Timer::Conn(conn)));
        let state = Conn {
            peer,
            state: State::AwaitConnect,
            version: Version::V4,
            input: BytesMut::new(),
            held_by: Vec::new(),
            ended: false,
            out: OutBuffer::default(),
            unwritten: 0,
            dirty: false,
            last_seen: now.mono,
            keep_alive: None,
            timer_at: Some(deadline),
            aliases: Vec::new(),
            own_aliases: Aliases::default(),
            max_packet_bytes: usize::MAX,
            window: 1,
            resumed: false,
        };
        self.conns.insert(conn, state);
    }

    pub(crate) fn packet(&mut self, now: Now, conn: ConnId, packet: Packet) {
        let session = match self.conns.get(&conn).map(|state| &state.state) {
            Some(State::Open { session }) => *session,
            Some(State::AwaitConnect) => {
                return match packet {
                    Packet::Connect(connect) => self.connect(now, conn, *connect),
                    Packet::Publish(_)
                    | Packet::Ack(_)
                    | Packet::Subscribe { .. }
                    | Packet::Unsubscribe { .. }
                    | Packet::Pingreq
                    | Packet::Disconnect { .. } => self.fail(now, conn, Reason::ProtocolError),
                };
            }
            Some(State::Checking(_)) | None => return,
        };
        match packet {
            // A second CONNECT (3.1.0-2).
            Packet::Connect(_) => self.fail(now, conn, Reason::ProtocolError),
            Packet::Publish(publish) => self.publish(now, conn, session, publish),
            Packet::Ack(ack) => self.ack(now, conn, session, ack),
            Packet::Subscribe { id, filters } => self.subscribe(now, conn, session, id, filters),
            Packet::Unsubscribe { id, filters } => self.unsubscribe(now, session, id, &filters),
            Packet::Pingreq => {
                if let Some(state) = self.conns.get_mut(&conn) {
                    encode::pingresp(&mut state.out);
                }
            }
            Packet::Disconnect { code, session_expiry_secs } => {
                self.disconnected(now, conn, session, code, session_expiry_secs);
            }
        }
    }

    /// Ends a connection for a reason that its client is told, in the form of its version and state.
    pub(crate) fn fail(&mut self, now: Now, conn: ConnId, reason: Reason) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        debug!(conn = conn.0, ?reason, address = %state.peer.address, "connection ended by the broker");
        let answering = !matches!(state.state, State::Open { .. });
        let broken =
            [Reason::MalformedPacket, Reason::ProtocolError, Reason::TopicNameInvalid, Reason::TopicAliasInvalid];
        self.counters.protocol_errors += u64::from(broken.contains(&reason));
        if answering {
            self.counters.connections_refused += 1;
            // What is no CONNECT gets no CONNACK (3.1.4), nor a client that said nothing, nor a broken one of 3.1.1, which has no code for it.
            let silent = matches!(state.state, State::AwaitConnect)
                && state.version == Version::V4
                && matches!(reason, Reason::ProtocolError | Reason::MalformedPacket | Reason::KeepAliveTimeout);
            let version = if reason == Reason::UnsupportedNew { Version::V5 } else { state.version };
            if !silent {
                encode::connack_refused(&mut state.out, version, reason);
            }
        } else {
            encode::disconnect(&mut state.out, state.version, reason);
        }
        let out = std::mem::take(&mut state.out);
        self.lost(now, conn, true);
        self.closing.push_back((conn, out, reason));
    }

    fn conn_timer(&mut self, now: Now, conn: ConnId) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.timer_at = None;
        let next = match &state.state {
            State::AwaitConnect => None,
            State::Checking(login) => match login.check_at {
                Some(_) => return self.start_check(now, conn),
                None => None,
            },
            // Nothing of it is read now: its silence is ours.
            State::Open { .. } if !state.held_by.is_empty() => state.keep_alive.map(|limit| now.mono + limit),
            State::Open { .. } => match state.keep_alive {
                Some(limit) if state.last_seen + limit > now.mono => Some(state.last_seen + limit),
                Some(_) => None,
                None => return,
            },
        };
        match next {
            Some(at) => self.set_conn_timer(conn, Some(at)),
            None => self.fail(now, conn, Reason::KeepAliveTimeout),
        }
    }

    pub(crate) fn set_conn_timer(&mut self, conn: ConnId, at: Option<Instant>) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if let Some(old) = std::mem::replace(&mut state.timer_at, at) {
            self.timers.remove(&(old, Timer::Conn(conn)));
        }
        if let Some(at) = at {
            self.timers.insert((at, Timer::Conn(conn)));
        }
    }

    fn written(&mut self, now: Now, conn: ConnId, bytes: usize) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.unwritten = state.unwritten.saturating_sub(bytes);
        if let State::Open { session } = state.state {
            self.pump(now, session);
        }
    }
}
