//! candump's formats: what `candump -l` and `-L` write, what `cansend` takes, and what candump shows on a screen.
//!
//! ```text
//! (1436509052.249713) can0 3E9#00002EE0
//! can0 3E9#00002EE0
//! 3E9#00002EE0
//!  (2026-01-31 12:00:00.249713)  can0  3E9   [4]  00 00 2E E0
//! ```

use thiserror::Error;

use super::frame::{CanId, Frame, FrameKind};
use crate::clock::UnixMs;
use crate::timestamp;

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `None` where the line has no time.
    pub at: Option<UnixMs>,
    /// `None` where the line names none.
    pub interface: Option<String>,
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
    #[error("expected a time in parentheses, such as (1436509052.249713) or (2026-01-31 12:00:00.249713)")]
    Time,
    #[error("expected a frame, such as 3E9#00002EE0 or 3E9 [4] 00 00 2E E0")]
    Frame,
    #[error("expected an identifier and `#`, such as 3E9#00002EE0")]
    Separator,
    #[error("an identifier has 3 hexadecimal digits (up to 7FF) or 8 (up to 1FFFFFFF)")]
    Identifier,
    #[error("expected the number of bytes in brackets, such as [8], or [08] for CAN FD")]
    Length,
    #[error("expected pairs of hexadecimal digits")]
    Data,
    #[error("the brackets announce another number of bytes")]
    Count,
    #[error("a classic frame has at most 8 bytes, and a CAN FD frame (`##`) 64")]
    TooLong,
    #[error("expected a hexadecimal digit of flags after `##`")]
    Flags,
    #[error("unexpected text after the frame")]
    Trailing,
}

/// One line of a log; empty lines and comments (`#`) are the caller's to skip.
///
/// # Errors
/// What was expected, and where.
pub fn parse_line(line: &str) -> Result<Entry, CandumpError> {
    let column = |rest: &str| rest.as_ptr().addr() - line.as_ptr().addr() + 1;
    let fail = |rest: &str, problem| CandumpError { column: column(rest), problem };
    let mut rest = line.trim();
    let mut at = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let (time, after) = inside.split_once(')').ok_or_else(|| fail(rest, Problem::Time))?;
        at = Some(parse_time(time).ok_or_else(|| fail(rest, Problem::Time))?);
        rest = after.trim_start();
    }
    let mut words = Words(rest);
    let end = &line[line.trim_end().len()..];
    let mut first = words.next().ok_or_else(|| fail(end, Problem::Frame))?;
    let mut interface = None;
    if !first.contains('#') && !words.0.trim_start().starts_with('[') {
        interface = Some(first.to_owned());
        first = words.next().ok_or_else(|| fail(end, Problem::Frame))?;
    }
    // `candump -x`: direction, bit rate switch, error state.
    if matches!(first, "RX" | "TX") {
        first =
            words.by_ref().find(|word| !matches!(*word, "-" | "B" | "E")).ok_or_else(|| fail(end, Problem::Frame))?;
    }
    let content = if first.contains('#') {
        let content = parse_frame(first)
            .map_err(|error| CandumpError { column: column(first) + error.column - 1, problem: error.problem })?;
        // Newer candump adds the direction.
        if let Some(word) = words.next().filter(|word| !matches!(*word, "R" | "T")) {
            return Err(fail(word, Problem::Trailing));
        }
        content
    } else {
        shown_frame(first, words).map_err(|(rest, problem)| fail(rest, problem))?
    };
    Ok(Entry { at, interface, content })
}

/// Words set apart by blanks, whose rest can be looked at.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start();
        let (word, after) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
        self.0 = after;
        (!word.is_empty()).then_some(word)
    }
}

/// `3E9 [4] 00 00 2E E0`, from the identifier on; after the bytes may stand what candump adds of its own.
fn shown_frame<'a>(name: &'a str, mut words: Words<'a>) -> Result<Content, (&'a str, Problem)> {
    let bracket = words.next().ok_or((name, Problem::Frame))?;
    let digits = bracket.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).ok_or((name, Problem::Frame))?;
    let length: usize = digits.parse().map_err(|_| (bracket, Problem::Length))?;
    let Some(id) = parse_id(name).ok_or((name, Problem::Identifier))? else { return Ok(Content::Error) };
    let remote = words.0.trim_start();
    if remote.starts_with("remote request") {
        return Ok(Content::Remote(id));
    }
    let fd = digits.len() == 2;
    if length > if fd { 64 } else { 8 } {
        return Err((bracket, Problem::TooLong));
    }
    let mut data = Vec::with_capacity(length);
    for _ in 0..length {
        let word = words.next().ok_or((bracket, Problem::Count))?;
        let byte = Some(word).filter(|word| word.len() == 2).and_then(|word| u8::from_str_radix(word, 16).ok());
        data.push(byte.ok_or((word, Problem::Data))?);
    }
    // `candump -a` adds the bytes as characters.
    let after = words.0.trim_start();
    if !after.is_empty() && !after.starts_with('\'') {
        let more = after.split_whitespace().next().is_some_and(|word| u8::from_str_radix(word, 16).is_ok());
        return Err((after, if more { Problem::Count } else { Problem::Trailing }));
    }
    let frame = if fd { Frame::fd(id, &data, false, 0) } else { Frame::classic(id, &data) };
    frame.map(Content::Data).ok_or((bracket, Problem::TooLong))
}

/// `1436509052.249713` as `candump -t a` has it, `2026-01-31 12:00:00.249713` as `-t A`.
fn parse_time(text: &str) -> Option<UnixMs> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    if let Some((date, time)) = whole.split_once(' ') {
        let begin = timestamp::parse(&format!("{date}T{time}Z"))?;
        return Some(UnixMs(begin.0 + millis));
    }
    let seconds = whole.parse::<i64>().ok().filter(|seconds| *seconds >= 0)?;
    Some(UnixMs(seconds.checked_mul(1000)?.checked_add(millis)?))
}

/// Three hexadecimal digits, or eight for 29 bits; `Some(None)` for that of an error frame.
#[allow(clippy::option_option, reason = "no identifier at all, and none of a frame's, are two things")]
fn parse_id(name: &str) -> Option<Option<CanId>> {
    let number = u32::from_str_radix(name, 16).ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    match name.len() {
        3 => CanId::standard(number).map(Some),
        8 if number & 0xE000_0000 == 0x2000_0000 => Some(None),
        8 => CanId::extended(number).map(Some),
        _ => None,
    }
}

/// `3E9#00002EE0`, `18FEF100##1AABB` (CAN FD), `123#R`; bytes may be set apart by points.
///
/// # Errors
/// What was expected, and where.
pub fn parse_frame(text: &str) -> Result<Content, CandumpError> {
    let fail = |at: usize, problem| CandumpError { column: at + 1, problem };
    let Some((name, rest)) = text.split_once('#') else { return Err(fail(text.len(), Problem::Separator)) };
    let after = name.len() + 1;
    let Some(id) = parse_id(name).ok_or_else(|| fail(0, Problem::Identifier))? else { return Ok(Content::Error) };
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

    fn data(line: &str) -> (Option<i64>, Option<String>, String) {
        let entry = parse_line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let Content::Data(frame) = entry.content else { panic!("{entry:?}") };
        (entry.at.map(|at| at.0), entry.interface, format_frame(&frame))
    }

    #[test]
    fn every_form_that_candump_writes_is_read() {
        let can0 = Some("can0".to_owned());
        let speed = "3E9#00002EE0".to_owned();
        let stamp = Some(1_436_509_052_249);
        for (line, at, interface) in [
            ("(1436509052.249713) can0 3E9#00002EE0", stamp, can0.clone()),
            ("(1436509052.249713) can0 3e9#00002ee0 R", stamp, can0.clone()),
            ("can0 3E9#00002EE0", None, can0.clone()),
            ("3E9#00.00.2E.E0\r", None, None),
            ("  can0  3E9   [4]  00 00 2E E0", None, can0.clone()),
            (" (1436509052.249713)  can0  3E9   [4]  00 00 2E E0   '....'", stamp, can0.clone()),
            (" (2015-07-10 06:17:32.249713)  can0  RX - -  3E9   [4]  00 00 2E E0", stamp, can0.clone()),
            ("3E9 [4] 00 00 2E E0", None, None),
        ] {
            assert_eq!(data(line), (at, interface, speed.clone()), "{line}");
        }
        assert_eq!(data(" (000.000000)  can0  18FEF100   [0] ").2, "18FEF100#");
        assert_eq!(data("  can0  TX B -  3E9  [08]  00 00 2E E0 00 00 00 00").2, "3E9##000002EE000000000");
        assert_eq!(data("3E9##100002EE0").2, "3E9##100002EE0");
        let remote = Content::Remote(CanId::standard(0x123).unwrap());
        assert_eq!(parse_line("(0.5) vcan0 123#R T").unwrap().content, remote);
        assert_eq!(parse_line("  can0  123   [2]  remote request").unwrap().content, remote);
        assert_eq!(parse_line("(1.0) can0 20000004#0004000000000000").unwrap().content, Content::Error);
        let error = "  can0  20000004   [8]  00 04 00 00 00 00 00 00   ERRORFRAME";
        assert_eq!(parse_line(error).unwrap().content, Content::Error);
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        let at = |line: &str| parse_line(line).map_err(|error| (error.column, error.problem));
        assert_eq!(at("(1.x) can0 3E9#00"), Err((1, Problem::Time)));
        assert_eq!(at("(1.0 can0 3E9#00"), Err((1, Problem::Time)));
        assert_eq!(at("(2026-13-31 12:00:00.1) can0 3E9#00"), Err((1, Problem::Time)));
        assert_eq!(at("(1.0)"), Err((6, Problem::Frame)));
        assert_eq!(at("(1.0) can0"), Err((11, Problem::Frame)));
        assert_eq!(at("(1.0) can0 3E9"), Err((12, Problem::Frame)));
        assert_eq!(at("(1.0) can0 3E#00"), Err((12, Problem::Identifier)));
        assert_eq!(at("(1.0) can0 FFF#00"), Err((12, Problem::Identifier)));
        assert_eq!(at("(1.0) can0 3E9#0"), Err((17, Problem::Data)));
        assert_eq!(at("(1.0) can0 3E9#0g"), Err((17, Problem::Data)));
        assert_eq!(at("(1.0) can0 3E9#112233445566778899"), Err((32, Problem::TooLong)));
        assert_eq!(at("(1.0) can0 3E9#00 x"), Err((19, Problem::Trailing)));
        assert_eq!(at("can0 3E9 [x] 00"), Err((10, Problem::Length)));
        assert_eq!(at("can0 3E9 [9] 00"), Err((10, Problem::TooLong)));
        assert_eq!(at("can0 3E9 [2] 00"), Err((10, Problem::Count)));
        assert_eq!(at("can0 3E9 [1] 00 01"), Err((17, Problem::Count)));
        assert_eq!(at("can0 3E9 [1] 0g"), Err((14, Problem::Data)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(raw in 0u32..=0x7FF, data in proptest::collection::vec(any::<u8>(), 0..=64), brs: bool) {
            let id = CanId::standard(raw).unwrap();
            let frame = if data.len() <= 8 { Frame::classic(id, &data).unwrap() } else { Frame::fd(id, &data, brs, 0).unwrap() };
            prop_assert_eq!(parse_frame(&format_frame(&frame)), Ok(Content::Data(frame)));
        }

        #[test]
        fn no_text_is_too_strange(line in "\\PC*", frame in "[0-9A-Fa-f]{0,9}#?#?[0-9A-FR._é]*", shown in "[(]?[0-9. -]*[)]? *(can0 |é)?[RTX]* *[0-9A-F]{0,9} *[\\[]?[0-9]{0,3}[\\]]?( [0-9A-Fé]{0,2})*") {
            let _ = parse_line(&line);
            let _ = parse_frame(&frame);
            let _ = parse_line(&shown);
        }
    }
}
