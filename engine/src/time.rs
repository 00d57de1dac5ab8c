//! Event time of one source partition: the watermark and what may move it.
//!
//! The watermark is the largest event time seen minus the bound on disorder, so it depends on the partition's own
//! prefix and on nothing else (rule R6) with two exceptions that a person can see coming:
//! - a row from the future (beyond `max_future` ahead of its record's timestamp or of the clock) doesn't move it;
//! - a partition read to its end and silent for `idle` trails the wall clock instead of holding everybody up. That
//!   can only happen at the end of the log, so a catch-up or a backfill never sees it.

use operator_core::{Millis, NO_WATERMARK};

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

impl PartitionTime {
    /// Continues at a committed watermark, [`NO_WATERMARK`] for a new partition.
    pub fn new(bounds: TimeBounds, watermark: Millis) -> PartitionTime {
        PartitionTime { bounds, watermark, silent_since: None }
    }

    pub fn watermark(&self) -> Millis {
        self.watermark
    }

    /// Takes the next row in order and returns the watermark before it.
    pub fn observe(&mut self, time: Millis, record: Option<Millis>, wall: Millis) -> Millis {
        let before = self.watermark;
        if !self.is_future(time, record, wall) {
            self.watermark = before.max(time.saturating_sub(self.bounds.out_of_order));
        }
        before
    }

    /// The event time is not believed: it lies further ahead of the record's timestamp, or of the clock, than is allowed.
    pub fn is_future(&self, time: Millis, record: Option<Millis>, wall: Millis) -> bool {
        let reference = record.map_or(wall, |r| r.min(wall));
        time > reference.saturating_add(self.bounds.max_future)
    }

    /// Records arrived.
    pub fn active(&mut self) {
        self.silent_since = None;
    }

    /// The end of the partition was reached.
    pub fn ended(&mut self, monotonic: Millis) {
        self.silent_since.get_or_insert(monotonic);
    }

    /// Lets a silent partition follow the wall clock. True if the watermark moved.
    pub fn idle(&mut self, monotonic: Millis, wall: Millis) -> bool {
        let (Some(idle), Some(since)) = (self.bounds.idle, self.silent_since) else { return false };
        let target = wall.saturating_sub(idle).saturating_sub(self.bounds.out_of_order);
        let moves = monotonic - since >= idle && target >= self.watermark.saturating_add(IDLE_STEP);
        if moves {
            self.watermark = target;
        }
        moves
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

    #[test]
    fn watermarks_trail_the_largest_time() {
        let mut p = partition();
        assert_eq!(p.observe(100, Some(100), 1_000), NO_WATERMARK);
        assert_eq!(p.observe(90, Some(100), 1_000), 95);
        assert_eq!(p.watermark(), 95);
    }

    #[test]
    fn the_future_does_not_move_it() {
        let mut p = partition();
        p.observe(1_000, Some(1_000), 2_000);
        p.observe(1_000 + 300_001, Some(1_000), 2_000);
        assert_eq!(p.watermark(), 995);
        p.observe(i64::MAX, None, 2_000);
        assert_eq!(p.watermark(), 995);
    }

    #[test]
    fn only_silence_at_the_end_follows_the_clock() {
        let mut p = partition();
        p.observe(1_000, Some(1_000), 500_000);
        assert!(!p.idle(100_000, 500_000), "the end was not reached");
        p.ended(100_000);
        assert!(!p.idle(159_999, 500_000));
        assert!(p.idle(160_000, 500_000));
        assert_eq!(p.watermark(), 500_000 - 60_000 - 5);
        p.active();
        assert!(!p.idle(900_000, 900_000));
    }

    #[test]
    fn metadata_round_trips() {
        let all = [NO_WATERMARK, 0, 1_764_000_000_000, -5, i64::MAX, i64::MIN + 1];
        assert_eq!(decode_watermarks(&encode_watermarks(&all)).unwrap(), all);
        assert_eq!(decode_watermarks("something else"), None);
    }
}
