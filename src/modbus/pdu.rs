//! Requests to bytes, and answers to what they carry: the protocol data unit, the same on every transport
//! (Modbus Application Protocol 1.1b3, section 6).
//!
//! An answer is accepted only where everything in it is what this request must bring.

use tokio_modbus::ExceptionCode;

use super::spec::Table;
use crate::sample::Fault;

/// A request with a life of its own.
pub type Request = tokio_modbus::Request<'static>;

/// The most registers that one read may ask for (section 6.3).
pub const MAX_REGISTERS: u16 = 125;
/// The most bits that one read may ask for (section 6.1).
pub const MAX_BITS: u16 = 2000;

/// What a well-formed answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Bits(Vec<bool>),
    Registers(Vec<u16>),
    /// The echo of a write, checked.
    Written,
    Exception(ExceptionCode),
}

/// Why an answer was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("another unit's answer")]
    Foreign,
    #[error("another request's answer: its function code differs")]
    Function,
    #[error("too short, too long, or another byte count than was asked for")]
    Length,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it does not echo the write")]
    Echo,
    #[error("not a frame")]
    Garbled,
}

/// The request that reads `count` items of a table.
pub fn read(table: Table, address: u16, count: u16) -> Request {
    match table {
        Table::Coil => Request::ReadCoils(address, count),
        Table::Discrete => Request::ReadDiscreteInputs(address, count),
        Table::Input => Request::ReadInputRegisters(address, count),
        Table::Holding => Request::ReadHoldingRegisters(address, count),
    }
}

/// Appends the request's bytes. Those that this gateway never sends (function codes 17 and 43) append nothing.
pub fn write_request(request: &Request, out: &mut Vec<u8>) {
    let code = request.function_code().value();
    match request {
        Request::ReadCoils(address, count)
        | Request::ReadDiscreteInputs(address, count)
        | Request::ReadHoldingRegisters(address, count)
        | Request::ReadInputRegisters(address, count) => words(code, &[*address, *count], out),
        Request::WriteSingleCoil(address, on) => words(code, &[*address, coil(*on)], out),
        Request::WriteSingleRegister(address, word) => words(code, &[*address, *word], out),
        Request::MaskWriteRegister(address, and, or) => words(code, &[*address, *and, *or], out),
        Request::WriteMultipleCoils(address, bits) => {
            words(code, &[*address, count(bits.len())], out);
            out.push(byte_count(bits.len().div_ceil(8)));
            write_bits(bits, out);
        }
        Request::WriteMultipleRegisters(address, values) => {
            words(code, &[*address, count(values.len())], out);
            out.push(byte_count(values.len() * 2));
            write_registers(values, out);
        }
        Request::ReadWriteMultipleRegisters(from, quantity, to, values) => {
            words(code, &[*from, *quantity, *to, count(values.len())], out);
            out.push(byte_count(values.len() * 2));
            write_registers(values, out);
        }
        Request::Custom(code, rest) => {
            out.push(*code);
            out.extend_from_slice(rest);
        }
        Request::ReportServerId | Request::ReadDeviceIdentification(..) => {}
    }
}

fn words(code: u8, words: &[u16], out: &mut Vec<u8>) {
    out.push(code);
    write_registers(words, out);
}

/// Appends registers, big endian.
pub fn write_registers(words: &[u16], out: &mut Vec<u8>) {
    out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}

/// Appends bits, the first in the least significant bit, the last byte padded with zeros.
pub fn write_bits(bits: &[bool], out: &mut Vec<u8>) {
    out.extend(
        bits.chunks(8).map(|eight| eight.iter().enumerate().fold(0, |byte, (at, on)| byte | (u8::from(*on) << at))),
    );
}

fn coil(on: bool) -> u16 {
    if on { 0xFF00 } else { 0 }
}

fn count(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn byte_count(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// Bytes of the answer's PDU, function code included, where it is no exception. Zero for requests never sent.
pub fn answer_length(request: &Request) -> usize {
    match request {
        Request::ReadCoils(_, count) | Request::ReadDiscreteInputs(_, count) => 2 + usize::from(*count).div_ceil(8),
        Request::ReadHoldingRegisters(_, count)
        | Request::ReadInputRegisters(_, count)
        | Request::ReadWriteMultipleRegisters(_, count, _, _) => 2 + usize::from(*count) * 2,
        Request::WriteSingleCoil(..)
        | Request::WriteSingleRegister(..)
        | Request::WriteMultipleCoils(..)
        | Request::WriteMultipleRegisters(..) => 5,
        Request::MaskWriteRegister(..) => 7,
        Request::ReportServerId | Request::ReadDeviceIdentification(..) | Request::Custom(..) => 0,
    }
}

/// The byte count that stands second in the answer to a read; `None` for a write.
pub fn answer_byte_count(request: &Request) -> Option<u8> {
    match request {
        Request::ReadCoils(..)
        | Request::ReadDiscreteInputs(..)
        | Request::ReadHoldingRegisters(..)
        | Request::ReadInputRegisters(..)
        | Request::ReadWriteMultipleRegisters(..) => Some(byte_count(answer_length(request).saturating_sub(2))),
        Request::WriteSingleCoil(..)
        | Request::WriteSingleRegister(..)
        | Request::WriteMultipleCoils(..)
        | Request::WriteMultipleRegisters(..)
        | Request::MaskWriteRegister(..)
        | Request::ReportServerId
        | Request::ReadDeviceIdentification(..)
        | Request::Custom(..) => None,
    }
}

/// What the PDU says in answer to this request.
///
/// # Errors
/// The [`Flaw`] for which it must be discarded.
pub fn read_answer(request: &Request, pdu: &[u8]) -> Result<Answer, Flaw> {
    let code = request.function_code().value();
    let (&first, body) = pdu.split_first().ok_or(Flaw::Length)?;
    if first == code | 0x80 {
        return match body {
            [exception] => Ok(Answer::Exception(ExceptionCode::new(*exception))),
            _ => Err(Flaw::Length),
        };
    }
    if first != code {
        return Err(Flaw::Function);
    }
    if pdu.len() != answer_length(request) {
        return Err(Flaw::Length);
    }
    let Some(bytes) = answer_byte_count(request) else { return echo(request, pdu) };
    let (&told, data) = body.split_first().ok_or(Flaw::Length)?;
    if told != bytes {
        return Err(Flaw::Length);
    }
    if let Request::ReadCoils(_, count) | Request::ReadDiscreteInputs(_, count) = request {
        return Ok(Answer::Bits(read_bits(data, usize::from(*count))));
    }
    Ok(Answer::Registers(read_registers(data)))
}

/// A write's answer repeats the first five bytes of its request, the mask write all of it.
fn echo(request: &Request, pdu: &[u8]) -> Result<Answer, Flaw> {
    let mut sent = Vec::with_capacity(16);
    write_request(request, &mut sent);
    if sent.get(..pdu.len()) == Some(pdu) { Ok(Answer::Written) } else { Err(Flaw::Echo) }
}

/// Registers out of big-endian bytes; an odd last byte is left out.
pub fn read_registers(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

/// The first `count` bits.
pub fn read_bits(bytes: &[u8], count: usize) -> Vec<bool> {
    bytes.iter().flat_map(|byte| (0..8).map(move |at| byte & (1 << at) != 0)).take(count).collect()
}

/// The fault that an exception means for the points that were asked for.
pub fn fault(exception: ExceptionCode) -> Fault {
    match exception {
        ExceptionCode::IllegalFunction => Fault::IllegalFunction,
        ExceptionCode::IllegalDataAddress => Fault::IllegalAddress,
        ExceptionCode::IllegalDataValue => Fault::IllegalValue,
        ExceptionCode::ServerDeviceFailure => Fault::DeviceFailure,
        ExceptionCode::Acknowledge | ExceptionCode::ServerDeviceBusy => Fault::Busy,
        ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice => Fault::Gateway,
        ExceptionCode::MemoryParityError => Fault::Exception(8),
        ExceptionCode::Custom(code) => Fault::Exception(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(request: &Request) -> Vec<u8> {
        let mut out = Vec::new();
        write_request(request, &mut out);
        out
    }

    #[test]
    fn requests_and_answers_are_those_of_the_specification() {
        // Modbus Application Protocol 1.1b3, the examples of sections 6.1, 6.3, 6.11, 6.12, 6.16, 6.17.
        let coils = Request::ReadCoils(0x13, 0x13);
        assert_eq!(sent(&coils), [0x01, 0x00, 0x13, 0x00, 0x13]);
        let Ok(Answer::Bits(bits)) = read_answer(&coils, &[0x01, 0x03, 0xCD, 0x6B, 0x05]) else { panic!("bits") };
        assert_eq!((bits.len(), bits[0], bits[1], bits[18]), (19, true, false, true));

        let holding = Request::ReadHoldingRegisters(0x6B, 3);
        assert_eq!(
            read_answer(&holding, &[0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64]),
            Ok(Answer::Registers(vec![0x022B, 0, 0x64]))
        );

        let write = Request::WriteMultipleCoils(
            0x13,
            vec![true, false, true, true, false, false, true, true, true, false].into(),
        );
        assert_eq!(sent(&write), [0x0F, 0x00, 0x13, 0x00, 0x0A, 0x02, 0xCD, 0x01]);
        assert_eq!(read_answer(&write, &[0x0F, 0x00, 0x13, 0x00, 0x0A]), Ok(Answer::Written));

        let registers = Request::WriteMultipleRegisters(1, vec![0x0A, 0x0102].into());
        assert_eq!(sent(&registers), [0x10, 0x00, 0x01, 0x00, 0x02, 0x04, 0x00, 0x0A, 0x01, 0x02]);

        let mask = Request::MaskWriteRegister(4, 0xF2, 0x25);
        assert_eq!(read_answer(&mask, &[0x16, 0x00, 0x04, 0x00, 0xF2, 0x00, 0x25]), Ok(Answer::Written));

        let both = Request::ReadWriteMultipleRegisters(3, 6, 0x0E, vec![0xFF, 0xFF, 0xFF].into());
        assert_eq!(sent(&both), [0x17, 0, 3, 0, 6, 0, 0x0E, 0, 3, 6, 0, 0xFF, 0, 0xFF, 0, 0xFF]);
        assert_eq!(answer_length(&both), 14);
    }

    #[test]
    fn an_answer_to_another_request_is_not_accepted() {
        let holding = Request::ReadHoldingRegisters(0, 2);
        for (pdu, flaw) in [
            (&[0x04, 0x04, 0, 1, 0, 2][..], Flaw::Function),
            (&[0x03, 0x02, 0, 1], Flaw::Length),
            (&[0x03, 0x06, 0, 1, 0, 2, 0, 3], Flaw::Length),
            (&[0x03, 0x02, 0, 1, 0, 2], Flaw::Length),
            (&[0x83, 2, 0], Flaw::Length),
            (&[0x84, 2], Flaw::Function),
            (&[], Flaw::Length),
        ] {
            assert_eq!(read_answer(&holding, pdu), Err(flaw), "{pdu:x?}");
        }
        let write = Request::WriteSingleRegister(1, 3);
        assert_eq!(read_answer(&write, &[6, 0, 1, 0, 4]), Err(Flaw::Echo));
        assert_eq!(read_answer(&write, &[6, 0, 2, 0, 3]), Err(Flaw::Echo));
    }

    #[test]
    fn exceptions_become_faults() {
        let holding = Request::ReadHoldingRegisters(0, 2);
        assert_eq!(read_answer(&holding, &[0x83, 2]), Ok(Answer::Exception(ExceptionCode::IllegalDataAddress)));
        assert_eq!(fault(ExceptionCode::new(2)), Fault::IllegalAddress);
        assert_eq!(fault(ExceptionCode::new(11)), Fault::Gateway);
        assert_eq!(fault(ExceptionCode::new(99)), Fault::Exception(99));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(pdu in proptest::collection::vec(proptest::num::u8::ANY, 0..300), count in 0_u16..=2000) {
            for request in [Request::ReadCoils(0, count), Request::ReadHoldingRegisters(7, count), Request::WriteSingleCoil(1, true),
                            Request::MaskWriteRegister(1, 2, 3)] {
                let _ = read_answer(&request, &pdu);
            }
        }
    }
}
