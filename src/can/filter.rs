//! Which frames the kernel is to hand over, computed from what the points need.

use std::collections::BTreeSet;

use super::frame::CanId;
use super::j1939;
use super::spec::{CanPoint, FrameMatch, Source};

/// A frame passes where its identifier word agrees with `id` in every bit of `mask` (`struct can_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter {
    pub id: u32,
    pub mask: u32,
}

/// The kernel takes no more than this on one socket (`CAN_RAW_FILTER_MAX`).
const FILTERS_MAX: usize = 512;
const EXTENDED: u32 = 0x8000_0000;
const REMOTE: u32 = 0x4000_0000;

impl Filter {
    /// Data frames of one identifier. Standard ones of this form are found by hash in the kernel.
    fn exact(id: CanId) -> Self {
        let bits = if id.is_extended() { 0x1FFF_FFFF } else { 0x7FF };
        Self { id: id.word(), mask: EXTENDED | REMOTE | bits }
    }

    fn pgn(pgn: u32, source: Option<u8>) -> Self {
        let group = if j1939::is_addressed(pgn) { 0x03FF_0000 } else { 0x03FF_FF00 };
        let id = EXTENDED | (pgn << 8) & group | u32::from(source.unwrap_or(0));
        Self { id, mask: EXTENDED | REMOTE | group | if source.is_some() { 0xFF } else { 0 } }
    }

    pub fn passes(self, id: CanId) -> bool {
        id.word() & self.mask == self.id & self.mask
    }

    /// The narrowest that passes whatever one of the two passes.
    fn join(self, other: Self) -> Self {
        let mask = self.mask & other.mask & !(self.id ^ other.id);
        Self { id: self.id & mask, mask }
    }
}

/// At most [`FILTERS_MAX`]; none where no point needs a frame.
pub fn filters(points: &[CanPoint]) -> Vec<Filter> {
    let mut wanted = BTreeSet::new();
    for point in points {
        match &point.source {
            Source::Signal(signal) => match signal.from {
                FrameMatch::Id(id) => {
                    wanted.insert(Filter::exact(id));
                }
                FrameMatch::Pgn { pgn, source } => {
                    wanted.insert(Filter::pgn(pgn, source));
                    wanted.insert(Filter::pgn(j1939::PGN_TP_CM, source));
                    wanted.insert(Filter::pgn(j1939::PGN_TP_DT, source));
                }
            },
            Source::Request(request) => wanted.extend(request.receive.iter().copied().map(Filter::exact)),
            // What others send keeps the signals that the command does not set.
            Source::Command(command) => {
                wanted.insert(Filter::exact(command.frame));
            }
        }
    }
    // Sorted, the extended ones stand behind the standard ones, and neighbours have the most in common.
    let mut filters: Vec<_> = wanted.into_iter().collect();
    while filters.len() > FILTERS_MAX {
        filters = filters
            .chunks(2)
            .map(|pair| pair.iter().skip(1).fold(pair[0], |joined, next| joined.join(*next)))
            .collect();
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::can::signal::{BitOrder, Layout, Number};
    use crate::can::spec::SignalSpec;
    use proptest::prelude::*;
    use std::time::Duration;

    fn signal(from: FrameMatch) -> CanPoint {
        let layout = Layout::new(0, 8, BitOrder::Little, Number::Unsigned).unwrap();
        CanPoint {
            name: "p".into(),
            source: Source::Signal(SignalSpec { from, layout, when: Vec::new() }),
            min_interval: Duration::ZERO,
            timeout: None,
        }
    }

    fn id() -> impl Strategy<Value = CanId> {
        prop_oneof![
            (0u32..=0x7FF).prop_map(|id| CanId::standard(id).unwrap()),
            (0u32..=0x1FFF_FFFF).prop_map(|id| CanId::extended(id).unwrap())
        ]
    }

    proptest! {
        #[test]
        fn every_frame_that_a_point_needs_passes(ids in proptest::collection::vec(id(), 1..1200)) {
            let points: Vec<_> = ids.iter().map(|id| signal(FrameMatch::Id(*id))).collect();
            let filters = filters(&points);
            prop_assert!(filters.len() <= FILTERS_MAX);
            for id in &ids {
                prop_assert!(filters.iter().any(|filter| filter.passes(*id)), "{id}");
            }
        }

        #[test]
        fn few_identifiers_let_no_other_frame_pass(ids in proptest::collection::vec(id(), 0..50), other in id()) {
            let points: Vec<_> = ids.iter().map(|id| signal(FrameMatch::Id(*id))).collect();
            let passes = filters(&points).iter().any(|filter| filter.passes(other));
            prop_assert_eq!(passes, ids.contains(&other));
        }

        #[test]
        fn a_parameter_group_passes_from_whom_and_to_whom_it_may(pgn in 0u32..=0x3FFFF, source: u8, priority in 0u8..8, wanted in proptest::option::of(any::<u8>())) {
            let pgn = if j1939::is_addressed(pgn) { pgn & 0x3FF00 } else { pgn };
            let id = j1939::Header { priority, pgn, source, destination: 0x21 }.id();
            let filters = filters(&[signal(FrameMatch::Pgn { pgn, source: wanted })]);
            let expected = wanted.is_none_or(|wanted| wanted == source);
            prop_assert_eq!(filters.iter().any(|filter| filter.passes(id)), expected);
        }
    }
}
