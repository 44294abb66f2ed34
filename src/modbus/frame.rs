//! The three framings around a PDU: RTU and ASCII (Modbus over Serial Line 1.02, section 2.5) and MBAP
//! (Modbus Messaging on TCP/IP 1.0b, section 3.1).

use super::pdu::{self, Answer, Flaw, Request};
use super::spec::Framing;

/// The longest RTU frame, in bytes.
pub const MAX_RTU: usize = 256;
/// The longest ASCII frame, in characters.
pub const MAX_ASCII: usize = 513;
/// The longest Modbus TCP frame, in bytes.
pub const MAX_TCP: usize = 260;
/// Bytes of an MBAP header, unit id included.
pub const MBAP: usize = 7;

/// What the bytes received so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The beginning of the answer, or nothing yet.
    More,
    Answer(Answer),
    /// Not this request's answer, whatever else may come.
    Flawed(Flaw),
}

/// CRC-16/MODBUS.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 })
    })
}

/// The longitudinal redundancy check of ASCII frames.
pub fn lrc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

/// Wraps `unit` and a PDU for a serial line: RTU.
pub fn rtu(unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(pdu.len() + 3);
    frame.push(unit);
    frame.extend_from_slice(pdu);
    frame.extend_from_slice(&crc16(&frame).to_le_bytes());
    frame
}

/// Wraps `unit` and a PDU for a serial line: ASCII.
pub fn ascii(unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pdu.len() + 2);
    bytes.push(unit);
    bytes.extend_from_slice(pdu);
    bytes.push(lrc(&bytes));
    let mut frame = vec![b':'];
    frame.extend(bytes.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 0xF)]));
    frame.extend_from_slice(b"\r\n");
    frame
}

/// Wraps `unit` and a PDU for Modbus TCP.
pub fn tcp(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let length = u16::try_from(pdu.len() + 1).unwrap_or(u16::MAX);
    let mut frame = Vec::with_capacity(pdu.len() + MBAP);
    frame.extend_from_slice(&transaction.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(unit);
    frame.extend_from_slice(pdu);
    frame
}

/// Bytes that an RTU answer to this request takes, checksum included, where it is no exception.
pub fn rtu_answer_length(request: &Request) -> usize {
    pdu::answer_length(request) + 3
}

/// Judges what an RTU line brought since the request was sent.
///
/// One byte too many is a flaw: two answers cannot both be this request's.
pub fn rtu_answer(received: &[u8], unit: u8, request: &Request) -> Progress {
    let code = request.function_code().value();
    let Some(&first) = received.first() else { return Progress::More };
    if first != unit {
        return Progress::Flawed(Flaw::Foreign);
    }
    let Some(&function) = received.get(1) else { return Progress::More };
    let length = if function == code | 0x80 {
        5
    } else if function == code {
        let bytes = received.get(2).copied();
        if let (Some(told), Some(asked)) = (bytes, pdu::answer_byte_count(request))
            && told != asked
        {
            return Progress::Flawed(Flaw::Length);
        }
        rtu_answer_length(request)
    } else {
        return Progress::Flawed(Flaw::Function);
    };
    if received.len() < length {
        return Progress::More;
    }
    let Some((pdu, told)) = rtu_checked(received, length) else { return Progress::Flawed(Flaw::Length) };
    if !told {
        return Progress::Flawed(Flaw::Checksum);
    }
    judge(request, pdu)
}

/// The PDU of a frame of exactly `length` bytes, and whether its checksum is right.
fn rtu_checked(frame: &[u8], length: usize) -> Option<(&[u8], bool)> {
    if frame.len() != length || length < 4 {
        return None;
    }
    let (body, crc) = frame.split_at(length - 2);
    Some((body.get(1..)?, crc == crc16(body).to_le_bytes()))
}

/// A whole frame with a right check, somewhere in what a line brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub unit: u8,
    pub pdu: Vec<u8>,
    /// Where it begins and ends in the bytes.
    pub start: usize,
    pub end: usize,
}

/// The first whole answer in `bytes`, whosever it is. A checksum and a length that fit each other are no accident.
pub fn heard(framing: Framing, bytes: &[u8]) -> Option<Heard> {
    match framing {
        Framing::Rtu => (0..bytes.len()).find_map(|start| {
            let length = any_answer_length(bytes.get(start + 1..)?)? + 3;
            let frame = bytes.get(start..start + length)?;
            let (pdu, right) = rtu_checked(frame, length)?;
            right.then(|| Heard { unit: frame[0], pdu: pdu.to_vec(), start, end: start + length })
        }),
        Framing::Ascii => {
            let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
            let start = bytes[..end].iter().rposition(|byte| *byte == b':')?;
            let (unit, pdu) = ascii_body(&bytes[start + 1..end]).ok()?;
            Some(Heard { unit, pdu, start, end: end + 2 })
        }
    }
}

/// Bytes that an answer's PDU takes, by its head; `None` for function codes that this gateway never asks.
fn any_answer_length(pdu: &[u8]) -> Option<usize> {
    match *pdu.first()? {
        1..=4 | 23 => Some(2 + usize::from(*pdu.get(1)?)),
        5 | 6 | 15 | 16 => Some(5),
        22 => Some(7),
        0x81..=0xFF => Some(2),
        _ => None,
    }
}

/// Judges what an ASCII line brought since the request was sent. What stands before the colon is noise.
pub fn ascii_answer(received: &[u8], unit: u8, request: &Request) -> Progress {
    let Some(start) = received.iter().position(|byte| *byte == b':') else {
        return if received.len() > MAX_ASCII { Progress::Flawed(Flaw::Garbled) } else { Progress::More };
    };
    let frame = &received[start + 1..];
    let Some(end) = frame.windows(2).position(|pair| pair == b"\r\n") else {
        return if frame.len() > MAX_ASCII { Progress::Flawed(Flaw::Length) } else { Progress::More };
    };
    if frame.len() > end + 2 {
        return Progress::Flawed(Flaw::Length);
    }
    let (from, pdu) = match ascii_body(&frame[..end]) {
        Ok(body) => body,
        Err(flaw) => return Progress::Flawed(flaw),
    };
    if from != unit { Progress::Flawed(Flaw::Foreign) } else { judge(request, &pdu) }
}

/// Unit and PDU out of the hexadecimal digits between colon and CR.
///
/// # Errors
/// [`Flaw`] where they are none, or their check is wrong.
pub fn ascii_body(digits: &[u8]) -> Result<(u8, Vec<u8>), Flaw> {
    if !digits.len().is_multiple_of(2) {
        return Err(Flaw::Length);
    }
    let bytes: Option<Vec<u8>> =
        digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
    let mut bytes = bytes.ok_or(Flaw::Garbled)?;
    if bytes.len() < 3 {
        return Err(Flaw::Length);
    }
    let told = bytes.pop();
    if told != Some(lrc(&bytes)) {
        return Err(Flaw::Checksum);
    }
    let pdu = bytes.split_off(1);
    Ok((bytes[0], pdu))
}

fn judge(request: &Request, pdu: &[u8]) -> Progress {
    match pdu::read_answer(request, pdu) {
        Ok(answer) => Progress::Answer(answer),
        Err(flaw) => Progress::Flawed(flaw),
    }
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// One Modbus TCP frame at the head of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFrame<'a> {
    pub transaction: u16,
    pub unit: u8,
    pub pdu: &'a [u8],
    /// Bytes that the frame takes in the stream.
    pub used: usize,
}

/// The frame at the head of `received`; `None` until it is whole.
///
/// # Errors
/// [`Flaw::Garbled`] where no frame can begin like this: the stream is out of step, and only a new connection helps.
pub fn tcp_frame(received: &[u8]) -> Result<Option<TcpFrame<'_>>, Flaw> {
    let Some(header) = received.get(..6) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[2..4] != [0, 0] || !(2..=MAX_TCP - 6).contains(&length) {
        return Err(Flaw::Garbled);
    }
    let Some(body) = received.get(6..6 + length) else { return Ok(None) };
    Ok(Some(TcpFrame {
        transaction: u16::from_be_bytes([header[0], header[1]]),
        unit: body[0],
        pdu: &body[1..],
        used: 6 + length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Request = Request::ReadHoldingRegisters(0x6B, 3);
    const WORDS: [u8; 8] = [0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64];

    #[test]
    fn checksums_are_those_of_the_specification() {
        assert_eq!(crc16(&[0x02, 0x07]), 0x1241);
        assert_eq!(rtu(1, &[3, 0, 0, 0, 10]), [1, 3, 0, 0, 0, 10, 0xC5, 0xCD]);
        assert_eq!(ascii(1, &[3, 0, 0, 0, 10]), b":01030000000AF2\r\n");
    }

    #[test]
    fn an_rtu_answer_is_taken_only_when_it_is_whole_and_alone() {
        let frame = rtu(17, &WORDS);
        for length in 0..frame.len() {
            assert_eq!(rtu_answer(&frame[..length], 17, &READ), Progress::More, "{length}");
        }
        assert_eq!(rtu_answer(&frame, 17, &READ), Progress::Answer(Answer::Registers(vec![0x022B, 0, 0x64])));
        let twice = [frame.clone(), frame.clone()].concat();
        assert_eq!(rtu_answer(&twice, 17, &READ), Progress::Flawed(Flaw::Length));
        assert_eq!(rtu_answer(&frame, 18, &READ), Progress::Flawed(Flaw::Foreign));
        let fewer = Request::ReadHoldingRegisters(0x6B, 2);
        assert_eq!(rtu_answer(&frame, 17, &fewer), Progress::Flawed(Flaw::Length));
        assert_eq!(rtu_answer(&frame, 17, &Request::ReadInputRegisters(0x6B, 3)), Progress::Flawed(Flaw::Function));
    }

    #[test]
    fn whole_frames_are_found_among_noise_and_halves_are_not() {
        for (framing, frame) in [(Framing::Rtu, rtu(17, &WORDS)), (Framing::Ascii, ascii(17, &WORDS))] {
            let noisy = [&[0, 0xFF, 3][..], &frame, &frame[..4]].concat();
            let expected = Heard { unit: 17, pdu: WORDS.to_vec(), start: 3, end: 3 + frame.len() };
            assert_eq!(heard(framing, &noisy), Some(expected));
            assert_eq!(heard(framing, &noisy[..noisy.len() - 5]), None);
        }
    }

    #[test]
    fn every_single_bit_error_in_an_rtu_answer_is_noticed() {
        let frame = rtu(17, &WORDS);
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(rtu_answer(&damaged, 17, &READ), Progress::Answer(_)), "bit {bit}");
        }
    }

    #[test]
    fn an_ascii_answer_may_follow_noise_and_nothing_may_follow_it() {
        let frame = ascii(17, &WORDS);
        let noisy = [b"\r\nxy".to_vec(), frame.clone()].concat();
        assert_eq!(ascii_answer(&noisy, 17, &READ), Progress::Answer(Answer::Registers(vec![0x022B, 0, 0x64])));
        assert_eq!(ascii_answer(&noisy[..noisy.len() - 1], 17, &READ), Progress::More);
        assert_eq!(ascii_answer(&[frame.clone(), frame.clone()].concat(), 17, &READ), Progress::Flawed(Flaw::Length));
        assert_eq!(ascii_answer(&frame, 18, &READ), Progress::Flawed(Flaw::Foreign));
        let mut damaged = frame;
        damaged[6] ^= 1;
        assert_eq!(ascii_answer(&damaged, 17, &READ), Progress::Flawed(Flaw::Checksum));
        assert_eq!(ascii_answer(&[b'x'; 600], 17, &READ), Progress::Flawed(Flaw::Garbled));
    }

    #[test]
    fn a_tcp_stream_is_cut_into_frames_and_refused_when_out_of_step() {
        let frame = tcp(0x1501, 0xFF, &WORDS);
        assert_eq!(tcp_frame(&frame[..frame.len() - 1]), Ok(None));
        let two = [frame.clone(), frame.clone()].concat();
        let cut = tcp_frame(&two).unwrap().unwrap();
        assert_eq!((cut.transaction, cut.unit, cut.pdu, cut.used), (0x1501, 0xFF, &WORDS[..], frame.len()));
        for broken in [[0, 1, 0, 1, 0, 6], [0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0]] {
            assert_eq!(tcp_frame(&broken), Err(Flaw::Garbled), "{broken:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_framings_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..700)) {
            let _ = rtu_answer(&bytes, 17, &READ);
            let _ = ascii_answer(&bytes, 17, &READ);
            let _ = ascii_answer(&[b":", bytes.as_slice(), b"\r\n"].concat(), 17, &READ);
            let _ = tcp_frame(&bytes);
            for framing in [Framing::Rtu, Framing::Ascii] {
                let _ = heard(framing, &bytes);
            }
        }
    }
}
