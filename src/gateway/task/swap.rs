//! Makes what runs beside the loop what a plan says: at the start, and at each reload.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::super::parts;
use super::super::queue::StoreQueue;
use super::{Gateway, spawn};
use crate::clock::Now;
use crate::config::plan::{BusPlan, Plan};
use crate::hub::routes::Uplink;
use crate::message::{Message, Qos};
use crate::sample::BusId;
use crate::status;
use crate::store::{DestId, Op};
use crate::uplink::spec::UplinkSpec;

impl Gateway {
    /// Binds what is to be bound: the only part of a start or a reload that can fail. Nothing has changed where it does.
    pub(super) async fn listen(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let same_page = self.status.is_some() && plan.status == self.plan.status;
        let page = if same_page { None } else { self.bind_page(plan.status).await? };
        if let (Some(net), Some(broker)) = (&mut self.net, &plan.broker)
            && let Err(failure) = net.configure(&broker.listeners, broker.limits).await
        {
            drop(page);
            self.serve_page_again().await;
            return Err(failure.into());
        }
        if same_page {
            return Ok(());
        }
        let page = page.map(|(bind, listener)| {
            info!(page = %format!("http://{bind}/"), "status page");
            spawn(status::task::run(listener, self.inbox.question.clone()))
        });
        if let Some(old) = std::mem::replace(&mut self.status, page) {
            old.abort();
        }
        Ok(())
    }

    /// The status page's new address. The one on the same port gives way, and comes back where that was in vain.
    async fn bind_page(&mut self, bind: Option<SocketAddr>) -> anyhow::Result<Option<(SocketAddr, TcpListener)>> {
        let Some(bind) = bind else { return Ok(None) };
        if self.plan.status.is_some_and(|old| old.port() == bind.port())
            && let Some(old) = self.status.take()
        {
            old.abort();
            // It is gone once the task has seen it.
            let _ = old.await;
        }
        match TcpListener::bind(bind).await {
            Ok(listener) => Ok(Some((bind, listener))),
            Err(failure) => {
                self.serve_page_again().await;
                Err(failure).with_context(|| format!("cannot bind {bind} for [status]; choose another port"))
            }
        }
    }

    async fn serve_page_again(&mut self) {
        let Some(bind) = self.plan.status.filter(|_| self.status.is_none()) else { return };
        match TcpListener::bind(bind).await {
            Ok(listener) => self.status = Some(spawn(status::task::run(listener, self.inbox.question.clone()))),
            Err(failure) => warn!(%bind, "the status page is lost: {failure}"),
        }
    }

    /// Makes the buses and uplinks what the plan says: the same ones go on, untouched.
    pub(super) fn start_parts(&mut self, now: Now, plan: &Plan) {
        self.swap_buses(now, &plan.buses);
        self.swap_uplinks(now, &plan.uplinks);
    }

    pub(super) fn swap_buses(&mut self, now: Now, wanted: &[BusPlan]) {
        let mut ended: BTreeMap<Arc<str>, JoinHandle<()>> = BTreeMap::new();
        let mut forgotten: BTreeSet<Arc<str>> = BTreeSet::new();
        for id in parts::unwanted(&self.buses, |task| wanted.contains(&task.plan)) {
            let Some(task) = self.buses.remove(&id) else { continue };
            info!(bus = %task.plan.name(), "bus stops");
            self.core.remove_bus(now, id);
            forgotten.extend(task.plan.rules.iter().filter(|rule| rule.retain).map(|rule| rule.topic.clone()));
            ended.insert(task.plan.name().clone(), task.handle);
        }
        for plan in wanted {
            if self.buses.values().any(|task| *task.plan == *plan) {
                continue;
            }
            let id = BusId(self.next.bus);
            self.next.bus += 1;
            let plan = Arc::new(plan.clone());
            self.core.add_bus(id, plan.clone());
            let before = ended.remove(plan.name());
            let learnt = self.core.learnt(plan.name());
            let task = parts::start_bus(now, plan, learnt, id, self.inbox.bus.clone(), self.open_can.clone(), before);
            self.buses.insert(id, task);
        }
        for rule in wanted.iter().flat_map(|plan| &plan.rules) {
            forgotten.remove(&rule.topic);
        }
        // Nobody who subscribes later is to take the last value of a point that is no more for a live one.
        let cleared = forgotten.iter().map(|topic| Message::new(&**topic, "", Qos::AtLeastOnce, true));
        self.core.announce(now, cleared.collect());
    }

    pub(super) fn swap_uplinks(&mut self, now: Now, wanted: &[UplinkSpec]) {
        let mut ended: BTreeMap<Arc<str>, JoinHandle<()>> = BTreeMap::new();
        for id in parts::unwanted(&self.uplinks, |task| wanted.contains(&task.spec)) {
            let Some(task) = self.uplinks.remove(&id) else { continue };
            info!(uplink = %task.spec.name, "uplink stops");
            self.core.remove_uplink(id);
            ended.insert(task.spec.name.clone(), task.handle);
        }
        for spec in wanted {
            if self.uplinks.values().any(|task| task.spec == *spec) {
                continue;
            }
            let before = ended.remove(&spec.name);
            self.start_uplink(now, spec.clone(), before);
        }
        let given_up: Vec<_> =
            self.queues.extract_if(.., |name, _| wanted.iter().all(|spec| spec.name != *name)).collect();
        for (name, dest) in given_up {
            warn!(uplink = %name, "no longer configured: what its queue still held is dropped");
            self.core.close_queue(now, dest);
        }
    }

    pub(super) fn start_uplink(&mut self, now: Now, spec: UplinkSpec, before: parts::Before) {
        let id = self.next.uplink;
        self.next.uplink = self.next.uplink.wrapping_add(1);
        let next = &mut self.next.dest;
        let dest = *self.queues.entry(spec.name.clone()).or_insert_with(|| {
            let dest = DestId(*next);
            *next += 1;
            dest
        });
        let name = format!("uplink/{}", spec.name).into();
        let route = Uplink { id, dest, forward: spec.forward.clone(), accept: spec.accept.clone() };
        let open = Op::OpenDestination { dest, name, queue: spec.queue };
        self.core.add_uplink(now, spec.name.clone(), route, open);
        let queue = StoreQueue { store: self.store.clone(), dest };
        let task = parts::start_uplink(now, spec, id, queue, self.inbox.uplink.clone(), before);
        self.uplinks.insert(id, task);
    }
}
