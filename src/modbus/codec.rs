//! Registers to values and back, by type and byte order.

use std::sync::Arc;

use thiserror::Error;

use super::spec::{ByteOrder, DataType};
use crate::sample::{Fault, Value};

/// Why a value cannot stand in registers of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A text for a number, a fraction for an integer, a number for a text.
    #[error("the value is not of the point's kind")]
    WrongKind,
    /// The number has no place in the type, or the text none in its registers.
    #[error("the value does not fit the point's registers")]
    OutOfRange,
}

/// The value that the registers of a point hold, as the wire has it.
///
/// NaN and infinities pass through: what they mean is the mapping's to say.
///
/// # Errors
/// [`Fault::BadResponse`] where `words` are not as many as the type takes; [`Fault::BadValue`] for BCD digits over 9
/// and for text that is not UTF-8.
pub fn decode(data: DataType, order: ByteOrder, words: &[u16]) -> Result<Value, Fault> {
    if words.len() != usize::from(data.registers()) {
        return Err(Fault::BadResponse);
    }
    if let DataType::Text { .. } = data {
        return text(order, words);
    }
    let whole = join(order, words);
    Ok(match data {
        DataType::Bool => Value::Bool(whole != 0),
        DataType::U16 | DataType::U32 | DataType::U64 => Value::Uint(whole),
        DataType::I16 => Value::Int(i64::from(low16(whole).cast_signed())),
        DataType::I32 => Value::Int(i64::from(low32(whole).cast_signed())),
        DataType::I64 => Value::Int(whole.cast_signed()),
        DataType::F32 => Value::F32(f32::from_bits(low32(whole))),
        DataType::F64 => Value::F64(f64::from_bits(whole)),
        DataType::Bcd16 => Value::Uint(from_bcd(whole, 4)?),
        DataType::Bcd32 => Value::Uint(from_bcd(whole, 8)?),
        DataType::Text { .. } => return Err(Fault::BadValue),
    })
}

/// The registers that hold `value`: the inverse of [`decode`]. Text is padded with NUL.
///
/// # Errors
/// [`EncodeError`] where the value is of another kind or out of the type's range.
pub fn encode(data: DataType, order: ByteOrder, value: &Value) -> Result<Vec<u16>, EncodeError> {
    let whole = match data {
        DataType::Bool => match *value {
            Value::Bool(on) => u64::from(on),
            Value::Uint(number @ (0 | 1)) => number,
            Value::Int(number @ (0 | 1)) => number.cast_unsigned(),
            Value::Uint(_) | Value::Int(_) => return Err(EncodeError::OutOfRange),
            Value::F32(_) | Value::F64(_) | Value::Text(_) => return Err(EncodeError::WrongKind),
        },
        DataType::U16 => integer(value, 0, i128::from(u16::MAX))?,
        DataType::U32 => integer(value, 0, i128::from(u32::MAX))?,
        DataType::U64 => integer(value, 0, i128::from(u64::MAX))?,
        DataType::I16 => integer(value, i128::from(i16::MIN), i128::from(i16::MAX))?,
        DataType::I32 => integer(value, i128::from(i32::MIN), i128::from(i32::MAX))?,
        DataType::I64 => integer(value, i128::from(i64::MIN), i128::from(i64::MAX))?,
        DataType::F32 => u64::from(float32(value)?.to_bits()),
        DataType::F64 => float64(value)?.to_bits(),
        DataType::Bcd16 => to_bcd(integer(value, 0, 9_999)?),
        DataType::Bcd32 => to_bcd(integer(value, 0, 99_999_999)?),
        DataType::Text { registers } => return text_words(order, registers, value),
    };
    Ok(split(order, whole, usize::from(data.registers())))
}

/// The whole of up to four registers, the least significant bit lowest, whatever their order on the wire.
pub fn join(order: ByteOrder, words: &[u16]) -> u64 {
    let step = |whole: u64, word: &u16| (whole << 16) | u64::from(bytes_in_order(order, *word));
    match order {
        ByteOrder::Abcd | ByteOrder::Badc => words.iter().fold(0, step),
        ByteOrder::Cdab | ByteOrder::Dcba => words.iter().rev().fold(0, step),
    }
}

/// The inverse of [`join`] for `count` registers.
pub fn split(order: ByteOrder, whole: u64, count: usize) -> Vec<u16> {
    let mut words: Vec<u16> =
        (0..count).rev().map(|place| bytes_in_order(order, low16(whole.unbounded_shr(16 * shift(place))))).collect();
    match order {
        ByteOrder::Abcd | ByteOrder::Badc => {}
        ByteOrder::Cdab | ByteOrder::Dcba => words.reverse(),
    }
    words
}

fn shift(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(4)
}

fn low16(whole: u64) -> u16 {
    (whole & 0xFFFF) as u16
}

fn low32(whole: u64) -> u32 {
    (whole & 0xFFFF_FFFF) as u32
}

fn bytes_in_order(order: ByteOrder, word: u16) -> u16 {
    match order {
        ByteOrder::Abcd | ByteOrder::Cdab => word,
        ByteOrder::Badc | ByteOrder::Dcba => word.swap_bytes(),
    }
}

fn from_bcd(whole: u64, digits: u32) -> Result<u64, Fault> {
    (0..digits).rev().try_fold(0, |number, place| {
        let digit = (whole >> (4 * place)) & 0xF;
        if digit > 9 { Err(Fault::BadValue) } else { Ok(number * 10 + digit) }
    })
}

fn to_bcd(number: u64) -> u64 {
    (0..8).fold((0, number), |(whole, rest), place| (whole | ((rest % 10) << (4 * place)), rest / 10)).0
}

/// The two's complement of an integer within `min` and `max`.
fn integer(value: &Value, min: i128, max: i128) -> Result<u64, EncodeError> {
    let number = match *value {
        Value::Bool(on) => i128::from(on),
        Value::Int(number) => i128::from(number),
        Value::Uint(number) => i128::from(number),
        Value::F32(_) | Value::F64(_) | Value::Text(_) => return Err(EncodeError::WrongKind),
    };
    if number < min || number > max { Err(EncodeError::OutOfRange) } else { Ok(number as u64) }
}

fn float64(value: &Value) -> Result<f64, EncodeError> {
    match *value {
        Value::Int(number) => Ok(number as f64),
        Value::Uint(number) => Ok(number as f64),
        Value::F32(number) => Ok(f64::from(number)),
        Value::F64(number) => Ok(number),
        Value::Bool(_) | Value::Text(_) => Err(EncodeError::WrongKind),
    }
}

fn float32(value: &Value) -> Result<f32, EncodeError> {
    if let Value::F32(number) = *value {
        return Ok(number);
    }
    let wide = float64(value)?;
    let narrow = wide as f32;
    if wide.is_finite() && !narrow.is_finite() { Err(EncodeError::OutOfRange) } else { Ok(narrow) }
}

/// Word order has no meaning for text: only the bytes within a word may be swapped.
fn text(order: ByteOrder, words: &[u16]) -> Result<Value, Fault> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| bytes_in_order(order, *word).to_be_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| Fault::BadValue)?;
    Ok(Value::Text(Arc::from(text.trim_end_matches(' '))))
}

fn text_words(order: ByteOrder, registers: u16, value: &Value) -> Result<Vec<u16>, EncodeError> {
    let Value::Text(text) = value else { return Err(EncodeError::WrongKind) };
    let mut bytes = text.as_bytes().to_vec();
    let room = usize::from(registers) * 2;
    if bytes.len() > room || bytes.contains(&0) {
        return Err(EncodeError::OutOfRange);
    }
    bytes.resize(room, 0);
    Ok(bytes.chunks_exact(2).map(|pair| bytes_in_order(order, u16::from_be_bytes([pair[0], pair[1]]))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORDERS: [ByteOrder; 4] = [ByteOrder::Abcd, ByteOrder::Cdab, ByteOrder::Badc, ByteOrder::Dcba];

    fn one(data: DataType, order: ByteOrder, words: &[u16]) -> Value {
        decode(data, order, words).unwrap()
    }

    #[test]
    fn each_order_reads_its_own_arrangement_of_the_same_float() {
        // 123.456 is 42 F6 E9 79.
        for (order, words) in
            ORDERS.into_iter().zip([[0x42F6, 0xE979], [0xE979, 0x42F6], [0xF642, 0x79E9], [0x79E9, 0xF642]])
        {
            assert_eq!(one(DataType::F32, order, &words), Value::F32(123.456), "{order:?}");
        }
    }

    #[test]
    fn sixty_four_bits_follow_the_same_four_arrangements() {
        let whole = Value::Uint(0x0102_0304_0506_0708);
        let wire: [[u16; 4]; 4] = [
            [0x0102, 0x0304, 0x0506, 0x0708],
            [0x0708, 0x0506, 0x0304, 0x0102],
            [0x0201, 0x0403, 0x0605, 0x0807],
            [0x0807, 0x0605, 0x0403, 0x0201],
        ];
        for (order, words) in ORDERS.into_iter().zip(wire) {
            assert_eq!(one(DataType::U64, order, &words), whole, "{order:?}");
            assert_eq!(encode(DataType::U64, order, &whole).unwrap(), words);
        }
    }

    #[test]
    fn one_register_swaps_bytes_only_where_the_order_says_so() {
        let read = |order| one(DataType::U16, order, &[0x1234]);
        assert_eq!(ORDERS.map(read), [0x1234, 0x1234, 0x3412, 0x3412].map(Value::Uint));
    }

    #[test]
    fn integers_keep_their_sign() {
        assert_eq!(one(DataType::I16, ByteOrder::Abcd, &[0xFFFE]), Value::Int(-2));
        assert_eq!(one(DataType::I32, ByteOrder::Cdab, &[0xFFFE, 0xFFFF]), Value::Int(-2));
        assert_eq!(one(DataType::I64, ByteOrder::Abcd, &[0x8000, 0, 0, 0]), Value::Int(i64::MIN));
    }

    #[test]
    fn a_register_is_true_when_it_is_not_zero() {
        assert_eq!(one(DataType::Bool, ByteOrder::Abcd, &[0x0100]), Value::Bool(true));
        assert_eq!(one(DataType::Bool, ByteOrder::Abcd, &[0]), Value::Bool(false));
    }

    #[test]
    fn bcd_refuses_a_digit_over_nine() {
        assert_eq!(one(DataType::Bcd16, ByteOrder::Abcd, &[0x1234]), Value::Uint(1234));
        assert_eq!(one(DataType::Bcd32, ByteOrder::Cdab, &[0x5678, 0x1234]), Value::Uint(12_345_678));
        assert_eq!(decode(DataType::Bcd16, ByteOrder::Abcd, &[0x12A4]), Err(Fault::BadValue));
    }

    #[test]
    fn text_ends_at_the_first_nul_and_loses_trailing_spaces() {
        let text = |registers| DataType::Text { registers };
        assert_eq!(one(text(3), ByteOrder::Abcd, &[0x4142, 0x2020, 0x0043]), Value::Text("AB".into()));
        assert_eq!(one(text(2), ByteOrder::Cdab, &[0x4142, 0x4344]), Value::Text("ABCD".into()));
        assert_eq!(one(text(2), ByteOrder::Dcba, &[0x4142, 0x4344]), Value::Text("BADC".into()));
        assert_eq!(decode(text(1), ByteOrder::Abcd, &[0xFF41]), Err(Fault::BadValue));
        assert_eq!(encode(text(2), ByteOrder::Badc, &Value::Text("abc".into())).unwrap(), [0x6261, 0x0063]);
        assert_eq!(encode(text(1), ByteOrder::Abcd, &Value::Text("abc".into())), Err(EncodeError::OutOfRange));
    }

    #[test]
    fn not_a_number_passes_through_for_the_mapping_to_judge() {
        assert!(matches!(one(DataType::F32, ByteOrder::Abcd, &[0x7FC0, 0]), Value::F32(nan) if nan.is_nan()));
    }

    #[test]
    fn a_value_that_has_no_place_in_the_type_is_refused() {
        let refused = |data, value| encode(data, ByteOrder::Abcd, &value).unwrap_err();
        assert_eq!(refused(DataType::U16, Value::Int(-1)), EncodeError::OutOfRange);
        assert_eq!(refused(DataType::I16, Value::Uint(32_768)), EncodeError::OutOfRange);
        assert_eq!(refused(DataType::Bcd16, Value::Uint(10_000)), EncodeError::OutOfRange);
        assert_eq!(refused(DataType::F32, Value::F64(1e300)), EncodeError::OutOfRange);
        assert_eq!(refused(DataType::U16, Value::F64(1.5)), EncodeError::WrongKind);
        assert_eq!(refused(DataType::F32, Value::Text("1".into())), EncodeError::WrongKind);
    }

    #[test]
    fn the_wrong_number_of_registers_is_a_bad_response() {
        assert_eq!(decode(DataType::U32, ByteOrder::Abcd, &[1]), Err(Fault::BadResponse));
        assert_eq!(decode(DataType::U16, ByteOrder::Abcd, &[]), Err(Fault::BadResponse));
    }

    fn any_number() -> impl Strategy<Value = (DataType, Vec<u16>)> {
        prop_oneof![
            Just(DataType::U16),
            Just(DataType::I16),
            Just(DataType::U32),
            Just(DataType::I32),
            Just(DataType::U64),
            Just(DataType::I64),
            Just(DataType::F32),
            Just(DataType::F64),
        ]
        .prop_flat_map(|data| (Just(data), proptest::collection::vec(any::<u16>(), usize::from(data.registers()))))
    }

    proptest! {
        #[test]
        fn what_was_decoded_encodes_to_the_same_registers((data, words) in any_number(), order in 0_usize..4) {
            let value = decode(data, ORDERS[order], &words).unwrap();
            prop_assert_eq!(encode(data, ORDERS[order], &value).unwrap(), words);
        }

        #[test]
        fn no_registers_make_the_decoder_panic(words in proptest::collection::vec(any::<u16>(), 0..12), order in 0_usize..4) {
            for data in [DataType::Bool, DataType::Bcd16, DataType::Bcd32, DataType::Text { registers: 5 }, DataType::F64] {
                let _ = decode(data, ORDERS[order], &words);
            }
        }
    }
}
