//! A write on its way to a device, and what became of it.

use std::time::Instant;

use crate::sample::{Fault, PointId, Value};

/// Numbered by the gateway, unique in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// A checked write: in range, of the point's kind, not expired when it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub id: CommandId,
    pub point: PointId,
    /// As the wire has it: scale and offset undone. Of a bit field: the field, not the whole register.
    pub raw: Value,
    /// The driver drops it once this has passed, and says `Expired`.
    pub expires: Instant,
    /// Read the point again after the write and tell the value.
    pub readback: bool,
    /// The device is believed to hold the value: a driver that can read it looks first, and writes only where it holds another.
    pub unless_equal: bool,
}

/// What became of a command. Every command gets exactly one.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub id: CommandId,
    pub result: Result<Done, NotDone>,
}

/// The device acknowledged the write, or was seen to hold the value already.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The value read after the write, or instead of it, as the wire has it, where that was asked for and worked.
    pub readback: Option<Value>,
}

/// Why a command did not act.
#[derive(Clone, Debug, PartialEq)]
pub enum NotDone {
    /// Its time to live passed before it could be sent.
    Expired,
    /// It was sent, or could not be: the device's fault.
    Fault(Fault),
    /// It was written, and the value read back is another one.
    Mismatch(Value),
}
