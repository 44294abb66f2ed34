//! Who gets in, who is told why not, and what a reload or a stop does to those who are there.

use fieldgate::broker::Reason;

use crate::rig::*;

#[test]
fn the_first_packet_must_be_connect_and_the_only_one() {
    let mut rig = Rig::new();
    let conn = rig.open();
    rig.send(conn, &[0xC0, 0]);
    assert_eq!((rig.take(conn).len(), rig.closed[&conn]), (0, Reason::ProtocolError));
    let conn = rig.join(&connect5("a", true, &[]));
    rig.send(conn, &connect5("a", true, &[]));
    assert_eq!((rig.take(conn), rig.closed[&conn]), (vec![vec![0xE0, 1, 0x82]], Reason::ProtocolError));
    let silent = rig.open();
    rig.after(6);
    assert_eq!(rig.closed[&silent], Reason::KeepAliveTimeout);
}

#[test]
fn a_refused_connect_is_told_why_in_its_own_version() {
    let mut rig = Rig::new();
    let mut answer = |connect: &[u8]| {
        let conn = rig.open();
        rig.send(conn, connect);
        assert!(rig.closed.contains_key(&conn));
        rig.take(conn).concat()
    };
    assert_eq!(answer(&connect4("", false)), [0x20, 2, 0, 2], "3.1.1 without a name and not clean");
    assert_eq!(answer(&frame(0x10, &[&text("MQTT")[..], &[6, 2, 0, 0], &text("a")].concat())), [0x20, 3, 0, 0x84, 0]);
    assert_eq!(answer(&frame(0x10, &[&text("MQIsdp")[..], &[3, 2, 0, 0], &text("a")].concat())), [0x20, 2, 0, 1]);
    assert_eq!(answer(&login4("a", "ann", "wrong")), [0x20, 2, 0, 4]);
    let method = [&[0x15][..], &text("SCRAM")].concat();
    assert_eq!(answer(&connect5("a", true, &method)), [0x20, 3, 0, 0x8C, 0]);
    let reserved = |level: u8| frame(0x10, &[&text("MQTT")[..], &[level, 3, 0, 0, 0], &text("a")].concat());
    assert!(answer(&reserved(4)).is_empty(), "a set reserved flag: 3.1.1 has no code for it");
    assert_eq!(answer(&reserved(5)), [0x20, 3, 0, 0x81, 0]);
    assert_eq!(answer(&connect5("a", true, &[0x21, 0, 0])), [0x20, 3, 0, 0x82, 0], "Receive Maximum 0");
}

#[test]
fn a_password_may_stand_without_a_user_name_in_version_5_and_says_nothing_about_who_it_is() {
    let connect =
        |password: &str| frame(0x10, &[&text("MQTT")[..], &[5, 0x42, 0, 60, 0], &text("a"), &text(password)].concat());
    let mut rig = Rig::new();
    rig.join(&connect("a token"));
    let mut closed = spec();
    closed.anonymous = None;
    let mut rig = Rig::with(closed);
    let conn = rig.open();
    rig.send(conn, &connect("pw"));
    assert_eq!(rig.take(conn), [[0x20, 3, 0, 0x87, 0]]);
}

#[test]
fn a_wrong_password_delays_the_next_guess_but_not_a_known_right_one() {
    let mut rig = Rig::new();
    rig.join(&login4("known", "ann", "pw"));
    for _ in 0..5 {
        let conn = rig.open();
        rig.send(conn, &login4("x", "ann", "no"));
        rig.after(3);
        assert!(rig.closed.contains_key(&conn));
    }
    let conn = rig.open();
    rig.send(conn, &login4("y", "bob", "pw"));
    assert_eq!(rig.take(conn).len(), 0, "this address waits");
    rig.join(&login4("known", "ann", "pw"));
    rig.after(4);
    assert_eq!(rig.take(conn), [[0x20, 2, 0, 0]]);
}

#[test]
fn a_session_is_not_another_user_s_to_take() {
    let mut rig = Rig::new();
    let conn = rig.join(&login4("meter", "ann", "pw"));
    let thief = rig.open();
    rig.send(thief, &login4("meter", "bob", "pw"));
    assert_eq!(rig.take(thief), [[0x20, 2, 0, 2]]);
    assert!(!rig.closed.contains_key(&conn));
}

#[test]
fn a_user_that_a_reload_removes_is_told_and_goes_while_others_stay() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.join(&login4("a", "ann", "pw")), rig.join(&login4("b", "bob", "pw")));
    rig.send(bob, &subscribe4(1, "plant/#", 1));
    let mut spec = spec();
    spec.users.remove(0);
    spec.users[0].access.subscribe = vec!["other/#".to_owned()];
    rig.this.broker.reconfigure(rig.now, spec);
    rig.run();
    assert_eq!(rig.closed[&ann], Reason::NotAuthorized);
    assert!(!rig.closed.contains_key(&bob));
    assert_eq!(rig.this.broker.counters().subscriptions_now, 0, "what is no longer allowed ends");
}

#[test]
fn a_stop_tells_every_client_and_keeps_what_is_durable() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(&connect5("a", false, &WEEK)), rig.join(&connect4("b", true)));
    rig.send(a, &subscribe5(1, "q", 1));
    rig.take(a);
    rig.this.broker.shutdown(rig.now);
    rig.run();
    assert_eq!((rig.take(a), rig.take(b).len()), (vec![vec![0xE0, 1, 0x8B]], 0));
    rig.crash();
    let conn = rig.open();
    rig.send(conn, &connect5("a", false, &WEEK));
    assert_eq!(rig.take(conn)[0][2], 1, "session present");
}
