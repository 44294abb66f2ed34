//! The nodes of a CAN bus: messages that come by themselves, ECUs that answer what they are asked by ISO-TP, and
//! messages that keep what commands set.

pub mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wave;
use crate::can::frame::{CanId, Frame, fd_length};
use crate::can::isotp::{Form, Progress, Receiver, Sender};
use crate::can::request::flow_control_id;
use crate::can::signal::{Layout, Number};
use crate::can::spec::{
    Addressing, AnswerKind, BusSpec, CanPoint, CommandSpec, FrameMatch, RequestSpec, Selector, SignalSpec, Source,
};
use crate::mapping::rule::PointRule;
use crate::sample::Value;

/// How often a message comes, where no signal asks for more.
const EVERY: Duration = Duration::from_millis(100);
/// A positive answer's service id is the request's plus this.
const POSITIVE: u8 = 0x40;
/// Bytes of a text that has no length: a VIN's.
const TEXT_BYTES: usize = 17;
/// J1939: priority 6.
const PRIORITY: u32 = 6 << 26;

/// Everything that others would do on one bus.
#[derive(Debug)]
pub struct Nodes {
    points: Vec<CanPoint>,
    rules: Vec<PointRule>,
    start: Instant,
    messages: Vec<Message>,
    ecus: Vec<Ecu>,
}

/// One message, under one choice of its multiplexors.
#[derive(Debug)]
struct Message {
    id: CanId,
    fd: bool,
    group: bool,
    length: usize,
    when: Vec<Selector>,
    /// Places in `Nodes::points`.
    signals: Vec<usize>,
    every: Duration,
    next: Instant,
    /// Of a message that commands set: what it carries.
    held: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Ecu {
    send: CanId,
    receive: CanId,
    form: Form,
    receiver: Receiver,
    sender: Option<Sender>,
    controls: Vec<Vec<u8>>,
    asked: Vec<(Arc<[u8]>, usize)>,
}

impl Nodes {
    /// The nodes that a bus hears, asks and sets. `rules` are the points' own, or none: with them the values are
    /// plausible in the units that are published. A message that no single frame holds is left out.
    pub fn of(spec: &BusSpec, rules: &[PointRule], now: Instant) -> Self {
        let mut nodes = Self {
            points: spec.points.clone(),
            rules: rules.to_vec(),
            start: now,
            messages: Vec::new(),
            ecus: Vec::new(),
        };
        for (index, point) in spec.points.iter().enumerate() {
            match &point.source {
                Source::Signal(signal) => nodes.hear(index, signal, point.timeout, now),
                Source::Request(request) => nodes.ask(index, request),
                Source::Command(_) => {}
            }
        }
        nodes.share();
        for point in &spec.points {
            if let Source::Command(command) = &point.source {
                nodes.hold(command);
            }
        }
        nodes
    }

    fn hear(&mut self, index: usize, signal: &SignalSpec, timeout: Option<Duration>, now: Instant) {
        let (id, group) = match signal.from {
            FrameMatch::Id(id) => (Some(id), false),
            FrameMatch::Pgn { pgn, source } => {
                (CanId::extended(PRIORITY | pgn << 8 | u32::from(source.unwrap_or(0))), true)
            }
        };
        let needed = signal.when.iter().map(|selector| selector.layout).chain([signal.layout]);
        let needed = needed.map(|layout| layout.bytes_needed()).max().unwrap_or(8).max(8);
        let (Some(id), Some(length)) = (id, fd_length(needed)) else { return };
        if group && length > 8 {
            return;
        }
        let every = timeout.map_or(EVERY, |timeout| EVERY.min(timeout / 3)).max(Duration::from_millis(1));
        let known = self.messages.iter_mut().find(|message| message.id == id && message.when == signal.when);
        let Some(message) = known else {
            self.messages.push(Message {
                id,
                fd: length > 8,
                group,
                length: length.into(),
                when: signal.when.clone(),
                signals: vec![index],
                every,
                next: now,
                held: None,
            });
            return;
        };
        message.signals.push(index);
        message.length = message.length.max(length.into());
        message.fd |= length > 8;
        message.every = message.every.min(every);
    }

    /// What stands under no multiplexor comes with each of them, so the message without one is not sent by itself.
    fn share(&mut self) {
        let plain: Vec<(CanId, Vec<usize>)> = self
            .messages
            .iter()
            .filter(|message| message.when.is_empty())
            .map(|message| (message.id, message.signals.clone()))
            .collect();
        for (id, signals) in plain {
            let mut selected = false;
            for message in self.messages.iter_mut().filter(|message| message.id == id && !message.when.is_empty()) {
                message.signals.splice(0..0, signals.iter().copied());
                selected = true;
            }
            if selected {
                self.messages.retain(|message| message.id != id || !message.when.is_empty());
            }
        }
    }

    fn hold(&mut self, command: &CommandSpec) {
        for at in 0..self.messages.len() {
            if self.messages[at].id == command.frame {
                let mut data = self.build(&self.messages[at], Duration::ZERO);
                data.resize(command.length.into(), command.initial);
                self.messages[at].held = Some(data);
            }
        }
    }

    fn ask(&mut self, index: usize, request: &RequestSpec) {
        let Some(receive) = request.receive.first().copied() else { return };
        // What is a target to the one who asks is a source to the one who answers.
        let addressing = match request.addressing {
            Addressing::Normal => Addressing::Normal,
            Addressing::Extended { target, source } => Addressing::Extended { target: source, source: target },
        };
        let form = Form { addressing, padding: Some(0xAA), fd: request.fd };
        let known = self.ecus.iter_mut().find(|ecu| (ecu.send, ecu.receive, ecu.form) == (request.send, receive, form));
        let asked = (request.request.clone(), index);
        match known {
            Some(ecu) => ecu.asked.push(asked),
            None => self.ecus.push(Ecu {
                send: request.send,
                receive,
                form,
                receiver: Receiver::new(form),
                sender: None,
                controls: Vec::new(),
                asked: vec![asked],
            }),
        }
    }

    /// A frame from the gateway.
    pub fn handle(&mut self, frame: &Frame, now: Instant) {
        for message in self.messages.iter_mut().filter(|message| message.id == frame.id()) {
            if let Some(held) = &mut message.held {
                held.clear();
                held.extend_from_slice(frame.data());
            }
        }
        for at in 0..self.ecus.len() {
            if let Some(request) = self.ecus[at].handle(frame, now) {
                let answer = self.answer(&self.ecus[at], &request, now);
                let ecu = &mut self.ecus[at];
                ecu.sender = answer.and_then(|answer| Sender::new(ecu.form, answer.into()).ok());
            }
        }
    }

    /// The next frame to send, where one may go now; each is given once.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Frame> {
        if let Some(frame) = self.ecus.iter_mut().find_map(|ecu| ecu.transmit(now)) {
            return Some(frame);
        }
        let at = self.messages.iter().position(|message| message.next <= now)?;
        let elapsed = now.saturating_duration_since(self.start);
        let message = &self.messages[at];
        let data = message.held.clone().unwrap_or_else(|| self.build(message, elapsed));
        let frame = if message.fd { Frame::fd(message.id, &data, true, 0) } else { Frame::classic(message.id, &data) };
        let message = &mut self.messages[at];
        // One that was missed is not made up for.
        message.next = (message.next + message.every).max(now + message.every / 2);
        frame
    }

    /// When [`Self::poll_transmit`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let answers = self.ecus.iter().filter_map(|ecu| ecu.sender.as_ref()?.deadline());
        self.messages.iter().map(|message| message.next).chain(answers).min()
    }

    fn build(&self, message: &Message, elapsed: Duration) -> Vec<u8> {
        let mut data = vec![if message.group { 0xFF } else { 0 }; message.length];
        for selector in &message.when {
            let value = selector.ranges.first().map_or(0, |(low, _)| *low);
            selector.layout.insert_bits(&mut data, value);
        }
        for index in &message.signals {
            let Some(CanPoint { source: Source::Signal(signal), .. }) = self.points.get(*index) else { continue };
            // A multiplexor that is published too keeps its choice.
            if message.when.iter().all(|selector| selector.layout != signal.layout) {
                signal.layout.insert_bits(&mut data, self.bits(*index, signal.layout, message.group, elapsed));
            }
        }
        data
    }

    fn bits(&self, index: usize, layout: Layout, group: bool, elapsed: Duration) -> u64 {
        let (Some(point), rule) = (self.points.get(index), self.rules.get(index)) else { return 0 };
        // Whoever tells it: a vehicle has one speed.
        let one = rule.is_some_and(|rule| rule.unit.as_deref() == Some("km/h"));
        let phase = if one { 0 } else { u32::try_from(index).unwrap_or(0) };
        let raw = wave::raw(&point.name, rule, phase, elapsed);
        let named = rule.and_then(|rule| wave::named(rule, elapsed));
        let value = match (layout.number(), layout.range()) {
            (Number::F32, _) => Value::F32(raw as f32),
            (Number::F64, _) => Value::F64(raw),
            (Number::Unsigned | Number::Signed, Some(_)) if named.is_some() => named.unwrap_or(Value::Uint(0)),
            (Number::Unsigned | Number::Signed, range) => {
                let (min, max) = range.unwrap_or((0, 0));
                // The highest values of a parameter group mean that there is none (SAE J1939-71).
                let max = if group { max / 256 * 250 + max % 256 * 250 / 255 } else { max };
                let whole = (raw.round() as i128).clamp(min, max);
                i64::try_from(whole).map_or(Value::Uint(0), Value::Int)
            }
        };
        layout.bits_of(&value).unwrap_or(0)
    }

    /// Service and parameters come back, then the values (ISO 15031-5, ISO 14229-1); `None` for what nobody asks.
    fn answer(&self, ecu: &Ecu, request: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (service, parameters) = request.split_first()?;
        let mut message = vec![service.wrapping_add(POSITIVE)];
        message.extend_from_slice(parameters);
        let mut known = false;
        for (_, index) in ecu.asked.iter().filter(|(asked, _)| **asked == *request) {
            let Some(CanPoint { source: Source::Request(spec), name, .. }) = self.points.get(*index) else { continue };
            known = true;
            let offset = usize::from(spec.answer.offset);
            match spec.answer.kind {
                AnswerKind::Number(layout) => {
                    // Between the echo and the value stands a count, of one.
                    message.resize(message.len().max(offset), 1);
                    message.resize(message.len().max(offset + layout.bytes_needed()), 0);
                    let bits = self.bits(*index, layout, false, now.saturating_duration_since(self.start));
                    layout.insert_bits(&mut message[offset..], bits);
                }
                AnswerKind::Text { length } => {
                    message.resize(offset, 1);
                    let length = length.map_or(TEXT_BYTES, usize::from);
                    let text = name.bytes().filter(u8::is_ascii_graphic).map(|byte| byte.to_ascii_uppercase());
                    message.extend(text.chain(std::iter::repeat(b'0')).take(length));
                }
            }
        }
        known.then_some(message)
    }
}

impl Ecu {
    /// The request that the frame completes.
    fn handle(&mut self, frame: &Frame, now: Instant) -> Option<Vec<u8>> {
        if frame.id() != self.send && frame.id() != flow_control_id(self.send, self.receive) {
            return None;
        }
        if let Some(sender) = &mut self.sender {
            sender.handle(frame.data(), now);
        }
        match self.receiver.handle(frame.data(), now) {
            Progress::Message(request) => Some(request),
            Progress::FlowControl(data) => {
                self.controls.push(data);
                None
            }
            Progress::Ignored | Progress::Partial | Progress::Failed(_) => None,
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Frame> {
        let data = match self.controls.pop() {
            Some(control) => control,
            None => self.sender.as_mut()?.poll_transmit(now)?,
        };
        if self.sender.as_ref().is_some_and(|sender| sender.result().is_some()) {
            self.sender = None;
        }
        if self.form.fd { Frame::fd(self.receive, &data, true, 0xAA) } else { Frame::classic(self.receive, &data) }
    }
}

#[cfg(test)]
mod tests;
