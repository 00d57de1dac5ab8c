//! Event times that were written in another unit than their column's: seconds where milliseconds are expected.
//!
//! Old data is not a mistake: in a backfill, event times lie years before the timestamps of their records. A wrong unit is
//! recognised by arithmetic: the time itself is decades away from its record's timestamp, and the same number in
//! another unit is not. That leaves a false alarm for true times in the second half of January 1970 only.

use std::fmt;

use arrow::datatypes::TimeUnit;
use operator_core::Millis;

use crate::plan::TimeSource;

/// Times this close to their reference are plausible.
const NEAR: Millis = 10 * 365 * 86_400_000;
/// Record timestamps before the year 2000 say nothing about the event: no Kafka existed, the producer set them.
const CREDIBLE: Millis = 946_684_800_000;

const UNITS: [(TimeUnit, &str); 4] = [
    (TimeUnit::Second, "seconds"),
    (TimeUnit::Millisecond, "milliseconds"),
    (TimeUnit::Microsecond, "microseconds"),
    (TimeUnit::Nanosecond, "nanoseconds"),
];

/// What an event time is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The record's timestamp.
    Record(Millis),
    /// The wall clock, where the record's timestamp is the event time itself or not credible. Differences of ten years
    /// don't depend on when a record is read.
    Clock(Millis),
}

impl Reference {
    #[inline]
    pub(crate) fn of(time: &TimeSource, record: Option<Millis>, wall: Millis) -> Reference {
        match (time, record) {
            (TimeSource::Column(_) | TimeSource::Change, Some(record)) if is_credible(record, wall) => Reference::Record(record),
            _ => Reference::Clock(wall),
        }
    }

    /// Whether [`other_unit`] may find something. For every row: most times are near.
    #[inline]
    pub(crate) fn is_far(self, time: Millis) -> bool {
        let (Reference::Record(at) | Reference::Clock(at)) = self;
        at >= CREDIBLE && at.abs_diff(time) > NEAR as u64
    }
}

/// Neither from before Kafka nor, as far as the clock knows, from a year that only another unit explains.
#[inline]
fn is_credible(record: Millis, wall: Millis) -> bool {
    record >= CREDIBLE && (wall < CREDIBLE || record.saturating_sub(wall) <= NEAR)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reference::Record(_) => "the record's timestamp",
            Reference::Clock(_) => "the clock",
        })
    }
}

/// The unit that `time` is probably written in, if that isn't `unit`, the one it was read in.
pub(crate) fn other_unit(time: Millis, unit: TimeUnit, reference: Reference) -> Option<&'static str> {
    if !reference.is_far(time) {
        return None;
    }
    let (Reference::Record(at) | Reference::Clock(at)) = reference;
    let own = UNITS.iter().position(|(known, _)| *known == unit)?;
    let fits = |(other, (_, name)): (usize, &(TimeUnit, &'static str))| {
        // In 128 bits: a time in nanoseconds times a million has no room in 64.
        let factor = 1_000i128.pow(other.abs_diff(own) as u32);
        let scaled = if other < own { i128::from(time) * factor } else { i128::from(time) / factor };
        (scaled.abs_diff(i128::from(at)) <= NEAR as u128).then_some(*name)
    };
    UNITS.iter().enumerate().filter(|(other, _)| *other != own).find_map(fits)
}

#[cfg(test)]
mod tests {
    use operator_core::Path;

    use super::*;

    const NOW: Millis = 1_782_371_700_000;

    #[test]
    fn the_unit_that_fits_is_named() {
        let read = |time, unit| other_unit(time, unit, Reference::Record(NOW));
        assert_eq!(read(NOW / 1_000, TimeUnit::Millisecond), Some("seconds"));
        assert_eq!(read(NOW * 1_000, TimeUnit::Millisecond), Some("microseconds"));
        assert_eq!(read(NOW * 1_000_000, TimeUnit::Millisecond), Some("nanoseconds"));
        // In milliseconds, as converted from a column of microseconds.
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
            assert_eq!(other_unit(time, TimeUnit::Millisecond, Reference::Record(NOW)), None, "{time}");
        }
        // Seconds of nine years ago beside a record of today still are.
        assert_eq!(other_unit((NOW - 9 * year) / 1_000, TimeUnit::Millisecond, Reference::Record(NOW)), Some("seconds"));
    }

    #[test]
    fn without_a_credible_record_timestamp_the_clock_is_asked() {
        let column = TimeSource::Column(Path::column("at"));
        assert_eq!(Reference::of(&column, Some(NOW), 0), Reference::Record(NOW));
        // Nor is one of microseconds or nanoseconds: beside it right times would look like seconds.
        for record in [None, Some(0), Some(NOW / 1_000), Some(NOW * 1_000), Some(NOW * 1_000_000)] {
            assert_eq!(Reference::of(&column, record, NOW), Reference::Clock(NOW));
        }
        assert_eq!(Reference::of(&TimeSource::Record, Some(NOW / 1_000), NOW), Reference::Clock(NOW));
        assert_eq!(other_unit(NOW / 1_000, TimeUnit::Millisecond, Reference::Clock(NOW)), Some("seconds"));
        // A clock that was never set shows nothing either.
        assert_eq!(other_unit(NOW, TimeUnit::Millisecond, Reference::Clock(1_000)), None);
    }
}
