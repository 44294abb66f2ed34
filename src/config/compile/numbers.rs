//! What a type can hold.

use crate::mapping::rule::Kind;
use crate::modbus::spec::DataType;
use crate::sample::{BitRange, Value};

/// The type of that name in a file; `registers` is a string's length.
pub(super) fn data_type(name: &str, registers: u16) -> DataType {
    match name {
        "bool" => DataType::Bool,
        "i16" => DataType::I16,
        "u32" => DataType::U32,
        "i32" => DataType::I32,
        "u64" => DataType::U64,
        "i64" => DataType::I64,
        "f32" => DataType::F32,
        "f64" => DataType::F64,
        "bcd16" => DataType::Bcd16,
        "bcd32" => DataType::Bcd32,
        "string" => DataType::Text { registers },
        _ => DataType::U16,
    }
}

/// Bits of a plain integer; `None` for what has no bit fields.
pub(super) fn integer_bits(data: DataType) -> Option<u8> {
    match data {
        DataType::U16 | DataType::I16 => Some(16),
        DataType::U32 | DataType::I32 => Some(32),
        DataType::U64 | DataType::I64 => Some(64),
        DataType::Bool | DataType::F32 | DataType::F64 | DataType::Bcd16 | DataType::Bcd32 | DataType::Text { .. } => {
            None
        }
    }
}

/// The value of an integer type whose bits are those of `number`, be they written signed or unsigned: 0x8000 and -32768
/// are the same i16. `None` where the type has fewer bits, or is no integer.
pub(super) fn raw_integer(data: DataType, number: i64) -> Option<Value> {
    let fits = |bits: u32| (-(1_i128 << (bits - 1))..(1_i128 << bits)).contains(&i128::from(number));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low bits are what is meant")]
    match data {
        DataType::U16 if fits(16) => Some(Value::Uint(u64::from(number as u16))),
        DataType::I16 if fits(16) => Some(Value::Int(i64::from(number as i16))),
        DataType::U32 if fits(32) => Some(Value::Uint(u64::from(number as u32))),
        DataType::I32 if fits(32) => Some(Value::Int(i64::from(number as i32))),
        DataType::U64 => Some(Value::Uint(number.cast_unsigned())),
        DataType::I64 => Some(Value::Int(number)),
        DataType::U16 | DataType::I16 | DataType::U32 | DataType::I32 => None,
        DataType::Bool | DataType::F32 | DataType::F64 | DataType::Bcd16 | DataType::Bcd32 | DataType::Text { .. } => {
            None
        }
    }
}

/// What the raw value is; a bit field is unsigned whatever the register's type.
pub(super) fn kind(data: DataType, bits: Option<BitRange>) -> Kind {
    let integer = |min: i128, max: i128| Kind::Integer { min, max };
    if let Some(bits) = bits {
        return integer(0, i128::from(bits.mask()));
    }
    match data {
        DataType::Bool => Kind::Bool,
        DataType::U16 => integer(0, u16::MAX.into()),
        DataType::I16 => integer(i16::MIN.into(), i16::MAX.into()),
        DataType::U32 => integer(0, u32::MAX.into()),
        DataType::I32 => integer(i32::MIN.into(), i32::MAX.into()),
        DataType::U64 => integer(0, u64::MAX.into()),
        DataType::I64 => integer(i64::MIN.into(), i64::MAX.into()),
        DataType::Bcd16 => integer(0, 9_999),
        DataType::Bcd32 => integer(0, 99_999_999),
        DataType::F32 => Kind::F32,
        DataType::F64 => Kind::F64,
        DataType::Text { registers } => Kind::Text { bytes: usize::from(registers) * 2 },
    }
}

/// The least and greatest value that can be published, `None` where the kind has no bounds of this sort.
#[allow(clippy::cast_precision_loss, reason = "the bounds of 64-bit types are compared with limits that are f64")]
pub(super) fn value_range(kind: Kind, scale: f64, offset: f64) -> Option<(f64, f64)> {
    let (low, high) = match kind {
        Kind::Bool => return Some((0.0, 1.0)),
        Kind::Integer { min, max } => (min as f64, max as f64),
        Kind::F32 => (f64::from(f32::MIN), f64::from(f32::MAX)),
        Kind::F64 | Kind::Text { .. } => return None,
    };
    let (a, b) = (low.mul_add(scale, offset), high.mul_add(scale, offset));
    Some((a.min(b), a.max(b)))
}

/// Whether the wire can carry exactly this value: of an integer a whole raw number in its range. What is left of a
/// division by a decimal scale is forgiven.
pub(super) fn is_representable(value: f64, kind: Kind, scale: f64, offset: f64) -> bool {
    let raw = (value - offset) / scale;
    match kind {
        Kind::Bool => value == 0.0 || value == 1.0,
        Kind::Integer { .. } => {
            let whole = (raw - raw.round()).abs() <= 1e-6 * raw.abs().max(1.0);
            whole && value_range(kind, 1.0, 0.0).is_some_and(|(low, high)| (low..=high).contains(&raw.round()))
        }
        Kind::F32 => raw.abs() <= f64::from(f32::MAX),
        Kind::F64 => raw.is_finite(),
        Kind::Text { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_representable_where_it_is_a_whole_raw_number_in_range() {
        let u16 = kind(DataType::U16, None);
        assert!(is_representable(21.5, u16, 0.1, 0.0));
        assert!(is_representable(0.3, u16, 0.1, 0.0));
        assert!(!is_representable(21.55, u16, 0.1, 0.0));
        assert!(!is_representable(-1.0, u16, 1.0, 0.0));
        assert!(is_representable(-40.0, u16, 1.0, -40.0));
        assert!(!is_representable(65_536.0, u16, 1.0, 0.0));
        assert!(is_representable(7.0, kind(DataType::U16, BitRange::new(4, 6)), 1.0, 0.0));
        assert!(!is_representable(8.0, kind(DataType::U16, BitRange::new(4, 6)), 1.0, 0.0));
        assert!(!is_representable(2.0, Kind::Bool, 1.0, 0.0));
    }

    #[test]
    fn a_negative_scale_turns_the_range_round() {
        assert_eq!(value_range(kind(DataType::Bcd16, None), -1.0, 1.0), Some((-9_998.0, 1.0)));
    }
}
