//! How large the batches of producers may be, for all producers of a worker.
//!
//! Where a batch is refused as a whole, smaller ones tell whether it was a record or the size. Either may pass: the record becomes
//! a dead letter, a topic gets other settings. So batches grow again, one step after so many commits, and twice as many if a
//! step turned out too large: a topic that takes little costs an aborted transaction ever more rarely.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

/// By which batches shrink and grow.
const STEP: u32 = 10;
/// Commits before the first step up, and the most before any.
const PATIENCE: u32 = 100;
const MOST_PATIENCE: u32 = 1 << 16;

/// See the module text.
pub(super) struct Batches {
    /// Looked at before every transaction.
    bytes: AtomicU32,
    /// As configured.
    most: u32,
    growth: Mutex<Growth>,
}

struct Growth {
    /// Commits with batches of the present size.
    commits: u32,
    patience: u32,
    /// The last change was a step up.
    grew: bool,
}

impl Batches {
    pub(super) fn new(most: u32) -> Batches {
        let growth = Mutex::new(Growth { commits: 0, patience: PATIENCE, grew: false });
        Batches { bytes: AtomicU32::new(most), most, growth }
    }

    /// Bytes of a batch of a client that is made now.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A batch of a client whose batches have `sent` bytes was refused as a whole. The size from now on, if that is a smaller one.
    pub(super) fn refused(&self, sent: u32) -> Option<u32> {
        let mut growth = self.growth.lock();
        let smaller = (sent / STEP).max(1);
        if smaller >= self.bytes() {
            return None;
        }
        self.bytes.store(smaller, Ordering::Relaxed);
        growth.commits = 0;
        if std::mem::take(&mut growth.grew) {
            growth.patience = growth.patience.saturating_mul(2).min(MOST_PATIENCE);
        }
        Some(smaller)
    }

    /// A transaction of such a client was committed. The size from now on, if that is a larger one.
    pub(super) fn committed(&self, sent: u32) -> Option<u32> {
        if sent == self.most || sent != self.bytes() {
            return None;
        }
        let mut growth = self.growth.lock();
        growth.commits += 1;
        if growth.commits < growth.patience {
            return None;
        }
        let larger = sent.saturating_mul(STEP).min(self.most);
        self.bytes.store(larger, Ordering::Relaxed);
        growth.commits = 0;
        growth.grew = true;
        Some(larger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits until batches grow.
    fn commits(batches: &Batches) -> u32 {
        let sent = batches.bytes();
        (1..).find(|_| batches.committed(sent).is_some()).unwrap()
    }

    #[test]
    fn batches_recover_from_a_record_that_nobody_named() {
        let batches = Batches::new(1_000_000);
        while batches.bytes() > 1 {
            batches.refused(batches.bytes());
        }
        assert_eq!(batches.refused(1), None);
        let total: u32 = (0..6).map(|_| commits(&batches)).sum();
        assert_eq!((batches.bytes(), total), (1_000_000, 6 * PATIENCE));
        assert_eq!(batches.committed(1_000_000), None);
    }

    #[test]
    fn a_size_that_is_refused_again_is_tried_ever_more_rarely() {
        let batches = Batches::new(1_000_000);
        batches.refused(1_000_000);
        let tries: Vec<u32> = (0..12)
            .map(|_| {
                let commits = commits(&batches);
                assert_eq!(batches.refused(1_000_000), Some(100_000));
                commits
            })
            .collect();
        assert_eq!(tries[..4], [100, 200, 400, 800]);
        assert_eq!(tries.last(), Some(&MOST_PATIENCE));
    }

    #[test]
    fn a_client_from_before_a_change_changes_nothing() {
        let batches = Batches::new(1_000);
        assert_eq!(batches.refused(1_000), Some(100));
        assert_eq!(batches.refused(1_000), None, "another client of the old size");
        (0..2 * PATIENCE).for_each(|_| assert_eq!(batches.committed(1_000), None));
        commits(&batches);
        assert_eq!(batches.refused(100), Some(10), "one that is smaller already");
    }

    #[test]
    fn the_configured_size_is_the_largest() {
        let batches = Batches::new(16_384);
        batches.refused(16_384);
        commits(&batches);
        assert_eq!(batches.bytes(), 16_380);
        commits(&batches);
        assert_eq!(batches.bytes(), 16_384);
    }
}
