//! `write` of a point: limits on commands, and the value for when nobody commands any more.

use std::time::Duration;

use super::Context;
use super::numbers::{is_representable, value_range};
use super::point::Source;
use crate::config::diagnostic::Diagnostic;
use crate::config::reader::Table;
use crate::mapping::rule::{FailSafe, Kind, WriteRule};
use crate::modbus::spec::{self, DataType, WriteFunction, WriteSpec};

pub(super) fn write(point: &Table<'_>, source: &Source, cx: &Context<'_>) -> Option<(WriteSpec, WriteRule)> {
    let table = point.table("write", &cx.report)?;
    if matches!(source.table, spec::Table::Discrete | spec::Table::Input) {
        let found = "`write` stands at a point that can only be read";
        cx.report.error(point.key_place("write"), found, "remove it, or write `coil` or `holding` as the address");
        return None;
    }
    let scaled = Scaled { kind: source.kind, scale: source.scale, offset: source.offset };
    let rule = WriteRule { readback: table.flag("readback"), ..limits(&table, scaled, cx) };
    Some((WriteSpec { function: function(&table, source, cx) }, rule))
}

/// What a raw value is and how it is published.
#[derive(Clone, Copy)]
pub(super) struct Scaled {
    pub(super) kind: Kind,
    pub(super) scale: f64,
    pub(super) offset: f64,
}

/// The keys that every driver's `write` has; nothing is read back.
pub(super) fn limits(table: &Table<'_>, source: Scaled, cx: &Context<'_>) -> WriteRule {
    check_limits(table, source, cx);
    let ms = |key| Duration::from_millis(table.unsigned(key));
    WriteRule {
        min: table.number("min"),
        max: table.number("max"),
        max_step: table.number("max_step"),
        ttl: ms("ttl_ms"),
        readback: false,
        min_interval: ms("min_interval_ms"),
        write_equal: table.flag("write_equal"),
        fail_safe: fail_safe(table, source, cx),
    }
}

fn check_limits(table: &Table<'_>, source: Scaled, cx: &Context<'_>) {
    if matches!(source.kind, Kind::Bool | Kind::Text { .. }) {
        for key in table.set_of(&["min", "max", "max_step"]) {
            let found = format!("`{key}` belongs to numbers, and this point is none");
            cx.report.error(table.key_place(key), found, "remove it");
        }
        return;
    }
    let (min, max) = (table.number("min"), table.number("max"));
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let found = format!("`min` is {min} and `max` is {max}");
        cx.report.push(Diagnostic::error(table.place("min"), found).expected("a `min` that is not above `max`"));
    }
    if table.number("max_step").is_some_and(|step| step <= 0.0) {
        cx.report.error(
            table.place("max_step"),
            "`max_step` is not above 0",
            "write, say, `max_step = 50`, or remove it",
        );
    }
    let Some((low, high)) = value_range(source.kind, source.scale, source.offset) else { return };
    for (key, limit) in [("min", min), ("max", max)] {
        if limit.is_some_and(|limit| !(low..=high).contains(&limit)) {
            let found = format!("`{key}` is outside what the type holds, {low} to {high}");
            cx.report.warning(table.place(key), found, "commands past the type's own range are refused all the same");
        }
    }
}

fn fail_safe(table: &Table<'_>, source: Scaled, cx: &Context<'_>) -> Option<FailSafe> {
    for (one, other) in [("fail_safe", "fail_safe_after_ms"), ("fail_safe_after_ms", "fail_safe")] {
        if table.has(one) && !table.has(other) {
            cx.report.error(
                table.key_place(one),
                format!("`{one}` stands without `{other}`"),
                format!("add `{other}`"),
            );
        }
    }
    let node = table.node("fail_safe")?;
    let place = &node.place;
    let flag = node.as_boolean();
    let value = flag.map(|flag| f64::from(u8::from(flag))).or_else(|| node.as_number())?;
    if flag.is_some() && source.kind != Kind::Bool {
        cx.report.error(place, "`fail_safe` is true or false, and this point is no bool", "write a number");
    } else if matches!(source.kind, Kind::Text { .. }) {
        cx.report.error(place, "`fail_safe` is a number, and this point is a string", "remove it");
    } else if table.number("min").is_some_and(|min| value < min) || table.number("max").is_some_and(|max| value > max) {
        cx.report.error(
            place,
            format!("`fail_safe` is {value}, which `min` and `max` do not allow"),
            "correct one of them",
        );
    } else if source.scale != 0.0 && !is_representable(value, source.kind, source.scale, source.offset) {
        let found = format!("`fail_safe` is {value}, which the point's type, scale and offset cannot carry");
        cx.report.error(place, found, "write a value that the device can hold exactly");
    }
    let after = table.integer("fail_safe_after_ms").and_then(|ms| u64::try_from(ms).ok())?;
    Some(FailSafe { value, after: Duration::from_millis(after) })
}

fn function(table: &Table<'_>, source: &Source, cx: &Context<'_>) -> WriteFunction {
    let place = table.place("function");
    let is_coil = source.table == spec::Table::Coil;
    match table.text("function") {
        Some("multiple") => WriteFunction::Multiple,
        Some("mask") => {
            // Mask Write Register (6.16) masks one holding register.
            if is_coil || source.bits.is_none() || !matches!(source.data, DataType::U16 | DataType::I16) {
                let found = "`function = \"mask\"` writes a bit field of one holding register";
                cx.report.error(place, found, "add `bits` to a u16, or remove `function`");
            }
            WriteFunction::Mask
        }
        Some("read_write") => {
            if is_coil {
                let found = "`function = \"read_write\"` belongs to holding registers";
                cx.report.error(place, found, "remove it");
            }
            WriteFunction::ReadWrite
        }
        _ => WriteFunction::Auto,
    }
}
