//! Bytes that are no MQTT, or not allowed.

use proptest::prelude::*;

use crate::rig::*;

#[test]
fn malformed_and_forbidden_packets_end_the_connection_with_their_reason() {
    let mut rig = Rig::new();
    for (packet, reason) in [
        (publish5("a/#", b"", 0, 0, &[]), 0x90),
        (publish5("", b"", 0, 0, &[]), 0x82),
        (publish5("a", b"", 0, 0, &[0x23, 0, 17]), 0x94),
        (publish5("a", b"", 1, 0, &[]), 0x82),
        (publish5("a", b"", 0, 0, &[0x0B, 1]), 0x82),
        (publish5("a\0b", b"", 0, 0, &[]), 0x81),
        (frame(0x36, &[0, 1, b'a', 0, 1, 0]), 0x81),
        (subscribe5(1, "a/#/b", 0), 0x8F),
        (subscribe5(1, "$share/x", 0), 0x81),
        (subscribe5(1, "$share/x/a", 4), 0x82),
        (frame(0x80, &[0, 1, 0, 0, 1, b'a', 0]), 0x81),
        (vec![0xF0, 0], 0x82),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF], 0x81),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
    ] {
        let conn = rig.join(&connect5("c", true, &[]));
        rig.send(conn, &packet);
        assert_eq!(rig.take(conn), [[0xE0, 1, reason]], "{packet:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives, in whatever pieces: no panic, and the broker serves the next client.
    #[test]
    fn hostile_bytes_harm_nobody_else(
        packets in prop::collection::vec((hostile(), any::<u16>(), any::<u8>(), 0..4u8), 1..40),
        v5: bool, connected: bool, chunk in 1..64usize,
    ) {
        let mut rig = Rig::new();
        let conn = rig.open();
        let mut bytes = Vec::new();
        if connected {
            bytes.extend(if v5 { connect5("c", false, &WEEK) } else { connect4("c", false) });
        }
        for (mut packet, place, value, mutate) in packets {
            if mutate == 0 {
                let place = usize::from(place) % packet.len();
                packet[place] = value;
            }
            bytes.extend(packet);
        }
        for piece in bytes.chunks(chunk) {
            rig.send(conn, piece);
        }
        rig.after(10_000);
        rig.crash();
        let next = rig.join(&connect4("next", true));
        rig.send(next, &[0xC0, 0]);
        prop_assert_eq!(rig.take(next), [[0xD0, 0]]);
    }
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let topic = prop_oneof![Just("a"), Just("a/b"), Just("+"), Just("$share/g/a"), Just("#"), Just("é/x"), Just("")];
    let id = 0..4u16;
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        (topic.clone(), 0..3u8, id.clone(), any::<bool>())
            .prop_map(|(topic, qos, id, dup)| publish4(topic, b"x", qos, id, dup)),
        (topic.clone(), 0..3u8, id.clone(), prop::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(topic, qos, id, properties)| publish5(topic, b"x", qos, id, &properties)),
        (topic.clone(), 0..3u8, id.clone()).prop_map(|(topic, qos, id)| subscribe4(id, topic, qos)),
        (topic, any::<u8>(), id.clone()).prop_map(|(topic, options, id)| subscribe5(id, topic, options & 0x3F)),
        (prop_oneof![Just(0x40u8), Just(0x50), Just(0x62), Just(0x70)], id).prop_map(|(first, id)| ack(first, id)),
        Just(connect4("c", false)),
        Just(connect5("c", false, &WEEK)),
        Just(vec![0xE0, 0]),
        Just(vec![0xC0, 0]),
    ]
}
