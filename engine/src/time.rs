//! Event time of one source partition: the watermark and what may move it.
//!
//! The watermark is the largest event time seen minus the bound on disorder, so it depends on the partition's own
//! prefix and on nothing else (rule R6) with two documented exceptions:
//! - a row from the future (beyond `max_future` ahead of its record's timestamp or of the clock) doesn't move it;
//! - a partition read to its end and silent for `idle` trails the wall clock instead of holding everyone up. That
//!   can only happen at the end of the log, so a catch-up or a backfill never sees it, and only where the silence is proven
//!   ([`crate::lane`]'s `silence.rs` says how). A clock that jumps carries no watermark along ([`TrustedWall`]).

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

use operator_core::{Millis, NO_WATERMARK};

use crate::broker::Clock;

/// Idle partitions follow the clock in steps of this much, so that silence doesn't cause a commit per poll.
const IDLE_STEP: Millis = 1_000;

/// Settings of a source's event time.
#[derive(Clone, Copy, Debug)]
pub struct TimeBounds {
    pub out_of_order: Millis,
    pub idle: Option<Millis>,
    pub max_future: Millis,
}

/// The clock of one source partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionTime {
    bounds: TimeBounds,
    watermark: Millis,
    /// When the partition was last active (monotonic), once its end was reached.
    silent_since: Option<Millis>,
}

/// What [`PartitionTime::observe`] found of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The watermark before the row.
    pub watermark: Millis,
    /// The event time is not believed: it lies further ahead of the record's timestamp, or of the clock, than is allowed.
    pub is_future: bool,
}

impl PartitionTime {
    /// Continues at a committed watermark, [`NO_WATERMARK`] for a new partition.
    pub fn new(bounds: TimeBounds, watermark: Millis) -> PartitionTime {
        PartitionTime { bounds, watermark, silent_since: None }
    }

    pub fn watermark(&self) -> Millis {
        self.watermark
    }

    /// Takes the next row in order.
    pub fn observe(&mut self, time: Millis, record: Option<Millis>, wall: Millis) -> Observed {
        let before = self.watermark;
        let reference = record.map_or(wall, |r| r.min(wall));
        let is_future = time > reference.saturating_add(self.bounds.max_future);
        if !is_future {
            self.watermark = before.max(time.saturating_sub(self.bounds.out_of_order));
        }
        Observed { watermark: before, is_future }
    }

    /// Records arrived.
    pub fn active(&mut self) {
        self.silent_since = None;
    }

    /// The end of the partition was reached.
    pub fn ended(&mut self, monotonic: Millis) {
        self.silent_since.get_or_insert(monotonic);
    }

    /// Where the watermark may be if nothing came until this moment.
    fn silent_watermark(&self, until: Moment) -> Option<Millis> {
        let (idle, since) = (self.bounds.idle?, self.silent_since?);
        (until.monotonic - since >= idle).then(|| until.wall.saturating_sub(idle).saturating_sub(self.bounds.out_of_order))
    }

    /// Whether it is worth a question if anything came until this moment.
    pub fn wants_proof(&self, until: Moment) -> bool {
        self.silent_watermark(until).is_some_and(|target| target >= self.watermark.saturating_add(IDLE_STEP))
    }

    /// Nothing came until this moment, which is proven: follows the wall clock. True if the watermark moved.
    pub fn silent(&mut self, until: Moment) -> bool {
        let target = self.silent_watermark(until).filter(|target| *target > self.watermark);
        self.watermark = target.unwrap_or(self.watermark);
        target.is_some()
    }
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By which silence is measured ([`crate::broker::Clock::silence`]).
    pub monotonic: Millis,
    /// By the wall clock, as far as it is trusted.
    pub wall: Millis,
}

/// The wall clock as far as watermarks may follow it: no faster than monotonic time, unless records of sources are stamped
/// with the time it shows. A clock set back wrongly, and set right again, leaves no trace. The lanes of a worker share it, so
/// that one which starts after a jump does not take the clock for right.
#[derive(Debug)]
pub struct TrustedWall {
    /// Wall time minus monotonic time that is believed.
    ahead: AtomicI64,
}

impl TrustedWall {
    /// The clock is believed as it is now.
    pub fn of(clock: &dyn Clock) -> TrustedWall {
        TrustedWall::new(clock.wall(), clock.silence())
    }

    fn new(wall: Millis, monotonic: Millis) -> TrustedWall {
        TrustedWall { ahead: AtomicI64::new(wall.saturating_sub(monotonic)) }
    }

    /// The wall time that is believed at this monotonic time, whatever the clock shows.
    pub fn believed(&self, monotonic: Millis) -> Millis {
        monotonic.saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// How far watermarks may follow the clock, given what both clocks show.
    pub fn at(&self, wall: Millis, monotonic: Millis) -> Millis {
        wall.min(self.believed(monotonic))
    }

    /// What rows from the future are measured by: a clock that was set back makes no row one.
    pub fn reference(&self, wall: Millis, monotonic: Millis) -> Millis {
        wall.max(self.believed(monotonic))
    }

    /// A record of a source was stamped with this time; the clocks show these.
    pub fn witness(&self, timestamp: Millis, wall: Millis, monotonic: Millis) {
        self.ahead.fetch_max(timestamp.min(wall).saturating_sub(monotonic), Ordering::Relaxed);
    }
}

/// What keeps a silent partition from following the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// There is more than can be read, from offset `from` up to `to`: behind an open transaction, as a rule.
    Unread { from: i64, to: i64 },
    /// The leader does not answer.
    NoAnswer,
    /// The wall clock jumped ahead by so many milliseconds, or was set back where that is negative.
    Clock { ahead: Millis },
}

impl Held {
    /// One word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Held::Unread { .. } => "unread",
            Held::NoAnswer => "no_answer",
            Held::Clock { .. } => "clock",
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::Unread { from, to } => write!(
                f,
                "records from offset {from} up to {to} can't be read: a transaction is open there. The watermark advances once its producer ends it or the brokers abort it (transaction.timeout.ms)"
            ),
            Held::NoAnswer => f.write_str("the leader of the partition does not answer. The watermark advances once it can be reached"),
            Held::Clock { ahead } if *ahead < 0 => write!(
                f,
                "the wall clock was set back by {} s. The watermark advances once the clock has caught up. Check the clock",
                ahead.saturating_neg() / 1_000
            ),
            Held::Clock { ahead } => write!(
                f,
                "the wall clock jumped ahead by {} s, and no record has that time. Check the clock; if it is right, restart the worker",
                ahead / 1_000
            ),
        }
    }
}

/// Writes watermarks as offset-commit metadata: a version, then each as base 36 (`-` for none), short and ASCII.
pub fn encode_watermarks(watermarks: &[Millis]) -> String {
    let mut text = String::from("hw1");
    for w in watermarks {
        text.push(' ');
        if *w == NO_WATERMARK { text.push('-') } else { base36(*w, &mut text) }
    }
    text
}

/// Reads what [`encode_watermarks`] wrote; `None` for anything else, such as metadata of another tool.
pub fn decode_watermarks(text: &str) -> Option<Vec<Millis>> {
    let mut words = text.split(' ');
    if words.next() != Some("hw1") {
        return None;
    }
    words.map(|w| if w == "-" { Some(NO_WATERMARK) } else { i64::from_str_radix(w, 36).ok() }).collect()
}

fn base36(value: i64, out: &mut String) {
    let mut digits = Vec::with_capacity(13);
    let mut rest = value.unsigned_abs();
    loop {
        digits.push(char::from_digit((rest % 36) as u32, 36).unwrap_or('0'));
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push('-');
    }
    out.extend(digits.iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> PartitionTime {
        PartitionTime::new(TimeBounds { out_of_order: 5, idle: Some(60_000), max_future: 300_000 }, NO_WATERMARK)
    }

    fn at(monotonic: Millis, wall: Millis) -> Moment {
        Moment { monotonic, wall }
    }

    #[test]
    fn watermarks_trail_the_largest_time() {
        let mut p = partition();
        assert_eq!(p.observe(100, Some(100), 1_000), Observed { watermark: NO_WATERMARK, is_future: false });
        assert_eq!(p.observe(90, Some(100), 1_000), Observed { watermark: 95, is_future: false });
        assert_eq!(p.watermark(), 95);
    }

    #[test]
    fn the_future_does_not_move_it() {
        let mut p = partition();
        p.observe(1_000, Some(1_000), 2_000);
        assert!(p.observe(1_000 + 300_001, Some(1_000), 2_000).is_future);
        assert_eq!(p.watermark(), 995);
        p.observe(i64::MAX, None, 2_000);
        assert_eq!(p.watermark(), 995);
    }

    #[test]
    fn only_silence_at_the_end_follows_the_clock() {
        let mut p = partition();
        p.observe(1_000, Some(1_000), 500_000);
        assert!(!p.silent(at(100_000, 500_000)), "the end was not reached");
        p.ended(100_000);
        assert!(!p.silent(at(159_999, 500_000)));
        assert!(p.wants_proof(at(160_000, 500_000)) && p.silent(at(160_000, 500_000)));
        assert_eq!(p.watermark(), 500_000 - 60_000 - 5);
        assert!(!p.wants_proof(at(160_999, 500_999)), "not for every millisecond");
        assert!(!p.silent(at(170_000, 400_000)), "never back");
        p.active();
        assert!(!p.silent(at(900_000, 900_000)));
    }

    #[test]
    fn the_wall_is_trusted_as_far_as_time_passed_or_records_show_it() {
        let wall = TrustedWall::new(1_000_000, 0);
        assert_eq!(wall.at(1_005_000, 5_000), 1_005_000);
        assert_eq!(wall.at(4_605_000, 5_000), 1_005_000, "it jumped ahead");
        assert_eq!(wall.at(905_000, 5_000), 905_000, "it jumped back");
        assert_eq!(wall.at(1_006_000, 6_000), 1_006_000, "and was set right");
        wall.witness(9_000_000, 4_606_000, 6_000);
        assert_eq!(wall.at(4_606_000, 6_000), 4_606_000, "a record shows the time, and no more than the clock does");
        wall.witness(0, 4_606_000, 6_000);
        assert_eq!(wall.at(4_607_000, 7_000), 4_607_000, "an old record shows nothing");
    }

    #[test]
    fn metadata_round_trips() {
        let all = [NO_WATERMARK, 0, 1_764_000_000_000, -5, i64::MAX, i64::MIN + 1];
        assert_eq!(decode_watermarks(&encode_watermarks(&all)).unwrap(), all);
        assert_eq!(decode_watermarks("something else"), None);
    }
}
