//! Throughput: a topic that is full already is worked off, by one contender after the other, round after round.
//!
//! Figures of one machine on one afternoon differ by half between runs of the same program. So contenders take turns,
//! every figure is also given as a ratio to the copy loop of the same round, and the medians of rounds are reported.

use std::time::Duration;

use crate::check;
use crate::cluster::Cluster;
use crate::contender::{Contender, Run};
use crate::native::Producer;
use crate::orders::{Expected, Orders, PARTITIONS, now_ns, partitions};
use crate::process::{Measured, Usage};
use crate::threads;

/// Between two looks at the committed positions.
const LOOK: Duration = Duration::from_millis(10);
/// A contender that commits nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Transaction markers that may follow the last record of an internal partition, and so look like records that are not
/// committed yet. That nothing but markers is left shows when the positions have not moved for [`SETTLED`].
const MARKERS: i64 = 16 * PARTITIONS as i64;
const SETTLED: Duration = Duration::from_millis(500);

/// What one run showed.
#[derive(Clone, Debug)]
pub struct Drained {
    pub records: u64,
    /// From the start of the process to the commit of the last input record.
    pub wall: Duration,
    /// From the start of the process to the first commit, and the records in it.
    pub first: (Duration, u64),
    pub usage: Usage,
    /// CPU seconds of the process per million input records of the second half: of a program that has warmed up.
    pub second_half: f64,
    /// Output records, all of them checked.
    pub output: u64,
}

impl Drained {
    /// Input records per second, start of the program included.
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.wall.as_secs_f64()
    }

    /// Input records per second from the first commit on.
    pub fn running_rate(&self) -> f64 {
        let (at, records) = self.first;
        (self.records - records) as f64 / self.wall.saturating_sub(at).as_secs_f64().max(1e-3)
    }

    /// CPU seconds of the process per million input records.
    pub fn cpu_per_million(&self) -> f64 {
        self.usage.cpu.as_secs_f64() * 1e6 / self.records as f64
    }
}

/// Fills a topic with the orders.
pub fn fill(cluster: &Cluster, topic: &str, orders: &Orders) -> Result<(), String> {
    cluster.create(topic)?;
    let producer = Producer::new(&cluster.bootstrap, None, topic, Duration::from_millis(20))?;
    let partitions = partitions();
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for order in orders.iter() {
        key.clear();
        value.clear();
        order.key(&mut key);
        order.value(now_ns(), &mut value);
        producer.send(partitions.get(order.product as usize).copied().unwrap_or(0), &key, &value)?;
        if order.number % 1_024 == 0 {
            producer.serve(Duration::ZERO);
        }
    }
    producer.flush()
}

/// Lets a contender work off the topic, then checks what it wrote and removes it.
pub fn run(cluster: &Cluster, contender: &Contender, run: &Run, orders: &Orders, expected: &Expected) -> Result<Drained, String> {
    contender.outputs(run).iter().try_for_each(|topic| cluster.create(topic))?;
    let group = cluster.group(&contender.group(run))?;
    let log = run.dir.join(format!("{}.log", run.id));
    let mut process = Measured::start(contender.command(run)?, &log)?;
    let (mut first, mut half, mut last) = (None, None, (Duration::ZERO, 0));
    let inputs = contender.inputs(run);
    // Every order has a payment.
    let records = orders.count * inputs.len() as u64;
    let wall = loop {
        std::thread::sleep(LOOK);
        process.check()?;
        // Errors before the group exists are expected.
        let done: i64 = inputs.iter().flat_map(|input| group.committed(input).unwrap_or_default().into_values()).sum();
        let lag = match contender.repartition(run) {
            Some(topic) if done as u64 >= records => group.lag(&topic).unwrap_or(i64::MAX),
            _ => 0,
        };
        let now = process.started.elapsed();
        if done > 0 && first.is_none() {
            first = Some((now, done as u64));
        }
        if half.is_none() && done as u64 >= records / 2 {
            half = Some((done as u64, threads::total(process.id()).unwrap_or_default()));
        }
        if done - lag != last.1 {
            last = (now, done - lag);
        }
        if done as u64 >= records && (lag == 0 || lag <= MARKERS && now - last.0 > SETTLED) {
            break last.0;
        }
        if now - last.0 > PATIENCE {
            let behind = contender.repartition(run).map_or(String::new(), |topic| format!(", {topic} behind: {:?}", group.lag(&topic)));
            return Err(format!("{} stands still at {done} of {} records{behind}:\n{}", contender.name, records, process.log_tail()));
        }
    };
    let second_half = match (half, threads::total(process.id())) {
        (Some((done, before)), Some(after)) if done < records => (after - before) * 1e6 / (records - done) as f64,
        _ => f64::NAN,
    };
    let usage = process.stop()?;
    let output = check::output(cluster, run, contender.work, orders, expected).map_err(|e| format!("{}: {e}", contender.name))?;
    cluster.delete_matching(&format!("-{}", run.id))?;
    Ok(Drained { records, wall, first: first.unwrap_or((wall, 0)), usage, second_half, output })
}
