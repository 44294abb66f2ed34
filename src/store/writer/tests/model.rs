//! Random operations against the store and against plain maps that do the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Messages of one batch: which destinations (bits), bytes.
    Append(Vec<(u8, usize)>),
    /// Some of what a destination holds (by bits of a mask over its messages), by batch or by the handle's way.
    Deliver {
        dest: u32,
        mask: u64,
        in_batch: bool,
    },
    Close(u32),
    Open(u32),
    Reopen {
        clean: bool,
    },
    Read {
        dest: u32,
        skip: usize,
        count: usize,
        newest: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let dest = 1_u32..4;
    prop_oneof![
        6 => prop::collection::vec((1_u8..8, 8_usize..400), 1..20).prop_map(Step::Append),
        4 => (dest.clone(), any::<u64>(), any::<bool>()).prop_map(|(dest, mask, in_batch)| Step::Deliver { dest, mask, in_batch }),
        1 => dest.clone().prop_map(Step::Close),
        2 => dest.clone().prop_map(Step::Open),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
        4 => (dest, 0_usize..30, 1_usize..30, any::<bool>())
            .prop_map(|(dest, skip, count, newest)| Step::Read { dest, skip, count, newest }),
    ]
}

/// One is never full, one drops its oldest, one its newest.
fn spec(dest: u32) -> QueueSpec {
    let bounded = QueueSpec { max_bytes: 3000, ..unbounded() };
    match dest {
        1 => unbounded(),
        2 => bounded,
        _ => QueueSpec { when_full: WhenFull::DropNewest, ..bounded },
    }
}

#[derive(Default)]
struct Model(BTreeMap<u32, BTreeMap<Seq, usize>>);

impl Model {
    fn append(&mut self, dest: u32, seq: Seq, cost: usize) {
        let Some(queue) = self.0.get_mut(&dest) else { return };
        let max = usize::try_from(spec(dest).max_bytes).unwrap();
        let sum = |queue: &BTreeMap<Seq, usize>| queue.values().sum::<usize>();
        if spec(dest).when_full == WhenFull::DropNewest && sum(queue) + cost > max {
            return;
        }
        queue.insert(seq, cost);
        while sum(queue) > max {
            queue.pop_first();
        }
    }
}

struct Run {
    dir: TempDir,
    now: Now,
    engine: Engine,
    model: Model,
    seq: Seq,
}

impl Run {
    fn commit(&mut self, ops: Vec<Op>) {
        let events = commit(&mut self.engine, ops, self.now);
        assert!(events.iter().any(|event| matches!(event, StoreEvent::Committed { .. })), "{events:?}");
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(messages) => {
                let mut ops = Vec::new();
                for (to, bytes) in messages {
                    let dests: Vec<DestId> = (1..4).filter(|dest| to >> (dest - 1) & 1 == 1).map(DestId).collect();
                    ops.push(append(self.seq, bytes, &dests, Durability::Acknowledged));
                    let cost = message(self.seq, bytes).cost();
                    dests.iter().for_each(|dest| self.model.append(dest.0, self.seq, cost));
                    self.seq += 1;
                }
                self.commit(ops);
            }
            Step::Deliver { dest, mask, in_batch } => {
                let Some(queue) = self.model.0.get_mut(&dest) else { return };
                let held = queue.keys().copied().enumerate();
                let gone: Vec<Seq> = held.filter(|(n, _)| mask >> (n % 64) & 1 == 1).map(|(_, seq)| seq).collect();
                queue.retain(|seq, _| !gone.contains(seq));
                let dest = DestId(dest);
                if in_batch {
                    self.commit(gone.into_iter().map(|seq| Op::Delivered { dest, seq }).collect());
                } else {
                    self.engine.deliver(dest, &gone, self.now);
                }
            }
            Step::Close(dest) => {
                self.model.0.remove(&dest);
                self.commit(vec![Op::CloseDestination { dest: DestId(dest) }]);
            }
            Step::Open(dest) => {
                self.model.0.entry(dest).or_default();
                self.commit(vec![open_op(DestId(dest), spec(dest))]);
            }
            Step::Reopen { clean } => {
                if clean {
                    self.engine.close(self.now);
                } else {
                    self.commit(vec![]);
                }
                let none = Engine::new(self.dir.path().into(), boot(), Watches::default(), self.now);
                drop(std::mem::replace(&mut self.engine, none));
                self.engine = engine(self.dir.path(), self.now);
                assert!(self.engine.next_seq() >= self.seq);
                self.seq = self.engine.next_seq();
                self.check_sums();
            }
            Step::Read { dest, skip, count, newest } => self.read(dest, skip, count, newest),
        }
    }

    fn read(&mut self, dest: u32, skip: usize, count: usize, newest: bool) {
        let held: Vec<Seq> = self.model.0.get(&dest).map(|queue| queue.keys().copied().collect()).unwrap_or_default();
        let after = skip.checked_sub(1).map(|skip| held.get(skip).copied().unwrap_or(self.seq));
        let order = if newest { Order::Newest } else { Order::Oldest };
        let want: Vec<Seq> = if newest {
            held.into_iter().rev().filter(|seq| after.is_none_or(|below| *seq < below)).take(count).collect()
        } else {
            held.into_iter().filter(|seq| after.is_none_or(|after| *seq > after)).take(count).collect()
        };
        let read = self.engine.read(Query { max_messages: count, ..query(DestId(dest), after, order) }, self.now);
        assert_eq!(seqs(&read), want);
        for stored in read {
            assert_eq!(stored.message, message(stored.seq, stored.message.payload.len()));
        }
    }

    fn check_sums(&self) {
        let sums = |queue: &BTreeMap<Seq, usize>| (queue.len() as u64, queue.values().sum::<usize>() as u64);
        let want: Vec<_> = self.model.0.iter().map(|(dest, queue)| (*dest, sums(queue))).collect();
        let have: Vec<_> =
            self.engine.queues.iter().map(|(dest, queue)| (dest.0, (queue.messages, queue.bytes))).collect();
        assert_eq!(have, want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_set_of_plain_queues_whatever_happens(steps in prop::collection::vec(step(), 1..60)) {
        let (dir, now) = (TempDir::new().unwrap(), Now::read());
        let engine = engine(dir.path(), now);
        let mut run = Run { dir, now, engine, model: Model::default(), seq: 1 };
        (1..4).for_each(|dest| run.step(Step::Open(dest)));
        steps.into_iter().for_each(|step| run.step(step));
        run.commit(vec![]);
        run.check_sums();
        for dest in 1..4 {
            run.read(dest, 0, usize::MAX, false);
            run.read(dest, 0, usize::MAX, true);
        }
    }
}
