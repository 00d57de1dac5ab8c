//! Warnings that repeat while a broker is away: logged at intervals, with the number left out. Failed connections are the same in
//! every client of the process, and a worker has a dozen: they share one interval.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{codes, native};

/// Between two warnings of one client.
const EVERY: Duration = Duration::from_secs(10);
/// Between two warnings about connections, of all clients together.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(60);

static CONNECTIONS: Quiet = Quiet::new(CONNECTIONS_EVERY);

pub(super) struct Quiet {
    every: Duration,
    last: Mutex<Option<Instant>>,
    left_out: AtomicU64,
}

impl Default for Quiet {
    fn default() -> Quiet {
        Quiet::new(EVERY)
    }
}

impl Quiet {
    const fn new(every: Duration) -> Quiet {
        Quiet { every, last: Mutex::new(None), left_out: AtomicU64::new(0) }
    }

    /// Logs an error of a client that continues by itself.
    pub(super) fn warn(&self, place: &str, code: i32, reason: &str) {
        let quiet = if codes::is_connection(code) { &CONNECTIONS } else { self };
        if let Some(left_out) = quiet.due(Instant::now()) {
            tracing::warn!(place, error = native::describe(code), left_out, "Kafka: {reason}");
        }
    }

    /// How many were left out since the last one, if the next may be logged now.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock();
        if last.is_some_and(|last| now.duration_since(last) < self.every) {
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

    #[test]
    fn clients_share_the_warning_about_connections() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let writer = std::sync::Arc::new(written.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, || {
            for client in [Quiet::default(), Quiet::default()] {
                client.warn("reader", codes::TRANSPORT, "connection refused");
                client.warn("reader", codes::ALL_BROKERS_DOWN, "1/1 brokers are down");
                client.warn("reader", codes::AUTHENTICATION, "wrong password");
            }
        });
        let text = std::fs::read_to_string(written.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        assert!(count("refused") + count("are down") <= 1, "{lines:#?}");
        assert_eq!(count("wrong password"), 2, "{lines:#?}");
    }
}
