use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, recv, socketpair};
use tokio::task::LocalSet;

use super::*;
use crate::can::candump::{Content, parse_frame};
use crate::can::frame::{CanId, Frame};
use crate::can::signal::{BitOrder, Layout, Number};
use crate::can::spec::{
    Addressing, AnswerKind, AnswerSpec, CanPoint, CommandSpec, FrameMatch, RequestSpec, SignalSpec, Source,
};
use crate::command::{CommandId, NotDone, Outcome};
use crate::sample::{Fault, PointId, Sample, Value};

const BUS: BusId = BusId(3);

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
        .unwrap()
}

fn layout(start: u64, length: u64) -> Layout {
    Layout::new(start, length, BitOrder::Big, Number::Unsigned).unwrap()
}

fn id(raw: u32) -> CanId {
    CanId::standard(raw).unwrap()
}

fn point(source: Source, min_interval: u64) -> CanPoint {
    CanPoint { name: "p".into(), source, min_interval: Duration::from_millis(min_interval), timeout: None }
}

fn speed(min_interval: u64) -> CanPoint {
    let signal = SignalSpec { from: FrameMatch::Id(id(0x3E9)), layout: layout(23, 16), when: Vec::new() };
    point(Source::Signal(signal), min_interval)
}

fn fan() -> CanPoint {
    let command = CommandSpec {
        frame: id(0x200),
        fd: false,
        length: 2,
        initial: 0,
        layout: layout(7, 8),
        set: Vec::new(),
        cycle: None,
    };
    point(Source::Command(command), 0)
}

fn asked() -> CanPoint {
    let request = RequestSpec {
        send: id(0x7DF),
        receive: vec![id(0x7E8)],
        addressing: Addressing::Normal,
        padding: Some(0),
        fd: false,
        request: [0x01, 0x0D].as_slice().into(),
        answer: AnswerSpec { offset: 2, kind: AnswerKind::Number(layout(7, 8)) },
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(50),
    };
    point(Source::Request(request), 0)
}

/// The task under test, and the other end of each line that it opens.
struct Rig {
    events: mpsc::Receiver<BusEvent>,
    commands: mpsc::Sender<Command>,
}

/// Runs the task on lines from `lines`, one at each opening; none left is an interface that is missing.
async fn rig<T>(points: Vec<CanPoint>, lines: Vec<OwnedFd>, test: impl AsyncFnOnce(Rig) -> T) -> T {
    let spec = BusSpec { name: "car".into(), interface: "can0".into(), fd: true, points };
    let (events_to, events) = mpsc::channel(256);
    let (commands, commands_from) = mpsc::channel(32);
    let mut lines: VecDeque<_> = lines.into();
    let open = move |_: &BusSpec| match lines.pop_front() {
        Some(line) => Ok(CanSocket::from(line)),
        None => Err(Errno::ENODEV.into()),
    };
    let local = LocalSet::new();
    local.spawn_local(run_on(spec, BUS, events_to, commands_from, Pulse::new(Now::read()), open));
    let result = local.run_until(test(Rig { events, commands })).await;
    tokio::time::timeout(Duration::from_secs(5), local).await.expect("the task ends when its channels close");
    result
}

impl Rig {
    async fn samples(&mut self) -> Vec<Sample> {
        loop {
            match self.events.recv().await.unwrap() {
                BusEvent::Samples(BUS, samples) => return samples,
                BusEvent::Samples(..) | BusEvent::Outcome(..) | BusEvent::Status(..) | BusEvent::Learnt(..) => {}
            }
        }
    }

    async fn status(&mut self, wanted: LinkState) -> BusStatus {
        loop {
            if let BusEvent::Status(BUS, status) = self.events.recv().await.unwrap()
                && status.state == wanted
            {
                return status;
            }
        }
    }

    async fn outcome(&mut self) -> Outcome {
        loop {
            if let BusEvent::Outcome(BUS, outcome) = self.events.recv().await.unwrap() {
                return outcome;
            }
        }
    }

    async fn command(&self, raw: u64, ttl: Duration) {
        let point = PointId { bus: BUS, index: 0 };
        let expires = Now::read().mono + ttl;
        let command =
            Command { id: CommandId(raw), point, raw: Value::Uint(raw), expires, readback: false, unless_equal: false };
        self.commands.send(command).await.unwrap();
    }
}

fn say(line: &OwnedFd, frame: &str) {
    let Ok(Content::Data(frame)) = parse_frame(frame) else { panic!("{frame}") };
    let (wire, length) = frame.to_wire();
    send(line.as_raw_fd(), &wire[..length], MsgFlags::empty()).unwrap();
}

fn heard(line: &OwnedFd) -> Option<Frame> {
    let mut buffer = [0; READ_BYTES];
    let length = recv(line.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
    let Received::Data(frame) = Received::from_wire(&buffer[..length]) else { panic!("{buffer:?}") };
    Some(frame)
}

async fn hears(line: &OwnedFd) -> Frame {
    loop {
        if let Some(frame) = heard(line) {
            return frame;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_frame_becomes_a_sample_with_the_kernels_time() {
    let (near, far) = pair();
    rig(vec![speed(0)], vec![near], async move |mut rig| {
        rig.status(LinkState::Up).await;
        let before = Now::read().wall;
        say(&far, "3E9#00002EE0");
        tokio::time::sleep(Duration::from_millis(20)).await;
        say(&far, "3E9##100002EE1");
        let samples = rig.samples().await;
        assert_eq!(samples[0].reading, Ok(Value::Uint(12000)));
        assert_eq!(samples[0].point, PointId { bus: BUS, index: 0 });
        assert!((before.0..before.0 + 15).contains(&samples[0].at.0), "{before:?} {samples:?}");
        let second = if samples.len() > 1 { samples } else { rig.samples().await };
        assert_eq!(second.last().unwrap().reading, Ok(Value::Uint(12001)));
    })
    .await;
}

#[tokio::test]
async fn an_adapter_pulled_and_plugged_in_again_is_seen_and_used() {
    let ((near, far), (near2, far2)) = (pair(), pair());
    rig(vec![speed(0)], vec![near, near2], async move |mut rig| {
        rig.status(LinkState::Up).await;
        drop(far);
        let samples = rig.samples().await;
        assert_eq!(samples[0].reading, Err(Fault::Disconnected));
        let status = rig.status(LinkState::Down).await;
        assert!(status.last_error.unwrap().contains("no CAN interface can0"));
        rig.status(LinkState::Up).await;
        say(&far2, "3E9#00000001");
        assert_eq!(rig.samples().await[0].reading, Ok(Value::Uint(1)));
    })
    .await;
}

#[tokio::test]
async fn without_the_interface_the_status_says_what_to_do_and_the_task_goes_on() {
    rig(vec![fan()], vec![], async |mut rig| {
        let status = rig.status(LinkState::Down).await;
        assert!(status.last_error.unwrap().contains("ip link show type can"));
        rig.command(1, Duration::from_secs(1)).await;
        assert_eq!(rig.outcome().await.result, Err(NotDone::Fault(Fault::Disconnected)));
    })
    .await;
}

#[tokio::test]
async fn a_flood_reaches_the_gateway_as_little_as_is_asked_for_and_ends_with_the_latest() {
    let (near, far) = pair();
    rig(vec![speed(100)], vec![near], async move |mut rig| {
        rig.status(LinkState::Up).await;
        let mut sent = 0u32;
        while sent < 20_000 {
            let frame = Frame::classic(id(0x3E9), &[0, 0, sent.to_be_bytes()[2], sent.to_be_bytes()[3]]).unwrap();
            let (wire, length) = frame.to_wire();
            match send(far.as_raw_fd(), &wire[..length], MsgFlags::MSG_DONTWAIT) {
                Ok(_) => sent += 1,
                Err(_) => tokio::task::yield_now().await,
            }
        }
        let (mut count, mut latest) = (0, Value::Bool(false));
        while latest != Value::Uint(19_999) {
            for sample in rig.samples().await {
                count += 1;
                latest = sample.reading.unwrap();
            }
        }
        assert!(count < 30, "{count} samples of {sent} frames");
    })
    .await;
}

#[tokio::test]
async fn a_command_is_a_frame_and_a_full_queue_only_delays_it() {
    let (near, far) = pair();
    rig(vec![fan()], vec![near], async move |mut rig| {
        rig.status(LinkState::Up).await;
        let mut done = 0u64;
        // Nobody reads: at some point the queue is full, and the command after that waits.
        let stuck = loop {
            rig.command(done % 256, Duration::from_secs(10)).await;
            match tokio::time::timeout(Duration::from_millis(300), rig.outcome()).await {
                Ok(outcome) => assert!(outcome.result.is_ok()),
                Err(_) => break done,
            }
            done += 1;
        };
        rig.command(9, Duration::from_millis(20)).await;
        assert_eq!(rig.outcome().await.result, Err(NotDone::Expired));
        for expected in 0..=stuck {
            assert_eq!(u64::from(hears(&far).await.data()[0]), expected % 256);
        }
        assert!(rig.outcome().await.result.is_ok());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(heard(&far), None, "what expired was never sent");
    })
    .await;
}

#[tokio::test]
async fn a_value_that_is_asked_for_comes_again_and_again() {
    let (near, far) = pair();
    rig(vec![asked()], vec![near], async move |mut rig| {
        for value in [10, 20, 30] {
            assert_eq!(hears(&far).await.data(), [2, 1, 0x0D, 0, 0, 0, 0, 0]);
            say(&far, &format!("7E8#03410D{value:02X}"));
            assert_eq!(rig.samples().await[0].reading, Ok(Value::Uint(value)));
        }
    })
    .await;
}
