//! Time as an argument: the one place that reads a clock, and the types that carry what it read.
//!
//! Pure code takes a [`Now`]; tasks read one at the start of each turn of their loop and pass it down.

use std::time::{Duration, Instant};

/// Milliseconds since 1970-01-01T00:00:00Z by the system's clock, which may be wrong or jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub i64);

/// One reading of both clocks: `mono` for every interval and deadline, `wall` only for what people read.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub mono: Instant,
    pub wall: UnixMs,
}

impl Now {
    /// Reads the clocks. Only tasks call this; everything else is handed the result.
    #[allow(clippy::disallowed_methods, reason = "the one place where the clocks are read")]
    pub fn read() -> Self {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        // tokio's clock, so that tests with paused time move both timers and readings.
        Self { mono: tokio::time::Instant::now().into_std(), wall: UnixMs(wall) }
    }

    /// The same moment moved forward; for tests and for planning ahead.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self {
            mono: self.mono + by,
            wall: UnixMs(self.wall.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))),
        }
    }
}
