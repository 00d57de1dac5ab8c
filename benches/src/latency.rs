//! Latency: orders are sent at a steady rate; the time from a row's `created_ns` to the moment a `read_committed`
//! consumer of the output has it is measured for each. The path has two hops over the broker, one before and one behind
//! the program, and the wait for the program's next commit, half the commit interval on average.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::commands::Commands;
use crate::contender::{Contender, Run, Work};
use crate::native::{Consumer, Producer, Share};
use crate::orders::{Orders, PARTITIONS, now_ns, partition};
use crate::process::Measured;
use crate::threads::{self, Threads};

/// Orders are not counted this long, while the program gets up to speed.
const WARM: Duration = Duration::from_secs(5);
/// How long the program may take to its first output.
const START: Duration = Duration::from_secs(60);
/// Orders are lost if nothing has come for this long.
const QUIET: Duration = Duration::from_secs(30);
/// As long as it isn't known how many orders are expected.
const NOT_ALL_SENT: u64 = u64::MAX;

/// Options of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Orders per second.
    pub rate: u64,
    /// How long, after warming up.
    pub length: Duration,
}

/// Latencies of one run in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    sorted: Vec<f64>,
}

impl Latencies {
    /// The latency that the share `q` of orders did not exceed.
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = (self.sorted.len() as f64 * q).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

/// What one run showed.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub latencies: Latencies,
    /// CPU time of the program's threads while orders were counted.
    pub threads: Threads,
}

/// Sends orders through a contender and measures each.
pub fn run(cluster: &Cluster, contender: &Contender, run: &Run, load: Load) -> Result<Measurement, String> {
    cluster.create(&run.input)?;
    contender.outputs(run).iter().try_for_each(|topic| cluster.create(topic))?;
    let rows = Rows::of(contender.work, load);
    let mut consumer =
        Consumer::new(&cluster.bootstrap, &format!("bench-seen-{}", run.id), &run.output(), Share::Assigned, Duration::from_millis(10))?;
    let producer = Producer::new(&cluster.bootstrap, None, &run.input, Duration::from_millis(1))?;
    let mut process = Measured::start(contender.command(run)?, &run.dir.join(format!("{}.log", run.id)))?;
    await_first(&producer, &mut consumer, &mut process, &rows)?;
    let expected = AtomicU64::new(NOT_ALL_SENT);
    let since = now_ns() + WARM.as_nanos() as u64;
    let program = process.id();
    let (latencies, threads) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| observe(&mut consumer, since, &expected));
        let warm = scope.spawn(|| {
            std::thread::sleep(WARM);
            threads::now(program)
        });
        let sent = send(&producer, &rows, load.rate, since);
        expected.store(sent.clone().unwrap_or(0), Ordering::Release);
        let (warm, end) = (warm.join().map_err(|_| "the look at the threads panicked".to_string())?, threads::now(program));
        let seen = seen.join().map_err(|_| "the observer panicked".to_string())?;
        sent.and(seen).map(|latencies| (latencies, Threads::between(&warm, &end)))
    })?;
    process.check()?;
    process.stop()?;
    drop((consumer, producer));
    let (expected, seen) = (expected.into_inner(), latencies.count() as u64);
    if seen != expected {
        return Err(format!("{}: {seen} orders came out, not {expected}", contender.name));
    }
    cluster.delete_matching(&format!("-{}", run.id))?;
    Ok(Measurement { latencies, threads })
}

/// What is sent.
enum Rows {
    /// `all`: all of them come out, not the large ones alone.
    Orders { orders: Orders, all: bool },
    /// `accepted`: which of them lead to an event.
    Commands { commands: Commands, accepted: Vec<bool> },
}

impl Rows {
    fn of(work: Work, load: Load) -> Rows {
        let orders = Orders::new(load.rate * (WARM + load.length).as_secs(), load.rate, (now_ns() / 1_000_000) as i64);
        match work {
            Work::Aggregate => {
                let commands = Commands::as_many_as(&orders);
                Rows::Commands { accepted: commands.accepted(), commands }
            }
            _ => Rows::Orders { orders, all: work == Work::Copy },
        }
    }

    fn count(&self) -> u64 {
        match self {
            Rows::Orders { orders, .. } => orders.count,
            Rows::Commands { commands, .. } => commands.count,
        }
    }

    fn comes_out(&self, number: u64) -> bool {
        match self {
            Rows::Orders { orders, all } => *all || orders.order(number).is_large(),
            Rows::Commands { accepted, .. } => accepted.get(number as usize).copied().unwrap_or_default(),
        }
    }

    /// Writes key and value of a row that is created now, and returns its partition and when that is.
    fn put(&self, number: u64, key: &mut Vec<u8>, value: &mut Vec<u8>) -> (i32, u64) {
        key.clear();
        value.clear();
        let created = now_ns();
        match self {
            Rows::Orders { orders, .. } => {
                let order = orders.order(number);
                order.key(key);
                order.value(created, value);
            }
            Rows::Commands { commands, .. } => {
                let command = commands.command(number);
                command.key(key);
                command.value(created, value);
            }
        }
        (partition(key), created)
    }
}

/// Sends a row until it comes out: the program is ready.
fn await_first(producer: &Producer, consumer: &mut Consumer, process: &mut Measured, rows: &Rows) -> Result<(), String> {
    let first = (0..rows.count()).find(|number| rows.comes_out(*number)).ok_or("no row comes out")?;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let (own, _) = rows.put(first, &mut key, &mut value);
    // An inventory relies on its key's partition.
    let partitions = if matches!(rows, Rows::Commands { .. }) { own..own + 1 } else { 0..PARTITIONS };
    let started = Instant::now();
    let mut seen = 0;
    while seen == 0 {
        process.check()?;
        if started.elapsed() > START {
            return Err(format!("nothing comes out after {START:?}:\n{}", process.log_tail()));
        }
        for partition in partitions.clone() {
            producer.send(partition, &key, &value)?;
        }
        seen = consumer.poll(Duration::from_millis(200), |_| Ok(()))?;
    }
    Ok(())
}

/// Sends the rows, each at its time. Returns how many of those sent from `since` on come out.
fn send(producer: &Producer, rows: &Rows, rate: u64, since: u64) -> Result<u64, String> {
    let started = Instant::now();
    let mut counted = 0;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for number in 0..rows.count() {
        let due = Duration::from_nanos(number * 1_000_000_000 / rate);
        while let Some(early) = due.checked_sub(started.elapsed()).filter(|early| !early.is_zero()) {
            producer.serve(Duration::ZERO);
            std::thread::sleep(early.min(Duration::from_millis(1)));
        }
        let (partition, created) = rows.put(number, &mut key, &mut value);
        counted += u64::from(created >= since && rows.comes_out(number));
        producer.send(partition, &key, &value)?;
    }
    producer.flush()?;
    Ok(counted)
}

/// Takes the output until all that is expected has come. Orders created before `since` are not counted.
fn observe(consumer: &mut Consumer, since: u64, expected: &AtomicU64) -> Result<Latencies, String> {
    let mut latencies = Vec::new();
    let mut last = Instant::now();
    while (latencies.len() as u64) < expected.load(Ordering::Acquire) && last.elapsed() < QUIET {
        let mut created = Vec::new();
        let n = consumer.poll(Duration::from_millis(1), |record| {
            created.push(created_ns(record.value).ok_or("an output record without created_ns")?);
            Ok(())
        })?;
        let now = now_ns();
        if n > 0 {
            last = Instant::now();
        }
        latencies.extend(created.into_iter().filter(|at| *at >= since).map(|at| now.saturating_sub(at) as f64 / 1e6));
    }
    latencies.sort_by(f64::total_cmp);
    Ok(Latencies { sorted: latencies })
}

/// The number behind `"created_ns":`, without reading the rest of the record.
fn created_ns(value: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"created_ns\":";
    let start = value.windows(NAME.len()).position(|w| w == NAME)? + NAME.len();
    let digits = value.get(start..)?.iter().skip_while(|b| **b == b' ').take_while(|b| b.is_ascii_digit());
    Some(digits.fold(0u64, |n, b| n.wrapping_mul(10).wrapping_add(u64::from(b - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let latencies = Latencies { sorted: (1..=100).map(f64::from).collect() };
        assert_eq!([0.5, 0.95, 0.99, 1.0].map(|q| latencies.quantile(q)), [50.0, 95.0, 99.0, 100.0]);
        assert!(Latencies::default().quantile(0.5).is_nan());
    }

    #[test]
    fn finds_when_an_order_was_created() {
        assert_eq!(created_ns(br#"{"a":1,"created_ns": 17,"b":2}"#), Some(17));
        assert_eq!(created_ns(br#"{"a":1}"#), None);
    }
}
