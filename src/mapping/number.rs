//! Numbers as people wrote them: decimal, so that 2301 * 0.1 is 230.1 and not 230.10000000000002.
//!
//! One rule for printing: as short as it can be. `230.1`, `230` (never `230.0`), `1e+21`; integers have all their digits.

/// Powers of ten that an `i128` is multiplied by here.
const POW10: [i128; 39] = {
    let mut powers = [1_i128; 39];
    let mut place = 1;
    while place < 39 {
        powers[place] = powers[place - 1] * 10;
        place += 1;
    }
    powers
};

/// Digits behind the point that a [`Decimal`] may have; what needs more is a float.
pub const EXPONENT_MAX: u8 = 36;

/// `mantissa / 10^exponent`, without trailing zeros behind the point: equal values are equal structs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    mantissa: i128,
    exponent: u8,
}

impl Decimal {
    pub fn integer(value: impl Into<i128>) -> Self {
        Self { mantissa: value.into(), exponent: 0 }
    }

    /// `None` where the exponent is over [`EXPONENT_MAX`].
    pub fn new(mut mantissa: i128, mut exponent: u8) -> Option<Self> {
        if exponent > EXPONENT_MAX {
            return None;
        }
        // Most mantissas fit into 64 bits, where dividing costs a tenth.
        if let Ok(mut small) = i64::try_from(mantissa) {
            while exponent > 0 && small % 10 == 0 {
                small /= 10;
                exponent -= 1;
            }
            mantissa = i128::from(small);
        } else {
            while exponent > 0 && mantissa % 10 == 0 {
                mantissa /= 10;
                exponent -= 1;
            }
        }
        Some(Self { mantissa, exponent })
    }

    /// The shortest decimal that reads back as this float; `None` for NaN, infinities and exponents out of reach.
    pub fn shortest(value: impl zmij::Float + Copy + Into<f64>) -> Option<Self> {
        if !value.into().is_finite() {
            return None;
        }
        let mut buffer = zmij::Buffer::new();
        Self::parse(buffer.format_finite(value))
    }

    /// A JSON number (RFC 8259, 6), exactly; `None` where it is none, or has more digits than fit.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (digits, power) = match digits.split_once(['e', 'E']) {
            Some((digits, power)) => (digits, power.parse::<i32>().ok()?),
            None => (digits, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() || (digits.contains('.') && fraction.is_empty()) {
            return None;
        }
        let mut mantissa = 0_i128;
        for byte in whole.bytes().chain(fraction.bytes()) {
            if !byte.is_ascii_digit() {
                return None;
            }
            mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
        }
        if negative {
            mantissa = -mantissa;
        }
        let exponent = i32::try_from(fraction.len()).ok()?.checked_sub(power)?;
        if mantissa == 0 {
            return Some(Self { mantissa: 0, exponent: 0 });
        }
        if exponent >= 0 {
            Self::new(mantissa, u8::try_from(exponent).ok()?)
        } else {
            let factor = POW10.get(usize::try_from(exponent.unsigned_abs()).ok()?)?;
            Self::new(mantissa.checked_mul(*factor)?, 0)
        }
    }

    pub fn mantissa(self) -> i128 {
        self.mantissa
    }

    pub fn exponent(self) -> u8 {
        self.exponent
    }

    /// The whole number, if it is one.
    pub fn to_integer(self) -> Option<i128> {
        (self.exponent == 0).then_some(self.mantissa)
    }

    /// `self * scale + offset`, exactly; `None` where the digits do not fit.
    pub fn linear(self, scale: Self, offset: Self) -> Option<Self> {
        let product = self.mantissa.checked_mul(scale.mantissa)?;
        let exponent = self.exponent.checked_add(scale.exponent)?;
        if offset.mantissa == 0 {
            return Self::new(product, exponent);
        }
        let common = exponent.max(offset.exponent);
        let product = product.checked_mul(*POW10.get(usize::from(common - exponent))?)?;
        let offset = offset.mantissa.checked_mul(*POW10.get(usize::from(common - offset.exponent))?)?;
        Self::new(product.checked_add(offset)?, common)
    }

    /// `(self - offset) / scale` as a whole number; `None` where it is none, or does not fit, or the scale is zero.
    pub fn inverse_integer(self, scale: Self, offset: Self) -> Option<i128> {
        let negative = Self { mantissa: offset.mantissa.checked_neg()?, ..offset };
        let difference = self.linear(Self::integer(1), negative)?;
        let common = difference.exponent.max(scale.exponent);
        let dividend = difference.mantissa.checked_mul(*POW10.get(usize::from(common - difference.exponent))?)?;
        let divisor = scale.mantissa.checked_mul(*POW10.get(usize::from(common - scale.exponent))?)?;
        if divisor == 0 || dividend.checked_rem(divisor)? != 0 {
            return None;
        }
        dividend.checked_div(divisor)
    }

    /// At most so many digits behind the point; a half goes away from zero.
    #[must_use]
    pub fn round(self, decimals: u8) -> Self {
        let Some(drop) = self.exponent.checked_sub(decimals).filter(|drop| *drop > 0) else { return self };
        let Some(divisor) = POW10.get(usize::from(drop)).copied() else { return self };
        let (quotient, rest) = (self.mantissa / divisor, self.mantissa % divisor);
        let up = i128::from(rest.unsigned_abs() >= (divisor / 2).unsigned_abs());
        // A quotient is at most a tenth of the mantissa: one more cannot overflow.
        let mantissa = quotient + up * self.mantissa.signum();
        Self::new(mantissa, decimals).unwrap_or(self)
    }

    #[allow(clippy::cast_precision_loss, reason = "the nearest float is what is asked for")]
    pub fn to_f64(self) -> f64 {
        POW10.get(usize::from(self.exponent)).map_or(f64::NAN, |divisor| self.mantissa as f64 / *divisor as f64)
    }

    fn write(self, out: &mut Vec<u8>) {
        let mut buffer = itoa::Buffer::new();
        if self.mantissa < 0 {
            out.push(b'-');
        }
        let magnitude = self.mantissa.unsigned_abs();
        let digits = match u64::try_from(magnitude) {
            Ok(small) => buffer.format(small),
            Err(_) => buffer.format(magnitude),
        };
        let places = usize::from(self.exponent);
        if places == 0 {
            out.extend_from_slice(digits.as_bytes());
            return;
        }
        match digits.len().checked_sub(places).filter(|whole| *whole > 0) {
            Some(whole) => {
                let (before, behind) = digits.as_bytes().split_at(whole);
                out.extend_from_slice(before);
                out.push(b'.');
                out.extend_from_slice(behind);
            }
            None => {
                out.extend_from_slice(b"0.");
                out.resize(out.len() + places - digits.len(), b'0');
                out.extend_from_slice(digits.as_bytes());
            }
        }
    }
}

/// A published number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Integers, and what was scaled or rounded by decimal fractions.
    Decimal(Decimal),
    /// As the device sent it; prints the shortest digits that read back as the same `f32`. Finite.
    F32(f32),
    /// Finite.
    F64(f64),
}

impl Number {
    pub fn to_f64(self) -> f64 {
        match self {
            Self::Decimal(decimal) => decimal.to_f64(),
            // By its shortest digits: 230.1 is meant, not 230.10000610351562.
            Self::F32(value) => Decimal::shortest(value).map_or(f64::from(value), Decimal::to_f64),
            Self::F64(value) => value,
        }
    }

    /// A JSON number.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut buffer = zmij::Buffer::new();
        let text = match self {
            Self::Decimal(decimal) => return decimal.write(out),
            Self::F32(value) => buffer.format_finite(value),
            Self::F64(value) => buffer.format_finite(value),
        };
        let text = text.strip_suffix(".0").unwrap_or(text);
        out.extend_from_slice(if text == "-0" { b"0" } else { text.as_bytes() });
    }
}

/// The float with 15 significant digits, which is what an `f64` surely holds of a decimal number.
pub fn fifteen_digits(value: f64) -> f64 {
    format!("{value:.14e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn print(number: Number) -> String {
        let mut out = Vec::new();
        number.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_print_as_short_as_they_can_be() {
        for (number, text) in [
            (Number::F32(230.1), "230.1"),
            (Number::F32(230.0), "230"),
            (Number::F32(-0.0), "0"),
            (Number::F64(0.1), "0.1"),
            (Number::F64(1e21), "1e+21"),
            (Number::Decimal(Decimal::integer(u64::MAX)), "18446744073709551615"),
            (Number::Decimal(Decimal::integer(i64::MIN)), "-9223372036854775808"),
            (Number::Decimal(Decimal::new(2301, 1).unwrap()), "230.1"),
            (Number::Decimal(Decimal::new(-5, 3).unwrap()), "-0.005"),
            (Number::Decimal(Decimal::new(2300, 1).unwrap()), "230"),
        ] {
            assert_eq!(print(number), text);
        }
    }

    #[test]
    fn scaling_by_decimal_fractions_leaves_no_artefacts() {
        let zero = Decimal::integer(0);
        assert_eq!(print(Number::Decimal(decimal("2301").linear(decimal("0.1"), zero).unwrap())), "230.1");
        assert_eq!(print(Number::Decimal(decimal("3").linear(decimal("0.1"), decimal("-273.15")).unwrap())), "-272.85");
    }

    #[test]
    fn a_half_rounds_away_from_zero() {
        for (given, decimals, rounded) in [
            ("2.25", 1, "2.3"),
            ("-2.25", 1, "-2.3"),
            ("2.24", 1, "2.2"),
            ("0.5", 0, "1"),
            ("-0.4", 0, "0"),
            ("9.99", 1, "10"),
        ] {
            assert_eq!(print(Number::Decimal(decimal(given).round(decimals))), rounded, "{given}");
        }
    }

    #[test]
    fn what_is_no_number_does_not_parse() {
        for text in ["", "-", "1.", ".5", "1e", "0x1", "1 ", "NaN", "inf", "1e99999", "+1e-400", "--1", "1e+-2"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_number_reads_back(value: f64) {
            prop_assume!(value.is_finite());
            prop_assert_eq!(print(Number::F64(value)).parse::<f64>().unwrap(), value);
        }

        #[test]
        fn the_shortest_decimal_of_a_float_is_that_float(value in -1e9_f32..1e9) {
            let text = print(Number::Decimal(Decimal::shortest(value).unwrap()));
            prop_assert_eq!(text.parse::<f32>().unwrap(), value);
        }

        #[test]
        fn rounding_moves_by_half_a_place_at_most(mantissa: i64, exponent in 0_u8..20, decimals in 0_u8..10) {
            let before = Decimal::new(mantissa.into(), exponent).unwrap();
            let after = before.round(decimals);
            prop_assert!(after.exponent() <= decimals);
            let error = (before.to_f64() - after.to_f64()).abs();
            prop_assert!(error <= 0.5 * 10_f64.powi(-i32::from(decimals)) + before.to_f64().abs() * 1e-15);
        }

        #[test]
        fn an_inverse_undoes_a_scaling(raw: i64, scale in 1_i64..1_000_000, places in 0_u8..9, offset: i32) {
            let scale = Decimal::new(scale.into(), places).unwrap();
            let offset = Decimal::new(offset.into(), 3).unwrap();
            let value = Decimal::integer(raw).linear(scale, offset).unwrap();
            prop_assert_eq!(value.inverse_integer(scale, offset), Some(i128::from(raw)));
        }

        #[test]
        fn no_text_panics_the_parser(text in "[-+0-9eE.]{0,60}") {
            let _ = Decimal::parse(&text);
        }
    }
}
