//! Reads one table by its [`TableDef`]: reports every key that is unknown, missing, of the wrong kind or out of range,
//! and answers with values that are right, or with their defaults.

use super::diagnostic::{Diagnostic, Place, Report};
use super::document::{Entries, Entry, Node, Value};
use super::keys::{Default, Key, Kind, TableDef};
use super::spell::did_you_mean;

/// Longer names are refused.
const NAME_BYTES_MAX: usize = 128;

/// A table whose keys were checked when it was opened.
#[derive(Clone)]
pub(super) struct Table<'a> {
    def: &'static TableDef,
    place: &'a Place,
    own: &'a Entries,
    /// Answers for keys that `own` does not have.
    base: Option<&'a Entries>,
}

impl<'a> Table<'a> {
    /// `None`, and reported, where it is no table.
    pub(super) fn open(node: &'a Node, def: &'static TableDef, report: &Report) -> Option<Self> {
        let Value::Table(own) = &node.value else {
            let found = format!("{} stands where {} belongs", node.kind(), def.title);
            report.push(Diagnostic::error(&node.place, found).expected("a table"));
            return None;
        };
        for (name, entry) in own {
            match def.key(name) {
                Some(key) => check(name, key, entry, report),
                None => report.push(unknown(name, entry, def)),
            }
        }
        for key in def.keys {
            if matches!(key.default, Default::Required) && !own.contains_key(key.name) {
                let missing = Diagnostic::error(&node.place, format!("`{}` is missing in {}", key.name, def.title));
                report.push(if key.example.is_empty() {
                    missing.help(format!("add `{}`: {}", key.name, key.doc))
                } else {
                    missing.help(format!("write, say, `{} = {}`", key.name, key.example))
                });
            }
        }
        Some(Self { def, place: &node.place, own, base: None })
    }

    /// This table's keys over those of `base`.
    pub(super) fn over(mut self, base: &Table<'a>) -> Self {
        self.base = Some(base.own);
        self
    }

    /// Where the table begins.
    pub(super) fn start(&self) -> &'a Place {
        self.place
    }

    /// Where the key's value stands, or the table where it has none.
    pub(super) fn place(&self, key: &str) -> &'a Place {
        self.node(key).map_or(self.place, |node| &node.place)
    }

    /// Where the key itself stands, or the table where it has none.
    pub(super) fn key_place(&self, key: &str) -> &'a Place {
        self.entry(key).map_or(self.place, |entry| &entry.key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Whether the key stands in this table itself, not in the one under it.
    pub(super) fn has_own(&self, key: &str) -> bool {
        self.own.contains_key(key)
    }

    /// Of the given keys those that are set.
    pub(super) fn set_of(&self, keys: &[&'static str]) -> Vec<&'static str> {
        keys.iter().copied().filter(|key| self.has(key)).collect()
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        debug_assert!(self.def.key(key).is_some(), "{} has no key `{key}`", self.def.title);
        self.own.get(key).or_else(|| self.base?.get(key))
    }

    /// The value as written, if it is one that the key takes.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        let kind = &self.def.key(key)?.kind;
        self.entry(key).map(|entry| &entry.node).filter(|node| mismatch(kind, node).is_none())
    }

    fn default(&self, key: &str) -> Default {
        self.def.key(key).map_or(Default::None, |key| key.default)
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        let fallback = if let Default::Text(text) = self.default(key) { Some(text) } else { None };
        self.node(key).and_then(Node::as_text).or(fallback)
    }

    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        let fallback = if let Default::Integer(number) = self.default(key) { Some(number) } else { None };
        self.node(key).and_then(Node::as_integer).or(fallback)
    }

    /// An integer as the type of the field that takes it; the key's range fits it, or the nearest it can hold.
    pub(super) fn unsigned<T: TryFrom<i64> + Bound>(&self, key: &str) -> T {
        let number = self.integer(key).unwrap_or(0).max(0);
        T::try_from(number).unwrap_or(T::MOST)
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        let fallback = if let Default::Number(number) = self.default(key) { Some(number) } else { None };
        self.node(key).and_then(Node::as_number).or(fallback)
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        let fallback = matches!(self.default(key), Default::Boolean(true));
        self.node(key).and_then(Node::as_boolean).unwrap_or(fallback)
    }

    /// The texts of a list, each with its place; those of the default stand where the table begins.
    pub(super) fn texts(&self, key: &str) -> Vec<(&'a str, &'a Place)> {
        // One wrong item is reported and does not hide the others.
        if let Some(items) = self.entry(key).and_then(|entry| entry.node.as_list()) {
            return items.iter().filter_map(|item| Some((item.as_text()?, &item.place))).collect();
        }
        let Default::Texts(texts) = self.default(key) else { return Vec::new() };
        texts.iter().map(|text| (*text, self.place)).collect()
    }

    pub(super) fn table(&self, key: &str, report: &Report) -> Option<Table<'a>> {
        let Kind::Table(def) = self.def.key(key)?.kind else { return None };
        Table::open(self.node(key)?, def, report)
    }

    pub(super) fn tables(&self, key: &str, report: &Report) -> Vec<Table<'a>> {
        let Some(Kind::Tables(def)) = self.def.key(key).map(|key| &key.kind) else { return Vec::new() };
        let items = self.entry(key).and_then(|entry| entry.node.as_list()).unwrap_or_default();
        items
            .iter()
            .filter(|item| item.as_table().is_some())
            .filter_map(|item| Table::open(item, def, report))
            .collect()
    }
}

/// The greatest value of an integer type.
pub(super) trait Bound {
    const MOST: Self;
}

macro_rules! bound {
    ($($type:ty)*) => { $(impl Bound for $type { const MOST: Self = <$type>::MAX; })* };
}
bound!(u8 u16 u32 u64 usize);

fn check(name: &str, key: &Key, entry: &Entry, report: &Report) {
    if let Kind::Refused(wrong, mend) = key.kind {
        let is_table = matches!(entry.node.value, Value::Table(_) | Value::List(_));
        let place = if is_table { &entry.node.place } else { &entry.key };
        report.error(place, wrong, mend);
        return;
    }
    let Some((node, found, expected)) = mismatch(&key.kind, &entry.node) else { return };
    let wrong = Diagnostic::error(&node.place, format!("`{name}` {found}")).expected(expected);
    report.push(if key.example.is_empty() {
        wrong
    } else {
        wrong.help(format!("write, say, `{name} = {}` instead", key.example))
    });
}

fn unknown(name: &str, entry: &Entry, def: &TableDef) -> Diagnostic {
    if name == "password" {
        return Diagnostic::error(&entry.key, "a password never stands in a file")
            .help("remove it: an uplink has `password_file`, a user of the broker `password_hash`");
    }
    let guess = did_you_mean(name, def.allowed());
    let allowed: Vec<_> = def.allowed().collect();
    Diagnostic::error(&entry.key, format!("`{name}` is no key of {}{guess}", def.title))
        .expected(format!("one of {}", allowed.join(", ")))
}

/// What does not fit: the node, what was found ("is …"), what was expected.
fn mismatch<'n>(kind: &Kind, node: &'n Node) -> Option<(&'n Node, String, String)> {
    let wrong = |expected: &str| Some((node, format!("is {}", node.kind()), expected.to_owned()));
    match (kind, &node.value) {
        (Kind::Refused(..), _)
        | (Kind::Text, Value::Text(_))
        | (Kind::Boolean, Value::Boolean(_))
        | (Kind::Table(_), Value::Table(_))
        | (Kind::NumberOrBoolean | Kind::Scalar, Value::Boolean(_))
        | (Kind::Scalar, Value::Text(_)) => None,
        (Kind::Text, _) => wrong("a text in quotes"),
        (Kind::Boolean, _) => wrong("true or false, without quotes"),
        (Kind::Name, Value::Text(name)) => bad_name(name).map(|found| (node, found, name_expected())),
        (Kind::Name, _) => wrong("a text in quotes"),
        (Kind::Choice(choices), Value::Text(word)) => (!choices.contains(&word.as_str())).then(|| {
            let guess = did_you_mean(word, choices.iter().copied());
            (node, format!("is \"{word}\"{guess}"), format!("one of {}", choices.join(", ")))
        }),
        (Kind::Choice(choices), _) => wrong(&format!("one of {}, in quotes", choices.join(", "))),
        (Kind::Address(base), Value::Integer(Some(number))) => {
            let expected = || match number.checked_sub(*base) {
                Some(address @ 0..=65_535) => {
                    format!("the protocol's address, which counts from 0: {address} where a manual says {number}")
                }
                _ => range(0, 65_535),
            };
            (!(0..=65_535).contains(number)).then(|| (node, format!("is {number}"), expected()))
        }
        (Kind::Address(_), _) => wrong(&range(0, 65_535)),
        (Kind::Integer(least, most), Value::Integer(number)) => {
            let inside = number.is_some_and(|number| (*least..=*most).contains(&number));
            let found = number.map_or_else(|| "does not fit 64 bits".to_owned(), |number| format!("is {number}"));
            (!inside).then(|| (node, found, range(*least, *most)))
        }
        (Kind::Integer(least, most), _) => wrong(&range(*least, *most)),
        (Kind::Number | Kind::NumberOrBoolean | Kind::Scalar, Value::Integer(Some(_))) => None,
        (Kind::Number | Kind::NumberOrBoolean | Kind::Scalar, Value::Float(number)) if number.is_finite() => None,
        (Kind::Number | Kind::NumberOrBoolean | Kind::Scalar, Value::Float(number)) => {
            Some((node, format!("is {number}"), "a finite number".to_owned()))
        }
        (Kind::Number, _) => wrong("a finite number, without quotes"),
        (Kind::NumberOrBoolean, _) => wrong("a finite number, or true or false"),
        (Kind::Scalar, _) => wrong("a finite number, a text in quotes, or true or false"),
        (Kind::Deadband, _) => deadband(node).is_none().then(|| {
            (node, "cannot be read".to_owned(), "a number not below zero, or a text with a percentage".to_owned())
        }),
        (Kind::TextList, Value::List(items)) => odd_item(items, "texts in quotes", |item| item.as_text().is_some()),
        (Kind::Tables(_), Value::List(items)) => odd_item(items, "tables", |item| item.as_table().is_some()),
        (Kind::IntegerList(least, most), Value::List(items)) => odd_item(items, &range(*least, *most), |item| {
            item.as_integer().is_some_and(|number| (*least..=*most).contains(&number))
        }),
        (Kind::TextList, _) => wrong("a list of texts"),
        (Kind::IntegerList(..), _) => wrong("a list of integers"),
        (Kind::NameMap, Value::Table(names)) => names.iter().find_map(|(number, name)| {
            if number.parse::<i64>().is_err() {
                return Some((&name.node, format!("has the key `{number}`"), "integers as keys".to_owned()));
            }
            let is_text = matches!(name.node.value, Value::Text(_));
            (!is_text).then(|| (&name.node, format!("gives {number} {}", name.node.kind()), "a text".to_owned()))
        }),
        (Kind::Table(_) | Kind::NameMap, _) => wrong("a table"),
        (Kind::Tables(def), Value::Table(_)) => {
            Some((node, "is one table".to_owned(), format!("a list of tables, with double brackets: {}", def.title)))
        }
        (Kind::Tables(_), _) => wrong("a list of tables"),
    }
}

/// The first item that does not fit, as [`mismatch`] tells it.
fn odd_item<'n>(items: &'n [Node], expected: &str, fits: impl Fn(&Node) -> bool) -> Option<(&'n Node, String, String)> {
    let odd = items.iter().find(|item| !fits(item))?;
    let found = odd.as_integer().map_or_else(|| odd.kind().to_owned(), |number| number.to_string());
    Some((odd, format!("holds {found}"), expected.to_owned()))
}

/// A deadband's number, and whether it is a percentage.
pub(super) fn deadband(node: &Node) -> Option<(f64, bool)> {
    let (number, percent) = match node.as_text() {
        Some(text) => (text.trim().strip_suffix('%')?.trim().parse().ok()?, true),
        None => (node.as_number()?, false),
    };
    (number >= 0.0 && f64::is_finite(number)).then_some((number, percent))
}

fn bad_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("is {} bytes long", name.len()));
    }
    let odd = name.chars().find(|c| matches!(c, '/' | '+' | '#' | '{' | '}') || c.is_control())?;
    Some(format!("has {odd:?} in it"))
}

fn name_expected() -> String {
    format!("1 to {NAME_BYTES_MAX} bytes without / + # {{ }} and control characters")
}

fn range(least: i64, most: i64) -> String {
    if most == i64::MAX {
        format!("an integer of at least {least}")
    } else {
        format!("an integer from {least} to {most}")
    }
}
