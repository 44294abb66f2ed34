//! How often a point may speak, and when its silence is a fault.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::spec::{CanPoint, Source};
use crate::clock::{Now, UnixMs};
use crate::sample::{BusId, Fault, PointId, Sample, Value};

type Reading = Result<Value, Fault>;

/// Lets samples through at most once a `min_interval`, keeps the latest of those in between for the interval's end, and
/// says once when a point has been silent for its `timeout`.
///
/// Each point has at most one entry for its interval and one for its silence in the heap, so a flood of frames makes
/// it no longer.
#[derive(Debug)]
pub(super) struct Rates {
    bus: BusId,
    points: Vec<Rate>,
    due: BinaryHeap<Reverse<(Instant, u32, Due)>>,
}

#[derive(Debug)]
struct Rate {
    min_interval: Duration,
    timeout: Option<Duration>,
    sent: Option<Instant>,
    waiting: Option<(UnixMs, Reading)>,
    /// Since the last frame, or since the link came up.
    heard: Option<Instant>,
    /// An entry for the interval, and one for the silence, stand in the heap.
    queued: bool,
    watched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Interval,
    Silence,
}

impl Rates {
    pub(super) fn new(bus: BusId, points: &[CanPoint]) -> Self {
        let rate = |point: &CanPoint| Rate {
            min_interval: point.min_interval,
            // What is asked for has its own timeout, and a command has no reading.
            timeout: point.timeout.filter(|_| matches!(point.source, Source::Signal(_))),
            sent: None,
            waiting: None,
            heard: None,
            queued: false,
            watched: false,
        };
        Self { bus, points: points.iter().map(rate).collect(), due: BinaryHeap::new() }
    }

    /// The link is up: silence counts from now.
    pub(super) fn start(&mut self, now: Now) {
        for (index, rate) in self.points.iter_mut().enumerate() {
            rate.heard = Some(now.mono);
            if let (Some(timeout), false, Ok(index)) = (rate.timeout, rate.watched, u32::try_from(index)) {
                rate.watched = true;
                self.due.push(Reverse((now.mono + timeout, index, Due::Silence)));
            }
        }
    }

    /// The link is gone: every point says so, and nothing that waited is told any more.
    pub(super) fn stop(&mut self, now: Now, only: impl Fn(usize) -> bool, out: &mut Vec<Sample>) {
        self.due.clear();
        for (index, rate) in self.points.iter_mut().enumerate() {
            rate.waiting = None;
            rate.sent = None;
            rate.heard = None;
            rate.queued = false;
            rate.watched = false;
            if let Ok(place) = u32::try_from(index)
                && only(index)
            {
                let point = PointId { bus: self.bus, index: place };
                out.push(Sample { point, at: now.wall, reading: Err(Fault::Disconnected) });
            }
        }
    }

    pub(super) fn offer(&mut self, index: u32, at: UnixMs, reading: Reading, now: Now, out: &mut Vec<Sample>) {
        let Some(rate) = usize::try_from(index).ok().and_then(|place| self.points.get_mut(place)) else { return };
        rate.heard = Some(now.mono);
        if let (Some(timeout), false) = (rate.timeout, rate.watched) {
            rate.watched = true;
            self.due.push(Reverse((now.mono + timeout, index, Due::Silence)));
        }
        let open = rate.sent.map(|sent| sent + rate.min_interval).filter(|open| *open > now.mono);
        if let Some(open) = open {
            rate.waiting = Some((at, reading));
            if !std::mem::replace(&mut rate.queued, true) {
                self.due.push(Reverse((open, index, Due::Interval)));
            }
            return;
        }
        // A sample whose turn came, and that a newer one overtakes before the timer ran, is dropped with its interval.
        rate.waiting = None;
        rate.sent = Some(now.mono);
        out.push(Sample { point: PointId { bus: self.bus, index }, at, reading });
    }

    pub(super) fn held_until(&self) -> Option<Instant> {
        let held = self.points.iter().filter(|rate| rate.waiting.is_some());
        held.filter_map(|rate| Some(rate.sent? + rate.min_interval)).max()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    pub(super) fn handle_timeout(&mut self, now: Now, out: &mut Vec<Sample>) {
        while let Some(Reverse((at, index, due))) = self.due.peek().copied() {
            if at > now.mono {
                return;
            }
            self.due.pop();
            let Some(rate) = usize::try_from(index).ok().and_then(|place| self.points.get_mut(place)) else { continue };
            let point = PointId { bus: self.bus, index };
            match due {
                Due::Interval => {
                    rate.queued = false;
                    // Where a newer sample opened another interval meanwhile, that one's end is awaited.
                    let open = rate.sent.map_or(at, |sent| sent + rate.min_interval);
                    if open > now.mono {
                        if rate.waiting.is_some() {
                            rate.queued = true;
                            self.due.push(Reverse((open, index, Due::Interval)));
                        }
                    } else if let Some((at, reading)) = rate.waiting.take() {
                        rate.sent = Some(now.mono);
                        out.push(Sample { point, at, reading });
                    }
                }
                Due::Silence => {
                    let (Some(timeout), Some(heard)) = (rate.timeout, rate.heard) else { continue };
                    if heard + timeout > now.mono {
                        self.due.push(Reverse((heard + timeout, index, Due::Silence)));
                        continue;
                    }
                    rate.watched = false;
                    rate.waiting = None;
                    out.push(Sample { point, at: now.wall, reading: Err(Fault::Stale) });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::can::frame::CanId;
    use crate::can::signal::{BitOrder, Layout, Number};
    use crate::can::spec::{FrameMatch, SignalSpec};

    fn rates(min_interval: u64, timeout: Option<u64>) -> Rates {
        let source = Source::Signal(SignalSpec {
            from: FrameMatch::Id(CanId::standard(1).unwrap()),
            layout: Layout::new(0, 8, BitOrder::Little, Number::Unsigned).unwrap(),
            when: Vec::new(),
        });
        let point = CanPoint {
            name: "p".into(),
            source,
            min_interval: Duration::from_millis(min_interval),
            timeout: timeout.map(Duration::from_millis),
        };
        Rates::new(BusId(1), &[point])
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn told(out: &mut Vec<Sample>) -> Vec<Reading> {
        out.drain(..).map(|sample| sample.reading).collect()
    }

    #[test]
    fn a_flood_is_thinned_and_the_latest_comes_at_the_intervals_end() {
        let mut rates = rates(100, None);
        let (start, mut out) = (Now::read(), Vec::new());
        for step in 0..1000u64 {
            let now = start.after(ms(step));
            rates.handle_timeout(now, &mut out);
            rates.offer(0, now.wall, Ok(Value::Uint(step)), now, &mut out);
        }
        assert!(rates.due.len() <= 2);
        rates.handle_timeout(start.after(ms(1000)), &mut out);
        let values: Vec<_> = told(&mut out);
        assert_eq!(values.len(), 11);
        assert_eq!(values[0], Ok(Value::Uint(0)));
        assert_eq!(values[10], Ok(Value::Uint(999)));
    }

    #[test]
    fn silence_is_told_once_and_ends_with_the_next_frame() {
        let mut rates = rates(0, Some(1000));
        let (start, mut out) = (Now::read(), Vec::new());
        rates.start(start);
        rates.offer(0, start.wall, Ok(Value::Uint(1)), start.after(ms(500)), &mut out);
        rates.handle_timeout(start.after(ms(1400)), &mut out);
        assert_eq!(told(&mut out), [Ok(Value::Uint(1))]);
        assert_eq!(rates.next_due(), Some(start.after(ms(1500)).mono));
        rates.handle_timeout(start.after(ms(1500)), &mut out);
        rates.handle_timeout(start.after(ms(9000)), &mut out);
        assert_eq!(told(&mut out), [Err(Fault::Stale)]);
        rates.offer(0, start.wall, Ok(Value::Uint(2)), start.after(ms(9001)), &mut out);
        rates.handle_timeout(start.after(ms(10_001)), &mut out);
        assert_eq!(told(&mut out), [Ok(Value::Uint(2)), Err(Fault::Stale)]);
    }
}
