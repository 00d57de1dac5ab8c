//! The command line of `hw generate`.

use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::GenerateError;
use crate::options::{Limit, Options};
use crate::publish::{Format, Pace, Progress, Target, publish};
use crate::schedule::{Spike, seconds};
use crate::totals::Totals;

/// Write a load of e-commerce events to Kafka: orders, payments, stock changes, registrations, and the tables they refer to
///
/// The same seed and options give the same events. Without --event-rate the load is live: --rate events per second, with event
/// times that follow the clock. With --event-rate it is a backfill: written as fast as the broker takes it (or at --rate), with
/// event times as if so many events had happened per second, ending about now.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Events per second [default: 1000, unless --event-rate is given]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rate: Option<f64>,

    /// A burst: FACTORx@START or FACTORx@START:LENGTH, for example 10x@30s or 10x@30s:10s
    #[arg(long, value_name = "SPIKE")]
    pub spike: Option<Spike>,

    /// Backfill: events per second of event time, written as fast as possible unless --rate is set
    #[arg(long, value_name = "N", value_parser = positive)]
    pub event_rate: Option<f64>,

    /// Event time of the first event, for example 2025-08-12T10:00:00Z [default: now for a live load; a backfill ends now, or starts six days ago if it has no limit]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub start: Option<i64>,

    /// Stop after this many events, not counting the table rows written first
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    pub events: Option<u64>,

    /// Stop after this many seconds of event time (for a live load: of the clock)
    #[arg(long, value_name = "N", value_parser = positive)]
    pub seconds: Option<f64>,

    /// Seed of all random choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Encoding of values
    #[arg(long, value_enum, default_value_t = Format::Avro)]
    pub format: Format,

    /// Partitions of topics that do not exist yet
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,

    /// Replication factor of topics that do not exist yet; -1 leaves it to the broker
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=100))]
    pub replication: i32,

    /// Products in the catalogue
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub products: u32,

    /// Customers at the start
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub customers: u32,

    /// Maximum disorder: an event's time is at most this far before its arrival
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = milliseconds)]
    pub out_of_order: i64,

    /// Share of events that are sent twice with the same eventId
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, value_parser = share)]
    pub duplicates: f64,

    /// Share of orders written with version 2 of their schema (data.couponCode)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub v2_share: f64,

    /// Share of orders that arrive 5 to 15 minutes after they happened
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub late: f64,

    /// Do not write the product and customer tables first
    #[arg(long)]
    pub no_tables: bool,

    /// Print no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// Without a limit and without a start, a backfill begins this long ago: within the seven days that the topics keep.
const SIX_DAYS_MS: i64 = 6 * 24 * 3_600 * 1_000;

impl Args {
    /// The load that these arguments describe, when it is now `now_ms`.
    pub fn plan(&self, now_ms: i64) -> (Options, Pace) {
        let live = self.event_rate.is_none();
        let event_rate = self.event_rate.or(self.rate).unwrap_or(1_000.0);
        let mut limit = match (self.events, self.seconds) {
            (Some(events), _) => Limit::Events(events),
            (None, Some(seconds)) => Limit::Seconds(seconds),
            (None, None) => Limit::Endless,
        };
        let pace = match self.rate {
            None if !live => Pace::Fast,
            rate => Pace::Paced { rate: rate.unwrap_or(event_rate), spike: self.spike, follow_clock: live && self.start.is_none() },
        };
        let start_ms = self.start.unwrap_or_else(|| match limit {
            _ if live => now_ms,
            // A future record time is refused by brokers, so the end is what is fixed.
            Limit::Events(events) => now_ms - (events as f64 / event_rate * 1000.0) as i64,
            Limit::Seconds(seconds) => now_ms - (seconds * 1000.0) as i64,
            Limit::Endless => now_ms - SIX_DAYS_MS,
        });
        if limit == Limit::Endless && pace == Pace::Fast {
            // As fast as possible it would run into the future; it ends at the present instead.
            limit = Limit::Seconds((now_ms - start_ms).max(0) as f64 / 1000.0);
        }
        let options = Options {
            seed: self.seed,
            products: self.products,
            customers: self.customers,
            start_ms,
            event_rate,
            // In a backfill the burst belongs to the pace if there is one, else to event time.
            spike: if live || pace == Pace::Fast { self.spike } else { None },
            out_of_order_ms: self.out_of_order,
            duplicates: self.duplicates,
            v2_share: self.v2_share,
            late: self.late,
            tables: !self.no_tables,
            limit,
        };
        (options, pace)
    }
}

/// Writes the load that the arguments describe and says on standard error how it goes. Blocks until the limit is reached.
///
/// # Errors
/// Those of [`publish`].
pub fn run(args: &Args, bootstrap: &str, registry: Option<&str>) -> Result<Totals, GenerateError> {
    let quiet = args.quiet;
    run_until(args, bootstrap, registry, &AtomicBool::new(false), &mut || {}, &mut |progress: &Progress| {
        if !quiet {
            let time = chrono::DateTime::from_timestamp_millis(progress.time_ms).unwrap_or_default();
            let time = time.format("%Y-%m-%d %H:%M:%S");
            let behind = match progress.behind.as_millis() {
                0..100 => String::new(),
                late => format!(", {late} ms behind"),
            };
            eprintln!("{} records, {:.0}/s, event time {time}{behind}", progress.records, progress.rate);
        }
    })
}

/// [`run`] with the caller's own stop flag, beginning (see [`publish`]) and progress report: every record sent before the flag was seen is
/// acknowledged when it returns.
///
/// # Errors
/// Those of [`publish`].
pub fn run_until(
    args: &Args,
    bootstrap: &str,
    registry: Option<&str>,
    stop: &AtomicBool,
    begin: &mut dyn FnMut(),
    progress: &mut dyn FnMut(&Progress),
) -> Result<Totals, GenerateError> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let (options, pace) = args.plan(now_ms);
    let target = Target {
        bootstrap: bootstrap.to_owned(),
        registry: registry.map(str::to_owned),
        partitions: args.partitions,
        replication: args.replication,
    };
    publish(options, &target, args.format, pace, stop, begin, progress)
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("`{text}` is not a number above zero")),
    }
}

pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` is not a share: write a number from 0 to 1, for example 0.001")),
    }
}

fn milliseconds(text: &str) -> Result<i64, String> {
    seconds(text).map(|seconds| (seconds * 1000.0) as i64)
}

fn time(text: &str) -> Result<i64, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|error| format!("`{text}` is not a time like 2025-08-12T10:00:00Z: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    const NOW: i64 = 1_755_000_000_000;

    fn plan(line: &str) -> (Options, Pace) {
        Command::try_parse_from(line.split_whitespace()).unwrap().args.plan(NOW)
    }

    #[test]
    fn a_live_load_follows_the_clock() {
        let (options, pace) = plan("generate --rate 10000 --spike 10x@30s --seconds 60");
        assert_eq!((options.start_ms, options.event_rate, options.limit), (NOW, 10_000.0, Limit::Seconds(60.0)));
        assert_eq!(pace, Pace::Paced { rate: 10_000.0, spike: options.spike, follow_clock: true });
        assert!(options.spike.is_some());
    }

    #[test]
    fn a_backfill_ends_now() {
        let (options, pace) = plan("generate --event-rate 1000 --events 60000 --out-of-order 500ms");
        assert_eq!((options.start_ms, options.out_of_order_ms, pace), (NOW - 60_000, 500, Pace::Fast));
        let (options, pace) = plan("generate --event-rate 1000");
        assert_eq!((options.limit, pace), (Limit::Seconds(6.0 * 86_400.0), Pace::Fast));
        let (options, _) = plan("generate --event-rate 1000 --start 2025-08-12T11:59:00Z --v2-share 0.3");
        assert_eq!((options.limit, options.v2_share), (Limit::Seconds(60.0), 0.3));
    }

    #[test]
    fn a_paced_backfill_keeps_its_own_event_time() {
        let (options, pace) = plan("generate --event-rate 100 --rate 5000 --spike 2x@1s --events 100");
        assert_eq!((options.event_rate, options.spike), (100.0, None));
        assert!(matches!(pace, Pace::Paced { rate: 5_000.0, spike: Some(_), follow_clock: false }));
    }

    #[test]
    fn wrong_arguments_say_what_would_be_right() {
        for (line, hint) in [
            ("generate --spike soon", "10x@30s"),
            ("generate --rate 0", "above zero"),
            ("generate --duplicates 2", "from 0 to 1"),
            ("generate --out-of-order 3y", "use ms, s, m or h"),
            ("generate --events 1 --seconds 1", "cannot be used with"),
            ("generate --start yesterday", "2025-08-12T10:00:00Z"),
        ] {
            let error = Command::try_parse_from(line.split_whitespace()).err().expect(line).to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
