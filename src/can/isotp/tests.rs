use super::*;
use crate::clock::Now;
use proptest::prelude::*;

const NORMAL: Form = Form { addressing: Addressing::Normal, padding: Some(0xCC), fd: false };

fn message(length: usize) -> Arc<[u8]> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn start() -> Instant {
    Now::read().mono
}

#[test]
fn the_question_for_vehicle_speed_is_one_frame() {
    let mut sender = Sender::new(NORMAL, [0x01, 0x0D].as_slice().into()).unwrap();
    assert_eq!(sender.poll_transmit(start()), Some(vec![0x02, 0x01, 0x0D, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC]));
    assert_eq!(sender.result(), Some(Ok(())));
    let mut receiver = Receiver::new(NORMAL);
    assert_eq!(
        receiver.handle(&[0x03, 0x41, 0x0D, 0x78, 0, 0, 0, 0], start()),
        Progress::Message(vec![0x41, 0x0D, 0x78])
    );
}

#[test]
fn a_vehicle_identification_number_comes_in_three_frames() {
    let mut receiver = Receiver::new(NORMAL);
    let now = start();
    let first = receiver.handle(&[0x10, 0x14, 0x49, 0x02, 0x01, b'1', b'D', b'4'], now);
    assert_eq!(first, Progress::FlowControl(vec![0x30, 0, 0, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC]));
    assert_eq!(receiver.handle(b"\x21GP00R55", now), Progress::Partial);
    let Progress::Message(whole) = receiver.handle(b"\x22B123456", now) else { panic!() };
    assert_eq!(&whole[3..], b"1D4GP00R55B123456");
}

#[test]
fn block_size_and_separation_time_are_obeyed() {
    let mut now = start();
    let mut sender = Sender::new(NORMAL, message(60)).unwrap();
    assert_eq!(sender.poll_transmit(now).unwrap()[..2], [0x10, 60]);
    assert_eq!(sender.poll_transmit(now), None);
    sender.handle(&[0x30, 2, 20], now);
    assert_eq!(sender.poll_transmit(now).unwrap()[0], 0x21);
    assert_eq!(sender.poll_transmit(now + Duration::from_millis(19)), None);
    now += Duration::from_millis(20);
    assert_eq!(sender.poll_transmit(now).unwrap()[0], 0x22);
    assert_eq!(sender.poll_transmit(now + Duration::from_millis(200)), None, "the block is full");
    sender.handle(&[0x30, 0, 0xF3], now);
    assert_eq!(sender.poll_transmit(now).unwrap()[0], 0x23);
    assert_eq!(sender.deadline(), Some(now + Duration::from_micros(300)));
}

#[test]
fn a_receiver_that_is_silent_or_full_or_never_ready_ends_the_message() {
    let now = start();
    let begun = || {
        let mut sender = Sender::new(NORMAL, message(60)).unwrap();
        sender.poll_transmit(now);
        sender
    };
    let mut sender = begun();
    assert_eq!(sender.poll_transmit(now + FLOW_CONTROL_MAX), None);
    assert_eq!(sender.result(), Some(Err(IsotpError::NoFlowControl)));
    let mut sender = begun();
    sender.handle(&[0x32, 0, 0], now);
    assert_eq!(sender.result(), Some(Err(IsotpError::Overflow)));
    let mut sender = begun();
    for _ in 0..=WAITS_MAX {
        assert_eq!(sender.result(), None);
        sender.handle(&[0x31, 0, 0], now);
    }
    assert_eq!(sender.result(), Some(Err(IsotpError::TooManyWaits)));
}

#[test]
fn a_lost_frame_or_a_pause_ends_the_message() {
    let now = start();
    let mut receiver = Receiver::new(NORMAL);
    receiver.handle(&[0x10, 20, 1, 2, 3, 4, 5, 6], now);
    assert_eq!(receiver.handle(&[0x22, 0, 0, 0, 0, 0, 0, 0], now), Progress::Failed(IsotpError::Sequence));
    assert_eq!(receiver.handle(&[0x21, 0, 0, 0, 0, 0, 0, 0], now), Progress::Ignored);
    receiver.handle(&[0x10, 20, 1, 2, 3, 4, 5, 6], now);
    assert!(!receiver.handle_timeout(now + CONSECUTIVE_MAX - Duration::from_millis(1)));
    assert!(receiver.handle_timeout(now + CONSECUTIVE_MAX));
    receiver.handle(&[0x10, 20, 1, 2, 3, 4, 5, 6], now);
    let late = receiver.handle(&[0x21, 0, 0, 0, 0, 0, 0, 0], now + CONSECUTIVE_MAX);
    assert_eq!(late, Progress::Failed(IsotpError::NoConsecutive));
}

#[test]
fn a_message_too_long_is_refused_with_overflow() {
    let mut receiver = Receiver::new(NORMAL);
    let answer = receiver.handle(&[0x10, 0x00, 0, 0, 0x20, 0, 1, 2], start());
    assert!(matches!(answer, Progress::FlowControl(data) if data[0] == 0x32));
    assert_eq!(Sender::new(NORMAL, message(4096)).map(|_| ()), Err(IsotpError::Length(4096)));
}

#[test]
fn a_frame_with_another_extended_address_is_not_ours() {
    let form = Form { addressing: Addressing::Extended { target: 0x12, source: 0xF1 }, padding: None, fd: false };
    let mut receiver = Receiver::new(form);
    assert_eq!(receiver.handle(&[0xF2, 0x01, 0x50], start()), Progress::Ignored);
    assert_eq!(receiver.handle(&[0xF1, 0x01, 0x50], start()), Progress::Message(vec![0x50]));
    let mut sender = Sender::new(form, [0x10, 0x01].as_slice().into()).unwrap();
    assert_eq!(sender.poll_transmit(start()), Some(vec![0x12, 0x02, 0x10, 0x01]));
}

proptest! {
    #[test]
    fn every_message_arrives_as_it_was_sent(length in 1usize..=4095, block in 0u8..20, gap in 0u8..3, fd: bool, extended: bool, padded: bool) {
        let addressing = |target, source| if extended { Addressing::Extended { target, source } } else { Addressing::Normal };
        let padding = padded.then_some(0xAA);
        let mut sender = Sender::new(Form { addressing: addressing(1, 2), padding, fd }, message(length)).unwrap();
        let mut receiver = Receiver::new(Form { addressing: addressing(2, 1), padding, fd });
        let mut now = start();
        let mut since_flow = 0u32;
        let mut received = None;
        for _ in 0..2000 {
            let Some(mut data) = sender.poll_transmit(now) else {
                let Some(deadline) = sender.deadline() else { break };
                now = deadline;
                continue;
            };
            let longest = if fd { 64 } else { 8 };
            prop_assert!(data.len() <= longest);
            since_flow += 1;
            match receiver.handle(&data, now) {
                Progress::FlowControl(mut flow) => {
                    let at = usize::from(extended);
                    flow[at + 1] = block;
                    flow[at + 2] = gap;
                    since_flow = 0;
                    sender.handle(&flow, now);
                }
                Progress::Message(message) => received = Some(message),
                Progress::Partial if block != 0 && since_flow == u32::from(block) => {
                    data.clear();
                    data.extend(if extended { vec![2, 0x30, block, gap] } else { vec![0x30, block, gap] });
                    since_flow = 0;
                    sender.handle(&data, now);
                }
                Progress::Partial => {}
                Progress::Ignored | Progress::Failed(_) => prop_assert!(false, "lost at {}", length),
            }
        }
        prop_assert_eq!(sender.result(), Some(Ok(())));
        prop_assert_eq!(received.as_deref(), Some(&*message(length)));
    }

    #[test]
    fn hostile_frames_neither_panic_nor_grow(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..=64), 0..200), extended: bool, fd: bool) {
        let addressing = if extended { Addressing::Extended { target: 1, source: 0x10 } } else { Addressing::Normal };
        let form = Form { addressing, padding: None, fd };
        let now = start();
        let (mut receiver, mut sender) = (Receiver::new(form), Sender::new(form, message(300)).unwrap());
        for frame in frames {
            if let Progress::Message(message) = receiver.handle(&frame, now) {
                prop_assert!(message.len() <= MESSAGE_BYTES_MAX);
            }
            sender.handle(&frame, now);
            sender.poll_transmit(now);
        }
    }
}
