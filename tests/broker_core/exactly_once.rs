//! QoS 2 towards a receiver that answers late, over cuts and kills.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::broker_loop::Disk;
use crate::rig::*;

/// What a QoS 2 receiver does, and what it has got.
#[derive(Default)]
struct Receiver {
    /// It hands a message on when it is released, as paho does (MQTT 5, 4.3.3: method B); else at once (method A).
    at_release: bool,
    held: BTreeMap<u16, u16>,
    got: Vec<u16>,
}

impl Receiver {
    fn take(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        match frame[0] >> 4 {
            3 => {
                let (id, payload) = received(frame);
                let number = u16::from_be_bytes([payload[0], payload[1]]);
                if self.held.insert(id, number).is_none() && !self.at_release {
                    self.got.push(number);
                }
                Some(ack(0x50, id))
            }
            6 => {
                let id = u16::from_be_bytes([frame[2], frame[3]]);
                self.got.extend(self.held.remove(&id).filter(|_| self.at_release));
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
    /// The process is killed.
    Crash {
        /// With writes that were not committed.
        lost_writes: bool,
        /// Numbers were reserved ahead, and the next one has the identifier of the one this many before it.
        back: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        6 => (1..6usize).prop_map(Step::Read),
        2 => any::<bool>().prop_map(Step::SlowReads),
        1 => Just(Step::Cut),
        1 => (any::<bool>(), 0..4u64).prop_map(|(lost_writes, back)| Step::Crash { lost_writes, back }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A receiver that answers late, in part, over cuts and kills, has each acknowledged message exactly once, in order.
    #[test]
    fn qos_2_is_exactly_once_over_cuts_and_kills(steps in prop::collection::vec(step(), 1..60), at_release: bool) {
        let mut rig = Rig::new();
        let mut receiver = Receiver { at_release, ..Receiver::default() };
        let mut conn = rig.join(&connect4("receiver", false));
        rig.send(conn, &subscribe4(1, "q", 2));
        rig.take(conn);
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        let mut published = 0u16;
        // Messages with the same identifier go one after the other, each in two rounds.
        let end = [Step::SlowReads(false), Step::Cut].into_iter().chain(std::iter::repeat_n(Step::Read(1000), 130));
        for step in steps.into_iter().chain(end) {
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
                Step::Crash { lost_writes, back } => {
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
                    rig.this.store.next_seq += 65_535 - back;
                    rig.crash();
                    rig.this.slow_reads = slow;
                }
            }
            if matches!(step, Step::Cut | Step::Crash { .. }) {
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

#[test]
fn an_identifier_comes_back_for_another_message_only_when_the_disk_has_forgotten_the_first() {
    let mut rig = Rig::new();
    let conn = rig.join(&connect4("receiver", false));
    rig.send(conn, &subscribe4(1, "q", 2));
    rig.take(conn);
    let publisher = rig.join(&connect4("pub", true));
    rig.send(publisher, &publish4("q", b"old", 2, 1, false));
    let (id, _) = received(&rig.take(conn)[0]);
    rig.send(conn, &ack(0x50, id));
    rig.this.store.next_seq += 65_534;
    rig.crash();
    let publisher = rig.join(&connect4("pub", true));
    rig.send(publisher, &publish4("q", b"new", 2, 1, false));
    let conn = rig.join(&connect4("receiver", false));
    assert_eq!(rig.take(conn), [ack(0x62, id)], "released again; the new message has the same identifier and waits");
    rig.this.disk = Disk::Waits;
    rig.send(conn, &ack(0x70, id));
    assert_eq!(
        rig.take(conn),
        Vec::<Vec<u8>>::new(),
        "a kill now would release the new message in the old one's place"
    );
    rig.this.disk = Disk::Writes;
    rig.run();
    assert_eq!(received(&rig.take(conn)[0]), (id, b"new".to_vec()));
}
