use super::*;
use crate::broker::spec::{Access, BrokerSpec, Limits};
use crate::broker::{ConnId, Peer, Restored};

fn broker(now: Now) -> Broker {
    let limits = Limits {
        max_connections: 10,
        max_packet_bytes: 1 << 16,
        max_queued_bytes: 1 << 20,
        max_outbound_bytes: 1 << 20,
        max_outbound_total_bytes: 1 << 20,
        max_in_flight: 10,
        max_subscriptions_per_client: 10,
        max_topic_levels: 10,
        max_retained_messages: 10,
        max_retained_bytes: 1 << 16,
        max_sessions: 10,
        max_connection_rate: 100,
        max_keep_alive: None,
        session_expiry: Duration::from_secs(3600),
        connect_timeout: Duration::from_secs(5),
    };
    let anonymous = Some(Access { subscribe: vec!["#".into()], publish: vec!["#".into()], deny: vec![] });
    Broker::new(now, "g", BrokerSpec { limits, listeners: vec![], users: vec![], anonymous }, Restored::default())
}

/// What the core sends to this connection, over a disk that takes everything at once.
fn sent(core: &mut Core, now: Now, to: ConnId) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        core.finish_turn(now);
        let Some(output) = core.poll_output() else { return all };
        match output {
            Output::Net(BrokerOutput::Send { conn, data }) if conn == to => all.extend_from_slice(&data),
            Output::Commit(batch) => core.store(now, StoreEvent::Committed { ticket: batch.ticket }),
            Output::Load { dest, read, .. } => {
                core.client(now, Input::Loaded { dest, read, rows: vec![], more: false });
            }
            Output::Net(_) | Output::Command { .. } | Output::AcknowledgeUpstream { .. } => {}
        }
    }
}

#[test]
fn a_message_that_waits_for_an_identifier_goes_at_once_where_the_disk_has_everything_already() {
    let now = Now::read();
    let mut core = Core::new(Boot::new("b"), ClockState::Unsynced, 1, Duration::ZERO, Some(broker(now)));
    let (receiver, publisher) = (ConnId(1), ConnId(2));
    for (conn, packet) in [
        (receiver, &b"\x10\x0d\0\x04MQTT\x04\0\0\x3c\0\x01r"[..]),
        (receiver, b"\x82\x06\0\x01\0\x01q\x02"),
        (publisher, b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01p"),
    ] {
        if packet[0] == 0x10 {
            let peer = Peer { address: "10.0.0.1:5000".parse().unwrap(), listener: 0, certificate_user: None };
            core.client(now, Input::Connected { conn, peer });
        }
        core.client(now, Input::Bytes { conn, data: Bytes::from_static(packet) });
        sent(&mut core, now, conn);
    }
    let publish = |core: &mut Core, packet: &'static [u8]| {
        core.client(now, Input::Bytes { conn: publisher, data: Bytes::from_static(packet) });
        sent(core, now, receiver)
    };
    let message = b"\x34\x06\0\x01q\0\x02m";
    assert_eq!(publish(&mut core, b"\x34\x06\0\x01q\0\x01m"), message);
    core.client(now, Input::Bytes { conn: receiver, data: Bytes::from_static(b"\x50\x02\0\x02") });
    assert_eq!(sent(&mut core, now, receiver), b"\x62\x02\0\x02");
    core.client(now, Input::Bytes { conn: receiver, data: Bytes::from_static(b"\x70\x02\0\x02") });
    assert!(sent(&mut core, now, receiver).is_empty());
    assert!(core.committer.is_idle(), "the disk has forgotten the first message");
    core.next_seq = 65_536;
    assert_eq!(publish(&mut core, b"\x34\x06\0\x01q\0\x02m"), message, "the same identifier");
}
