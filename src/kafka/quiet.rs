//! Warnings that repeat while a broker is away: logged at intervals, with the number left out.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::native;

/// Between two warnings of one client.
const EVERY: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Quiet {
    last: Mutex<Option<Instant>>,
    left_out: std::sync::atomic::AtomicU64,
}

impl Quiet {
    /// Logs an error of a client that continues by itself.
    pub(super) fn warn(&self, place: &str, code: i32, reason: &str) {
        if let Some(left_out) = self.due(Instant::now()) {
            tracing::warn!(place, error = native::describe(code), left_out, "Kafka: {reason}");
        }
    }

    /// How many were left out since the last one, if the next may be logged now.
    fn due(&self, now: Instant) -> Option<u64> {
        use std::sync::atomic::Ordering::Relaxed;
        let mut last = self.last.lock();
        if last.is_some_and(|last| now.duration_since(last) < EVERY) {
            self.left_out.fetch_add(1, Relaxed);
            return None;
        }
        *last = Some(now);
        Some(self.left_out.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_first_and_counts_the_rest() {
        let quiet = Quiet::default();
        let start = Instant::now();
        assert_eq!(quiet.due(start), Some(0));
        assert_eq!(quiet.due(start + Duration::from_secs(1)), None);
        assert_eq!(quiet.due(start + Duration::from_secs(2)), None);
        assert_eq!(quiet.due(start + EVERY), Some(2));
        assert_eq!(quiet.due(start + EVERY + EVERY), Some(0));
    }
}
