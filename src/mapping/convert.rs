//! From what the wire has to what is published, and back: bits, scale and offset, decimals, names.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mapping::number::{Decimal, Number, fifteen_digits};
use crate::mapping::rule::{Kind, PointRule};
use crate::sample::{BitRange, Fault, Value};

/// A value as it is published.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    Bool(bool),
    Number(Number),
    /// A text, or the name that `map` gives to an integer.
    Text(Arc<str>),
}

/// value = raw * scale + offset.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Linear {
    Identity,
    /// Scale and offset are decimal fractions, as people write them: computed without rounding.
    Exact {
        scale: Decimal,
        offset: Decimal,
    },
    Float {
        scale: f64,
        offset: f64,
    },
}

/// One point's way out and in.
#[derive(Clone, Debug)]
pub struct Conversion {
    kind: Kind,
    bits: Option<BitRange>,
    not_available: Option<Value>,
    linear: Linear,
    decimals: Option<u8>,
    map: BTreeMap<i64, Arc<str>>,
    map_raw: bool,
}

/// How far from a whole number a raw integer may lie, relative to its size, where scale or offset is no decimal fraction.
const INTEGRAL_TOLERANCE: f64 = 1e-9;

/// Whole numbers up to here are all distinct floats (2^53).
const FLOAT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

impl Conversion {
    pub fn new(rule: &PointRule) -> Self {
        let linear = if rule.scale == 1.0 && rule.offset == 0.0 {
            Linear::Identity
        } else {
            match (Decimal::shortest(rule.scale), Decimal::shortest(rule.offset)) {
                (Some(scale), Some(offset)) => Linear::Exact { scale, offset },
                _ => Linear::Float { scale: rule.scale, offset: rule.offset },
            }
        };
        Self {
            kind: rule.kind,
            bits: rule.bits,
            not_available: rule.not_available.clone(),
            linear,
            decimals: rule.decimals,
            map: rule.map.clone(),
            map_raw: rule.map_raw,
        }
    }

    /// What is published of a raw value. NaN and infinities are no values: JSON has none.
    pub fn publish(&self, raw: &Value) -> Result<Reading, Fault> {
        if self.not_available.as_ref() == Some(raw) {
            return Err(Fault::NotAvailable);
        }
        self.publish_field(&self.field(raw))
    }

    /// The same of a bit field that was taken out already.
    pub fn publish_field(&self, raw: &Value) -> Result<Reading, Fault> {
        let number = match raw {
            Value::Bool(on) => {
                return Ok(self
                    .map
                    .get(&i64::from(*on))
                    .map_or(Reading::Bool(*on), |name| Reading::Text(name.clone())));
            }
            Value::Text(text) => return Ok(Reading::Text(text.clone())),
            Value::Int(_) | Value::Uint(_) | Value::F32(_) | Value::F64(_) => {
                self.number(raw, true).ok_or(Fault::BadValue)?
            }
        };
        let named = || if self.map_raw { whole(raw) } else { integer(number) };
        if !self.map.is_empty()
            && let Some(name) = named().and_then(|value| self.map.get(&value))
        {
            return Ok(Reading::Text(name.clone()));
        }
        Ok(Reading::Number(number))
    }

    /// A field's number in the published unit, not rounded to `decimals`: what limits on commands compare with.
    pub fn measure_field(&self, raw: &Value) -> Option<f64> {
        self.number(raw, false).map(Number::to_f64)
    }

    /// The point's own part of what the wire has: its bit field, else all.
    pub fn field(&self, raw: &Value) -> Value {
        match (self.bits, raw) {
            (Some(bits), Value::Int(whole)) => Value::Uint(bits.extract(whole.cast_unsigned())),
            (Some(bits), Value::Uint(whole)) => Value::Uint(bits.extract(*whole)),
            _ => raw.clone(),
        }
    }

    fn number(&self, raw: &Value, rounded: bool) -> Option<Number> {
        let whole = match raw {
            Value::Bool(_) | Value::Text(_) => return None,
            Value::F32(value) => {
                if !value.is_finite() {
                    return None;
                }
                if self.linear == Linear::Identity && self.decimals.is_none() {
                    return Some(Number::F32(*value));
                }
                return self.float(Decimal::shortest(*value), f64::from(*value), true, rounded);
            }
            Value::F64(value) => {
                if !value.is_finite() {
                    return None;
                }
                if self.linear == Linear::Identity && self.decimals.is_none() {
                    return Some(Number::F64(*value));
                }
                return self.float(Decimal::shortest(*value), *value, false, rounded);
            }
            Value::Int(value) => i128::from(*value),
            Value::Uint(value) => i128::from(*value),
        };
        let exact = Decimal::integer(whole);
        #[allow(clippy::cast_precision_loss, reason = "used only where the exact way does not fit")]
        match self.linear {
            Linear::Identity => Some(Number::Decimal(exact)),
            Linear::Exact { scale, offset } => match exact.linear(scale, offset) {
                Some(value) => Some(Number::Decimal(self.round(value, rounded))),
                None => self.inexact(whole as f64 * scale.to_f64() + offset.to_f64(), rounded),
            },
            Linear::Float { scale, offset } => self.inexact(whole as f64 * scale + offset, rounded),
        }
    }

    /// A float, reckoned on its shortest digits; without `decimals` no more of them than its type holds.
    fn float(&self, digits: Option<Decimal>, value: f64, single: bool, rounded: bool) -> Option<Number> {
        let exact = match (digits, self.linear) {
            (digits, Linear::Identity) => digits,
            (Some(digits), Linear::Exact { scale, offset }) => digits.linear(scale, offset),
            (None, Linear::Exact { .. }) | (_, Linear::Float { .. }) => None,
        };
        let Some(exact) = exact else {
            return self.inexact(
                match self.linear {
                    Linear::Identity => value,
                    Linear::Exact { scale, offset } => value * scale.to_f64() + offset.to_f64(),
                    Linear::Float { scale, offset } => value * scale + offset,
                },
                rounded,
            );
        };
        if self.decimals.is_some() {
            return Some(Number::Decimal(self.round(exact, rounded)));
        }
        let value = exact.to_f64();
        #[allow(clippy::cast_possible_truncation, reason = "no more digits than the device sent")]
        let narrow = value as f32;
        Some(if single && narrow.is_finite() { Number::F32(narrow) } else { Number::F64(value) })
    }

    fn inexact(&self, value: f64, rounded: bool) -> Option<Number> {
        if !value.is_finite() {
            return None;
        }
        let value = fifteen_digits(value);
        match Decimal::shortest(value) {
            Some(exact) if self.decimals.is_some() => Some(Number::Decimal(self.round(exact, rounded))),
            _ => Some(Number::F64(value)),
        }
    }

    fn round(&self, value: Decimal, rounded: bool) -> Decimal {
        match self.decimals {
            Some(decimals) if rounded => value.round(decimals),
            _ => value,
        }
    }

    /// What a name stands for, in the published unit.
    pub fn named(&self, name: &str) -> Option<Number> {
        let (value, _) = self.map.iter().find(|(_, known)| known.as_ref() == name)?;
        if self.map_raw {
            return self.number(&Value::Int(*value), false);
        }
        Some(Number::Decimal(Decimal::integer(i128::from(*value))))
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the field is a single bit, which takes `true` and `false` as well.
    pub fn is_one_bit(&self) -> bool {
        self.bits.is_some_and(|bits| bits.width() == 1)
    }

    /// The raw value for a published number. The reason, where there is none, is for the command's sender.
    pub fn invert(&self, value: Number) -> Result<Value, String> {
        match self.kind {
            Kind::Bool => match integer(value) {
                Some(0) => Ok(Value::Bool(false)),
                Some(1) => Ok(Value::Bool(true)),
                _ => Err("a boolean is true or false, 1 or 0".to_owned()),
            },
            Kind::Integer { min, max } => {
                let (min, max) = self.bits.map_or((min, max), |bits| (0, i128::from(bits.mask())));
                let raw = self.invert_integer(value)?;
                if raw < min || raw > max {
                    return Err(format!("out of range: the raw value would be {raw}, the device holds {min} to {max}"));
                }
                // Signed types take the signed form, so that a driver need not guess.
                if min < 0 { i64::try_from(raw).map(Value::Int) } else { u64::try_from(raw).map(Value::Uint) }
                    .map_err(|_| format!("out of range: the raw value would be {raw}"))
            }
            Kind::F32 => {
                #[allow(clippy::cast_possible_truncation, reason = "the device holds an f32")]
                let raw = self.invert_float(value) as f32;
                if raw.is_finite() { Ok(Value::F32(raw)) } else { Err("out of range of a 32-bit float".to_owned()) }
            }
            Kind::F64 => {
                let raw = self.invert_float(value);
                if raw.is_finite() { Ok(Value::F64(raw)) } else { Err("out of range of a 64-bit float".to_owned()) }
            }
            Kind::Text { .. } => Err("a text is expected, not a number".to_owned()),
        }
    }

    fn invert_integer(&self, value: Number) -> Result<i128, String> {
        let decimal = match value {
            Number::Decimal(decimal) => Some(decimal),
            Number::F32(_) | Number::F64(_) => None,
        };
        let (scale, offset) = match (self.linear, decimal) {
            (Linear::Identity, Some(decimal)) => {
                return decimal.to_integer().ok_or_else(|| "a whole number is expected, not a fraction".to_owned());
            }
            (Linear::Exact { scale, offset }, Some(decimal)) => {
                if let Some(raw) = decimal.inverse_integer(scale, offset) {
                    return Ok(raw);
                }
                (scale.to_f64(), offset.to_f64())
            }
            (Linear::Identity, None) => (1.0, 0.0),
            (Linear::Exact { scale, offset }, None) => (scale.to_f64(), offset.to_f64()),
            (Linear::Float { scale, offset }, _) => (scale, offset),
        };
        let raw = (value.to_f64() - offset) / scale;
        let whole = raw.round();
        if whole.is_nan() || whole.abs() > FLOAT_INTEGER_MAX {
            return Err("out of range of the device's integer".to_owned());
        }
        if (raw - whole).abs() > INTEGRAL_TOLERANCE * whole.abs().max(1.0) {
            return Err(format!("the device holds whole multiples of {scale} only"));
        }
        #[allow(clippy::cast_possible_truncation, reason = "whole and at most 2^53")]
        Ok(whole as i128)
    }

    fn invert_float(&self, value: Number) -> f64 {
        match self.linear {
            Linear::Identity => value.to_f64(),
            Linear::Exact { scale, offset } => (value.to_f64() - offset.to_f64()) / scale.to_f64(),
            Linear::Float { scale, offset } => (value.to_f64() - offset) / scale,
        }
    }
}

/// A raw value that is an integer of 64 bits.
fn whole(raw: &Value) -> Option<i64> {
    match raw {
        Value::Int(value) => Some(*value),
        Value::Uint(value) => i64::try_from(*value).ok(),
        Value::Bool(_) | Value::F32(_) | Value::F64(_) | Value::Text(_) => None,
    }
}

/// A number that is an integer of 64 bits.
fn integer(number: Number) -> Option<i64> {
    match number {
        Number::Decimal(decimal) => decimal.to_integer(),
        Number::F32(value) => Decimal::shortest(value).and_then(Decimal::to_integer),
        Number::F64(value) => Decimal::shortest(value).and_then(Decimal::to_integer),
    }
    .and_then(|whole| i64::try_from(whole).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mapping::rule::tests::rule;

    fn conversion(kind: Kind, scale: f64, offset: f64, decimals: Option<u8>) -> Conversion {
        Conversion::new(&PointRule { kind, scale, offset, decimals, ..rule("a/b") })
    }

    fn print(conversion: &Conversion, raw: Value) -> String {
        match conversion.publish(&raw) {
            Ok(Reading::Number(number)) => {
                let mut out = Vec::new();
                number.write(&mut out);
                String::from_utf8(out).unwrap()
            }
            Ok(Reading::Bool(on)) => on.to_string(),
            Ok(Reading::Text(text)) => text.to_string(),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn a_dbc_files_names_stand_for_raw_values() {
        let map = BTreeMap::from([(3, Arc::from("error")), (4, Arc::from("off"))]);
        let kind = Kind::Integer { min: 0, max: 255 };
        let rule = PointRule { kind, scale: 0.1, offset: 0.0, map, map_raw: true, ..rule("a/b") };
        let conversion = Conversion::new(&rule);
        assert_eq!(print(&conversion, Value::Uint(3)), "error");
        assert_eq!(print(&conversion, Value::Uint(40)), "4");
        assert_eq!(conversion.invert(conversion.named("off").unwrap()), Ok(Value::Uint(4)));
        let published = Conversion::new(&PointRule { map_raw: false, ..rule });
        assert_eq!(print(&published, Value::Uint(40)), "off");
        assert_eq!(published.invert(published.named("off").unwrap()), Ok(Value::Uint(40)));
    }

    const WORD: Kind = Kind::Integer { min: 0, max: 65_535 };

    #[test]
    fn values_print_as_a_person_would_write_them() {
        for (raw, scale, offset, decimals, text) in [
            (Value::Uint(2301), 0.1, 0.0, None, "230.1"),
            (Value::Uint(2300), 0.1, 0.0, Some(1), "230"),
            (Value::Int(-5), 0.01, 0.0, None, "-0.05"),
            (Value::Int(25), 1.0, -273.15, None, "-248.15"),
            (Value::Uint(u64::MAX), 1.0, 0.0, None, "18446744073709551615"),
            (Value::Uint(7), 1.0, 0.0, Some(2), "7"),
            (Value::Uint(5), 10.0, 0.0, None, "50"),
            (Value::Uint(100), 1.0 / 3.0, 0.0, Some(2), "33.33"),
            (Value::F32(230.1), 1.0, 0.0, None, "230.1"),
            (Value::F32(230.15), 1.0, 0.0, Some(1), "230.2"),
            (Value::F32(-230.15), 1.0, 0.0, Some(1), "-230.2"),
            (Value::F32(230.1), 0.1, 0.0, None, "23.01"),
            (Value::F32(1e30), 1e30, 0.0, None, "1.00000001504747e+60"),
            (Value::F64(0.1), 3.0, 0.0, None, "0.3"),
            (Value::F64(1e300), 2.0, 0.0, None, "2e+300"),
            (Value::F32(f32::NAN), 1.0, 0.0, None, "bad_value"),
            (Value::F64(f64::INFINITY), 0.5, 0.0, Some(1), "bad_value"),
            (Value::F64(1e300), 1e300, 0.0, None, "bad_value"),
            (Value::Bool(true), 0.1, 0.0, None, "true"),
            (Value::Text("ab".into()), 0.1, 0.0, None, "ab"),
        ] {
            assert_eq!(
                print(&conversion(WORD, scale, offset, decimals), raw.clone()),
                text,
                "{raw:?} {scale} {offset}"
            );
        }
    }

    #[test]
    fn names_stand_for_integers_after_bits_and_scale_and_the_rest_stay_numbers() {
        let named =
            PointRule { bits: BitRange::new(4, 5), map: [(0, "off".into()), (1, "on".into())].into(), ..rule("a/b") };
        let named = Conversion::new(&named);
        for (raw, text) in [(0x00, "off"), (0x1F, "on"), (0x2F, "2")] {
            assert_eq!(print(&named, Value::Uint(raw)), text);
        }
        assert_eq!(print(&named, Value::Int(-1)), "3");
        assert_eq!(print(&named, Value::Bool(true)), "on");
        assert_eq!(named.named("on"), Some(Number::Decimal(Decimal::integer(1))));
        assert_eq!(named.named("ON"), None);
    }

    #[test]
    fn what_the_device_sends_for_no_value_is_none_whatever_scale_bits_and_names_would_make_of_it() {
        let rule = PointRule {
            kind: Kind::Integer { min: -32_768, max: 32_767 },
            not_available: Some(Value::Int(-32_768)),
            scale: 0.1,
            ..rule("a/b")
        };
        let tenths = Conversion::new(&rule);
        assert_eq!(print(&tenths, Value::Int(-32_768)), "not_available");
        assert_eq!(print(&tenths, Value::Int(-32_767)), "-3276.7");
        let field = PointRule {
            kind: Kind::Integer { min: 0, max: 1 },
            bits: BitRange::new(0, 0),
            not_available: Some(Value::Uint(0xFFFF)),
            scale: 1.0,
            map: [(1, "on".into())].into(),
            ..rule
        };
        let field = Conversion::new(&field);
        assert_eq!(print(&field, Value::Uint(0xFFFF)), "not_available");
        assert_eq!(print(&field, Value::Uint(0xFFFD)), "on");
    }

    #[test]
    fn a_fraction_for_an_integer_is_refused_and_a_multiple_taken() {
        let whole = conversion(WORD, 1.0, 0.0, None);
        let tenth = conversion(WORD, 0.1, -20.0, None);
        let number = |text: &str| Number::Decimal(Decimal::parse(text).unwrap());
        assert_eq!(whole.invert(number("42")), Ok(Value::Uint(42)));
        assert!(whole.invert(number("4.5")).is_err());
        assert!(whole.invert(number("65536")).is_err());
        assert!(whole.invert(number("-1")).is_err());
        assert!(whole.invert(Number::F64(1e300)).is_err());
        assert_eq!(tenth.invert(number("4.5")), Ok(Value::Uint(245)));
        assert!(tenth.invert(number("4.55")).is_err());
        assert_eq!(conversion(WORD, 1.0 / 3.0, 0.0, None).invert(number("1")), Ok(Value::Uint(3)));
    }

    proptest! {
        #[test]
        fn an_integer_goes_in_as_it_came_out(raw: i64, scale in 1_u32..100_000, places in 0_i32..7, offset in -100_000_i32..100_000) {
            let scale = f64::from(scale) / 10_f64.powi(places);
            let conversion = conversion(
                Kind::Integer { min: i64::MIN.into(), max: i64::MAX.into() }, scale, f64::from(offset) / 100.0, None,
            );
            let Ok(Reading::Number(number)) = conversion.publish(&Value::Int(raw)) else { panic!("no number") };
            prop_assert_eq!(conversion.invert(number), Ok(Value::Int(raw)));
        }

        #[test]
        fn decimals_are_kept(raw: f64, scale in -1e3_f64..1e3, decimals in 0_u8..6) {
            let text = print(&conversion(Kind::F64, scale, 0.0, Some(decimals)), Value::F64(raw));
            let behind = text.split_once('.').map_or(0, |(_, behind)| behind.len());
            prop_assert!(behind <= usize::from(decimals) || text.contains('e'), "{}", text);
        }
    }
}
