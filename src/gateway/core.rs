//! The gateway as a state machine: joins mapping, routing, broker and group commit. No socket, no clock, no spawn.

mod publish;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::warn;

use crate::broker::{AckToken, Broker, Input, Output as BrokerOutput, Read, Refusal, Route};
use crate::clock::Now;
use crate::clocksync::ClockState;
use crate::command::{Command, NotDone, Outcome};
use crate::config::plan::BusPlan;
use crate::driver::{BusEvent, BusStatus};
use crate::hub::commit::Committer;
use crate::hub::routes::{Routes, Uplink};
use crate::mapping::command::{CommandIds, Commands};
use crate::mapping::publish::{Boot, Publisher};
use crate::message::{Delivery, Message, Origin};
use crate::sample::{BusId, Fault, PointId};
use crate::status::snapshot::Work;
use crate::store::{Batch, DestId, Op, Seq, Space, StoreEvent, StoreStatus};
use crate::uplink::inbox::Token;
use crate::uplink::status::{UplinkEvent, UplinkStatus};

/// What the task is to do next.
#[derive(Debug)]
pub enum Output {
    /// For the broker's sockets.
    Net(BrokerOutput),
    /// Read a session's queue.
    Load {
        dest: DestId,
        read: Read,
        max_bytes: usize,
    },
    Commit(Batch),
    /// Where the bus has no room for it, [`Core::undeliverable`] answers the command.
    Command {
        bus: BusId,
        command: Command,
    },
    AcknowledgeUpstream {
        uplink: u16,
        token: Token,
    },
}

/// Whether somebody waits for what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Haste {
    /// Its commit waits for company (P2).
    Sample,
    Urgent,
}

/// Where a message comes from, and how.
#[derive(Clone, Debug)]
struct Source {
    origin: Origin,
    delivery: Option<Delivery>,
    haste: Haste,
}

impl Source {
    /// Samples and the status topics.
    const SAMPLE: Self = Self { origin: Origin::Gateway, delivery: None, haste: Haste::Sample };
    /// The result of a command.
    const ANSWER: Self = Self { origin: Origin::Gateway, delivery: None, haste: Haste::Urgent };
}

/// What happens once the store has what was appended before.
#[derive(Debug)]
enum Waiter {
    /// Durable sessions are given the message: its number is then nobody else's, whatever happens.
    Sessions {
        route: Route,
        message: Arc<Message>,
        seq: Seq,
        haste: Haste,
    },
    Client(AckToken),
    Upstream {
        uplink: u16,
        token: Token,
    },
    /// A session's queue is read once everything appended so far can be: what it was told of is then there.
    Load {
        dest: DestId,
        read: Read,
        max_bytes: usize,
    },
}

/// One bus of the run.
pub(super) struct BusSide {
    pub(super) plan: Arc<BusPlan>,
    pub(super) publisher: Publisher,
    commands: Commands,
    pub(super) status: Option<BusStatus>,
    /// When its mapping has something to do; kept, because asking walks over all points.
    timeout: Option<Instant>,
}

pub(super) struct UplinkSide {
    pub(super) name: Arc<str>,
    pub(super) dest: DestId,
    pub(super) status: Option<UplinkStatus>,
}

pub struct Core {
    pub(super) boot: Boot,
    pub(super) clock: ClockState,
    ids: CommandIds,
    pub(super) buses: BTreeMap<BusId, BusSide>,
    pub(super) uplinks: BTreeMap<u16, UplinkSide>,
    /// By the bus's name, what its driver knows of its devices.
    learnt: BTreeMap<Arc<str>, Bytes>,
    pub(super) broker: Option<Broker>,
    routes: Routes,
    committer: Committer<Waiter>,
    next_seq: Seq,
    pub(super) store: Option<StoreStatus>,
    pub(super) work: Work,
    /// Those who are told after the commit of what this turn brought.
    waiting: Vec<Waiter>,
    outputs: VecDeque<Output>,
}

impl Core {
    /// `next_seq` is the store's; `window` the longest that a sample waits for its commit.
    pub fn new(boot: Boot, clock: ClockState, next_seq: Seq, window: Duration, broker: Option<Broker>) -> Self {
        Self {
            boot,
            clock,
            ids: CommandIds::default(),
            buses: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            learnt: BTreeMap::new(),
            broker,
            routes: Routes::default(),
            committer: Committer::new(window),
            next_seq,
            store: None,
            work: Work::default(),
            waiting: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// What was kept of what drivers learnt, by the bus's name.
    pub fn restore_learnt(&mut self, rows: &[(Bytes, Bytes)]) {
        let named = |(name, kept): &(Bytes, Bytes)| Some((std::str::from_utf8(name).ok()?.into(), kept.clone()));
        self.learnt.extend(rows.iter().filter_map(named));
    }

    /// What a bus of this name knew of its devices.
    pub fn learnt(&self, bus: &str) -> Option<Bytes> {
        self.learnt.get(bus).cloned()
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Ends a turn: hands the store what is due.
    pub fn finish_turn(&mut self, now: Now) {
        while let Some(batch) = self.committer.take(now.mono) {
            self.outputs.push_back(Output::Commit(batch));
        }
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        let buses = self.buses.values().filter_map(|bus| bus.timeout).min();
        let broker = self.broker.as_ref().and_then(Broker::next_timeout);
        [buses, broker, self.committer.next_timeout()].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Now) {
        let due: Vec<BusId> = self
            .buses
            .iter()
            .filter(|(_, bus)| bus.timeout.is_some_and(|at| at <= now.mono))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.with_bus(now, id, |bus, now, messages, answers| {
                bus.publisher.handle_timeout(now, messages);
                bus.commands.handle_timeout(now, answers)
            });
        }
        if let Some(broker) = &mut self.broker {
            broker.handle_timeout(now);
        }
        self.drain_broker(now);
    }

    /// Something happened on a connection.
    pub fn client(&mut self, now: Now, input: Input) {
        if let Some(broker) = &mut self.broker {
            broker.handle(now, input);
            self.drain_broker(now);
        }
    }

    pub fn bus(&mut self, now: Now, event: BusEvent) {
        match event {
            BusEvent::Samples(id, samples) => {
                self.work.samples += samples.len() as u64;
                let clock = self.clock;
                self.with_bus(now, id, |bus, now, messages, _| {
                    for sample in &samples {
                        bus.publisher.sample(now, clock, sample, messages);
                    }
                    Vec::new()
                });
                self.drain_broker(now);
            }
            BusEvent::Outcome(id, outcome) => {
                self.outcome(now, id, &outcome);
                self.drain_broker(now);
            }
            BusEvent::Learnt(id, kept) => {
                let Some(name) = self.buses.get(&id).map(|bus| bus.plan.name().clone()) else { return };
                let key = Bytes::copy_from_slice(name.as_bytes());
                self.push(now, Op::Put { space: Space::Learnt, key, value: kept.clone() });
                self.learnt.insert(name, kept);
            }
            BusEvent::Status(id, status) => {
                if let Some(bus) = self.buses.get_mut(&id) {
                    bus.status = Some(status);
                }
            }
        }
    }

    pub fn uplink(&mut self, now: Now, event: UplinkEvent) {
        match event {
            UplinkEvent::Message { uplink, message, token } => {
                let waiter = Waiter::Upstream { uplink, token };
                // Redelivery cannot come: the connection upstream starts clean.
                let source = Source { origin: Origin::Uplink(uplink), delivery: None, haste: Haste::Urgent };
                self.publish(now, &Arc::new(message), source, Some(waiter));
                self.drain_broker(now);
            }
            UplinkEvent::Status(id, status) => {
                if let Some(uplink) = self.uplinks.get_mut(&id) {
                    uplink.status = Some(status);
                }
            }
        }
    }

    pub fn store(&mut self, now: Now, event: StoreEvent) {
        match event {
            StoreEvent::Committed { ticket } => self.settle(now, ticket, Ok(())),
            StoreEvent::Refused { ticket, reason } => {
                warn!(%reason, "the store refused a batch: what somebody waits for in it is not acknowledged");
                self.settle(now, ticket, Err(Refusal::Quota));
            }
            StoreEvent::Dropped { dest, messages, bytes } => {
                warn!(queue = dest.0, messages, bytes, "a queue reached its bound: messages were dropped");
            }
            StoreEvent::Status(status) => self.store = Some(status),
        }
        self.drain_broker(now);
    }

    /// A command that its bus had no room for, or whose bus is gone.
    pub fn undeliverable(&mut self, now: Now, command: &Command) {
        let outcome = Outcome { id: command.id, result: Err(NotDone::Fault(Fault::Busy)) };
        self.outcome(now, command.point.bus, &outcome);
        self.drain_broker(now);
    }

    /// Publishes what the gateway itself has to say.
    pub fn announce(&mut self, now: Now, messages: Vec<Message>) {
        for message in messages {
            self.publish(now, &Arc::new(message), Source::SAMPLE, None);
        }
        self.drain_broker(now);
    }

    pub fn add_bus(&mut self, id: BusId, plan: Arc<BusPlan>) {
        let rules: Arc<[_]> = plan.rules.clone().into();
        for (index, rule) in (0u32..).zip(rules.iter()) {
            self.routes.add_point(&rule.topic, PointId { bus: id, index });
        }
        let publisher = Publisher::new(rules.clone(), self.boot.clone());
        let commands = Commands::new(id, rules, self.ids.clone());
        self.buses.insert(id, BusSide { plan, publisher, commands, status: None, timeout: None });
    }

    /// Answers every command that still waits for this bus.
    pub fn remove_bus(&mut self, now: Now, id: BusId) {
        let Some(mut bus) = self.buses.remove(&id) else { return };
        let mut answers = Vec::new();
        bus.commands.close(now, &mut answers);
        for rule in &bus.plan.rules {
            self.routes.remove_point(&rule.topic);
        }
        self.answer(now, answers);
        self.drain_broker(now);
    }

    /// Makes the uplink's queue known to the store and its topics to the routing.
    pub fn add_uplink(&mut self, now: Now, name: Arc<str>, route: Uplink, open: Op) {
        self.push(now, open);
        self.uplinks.insert(route.id, UplinkSide { name, dest: route.dest, status: None });
        self.routes.add_uplink(route);
    }

    pub fn remove_uplink(&mut self, id: u16) {
        self.routes.remove_uplink(id);
        self.uplinks.remove(&id);
    }

    /// Gives up a queue and what it holds: its uplink is no longer in the configuration.
    pub fn close_queue(&mut self, now: Now, dest: DestId) {
        self.push(now, Op::CloseDestination { dest });
    }

    pub fn set_window(&mut self, window: Duration) {
        self.committer.set_window(window);
    }

    pub fn broker_mut(&mut self) -> Option<&mut Broker> {
        self.broker.as_mut()
    }

    /// Takes what the broker was made to do outside of a turn's own events.
    pub fn drain(&mut self, now: Now) {
        self.drain_broker(now);
    }

    /// Everything that is not at the store yet, for a clean stop; call until there is nothing and [`Core::is_stored`].
    pub fn flush(&mut self) -> Option<Batch> {
        self.committer.flush()
    }

    /// Whether the store has everything, and has said so.
    pub fn is_stored(&self) -> bool {
        self.committer.is_idle()
    }
}

impl BusSide {
    fn refresh_timeout(&mut self) {
        self.timeout = [self.publisher.next_timeout(), self.commands.next_timeout()].into_iter().flatten().min();
    }
}

#[cfg(test)]
mod tests;
