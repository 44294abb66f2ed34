//! One device's table: which of its points are due, the blocks that read them, and the addresses it has not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::plan::{self, Avoid, Block, Limits, Span};
use super::spec::{BusSpec, Table};
use super::timing::Timing;
use crate::sample::Fault;

/// A point that a device refuses is asked for alone, first after this time, then ever more rarely.
const ALONE_MIN: Duration = Duration::from_secs(10);
const ALONE_MAX: Duration = Duration::from_secs(600);
/// Sets of intervals that fell together, remembered with their plan.
const PLANS_MAX: usize = 256;

/// A block that is to be read.
#[derive(Clone, Debug)]
pub struct Poll {
    pub lane: usize,
    pub block: Rc<Block>,
    /// When it was to be sent.
    pub due: Instant,
    /// When the next of the same is due: the order of sending.
    pub deadline: Instant,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// Due points, of these intervals of the lane.
    Regular(Rc<[usize]>),
    /// A part of a block that was refused, to find the address that the device has not.
    Trial(u32),
    /// A point that the device refused before.
    Alone(u32),
    /// Out of turn: after a write, or to see whether a device is back.
    Extra,
}

#[derive(Debug)]
struct Class {
    interval: Duration,
    due: Instant,
    /// Blocks of it that are not answered yet.
    waiting: usize,
    spans: Vec<Span>,
}

#[derive(Debug)]
struct Alone {
    span: Span,
    class: usize,
    interval: Duration,
    due: Instant,
    waiting: bool,
    fault: Fault,
}

/// A refused block that was parted in two.
#[derive(Debug)]
struct Trial {
    parent: Option<u32>,
    /// Where the second part begins.
    boundary: u16,
    open: u8,
    /// A refused point or a cut inside explains why the whole was refused.
    explained: bool,
}

type Plan = Rc<[(Rc<Block>, Rc<[usize]>)]>;

#[derive(Debug)]
pub struct Lane {
    pub device: usize,
    pub table: Table,
    index: usize,
    limits: Limits,
    timing: Timing,
    classes: Vec<Class>,
    alone: BTreeMap<u32, Alone>,
    avoid: Avoid,
    plans: HashMap<Vec<usize>, Plan>,
    trials: BTreeMap<u32, Trial>,
    trials_made: u32,
    /// What it knows of its device is no longer what was told last.
    learnt: bool,
}

/// The lanes of a bus: one for each table of each device that has points.
pub fn lanes(spec: &BusSpec, timing: Timing, now: Instant) -> Vec<Lane> {
    let mut grouped: BTreeMap<(usize, Table), BTreeMap<Duration, Vec<Span>>> = BTreeMap::new();
    for (index, point) in (0_u32..).zip(&spec.points) {
        let lane = grouped.entry((point.device, point.table)).or_default();
        lane.entry(point.interval.max(Duration::from_millis(1))).or_default().push(Span::of(index, point));
    }
    let class = |(interval, spans)| Class { interval, due: now, waiting: 0, spans };
    (0..)
        .zip(grouped)
        .map(|(index, ((device, table), classes))| Lane {
            device,
            table,
            index,
            limits: Limits::of(spec, device, table),
            timing,
            classes: classes.into_iter().map(class).collect(),
            alone: BTreeMap::new(),
            avoid: Avoid::default(),
            plans: HashMap::new(),
            trials: BTreeMap::new(),
            trials_made: 0,
            learnt: false,
        })
        .collect()
}

impl Lane {
    /// The next moment at which [`Lane::collect`] has something to give; `None` while answers are outstanding.
    pub fn next_due(&self) -> Option<Instant> {
        if !self.trials.is_empty() {
            return None;
        }
        let classes = self.classes.iter().filter(|class| class.waiting == 0 && !class.spans.is_empty());
        let alone = self.alone.values().filter(|alone| !alone.waiting);
        classes.map(|class| class.due).chain(alone.map(|alone| alone.due)).min()
    }

    /// The blocks that are due. What was missed is not caught up.
    pub fn collect(&mut self, now: Instant, out: &mut Vec<Poll>) {
        if !self.trials.is_empty() {
            return;
        }
        let due: Vec<usize> = (0_usize..)
            .zip(&self.classes)
            .filter(|(_, class)| class.due <= now && class.waiting == 0 && !class.spans.is_empty())
            .map(|(place, _)| place)
            .collect();
        if !due.is_empty() {
            for (block, classes) in self.plan(&due).iter() {
                let moments = || classes.iter().filter_map(|place| self.classes.get(*place));
                let since = moments().map(|class| class.due).min().unwrap_or(now);
                let deadline = moments().map(|class| class.due + class.interval).min().unwrap_or(now);
                let kind = Kind::Regular(Rc::clone(classes));
                out.push(Poll { lane: self.index, block: Rc::clone(block), due: since, deadline, kind });
                for place in classes.iter() {
                    self.classes[*place].waiting += 1;
                }
            }
            for place in due {
                let class = &mut self.classes[place];
                class.due = next_turn(class.due, class.interval, now);
            }
        }
        for (point, alone) in self.alone.iter_mut().filter(|(_, alone)| alone.due <= now && !alone.waiting) {
            let Some(block) = Block::of(vec![alone.span]) else { continue };
            alone.waiting = true;
            let deadline = alone.due + alone.interval;
            out.push(Poll {
                lane: self.index,
                block: Rc::new(block),
                due: alone.due,
                deadline,
                kind: Kind::Alone(*point),
            });
        }
    }

    fn plan(&mut self, due: &[usize]) -> Plan {
        if let Some(plan) = self.plans.get(due) {
            return Rc::clone(plan);
        }
        let spans: Vec<Span> =
            due.iter().filter_map(|place| self.classes.get(*place)).flat_map(|class| &class.spans).copied().collect();
        let class_of = |span: &Span| due.iter().copied().find(|place| self.classes[*place].spans.contains(span));
        let with_classes = |block: Block| {
            let mut classes: Vec<usize> = block.points.iter().filter_map(class_of).collect();
            classes.sort_unstable();
            classes.dedup();
            (Rc::new(block), Rc::from(classes))
        };
        let blocks = plan::blocks(&spans, self.limits, &self.avoid, &self.timing);
        let plan: Plan = blocks.into_iter().map(with_classes).collect();
        if self.plans.len() >= PLANS_MAX {
            self.plans.clear();
        }
        self.plans.insert(due.to_vec(), Rc::clone(&plan));
        plan
    }

    /// All blocks of the table, for a look whether the device is back.
    pub fn all(&mut self) -> Vec<Rc<Block>> {
        let filled: Vec<usize> =
            (0..self.classes.len()).filter(|place| !self.classes[*place].spans.is_empty()).collect();
        if filled.is_empty() {
            return self.alone.values().filter_map(|alone| Block::of(vec![alone.span]).map(Rc::new)).collect();
        }
        self.plan(&filled).iter().map(|(block, _)| Rc::clone(block)).collect()
    }

    /// The poll was answered with values.
    pub fn answered(&mut self, poll: &Poll) {
        match &poll.kind {
            Kind::Regular(classes) => self.done(classes),
            Kind::Trial(trial) => self.settle(*trial, false),
            Kind::Alone(point) => self.reinstate(*point),
            Kind::Extra => {}
        }
    }

    /// The poll failed, and not because the device has no such address.
    pub fn failed(&mut self, poll: &Poll, now: Instant) {
        match &poll.kind {
            Kind::Regular(classes) => self.done(classes),
            Kind::Trial(trial) => self.settle(*trial, true),
            Kind::Alone(point) => self.rarer(*point, now),
            Kind::Extra => {}
        }
    }

    /// The device has not all of the poll's addresses. Gives the parts to try next; none where the culprit is found,
    /// which is then the poll's only point.
    pub fn refused(&mut self, poll: &Poll, now: Instant) -> Vec<Poll> {
        let parent = match &poll.kind {
            Kind::Regular(classes) => {
                self.done(classes);
                None
            }
            Kind::Trial(trial) => Some(*trial),
            Kind::Alone(point) => {
                self.rarer(*point, now);
                return Vec::new();
            }
            Kind::Extra => return Vec::new(),
        };
        let (left, right) = poll.block.points.split_at(poll.block.points.len() / 2);
        let (Some(before), Some(after)) = (Block::of(left.to_vec()), Block::of(right.to_vec())) else {
            self.set_alone(&poll.block, Fault::IllegalAddress, now);
            if let Some(trial) = parent {
                self.settle(trial, true);
            }
            return Vec::new();
        };
        let id = self.trials_made;
        self.trials_made = self.trials_made.wrapping_add(1);
        let boundary = right.first().map_or(0, |span| span.address);
        self.trials.insert(id, Trial { parent, boundary, open: 2, explained: false });
        [before, after]
            .map(|block| Poll { block: Rc::new(block), kind: Kind::Trial(id), ..poll.clone() })
            .into_iter()
            .collect()
    }

    /// Asks for these points alone and rarely from now on, and never reads over them.
    /// `fault`: why.
    pub fn set_alone(&mut self, block: &Block, fault: Fault, now: Instant) {
        for span in &block.points {
            let Some(class) = self.classes.iter().position(|class| class.spans.contains(span)) else { continue };
            self.classes[class].spans.retain(|other| other != span);
            let interval = self.classes[class].interval.max(ALONE_MIN);
            let alone = Alone { span: *span, class, interval, due: now + interval, waiting: false, fault };
            self.alone.insert(span.point, alone);
            self.avoid.holes.extend(u32::from(span.address)..span.end());
        }
        self.learnt = true;
        self.plans.clear();
    }

    /// The points that are asked for alone, and why.
    pub fn alone(&self) -> impl Iterator<Item = (u32, Fault)> {
        self.alone.iter().map(|(point, alone)| (*point, alone.fault))
    }

    /// The addresses at which one read must end.
    pub fn cuts(&self) -> impl Iterator<Item = u16> {
        self.avoid.cuts.iter().copied()
    }

    /// Takes up what was learnt in an earlier run.
    pub fn restore(&mut self, refused: &BTreeSet<u32>, cuts: impl Iterator<Item = u16>, now: Instant) {
        self.avoid.cuts.extend(cuts);
        let spans = self.classes.iter().flat_map(|class| &class.spans);
        let known: Vec<Span> = spans.filter(|span| refused.contains(&span.point)).copied().collect();
        for block in known.into_iter().filter_map(|span| Block::of(vec![span])) {
            self.set_alone(&block, Fault::IllegalAddress, now);
        }
        self.learnt = false;
    }

    /// Whether something was learnt or unlearnt since this was last asked.
    pub fn take_learnt(&mut self) -> bool {
        std::mem::take(&mut self.learnt)
    }

    fn reinstate(&mut self, point: u32) {
        let Some(alone) = self.alone.remove(&point) else { return };
        for address in u32::from(alone.span.address)..alone.span.end() {
            self.avoid.holes.remove(&address);
        }
        self.classes[alone.class].spans.push(alone.span);
        self.learnt = true;
        self.plans.clear();
    }

    fn rarer(&mut self, point: u32, now: Instant) {
        if let Some(alone) = self.alone.get_mut(&point) {
            alone.interval = (alone.interval * 2).min(ALONE_MAX).max(self.classes[alone.class].interval);
            alone.due = now + alone.interval;
            alone.waiting = false;
        }
    }

    fn done(&mut self, classes: &[usize]) {
        for place in classes {
            let class = &mut self.classes[*place];
            class.waiting = class.waiting.saturating_sub(1);
        }
    }

    fn settle(&mut self, id: u32, explained: bool) {
        let Some(trial) = self.trials.get_mut(&id) else { return };
        trial.open = trial.open.saturating_sub(1);
        trial.explained |= explained;
        if trial.open > 0 {
            return;
        }
        let (parent, boundary, explained) = (trial.parent, trial.boundary, trial.explained);
        self.trials.remove(&id);
        if !explained {
            self.avoid.cuts.insert(boundary);
            self.learnt = true;
            self.plans.clear();
        }
        if let Some(parent) = parent {
            self.settle(parent, true);
        }
    }

    /// Forgets what is under way; points are due again at `now`.
    pub fn restart(&mut self, now: Instant) {
        self.trials.clear();
        for class in &mut self.classes {
            class.waiting = 0;
            class.due = now;
        }
        for alone in self.alone.values_mut() {
            alone.waiting = false;
        }
    }
}

/// The first moment after `now` in step with `due`.
fn next_turn(due: Instant, interval: Duration, now: Instant) -> Instant {
    let next = due + interval;
    if next > now {
        return next;
    }
    let missed = (now - due).as_nanos() / interval.as_nanos().max(1);
    let turns = u32::try_from(missed + 1).unwrap_or(u32::MAX);
    interval.checked_mul(turns).and_then(|later| due.checked_add(later)).unwrap_or(now + interval)
}
