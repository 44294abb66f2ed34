//! Values that move like real ones, chosen by a point's name.

use std::time::Duration;

use crate::modbus::spec::{DataType, PointSpec};
use crate::sample::Value;

/// Part of a name, the middle, the swing around it, and whether it only rises (then: so much a second).
const KINDS: [(&str, f64, f64, bool); 14] = [
    ("volt", 230.0, 3.0, false),
    ("current", 5.0, 2.0, false),
    ("factor", 0.95, 0.04, false),
    ("power", 1_150.0, 400.0, false),
    ("energy", 1_234.0, 0.02, true),
    ("count", 0.0, 1.0, true),
    ("total", 100.0, 0.1, true),
    ("freq", 50.0, 0.03, false),
    ("temp", 21.5, 2.0, false),
    ("humid", 45.0, 6.0, false),
    ("press", 2.0, 0.2, false),
    ("level", 60.0, 15.0, false),
    ("flow", 12.0, 3.0, false),
    ("speed", 1_450.0, 30.0, false),
];
const OTHER: (f64, f64, bool) = (50.0, 10.0, false);
/// Integers mostly carry tenths.
const TENTHS: f64 = 10.0;

/// What the point reads `elapsed` after the start. `phase` keeps two points of a name apart.
pub(super) fn value(point: &PointSpec, phase: u32, elapsed: Duration) -> Value {
    let seconds = elapsed.as_secs_f64();
    let name = point.name.to_lowercase();
    let known = KINDS.iter().find(|(part, ..)| name.contains(part));
    let (middle, swing, rises) = known.map_or(OTHER, |(_, middle, swing, rises)| (*middle, *swing, *rises));
    let turn = seconds / 20.0 + f64::from(phase) * 0.37;
    let number =
        if rises { middle + swing * seconds } else { middle + swing * (turn.sin() + 0.3 * (turn * 7.3).sin()) };
    let integer = |max: f64| (if rises { number } else { number * TENTHS }).clamp(0.0, max) as u64;
    match point.data {
        DataType::Bool => Value::Bool(turn.sin() > 0.0),
        DataType::U16 | DataType::I16 => Value::Uint(integer(f64::from(i16::MAX))),
        DataType::U32 | DataType::I32 | DataType::U64 | DataType::I64 => Value::Uint(integer(f64::from(i32::MAX))),
        DataType::Bcd16 => Value::Uint(integer(9_999.0)),
        DataType::Bcd32 => Value::Uint(integer(99_999_999.0)),
        DataType::F32 => Value::F32(number as f32),
        DataType::F64 => Value::F64(number),
        DataType::Text { registers } => {
            let text: String = point.name.chars().filter(char::is_ascii).take(usize::from(registers) * 2).collect();
            Value::Text(text.into())
        }
    }
}
