//! A report as people read it.

use std::fmt::Write as _;

use super::{BusReport, Report};

/// The whole report; the diagnostics come first.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for diagnostic in &report.diagnostics {
        line(&mut out, format_args!("{diagnostic}"));
    }
    for each in &report.buses {
        bus(&mut out, each);
    }
    for test in &report.tests {
        if test.passed {
            line(&mut out, format_args!("test {:?}: ok", test.name));
        } else {
            line(
                &mut out,
                format_args!("{}: error: test {:?} failed: {}", test.place, test.name, test.failures.join("; ")),
            );
        }
    }
    let errors = report.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = report.diagnostics.len() - errors;
    let failed = report.tests.iter().filter(|test| !test.passed).count();
    line(
        &mut out,
        format_args!(
            "{}: {errors} errors, {warnings} warnings; {} tests, {failed} failed",
            if report.valid && failed == 0 { "good" } else { "not good" },
            report.tests.len(),
        ),
    );
    out
}

fn bus(out: &mut String, bus: &BusReport) {
    if let Some(can) = &bus.can {
        line(
            out,
            format_args!(
                "bus {}: {}: {} signals by {} filters, {} requests ({} a second), {} commands",
                bus.name, bus.line, can.signals, can.filters, can.requests, can.requests_per_second, can.commands
            ),
        );
        return points(out, bus);
    }
    let load =
        bus.utilisation_percent.map_or_else(String::new, |percent| format!(", {percent:.1} % of the line's time"));
    line(
        out,
        format_args!(
            "bus {}: {}: {} requests a round, {:.1} ms{load}",
            bus.name,
            bus.line,
            bus.requests.len(),
            bus.cycle_ms
        ),
    );
    for request in &bus.requests {
        line(
            out,
            format_args!(
                "  {} (unit {}): function code {}, address {}, {} items, every {} ms",
                request.device,
                request.unit,
                request.function_code,
                request.address,
                request.count,
                request.interval_ms
            ),
        );
    }
    points(out, bus);
}

fn points(out: &mut String, bus: &BusReport) {
    for point in &bus.points {
        let set = if point.writable { "  (set on TOPIC/set)" } else { "" };
        line(out, format_args!("  {}/{} -> {}{set}", point.device, point.point, point.topic));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}
