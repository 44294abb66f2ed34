//! `[[modbus.device]]`: a unit, its own points and those of its profile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Context;
use super::access::fill;
use super::names::{NameOf, check_topic, shown};
use super::point::{ADDRESSES, Scope, point};
use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::reader::Table;
use crate::mapping::rule::PointRule;
use crate::modbus::spec::{DeviceSpec, PointSpec};

/// A bus while its devices are compiled.
pub(super) struct Bus<'b> {
    pub(super) name: &'b str,
    pub(super) file: &'b Path,
    pub(super) on_tcp: bool,
    pub(super) devices: Vec<DeviceSpec>,
    pub(super) points: Vec<PointSpec>,
    pub(super) rules: Vec<PointRule>,
}

pub(super) fn device(table: &Table<'_>, bus: &mut Bus<'_>, cx: &Context<'_>) {
    let given = table.text("name");
    let name: Arc<str> = given.unwrap_or_default().into();
    if given.is_some() {
        cx.names.claim(NameOf::Device, &name, table.place("name"), &cx.report);
    }
    let unit = unit(table, bus, cx);
    let profile =
        table.text("profile").and_then(|profile| cx.profiles.get(profile, bus.file, table.place("profile"), cx));
    let profile = profile.as_deref().map(|root| super::profile::points(root, cx)).unwrap_or_default();
    let own = table.tables("point", &cx.report);
    if own.is_empty() && !table.has("profile") && !table.has("point") {
        let help = "add `[[modbus.device.point]]` or `profile = \"…\"`";
        cx.report.warning(table.start(), "this device has no points: nothing is polled", help);
    }
    let template = template(table, bus.name, &name, cx).filter(|_| given.is_some());
    if template.is_none() || (table.has("profile") && profile.is_empty()) {
        cx.incomplete.set(true);
    }
    let scope = Scope {
        device: bus.devices.len(),
        device_name: &name,
        bus: bus.name,
        template,
        interval_ms: table.unsigned("interval_ms"),
        max_registers: table.unsigned("max_registers"),
        from_profile: false,
    };
    for (point_table, place, from_profile) in merged(&own, &profile, table.start(), cx) {
        let scope = Scope { from_profile, ..scope };
        if let Some((spec, rule)) = point(&point_table, place, &scope, cx) {
            bus.points.push(spec);
            bus.rules.push(rule);
        }
    }
    // A device that is not right keeps its place, so that the points after it stay with theirs.
    bus.devices.push(DeviceSpec { name: name.clone(), unit, max_registers: scope.max_registers });
}

fn unit(table: &Table<'_>, bus: &Bus<'_>, cx: &Context<'_>) -> u8 {
    let Some(unit) = table.integer("unit").and_then(|unit| u8::try_from(unit).ok()) else { return 1 };
    let place = table.place("unit");
    if !bus.on_tcp && !(1..=247).contains(&unit) {
        let why =
            if unit == 0 { "unit 0 is the broadcast, which nobody answers" } else { "units 248 to 255 are reserved" };
        cx.report.push(
            Diagnostic::error(place, format!("`unit` is {unit}: {why}"))
                .expected("1 to 247 on a line")
                .help("write the address that is set at the device"),
        );
    }
    if let Some(twin) = bus.devices.iter().find(|other| other.unit == unit) {
        let found = format!("unit {unit} on this bus is also that of device `{}`", twin.name);
        cx.report.warning(place, found, "correct it, unless both are the same device on purpose");
    }
    unit
}

/// The device's topic with everything but `{point}` tried out; `None`, and reported, where it cannot be used.
fn template<'t>(table: &Table<'t>, bus: &str, device: &str, cx: &Context<'_>) -> Option<&'t str> {
    let template = table.text("topic")?;
    let place = table.place("topic");
    let values = [("gateway", &*cx.gateway_id), ("bus", bus), ("device", device), ("point", "point")];
    let topic = fill(template, &values, place, cx)?;
    if !check_topic(&topic, &cx.gateway_id, place, &cx.report) {
        return None;
    }
    if template.split('/').any(str::is_empty) {
        let found = format!("the topic `{}` has an empty level", shown(template));
        cx.report.warning(place, found, "leave out the `/` at its beginning or end, or the doubled one");
    }
    Some(template)
}

/// The profile's points and the device's own, each with the place that messages about its topic name. An own point that
/// gives an address replaces the profile's of that name; one that gives none changes single keys of it. The flag: the
/// address is the profile's.
fn merged<'a>(
    own: &[Table<'a>],
    profile: &[Table<'a>],
    device: &'a Place,
    cx: &Context<'_>,
) -> Vec<(Table<'a>, &'a Place, bool)> {
    let mut mine = by_name(own, cx);
    let theirs = by_name(profile, cx);
    let mut points = Vec::new();
    for table in profile {
        let Some(name) = table.text("name") else { continue };
        match mine.remove(name) {
            Some(table) if ADDRESSES.iter().any(|key| table.has_own(key)) => {
                points.push((table.clone(), table.place("name"), false))
            }
            Some(changed) => points.push((changed.clone().over(table), changed.place("name"), true)),
            None if theirs.get(name).is_some_and(|first| first.start() == table.start()) => {
                points.push((table.clone(), device, true));
            }
            None => {}
        }
    }
    for table in own {
        let Some(name) = table.text("name") else {
            points.push((table.clone(), table.start(), false));
            continue;
        };
        if mine.get(name).is_some_and(|first| first.start() == table.start()) {
            points.push((table.clone(), table.place("name"), false));
        }
    }
    points
}

/// The first point of each name; a second is reported.
fn by_name<'t, 'a>(points: &'t [Table<'a>], cx: &Context<'_>) -> BTreeMap<&'a str, &'t Table<'a>> {
    let mut named: BTreeMap<&str, &Table<'a>> = BTreeMap::new();
    for table in points {
        let Some(name) = table.text("name") else { continue };
        if let Some(first) = named.get(name) {
            let found = format!("a second point `{name}`; the first is at {}", first.place("name"));
            cx.report.error(table.place("name"), found, "give one of them another name");
            continue;
        }
        named.insert(name, table);
    }
    named
}
