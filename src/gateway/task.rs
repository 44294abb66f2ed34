//! The gateway's loop: waits for whatever happens first, tells the core, and does what the core says.

mod opening;
mod stopping;
mod swap;

use std::collections::BTreeMap;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::warn;

use self::opening::{boot_id, lock_state, open_store, uplink_dest_after, uplink_queues};
use super::core::{Core, Output};
use super::parts::{BusTask, UplinkTask};
use super::snapshot::{self, About, Detail};
use super::watchdog::Watchdog;
use crate::broker::task::{Events, Net};
use crate::broker::{Broker, Input, Read, Restored};
use crate::can;
use crate::clock::Now;
use crate::clocksync::{self, ClockState};
use crate::config::plan::Plan;
use crate::driver::BusEvent;
use crate::mapping::publish::Boot;
use crate::pulse::Pulse;
use crate::sample::BusId;
use crate::status;
use crate::status::snapshot::Snapshot;
use crate::status::topics::StatusTopics;
use crate::store::{DestId, Opened, Order, Space, StoreEvent, StoreHandle};
use crate::uplink::status::{UplinkControl, UplinkEvent};

const BUS_EVENTS: usize = 256;
const UPLINK_EVENTS: usize = 256;
const QUESTIONS: usize = 8;
/// Events taken in one turn before what they caused is sent: many small messages then share a write.
const EVENTS_A_TURN: usize = 256;
/// Bytes from clients in one turn, about: what they cause must fit into what a connection holds unwritten.
const BYTES_A_TURN: usize = 128 * 1024;
/// Messages in one read of a session's queue.
const LOAD_ROWS: usize = 512;
/// Status topics, and what of the buses and the store changed.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// In turns of `STATUS_EVERY`.
const SYS_EVERY: u32 = 10;

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
    /// With a broker only.
    net: Option<Net>,
    status: Option<JoinHandle<()>>,
    open_can: can::task::Open,
    store: StoreHandle,
    store_pulse: Pulse,
    next: Next,
    /// The uplinks' queues, by the uplinks' names.
    queues: BTreeMap<Arc<str>, DestId>,
    inbox: Senders,
    loaded: mpsc::Sender<Input>,
    turns: u32,
    watchdog: Watchdog,
    /// Held as long as the gateway runs.
    _lock: Option<File>,
}

/// The numbers to give next.
struct Next {
    bus: u32,
    uplink: u16,
    dest: u32,
}

#[derive(Clone)]
struct Senders {
    bus: mpsc::Sender<BusEvent>,
    uplink: mpsc::Sender<UplinkEvent>,
    question: mpsc::Sender<status::task::Ask>,
}

struct Receivers {
    bus: mpsc::Receiver<BusEvent>,
    uplink: mpsc::Receiver<UplinkEvent>,
    client: Events,
    loaded: mpsc::Receiver<Input>,
    question: mpsc::Receiver<status::task::Ask>,
    store: mpsc::Receiver<StoreEvent>,
    clock: watch::Receiver<ClockState>,
}

enum Event {
    Bus(BusEvent),
    Uplink(UplinkEvent),
    Client(Input),
    Store(StoreEvent),
    Question(status::task::Ask),
    Control(Control),
    Clock(ClockState),
    Status,
    Watchdog,
    Timeout,
}

impl Event {
    fn bytes(&self) -> usize {
        match self {
            Self::Client(Input::Bytes { data, .. }) => data.len(),
            Self::Client(_)
            | Self::Bus(_)
            | Self::Uplink(_)
            | Self::Store(_)
            | Self::Question(_)
            | Self::Control(_)
            | Self::Clock(_)
            | Self::Status
            | Self::Watchdog
            | Self::Timeout => 0,
        }
    }
}

/// Runs the plan until told to stop, or until nobody can tell. `ready` is called once everything was started.
/// Must run inside a `LocalSet`.
///
/// # Errors
/// What keeps it from starting: a port in use, a store of a newer version.
pub async fn run(plan: Plan, control: mpsc::Receiver<Control>, ready: impl FnOnce()) -> anyhow::Result<()> {
    run_on(plan, Rc::new(can::task::open), control, ready).await
}

/// As [`run`], with the CAN buses' sockets from `open_can` instead of the kernel's interfaces.
///
/// # Errors
/// As [`run`]'s.
pub async fn run_on(
    plan: Plan,
    open_can: can::task::Open,
    mut control: mpsc::Receiver<Control>,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let (mut gateway, mut receivers) = Gateway::start(plan, open_can).await?;
    let now = Now::read();
    let online = gateway.topics.presence(true);
    gateway.core.announce(now, vec![online]);
    gateway.act(now);
    gateway.about.ready = true;
    ready();
    let mut tick = interval(STATUS_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let at = gateway.core.next_timeout();
        let event = tokio::select! {
            event = receivers.next(&mut control, &mut tick, at) => event,
            () = gateway.watchdog.tick() => Some(Event::Watchdog),
        };
        let Some(event) = event else { break };
        let now = Now::read();
        let mut bytes = event.bytes();
        gateway.apply(now, event).await;
        for _ in 1..EVENTS_A_TURN {
            if bytes >= BYTES_A_TURN {
                break;
            }
            let Some(event) = receivers.at_once() else { break };
            bytes += event.bytes();
            gateway.apply(now, event).await;
        }
        gateway.act(now);
        // The sockets take what was sent before more is read: else whoever reads would look slow.
        tokio::task::yield_now().await;
    }
    gateway.stop(&mut receivers).await;
    Ok(())
}

impl Receivers {
    /// What happens next; `None`: the gateway is to stop.
    async fn next(
        &mut self,
        control: &mut mpsc::Receiver<Control>,
        tick: &mut tokio::time::Interval,
        at: Option<std::time::Instant>,
    ) -> Option<Event> {
        let at = at.map(Instant::from_std);
        let due = async { sleep_until(at.unwrap_or_else(far_off)).await };
        Some(tokio::select! {
            asked = control.recv() => match asked {
                None | Some(Control::Stop) => return None,
                Some(asked) => Event::Control(asked),
            },
            Some(event) = self.store.recv() => Event::Store(event),
            Some(event) = self.bus.recv() => Event::Bus(event),
            Some(event) = self.client.recv() => Event::Client(event),
            Some(event) = self.loaded.recv() => Event::Client(event),
            Some(event) = self.uplink.recv() => Event::Uplink(event),
            Some(ask) = self.question.recv() => Event::Question(ask),
            Ok(()) = self.clock.changed() => Event::Clock(*self.clock.borrow_and_update()),
            _ = tick.tick() => Event::Status,
            () = due, if at.is_some() => Event::Timeout,
        })
    }

    /// More of what comes in numbers, if it is there already; each source gets its share.
    fn at_once(&mut self) -> Option<Event> {
        let store = self.store.try_recv().ok().map(Event::Store);
        store
            .or_else(|| self.client.try_recv().ok().map(Event::Client))
            .or_else(|| self.bus.try_recv().ok().map(Event::Bus))
            .or_else(|| self.uplink.try_recv().ok().map(Event::Uplink))
    }
}

/// The branch that waits for it is off.
fn far_off() -> Instant {
    Instant::from_std(Now::read().mono) + STATUS_EVERY
}

impl Gateway {
    async fn start(plan: Plan, open_can: can::task::Open) -> anyhow::Result<(Self, Receivers)> {
        let now = Now::read();
        let boot = Boot::new(boot_id());
        let lock = lock_state(&plan.gateway.state_dir)?;
        let opened = open_store(&plan, &boot, now)?;
        let (net, client) = match &plan.broker {
            Some(broker) => {
                let (net, client) = Net::new(broker.limits);
                (Some(net), client)
            }
            None => (None, Events::none()),
        };
        let (bus_tx, bus) = mpsc::channel(BUS_EVENTS);
        let (uplink_tx, uplink) = mpsc::channel(UPLINK_EVENTS);
        let (question_tx, question) = mpsc::channel(QUESTIONS);
        let (loaded, loaded_rx) = mpsc::channel(QUESTIONS);
        let (clock_tx, clock) = watch::channel(ClockState::Unsynced);
        spawn(clocksync::task::run(clock_tx));

        let Opened { handle, pulse, events, next_seq, next_dest, destinations, kept, .. } = opened;
        let learnt = kept.get(&Space::Learnt).cloned().unwrap_or_default();
        let rows =
            kept.into_iter().flat_map(|(space, rows)| rows.into_iter().map(move |(key, value)| (space, key, value)));
        let restored = Restored { rows: rows.collect() };
        let id = plan.gateway.id.clone();
        let broker = plan.broker.clone().map(|spec| Broker::new(now, &id, spec, restored));
        let mut core = Core::new(boot, ClockState::Unsynced, next_seq, plan.store.commit_window, broker);
        core.restore_learnt(&learnt);
        let mut gateway = Self {
            core,
            about: About { gateway: id.clone(), started: now, ready: false },
            topics: StatusTopics::new(&id),
            buses: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            net,
            status: None,
            open_can,
            store: handle,
            store_pulse: pulse,
            next: Next { bus: 1, uplink: 1, dest: uplink_dest_after(&destinations, next_dest) },
            queues: uplink_queues(&destinations),
            inbox: Senders { bus: bus_tx, uplink: uplink_tx, question: question_tx },
            loaded,
            turns: 0,
            watchdog: Watchdog::from_environment(),
            plan: Arc::new(plan),
            _lock: lock,
        };
        let plan = gateway.plan.clone();
        gateway.listen(&plan).await?;
        gateway.start_parts(now, &plan);
        Ok((gateway, Receivers { bus, uplink, client, loaded: loaded_rx, question, store: events, clock }))
    }

    async fn apply(&mut self, now: Now, event: Event) {
        match event {
            Event::Bus(event) => self.core.bus(now, event),
            Event::Uplink(event) => self.core.uplink(now, event),
            Event::Client(input) => self.core.client(now, input),
            Event::Store(event) => self.core.store(now, event),
            Event::Timeout => self.core.handle_timeout(now),
            Event::Clock(state) => self.core.clock = state,
            Event::Status => self.tell_status(now),
            Event::Watchdog => self.look(now),
            Event::Question(ask) | Event::Control(Control::Snapshot(ask)) => {
                // Whoever asked may be gone.
                let _ = ask.send(snapshot::take(&self.core, &self.about, now, Detail::Points));
            }
            Event::Control(Control::Reload(plan, answer)) => {
                let done = self.reload(now, *plan).await.map_err(|error| format!("{error:#}"));
                let _ = answer.send(done);
            }
            Event::Control(Control::Stop) => {}
        }
    }

    /// Whether every part is alive.
    fn look(&mut self, now: Now) {
        let buses = self.buses.values().map(|task| (format!("bus {}", task.plan.name()), &task.pulse));
        let uplinks = self.uplinks.values().map(|task| (format!("uplink {}", task.spec.name), &task.pulse));
        let listeners = self.net.iter().flat_map(Net::pulses);
        let listeners = listeners.map(|(address, pulse)| (format!("the listener on {address}"), pulse));
        let store = [("the store's thread".to_owned(), &self.store_pulse)];
        self.watchdog.look(now, buses.chain(uplinks).chain(listeners).chain(store));
    }

    fn tell_status(&mut self, now: Now) {
        let snapshot = snapshot::take(&self.core, &self.about, now, Detail::Parts);
        self.watchdog.tell(&snapshot);
        let mut messages = Vec::new();
        self.topics.update(now, &snapshot, &mut messages);
        if self.turns.is_multiple_of(SYS_EVERY)
            && let Some(broker) = &self.core.broker
        {
            messages.extend(broker.sys_messages(now));
        }
        self.turns = self.turns.wrapping_add(1);
        self.core.announce(now, messages);
    }

    /// Swaps what differs. Nothing has changed where it fails.
    async fn reload(&mut self, now: Now, plan: Plan) -> anyhow::Result<()> {
        let fixed = plan.gateway == self.plan.gateway && plan.broker.is_some() == self.plan.broker.is_some();
        anyhow::ensure!(
            fixed,
            "gateway.id, gateway.state_dir and whether there is a [broker] cannot change while running: restart instead"
        );
        self.listen(&plan).await?;
        self.core.set_window(plan.store.commit_window);
        if let (Some(broker), Some(spec)) = (&mut self.core.broker, &plan.broker) {
            broker.reconfigure(now, spec.clone());
        }
        self.start_parts(now, &plan);
        self.core.drain(now);
        self.plan = Arc::new(plan);
        self.watchdog.forget();
        Ok(())
    }

    /// Does what the core wants done.
    fn act(&mut self, now: Now) {
        self.core.finish_turn(now);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Net(output) => {
                    if let Some(net) = &self.net {
                        // The core keeps back what is not the sockets'.
                        let _ = net.apply(output);
                    }
                }
                Output::Commit(batch) => {
                    // The channel holds as many batches as the core has under way.
                    if self.store.try_commit(batch).is_err() {
                        warn!("the store's thread has ended: nothing more is stored");
                    }
                }
                Output::Load { dest, read, max_bytes } => self.load(dest, read, max_bytes),
                Output::Command { bus, command } => {
                    let refused = match self.buses.get(&bus) {
                        Some(task) => task.commands.try_send(command.clone()).is_err(),
                        None => true,
                    };
                    if refused {
                        self.core.undeliverable(now, &command);
                    }
                }
                Output::AcknowledgeUpstream { uplink, token } => {
                    if let Some(task) = self.uplinks.get(&uplink) {
                        // Full or gone: unacknowledged, it is sent again after the next connect.
                        let _ = task.control.try_send(UplinkControl::Acknowledge(token));
                    }
                }
            }
        }
    }

    fn load(&self, dest: DestId, read: Read, max_bytes: usize) {
        let (store, loaded) = (self.store.clone(), self.loaded.clone());
        spawn(async move {
            let rows = store.read(dest, read.after, LOAD_ROWS, max_bytes, Order::Oldest).await;
            let more = !rows.is_empty();
            // The loop may have ended.
            let _ = loaded.send(Input::Loaded { dest, read, rows, more }).await;
        });
    }
}

#[allow(clippy::disallowed_methods, reason = "the gateway starts the tasks")]
fn spawn(task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio::task::spawn_local(task)
}
