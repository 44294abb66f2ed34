//! Whether the system clock is known to be set: a machine without a battery-backed clock starts with a wrong one (P9).
//!
//! The kernel's own flag (`adjtimex`, `STA_UNSYNC`) has no safe wrapper in the crates at hand, so the evidence is what
//! can be read without `unsafe`: timesyncd's mark, `timedatectl` (which reads that flag, and so sees chrony and ntpd
//! as well), and a battery-backed clock that agrees. Without any of these the clock is *not known* to be set, and is
//! said to be so: in a container too, where it may be right all the same.

pub mod task;

use crate::clock::UnixMs;

/// What is known of the system clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockState {
    Synced,
    Unsynced,
}

/// 2026-01-01T00:00:00Z: fieldgate did not exist before, so an earlier clock is not set.
const EARLIEST: UnixMs = UnixMs(1_767_225_600_000);

/// A battery-backed clock counts whole seconds and drifts; further apart the two do not know of each other.
const RTC_APART_MS: u64 = 10_000;

/// What was found on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// `/run/systemd/timesync/synchronized` exists: timesyncd has set the clock in this boot.
    pub timesyncd_mark: bool,
    /// `NTPSynchronized` of `timedatectl`, where it answers.
    pub ntp_synchronized: Option<bool>,
    /// The battery-backed clock from which the kernel set the system clock at boot.
    pub rtc: Option<UnixMs>,
}

/// Decides on the evidence found at `wall`.
pub fn judge(wall: UnixMs, evidence: Evidence) -> ClockState {
    let rtc_agrees = evidence.rtc.is_some_and(|rtc| rtc >= EARLIEST && rtc.0.abs_diff(wall.0) <= RTC_APART_MS);
    let set = evidence.timesyncd_mark || evidence.ntp_synchronized == Some(true) || rtc_agrees;
    if set && wall >= EARLIEST { ClockState::Synced } else { ClockState::Unsynced }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: UnixMs = UnixMs(1_795_466_280_000);

    #[test]
    fn a_clock_is_unsynced_until_something_says_otherwise() {
        assert_eq!(judge(WALL, Evidence::default()), ClockState::Unsynced);
        for evidence in [
            Evidence { timesyncd_mark: true, ..Evidence::default() },
            Evidence { ntp_synchronized: Some(true), ..Evidence::default() },
            Evidence { rtc: Some(UnixMs(WALL.0 - 900)), ntp_synchronized: Some(false), ..Evidence::default() },
        ] {
            assert_eq!(judge(WALL, evidence), ClockState::Synced, "{evidence:?}");
        }
    }

    #[test]
    fn a_clock_before_this_program_existed_is_not_set_whatever_else_says_so() {
        let evidence = Evidence { timesyncd_mark: true, ntp_synchronized: Some(true), rtc: Some(UnixMs(5_000)) };
        assert_eq!(judge(UnixMs(5_000), evidence), ClockState::Unsynced);
    }

    #[test]
    fn a_battery_backed_clock_that_lost_its_battery_is_no_evidence() {
        let evidence = Evidence { rtc: Some(UnixMs(60_000)), ..Evidence::default() };
        assert_eq!(judge(WALL, evidence), ClockState::Unsynced);
    }
}
