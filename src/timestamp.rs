//! RFC 3339 with milliseconds, as every payload carries it: `2026-01-31T12:00:00.123Z`.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::UnixMs;

/// Bytes of a timestamp.
pub const LENGTH: usize = 24;

/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z: what four digits of a year can say.
const RANGE_MS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// Writes timestamps; remembers the last second, because samples come many a second.
#[derive(Debug)]
pub struct Timestamps {
    second: i64,
    text: [u8; LENGTH],
}

impl Default for Timestamps {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl Timestamps {
    /// Years before 0 and after 9999 read as the nearest that four digits can say.
    pub fn format(&mut self, at: UnixMs) -> &[u8; LENGTH] {
        let at = at.0.clamp(*RANGE_MS.start(), *RANGE_MS.end());
        let (second, milli) = (at.div_euclid(1000), at.rem_euclid(1000));
        if second != self.second {
            self.second = second;
            self.set_second(second);
        }
        digits(&mut self.text[20..23], milli);
        &self.text
    }

    /// Days to a date by Hinnant's `civil_from_days`: eras of 400 years, years that begin in March.
    fn set_second(&mut self, second: i64) {
        let (days, of_day) = (second.div_euclid(86_400), second.rem_euclid(86_400));
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        for (place, value) in [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, of_day / 3600),
            (14..16, of_day / 60 % 60),
            (17..19, of_day % 60),
        ] {
            digits(&mut self.text[place], value);
        }
    }
}

fn digits(place: &mut [u8], mut value: i64) {
    for byte in place.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The same, for what is not written often.
pub fn format(at: UnixMs) -> String {
    String::from_utf8_lossy(Timestamps::default().format(at)).into_owned()
}

/// An RFC 3339 time with any offset; a fraction of a millisecond is cut off.
pub fn parse(text: &str) -> Option<UnixMs> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(UnixMs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::format_description;

    use super::*;

    #[test]
    fn the_design_s_own_time_prints_as_it_stands_there() {
        assert_eq!(parse("2026-01-31T12:00:00.123Z").map(format).as_deref(), Some("2026-01-31T12:00:00.123Z"));
        assert_eq!(parse("2026-01-31T13:00:00.1239+01:00").map(format).as_deref(), Some("2026-01-31T12:00:00.123Z"));
        for text in ["", "yesterday", "2026-01-31", "2026-02-30T12:00:00Z", "2026-01-31T12:00:00"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_out_of_reach_stay_well_formed() {
        assert_eq!(format(UnixMs(i64::MIN)), "0000-01-01T00:00:00.000Z");
        assert_eq!(format(UnixMs(i64::MAX)), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn times_print_as_the_time_crate_prints_them(times in prop::collection::vec(RANGE_MS, 1..20)) {
            let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
            let mut timestamps = Timestamps::default();
            for at in times {
                let expected =
                    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000).unwrap().format(form).unwrap();
                prop_assert_eq!(std::str::from_utf8(timestamps.format(UnixMs(at))).unwrap(), expected.as_str());
                if at >= 0 {
                    prop_assert_eq!(parse(&expected), Some(UnixMs(at)));
                }
            }
        }
    }
}
