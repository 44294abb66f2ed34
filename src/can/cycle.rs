//! Commands: a signal set in its message with the others kept, sent once or again and again.

use std::time::{Duration, Instant};

use super::decode::selects;
use super::frame::{CanId, Frame};
use super::signal::Layout;
use super::spec::{CanPoint, CommandSpec, Selector, Source};
use crate::sample::{Fault, Value};

/// The messages that commands set signals in, each as it was seen or sent last.
#[derive(Debug, Default)]
pub struct Commands {
    messages: Vec<Outgoing>,
    targets: Vec<Target>,
}

/// One message; under different multiplexor values it is another one, with signals of its own.
#[derive(Debug)]
struct Outgoing {
    frame: CanId,
    fd: bool,
    set: Vec<(Layout, u64)>,
    data: Vec<u8>,
    cycle: Option<Duration>,
    next: Option<Instant>,
}

#[derive(Debug)]
struct Target {
    index: u32,
    message: usize,
    layout: Layout,
    cyclic: bool,
    /// Of a cyclic command: what the signal stays at, whatever others send.
    held: Option<u64>,
}

impl Commands {
    pub fn new(points: &[CanPoint]) -> Self {
        let mut commands = Self::default();
        for (index, point) in (0u32..).zip(points) {
            if let Source::Command(spec) = &point.source {
                let message = commands.message(spec);
                let cyclic = spec.cycle.is_some();
                commands.targets.push(Target { index, message, layout: spec.layout, cyclic, held: None });
            }
        }
        commands
    }

    fn message(&mut self, spec: &CommandSpec) -> usize {
        let known = self.messages.iter().position(|message| message.frame == spec.frame && message.set == spec.set);
        let at = known.unwrap_or_else(|| {
            self.messages.push(Outgoing {
                frame: spec.frame,
                fd: spec.fd,
                set: spec.set.clone(),
                data: vec![spec.initial; usize::from(spec.length)],
                cycle: None,
                next: None,
            });
            self.messages.len() - 1
        });
        let message = &mut self.messages[at];
        message.cycle = match (message.cycle, spec.cycle) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        at
    }

    /// A frame of somebody else: its signals are the ones to keep.
    pub fn seen(&mut self, frame: &Frame) {
        for message in self.messages.iter_mut().filter(|message| message.frame == frame.id()) {
            let selected = message.set.iter().all(|(layout, value)| {
                selects(&Selector { layout: *layout, ranges: vec![(*value, *value)] }, frame.data())
            });
            if selected {
                for (kept, seen) in message.data.iter_mut().zip(frame.data()) {
                    *kept = *seen;
                }
            }
        }
    }

    /// The frame that carries out a command; nothing is remembered until [`Self::sent`].
    ///
    /// # Errors
    /// [`Fault::IllegalAddress`] for a point that is no command, [`Fault::IllegalValue`] for a value that does not fit.
    pub fn frame(&self, index: u32, raw: &Value) -> Result<Frame, Fault> {
        let target = self.targets.iter().find(|target| target.index == index).ok_or(Fault::IllegalAddress)?;
        let bits = target.layout.bits_of(raw).ok_or(Fault::IllegalValue)?;
        self.build(target.message, Some((target.layout, bits))).ok_or(Fault::IllegalAddress)
    }

    fn build(&self, message: usize, change: Option<(Layout, u64)>) -> Option<Frame> {
        let outgoing = &self.messages[message];
        let mut data = outgoing.data.clone();
        let held = self.targets.iter().filter(|target| target.message == message);
        let held = held.filter_map(|target| Some((target.layout, target.held?)));
        for (layout, bits) in outgoing.set.iter().copied().chain(held).chain(change) {
            if !layout.insert_bits(&mut data, bits) {
                return None;
            }
        }
        if outgoing.fd { Frame::fd(outgoing.frame, &data, true, 0) } else { Frame::classic(outgoing.frame, &data) }
    }

    /// The frame of a command has left: it is what the next one builds on, and its repetition begins.
    pub fn sent(&mut self, index: u32, frame: &Frame, now: Instant) {
        let Some(target) = self.targets.iter_mut().find(|target| target.index == index) else { return };
        if target.cyclic {
            target.held = target.layout.bits(frame.data());
        }
        let message = &mut self.messages[target.message];
        for (kept, sent) in message.data.iter_mut().zip(frame.data()) {
            *kept = *sent;
        }
        if let (true, Some(cycle)) = (target.cyclic, message.cycle) {
            message.next = Some(now + cycle);
        }
    }

    /// When a repetition is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.messages.iter().filter_map(|message| message.next).min()
    }

    /// The repetitions that are due. One that was missed is not made up for.
    pub fn due(&mut self, now: Instant) -> Vec<Frame> {
        let mut frames = Vec::new();
        for at in 0..self.messages.len() {
            let message = &mut self.messages[at];
            let (Some(next), Some(cycle)) = (message.next, message.cycle) else { continue };
            if next > now {
                continue;
            }
            message.next = Some(if next + cycle > now { next + cycle } else { now + cycle });
            frames.extend(self.build(at, None));
        }
        frames
    }

    /// The link is gone: nothing is repeated until the next command, which may come much later.
    pub fn stop(&mut self) {
        for message in &mut self.messages {
            message.next = None;
        }
        for target in &mut self.targets {
            target.held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::can::signal::{BitOrder, Number};
    use crate::clock::Now;

    fn layout(start: u64, length: u64) -> Layout {
        Layout::new(start, length, BitOrder::Little, Number::Unsigned).unwrap()
    }

    fn id() -> CanId {
        CanId::standard(0x200).unwrap()
    }

    fn point(start: u64, cycle: Option<u64>, set: &[(Layout, u64)]) -> CanPoint {
        let source = Source::Command(CommandSpec {
            frame: id(),
            fd: false,
            length: 4,
            initial: 0,
            layout: layout(start, 8),
            set: set.to_vec(),
            cycle: cycle.map(Duration::from_millis),
        });
        CanPoint { name: "fan".into(), source, min_interval: Duration::ZERO, timeout: None }
    }

    #[test]
    fn the_other_signals_stay_as_they_were_seen_or_sent_last() {
        let mut commands = Commands::new(&[point(0, None, &[]), point(8, None, &[])]);
        let now = Now::read().mono;
        commands.seen(&Frame::classic(id(), &[1, 2, 3, 4]).unwrap());
        let frame = commands.frame(0, &Value::Uint(9)).unwrap();
        assert_eq!(frame.data(), [9, 2, 3, 4]);
        assert_eq!(
            commands.frame(1, &Value::Uint(7)).unwrap().data(),
            [1, 7, 3, 4],
            "what was not sent changed nothing"
        );
        commands.sent(0, &frame, now);
        assert_eq!(commands.frame(1, &Value::Uint(7)).unwrap().data(), [9, 7, 3, 4]);
        assert_eq!(commands.next_due(), None);
        assert_eq!(commands.frame(0, &Value::Uint(256)), Err(Fault::IllegalValue));
        assert_eq!(commands.frame(5, &Value::Uint(0)), Err(Fault::IllegalAddress));
    }

    #[test]
    fn a_cyclic_command_repeats_its_value_whatever_others_send() {
        let mut commands = Commands::new(&[point(0, Some(100), &[])]);
        let now = Now::read().mono;
        assert_eq!(commands.next_due(), None);
        let frame = commands.frame(0, &Value::Uint(9)).unwrap();
        commands.sent(0, &frame, now);
        commands.seen(&Frame::classic(id(), &[1, 2, 3, 4]).unwrap());
        let due = now + Duration::from_millis(100);
        assert_eq!(commands.next_due(), Some(due));
        assert!(commands.due(due - Duration::from_millis(1)).is_empty());
        assert_eq!(commands.due(due).first().map(|frame| frame.data().to_vec()), Some(vec![9, 2, 3, 4]));
        let late = due + Duration::from_secs(5);
        assert_eq!(commands.due(late).len(), 1);
        assert_eq!(commands.next_due(), Some(late + Duration::from_millis(100)));
        commands.stop();
        assert_eq!(commands.next_due(), None);
    }

    #[test]
    fn signals_under_different_multiplexors_do_not_mix() {
        let selector = layout(0, 8);
        let mut commands = Commands::new(&[point(8, None, &[(selector, 1)]), point(16, None, &[(selector, 2)])]);
        commands.seen(&Frame::classic(id(), &[1, 11, 12, 13]).unwrap());
        commands.seen(&Frame::classic(id(), &[2, 21, 22, 23]).unwrap());
        assert_eq!(commands.frame(0, &Value::Uint(9)).unwrap().data(), [1, 9, 12, 13]);
        assert_eq!(commands.frame(1, &Value::Uint(9)).unwrap().data(), [2, 21, 9, 23]);
    }
}
