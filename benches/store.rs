//! The store beside plain SQLite with a row a message, both with grouped commits in WAL mode, synchronous FULL.
//!
//! `cargo bench --bench store [-- DIRECTORY]`: messages a second and bytes written to disk for each message
//! (`write_bytes` of /proc/self/io, log and file included), at 1, 10, 100 and 1000 messages a commit. "drain" reads
//! and acknowledges everything afterwards. The payload is 200 random bytes; the topics are those of 20 points.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fieldgate::clock::{Now, UnixMs};
use fieldgate::message::{Message, Qos};
use fieldgate::store::{Batch, DestId, Durability, Op, Order, QueueSpec, StoreEvent, StoreHandle, WhenFull, open};
use tokio::sync::mpsc::Receiver;

type Failure = Box<dyn Error>;

const PAYLOAD: usize = 200;
const DEST: DestId = DestId(1);

fn main() -> Result<(), Failure> {
    let parent = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_else(|| ".".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    println!(
        "{:>6} | {:^33} | {:^33} | {:^22}",
        "a", "fieldgate: insert", "fieldgate: insert + drain", "plain rows: insert"
    );
    println!(
        "{:>6} | {:>10} {:>10} {:>11} | {:>10} {:>10} {:>11} | {:>10} {:>11}",
        "commit", "msg/s", "B/msg", "x payload", "drain/s", "B/msg", "x payload", "msg/s", "B/msg"
    );
    for per_commit in [1_usize, 10, 64, 100, 1000] {
        let count = (per_commit * 400).clamp(2_000, 100_000);
        let messages = messages(count);
        let dir = tempfile::tempdir_in(&parent)?;
        let insert = runtime.block_on(ours(dir.path(), &messages, per_commit, false))?;
        let dir = tempfile::tempdir_in(&parent)?;
        let drain = runtime.block_on(ours(dir.path(), &messages, per_commit, true))?;
        let dir = tempfile::tempdir_in(&parent)?;
        let plain = plain(dir.path(), &messages, per_commit)?;
        let factor = |bytes: f64| bytes / PAYLOAD as f64;
        println!(
            "{per_commit:>6} | {:>10.0} {:>10.0} {:>11.2} | {:>10.0} {:>10.0} {:>11.2} | {:>10.0} {:>11.0}",
            insert.rate,
            insert.bytes,
            factor(insert.bytes),
            drain.rate,
            drain.bytes,
            factor(drain.bytes),
            plain.rate,
            plain.bytes
        );
    }
    Ok(())
}

struct Figures {
    rate: f64,
    bytes: f64,
}

fn messages(count: usize) -> Vec<Arc<Message>> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..count)
        .map(|n| {
            let payload: Vec<u8> = (0..PAYLOAD).map(|_| random.u8(..)).collect();
            Arc::new(Message::new(format!("plant/pi-1/meter-{}/voltage", n % 20), payload, Qos::AtLeastOnce, false))
        })
        .collect()
}

fn written() -> Result<u64, Failure> {
    // Pages that were written and not yet given to the disk count only once they are.
    std::process::Command::new("sync").status()?;
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).ok_or("no write_bytes")?;
    Ok(line.parse()?)
}

fn per(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

async fn ours(dir: &Path, messages: &[Arc<Message>], per_commit: usize, drain: bool) -> Result<Figures, Failure> {
    let mut opened = open(dir, "k3f9".into(), Now::read())?;
    let queue = QueueSpec { max_bytes: 1 << 40, max_age_secs: None, when_full: WhenFull::DropOldest };
    let ops = vec![Op::OpenDestination { dest: DEST, name: "uplink/cloud".into(), queue }];
    commit(&opened.handle, &mut opened.events, Batch { ticket: 0, ops }).await?;
    let before = written()?;
    let start = Now::read().mono;
    let mut seq = opened.next_seq;
    for (ticket, chunk) in (1..).zip(messages.chunks(per_commit)) {
        let ops = chunk.iter().zip(seq..).map(|(message, seq)| Op::Append {
            seq,
            at: UnixMs(1_769_860_800_000),
            message: message.clone(),
            to: [DEST].into(),
            durability: Durability::Acknowledged,
        });
        let batch = Batch { ticket, ops: ops.collect() };
        seq += chunk.len() as u64;
        commit(&opened.handle, &mut opened.events, batch).await?;
    }
    let mut elapsed = Now::read().mono - start;
    if drain {
        let start = Now::read().mono;
        let mut after = None;
        loop {
            let page = opened.handle.read(DEST, after, 100, 1 << 20, Order::Oldest).await;
            let Some(last) = page.last() else { break };
            after = Some(last.seq);
            opened.handle.deliver(DEST, page.iter().map(|stored| stored.seq).collect()).await;
            while opened.events.try_recv().is_ok() {}
        }
        elapsed = Now::read().mono - start;
    }
    opened.handle.close().await;
    Ok(Figures { rate: per(messages.len(), elapsed), bytes: (written()? - before) as f64 / messages.len() as f64 })
}

async fn commit(handle: &StoreHandle, events: &mut Receiver<StoreEvent>, batch: Batch) -> Result<(), Failure> {
    let wanted = batch.ticket;
    handle.commit(batch).await.map_err(|_| "the writer ended")?;
    while let Some(event) = events.recv().await {
        match event {
            StoreEvent::Committed { ticket } if ticket == wanted => return Ok(()),
            StoreEvent::Refused { reason, .. } => return Err(reason.to_string().into()),
            StoreEvent::Committed { .. } | StoreEvent::Dropped { .. } | StoreEvent::Status(_) => {}
        }
    }
    Err("the writer ended".into())
}

fn plain(dir: &Path, messages: &[Arc<Message>], per_commit: usize) -> Result<Figures, Failure> {
    let conn = rusqlite::Connection::open(dir.join("plain.sqlite"))?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE queue(seq INTEGER PRIMARY KEY, at INTEGER, topic TEXT, payload BLOB, qos INTEGER);",
    )?;
    let before = written()?;
    let start = Now::read().mono;
    for (chunk, first) in messages.chunks(per_commit).zip((1..).step_by(per_commit)) {
        let tx = conn.unchecked_transaction()?;
        let mut insert = tx.prepare_cached("INSERT INTO queue VALUES(?1, ?2, ?3, ?4, ?5)")?;
        for (message, seq) in chunk.iter().zip(first..) {
            insert.execute((seq as i64, 1_769_860_800_000_i64, &*message.topic, &message.payload[..], 1))?;
        }
        drop(insert);
        tx.commit()?;
    }
    let elapsed = Now::read().mono - start;
    drop(conn);
    Ok(Figures { rate: per(messages.len(), elapsed), bytes: (written()? - before) as f64 / messages.len() as f64 })
}
