//! Subscribers that fall behind, and those who publish to them.

use fieldgate::broker::{ConnId, Input, Reason};

use crate::rig::*;

/// With `rig::spec`'s bound of 1 MiB: publishers wait from 256 KiB on, and go on at 128 KiB.
const PAYLOAD: [u8; 10_000] = [0; 10_000];

fn subscriber(rig: &mut Rig, name: &str) -> ConnId {
    let conn = rig.join(&connect5(name, true, &[]));
    rig.send(conn, &subscribe5(1, "q/#", 1));
    rig.take(conn);
    conn
}

fn publish(rig: &mut Rig, publisher: ConnId, number: u16) {
    let payload = [&number.to_be_bytes()[..], &PAYLOAD].concat();
    rig.send(publisher, &publish5("q/1", &payload, 1, number + 1, &[]));
}

/// Acknowledges what came; its numbers.
fn read(rig: &mut Rig, conn: ConnId) -> Vec<u16> {
    let frames = rig.take(conn);
    let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    // Three bytes of fixed header, five of topic, two of identifier, one of properties.
    for frame in &frames {
        rig.send(conn, &ack(0x40, word(frame, 8)));
    }
    frames.iter().map(|frame| word(frame, 11)).collect()
}

#[test]
fn a_subscriber_that_stands_still_loses_its_own_qos_0_first_and_then_its_connection() {
    let mut rig = Rig::new();
    let (slow, fast) = (subscriber(&mut rig, "slow"), subscriber(&mut rig, "fast"));
    rig.stuck.insert(slow);
    let publisher = rig.join(&connect5("pub", true, &[]));
    for _ in 0..300 {
        rig.send(publisher, &publish5("q/0", &PAYLOAD, 0, 0, &[]));
    }
    rig.after(1);
    assert_eq!(rig.take(fast).len(), 300);
    let counters = rig.this.broker.counters();
    assert!(counters.dropped_qos0 > 100 && !rig.closed.contains_key(&slow), "{counters:?}");
    assert_eq!(counters.holds, 1, "what was dropped from its queue is no reason to wait for it again");
    for number in 0..300 {
        publish(&mut rig, publisher, number);
        assert_eq!(read(&mut rig, fast), [number], "the other subscriber waits for nothing");
    }
    assert_eq!(rig.closed[&slow], Reason::QuotaExceeded);
    assert!(!rig.closed.contains_key(&fast));
}

#[test]
fn a_publisher_waits_for_a_subscriber_that_reads_and_nothing_is_lost() {
    let mut rig = Rig::new();
    let reader = subscriber(&mut rig, "reader");
    let publishers: Vec<ConnId> = (0..10).map(|name| rig.join(&connect5(&format!("pub-{name}"), true, &[]))).collect();
    let mut got = Vec::new();
    let mut waited = false;
    for round in 0..100u16 {
        for (place, publisher) in publishers.iter().enumerate() {
            publish(&mut rig, *publisher, round * 10 + place as u16);
        }
        // One message for ten that come: but those whose sockets are not read do not come.
        waited |= rig.held.len() == 10;
        while rig.held.len() == 10 {
            got.extend(read(&mut rig, reader));
        }
    }
    while got.len() < 1000 {
        let more = read(&mut rig, reader);
        assert!(!more.is_empty(), "{} of 1000", got.len());
        got.extend(more);
    }
    assert!(waited && rig.held.is_empty());
    for place in 0..10 {
        let of_one: Vec<u16> = got.iter().copied().filter(|number| number % 10 == place).collect();
        assert_eq!(of_one, (0..100).map(|round| round * 10 + place).collect::<Vec<_>>());
    }
    for publisher in publishers {
        assert_eq!(rig.take(publisher).len(), 100, "each is acknowledged");
    }
    assert_eq!(rig.this.broker.counters().slow_disconnects, 0);
}

/// Publishes until the publisher is no longer read; how many were sent.
fn fill(rig: &mut Rig, publisher: ConnId, from: u16) -> u16 {
    for count in 0..1000 {
        if rig.held.contains(&publisher) {
            return count;
        }
        publish(rig, publisher, from + count);
    }
    panic!("nobody holds it");
}

#[test]
fn one_that_stands_still_or_crawls_holds_nobody_for_longer_than_a_period() {
    let mut rig = Rig::new();
    let slow = subscriber(&mut rig, "slow");
    let publisher = rig.join(&connect5("pub", true, &[]));
    let sent = fill(&mut rig, publisher, 0);
    rig.after(1);
    assert!(!rig.held.contains(&publisher), "a period has passed");
    assert_eq!(rig.this.broker.counters().holds, 1);
    // It takes two messages, and then two more: too few to be waited for.
    for step in 0..5 {
        let frame = rig.take(slow).into_iter().next();
        if let Some(frame) = frame {
            rig.send(slow, &ack(0x40, u16::from_be_bytes([frame[8], frame[9]])));
        }
        publish(&mut rig, publisher, sent + step);
        assert!(!rig.held.contains(&publisher));
        rig.after(1);
    }
    assert_eq!(rig.this.broker.counters().holds, 1);
}

#[test]
fn what_a_publisher_sent_before_it_went_is_delivered_though_it_was_held() {
    let mut rig = Rig::new();
    let reader = subscriber(&mut rig, "reader");
    let publisher = rig.join(&connect5("pub", true, &[]));
    let mut sent = fill(&mut rig, publisher, 0);
    // Read before the socket was told to stop, and then the end.
    let last = publish5("q/1", &[&sent.to_be_bytes()[..], &PAYLOAD].concat(), 1, sent + 1, &[]);
    rig.this.broker.handle(rig.now, Input::Bytes { conn: publisher, data: last.into() });
    sent += 1;
    rig.cut(publisher);
    let mut got = Vec::new();
    while got.len() < usize::from(sent) {
        let more = read(&mut rig, reader);
        assert!(!more.is_empty(), "{got:?}");
        got.extend(more);
    }
    assert_eq!(got, (0..sent).collect::<Vec<_>>());
    rig.after(0);
    assert_eq!(rig.this.broker.counters().connections_now, 1, "and its connection is over");
}

#[test]
fn nobody_waits_for_itself_and_two_that_wait_for_each_other_go_on() {
    let mut rig = Rig::new();
    let alone = rig.join(&connect5("alone", true, &[]));
    rig.send(alone, &subscribe5(1, "own", 1));
    for number in 0..200u16 {
        rig.send(alone, &publish5("own", &PAYLOAD, 1, number + 1, &[]));
    }
    assert!(rig.held.is_empty());
    let (a, b) = (rig.join(&connect5("a", true, &[])), rig.join(&connect5("b", true, &[])));
    rig.send(a, &subscribe5(1, "to/a", 1));
    rig.send(b, &subscribe5(1, "to/b", 1));
    for number in 0..130u16 {
        rig.send(a, &publish5("to/b", &PAYLOAD, 1, number + 1, &[]));
        rig.send(b, &publish5("to/a", &PAYLOAD, 1, number + 1, &[]));
    }
    assert!(rig.held.contains(&a) && rig.held.contains(&b));
    rig.after(1);
    assert!(!rig.held.contains(&a) && !rig.held.contains(&b));
}

#[test]
fn a_publisher_that_is_not_read_does_not_run_out_of_its_keep_alive() {
    let mut rig = Rig::new();
    let reader = subscriber(&mut rig, "reader");
    let publisher = rig.join(&connect5("pub", true, &[]));
    fill(&mut rig, publisher, 0);
    // It reads just enough, for longer than one and a half times the keep alive of a minute.
    for _ in 0..1000 {
        if !rig.held.contains(&publisher) {
            fill(&mut rig, publisher, 1000);
        }
        let frames = rig.take(reader);
        for frame in frames.iter().filter(|frame| frame[0] >> 4 == 3) {
            rig.send(reader, &ack(0x40, u16::from_be_bytes([frame[8], frame[9]])));
        }
        rig.send(reader, &[0xC0, 0]);
        rig.pause(150);
    }
    assert!(!rig.closed.contains_key(&publisher), "{:?}", rig.closed);
}

#[test]
fn all_queues_together_have_a_bound_and_the_longest_goes_first() {
    let mut spec = spec();
    spec.limits.max_outbound_total_bytes = 1 << 20;
    let mut rig = Rig::with(spec);
    let (small, large) = (rig.join(&connect5("small", true, &[])), rig.join(&connect5("large", true, &[])));
    for (conn, filter) in [(small, "s"), (large, "l")] {
        rig.send(conn, &subscribe5(1, filter, 1));
    }
    rig.stuck.extend([small, large]);
    let publisher = rig.join(&connect5("pub", true, &[]));
    for number in 0..60u16 {
        rig.send(publisher, &publish5("s", &PAYLOAD, 1, number + 1, &[]));
        rig.pause(250);
    }
    for number in 0..100u16 {
        rig.send(publisher, &publish5("l", &PAYLOAD, 1, number + 1, &[]));
        rig.pause(250);
    }
    assert_eq!(rig.closed.get(&large), Some(&Reason::QuotaExceeded));
    assert!(!rig.closed.contains_key(&small));
    rig.this.broker.handle(rig.now, Input::Closed { conn: small });
}

#[test]
fn a_reader_that_pauses_and_then_catches_up_is_waited_for_as_before() {
    let mut rig = Rig::new();
    let reader = subscriber(&mut rig, "reader");
    let publisher = rig.join(&connect5("pub", true, &[]));
    let mut from = 0;
    for pause_ms in [600, 1050, 600] {
        let sent = fill(&mut rig, publisher, from);
        rig.pause(pause_ms);
        assert_eq!(rig.held.contains(&publisher), pause_ms < 1000, "a second is what it is given");
        let mut got = Vec::new();
        while got.len() < usize::from(sent) {
            let more = read(&mut rig, reader);
            assert!(!more.is_empty(), "{got:?}");
            got.extend(more);
        }
        assert_eq!(got, (from..from + sent).collect::<Vec<_>>());
        assert!(rig.held.is_empty());
        from += sent;
    }
    assert_eq!(rig.this.broker.counters().holds, 3);
}
