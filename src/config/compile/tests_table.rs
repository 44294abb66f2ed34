//! `[[test]]`: what a device answers, and what must be published then.

use super::Context;
use super::access::fill;
use super::names::{NameOf, shown};
use super::point::address;
use crate::can::spec::{Content, Frame, parse_frame};
use crate::config::diagnostic::Diagnostic;
use crate::config::document::{Node, Value};
use crate::config::plan::{BusPlan, DriverSpec, Expected, Given, TestCase};
use crate::config::reader::Table;
use crate::config::spell::did_you_mean;
use crate::modbus::spec;

/// A test of a mapping file.
pub(super) fn test(table: &Table<'_>, buses: &[BusPlan], cx: &Context<'_>) -> Option<TestCase> {
    let brings = table.set_of(&["frame", "frames", "registers"]);
    if let [first, second, ..] = brings[..] {
        let found = format!("`{first}` and `{second}` stand together");
        cx.report.push(Diagnostic::error(table.key_place(first), found).expected("one of them"));
    } else if !table.has("registers") && !brings.is_empty() {
        return frame_test(table, buses, cx);
    }
    if brings.is_empty() {
        let expected = "`registers`, or `frame` for a CAN bus";
        cx.report.push(Diagnostic::error(table.start(), "the test brings nothing").expected(expected));
    }
    let registers = table.table("registers", &cx.report);
    let words = registers.as_ref().and_then(|registers| words(registers, cx));
    let found = registers.as_ref().and_then(|registers| find(table, registers, buses, cx));
    let expect = expected(table, "topic", cx);
    let (bus, device) = found?;
    let (memory, address, words) = words?;
    let given = Given::Registers { device, table: memory, address, words };
    Some(TestCase { name: table.text("name")?.to_owned(), place: table.start().to_string(), bus, given, expect })
}

/// A frame on a CAN bus, which stands alone where there is one.
fn frame_test(table: &Table<'_>, buses: &[BusPlan], cx: &Context<'_>) -> Option<TestCase> {
    let expect = expected(table, "topic", cx);
    let frames = match table.node("frames") {
        Some(list) => list.as_list()?.iter().map(|node| frame(node, cx)).collect::<Option<Vec<_>>>(),
        None => frame(table.node("frame")?, cx).map(|frame| vec![frame]),
    };
    if frames.as_ref().is_some_and(Vec::is_empty) {
        cx.report.error(table.place("frames"), "`frames` is empty", "write, say, `frames = [\"3E9#00002EE0\"]`");
    }
    let can: Vec<_> = (0..buses.len()).filter(|at| matches!(buses[*at].driver, DriverSpec::Can(_))).collect();
    let bus = match table.text("bus") {
        Some(name) => {
            let found = can.iter().copied().find(|at| **buses[*at].name() == *name);
            if found.is_none() && buses.iter().any(|bus| **bus.name() == *name) {
                let found = format!("`frame` stands at a test of `{name}`, which is a Modbus bus");
                let help = "write `registers = { device = \"…\", holding = 0, words = [1] }`, or name a `[[can]]`";
                cx.report.error(table.key_place("frame"), found, help);
            } else if found.is_none() {
                let names = can.iter().map(|at| &**buses[*at].name());
                missing(table, "bus", NameOf::Bus, &did_you_mean(name, names), cx);
            }
            found
        }
        None if can.len() == 1 => can.first().copied(),
        None => {
            cx.report.error(table.start(), "the test names no bus", "add `bus = \"…\"`, the name of a `[[can]]`");
            None
        }
    };
    let name = table.text("name")?.to_owned();
    Some(TestCase { name, place: table.start().to_string(), bus: bus?, given: Given::Frames(frames?), expect })
}

fn frame(node: &Node, cx: &Context<'_>) -> Option<Frame> {
    let found = match parse_frame(node.as_text()?) {
        Ok(Content::Data(frame)) => return Some(frame),
        Ok(Content::Remote(_) | Content::Error) => "the frame carries no data".to_owned(),
        Err(error) => format!("this is no frame: {error}"),
    };
    cx.report.error(&node.place, found, "write, say, `\"3E9#00002EE0\"`");
    None
}

/// A test of a profile: its one bus is bus 0, its one device is device 0, and a point's topic is its name.
pub(super) fn profile_test(table: &Table<'_>, cx: &Context<'_>) -> Option<TestCase> {
    let words = table.table("registers", &cx.report).and_then(|registers| words(&registers, cx));
    let expect = expected(table, "point", cx);
    let (memory, address, words) = words?;
    let given = Given::Registers { device: 0, table: memory, address, words };
    Some(TestCase { name: table.text("name")?.to_owned(), place: table.start().to_string(), bus: 0, given, expect })
}

fn words(registers: &Table<'_>, cx: &Context<'_>) -> Option<(spec::Table, u16, Vec<u16>)> {
    let found = address(registers, cx);
    let items = registers.node("words")?.as_list()?;
    let place = registers.place("words");
    let words: Vec<u16> = items.iter().filter_map(|item| u16::try_from(item.as_integer()?).ok()).collect();
    if words.is_empty() {
        cx.report.error(place, "`words` is empty", "write what the device answers, say `words = [0x4366, 0x0000]`");
    }
    let (memory, address) = found?;
    if usize::from(address) + words.len() > 65_536 {
        cx.report.error(place, "`words` go past address 65535", "write fewer, or correct the address");
    }
    let is_bit = matches!(memory, spec::Table::Coil | spec::Table::Discrete);
    if is_bit && words.iter().any(|word| *word > 1) {
        cx.report.error(place, "`words` of coils and discrete inputs are 0 and 1", "write, say, `words = [1, 0]`");
    }
    Some((memory, address, words))
}

/// The bus and the device that the test names.
fn find(table: &Table<'_>, registers: &Table<'_>, buses: &[BusPlan], cx: &Context<'_>) -> Option<(usize, usize)> {
    let bus_name = table.text("bus");
    if let Some(bus) = bus_name
        && !buses.iter().any(|plan| &**plan.name() == bus)
    {
        let names = buses.iter().map(|plan| &**plan.name());
        missing(table, "bus", NameOf::Bus, &did_you_mean(bus, names), cx);
        return None;
    }
    let can = |plan: &BusPlan| matches!(plan.driver, DriverSpec::Can(_)) && bus_name == Some(&**plan.name());
    if buses.iter().any(can) {
        let found = format!("`registers` stands at a test of `{}`, which is a CAN bus", bus_name.unwrap_or_default());
        cx.report.error(table.key_place("registers"), found, "write, say, `frame = \"3E9#00002EE0\"`");
        return None;
    }
    let device = registers.text("device")?;
    let mut names = Vec::new();
    for (index, plan) in buses.iter().enumerate() {
        if bus_name.is_some_and(|bus| bus != &**plan.name()) {
            continue;
        }
        let DriverSpec::Modbus(spec) = &plan.driver else { continue };
        if let Some(place) = spec.devices.iter().position(|known| &*known.name == device) {
            return Some((index, place));
        }
        names.extend(spec.devices.iter().map(|known| &*known.name));
    }
    missing(registers, "device", NameOf::Device, &did_you_mean(device, names), cx);
    None
}

/// Nothing is said of what stands in a table that has mistakes of its own, or may stand in a file that cannot be read.
fn missing(table: &Table<'_>, key: &str, of: NameOf, guess: &str, cx: &Context<'_>) {
    let name = table.text(key).unwrap_or_default();
    if !cx.incomplete.get() && !cx.names.has(of, name) {
        let found = format!("there is no {key} `{name}`{guess}");
        cx.report.error(table.place(key), found, "correct the name");
    }
}

/// `key` is `topic`, or in a profile `point`.
fn expected(table: &Table<'_>, key: &str, cx: &Context<'_>) -> Vec<Expected> {
    let tables = table.tables("expect", &cx.report);
    if tables.is_empty() && table.node("expect").is_some() {
        cx.report.push(Diagnostic::error(table.place("expect"), "`expect` is empty: the test shows nothing"));
    }
    let mut expected = Vec::new();
    for table in tables {
        let value = table.node("value").and_then(json).map(Ok);
        let fault = table.text("fault").map(|fault| Err(fault.to_owned()));
        let reading = match (value, fault) {
            (Some(reading), None) | (None, Some(reading)) => reading,
            (Some(_), Some(_)) => {
                cx.report.error(table.key_place("fault"), "`value` and `fault` stand together", "remove one of them");
                continue;
            }
            (None, None) => {
                if !table.has("value") {
                    cx.report.error(table.start(), "`value` is missing", "add `value`, or `fault = \"…\"`");
                }
                continue;
            }
        };
        let Some(topic) = table.text(key) else { continue };
        let Some(topic) = fill(topic, &[("gateway", &cx.gateway_id)], table.place(key), cx) else { continue };
        if !cx.topics.has(&topic) && !cx.incomplete.get() {
            let found = format!("no point is published as `{}`{}", shown(&topic), cx.topics.guess(&topic));
            cx.report.error(table.place(key), found, format!("correct the {key}"));
            continue;
        }
        expected.push(Expected { topic, reading });
    }
    expected
}

fn json(node: &Node) -> Option<serde_json::Value> {
    match &node.value {
        Value::Text(text) => Some(text.as_str().into()),
        Value::Boolean(flag) => Some((*flag).into()),
        Value::Integer(number) => Some((*number)?.into()),
        Value::Float(number) => serde_json::Number::from_f64(*number).map(serde_json::Value::Number),
        Value::Datetime | Value::List(_) | Value::Table(_) => None,
    }
}
