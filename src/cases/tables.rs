//! The tables of a case: for each ClickHouse sink a table in memory and the production delivery into it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock, TopicPartition};
use headwater_engine::delivery::{Check, Delivery, Limits, MemoryTable, Settings, Step};
use headwater_engine::memory::MemoryBroker;
use headwater_engine::plan::{Output, Plan, Target};
use serde_json::Value;

use super::crash::{CrashingTarget, Trigger};
use super::schedule::Schedule;
use crate::catalog::Folder;
use crate::clickhouse::{Fit, columns_for};
use crate::deliver::rows_of;

/// Tokens that a table remembers: more than any case inserts.
const WINDOW: usize = 10_000;

/// What the columns of each sink's table take, by the sink's name.
pub type Fits = BTreeMap<String, Arc<Check>>;

/// The columns as the files of `folder` create them; where none does, as they are made for the rows.
pub fn fits(plan: &Plan, folder: &Folder) -> Fits {
    let outputs = plan.stages.iter().flat_map(|stage| &stage.outputs);
    let fit = |output: &Output| {
        let Target::Outbox { table, .. } = &output.target else { return None };
        let fit = match folder.tables.get(table) {
            Some(created) => Fit::new(&created.columns),
            None => Fit::new(&columns_for(&rows_of(output))),
        };
        let check: Arc<Check> = Arc::new(move |rows| fit.apply(rows).map(drop));
        Some((output.name.clone(), check))
    };
    outputs.filter_map(fit).collect()
}

/// A sink, its table and what carries rows there.
struct Sink {
    table: String,
    memory: MemoryTable,
    settings: Settings,
    partitions: i32,
    delivery: Option<Delivery>,
}

/// All tables of a run.
pub struct Sinks {
    sinks: Vec<Sink>,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    trigger: Arc<Trigger>,
}

impl Sinks {
    pub fn new(
        plan: &Plan,
        fits: &Fits,
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        trigger: Arc<Trigger>,
        schedule: &Schedule,
    ) -> Sinks {
        let outputs = plan.stages.iter().flat_map(|stage| &stage.outputs);
        let sinks = outputs.filter_map(|output| Sink::new(plan, fits, output, clock.clone(), schedule)).collect();
        Sinks { sinks, broker, clock, trigger }
    }

    /// One step of every delivery; those that ended are restarted. True if something was done.
    pub fn step(&mut self) -> Result<bool, String> {
        let mut busy = false;
        for sink in &mut self.sinks {
            let delivery = match &mut sink.delivery {
                Some(delivery) => delivery,
                none => {
                    let target = CrashingTarget { target: sink.memory.target(), trigger: self.trigger.clone() };
                    let started = Delivery::new(self.broker.clone(), self.clock.clone(), Box::new(target), sink.settings.clone());
                    match started {
                        Ok(delivery) => none.insert(delivery),
                        // The brokers can't be asked now.
                        Err(_) => continue,
                    }
                }
            };
            match delivery.step(Duration::ZERO) {
                Ok(step) => busy |= step == Step::Busy,
                Err(headwater_engine::delivery::DeliveryError::Broker(_)) => {
                    sink.delivery = None;
                    busy = true;
                }
                Err(e) => return Err(format!("the delivery to {} stopped: {e}", sink.table)),
            }
        }
        Ok(busy)
    }

    /// The worker died: deliveries are gone, tables are not.
    pub fn die(&mut self) {
        self.sinks.iter_mut().for_each(|sink| sink.delivery = None);
    }

    /// Partitions of outbox topics with committed rows that are not delivered, and the position there.
    pub fn undelivered(&self, broker: &MemoryBroker) -> impl Iterator<Item = (TopicPartition, i64)> {
        let partitions = self.sinks.iter().flat_map(|sink| {
            let committed = broker.group_offsets(&sink.settings.group);
            (0..sink.partitions).map(move |p| {
                let partition = TopicPartition::new(sink.settings.topic.clone(), p);
                let position = committed.get(&partition).map_or(0, |c| c.offset);
                (partition, position)
            })
        });
        partitions.filter(|(partition, position)| broker.has_committed(&partition.topic, partition.partition, *position))
    }

    /// Every table has met the fault of the schedule.
    pub fn are_struck(&self) -> bool {
        self.sinks.iter().all(|sink| sink.memory.is_struck())
    }

    /// The rows of every table, by its name.
    pub fn rows(&self) -> Vec<(String, Vec<Result<Value, String>>)> {
        let rows = |sink: &Sink| sink.memory.rows().iter().map(|row| serde_json::from_str(&row.json).map_err(|e| e.to_string())).collect();
        self.sinks.iter().map(|sink| (sink.table.clone(), rows(sink))).collect()
    }
}

impl Sink {
    fn new(plan: &Plan, fits: &Fits, output: &Output, clock: Arc<dyn Clock>, schedule: &Schedule) -> Option<Sink> {
        let Target::Outbox { topic, partitions, table, .. } = &output.target else { return None };
        let memory = MemoryTable::new(clock, WINDOW);
        let memory = match fits.get(&output.name) {
            Some(check) => memory.checked(check.clone()),
            None => memory,
        };
        if let Some((fault, skip)) = schedule.table_fault {
            memory.inject(skip, fault);
        }
        let group = plan.names.sink_group(&output.name);
        let defaults = Settings::new(&plan.pipeline, topic, &group, "case");
        let limits = Limits { rows: schedule.epoch_rows.clamp(1, 100) as usize, flush: 20, ..defaults.limits };
        let settings = Settings { dead_letters: Some(plan.names.refused(&output.name)), limits, backoff: (10, 1_000), ..defaults };
        Some(Sink { table: table.clone(), memory, settings, partitions: *partitions, delivery: None })
    }
}
