use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("text/plain".to_owned()), Just("größe/°".to_owned())]
}

fn properties() -> impl Strategy<Value = Properties> {
    (
        prop::option::of(0_u8..2),
        prop::option::of(text()),
        prop::option::of(text()),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
        prop::collection::vec((text(), text()), 0..3),
    )
        .prop_map(|(payload_format, content_type, response_topic, data, user)| Properties {
            payload_format,
            content_type,
            response_topic,
            correlation_data: data.map(Bytes::from),
            user,
        })
}

fn stored_messages() -> impl Strategy<Value = Vec<Stored>> {
    let one = (
        prop_oneof![4 => Just(1_u64), 1 => 1_u64..1_000_000_000],
        prop_oneof![4 => -5_i64..1_000, 1 => any::<i64>()],
        0_u8..3,
        any::<bool>(),
        "[a-c]/[a-c]",
        prop::collection::vec(any::<u8>(), 0..40),
        prop::option::of(properties()),
        prop::option::of(any::<i64>()),
    );
    (any::<u32>(), prop::collection::vec(one, 1..30)).prop_map(|(first, messages)| {
        let mut seq = u64::from(first);
        messages
            .into_iter()
            .map(|(step, at, qos, retain, topic, payload, properties, expires)| {
                seq += step;
                let mut message = Message::new(topic, payload, Qos::try_from(qos).unwrap(), retain);
                message.properties = properties.map(Arc::new);
                message.expires = expires.map(UnixMs);
                Stored { seq, boot: "k3f9".into(), at: UnixMs(at), message: Arc::new(message) }
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read_back(stored in stored_messages()) {
        prop_assert_eq!(messages(&segment(&stored)), Ok(stored));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_an_error_and_never_another_message(stored in stored_messages(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let good = segment(&stored);
        let mut bad = good.clone();
        bad[at.index(good.len())] ^= 1 << bit;
        prop_assert!(messages(&bad).is_err());
        prop_assert!(messages(&good[..at.index(good.len())]).is_err());
    }

    #[test]
    fn hostile_bytes_under_a_right_checksum_do_not_panic(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut body = vec![VERSION];
        body.extend_from_slice(&CRC.checksum(&rest).to_le_bytes());
        body.extend_from_slice(&rest);
        let _ = messages(&body);
    }

    #[test]
    fn what_is_left_is_read_back_only_in_its_own_row(seqs in prop::collection::btree_set(500_u64..600, 1..50), other in 1_u32..9) {
        let mut set = SeqSet::new();
        seqs.iter().for_each(|seq| set.insert(*seq));
        let written = left(DestId(9), 500, &set);
        prop_assert_eq!(read_left(DestId(9), 500, &written), Ok(set));
        prop_assert_eq!(read_left(DestId(other), 500, &written), Err(Damage::Checksum));
    }
}

#[test]
fn a_message_costs_its_payload_and_at_most_eight_bytes_when_its_topic_was_seen() {
    let stored: Vec<Stored> = (0..100)
        .map(|n| Stored {
            seq: 1_000_000 + n,
            boot: "k3f9".into(),
            at: UnixMs(1_769_860_800_000 + n as i64),
            message: Arc::new(Message::new(
                ["plant/pi-1/meter-1/voltage", "plant/pi-1/meter-1/current"][n as usize % 2],
                vec![7; 200],
                Qos::AtLeastOnce,
                false,
            )),
        })
        .collect();
    assert!(segment(&stored).len() <= 100 * 208 + 80);
}

#[test]
fn a_body_of_a_later_version_is_refused_by_its_number() {
    assert_eq!(messages(&[9, 0, 0, 0, 0]), Err(Damage::Version(9)));
}

#[test]
fn a_count_that_the_bytes_do_not_hold_allocates_nothing_and_is_refused() {
    let mut rest = Vec::new();
    unsigned(&mut rest, 1);
    signed(&mut rest, 1);
    unsigned(&mut rest, u64::MAX);
    bytes(&mut rest, b"boot");
    let mut body = vec![VERSION];
    body.extend_from_slice(&CRC.checksum(&rest).to_le_bytes());
    body.extend_from_slice(&rest);
    assert_eq!(messages(&body), Err(Damage::Short));
}
