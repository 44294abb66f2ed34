//! Which samples are published, when, and with what payload (the samples' part of the topics and payloads contract).

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock::{Now, UnixMs};
use crate::clocksync::ClockState;
use crate::mapping::convert::{Conversion, Reading};
use crate::mapping::json;
use crate::mapping::rule::{Deadband, PayloadForm, PointRule, Report};
use crate::message::Message;
use crate::sample::{Fault, Sample, Value};
use crate::timestamp::Timestamps;

/// This run's name, and the number of the sample message published last: shared by all buses of the run.
#[derive(Clone, Debug)]
pub struct Boot {
    id: Arc<str>,
    seq: Rc<Cell<u64>>,
}

impl Boot {
    /// `id`: random at each start, letters and digits.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self { id: id.into(), seq: Rc::new(Cell::new(0)) }
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    fn next_seq(&self) -> u64 {
        let next = self.seq.get().wrapping_add(1);
        self.seq.set(next);
        next
    }
}

/// A point's newest reading, published or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Newest {
    pub reading: Result<Reading, Fault>,
    /// As the wire had it, where it was a value.
    pub raw: Option<Value>,
    pub at: UnixMs,
    /// When it came to the mapping.
    pub received: Instant,
    clock: ClockState,
}

/// What is remembered of a point.
#[derive(Debug, Default)]
struct State {
    newest: Option<Newest>,
    published: Option<(Result<Reading, Fault>, Instant)>,
    /// The newest reading waits for `min_interval` to end.
    held: bool,
    /// Its place in `Publisher::due`.
    scheduled: Option<Instant>,
}

/// One point, compiled.
#[derive(Debug)]
struct Point {
    conversion: Conversion,
    /// `,"unit":"V"`, or nothing.
    unit: Vec<u8>,
    state: State,
}

/// The samples of one bus become messages.
///
/// A value that `report`, `deadband` and `min_interval` let through is published at once; one held back by
/// `min_interval` when the interval ends, the newest only. `heartbeat` repeats the newest reading, with the time at
/// which it was taken, until the point has a fault: a reading that is out of date is the driver's to say.
#[derive(Debug)]
pub struct Publisher {
    rules: Arc<[PointRule]>,
    boot: Boot,
    points: Vec<Point>,
    /// One entry a point at most: never later than when the point wants to be looked at.
    due: BTreeSet<(Instant, usize)>,
    timestamps: Timestamps,
    buffer: Vec<u8>,
}

impl Publisher {
    pub fn new(rules: Arc<[PointRule]>, boot: Boot) -> Self {
        let points = rules
            .iter()
            .map(|rule| {
                let mut unit = Vec::new();
                if let Some(text) = &rule.unit {
                    unit.extend_from_slice(b",\"unit\":");
                    json::string(&mut unit, text);
                }
                Point { conversion: Conversion::new(rule), unit, state: State::default() }
            })
            .collect();
        Self {
            rules,
            boot,
            points,
            due: BTreeSet::new(),
            timestamps: Timestamps::default(),
            buffer: Vec::with_capacity(256),
        }
    }

    pub fn rules(&self) -> &Arc<[PointRule]> {
        &self.rules
    }

    /// A point's newest reading; `None` before the first.
    pub fn newest(&self, index: u32) -> Option<&Newest> {
        self.points.get(index as usize)?.state.newest.as_ref()
    }

    /// Takes a sample of this bus; a point that does not exist is passed over.
    pub fn sample(&mut self, now: Now, clock: ClockState, sample: &Sample, out: &mut Vec<Message>) {
        let index = sample.point.index as usize;
        let (Some(point), Some(rule)) = (self.points.get_mut(index), self.rules.get(index)) else { return };
        let (reading, raw) = match &sample.reading {
            Ok(raw) => match point.conversion.publish(raw) {
                Ok(reading) => (Ok(reading), Some(raw.clone())),
                Err(fault) => (Err(fault), None),
            },
            Err(fault) => (Err(*fault), None),
        };
        let wanted = is_wanted(rule, point.state.published.as_ref(), &reading, now.mono);
        point.state.newest = Some(Newest { reading, raw, at: sample.at, received: now.mono, clock });
        let open = point.state.published.as_ref().is_none_or(|(_, at)| now.mono >= later(*at, rule.min_interval));
        point.state.held = wanted && !open;
        if wanted && open {
            self.publish(index, now.mono, out);
        }
        self.schedule(index);
    }

    /// The next moment at which [`Publisher::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Publishes what was held back and what a heartbeat repeats.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Vec<Message>) {
        while let Some(&(at, index)) = self.due.first()
            && at <= now.mono
        {
            self.due.pop_first();
            if let Some(point) = self.points.get_mut(index) {
                point.state.scheduled = None;
            }
            // The entry may be older than the last publish, which moved the point's time on.
            if self.wakes_at(index).is_some_and(|at| at <= now.mono) {
                self.publish(index, now.mono, out);
            }
            self.schedule(index);
        }
    }

    /// When the point has something to say without a further sample.
    fn wakes_at(&self, index: usize) -> Option<Instant> {
        let (state, rule) = (&self.points.get(index)?.state, self.rules.get(index)?);
        let (_, last) = state.published.as_ref()?;
        if state.held {
            return Some(later(*last, rule.min_interval));
        }
        let repeats = state.newest.as_ref().is_some_and(|newest| newest.reading.is_ok());
        // Not zero even where the rule says so: a heartbeat of no time would never let the loop end.
        let every = rule.heartbeat?.max(rule.min_interval).max(Duration::from_millis(1));
        repeats.then(|| later(*last, every))
    }

    fn schedule(&mut self, index: usize) {
        let Some(at) = self.wakes_at(index) else { return };
        let Some(point) = self.points.get_mut(index) else { return };
        match point.state.scheduled {
            // Looked at again then: moving the entry at each publish would cost more than waking once too often.
            Some(scheduled) if scheduled <= at => return,
            Some(scheduled) => {
                self.due.remove(&(scheduled, index));
            }
            None => {}
        }
        point.state.scheduled = Some(at);
        self.due.insert((at, index));
    }

    fn publish(&mut self, index: usize, now: Instant, out: &mut Vec<Message>) {
        let (Some(point), Some(rule)) = (self.points.get_mut(index), self.rules.get(index)) else { return };
        let Some(newest) = &point.state.newest else { return };
        point.state.held = false;
        point.state.published = Some((newest.reading.clone(), now));
        self.buffer.clear();
        match rule.payload {
            PayloadForm::Json => {
                let seq = self.boot.next_seq();
                write_json(
                    &mut self.buffer,
                    newest,
                    &point.unit,
                    self.timestamps.format(newest.at),
                    &self.boot.id,
                    seq,
                );
            }
            PayloadForm::Value => match &newest.reading {
                Ok(Reading::Text(text)) => self.buffer.extend_from_slice(text.as_bytes()),
                Ok(reading) => write_reading(&mut self.buffer, reading),
                Err(_) => return,
            },
        }
        out.push(Message {
            topic: rule.topic.clone(),
            // Its own allocation, of its own size: a part of a shared one would keep the whole alive while retained.
            payload: Bytes::copy_from_slice(&self.buffer),
            qos: rule.qos,
            retain: rule.retain,
            properties: None,
            expires: None,
        });
    }
}

/// A time that a file gives may be longer than the machine can count to.
fn later(at: Instant, by: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(366 * 86_400);
    at + by.min(LONGEST)
}

fn is_wanted(
    rule: &PointRule,
    published: Option<&(Result<Reading, Fault>, Instant)>,
    reading: &Result<Reading, Fault>,
    now: Instant,
) -> bool {
    let Some((last, at)) = published else { return true };
    let (last, reading) = match (last, reading) {
        (Ok(last), Ok(reading)) => (last, reading),
        (Err(last), Err(fault)) => return last != fault,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => return true,
    };
    if rule.heartbeat.is_some_and(|heartbeat| now >= later(*at, heartbeat)) {
        return true;
    }
    match (rule.deadband, last, reading) {
        (Some(deadband), Reading::Number(last), Reading::Number(number)) => {
            last != number && {
                let (last, number) = (last.to_f64(), number.to_f64());
                let band = match deadband {
                    Deadband::Absolute(band) => band,
                    Deadband::Percent(percent) => last.abs() * percent / 100.0,
                };
                // 230.3 - 230.1 is a little over 0.2 in floats, and not meant to be.
                band <= 0.0 || (number - last).abs() > band + 4.0 * f64::EPSILON * last.abs().max(number.abs())
            }
        }
        // A deadband is about numbers; names, texts and booleans change or do not.
        (Some(_), _, _) => last != reading,
        (None, _, _) => rule.report == Report::Always || last != reading,
    }
}

fn write_reading(out: &mut Vec<u8>, reading: &Reading) {
    match reading {
        Reading::Bool(true) => out.extend_from_slice(b"true"),
        Reading::Bool(false) => out.extend_from_slice(b"false"),
        Reading::Number(number) => number.write(out),
        Reading::Text(text) => json::string(out, text),
    }
}

/// A reading as a piece of JSON, for results and status.
pub fn to_json(reading: &Reading) -> String {
    let mut out = Vec::new();
    write_reading(&mut out, reading);
    String::from_utf8_lossy(&out).into_owned()
}

fn write_json(out: &mut Vec<u8>, newest: &Newest, unit: &[u8], time: &[u8], boot: &str, seq: u64) {
    out.extend_from_slice(b"{\"value\":");
    match &newest.reading {
        Ok(reading) => {
            write_reading(out, reading);
            out.extend_from_slice(unit);
        }
        Err(fault) => {
            out.extend_from_slice(b"null,\"fault\":");
            json::string(out, &fault.to_string());
        }
    }
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time);
    out.extend_from_slice(b"\",\"boot\":");
    json::string(out, boot);
    out.extend_from_slice(b",\"seq\":");
    out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
    if newest.clock == ClockState::Unsynced {
        out.extend_from_slice(b",\"clock\":\"unsynced\"");
    }
    out.push(b'}');
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
