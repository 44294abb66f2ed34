use super::*;
use crate::can::frame::CanId;
use crate::can::j1939::{GLOBAL, Header};
use crate::can::signal::{BitOrder, Layout, Number};
use crate::can::spec::{CanPoint, CommandSpec, FrameMatch, Selector, SignalSpec};
use crate::command::CommandId;
use crate::sample::{PointId, Value};

const BUS: BusId = BusId(7);

fn byte(at: u64) -> Layout {
    Layout::new(at * 8, 8, BitOrder::Little, Number::Unsigned).unwrap()
}

fn id(raw: u32) -> CanId {
    CanId::standard(raw).unwrap()
}

fn point(source: Source) -> CanPoint {
    CanPoint { name: "p".into(), source, min_interval: Duration::ZERO, timeout: Some(Duration::from_secs(1)) }
}

fn signal(from: FrameMatch, at: u64, when: &[(u64, (u64, u64))]) -> CanPoint {
    let when = when.iter().map(|(at, range)| Selector { layout: byte(*at), ranges: vec![*range] }).collect();
    point(Source::Signal(SignalSpec { from, layout: byte(at), when }))
}

fn command(frame: u32) -> CanPoint {
    point(Source::Command(CommandSpec {
        frame: id(frame),
        fd: false,
        length: 2,
        initial: 0,
        layout: byte(0),
        set: Vec::new(),
        cycle: None,
    }))
}

fn bus(points: Vec<CanPoint>) -> (Bus, Now) {
    let now = Now::read();
    let spec = BusSpec { name: "car".into(), interface: "can0".into(), fd: false, points };
    let mut bus = Bus::new(&spec, BUS, now);
    bus.link_up(now);
    (bus, now)
}

fn hear(bus: &mut Bus, id: CanId, data: &[u8], now: Now) -> Vec<(u32, Result<Value, Fault>)> {
    let frame = Frame::classic(id, data).unwrap();
    bus.handle(&Received::Data(frame), now.wall, now);
    told(bus)
}

fn told(bus: &mut Bus) -> Vec<(u32, Result<Value, Fault>)> {
    bus.take_samples().into_iter().map(|sample| (sample.point.index, sample.reading)).collect()
}

fn error_frame(class: u32, detail: u8) -> Received {
    let mut wire = [0u8; 16];
    wire[..4].copy_from_slice(&(class | 0x2000_0000).to_ne_bytes());
    wire[4] = 8;
    wire[9] = detail;
    Received::from_wire(&wire)
}

fn write(index: u32, raw: u64, expires: Instant) -> Command {
    let point = PointId { bus: BUS, index };
    Command { id: CommandId(raw), point, raw: Value::Uint(raw), expires, readback: false, unless_equal: false }
}

#[test]
fn a_frame_answers_every_point_that_lies_in_it_and_no_other() {
    let (mut bus, now) = bus(vec![
        signal(FrameMatch::Id(id(0x100)), 0, &[]),
        signal(FrameMatch::Id(id(0x100)), 1, &[(0, (3, 5))]),
        signal(FrameMatch::Id(id(0x100)), 2, &[(0, (6, 9))]),
        signal(FrameMatch::Id(CanId::extended(0x100).unwrap()), 0, &[]),
    ]);
    assert_eq!(hear(&mut bus, id(0x100), &[4, 40, 50], now), [(0, Ok(Value::Uint(4))), (1, Ok(Value::Uint(40)))]);
    assert_eq!(hear(&mut bus, id(0x100), &[6, 40, 50], now), [(0, Ok(Value::Uint(6))), (2, Ok(Value::Uint(50)))]);
    assert_eq!(hear(&mut bus, CanId::extended(0x100).unwrap(), &[1], now), [(3, Ok(Value::Uint(1)))]);
    assert_eq!(hear(&mut bus, id(0x101), &[1], now), []);
    assert_eq!(hear(&mut bus, id(0x100), &[4], now), [(0, Ok(Value::Uint(4)))], "the frame ends before the second");
    assert_eq!(bus.status().counters.discarded, 1);
}

#[test]
fn a_parameter_group_is_heard_from_whom_it_is_wanted() {
    let group = |source| FrameMatch::Pgn { pgn: 65265, source };
    let (mut bus, now) = bus(vec![signal(group(None), 0, &[]), signal(group(Some(3)), 1, &[])]);
    let from = |source| Header { priority: 6, pgn: 65265, source, destination: GLOBAL }.id();
    assert_eq!(hear(&mut bus, from(0), &[1, 2], now), [(0, Ok(Value::Uint(1)))]);
    assert_eq!(hear(&mut bus, from(3), &[0xFF, 0xFE], now), [(0, Err(Fault::NotAvailable)), (1, Err(Fault::Error))]);
}

#[test]
fn a_lost_link_is_a_fault_of_every_signal_once_and_its_return_is_silence_until_a_frame_comes() {
    let (mut bus, now) = bus(vec![signal(FrameMatch::Id(id(1)), 0, &[]), command(2)]);
    bus.handle_command(write(1, 5, now.mono + Duration::from_secs(1)), now);
    bus.link_down("gone".into(), now);
    bus.link_down("still gone".into(), now);
    assert_eq!(told(&mut bus), [(0, Err(Fault::Disconnected))]);
    let outcomes = bus.take_outcomes();
    assert!(matches!(outcomes[..], [Outcome { result: Err(NotDone::Fault(Fault::Disconnected)), .. }]));
    assert_eq!((bus.status().state, bus.status().last_error.as_deref()), (LinkState::Down, Some("still gone")));
    assert_eq!(bus.next_due(), None);
    bus.link_up(now.after(Duration::from_secs(5)));
    assert_eq!(bus.next_due(), Some(now.after(Duration::from_secs(6)).mono));
    bus.handle_timeout(now.after(Duration::from_secs(6)));
    assert_eq!(told(&mut bus), [(0, Err(Fault::Stale))]);
}

#[test]
fn bus_off_is_a_link_that_is_down_until_the_controller_restarts() {
    let (mut bus, now) = bus(vec![signal(FrameMatch::Id(id(1)), 0, &[]), command(2)]);
    bus.handle(&error_frame(0x04, 0x10), now.wall, now);
    assert_eq!(bus.status().state, LinkState::Up);
    assert!(bus.status().last_error.unwrap().starts_with("error-passive"));
    bus.handle(&error_frame(0x40, 0), now.wall, now);
    bus.handle(&error_frame(0x40, 0), now.wall, now);
    assert_eq!(bus.status().state, LinkState::Down);
    assert!(bus.status().last_error.unwrap().starts_with("bus-off"));
    assert_eq!(told(&mut bus), [(0, Err(Fault::Disconnected))]);
    bus.handle_command(write(1, 5, now.mono + Duration::from_secs(1)), now);
    assert_eq!(bus.take_outcomes().len(), 1);
    bus.handle(&error_frame(0x100, 0), now.wall, now);
    assert_eq!((bus.status().state, bus.status().last_error), (LinkState::Up, None));
    bus.handle(&error_frame(0x40, 0), now.wall, now);
    told(&mut bus);
    assert_eq!(hear(&mut bus, id(1), &[9], now), [(0, Ok(Value::Uint(9)))]);
    assert_eq!(bus.status().state, LinkState::Up);
}

#[test]
fn a_full_transmit_queue_holds_commands_back_and_an_expired_one_never_acts() {
    let (mut bus, now) = bus(vec![command(2)]);
    let second = Duration::from_secs(1);
    bus.handle_command(write(0, 1, now.mono + second), now);
    bus.handle_command(write(0, 2, now.mono + second * 3), now);
    assert_eq!(bus.poll_transmit(now).unwrap().data(), [1, 0]);
    assert_eq!(bus.poll_transmit(now).unwrap().data(), [1, 0], "it was not sent yet");
    let late = now.after(second);
    bus.handle_timeout(late);
    assert_eq!(bus.poll_transmit(late).unwrap().data(), [2, 0]);
    bus.transmitted(late);
    assert_eq!(bus.poll_transmit(late), None);
    let outcomes: Vec<_> = bus.take_outcomes().into_iter().map(|outcome| (outcome.id.0, outcome.result)).collect();
    assert_eq!(outcomes, [(1, Err(NotDone::Expired)), (2, Ok(Done { readback: None }))]);
}

#[test]
fn a_flood_of_commands_is_bounded_and_each_gets_its_outcome() {
    let (mut bus, now) = bus(vec![command(2)]);
    for value in 0..200 {
        bus.handle_command(write(0, value, now.mono + Duration::from_secs(1)), now);
    }
    assert!(!bus.accepts_commands());
    while bus.poll_transmit(now).is_some() {
        bus.transmitted(now);
    }
    assert_eq!(bus.take_outcomes().len(), 200);
}
