//! Waits for a moment: by the kernel's own timer where fractions of a millisecond count.
//!
//! The event loop's timer rounds up to the next millisecond. On a line of 115,200 baud that is a tenth of a poll; a timerfd
//! wakes some 50 to 100 µs late, and costs one system call to set and one to read. How late it usually is, is learnt:
//! it is set so much earlier, and what is then left to wait, a few tens of µs, is spent in a loop.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep_until;

use crate::clock::Now;

/// The timer is set no earlier than this: so long the loop at the end may take at most.
const EARLY_MAX: Duration = Duration::from_micros(150);
/// By so much the time by which it is set earlier grows after it was too late, and shrinks, thrice as slowly, otherwise.
const EARLY_STEP: Duration = Duration::from_micros(3);

/// One moment at a time.
#[derive(Debug)]
pub struct Alarm {
    /// `None`: by the event loop's timer.
    timer: Option<AsyncFd<OwnedFd>>,
    early: Duration,
}

impl Alarm {
    /// To the millisecond, by the event loop's clock, which a test may have stopped.
    pub fn coarse() -> Self {
        Self { timer: None, early: Duration::ZERO }
    }

    /// To some 50 µs; to the millisecond where the system has no timer left to give.
    pub fn precise() -> Self {
        let timer = new_timer();
        if let Err(error) = &timer {
            tracing::debug!("no timerfd, waiting to the millisecond: {error}");
        }
        Self { timer: timer.ok(), early: Duration::ZERO }
    }

    /// Returns at `at`, never before. Cancel safe.
    pub async fn until(&mut self, at: Instant) {
        let left = at.saturating_duration_since(Now::read().mono);
        if left.is_zero() {
            return;
        }
        let Some(timer) = &self.timer else { return sleep_until(at.into()).await };
        if left > self.early && wait(timer, left - self.early).await.is_err() {
            return sleep_until(at.into()).await;
        }
        if left > self.early {
            self.early = if Now::read().mono > at {
                (self.early + EARLY_STEP).min(EARLY_MAX)
            } else {
                self.early.saturating_sub(EARLY_STEP / 3)
            };
        }
        while Now::read().mono < at {
            std::hint::spin_loop();
        }
    }
}

fn new_timer() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    #[allow(deprecated, reason = "an OwnedFd owns what it registers; the successor is unsafe for types that do not")]
    AsyncFd::new(timer)
}

async fn wait(timer: &AsyncFd<OwnedFd>, left: Duration) -> io::Result<()> {
    let once = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?,
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    loop {
        // Setting it took back what an earlier moment, waited for in vain, may have left to read.
        let mut guard = timer.readable().await?;
        match guard.try_io(|timer| Ok(rustix::io::read(timer, &mut [0_u8; 8])?)) {
            Ok(expired) => return expired.map(|_| ()),
            Err(_not_yet) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    }

    #[test]
    fn it_never_rings_early_and_a_moment_given_up_does_not_ring_the_next() {
        block_on(async {
            for mut alarm in [Alarm::precise(), Alarm::coarse()] {
                let begun = Now::read().mono;
                // Given up long after it rang.
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(Duration::from_millis(4)) => {}
                    () = std::future::poll_fn(|cx| {
                        let _ = std::pin::pin!(alarm.until(begun + Duration::from_micros(300))).poll(cx);
                        std::task::Poll::<()>::Pending
                    }) => {}
                }
                let at = Now::read().mono + Duration::from_micros(2_500);
                alarm.until(at).await;
                assert!(Now::read().mono >= at);
                alarm.until(begun).await;
            }
        });
    }

    #[test]
    fn most_of_many_short_waits_end_well_within_the_millisecond() {
        block_on(async {
            let mut alarm = Alarm::precise();
            assert!(alarm.timer.is_some());
            let mut late = Vec::new();
            for _ in 0..41 {
                let at = Now::read().mono + Duration::from_micros(300);
                alarm.until(at).await;
                late.push(Now::read().mono.saturating_duration_since(at));
            }
            late.sort_unstable();
            // A busy machine may delay some; the event loop's own timer would delay nearly all by over 500 µs.
            assert!(late[10] < Duration::from_micros(500), "{late:?}");
        });
    }
}
