//! What a subscriber gets: in its window, its sizes, its order, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use fieldgate::broker::Input;
use fieldgate::message::{Message, Origin, Qos};

use crate::broker_loop::Disk;
use crate::rig::*;

#[test]
fn an_acknowledgement_waits_for_the_store_and_a_refusal_is_told_or_kept_silent() {
    let mut rig = Rig::new();
    let keeper = rig.join(&connect4("keeper", false));
    rig.send(keeper, &subscribe4(1, "q", 1));
    rig.cut(keeper);
    let (old, new) = (rig.join(&connect4("old", true)), rig.join(&connect5("new", true, &[])));
    rig.this.disk = Disk::Waits;
    rig.send(old, &publish4("q", b"1", 1, 7, false));
    rig.send(old, &publish4("nobody", b"1", 1, 8, false));
    assert_eq!(rig.take(old).len(), 0, "neither the stored one nor, for order's sake, the one behind it");
    rig.this.disk = Disk::Writes;
    rig.run();
    assert_eq!(rig.take(old), [ack(0x40, 7), ack(0x40, 8)]);
    rig.this.disk = Disk::Refuses;
    for (conn, qos) in [(old, 1), (old, 2)] {
        rig.send(conn, &publish4("q", b"2", qos, 9, false));
    }
    rig.send(new, &publish5("q", b"2", 1, 9, &[]));
    assert_eq!(rig.take(old).len(), 0, "3.1.1 sends it again");
    assert_eq!(rig.take(new), [[0x40, 3, 0, 9, 0x97]]);
    rig.this.disk = Disk::Writes;
    rig.send(old, &publish4("q", b"2", 2, 9, true));
    assert_eq!(rig.take(old), [ack(0x50, 9)]);
}

#[test]
fn a_durable_session_that_falls_behind_gets_everything_from_the_store_in_order() {
    let mut rig = Rig::new();
    let slow = rig.join(&connect4("slow", false));
    rig.send(slow, &subscribe4(1, "q", 1));
    rig.take(slow);
    rig.stuck.insert(slow);
    let publisher = rig.join(&connect4("pub", true));
    for number in 0..2500u16 {
        rig.send(publisher, &publish4("q", &[&number.to_be_bytes()[..], &[0; 1000]].concat(), 1, number + 1, false));
    }
    assert!(!rig.closed.contains_key(&slow));
    assert_eq!(rig.take(publisher).len(), 2500);
    rig.stuck.clear();
    rig.this.broker.handle(rig.now, Input::Written { conn: slow, bytes: 10_000_000 });
    let mut numbers = Vec::new();
    loop {
        rig.run();
        let frames = rig.take(slow);
        if frames.is_empty() {
            break;
        }
        for frame in frames {
            // Two bytes of remaining length.
            numbers.push(u16::from_be_bytes([frame[8], frame[9]]));
            rig.send(slow, &ack(0x40, u16::from_be_bytes([frame[6], frame[7]])));
        }
    }
    assert_eq!(numbers, (0..2500).collect::<Vec<_>>());
    assert!(rig.this.store.queues.values().all(BTreeMap::is_empty));
}

#[test]
fn a_message_that_a_read_of_the_store_brought_is_not_sent_again_by_its_commit() {
    let mut rig = Rig::new();
    let reader = rig.join(&connect4("reader", false));
    rig.send(reader, &subscribe4(1, "q", 1));
    rig.take(reader);
    let message = Arc::new(Message::new("q", &b"1"[..], Qos::AtLeastOnce, false));
    let route = rig.this.broker.route(rig.now, &message, Origin::Gateway);
    for _ in 0..2 {
        rig.this.broker.deliver_stored(rig.now, &route, &message, Some(7));
    }
    rig.run();
    assert_eq!(rig.take(reader).len(), 1);
}

#[test]
fn the_client_s_receive_maximum_and_packet_size_hold() {
    let mut rig = Rig::new();
    let limited = rig.join(&connect5("small", true, &[0x21, 0, 2, 0x27, 0, 0, 0, 100]));
    rig.send(limited, &subscribe5(1, "q", 1));
    rig.take(limited);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("q", &[0; 200], 1, 1, &[]));
    for id in 2..=6 {
        rig.send(publisher, &publish5("q", b"x", 1, id, &[]));
    }
    assert_eq!(rig.take(publisher).len(), 6);
    let frames = rig.take(limited);
    assert_eq!(frames.len(), 2, "two under way, the large one skipped");
    rig.send(limited, &ack(0x40, u16::from_be_bytes([frames[0][5], frames[0][6]])));
    assert_eq!(rig.take(limited).len(), 1);
    assert_eq!(rig.this.broker.counters().dropped_too_large, 1);
}

#[test]
fn a_topic_goes_by_number_once_a_client_that_takes_aliases_knows_it() {
    let mut rig = Rig::new();
    // Topic Alias Maximum 1, Maximum Packet Size 60.
    let subscriber = rig.join(&connect5("sub", true, &[0x22, 0, 1, 0x27, 0, 0, 0, 60]));
    rig.send(subscriber, &subscribe5(1, "plant/#", 0));
    rig.take(subscriber);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("plant/a", &[0; 60], 0, 0, &[]));
    assert!(rig.take(subscriber).is_empty(), "too large: it names nothing");
    for topic in ["plant/a", "plant/a", "plant/b"] {
        rig.send(publisher, &publish5(topic, b"x", 0, 0, &[]));
    }
    let alias = [0x23, 0, 1];
    let expected = [
        publish5("plant/a", b"x", 0, 0, &alias),
        publish5("", b"x", 0, 0, &alias),
        publish5("plant/b", b"x", 0, 0, &[]),
    ];
    assert_eq!(rig.take(subscriber), expected);
    rig.cut(subscriber);
    let again = rig.join(&connect5("sub", true, &[]));
    rig.send(again, &subscribe5(1, "plant/#", 0));
    rig.take(again);
    rig.send(publisher, &publish5("plant/a", b"x", 0, 0, &[]));
    assert_eq!(rig.take(again), [publish5("plant/a", b"x", 0, 0, &[])], "a new connection, without aliases");
}

#[test]
fn what_expires_is_counted_down_and_then_not_delivered() {
    let mut rig = Rig::new();
    let keeper = rig.join(&connect5("keeper", false, &WEEK));
    rig.send(keeper, &subscribe5(1, "q", 1));
    rig.cut(keeper);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("q", b"a", 1, 1, &[2, 0, 0, 0, 10]));
    rig.send(publisher, &publish5("q", b"b", 1, 2, &[2, 0, 0, 0, 100]));
    rig.after(40);
    let keeper = rig.join(&connect5("keeper", false, &WEEK));
    let frames = rig.take(keeper);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][7..], [5, 2, 0, 0, 0, 60, b'b']);
}
