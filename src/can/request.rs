//! Values that are asked for by ISO-TP (OBD-II, UDS): when to ask, whom an answer is for, and what silence means.
//!
//! Points that ask the same of the same identifier share one request. A request waits while another one under way
//! may still be answered by one of the same receivers, so that an answer is never another request's.

mod overhear;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use overhear::Overheard;

use super::frame::{CanId, Frame};
use super::isotp::{Form, Progress, Receiver, Sender};
use super::spec::{AnswerKind, AnswerSpec, CanPoint, RequestSpec, Source};
use crate::sample::{Fault, Value};

/// ISO 14229-1: "not now, the answer follows", and P2*server for each.
const RESPONSE_PENDING: u8 = 0x78;
const PENDING_TIMEOUT: Duration = Duration::from_secs(5);
/// A receiver may ask for patience for so long in all.
const PENDING_MAX: Duration = Duration::from_secs(60);
const NEGATIVE: u8 = 0x7F;
/// A positive answer's service id is the request's plus this.
const POSITIVE: u8 = 0x40;
/// Silent requests in a row before a request is asked less often.
const SILENCES_ALLOWED: u32 = 2;
/// Then the pause doubles up to this, or to so many timeouts: a silent receiver takes 2 % of the time.
const PAUSE_MAX: Duration = Duration::from_secs(10);
const PAUSE_TIMEOUTS_MAX: u32 = 50;

/// What a bus's counters show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounters {
    pub requests: u64,
    pub answers: u64,
    pub timeouts: u64,
    /// Negative responses.
    pub negative: u64,
    /// Answers to nothing that was asked, and messages that did not arrive whole.
    pub discarded: u64,
}

/// All requests of one bus.
#[derive(Debug, Default)]
pub struct Requests {
    polls: Vec<Poll>,
    pub counters: RequestCounters,
}

#[derive(Debug)]
struct Poll {
    send: CanId,
    form: Form,
    request: Arc<[u8]>,
    interval: Duration,
    timeout: Duration,
    points: Vec<Asked>,
    next: Option<Instant>,
    silences: u32,
    flight: Option<Flight>,
}

#[derive(Debug)]
struct Asked {
    index: u32,
    receive: Vec<CanId>,
    answer: AnswerSpec,
}

#[derive(Debug)]
struct Flight {
    sender: Sender,
    receivers: Vec<Peer>,
    began: Instant,
    deadline: Instant,
    /// Places in `Poll::points` that have no answer yet.
    open: Vec<usize>,
    /// Flow control frames that wait to be sent.
    controls: Vec<(CanId, Vec<u8>)>,
}

/// One of those who may answer.
#[derive(Debug)]
struct Peer {
    id: CanId,
    receiver: Receiver,
    refused: Option<Fault>,
}

type Found<'a> = &'a mut dyn FnMut(u32, Result<Value, Fault>);

/// How often each request is sent that the points ask for together.
pub fn intervals(points: &[CanPoint]) -> Vec<Duration> {
    Requests::new(points).polls.iter().map(|poll| poll.interval).collect()
}

impl Requests {
    pub fn new(points: &[CanPoint]) -> Self {
        let mut requests = Self::default();
        for (index, point) in (0u32..).zip(points) {
            if let Source::Request(spec) = &point.source {
                requests.add(index, spec);
            }
        }
        requests
    }

    fn add(&mut self, index: u32, spec: &RequestSpec) {
        let form = Form { addressing: spec.addressing, padding: spec.padding, fd: spec.fd };
        let asked = Asked { index, receive: spec.receive.clone(), answer: spec.answer };
        let same = |poll: &&mut Poll| poll.send == spec.send && poll.form == form && poll.request == spec.request;
        if let Some(poll) = self.polls.iter_mut().find(same) {
            poll.interval = poll.interval.min(spec.interval);
            poll.timeout = poll.timeout.max(spec.timeout);
            poll.points.push(asked);
            return;
        }
        self.polls.push(Poll {
            send: spec.send,
            form,
            request: spec.request.clone(),
            interval: spec.interval,
            timeout: spec.timeout,
            points: vec![asked],
            next: None,
            silences: 0,
            flight: None,
        });
    }

    /// The link is up: everything is due.
    pub fn start(&mut self, now: Instant) {
        for poll in &mut self.polls {
            poll.next = Some(now);
        }
    }

    /// The link is gone: nothing is under way any more.
    pub fn stop(&mut self) {
        for poll in &mut self.polls {
            poll.flight = None;
            poll.next = None;
            poll.silences = 0;
        }
    }

    /// A frame from the bus.
    pub fn handle(&mut self, frame: &Frame, now: Instant, found: Found<'_>) {
        for poll in &mut self.polls {
            if poll.flight.as_ref().is_some_and(|flight| flight.receivers.iter().any(|peer| peer.id == frame.id())) {
                poll.handle(frame, now, &mut self.counters, found);
                return;
            }
        }
    }

    /// The next frame to send, where one may go now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Frame> {
        for poll in &mut self.polls {
            if let Some(frame) = poll.transmit(now) {
                return Some(frame);
            }
        }
        let at = self.next_to_ask(now)?;
        self.counters.requests += 1;
        let poll = &mut self.polls[at];
        poll.ask(now);
        poll.transmit(now)
    }

    /// The one that has waited longest of those whose receivers are free.
    fn next_to_ask(&self, now: Instant) -> Option<usize> {
        let due = |poll: &Poll| poll.flight.is_none().then_some(poll.next).flatten().filter(|next| *next <= now);
        let ready = self.polls.iter().enumerate().filter_map(|(at, poll)| Some((due(poll)?, at)));
        ready.filter(|(_, at)| !self.blocked(&self.polls[*at])).min().map(|(_, at)| at)
    }

    fn blocked(&self, poll: &Poll) -> bool {
        let waiting = self.polls.iter().filter_map(|other| other.flight.as_ref());
        let mut busy = waiting.flat_map(|flight| &flight.receivers);
        busy.any(|peer| poll.points.iter().any(|asked| asked.receive.contains(&peer.id)))
    }

    /// When [`Self::handle_timeout`] or [`Self::poll_transmit`] has something to do. A request that waits for another
    /// one's receiver has no time of its own: that one's end is its turn.
    pub fn next_due(&self) -> Option<Instant> {
        let due = |poll: &Poll| match &poll.flight {
            Some(flight) => {
                let receiving = flight.receivers.iter().filter_map(|peer| peer.receiver.deadline()).min();
                [Some(flight.deadline), flight.sender.deadline(), receiving].into_iter().flatten().min()
            }
            None => poll.next.filter(|_| !self.blocked(poll)),
        };
        self.polls.iter().filter_map(due).min()
    }

    pub fn handle_timeout(&mut self, now: Instant, found: Found<'_>) {
        for poll in &mut self.polls {
            poll.handle_timeout(now, &mut self.counters, found);
        }
    }
}

impl Poll {
    fn ask(&mut self, now: Instant) {
        let mut receivers: Vec<Peer> = Vec::new();
        for id in self.points.iter().flat_map(|asked| &asked.receive) {
            if receivers.iter().all(|peer| peer.id != *id) {
                receivers.push(Peer { id: *id, receiver: Receiver::new(self.form), refused: None });
            }
        }
        // A request that no frame can carry is refused where the file is read; here it would wait for ever.
        let Ok(sender) = Sender::new(self.form, self.request.clone()) else {
            self.next = None;
            return;
        };
        self.flight = Some(Flight {
            sender,
            receivers,
            began: now,
            deadline: now + self.timeout,
            open: (0..self.points.len()).collect(),
            controls: Vec::new(),
        });
    }

    fn transmit(&mut self, now: Instant) -> Option<Frame> {
        let flight = self.flight.as_mut()?;
        let (id, data) = match flight.controls.pop() {
            Some(control) => control,
            None => (self.send, flight.sender.poll_transmit(now)?),
        };
        if self.form.fd { Frame::fd(id, &data, true, 0xCC) } else { Frame::classic(id, &data) }
    }

    fn handle(&mut self, frame: &Frame, now: Instant, counters: &mut RequestCounters, found: Found<'_>) {
        let Some(flight) = &mut self.flight else { return };
        let Some(peer) = flight.receivers.iter_mut().find(|peer| peer.id == frame.id()) else { return };
        flight.sender.handle(frame.data(), now);
        match peer.receiver.handle(frame.data(), now) {
            Progress::Ignored => {}
            Progress::Partial => flight.deadline = flight.deadline.max(now + self.timeout),
            Progress::FlowControl(data) => {
                flight.controls.push((flow_control_id(self.send, peer.id), data));
                flight.deadline = flight.deadline.max(now + self.timeout);
            }
            Progress::Failed(_) => counters.discarded += 1,
            Progress::Message(message) => self.answer(frame.id(), &message, now, counters, found),
        }
    }

    fn answer(&mut self, from: CanId, message: &[u8], now: Instant, counters: &mut RequestCounters, found: Found<'_>) {
        let Some(flight) = &mut self.flight else { return };
        let verdict = judge(&self.request, message);
        match verdict {
            Verdict::Foreign => counters.discarded += 1,
            Verdict::Pending => {
                if now.saturating_duration_since(flight.began) < PENDING_MAX {
                    flight.deadline = flight.deadline.max(now + PENDING_TIMEOUT);
                }
            }
            Verdict::Positive => {
                counters.answers += 1;
                let points = &self.points;
                flight.open.retain(|at| {
                    let asked = &points[*at];
                    let settled = asked.receive.contains(&from);
                    if settled {
                        found(asked.index, read(asked.answer, message));
                    }
                    !settled
                });
            }
            Verdict::Negative(fault) => {
                counters.negative += 1;
                let receivers = &mut flight.receivers;
                receivers.iter_mut().filter(|peer| peer.id == from).for_each(|peer| peer.refused = Some(fault));
                let points = &self.points;
                flight.open.retain(|at| {
                    let asked = &points[*at];
                    let others_may =
                        receivers.iter().any(|peer| peer.refused.is_none() && asked.receive.contains(&peer.id));
                    let settled = asked.receive.contains(&from) && !others_may;
                    if settled {
                        found(asked.index, Err(fault));
                    }
                    !settled
                });
            }
        }
        if flight.open.is_empty() {
            self.finish(now, false);
        }
    }

    fn handle_timeout(&mut self, now: Instant, counters: &mut RequestCounters, found: Found<'_>) {
        let Some(flight) = &mut self.flight else { return };
        for peer in &mut flight.receivers {
            counters.discarded += u64::from(peer.receiver.handle_timeout(now));
        }
        let send_failed = matches!(flight.sender.result(), Some(Err(_)));
        if flight.deadline > now && !send_failed {
            return;
        }
        counters.timeouts += 1;
        let silent =
            flight.open.len() == self.points.len() && flight.receivers.iter().all(|peer| peer.refused.is_none());
        for at in &flight.open {
            let asked = &self.points[*at];
            let refused =
                flight.receivers.iter().find(|peer| peer.refused.is_some() && asked.receive.contains(&peer.id));
            found(asked.index, Err(refused.and_then(|peer| peer.refused).unwrap_or(Fault::Timeout)));
        }
        self.finish(now, silent);
    }

    fn finish(&mut self, now: Instant, silent: bool) {
        let Some(flight) = self.flight.take() else { return };
        self.silences = if silent { self.silences.saturating_add(1) } else { 0 };
        let mut pause = self.interval;
        if let Some(more) = self.silences.checked_sub(SILENCES_ALLOWED) {
            let longest = PAUSE_MAX.max(self.timeout.saturating_mul(PAUSE_TIMEOUTS_MAX)).max(self.interval);
            pause = self.interval.max(self.timeout).saturating_mul(1 << (more + 1).min(16)).min(longest);
        }
        // From the moment of asking, so that an interval is kept; what was missed is not made up for.
        self.next = Some((flight.began + pause).max(now));
    }
}

/// Whose flow control a multi-frame answer waits for. A functional request (ISO 15765-4: 0x7DF, 0x18DB33F1) is sent to
/// everybody; flow control goes to the one who answers.
pub fn flow_control_id(send: CanId, answer: CanId) -> CanId {
    match (send.is_extended(), send.raw()) {
        (false, 0x7DF) => CanId::standard(answer.raw().wrapping_sub(8)).unwrap_or(send),
        (true, functional) if functional & 0x00FF_0000 == 0x00DB_0000 => {
            let [_, _, tester, ecu] = answer.raw().to_be_bytes();
            CanId::extended(0x18DA_0000 | u32::from(ecu) << 8 | u32::from(tester)).unwrap_or(send)
        }
        _ => send,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Positive,
    Negative(Fault),
    Pending,
    Foreign,
}

/// Whether a message answers a request: by its service id and by what the service echoes.
fn judge(request: &[u8], message: &[u8]) -> Verdict {
    let Some((&service, parameters)) = request.split_first() else { return Verdict::Foreign };
    match message {
        [NEGATIVE, refused, RESPONSE_PENDING, ..] if *refused == service => Verdict::Pending,
        [NEGATIVE, refused, code, ..] if *refused == service => Verdict::Negative(match code {
            0x11 => Fault::IllegalFunction,
            0x21 => Fault::Busy,
            0x31 => Fault::IllegalAddress,
            other => Fault::Exception(*other),
        }),
        [answered, rest @ ..] if Some(*answered) == service.checked_add(POSITIVE) => {
            let echoed = echo_bytes(service).min(parameters.len());
            if rest.get(..echoed) == parameters.get(..echoed) { Verdict::Positive } else { Verdict::Foreign }
        }
        _ => Verdict::Foreign,
    }
}

/// Bytes of the request that the answer repeats after the service id (ISO 15031-5, ISO 14229-1).
fn echo_bytes(service: u8) -> usize {
    match service {
        // PID; PID and frame; test id; information type; KWP's local identifier; sub-function.
        0x01 | 0x05 | 0x06 | 0x08 | 0x09 | 0x19 | 0x1A | 0x21 => 1,
        0x02 => 2,
        // Data identifier.
        0x22 | 0x24 => 2,
        _ => 0,
    }
}

fn read(answer: AnswerSpec, message: &[u8]) -> Result<Value, Fault> {
    let data = message.get(usize::from(answer.offset)..).ok_or(Fault::BadResponse)?;
    match answer.kind {
        AnswerKind::Number(layout) => layout.extract(data).ok_or(Fault::BadResponse),
        AnswerKind::Text { length } => {
            let data = match length {
                Some(length) => data.get(..usize::from(length)).ok_or(Fault::BadResponse)?,
                None => data,
            };
            let begin = data.iter().position(|byte| *byte != 0).unwrap_or(data.len());
            let text = data[begin..].split(|byte| *byte == 0).next().unwrap_or_default();
            let text = std::str::from_utf8(text).map_err(|_| Fault::BadValue)?.trim_matches([' ', '\u{7f}']);
            if text.chars().any(char::is_control) { Err(Fault::BadValue) } else { Ok(Value::Text(text.into())) }
        }
    }
}

#[cfg(test)]
mod tests;
