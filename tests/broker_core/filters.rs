//! Which of its subscriptions a client gets a message by.

use std::collections::BTreeMap;

use fieldgate::broker::ConnId;
use fieldgate::hub::topics::filter_matches;
use proptest::prelude::*;

use crate::rig::*;

fn filter() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("+"), Just("secret")], 1..4)
        .prop_flat_map(|levels| any::<bool>().prop_map(move |hash| levels.join("/") + if hash { "/#" } else { "" }))
}

proptest! {
    /// Against the simplest broker there is: every client, every filter, one after the other.
    #[test]
    fn each_client_gets_what_its_filters_match_once_at_the_highest_qos_and_nothing_denied(
        subscriptions in prop::collection::vec((0..3usize, filter(), 0..3u8, any::<bool>()), 0..20),
        topics in prop::collection::vec(prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("secret")], 1..4), 1..10),
        qos in 0..3u8,
    ) {
        let mut rig = Rig::new();
        let clients: Vec<ConnId> = (0..3).map(|name| rig.join(&connect4(&name.to_string(), true))).collect();
        let mut model: BTreeMap<(usize, String), u8> = BTreeMap::new();
        for (client, filter, granted, add) in subscriptions {
            let packet = if add {
                subscribe4(1, &filter, granted)
            } else {
                frame(0xA2, &[&[0, 1][..], &text(&filter)].concat())
            };
            rig.send(clients[client], &packet);
            let answer = rig.take(clients[client]).concat();
            if add && answer[4] != 0x80 {
                model.insert((client, filter), granted);
            } else if add {
                prop_assert!(filter.starts_with("secret"), "refused: {}", filter);
            } else {
                model.remove(&(client, filter));
            }
        }
        let publisher = rig.join(&connect4("pub", true));
        for (number, topic) in topics.iter().map(|levels| levels.join("/")).enumerate() {
            let id = number as u16 + 1;
            rig.send(publisher, &publish4(&topic, b"x", qos, id, false));
            for (client, conn) in clients.iter().enumerate() {
                let best = model
                    .iter()
                    .filter(|((owner, filter), _)| *owner == client && filter_matches(filter, &topic))
                    .map(|(_, granted)| (*granted).min(qos))
                    .max()
                    .filter(|_| !filter_matches("secret/#", &topic));
                let got: Vec<u8> = rig.take(*conn).iter().map(|frame| frame[0]).collect();
                prop_assert_eq!(got, best.map(|qos| 0x30 | qos << 1).into_iter().collect::<Vec<_>>(), "{}", topic);
            }
        }
    }
}

#[test]
fn of_overlapping_subscriptions_the_highest_qos_holds_in_whatever_order_they_are_found_and_nobody_else_loses() {
    for qos in [[2, 1, 0], [2, 0, 1], [1, 2, 0], [1, 0, 2], [0, 1, 2], [0, 2, 1]] {
        let mut rig = Rig::new();
        let other = rig.join(&connect4("other", true));
        rig.send(other, &subscribe4(1, "q", 0));
        let many = rig.join(&connect4("many", false));
        for (filter, qos) in ["q", "+", "#"].into_iter().zip(qos) {
            rig.send(many, &subscribe4(1, filter, qos));
        }
        rig.take(other);
        rig.take(many);
        let publisher = rig.join(&connect4("pub", true));
        rig.send(publisher, &publish4("q", b"x", 2, 1, false));
        let first = |frames: Vec<Vec<u8>>| frames.iter().map(|frame| frame[0]).collect::<Vec<_>>();
        assert_eq!((first(rig.take(other)), first(rig.take(many))), (vec![0x30], vec![0x34]), "{qos:?}");
    }
}
