//! Whether lanes go on: when each last turned its loop, and whether it only ever starts again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use operator_core::Millis;
use parking_lot::Mutex;

/// How a lane is doing. Times are monotonic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When its loop turned last.
    pub beat: Millis,
    /// Restarts since its last commit.
    pub restarts_in_a_row: u32,
    /// When the first of them was, and why the last.
    pub failing_since: Millis,
    pub cause: String,
}

#[derive(Debug, Default)]
struct Lane {
    beat: Arc<AtomicI64>,
    life: Life,
}

/// The lanes of a worker.
#[derive(Debug, Default)]
pub(super) struct Lives(Mutex<BTreeMap<usize, Lane>>);

/// What a lane beats with, without a lock.
#[derive(Clone)]
pub struct Pulse(Arc<AtomicI64>);

impl Pulse {
    pub fn beat(&self, now: Millis) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl Lives {
    pub(super) fn pulse(&self, lane: usize) -> Pulse {
        Pulse(self.0.lock().entry(lane).or_default().beat.clone())
    }

    pub(super) fn restarted(&self, lane: usize, cause: &str, now: Millis) {
        let mut lanes = self.0.lock();
        let life = &mut lanes.entry(lane).or_default().life;
        if life.restarts_in_a_row == 0 {
            life.failing_since = now;
        }
        life.restarts_in_a_row += 1;
        life.cause = cause.to_string();
    }

    pub(super) fn is_well(&self, lane: usize) {
        if let Some(lane) = self.0.lock().get_mut(&lane) {
            lane.life = Life::default();
        }
    }

    pub(super) fn all(&self) -> BTreeMap<usize, Life> {
        let life = |lane: &Lane| Life { beat: lane.beat.load(Ordering::Relaxed), ..lane.life.clone() };
        self.0.lock().iter().map(|(index, lane)| (*index, life(lane))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_count_until_the_lane_is_well() {
        let lives = Lives::default();
        lives.pulse(1).beat(7);
        lives.restarted(1, "first", 10);
        lives.restarted(1, "second", 20);
        let life = Life { beat: 7, restarts_in_a_row: 2, failing_since: 10, cause: "second".into() };
        assert_eq!(lives.all(), BTreeMap::from([(1, life)]));
        lives.is_well(1);
        assert_eq!(lives.all(), BTreeMap::from([(1, Life { beat: 7, ..Life::default() })]));
    }
}
