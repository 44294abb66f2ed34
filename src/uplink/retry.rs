//! When to try again: exponential back-off with full jitter, so that a fleet does not return in step.

use std::time::Duration;

/// The shortest wait, and the first upper bound.
pub const WAIT_MIN: Duration = Duration::from_millis(100);
const CEILING_FIRST: Duration = Duration::from_millis(500);
const CEILING_MAX: Duration = Duration::from_secs(10);
/// After a refusal that only a person can mend (credentials, banned): between these two.
const REFUSED_MIN: Duration = Duration::from_secs(5);
const REFUSED_MAX: Duration = Duration::from_secs(30);
/// A connection that held this long starts the count anew.
const HELD: Duration = Duration::from_secs(10);

/// Counts failures in a row.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt. `random` is in 0..1.
    pub fn failed(&mut self, random: f64) -> Duration {
        let ceiling = CEILING_FIRST.saturating_mul(1_u32 << self.failures.min(16)).min(CEILING_MAX);
        self.failures = self.failures.saturating_add(1);
        between(WAIT_MIN, ceiling, random)
    }

    /// The wait after a refusal that will not go away by itself. `random` is in 0..1.
    pub fn refused(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        between(REFUSED_MIN, REFUSED_MAX, random)
    }

    /// A connection ended after `lasted`.
    pub fn held(&mut self, lasted: Duration) {
        if lasted >= HELD {
            self.reset();
        }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

fn between(low: Duration, high: Duration, random: f64) -> Duration {
    let share = if random.is_finite() { random.clamp(0.0, 1.0) } else { 1.0 };
    low + high.saturating_sub(low).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_half_a_second_to_ten() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.failed(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!(backoff.failed(0.0), WAIT_MIN, "full jitter reaches down to the shortest wait");
    }

    #[test]
    fn only_a_connection_that_held_resets_the_count() {
        let mut backoff = Backoff::default();
        for _ in 0..8 {
            backoff.failed(1.0);
        }
        backoff.held(Duration::from_secs(1));
        assert_eq!(backoff.failed(1.0), Duration::from_secs(10));
        backoff.held(Duration::from_secs(11));
        assert_eq!(backoff.failed(1.0), Duration::from_millis(500));
    }

    #[test]
    fn a_refusal_waits_longer_than_a_lost_connection() {
        let mut backoff = Backoff::default();
        assert!(backoff.refused(0.0) >= Duration::from_secs(5));
        assert!(backoff.refused(1.0) <= Duration::from_secs(30));
    }
}
