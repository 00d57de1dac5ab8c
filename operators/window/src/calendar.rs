//! Windows of a calendar: days, weeks, months and years as people of a time zone have them.
//!
//! A boundary is a wall-clock time: the first day of the period, at `offset`. Where clocks are set forward over it, the window
//! begins at the first instant that exists; where it comes twice, at the first one. So windows follow one another without a gap,
//! and a day is as long as it is there: 23 hours, 24, 25. Rules come from the tz database that the program was built with.

use std::fmt;

use chrono::{DateTime, Datelike, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use operator_core::Millis;

/// A day of 24 hours, and the number of the first Monday after 1970-01-01.
pub const DAY: Millis = 86_400_000;
pub const MONDAY: i64 = 4;
/// Times further than this from 1970, 140,000 years, are in no window.
const LIMIT: Millis = 1 << 52;

/// Which days are one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// `count` days, the first of one window being `first` days after 1970-01-01.
    Days { count: i64, first: i64 },
    /// `count` months; 1, or a part of a year, or years.
    Months { count: i64 },
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Period::Days { count, first: MONDAY } => write!(f, "{}w", count / 7),
            Period::Days { count, .. } => write!(f, "{count}d"),
            Period::Months { count } if count % 12 == 0 => write!(f, "{}y", count / 12),
            Period::Months { count } => write!(f, "{count}mo"),
        }
    }
}

/// Windows of a calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    pub zone: Tz,
    pub period: Period,
    /// How long after the first midnight of its period a window begins, on the wall clock.
    pub offset: Millis,
}

/// A wall-clock time in milliseconds as if it were UTC.
type Local = Millis;

impl Calendar {
    /// Start and end of the window that contains `time`; `None` if one of them is out of range.
    pub fn window(&self, time: Millis) -> Option<(Millis, Millis)> {
        if time.unsigned_abs() > LIMIT.unsigned_abs() {
            return None;
        }
        let local = self.zone.from_utc_datetime(&utc(time)?).naive_local().and_utc().timestamp_millis();
        let mut period = self.period(local)?;
        let (mut start, mut end) = (self.start(period)?, self.start(period.checked_add(1)?)?);
        // A clock that was set back over midnight shows yesterday once more; a day that was left out is no window.
        while end <= time {
            period = period.checked_add(1)?;
            (start, end) = (end, self.start(period.checked_add(1)?)?);
        }
        while time < start {
            period = period.checked_sub(1)?;
            (start, end) = (self.start(period)?, start);
        }
        Some((start, end))
    }

    /// The number of the period that a wall-clock time is in.
    fn period(&self, local: Local) -> Option<i64> {
        let local = local.checked_sub(self.offset)?;
        Some(match self.period {
            Period::Days { count, first } => (local.div_euclid(DAY) - first).div_euclid(count),
            Period::Months { count } => {
                let date = utc(local)?.date();
                (i64::from(date.year()) * 12 + i64::from(date.month0())).div_euclid(count)
            }
        })
    }

    /// When a period begins.
    fn start(&self, period: i64) -> Option<Millis> {
        let local = match self.period {
            Period::Days { count, first } => period.checked_mul(count)?.checked_add(first)?.checked_mul(DAY)?,
            Period::Months { count } => {
                let month = period.checked_mul(count)?;
                let year = i32::try_from(month.div_euclid(12)).ok()?;
                let date = NaiveDate::from_ymd_opt(year, u32::try_from(month.rem_euclid(12)).ok()? + 1, 1)?;
                date.and_time(NaiveTime::MIN).and_utc().timestamp_millis()
            }
        };
        self.instant(local.checked_add(self.offset)?)
    }

    /// The first instant at which clocks of the zone show `local` or more.
    fn instant(&self, local: Local) -> Option<Millis> {
        let wanted = utc(local)?;
        match self.zone.from_local_datetime(&wanted) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at.timestamp_millis()),
            LocalResult::None => self.after_gap(wanted),
        }
    }

    /// The end of the gap that `wanted` is in: the first second at which clocks show more. No zone is as far from UTC as two days.
    fn after_gap(&self, wanted: NaiveDateTime) -> Option<Millis> {
        let whole = wanted.with_nanosecond(0)?;
        let (mut before, mut after) = (whole.checked_sub_signed(TimeDelta::days(2))?, whole.checked_add_signed(TimeDelta::days(2))?);
        while (after - before).num_seconds() > 1 {
            let middle = before.checked_add_signed(TimeDelta::seconds((after - before).num_seconds() / 2))?;
            match self.zone.from_utc_datetime(&middle).naive_local() < wanted {
                true => before = middle,
                false => after = middle,
            }
        }
        Some(after.and_utc().timestamp_millis())
    }
}

fn utc(time: Millis) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_millis(time).map(|at| at.naive_utc())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Millis = 3_600_000;

    fn calendar(zone: &str, period: Period, offset: Millis) -> Calendar {
        Calendar { zone: zone.parse().unwrap(), period, offset }
    }

    fn days(count: i64) -> Period {
        Period::Days { count, first: 0 }
    }

    fn at(text: &str) -> Millis {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    /// Start and end of the window that contains a time, as texts of UTC.
    fn window(calendar: Calendar, time: &str) -> (String, String) {
        let (start, end) = calendar.window(at(time)).unwrap();
        let said = |time| utc(time).unwrap().format("%Y-%m-%dT%H:%M").to_string();
        (said(start), said(end))
    }

    #[test]
    fn days_are_as_long_as_they_are() {
        let berlin = calendar("Europe/Berlin", days(1), 0);
        let of = |time| window(berlin, time);
        assert_eq!(of("2026-03-28T22:59:59Z"), ("2026-03-27T23:00".into(), "2026-03-28T23:00".into()));
        assert_eq!(of("2026-03-29T12:00:00Z"), ("2026-03-28T23:00".into(), "2026-03-29T22:00".into()), "23 hours");
        assert_eq!(of("2026-10-25T00:30:00Z"), ("2026-10-24T22:00".into(), "2026-10-25T23:00".into()), "25 hours");
        assert_eq!(of("1969-12-31T23:30:00Z"), ("1969-12-31T23:00".into(), "1970-01-01T23:00".into()));
    }

    #[test]
    fn an_offset_is_a_wall_clock_time() {
        let business = calendar("Europe/Berlin", days(1), 6 * HOUR);
        assert_eq!(window(business, "2026-03-29T03:59:59Z"), ("2026-03-28T05:00".into(), "2026-03-29T04:00".into()));
        assert_eq!(window(business, "2026-03-29T04:00:00Z"), ("2026-03-29T04:00".into(), "2026-03-30T04:00".into()));
        let sunday = calendar("America/New_York", Period::Days { count: 7, first: MONDAY }, 6 * DAY);
        assert_eq!(window(sunday, "2026-01-08T00:00:00Z"), ("2026-01-04T05:00".into(), "2026-01-11T05:00".into()));
    }

    #[test]
    fn weeks_months_quarters_and_years() {
        let week = calendar("Europe/Berlin", Period::Days { count: 7, first: MONDAY }, 0);
        assert_eq!(window(week, "2026-01-01T00:00:00Z"), ("2025-12-28T23:00".into(), "2026-01-04T23:00".into()));
        let month = calendar("Asia/Kolkata", Period::Months { count: 1 }, 0);
        assert_eq!(window(month, "2024-02-29T18:29:00Z"), ("2024-01-31T18:30".into(), "2024-02-29T18:30".into()));
        let quarter = calendar("UTC", Period::Months { count: 3 }, 0);
        assert_eq!(window(quarter, "2026-05-31T00:00:00Z"), ("2026-04-01T00:00".into(), "2026-07-01T00:00".into()));
        let year = calendar("UTC", Period::Months { count: 12 }, 0);
        assert_eq!(window(year, "1969-05-31T00:00:00Z"), ("1969-01-01T00:00".into(), "1970-01-01T00:00".into()));
    }

    #[test]
    fn midnights_that_do_not_exist_or_come_twice() {
        // Clocks went from 23:59:59 to 01:00:00.
        let sao_paulo = calendar("America/Sao_Paulo", days(1), 0);
        assert_eq!(window(sao_paulo, "2018-11-04T12:00:00Z"), ("2018-11-04T03:00".into(), "2018-11-05T02:00".into()));
        // And from 23:59:59 to 23:00:00: the hour belongs to the day that has it twice.
        assert_eq!(window(sao_paulo, "2018-02-18T02:30:00Z"), ("2018-02-17T02:00".into(), "2018-02-18T03:00".into()));
        // From 00:59:59 to 00:00:00: the day begins at the first of the two.
        let havana = calendar("America/Havana", days(1), 0);
        assert_eq!(window(havana, "2018-11-04T05:30:00Z"), ("2018-11-04T04:00".into(), "2018-11-05T05:00".into()));
        // From 00:00:59 to 23:01:00 of the day before, which is over already.
        let st_johns = calendar("America/St_Johns", days(1), 0);
        assert_eq!(window(st_johns, "2010-11-07T03:00:00Z"), ("2010-11-07T02:30".into(), "2010-11-08T03:30".into()));
        // There was no 30 December.
        let apia = calendar("Pacific/Apia", days(1), 0);
        assert_eq!(window(apia, "2011-12-30T09:59:59Z"), ("2011-12-29T10:00".into(), "2011-12-30T10:00".into()));
        assert_eq!(window(apia, "2011-12-30T10:00:00Z"), ("2011-12-30T10:00".into(), "2011-12-31T10:00".into()));
    }

    #[test]
    fn times_at_the_limits_have_no_window() {
        for time in [i64::MIN, i64::MAX, LIMIT + 1, -LIMIT - 1] {
            assert_eq!(calendar("Europe/Berlin", Period::Months { count: 1 }, 0).window(time), None, "{time}");
        }
        for time in [LIMIT, -LIMIT] {
            let (start, end) = calendar("Europe/Berlin", Period::Months { count: 12 }, 0).window(time).unwrap();
            assert!(start <= time && time < end);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Windows follow one another without a gap, in every zone.
        #[test]
        fn windows_are_a_partition_of_time(
            zone in prop::sample::select(chrono_tz::TZ_VARIANTS.to_vec()),
            period in prop::sample::select(vec![days(1), days(3), Period::Days { count: 7, first: MONDAY }, Period::Months { count: 1 }, Period::Months { count: 3 }]),
            offset in 0..DAY,
            time in -2_500_000_000_000i64..4_500_000_000_000,
        ) {
            let calendar = Calendar { zone, period, offset };
            let (start, end) = calendar.window(time).unwrap();
            prop_assert!(start <= time && time < end);
            prop_assert_eq!(calendar.window(start), Some((start, end)));
            prop_assert_eq!(calendar.window(end - 1), Some((start, end)));
            prop_assert_eq!(calendar.window(end).unwrap().0, end);
            prop_assert_eq!(calendar.window(start - 1).unwrap().1, start);
        }
    }
}
