use super::*;
use proptest::prelude::*;

fn start() -> Instant {
    crate::clock::Now::read().mono
}

fn cm(source: u8, destination: u8) -> Header {
    Header { priority: 7, pgn: PGN_TP_CM, source, destination }
}

fn dt(source: u8, destination: u8) -> Header {
    Header { priority: 7, pgn: PGN_TP_DT, source, destination }
}

fn announce(control: u8, length: u16, pgn: u32) -> [u8; 8] {
    let [low, high] = length.to_le_bytes();
    let [p0, p1, p2, _] = pgn.to_le_bytes();
    [control, low, high, u8::try_from(length.div_ceil(7)).unwrap(), 0xFF, p0, p1, p2]
}

fn packets(message: &[u8]) -> Vec<[u8; 8]> {
    message
        .chunks(7)
        .enumerate()
        .map(|(number, part)| {
            let mut packet = [0xFF; 8];
            packet[0] = u8::try_from(number + 1).unwrap();
            packet[1..=part.len()].copy_from_slice(part);
            packet
        })
        .collect()
}

#[test]
fn the_header_of_a_cruise_control_frame_is_taken_apart() {
    let header = Header::of(CanId::extended(0x18FE_F100).unwrap()).unwrap();
    assert_eq!(header, Header { priority: 6, pgn: 65265, source: 0, destination: GLOBAL });
    let header = Header::of(CanId::extended(0x18EA_FFF9).unwrap()).unwrap();
    assert_eq!(header, Header { priority: 6, pgn: 0xEA00, source: 0xF9, destination: GLOBAL });
    assert_eq!(Header::of(CanId::standard(0x123).unwrap()), None);
}

#[test]
fn values_that_mean_no_value_become_faults() {
    assert_eq!(fault(0xFF, 8), Some(Fault::NotAvailable));
    assert_eq!(fault(0xFE, 8), Some(Fault::Error));
    assert_eq!(fault(0xFB, 8), None);
    assert_eq!(fault(0xFF12, 16), Some(Fault::NotAvailable));
    assert_eq!(fault(0xFEFF, 16), Some(Fault::Error));
    assert_eq!(fault(0xFFFF_FFFF, 32), Some(Fault::NotAvailable));
    assert_eq!(fault(3, 2), Some(Fault::NotAvailable));
    assert_eq!(fault(2, 2), Some(Fault::Error));
    assert_eq!(fault(1, 2), None);
    assert_eq!(fault(1, 1), None);
    assert_eq!(fault(0xFAFF, 16), None);
}

#[test]
fn a_connection_between_two_others_is_heard_and_repeated_packets_do_no_harm() {
    let mut transport = Transport::default();
    let now = start();
    let message: Vec<u8> = (0..20).collect();
    assert_eq!(transport.handle(cm(0, 0x21), &announce(CONTROL_RTS, 20, 65260), now, |_, _| true), None);
    let parts = packets(&message);
    assert_eq!(transport.handle(dt(0, 0x21), &parts[0], now, |_, _| true), None);
    assert_eq!(transport.handle(dt(0, 0x21), &parts[0], now, |_, _| true), None);
    assert_eq!(transport.handle(dt(0, 0x21), &parts[2], now, |_, _| true), None);
    let whole = transport.handle(dt(0, 0x21), &parts[1], now, |_, _| true).unwrap();
    assert_eq!(whole, Assembled { pgn: 65260, source: 0, destination: 0x21, data: message });
}

#[test]
fn a_message_that_stops_half_way_is_given_up() {
    let mut transport = Transport::default();
    let now = start();
    let parts = packets(&[1; 14]);
    transport.handle(cm(5, GLOBAL), &announce(CONTROL_BAM, 14, 65226), now, |_, _| true);
    transport.handle(dt(5, GLOBAL), &parts[0], now, |_, _| true);
    let late = now + SILENCE_MAX + Duration::from_millis(1);
    assert_eq!(transport.handle(dt(5, GLOBAL), &parts[1], late, |_, _| true), None);
    assert_eq!(transport.discarded, 1);
    assert!(transport.sessions.is_empty());
}

#[test]
fn an_abort_from_either_side_ends_a_connection() {
    for (from, to) in [(1, 2), (2, 1)] {
        let mut transport = Transport::default();
        transport.handle(cm(1, 2), &announce(CONTROL_RTS, 14, 65226), start(), |_, _| true);
        transport.handle(cm(from, to), &announce(CONTROL_ABORT, 14, 65226), start(), |_, _| true);
        assert!(transport.sessions.is_empty());
    }
}

#[test]
fn a_flood_of_announcements_fills_no_memory() {
    let mut transport = Transport::default();
    let now = start();
    for source in 0..=253 {
        for destination in 0..=253 {
            transport.handle(cm(source, destination), &announce(CONTROL_RTS, 1785, 65260), now, |_, _| true);
        }
    }
    assert_eq!(transport.sessions.len(), SESSIONS_MAX);
}

proptest! {
    #[test]
    fn identifiers_survive_being_taken_apart(raw in 0u32..=0x1FFF_FFFF) {
        let id = CanId::extended(raw).unwrap();
        prop_assert_eq!(Header::of(id).unwrap().id(), id);
    }

    #[test]
    fn broadcasts_of_many_senders_mixed_up_arrive_whole(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 9..=1785), 1..20), order: u64) {
        let mut transport = Transport::default();
        let now = start();
        let mut random = order;
        let mut waiting: Vec<(u8, Vec<[u8; 8]>)> = Vec::new();
        for (source, message) in messages.iter().enumerate() {
            let source = u8::try_from(source).unwrap();
            transport.handle(cm(source, GLOBAL), &announce(CONTROL_BAM, u16::try_from(message.len()).unwrap(), 65260), now, |_, _| true);
            let mut parts = packets(message);
            parts.reverse();
            waiting.push((source, parts));
        }
        let mut arrived = 0;
        while !waiting.is_empty() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(random >> 33).unwrap() % waiting.len();
            let (source, parts) = &mut waiting[at];
            let packet = parts.pop().unwrap();
            if let Some(whole) = transport.handle(dt(*source, GLOBAL), &packet, now, |_, _| true) {
                prop_assert_eq!(&whole.data, &messages[usize::from(*source)]);
                arrived += 1;
            }
            if parts.is_empty() {
                waiting.swap_remove(at);
            }
        }
        prop_assert_eq!(arrived, messages.len());
    }

    #[test]
    fn hostile_packets_neither_panic_nor_grow(frames in proptest::collection::vec((any::<bool>(), 0u8..4, 0u8..4, proptest::collection::vec(any::<u8>(), 0..=8)), 0..300)) {
        let mut transport = Transport::default();
        for (control, source, destination, data) in frames {
            let header = if control { cm(source, destination) } else { dt(source, destination) };
            if let Some(whole) = transport.handle(header, &data, start(), |_, _| true) {
                prop_assert!(whole.data.len() <= BYTES_MAX);
            }
            prop_assert!(transport.sessions.len() <= SESSIONS_MAX);
        }
    }
}
