//! candump's log format (`candump -l`, `log2asc`, `cansend`): `(1436509052.249713) can0 3E9#00002EE0`.

use thiserror::Error;

use super::frame::{CanId, Frame, FrameKind};
use crate::clock::UnixMs;

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub at: UnixMs,
    pub interface: String,
    pub content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Data(Frame),
    /// `123#R`
    Remote(CanId),
    /// An error frame of the controller.
    Error,
}

/// What is wrong, and where: the first column is 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("column {column}: {problem}")]
pub struct CandumpError {
    pub column: usize,
    pub problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("expected a time in parentheses, such as (1436509052.249713)")]
    Time,
    #[error("expected the interface's name after the time")]
    Interface,
    #[error("expected an identifier and `#`, such as 3E9#00002EE0")]
    Separator,
    #[error("an identifier has 3 hexadecimal digits (up to 7FF) or 8 (up to 1FFFFFFF)")]
    Identifier,
    #[error("expected pairs of hexadecimal digits")]
    Data,
    #[error("a classic frame has at most 8 bytes, and a CAN FD frame (`##`) 64")]
    TooLong,
    #[error("expected a hexadecimal digit of flags after `##`")]
    Flags,
    #[error("unexpected text after the frame")]
    Trailing,
}

/// One line of a log; empty lines and comments (`#`) are the caller's to skip.
pub fn parse_line(line: &str) -> Result<Entry, CandumpError> {
    let mut words = line.split_ascii_whitespace();
    let column = |word: &str| word.as_ptr().addr() - line.as_ptr().addr() + 1;
    let fail = |word: Option<&str>, problem| CandumpError { column: word.map_or(line.len() + 1, column), problem };
    let time = words.next();
    let at = time.and_then(parse_time).ok_or_else(|| fail(time, Problem::Time))?;
    let interface = words.next().ok_or_else(|| fail(None, Problem::Interface))?;
    let frame = words.next().ok_or_else(|| fail(None, Problem::Separator))?;
    let content = parse_frame(frame)
        .map_err(|error| CandumpError { column: column(frame) + error.column - 1, problem: error.problem })?;
    // Newer candump adds the direction.
    if let Some(rest) = words.next().filter(|word| !matches!(*word, "R" | "T")) {
        return Err(fail(Some(rest), Problem::Trailing));
    }
    Ok(Entry { at, interface: interface.to_owned(), content })
}

fn parse_time(word: &str) -> Option<UnixMs> {
    let inside = word.strip_prefix('(')?.strip_suffix(')')?;
    let (seconds, fraction) = inside.split_once('.').unwrap_or((inside, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let seconds = seconds.parse::<i64>().ok().filter(|seconds| *seconds >= 0)?;
    Some(UnixMs(seconds.checked_mul(1000)?.checked_add(millis)?))
}

/// `3E9#00002EE0`, `18FEF100##1AABB` (CAN FD), `123#R`; bytes may be set apart by points.
pub fn parse_frame(text: &str) -> Result<Content, CandumpError> {
    let fail = |at: usize, problem| CandumpError { column: at + 1, problem };
    let Some((name, rest)) = text.split_once('#') else { return Err(fail(text.len(), Problem::Separator)) };
    let after = name.len() + 1;
    let number = u32::from_str_radix(name, 16).map_err(|_| fail(0, Problem::Identifier))?;
    let id = match name.len() {
        _ if !name.bytes().all(|byte| byte.is_ascii_hexdigit()) => None,
        3 => CanId::standard(number),
        8 if number & 0xE000_0000 == 0x2000_0000 => return Ok(Content::Error),
        8 => CanId::extended(number),
        _ => None,
    }
    .ok_or_else(|| fail(0, Problem::Identifier))?;
    if let Some(fd) = rest.strip_prefix('#') {
        let flags =
            fd.chars().next().and_then(|digit| digit.to_digit(16)).ok_or_else(|| fail(after + 1, Problem::Flags))?;
        let data = bytes(&fd[1..], 64).map_err(|(at, problem)| fail(after + 2 + at, problem))?;
        return Frame::fd(id, &data, flags & 1 != 0, 0).map(Content::Data).ok_or_else(|| fail(after, Problem::TooLong));
    }
    if rest.starts_with(['R', 'r']) {
        return if rest[1..].bytes().all(|byte| byte.is_ascii_hexdigit()) && rest.len() <= 2 {
            Ok(Content::Remote(id))
        } else {
            Err(fail(after + 1, Problem::Trailing))
        };
    }
    // `_B` after 8 bytes: the raw length code of classic CAN.
    let data = rest.split_once('_').map_or(rest, |(data, _)| data);
    let data = bytes(data, 8).map_err(|(at, problem)| fail(after + at, problem))?;
    Frame::classic(id, &data).map(Content::Data).ok_or_else(|| fail(after, Problem::TooLong))
}

fn bytes(text: &str, max: usize) -> Result<Vec<u8>, (usize, Problem)> {
    let mut data = Vec::new();
    let mut high = None;
    for (at, letter) in text.char_indices() {
        match (letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok()), high.take()) {
            (Some(_), _) if data.len() == max => return Err((at, Problem::TooLong)),
            (Some(low), Some(high)) => data.push(high << 4 | low),
            (Some(digit), None) => high = Some(digit),
            (None, None) if letter == '.' => {}
            (None, _) => return Err((at, Problem::Data)),
        }
    }
    if high.is_some() { Err((text.len(), Problem::Data)) } else { Ok(data) }
}

/// As [`parse_frame`] reads it.
pub fn format_frame(frame: &Frame) -> String {
    let data: String = frame.data().iter().map(|byte| format!("{byte:02X}")).collect();
    match frame.kind() {
        FrameKind::Classic => format!("{}#{data}", frame.id()),
        FrameKind::Fd { bit_rate_switch, error_state } => {
            format!("{}##{:X}{data}", frame.id(), u8::from(bit_rate_switch) | u8::from(error_state) << 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_that_candump_wrote_is_read() {
        let entry = parse_line("(1436509052.249713) can0 3E9#00002EE0").unwrap();
        assert_eq!(entry.at, UnixMs(1_436_509_052_249));
        assert_eq!(entry.interface, "can0");
        let Content::Data(frame) = entry.content else { panic!("{entry:?}") };
        assert_eq!(frame.id(), CanId::standard(0x3E9).unwrap());
        assert_eq!(frame.data(), [0, 0, 0x2E, 0xE0]);
        assert_eq!(
            parse_line("(0.5) vcan0 123#R T").unwrap().content,
            Content::Remote(CanId::standard(0x123).unwrap())
        );
        assert_eq!(parse_line("(1.0) can0 20000004#0004000000000000").unwrap().content, Content::Error);
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        let at = |line: &str| parse_line(line).map_err(|error| (error.column, error.problem));
        assert_eq!(at("can0 3E9#00"), Err((1, Problem::Time)));
        assert_eq!(at("(1.0) can0 3E#00"), Err((12, Problem::Identifier)));
        assert_eq!(at("(1.0) can0 FFF#00"), Err((12, Problem::Identifier)));
        assert_eq!(at("(1.0) can0 3E9#0"), Err((17, Problem::Data)));
        assert_eq!(at("(1.0) can0 3E9#0g"), Err((17, Problem::Data)));
        assert_eq!(at("(1.0) can0 3E9#112233445566778899"), Err((32, Problem::TooLong)));
        assert_eq!(at("(1.0) can0 3E9"), Err((15, Problem::Separator)));
        assert_eq!(at("(1.0) can0 3E9#00 x"), Err((19, Problem::Trailing)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(raw in 0u32..=0x7FF, data in proptest::collection::vec(any::<u8>(), 0..=64), brs: bool) {
            let id = CanId::standard(raw).unwrap();
            let frame = if data.len() <= 8 { Frame::classic(id, &data).unwrap() } else { Frame::fd(id, &data, brs, 0).unwrap() };
            prop_assert_eq!(parse_frame(&format_frame(&frame)), Ok(Content::Data(frame)));
        }

        #[test]
        fn no_text_is_too_strange(line in "\\PC*", frame in "[0-9A-Fa-f]{0,9}#?#?[0-9A-FR._é]*") {
            let _ = parse_line(&line);
            let _ = parse_frame(&frame);
        }
    }
}
