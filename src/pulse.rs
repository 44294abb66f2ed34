//! Signs of life: each part that has to come round again says by when it will, and the watchdog believes nobody who is late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Now;

/// A part that has nothing to do comes round at least this often.
pub const IDLE: Duration = Duration::from_secs(5);

/// One part's promise. Its clones are the same promise: the part keeps one and the watchdog another.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Promise>);

#[derive(Debug)]
struct Promise {
    epoch: Instant,
    /// Milliseconds after `epoch`.
    due: AtomicU64,
}

impl Pulse {
    /// The first beat is due within [`IDLE`].
    pub fn new(now: Now) -> Self {
        let pulse = Self(Arc::new(Promise { epoch: now.mono, due: AtomicU64::new(0) }));
        pulse.beat(now, IDLE);
        pulse
    }

    /// The part got round, and will again within `within`: what it waits for at most and what it may be busy with.
    pub fn beat(&self, now: Now, within: Duration) {
        let due = (now.mono + within).saturating_duration_since(self.0.epoch).as_millis();
        self.0.due.store(u64::try_from(due).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long the next beat has been due; zero where it is not yet.
    pub fn late(&self, now: Now) -> Duration {
        let due = Duration::from_millis(self.0.due.load(Ordering::Relaxed));
        now.mono.saturating_duration_since(self.0.epoch).saturating_sub(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_late_from_the_moment_on_that_it_named() {
        let now = Now::read();
        let pulse = Pulse::new(now);
        assert_eq!(pulse.late(now.after(IDLE)), Duration::ZERO);
        assert_eq!(pulse.late(now.after(IDLE + Duration::from_secs(2))), Duration::from_secs(2));
        pulse.clone().beat(now.after(IDLE), Duration::from_secs(30));
        assert_eq!(pulse.late(now.after(Duration::from_secs(34))), Duration::ZERO);
        assert_eq!(pulse.late(now.after(Duration::from_secs(36))), Duration::from_secs(1));
    }
}
