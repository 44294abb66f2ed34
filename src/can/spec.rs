//! What a CAN bus was asked to be: the compiled form of a `[[can]]` table. Already checked; holds no defaults.

use std::sync::Arc;
use std::time::Duration;

// The words and notations that a configuration is compiled from and to: `config` imports this module alone.
pub use super::candump::{Content, parse_frame};
pub use super::dbc::{Database, DbcMessage, DbcSignal, parse as parse_dbc};
pub use super::frame::{CanId, Frame, fd_length};
pub use super::j1939::is_addressed;
pub use super::signal::{BitOrder, Layout, MESSAGE_BYTES_MAX as J1939_BYTES_MAX, Number};

/// One SocketCAN interface and what is wanted of it.
#[derive(Clone, Debug, PartialEq)]
pub struct BusSpec {
    pub name: Arc<str>,
    /// As `ip link` names it: `can0`.
    pub interface: String,
    /// Hear and send CAN FD frames too.
    pub fd: bool,
    /// In the order of `PointId::index`.
    pub points: Vec<CanPoint>,
}

/// One named value.
#[derive(Clone, Debug, PartialEq)]
pub struct CanPoint {
    pub name: Arc<str>,
    pub source: Source,
    /// Samples closer together than this are dropped, except the latest, which comes at the interval's end.
    pub min_interval: Duration,
    /// Not seen for so long, a signal is stale. `None`: never.
    pub timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Signal(SignalSpec),
    Request(RequestSpec),
    Command(CommandSpec),
}

/// A value that somebody on the bus sends by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct SignalSpec {
    pub from: FrameMatch,
    pub layout: Layout,
    /// All must hold, else the frame does not carry the signal.
    pub when: Vec<Selector>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameMatch {
    Id(CanId),
    /// A J1939 parameter group, also where it comes in parts by the transport protocol; its values that mean
    /// "not available" and "error" become faults.
    Pgn {
        /// 18 bits; the low byte is zero for a group that names a destination (PDU1).
        pgn: u32,
        /// `None`: whoever sends it.
        source: Option<u8>,
    },
}

/// A multiplexor and the values under which a signal is there (DBC `m3`, `SG_MUL_VAL_`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub layout: Layout,
    /// Unsigned, both ends included.
    pub ranges: Vec<(u64, u64)>,
}

/// A value that is asked for by ISO-TP.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestSpec {
    pub send: CanId,
    /// Who may answer. The answer of the first of them counts. Not empty.
    pub receive: Vec<CanId>,
    pub addressing: Addressing,
    /// 1 to 4095 bytes.
    pub request: Arc<[u8]>,
    /// What fills every frame up to 8 bytes (64 with `fd`); `None`: frames are as short as they can be.
    pub padding: Option<u8>,
    /// Ask in CAN FD frames of up to 64 bytes.
    pub fd: bool,
    pub answer: AnswerSpec,
    /// Not zero.
    pub interval: Duration,
    /// From the request to the answer. Not zero.
    pub timeout: Duration,
}

/// How a frame names its receiver (ISO 15765-2, 10.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addressing {
    /// By its identifier alone.
    Normal,
    /// By the first byte of its data too.
    Extended {
        /// In what is sent.
        target: u8,
        /// In what is received.
        source: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerSpec {
    /// Bytes from the beginning of the answer, service id included.
    pub offset: u16,
    pub kind: AnswerKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// The layout counts its bits from `AnswerSpec::offset`.
    Number(Layout),
    /// So many bytes, or all up to the end; up to the first NUL, without leading and trailing padding.
    Text { length: Option<u16> },
}

/// A signal that commands set in a message that is sent as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandSpec {
    pub frame: CanId,
    pub fd: bool,
    /// Bytes in the message: 0 to 8, or a CAN FD length.
    pub length: u8,
    /// What each byte is as long as nobody has sent the message: 0, or 0xFF for J1939.
    pub initial: u8,
    pub layout: Layout,
    /// Multiplexors that the signal stands under, and what to set them to.
    pub set: Vec<(Layout, u64)>,
    /// `None`: once a command. Else repeated, at this interval, from the first command on. Not zero.
    pub cycle: Option<Duration>,
}
