//! When clients that were here before were last heard: what a redelivered publish cannot be older than.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Clients remembered; of those forgotten, redelivered commands are not carried out.
const CLIENTS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Heard {
    until: HashMap<Arc<str>, Instant>,
}

impl Heard {
    /// The client's connection has ended; the last bytes came at `until`.
    pub(crate) fn remember(&mut self, client: &Arc<str>, until: Instant) {
        if self.until.len() >= CLIENTS_MAX && !self.until.contains_key(client) {
            // Half of them at a time: a flood of client ids costs no search for each.
            let mut times: Vec<Instant> = self.until.values().copied().collect();
            let (_, median, _) = times.select_nth_unstable(CLIENTS_MAX / 2);
            let median = *median;
            self.until.retain(|_, at| *at > median);
        }
        self.until.insert(client.clone(), until);
    }

    /// The end of the client's last connection of this run.
    pub(crate) fn until(&self, client: &str) -> Option<Instant> {
        self.until.get(client).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
    fn a_flood_of_clients_is_bounded_and_costs_the_oldest() {
        let start = Instant::now();
        let mut heard = Heard::default();
        for number in 0..3 * CLIENTS_MAX {
            heard.remember(&format!("c{number}").into(), start + Duration::from_millis(number as u64));
            assert!(heard.until.len() <= CLIENTS_MAX);
        }
        let last = 3 * CLIENTS_MAX - 1;
        assert_eq!(heard.until(&format!("c{last}")), Some(start + Duration::from_millis(last as u64)));
        assert_eq!(heard.until("c0"), None);
    }
}
