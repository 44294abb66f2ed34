//! `[[modbus.device.point]]`: what is read, and what is published of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::names::check_topic;
use super::numbers::{data_type, integer_bits, kind, raw_integer};
use super::write::write;
use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::document::Node;
use crate::config::reader::{Table, deadband};
use crate::config::template;
use crate::mapping::rule::{Deadband, Kind, PayloadForm, PointRule, Report, WriteRule};
use crate::message::Qos;
use crate::modbus::spec::{self, ByteOrder, DataType, PointSpec, WriteSpec};
use crate::sample::{BitRange, Value};

pub(super) const ADDRESSES: [&str; 4] = ["coil", "discrete", "input", "holding"];

/// Where a point lives.
#[derive(Clone, Copy)]
pub(super) struct Scope<'s> {
    /// Place in `BusSpec::devices`.
    pub(super) device: usize,
    pub(super) device_name: &'s Arc<str>,
    pub(super) bus: &'s str,
    /// `None`: it was wrong, and reported.
    pub(super) template: Option<&'s str>,
    pub(super) interval_ms: u64,
    pub(super) max_registers: u16,
    /// The address is a profile's: its author knew how the device counts, so nothing is guessed from the number.
    pub(super) from_profile: bool,
}

/// What a point reads, checked.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) table: spec::Table,
    pub(super) data: DataType,
    pub(super) bits: Option<BitRange>,
    pub(super) kind: Kind,
    pub(super) scale: f64,
    pub(super) offset: f64,
}

/// `place` is what messages about its topic name. `None`: what it reads is not known, and that is reported.
pub(super) fn point(
    table: &Table<'_>,
    place: &Place,
    scope: &Scope<'_>,
    cx: &Context<'_>,
) -> Option<(PointSpec, PointRule)> {
    let address = address(table, cx);
    let (source, address) = match address {
        Some((memory, address)) => (source(table, memory, scope, cx), address),
        None => (None, 0),
    };
    if let Some(source) = &source {
        check_address(table, source, address, scope, cx);
        check_meaning(table, source, cx);
    }
    check_report(table, true, cx);
    let write = source.and_then(|source| write(table, &source, cx));
    let name = table.text("name")?;
    let topic = topic(name, write.is_some(), place, scope, cx);
    let source = source?;
    let not_available = not_available(table, source.data, cx);
    let interval = table.integer("interval_ms").and_then(|ms| u64::try_from(ms).ok()).unwrap_or(scope.interval_ms);
    let spec = PointSpec {
        name: name.into(),
        device: scope.device,
        table: source.table,
        address,
        data: source.data,
        order: order(table),
        bits: source.bits,
        interval: Duration::from_millis(interval.max(1)),
        write: write.as_ref().map(|(spec, _)| *spec),
    };
    Some((spec, PointRule { not_available, ..rule(table, &source, topic, scope, write) }))
}

fn rule(
    table: &Table<'_>,
    source: &Source,
    topic: Arc<str>,
    scope: &Scope<'_>,
    write: Option<(WriteSpec, WriteRule)>,
) -> PointRule {
    let ms = |key| table.integer(key).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    PointRule {
        map_raw: false,
        device: scope.device_name.clone(),
        point: table.text("name").unwrap_or_default().into(),
        topic,
        kind: source.kind,
        bits: source.bits,
        not_available: None,
        scale: source.scale,
        offset: source.offset,
        decimals: table.integer("decimals").and_then(|digits| u8::try_from(digits).ok()),
        unit: table.text("unit").map(Arc::from),
        map: names(table),
        report: if table.text("report") == Some("change") { Report::Change } else { Report::Always },
        deadband: table
            .node("deadband")
            .and_then(deadband)
            .map(|(size, percent)| if percent { Deadband::Percent(size) } else { Deadband::Absolute(size) }),
        heartbeat: ms("heartbeat_ms"),
        min_interval: ms("min_interval_ms").unwrap_or_default(),
        qos: Qos::try_from(table.unsigned::<u8>("qos")).unwrap_or_default(),
        retain: table.flag("retain"),
        payload: if table.text("payload") == Some("value") { PayloadForm::Value } else { PayloadForm::Json },
        write: write.map(|(_, rule)| rule),
    }
}

/// The one of the four tables that the keys name, and the address in it.
pub(super) fn address(table: &Table<'_>, cx: &Context<'_>) -> Option<(spec::Table, u16)> {
    let set = table.set_of(&ADDRESSES);
    let &[key] = set.as_slice() else {
        let (place, found) = match set.get(1) {
            Some(second) => (table.key_place(second), format!("`{}` stand together", set.join("` and `"))),
            None => (table.start(), "there is no address".to_owned()),
        };
        cx.report.push(
            Diagnostic::error(place, found)
                .expected(format!("exactly one of {}", ADDRESSES.join(", ")))
                .help("write, say, `holding = 0` for the register that manuals call 40001"),
        );
        return None;
    };
    let memory = match key {
        "coil" => spec::Table::Coil,
        "discrete" => spec::Table::Discrete,
        "input" => spec::Table::Input,
        _ => spec::Table::Holding,
    };
    Some((memory, u16::try_from(table.integer(key)?).ok()?))
}

fn key_of(memory: spec::Table) -> &'static str {
    match memory {
        spec::Table::Coil => "coil",
        spec::Table::Discrete => "discrete",
        spec::Table::Input => "input",
        spec::Table::Holding => "holding",
    }
}

fn source(table: &Table<'_>, memory: spec::Table, scope: &Scope<'_>, cx: &Context<'_>) -> Option<Source> {
    let is_bit = matches!(memory, spec::Table::Coil | spec::Table::Discrete);
    let key = key_of(memory);
    let name = match table.text("type") {
        Some(name) if is_bit && name != "bool" => {
            let found = format!("a {key} has no `type = \"{name}\"`: it is one bit");
            cx.report.error(table.place("type"), found, "write `type = \"bool\"`, or remove it");
            return None;
        }
        Some(name) => name,
        // A wrong one is reported, and what follows from it would mislead.
        None if table.has("type") => return None,
        None if is_bit => "bool",
        None => "u16",
    };
    let length = table.integer("length").and_then(|length| u16::try_from(length).ok());
    if name == "string" && length.is_none() {
        if !table.has("length") {
            let found = "`type = \"string\"` needs `length`";
            cx.report.error(table.place("type"), found, "add `length`, its registers: two characters each");
        }
        return None;
    }
    if name != "string" && table.has("length") {
        let found = format!("`length` belongs to strings: the type {name} has its own");
        cx.report.error(table.key_place("length"), found, "remove it, or write `type = \"string\"`");
    }
    let data = data_type(name, length.unwrap_or(1));
    if !is_bit && data.registers() > scope.max_registers {
        let found = format!(
            "this point has {} registers, and one request asks for at most {}",
            data.registers(),
            scope.max_registers
        );
        cx.report.error(table.start(), found, "write a larger `max_registers` at the device");
    }
    let bits = bits(table, data, name, cx);
    let (scale, offset) = (table.number("scale").unwrap_or(1.0), table.number("offset").unwrap_or(0.0));
    if scale == 0.0 {
        cx.report.error(
            table.place("scale"),
            "`scale` is 0: every value would be the same",
            "write, say, `scale = 0.1`",
        );
    }
    Some(Source { table: memory, data, bits, kind: kind(data, bits), scale, offset })
}

fn check_address(table: &Table<'_>, source: &Source, address: u16, scope: &Scope<'_>, cx: &Context<'_>) {
    let key = key_of(source.table);
    let place = table.place(key);
    let bases: u16 = match source.table {
        spec::Table::Coil => return,
        spec::Table::Discrete => 10_001,
        spec::Table::Input => 30_001,
        spec::Table::Holding => 40_001,
    };
    let last = u32::from(address) + u32::from(source.data.registers()) - 1;
    if last > 65_535 {
        let found = format!("`{key} = {address}` with {} registers ends past 65535", source.data.registers());
        cx.report.error(place, found, "correct the address or the type");
    } else if !scope.from_profile && (bases..bases.saturating_add(9_999)).contains(&address) {
        let found = format!(
            "`{key} = {address}` looks like a manual's numbering, which counts from {bases}; the protocol's addresses count from 0"
        );
        let help = format!("if the manual says {address}, write `{key} = {}` instead", address - bases);
        cx.report.warning(place, found, help);
    }
}

fn bits(table: &Table<'_>, data: DataType, name: &str, cx: &Context<'_>) -> Option<BitRange> {
    let text = table.text("bits")?;
    let place = table.place("bits");
    let Some(width) = integer_bits(data) else {
        let found = format!("`bits` belongs to integers, and the type is {name}");
        cx.report.error(place, found, "write, say, `type = \"u16\"`, or remove `bits`");
        return None;
    };
    let number = |text: &str| text.trim().parse::<u8>().ok();
    let range = match text.split_once("..") {
        Some((low, high)) => number(low).zip(number(high)),
        None => number(text).map(|bit| (bit, bit)),
    };
    let field = range.filter(|(_, high)| *high < width).and_then(|(low, high)| BitRange::new(low, high));
    if field.is_none() {
        cx.report.push(
            Diagnostic::error(place, "`bits` is no bit field of this type")
                .expected(format!("LOW..HIGH with 0 <= LOW <= HIGH <= {}", width - 1))
                .help("write, say, `bits = \"0..3\"` instead"),
        );
    }
    field
}

fn not_available(table: &Table<'_>, data: DataType, cx: &Context<'_>) -> Option<Value> {
    let number = table.integer("not_available")?;
    let place = table.place("not_available");
    let Some(width) = integer_bits(data) else {
        let found = "`not_available` belongs to integers; a float says it by NaN";
        cx.report.error(place, found, "write, say, `type = \"i16\"`, or remove it");
        return None;
    };
    let value = raw_integer(data, number);
    if value.is_none() {
        cx.report.push(
            Diagnostic::error(place, format!("`not_available` is {number}, which {width} bits never hold"))
                .help("write it as the manual does, say `0x8000` for an i16; all bits set may be written `-1`"),
        );
    }
    value
}

/// Keys that have no meaning for what the point reads.
fn check_meaning(table: &Table<'_>, source: &Source, cx: &Context<'_>) {
    let what = match source.kind {
        Kind::Bool => "a bool",
        Kind::Text { .. } => "a string",
        Kind::Integer { .. } | Kind::F32 | Kind::F64 => "",
    };
    if !what.is_empty() {
        for key in table.set_of(&["scale", "offset", "decimals", "deadband"]) {
            let found = format!("`{key}` belongs to numbers, and this point is {what}");
            cx.report.error(table.key_place(key), found, "remove it, or write another `type`");
        }
    }
    if table.has("map") && !matches!(source.kind, Kind::Bool | Kind::Integer { .. }) {
        let found = "`map` belongs to integers and bools";
        cx.report.error(table.key_place("map"), found, "remove it, or write another `type`");
    } else if let Kind::Integer { min, max } = source.kind {
        let outside = names(table).keys().copied().find(|number| !(min..=max).contains(&i128::from(*number)));
        // Names are for the published number; where scale and offset leave it as it is, the type bounds it.
        if let (Some(number), true) = (outside, source.scale == 1.0 && source.offset == 0.0) {
            let found = format!("`map` names {number}, which this type never holds");
            cx.report.warning(table.place("map"), found, format!("names for {min} to {max} can be used"));
        }
    }
    let one_register = source.data.registers() == 1;
    if table.text("order") == Some("cdab") && one_register {
        let found = "`order = \"cdab\"` swaps words, and this point has one";
        cx.report.warning(table.place("order"), found, "remove it, or correct `type`");
    }
}

/// Keys of the reporting that contradict each other.
pub(super) fn check_report(table: &Table<'_>, polled: bool, cx: &Context<'_>) {
    // A deadband alone says the same as `report = "change"`, and what is heard on a CAN bus may fall silent.
    let every_poll = table.text("report") != Some("change") && !table.has("deadband") && polled;
    if every_poll && table.has("heartbeat_ms") {
        let found = "`heartbeat_ms` has no effect: every poll is published";
        cx.report.warning(table.key_place("heartbeat_ms"), found, "add `report = \"change\"`, or remove it");
    }
    if let (Some(heartbeat), Some(least)) = (table.integer("heartbeat_ms"), table.integer("min_interval_ms"))
        && heartbeat < least
    {
        let found = "`heartbeat_ms` is shorter than `min_interval_ms`";
        cx.report.error(table.place("heartbeat_ms"), found, format!("write at least `heartbeat_ms = {least}`"));
    }
}

fn topic(name: &str, writable: bool, place: &Place, scope: &Scope<'_>, cx: &Context<'_>) -> Arc<str> {
    let values = [("gateway", &*cx.gateway_id), ("bus", scope.bus), ("device", &**scope.device_name), ("point", name)];
    let topic = scope.template.and_then(|template| template::expand(template, &values).ok());
    match topic {
        Some(topic) if check_topic(&topic, &cx.gateway_id, place, &cx.report) => {
            cx.topics.claim(&topic, writable, place, &cx.report);
            topic.into()
        }
        _ => Arc::default(),
    }
}

pub(super) fn names(table: &Table<'_>) -> BTreeMap<i64, Arc<str>> {
    let Some(names) = table.node("map").and_then(Node::as_table) else { return BTreeMap::new() };
    names.iter().filter_map(|(number, entry)| Some((number.parse().ok()?, Arc::from(entry.node.as_text()?)))).collect()
}

fn order(table: &Table<'_>) -> ByteOrder {
    match table.text("order") {
        Some("cdab") => ByteOrder::Cdab,
        Some("badc") => ByteOrder::Badc,
        Some("dcba") => ByteOrder::Dcba,
        _ => ByteOrder::Abcd,
    }
}
