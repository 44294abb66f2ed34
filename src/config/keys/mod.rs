//! Every key of every file as data: its kind, range, default and one line of explanation. The reader refuses by
//! these tables and fills in their defaults, and the JSON Schema is printed from them, so that the two cannot differ.

mod can;
mod gateway;
mod mapping;

pub(super) use gateway::*;
pub(super) use mapping::*;

/// One table of a file.
pub(super) struct TableDef {
    /// As it stands in the file: `[[modbus.device]]`.
    pub(super) title: &'static str,
    pub(super) keys: &'static [Key],
}

pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Default,
    pub(super) doc: &'static str,
    /// A right value as TOML, for "write … instead".
    pub(super) example: &'static str,
}

pub(super) enum Kind {
    Text,
    /// Not empty, at most 128 bytes, and nothing in it that means something in a topic: `/ + # { }`, control characters.
    Name,
    Choice(&'static [&'static str]),
    /// Both ends included.
    Integer(i64, i64),
    /// 0 to 65535; manuals with six digits count from this number.
    Address(i64),
    /// Finite, with or without a fraction.
    Number,
    Boolean,
    TextList,
    IntegerList(i64, i64),
    /// A number not below zero, or `"N%"`.
    Deadband,
    /// `true`, `false` or a number.
    NumberOrBoolean,
    /// A table whose keys are integers and whose values are texts.
    NameMap,
    /// A number, a text, true or false.
    Scalar,
    Table(&'static TableDef),
    Tables(&'static TableDef),
    /// Known, and refused with these words: what is wrong, and what to do.
    Refused(&'static str, &'static str),
}

#[derive(Clone, Copy)]
pub(super) enum Default {
    Required,
    /// Left out: there is none, and the `doc` says what that means.
    None,
    /// Depends on other keys or on the machine.
    Said(&'static str),
    Text(&'static str),
    Integer(i64),
    Number(f64),
    Boolean(bool),
    Texts(&'static [&'static str]),
}

impl TableDef {
    pub(super) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The keys that may be written, for messages.
    pub(super) fn allowed(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().filter(|key| !matches!(key.kind, Kind::Refused(..))).map(|key| key.name)
    }
}

const fn key(name: &'static str, kind: Kind, default: Default, example: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, doc, example }
}

const fn refused(name: &'static str, wrong: &'static str, mend: &'static str) -> Key {
    Key { name, kind: Kind::Refused(wrong, mend), default: Default::None, doc: "", example: "" }
}

/// Milliseconds in a day: no interval is longer.
const DAY_MS: i64 = 86_400_000;
const U32_MAX: i64 = u32::MAX as i64;
