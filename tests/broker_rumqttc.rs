//! The broker on loopback by rumqttc, 3.1.1 and 5.

#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

#[path = "support/broker_loop.rs"]
mod broker_loop;

use std::time::Duration;

use broker_loop::{MemoryStore, Running, limits};
use fieldgate::broker::spec::{Access, BrokerSpec, ListenerSpec, ListenerTransport};
use rumqttc::v5;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn broker() -> Running {
    let all = vec!["#".to_owned()];
    let spec = BrokerSpec {
        limits: limits(),
        listeners: vec![ListenerSpec {
            bind: "127.0.0.1:0".parse().unwrap(),
            transport: ListenerTransport::Tcp,
            tls: None,
        }],
        users: vec![],
        anonymous: Some(Access { subscribe: all.clone(), publish: all, deny: vec![] }),
    };
    Running::start(spec, MemoryStore::default())
}

fn old(broker: &Running, name: &str, clean: bool) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", broker.addrs[0].port());
    options.set_clean_session(clean).set_keep_alive(Duration::from_secs(30));
    AsyncClient::new(options, 200)
}

/// Runs until `count` messages came; topic and payload of each.
async fn messages(events: &mut EventLoop, count: usize) -> Vec<(String, String)> {
    let mut got = Vec::new();
    while got.len() < count {
        let event = timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
        if let Event::Incoming(Packet::Publish(publish)) = event {
            got.push((publish.topic, String::from_utf8(publish.payload.to_vec()).unwrap()));
        }
    }
    got
}

/// Runs until a packet that `wanted` names came; that packet.
async fn incoming<T>(events: &mut EventLoop, wanted: impl Fn(Packet) -> Option<T>) -> T {
    loop {
        let event = timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
        if let Event::Incoming(packet) = event
            && let Some(found) = wanted(packet)
        {
            return found;
        }
    }
}

/// Publishes ten at each level and waits for every acknowledgement.
async fn publish(client: &AsyncClient, events: &mut EventLoop) {
    for number in 0..10 {
        for (level, qos) in LEVELS.into_iter().enumerate() {
            client.publish(format!("level/{level}"), qos, false, number.to_string()).await.unwrap();
        }
    }
    for _ in 0..20 {
        incoming(events, |packet| matches!(packet, Packet::PubAck(_) | Packet::PubComp(_)).then_some(())).await;
    }
}

fn of(level: usize, got: &[(String, String)]) -> Vec<&str> {
    let topic = format!("level/{level}");
    got.iter().filter(|(of, _)| *of == topic).map(|(_, payload)| &**payload).collect()
}

#[tokio::test]
async fn a_client_of_3_1_1_gets_every_level_live_and_what_came_while_it_was_away() {
    let broker = broker();
    let numbers: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let (client, mut events) = old(&broker, "keeper", false);
    client.subscribe("level/#", QoS::ExactlyOnce).await.unwrap();
    incoming(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    let (publisher, mut publishing) = old(&broker, "pub", true);
    publish(&publisher, &mut publishing).await;
    let got = messages(&mut events, 30).await;
    for level in 0..3 {
        assert_eq!(of(level, &got), numbers, "level {level}");
    }
    // Its last acknowledgements, and then it is away: its next life knows nothing of what was under way.
    while let Ok(event) = timeout(Duration::from_millis(500), events.poll()).await {
        event.unwrap();
    }
    client.disconnect().await.unwrap();
    while timeout(PATIENCE, events.poll()).await.unwrap().is_ok() {}
    drop((client, events));
    publish(&publisher, &mut publishing).await;
    let (_client, mut events) = old(&broker, "keeper", false);
    let present = incoming(&mut events, |packet| match packet {
        Packet::ConnAck(ack) => Some(ack.session_present),
        _ => None,
    });
    assert!(present.await);
    let got = messages(&mut events, 20).await;
    for level in 1..3 {
        assert_eq!(of(level, &got), numbers, "level {level}");
    }
    broker.stop();
}

#[tokio::test]
async fn a_client_of_5_gets_properties_in_order_and_a_will_of_one_that_was_cut() {
    let broker = broker();
    let options = |name: &str| {
        let mut options = v5::MqttOptions::new(name, "127.0.0.1", broker.addrs[0].port());
        options.set_keep_alive(Duration::from_secs(30));
        options
    };
    let next = async |events: &mut v5::EventLoop| loop {
        let event = timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
        match event {
            v5::Event::Incoming(
                packet @ (v5::mqttbytes::v5::Packet::Publish(_) | v5::mqttbytes::v5::Packet::SubAck(_)),
            ) => {
                return packet;
            }
            v5::Event::Incoming(_) | v5::Event::Outgoing(_) => {}
        }
    };
    let (client, mut events) = v5::AsyncClient::new(options("sub"), 10);
    client.subscribe("w/#", v5::mqttbytes::QoS::ExactlyOnce).await.unwrap();
    next(&mut events).await;
    let (publisher, mut publishing) = {
        let mut options = options("pub");
        let will = v5::mqttbytes::v5::LastWill::new("w/will", "gone", v5::mqttbytes::QoS::AtLeastOnce, false, None);
        options.set_last_will(will);
        v5::AsyncClient::new(options, 10)
    };
    let user: Vec<(String, String)> = [("b", "1"), ("a", "2"), ("b", "0")].map(|(k, v)| (k.into(), v.into())).into();
    let properties = v5::mqttbytes::v5::PublishProperties {
        response_topic: Some("answer".into()),
        correlation_data: Some(vec![0, 255].into()),
        content_type: Some("text/plain".into()),
        user_properties: user.clone(),
        ..Default::default()
    };
    let qos = v5::mqttbytes::QoS::ExactlyOnce;
    publisher.publish_with_properties("w/a", qos, false, "x", properties).await.unwrap();
    let pubcomp = async {
        loop {
            let event = timeout(PATIENCE, publishing.poll()).await.unwrap().unwrap();
            if matches!(event, v5::Event::Incoming(v5::mqttbytes::v5::Packet::PubComp(_))) {
                return;
            }
        }
    };
    let ((), packet) = tokio::join!(pubcomp, next(&mut events));
    let v5::mqttbytes::v5::Packet::Publish(got) = packet else { panic!("{packet:?}") };
    let given = got.properties.unwrap();
    assert_eq!(given.user_properties, user);
    assert_eq!(given.response_topic.as_deref(), Some("answer"));
    assert_eq!(
        (given.correlation_data.as_deref(), given.content_type.as_deref()),
        (Some(&[0, 255][..]), Some("text/plain"))
    );
    // Its socket goes without a DISCONNECT.
    drop((publisher, publishing));
    let packet = next(&mut events).await;
    let v5::mqttbytes::v5::Packet::Publish(will) = packet else { panic!("{packet:?}") };
    assert_eq!((&will.topic[..], &will.payload[..]), (&b"w/will"[..], &b"gone"[..]));
    broker.stop();
}
