//! Up to which time of the wall clock a partition was read.
//!
//! A timer of the wall clock must not overtake what was in the log before its time: an answer that came in time would be taken for
//! missing because the worker was down, or is behind. That a record is the last one delivered proves nothing, and under load there is
//! always another. So the high watermarks that the lane asks for (`silence.rs`) serve here too: the partition did not end behind one of
//! them when the question was asked, and once the position is there, everything that was appended until then has been read. Where a
//! partition is far behind, its watermark goes on as rows are read, and timers with it.
//!
//! Nothing of this is committed. After a restart or a rewind it is asked again, and until then the watermark alone counts.

use operator_core::{Millis, NO_WATERMARK};

/// See the module text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    time: Millis,
    /// What the clock showed at the time of a question, and the end that was its answer: once that is read, the time is reached.
    next: Option<(Millis, i64)>,
}

impl Default for Reached {
    fn default() -> Reached {
        Reached { time: NO_WATERMARK, next: None }
    }
}

impl Reached {
    /// The time that is reached where everything before `position` was read.
    pub fn at(&self, position: i64) -> Millis {
        match self.next {
            Some((asked, high)) if position >= high => self.time.max(asked),
            _ => self.time,
        }
    }

    /// The leader, asked at `asked`, answered with the high watermark `high`. An end that is not read yet is kept: under load a later one
    /// would never be reached.
    pub fn ends(&mut self, asked: Millis, high: i64, position: i64) {
        self.time = self.at(position);
        self.next = self.next.filter(|(_, high)| position < *high).or(Some((asked, high)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_reached_once_what_was_there_then_is_read() {
        let mut reached = Reached::default();
        assert_eq!(reached.at(5), NO_WATERMARK);
        reached.ends(1_000, 7, 5);
        assert_eq!((reached.at(6), reached.at(7)), (NO_WATERMARK, 1_000));
        // Under load the end moves on, and the partition follows.
        reached.ends(2_000, 9, 6);
        assert_eq!((reached.at(6), reached.at(7), reached.at(9)), (NO_WATERMARK, 1_000, 1_000));
        reached.ends(3_000, 11, 8);
        assert_eq!((reached.at(8), reached.at(11)), (1_000, 3_000));
        // A clock that was set back.
        reached.ends(2_500, 12, 12);
        assert_eq!(reached.at(12), 3_000);
    }
}
