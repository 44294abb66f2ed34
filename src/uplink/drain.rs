//! Which stored message is next, and when it may go.
//!
//! What is guaranteed: `oldest_first` hands out strictly by rising number. `newest_first` cuts the queue where it stood when the
//! connection was made: what is committed after that (the live part) goes at once, what stood there (the backlog) behind it,
//! and within each part the order is by rising number. A retained backlog message whose topic has had a live one since goes
//! without its retain flag, so that history never replaces the fresh retained value upstream.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::Message;
use crate::store::{Seq, Stored};

use super::spec::Drain;

/// Messages asked for in one read, and the level below which the next read begins.
pub const READ_MESSAGES: usize = 512;
const READ_BELOW: usize = 256;
/// Bytes asked for in one read.
pub const READ_BYTES: usize = 512 * 1024;
/// Topics remembered under `newest_first`; beyond that every backlog message goes without its retain flag.
const LIVE_TOPICS_MAX: usize = 10_000;
/// How often an idle queue is read from its beginning again: a message that had to wait for the disk may be committed below
/// numbers already read.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Live,
    Backlog,
}

/// A read that is wanted; its rows come back through [`Drainer::filled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub after: Option<Seq>,
    part: Part,
    /// What was committed when it was asked: an empty answer is true up to here.
    committed: Seq,
    epoch: u64,
}

/// One rising run through the queue.
#[derive(Debug, Default)]
struct Run {
    rows: VecDeque<Stored>,
    after: Option<Seq>,
    /// Nothing more up to this number.
    empty_to: Option<Seq>,
}

impl Run {
    fn wants(&self, end: Seq) -> bool {
        self.rows.len() < READ_BELOW && self.empty_to.is_none_or(|to| to < end)
    }
}

/// Tokens for `per_sec` messages a second, at most a quarter of a second's worth saved up.
#[derive(Debug)]
struct Bucket {
    per_sec: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn capacity(&self) -> f64 {
        (self.per_sec / 4.0).max(1.0)
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_sec).min(self.capacity());
        self.at = self.at.max(now);
    }
}

/// Reads ahead, and hands out one message after another.
#[derive(Debug)]
pub struct Drainer {
    policy: Drain,
    bucket: Bucket,
    live: Run,
    backlog: Run,
    /// Where the queue is cut; everything, under `oldest_first`.
    cut: Seq,
    committed: Seq,
    /// Answers to reads of an earlier epoch are thrown away.
    epoch: u64,
    reading: bool,
    /// The last number of the backlog handed out: the measure of progress.
    passed: Seq,
    live_topics: HashSet<Arc<str>>,
    swept: Instant,
}

impl Drainer {
    pub fn new(policy: Drain, per_sec: u32, now: Instant) -> Self {
        let per_sec = f64::from(per_sec.max(1));
        Self {
            policy,
            bucket: Bucket { per_sec, tokens: 1.0, at: now },
            live: Run::default(),
            backlog: Run::default(),
            cut: Seq::MAX,
            committed: 0,
            epoch: 0,
            reading: false,
            passed: 0,
            live_topics: HashSet::new(),
            swept: now,
        }
    }

    /// Begins anew at the oldest message: after a connection was made, and after a refusal that will pass. Nothing may be in flight.
    pub fn restart(&mut self, now: Instant) {
        self.epoch += 1;
        self.reading = false;
        self.backlog = Run::default();
        self.live = Run::default();
        self.swept = now;
        match self.policy {
            Drain::OldestFirst => self.cut = Seq::MAX,
            Drain::NewestFirst => {
                self.cut = self.committed;
                self.live.after = Some(self.cut);
                self.live.empty_to = Some(self.cut);
            }
        }
    }

    /// The queue has grown up to `seq`.
    pub fn committed(&mut self, seq: Seq) {
        self.committed = self.committed.max(seq);
    }

    /// The next read, if one is due; there is at most one under way.
    pub fn next_read(&mut self) -> Option<Read> {
        if self.reading {
            return None;
        }
        let part = if self.live.wants(self.committed) && self.policy == Drain::NewestFirst {
            Part::Live
        } else if self.backlog.wants(self.committed.min(self.cut)) {
            Part::Backlog
        } else {
            return None;
        };
        self.reading = true;
        Some(Read { after: self.run(part).after, part, committed: self.committed, epoch: self.epoch })
    }

    /// The rows of a read.
    pub fn filled(&mut self, read: Read, rows: Vec<Stored>) {
        if read.epoch != self.epoch {
            return;
        }
        self.reading = false;
        let cut = self.cut;
        let run = self.run(read.part);
        if rows.is_empty() {
            run.empty_to = Some(read.committed);
        }
        for row in rows {
            if run.after.is_some_and(|after| row.seq <= after) {
                continue;
            }
            if read.part == Part::Backlog && row.seq > cut {
                run.empty_to = Some(cut);
                break;
            }
            run.after = Some(row.seq);
            run.rows.push_back(row);
        }
        if run.after >= Some(read.committed) {
            run.empty_to = run.empty_to.max(Some(read.committed));
        }
        if self.policy == Drain::NewestFirst && self.backlog_is_gone() {
            self.live_topics.clear();
        }
    }

    /// The next message, if there is one and its time has come.
    pub fn next(&mut self, now: Instant) -> Option<Stored> {
        self.bucket.refill(now);
        if self.bucket.tokens < 1.0 {
            return None;
        }
        let stored = match self.live.rows.pop_front() {
            Some(stored) => {
                self.note_live(&stored);
                stored
            }
            None => {
                let stored = self.backlog.rows.pop_front()?;
                self.passed = stored.seq;
                self.as_history(stored)
            }
        };
        self.bucket.tokens -= 1.0;
        Some(stored)
    }

    /// When the next message may go, where one waits for nothing else.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.live.rows.is_empty() && self.backlog.rows.is_empty() {
            return None;
        }
        let missing = (1.0 - self.bucket.tokens).max(0.0);
        // Waking for a few at a time costs less than waking for each.
        let wait = Duration::from_secs_f64(missing / self.bucket.per_sec).max(Duration::from_millis(2));
        Some(self.bucket.at + wait)
    }

    /// Whether an idle queue should be read from its beginning again.
    pub fn sweep_due(&self, now: Instant) -> bool {
        self.policy == Drain::OldestFirst
            && !self.reading
            && self.backlog.rows.is_empty()
            && !self.backlog.wants(self.committed)
            && now.saturating_duration_since(self.swept) >= SWEEP_EVERY
    }

    /// How far the backlog is behind, and how far it has come, both in numbers of the store.
    pub fn progress(&self) -> (Seq, Seq) {
        let end = self.committed.min(self.cut);
        let behind = if self.backlog_is_gone() { 0 } else { end.saturating_sub(self.passed) };
        (behind, self.passed)
    }

    fn backlog_is_gone(&self) -> bool {
        self.backlog.rows.is_empty() && !self.backlog.wants(self.committed.min(self.cut))
    }

    fn run(&mut self, part: Part) -> &mut Run {
        match part {
            Part::Live => &mut self.live,
            Part::Backlog => &mut self.backlog,
        }
    }

    fn note_live(&mut self, stored: &Stored) {
        if stored.message.retain && self.live_topics.len() < LIVE_TOPICS_MAX && !self.backlog_is_gone() {
            self.live_topics.insert(Arc::clone(&stored.message.topic));
        }
    }

    fn as_history(&self, stored: Stored) -> Stored {
        let outdated = self.live_topics.len() >= LIVE_TOPICS_MAX || self.live_topics.contains(&*stored.message.topic);
        if !(stored.message.retain && outdated) {
            return stored;
        }
        let message = Message { retain: false, ..(*stored.message).clone() };
        Stored { message: Arc::new(message), ..stored }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Now, UnixMs};
    use crate::message::Qos;

    fn row(seq: Seq) -> Stored {
        let message = Message::new("a", seq.to_string().into_bytes(), Qos::AtLeastOnce, true);
        Stored { seq, boot: "b".into(), at: UnixMs(0), message: Arc::new(message) }
    }

    /// Answers reads from a plain list until the drainer wants no more.
    fn feed(drainer: &mut Drainer, rows: &[Seq]) {
        while let Some(read) = drainer.next_read() {
            let found: Vec<_> =
                rows.iter().filter(|seq| read.after.is_none_or(|after| **seq > after)).take(READ_MESSAGES).collect();
            drainer.filled(read, found.into_iter().map(|seq| row(*seq)).collect());
        }
    }

    fn drained(drainer: &mut Drainer, mut now: Instant) -> Vec<Stored> {
        let mut all = Vec::new();
        for _ in 0..10_000 {
            all.extend(drainer.next(now));
            now += Duration::from_millis(1);
        }
        all
    }

    #[test]
    fn newest_first_sends_what_is_fresh_at_once_and_the_history_behind_it_in_order() {
        let now = Now::read().mono;
        let mut drainer = Drainer::new(Drain::NewestFirst, 1_000_000, now);
        drainer.committed(3);
        drainer.restart(now);
        feed(&mut drainer, &[1, 2, 3]);
        drainer.committed(5);
        feed(&mut drainer, &[1, 2, 3, 4, 5]);
        let all = drained(&mut drainer, now);
        assert_eq!(all.iter().map(|s| s.seq).collect::<Vec<_>>(), [4, 5, 1, 2, 3]);
        let retained: Vec<_> = all.iter().map(|s| s.message.retain).collect();
        assert_eq!(retained, [true, true, false, false, false], "history does not replace the fresh retained value");
    }

    #[test]
    fn the_rate_is_kept_to_within_its_burst() {
        let start = Now::read().mono;
        let mut drainer = Drainer::new(Drain::OldestFirst, 100, start);
        drainer.committed(2000);
        drainer.restart(start);
        let rows: Vec<Seq> = (1..=2000).collect();
        let mut sent = 0;
        for ms in 0..10_000_u64 {
            feed(&mut drainer, &rows);
            while drainer.next(start + Duration::from_millis(ms)).is_some() {
                sent += 1;
            }
        }
        assert!((1000..=1026).contains(&sent), "{sent} in ten seconds at 100 a second");
    }

    #[test]
    fn an_answer_to_a_read_from_before_a_cut_is_thrown_away() {
        let now = Now::read().mono;
        let mut drainer = Drainer::new(Drain::OldestFirst, 1000, now);
        drainer.committed(9);
        drainer.restart(now);
        let old = drainer.next_read().unwrap();
        drainer.restart(now);
        drainer.filled(old, vec![row(9)]);
        let new = drainer.next_read().unwrap();
        drainer.filled(new, vec![row(1), row(9)]);
        assert_eq!(drainer.next(now).unwrap().seq, 1);
    }

    #[test]
    fn an_idle_queue_is_swept_for_what_was_committed_late() {
        let now = Now::read().mono;
        let mut drainer = Drainer::new(Drain::OldestFirst, 1000, now);
        drainer.committed(9);
        drainer.restart(now);
        feed(&mut drainer, &[9]);
        assert_eq!(drained(&mut drainer, now).len(), 1);
        assert!(!drainer.sweep_due(now + Duration::from_secs(29)));
        assert!(drainer.sweep_due(now + Duration::from_secs(30)));
    }

    proptest! {
        #[test]
        fn every_message_comes_exactly_once_and_each_part_rises(
            before in 0_u64..300, after in 0_u64..300, step in 1_u64..4, newest in any::<bool>(),
        ) {
            let now = Now::read().mono;
            let policy = if newest { Drain::NewestFirst } else { Drain::OldestFirst };
            let mut drainer = Drainer::new(policy, 1_000_000, now);
            let rows: Vec<Seq> = (1..=before + after).map(|n| n * step).collect();
            drainer.committed(before * step);
            drainer.restart(now);
            feed(&mut drainer, &rows[..usize::try_from(before).unwrap()]);
            drainer.committed((before + after) * step);
            feed(&mut drainer, &rows);
            let mut seen: Vec<Seq> = Vec::new();
            let mut at = now;
            for _ in 0..4000 {
                feed(&mut drainer, &rows);
                at += Duration::from_millis(1);
                seen.extend(drainer.next(at).map(|s| s.seq));
            }
            let (history, live): (Vec<Seq>, Vec<Seq>) = seen.iter().partition(|seq| **seq <= before * step);
            prop_assert!(history.is_sorted() && live.is_sorted());
            if !newest {
                prop_assert!(seen.is_sorted());
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, rows);
        }
    }
}
