//! What the demo shows: a table that lives on a terminal, and each topic's first value in a pipe.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::clock::UnixMs;
use crate::status::snapshot::{Point, Snapshot};

/// The table's lines, one a point.
pub(super) fn table(snapshot: &Snapshot) -> String {
    let width = snapshot.points.iter().map(|point| point.topic.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for point in &snapshot.points {
        let age = point.at.map_or_else(String::new, |at| age(snapshot.at, at));
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {:width$}  {:>14} {:<5} {age:>8}", point.topic, value(point), unit(point));
    }
    out
}

/// A line for each point that has its first value now.
pub(super) fn first_values(snapshot: &Snapshot, shown: &mut BTreeSet<String>) -> String {
    let mut out = String::new();
    for point in snapshot.points.iter().filter(|point| point.at.is_some()) {
        if shown.insert(point.topic.to_string()) {
            let _ = writeln!(out, "{} {} {}", point.topic, value(point), unit(point));
        }
    }
    out
}

fn value(point: &Point) -> String {
    match (&point.fault, &point.value) {
        (Some(fault), _) => format!("({fault})"),
        (None, serde_json::Value::Null) => "…".to_owned(),
        (None, serde_json::Value::String(text)) => text.clone(),
        (None, other) => other.to_string(),
    }
}

fn unit(point: &Point) -> &str {
    point.unit.as_deref().unwrap_or("")
}

fn age(now: UnixMs, at: UnixMs) -> String {
    let seconds = (now.0 - at.0).max(0) as f64 / 1000.0;
    format!("{seconds:.1} s")
}
