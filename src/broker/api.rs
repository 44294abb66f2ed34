//! What goes into the broker's core and what comes out: the whole of its contact with the world.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::packet::Reason;
use crate::message::{Delivery, Message, Origin};
use crate::store::{DestId, Op, Seq, Space, Stored};

/// A connection, numbered by whoever accepts; never used twice in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Whom a connection comes from.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Place in `BrokerSpec::listeners`.
    pub listener: usize,
    /// CN of the certificate that the listener's `client_ca` verified; it stands for a password.
    pub certificate_user: Option<String>,
}

/// A password on its way to be verified; never shown.
#[derive(Clone)]
pub struct Secret(pub Bytes);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Names something that waits for the store. Opaque to its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AckToken {
    pub(crate) session: u32,
    pub(crate) awaited: Awaited,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Awaited {
    /// An answer's number.
    Answer(u64),
    /// Identifiers that are used again.
    Identifiers,
}

/// Why a publish is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It must be stored and cannot be: reason 0x97 under MQTT 5, silence under 3.1.1 (the client sends it again).
    Quota,
}

#[derive(Debug)]
pub enum Input {
    Connected {
        conn: ConnId,
        peer: Peer,
    },
    Bytes {
        conn: ConnId,
        data: Bytes,
    },
    /// The peer or the network ended it.
    Closed {
        conn: ConnId,
    },
    /// The socket took this many of the bytes sent.
    Written {
        conn: ConnId,
        bytes: usize,
    },
    PasswordChecked {
        conn: ConnId,
        ok: bool,
    },
    /// The answer to [`Output::Load`], whose `read` it repeats. `more`: the queue goes on behind the last row.
    Loaded {
        dest: DestId,
        read: Read,
        rows: Vec<Stored>,
        more: bool,
    },
}

/// A read of a session's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// It begins behind this number.
    pub after: Option<Seq>,
    /// Of the session: an answer to an earlier read, from before a cut, is known by it.
    pub(crate) number: u64,
}

#[derive(Debug)]
pub enum Output {
    Send {
        conn: ConnId,
        data: Bytes,
    },
    /// Close once everything sent is written, or a few seconds later. No [`Input`] about it is needed.
    Close {
        conn: ConnId,
        reason: Reason,
    },
    /// Read on from this connection, or read no more until told to: a subscriber of its messages is to catch up first.
    Read {
        conn: ConnId,
        on: bool,
    },
    /// Answer with [`Input::PasswordChecked`].
    CheckPassword {
        conn: ConnId,
        hash: Arc<str>,
        password: Secret,
    },
    /// A client's message (or its will), valid and allowed. Its holder calls `route`, stores where that says so, delivers, and answers
    /// `ack`, where there is one, with `Broker::acknowledge`.
    Publish {
        message: Arc<Message>,
        origin: Origin,
        /// None of a QoS 0 publish or a will.
        delivery: Option<Delivery>,
        ack: Option<AckToken>,
    },
    /// For the store, in this order among themselves and among the `Append`s that follow `Publish`.
    Store(Op),
    /// Call `acknowledge` with the token once every [`Output::Store`] before it is committed.
    Barrier(AckToken),
    /// Read the destination's queue; answer with [`Input::Loaded`].
    Load {
        dest: DestId,
        read: Read,
        max_bytes: usize,
    },
}

/// What the store held for the broker when it was opened.
#[derive(Debug, Default)]
pub struct Restored {
    /// Rows of the spaces `Session`, `Outbound`, `Inbound` and `Retained`; others are ignored.
    pub rows: Vec<(Space, Bytes, Bytes)>,
}

/// Numbers of session destinations begin here; an uplink's are below.
pub const FIRST_SESSION_DEST: u32 = 0x1000_0000;

/// What the broker has done since the start, for the status page and `$SYS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections_accepted: u64,
    pub connections_refused: u64,
    pub connections_now: u64,
    pub sessions_now: u64,
    pub subscriptions_now: u64,
    pub retained_now: u64,
    pub retained_bytes: u64,
    pub retained_refused: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// QoS 0 messages that a slow receiver had no room for.
    pub dropped_qos0: u64,
    pub dropped_expired: u64,
    /// Larger than the receiver's Maximum Packet Size.
    pub dropped_too_large: u64,
    pub publish_denied: u64,
    pub subscribe_denied: u64,
    /// Connections closed because the client did not read.
    pub slow_disconnects: u64,
    /// Times that publishers were not read until a subscriber had caught up.
    pub holds: u64,
    pub protocol_errors: u64,
    pub passwords_wrong: u64,
    /// Stored rows that did not read at the start.
    pub restore_failures: u64,
}
