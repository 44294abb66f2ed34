//! What a destination's bounds say: who gets in, what has to go. Pure; the writer does it.

use std::time::Duration;

use super::seqset::SeqSet;
use super::{QueueSpec, Stored, WhenFull};
use crate::clock::UnixMs;

/// Before this the clock was never set (2020-01-01): such a time tells no age.
const CLOCK_SET: UnixMs = UnixMs(1_577_836_800_000);

/// What happens to a message that a destination is to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Take,
    /// The segment under way has to be written first, so that what is in it can be dropped for this one.
    WriteFirst,
    Refuse,
}

/// `held`: bytes of its queue on disk; `under_way`: its bytes in the segment being built.
pub(super) fn admit(queue: &QueueSpec, held: u64, under_way: u64, cost: u64) -> Admission {
    if cost > queue.max_bytes {
        return Admission::Refuse;
    }
    match queue.when_full {
        WhenFull::DropNewest if held + under_way + cost > queue.max_bytes => Admission::Refuse,
        WhenFull::DropOldest if under_way + cost > queue.max_bytes => Admission::WriteFirst,
        WhenFull::DropNewest | WhenFull::DropOldest => Admission::Take,
    }
}

/// Whether a place is past its destination's age. `uptime` is given where this run stored it: it cannot be older
/// than that, whatever a clock that was set meanwhile says.
pub(super) fn expired(queue: &QueueSpec, at: UnixMs, wall: UnixMs, uptime: Option<Duration>) -> bool {
    let Some(max_age) = queue.max_age_secs else { return false };
    let too_young = uptime.is_some_and(|uptime| uptime.as_secs() <= max_age);
    let age_secs = u64::try_from(wall.0.saturating_sub(at.0) / 1000).unwrap_or(0);
    at >= CLOCK_SET && !too_young && age_secs > max_age
}

/// The oldest messages of a place that free at least `excess` bytes, and how many bytes they free.
pub(super) fn oldest(messages: &[Stored], left: &SeqSet, excess: u64) -> (SeqSet, u64) {
    let mut gone = SeqSet::new();
    let mut freed = 0;
    for stored in messages.iter().filter(|stored| left.contains(stored.seq)) {
        if freed >= excess {
            break;
        }
        gone.insert(stored.seq);
        freed += stored.message.cost() as u64;
    }
    (gone, freed)
}

/// Bytes that the messages in `left` occupy.
pub(super) fn bytes(messages: &[Stored], left: &SeqSet) -> u64 {
    messages.iter().filter(|stored| left.contains(stored.seq)).map(|stored| stored.message.cost() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const NOW: UnixMs = UnixMs(1_769_860_800_000);

    fn queue(when_full: WhenFull) -> QueueSpec {
        QueueSpec { max_bytes: 1000, max_age_secs: Some(86_400), when_full }
    }

    #[test]
    fn a_full_queue_refuses_or_makes_room_as_its_policy_says() {
        assert_eq!(admit(&queue(WhenFull::DropNewest), 900, 50, 50), Admission::Take);
        assert_eq!(admit(&queue(WhenFull::DropNewest), 900, 50, 51), Admission::Refuse);
        assert_eq!(admit(&queue(WhenFull::DropOldest), 1000, 50, 51), Admission::Take);
        assert_eq!(admit(&queue(WhenFull::DropOldest), 0, 950, 51), Admission::WriteFirst);
    }

    #[test]
    fn a_message_larger_than_the_queue_drops_itself_and_nothing_else() {
        assert_eq!(admit(&queue(WhenFull::DropOldest), 0, 0, 1001), Admission::Refuse);
    }

    #[test]
    fn a_place_expires_by_wall_clock_when_an_earlier_run_stored_it() {
        let queue = queue(WhenFull::DropOldest);
        assert!(!expired(&queue, UnixMs(NOW.0 - DAY), NOW, None));
        assert!(expired(&queue, UnixMs(NOW.0 - DAY - 1000), NOW, None));
    }

    #[test]
    fn a_clock_that_jumps_forward_expires_nothing_that_this_run_stored() {
        let queue = queue(WhenFull::DropOldest);
        let stored = UnixMs(NOW.0 - 400 * DAY);
        assert!(!expired(&queue, stored, NOW, Some(Duration::from_secs(60))));
        assert!(expired(&queue, stored, NOW, Some(Duration::from_secs(86_401))));
    }

    #[test]
    fn a_time_from_a_clock_that_was_never_set_tells_no_age() {
        assert!(!expired(&queue(WhenFull::DropOldest), UnixMs(5_000), NOW, None));
    }

    #[test]
    fn a_clock_that_jumps_back_expires_nothing() {
        assert!(!expired(&queue(WhenFull::DropOldest), NOW, UnixMs(0), None));
    }
}
