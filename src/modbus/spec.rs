//! What a Modbus bus was asked to be: the compiled form of a `[[modbus]]` table. Already checked; holds no defaults.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::sample::BitRange;

/// One serial line or one TCP endpoint, with the devices and points on it.
#[derive(Clone, Debug, PartialEq)]
pub struct BusSpec {
    pub name: Arc<str>,
    pub transport: Transport,
    /// From the last byte of a request to the first of its answer. Not zero.
    pub timeout: Duration,
    /// Further tries before a request has failed.
    pub retries: u8,
    /// Registers that one read may skip over, at most.
    pub max_gap: u16,
    /// Quiet time after an answer, beside the 3.5 characters.
    pub turnaround: Duration,
    /// Requests under way at once on one TCP connection; 1 on a line.
    pub max_in_flight: u16,
    pub devices: Vec<DeviceSpec>,
    /// In the order of `PointId::index`.
    pub points: Vec<PointSpec>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    Serial(SerialSpec),
    /// Modbus TCP, plain or with TLS (Modbus/TCP Security).
    Tcp {
        address: Endpoint,
        tls: Option<TlsSpec>,
    },
    RtuOverTcp {
        address: Endpoint,
    },
    AsciiOverTcp {
        address: Endpoint,
    },
}

/// A host name or address, and a port; resolved at each connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// PEM files, as absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSpec {
    pub ca: PathBuf,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialSpec {
    pub path: PathBuf,
    /// Bits a second.
    pub baud: u32,
    pub framing: Framing,
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// The kernel drives RTS (TIOCSRS485).
    pub rs485: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Rtu,
    Ascii,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// A unit on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    pub name: Arc<str>,
    /// Unit id: 1 to 247 on a line, 0 to 255 on TCP.
    pub unit: u8,
    /// The most registers that one request may ask for, 1 to 125; bits: sixteen times that, 2,000 at most.
    pub max_registers: u16,
}

/// The four tables of the data model (Modbus Application Protocol 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Coil,
    Discrete,
    Input,
    Holding,
}

/// One named value.
#[derive(Clone, Debug, PartialEq)]
pub struct PointSpec {
    pub name: Arc<str>,
    /// Place in `BusSpec::devices`.
    pub device: usize,
    pub table: Table,
    /// The protocol's zero-based address.
    pub address: u16,
    pub data: DataType,
    pub order: ByteOrder,
    /// Of an integer register; `None` reads the whole.
    pub bits: Option<BitRange>,
    /// Not zero.
    pub interval: Duration,
    pub write: Option<WriteSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    Bool,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bcd16,
    Bcd32,
    /// Text in so many registers, two bytes each, up to the first NUL; trailing spaces are not part of it.
    Text {
        registers: u16,
    },
}

impl DataType {
    /// Registers that a value takes; a `Bool` takes one (a coil, or a register where not zero is true).
    pub fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::U16 | Self::I16 | Self::Bcd16 => 1,
            Self::U32 | Self::I32 | Self::F32 | Self::Bcd32 => 2,
            Self::U64 | Self::I64 | Self::F64 => 4,
            Self::Text { registers } => registers,
        }
    }
}

/// Bytes `abcd` of a value, most significant first, in the order in which the line brings them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Big endian, the protocol's own.
    Abcd,
    /// Words swapped: the least significant word first.
    Cdab,
    /// Bytes swapped within each word.
    Badc,
    /// Little endian throughout.
    Dcba,
}

/// How the driver writes a point. Ranges and rates are the mapping's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSpec {
    pub function: WriteFunction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFunction {
    /// Function code 5 for a coil, 6 for one register, 16 for more, 22 for a bit field where the device has it.
    Auto,
    /// Function codes 15 and 16 always.
    Multiple,
    /// A bit field by function code 22 (Mask Write Register).
    Mask,
    /// Function code 23 (Read/Write Multiple Registers).
    ReadWrite,
}
