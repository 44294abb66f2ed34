//! Nanoseconds from a sample to its message, by kind of value. Prints a table; `cargo bench --bench mapping`.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use fieldgate::clock::{Now, UnixMs};
use fieldgate::clocksync::ClockState;
use fieldgate::mapping::publish::{Boot, Publisher};
use fieldgate::mapping::rule::{Kind, PayloadForm, PointRule, Report};
use fieldgate::message::Qos;
use fieldgate::sample::{BusId, PointId, Sample, Value};

const POINTS: u32 = 50;
const ROUNDS: u32 = 20_000;

fn rule(index: u32) -> PointRule {
    PointRule {
        map_raw: false,
        not_available: None,
        device: "meter-1".into(),
        point: format!("point-{index}").into(),
        topic: format!("plant/pi-1/meter-1/point-{index}").into(),
        kind: Kind::Integer { min: 0, max: 65_535 },
        bits: None,
        scale: 1.0,
        offset: 0.0,
        decimals: None,
        unit: Some("V".into()),
        map: BTreeMap::new(),
        report: Report::Always,
        deadband: None,
        heartbeat: None,
        min_interval: Duration::ZERO,
        qos: Qos::AtLeastOnce,
        retain: true,
        payload: PayloadForm::Json,
        write: None,
    }
}

fn measure(name: &str, shape: impl Fn(PointRule) -> PointRule, value: impl Fn(u32) -> Value) {
    let rules: Vec<PointRule> = (0..POINTS).map(|index| shape(rule(index))).collect();
    let mut publisher = Publisher::new(rules.into(), Boot::new("k3f9"));
    let mut samples: Vec<Sample> = (0..POINTS)
        .map(|index| Sample {
            point: PointId { bus: BusId(0), index },
            at: UnixMs(1_769_860_800_123),
            reading: Ok(value(index)),
        })
        .collect();
    let start = Now::read();
    let mut out = Vec::with_capacity(POINTS as usize);
    let began = Instant::now();
    let mut published = 0;
    for round in 0..ROUNDS {
        let now = start.after(Duration::from_millis(u64::from(round)));
        for (index, sample) in samples.iter_mut().enumerate() {
            sample.at = now.wall;
            sample.reading = Ok(value(round.wrapping_add(index as u32)));
            publisher.sample(now, ClockState::Synced, sample, &mut out);
        }
        published += out.len();
        black_box(&out);
        out.clear();
    }
    let samples = f64::from(POINTS) * f64::from(ROUNDS);
    let nanos = began.elapsed().as_nanos() as f64 / samples;
    println!("{name:<34}{nanos:>8.1} ns a sample{:>7.0} % published", published as f64 / samples * 100.0);
}

fn main() {
    let same = |rule| rule;
    measure("u16", same, |n| Value::Uint(u64::from(n % 65_536)));
    measure("u16 * 0.1", |r| PointRule { scale: 0.1, ..r }, |n| Value::Uint(u64::from(n % 65_536)));
    measure(
        "u16 * 0.1, decimals 1",
        |r| PointRule { scale: 0.1, decimals: Some(1), ..r },
        |n| Value::Uint(u64::from(n % 65_536)),
    );
    measure("f32", same, |n| Value::F32(230.0 + n as f32 / 1000.0));
    measure("f32, decimals 1", |r| PointRule { decimals: Some(1), ..r }, |n| Value::F32(230.0 + n as f32 / 1000.0));
    measure("f64", same, |n| Value::F64(230.0 + f64::from(n) / 1000.0));
    measure("bool, bare", |r| PointRule { payload: PayloadForm::Value, ..r }, |n| Value::Bool(n % 2 == 0));
    let beat = Some(Duration::from_secs(60));
    measure(
        "u16 unchanged, heartbeat",
        |r| PointRule { report: Report::Change, heartbeat: beat, ..r },
        |_| Value::Uint(7),
    );
    measure(
        "u16, heartbeat, min_interval 100",
        |r| PointRule { heartbeat: beat, min_interval: Duration::from_millis(100), ..r },
        |n| Value::Uint(u64::from(n % 65_536)),
    );
}
