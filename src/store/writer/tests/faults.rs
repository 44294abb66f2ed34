//! Disks that are full, files that are bad.

use std::os::unix::fs::FileExt;
use std::process::Command;

use rusqlite::Connection;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const DIR: &str = "FIELDGATE_STORE_FULL_DISK";

fn limit_file_size(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

/// Runs in a process of its own, because the limit is the process's.
#[test]
fn full_disk_victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let mut now = Now::read();
    let mut engine = engine(dir, now);
    commit(&mut engine, vec![open_op(DEST, unbounded())], now);
    limit_file_size(Some(200_000));
    let (mut seq, mut acknowledged) = (1, Vec::new());
    loop {
        let events = commit(&mut engine, vec![append(seq, 5000, &[DEST], Durability::Acknowledged)], now);
        if events.iter().any(|event| matches!(event, StoreEvent::Refused { ticket: 1, .. })) {
            break;
        }
        acknowledged.push(seq);
        seq += 1;
        assert!(seq < 1000, "the limit does not work");
    }
    assert!(acknowledged.len() > 5);
    let ops =
        vec![append(seq + 1, 5000, &[DEST], Durability::Sample), append(seq + 2, 9, &[DEST], Durability::Acknowledged)];
    let events = commit(&mut engine, ops, now);
    assert!(!events.iter().any(|event| matches!(event, StoreEvent::Committed { .. })), "{events:?}");
    acknowledged.push(seq + 1);
    assert_eq!(seqs(&engine.read(query(DEST, None, Order::Oldest), now)), acknowledged, "read from file and memory");
    engine.deliver(DEST, &[seq + 1], now);
    acknowledged.pop();
    assert_eq!(seqs(&engine.read(query(DEST, None, Order::Oldest), now)), acknowledged);
    commit(&mut engine, vec![append(seq + 3, 5000, &[DEST], Durability::Sample)], now);
    acknowledged.push(seq + 3);
    limit_file_size(None);
    now = now.after(Duration::from_secs(5));
    engine.turn(now);
    let writable = engine.events().into_iter().rev().find_map(|event| match event {
        StoreEvent::Status(status) => Some((status.writable, status.waiting)),
        StoreEvent::Committed { .. } | StoreEvent::Refused { .. } | StoreEvent::Dropped { .. } => None,
    });
    assert_eq!(writable, Some((true, 0)), "it recovers by itself");
    drop(engine);
    let mut again = super::engine(dir, now);
    assert_eq!(seqs(&again.read(query(DEST, None, Order::Oldest), now)), acknowledged);
    std::fs::write(dir.join("passed"), "").unwrap();
}

#[test]
fn a_full_disk_refuses_what_is_acknowledged_keeps_samples_and_recovers_by_itself() {
    let dir = TempDir::new().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::writer::tests::faults::full_disk_victim", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && dir.path().join("passed").exists(), "{said}");
}

#[test]
fn without_a_file_everything_waits_in_memory_until_one_can_be_made() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let state = dir.path().join("state");
    std::fs::write(&state, "in the way").unwrap();
    let mut engine = engine(&state, now);
    let events = commit(&mut engine, vec![open_op(DEST, unbounded()), append(1, 50, &[DEST], Durability::Sample)], now);
    assert!(events.iter().any(|event| matches!(event, StoreEvent::Status(status) if !status.writable)), "{events:?}");
    assert_eq!(seqs(&engine.read(query(DEST, None, Order::Newest), now)), [1]);
    std::fs::remove_file(&state).unwrap();
    let later = now.after(Duration::from_secs(5));
    assert!(engine.deadline(later).unwrap() <= later.mono);
    engine.turn(later);
    assert_eq!(engine.queues[&DEST].messages, 1);
    drop(engine);
    assert_eq!(seqs(&super::engine(&state, now).read(query(DEST, None, Order::Oldest), now)), [1]);
}

fn filled(dir: &Path, messages: u64, now: Now) -> Engine {
    let mut engine = engine(dir, now);
    let mut ops = vec![open_op(DEST, unbounded())];
    ops.extend((1..=messages).map(|seq| append(seq, 3000, &[DEST], Durability::Sample)));
    commit(&mut engine, ops, now);
    engine
}

#[test]
fn a_corrupt_file_is_set_aside_and_a_new_one_begun() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    filled(dir.path(), 100, now).close(now);
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("store.sqlite")).unwrap();
    file.write_all_at(&[0x5A; 4096], 1024).unwrap();
    let (found, note) = find(dir.path(), UnixMs(1_700_000_000_000)).unwrap();
    assert!(found.unwrap().1.fresh);
    let Note::SetAside { name, .. } = note else { panic!("{note:?}") };
    assert_eq!(name, "store.sqlite.corrupt-1700000000");
    assert!(dir.path().join(name).exists());
}

#[test]
fn something_else_than_a_database_is_set_aside_too_and_only_three_are_kept() {
    let dir = TempDir::new().unwrap();
    for secs in 1..=5 {
        std::fs::write(dir.path().join("store.sqlite"), "not a database, but long enough to look like one to a reader")
            .unwrap();
        let (_, note) = find(dir.path(), UnixMs(secs * 1000)).unwrap();
        assert!(matches!(note, Note::SetAside { .. }), "{note:?}");
        std::fs::remove_file(dir.path().join("store.sqlite")).unwrap();
    }
    let kept = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains("corrupt"));
    assert_eq!(kept.count(), 3);
}

#[test]
fn a_file_that_goes_bad_while_running_is_set_aside_and_what_it_held_is_counted() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = filled(dir.path(), 900, now);
    let conn = engine.conn.as_ref().unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    conn.execute_batch("PRAGMA shrink_memory").unwrap();
    engine.cache = Default::default();
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("store.sqlite")).unwrap();
    file.write_all_at(&vec![0x5A; 2_000_000], 1024).unwrap();
    engine.read(query(DEST, None, Order::Oldest), now);
    let events = commit(&mut engine, vec![append(901, 50, &[DEST], Durability::Acknowledged)], now);
    assert!(events.iter().any(|event| matches!(event, StoreEvent::Committed { .. })), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, StoreEvent::Dropped { messages: 900, .. })), "{events:?}");
    assert_eq!(seqs(&engine.read(query(DEST, None, Order::Oldest), now)), [901]);
}

#[test]
fn a_flipped_bit_in_a_segment_costs_that_segment_counted_and_nothing_else() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = filled(dir.path(), 1, now);
    commit(&mut engine, vec![append(2, 50, &[DEST], Durability::Acknowledged)], now);
    let conn = engine.conn.as_ref().unwrap();
    let mut body = tables::body(conn, 1).unwrap().unwrap();
    body[1000] ^= 4;
    conn.execute("UPDATE segment SET body = ?1 WHERE first_seq = 1", [body]).unwrap();
    engine.cache = Default::default();
    assert_eq!(seqs(&engine.read(query(DEST, None, Order::Oldest), now)), [2]);
    assert!(engine.events().iter().any(|event| matches!(event, StoreEvent::Dropped { messages: 1, .. })));
    assert_eq!(engine.queues[&DEST].messages, 1);
}

#[test]
fn a_file_of_a_newer_program_is_refused_and_left_alone() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut engine = filled(dir.path(), 1, now);
    engine.conn.as_ref().unwrap().execute_batch("PRAGMA user_version = 7").unwrap();
    engine.close(now);
    let error = open(dir.path(), boot(), now).unwrap_err();
    assert!(matches!(error, StoreError::Newer { version: 7, .. }), "{error}");
    assert!(error.to_string().contains("newer program"));
}

/// What version 1 of the program wrote: the same, without the count of what was dropped.
const VERSION_1: &str = "ALTER TABLE destination DROP COLUMN dropped; PRAGMA user_version = 1;";

#[test]
fn a_file_of_an_older_program_is_brought_up_to_date_with_all_that_it_holds() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    filled(dir.path(), 5, now).close(now);
    let old = Connection::open(dir.path().join("store.sqlite")).unwrap();
    old.execute_batch(VERSION_1).unwrap();
    old.close().unwrap();
    let mut engine = engine(dir.path(), now);
    assert_eq!(seqs(&engine.read(query(DEST, None, Order::Oldest), now)), [1, 2, 3, 4, 5]);
    assert!(engine.next_seq() > 5);
    commit(&mut engine, vec![append(6, 50, &[DEST], Durability::Acknowledged)], now);
    let version: i64 = engine.conn.as_ref().unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, tables::SCHEMA_VERSION);
    drop(engine);
    assert_eq!(super::engine(dir.path(), now).queues[&DEST].messages, 6);
}

#[test]
fn a_migration_that_was_cut_off_is_begun_again() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    filled(dir.path(), 5, now).close(now);
    let old = Connection::open(dir.path().join("store.sqlite")).unwrap();
    old.execute_batch(VERSION_1).unwrap();
    {
        let cut = old.unchecked_transaction().unwrap();
        cut.execute_batch(tables::MIGRATIONS[0]).unwrap();
    }
    let version: i64 = old.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1, "a version is part of its transaction");
    old.close().unwrap();
    assert_eq!(engine(dir.path(), now).queues[&DEST].messages, 5);
}

#[test]
fn what_was_dropped_stays_counted_over_a_restart() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut first = engine(dir.path(), now);
    let bounded = QueueSpec { max_bytes: 1000, ..unbounded() };
    let mut ops = vec![open_op(DEST, bounded)];
    ops.extend((1..=9).map(|seq| append(seq, 300, &[DEST], Durability::Acknowledged)));
    commit(&mut first, ops, now);
    let dropped = first.queues[&DEST].dropped;
    assert!(dropped >= 6);
    drop(first);
    let mut again = engine(dir.path(), now);
    assert_eq!(again.queues[&DEST].dropped, dropped);
    commit(&mut again, vec![open_op(DEST, QueueSpec { max_bytes: 950, ..bounded })], now);
    assert_eq!(again.queues[&DEST].dropped, dropped, "new bounds begin no new count");
}

#[test]
fn a_second_gateway_on_the_same_file_is_kept_out_and_harms_nothing() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let mut first = filled(dir.path(), 3, now);
    let (found, note) = find(dir.path(), now.wall).unwrap();
    assert!(found.is_err() && matches!(note, Note::NotWritable { .. }), "{note:?}");
    commit(&mut first, vec![append(4, 50, &[DEST], Durability::Acknowledged)], now);
    assert_eq!(seqs(&first.read(query(DEST, None, Order::Oldest), now)), [1, 2, 3, 4]);
}
