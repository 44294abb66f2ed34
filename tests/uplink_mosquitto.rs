//! The uplink against a real Mosquitto on loopback. Skipped, loudly, where mosquitto is not installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a scenario runs in real time")]

mod uplink;

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fieldgate::message::{Message, Qos};
use fieldgate::uplink::spec::{ProtocolVersion, Scheme};
use fieldgate::uplink::status::{UplinkControl, UplinkEvent, UplinkState};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;
use uplink::{MemoryQueue, Running, on_one_thread, spec, until};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// A broker in a folder of its own; ended when dropped.
struct Mosquitto {
    child: Option<Child>,
    folder: tempfile::TempDir,
    port: u16,
}

impl Mosquitto {
    /// `listeners` may hold `{port}` and `{folder}`. `None`: not installed.
    fn start(listeners: &str) -> Option<Self> {
        if !Path::new(MOSQUITTO).exists() {
            std::io::stderr().write_all(b"\nskipped: mosquitto is not installed\n").unwrap();
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut broker = Self { child: None, folder, port: free_port() };
        broker.configure(listeners);
        broker.run();
        Some(broker)
    }

    fn configure(&self, listeners: &str) {
        let folder = self.folder.path().display().to_string();
        // Mosquitto 2.0.11 does not start with WebSocket listeners alone, so each has a plain one beside it.
        let spare = free_port();
        let text =
            format!("{listeners}\nlistener {spare} 127.0.0.1\nmax_queued_messages 0\nlog_type error\nuser root\n");
        let text = text.replace("{port}", &self.port.to_string()).replace("{folder}", &folder);
        std::fs::write(self.folder.path().join("mosquitto.conf"), text).unwrap();
    }

    fn run(&mut self) {
        let child = Command::new(MOSQUITTO)
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it in order: it keeps its sessions where it is configured to.
    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
                .unwrap();
            child.wait().unwrap();
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

const PLAIN: &str = "listener {port} 127.0.0.1\nallow_anonymous true";

/// An independent client of the broker: what it receives on `filter`, with a handle to publish.
async fn client(port: u16, name: &str, filter: &str) -> (AsyncClient, mpsc::Receiver<Publish>) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_max_packet_size(Some(1 << 20));
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(3600));
    let (client, mut events) = AsyncClient::new(options, 64);
    let (sender, receiver) = mpsc::channel(1_000_000);
    let (ready, subscribed) = tokio::sync::oneshot::channel();
    let mut ready = Some(ready);
    let (filter, subscriber) = (filter.to_owned(), client.clone());
    tokio::task::spawn_local(async move {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let mut wanted = Filter::new(filter.clone(), QoS::AtLeastOnce);
                    wanted.preserve_retain = true;
                    subscriber.subscribe_many([wanted]).await.unwrap();
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    ready.take().map(|ready| ready.send(()));
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    if sender.send(publish).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    tokio::time::timeout(Duration::from_secs(10), subscribed).await.unwrap().unwrap();
    (client, receiver)
}

fn number(publish: &Publish) -> u64 {
    std::str::from_utf8(&publish.payload).unwrap().parse().unwrap()
}

fn topic(publish: &Publish) -> String {
    String::from_utf8(publish.topic.to_vec()).unwrap()
}

/// Everything drains in order within a topic, and the goodbye follows.
fn drains(version: ProtocolVersion, qos: Qos) {
    let Some(broker) = Mosquitto::start(PLAIN) else { return };
    on_one_thread(async {
        let (_client, mut seen) = client(broker.port, "reader", "site/#").await;
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", 2000, 10);
        let mut uplink = Running::start(uplink::spec_with(spec(broker.port, version), qos), queue.clone());
        uplink.connected().await;
        until(Duration::from_secs(20), &format!("the queue is empty, {version:?}"), || queue.len() == 0).await;
        uplink.stop().await;
        let (mut last, mut count, mut status) = (HashMap::new(), 0, Vec::new());
        while count < 2000 || status.len() < 2 {
            let publish = tokio::time::timeout(Duration::from_secs(5), seen.recv()).await.unwrap().unwrap();
            if topic(&publish) == "site/fieldgate/pi-1/status" {
                status.push(publish.payload.clone());
                continue;
            }
            count += 1;
            let before = last.insert(topic(&publish), number(&publish));
            assert!(before.is_none_or(|before| before < number(&publish)), "in order, and none twice");
            if version == ProtocolVersion::V5 {
                let user = &publish.properties.as_ref().unwrap().user_properties;
                assert!(user.contains(&("boot".into(), "k3f9".into())));
                assert!(user.contains(&("seq".into(), (number(&publish) + 1).to_string())));
            }
        }
        assert_eq!(status, ["online", "offline"]);
    });
}

#[test]
fn a_queue_drains_in_order_with_mqtt_5_and_qos_1() {
    drains(ProtocolVersion::V5, Qos::AtLeastOnce);
}

#[test]
fn a_queue_drains_in_order_with_mqtt_3_1_1_and_qos_1() {
    drains(ProtocolVersion::V311, Qos::AtLeastOnce);
}

#[test]
fn a_queue_drains_in_order_with_qos_2() {
    drains(ProtocolVersion::V5, Qos::ExactlyOnce);
    drains(ProtocolVersion::V311, Qos::ExactlyOnce);
}

#[test]
fn a_queue_drains_in_order_with_qos_0() {
    drains(ProtocolVersion::V5, Qos::AtMostOnce);
}

#[test]
fn qos_2_to_a_topic_without_a_subscriber_is_delivered() {
    let Some(broker) = Mosquitto::start(PLAIN) else { return };
    on_one_thread(async {
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", 500, 3);
        let spec = uplink::spec_with(spec(broker.port, ProtocolVersion::V5), Qos::ExactlyOnce);
        let mut uplink = Running::start(spec, queue.clone());
        uplink.connected().await;
        until(Duration::from_secs(10), "the queue is empty", || queue.len() == 0).await;
        let status = uplink.status(Duration::from_secs(5), |status| status.delivered == 500).await;
        assert_eq!(status.refused, 0);
        uplink.stop().await;
    });
}

const PERSISTENT: &str = "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
    persistence_location {folder}/";

#[test]
fn a_broker_restarted_while_draining_costs_no_message_and_no_order() {
    const COUNT: usize = 20_000;
    const CUTS: usize = 3;
    let Some(mut broker) = Mosquitto::start(PERSISTENT) else { return };
    on_one_thread(async {
        let (_client, mut seen) = client(broker.port, "reader", "site/plant/#").await;
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", COUNT, 7);
        let mut spec = spec(broker.port, ProtocolVersion::V5);
        spec.drain_per_sec = 8_000;
        let mut uplink = Running::start(spec, queue.clone());
        uplink.connected().await;
        for _ in 0..CUTS {
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert!(queue.len() > 0, "the cut comes while it drains");
            broker.stop();
            uplink.status(Duration::from_secs(5), |s| s.state == UplinkState::BackingOff).await;
            broker.run();
            uplink.connected().await;
        }
        until(Duration::from_secs(20), "the queue is empty", || queue.len() == 0).await;
        let mut got: HashMap<String, Vec<u64>> = HashMap::new();
        let mut all = std::collections::HashSet::new();
        while all.len() < COUNT {
            let publish = tokio::time::timeout(Duration::from_secs(5), seen.recv()).await;
            let publish = publish.unwrap_or_else(|_| panic!("{} of {COUNT} came", all.len())).unwrap();
            all.insert(number(&publish));
            got.entry(topic(&publish)).or_default().push(number(&publish));
        }
        for numbers in got.values() {
            let falls = numbers.windows(2).filter(|pair| pair[1] <= pair[0]).count();
            // The reader's own connection is cut with the uplink's, and repeats too.
            assert!(falls <= 2 * CUTS, "order within a topic goes back {falls} times, after {CUTS} cuts");
        }
        uplink.stop().await;
    });
}

#[test]
fn commands_come_in_without_the_prefix_and_are_acknowledged_only_when_the_owner_says_so() {
    let Some(broker) = Mosquitto::start(PLAIN) else { return };
    on_one_thread(async {
        let (client, _seen) = client(broker.port, "sender", "unused").await;
        for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
            let mut uplink = Running::start(spec(broker.port, version), MemoryQueue::new());
            uplink.connected().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            for (topic, payload) in [
                ("site/plant/pi-1/boiler/setpoint/set", "42"),
                ("site/plant/pi-1/boiler/setpoint", "not asked for"),
                ("site/plant/pi-1/boiler/setpoint/set", "43"),
            ] {
                client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
            }
            let mut got = Vec::new();
            while got.len() < 2 {
                let event = tokio::time::timeout(Duration::from_secs(5), uplink.events.recv()).await;
                if let UplinkEvent::Message { uplink: 7, message, token } = event.unwrap().unwrap() {
                    got.push((message.topic.to_string(), message.payload, message.retain));
                    uplink.control.send(UplinkControl::Acknowledge(token)).await.unwrap();
                }
            }
            let topic = "plant/pi-1/boiler/setpoint/set".to_owned();
            assert_eq!(got, [(topic.clone(), "42".into(), false), (topic, "43".into(), false)]);
            uplink.stop().await;
        }
    });
}

#[test]
fn a_wrong_password_is_shown_as_refused_with_its_reason() {
    let Some(broker) = Mosquitto::start("listener {port} 127.0.0.1\nallow_anonymous false") else { return };
    on_one_thread(async {
        for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
            let mut spec = spec(broker.port, version);
            let file = broker.folder.path().join("password");
            std::fs::write(&file, "hunter2\n").unwrap();
            spec.username = Some("pi-1".into());
            spec.password_file = Some(file);
            let mut uplink = Running::start(spec, MemoryQueue::new());
            let refused = |status: &fieldgate::uplink::status::UplinkStatus| status.state == UplinkState::Refused;
            let status = uplink.status(Duration::from_secs(5), refused).await;
            let error = status.last_error.clone().unwrap();
            assert!(error.contains("not authorised (0x87)"), "{error}");
            assert!(!format!("{status:?}").contains("hunter2"));
            uplink.stop().await;
        }
    });
}

#[test]
fn websocket_carries_the_same() {
    let config = "listener {port} 127.0.0.1\nprotocol websockets\nallow_anonymous true";
    let Some(broker) = Mosquitto::start(config) else { return };
    on_one_thread(async {
        let queue = MemoryQueue::new();
        queue.push_many("plant/a", 2000, 3);
        let mut spec = spec(broker.port, ProtocolVersion::V5);
        spec.url.scheme = Scheme::Ws;
        let mut uplink = Running::start(spec, queue.clone());
        uplink.connected().await;
        until(Duration::from_secs(10), "the queue is empty", || queue.len() == 0).await;
        uplink.stop().await;
    });
}

/// Certificates of a throw-away authority by the openssl command; false where it is missing.
fn make_certificates(folder: &Path) -> bool {
    let run = |arguments: &str| {
        let status = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    std::fs::write(folder.join("server.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    std::fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"))
        && ["server", "client"].iter().all(|name| {
            run(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))
                && run(&format!(
                    "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile {name}.ext"
                ))
        })
}

const TLS: &str = "listener {port} 127.0.0.1\nallow_anonymous true\ncafile {folder}/ca.pem\n\
    certfile {folder}/server.pem\nkeyfile {folder}/server.key\nrequire_certificate true";

#[test]
fn tls_checks_the_server_and_shows_the_client_s_certificate() {
    for (websocket, scheme) in [("", Scheme::Mqtts), ("\nprotocol websockets", Scheme::Wss)] {
        let Some(mut broker) = Mosquitto::start(PLAIN) else { return };
        broker.kill();
        if !make_certificates(broker.folder.path()) {
            std::io::stderr().write_all(b"\nskipped: the openssl command is not installed\n").unwrap();
            return;
        }
        broker.configure(&format!("{TLS}{websocket}"));
        broker.run();
        on_one_thread(async {
            let folder = broker.folder.path();
            let mut spec = spec(broker.port, ProtocolVersion::V5);
            spec.url.scheme = scheme;
            spec.url.host = "localhost".into();
            spec.ca = Some(folder.join("ca.pem"));
            spec.client_cert = Some((folder.join("client.pem"), folder.join("client.key")));
            let queue = MemoryQueue::new();
            queue.push_many("plant/a", 2000, 3);
            let mut uplink = Running::start(spec.clone(), queue.clone());
            uplink.connected().await;
            until(Duration::from_secs(10), "the queue is empty", || queue.len() == 0).await;
            uplink.stop().await;

            let mut wrong_name = spec.clone();
            wrong_name.url.host = "127.0.0.2".into();
            let mut unknown_ca = spec.clone();
            std::fs::create_dir_all(folder.join("other")).unwrap();
            assert!(make_certificates(&folder.join("other")));
            unknown_ca.ca = Some(folder.join("other/ca.pem"));
            let mut no_certificate = spec;
            no_certificate.client_cert = None;
            for bad in [wrong_name, unknown_ca, no_certificate] {
                let mut uplink = Running::start(bad, queue.clone());
                let status = uplink.status(Duration::from_secs(5), |s| s.state == UplinkState::BackingOff).await;
                assert!(status.last_error.is_some());
                uplink.stop().await;
            }
        });
    }
}

/// Not part of `cargo test`: `cargo test --release --test uplink_mosquitto -- --ignored --nocapture drain_rate`.
#[test]
#[ignore = "a measurement"]
fn drain_rate() {
    let Some(broker) = Mosquitto::start(PLAIN) else { return };
    for (version, qos) in [
        (ProtocolVersion::V5, Qos::AtLeastOnce),
        (ProtocolVersion::V311, Qos::AtLeastOnce),
        (ProtocolVersion::V5, Qos::ExactlyOnce),
        (ProtocolVersion::V5, Qos::AtMostOnce),
    ] {
        on_one_thread(async {
            let queue = MemoryQueue::new();
            queue.push_many("plant/a", 100_000, 100);
            let begun = Instant::now();
            let mut uplink = Running::start(uplink::spec_with(spec(broker.port, version), qos), queue.clone());
            uplink.connected().await;
            until(Duration::from_secs(60), "the queue is empty", || queue.len() == 0).await;
            let rate = 100_000.0 / begun.elapsed().as_secs_f64();
            let line = format!("{version:?} {qos:?}: {rate:.0} messages/s\n");
            std::io::stdout().write_all(line.as_bytes()).unwrap();
            uplink.stop().await;
        });
    }
}

#[test]
fn a_message_keeps_its_properties_and_what_is_left_of_its_life() {
    let Some(broker) = Mosquitto::start(PLAIN) else { return };
    on_one_thread(async {
        let (_client, mut seen) = client(broker.port, "reader", "site/plant/#").await;
        let queue = MemoryQueue::new();
        let mut message = Message::new("plant/x", "1", Qos::AtLeastOnce, true);
        message.expires = Some(fieldgate::clock::UnixMs(fieldgate::clock::Now::read().wall.0 + 60_000));
        message.properties = Some(std::sync::Arc::new(fieldgate::message::Properties {
            payload_format: Some(1),
            content_type: Some("text/plain".into()),
            response_topic: Some("plant/answer".into()),
            correlation_data: Some("c".into()),
            user: vec![("a".into(), "b".into())],
        }));
        let mut late = message.clone();
        late.expires = Some(fieldgate::clock::UnixMs(1));
        queue.push(late);
        queue.push(message);
        let mut uplink = Running::start(spec(broker.port, ProtocolVersion::V5), queue.clone());
        let publish = tokio::time::timeout(Duration::from_secs(5), seen.recv()).await.unwrap().unwrap();
        let properties = publish.properties.unwrap();
        assert!((50..=60).contains(&properties.message_expiry_interval.unwrap()));
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.response_topic.as_deref(), Some("site/plant/answer"));
        assert_eq!(properties.correlation_data.as_deref(), Some(b"c".as_slice()));
        assert!(properties.user_properties.contains(&("a".into(), "b".into())));
        let status = uplink.status(Duration::from_secs(5), |status| status.delivered == 1).await;
        assert_eq!(status.expired, 1);
        assert_eq!(queue.len(), 0);
        uplink.stop().await;
    });
}
