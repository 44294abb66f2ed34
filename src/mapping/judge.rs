//! Whether a command may act now: its time, its value's kind and range, its step, its rate.

use std::time::{Duration, Instant};

use crate::clock::{Now, UnixMs};
use crate::mapping::command::WAITING_MAX;
use crate::mapping::convert::Conversion;
use crate::mapping::number::{Decimal, Number};
use crate::mapping::request::{Given, Request};
use crate::mapping::result::Status;
use crate::mapping::rule::{Kind, PointRule, WriteRule};
use crate::message::{Again, Message};
use crate::sample::Value;

/// How a command ends that does not act.
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) reason: String,
}

pub(crate) fn rejected(reason: impl Into<String>) -> Refusal {
    Refusal { status: Status::Rejected, reason: reason.into() }
}

fn expired(reason: &str) -> Refusal {
    Refusal { status: Status::Expired, reason: reason.to_owned() }
}

/// What a command that is not refused comes to.
pub(crate) struct Decision {
    pub(crate) raw: Value,
    pub(crate) expires: Instant,
    /// The device holds the value already, as far as known: it is to be asked first.
    pub(crate) unless_equal: bool,
}

/// The checks that a readable request goes through.
pub(crate) struct Judge<'a> {
    pub(crate) conversion: &'a Conversion,
    pub(crate) rule: &'a PointRule,
    pub(crate) write: &'a WriteRule,
    /// Commands of the bus that wait for their outcome.
    pub(crate) waiting: usize,
    /// Values on their way to this point.
    pub(crate) ahead: Vec<&'a Value>,
    /// What the device holds, as far as known.
    pub(crate) held: Option<Value>,
    /// When the last command to this point was taken.
    pub(crate) accepted_at: Option<Instant>,
    pub(crate) again: Again,
}

impl Judge<'_> {
    pub(crate) fn decide(&self, now: Now, message: &Message, request: &Request) -> Result<Decision, Refusal> {
        let life = self.time_left(now, message, request)?;
        let raw = self.raw(&request.value)?;
        self.in_range(&raw)?;
        self.within_step(&raw)?;
        let unless_equal =
            !self.write.write_equal && self.ahead.is_empty() && self.held.as_ref().is_some_and(|held| same(held, &raw));
        if let Some(last) = self.accepted_at.filter(|_| !unless_equal) {
            let left = self.write.min_interval.saturating_sub(now.mono.saturating_duration_since(last));
            if !left.is_zero() {
                return Err(rejected(format!("too soon: wait another {} ms", left.as_millis().max(1))));
            }
        }
        if self.waiting >= WAITING_MAX {
            return Err(rejected(format!("too many commands waiting: {WAITING_MAX}")));
        }
        let expires = now.mono.checked_add(life).ok_or_else(|| rejected("ttl_ms is too long"))?;
        Ok(Decision { raw, expires, unless_equal })
    }

    /// The shortest of the point's time to live, the request's `expires` and the message's own expiry.
    ///
    /// While the clock is not known to be set, `expires` is judged by it all the same: a clock that is behind may take a
    /// late command for a timely one, but only within the time to live, which counts from the arrival.
    fn time_left(&self, now: Now, message: &Message, request: &Request) -> Result<Duration, Refusal> {
        let until =
            |at: UnixMs| u64::try_from(at.0.saturating_sub(now.wall.0)).map_or(Duration::ZERO, Duration::from_millis);
        let mut life = self.write.ttl;
        if let Again::Redelivered { after } = self.again {
            let Some(after) = after else {
                return Err(expired(
                    "a redelivery from a client that was not here since the gateway started: it may have acted before, send it anew",
                ));
            };
            life = life.saturating_sub(now.mono.saturating_duration_since(after));
            if life.is_zero() {
                return Err(expired("a redelivery that may be older than ttl_ms: send it anew"));
            }
        }
        if let Some(expires) = message.expires {
            life = life.min(until(expires));
        }
        if let Some(expires) = request.expires {
            life = life.min(until(expires));
        }
        if life.is_zero() { Err(expired("its time has passed")) } else { Ok(life) }
    }

    fn raw(&self, given: &Given) -> Result<Value, Refusal> {
        let conversion = &self.conversion;
        let number = match (conversion.kind(), given) {
            (Kind::Text { bytes }, Given::Text(text)) => {
                if text.len() > bytes {
                    return Err(rejected(format!("the text has {} bytes, the device holds {bytes}", text.len())));
                }
                if text.contains('\0') {
                    return Err(rejected("the text contains a NUL, which ends it on the device"));
                }
                return Ok(Value::Text(text.clone()));
            }
            (Kind::Text { .. }, Given::Bool(_) | Given::Number(_)) => {
                return Err(rejected("a text is expected"));
            }
            (Kind::Bool, Given::Bool(on)) => return Ok(Value::Bool(*on)),
            (_, Given::Bool(on)) if conversion.is_one_bit() => Number::Decimal(Decimal::integer(i64::from(*on))),
            (_, Given::Bool(_)) => return Err(rejected("a number is expected, not true or false")),
            (_, Given::Number(number)) => *number,
            (_, Given::Text(text)) => match conversion.named(text) {
                Some(value) => value,
                None => return Err(rejected(self.expected_instead())),
            },
        };
        conversion.invert(number).map_err(rejected)
    }

    fn expected_instead(&self) -> String {
        let kind = if self.rule.kind == Kind::Bool { "true or false" } else { "a number" };
        let names: Vec<&str> = self.rule.map.values().map(AsRef::as_ref).collect();
        if names.is_empty() {
            format!("{kind} is expected, not a text")
        } else {
            format!("{kind} or one of these names is expected: {}", names.join(", "))
        }
    }

    fn in_range(&self, raw: &Value) -> Result<(), Refusal> {
        let Some(value) = self.conversion.measure_field(raw) else { return Ok(()) };
        let slack = 4.0 * f64::EPSILON * value.abs();
        if let Some(min) = self.write.min.filter(|min| value < *min - slack) {
            return Err(rejected(format!("out of range: {value} is below min {min}")));
        }
        if let Some(max) = self.write.max.filter(|max| value > *max + slack) {
            return Err(rejected(format!("out of range: {value} is above max {max}")));
        }
        Ok(())
    }

    /// Against the value that the device holds, and against those that are on their way to it.
    fn within_step(&self, raw: &Value) -> Result<(), Refusal> {
        let (Some(max_step), Some(value)) = (self.write.max_step, self.conversion.measure_field(raw)) else {
            return Ok(());
        };
        let Some(held) = &self.held else {
            return Err(rejected("max_step cannot be judged: the point's value is not known now"));
        };
        for from in self.ahead.iter().copied().chain([held]).filter_map(|held| self.conversion.measure_field(held)) {
            let step = (value - from).abs();
            if step > max_step + 4.0 * f64::EPSILON * value.abs().max(from.abs()) {
                return Err(rejected(format!("the step from {from} to {value} is over max_step {max_step}")));
            }
        }
        Ok(())
    }
}

/// Whether two raw values are the same, whatever the sign of their type.
fn same(one: &Value, other: &Value) -> bool {
    let integer = |value: &Value| match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        Value::Bool(_) | Value::F32(_) | Value::F64(_) | Value::Text(_) => None,
    };
    match (integer(one), integer(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}
