//! How long things take on the line: what makes reading over a gap cheaper than asking twice.

use std::time::Duration;

use super::frame;
use super::pdu;
use super::spec::{BusSpec, Framing, Parity, SerialSpec, Table, Transport};

/// The line's own figures, from its settings alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    wire: Wire,
    /// One character on the line. Zero where there is no line.
    character: Duration,
    /// Quiet time that ends a frame.
    gap: Duration,
    /// Quiet time after an answer, beside the gap.
    turnaround: Duration,
    /// The line's time is the limit, and known: a serial port.
    limited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Rtu,
    Ascii,
    Tcp,
}

/// Above 19,200 baud the gap no longer shrinks (Modbus over Serial Line 1.02, section 2.5.1.1).
pub const GAP_FIXED: Duration = Duration::from_micros(1750);
/// What a request over TCP is reckoned to cost beside its bytes; more than any gap that a read may skip.
const TCP_REQUEST: Duration = Duration::from_micros(500);
/// One byte over TCP, reckoned.
const TCP_BYTE: Duration = Duration::from_nanos(100);
/// A line behind a TCP converter is reckoned as the specification's own default: 19,200 baud, 11 bits a character.
const ASSUMED_CHARACTER: Duration = Duration::from_nanos(11_000_000_000 / 19_200);

impl Timing {
    pub fn of(spec: &BusSpec) -> Self {
        let turnaround = spec.turnaround;
        match &spec.transport {
            Transport::Serial(serial) => {
                let character = character(serial);
                let (wire, gap) = match serial.framing {
                    Framing::Rtu if serial.baud > 19_200 => (Wire::Rtu, GAP_FIXED),
                    Framing::Rtu => (Wire::Rtu, character * 7 / 2),
                    Framing::Ascii => (Wire::Ascii, Duration::ZERO),
                };
                Self { wire, character, gap, turnaround, limited: true }
            }
            Transport::Tcp { .. } => {
                Self { wire: Wire::Tcp, character: Duration::ZERO, gap: Duration::ZERO, turnaround, limited: false }
            }
            Transport::RtuOverTcp { .. } => {
                Self { wire: Wire::Rtu, character: ASSUMED_CHARACTER, gap: GAP_FIXED, turnaround, limited: false }
            }
            Transport::AsciiOverTcp { .. } => Self {
                wire: Wire::Ascii,
                character: ASSUMED_CHARACTER,
                gap: Duration::ZERO,
                turnaround,
                limited: false,
            },
        }
    }

    /// One character, start to stop bit. Zero on TCP.
    pub fn character(&self) -> Duration {
        self.character
    }

    /// The quiet time that must stand before a request: the frame gap and the turnaround.
    pub fn quiet(&self) -> Duration {
        self.gap + self.turnaround
    }

    /// Whether the line's time is known and is the limit.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// The line's time of one read of `count` items: request, the gap that ends it, answer, quiet. How long the
    /// device thinks is not in it.
    pub fn read(&self, table: Table, count: u16) -> Duration {
        let bytes = match table {
            Table::Coil | Table::Discrete => count.div_ceil(8),
            Table::Input | Table::Holding => count.saturating_mul(2),
        };
        self.exchange(5, usize::from(bytes) + 2)
    }

    /// The line's time of a request and its answer, by the bytes of their PDUs.
    pub fn exchange(&self, request: usize, answer: usize) -> Duration {
        match self.wire {
            Wire::Tcp => TCP_REQUEST + TCP_BYTE * small(request + answer + 2 * frame::MBAP),
            Wire::Rtu | Wire::Ascii => self.transmit(request) + self.gap + self.transmit(answer) + self.quiet(),
        }
    }

    /// The line's time of one frame around a PDU of so many bytes.
    pub fn transmit(&self, pdu: usize) -> Duration {
        match self.wire {
            Wire::Tcp => Duration::ZERO,
            Wire::Rtu => self.character * small(pdu + 3),
            Wire::Ascii => self.character * small(2 * (pdu + 2) + 3),
        }
    }
}

/// The items of a table that one request may ask for, of a device that takes `max_registers`.
pub fn max_items(table: Table, max_registers: u16) -> u16 {
    match table {
        Table::Coil | Table::Discrete => max_registers.saturating_mul(16).clamp(1, pdu::MAX_BITS),
        Table::Input | Table::Holding => max_registers.clamp(1, pdu::MAX_REGISTERS),
    }
}

/// The data bits of a character: eight; seven for ASCII with parity (Modbus over Serial Line 1.02, section 2.5.2).
pub fn data_bits(serial: &SerialSpec) -> u8 {
    match (serial.framing, serial.parity) {
        (Framing::Ascii, Parity::Even | Parity::Odd) => 7,
        (Framing::Ascii, Parity::None) | (Framing::Rtu, _) => 8,
    }
}

fn character(serial: &SerialSpec) -> Duration {
    let parity = match serial.parity {
        Parity::None => 0,
        Parity::Even | Parity::Odd => 1,
    };
    let bits = 1 + u64::from(data_bits(serial)) + parity + u64::from(serial.stop_bits);
    Duration::from_nanos(bits * 1_000_000_000 / u64::from(serial.baud.max(1)))
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::fixture;

    #[test]
    fn a_read_of_fifty_registers_at_19200_8e1_takes_what_the_specification_says() {
        let timing = Timing::of(&fixture::serial(19_200, Parity::Even));
        // 8 + 105 characters of 11 bits and two gaps of 3.5 characters: 120 * 572.9 µs.
        let micros = timing.read(Table::Holding, 50).as_micros();
        assert!((68_740..68_760).contains(&micros), "{micros}");
    }

    #[test]
    fn the_gap_is_three_and_a_half_characters_and_fixed_above_19200_baud() {
        assert_eq!(Timing::of(&fixture::serial(9_600, Parity::None)).quiet().as_micros(), 3_645);
        assert_eq!(Timing::of(&fixture::serial(115_200, Parity::None)).quiet(), GAP_FIXED);
    }
}
