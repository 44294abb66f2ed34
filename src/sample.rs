//! What a driver reads: a point's reading or its fault, with its time.

use std::fmt;
use std::sync::Arc;

use crate::clock::UnixMs;

/// Which bus of this run; a bus that a reload replaces gets a new one, so that late events of the old are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BusId(pub u32);

/// A point: its bus, and its place in that bus's list of points (`BusSpec::points`, `BusPlan::rules`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointId {
    pub bus: BusId,
    pub index: u32,
}

/// A value as the wire has it: decoded by type and order, before `bits`, `scale`, `offset`, `map`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    /// Signed integers of up to 64 bits.
    Int(i64),
    /// Unsigned integers and BCD of up to 64 bits.
    Uint(u64),
    /// A 32-bit float stays one: widened it would print digits that the device never sent.
    F32(f32),
    F64(f64),
    Text(Arc<str>),
}

/// Why a point has no value. Its text is the `fault` of the payload (contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The device did not answer in time, or is set aside because it did not.
    Timeout,
    /// The line or connection is not there.
    Disconnected,
    /// Modbus exception 1.
    IllegalFunction,
    /// Modbus exception 2.
    IllegalAddress,
    /// Modbus exception 3.
    IllegalValue,
    /// Modbus exception 4.
    DeviceFailure,
    /// Modbus exceptions 5 and 6.
    Busy,
    /// Modbus exceptions 10 and 11.
    Gateway,
    /// Any other exception code.
    Exception(u8),
    /// Answers came, and none was well formed.
    BadResponse,
    /// The bytes do not make a value of the type (BCD digits over 9, text that is not UTF-8).
    BadValue,
    /// A signal was not seen for its `timeout_ms`.
    Stale,
    /// The sender marks the value as not available (J1939, SunSpec).
    NotAvailable,
    /// The sender marks the value as erroneous (J1939).
    Error,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Timeout => "timeout",
            Self::Disconnected => "disconnected",
            Self::IllegalFunction => "illegal_function",
            Self::IllegalAddress => "illegal_address",
            Self::IllegalValue => "illegal_value",
            Self::DeviceFailure => "device_failure",
            Self::Busy => "busy",
            Self::Gateway => "gateway",
            Self::Exception(code) => return write!(f, "exception_{code}"),
            Self::BadResponse => "bad_response",
            Self::BadValue => "bad_value",
            Self::Stale => "stale",
            Self::NotAvailable => "not_available",
            Self::Error => "error",
        };
        f.write_str(text)
    }
}

/// One reading of one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub point: PointId,
    /// When the answer or the frame came in.
    pub at: UnixMs,
    pub reading: Result<Value, Fault>,
}

/// A bit field of an integer, both ends included, bit 0 the least significant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitRange {
    low: u8,
    high: u8,
}

impl BitRange {
    /// `None` unless `low <= high < 64`.
    pub fn new(low: u8, high: u8) -> Option<Self> {
        (low <= high && high < 64).then_some(Self { low, high })
    }

    pub fn low(self) -> u8 {
        self.low
    }

    pub fn high(self) -> u8 {
        self.high
    }

    /// Bits in the field, 1 to 64.
    pub fn width(self) -> u8 {
        self.high - self.low + 1
    }

    /// The field's own mask, not shifted: `width` ones.
    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - u32::from(self.width()))
    }

    /// The field out of a whole.
    pub fn extract(self, whole: u64) -> u64 {
        (whole >> self.low) & self.mask()
    }

    /// The whole with the field replaced.
    pub fn insert(self, whole: u64, field: u64) -> u64 {
        (whole & !(self.mask() << self.low)) | ((field & self.mask()) << self.low)
    }
}
