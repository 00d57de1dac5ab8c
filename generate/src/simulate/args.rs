//! The command lines of `hw simulate`.

use crate::args::share;
use crate::schedule::seconds;

use super::{Behaviour, OrderOptions, UserOptions};

/// Options of services that answer commands.
#[derive(Debug, Clone, clap::Args)]
pub struct ParticipantArgs {
    /// Time to an answer: the least and the greatest
    #[arg(long, value_name = "TIME..TIME", default_value = "20ms..200ms", value_parser = times)]
    pub latency: (i64, i64),

    /// Share of requests that are refused: payments declined, shipments failed
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub decline: f64,

    /// Share of commands whose answer is lost. What they ask for is done
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub lose: f64,

    /// Share of answers that come twice, with the same eventId
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub double: f64,

    /// Share of answers that come late
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub late: f64,

    /// Time to a late answer
    #[arg(long, value_name = "TIME..TIME", default_value = "10s..60s", value_parser = times)]
    pub late_by: (i64, i64),

    /// Seed of all random choices: with the same one, a command has the same answer again
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Stop after so many answers
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

impl ParticipantArgs {
    /// How the service is to behave.
    pub fn behaviour(&self) -> Behaviour {
        Behaviour {
            seed: self.seed,
            latency_ms: self.latency,
            decline: self.decline,
            lose: self.lose,
            double: self.double,
            late: self.late,
            late_ms: self.late_by,
        }
    }
}

/// Options of orders.
#[derive(Debug, Clone, clap::Args)]
pub struct OrderArgs {
    /// Orders per second
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = crate::args::positive)]
    pub rate: f64,

    /// Stop after so many orders
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,

    /// Number of SKUs; the first ones are ordered most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub skus: u32,

    /// Number of SKUs whose stock is divided into buckets
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub hot: u32,

    /// Buckets of each of these
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub buckets: u32,

    /// Number of customers
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub customers: u32,

    /// Most lines of an order
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub lines: u32,

    /// Pieces of each SKU to receive before the first order
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub stock: u64,

    /// Receive them again every so often [default: once]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    pub restock: Option<u64>,

    /// Seed of all random choices: with the same one, the same orders are placed again
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

impl OrderArgs {
    /// The orders to place.
    pub fn options(&self) -> OrderOptions {
        OrderOptions {
            seed: self.seed,
            count: self.count,
            skus: self.skus,
            hot: self.hot,
            buckets: self.buckets,
            customers: self.customers,
            lines: (1, self.lines),
            stock: self.stock,
        }
    }
}

/// Options of users.
#[derive(Debug, Clone, clap::Args)]
pub struct UserArgs {
    /// Events per second
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = crate::args::positive)]
    pub rate: f64,

    /// Stop after so many events
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,

    /// Seed of all random choices: with the same one, the same events are written again
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

impl UserArgs {
    /// The events to write.
    pub fn options(&self) -> UserOptions {
        UserOptions { seed: self.seed, count: self.count, ..UserOptions::default() }
    }
}

fn millis(text: &str) -> Result<u64, String> {
    seconds(text).map(|seconds| (seconds * 1000.0) as u64)
}

fn times(text: &str) -> Result<(i64, i64), String> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let millis = |text: &str| millis(text).map(|millis| millis as i64);
    let (low, high) = (millis(low)?, millis(high)?);
    if low <= high { Ok((low, high)) } else { Err(format!("`{text}` ends before it begins: write the shorter time first")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_range_or_one_time() {
        assert_eq!(times("20ms..2s"), Ok((20, 2_000)));
        assert_eq!(times("1m"), Ok((60_000, 60_000)));
        for (wrong, hint) in [("2s..1s", "shorter"), ("3 soon", "use ms, s, m or h"), ("-1s", "250ms"), ("1s..3y", "use ms, s, m or h")] {
            assert!(times(wrong).unwrap_err().contains(hint), "{wrong}");
        }
    }
}
