//! Raw values in and out of a frame's bytes, by the numbering of bits that DBC files have.

use thiserror::Error;

use crate::sample::Value;

/// Which end of a signal its start bit names, and how it goes on (DBC `@1` and `@0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BitOrder {
    /// Intel: the start bit is the least significant.
    Little,
    /// Motorola: the start bit is the most significant.
    Big,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    Unsigned,
    /// Two's complement.
    Signed,
    /// IEEE 754, 32 bits long.
    F32,
    /// IEEE 754, 64 bits long.
    F64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    #[error("a signal has 1 to 64 bits, not {0}")]
    Length(u64),
    #[error("a float has 32 or 64 bits, not {0}")]
    FloatLength(u64),
    #[error("start bit {0} lies beyond the longest message")]
    Start(u64),
}

/// Where a signal lies and what its bits mean, with everything that taking it out needs computed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    start: u16,
    length: u8,
    order: BitOrder,
    number: Number,
    /// First byte, and how many it touches: 1 to 9.
    first: u16,
    span: u8,
    /// Bits below the signal in those bytes taken as one integer.
    shift: u8,
}

/// The most bytes that a message can have: J1939 transport, 255 packets of 7.
pub const MESSAGE_BYTES_MAX: u16 = 1785;

impl Layout {
    /// `start` as a DBC file has it: bit 7 is the most significant bit of the first byte.
    pub fn new(start: u64, length: u64, order: BitOrder, number: Number) -> Result<Self, LayoutError> {
        if start >= u64::from(MESSAGE_BYTES_MAX) * 8 {
            return Err(LayoutError::Start(start));
        }
        let bits =
            u8::try_from(length).ok().filter(|bits| (1..=64).contains(bits)).ok_or(LayoutError::Length(length))?;
        match number {
            Number::F32 if bits != 32 => return Err(LayoutError::FloatLength(length)),
            Number::F64 if bits != 64 => return Err(LayoutError::FloatLength(length)),
            Number::Unsigned | Number::Signed | Number::F32 | Number::F64 => {}
        }
        let start = u16::try_from(start).map_err(|_| LayoutError::Start(start))?;
        let within = start % 8;
        // Bits from the beginning of the first byte to the signal's end, in the order's own direction.
        let end = u16::from(bits) + if order == BitOrder::Little { within } else { 7 - within };
        let span = end.div_ceil(8);
        let shift = if order == BitOrder::Little { within } else { span * 8 - end };
        Ok(Self {
            start,
            length: bits,
            order,
            number,
            first: start / 8,
            span: u8::try_from(span).unwrap_or(9),
            shift: u8::try_from(shift).unwrap_or(7),
        })
    }

    pub fn length(&self) -> u8 {
        self.length
    }

    pub fn number(&self) -> Number {
        self.number
    }

    /// Bytes that a message must have to hold the signal.
    pub fn bytes_needed(&self) -> usize {
        usize::from(self.first) + usize::from(self.span)
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - u32::from(self.length))
    }

    /// The bits alone, unsigned; `None` where the data ends before the signal does.
    pub fn bits(&self, data: &[u8]) -> Option<u64> {
        let first = usize::from(self.first);
        let span = usize::from(self.span);
        let window = data.get(first..first + span)?;
        if span <= 8 {
            let mut bytes = [0; 8];
            let whole = match self.order {
                BitOrder::Little => {
                    bytes[..span].copy_from_slice(window);
                    u64::from_le_bytes(bytes)
                }
                BitOrder::Big => {
                    bytes[8 - span..].copy_from_slice(window);
                    u64::from_be_bytes(bytes)
                }
            };
            return Some((whole >> self.shift) & self.mask());
        }
        let mut bytes = [0; 16];
        let whole = match self.order {
            BitOrder::Little => {
                bytes[..span].copy_from_slice(window);
                u128::from_le_bytes(bytes)
            }
            BitOrder::Big => {
                bytes[16 - span..].copy_from_slice(window);
                u128::from_be_bytes(bytes)
            }
        };
        Some(u64::try_from((whole >> self.shift) & u128::from(self.mask())).unwrap_or_default())
    }

    /// What the bits mean, before scaling.
    pub fn value(&self, bits: u64) -> Value {
        match self.number {
            Number::Unsigned => Value::Uint(bits),
            Number::Signed => {
                let unused = 64 - u32::from(self.length);
                Value::Int((bits << unused).cast_signed() >> unused)
            }
            Number::F32 => Value::F32(f32::from_bits(u32::try_from(bits).unwrap_or_default())),
            Number::F64 => Value::F64(f64::from_bits(bits)),
        }
    }

    /// [`Self::bits`] and [`Self::value`] in one.
    pub fn extract(&self, data: &[u8]) -> Option<Value> {
        self.bits(data).map(|bits| self.value(bits))
    }

    /// Sets the signal's bits and no others. False, and nothing changed, where the data is too short.
    pub fn insert_bits(&self, data: &mut [u8], bits: u64) -> bool {
        let first = usize::from(self.first);
        let span = usize::from(self.span);
        let Some(window) = data.get_mut(first..first + span) else { return false };
        let mask = u128::from(self.mask()) << self.shift;
        let placed = u128::from(bits & self.mask()) << self.shift;
        for (place, byte) in window.iter_mut().enumerate() {
            let significance = if self.order == BitOrder::Little { place } else { span - 1 - place };
            let keep = !low_byte(mask >> (significance * 8));
            *byte = (*byte & keep) | low_byte(placed >> (significance * 8));
        }
        true
    }

    /// The bits that stand for a value; `None` where it does not fit or is of another kind.
    pub fn bits_of(&self, value: &Value) -> Option<u64> {
        let whole = match (self.number, value) {
            (Number::F32, Value::F32(value)) => return Some(u64::from(value.to_bits())),
            (Number::F64, Value::F64(value)) => return Some(value.to_bits()),
            (Number::F64, Value::F32(value)) => return Some(f64::from(*value).to_bits()),
            (Number::Unsigned | Number::Signed, Value::Bool(value)) => i128::from(*value),
            (Number::Unsigned | Number::Signed, Value::Int(value)) => i128::from(*value),
            (Number::Unsigned | Number::Signed, Value::Uint(value)) => i128::from(*value),
            _ => return None,
        };
        let (min, max) = self.range()?;
        (min..=max).contains(&whole).then(|| low_word(whole) & self.mask())
    }

    /// Raw integers that fit, both ends included; `None` for floats.
    pub fn range(&self) -> Option<(i128, i128)> {
        match self.number {
            Number::Unsigned => Some((0, (1 << self.length) - 1)),
            Number::Signed => Some((-(1 << (self.length - 1)), (1 << (self.length - 1)) - 1)),
            Number::F32 | Number::F64 => None,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low eight bits are what is asked for")]
fn low_byte(whole: u128) -> u8 {
    whole as u8
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "two's complement is what is asked for")]
fn low_word(whole: i128) -> u64 {
    whole as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, as the format's description has it.
    fn oracle(data: &[u8], start: u64, length: u64, order: BitOrder) -> Option<u64> {
        let mut value = 0u64;
        let mut at = start;
        for taken in 0..length {
            let byte = data.get(usize::try_from(at / 8).unwrap())?;
            let bit = u64::from((byte >> (at % 8)) & 1);
            match order {
                BitOrder::Little => {
                    value |= bit << taken;
                    at += 1;
                }
                BitOrder::Big => {
                    value = (value << 1) | bit;
                    at = if at.is_multiple_of(8) { at + 15 } else { at - 1 };
                }
            }
        }
        Some(value)
    }

    fn order() -> impl Strategy<Value = BitOrder> {
        prop_oneof![Just(BitOrder::Little), Just(BitOrder::Big)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn bits_are_those_that_one_takes_out_by_hand(start in 0u64..512, length in 1u64..=64, order in order(), data in proptest::collection::vec(any::<u8>(), 0..=64)) {
            let layout = Layout::new(start, length, order, Number::Unsigned).unwrap();
            prop_assert_eq!(layout.bits(&data), oracle(&data, start, length, order));
        }

        #[test]
        fn a_signal_set_reads_back_and_leaves_every_other_bit_alone(start in 0u64..512, length in 1u64..=64, order in order(), bits: u64, data in proptest::collection::vec(any::<u8>(), 0..=64)) {
            let layout = Layout::new(start, length, order, Number::Unsigned).unwrap();
            let wanted = bits & layout.mask();
            let mut changed = data.clone();
            let fits = layout.insert_bits(&mut changed, bits);
            prop_assert_eq!(fits, layout.bits(&data).is_some());
            if fits {
                prop_assert_eq!(layout.bits(&changed), Some(wanted));
                layout.insert_bits(&mut changed, layout.bits(&data).unwrap());
            }
            prop_assert_eq!(changed, data);
        }

        #[test]
        fn every_value_that_fits_survives_the_way_there_and_back(length in 1u64..=64, signed: bool, value: i64) {
            let number = if signed { Number::Signed } else { Number::Unsigned };
            let layout = Layout::new(0, length, BitOrder::Little, number).unwrap();
            let (min, max) = layout.range().unwrap();
            let bits = layout.bits_of(&Value::Int(value));
            prop_assert_eq!(bits.is_some(), (min..=max).contains(&i128::from(value)));
            if let Some(bits) = bits {
                let back = match layout.value(bits) {
                    Value::Int(back) => i128::from(back),
                    Value::Uint(back) => i128::from(back),
                    Value::Bool(_) | Value::F32(_) | Value::F64(_) | Value::Text(_) => panic!("{value}"),
                };
                prop_assert_eq!(back, i128::from(value));
            }
        }
    }

    #[test]
    fn the_design_files_own_example_reads_120_km_per_hour() {
        let layout = Layout::new(23, 16, BitOrder::Big, Number::Unsigned).unwrap();
        assert_eq!(layout.extract(&[0, 0, 0x2E, 0xE0]), Some(Value::Uint(12000)));
    }

    #[test]
    fn floats_come_out_as_the_sender_wrote_them() {
        let layout = Layout::new(0, 32, BitOrder::Little, Number::F32).unwrap();
        assert_eq!(layout.extract(&1.5f32.to_le_bytes()), Some(Value::F32(1.5)));
        let layout = Layout::new(7, 64, BitOrder::Big, Number::F64).unwrap();
        assert_eq!(layout.extract(&(-0.1f64).to_be_bytes()), Some(Value::F64(-0.1)));
        assert_eq!(Layout::new(0, 16, BitOrder::Little, Number::F32), Err(LayoutError::FloatLength(16)));
    }
}
