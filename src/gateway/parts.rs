//! What runs beside the loop: the tasks of buses and uplinks, and how each is started and ended.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::queue::StoreQueue;
use crate::can;
use crate::clock::Now;
use crate::command::Command;
use crate::config::plan::{BusPlan, DriverSpec};
use crate::driver::BusEvent;
use crate::modbus;
use crate::pulse::Pulse;
use crate::sample::BusId;
use crate::uplink;
use crate::uplink::spec::UplinkSpec;
use crate::uplink::status::{UplinkControl, UplinkEvent};

/// Commands that wait for one bus; further ones are answered `failed`.
const COMMANDS: usize = 32;
/// Acknowledgements on their way to one uplink.
const CONTROL: usize = 1024;

/// What held the same line or the same client id has this long to let go.
const HANDOVER: Duration = Duration::from_secs(90);

/// A bus's task; dropping `commands` ends it.
pub(super) struct BusTask {
    pub(super) plan: Arc<BusPlan>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) pulse: Pulse,
    pub(super) handle: JoinHandle<()>,
}

/// An uplink's task; dropping `control` ends it.
pub(super) struct UplinkTask {
    pub(super) spec: UplinkSpec,
    pub(super) control: mpsc::Sender<UplinkControl>,
    pub(super) pulse: Pulse,
    pub(super) handle: JoinHandle<()>,
}

/// What must have ended before a task may begin: the one that holds the same line or the same client id.
pub(super) type Before = Option<JoinHandle<()>>;

/// `open` makes the socket of a CAN bus; `learnt` is what a bus of this name knew of its devices.
pub(super) fn start_bus(
    now: Now,
    plan: Arc<BusPlan>,
    learnt: Option<Bytes>,
    id: BusId,
    events: mpsc::Sender<BusEvent>,
    open: can::task::Open,
    before: Before,
) -> BusTask {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let pulse = Pulse::new(now);
    let beats = pulse.clone();
    let run: Pin<Box<dyn Future<Output = ()>>> = match &plan.driver {
        DriverSpec::Modbus(spec) => Box::pin(modbus::task::run_watched(spec.clone(), learnt, id, events, inbox, beats)),
        DriverSpec::Can(spec) => {
            Box::pin(can::task::run_on(spec.clone(), id, events, inbox, beats, move |spec| open(spec)))
        }
    };
    BusTask { plan, commands, handle: spawn_after(before, &pulse, run), pulse }
}

pub(super) fn start_uplink(
    now: Now,
    spec: UplinkSpec,
    id: u16,
    queue: StoreQueue,
    events: mpsc::Sender<UplinkEvent>,
    before: Before,
) -> UplinkTask {
    let (control, inbox) = mpsc::channel(CONTROL);
    let pulse = Pulse::new(now);
    let run = uplink::task::run(spec.clone(), id, queue, events, inbox, pulse.clone());
    UplinkTask { spec, control, handle: spawn_after(before, &pulse, run), pulse }
}

#[allow(clippy::disallowed_methods, reason = "the gateway starts the tasks")]
fn spawn_after(before: Before, pulse: &Pulse, run: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    if before.is_some() {
        pulse.beat(Now::read(), HANDOVER);
    }
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

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use nix::errno::Errno;
    use tokio::task::LocalSet;

    use super::*;
    use crate::modbus::fixture;

    fn buses() -> Vec<Arc<BusPlan>> {
        // Nothing listens on port 1.
        let modbus = DriverSpec::Modbus(fixture::tcp(1));
        let can = can::spec::BusSpec { name: "car".into(), interface: "can0".into(), fd: false, points: Vec::new() };
        let plan = |driver| Arc::new(BusPlan { driver, rules: Vec::new() });
        vec![plan(modbus), plan(DriverSpec::Can(can))]
    }

    fn started(plan: Arc<BusPlan>, events: mpsc::Sender<BusEvent>) -> BusTask {
        start_bus(Now::read(), plan, None, BusId(1), events, Rc::new(|_| Err(Errno::ENODEV.into())), None)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_bus_gives_a_sign_of_life_all_the_time() {
        for plan in buses() {
            let (events, mut heard) = mpsc::channel(1);
            let test = async {
                let task = started(plan, events);
                for _ in 0..600 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    while heard.try_recv().is_ok() {}
                    assert!(task.pulse.late(Now::read()) < Duration::from_secs(1), "{}", task.plan.name());
                }
            };
            LocalSet::new().run_until(test).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_waits_for_ever_gives_none() {
        for plan in buses() {
            // Nobody takes what it says: its task hangs in the middle of a turn.
            let (events, _unheard) = mpsc::channel(1);
            events.try_send(BusEvent::Samples(BusId(1), Vec::new())).expect("there is room for one");
            let test = async {
                let task = started(plan, events);
                tokio::time::sleep(Duration::from_secs(60)).await;
                let late = task.pulse.late(Now::read());
                assert!(late > Duration::from_secs(40), "{}: {late:?}", task.plan.name());
            };
            LocalSet::new().run_until(test).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_whose_task_has_ended_gives_none() {
        let (events, _) = mpsc::channel(1);
        let test = async {
            let task = started(buses().remove(0), events);
            task.handle.abort();
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(task.pulse.late(Now::read()) > Duration::from_secs(40));
        };
        LocalSet::new().run_until(test).await;
    }
}
