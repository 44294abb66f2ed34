//! Commands: each acts at most once, never late, and gets one result (P4).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock::Now;
use crate::command::{Command, CommandId, NotDone, Outcome};
use crate::mapping::convert::{Conversion, Reading};
use crate::mapping::judge::{Decision, Judge, Refusal, rejected};
use crate::mapping::number::{Decimal, Number};
use crate::mapping::publish::to_json;
use crate::mapping::recent::{DeliveryName, Recent};
use crate::mapping::request::{Given, Request, parse};
use crate::mapping::result::{Asker, Status};
use crate::mapping::rule::{Kind, PointRule, WriteRule};
use crate::message::{Again, Delivery, Message, Origin};
use crate::sample::{BusId, PointId, Value};

/// Commands of one bus that wait for their outcome; one more is refused.
pub const WAITING_MAX: usize = 64;

/// How long after its deadline a command may still be under way (time-outs, retries, reading back) before it is given up.
const OUTCOME_WITHIN: Duration = Duration::from_secs(30);

/// The `id` of a fail-safe write's result.
const FAIL_SAFE_ID: &str = "fail_safe";

/// Numbers commands, for all buses of a run.
#[derive(Clone, Debug, Default)]
pub struct CommandIds(Rc<Cell<u64>>);

impl CommandIds {
    fn next(&self) -> CommandId {
        self.0.set(self.0.get().wrapping_add(1));
        CommandId(self.0.get())
    }
}

/// A message on a point's `TOPIC/set`.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// `PointId::index`.
    pub index: u32,
    /// `retain` as its publisher set it.
    pub message: &'a Message,
    pub origin: Origin,
    /// Of a client's QoS 1 or 2 publish.
    pub delivery: Option<&'a Delivery>,
}

/// A point's value as it was read last, and not a fault since.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// As the wire has it.
    pub raw: &'a Value,
    pub received: Instant,
}

/// A result on its way to those who asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub message: Message,
    /// The topic was chosen by this peer, so it goes out only where that peer may publish to it (P10).
    pub behalf: Option<Origin>,
}

#[derive(Debug)]
struct Waiting {
    index: usize,
    asker: Asker,
    raw: Value,
    fail_safe: bool,
    give_up: Instant,
}

#[derive(Debug)]
struct Point {
    conversion: Conversion,
    result_topic: Arc<str>,
    ids: Recent<String>,
    deliveries: Recent<DeliveryName>,
    accepted_at: Option<Instant>,
    /// What the device was last told and acknowledged; newer than `Known` until it is read again.
    written: Option<(Value, Instant)>,
    /// When the fail-safe value is written, if no command comes before.
    fail_safe_at: Option<Instant>,
}

impl Point {
    /// What the device holds, as far as known: what it was told last, or what was read since. Nothing while it has a
    /// fault.
    fn held(&self, known: Option<Known<'_>>) -> Option<Value> {
        let known = known?;
        match &self.written {
            Some((raw, at)) if known.received <= *at => Some(raw.clone()),
            _ => Some(self.conversion.field(known.raw)),
        }
    }

    /// `Some` where the command came before: with its result, once there is one.
    fn earlier(&mut self, now: Instant, asker: &Asker, again: Again) -> Option<Option<Bytes>> {
        let by_id = asker.id.as_ref().and_then(|id| self.ids.find(now, id));
        let redelivered = asker.delivery.as_ref().filter(|_| again != Again::First);
        let found = by_id.or_else(|| self.deliveries.find(now, redelivered?))?;
        Some(found.cloned())
    }
}

/// The commands of one bus.
#[derive(Debug)]
pub struct Commands {
    bus: BusId,
    rules: Arc<[PointRule]>,
    ids: CommandIds,
    points: Vec<Point>,
    waiting: BTreeMap<CommandId, Waiting>,
}

impl Commands {
    pub fn new(bus: BusId, rules: Arc<[PointRule]>, ids: CommandIds) -> Self {
        let points = rules
            .iter()
            .map(|rule| Point {
                conversion: Conversion::new(rule),
                result_topic: format!("{}/set/result", rule.topic).into(),
                ids: Recent::default(),
                deliveries: Recent::default(),
                accepted_at: None,
                written: None,
                fail_safe_at: None,
            })
            .collect();
        Self { bus, rules, ids, points, waiting: BTreeMap::new() }
    }

    /// Judges a message on `TOPIC/set`, of a point that is writable or not. What is to be written is returned, and its
    /// result follows with [`Commands::outcome`]; everything else is answered at once.
    pub fn handle(
        &mut self,
        now: Now,
        arrival: Arrival<'_>,
        known: Option<Known<'_>>,
        out: &mut Vec<Answer>,
    ) -> Option<Command> {
        let index = arrival.index as usize;
        let (point, rule) = (self.points.get_mut(index)?, self.rules.get(index)?);
        let mut asker = Asker::of(arrival.message, arrival.origin);
        asker.delivery = arrival.delivery.map(|delivery| DeliveryName::new(delivery, &arrival.message.payload));
        let again = arrival.delivery.map_or(Again::First, |delivery| delivery.again);
        let verdict = match readable(rule, arrival.message) {
            Err((id, refusal)) => {
                asker.id = id;
                Err(refusal)
            }
            Ok((request, write)) => {
                asker.id.clone_from(&request.id);
                asker.value = Some(echo(&request.value));
                if let Some(earlier) = point.earlier(now.mono, &asker, again) {
                    // Where its result is still to come, that one answers this delivery as well.
                    if let Some(payload) = earlier {
                        asker.answer(&point.result_topic, &payload, out);
                    }
                    return None;
                }
                let on_the_way = self.waiting.values().filter(|waiting| waiting.index == index);
                let judge = Judge {
                    conversion: &point.conversion,
                    rule,
                    write,
                    waiting: self.waiting.len(),
                    ahead: on_the_way.map(|waiting| &waiting.raw).collect(),
                    held: point.held(known),
                    accepted_at: point.accepted_at,
                    again,
                };
                judge.decide(now, arrival.message, &request).map(|decision| (decision, write))
            }
        };
        if let Some(delivery) = &asker.delivery {
            point.deliveries.remember(now.mono, delivery.clone());
        }
        let (decision, write) = match verdict {
            Ok(verdict) => verdict,
            Err(Refusal { status, reason }) => {
                let payload = asker.payload(status, None, Some(&reason), now.wall);
                // Its id may be used again, once the reason is gone.
                settle_delivery(point, &asker, &payload);
                asker.answer(&point.result_topic, &payload, out);
                return None;
            }
        };
        point.fail_safe_at = write.fail_safe.as_ref().and_then(|safe| now.mono.checked_add(safe.after));
        if let Some(id) = &asker.id {
            point.ids.remember(now.mono, id.clone());
        }
        if !decision.unless_equal {
            point.accepted_at = Some(now.mono);
        }
        let readback = write.readback;
        Some(self.send(index, asker, decision, readback, false))
    }

    /// The result of a command, told once: an outcome of an unknown command says nothing. Whoever cannot hand a command
    /// to its driver calls this with that fault.
    pub fn outcome(&mut self, now: Now, outcome: &Outcome, out: &mut Vec<Answer>) {
        let Some(waiting) = self.waiting.remove(&outcome.id) else { return };
        let (Some(point), Some(rule)) = (self.points.get_mut(waiting.index), self.rules.get(waiting.index)) else {
            return;
        };
        let shown = |raw: &Value| point.conversion.publish(raw).ok().map(|reading| to_json(&reading));
        let (status, readback, error) = match &outcome.result {
            Ok(done) => (Status::Done, done.readback.as_ref().and_then(shown), None),
            Err(NotDone::Expired) => {
                (Status::Expired, None, Some("its time passed before it could be sent to the device".to_owned()))
            }
            Err(NotDone::Fault(fault)) => (Status::Failed, None, Some(fault.to_string())),
            Err(NotDone::Mismatch(raw)) => {
                (Status::Failed, shown(raw), Some("the device took the write and reads back another value".to_owned()))
            }
        };
        match &outcome.result {
            Ok(done) => {
                let raw = done.readback.as_ref().map_or(waiting.raw, |raw| point.conversion.field(raw));
                point.written = Some((raw, now.mono));
            }
            Err(NotDone::Mismatch(raw)) => point.written = Some((point.conversion.field(raw), now.mono)),
            Err(NotDone::Expired | NotDone::Fault(_)) => {
                rearm_fail_safe(point, rule, waiting.fail_safe, now.mono);
            }
        }
        let payload = waiting.asker.payload(status, readback.as_deref(), error.as_deref(), now.wall);
        settle(point, &waiting.asker, &payload, out);
    }

    /// The next moment at which [`Commands::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let give_up = self.waiting.values().map(|waiting| waiting.give_up).min();
        let fail_safe = self.points.iter().filter_map(|point| point.fail_safe_at).min();
        give_up.into_iter().chain(fail_safe).min()
    }

    /// Gives up commands whose driver says nothing, and returns the fail-safe writes that are due. A fail-safe write
    /// that fails is tried again after the same time, until it is done or a command comes.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Vec<Answer>) -> Vec<Command> {
        self.give_up(now, "the driver did not say what became of it", |waiting| waiting.give_up <= now.mono, out);
        let mut commands = Vec::new();
        for index in 0..self.points.len() {
            let (Some(point), Some(rule)) = (self.points.get_mut(index), self.rules.get(index)) else { continue };
            if point.fail_safe_at.is_none_or(|at| at > now.mono) {
                continue;
            }
            point.fail_safe_at = None;
            let Some(write) = &rule.write else { continue };
            let Some(safe) = &write.fail_safe else { continue };
            let number = Decimal::shortest(safe.value).map_or(Number::F64(safe.value), Number::Decimal);
            let mut asker = Asker::gateway(FAIL_SAFE_ID);
            asker.value = Some(to_json(&Reading::Number(number)));
            match (point.conversion.invert(number), now.mono.checked_add(write.ttl)) {
                (Ok(raw), Some(expires)) => {
                    let decision = Decision { raw, expires, unless_equal: false };
                    commands.push(self.send(index, asker, decision, write.readback, true));
                }
                (Err(reason), _) => {
                    let payload = asker.payload(Status::Rejected, None, Some(&reason), now.wall);
                    asker.answer(&point.result_topic, &payload, out);
                }
                (Ok(_), None) => {}
            }
        }
        commands
    }

    /// Answers everything that waits, with `failed`: the bus ends or is replaced.
    pub fn close(&mut self, now: Now, out: &mut Vec<Answer>) {
        self.give_up(now, "the bus was stopped; whether the device was written to is not known", |_| true, out);
    }

    fn give_up(&mut self, now: Now, reason: &str, which: impl Fn(&Waiting) -> bool, out: &mut Vec<Answer>) {
        let late: Vec<CommandId> =
            self.waiting.iter().filter(|(_, waiting)| which(waiting)).map(|(id, _)| *id).collect();
        for waiting in late.iter().filter_map(|id| self.waiting.remove(id)) {
            let (Some(point), Some(rule)) = (self.points.get_mut(waiting.index), self.rules.get(waiting.index)) else {
                continue;
            };
            rearm_fail_safe(point, rule, waiting.fail_safe, now.mono);
            let payload = waiting.asker.payload(Status::Failed, None, Some(reason), now.wall);
            settle(point, &waiting.asker, &payload, out);
        }
    }

    fn send(&mut self, index: usize, asker: Asker, decision: Decision, readback: bool, fail_safe: bool) -> Command {
        let Decision { raw, expires, unless_equal } = decision;
        let id = self.ids.next();
        let give_up = expires.checked_add(OUTCOME_WITHIN).unwrap_or(expires);
        self.waiting.insert(id, Waiting { index, asker, raw: raw.clone(), fail_safe, give_up });
        let point = PointId { bus: self.bus, index: u32::try_from(index).unwrap_or(u32::MAX) };
        Command { id, point, raw, expires, readback, unless_equal }
    }
}

/// A fail-safe write that did not happen is tried again, unless a command has come since.
fn rearm_fail_safe(point: &mut Point, rule: &PointRule, was_fail_safe: bool, now: Instant) {
    if was_fail_safe && point.fail_safe_at.is_none() {
        let safe = rule.write.as_ref().and_then(|write| write.fail_safe.as_ref());
        // Not at once, whatever the rule says: a dead device must not be written to without end.
        point.fail_safe_at = safe.and_then(|safe| now.checked_add(safe.after.max(Duration::from_secs(1))));
    }
}

fn settle(point: &mut Point, asker: &Asker, payload: &Bytes, out: &mut Vec<Answer>) {
    if let Some(id) = &asker.id {
        point.ids.settle(id, payload);
    }
    settle_delivery(point, asker, payload);
    asker.answer(&point.result_topic, payload, out);
}

fn settle_delivery(point: &mut Point, asker: &Asker, payload: &Bytes) {
    if let Some(delivery) = &asker.delivery {
        point.deliveries.settle(delivery, payload);
    }
}

/// The request and the point's limits, or why there is none.
fn readable<'a>(rule: &'a PointRule, message: &Message) -> Result<(Request, &'a WriteRule), (Option<String>, Refusal)> {
    let text = matches!(rule.kind, Kind::Text { .. });
    let request = parse(&message.payload, text);
    let id = match &request {
        Ok(request) => request.id.clone(),
        Err(unreadable) => unreadable.id.clone(),
    };
    let Some(write) = &rule.write else {
        return Err((id, rejected("this point is not writable")));
    };
    if message.retain {
        return Err((id, rejected("a retained command is not carried out: it could act again at any time")));
    }
    match request {
        Ok(request) => Ok((request, write)),
        Err(unreadable) => Err((id, rejected(unreadable.reason))),
    }
}

fn echo(given: &Given) -> String {
    to_json(&match given {
        Given::Bool(on) => Reading::Bool(*on),
        Given::Number(number) => Reading::Number(*number),
        Given::Text(text) => Reading::Text(text.clone()),
    })
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
