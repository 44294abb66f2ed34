//! Runs the `[[test]]` cases of the mappings: what a bus brings goes through the codec and the rules, as it would in a run.

use std::sync::Arc;

use crate::can;
use crate::can::frame::{Frame, Received};
use crate::clock::Now;
use crate::clocksync::ClockState;
use crate::config::plan::{BusPlan, DriverSpec, Expected, Given, Plan, TestCase};
use crate::mapping::publish::{Boot, Publisher};
use crate::message::Message;
use crate::modbus::codec;
use crate::modbus::spec::{BusSpec, DataType, Table};
use crate::sample::{BusId, Fault, PointId, Sample, Value};

/// What was published instead, in words; empty where the case holds.
pub(super) fn run(plan: &Plan, case: &TestCase, now: Now) -> Vec<String> {
    let Some(bus) = plan.buses.get(case.bus) else {
        return vec!["its bus does not exist".to_owned()];
    };
    let messages = publish(bus, &samples(bus, &case.given, now), now);
    case.expect.iter().filter_map(|expected| mismatch(expected, &messages)).collect()
}

fn samples(bus: &BusPlan, given: &Given, now: Now) -> Vec<Sample> {
    let (spec, device, table, address, words) = match (&bus.driver, given) {
        (DriverSpec::Modbus(spec), Given::Registers { device, table, address, words }) => {
            (spec, device, table, address, words)
        }
        (DriverSpec::Can(spec), Given::Frames(frames)) => return can_samples(spec, frames, now),
        (DriverSpec::Modbus(_), Given::Frames(_)) | (DriverSpec::Can(_), Given::Registers { .. }) => return Vec::new(),
    };
    (0u32..)
        .zip(&spec.points)
        .filter(|(_, point)| point.device == *device && point.table == *table)
        .filter_map(|(index, point)| {
            let first = usize::from(point.address.checked_sub(*address)?);
            let words = words.get(first..first + usize::from(point.data.registers()))?;
            let reading = read(spec, index, words)?;
            Some(Sample { point: PointId { bus: BusId(0), index }, at: now.wall, reading })
        })
        .collect()
}

fn can_samples(spec: &can::spec::BusSpec, frames: &[Frame], now: Now) -> Vec<Sample> {
    let mut bus = can::bus::Bus::listening(spec, BusId(0), now);
    for frame in frames {
        bus.handle(&Received::Data(*frame), now.wall, now);
    }
    bus.take_samples()
}

fn read(spec: &BusSpec, index: u32, words: &[u16]) -> Option<Result<Value, Fault>> {
    let point = spec.points.get(usize::try_from(index).ok()?)?;
    let bit = matches!(point.table, Table::Coil | Table::Discrete);
    Some(if bit && point.data == DataType::Bool {
        words.first().map_or(Err(Fault::BadResponse), |word| Ok(Value::Bool(*word != 0)))
    } else {
        codec::decode(point.data, point.order, words)
    })
}

fn publish(bus: &BusPlan, samples: &[Sample], now: Now) -> Vec<Message> {
    let rules: Arc<[_]> = bus.rules.clone().into();
    let mut publisher = Publisher::new(rules, Boot::new("test"));
    let mut messages = Vec::new();
    for sample in samples {
        publisher.sample(now, ClockState::Synced, sample, &mut messages);
    }
    messages
}

fn mismatch(expected: &Expected, messages: &[Message]) -> Option<String> {
    let Expected { topic, reading } = expected;
    let wanted = shown(reading);
    // The newest: of several frames the last word counts.
    let Some(message) = messages.iter().rfind(|message| *message.topic == **topic) else {
        let mut seen: Vec<&str> = messages.iter().map(|message| &*message.topic).collect();
        seen.sort_unstable();
        seen.dedup();
        let seen = if seen.is_empty() { "nothing".to_owned() } else { seen.join(", ") };
        return Some(format!("expected {topic} = {wanted}, and nothing was published there; published: {seen}"));
    };
    let published = reading_of(message);
    let holds = match (&published, reading) {
        (Ok(published), Ok(value)) => same(published, value),
        (published, expected) => published == expected,
    };
    (!holds).then(|| format!("expected {topic} = {wanted}, published {}", shown(&published)))
}

fn shown(reading: &Result<serde_json::Value, String>) -> String {
    match reading {
        Ok(value) => value.to_string(),
        Err(fault) => format!("fault {fault:?}"),
    }
}

/// The value or the fault in a payload of either form.
fn reading_of(message: &Message) -> Result<serde_json::Value, String> {
    match serde_json::from_slice(&message.payload) {
        Ok(serde_json::Value::Object(mut object)) => match object.remove("fault") {
            Some(serde_json::Value::String(fault)) => Err(fault),
            _ => Ok(object.remove("value").unwrap_or_default()),
        },
        Ok(bare) => Ok(bare),
        Err(_) => Ok(String::from_utf8_lossy(&message.payload).into_owned().into()),
    }
}

/// Numbers are the same whether they are written `120` or `120.0`.
fn same(published: &serde_json::Value, expected: &serde_json::Value) -> bool {
    const RELATIVE: f64 = 1e-9;
    match (published.as_f64(), expected.as_f64()) {
        (Some(published), Some(expected)) => {
            (published - expected).abs() <= RELATIVE * published.abs().max(expected.abs())
        }
        _ => published == expected,
    }
}
