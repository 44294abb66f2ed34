//! The way of a message: command, routing, store, sessions, acknowledgement.

use std::sync::Arc;

use super::{BusSide, Core, Haste, Output, Source, Waiter};
use crate::broker::{Output as BrokerOutput, Refusal, Route};
use crate::clock::Now;
use crate::command::{Command, Outcome};
use crate::mapping::command::{Answer, Arrival, Known};
use crate::message::{Delivery, Message, Origin, Qos};
use crate::sample::{BusId, PointId};
use crate::store::{DestId, Durability, Op, Seq};

impl Core {
    pub(super) fn outcome(&mut self, now: Now, id: BusId, outcome: &Outcome) {
        self.with_bus(now, id, |bus, now, _, answers| {
            bus.commands.outcome(now, outcome, answers);
            Vec::new()
        });
    }

    /// Does something with a bus and sends on what comes of it; whoever ends the turn drains the broker.
    pub(super) fn with_bus(
        &mut self,
        now: Now,
        id: BusId,
        with: impl FnOnce(&mut BusSide, Now, &mut Vec<Message>, &mut Vec<Answer>) -> Vec<Command>,
    ) {
        let Some(bus) = self.buses.get_mut(&id) else { return };
        let (mut messages, mut answers) = (Vec::new(), Vec::new());
        let commands = with(bus, now, &mut messages, &mut answers);
        bus.refresh_timeout();
        self.outputs.extend(commands.into_iter().map(|command| Output::Command { bus: id, command }));
        for message in messages {
            self.publish(now, &Arc::new(message), Source::SAMPLE, None);
        }
        self.answer(now, answers);
    }

    pub(super) fn answer(&mut self, now: Now, answers: Vec<Answer>) {
        for Answer { message, behalf } in answers {
            let message = Arc::new(message);
            match behalf {
                // Upstream chose the topic: the answer goes there, and is nobody's business here.
                Some(Origin::Uplink(id)) => {
                    if let Some(dest) = self.uplinks.get(&id).map(|uplink| uplink.dest) {
                        // A full batch is counted there; the result has its own topic as well.
                        let _ = self.append(now, &message, Origin::Gateway, vec![dest]);
                    }
                }
                Some(peer @ Origin::Session(_)) => {
                    if self.broker.as_ref().is_some_and(|broker| broker.may_publish(peer, &message.topic)) {
                        self.publish(now, &message, Source::ANSWER, None);
                    }
                }
                None | Some(Origin::Gateway) => self.publish(now, &message, Source::ANSWER, None),
            }
        }
    }

    pub(super) fn drain_broker(&mut self, now: Now) {
        loop {
            self.take_outputs(now);
            if self.waiting.is_empty() {
                return;
            }
            // Only now does the open batch hold everything that they wait for. One that has nothing to wait for may make the broker go on.
            for waiter in std::mem::take(&mut self.waiting) {
                let urgent = !matches!(&waiter, Waiter::Sessions { haste: Haste::Sample, .. });
                if let Some(waiter) = self.committer.wait(waiter, urgent) {
                    self.tell(now, waiter, Ok(()));
                }
            }
        }
    }

    fn take_outputs(&mut self, now: Now) {
        while let Some(output) = self.broker.as_mut().and_then(|broker| broker.poll_output(now)) {
            match output {
                BrokerOutput::Publish { message, origin, delivery, ack } => {
                    let source = Source { origin, delivery, haste: Haste::Urgent };
                    self.publish(now, &message, source, ack.map(Waiter::Client));
                }
                BrokerOutput::Store(op) => self.push(now, op),
                BrokerOutput::Barrier(token) => self.waiting.push(Waiter::Client(token)),
                BrokerOutput::Load { dest, read, max_bytes } => {
                    self.waiting.push(Waiter::Load { dest, read, max_bytes });
                }
                net @ (BrokerOutput::Send { .. }
                | BrokerOutput::Close { .. }
                | BrokerOutput::Read { .. }
                | BrokerOutput::CheckPassword { .. }) => {
                    self.outputs.push_back(Output::Net(net));
                }
            }
        }
    }

    /// The one way of every message: store, local sessions, acknowledgement, command.
    pub(super) fn publish(&mut self, now: Now, message: &Arc<Message>, source: Source, waiter: Option<Waiter>) {
        let Source { origin, delivery, haste } = source;
        let set = if origin == Origin::Gateway { None } else { self.routes.point(&message.topic) };
        // A retained command is refused, and not kept for the next one who asks either (P4).
        let passed_on = match set {
            Some(_) if message.retain => &Arc::new(Message { retain: false, ..Message::clone(message) }),
            Some(_) | None => message,
        };
        self.work.messages += 1;
        let mut to = Vec::new();
        self.routes.upstream(passed_on, origin, &mut to);
        let route = self.broker.as_mut().map(|broker| broker.route(now, passed_on, origin));
        let mut commits = !to.is_empty();
        if let Some(route) = &route {
            to.extend(route.durable());
            commits |= route.needs_commit();
        }
        let stored = if to.is_empty() { Ok(None) } else { self.append(now, passed_on, origin, to) };
        if let (Some(broker), Some(route)) = (&mut self.broker, &route) {
            broker.deliver_live(now, route, passed_on);
        }
        if let Some(route) = route
            && !route.durable().is_empty()
        {
            match stored {
                // Before the acknowledgement of its publisher, which waits for the same commit.
                Ok(Some(seq)) => self.waiting.push(Waiter::Sessions { route, message: passed_on.clone(), seq, haste }),
                Ok(None) | Err(_) => self.deliver_unstored(now, &route, passed_on),
            }
        }
        match (waiter, stored) {
            (None, _) => {}
            (Some(waiter), Ok(_)) if commits => self.waiting.push(waiter),
            (Some(waiter), Ok(_)) => self.tell(now, waiter, Ok(())),
            (Some(waiter), Err(refusal)) => self.tell(now, waiter, Err(refusal)),
        }
        if let Some(point) = set {
            self.command(now, point, message, origin, delivery.as_ref());
        }
    }

    /// Durable sessions that are connected still get what the disk did not take.
    pub(super) fn deliver_unstored(&mut self, now: Now, route: &Route, message: &Arc<Message>) {
        if let Some(broker) = &mut self.broker {
            broker.deliver_stored(now, route, message, None);
        }
    }

    pub(super) fn append(
        &mut self,
        now: Now,
        message: &Arc<Message>,
        origin: Origin,
        to: Vec<DestId>,
    ) -> Result<Option<Seq>, Refusal> {
        let waited_for = origin != Origin::Gateway && message.qos != Qos::AtMostOnce;
        let durability = if waited_for { Durability::Acknowledged } else { Durability::Sample };
        let seq = self.next_seq;
        let op = Op::Append { seq, at: now.wall, message: message.clone(), to: to.into(), durability };
        if self.committer.push(now.mono, op).is_err() {
            self.work.unstored += 1;
            return if waited_for { Err(Refusal::Quota) } else { Ok(None) };
        }
        self.next_seq += 1;
        Ok(Some(seq))
    }

    pub(super) fn command(
        &mut self,
        now: Now,
        point: PointId,
        message: &Message,
        origin: Origin,
        delivery: Option<&Delivery>,
    ) {
        self.work.commands += 1;
        self.with_bus(now, point.bus, |bus, now, _, answers| {
            let newest = bus.publisher.newest(point.index);
            let known = newest.and_then(|newest| Some(Known { raw: newest.raw.as_ref()?, received: newest.received }));
            let arrival = Arrival { index: point.index, message, origin, delivery };
            bus.commands.handle(now, arrival, known, answers).into_iter().collect()
        });
    }

    /// Only an append can find the batch full, and those go through `append`.
    pub(super) fn push(&mut self, now: Now, op: Op) {
        if self.committer.push(now.mono, op).is_err() {
            self.work.unstored += 1;
        }
    }

    pub(super) fn settle(&mut self, now: Now, ticket: u64, result: Result<(), Refusal>) {
        for waiter in self.committer.settled(ticket) {
            self.tell(now, waiter, result);
        }
    }

    pub(super) fn tell(&mut self, now: Now, waiter: Waiter, result: Result<(), Refusal>) {
        match waiter {
            Waiter::Sessions { route, message, seq, .. } => {
                if let Some(broker) = &mut self.broker {
                    broker.deliver_stored(now, &route, &message, result.is_ok().then_some(seq));
                }
            }
            Waiter::Client(token) => {
                if let Some(broker) = &mut self.broker {
                    broker.acknowledge(now, token, result);
                }
            }
            // Without an acknowledgement the upstream broker keeps it, and sends it again in a later session.
            Waiter::Upstream { uplink, token } if result.is_ok() => {
                self.outputs.push_back(Output::AcknowledgeUpstream { uplink, token });
            }
            Waiter::Upstream { .. } => {}
            Waiter::Load { dest, read, max_bytes } => {
                self.outputs.push_back(Output::Load { dest, read, max_bytes });
            }
        }
    }
}
