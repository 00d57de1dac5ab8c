//! One run of a case: the production lanes over the in-memory Kafka, on a virtual clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock, TopicPartition};
use headwater_engine::lane::{LaneConfig, RunningLane, Runtime, Stepped};
use headwater_engine::plan::{Plan, PlanNode};
use headwater_engine::schemas::MemorySchemas;
use headwater_engine::sim::{Faults, MemoryBroker, MemoryClock, Settings};
use headwater_engine::stats::Stats;
use headwater_engine::tables::{LoadedTables, TableLoader};
use operator_core::Millis;

use super::arrival::Arrival;
use super::crash::{CrashingBroker, Trigger, surviving};
use super::encode::{Input, Records, Step};
use super::outcome::{Causes, Outcome, output_topics};
use super::schedule::Schedule;
use super::tables::{Fits, Sinks};
use super::topics::{TopicSettings, create_topics};

/// Turns of nothing that count as the end; a turn is ten milliseconds.
const QUIET: usize = 6;
const TURN: Millis = 10;
/// First step in which `@advance` lets time pass. The others grow by this part of the time that has passed: a day takes
/// some ten steps, and what waits for a time is late by less than a fifth of what it waited for.
const STRIDE: Millis = 3_000;
const GROWTH: Millis = 5;
/// The brokers end a transaction that is open for longer.
const TRANSACTION_TIMEOUT: Millis = 30_000;
/// Live members stay in the group, however long a step takes.
const SESSION: Millis = i64::MAX / 4;
/// More turns than any case needs: a run that has not ended by then did not finish.
const TURNS: usize = 20_000;
/// Steps in which a table's new records are read: a step takes some thousand of them.
const TABLE_STEPS: usize = 100;
/// More lane restarts than any schedule causes.
const RESTARTS: usize = 100;

struct Run<'a> {
    plan: &'a Arc<Plan>,
    schedule: &'a Schedule,
    broker: MemoryBroker,
    /// The same, for whom the schedule may let crash.
    crashing: Arc<dyn Broker>,
    trigger: Arc<Trigger>,
    clock: Arc<MemoryClock>,
    sinks: Sinks,
    tables: Arc<LoadedTables>,
    loader: Option<TableLoader>,
    schemas: Arc<MemorySchemas>,
    stats: Arc<Stats>,
    lanes: Vec<RunningLane>,
    dir: Option<tempfile::TempDir>,
    /// Lanes that ended with an uncertain outcome.
    restarts: usize,
    causes: Causes,
}

/// Runs the records of a case under a schedule.
///
/// # Errors
/// A lane stopped permanently, or the run did not finish; then the message says what it waits for.
pub fn run(plan: &Arc<Plan>, topics: &TopicSettings, fits: &Fits, records: &Records, schedule: &Schedule) -> Result<Outcome, String> {
    let mut run = prepare(plan, topics, fits, records, schedule)?;
    run.play(records)?;
    run.leave()?;
    Ok(run.outcome())
}

/// Topics without records, lanes that are not started.
fn prepare<'a>(
    plan: &'a Arc<Plan>,
    topics: &TopicSettings,
    fits: &Fits,
    records: &Records,
    schedule: &'a Schedule,
) -> Result<Run<'a>, String> {
    let clock = MemoryClock::at(records.latest.max(1_767_225_600_000));
    let settings = Settings { session_timeout: SESSION, transaction_timeout: TRANSACTION_TIMEOUT, ..Settings::default() };
    let broker = MemoryBroker::with(clock.clone(), settings);
    create_topics(plan, topics, &broker)?;
    let schemas = Arc::new(MemorySchemas::new(records.schemas.iter().map(|(id, text)| (*id, text.as_str()))));
    let dir = if schedule.cold { None } else { Some(tempfile::tempdir().map_err(|e| e.to_string())?) };
    let trigger = Trigger::new(schedule.crash);
    let crashing: Arc<dyn Broker> = Arc::new(CrashingBroker { broker: Arc::new(broker.clone()), trigger: trigger.clone() });
    let mut run = Run {
        plan,
        schedule,
        broker,
        sinks: Sinks::new(plan, fits, crashing.clone(), clock.clone(), trigger.clone(), schedule),
        crashing,
        trigger,
        clock,
        tables: Arc::new(LoadedTables::new(plan)),
        loader: None,
        schemas,
        stats: Arc::default(),
        lanes: Vec::new(),
        dir,
        restarts: 0,
        causes: Causes::default(),
    };
    run.lanes = (0..schedule.lanes).map(|index| run.lane(index)).collect();
    Ok(run)
}

impl Run<'_> {
    fn play(&mut self, records: &Records) -> Result<(), String> {
        let mut faults = Faults::none();
        self.schedule.faults.iter().for_each(|(fault, skip)| faults.script(*skip, *fault));
        self.broker.set_faults(faults);
        let is_table = |step: &Step| matches!(step, Step::Record(input) if input.table);
        let before = records.steps.iter().take_while(|step| is_table(step)).count();
        let (tables, steps) = records.steps.split_at(before);
        for step in tables {
            if let Step::Record(input) = step {
                self.write(input)?;
            }
        }
        self.load_tables()?;
        let middle = steps.len() / 2;
        let mut together: Vec<&Input> = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            match step {
                Step::Record(input) if !input.table => together.push(input),
                // Rows before it see the table as it was.
                Step::Record(input) => {
                    self.arrive(&mut together)?;
                    self.settle()?;
                    self.write(input)?;
                    self.read_tables()?;
                }
                Step::Advance(span) => {
                    self.arrive(&mut together)?;
                    self.advance(*span)?;
                }
            }
            if self.schedule.rebalance && n == middle {
                self.arrive(&mut together)?;
                self.turns(5)?;
                self.lanes.pop();
                self.broker.expire_dropped();
            }
        }
        self.arrive(&mut together)?;
        self.settle()
    }

    /// Writes records of streams in the order of the schedule, and lets them be read in portions. All are in the log before the first is
    /// read: what depends on the clock alone must wait for what was written before, and so comes after them, however they are read.
    fn arrive(&mut self, records: &mut Vec<&Input>) -> Result<(), String> {
        let mut portions = Vec::new();
        for portion in self.schedule.arrival.portions(&std::mem::take(records)) {
            let written: Result<Vec<_>, String> = portion.into_iter().map(|input| Ok((input, self.write(input)?))).collect();
            portions.push(written?);
        }
        if self.schedule.arrival == Arrival::Together {
            return Ok(());
        }
        for (input, offset) in portions.iter().flatten().rev() {
            self.broker.hold(&input.topic, input.partition, Some(*offset));
        }
        for portion in &portions {
            for (input, offset) in portion {
                self.broker.hold(&input.topic, input.partition, Some(offset + 1));
            }
            self.settle()?;
            if let (true, Some((input, _))) = (self.schedule.is_reference(), portion.first()) {
                let topics = output_topics(self.plan, &self.broker);
                self.causes.settled(&self.broker, &topics, &format!("{}-{}", input.topic, input.partition));
            }
        }
        for (input, _) in portions.iter().flatten() {
            self.broker.hold(&input.topic, input.partition, None);
        }
        Ok(())
    }

    /// Returns its offset.
    fn write(&self, input: &Input) -> Result<i64, String> {
        let Input { topic, partition, key, value, headers, timestamp, .. } = input;
        let timestamp = timestamp.or_else(|| Some(self.clock.wall()));
        let written = self.broker.append(topic, *partition, key.as_deref(), value.as_deref(), timestamp, headers);
        written.map_err(|e| format!("can't write a record of the case: {e}"))
    }

    /// Lets time pass.
    fn advance(&mut self, span: Millis) -> Result<(), String> {
        self.settle()?;
        let mut passed = 0;
        while passed < span {
            let stride = (passed / GROWTH).max(STRIDE).min(span - passed);
            self.clock.advance(stride);
            passed += stride;
            self.settle()?;
        }
        Ok(())
    }

    fn load_tables(&mut self) -> Result<(), String> {
        let broker: Arc<dyn Broker> = Arc::new(self.broker.clone());
        let loader = TableLoader::new(self.plan, self.tables.clone(), broker, self.schemas.clone(), self.clock.clone());
        self.loader = Some(loader.map_err(|e| e.to_string())?);
        self.read_tables()?;
        if self.tables.ready() { Ok(()) } else { Err("can't read the tables".into()) }
    }

    /// Reads tables to where their topics end.
    fn read_tables(&mut self) -> Result<(), String> {
        let Some(loader) = &mut self.loader else { return Ok(()) };
        for _ in 0..TABLE_STEPS {
            loader.step(Duration::ZERO).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// A lane of a worker of its own, not started.
    fn lane(&self, index: usize) -> RunningLane {
        let runtime = Runtime {
            broker: self.crashing.clone(),
            schemas: self.schemas.clone(),
            schema_ids: Arc::new(|_, _| Ok(1_000)),
            tables: self.tables.clone(),
            stats: self.stats.clone(),
            ..Runtime::simulated(self.plan, &self.broker, self.clock.clone())
        };
        let state_dir: Option<PathBuf> = self.dir.as_ref().map(|dir| dir.path().join(index.to_string()));
        // What is polled at once is one epoch at least: small epochs need small polls.
        let poll_rows = self.schedule.epoch_rows.min(8_192) as usize;
        let config = LaneConfig { state_dir, epoch_rows: self.schedule.epoch_rows, poll_rows, ..LaneConfig::new("case", index) };
        RunningLane::new(runtime, config)
    }

    /// One step of every lane and every delivery; what ended is restarted. True if something was done.
    fn step(&mut self) -> Result<bool, String> {
        let stepped = surviving(|| self.step_lanes().and_then(|busy| Ok(self.sinks.step()? || busy)));
        stepped.unwrap_or_else(|| {
            // The worker died in the middle of it.
            self.lanes = (0..self.lanes.len()).map(|index| self.lane(index)).collect();
            self.sinks.die();
            self.broker.expire_dropped();
            Ok(true)
        })
    }

    fn step_lanes(&mut self) -> Result<bool, String> {
        let mut busy = false;
        for lane in &mut self.lanes {
            match lane.step(Duration::ZERO).map_err(|why| format!("a lane stopped: {why}"))? {
                Stepped::Idle => {}
                Stepped::Busy => busy = true,
                Stepped::Ended(why) => {
                    busy = true;
                    self.restarts += 1;
                    if self.restarts > RESTARTS {
                        return Err(format!("lanes restart endlessly: {why}"));
                    }
                    self.broker.expire_dropped();
                }
            }
        }
        Ok(busy)
    }

    /// Lets the pipeline work for a turn. The wall stands still meanwhile: only `@advance` lets the time of a case pass, so
    /// that no answer depends on how long the work took.
    fn turn(&mut self) -> Result<bool, String> {
        self.clock.work(TURN);
        self.step()
    }

    fn turns(&mut self, turns: usize) -> Result<(), String> {
        for _ in 0..turns {
            self.turn()?;
        }
        Ok(())
    }

    /// Steps until every record is read, processed, committed and delivered.
    fn settle(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..TURNS {
            quiet = if self.turn()? { 0 } else { quiet + 1 };
            if quiet <= QUIET {
                continue;
            }
            if !self.broker.open_transactions().is_empty() {
                // That of a worker that is gone. It ends by its timeout, and hides what was written behind it until then.
                self.clock.work(TRANSACTION_TIMEOUT + 1);
                self.broker.settle();
                quiet = 0;
            } else if self.unread().next().is_none() && self.sinks.undelivered(&self.broker).next().is_none() {
                return Ok(());
            }
        }
        Err(format!("did not finish: {}", self.waits_for()))
    }

    /// Input partitions with committed records that are not processed and committed, and the position there.
    fn unread(&self) -> impl Iterator<Item = (TopicPartition, i64)> {
        let committed = self.broker.group_offsets(&self.plan.names.group());
        let topics = self.plan.stages.iter().flat_map(|s| &s.inputs).flat_map(|i| &i.topics);
        let partitions = topics.flat_map(|topic| (0..topic.partitions).map(|p| TopicPartition::new(topic.name.clone(), p)));
        let positions = partitions.map(move |partition| {
            let position = committed.get(&partition).map_or(0, |c| c.offset);
            (partition, position)
        });
        positions.filter(|(partition, position)| self.broker.has_committed(&partition.topic, partition.partition, *position))
    }

    /// What a run that does not come to its end is waiting for.
    fn waits_for(&self) -> String {
        let open = self.broker.open_transactions().into_iter().map(|partition| format!("the transaction that is open in {partition}"));
        let at = |what: &str, (partition, position): (TopicPartition, i64)| format!("{what} {partition} from offset {position} on");
        let unread = self.unread().map(|left| at("the processing of", left));
        let undelivered = self.sinks.undelivered(&self.broker).map(|left| at("the delivery of", left));
        let all: Vec<String> = open.chain(unread).chain(undelivered).collect();
        match all.is_empty() {
            true => format!("it is still busy after {TURNS} turns"),
            false => format!("it waits for {}", all.join(", ")),
        }
    }

    /// Lanes leave; deliveries take what they left.
    fn leave(&mut self) -> Result<(), String> {
        for lane in self.lanes.drain(..) {
            let _ = surviving(|| lane.finish(Duration::from_secs(1)));
        }
        // Inserts that are late arrive.
        self.clock.work(120_000);
        self.settle()
    }

    fn outcome(&mut self) -> Outcome {
        let happened = self.broker.faults_happened();
        let faults = self.schedule.faults.iter().all(|(fault, _)| happened.contains_key(fault));
        let disturbed = faults && self.trigger.is_spent() && self.sinks.are_struck();
        let mut outcome = Outcome { disturbed, ..Outcome::default() };
        outcome.read(self.plan, &self.broker, &self.causes);
        for (table, rows) in self.sinks.rows() {
            outcome.table(&table, rows);
        }
        let mut held: BTreeMap<String, u64> = BTreeMap::new();
        for ((step, partition), (rows, ledger)) in &self.stats.snapshot().steps {
            if let Ok(rows @ 1..) = u64::try_from(ledger.held) {
                *held.entry(step.to_string()).or_default() += rows;
            }
            if *rows as i64 != ledger.accounted() {
                outcome.errors.push(format!("    the ledger of `{step}` in partition {partition}: {rows} rows in, {ledger:?}"));
            }
        }
        // The tables that a join of changes keeps wait for no time.
        let is_table = |node: &&PlanNode| node.planned.outputs.first().is_some_and(|port| port.mode.is_changes());
        let tables: Vec<&str> = self.plan.stages.iter().flat_map(|s| &s.nodes).filter(is_table).map(|node| node.step.as_str()).collect();
        outcome.held = held.into_iter().filter(|(step, _)| !tables.contains(&step.as_str())).collect();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_run_that_can_not_finish_says_what_it_waits_for() {
        let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/inventory-levels/pipeline.yaml");
        let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let suite = super::super::suite(&pipeline, &super::super::Options { schemas, only: "low_stock".into(), schedule: None });
        let suite = suite.unwrap_or_else(|problems| panic!("{}", problems[0].message));
        // Nothing consumes what is written.
        let schedule = Schedule { lanes: 0, ..Schedule::plain() };
        let said = run(&suite.plan, &suite.topics, &suite.fits, &suite.cases[0].records, &schedule).err().unwrap();
        assert!(said.starts_with("did not finish: it waits for the processing of business.inventory.adjusted-"), "{said}");
        assert!(said.ends_with(" from offset 0 on"), "{said}");
    }
}
