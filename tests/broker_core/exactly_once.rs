//! QoS 2 towards a receiver that answers late, over cuts and kills.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::broker_loop::Disk;
use crate::rig::*;

/// What a QoS 2 receiver does, and what it has got.
#[derive(Default)]
struct Receiver {
    held: BTreeSet<u16>,
    got: Vec<u16>,
}

impl Receiver {
    fn take(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        match frame[0] >> 4 {
            3 => {
                let (id, payload) = received(frame);
                if self.held.insert(id) {
                    self.got.push(u16::from_be_bytes([payload[0], payload[1]]));
                }
                Some(ack(0x50, id))
            }
            6 => {
                let id = u16::from_be_bytes([frame[2], frame[3]]);
                self.held.remove(&id);
                Some(ack(0x70, id))
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    /// The receiver reads this many packets and answers them.
    Read(usize),
    SlowReads(bool),
    Cut,
    /// The process is killed; `true`: with writes that were not committed.
    Crash(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        6 => (1..6usize).prop_map(Step::Read),
        2 => any::<bool>().prop_map(Step::SlowReads),
        1 => Just(Step::Cut),
        1 => any::<bool>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A receiver that answers late, in part, over cuts and kills, has each acknowledged message exactly once, in order.
    #[test]
    fn qos_2_is_exactly_once_over_cuts_and_kills(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = Rig::new();
        let mut receiver = Receiver::default();
        let mut conn = rig.join(&connect4("receiver", false));
        rig.send(conn, &subscribe4(1, "q", 2));
        rig.take(conn);
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        let mut published = 0u16;
        for step in steps.into_iter().chain([Step::SlowReads(false), Step::Cut, Step::Read(1000), Step::Read(1000), Step::Read(1000)]) {
            match step {
                Step::Publish => {
                    let publisher = rig.join(&connect4("pub", true));
                    rig.send(publisher, &publish4("q", &published.to_be_bytes(), 2, 1, false));
                    prop_assert_eq!(rig.take(publisher), [ack(0x50, 1)]);
                    published += 1;
                }
                Step::Read(count) => {
                    waiting.extend(rig.take(conn));
                    for frame in waiting.drain(..count.min(waiting.len())).collect::<Vec<_>>() {
                        if let Some(answer) = receiver.take(&frame) {
                            rig.send(conn, &answer);
                        }
                    }
                }
                Step::SlowReads(slow) => rig.this.slow_reads = slow,
                Step::Cut => rig.cut(conn),
                Step::Crash(lost_writes) => {
                    if lost_writes {
                        rig.this.disk = Disk::Waits;
                        for _ in 0..3 {
                            waiting.extend(rig.take(conn));
                            for answer in waiting.drain(..).filter_map(|frame| receiver.take(&frame)).collect::<Vec<_>>() {
                                rig.send(conn, &answer);
                            }
                        }
                    }
                    let slow = rig.this.slow_reads;
                    rig.crash();
                    rig.this.slow_reads = slow;
                }
            }
            if matches!(step, Step::Cut | Step::Crash(_)) {
                waiting.clear();
                conn = rig.join(&connect4("receiver", false));
            }
        }
        prop_assert_eq!(receiver.got, (0..published).collect::<Vec<_>>());
        prop_assert!(rig.this.store.queues.values().all(BTreeMap::is_empty));
        let left: Vec<_> = rig.this.store.values.keys().filter(|(space, _)| *space == fieldgate::store::Space::Outbound).collect();
        prop_assert!(left.is_empty(), "{:?}", left);
    }
}

#[test]
fn a_second_pubrel_is_a_mismatch_but_after_a_reconnect_the_rest_of_the_first() {
    let mut rig = Rig::new();
    let conn = rig.join(&connect5("pub", true, &WEEK));
    rig.send(conn, &publish5("q", b"1", 2, 5, &[]));
    rig.send(conn, &ack(0x62, 5));
    rig.send(conn, &ack(0x62, 5));
    assert_eq!(rig.take(conn), [ack(0x50, 5), ack(0x70, 5), vec![0x70, 3, 0, 5, 0x92]]);
    rig.cut(conn);
    let conn = rig.join(&connect5("pub", false, &WEEK));
    rig.send(conn, &ack(0x62, 5));
    assert_eq!(rig.take(conn), [ack(0x70, 5)]);
}

#[test]
fn a_message_that_is_released_while_the_store_is_read_does_not_come_with_that_read() {
    let mut rig = Rig::new();
    let conn = rig.join(&connect4("receiver", false));
    rig.send(conn, &subscribe4(1, "q", 2));
    rig.take(conn);
    let publisher = rig.join(&connect4("pub", true));
    rig.send(publisher, &publish4("q", b"once", 2, 1, false));
    let (id, _) = received(&rig.take(conn)[0]);
    rig.send(conn, &ack(0x50, id));
    assert_eq!(rig.take(conn), [ack(0x62, id)]);
    rig.crash();
    rig.this.slow_reads = true;
    let conn = rig.join(&connect4("receiver", false));
    assert_eq!(rig.take(conn), [ack(0x62, id)], "released again");
    rig.send(conn, &ack(0x70, id));
    rig.this.slow_reads = false;
    rig.run();
    assert_eq!(rig.take(conn), Vec::<Vec<u8>>::new(), "it came twice");
}

#[test]
fn after_a_restart_a_message_does_not_go_by_an_identifier_that_the_disk_had_not_learnt_of() {
    let mut rig = Rig::new();
    fastrand::seed(1);
    let publisher = rig.join(&connect4("pub", true));
    let mut retained = publish4("q", b"1", 2, 1, false);
    retained[0] |= 1;
    rig.send(publisher, &retained);
    let keeper = rig.join(&connect4("keeper", false));
    rig.this.disk = Disk::Waits;
    rig.send(keeper, &subscribe4(1, "q", 2));
    let (held, _) = received(&rig.take(keeper)[0]);
    rig.crash();
    let keeper = rig.join(&connect4("keeper", false));
    rig.send(keeper, &subscribe4(1, "q", 2));
    let frames = rig.take(keeper);
    let message = frames.iter().find(|frame| frame[0] >> 4 == 3).unwrap();
    assert_ne!(received(message).0, held, "its receiver would take it for the one that it holds");
}
