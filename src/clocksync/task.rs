//! Looks for the evidence, until there is some.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::watch;

use super::{ClockState, Evidence, judge};
use crate::clock::{Now, UnixMs};

const TIMESYNCD_MARK: &str = "/run/systemd/timesync/synchronized";
const RTC: &str = "/sys/class/rtc/rtc0";

/// First every ten seconds, since most machines are set soon after they start; then once a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A `timedatectl` that has not answered by then has no D-Bus to talk to.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Tells `state` once the clock is known to be set, and ends: what is set stays set. Ends too when nobody listens.
pub async fn run(state: watch::Sender<ClockState>) {
    let mut pause = FIRST_PAUSE;
    loop {
        #[allow(clippy::disallowed_methods, reason = "sysfs, and another program that may be slow")]
        let evidence = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        if judge(Now::read().wall, evidence) == ClockState::Synced {
            state.send_replace(ClockState::Synced);
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            () = state.closed() => return,
        }
    }
}

/// The cheap evidence first; another program is started only where that is not enough.
fn look() -> Evidence {
    let found = Evidence { timesyncd_mark: Path::new(TIMESYNCD_MARK).exists(), ntp_synchronized: None, rtc: rtc() };
    if judge(Now::read().wall, found) == ClockState::Synced {
        return found;
    }
    Evidence { ntp_synchronized: timedatectl(), ..found }
}

/// The battery-backed clock, where the kernel set the system clock from it at boot.
fn rtc() -> Option<UnixMs> {
    let read = |name: &str| std::fs::read_to_string(Path::new(RTC).join(name)).ok();
    if read("hctosys")?.trim() != "1" {
        return None;
    }
    read("since_epoch")?.trim().parse::<i64>().ok()?.checked_mul(1000).map(UnixMs)
}

fn timedatectl() -> Option<bool> {
    let mut child = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let step = Duration::from_millis(50);
    for _ in 0..ANSWER_WITHIN.as_millis() / step.as_millis() {
        if let Ok(Some(_)) = child.try_wait() {
            let text = child.wait_with_output().ok()?.stdout;
            return match text.trim_ascii() {
                b"yes" => Some(true),
                b"no" => Some(false),
                _ => None,
            };
        }
        #[allow(clippy::disallowed_methods, reason = "on a thread of its own, not on the event loop")]
        std::thread::sleep(step);
    }
    // It is gone after a kill and a wait, whatever they say.
    let _ = child.kill();
    let _ = child.wait();
    None
}
