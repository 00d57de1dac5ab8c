//! How large a block may be so that the store is done with it in time.

use operator_core::Millis;

use crate::delivery::Limits;

/// Rows of a block, below the sink's limit after the store was too slow for more.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The most rows, and how long the store had taken when it gave up.
    limit: Option<(usize, Millis)>,
}

impl Pace {
    /// The limits of the next block.
    pub fn limits(&self, limits: &Limits) -> Limits {
        Limits { rows: self.limit.map_or(limits.rows, |(rows, _)| rows.min(limits.rows)), ..*limits }
    }

    /// The store gave up on so many rows after `took`. They may be more than the limit: an update is not taken apart.
    pub fn too_slow(&mut self, rows: u64, took: Millis) {
        let half = usize::try_from(rows / 2).unwrap_or(usize::MAX).max(1);
        self.limit = Some((self.limit.map_or(half, |(most, _)| most.min(half)), took));
    }

    /// The store has written so many rows in `took`. Blocks grow again if twice as many would be far from the time in which it gives
    /// up: what was slow may have been a lock.
    pub fn written(&mut self, rows: u64, took: Millis, limits: &Limits) {
        let Some((most, patience)) = self.limit else { return };
        let full = usize::try_from(rows).unwrap_or(usize::MAX).saturating_mul(2) >= most;
        if full && took.saturating_mul(4) <= patience {
            let doubled = most.saturating_mul(2);
            self.limit = (doubled < limits.rows).then_some((doubled, patience));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_shrink_until_they_are_in_time_and_grow_when_they_are_fast() {
        let limits = Limits { rows: 100, bytes: 1, flush: 1 };
        let mut pace = Pace::default();
        assert_eq!(pace.limits(&limits).rows, 100);
        pace.too_slow(100, 30_000);
        pace.too_slow(50, 30_000);
        assert_eq!(pace.limits(&limits).rows, 25);
        pace.written(25, 20_000, &limits);
        assert_eq!(pace.limits(&limits).rows, 25, "twice as many would be too slow");
        pace.written(3, 1, &limits);
        assert_eq!(pace.limits(&limits).rows, 25, "few rows say nothing of many");
        pace.written(25, 5_000, &limits);
        assert_eq!(pace.limits(&limits).rows, 50);
        pace.written(50, 5_000, &limits);
        assert_eq!(pace.limits(&limits).rows, 100);
        pace.too_slow(1, 30_000);
        pace.too_slow(100, 30_000);
        assert_eq!(pace.limits(&limits).rows, 1, "what was learned is kept");
    }
}
