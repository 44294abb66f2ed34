//! Modbus requests as a device reads them (Modbus Application Protocol 1.1b3, section 6).

use tokio_modbus::{ExceptionCode, Request};

use crate::modbus::pdu::{MAX_BITS, MAX_REGISTERS, read_bits, read_registers};

/// The most registers of a write by function code 16, and 23.
const MAX_WRITTEN: [u16; 2] = [123, 121];
const MAX_BITS_WRITTEN: u16 = 1968;

/// Bytes of the request PDU that begins like this; `None` until its length is known.
pub fn length(pdu: &[u8]) -> Option<usize> {
    match pdu.first()? {
        15 | 16 => Some(6 + usize::from(*pdu.get(5)?)),
        22 => Some(7),
        23 => Some(10 + usize::from(*pdu.get(9)?)),
        _ => Some(5),
    }
}

/// What the request asks for.
///
/// # Errors
/// The exception to answer with.
pub fn parse(pdu: &[u8]) -> Result<Request<'static>, ExceptionCode> {
    let bad = ExceptionCode::IllegalDataValue;
    let word = |at: usize| pdu.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]])).ok_or(bad);
    let count =
        |at: usize, max: u16| word(at).and_then(|count| if (1..=max).contains(&count) { Ok(count) } else { Err(bad) });
    let code = *pdu.first().ok_or(bad)?;
    if length(pdu) != Some(pdu.len()) && matches!(code, 1..=6 | 15 | 16 | 22 | 23) {
        return Err(bad);
    }
    Ok(match code {
        1 => Request::ReadCoils(word(1)?, count(3, MAX_BITS)?),
        2 => Request::ReadDiscreteInputs(word(1)?, count(3, MAX_BITS)?),
        3 => Request::ReadHoldingRegisters(word(1)?, count(3, MAX_REGISTERS)?),
        4 => Request::ReadInputRegisters(word(1)?, count(3, MAX_REGISTERS)?),
        5 => match word(3)? {
            0 => Request::WriteSingleCoil(word(1)?, false),
            0xFF00 => Request::WriteSingleCoil(word(1)?, true),
            _ => return Err(bad),
        },
        6 => Request::WriteSingleRegister(word(1)?, word(3)?),
        15 => {
            let (count, bytes) = (usize::from(count(3, MAX_BITS_WRITTEN)?), pdu.get(6..).unwrap_or_default());
            if bytes.len() != count.div_ceil(8) {
                return Err(bad);
            }
            Request::WriteMultipleCoils(word(1)?, read_bits(bytes, count).into())
        }
        16 => Request::WriteMultipleRegisters(word(1)?, values(pdu, 6, count(3, MAX_WRITTEN[0])?)?.into()),
        22 => Request::MaskWriteRegister(word(1)?, word(3)?, word(5)?),
        23 => {
            let written = values(pdu, 10, count(7, MAX_WRITTEN[1])?)?;
            Request::ReadWriteMultipleRegisters(word(1)?, count(3, MAX_REGISTERS)?, word(5)?, written.into())
        }
        _ => return Err(ExceptionCode::IllegalFunction),
    })
}

fn values(pdu: &[u8], from: usize, count: u16) -> Result<Vec<u16>, ExceptionCode> {
    let bytes = pdu.get(from..).unwrap_or_default();
    if bytes.len() == usize::from(count) * 2 { Ok(read_registers(bytes)) } else { Err(ExceptionCode::IllegalDataValue) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::pdu::write_request;

    #[test]
    fn every_request_that_the_gateway_sends_is_read_as_it_was_meant() {
        for request in [
            Request::ReadCoils(1, 2000),
            Request::ReadDiscreteInputs(65_535, 1),
            Request::ReadHoldingRegisters(7, 125),
            Request::ReadInputRegisters(7, 1),
            Request::WriteSingleCoil(3, true),
            Request::WriteSingleRegister(3, 4),
            Request::WriteMultipleCoils(3, vec![true, false, true].into()),
            Request::WriteMultipleRegisters(3, vec![1, 2, 3].into()),
            Request::MaskWriteRegister(4, 0xF2, 0x25),
            Request::ReadWriteMultipleRegisters(3, 6, 14, vec![9, 8].into()),
        ] {
            let mut pdu = Vec::new();
            write_request(&request, &mut pdu);
            assert_eq!(parse(&pdu), Ok(request));
        }
        assert_eq!(parse(&[3, 0, 0, 0, 126]), Err(ExceptionCode::IllegalDataValue));
        assert_eq!(parse(&[99]), Err(ExceptionCode::IllegalFunction));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(pdu in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = parse(&pdu);
        }
    }
}
