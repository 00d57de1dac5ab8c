//! Dates and times between text and counts since 1970-01-01, in the proleptic Gregorian calendar.
//!
//! Only the years 0001 to 9999 exist here: what lies outside is a producer's mistake (a timestamp in microseconds
//! read as milliseconds, `i64::MIN` as "no value"), and downstream systems cannot store it either. There are no leap
//! seconds: `:60` is refused, as Kafka's epoch milliseconds cannot express it.

use arrow::datatypes::TimeUnit;

/// Days of 0001-01-01 and 9999-12-31.
const FIRST_DAY: i64 = -719_162;
const LAST_DAY: i64 = 2_932_896;
const DAY_SECONDS: i64 = 86_400;

/// A point in time as read from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instant {
    /// Seconds since the epoch; in UTC if `zoned`, else of a clock whose zone is not known.
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
    pub(crate) zoned: bool,
}

/// Days since the epoch (H. Hinnant, "chrono-compatible low-level date algorithms": years of the 400-year era that
/// begin in March, so that the leap day is the last day of a year).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Milliseconds since the epoch in another unit.
///
/// # Errors
/// They are outside those years or the unit's range.
#[inline]
pub(crate) fn from_millis(millis: i64, unit: TimeUnit) -> Result<i64, String> {
    if !timestamp_in_range(millis, TimeUnit::Millisecond) {
        return Err(out_of_years(millis));
    }
    convert(millis, TimeUnit::Millisecond, unit).ok_or_else(|| OUT_OF_RANGE.to_string())
}

/// An ISO 8601 date and time as a count in `unit`. `zoned`: it is an instant, else a local time.
///
/// # Errors
/// What is wrong with the text.
#[inline]
pub(crate) fn timestamp(text: &[u8], unit: TimeUnit, zoned: bool) -> Result<i64, &'static str> {
    let Some(instant) = parse_timestamp(text) else {
        return Err("expected an ISO 8601 timestamp such as `2025-01-31T12:00:00Z`");
    };
    match (zoned, instant.zoned) {
        (true, false) => Err("the timestamp has no zone; expected Z or an offset"),
        (false, true) => Err("the timestamp has a zone, but the field is a local time"),
        _ => instant.in_unit(unit).ok_or(OUT_OF_RANGE),
    }
}

const OUT_OF_RANGE: &str = "timestamp out of range";

/// Whether a count of days lies in the years 0001 to 9999.
pub(crate) fn date_in_range(days: i32) -> bool {
    (FIRST_DAY..=LAST_DAY).contains(&i64::from(days))
}

/// Whether a timestamp lies in the years 0001 to 9999.
pub(crate) fn timestamp_in_range(value: i64, unit: TimeUnit) -> bool {
    let seconds = value.div_euclid(per_second(unit));
    (FIRST_DAY * DAY_SECONDS..(LAST_DAY + 1) * DAY_SECONDS).contains(&seconds)
}

/// Says that a count of milliseconds is outside those years, and in which unit it would be of our time.
#[cold]
fn out_of_years(millis: i64) -> String {
    let looks = match millis {
        1_000_000_000_000_000..10_000_000_000_000_000 => ": it looks like microseconds",
        1_000_000_000_000_000_000..4_000_000_000_000_000_000 => ": it looks like nanoseconds",
        _ => "",
    };
    format!("timestamp outside the years 0001 to 9999; expected epoch milliseconds{looks}")
}

/// Ticks of a unit per second.
pub(crate) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Converts between units. To a coarser unit: towards the past. To a finer one: `None` if it does not fit.
#[inline]
pub(crate) fn convert(value: i64, from: TimeUnit, to: TimeUnit) -> Option<i64> {
    let (from, to) = (per_second(from), per_second(to));
    if to >= from { value.checked_mul(to / from) } else { Some(value.div_euclid(from / to)) }
}

impl Instant {
    /// The count in a unit; digits beyond the unit are dropped towards the past. `None` outside the unit's range.
    pub(crate) fn in_unit(self, unit: TimeUnit) -> Option<i64> {
        let ticks = per_second(unit);
        self.seconds.checked_mul(ticks)?.checked_add(i64::from(self.nanos) / (1_000_000_000 / ticks))
    }
}

/// Reads digits from the front of a text.
struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    fn number(&mut self, digits: usize) -> Option<i64> {
        let head = self.0.get(..digits)?;
        let mut value = 0i64;
        for byte in head {
            if !byte.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(byte - b'0');
        }
        self.0 = self.0.get(digits..)?;
        Some(value)
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                Some(())
            }
            _ => None,
        }
    }

    fn date(&mut self) -> Option<i64> {
        let year = self.number(4)?;
        self.eat(b'-')?;
        let month = self.number(2)?;
        self.eat(b'-')?;
        let day = self.number(2)?;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        (year >= 1 && (1..=last).contains(&day)).then(|| days_from_civil(year, month, day))
    }

    /// `HH:MM[:SS[.f]]` as seconds of the day and nanoseconds.
    fn time(&mut self) -> Option<(i64, u32)> {
        let hour = self.number(2)?;
        self.eat(b':')?;
        let minute = self.number(2)?;
        let second = if self.eat(b':').is_some() { self.number(2)? } else { 0 };
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let mut nanos = 0u32;
        if self.eat(b'.').is_some() {
            let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            let fraction = self.number(digits)?;
            nanos = u32::try_from(fraction).ok()? * 10u32.pow(9 - digits as u32);
        }
        Some((hour * 3_600 + minute * 60 + second, nanos))
    }

    /// Nothing, `Z`, `+HH`, `+HHMM` or `+HH:MM`: whether there is a zone, and its offset in seconds.
    fn zone(&mut self) -> Option<(bool, i64)> {
        let Some((sign, rest)) = self.0.split_first() else { return Some((false, 0)) };
        self.0 = rest;
        let sign = match sign {
            b'Z' | b'z' => return Some((true, 0)),
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours = self.number(2)?;
        let minutes = if self.0.is_empty() {
            0
        } else {
            let _ = self.eat(b':');
            self.number(2)?
        };
        (hours <= 23 && minutes <= 59).then_some((true, sign * (hours * 3_600 + minutes * 60)))
    }
}

/// Reads `YYYY-MM-DD` as days since the epoch.
pub(crate) fn parse_date(text: &[u8]) -> Option<i32> {
    let mut digits = Digits(text);
    let days = digits.date()?;
    if digits.0.is_empty() { i32::try_from(days).ok() } else { None }
}

/// Reads an ISO 8601 date and time: `YYYY-MM-DD`, `T` (or `t`, or a space), `HH:MM`, optionally `:SS` and one to nine
/// fraction digits, optionally a zone.
fn parse_timestamp(text: &[u8]) -> Option<Instant> {
    let mut digits = Digits(text);
    let days = digits.date()?;
    digits.eat(b'T').or_else(|| digits.eat(b't')).or_else(|| digits.eat(b' '))?;
    let (second_of_day, nanos) = digits.time()?;
    let (zoned, offset) = digits.zone()?;
    if !digits.0.is_empty() {
        return None;
    }
    let seconds = days * DAY_SECONDS + second_of_day - offset;
    timestamp_in_range(seconds, TimeUnit::Second).then_some(Instant { seconds, nanos, zoned })
}

/// Reads `HH:MM[:SS[.f]]` as ticks since midnight; digits beyond the unit are dropped.
pub(crate) fn parse_time(text: &[u8], unit: TimeUnit) -> Option<i64> {
    let mut digits = Digits(text);
    let (seconds, nanos) = digits.time()?;
    if digits.0.is_empty() { Instant { seconds, nanos, zoned: false }.in_unit(unit) } else { None }
}

fn write_number(mut value: i64, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for slot in out.iter_mut().skip(start).rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes `YYYY-MM-DD`; `false`, and nothing written, outside the years 0001 to 9999.
pub(crate) fn write_date(days: i32, out: &mut Vec<u8>) -> bool {
    if !date_in_range(days) {
        return false;
    }
    let (year, month, day) = civil_from_days(i64::from(days));
    write_number(year, 4, out);
    out.push(b'-');
    write_number(month, 2, out);
    out.push(b'-');
    write_number(day, 2, out);
    true
}

/// Writes `HH:MM:SS.fff` with three fraction digits, or six or nine if the unit has them. `false`, and nothing
/// written, if the value is not within a day.
pub(crate) fn write_time(value: i64, unit: TimeUnit, out: &mut Vec<u8>) -> bool {
    let ticks = per_second(unit);
    let (seconds, fraction) = (value.div_euclid(ticks), value.rem_euclid(ticks));
    if !(0..DAY_SECONDS).contains(&seconds) {
        return false;
    }
    for (number, separator) in [(seconds / 3_600, b':'), (seconds / 60 % 60, b':'), (seconds % 60, b'.')] {
        write_number(number, 2, out);
        out.push(separator);
    }
    match unit {
        TimeUnit::Second | TimeUnit::Millisecond => write_number(fraction, 3, out),
        TimeUnit::Microsecond => write_number(fraction, 6, out),
        TimeUnit::Nanosecond => write_number(fraction, 9, out),
    }
    true
}

/// Writes `YYYY-MM-DDTHH:MM:SS.fff`, with `Z` if the value is an instant. `false`, and nothing written, outside the
/// years 0001 to 9999.
pub(crate) fn write_timestamp(value: i64, unit: TimeUnit, zoned: bool, out: &mut Vec<u8>) -> bool {
    if !timestamp_in_range(value, unit) {
        return false;
    }
    let day_ticks = DAY_SECONDS * per_second(unit);
    let Ok(days) = i32::try_from(value.div_euclid(day_ticks)) else { return false };
    if !write_date(days, out) {
        return false;
    }
    out.push(b'T');
    write_time(value.rem_euclid(day_ticks), unit, out);
    if zoned {
        out.push(b'Z');
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Datelike, NaiveDate};

    #[test]
    fn every_day_of_ten_thousand_years_agrees_with_chrono() {
        let mut text = Vec::new();
        for days in FIRST_DAY - 1..=LAST_DAY + 1 {
            let days = i32::try_from(days).unwrap();
            text.clear();
            let date = NaiveDate::from_num_days_from_ce_opt(days + 719_163).unwrap();
            assert_eq!(write_date(days, &mut text), (1..=9999).contains(&date.year()));
            if !text.is_empty() {
                assert_eq!(civil_from_days(days.into()), (date.year().into(), date.month().into(), date.day().into()));
                assert_eq!(parse_date(&text), Some(days));
            }
        }
    }

    #[test]
    fn timestamps_agree_with_chrono() {
        for text in [
            "2024-02-29T23:59:59.999999999Z",
            "1969-12-31T23:59:59.5-05:30",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59+00:00",
            "1600-03-01T12:00:00+14:00",
        ] {
            let expected = DateTime::parse_from_rfc3339(text).unwrap();
            let found = parse_timestamp(text.as_bytes()).unwrap();
            assert_eq!(
                (found.seconds, found.nanos, found.zoned),
                (expected.timestamp(), expected.timestamp_subsec_nanos(), true),
                "{text}"
            );
            assert_eq!(found.in_unit(TimeUnit::Millisecond), Some(expected.timestamp_millis()));
        }
    }

    #[test]
    fn units_convert_towards_the_past_and_never_wrap() {
        assert_eq!(convert(-1, TimeUnit::Microsecond, TimeUnit::Millisecond), Some(-1));
        assert_eq!(convert(1_999, TimeUnit::Microsecond, TimeUnit::Millisecond), Some(1));
        assert_eq!(convert(i64::MAX, TimeUnit::Millisecond, TimeUnit::Nanosecond), None);
        assert!(timestamp_in_range(i64::MIN, TimeUnit::Nanosecond) && !timestamp_in_range(i64::MIN, TimeUnit::Microsecond));
    }
}
