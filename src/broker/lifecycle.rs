//! Sessions: how they begin, outlive a connection or a restart, and end (MQTT 5, 4.1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::acl::Rules;
use super::api::{ConnId, Output, Restored};
use super::core::{Broker, State, Timer};
use super::packet::Reason;
use super::pressure::Pressure;
use super::record::{self, OutboundRecord, SessionRecord};
use super::session::{Credential, Outbound, Replies, Session, Taken, Will};
use super::spec::BrokerSpec;
use crate::clock::{Now, UnixMs};
use crate::message::Origin;
use crate::store::{DestId, Op, QueueSpec, Space, WhenFull};

impl Broker {
    pub(crate) fn new_session(&mut self, client: Arc<str>, user: Option<Arc<str>>) -> u32 {
        let key = self.next_session;
        self.next_session = self.next_session.wrapping_add(1).max(1);
        self.clients.insert(client.clone(), key);
        let session = Session {
            client,
            user,
            credential: Credential::Anonymous,
            rules: Rules::default(),
            conn: None,
            expiry_secs: 0,
            dest: None,
            subscriptions: BTreeMap::new(),
            will: None,
            will_at: None,
            expires_at: None,
            outbound: Outbound::new(self.ledger.clone()),
            pressure: Pressure::default(),
            inbound: BTreeMap::new(),
            replies: Replies::default(),
        };
        self.sessions.insert(key, session);
        key
    }

    fn queue_spec(&self) -> QueueSpec {
        let limits = self.spec.limits;
        QueueSpec {
            max_bytes: limits.max_queued_bytes,
            max_age_secs: Some(limits.session_expiry.as_secs()),
            when_full: WhenFull::DropOldest,
        }
    }

    /// Gives the session its place in the store, or takes it away; writes its record in either case.
    pub(crate) fn set_durable(&mut self, key: u32, durable: bool) {
        let queue = self.queue_spec();
        let Some(session) = self.sessions.get_mut(&key) else { return };
        match (session.dest, durable) {
            (None, true) => {
                let dest = DestId(self.next_dest);
                self.next_dest += 1;
                session.dest = Some(dest);
                self.dests.insert(dest, key);
                let name = format!("session/{}", session.client).into();
                let subscriptions: Vec<_> = session
                    .subscriptions
                    .iter()
                    .map(|(filter, options)| {
                        (record::subscription_key(&session.client, filter), record::encode_subscription(options))
                    })
                    .collect();
                self.store(Op::OpenDestination { dest, name, queue });
                for (key, value) in subscriptions {
                    self.store(Op::Put { space: Space::Session, key, value });
                }
                self.save_session(key);
            }
            (Some(_), true) => self.save_session(key),
            (Some(_), false) => self.forget_stored(key),
            (None, false) => {}
        }
    }

    /// Writes the session's record; its subscriptions and packet identifiers have their own.
    pub(crate) fn save_session(&mut self, key: u32) {
        let Some(session) = self.sessions.get(&key) else { return };
        let Some(dest) = session.dest else { return };
        let record = SessionRecord {
            dest: dest.0,
            expiry_secs: session.expiry_secs,
            user: session.user.clone(),
            will: session.will.as_ref().map(|will| {
                let mut message = will.message.clone();
                // Relative until it is published: a record has no other place for the interval.
                message.expires = will.expiry_secs.map(|secs| UnixMs(i64::from(secs)));
                (message, will.delay_secs)
            }),
        };
        let key = record::session_key(&session.client);
        self.store(Op::Put { space: Space::Session, key, value: record.encode() });
    }

    /// Takes everything of the session out of the store.
    fn forget_stored(&mut self, key: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(dest) = session.dest.take() else { return };
        self.dests.remove(&dest);
        let client = session.client.clone();
        let mut gone = vec![(Space::Session, record::session_key(&client))];
        gone.extend(
            session.subscriptions.keys().map(|filter| (Space::Session, record::subscription_key(&client, filter))),
        );
        gone.extend(session.inbound.keys().map(|&id| (Space::Inbound, record::packet_id_key(&client, id))));
        gone.extend(
            session
                .outbound
                .in_flight
                .iter()
                .map(|flight| (Space::Outbound, record::packet_id_key(&client, flight.id))),
        );
        self.store(Op::CloseDestination { dest });
        for (space, key) in gone {
            self.store(Op::Delete { space, key });
        }
    }

    /// The session is over: nothing of it stays, and a will that still waited is published (3.1.2.5).
    pub(crate) fn end_session(&mut self, now: Now, key: u32) {
        self.publish_will(now, key);
        self.forget_stored(key);
        self.release(now, key);
        let Some(session) = self.sessions.remove(&key) else { return };
        for (at, timer) in [(session.expires_at, Timer::Expire(key)), (session.will_at, Timer::Will(key))] {
            if let Some(at) = at {
                self.timers.remove(&(at, timer));
            }
        }
        for filter in session.subscriptions.keys() {
            self.subscribers.remove(filter, key);
        }
        self.clients.remove(&session.client);
        if let Some(conn) = session.conn {
            // Only a connection that is ending can still stand here.
            self.conns.remove(&conn);
        }
    }

    /// A connection is gone. `will`: not by a normal DISCONNECT.
    pub(crate) fn lost(&mut self, now: Now, conn: ConnId, will: bool) {
        self.set_conn_timer(conn, None);
        let Some(state) = self.conns.remove(&conn) else { return };
        let State::Open { session: key } = state.state else { return };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.conn = None;
        self.heard.remember(&session.client, state.last_seen);
        session.replies.clear();
        session.outbound.park(session.dest.is_some());
        self.release(now, key);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if !will {
            session.will = None;
        }
        info!(client = %session.client, "client disconnected");
        if session.expiry_secs == 0 {
            return self.end_session(now, key);
        }
        let expires = now.mono + Duration::from_secs(u64::from(session.expiry_secs));
        session.expires_at = Some(expires);
        self.timers.insert((expires, Timer::Expire(key)));
        let delay = session.will.as_ref().map(|will| Duration::from_secs(u64::from(will.delay_secs)));
        match delay {
            Some(delay) if !delay.is_zero() => {
                let at = now.mono + delay;
                session.will_at = Some(at);
                self.timers.insert((at, Timer::Will(key)));
            }
            Some(_) => self.publish_will(now, key),
            None => {}
        }
        self.save_session(key);
    }

    /// DISCONNECT from the client (3.14).
    pub(crate) fn disconnected(&mut self, now: Now, conn: ConnId, key: u32, code: u8, expiry_secs: Option<u32>) {
        if let (Some(asked), Some(session)) = (expiry_secs, self.sessions.get_mut(&key)) {
            // A session that was to end with its connection cannot be prolonged now (3.14.2.2.2).
            if session.expiry_secs == 0 && asked != 0 {
                return self.fail(now, conn, Reason::ProtocolError);
            }
            let longest = u32::try_from(self.spec.limits.session_expiry.as_secs()).unwrap_or(u32::MAX);
            session.expiry_secs = asked.min(longest);
            let durable = session.expiry_secs > 0;
            self.set_durable(key, durable);
        }
        let out = self.conns.get_mut(&conn).map(|state| std::mem::take(&mut state.out)).unwrap_or_default();
        // 0x04: disconnect with will message.
        self.lost(now, conn, code != 0);
        self.closing.push_back((conn, out, Reason::NormalDisconnection));
    }

    pub(crate) fn publish_will(&mut self, now: Now, key: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(Will { mut message, expiry_secs, .. }) = session.will.take() else { return };
        message.expires =
            expiry_secs.map(|secs| UnixMs(now.wall.0.saturating_add(i64::from(secs).saturating_mul(1000))));
        // The rules may have changed since CONNECT.
        if !session.rules.may_publish(&message.topic) {
            self.counters.publish_denied += 1;
            return;
        }
        self.save_session(key);
        let message = Arc::new(message);
        self.outputs.push_back(Output::Publish { message, origin: Origin::Session(key), delivery: None, ack: None });
    }

    /// Takes over what the last run left. Every session begins disconnected, and its time begins anew: how long the gateway was off cannot
    /// be told from a clock that may be wrong.
    pub(crate) fn restore(&mut self, now: Now, restored: Restored) {
        let mut details = Vec::new();
        for (space, key, value) in restored.rows {
            let taken = match (space, record::split_key(&key)) {
                (Space::Session, Some((client, None))) => self.restore_session(now, client, value),
                (Space::Retained, _) => self.restore_retained(value),
                (Space::Session | Space::Inbound | Space::Outbound, Some((client, Some(rest)))) => {
                    details.push((space, Arc::<str>::from(client), rest.to_vec(), value));
                    continue;
                }
                (Space::Learnt, _) => continue,
                (Space::Session | Space::Inbound | Space::Outbound, _) => None,
            };
            if taken.is_none() {
                self.drop_row(space, key);
            }
        }
        for (space, client, rest, value) in details {
            let whole = [client.as_bytes(), b"\0", &rest].concat();
            if self.restore_detail(space, &client, &rest, value).is_none() {
                self.drop_row(space, whole.into());
            }
        }
    }

    fn drop_row(&mut self, space: Space, key: bytes::Bytes) {
        warn!(?space, "a stored row does not read and is dropped");
        self.counters.restore_failures += 1;
        self.store(Op::Delete { space, key });
    }

    fn restore_session(&mut self, now: Now, client: &str, value: bytes::Bytes) -> Option<()> {
        let record = SessionRecord::decode(value)?;
        let user_exists = match &record.user {
            None => self.spec.anonymous.is_some(),
            Some(name) => self.spec.users.iter().any(|user| user.name == *name),
        };
        if record.dest < super::api::FIRST_SESSION_DEST || self.clients.contains_key(client) {
            return None;
        }
        self.next_dest = self.next_dest.max(record.dest.saturating_add(1));
        let key = self.new_session(client.into(), record.user.clone());
        let dest = DestId(record.dest);
        self.dests.insert(dest, key);
        let queue = self.queue_spec();
        let window = self.spec.limits.max_in_flight;
        let rules = self.rules_of(record.user.as_deref(), client);
        let session = self.sessions.get_mut(&key)?;
        session.rules = rules.unwrap_or_default();
        session.expiry_secs = record.expiry_secs;
        session.dest = Some(dest);
        session.outbound.behind = true;
        session.outbound.maybe_sent = window;
        session.outbound.scatter_ids();
        session.will = record.will.map(|(mut message, delay_secs)| {
            let expiry_secs = message.expires.take().and_then(|secs| u32::try_from(secs.0).ok());
            Will { message, expiry_secs, delay_secs }
        });
        let expires = now.mono + Duration::from_secs(if user_exists { u64::from(record.expiry_secs) } else { 0 });
        session.expires_at = Some(expires);
        self.timers.insert((expires, Timer::Expire(key)));
        if let Some(will) = &session.will {
            let at = now.mono + Duration::from_secs(u64::from(will.delay_secs));
            session.will_at = Some(at);
            self.timers.insert((at, Timer::Will(key)));
        }
        let name = format!("session/{client}").into();
        self.store(Op::OpenDestination { dest, name, queue });
        Some(())
    }

    fn restore_retained(&mut self, value: bytes::Bytes) -> Option<()> {
        let message = record::decode_message(value)?;
        self.retained.set(&Arc::new(message), true);
        Some(())
    }

    fn restore_detail(&mut self, space: Space, client: &str, rest: &[u8], value: bytes::Bytes) -> Option<()> {
        let key = *self.clients.get(client)?;
        let session = self.sessions.get_mut(&key)?;
        let id = || Some(u16::from_be_bytes(rest.try_into().ok()?)).filter(|&id| id != 0);
        match space {
            Space::Session => {
                let filter: Arc<str> = std::str::from_utf8(rest).ok()?.into();
                let options = record::decode_subscription(value)?;
                if !super::routing::is_valid_subscription(&filter) {
                    return None;
                }
                session.subscriptions.insert(filter.clone(), options);
                self.subscribers.insert(&filter, key, options);
            }
            Space::Inbound => {
                session.inbound.insert(id()?, Taken { number: u64::MAX, committed: true, asked_again: false });
            }
            Space::Outbound => {
                let OutboundRecord { seq } = OutboundRecord::decode(value)?;
                session.outbound.restore_released(id()?, (seq != 0).then_some(seq));
            }
            Space::Retained | Space::Learnt => return None,
        }
        Some(())
    }

    /// What a user may do now, whichever way it logs in.
    fn rules_of(&self, user: Option<&str>, client: &str) -> Option<Rules> {
        let access = match user {
            None => self.spec.anonymous.as_ref(),
            Some(name) => self.spec.users.iter().find(|user| *user.name == *name).map(|user| &user.access),
        }?;
        Some(Rules::new(access, user, client, &self.own))
    }

    /// Users, rules and limits have changed. Clients that may no longer be are told so and go; subscriptions that are no longer allowed
    /// end; the rest goes on undisturbed. Listeners are not the core's.
    pub fn reconfigure(&mut self, now: Now, spec: BrokerSpec) {
        self.retained.set_bounds(spec.limits.max_retained_messages, spec.limits.max_retained_bytes);
        let before = self.queue_spec();
        self.spec = spec;
        self.guard.forget();
        let queue = self.queue_spec();
        if queue != before {
            for session in self.sessions.values() {
                let Some(dest) = session.dest else { continue };
                let name = format!("session/{}", session.client).into();
                self.outputs.push_back(Output::Store(Op::OpenDestination { dest, name, queue }));
            }
        }
        let mut keys: Vec<u32> = self.sessions.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            let Some(session) = self.sessions.get(&key) else { continue };
            let rules = self.rules_of(session.user.as_deref(), &session.client);
            let conn = session.conn;
            let welcome = conn.is_none() || self.access(&session.credential).is_some();
            if let (Some(conn), false) = (conn, welcome && rules.is_some()) {
                self.fail(now, conn, Reason::NotAuthorized);
            }
            let Some(rules) = rules else {
                self.end_session(now, key);
                continue;
            };
            self.set_rules(key, rules);
        }
    }

    fn set_rules(&mut self, key: u32, rules: Rules) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.rules == rules {
            return;
        }
        session.rules = rules;
        let gone: Vec<Arc<str>> = session
            .subscriptions
            .keys()
            .filter(|filter| !session.rules.may_subscribe(super::routing::bare_filter(filter)))
            .cloned()
            .collect();
        for filter in gone {
            self.drop_subscription(key, &filter);
        }
    }
}
