mod crash;
mod faults;
mod model;

use std::time::Duration;

use tempfile::TempDir;

use super::super::{Durability, Op, WhenFull};
use super::*;
use crate::message::{Message, Qos};

const DEST: DestId = DestId(1);

fn boot() -> Arc<str> {
    "k3f9".into()
}

fn unbounded() -> QueueSpec {
    QueueSpec { max_bytes: 1 << 40, max_age_secs: None, when_full: WhenFull::DropOldest }
}

fn open_op(dest: DestId, queue: QueueSpec) -> Op {
    Op::OpenDestination { dest, name: format!("uplink/{}", dest.0).into(), queue }
}

/// A message whose payload tells its number, so that a mix-up shows.
fn message(seq: Seq, bytes: usize) -> Arc<Message> {
    let mut payload = seq.to_le_bytes().to_vec();
    payload.resize(bytes.max(8), 0xA5);
    Arc::new(Message::new(format!("plant/{}", seq % 7), payload, Qos::AtLeastOnce, false))
}

fn append(seq: Seq, bytes: usize, to: &[DestId], durability: Durability) -> Op {
    Op::Append { seq, at: UnixMs(1_769_860_800_000), message: message(seq, bytes), to: to.into(), durability }
}

fn engine(dir: &Path, now: Now) -> Engine {
    let mut engine = Engine::new(dir.to_path_buf(), boot(), Watches::default(), now);
    engine.begin(find(dir, now.wall).unwrap().0, now);
    engine
}

fn query(dest: DestId, after: Option<Seq>, order: Order) -> Query {
    Query { dest, after, max_messages: usize::MAX, max_bytes: usize::MAX, order }
}

fn seqs(stored: &[Stored]) -> Vec<Seq> {
    stored.iter().map(|stored| stored.seq).collect()
}

fn commit(engine: &mut Engine, ops: Vec<Op>, now: Now) -> Vec<StoreEvent> {
    engine.take(Batch { ticket: 1, ops });
    engine.turn(now);
    engine.events().into()
}

async fn committed(events: &mut mpsc::Receiver<StoreEvent>, ticket: u64) {
    loop {
        match events.recv().await.unwrap() {
            StoreEvent::Committed { ticket: done } if done == ticket => return,
            StoreEvent::Refused { ticket, reason } => panic!("batch {ticket} refused: {reason}"),
            StoreEvent::Committed { .. } | StoreEvent::Dropped { .. } | StoreEvent::Status(_) => {}
        }
    }
}

#[tokio::test]
async fn what_was_committed_is_read_from_both_ends_and_again_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(dir.path(), boot(), Now::read()).unwrap();
    assert_eq!((opened.next_seq, opened.next_dest, &opened.notes[..]), (1, 1, &[Note::Fresh][..]));
    let mut latest = opened.handle.latest(DEST);
    let mut ops = vec![open_op(DEST, unbounded())];
    ops.extend((1..=5).map(|seq| append(seq, 100, &[DEST], Durability::Acknowledged)));
    ops.push(Op::Put { space: Space::Retained, key: "t".into(), value: "v".into() });
    opened.handle.commit(Batch { ticket: 9, ops }).await.unwrap();
    committed(&mut opened.events, 9).await;
    assert_eq!(*latest.wait_for(|seq| *seq > 0).await.unwrap(), 5);
    let read = |after, max_messages, order| opened.handle.read(DEST, after, max_messages, 1 << 20, order);
    assert_eq!(seqs(&read(Some(1), 2, Order::Oldest).await), [2, 3]);
    assert_eq!(seqs(&read(None, 2, Order::Newest).await), [5, 4]);
    assert_eq!(seqs(&read(Some(4), 9, Order::Newest).await), [3, 2, 1]);
    opened.handle.deliver(DEST, vec![1, 2, 4]).await;
    assert_eq!(seqs(&read(None, 9, Order::Oldest).await), [3, 5]);
    opened.handle.close().await;
    assert!(opened.handle.try_commit(Batch { ticket: 10, ops: vec![] }).is_err());

    let again = open(dir.path(), "other".into(), Now::read()).unwrap();
    assert_eq!((again.next_seq, again.next_dest), (6, 2));
    assert_eq!((again.destinations[0].messages, again.destinations[0].queue), (2, unbounded()));
    assert_eq!(again.kept[&Space::Retained], [("t".into(), "v".into())]);
    assert_eq!(*again.handle.latest(DEST).borrow(), 5);
    let rest = again.handle.read(DEST, None, 9, 1 << 20, Order::Oldest).await;
    assert_eq!(seqs(&rest), [3, 5]);
    assert_eq!((&*rest[0].boot, &rest[0].message), ("k3f9", &message(3, 100)));
    again.handle.close().await;
}

#[test]
fn a_page_is_never_over_its_bounds_but_one_large_message_still_comes() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = engine(dir.path(), now);
    let mut ops = vec![open_op(DEST, unbounded())];
    ops.extend((1..=9).map(|seq| append(seq, 93, &[DEST], Durability::Sample)));
    commit(&mut engine, ops, now);
    for (max_bytes, count) in [(250, 2), (300, 3), (10, 1)] {
        let read = engine.read(Query { max_bytes, ..query(DEST, None, Order::Oldest) }, now);
        assert_eq!(read.len(), count);
    }
}

#[test]
fn a_segment_goes_with_its_last_place_and_a_closed_destination_keeps_none() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = engine(dir.path(), now);
    let others = [DestId(2), DestId(3)];
    let mut ops: Vec<Op> = [DEST, others[0], others[1]].map(|dest| open_op(dest, unbounded())).into();
    ops.push(append(1, 50, &[DEST, others[0], others[1]], Durability::Acknowledged));
    commit(&mut engine, ops, now);
    let segments = |engine: &Engine| -> i64 {
        engine.conn.as_ref().unwrap().query_row("SELECT count(*) FROM segment", [], |row| row.get(0)).unwrap()
    };
    commit(&mut engine, vec![Op::Delivered { dest: DEST, seq: 1 }], now);
    commit(&mut engine, vec![Op::CloseDestination { dest: others[0] }], now);
    assert_eq!(segments(&engine), 1);
    commit(&mut engine, vec![Op::Delivered { dest: others[1], seq: 1 }], now);
    assert_eq!(segments(&engine), 0);
}

#[test]
fn nothing_is_due_and_nothing_is_written_when_idle() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = engine(dir.path(), now);
    commit(&mut engine, vec![open_op(DEST, unbounded()), append(1, 50, &[DEST], Durability::Sample)], now);
    engine.deliver(DEST, &[1], now);
    let after = now.after(Duration::from_secs(2));
    engine.turn(after);
    let after = after.after(Duration::from_secs(2));
    engine.turn(after);
    let state = || {
        ["store.sqlite", "store.sqlite-wal"].map(|name| {
            let file = std::fs::metadata(dir.path().join(name)).unwrap();
            (file.len(), file.modified().unwrap())
        })
    };
    let before = state();
    for hours in 1..5 {
        engine.turn(now.after(Duration::from_secs(hours * 3600)));
    }
    assert_eq!(state(), before);
    assert_eq!(engine.deadline(after), None);
}

#[test]
fn deliveries_alone_are_written_within_a_second_and_a_cleanly_closed_store_has_them() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut first = engine(dir.path(), now);
    let mut ops = vec![open_op(DEST, unbounded())];
    ops.extend((1..=3).map(|seq| append(seq, 50, &[DEST], Durability::Sample)));
    commit(&mut first, ops, now);
    first.turn(now.after(Duration::from_secs(1)));
    first.deliver(DEST, &[1], now);
    assert_eq!(first.deadline(now), Some(now.after(Duration::from_secs(1)).mono));
    first.turn(now.after(Duration::from_secs(1)));
    assert_eq!(first.queues[&DEST].messages, 2);
    first.deliver(DEST, &[2], now);
    first.close(now);
    assert_eq!(seqs(&engine(dir.path(), now).read(query(DEST, None, Order::Oldest), now)), [3]);
}

#[test]
fn a_message_older_than_its_queue_allows_goes_and_is_counted() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = engine(dir.path(), now);
    let queue = QueueSpec { max_age_secs: Some(100), ..unbounded() };
    let stored =
        Op::Append { seq: 1, at: now.wall, message: message(1, 50), to: [DEST].into(), durability: Durability::Sample };
    commit(&mut engine, vec![open_op(DEST, queue), stored], now);
    engine.turn(now.after(Duration::from_secs(99)));
    assert_eq!(engine.queues[&DEST].messages, 1);
    let late = now.after(Duration::from_secs(103));
    assert!(engine.deadline(late).unwrap() <= late.mono);
    engine.turn(late);
    let dropped = engine.events().iter().any(|event| matches!(event, StoreEvent::Dropped { messages: 1, .. }));
    assert!(dropped && engine.queues[&DEST].messages == 0);
}

#[test]
fn a_short_age_counts_from_the_moment_that_its_queue_is_opened() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = engine(dir.path(), now);
    engine.turn(now);
    let queue = QueueSpec { max_age_secs: Some(3), ..unbounded() };
    let later = now.after(Duration::from_secs(1));
    let stored = Op::Append {
        seq: 1,
        at: later.wall,
        message: message(1, 50),
        to: [DEST].into(),
        durability: Durability::Sample,
    };
    commit(&mut engine, vec![open_op(DEST, queue), stored], later);
    engine.turn(later.after(Duration::from_secs(5)));
    assert_eq!(engine.queues[&DEST].messages, 0);
}

#[test]
fn a_run_that_crashed_never_sees_its_numbers_given_again() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut first = engine(dir.path(), now);
    commit(&mut first, vec![open_op(DEST, unbounded()), append(41, 50, &[DEST], Durability::Sample)], now);
    commit(&mut first, vec![Op::Delivered { dest: DEST, seq: 41 }], now);
    drop(first);
    assert!(engine(dir.path(), now).next_seq() > 41);
}
