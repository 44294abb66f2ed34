//! Values that move like real ones: each point follows a slow curve around what its unit or name suggests.

use std::time::Duration;

use crate::mapping::rule::PointRule;
use crate::modbus::spec::{DataType, PointSpec};
use crate::sample::Value;

/// Where a value lives and how it moves.
#[derive(Clone, Copy, Debug)]
struct Wave {
    middle: f64,
    swing: f64,
    /// By so much a second; energy and counters only rise.
    climb: f64,
}

const fn wave(middle: f64, swing: f64) -> Wave {
    Wave { middle, swing, climb: 0.0 }
}

const fn rising(middle: f64, climb: f64) -> Wave {
    Wave { middle, swing: 0.0, climb }
}

const UNITS: [(&str, Wave); 14] = [
    ("V", wave(230.0, 3.0)),
    ("A", wave(5.0, 2.0)),
    ("W", wave(1_150.0, 400.0)),
    ("VA", wave(1_250.0, 400.0)),
    ("var", wave(200.0, 50.0)),
    ("kW", wave(4.0, 2.0)),
    ("Hz", wave(50.0, 0.03)),
    ("kWh", rising(1_234.5, 0.02)),
    ("Wh", rising(1_234_500.0, 20.0)),
    ("°C", wave(21.5, 2.0)),
    ("bar", wave(1.6, 0.1)),
    ("%", wave(45.0, 6.0)),
    ("rpm", wave(1_450.0, 30.0)),
    ("km/h", wave(60.0, 40.0)),
];

/// Parts of a name, where the unit tells nothing.
const NAMES: [(&str, Wave); 14] = [
    ("volt", wave(230.0, 3.0)),
    ("current", wave(5.0, 2.0)),
    ("factor", wave(0.95, 0.04)),
    ("power", wave(1_150.0, 400.0)),
    ("energy", rising(1_234.0, 0.02)),
    ("count", rising(0.0, 1.0)),
    ("total", rising(100.0, 0.1)),
    ("freq", wave(50.0, 0.03)),
    ("temp", wave(21.5, 2.0)),
    ("humid", wave(45.0, 6.0)),
    ("press", wave(2.0, 0.2)),
    ("level", wave(60.0, 15.0)),
    ("flow", wave(12.0, 3.0)),
    ("speed", wave(1_450.0, 30.0)),
];
const OTHER: Wave = wave(50.0, 10.0);

fn turn(phase: u32, elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() / 20.0 + f64::from(phase) * 0.37
}

/// What the point reads `elapsed` after the start, before it is scaled. `phase` keeps two points of a kind apart.
pub(super) fn raw(name: &str, rule: Option<&PointRule>, phase: u32, elapsed: Duration) -> f64 {
    let turn = turn(phase, elapsed);
    let Wave { middle, swing, climb } = kind(name, rule);
    let number = middle + swing * (turn.sin() + 0.3 * (turn * 7.3).sin()) / 1.3 + climb * elapsed.as_secs_f64();
    rule.map_or(number, |rule| (resting(rule).unwrap_or(number) - rule.offset) / rule.scale)
}

/// The same for a register, as the wire has it.
pub(super) fn value(point: &PointSpec, rule: Option<&PointRule>, phase: u32, elapsed: Duration) -> Value {
    let raw = raw(&point.name, rule, phase, elapsed);
    let integer = |max: f64| raw.round().clamp(0.0, max) as u64;
    if let Some(named) = rule.and_then(|rule| named(rule, elapsed)) {
        return named;
    }
    match point.data {
        DataType::Bool => Value::Bool(turn(phase, elapsed).sin() > 0.0 && point.write.is_none()),
        DataType::U16 | DataType::I16 => Value::Uint(integer(f64::from(i16::MAX))),
        DataType::U32 | DataType::I32 | DataType::U64 | DataType::I64 => Value::Uint(integer(f64::from(i32::MAX))),
        DataType::Bcd16 => Value::Uint(integer(9_999.0)),
        DataType::Bcd32 => Value::Uint(integer(99_999_999.0)),
        DataType::F32 => Value::F32(raw as f32),
        DataType::F64 => Value::F64(raw),
        DataType::Text { registers } => {
            let text: String = point.name.chars().filter(char::is_ascii).take(usize::from(registers) * 2).collect();
            Value::Text(text.into())
        }
    }
}

fn kind(name: &str, rule: Option<&PointRule>) -> Wave {
    let unit = rule.and_then(|rule| rule.unit.as_deref());
    let by_unit = UNITS.iter().find(|(known, _)| Some(*known) == unit);
    let name = name.to_lowercase();
    let by_name = || NAMES.iter().find(|(part, _)| name.contains(part));
    by_unit.or_else(by_name).map_or(OTHER, |(_, wave)| *wave)
}

/// What can be written waits for its first command in the middle of its range.
fn resting(rule: &PointRule) -> Option<f64> {
    let write = rule.write.as_ref()?;
    Some(write.min?.midpoint(write.max?))
}

/// Of a point with named states: one after the other.
pub(super) fn named(rule: &PointRule, elapsed: Duration) -> Option<Value> {
    let turn = usize::try_from(elapsed.as_secs() / 20).ok()?;
    let state = rule.map.keys().nth(turn % rule.map.len().max(1))?;
    u64::try_from(*state).ok().map(Value::Uint)
}
