//! A worker: lanes on their own threads, the tables they share, and a supervisor that restarts a lane when
//! it ends with an uncertain outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::lane::{LaneConfig, LaneEnd, RunningLane, Runtime, Stepped};
use crate::plan::InputKind;
use crate::tables::TableLoader;

/// How long a lane waits for records before it looks after other things.
const POLL_WAIT: Duration = Duration::from_millis(10);
/// How long a lane has to commit what it has when the worker stops. With the 5 s each that a producer and a consumer without brokers
/// take to close, that is below the 30 s after which Kubernetes kills.
const FINISH: Duration = Duration::from_secs(15);
/// First and longest pause between restarts of a lane, or of reading tables.
const RESTARTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often topics are asked for their number of partitions.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A lane that has run this long without failure is well: it is no longer restarting, and its restart backoff is reset.
const WELL_AFTER: i64 = 60_000;

/// Asks a worker to stop, from a signal handler or another thread.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The flag itself, for loops of others.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// Sleeps, but not past a stop.
    pub fn pause(&self, length: Duration) {
        let mut left = length;
        while !left.is_zero() && !self.is_stopped() {
            let nap = left.min(Duration::from_millis(50));
            std::thread::sleep(nap);
            left -= nap;
        }
    }
}

/// Runs lanes until stopped, or until one of them ends with [`LaneEnd::Stop`]. Commits what was processed before
/// it returns.
pub fn run(runtime: &Runtime, lanes: Vec<LaneConfig>, stop: &Stop) -> Result<(), LaneEnd> {
    let mut threads = Vec::new();
    if !runtime.plan.tables.is_empty() {
        threads.push(tables(runtime.clone(), stop.clone())?);
    }
    for config in lanes {
        let (runtime, stop) = (runtime.clone(), stop.clone());
        let name = format!("lane-{}", config.index);
        threads.push(spawn(&name, move || {
            // A panic is a bug, but the process must not continue with a dead lane.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| supervise(&runtime, &config, &stop)));
            stop.stop();
            ended.unwrap_or_else(|_| Err(LaneEnd::Stop("a lane panicked: this is a bug".into())))
        })?);
    }
    watch_partitions(runtime.clone(), stop.clone())?;
    let mut result = Ok(());
    for thread in threads {
        let ended = thread.join().unwrap_or_else(|_| Err(LaneEnd::Stop("a thread of the worker panicked".into())));
        result = result.and(ended);
    }
    result
}

fn spawn(name: &str, body: impl FnOnce() -> Result<(), LaneEnd> + Send + 'static) -> Result<JoinHandle<Result<(), LaneEnd>>, LaneEnd> {
    Builder::new().name(name.to_string()).spawn(body).map_err(|e| LaneEnd::Stop(format!("can't start a thread for {name}: {e}")))
}

fn supervise(runtime: &Runtime, config: &LaneConfig, stop: &Stop) -> Result<(), LaneEnd> {
    let _span = tracing::info_span!("lane", pipeline = %runtime.plan.pipeline, lane = config.index).entered();
    let (mut backoff, pulse) = (Backoff::new(RESTARTS.0, RESTARTS.1), runtime.stats.pulse(config.index));
    let mut lane = RunningLane::new(runtime.clone(), config.clone());
    let mut started = runtime.clock.monotonic();
    let mut is_well = false;
    while !stop.is_stopped() {
        let now = runtime.clock.monotonic();
        pulse.beat(now);
        // Not only commits show it: there may be nothing to commit.
        if !is_well && now - started > WELL_AFTER {
            is_well = true;
            runtime.stats.is_well(config.index);
        }
        let Stepped::Ended(cause) = lane.step(POLL_WAIT).map_err(LaneEnd::Stop)? else { continue };
        if stop.is_stopped() {
            warn_of_repeats(config, &cause);
            return Ok(());
        }
        let now = runtime.clock.monotonic();
        if now - started > WELL_AFTER {
            backoff.reset();
        }
        runtime.stats.restarted(config.index, &cause, now);
        tracing::warn!(lane = config.index, %cause, "the lane ended; restarting it from the last commit");
        stop.pause(backoff.pause());
        (started, is_well) = (runtime.clock.monotonic(), false);
    }
    match lane.finish(FINISH) {
        Err(LaneEnd::Restart(cause)) => {
            warn_of_repeats(config, &cause);
            Ok(())
        }
        ended => ended,
    }
}

fn warn_of_repeats(config: &LaneConfig, cause: &str) {
    tracing::warn!(lane = config.index, %cause, "stopped without a last commit; the next worker reads again what was not committed");
}

fn tables(runtime: Runtime, stop: Stop) -> Result<JoinHandle<Result<(), LaneEnd>>, LaneEnd> {
    spawn("tables", move || {
        let _span = tracing::info_span!("tables", pipeline = %runtime.plan.pipeline).entered();
        // Lanes must not continue with tables that are not kept current.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read_tables(&runtime, &stop)));
        stop.stop();
        ended.unwrap_or_else(|_| Err(LaneEnd::Stop("reading tables panicked: this is a bug".into())))
    })
}

fn read_tables(runtime: &Runtime, stop: &Stop) -> Result<(), LaneEnd> {
    let mut backoff = Backoff::new(RESTARTS.0, RESTARTS.1);
    let mut loader = None;
    while !stop.is_stopped() {
        let made = match loader.take() {
            Some(loader) => Ok(loader),
            None => TableLoader::new(
                &runtime.plan,
                runtime.tables.clone(),
                runtime.broker.clone(),
                runtime.schemas.clone(),
                runtime.clock.clone(),
            )
            .map_err(LaneEnd::from),
        };
        match made.and_then(|made| loader.insert(made).step(Duration::from_millis(50))) {
            Ok(()) => backoff.reset(),
            // Rows that are gone from the log were changes: a new worker reads the table from its beginning.
            Err(LaneEnd::Stop(cause)) => return Err(LaneEnd::Stop(format!("reading tables: {cause}"))),
            Err(LaneEnd::Restart(e)) => {
                tracing::warn!(cause = %e, "reading tables failed; retrying");
                stop.pause(backoff.pause());
            }
        }
    }
    Ok(())
}

/// Notices partitions that are added to topics: tables read them, sources can't before the next start, which is logged. On a
/// detached thread: with brokers away a question takes longer than a worker has to stop.
fn watch_partitions(runtime: Runtime, stop: Stop) -> Result<(), LaneEnd> {
    spawn("topics", move || {
        let inputs = runtime.plan.stages.iter().flat_map(|stage| &stage.inputs).filter(|i| matches!(i.kind, InputKind::Source(_)));
        let sources: Vec<_> = inputs.flat_map(|input| &input.topics).map(|topic| (topic.name.clone(), topic.partitions)).collect();
        let tables: Vec<_> = runtime.plan.tables.iter().map(|table| (table.topic.name.clone(), table.topic.partitions)).collect();
        while !stop.is_stopped() {
            for (topic, planned) in sources.iter().chain(&tables).filter(|_| !stop.is_stopped()) {
                let Some(found) = runtime.broker.partitions(topic).ok().flatten().filter(|found| found > planned) else { continue };
                if runtime.plan.reads(topic) {
                    runtime.stats.grown(topic, *planned, found);
                } else {
                    runtime.tables.grown(topic, found);
                }
            }
            stop.pause(LOOK_EVERY);
        }
        Ok(())
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Broker, Clock};
    use crate::operators::Operators;
    use crate::pipeline::Pipeline;
    use crate::plan::plan;
    use crate::plan::topics_to_create;
    use crate::sim::{BrokerCatalog, MemoryBroker, MemoryClock, Settings};
    use crate::yaml;

    const TEXT: &str = "apiVersion: headwater/v1\nname: p\nsources: { s: { topic: t, schema: { id: string } } }\n\
        sinks: { out: { from: s, topic: out, create: { partitions: 1 } } }\n";

    /// A lane that had been restarted, and runs since, counted as restarting endlessly where no record came for it to commit.
    #[test]
    fn a_lane_that_runs_is_well_without_a_commit() {
        let patient = i64::MAX / 4;
        let clock = MemoryClock::at(1_767_225_600_000);
        let settings = Settings { session_timeout: patient, transaction_timeout: patient, ..Settings::default() };
        let broker = MemoryBroker::with(clock.clone(), settings);
        broker.create_topic("t", 1);
        let root = yaml::parse(TEXT).unwrap();
        let pipeline = Pipeline::read(&root).0.unwrap();
        let planned = plan(&pipeline, &root, &Operators(Vec::new()), &BrokerCatalog(&broker));
        let plan = Arc::new(planned.unwrap_or_else(|found| panic!("{found:#?}")));
        broker.create_topics(&topics_to_create(&plan)).unwrap();
        let runtime = Runtime::simulated(&plan, &broker, clock.clone());
        let stats = runtime.stats.clone();
        (0..5).for_each(|_| stats.restarted(0, "fenced", clock.monotonic()));
        let stop = Stop::default();
        let worker = std::thread::spawn({
            let stop = stop.clone();
            move || run(&runtime, vec![LaneConfig::new("w", 0)], &stop).is_ok()
        });
        let begun = std::time::Instant::now();
        while stats.lanes()[&0].restarts_in_a_row > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", stats.lanes());
            clock.advance(1_000);
            std::thread::yield_now();
        }
        stop.stop();
        assert!(worker.join().unwrap());
    }
}
