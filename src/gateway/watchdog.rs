//! What the service manager is told beside ready and stopping: that every part is alive, and how things stand.
//!
//! systemd ends a service whose `WATCHDOG=1` does not come (`WatchdogSec=`). The gateway's loop sends it, and only as long as
//! every bus, uplink, listener and the store's thread keep their promises ([`Pulse`]): the loop itself is shown alive by sending.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, warn};

use crate::clock::Now;
use crate::driver::LinkState;
use crate::pulse::Pulse;
use crate::status::snapshot::{Snapshot, UplinkState};

#[derive(Default)]
pub(super) struct Watchdog {
    /// How late a part may be; `None`: nobody watches.
    patience: Option<Duration>,
    ticks: Option<Interval>,
    /// A part was late at the last look. Once is not enough: after a pause of the whole process every part is, for a moment.
    suspected: bool,
    /// The part that hung was named.
    tripped: bool,
    status: String,
}

impl Watchdog {
    /// As `WATCHDOG_USEC` says; without it nothing is watched.
    pub(super) fn from_environment() -> Self {
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        let ticks = limit.map(|limit| {
            let mut ticks = interval((limit / 3).max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { patience: limit.map(|limit| limit / 2), ticks, suspected: false, tripped: false, status: String::new() }
    }

    /// When it is time to look again; never where nobody watches.
    pub(super) async fn tick(&mut self) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Tells that all is well, or which part hangs, and has the service ended at once then.
    pub(super) fn look<'a>(&mut self, now: Now, mut parts: impl Iterator<Item = (String, &'a Pulse)>) {
        let Some(patience) = self.patience else { return };
        let hangs = parts.find(|(_, pulse)| pulse.late(now) > patience);
        let Some((part, pulse)) = hangs else {
            self.suspected = false;
            notify(&[sd_notify::NotifyState::Watchdog]);
            return;
        };
        let again = std::mem::replace(&mut self.suspected, true);
        if again && !self.tripped {
            self.tripped = true;
            let late_secs = pulse.late(now).as_secs();
            error!("{part} hangs, {late_secs} s beyond its time: the service manager is asked for a restart");
            let status = format!("{part} hangs");
            notify(&[sd_notify::NotifyState::Status(&status), sd_notify::NotifyState::WatchdogTrigger]);
        }
    }

    /// Tells how things stand, when that has changed.
    pub(super) fn tell(&mut self, snapshot: &Snapshot) {
        let status = summary(snapshot);
        if status != self.status {
            notify(&[sd_notify::NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Something else was told in between.
    pub(super) fn forget(&mut self) {
        self.status.clear();
    }
}

/// One line for `systemctl status`.
fn summary(snapshot: &Snapshot) -> String {
    let up = snapshot.buses.iter().filter(|bus| bus.status.state == LinkState::Up).count();
    let mut parts = vec![match snapshot.buses.len() {
        0 => "no bus configured".to_owned(),
        all if all == up => format!("{up} of {all} buses up"),
        all => {
            let not_up = snapshot.buses.iter().filter(|bus| bus.status.state != LinkState::Up);
            let names: Vec<&str> = not_up.map(|bus| &*bus.name).collect();
            format!("{up} of {all} buses up (not: {})", names.join(", "))
        }
    }];
    parts.extend(snapshot.uplinks.iter().map(|uplink| {
        let state = match uplink.state {
            UplinkState::Connected => "connected",
            UplinkState::Connecting | UplinkState::Disconnected => "not connected",
        };
        format!("uplink {} {state}", uplink.name)
    }));
    if snapshot.store.as_ref().is_some_and(|store| !store.writable) {
        parts.push("the store cannot be written".to_owned());
    }
    parts.join("; ")
}

/// Tells the service manager, where there is one.
pub(super) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(failure) = sd_notify::notify(states) {
        warn!("cannot tell systemd: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::snapshot::tests::snapshot;

    #[test]
    fn a_part_that_is_late_at_two_looks_in_a_row_trips_it() {
        let (now, second) = (Now::read(), Duration::from_secs(1));
        let pulse = Pulse::new(now);
        let mut watchdog = Watchdog { patience: Some(second), ..Watchdog::default() };
        let mut look = |at: Now| {
            watchdog.look(at, std::iter::once(("bus a".to_owned(), &pulse)));
            watchdog.tripped
        };
        let woken = now.after(60 * second);
        assert!(!look(woken), "everything slept for a minute");
        pulse.beat(woken, second);
        assert!(!look(woken.after(2 * second)));
        assert!(!look(woken.after(3 * second)), "the first look at which it is late");
        assert!(look(woken.after(4 * second)));
    }

    #[test]
    fn the_status_line_names_what_is_not_as_it_should_be() {
        let mut snapshot = snapshot();
        assert_eq!(summary(&snapshot), "1 of 1 buses up; uplink cloud not connected");
        snapshot.buses[0].status.state = LinkState::Down;
        snapshot.uplinks[0].state = UplinkState::Connected;
        snapshot.store.as_mut().expect("it has one").writable = false;
        assert_eq!(
            summary(&snapshot),
            "0 of 1 buses up (not: rs485); uplink cloud connected; the store cannot be written"
        );
    }
}
