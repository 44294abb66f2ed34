//! The gateway's loop: waits for whatever happens first, tells the core, and does what the core says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use super::core::{Core, Output};
use super::parts::{self, BusTask, UplinkTask};
use super::queue::StoreQueue;
use super::snapshot::{self, About, Detail};
use crate::broker::api::{FIRST_SESSION_DEST, Input, Restored};
use crate::broker::core::Broker;
use crate::broker::task::Front;
use crate::clock::Now;
use crate::clocksync::{self, ClockState};
use crate::command::Command;
use crate::config::plan::{BusPlan, Plan};
use crate::driver::BusEvent;
use crate::hub::routes::Uplink;
use crate::mapping::publish::Boot;
use crate::sample::BusId;
use crate::status::snapshot::Snapshot;
use crate::status::topics::StatusTopics;
use crate::store::writer::{self, Note, Opened, StoreHandle};
use crate::store::{Batch, DestId, Op, StoreEvent};
use crate::uplink::spec::UplinkSpec;
use crate::uplink::status::{UplinkControl, UplinkEvent};

const BUS_EVENTS: usize = 256;
const UPLINK_EVENTS: usize = 256;
const CLIENT_EVENTS: usize = 1024;
const QUESTIONS: usize = 8;
/// Events taken in one turn before what they caused is sent: many small messages then share a write.
const EVENTS_A_TURN: usize = 256;
/// Status topics, and what of the buses and the store changed.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// In turns of `STATUS_EVERY`.
const SYS_EVERY: u32 = 10;
/// The parts of a clean stop; together under the five seconds that the contract gives.
const BUSES_STOP_WITHIN: Duration = Duration::from_millis(1000);
const STORE_FLUSH_WITHIN: Duration = Duration::from_millis(1000);
const UPLINKS_STOP_WITHIN: Duration = Duration::from_millis(1500);
const STORE_CLOSE_WITHIN: Duration = Duration::from_millis(1000);

/// What others ask of the running gateway.
pub enum Control {
    /// Swap to this plan; the answer says what was not possible, in which case the running one stays as far as it can.
    Reload(Box<Plan>, oneshot::Sender<Result<(), String>>),
    Snapshot(oneshot::Sender<Snapshot>),
    Stop,
}

/// A gateway that was started.
struct Gateway {
    core: Core,
    plan: Arc<Plan>,
    about: About,
    topics: StatusTopics,
    buses: BTreeMap<BusId, BusTask>,
    uplinks: BTreeMap<u16, UplinkTask>,
    front: Front,
    status: Option<JoinHandle<()>>,
    store: StoreHandle,
    next_bus: u32,
    next_uplink: u16,
    next_dest: u32,
    queues: Vec<(DestId, Arc<str>)>,
    to_loop: Senders,
}

#[derive(Clone)]
struct Senders {
    bus: mpsc::Sender<BusEvent>,
    uplink: mpsc::Sender<UplinkEvent>,
    client: mpsc::Sender<Input>,
    question: mpsc::Sender<crate::status::task::Ask>,
}

struct Receivers {
    bus: mpsc::Receiver<BusEvent>,
    uplink: mpsc::Receiver<UplinkEvent>,
    client: mpsc::Receiver<Input>,
    question: mpsc::Receiver<crate::status::task::Ask>,
    store: mpsc::Receiver<StoreEvent>,
    clock: watch::Receiver<ClockState>,
}

enum Event {
    Bus(BusEvent),
    Uplink(UplinkEvent),
    Client(Input),
    Store(StoreEvent),
    Question(crate::status::task::Ask),
    Control(Control),
    Clock(ClockState),
    Status,
    Timeout,
}

/// Runs the plan until told to stop. `ready` is called once everything was started. Must run inside a `LocalSet`.
///
/// # Errors
/// What keeps it from starting: a port in use, a state folder that cannot be written, a store of a newer version.
pub async fn run(plan: Plan, mut control: mpsc::Receiver<Control>, ready: impl FnOnce()) -> anyhow::Result<()> {
    let (mut gateway, mut receivers) = Gateway::start(plan).await?;
    gateway.about.ready = true;
    let online = gateway.topics.presence(true);
    let now = Now::read();
    gateway.core.announce(now, vec![online]);
    gateway.flush_outputs(now);
    ready();
    gateway.turn_until_stop(&mut receivers, &mut control).await;
    gateway.stop(&mut receivers).await;
    Ok(())
}
