//! Which windows an event time belongs to. Windows of fixed length are aligned to the Unix epoch in UTC, also before 1970; those of
//! a calendar to days of a zone ([`crate::calendar`]).

use operator_core::Millis;

use crate::calendar::Calendar;

/// The windows of a step, kept open for `lateness` after their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    pub shape: Shape,
    pub lateness: Millis,
}

/// Which rows are together in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Windows `size` long, one starting every `every`, which divides `size`: equal to it for tumbling windows. They start
    /// `offset` (less than `every`) after multiples of `every`.
    Fixed { size: Millis, every: Millis, offset: Millis },
    /// Tumbling windows of days, weeks, months or years of a zone.
    Calendar(Calendar),
    /// Rows of a group with less than `gap` of event time between each and the next.
    Session { gap: Millis },
    /// One window for all time, which never closes.
    Unbounded,
}

/// Where the window for all time ends, in state: past every event time that can be processed.
const FOREVER: Millis = Millis::MAX - 1;

impl Windows {
    /// The one window for all time.
    pub const UNBOUNDED: Windows = Windows { shape: Shape::Unbounded, lateness: 0 };

    /// How many windows every event time is in.
    pub fn overlapping(&self) -> i64 {
        match self.shape {
            Shape::Fixed { size, every, .. } => size / every,
            Shape::Calendar(_) | Shape::Session { .. } | Shape::Unbounded => 1,
        }
    }

    pub fn is_unbounded(&self) -> bool {
        self.shape == Shape::Unbounded
    }

    /// The end of the last window that contains `time`; of a session, as if it were its last row. `None` if a bound of one of
    /// them, or its end plus lateness, is out of range.
    #[inline]
    pub fn last_end(&self, time: Millis) -> Option<Millis> {
        let end = match self.shape {
            Shape::Fixed { size, every, offset } => {
                // The first window starts `size - every` before the last one does.
                let start = time.checked_sub(time.checked_sub(offset)?.rem_euclid(every))?;
                start.checked_sub(size - every)?;
                start.checked_add(size)?
            }
            Shape::Calendar(calendar) => calendar.window(time)?.1,
            Shape::Session { gap } => time.checked_add(gap)?,
            Shape::Unbounded => return Some(FOREVER),
        };
        end.checked_add(self.lateness)?;
        Some(end)
    }

    /// The end of the window before the one that ends at `end`, where windows overlap.
    #[inline]
    pub fn before(&self, end: Millis) -> Millis {
        match self.shape {
            Shape::Fixed { every, .. } => end - every,
            Shape::Calendar(_) | Shape::Session { .. } | Shape::Unbounded => end,
        }
    }

    /// The start of the window that ends at `end`. Sessions know theirs.
    pub fn start(&self, end: Millis) -> Millis {
        match self.shape {
            Shape::Fixed { size, .. } => end.saturating_sub(size),
            Shape::Calendar(calendar) => calendar.window(end.saturating_sub(1)).map_or(end, |(start, _)| start),
            Shape::Session { .. } | Shape::Unbounded => end,
        }
    }

    /// True if a row of this time is in no window that is open at `watermark`, the row's own. For sessions this is a row that is
    /// behind the watermark, since whether a session takes it would depend on what other partitions have brought
    /// ([`crate::sessions`]).
    #[inline]
    pub fn is_late(&self, time: Millis, watermark: Millis) -> bool {
        match self.shape {
            Shape::Session { .. } => time.saturating_add(self.lateness) < watermark,
            _ => self.last_end(time).is_some_and(|last| self.is_closed(last, watermark)),
        }
    }

    /// True if a window that ends at `end` takes no more rows when the watermark is `watermark`.
    #[inline]
    pub fn is_closed(&self, end: Millis, watermark: Millis) -> bool {
        end.saturating_add(self.lateness) <= watermark
    }

    /// The latest end that is closed at `watermark`.
    pub fn closed_to(&self, watermark: Millis) -> Millis {
        watermark.saturating_sub(self.lateness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(size: Millis, every: Millis) -> Windows {
        Windows { shape: Shape::Fixed { size, every, offset: 0 }, lateness: 0 }
    }

    #[test]
    fn tumbling_windows_start_at_the_epoch_on_both_sides() {
        let minute = windows(60_000, 60_000);
        for (time, end) in [(0, 60_000), (59_999, 60_000), (60_000, 120_000), (-1, 0), (-60_000, 0), (-60_001, -60_000)] {
            assert_eq!(minute.last_end(time), Some(end), "{time}");
        }
    }

    #[test]
    fn an_offset_moves_where_windows_start() {
        let hourly = Windows { shape: Shape::Fixed { size: 60, every: 60, offset: 15 }, lateness: 0 };
        for (time, end) in [(14, 15), (15, 75), (74, 75), (-45, 15), (-46, -45)] {
            assert_eq!(hourly.last_end(time), Some(end), "{time}");
        }
        assert_eq!(hourly.last_end(i64::MIN), None);
        let hopping = Windows { shape: Shape::Fixed { size: 60, every: 20, offset: 5 }, lateness: 0 };
        assert_eq!((hopping.last_end(24), hopping.last_end(25), hopping.start(65)), (Some(65), Some(85), 5));
    }

    #[test]
    fn the_window_for_all_time_takes_every_row_and_never_closes() {
        for time in [i64::MIN, -1, 0, i64::MAX] {
            let end = Windows::UNBOUNDED.last_end(time).unwrap();
            assert!(!Windows::UNBOUNDED.is_closed(end, time) || time == i64::MAX);
        }
        assert_eq!(Windows::UNBOUNDED.overlapping(), 1);
    }

    #[test]
    fn hopping_windows_all_contain_the_time() {
        let hopping = windows(300_000, 60_000);
        for time in [-300_001, -1, 0, 1, 59_999, 1_000_000_007] {
            let last = hopping.last_end(time).unwrap();
            for n in 0..hopping.overlapping() {
                let end = last - n * 60_000;
                assert_eq!((hopping.start(end), hopping.before(end)), (end - 300_000, end - 60_000));
                assert!(hopping.start(end) <= time && time < end, "{time} in window to {end}");
            }
            assert!(last - hopping.overlapping() * 60_000 <= time, "no more windows");
        }
    }

    #[test]
    fn times_at_the_limits_have_no_window_and_do_not_wrap() {
        let hopping = windows(300_000, 60_000);
        assert_eq!(hopping.last_end(i64::MAX), None);
        assert_eq!(hopping.last_end(i64::MIN), None);
        assert_eq!(hopping.last_end(i64::MIN + 100_000), None);
        assert_eq!(Windows { lateness: i64::MAX, ..hopping }.last_end(1), None);
        assert!(!hopping.is_closed(0, i64::MIN));
        assert!(hopping.is_closed(0, 0) && !hopping.is_closed(1, 0));
    }

    #[test]
    fn rows_of_sessions_are_late_when_they_are_behind_the_watermark() {
        let sessions = Windows { shape: Shape::Session { gap: 1_000 }, lateness: 10 };
        assert_eq!(sessions.last_end(5), Some(1_005));
        assert_eq!(sessions.last_end(i64::MAX - 1_000), None);
        assert!(!sessions.is_late(90, 100) && sessions.is_late(89, 100));
        // What is not late is behind no session that is closed.
        assert!(sessions.is_closed(90, 100) && !sessions.is_closed(91, 100));
    }
}
