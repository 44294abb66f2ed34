//! CONNECT: who it is, whether it may, and which session it gets (MQTT 5, 3.1 and 3.2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::acl::Rules;
use super::alias::Aliases;
use super::api::{ConnId, Output, Secret};
use super::core::{Broker, State, TOPIC_ALIAS_MAX, Timer};
use super::encode::{self, ConnackProperties};
use super::packet::{Connect, Reason, Version};
use super::session::{Credential, Will};
use super::spec::{Access, UserSpec};
use crate::clock::Now;
use crate::hub::topics::is_valid_topic;
use crate::message::Message;

/// Longer client identifiers are refused: one stands in every key of its session.
const CLIENT_BYTES_MAX: usize = 1024;

/// A CONNECT whose password is not verified yet.
pub(crate) struct Login {
    pub(crate) connect: Connect,
    /// `None`: a user that is not there; its password is verified all the same, so that names cannot be told by time.
    user: Option<UserSpec>,
    hash: Arc<str>,
    deadline: Instant,
    /// The check waits until then, because this address or user guessed wrong before.
    pub(crate) check_at: Option<Instant>,
}

impl Broker {
    pub(crate) fn connect(&mut self, now: Now, conn: ConnId, connect: Connect) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.version = connect.version;
        if connect.authentication {
            return self.fail(now, conn, Reason::BadAuthenticationMethod);
        }
        if let Some(name) = &state.peer.certificate_user {
            let Some(user) = self.spec.users.iter().find(|user| *user.name == **name) else {
                return self.fail(now, conn, Reason::NotAuthorized);
            };
            let credential = Credential::Certificate(user.name.clone());
            return self.admit(now, conn, connect, credential);
        }
        let Some(name) = &connect.user else {
            if self.spec.anonymous.is_none() {
                return self.fail(now, conn, Reason::NotAuthorized);
            }
            return self.admit(now, conn, connect, Credential::Anonymous);
        };
        let user = self.spec.users.iter().find(|user| user.name == *name && user.password_hash.is_some());
        let hash = user.or_else(|| self.spec.users.iter().find(|user| user.password_hash.is_some()));
        let Some(hash) = hash.and_then(|user| user.password_hash.clone()) else {
            return self.fail(now, conn, Reason::BadUserNameOrPassword);
        };
        let password = connect.password.clone().unwrap_or_default();
        if let Some(user) = user.filter(|user| self.guard.knows(user, &password)) {
            let credential = Credential::Password(user.name.clone(), hash);
            return self.admit(now, conn, connect, credential);
        }
        let address = state.peer.address.ip();
        let check_at = self.guard.check_at(now.mono, address, name);
        let deadline = state.timer_at.unwrap_or(now.mono);
        let user = user.cloned();
        let wait = (check_at > now.mono).then_some(check_at);
        state.state = State::Checking(Box::new(Login { connect, user, hash, deadline, check_at: wait }));
        match wait {
            Some(at) => self.set_conn_timer(conn, Some(at.min(deadline))),
            None => self.start_check(now, conn),
        }
    }

    /// Hands the password out to be verified.
    pub(crate) fn start_check(&mut self, now: Now, conn: ConnId) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let State::Checking(login) = &mut state.state else { return };
        if now.mono >= login.deadline {
            return self.fail(now, conn, Reason::ServerBusy);
        }
        login.check_at = None;
        let deadline = login.deadline;
        let password = Secret(login.connect.password.clone().unwrap_or_default());
        self.outputs.push_back(Output::CheckPassword { conn, hash: login.hash.clone(), password });
        self.set_conn_timer(conn, Some(deadline));
    }

    pub(crate) fn password_checked(&mut self, now: Now, conn: ConnId, ok: bool) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let address = state.peer.address;
        if !matches!(&state.state, State::Checking(login) if login.check_at.is_none()) {
            return;
        }
        let State::Checking(login) = std::mem::replace(&mut state.state, State::AwaitConnect) else { return };
        let rest = state.input.split().freeze();
        let Login { connect, user, hash, .. } = *login;
        // The file may have changed meanwhile: only a user that still has this hash comes in.
        let user = user.filter(|user| ok && self.spec.users.contains(user));
        match user {
            Some(user) => {
                self.guard.right(address.ip(), &user, connect.password.as_deref().unwrap_or_default());
                self.admit(now, conn, connect, Credential::Password(user.name, hash));
                self.frames(now, conn, rest);
            }
            None => {
                self.counters.passwords_wrong += 1;
                if let Some(name) = &connect.user {
                    self.guard.wrong(now.mono, address.ip(), name);
                }
                warn!(%address, client = %connect.client, "login refused: wrong user name or password");
                self.fail(now, conn, Reason::BadUserNameOrPassword);
            }
        }
    }

    /// The access of a credential, while it still holds.
    pub(crate) fn access(&self, credential: &Credential) -> Option<&Access> {
        let named = |name: &str| self.spec.users.iter().find(|user| *user.name == *name);
        match credential {
            Credential::Anonymous => self.spec.anonymous.as_ref(),
            Credential::Certificate(name) => named(name).map(|user| &user.access),
            Credential::Password(name, hash) => {
                named(name).filter(|user| user.password_hash.as_ref() == Some(hash)).map(|user| &user.access)
            }
        }
    }

    /// The client is who it says: gives it its session and its CONNACK.
    fn admit(&mut self, now: Now, conn: ConnId, mut connect: Connect, credential: Credential) {
        let mut assigned = false;
        if connect.client.is_empty() {
            // 3.1.1, 3.1.3-8: without a name there is no session to come back to.
            if connect.version == Version::V4 && !connect.clean_start {
                return self.fail(now, conn, Reason::ClientIdentifierNotValid);
            }
            connect.client = self.assign_client();
            assigned = true;
        }
        if connect.client.len() > CLIENT_BYTES_MAX {
            return self.fail(now, conn, Reason::ClientIdentifierNotValid);
        }
        let Some(access) = self.access(&credential) else { return self.fail(now, conn, Reason::NotAuthorized) };
        let user = credential.user().cloned();
        let rules = Rules::new(access, user.as_deref(), &connect.client, &self.own);
        if let Some(will) = &connect.will {
            if !is_valid_topic(&will.topic) {
                return self.fail(now, conn, Reason::TopicNameInvalid);
            }
            if !rules.may_publish(&will.topic) || !self.depth_is_allowed(&will.topic) {
                warn!(client = %connect.client, topic = %will.topic, "login refused: its will's topic is not allowed");
                return self.fail(now, conn, Reason::NotAuthorized);
            }
        }
        let known = self.clients.get(&connect.client).copied();
        // A session belongs to its user: another one that knows the client id neither takes its messages nor throws it out.
        if known.is_some_and(|key| self.sessions.get(&key).is_some_and(|session| session.user != user)) {
            return self.fail(now, conn, Reason::ClientIdentifierNotValid);
        }
        if known.is_none() && self.sessions.len() >= self.spec.limits.max_sessions {
            return self.fail(now, conn, Reason::QuotaExceeded);
        }
        let present = self.open_session(now, conn, &connect, credential, rules);
        self.welcome(now, conn, &connect, assigned, present);
    }

    fn assign_client(&mut self) -> Arc<str> {
        loop {
            self.assigned += 1;
            let name: Arc<str> = format!("auto-{:016x}", fastrand::u64(..) ^ self.assigned).into();
            if !self.clients.contains_key(&name) {
                return name;
            }
        }
    }

    /// What the session's life will be, in seconds.
    fn session_expiry(&self, connect: &Connect) -> u32 {
        let longest = u32::try_from(self.spec.limits.session_expiry.as_secs()).unwrap_or(u32::MAX);
        match connect.session_expiry_secs {
            Some(asked) => asked.min(longest),
            None if connect.clean_start => 0,
            None => longest,
        }
    }

    fn open_session(
        &mut self,
        now: Now,
        conn: ConnId,
        connect: &Connect,
        credential: Credential,
        rules: Rules,
    ) -> bool {
        if let Some(key) = self.clients.get(&connect.client).copied()
            && let Some(old) = self.sessions.get(&key).and_then(|session| session.conn)
        {
            info!(client = %connect.client, "session taken over by a new connection");
            self.fail(now, old, Reason::SessionTakenOver);
        }
        // The old connection's end may have ended its session.
        let mut known = self.clients.get(&connect.client).copied();
        if connect.clean_start
            && let Some(key) = known.take()
        {
            self.end_session(now, key);
        }
        let present = known.is_some();
        let key = known.unwrap_or_else(|| self.new_session(connect.client.clone(), credential.user().cloned()));
        let expiry_secs = self.session_expiry(connect);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.conn = Some(conn);
            session.credential = credential;
            session.rules = rules;
            session.expiry_secs = expiry_secs;
            for (at, timer) in
                [(session.expires_at.take(), Timer::Expire(key)), (session.will_at.take(), Timer::Will(key))]
            {
                if let Some(at) = at {
                    self.timers.remove(&(at, timer));
                }
            }
            session.will = connect.will.as_ref().map(|will| {
                let mut message = Message::new(will.topic.clone(), will.payload.clone(), will.qos, will.retain);
                message.properties = will.properties.clone();
                Will { message, expiry_secs: will.expiry_secs, delay_secs: will.delay_secs }
            });
        }
        if let Some(state) = self.conns.get_mut(&conn) {
            state.state = State::Open { session: key };
        }
        // One that is to end with this connection still gets what was kept for it until now.
        self.set_durable(key, present || expiry_secs > 0);
        present
    }

    fn welcome(&mut self, now: Now, conn: ConnId, connect: &Connect, assigned: bool, present: bool) {
        let limits = self.spec.limits;
        let mut keep_alive_secs = connect.keep_alive_secs;
        let mut server_keep_alive_secs = None;
        if let (Version::V5, Some(most)) = (connect.version, limits.max_keep_alive) {
            let most = u16::try_from(most.as_secs()).unwrap_or(u16::MAX).max(1);
            if keep_alive_secs == 0 || keep_alive_secs > most {
                keep_alive_secs = most;
                server_keep_alive_secs = Some(most);
            }
        }
        let expiry_secs = self.session_expiry(connect);
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.keep_alive = (keep_alive_secs > 0).then(|| Duration::from_millis(u64::from(keep_alive_secs) * 1500));
        state.max_packet_bytes = usize::try_from(connect.max_packet_bytes).unwrap_or(usize::MAX);
        state.resumed = present;
        state.window = usize::from(connect.receive_maximum.min(limits.max_in_flight)).max(1);
        if connect.version == Version::V5 {
            state.aliases = vec![None; usize::from(TOPIC_ALIAS_MAX)];
        }
        state.own_aliases = Aliases::new(connect.topic_alias_maximum);
        let told = ConnackProperties {
            session_expiry_secs: (connect.session_expiry_secs != Some(expiry_secs)).then_some(expiry_secs),
            receive_maximum: limits.max_in_flight,
            max_packet_bytes: limits.max_packet_bytes,
            topic_alias_maximum: TOPIC_ALIAS_MAX,
            assigned_client: (assigned && connect.version == Version::V5).then_some(&*connect.client),
            server_keep_alive_secs,
        };
        encode::connack(&mut state.out, connect.version, present, &told);
        let first = state.keep_alive.map(|limit| now.mono + limit);
        let State::Open { session } = state.state else { return };
        info!(client = %connect.client, address = %state.peer.address, present, "client connected");
        self.set_conn_timer(conn, first);
        self.mark_dirty(conn);
        self.resume(now, session);
    }
}
