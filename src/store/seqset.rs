//! A set of message numbers as ranges: a queue that is read in order stays one range, however long it is.

use super::Seq;

/// Ranges with both ends included, rising, not touching each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SeqSet {
    ranges: Vec<(Seq, Seq)>,
}

impl SeqSet {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers it holds.
    pub(super) fn len(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| to - from + 1).sum()
    }

    pub(super) fn ranges(&self) -> &[(Seq, Seq)] {
        &self.ranges
    }

    pub(super) fn first(&self) -> Option<Seq> {
        self.ranges.first().map(|range| range.0)
    }

    pub(super) fn last(&self) -> Option<Seq> {
        self.ranges.last().map(|range| range.1)
    }

    /// Index of the first range that ends at or after `seq`.
    fn position(&self, seq: Seq) -> usize {
        self.ranges.partition_point(|range| range.1 < seq)
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.ranges.get(self.position(seq)).is_some_and(|range| range.0 <= seq)
    }

    /// The lowest member that is not below `seq`.
    pub(super) fn at_or_after(&self, seq: Seq) -> Option<Seq> {
        self.ranges.get(self.position(seq)).map(|range| range.0.max(seq))
    }

    pub(super) fn insert(&mut self, seq: Seq) {
        let at = self.position(seq);
        if self.ranges.get(at).is_some_and(|range| range.0 <= seq) {
            return;
        }
        let joins_before = at > 0 && self.ranges[at - 1].1.checked_add(1) == Some(seq);
        let joins_after = self.ranges.get(at).is_some_and(|range| seq.checked_add(1) == Some(range.0));
        match (joins_before, joins_after) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = seq,
            (false, true) => self.ranges[at].0 = seq,
            (false, false) => self.ranges.insert(at, (seq, seq)),
        }
    }

    /// Takes a range that begins after everything held, as the decoder reads them; false where it does not.
    pub(super) fn push_range(&mut self, from: Seq, to: Seq) -> bool {
        let rises = self.last().is_none_or(|last| last < from);
        if !rises || from > to {
            return false;
        }
        match self.ranges.last_mut() {
            Some(range) if range.1 + 1 == from => range.1 = to,
            Some(_) | None => self.ranges.push((from, to)),
        }
        true
    }

    /// What is in `self` and not in `other`.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut rest = Self::new();
        for &(from, to) in &self.ranges {
            let mut next = Some(from);
            for &(cut_from, cut_to) in &other.ranges[other.position(from)..] {
                let Some(begin) = next.filter(|_| cut_from <= to) else { break };
                if begin < cut_from {
                    rest.push_range(begin, cut_from - 1);
                }
                next = cut_to.checked_add(1).filter(|after| *after <= to);
            }
            if let Some(begin) = next {
                rest.push_range(begin, to);
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(of: &BTreeSet<Seq>) -> SeqSet {
        let mut set = SeqSet::new();
        of.iter().rev().for_each(|seq| set.insert(*seq));
        set
    }

    fn members(set: &SeqSet) -> BTreeSet<Seq> {
        set.ranges().iter().flat_map(|(from, to)| *from..=*to).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers_in_as_few_ranges_as_there_are_gaps(
            a in prop::collection::btree_set(0_u64..60, 0..40),
            b in prop::collection::btree_set(0_u64..60, 0..40),
            probe in 0_u64..60,
        ) {
            let (left, right) = (set(&a), set(&b));
            prop_assert_eq!(&members(&left), &a);
            prop_assert_eq!(left.len(), a.len() as u64);
            prop_assert_eq!(left.contains(probe), a.contains(&probe));
            prop_assert_eq!(left.at_or_after(probe), a.range(probe..).next().copied());
            prop_assert_eq!(members(&left.minus(&right)), a.difference(&b).copied().collect::<BTreeSet<_>>());
            let gaps = a.iter().filter(|seq| !a.contains(&(*seq + 1))).count();
            prop_assert_eq!(left.ranges().len(), gaps);
        }
    }

    #[test]
    fn the_highest_number_does_not_overflow() {
        let mut set = SeqSet::new();
        set.insert(u64::MAX);
        set.insert(u64::MAX - 1);
        assert_eq!(set.ranges(), [(u64::MAX - 1, u64::MAX)]);
        assert!(set.minus(&set).is_empty());
    }
}
