//! One uplink over all its connections: what goes out, what settles, when to try again, and what is told about it.
//! Everything but the moving of bytes and rows, which is [`super::task`]'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock::Now;
use crate::store::{Seq, Stored};

use super::drain::{Drainer, Read};
use super::error::SessionError;
use super::inbox::Token;
use super::retry::Backoff;
use super::session::{Published, Session, SessionEvent};
use super::spec::UplinkSpec;
use super::status::{Refusal, UplinkEvent, UplinkState, UplinkStatus};

/// Messages from upstream that wait for their owner; at that many no more input is read.
const OUTBOX_MAX: usize = 64;
/// How often the rate is measured and the status may be told.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for what is in flight, so that it is not sent twice; what is left of two seconds is for the goodbye.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// After a message was refused for now, only one of each topic is under way for this long: the next one refused is then not
/// overtaken.
const IN_STEP_FOR: Duration = Duration::from_secs(600);
/// Share of the latest second in the rate of late.
const RATE_WEIGHT: f64 = 0.3;

pub struct Engine {
    spec: Arc<UplinkSpec>,
    id: u16,
    random: fastrand::Rng,
    session: Option<Session>,
    sessions: u64,
    /// Since when the server has this client.
    up: Option<Instant>,
    drain: Drainer,
    backoff: Backoff,
    /// The queue is to be read from its beginning, as soon as nothing is in flight and all that settled has left the store.
    restart: bool,
    /// The server asked to wait.
    paused: Option<Instant>,
    patience: Backoff,
    /// After such a wait one message at a time goes, until one is taken.
    careful: bool,
    in_step_until: Option<Instant>,
    /// Its topic is under way, and it has to wait for that.
    held: Option<Stored>,
    /// The refusal that the log was told last.
    logged: Option<Arc<str>>,
    /// Delivered, set aside or expired: their places are to go.
    settled: Vec<Seq>,
    delivering: bool,
    outbox: VecDeque<UplinkEvent>,
    stop: Option<Instant>,
    left: bool,
    status: UplinkStatus,
    told: Option<UplinkStatus>,
    measured: Instant,
    measured_delivered: u64,
    measured_passed: Seq,
    /// Numbers of the store passed a second, of late.
    speed: f64,
}

impl Engine {
    pub fn new(spec: Arc<UplinkSpec>, id: u16, seed: u64, now: Now) -> Self {
        Self {
            drain: Drainer::new(spec.drain, spec.drain_per_sec, now.mono),
            spec,
            id,
            random: fastrand::Rng::with_seed(seed),
            session: None,
            sessions: 0,
            up: None,
            backoff: Backoff::default(),
            restart: false,
            paused: None,
            patience: Backoff::default(),
            careful: false,
            in_step_until: None,
            held: None,
            logged: None,
            settled: Vec::new(),
            delivering: false,
            outbox: VecDeque::new(),
            stop: None,
            left: false,
            status: UplinkStatus {
                state: UplinkState::Connecting,
                since: now.wall,
                last_error: None,
                in_flight: 0,
                delivered: 0,
                refused: 0,
                last_refusal: None,
                deferred: 0,
                expired: 0,
                unasked: 0,
                rate: 0.0,
                eta_secs: None,
            },
            told: None,
            measured: now.mono,
            measured_delivered: 0,
            measured_passed: 0,
            speed: 0.0,
        }
    }

    /// An attempt to connect begins.
    pub fn connecting(&mut self, now: Now) {
        self.enter(UplinkState::Connecting, now);
    }

    /// The transport is there: CONNECT goes out.
    ///
    /// # Errors
    /// [`SessionError::Unsendable`].
    pub fn opened(&mut self, password: Option<&[u8]>, now: Now) -> Result<(), SessionError> {
        self.sessions += 1;
        self.session = Some(Session::new(Arc::clone(&self.spec), self.sessions, password, now)?);
        Ok(())
    }

    /// The connection ended, or was not made. Says when to try again.
    pub fn closed(&mut self, error: &SessionError, now: Now) -> Instant {
        self.collect(now);
        self.session = None;
        self.restart = false;
        self.held = None;
        let paused = self.paused.take();
        if let Some(since) = self.up.take() {
            self.backoff.held(now.mono.saturating_duration_since(since));
        }
        self.status.last_error = Some(error.to_string().into());
        let random = self.random.f64();
        let wait = if error.is_lasting() {
            self.enter(UplinkState::Refused, now);
            self.backoff.refused(random)
        } else {
            self.enter(UplinkState::BackingOff, now);
            self.backoff.failed(random)
        };
        paused.unwrap_or(now.mono).max(now.mono + wait)
    }

    /// # Errors
    /// The connection is over.
    pub fn handle_input(&mut self, bytes: &[u8], now: Now) -> Result<(), SessionError> {
        self.session.as_mut().map_or(Ok(()), |session| session.handle_input(bytes, now))
    }

    /// # Errors
    /// The connection is over.
    pub fn handle_timeout(&mut self, now: Now) -> Result<(), SessionError> {
        self.session.as_mut().map_or(Ok(()), |session| session.handle_timeout(now))
    }

    /// The socket took all that [`Engine::take_output`] gave.
    pub fn flushed(&mut self) {
        if let Some(session) = &mut self.session {
            session.flushed();
        }
    }

    pub fn acknowledge(&mut self, token: Token) {
        if let Some(session) = &mut self.session {
            session.acknowledge(token);
        }
    }

    pub fn committed(&mut self, seq: Seq) {
        self.drain.committed(seq);
    }

    /// To be called once a turn, after everything else: takes what the session says, and gives it what is due.
    pub fn advance(&mut self, now: Now) {
        self.collect(now);
        self.leave_if_due(now);
        self.restart_if_due(now);
        self.fill(now);
        self.measure(now);
    }

    pub fn wants_input(&self) -> bool {
        self.outbox.len() < OUTBOX_MAX && self.session.as_ref().is_some_and(Session::wants_input)
    }

    pub fn take_output(&mut self, now: Now) -> Bytes {
        self.session.as_mut().map_or_else(Bytes::new, |session| session.take_output(now))
    }

    /// The next read of the queue, if one is due.
    pub fn next_read(&mut self) -> Option<Read> {
        if self.up.is_none() || self.restart || self.stop.is_some() { None } else { self.drain.next_read() }
    }

    pub fn filled(&mut self, read: Read, rows: Vec<Stored>) {
        self.drain.filled(read, rows);
    }

    /// What has to leave the store; [`Engine::delivered`] follows before there is more.
    pub fn take_settled(&mut self) -> Option<Vec<Seq>> {
        if self.delivering || self.settled.is_empty() {
            return None;
        }
        self.delivering = true;
        Some(std::mem::take(&mut self.settled))
    }

    pub fn delivered(&mut self) {
        self.delivering = false;
    }

    /// When the next turn is due, if nothing happens before.
    pub fn poll_timeout(&self, now: Now) -> Instant {
        let mut due = self.measured + STATUS_EVERY;
        if let Some(session) = &self.session {
            due = due.min(session.poll_timeout());
            if self.held.is_none() && self.may_publish() > 0 {
                due = due.min(self.drain.poll_timeout().unwrap_or(due));
            }
        }
        for at in [self.paused, self.stop.filter(|_| !self.left)].into_iter().flatten() {
            due = due.min(at);
        }
        due.max(now.mono)
    }

    /// The owner wants it to end.
    pub fn stop(&mut self, now: Now) {
        self.stop.get_or_insert(now.mono + STOP_WAIT);
    }

    /// The goodbye is in the output, or there is nobody to say it to, and nothing is left to tell the store.
    pub fn is_done(&self) -> bool {
        self.stop.is_some() && self.settled.is_empty() && !self.delivering && (self.left || self.up.is_none())
    }

    pub fn state(&self) -> UplinkState {
        self.status.state
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    pub fn stopped(&mut self, now: Now) {
        self.session = None;
        self.enter(UplinkState::Stopped, now);
    }

    /// Whether there is something for [`Engine::next_event`] to give.
    pub fn has_event(&self, now: Now) -> bool {
        !self.outbox.is_empty() || self.status_due(now)
    }

    /// What the owner is to be told: state changes at once, and before the messages that came after them.
    pub fn next_event(&mut self, now: Now) -> Option<UplinkEvent> {
        if self.status_due(now) {
            self.told = Some(self.status.clone());
            return Some(UplinkEvent::Status(self.id, self.status.clone()));
        }
        self.outbox.pop_front()
    }

    fn status_due(&self, now: Now) -> bool {
        match &self.told {
            None => true,
            Some(told) if told.state != self.status.state => true,
            // `measure` ends the second in which nothing may be told.
            Some(told) => self.measured == now.mono && *told != self.status,
        }
    }

    fn enter(&mut self, state: UplinkState, now: Now) {
        if self.status.state != state {
            self.status.state = state;
            self.status.since = now.wall;
        }
    }

    fn collect(&mut self, now: Now) {
        while let Some(event) = self.session.as_mut().and_then(Session::poll_event) {
            match event {
                SessionEvent::Up => {
                    self.up = Some(now.mono);
                    self.restart = true;
                    self.enter(UplinkState::Connected, now);
                }
                SessionEvent::Delivered(seq) => {
                    self.settled.push(seq);
                    self.status.delivered += 1;
                    if self.careful && self.paused.is_none() {
                        self.careful = false;
                        self.patience.reset();
                    }
                }
                SessionEvent::Refused { will_pass: true, topic, reason, .. } => self.pause(topic, &reason, now),
                SessionEvent::Refused { seq, topic, reason, .. } => self.set_aside(seq, topic, reason),
                SessionEvent::Message { message, token } => {
                    self.outbox.push_back(UplinkEvent::Message { uplink: self.id, message, token });
                }
                SessionEvent::Unasked => self.status.unasked += 1,
                SessionEvent::Notice(text) => self.status.last_error = Some(text.into()),
            }
        }
    }

    /// Nothing is set aside: sending stops, and the queue is read again from its oldest message.
    fn pause(&mut self, topic: Arc<str>, reason: &str, now: Now) {
        self.status.deferred += 1;
        self.status.last_error = Some(format!("the server asked to wait: {reason}, topic {topic}").into());
        if self.paused.is_none() {
            self.paused = Some(now.mono + self.patience.failed(self.random.f64()));
        }
        self.restart = true;
        self.careful = true;
        self.in_step_until = Some(now.mono + IN_STEP_FOR);
    }

    fn set_aside(&mut self, seq: Seq, topic: Arc<str>, reason: String) {
        self.settled.push(seq);
        self.status.refused += 1;
        let reason: Arc<str> = reason.into();
        if self.logged.as_ref() != Some(&reason) {
            tracing::warn!(
                uplink = &*self.spec.name,
                topic = &*topic,
                "a message is not taken upstream, others go on: {reason}"
            );
            self.logged = Some(Arc::clone(&reason));
        }
        self.status.last_refusal = Some(Refusal { topic, reason });
    }

    fn restart_if_due(&mut self, now: Now) {
        if self.paused.is_some_and(|until| until <= now.mono) {
            self.paused = None;
        }
        let still = self.settled.is_empty()
            && !self.delivering
            && self.session.as_ref().is_some_and(|session| session.unsettled() == 0);
        let sweep = self.held.is_none() && self.drain.sweep_due(now.mono);
        if self.up.is_some() && still && (self.restart && self.paused.is_none() || sweep) {
            self.drain.restart(now.mono);
            self.held = None;
            self.restart = false;
        }
    }

    /// How many messages may go now.
    fn may_publish(&self) -> usize {
        if self.restart || self.stop.is_some() {
            return 0;
        }
        let Some(session) = &self.session else {
            return 0;
        };
        // None before the server has accepted the connection: the queue is read anew then.
        let most = if self.careful { usize::from(session.unsettled() == 0) } else { usize::MAX };
        session.vacancy().min(most)
    }

    fn fill(&mut self, now: Now) {
        let in_step = self.in_step_until.is_some_and(|until| now.mono < until);
        while self.may_publish() > 0 {
            let Some(session) = &mut self.session else {
                return;
            };
            let Some(stored) = self.held.take().or_else(|| self.drain.next(now.mono)) else {
                return;
            };
            if in_step && session.is_under_way(&stored.message.topic) {
                self.held = Some(stored);
                return;
            }
            match session.publish(&stored, now) {
                Published::Sent => {}
                Published::Expired => {
                    self.settled.push(stored.seq);
                    self.status.expired += 1;
                }
                Published::Unsendable(reason) => {
                    self.set_aside(stored.seq, Arc::clone(&stored.message.topic), reason);
                }
            }
        }
    }

    fn leave_if_due(&mut self, now: Now) {
        let (Some(deadline), Some(session), false) = (self.stop, &mut self.session, self.left) else {
            return;
        };
        if self.up.is_some() && (now.mono >= deadline || session.unsettled() == 0) {
            session.disconnect();
            self.left = true;
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "rates and estimates are shown to people")]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite and not negative; `as` saturates"
    )]
    fn measure(&mut self, now: Now) {
        self.status.in_flight = self.session.as_ref().map_or(0, Session::in_flight);
        let passed = now.mono.saturating_duration_since(self.measured);
        if passed < STATUS_EVERY {
            return;
        }
        let secs = passed.as_secs_f64();
        let (behind, at) = self.drain.progress();
        let delivered = (self.status.delivered - self.measured_delivered) as f64 / secs;
        let moved = at.saturating_sub(self.measured_passed) as f64 / secs;
        self.status.rate = smoothed(self.status.rate, delivered);
        self.speed = smoothed(self.speed, moved);
        self.status.eta_secs =
            (behind > 0 && self.speed > 0.0 && self.up.is_some()).then(|| (behind as f64 / self.speed).ceil() as u64);
        self.measured = now.mono;
        self.measured_delivered = self.status.delivered;
        self.measured_passed = at;
    }
}

fn smoothed(before: f64, latest: f64) -> f64 {
    let rate = before + RATE_WEIGHT * (latest - before);
    if rate < 0.05 { 0.0 } else { rate }
}
