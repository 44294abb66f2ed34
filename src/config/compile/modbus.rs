//! `[[modbus]]`: a bus and its devices.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::device::{Bus, device};
use super::names::NameOf;
use super::transport::transport;
use crate::config::plan::{BusPlan, DriverSpec};
use crate::config::reader::Table;
use crate::modbus::spec::{BusSpec, Transport};

/// From the end of a request to its answer: on a line, and where a network lies between.
const TIMEOUT_LINE_MS: u64 = 300;
const TIMEOUT_TCP_MS: u64 = 1_000;

pub(super) fn bus(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<BusPlan> {
    let name = table.text("name");
    if let Some(name) = name {
        cx.names.claim(NameOf::Bus, name, table.place("name"), &cx.report);
    }
    let transport = transport(table, file, cx);
    let mut bus = Bus {
        name: name.unwrap_or_default(),
        file,
        // Where the transport is not known the wider range of unit ids is taken.
        on_tcp: matches!(transport, Some(Transport::Tcp { .. }) | None),
        devices: Vec::new(),
        points: Vec::new(),
        rules: Vec::new(),
    };
    let devices = table.tables("device", &cx.report);
    if devices.is_empty() && !table.has("device") {
        cx.report.warning(table.start(), "this bus has no device: nothing is polled", "add `[[modbus.device]]`");
    }
    for table in &devices {
        device(table, &mut bus, cx);
    }
    let transport = transport?;
    let timeout = match transport {
        Transport::Serial(_) => TIMEOUT_LINE_MS,
        Transport::Tcp { .. } | Transport::RtuOverTcp { .. } | Transport::AsciiOverTcp { .. } => TIMEOUT_TCP_MS,
    };
    let timeout = table.integer("timeout_ms").and_then(|ms| u64::try_from(ms).ok()).unwrap_or(timeout);
    let spec = BusSpec {
        name: Arc::from(name?),
        max_in_flight: if bus.on_tcp { table.unsigned("max_in_flight") } else { 1 },
        transport,
        timeout: Duration::from_millis(timeout),
        retries: table.unsigned("retries"),
        max_gap: table.unsigned("max_gap"),
        turnaround: Duration::from_millis(table.unsigned("turnaround_ms")),
        devices: bus.devices,
        points: bus.points,
    };
    Some(BusPlan { driver: DriverSpec::Modbus(spec), rules: bus.rules })
}
