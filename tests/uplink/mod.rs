//! What the uplink's scenario tests share: a queue in memory, a specification, a running uplink.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fieldgate::clock::UnixMs;
use fieldgate::message::{Message, Qos};
use fieldgate::store::{QueueSpec, Seq, Stored, WhenFull};
use fieldgate::uplink::queue::Queue;
use fieldgate::uplink::spec::{Drain, ProtocolVersion, Scheme, UplinkSpec, UplinkUrl};
use fieldgate::uplink::status::{UplinkControl, UplinkEvent, UplinkState, UplinkStatus};
use fieldgate::uplink::task;
use tokio::sync::{mpsc, watch};

/// The store of these tests: a map in memory.
#[derive(Clone)]
pub(crate) struct MemoryQueue {
    rows: Rc<RefCell<BTreeMap<Seq, Stored>>>,
    committed: Rc<watch::Sender<Seq>>,
}

impl MemoryQueue {
    pub(crate) fn new() -> Self {
        Self { rows: Rc::default(), committed: Rc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn push(&self, message: Message) -> Seq {
        let seq = *self.committed.borrow() + 1;
        let row = Stored { seq, boot: "k3f9".into(), at: UnixMs(0), message: Arc::new(message) };
        self.rows.borrow_mut().insert(seq, row);
        self.committed.send_replace(seq);
        seq
    }

    /// `count` messages over `topics` topics below `root`, the number as payload.
    pub(crate) fn push_many(&self, root: &str, count: usize, topics: usize) {
        for n in 0..count {
            let topic = format!("{root}/{}", n % topics);
            self.push(Message::new(topic, format!("{n:0>100}").into_bytes(), Qos::AtLeastOnce, false));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.borrow().len()
    }
}

impl Queue for MemoryQueue {
    async fn read(&self, after: Option<Seq>, max_messages: usize, _max_bytes: usize) -> Vec<Stored> {
        let from = after.map_or(0, |after| after + 1);
        self.rows.borrow().range(from..).take(max_messages).map(|(_, row)| row.clone()).collect()
    }

    async fn deliver(&self, seqs: Vec<Seq>) {
        for seq in seqs {
            self.rows.borrow_mut().remove(&seq);
        }
    }

    fn committed(&self) -> watch::Receiver<Seq> {
        self.committed.subscribe()
    }
}

pub(crate) fn spec(port: u16, version: ProtocolVersion) -> UplinkSpec {
    UplinkSpec {
        name: "cloud".into(),
        url: UplinkUrl { scheme: Scheme::Mqtt, host: "127.0.0.1".into(), port, path: "/mqtt".into() },
        version,
        client_id: "pi-1".into(),
        username: None,
        password_file: None,
        ca: None,
        client_cert: None,
        forward: vec!["#".into()],
        accept: vec!["plant/pi-1/+/+/set".into()],
        prefix: "site/".into(),
        qos: Qos::AtLeastOnce,
        queue: QueueSpec { max_bytes: 1 << 30, max_age_secs: None, when_full: WhenFull::DropOldest },
        drain: Drain::OldestFirst,
        drain_per_sec: 1_000_000,
        status_topic: "fieldgate/pi-1/status".into(),
    }
}

/// An uplink that runs on this thread's `LocalSet`.
pub(crate) struct Running {
    pub(crate) events: mpsc::Receiver<UplinkEvent>,
    pub(crate) control: mpsc::Sender<UplinkControl>,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(spec: UplinkSpec, queue: MemoryQueue) -> Self {
        let (event_sender, events) = mpsc::channel(16);
        let (control, control_receiver) = mpsc::channel(16);
        let pulse = fieldgate::pulse::Pulse::new(fieldgate::clock::Now::read());
        let task = tokio::task::spawn_local(task::run(spec, 7, queue, event_sender, control_receiver, pulse));
        Self { events, control, task }
    }

    /// The first status for which `wanted` holds; fails after `within`.
    pub(crate) async fn status(&mut self, within: Duration, wanted: impl Fn(&UplinkStatus) -> bool) -> UplinkStatus {
        let mut last = None;
        let found = tokio::time::timeout(within, async {
            while let Some(event) = self.events.recv().await {
                if let UplinkEvent::Status(7, status) = event {
                    if wanted(&status) {
                        return Some(status);
                    }
                    last = Some(status);
                }
            }
            None
        })
        .await;
        found.ok().flatten().unwrap_or_else(|| panic!("not seen within {within:?}; last: {last:?}"))
    }

    pub(crate) async fn connected(&mut self) -> UplinkStatus {
        self.status(Duration::from_secs(20), |status| status.state == UplinkState::Connected).await
    }

    /// Closes the control channel; the uplink must be gone within two seconds.
    pub(crate) async fn stop(self) {
        drop(self.control);
        tokio::time::timeout(Duration::from_millis(2300), self.task).await.expect("it stops in time").unwrap();
    }
}

pub(crate) fn on_one_thread<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Waits until `done` holds, looking every few milliseconds.
pub(crate) async fn until(within: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(within, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(waited.is_ok(), "{what}: not within {within:?}");
}

pub(crate) fn spec_with(spec: UplinkSpec, qos: Qos) -> UplinkSpec {
    UplinkSpec { qos, ..spec }
}
