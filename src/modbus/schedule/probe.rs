//! Devices that are set aside: which is asked next whether it is back, and when.

use std::time::Instant;

use super::{Job, Schedule};
use crate::modbus::lane::{Kind, Lane, Poll};

impl Schedule {
    pub(super) fn next_probe(&mut self, now: Instant) -> Option<Job> {
        let busy = |device| self.flights.values().any(|flight| flight.device == device);
        let device = (0..self.devices.len())
            .find(|place| self.probe_at(*place, now).is_some_and(|at| at <= now) && !busy(*place))?;
        let (made, timeout) = self.devices[device].probe(self.spec.timeout);
        let mut polls: Vec<Poll> = Vec::new();
        for (lane, of) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.device == device) {
            let poll = |block| Poll { lane, block, due: now, deadline: now, kind: Kind::Extra };
            polls.extend(of.all().into_iter().map(poll));
        }
        polls.retain(|poll| self.devices[device].owed.is_free(&self.request_of(poll), now));
        let turn = usize::try_from(made).unwrap_or(0).checked_rem(polls.len())?;
        Some(self.send_poll(polls.swap_remove(turn), 0, false, Some(timeout), now))
    }

    /// When a device is probed next: not while an answer may still come that is no answer to the probe.
    fn probe_at(&self, device: usize, now: Instant) -> Option<Instant> {
        let device = &self.devices[device];
        let at = device.probe_at()?;
        Some(device.owed.until(now).map_or(at, |until| at.max(until)))
    }

    /// The next moment at which there is something to do.
    pub(super) fn wake_up(&self, now: Instant) -> Option<Instant> {
        let online = |device: usize| !self.devices[device].is_offline();
        let lanes = self.lanes.iter().filter(|lane| online(lane.device)).filter_map(Lane::next_due);
        let owed = self.devices.iter().filter_map(|device| device.owed.until(now));
        let probes = (0..self.devices.len()).filter_map(|device| self.probe_at(device, now));
        let later = self.pending.iter().map(|pending| pending.not_before).filter(|at| *at > now);
        let commands = self.commands.iter().map(|command| command.expires);
        lanes.chain(owed).chain(probes).chain(later).chain(commands).min()
    }
}
