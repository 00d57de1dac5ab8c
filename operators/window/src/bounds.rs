//! Which windows an event time belongs to. Windows are aligned to the Unix epoch in UTC, also before 1970.

use operator_core::Millis;

/// The windows of a step: `size` long, one starting every `every`, kept open for `lateness` after their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    pub size: Millis,
    /// Divides `size`; equal to it for tumbling windows.
    pub every: Millis,
    pub lateness: Millis,
    /// One window for all time, which never closes.
    pub unbounded: bool,
}

/// Where the window for all time ends, in state: past every event time that can be processed.
const FOREVER: Millis = Millis::MAX - 1;

impl Windows {
    /// The one window for all time.
    pub const UNBOUNDED: Windows = Windows { size: 1, every: 1, lateness: 0, unbounded: true };

    /// How many windows every event time is in.
    pub fn overlapping(&self) -> i64 {
        self.size / self.every
    }

    /// The end of the last window that contains `time`; the others end `every` earlier each. `None` if a bound of one
    /// of them, or its end plus lateness, is out of range.
    #[inline]
    pub fn last_end(&self, time: Millis) -> Option<Millis> {
        if self.unbounded {
            return Some(FOREVER);
        }
        let into = time.rem_euclid(self.every);
        // The first window starts `size - every` before the last one does.
        let start = time.checked_sub(into)?;
        start.checked_sub(self.size - self.every)?;
        let end = start.checked_add(self.size)?;
        end.checked_add(self.lateness)?;
        Some(end)
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
        Windows { size, every, lateness: 0, unbounded: false }
    }

    #[test]
    fn tumbling_windows_start_at_the_epoch_on_both_sides() {
        let minute = windows(60_000, 60_000);
        for (time, end) in [(0, 60_000), (59_999, 60_000), (60_000, 120_000), (-1, 0), (-60_000, 0), (-60_001, -60_000)] {
            assert_eq!(minute.last_end(time), Some(end), "{time}");
        }
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
                let end = last - n * hopping.every;
                assert!(end - hopping.size <= time && time < end, "{time} in window to {end}");
            }
            assert!(last - hopping.overlapping() * hopping.every <= time, "no more windows");
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
}
