//! Event times that were written in another unit than their column's: seconds where milliseconds are expected.
//!
//! Old data is no mistake: in a backfill, event times lie years before the timestamps of their records. A wrong unit is
//! told apart by the arithmetic: the time itself is decades away from its record's timestamp, and the same number in
//! another unit is not. That leaves a false alarm for true times in the second half of January 1970 only.

use arrow::datatypes::TimeUnit;
use operator_core::Millis;

/// Times this close to their record's timestamp are plausible.
const NEAR: Millis = 10 * 365 * 86_400_000;
/// Record timestamps before the year 2000 say nothing about the event: no Kafka existed, the producer set them.
const CREDIBLE: Millis = 946_684_800_000;

const UNITS: [(TimeUnit, &str); 4] = [
    (TimeUnit::Second, "seconds"),
    (TimeUnit::Millisecond, "milliseconds"),
    (TimeUnit::Microsecond, "microseconds"),
    (TimeUnit::Nanosecond, "nanoseconds"),
];

/// Whether [`other_unit`] may find something. For every row: most times are near their record's timestamp.
#[inline]
pub(crate) fn is_far(time: Millis, record: Option<Millis>) -> bool {
    record.is_some_and(|record| record >= CREDIBLE && record.abs_diff(time) > NEAR as u64)
}

/// The unit that `time` is probably written in, if that isn't `unit`, the one it was read in.
pub(crate) fn other_unit(time: Millis, unit: TimeUnit, record: Option<Millis>) -> Option<&'static str> {
    let record = record.filter(|_| is_far(time, record))?;
    let own = UNITS.iter().position(|(known, _)| *known == unit)? as i32;
    let fits = |(other, (_, name)): (usize, &(TimeUnit, &'static str))| {
        // In 128 bits: a time in nanoseconds times a million has no room in 64.
        let factor = 1_000i128.pow(other.abs_diff(own as usize) as u32);
        let scaled = if (other as i32) < own { i128::from(time) * factor } else { i128::from(time) / factor };
        (scaled.abs_diff(i128::from(record)) <= NEAR as u128).then_some(*name)
    };
    UNITS.iter().enumerate().filter(|(other, _)| *other as i32 != own).find_map(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_782_371_700_000;

    #[test]
    fn the_unit_that_fits_is_named() {
        let read = |time, unit| other_unit(time, unit, Some(NOW));
        assert_eq!(read(NOW / 1_000, TimeUnit::Millisecond), Some("seconds"));
        assert_eq!(read(NOW * 1_000, TimeUnit::Millisecond), Some("microseconds"));
        assert_eq!(read(NOW * 1_000_000, TimeUnit::Millisecond), Some("nanoseconds"));
        // In milliseconds, as they come out of a column of microseconds.
        assert_eq!(read(NOW / 1_000, TimeUnit::Microsecond), Some("milliseconds"));
        assert_eq!(read(NOW / 1_000_000, TimeUnit::Microsecond), Some("seconds"));
        assert_eq!(read(NOW * 1_000, TimeUnit::Microsecond), Some("nanoseconds"));
        assert_eq!(read(i64::MAX, TimeUnit::Nanosecond), None);
        assert_eq!(read(i64::MIN, TimeUnit::Millisecond), None);
    }

    #[test]
    fn old_times_are_no_mistake() {
        let year = 365 * 86_400_000;
        for time in [NOW, NOW - 30 * year, NOW + 30 * year, 0, -1, -1_000, -40 * year, 3 * year] {
            assert_eq!(other_unit(time, TimeUnit::Millisecond, Some(NOW)), None, "{time}");
        }
        // Seconds of nine years ago beside a record of today still are; a record without a credible timestamp shows nothing.
        assert_eq!(other_unit((NOW - 9 * year) / 1_000, TimeUnit::Millisecond, Some(NOW)), Some("seconds"));
        assert_eq!(other_unit(NOW / 1_000, TimeUnit::Millisecond, None), None);
        assert_eq!(other_unit(NOW, TimeUnit::Millisecond, Some(0)), None);
    }
}
