//! What runs beside the loop: the tasks of buses and uplinks, and how each is started and ended.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::queue::StoreQueue;
use crate::can;
use crate::command::Command;
use crate::config::plan::{BusPlan, DriverSpec};
use crate::driver::BusEvent;
use crate::modbus;
use crate::sample::BusId;
use crate::uplink;
use crate::uplink::spec::UplinkSpec;
use crate::uplink::status::{UplinkControl, UplinkEvent};

/// Commands that wait for one bus; further ones are answered `failed`.
const COMMANDS: usize = 32;
/// Acknowledgements on their way to one uplink.
const CONTROL: usize = 1024;

/// A bus's task; dropping `commands` ends it.
pub(super) struct BusTask {
    pub(super) plan: Arc<BusPlan>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) handle: JoinHandle<()>,
}

/// An uplink's task; dropping `control` ends it.
pub(super) struct UplinkTask {
    pub(super) spec: UplinkSpec,
    pub(super) control: mpsc::Sender<UplinkControl>,
    pub(super) handle: JoinHandle<()>,
}

/// What must have ended before a task may begin: the one that holds the same line or the same client id.
pub(super) type Before = Option<JoinHandle<()>>;

/// `open` makes the socket of a CAN bus.
pub(super) fn start_bus(
    plan: Arc<BusPlan>,
    id: BusId,
    events: mpsc::Sender<BusEvent>,
    open: can::task::Open,
    before: Before,
) -> BusTask {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let run: Pin<Box<dyn Future<Output = ()>>> = match &plan.driver {
        DriverSpec::Modbus(spec) => Box::pin(modbus::task::run(spec.clone(), id, events, inbox)),
        DriverSpec::Can(spec) => Box::pin(can::task::run_on(spec.clone(), id, events, inbox, move |spec| open(spec))),
    };
    BusTask { plan, commands, handle: spawn_after(before, run) }
}

pub(super) fn start_uplink(
    spec: UplinkSpec,
    id: u16,
    queue: StoreQueue,
    events: mpsc::Sender<UplinkEvent>,
    before: Before,
) -> UplinkTask {
    let (control, inbox) = mpsc::channel(CONTROL);
    let run = uplink::task::run(spec.clone(), id, queue, events, inbox);
    UplinkTask { spec, control, handle: spawn_after(before, run) }
}

#[allow(clippy::disallowed_methods, reason = "the gateway starts the tasks")]
fn spawn_after(before: Before, run: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        if let Some(before) = before {
            // However it ended, what it held is free now.
            let _ = before.await;
        }
        run.await;
    })
}

/// Waits for tasks that were told to end, all together at most `within`; those that are late are cut off.
pub(super) async fn join(handles: Vec<JoinHandle<()>>, within: Duration) {
    let all = async {
        for handle in handles {
            let abort = AbortOnDrop(handle);
            abort.finished().await;
        }
    };
    if tokio::time::timeout(within, all).await.is_err() {
        tracing::warn!("a task did not end in time and was cut off");
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    async fn finished(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Splits `running` into those that `wanted` still wants as they are, and the rest.
pub(super) fn unwanted<K: Copy + Ord, T>(running: &BTreeMap<K, T>, keep: impl Fn(&T) -> bool) -> Vec<K> {
    running.iter().filter(|(_, task)| !keep(task)).map(|(id, _)| *id).collect()
}
