//! A TOML file as a tree in which every key and value knows its place, and all its syntax errors at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Place, Report};

/// A larger file is refused before it is parsed.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;
/// The parser bounds nested arrays and inline tables, so that recursion over them ends; a dotted key's length it
/// does not, and inline tables may stand one in the other's dotted key, 80 deep.
const DOTS_IN_A_LINE_MAX: usize = 100;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// `None`: it does not fit 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime,
    List(Vec<Node>),
    Table(Entries),
}

pub(super) type Entries = BTreeMap<String, Entry>;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Place,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        if let Value::Integer(number) = self.value { number } else { None }
    }

    /// An integer or a number with a fraction.
    pub(super) fn as_number(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "a limit or factor over 2^53 is rounded, as in every float")]
        let widened = self.as_integer().map(|number| number as f64);
        if let Value::Float(number) = self.value { Some(number) } else { widened }
    }

    pub(super) fn as_boolean(&self) -> Option<bool> {
        if let Value::Boolean(flag) = self.value { Some(flag) } else { None }
    }

    pub(super) fn as_list(&self) -> Option<&[Node]> {
        if let Value::List(items) = &self.value { Some(items) } else { None }
    }

    pub(super) fn as_table(&self) -> Option<&Entries> {
        if let Value::Table(entries) = &self.value { Some(entries) } else { None }
    }

    /// What it is, for a message that says what was found.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a text",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// The file's root table; `None` after a syntax error or a byte that is no UTF-8, which the report then has.
pub(super) fn parse_bytes(file: &Arc<str>, bytes: &[u8], report: &Report) -> Option<Node> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(file, text, report),
        Err(error) => {
            let before = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
            let place = Lines::new(file, &before).place(&(before.len()..before.len()));
            let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
            let found = format!("the byte 0x{byte:02X} here is no UTF-8 text");
            report.error(&place, found, "write the letter again, and have the editor save the file as UTF-8");
            None
        }
    }
}

/// The file's root table; `None` after a syntax error, which the report then has.
pub(super) fn parse(file: &Arc<str>, text: &str, report: &Report) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(line) = text.lines().position(has_too_many_dots) {
        let place = Place { file: file.clone(), line: count(line + 1), column: 1 };
        report.error(&place, "this line has more dots than any key needs", "split the line");
        return None;
    }
    let lines = Lines::new(file, text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let entries = lines.entries(root.into_inner());
        return Some(Node { place: Place::start_of(file), value: Value::Table(entries) });
    }
    // The first error of a line is the cause; the parser's recovery makes the others.
    let mut seen = BTreeSet::new();
    for error in errors {
        let place = error.span().map_or_else(|| Place::start_of(file), |span| lines.place(&span));
        if seen.insert(place.line) {
            report.push(syntax_error(&place, error.message()));
        }
    }
    None
}

/// The parser's words in the form of every other message.
fn syntax_error(place: &Place, message: &str) -> Diagnostic {
    let (found, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let wrong = Diagnostic::error(place, format!("not TOML: {found}"));
    match (found, expected) {
        ("duplicate key", _) => wrong.help("remove one of the two, or write `[[…]]` for a list of tables"),
        ("invalid boolean" | "string values must be quoted", _) => {
            wrong.expected("a number, true, false, or a text in quotes").help("write, say, `key = \"text\"` instead")
        }
        (_, "" | "nothing") => wrong.help("correct the line; texts stand in quotes, numbers and true or false do not"),
        _ => wrong.expected(expected),
    }
}

fn has_too_many_dots(line: &str) -> bool {
    !line.trim_start().starts_with('#') && line.matches('.').count() > DOTS_IN_A_LINE_MAX
}

struct Lines<'t> {
    file: &'t Arc<str>,
    text: &'t str,
    /// Byte offsets of the first character of each line.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(file: &'t Arc<str>, text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, starts }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let line = self.starts.partition_point(|start| *start <= span.start).saturating_sub(1);
        let start = self.starts.get(line).copied().unwrap_or(0);
        let column = self.text.get(start..span.start).map_or(0, |before| before.chars().count());
        Place { file: self.file.clone(), line: count(line + 1), column: count(column + 1) }
    }

    fn entries(&self, table: DeTable<'_>) -> Entries {
        table
            .into_iter()
            .map(|(key, value)| {
                let place = self.place(&key.span());
                (key.into_inner().into_owned(), Entry { key: place, node: self.node(value) })
            })
            .collect()
    }

    fn node(&self, value: Spanned<DeValue<'_>>) -> Node {
        let mut place = self.place(&value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(digits) => Value::Integer(i64::from_str_radix(digits.as_str(), digits.radix()).ok()),
            DeValue::Float(digits) => Value::Float(digits.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Value::Boolean(flag),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => {
                let items: Vec<Node> = items.into_iter().map(|item| self.node(item)).collect();
                // An array of tables has no bracket of its own: it begins with its first table.
                if let Some(Node { place: first, value: Value::Table(_) }) = items.first() {
                    place = first.clone();
                }
                Value::List(items)
            }
            DeValue::Table(table) => Value::Table(self.entries(table)),
        };
        Node { place, value }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
