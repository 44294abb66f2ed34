use super::*;
use crate::can::bus::Bus;
use crate::can::frame::Received;
use crate::can::signal::BitOrder;
use crate::can::spec::AnswerSpec;
use crate::clock::Now;
use crate::command::{Command, CommandId};
use crate::sample::{BusId, PointId, Sample};

const BUS: BusId = BusId(1);

fn layout(start: u64, length: u64) -> Layout {
    Layout::new(start, length, BitOrder::Little, Number::Unsigned).unwrap()
}

fn id(raw: u32) -> CanId {
    CanId::standard(raw).unwrap()
}

fn signal(from: FrameMatch, start: u64, length: u64, when: &[(u64, u64)]) -> Source {
    let when = when.iter().map(|value| Selector { layout: layout(0, 8), ranges: vec![*value] }).collect();
    Source::Signal(SignalSpec { from, layout: layout(start, length), when })
}

fn request(bytes: &[u8], answer: AnswerSpec) -> Source {
    Source::Request(RequestSpec {
        send: id(0x7DF),
        receive: vec![id(0x7E8)],
        addressing: Addressing::Normal,
        request: bytes.into(),
        padding: None,
        fd: false,
        answer,
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(100),
    })
}

/// The driver's own state machine and the nodes, with every frame of one handed to the other.
struct Both {
    bus: Bus,
    nodes: Nodes,
    start: Now,
}

impl Both {
    fn new(sources: Vec<Source>) -> Self {
        let point = |source| CanPoint {
            name: "vin".into(),
            source,
            min_interval: Duration::ZERO,
            timeout: Some(Duration::from_millis(900)),
        };
        let points = sources.into_iter().map(point).collect();
        let spec = BusSpec { name: "car".into(), interface: "can0".into(), fd: false, points };
        let start = Now::read();
        let mut bus = Bus::new(&spec, BUS, start);
        bus.link_up(start);
        Self { bus, nodes: Nodes::of(&spec, &[], start.mono), start }
    }

    fn run(&mut self, from_ms: u64, to_ms: u64) -> Vec<Sample> {
        for step in from_ms..to_ms {
            let now = self.start.after(Duration::from_millis(step));
            self.bus.handle_timeout(now);
            while let Some(frame) = self.bus.poll_transmit(now) {
                self.bus.transmitted(now);
                self.nodes.handle(&frame, now.mono);
            }
            while let Some(frame) = self.nodes.poll_transmit(now.mono) {
                self.bus.handle(&Received::Data(frame), now.wall, now);
            }
        }
        self.bus.take_samples()
    }
}

fn of(samples: &[Sample], index: u32) -> Vec<Value> {
    let of = samples.iter().filter(|sample| sample.point.index == index);
    of.map(|sample| sample.reading.clone().unwrap()).collect()
}

#[test]
fn every_signal_comes_again_and_again_under_each_of_its_multiplexors_and_by_its_parameter_group() {
    let by_id = FrameMatch::Id(id(0x100));
    let mut both = Both::new(vec![
        signal(by_id, 0, 8, &[]),
        signal(by_id, 8, 16, &[]),
        signal(by_id, 24, 8, &[(3, 5)]),
        signal(by_id, 24, 8, &[(7, 7)]),
        signal(FrameMatch::Pgn { pgn: 65265, source: None }, 8, 16, &[]),
    ]);
    let samples = both.run(0, 1000);
    for index in 0..5 {
        assert!(of(&samples, index).len() >= 10, "{index}: {}", of(&samples, index).len());
    }
    let mut choices = of(&samples, 0);
    choices.dedup();
    assert!(choices.contains(&Value::Uint(3)) && choices.contains(&Value::Uint(7)), "{choices:?}");
}

#[test]
fn what_is_asked_is_answered_in_one_frame_and_in_several() {
    let number = AnswerSpec { offset: 2, kind: AnswerKind::Number(layout(0, 8)) };
    let text = AnswerSpec { offset: 3, kind: AnswerKind::Text { length: None } };
    let mut both = Both::new(vec![request(&[0x01, 0x0D], number), request(&[0x09, 0x02], text)]);
    let samples = both.run(0, 1000);
    assert!(of(&samples, 0).len() >= 9);
    assert!(of(&samples, 1).contains(&Value::Text("VIN00000000000000".into())), "{samples:?}");
}

#[test]
fn a_message_that_commands_set_keeps_what_was_set() {
    let command = CommandSpec {
        frame: id(0x200),
        fd: false,
        length: 3,
        initial: 0,
        layout: layout(0, 8),
        set: Vec::new(),
        cycle: None,
    };
    let mut both = Both::new(vec![signal(FrameMatch::Id(id(0x200)), 0, 8, &[]), Source::Command(command)]);
    both.run(0, 300);
    let expires = both.start.mono + Duration::from_secs(60);
    let point = PointId { bus: BUS, index: 1 };
    let command =
        Command { id: CommandId(1), point, raw: Value::Uint(42), expires, readback: false, unless_equal: false };
    both.bus.handle_command(command, both.start.after(Duration::from_millis(300)));
    assert_eq!(of(&both.run(301, 1000), 0).last(), Some(&Value::Uint(42)));
}
