//! `[[can]]`: an interface, what is heard on it, asked for, and set.

mod request;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::access::fill;
use super::names::{NameOf, check_topic};
use super::point::{check_report, names};
use super::write::{Scaled, limits};
use crate::can::spec::{
    BitOrder, BusSpec, CanId, CanPoint, CommandSpec, Database, DbcMessage, DbcSignal, FrameMatch, J1939_BYTES_MAX,
    Layout, Number, SignalSpec, Source, fd_length, is_addressed, parse_dbc,
};
use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::plan::{BusPlan, DriverSpec};
use crate::config::reader::{Table, deadband};
use crate::config::spell::did_you_mean;
use crate::mapping::rule::{Deadband, Kind, PayloadForm, PointRule, Report, WriteRule};
use crate::message::Qos;

/// `IFNAMSIZ` less the NUL at the end.
const INTERFACE_BYTES_MAX: usize = 15;

/// A bus while its points are compiled.
struct Bus<'b> {
    name: &'b str,
    topic: Option<&'b str>,
    /// `None`: none was named, or it was wrong, and reported.
    dbc: Option<Database>,
    has_dbc: bool,
    fd: bool,
    points: Vec<CanPoint>,
    rules: Vec<PointRule>,
}

/// What a point is, whichever table it stands in.
struct Meaning<'m> {
    name: &'m str,
    kind: Kind,
    /// Of the DBC file, where the point is from there.
    dbc: Option<&'m DbcSignal>,
}

pub(super) fn bus(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<BusPlan> {
    let name = table.text("name");
    if let Some(name) = name {
        cx.names.claim(NameOf::Bus, name, table.place("name"), &cx.report);
    }
    let mut bus = Bus {
        name: name.unwrap_or_default(),
        topic: topic_template(table, name.unwrap_or_default(), cx),
        dbc: database(table, file, cx),
        has_dbc: table.has("dbc"),
        fd: table.flag("fd"),
        points: Vec::new(),
        rules: Vec::new(),
    };
    for signal in table.tables("signal", &cx.report) {
        heard(&signal, &mut bus, cx);
    }
    for request in table.tables("request", &cx.report) {
        request::asked(&request, &mut bus, cx);
    }
    for command in table.tables("command", &cx.report) {
        commanded(&command, &mut bus, cx);
    }
    if bus.topic.is_none() || (bus.has_dbc && bus.dbc.is_none()) {
        cx.incomplete.set(true);
    }
    let interface = table.text("interface")?.to_owned();
    if interface.len() > INTERFACE_BYTES_MAX
        || interface.contains(|letter: char| letter == '/' || letter.is_whitespace())
    {
        let found = format!("`interface` is {interface:?}, which no interface can be named");
        let expected = "a name as `ip link` shows it: 1 to 15 characters without `/` and blanks";
        cx.report.push(Diagnostic::error(table.place("interface"), found).expected(expected));
    }
    let spec = BusSpec { name: name?.into(), interface, fd: table.flag("fd"), points: bus.points };
    Some(BusPlan { driver: DriverSpec::Can(spec), rules: bus.rules })
}

fn topic_template<'t>(table: &Table<'t>, bus: &str, cx: &Context<'_>) -> Option<&'t str> {
    let template = table.text("topic")?;
    let place = table.place("topic");
    let topic = fill(template, &[("gateway", &*cx.gateway_id), ("bus", bus), ("signal", "signal")], place, cx)?;
    check_topic(&topic, &cx.gateway_id, place, &cx.report).then_some(template)
}

fn database(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<Database> {
    let path = cx.beside(file, table.text("dbc")?);
    let place = table.place("dbc");
    let parsed = match cx.files.read_bytes(&path) {
        Ok(bytes) => parse_dbc(&bytes).map_err(|error| error.to_string()),
        Err(error) => Err(format!("it cannot be read: {error}")),
    };
    parsed
        .map_err(|error| {
            let found = format!("`dbc` names {}: {error}", path.display());
            cx.report.error(place, found, "correct the path, or the file at that line");
        })
        .ok()
}

/// The message of the DBC file that the table names, and the signals.
fn from_dbc<'d>(table: &Table<'_>, bus: &'d Bus<'_>, cx: &Context<'_>) -> Option<(&'d DbcMessage, Vec<&'d DbcSignal>)> {
    let name = table.text("message")?;
    if !bus.has_dbc {
        cx.report.error(table.key_place("message"), "`message` stands at a bus without `dbc`", "add `dbc` to the bus");
    }
    let database = bus.dbc.as_ref()?;
    let Some(message) = database.message(name) else {
        let guess = did_you_mean(name, database.messages.iter().map(|message| message.name.as_str()));
        let why = left_out(database, name, None);
        cx.report.error(
            table.place("message"),
            format!("no message `{name}`{guess}{why}"),
            "write one of the DBC file's",
        );
        return None;
    };
    let Some(signal) = table.text("signal") else {
        cx.report.error(
            table.start(),
            "`message` stands without `signal`",
            "add `signal`, or `signal = \"*\"` for all",
        );
        return None;
    };
    if signal == "*" {
        return Some((message, message.signals.iter().collect()));
    }
    let found = message.signal(signal);
    if found.is_none() {
        let guess = did_you_mean(signal, message.signals.iter().map(|signal| signal.name.as_str()));
        let why = left_out(database, &message.short_name, Some(signal));
        cx.report.error(
            table.place("signal"),
            format!("no signal `{signal}` in `{name}`{guess}{why}"),
            "write one of the message's",
        );
    }
    Some((message, vec![found?]))
}

/// Why the file's own entry of that name cannot be used, or nothing.
fn left_out(database: &Database, message: &str, signal: Option<&str>) -> String {
    let skipped = database.skipped.iter().find(|skip| skip.message == message && skip.signal.as_deref() == signal);
    skipped.map_or_else(String::new, |skip| format!(": line {} of the DBC file: {}", skip.line, skip.reason))
}

fn heard(table: &Table<'_>, bus: &mut Bus<'_>, cx: &Context<'_>) {
    check_report(table, false, cx);
    let source = |number: i64| u8::try_from(number).ok();
    if table.has("message") || table.has("signal") {
        for key in table.set_of(&["id", "pgn", "start_bit", "length", "byte_order", "signed", "float"]) {
            cx.report.error(
                table.key_place(key),
                format!("`{key}` is in the DBC file"),
                "remove it, or `message` and `signal`",
            );
        }
        let Some((message, signals)) = from_dbc(table, bus, cx) else { return };
        let several = table.text("signal") == Some("*");
        if several && table.has("name") {
            let found = "`name` stands beside `signal = \"*\"`: several signals would have one name";
            cx.report.error(
                table.key_place("name"),
                found,
                "remove it, or write the name of one signal instead of `*`",
            );
        }
        if table.has("source") && !matches!(message.from, FrameMatch::Pgn { .. }) {
            let found = format!("`source` stands at `{}`, which the DBC file does not mark as J1939", message.name);
            let mend = "remove it, or set VFrameFormat to J1939PG in the DBC file, or write `pgn` and `start_bit` instead of `message`";
            cx.report.error(table.key_place("source"), found, mend);
        }
        fd_is_heard(table, message, bus, cx);
        let found: Vec<_> = signals
            .into_iter()
            .map(|signal| (signal.clone(), message.heard(signal, table.integer("source").and_then(source))))
            .collect();
        for (signal, spec) in found {
            let name = table.text("name").filter(|_| !several).unwrap_or(&signal.name);
            let meaning = Meaning { name, kind: kind(signal.layout), dbc: Some(&signal) };
            add(table, bus, &meaning, Source::Signal(spec), None, cx);
        }
        return;
    }
    let (Some(layout), Some(from)) = (layout(table, cx), frame_match(table, cx)) else { return };
    let longest = match (from, bus.fd) {
        (FrameMatch::Pgn { .. }, _) => usize::from(J1939_BYTES_MAX),
        (FrameMatch::Id(_), true) => 64,
        (FrameMatch::Id(_), false) => 8,
    };
    if layout.bytes_needed() > longest {
        let found =
            format!("the signal ends in byte {} of the frame, which has at most {longest}", layout.bytes_needed());
        let mend =
            if longest == 8 { "correct `start_bit`, or add `fd = true` to the bus" } else { "correct `start_bit`" };
        cx.report.error(table.place("start_bit"), found, mend);
    }
    let Some(name) = own_name(table, cx) else { return };
    let meaning = Meaning { name, kind: kind(layout), dbc: None };
    add(table, bus, &meaning, Source::Signal(SignalSpec { from, layout, when: Vec::new() }), None, cx);
}

/// A CAN FD frame is neither handed over nor taken by a socket that was not opened for it.
fn fd_is_heard(table: &Table<'_>, message: &DbcMessage, bus: &Bus<'_>, cx: &Context<'_>) {
    if message.fd && !bus.fd {
        let found = format!("`{}` is a CAN FD message, and the bus has no `fd = true`", message.name);
        cx.report.error(table.place("message"), found, "add `fd = true` to the bus");
    }
}

fn own_name<'t>(table: &Table<'t>, cx: &Context<'_>) -> Option<&'t str> {
    if !table.has("name") {
        cx.report.error(table.start(), "there is no `name`", "add `name`, or `message` and `signal` of a DBC file");
    }
    table.text("name")
}

fn frame_match(table: &Table<'_>, cx: &Context<'_>) -> Option<FrameMatch> {
    match (table.has("id"), table.integer("pgn")) {
        (true, None) => {
            if table.has("source") {
                let found = "`source` belongs to `pgn`: an identifier has one sender";
                cx.report.error(table.key_place("source"), found, "remove it, or write `pgn` instead of `id`");
            }
            id(table, "id", cx).map(FrameMatch::Id)
        }
        (false, Some(pgn)) => {
            let pgn = u32::try_from(pgn).ok()?;
            if is_addressed(pgn) && pgn & 0xFF != 0 {
                let found = format!("parameter group {pgn} names a destination: its last byte is 0");
                cx.report.error(table.place("pgn"), found, format!("write `pgn = {}`", pgn & 0x3FF00));
            }
            let source = table.integer("source").and_then(|source| u8::try_from(source).ok());
            Some(FrameMatch::Pgn { pgn, source })
        }
        _ => {
            let wrong = Diagnostic::error(table.start(), "which frame carries it is not said");
            cx.report.push(wrong.expected("exactly one of `id`, `pgn`, or `message` of a DBC file"));
            None
        }
    }
}

fn id(table: &Table<'_>, key: &str, cx: &Context<'_>) -> Option<CanId> {
    let raw = u32::try_from(table.integer(key)?).ok()?;
    let id = if table.flag("extended") { CanId::extended(raw) } else { CanId::standard(raw) };
    if id.is_none() {
        let found = format!("`{key}` is {raw:#x}, which has more than 11 bits");
        cx.report.error(table.place(key), found, "add `extended = true` where the frame has 29 bits");
    }
    id
}

fn layout(table: &Table<'_>, cx: &Context<'_>) -> Option<Layout> {
    for key in ["start_bit", "length"] {
        if !table.has(key) {
            cx.report.error(
                table.start(),
                format!("`{key}` is missing"),
                format!("add `{key}`, or `message` and `signal`"),
            );
        }
    }
    let (start, length) = (table.integer("start_bit")?, table.integer("length")?);
    let order = if table.text("byte_order") == Some("big") { BitOrder::Big } else { BitOrder::Little };
    let number = match (table.flag("float"), table.flag("signed")) {
        (true, _) if length == 32 => Number::F32,
        (true, _) => Number::F64,
        (false, true) => Number::Signed,
        (false, false) => Number::Unsigned,
    };
    Layout::new(u64::try_from(start).ok()?, u64::try_from(length).ok()?, order, number)
        .map_err(|error| cx.report.error(table.place("length"), format!("no such signal: {error}"), "correct `length`"))
        .ok()
}

fn kind(layout: Layout) -> Kind {
    match (layout.range(), layout.number()) {
        (Some((min, max)), _) => Kind::Integer { min, max },
        (None, Number::F32) => Kind::F32,
        (None, Number::F64 | Number::Unsigned | Number::Signed) => Kind::F64,
    }
}

fn commanded(table: &Table<'_>, bus: &mut Bus<'_>, cx: &Context<'_>) {
    let cycle =
        table.integer("cycle_ms").and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0).map(Duration::from_millis);
    let (spec, signal) = if table.has("message") {
        let Some((message, signals)) = from_dbc(table, bus, cx) else { return };
        let &[signal] = signals.as_slice() else {
            cx.report.error(table.place("signal"), "a command sets one signal", "write its name instead of `*`");
            return;
        };
        fd_is_heard(table, message, bus, cx);
        let Some(spec) = message.commanded(signal, cycle) else {
            cx.report.error(table.place("message"), "no single frame holds the message", "choose another");
            return;
        };
        (spec, Some(signal.clone()))
    } else {
        let (Some(layout), Some(frame)) = (layout(table, cx), id(table, "id", cx)) else {
            if !table.has("id") {
                cx.report.error(
                    table.start(),
                    "which frame carries it is not said",
                    "add `id`, or `message` and `signal`",
                );
            }
            return;
        };
        let length: u8 = table.unsigned("bytes");
        if fd_length(length.into()) != Some(length) || layout.bytes_needed() > usize::from(length) {
            let found = format!("no frame of {length} bytes holds the signal");
            cx.report
                .push(Diagnostic::error(table.place("bytes"), found).expected("0 to 8, or 12, 16, 20, 24, 32, 48, 64"));
            return;
        }
        let fd = length > 8;
        if fd && !bus.fd {
            let found = format!("a frame of {length} bytes is CAN FD, and the bus has no `fd = true`");
            cx.report.error(table.place("bytes"), found, "add `fd = true` to the bus");
        }
        (CommandSpec { frame, fd, length, initial: 0, layout, set: Vec::new(), cycle }, None)
    };
    let Some(name) = table.text("name").or(signal.as_ref().map(|signal| signal.name.as_str())) else {
        own_name(table, cx);
        return;
    };
    let meaning = Meaning { name, kind: kind(spec.layout), dbc: signal.as_ref() };
    let scaled = scaled(table, &meaning, cx);
    let Some(write) = table.table("write", &cx.report).map(|write| limits(&write, scaled, cx)) else { return };
    add(table, bus, &meaning, Source::Command(spec), Some(write), cx);
}

fn scaled(table: &Table<'_>, meaning: &Meaning<'_>, cx: &Context<'_>) -> Scaled {
    let own = |key, of: fn(&DbcSignal) -> f64, else_: f64| table.number(key).or(meaning.dbc.map(of)).unwrap_or(else_);
    let scale = own("scale", |signal| signal.factor, 1.0);
    if scale == 0.0 {
        cx.report.error(
            table.place("scale"),
            "`scale` is 0: every value would be the same",
            "write, say, `scale = 0.1`",
        );
    }
    Scaled { kind: meaning.kind, scale, offset: own("offset", |signal| signal.offset, 0.0) }
}

/// The point and its rule, at the end of the bus's lists.
fn add(
    table: &Table<'_>,
    bus: &mut Bus<'_>,
    meaning: &Meaning<'_>,
    source: Source,
    write: Option<WriteRule>,
    cx: &Context<'_>,
) {
    let place = if table.has("name") { table.place("name") } else { table.start() };
    let topic = topic(meaning.name, write.is_some(), place, bus, cx);
    let is_command = matches!(source, Source::Command(_));
    let ms = |key| table.integer(key).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    let min_interval = if is_command { Duration::ZERO } else { ms("min_interval_ms").unwrap_or_default() };
    let scaled = scaled(table, meaning, cx);
    let mut rule = PointRule {
        not_available: None,
        device: bus.name.into(),
        point: meaning.name.into(),
        topic,
        kind: meaning.kind,
        bits: None,
        scale: scaled.scale,
        offset: scaled.offset,
        decimals: None,
        unit: table.text("unit").or(meaning.dbc.and_then(|signal| signal.unit.as_deref())).map(Arc::from),
        map: if table.has("map") {
            names(table)
        } else {
            meaning.dbc.map_or_else(BTreeMap::new, |signal| signal.map.clone())
        },
        map_raw: !table.has("map"),
        report: Report::Always,
        deadband: None,
        heartbeat: None,
        // The driver keeps it, and holds the latest value for the interval's end.
        min_interval: Duration::ZERO,
        qos: Qos::AtMostOnce,
        retain: false,
        payload: PayloadForm::Json,
        write,
    };
    if !is_command {
        rule.decimals = table.integer("decimals").and_then(|digits| u8::try_from(digits).ok());
        rule.report = if table.text("report") == Some("change") { Report::Change } else { Report::Always };
        let size = table.node("deadband").and_then(deadband);
        rule.deadband =
            size.map(|(size, percent)| if percent { Deadband::Percent(size) } else { Deadband::Absolute(size) });
        rule.heartbeat = ms("heartbeat_ms");
        rule.qos = Qos::try_from(table.unsigned::<u8>("qos")).unwrap_or_default();
        rule.retain = table.flag("retain");
        rule.payload = if table.text("payload") == Some("value") { PayloadForm::Value } else { PayloadForm::Json };
    }
    let timeout = matches!(source, Source::Signal(_)).then(|| ms("timeout_ms")).flatten();
    bus.points.push(CanPoint { name: meaning.name.into(), source, min_interval, timeout });
    bus.rules.push(rule);
}

fn topic(name: &str, writable: bool, place: &Place, bus: &Bus<'_>, cx: &Context<'_>) -> Arc<str> {
    let values = [("gateway", &*cx.gateway_id), ("bus", bus.name), ("signal", name)];
    match bus.topic.and_then(|template| fill(template, &values, place, cx)) {
        Some(topic) if check_topic(&topic, &cx.gateway_id, place, &cx.report) => {
            cx.topics.claim(&topic, writable, place, &cx.report);
            topic.into()
        }
        _ => Arc::default(),
    }
}
