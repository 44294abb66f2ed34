//! The one thread that touches SQLite, and the handle by which everyone else reaches it.
//!
//! `commits` (4 batches) and `asks` (64) lead in, `events` (1024) leads out. All batches that wait become one
//! transaction: the longer a commit takes, the more the next one carries.

mod engine;
mod opening;
mod reading;
mod recovery;
mod tables;
mod transaction;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use self::engine::Engine;
use self::reading::Query;
use super::{Batch, DestId, Order, QueueSpec, Seq, Space, StoreError, StoreEvent, Stored};
use crate::clock::{Now, UnixMs};
use crate::pulse::{self, Pulse};

const COMMITS: usize = 4;
const ASKS: usize = 64;
const EVENTS: usize = 1024;
/// A worn SD card may take this long for a commit without being taken for hung.
const TURN: Duration = Duration::from_secs(30);

/// What the store held when it was opened.
#[derive(Debug)]
pub struct Opened {
    pub handle: StoreHandle,
    /// Late where the writer's thread hangs, or nobody takes its events.
    pub pulse: Pulse,
    /// Has to be read all the time: the writer waits when it is full.
    pub events: mpsc::Receiver<StoreEvent>,
    /// The first number to give; above every one that this file ever held.
    pub next_seq: Seq,
    pub next_dest: u32,
    pub destinations: Vec<Destination>,
    pub kept: HashMap<Space, Vec<(Bytes, Bytes)>>,
    pub notes: Vec<Note>,
}

/// A destination that an earlier run opened and did not close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub dest: DestId,
    pub name: Arc<str>,
    pub queue: QueueSpec,
    pub messages: u64,
    pub bytes: u64,
}

/// What opening found, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// There was no file: one was made.
    Fresh,
    /// The file of an earlier run, checked.
    Continued,
    /// The file was corrupt; it has this name now, and a new one was begun.
    SetAside { name: String, cause: String },
    /// The file can at most be read: everything new waits in bounded memory until it can be written, or made.
    NotWritable { reason: String },
}

/// Reaches the writer thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    commits: mpsc::Sender<Batch>,
    asks: mpsc::Sender<Ask>,
    watches: Watches,
}

#[derive(Debug)]
enum Ask {
    Read { query: Query, reply: oneshot::Sender<Vec<Stored>> },
    Deliver { dest: DestId, seqs: Vec<Seq> },
    Close { reply: oneshot::Sender<()> },
}

/// The highest number that each destination can read.
#[derive(Clone, Debug, Default)]
struct Watches(Arc<Mutex<HashMap<DestId, watch::Sender<Seq>>>>);

impl Watches {
    fn with<T>(&self, dest: DestId, then: impl FnOnce(&watch::Sender<Seq>) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        then(all.entry(dest).or_insert_with(|| watch::Sender::new(0)))
    }

    fn tell(&self, dest: DestId, seq: Seq) {
        self.with(dest, |sender| {
            sender.send_if_modified(|latest| {
                let rises = seq > *latest;
                *latest = seq.max(*latest);
                rises
            });
        });
    }
}

impl StoreHandle {
    /// Hands over a batch without waiting; gives it back where the writer is busy or has ended.
    pub fn try_commit(&self, batch: Batch) -> Result<(), TrySendError<Batch>> {
        self.commits.try_send(batch)
    }

    /// Hands over a batch; its [`StoreEvent`] follows. Gives it back where the writer has ended.
    pub async fn commit(&self, batch: Batch) -> Result<(), Batch> {
        self.commits.send(batch).await.map_err(|refused| refused.0)
    }

    /// What `dest` still has to receive: `Oldest` rising from behind `after`, `Newest` falling from below it.
    /// At most `max_messages` and `max_bytes` (of [`crate::message::Message::cost`]), except that one message
    /// larger than `max_bytes` comes alone. Empty when nothing is left or the writer has ended.
    pub async fn read(
        &self,
        dest: DestId,
        after: Option<Seq>,
        max_messages: usize,
        max_bytes: usize,
        order: Order,
    ) -> Vec<Stored> {
        let (reply, answer) = oneshot::channel();
        let query = Query { dest, after, max_messages, max_bytes, order };
        if self.asks.send(Ask::Read { query, reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// The highest number that `dest` can read, told whenever it rises; 0 before the first.
    pub fn latest(&self, dest: DestId) -> watch::Receiver<Seq> {
        self.watches.with(dest, watch::Sender::subscribe)
    }

    /// `dest` has these: they are never read again, and leave the disk with the next commit, after one second,
    /// or 1000 together. A crash before that makes duplicates with the same `boot` and `seq` (P3).
    pub async fn deliver(&self, dest: DestId, seqs: Vec<Seq>) {
        // Where the writer has ended they are read again by the next run, as after a crash.
        let _ = self.asks.send(Ask::Deliver { dest, seqs }).await;
    }

    /// Writes everything that was handed over, closes the file and ends the thread.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.asks.send(Ask::Close { reply }).await.is_ok() {
            // An error means that the thread has ended already.
            let _ = closed.await;
        }
    }
}

/// Opens `store.sqlite` in `dir` and starts the writer. Blocks: it reads the whole file once to check it.
///
/// A corrupt file is set aside and a new one begun; where no file can be opened or made everything waits in
/// memory (see [`Note`]). An error is only what a person has to decide: a file of a newer version, no thread.
pub fn open(dir: &Path, boot: Arc<str>, now: Now) -> Result<Opened, StoreError> {
    let watches = Watches::default();
    let mut engine = Engine::new(dir.to_path_buf(), boot, watches.clone(), now);
    let (found, note) = find(dir, now.wall)?;
    let mut kept = HashMap::new();
    if let Ok((conn, _)) = &found {
        for space in Space::ALL {
            kept.insert(space, tables::kept(conn, space)?);
        }
    }
    let purging = found.as_ref().ok().and_then(|(_, loaded)| loaded.purging.last().copied());
    engine.begin(found, now);
    let destinations: Vec<Destination> = engine
        .queues
        .iter()
        .map(|(dest, queue)| Destination {
            dest: *dest,
            name: queue.name.clone(),
            queue: queue.spec,
            messages: queue.messages,
            bytes: queue.bytes,
        })
        .collect();
    let last_dest = destinations.last().map(|last| last.dest).max(purging).map_or(0, |dest| dest.0);
    let next_seq = engine.next_seq();
    let (commits, commits_in) = mpsc::channel(COMMITS);
    let (asks, asks_in) = mpsc::channel(ASKS);
    let (events_out, events) = mpsc::channel(EVENTS);
    let pulse = Pulse::new(now);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StoreError::Thread)?;
    std::thread::Builder::new()
        .name("store".into())
        .spawn({
            let pulse = pulse.clone();
            move || runtime.block_on(run(engine, commits_in, asks_in, events_out, &pulse))
        })
        .map_err(StoreError::Thread)?;
    let handle = StoreHandle { commits, asks, watches };
    Ok(Opened { handle, pulse, events, next_seq, next_dest: last_dest + 1, destinations, kept, notes: vec![note] })
}

type Found = Result<(rusqlite::Connection, opening::Loaded), String>;

fn find(dir: &Path, wall: UnixMs) -> Result<(Found, Note), StoreError> {
    let checked = opening::connect(dir).and_then(|found| opening::check(&found.0).map(|()| found));
    let cause = match checked {
        Ok(found) => {
            let note = match &found.1.read_only {
                Some(reason) => Note::NotWritable { reason: reason.clone() },
                None if found.1.fresh => Note::Fresh,
                None => Note::Continued,
            };
            return Ok((Ok(found), note));
        }
        Err(error @ StoreError::Newer { .. }) => return Err(error),
        Err(error) => error,
    };
    let not_writable = |reason: String| Ok((Err(reason.clone()), Note::NotWritable { reason }));
    if !opening::is_corrupt(&cause) {
        return not_writable(cause.to_string());
    }
    let cause = cause.to_string();
    match opening::set_aside(dir, wall) {
        Ok(name) => match opening::connect(dir) {
            Ok(found) => Ok((Ok(found), Note::SetAside { name, cause })),
            Err(error) => not_writable(format!("{cause}; moved to {name}; {error}")),
        },
        Err(error) => not_writable(format!("{cause}; it cannot be moved aside: {error}")),
    }
}

enum Input {
    Batch(Option<Batch>),
    Ask(Option<Ask>),
    Due,
}

async fn run(
    mut engine: Engine,
    mut commits: mpsc::Receiver<Batch>,
    mut asks: mpsc::Receiver<Ask>,
    events: mpsc::Sender<StoreEvent>,
    pulse: &Pulse,
) {
    let closing = loop {
        let now = Now::read();
        pulse.beat(now, TURN);
        engine.turn(now);
        for event in engine.events() {
            // Nobody listens any more when the gateway ends; the work is done all the same.
            let _ = events.send(event).await;
        }
        let idle = now.mono + pulse::IDLE;
        pulse.beat(now, pulse::IDLE);
        let deadline = engine.deadline(now).map_or(idle, |deadline| deadline.min(idle));
        let input = tokio::select! {
            batch = commits.recv() => Input::Batch(batch),
            ask = asks.recv() => Input::Ask(ask),
            () = tokio::time::sleep_until(deadline.into()) => Input::Due,
        };
        match input {
            Input::Batch(Some(batch)) => {
                engine.take(batch);
                while let Ok(batch) = commits.try_recv() {
                    engine.take(batch);
                }
            }
            Input::Ask(Some(Ask::Read { query, reply })) => {
                // Who asked may be gone.
                let _ = reply.send(engine.read(query, now));
            }
            Input::Ask(Some(Ask::Deliver { dest, seqs })) => engine.deliver(dest, &seqs, Now::read()),
            Input::Ask(Some(Ask::Close { reply })) => break Some(reply),
            Input::Batch(None) | Input::Ask(None) => break None,
            Input::Due => {}
        }
    };
    commits.close();
    while let Ok(batch) = commits.try_recv() {
        engine.take(batch);
    }
    engine.close(Now::read());
    for event in engine.events() {
        // The listener may wait for this very end: it must not be waited for.
        let _ = events.try_send(event);
    }
    if let Some(reply) = closing {
        let _ = reply.send(());
    }
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
