//! The broker on loopback, driven by clients that nobody here wrote: mosquitto's and paho. What is not installed is skipped, loudly.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test of real sockets in real time"
)]

#[path = "support/broker_loop.rs"]
mod broker_loop;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_loop::{MemoryStore, Running, limits};
use fieldgate::broker::passwd::hash_password;
use fieldgate::broker::spec::{Access, BrokerSpec, ListenerSpec, ListenerTls, ListenerTransport, UserSpec};

fn spec(listeners: Vec<ListenerSpec>) -> BrokerSpec {
    let all = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect::<Vec<_>>();
    let open = Access { subscribe: all(&["#", "$SYS/#"]), publish: all(&["#"]), deny: all(&["secret/#"]) };
    BrokerSpec {
        limits: limits(),
        listeners,
        users: vec![
            UserSpec {
                name: "ann".into(),
                password_hash: Some(Arc::from(hash_password("pw").unwrap())),
                access: open.clone(),
            },
            UserSpec { name: "device-7".into(), password_hash: None, access: open.clone() },
        ],
        anonymous: Some(open),
    }
}

fn plain() -> ListenerSpec {
    ListenerSpec { bind: "127.0.0.1:0".parse().unwrap(), transport: ListenerTransport::Tcp, tls: None }
}

fn installed(program: &str) -> bool {
    let there = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED: {program} is not installed");
    }
    there
}

fn mosquitto(program: &str, addr: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &addr.port().to_string()]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn published(addr: SocketAddr, arguments: &[&str]) {
    let output = mosquitto("mosquitto_pub", addr, arguments).output().unwrap();
    assert!(output.status.success(), "mosquitto_pub {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Lines that `mosquitto_sub` prints until it has `count` messages or five seconds are over; `during` runs once it has subscribed.
fn subscribed(addr: SocketAddr, arguments: &[&str], count: usize, during: impl FnOnce()) -> Vec<String> {
    let count = count.to_string();
    let mut all = vec!["-W", "5", "-C", &count, "-d", "-v"];
    all.extend_from_slice(arguments);
    // Into a pipe its output waits for a full buffer unless told otherwise.
    let port = addr.port().to_string();
    let mut child = Command::new("stdbuf")
        .args(["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &port])
        .args(&all)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    let mut during = Some(during);
    let mut line = String::new();
    while std::io::BufRead::read_line(&mut output, &mut line).unwrap() > 0 {
        if line.starts_with("Subscribed") {
            if let Some(during) = during.take() {
                during();
            }
        } else if !line.starts_with("Client") && !line.trim().is_empty() {
            lines.push(line.trim().to_owned());
        }
        line.clear();
    }
    child.wait().unwrap();
    lines
}

#[test]
fn mosquitto_s_clients_get_every_qos_under_both_versions() {
    if !installed("mosquitto_pub") || !installed("mosquitto_sub") || !installed("stdbuf") {
        return;
    }
    let broker = Running::start(spec(vec![plain()]), MemoryStore::default());
    let addr = broker.addrs[0];
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let lines = subscribed(addr, &["-V", version, "-q", qos, "-t", "plant/+/x"], 2, || {
                published(addr, &["-V", version, "-q", qos, "-t", "plant/1/x", "-m", "one"]);
                published(addr, &["-V", version, "-q", qos, "-t", "secret/1/x", "-m", "no"]);
                published(addr, &["-V", version, "-q", qos, "-t", "plant/2/x", "-m", "two"]);
            });
            assert_eq!(lines, ["plant/1/x one", "plant/2/x two"], "version {version} QoS {qos}");
        }
    }
    broker.stop();
}

#[test]
fn retained_messages_and_a_durable_session_s_queue_outlive_a_restart() {
    if !installed("mosquitto_pub") || !installed("mosquitto_sub") || !installed("stdbuf") {
        return;
    }
    let broker = Running::start(spec(vec![plain()]), MemoryStore::default());
    let addr = broker.addrs[0];
    let durable = ["-i", "keeper", "-c", "-q", "2", "-t", "queue/#"];
    let nothing = subscribed(addr, &[&durable[..], &["-E"]].concat(), 1, || {});
    assert!(nothing.is_empty(), "{nothing:?}");
    published(addr, &["-r", "-q", "1", "-t", "kept/a", "-m", "retained"]);
    for number in 0..50 {
        published(addr, &["-q", if number % 2 == 0 { "1" } else { "2" }, "-t", "queue/x", "-m", &number.to_string()]);
    }
    let store = broker.stop();
    let broker = Running::start(spec(vec![plain()]), store);
    let addr = broker.addrs[0];
    let lines = subscribed(addr, &durable, 50, || {});
    // A client shows a QoS 2 message when its handshake is over, so each QoS has an order of its own.
    for parity in [0, 1] {
        let expected: Vec<String> =
            (0..50).filter(|number| number % 2 == parity).map(|number| format!("queue/x {number}")).collect();
        let found: Vec<&String> = lines.iter().filter(|line| expected.contains(line)).collect();
        assert_eq!(found, expected.iter().collect::<Vec<_>>());
    }
    assert_eq!(lines.len(), 50);
    assert_eq!(subscribed(addr, &["-t", "kept/#"], 1, || {}), ["kept/a retained"]);
    std::thread::sleep(Duration::from_millis(200));
    let store = broker.stop();
    assert!(store.queues.values().all(|queue| queue.is_empty()), "everything was acknowledged");
}

#[test]
fn a_password_opens_and_a_wrong_one_is_refused_with_its_code() {
    if !installed("mosquitto_pub") {
        return;
    }
    let broker = Running::start(spec(vec![plain()]), MemoryStore::default());
    let addr = broker.addrs[0];
    published(addr, &["-u", "ann", "-P", "pw", "-t", "a", "-m", "1"]);
    for version in ["311", "5"] {
        let wrong = ["-V", version, "-u", "ann", "-P", "no", "-t", "a", "-m", "1"];
        let output = mosquitto("mosquitto_pub", addr, &wrong).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(!output.status.success() && (text.contains("not auth") || text.contains("bad user")), "{text}");
    }
    published(addr, &["-u", "ann", "-P", "pw", "-t", "a", "-m", "1"]);
    broker.stop();
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A CA, a server certificate for 127.0.0.1 and a client certificate with CN `device-7`.
fn certificates(folder: &Path) {
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl(
        folder,
        &[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca",
            "-days", "2",
        ],
    );
    for (name, subject) in [("server", "/CN=localhost"), ("client", "/CN=device-7")] {
        let (key, csr, pem) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        openssl(folder, &["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &csr, "-subj", subject]);
        openssl(
            folder,
            &[
                "x509",
                "-req",
                "-in",
                &csr,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-out",
                &pem,
                "-days",
                "2",
                "-extfile",
                "san",
            ],
        );
    }
}

#[test]
fn a_certificate_is_a_login_and_a_silent_peer_delays_nobody() {
    if !installed("mosquitto_pub") || !installed("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name);
    let tls = |client_ca| ListenerTls { cert: file("server.pem"), key: file("server.key"), client_ca };
    let listener = |client_ca| ListenerSpec { tls: Some(tls(client_ca)), ..plain() };
    let mut spec = spec(vec![listener(None), listener(Some(file("ca.pem")))]);
    spec.anonymous = None;
    let broker = Running::start(spec, MemoryStore::default());
    let (password, certificate) = (broker.addrs[0], broker.addrs[1]);
    let _silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(password).unwrap()).collect();
    let _silent_too = TcpStream::connect(certificate).unwrap();
    let ca = file("ca.pem").display().to_string();
    let started = Instant::now();
    for version in ["tlsv1.2", "tlsv1.3"] {
        let tls = ["--cafile", &ca, "--tls-version", version];
        published(password, &[&tls[..], &["-u", "ann", "-P", "pw", "-t", "a", "-m", "1", "-q", "1"]].concat());
        let (cert, key) = (file("client.pem").display().to_string(), file("client.key").display().to_string());
        let with = ["--cert", &cert, "--key", &key, "-t", "a", "-m", "1", "-q", "1", "-V", "5"];
        published(certificate, &[&tls[..], &with].concat());
        let without = mosquitto("mosquitto_pub", certificate, &[&tls[..], &["-t", "a", "-m", "1"]].concat()).output();
        assert!(!without.unwrap().status.success(), "no certificate, no entry");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "the silent peers' time limit is 5 s: {:?}", started.elapsed());
    broker.stop();
}

#[test]
fn a_connection_that_never_says_connect_is_closed() {
    let mut spec = spec(vec![plain()]);
    spec.limits.connect_timeout = Duration::from_millis(300);
    let broker = Running::start(spec, MemoryStore::default());
    let mut stream = TcpStream::connect(broker.addrs[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(&[0x10]).unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    broker.stop();
}

#[test]
fn paho_agrees_about_every_feature_it_can_see() {
    let python = std::env::var("FIELDGATE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = Command::new(&python).args(["-c", "import paho.mqtt"]).stderr(Stdio::null()).status();
    if !import.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no paho-mqtt in {python} (set FIELDGATE_TEST_PYTHON)");
        return;
    }
    let websocket = ListenerSpec { transport: ListenerTransport::WebSocket, ..plain() };
    let broker = Running::start(spec(vec![plain(), websocket]), MemoryStore::default());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/broker_paho.py");
    let ports: Vec<String> = broker.addrs.iter().map(|addr| addr.port().to_string()).collect();
    let output = Command::new(&python).arg(script).args(ports).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    broker.stop();
}
