//! DBC files made ready to compile into points: names, layouts, multiplexing, value tables, units.

mod facts;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use can_dbc::{ByteOrder, Dbc, MessageId, MultiplexIndicator, Signal, SignalExtendedValueType, ValueType};
use thiserror::Error;

use self::facts::{Facts, Place};
use super::frame::{CanId, fd_length};
use super::j1939;
use super::signal::{BitOrder, Layout, LayoutError, Number};
use super::spec::{CommandSpec, FrameMatch, Selector, SignalSpec};

/// A message that holds the signals without one; not a frame.
const ORPHANS: &str = "VECTOR__INDEPENDENT_SIG_MSG";
/// A multiplexor under a multiplexor under … is followed so deep; a ring ends there too.
const SELECTORS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DbcError {
    /// The first line and column are 1.
    #[error("line {line}, column {column}: not a DBC file: {problem}")]
    Syntax { line: usize, column: usize, problem: String },
    #[error("not a DBC file: {0}")]
    File(String),
}

/// A message or signal that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// In the file, the first is 1.
    pub line: usize,
    pub message: String,
    /// `None`: the whole message.
    pub signal: Option<String>,
    pub reason: SkipReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SkipReason {
    #[error("identifier {0:#x} has more than 29 bits")]
    Identifier(u64),
    #[error(
        "identifier {0:#x} has more than 11 bits without bit 31, and another message has the same low 16 bits: \
         write it as {0} + 2147483648"
    )]
    Shared(u64),
    #[error("a message of {0} bytes is no CAN frame and no J1939 message")]
    Length(u64),
    #[error("{0}")]
    Layout(#[from] LayoutError),
    #[error("the signal needs {needs} bytes, and the message has {has}")]
    Beyond { needs: usize, has: usize },
    #[error("its multiplexor `{0}` is not a signal of the message, or depends on itself")]
    Multiplexor(String),
}

/// What a file says, as far as it makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    pub messages: Vec<DbcMessage>,
    /// Left out; to be told to a person who names one of them.
    pub skipped: Vec<Skipped>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DbcMessage {
    /// The long name where the file has one.
    pub name: String,
    /// The name in the `BO_` line.
    pub short_name: String,
    pub id: CanId,
    /// By parameter group where the file says J1939 (`VFrameFormat`), else by identifier.
    pub from: FrameMatch,
    /// Bytes.
    pub length: u16,
    /// Sent as a CAN FD frame.
    pub fd: bool,
    pub signals: Vec<DbcSignal>,
    pub line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DbcSignal {
    pub name: String,
    pub short_name: String,
    pub layout: Layout,
    /// value = raw * factor + offset.
    pub factor: f64,
    pub offset: f64,
    pub unit: Option<String>,
    /// Names for raw values.
    pub map: BTreeMap<i64, Arc<str>>,
    pub comment: Option<String>,
    /// The multiplexors that it stands under, the nearest first.
    pub when: Vec<Selector>,
    pub line: usize,
}

impl Database {
    /// By long or short name.
    pub fn message(&self, name: &str) -> Option<&DbcMessage> {
        self.messages.iter().find(|message| message.name == name || message.short_name == name)
    }
}

impl DbcMessage {
    /// By long or short name.
    pub fn signal(&self, name: &str) -> Option<&DbcSignal> {
        self.signals.iter().find(|signal| signal.name == name || signal.short_name == name)
    }

    /// The signal as something to hear; `source` only for a J1939 message.
    pub fn heard(&self, signal: &DbcSignal, source: Option<u8>) -> SignalSpec {
        let from = match self.from {
            FrameMatch::Pgn { pgn, .. } => FrameMatch::Pgn { pgn, source },
            FrameMatch::Id(id) => FrameMatch::Id(id),
        };
        SignalSpec { from, layout: signal.layout, when: signal.when.clone() }
    }

    /// The signal as something to set; `None` for a message that no single frame holds. Of several multiplexor values
    /// under which the signal stands the first is sent.
    pub fn commanded(&self, signal: &DbcSignal, cycle: Option<Duration>) -> Option<CommandSpec> {
        let length =
            u8::try_from(self.length).ok().filter(|length| fd_length(usize::from(*length)) == Some(*length))?;
        let selected = |selector: &Selector| Some((selector.layout, selector.ranges.first()?.0));
        Some(CommandSpec {
            frame: self.id,
            fd: self.fd,
            length,
            initial: if matches!(self.from, FrameMatch::Pgn { .. }) { 0xFF } else { 0 },
            layout: signal.layout,
            set: signal.when.iter().filter_map(selected).collect(),
            cycle,
        })
    }
}

/// Text that is not UTF-8 is taken as Windows-1252, in which the usual tools write.
pub fn parse(file: &[u8]) -> Result<Database, DbcError> {
    let text = std::str::from_utf8(file).map_or_else(|_| Cow::Owned(windows_1252(file)), Cow::Borrowed);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let dbc = Dbc::try_from(text).map_err(|error| syntax_error(&error))?;
    let facts = Facts::of(&dbc, text);
    let mut database = Database { messages: Vec::new(), skipped: Vec::new() };
    let mut seen = HashMap::new();
    for message in &dbc.messages {
        if message.name == ORPHANS {
            continue;
        }
        let nth = seen.entry(message.name.as_str()).or_insert(0usize);
        let place = facts.places.messages.get(&(message.name.as_str(), *nth)).copied().unwrap_or_default();
        *nth += 1;
        match compile(message, &facts, &place, &mut database.skipped) {
            Ok(compiled) => database.messages.push(compiled),
            Err(reason) => {
                database.skipped.push(Skipped { line: place.line, message: message.name.clone(), signal: None, reason })
            }
        }
    }
    Ok(database)
}

/// The WHATWG's table: Latin-1 but for the second 32 of its control characters. Every byte means something in it.
fn windows_1252(bytes: &[u8]) -> String {
    const FROM_80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', //
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    let letter = |byte: &u8| match byte {
        0x80..=0x9F => FROM_80[usize::from(byte - 0x80)],
        _ => char::from(*byte),
    };
    bytes.iter().map(letter).collect()
}

/// The parser's position stands in its text only: ` --> 3:5` in the first line.
fn syntax_error(error: &can_dbc::DbcError) -> DbcError {
    let text = error.to_string();
    let mut lines = text.lines();
    let position = lines.next().and_then(|first| first.trim().strip_prefix("--> ")).and_then(|at| at.split_once(':'));
    if let Some((line, column)) = position
        && let (Ok(line), Ok(column)) = (line.parse(), column.parse())
    {
        let problem = text.lines().last().unwrap_or_default().trim().trim_start_matches("= ").to_owned();
        return DbcError::Syntax { line, column, problem };
    }
    DbcError::File(text)
}

fn compile(
    message: &can_dbc::Message,
    facts: &Facts<'_>,
    place: &Place,
    skipped: &mut Vec<Skipped>,
) -> Result<DbcMessage, SkipReason> {
    let raw = place.id.unwrap_or(u64::from(message.id.raw()));
    let id = match message.id {
        MessageId::Extended(id) => CanId::extended(id),
        // Some tools leave out the bit that marks 29 bits; nothing else can be meant.
        MessageId::Standard(_) => {
            u32::try_from(raw).ok().and_then(|raw| CanId::standard(raw).or_else(|| CanId::extended(raw)))
        }
    }
    .ok_or(SkipReason::Identifier(raw))?;
    if facts.shared.contains(&message.id) {
        return Err(SkipReason::Shared(raw));
    }
    let format = facts.formats.get(&message.id).copied().or(facts.default_format).unwrap_or_default();
    let group = j1939::Header::of(id).filter(|_| format == "J1939PG").map(|header| header.pgn);
    let length =
        u16::try_from(message.size).ok().filter(|bytes| *bytes <= 1785).ok_or(SkipReason::Length(message.size))?;
    if group.is_none() && fd_length(usize::from(length)).is_none() {
        return Err(SkipReason::Length(message.size));
    }
    let mut compiled = DbcMessage {
        name: facts.message_names.get(&message.id).map_or(message.name.as_str(), |name| name).to_owned(),
        short_name: message.name.clone(),
        id,
        from: group.map_or(FrameMatch::Id(id), |pgn| FrameMatch::Pgn { pgn, source: None }),
        length,
        fd: format.ends_with("CAN_FD") || (group.is_none() && length > 8),
        signals: Vec::with_capacity(message.signals.len()),
        line: place.line,
    };
    for signal in &message.signals {
        let line = facts.places.signals.get(&(place.line, signal.name.as_str())).copied().unwrap_or(place.line);
        match compile_signal(message, signal, facts, line) {
            Ok(signal) => compiled.signals.push(signal),
            Err(reason) => {
                skipped.push(Skipped { line, message: message.name.clone(), signal: Some(signal.name.clone()), reason })
            }
        }
    }
    Ok(compiled)
}

fn layout(message: &can_dbc::Message, signal: &Signal, facts: &Facts<'_>) -> Result<Layout, SkipReason> {
    let number = match (facts.floats.get(&(message.id, signal.name.as_str())), signal.value_type) {
        (Some(SignalExtendedValueType::IEEEfloat32Bit), _) => Number::F32,
        (Some(SignalExtendedValueType::IEEEdouble64bit), _) => Number::F64,
        (Some(SignalExtendedValueType::SignedOrUnsignedInteger) | None, ValueType::Signed) => Number::Signed,
        (Some(SignalExtendedValueType::SignedOrUnsignedInteger) | None, ValueType::Unsigned) => Number::Unsigned,
    };
    let order = match signal.byte_order {
        ByteOrder::LittleEndian => BitOrder::Little,
        ByteOrder::BigEndian => BitOrder::Big,
    };
    let layout = Layout::new(signal.start_bit, signal.size, order, number)?;
    let has = usize::try_from(message.size).unwrap_or(usize::MAX);
    let needs = layout.bytes_needed();
    if needs > has { Err(SkipReason::Beyond { needs, has }) } else { Ok(layout) }
}

fn compile_signal(
    message: &can_dbc::Message,
    signal: &Signal,
    facts: &Facts<'_>,
    line: usize,
) -> Result<DbcSignal, SkipReason> {
    let key = (message.id, signal.name.as_str());
    let table = facts.tables.get(&key).copied().unwrap_or_default();
    Ok(DbcSignal {
        name: facts.signal_names.get(&key).map_or(signal.name.as_str(), |name| name).to_owned(),
        short_name: signal.name.clone(),
        layout: layout(message, signal, facts)?,
        factor: signal.factor,
        offset: signal.offset,
        unit: (!signal.unit.is_empty()).then(|| signal.unit.clone()),
        map: table.iter().map(|entry| (entry.id, entry.description.as_str().into())).collect(),
        comment: facts.comments.get(&key).map(|comment| (*comment).to_owned()),
        when: selectors(message, signal, facts)?,
        line,
    })
}

/// The multiplexors above a signal: by `SG_MUL_VAL_` where the file has it, else by the message's one `M`.
fn selectors(message: &can_dbc::Message, signal: &Signal, facts: &Facts<'_>) -> Result<Vec<Selector>, SkipReason> {
    let mut found = Vec::new();
    let mut current = signal;
    loop {
        // Some tools write a multiplexor under another as a plain `M`, and say by `SG_MUL_VAL_` alone where it belongs.
        let extended = facts.extended.get(&(message.id, current.name.as_str()));
        let (parent, ranges) = match (extended, current.multiplexer_indicator) {
            (Some(entry), _) => (
                message.signals.iter().find(|other| other.name == entry.multiplexor_signal_name),
                entry.mappings.iter().map(|range| (range.min_value, range.max_value)).collect(),
            ),
            (
                None,
                MultiplexIndicator::MultiplexedSignal(own) | MultiplexIndicator::MultiplexorAndMultiplexedSignal(own),
            ) => (
                message.signals.iter().find(|other| other.multiplexer_indicator == MultiplexIndicator::Multiplexor),
                vec![(own, own)],
            ),
            (None, MultiplexIndicator::Multiplexor | MultiplexIndicator::Plain) => return Ok(found),
        };
        let Some(parent) = parent.filter(|_| found.len() < SELECTORS_MAX) else {
            let name = extended.map_or("M", |entry| &entry.multiplexor_signal_name);
            return Err(SkipReason::Multiplexor(name.to_owned()));
        };
        found.push(Selector { layout: layout(message, parent, facts)?, ranges });
        current = parent;
    }
}

#[cfg(test)]
mod tests;
