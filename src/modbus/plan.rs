//! Which blocks to read for the points that are due, at the least line time, and what the whole bus takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::spec::{BusSpec, PointSpec, Table};
use super::timing::{Timing, max_items};

/// The place of one point in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub address: u16,
    /// Registers or bits, not zero.
    pub count: u16,
    /// `PointId::index`.
    pub point: u32,
}

impl Span {
    pub fn of(index: u32, point: &PointSpec) -> Self {
        let count = match point.table {
            Table::Coil | Table::Discrete => 1,
            Table::Input | Table::Holding => point.data.registers().max(1),
        };
        Self { address: point.address, count, point: index }
    }

    /// One past the last address.
    pub fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }
}

/// One read request, and the points that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub address: u16,
    pub count: u16,
    /// In the order of their addresses.
    pub points: Vec<Span>,
}

impl Block {
    /// The block that reads these points and no more; `None` for no points or a range past the last address.
    pub fn of(points: Vec<Span>) -> Option<Self> {
        let start = points.iter().map(|span| span.address).min()?;
        let end = points.iter().map(Span::end).max()?;
        let count = u16::try_from(end - u32::from(start)).ok()?;
        Some(Self { address: start, count, points })
    }
}

/// What a device was found not to let read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Avoid {
    /// Addresses that it has not: never read over.
    pub holes: BTreeSet<u32>,
    /// Addresses at which one read must end and another begin.
    pub cuts: BTreeSet<u16>,
}

impl Avoid {
    /// Whether one read may go on from the points up to `end` to a point that begins at `next`.
    fn forbids(&self, first: u16, end: u32, next: u16) -> bool {
        let gap = end..u32::from(next);
        (first < next && self.cuts.range(first.saturating_add(1)..=next).next().is_some())
            || (!gap.is_empty() && self.holes.range(gap).next().is_some())
    }
}

/// The limits of one device's table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub table: Table,
    /// Registers or bits in one request.
    pub max_items: u16,
    /// Registers that one read may skip over; of bits sixteen times as many.
    pub max_gap: u16,
}

impl Limits {
    pub fn of(spec: &BusSpec, device: usize, table: Table) -> Self {
        let max_registers = spec.devices.get(device).map_or(1, |device| device.max_registers);
        Self { table, max_items: max_items(table, max_registers), max_gap: spec.max_gap }
    }

    fn gap(self) -> u32 {
        match self.table {
            Table::Coil | Table::Discrete => u32::from(self.max_gap) * 16,
            Table::Input | Table::Holding => u32::from(self.max_gap),
        }
    }
}

/// The blocks that read all `spans` in the least line time; where two ways cost the same, fewer requests.
///
/// Sorted by address, some best plan takes neighbours together: a block that reaches over another's points could
/// take them for nothing. So the best way to read the first n points follows from the best ways to read fewer.
pub fn blocks(spans: &[Span], limits: Limits, avoid: &Avoid, timing: &Timing) -> Vec<Block> {
    let mut spans = spans.to_vec();
    spans.sort_unstable();
    // best[n]: the least cost of the first n points, their requests, and where the last block begins.
    let mut best: Vec<(Duration, u32, usize)> = vec![(Duration::ZERO, 0, 0)];
    for last in 0..spans.len() {
        best.push((Duration::MAX, u32::MAX, last));
    }
    for first in 0..spans.len() {
        let (before, requests, _) = best[first];
        let start = spans[first].address;
        let mut end = u32::from(start);
        for (last, span) in spans.iter().enumerate().skip(first) {
            if last > first {
                let gap = u32::from(span.address).saturating_sub(end);
                let count = end.max(span.end()) - u32::from(start);
                if gap > limits.gap() || count > u32::from(limits.max_items) || avoid.forbids(start, end, span.address)
                {
                    break;
                }
            }
            end = end.max(span.end());
            let count = u16::try_from(end - u32::from(start)).unwrap_or(u16::MAX);
            let cost = (before.saturating_add(timing.read(limits.table, count)), requests + 1, first);
            if cost < best[last + 1] {
                best[last + 1] = cost;
            }
        }
    }
    let mut blocks = Vec::new();
    let mut end = spans.len();
    while end > 0 {
        let start = best[end].2;
        blocks.extend(Block::of(spans[start..end].to_vec()));
        end = start;
    }
    blocks.reverse();
    blocks
}

/// One request of the plan, as `fieldgate check` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRequest {
    /// Place in `BusSpec::devices`.
    pub device: usize,
    pub table: Table,
    pub address: u16,
    pub count: u16,
    /// How often it is sent, on average: points of several intervals share a read when they are due together.
    pub interval: Duration,
    /// The line's time that it takes; how long the device thinks is not in it.
    pub line_time: Duration,
    /// `PointId::index` of those it answers.
    pub points: Vec<u32>,
}

/// What a bus is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub struct BusLoad {
    /// By device, table, address.
    pub requests: Vec<PlannedRequest>,
    /// One round over all points.
    pub cycle: Duration,
    /// Share of the line's time, which may be over 100; `None` where the line's time is not known (TCP).
    pub utilisation_percent: Option<f64>,
}

/// The plan of a bus whose devices all answer at once. Over 100 % the intervals cannot be kept.
pub fn load(spec: &BusSpec) -> BusLoad {
    let timing = Timing::of(spec);
    let mut requests = Vec::new();
    let mut cycle = Duration::ZERO;
    for ((device, table), classes) in lanes(spec) {
        let limits = Limits::of(spec, device, table);
        let all: Vec<Span> = classes.values().flatten().copied().collect();
        for block in blocks(&all, limits, &Avoid::default(), &timing) {
            cycle += timing.read(table, block.count);
        }
        for (block, interval) in rates(&classes, limits, &timing) {
            requests.push(PlannedRequest {
                device,
                table,
                address: block.address,
                count: block.count,
                interval,
                line_time: timing.read(table, block.count),
                points: block.points.iter().map(|span| span.point).collect(),
            });
        }
    }
    requests.sort_by_key(|request| (request.device, request.table, request.address, request.count));
    let share: f64 = requests.iter().map(|one| one.line_time.as_secs_f64() / one.interval.as_secs_f64()).sum();
    BusLoad { requests, cycle, utilisation_percent: timing.is_limited().then_some(share * 100.0) }
}

/// The points of one device's table, by interval in microseconds.
type Classes = BTreeMap<u64, Vec<Span>>;

/// The points of each device's table, by interval.
fn lanes(spec: &BusSpec) -> BTreeMap<(usize, Table), Classes> {
    let mut lanes: BTreeMap<(usize, Table), Classes> = BTreeMap::new();
    for (index, point) in (0_u32..).zip(&spec.points) {
        let micros = u64::try_from(point.interval.as_micros()).unwrap_or(u64::MAX).max(1);
        let lane = lanes.entry((point.device, point.table)).or_default();
        lane.entry(micros).or_default().push(Span::of(index, point));
    }
    lanes
}

/// More moments than this in a common period are not walked through.
const MOMENTS_MAX: u64 = 20_000;

/// The distinct blocks that are read over the common period of all intervals, and how often each.
fn rates(classes: &Classes, limits: Limits, timing: &Timing) -> Vec<(Block, Duration)> {
    let period = classes.keys().try_fold(1_u64, |period, interval| lcm(period, *interval)).filter(|period| {
        classes
            .keys()
            .try_fold(0_u64, |sum, interval| sum.checked_add(period / interval))
            .is_some_and(|sum| sum <= MOMENTS_MAX)
    });
    let Some(period) = period else {
        // No short common period: reckoned as if no two intervals ever fell together, which is the most it can take.
        let alone = |(interval, spans): (&u64, &Vec<Span>)| {
            let interval = Duration::from_micros(*interval);
            blocks(spans, limits, &Avoid::default(), timing).into_iter().map(move |block| (block, interval)).collect()
        };
        return classes.iter().flat_map::<Vec<_>, _>(alone).collect();
    };
    let mut moments: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for interval in classes.keys() {
        for at in (0..period / interval).map(|turn| turn * interval) {
            moments.entry(at).or_default().push(*interval);
        }
    }
    let mut sets: BTreeMap<Vec<u64>, u64> = BTreeMap::new();
    for due in moments.into_values() {
        *sets.entry(due).or_default() += 1;
    }
    let mut found: Vec<(Block, u64)> = Vec::new();
    for (due, times) in sets {
        let spans: Vec<Span> = due.iter().filter_map(|interval| classes.get(interval)).flatten().copied().collect();
        for block in blocks(&spans, limits, &Avoid::default(), timing) {
            match found.iter_mut().find(|(known, _)| *known == block) {
                Some((_, count)) => *count += times,
                None => found.push((block, times)),
            }
        }
    }
    found.into_iter().map(|(block, times)| (block, Duration::from_micros(period / times.max(1)))).collect()
}

fn lcm(a: u64, b: u64) -> Option<u64> {
    let (mut high, mut low) = (a, b);
    while low > 0 {
        (high, low) = (low, high % low);
    }
    (a / high).checked_mul(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::modbus::fixture;
    use crate::modbus::spec::{DataType, Parity};

    fn timing() -> Timing {
        Timing::of(&fixture::serial(19_200, Parity::Even))
    }

    fn limits(max_items: u16, max_gap: u16) -> Limits {
        Limits { table: Table::Holding, max_items, max_gap }
    }

    fn spans(places: &[(u16, u16)]) -> Vec<Span> {
        (0..).zip(places).map(|(point, (address, count))| Span { address: *address, count: *count, point }).collect()
    }

    fn ranges(blocks: &[Block]) -> Vec<(u16, u16)> {
        blocks.iter().map(|block| (block.address, block.count)).collect()
    }

    fn planned(places: &[(u16, u16)], limits: Limits, avoid: &Avoid) -> Vec<(u16, u16)> {
        ranges(&blocks(&spans(places), limits, avoid, &timing()))
    }

    #[test]
    fn a_gap_is_read_over_only_while_that_is_cheaper_than_another_request() {
        // Another request costs 8 + 5 characters and two gaps: 20 characters, as much as ten registers.
        assert_eq!(planned(&[(0, 1), (10, 1)], limits(125, 100), &Avoid::default()), [(0, 11)]);
        assert_eq!(planned(&[(0, 1), (12, 1)], limits(125, 100), &Avoid::default()), [(0, 1), (12, 1)]);
        assert_eq!(planned(&[(0, 1), (4, 1)], limits(125, 2), &Avoid::default()), [(0, 1), (4, 1)]);
    }

    #[test]
    fn a_value_of_several_registers_is_never_split() {
        let thirds: Vec<(u16, u16)> = (0..6).map(|place| (place * 4, 4)).collect();
        assert_eq!(planned(&thirds, limits(10, 16), &Avoid::default()), [(0, 8), (8, 8), (16, 8)]);
    }

    #[test]
    fn holes_and_cuts_are_never_read_over() {
        let avoid = Avoid { holes: BTreeSet::from([1]), cuts: BTreeSet::from([3]) };
        assert_eq!(planned(&[(0, 1), (2, 1), (3, 1), (4, 1)], limits(125, 16), &avoid), [(0, 1), (2, 1), (3, 2)]);
    }

    #[test]
    fn the_last_address_can_be_read() {
        assert_eq!(planned(&[(65_535, 1), (65_534, 1)], limits(125, 16), &Avoid::default()), [(65_534, 2)]);
    }

    #[test]
    fn load_counts_shared_reads_once_and_shows_the_lines_share() {
        let mut spec = fixture::serial(9_600, Parity::None);
        for (address, interval) in [(0, 500), (1, 1_000)] {
            fixture::point(&mut spec, Table::Holding, address, DataType::U16, interval);
        }
        let load = load(&spec);
        let told: Vec<_> = load.requests.iter().map(|one| (one.address, one.count, one.interval.as_millis())).collect();
        assert_eq!(told, [(0, 1, 1_000), (0, 2, 1_000)]);
        // 22 and 24 characters a second at 960 characters a second.
        let percent = load.utilisation_percent.unwrap();
        assert!((4.5..5.0).contains(&percent), "{percent}");
        assert_eq!(load.cycle, Timing::of(&spec).read(Table::Holding, 2));
    }

    #[test]
    fn a_line_that_cannot_keep_its_intervals_is_over_a_hundred_percent() {
        let mut spec = fixture::serial(9_600, Parity::None);
        fixture::point(&mut spec, Table::Holding, 0, DataType::Text { registers: 100 }, 100);
        assert!(load(&spec).utilisation_percent.unwrap() > 100.0);
    }

    #[test]
    fn intervals_without_a_short_common_period_are_reckoned_apart() {
        let mut spec = fixture::serial(9_600, Parity::None);
        for (address, interval) in [(0, 99_991), (1, 99_989)] {
            fixture::point(&mut spec, Table::Holding, address, DataType::U16, interval);
        }
        assert_eq!(load(&spec).requests.len(), 2);
    }

    /// The least cost of any way to part the points into blocks, found by trying all.
    fn exhaustive(spans: &[Span], groups: &mut Vec<Vec<Span>>, limits: Limits, avoid: &Avoid) -> Duration {
        let Some((first, rest)) = spans.split_first() else {
            let cost = |group: &Vec<Span>| {
                let mut sorted = group.clone();
                sorted.sort_unstable();
                let block = Block::of(sorted.clone())?;
                let mut end = u32::from(sorted[0].address);
                for (place, span) in sorted.iter().enumerate() {
                    let gap = u32::from(span.address).saturating_sub(end);
                    if place > 0 && (gap > limits.gap() || avoid.forbids(sorted[0].address, end, span.address)) {
                        return None;
                    }
                    end = end.max(span.end());
                }
                (group.len() == 1 || block.count <= limits.max_items).then(|| timing().read(limits.table, block.count))
            };
            return groups
                .iter()
                .map(cost)
                .try_fold(Duration::ZERO, |sum, one| Some(sum + one?))
                .unwrap_or(Duration::MAX);
        };
        let mut best = Duration::MAX;
        for place in 0..=groups.len() {
            if place == groups.len() {
                groups.push(vec![*first]);
            } else {
                groups[place].push(*first);
            }
            best = best.min(exhaustive(rest, groups, limits, avoid));
            groups[place].pop();
            groups.retain(|group| !group.is_empty());
        }
        best
    }

    proptest! {
        #[test]
        fn no_other_parting_into_blocks_is_cheaper(
            places in proptest::collection::vec((0_u16..60, 1_u16..6), 1..7),
            max_items in 5_u16..40, max_gap in 0_u16..20,
            holes in proptest::collection::btree_set(0_u32..60, 0..4), cuts in proptest::collection::btree_set(0_u16..60, 0..2),
        ) {
            let (spans, limits, avoid) = (spans(&places), limits(max_items, max_gap), Avoid { holes, cuts });
            let found = blocks(&spans, limits, &avoid, &timing());
            let cost: Duration = found.iter().map(|block| timing().read(Table::Holding, block.count)).sum();
            prop_assert_eq!(cost, exhaustive(&spans, &mut Vec::new(), limits, &avoid));
            let mut answered: Vec<u32> = found.iter().flat_map(|block| block.points.iter().map(|span| span.point)).collect();
            answered.sort_unstable();
            prop_assert_eq!(answered, (0..u32::try_from(places.len()).unwrap()).collect::<Vec<_>>());
        }
    }
}
