//! The store: one SQLite file with what some destination still has to receive, and what must outlive a restart.
//!
//! A message is stored once; each destination that must not lose it has a place in it, and the message goes when
//! its last place does. Only the writer thread touches SQLite. It takes [`Batch`]es in order, makes each one
//! transaction (WAL, `synchronous=FULL`), and then says [`StoreEvent::Committed`].

mod encode;
mod policy;
mod segment;
mod seqset;
mod work;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

pub use self::writer::{Destination, Note, Opened, StoreHandle, open};

use crate::clock::UnixMs;
use crate::message::Message;

/// Whether these bytes are a segment once a right checksum stands before them: the fuzzer's way past what guards the disk.
#[doc(hidden)]
pub fn is_segment(behind_checksum: &[u8]) -> bool {
    encode::is_segment(behind_checksum)
}

/// A message's number in the store: rising, given by whoever appends, beginning at [`Opened::next_seq`].
pub type Seq = u64;

/// A destination with a durable queue: an uplink or a durable session. Kept over restarts with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestId(pub u32);

/// Bounds of one destination's queue on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    pub max_bytes: u64,
    pub max_age_secs: Option<u64>,
    pub when_full: WhenFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    DropOldest,
    DropNewest,
}

/// What is done to the store. Ops of one batch are all done or none.
#[derive(Clone, Debug)]
pub enum Op {
    /// Makes the destination known, or changes its bounds. Names: `uplink/NAME`, `session/CLIENT-ID`.
    OpenDestination {
        dest: DestId,
        name: Arc<str>,
        queue: QueueSpec,
    },
    /// Forgets the destination and all its places.
    CloseDestination {
        dest: DestId,
    },
    /// `to` is not empty. `durability` says what happens when it cannot be written.
    Append {
        seq: Seq,
        at: UnixMs,
        message: Arc<Message>,
        to: Arc<[DestId]>,
        durability: Durability,
    },
    /// The destination has it (PUBACK, PUBCOMP), or will never take it: its place goes.
    Delivered {
        dest: DestId,
        seq: Seq,
    },
    /// A keyed value that outlives a restart.
    Put {
        space: Space,
        key: Bytes,
        value: Bytes,
    },
    Delete {
        space: Space,
        key: Bytes,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Its sender waits for the commit: where it cannot be written the batch is refused and the sender told.
    Acknowledged,
    /// A sample, or QoS 0: where it cannot be written it waits in bounded memory, the oldest dropped first.
    Sample,
}

/// Namespaces of keyed values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Space {
    /// Client id → session: subscriptions, expiry, will.
    Session = 1,
    /// Client id, packet identifier → outbound QoS 1 and 2 under way.
    Outbound = 2,
    /// Client id, packet identifier → inbound QoS 2 taken and not yet released.
    Inbound = 3,
    /// Topic → retained message.
    Retained = 4,
    /// Bus, device → what a driver learnt.
    Learnt = 5,
}

impl Space {
    /// Every namespace.
    pub const ALL: [Self; 5] = [Self::Session, Self::Outbound, Self::Inbound, Self::Retained, Self::Learnt];
}

/// The order in which a destination reads its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Oldest,
    Newest,
}

/// Why the store does not work, or not on its file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} cannot be used: {error}", path = .path.display())]
    Folder { path: PathBuf, error: std::io::Error },
    #[error(
        "{path} has schema version {version}, this program knows {known}: \
         run the newer program, or move the file away to begin anew", path = .path.display()
    )]
    Newer { path: PathBuf, version: i64, known: i64 },
    #[error("the store's file is corrupt: {0}")]
    Corrupt(String),
    #[error("{path} can be opened now and was not at the start: restart the gateway to take it up", path = .path.display())]
    FoundLate { path: PathBuf },
    #[error("the store's file can only be read: {0}")]
    ReadOnly(String),
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the writer's thread cannot start: {0}")]
    Thread(std::io::Error),
}

/// Ops that are committed together. Tickets rise by one.
#[derive(Clone, Debug)]
pub struct Batch {
    pub ticket: u64,
    pub ops: Vec<Op>,
}

/// A stored message as its destination reads it back.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub seq: Seq,
    /// The run that stored it; with `seq` it names the message for ever (P3).
    pub boot: Arc<str>,
    pub at: UnixMs,
    pub message: Arc<Message>,
}

/// What the writer says, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// This batch is on the disk.
    Committed { ticket: u64 },
    /// Nothing of the batch that somebody waits for is on the disk; samples, deliveries and keyed values of it
    /// are kept in memory and tried again.
    Refused { ticket: u64, reason: Arc<str> },
    /// What one destination's bound dropped.
    Dropped { dest: DestId, messages: u64, bytes: u64 },
    /// The state of the file, when it changes and at most once a second.
    Status(StoreStatus),
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoreStatus {
    pub writable: bool,
    pub last_error: Option<Arc<str>>,
    pub file_bytes: u64,
    /// Messages that wait in memory because the disk does not take them.
    pub waiting: u64,
    pub dropped: u64,
    pub queues: Vec<QueueStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueueStatus {
    pub dest: DestId,
    pub name: Arc<str>,
    pub messages: u64,
    pub bytes: u64,
    pub dropped: u64,
    pub oldest: Option<UnixMs>,
}
