//! What outlives a connection: sessions, wills, keep alive.

use std::collections::BTreeMap;

use fieldgate::broker::Reason;

use crate::rig::*;

#[test]
fn a_qos_2_publish_sent_again_is_not_published_again_over_reconnect_and_restart() {
    let mut rig = Rig::new();
    let keeper = rig.join(&connect4("keeper", false));
    rig.send(keeper, &subscribe4(1, "q", 1));
    rig.cut(keeper);
    let stored = |rig: &Rig| rig.this.store.queues.values().map(BTreeMap::len).sum::<usize>();
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"1", 2, 5, false));
    assert_eq!(rig.take(conn), [ack(0x50, 5)]);
    rig.cut(conn);
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"1", 2, 5, true));
    assert_eq!((rig.take(conn), stored(&rig)), (vec![ack(0x50, 5)], 1));
    rig.crash();
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"1", 2, 5, true));
    assert_eq!((rig.take(conn), stored(&rig)), (vec![ack(0x50, 5)], 1));
    rig.send(conn, &ack(0x62, 5));
    assert_eq!(rig.take(conn), [ack(0x70, 5)]);
    rig.crash();
    let conn = rig.join(&connect4("pub", false));
    rig.send(conn, &publish4("q", b"2", 2, 5, false));
    assert_eq!((rig.take(conn), stored(&rig)), (vec![ack(0x50, 5)], 2), "after PUBCOMP the identifier is new");
}

#[test]
fn a_session_that_is_taken_up_without_expiry_gets_what_was_kept_and_then_ends() {
    let mut rig = Rig::new();
    let first = rig.join(&connect5("sub", true, &[0x11, 0, 0, 1, 0]));
    rig.send(first, &subscribe5(1, "q", 1));
    rig.cut(first);
    let publisher = rig.join(&connect5("pub", true, &[]));
    rig.send(publisher, &publish5("q", b"kept", 1, 1, &[]));
    // No Session Expiry Interval: it ends with this connection (3.1.2.11.2).
    let second = rig.join(&connect5("sub", false, &[]));
    let frames = rig.take(second);
    assert_eq!(frames.len(), 1, "{frames:x?}");
    assert!(frames[0].ends_with(b"kept"));
    rig.send(second, &ack(0x40, u16::from_be_bytes([frames[0][5], frames[0][6]])));
    rig.cut(second);
    rig.send(publisher, &publish5("q", b"nobody's", 1, 2, &[]));
    let third = rig.join(&connect5("sub", false, &[]));
    assert!(rig.take(third).is_empty());
    assert!(rig.this.store.queues.values().all(BTreeMap::is_empty));
}

#[test]
fn keep_alive_ends_a_silent_connection_after_one_and_a_half_times_and_publishes_its_will() {
    let mut rig = Rig::new();
    let watcher = rig.join(&frame(0x10, &[&text("MQTT")[..], &[4, 2, 0, 0], &text("watcher")].concat()));
    rig.send(watcher, &subscribe4(1, "w", 0));
    rig.take(watcher);
    let body = [&text("MQTT")[..], &[4, 6, 0, 10], &text("c"), &text("w"), &text("gone")].concat();
    let conn = rig.join(&frame(0x10, &body));
    rig.after(14);
    rig.send(conn, &[0xC0, 0]);
    assert_eq!(rig.take(conn), [[0xD0, 0]]);
    rig.after(14);
    assert!(!rig.closed.contains_key(&conn) && rig.take(watcher).is_empty());
    rig.after(2);
    assert_eq!(rig.closed[&conn], Reason::KeepAliveTimeout);
    assert_eq!(rig.take(watcher), [publish4("w", b"gone", 0, 0, false)]);
    rig.after(1_000_000);
    assert!(!rig.closed.contains_key(&watcher), "keep alive 0 never ends");
}

#[test]
fn a_delayed_will_waits_and_a_client_that_is_back_in_time_takes_it_along() {
    let will5 = |delay: u8| {
        let head = [5, 4, 0, 60, 5];
        let will = [&[5, 0x18, 0, 0, 0, delay][..], &text("w"), &text("gone")].concat();
        frame(0x10, &[&text("MQTT")[..], &head, &WEEK, &text("c"), &will].concat())
    };
    let mut rig = Rig::new();
    let watcher = rig.join(&frame(0x10, &[&text("MQTT")[..], &[4, 2, 0, 0], &text("watcher")].concat()));
    rig.send(watcher, &subscribe4(1, "w", 0));
    rig.take(watcher);
    let conn = rig.join(&will5(10));
    rig.cut(conn);
    rig.after(9);
    let conn = rig.join(&will5(10));
    rig.after(9);
    assert!(rig.take(watcher).is_empty());
    rig.cut(conn);
    rig.after(10);
    assert_eq!(rig.take(watcher), [publish4("w", b"gone", 0, 0, false)]);
    rig.after(3600);
    assert_eq!(rig.this.broker.counters().sessions_now, 1, "the session is over as well");
    assert!(rig.this.store.values.is_empty(), "and left nothing behind: {:?}", rig.this.store.values);
}
