//! What librdkafka says, without what is said elsewhere. Warnings that repeat while a broker is away are logged at intervals, with the
//! number left out. Failed connections are the same in every client of the process, and a worker has a dozen: they share one interval.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{codes, native};

/// Between two warnings of one client.
const EVERY: Duration = Duration::from_secs(10);
/// Between two warnings about connections, of all clients together.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(60);

/// Kinds of librdkafka's lines that report what is logged once by others. That brokers are away: every client writes it for every broker, and
/// it is a warning of [`Quiet`], the outage of the service, and the reason why a lane is not ready. That a transaction failed, to be aborted
/// (`TXNERR`): it is the outcome of the commit, which the lane logs with what it does about it. A fatal failure is of another kind.
const REPORTED_ELSEWHERE: [&str; 4] = ["FAIL", "REQTMOUT", "SESSTMOUT", "TXNERR"];

/// Logs a line of librdkafka, at a syslog level.
pub(super) fn log(level: i32, facility: &str, text: &str) {
    match level {
        _ if REPORTED_ELSEWHERE.contains(&facility) => tracing::debug!(target: "librdkafka", facility, "{text}"),
        0..=3 => tracing::error!(target: "librdkafka", facility, "{text}"),
        4 => tracing::warn!(target: "librdkafka", facility, "{text}"),
        5 | 6 => tracing::info!(target: "librdkafka", facility, "{text}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

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

    /// What `action` logs at the default level, by line.
    fn logged(action: impl FnOnce()) -> Vec<String> {
        let written = tempfile::NamedTempFile::new().unwrap();
        let writer = std::sync::Arc::new(written.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, action);
        std::fs::read_to_string(written.path()).unwrap().lines().map(str::to_string).collect()
    }

    #[test]
    fn what_others_report_is_not_logged_twice() {
        let lines = logged(|| {
            log(3, "TXNERR", "Current transaction failed in state InTransaction: Unknown member");
            log(3, "FAIL", "Connection refused");
            log(3, "FATAL", "Fatal error: Local: This instance has been fenced");
            log(4, "MAXPOLL", "Application maximum poll interval exceeded");
        });
        assert!(lines.len() == 2 && lines[0].contains("fenced") && lines[1].contains("poll interval"), "{lines:#?}");
    }

    #[test]
    fn clients_share_the_warning_about_connections() {
        let lines = logged(|| {
            for client in [Quiet::default(), Quiet::default()] {
                client.warn("reader", codes::TRANSPORT, "connection refused");
                client.warn("reader", codes::ALL_BROKERS_DOWN, "1/1 brokers are down");
                client.warn("reader", codes::AUTHENTICATION, "wrong password");
            }
        });
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        assert!(count("refused") + count("are down") <= 1, "{lines:#?}");
        assert_eq!(count("wrong password"), 2, "{lines:#?}");
    }
}
