//! The tables of a case: for each sink that writes to a table, one in memory and the production delivery into it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock, TopicPartition};
use headwater_engine::delivery::{Check, Deliver, Limits, MemoryStore, MemoryTable, Settings, Step, Store, TableFault, TableRow};
use headwater_engine::plan::{OutboxSink, Output, Plan};
use headwater_engine::sim::MemoryBroker;
use serde_json::Value;

use super::case_names::of_table;
use super::crash::{CrashingTarget, Trigger};
use super::schedule::Schedule;
use crate::pipeline_files::catalog::Folder;
use crate::sinks::{self, Twin};

/// Tokens that a table remembers: more than any case inserts.
const WINDOW: usize = 10_000;

/// What the columns of each sink's table take, by the sink's name.
pub type Fits = BTreeMap<String, Arc<Check>>;

/// The columns as the files of `folder` create them; where none does, as they are made for the rows.
///
/// # Errors
/// A file can't be read.
pub fn fits(plan: &Plan, folder: &Folder) -> Result<Fits, String> {
    let fit = |(output, outbox, sink): (&Output, &OutboxSink, &dyn sinks::Sink)| {
        let check = sink.fits(&outbox.rows, &folder.dir.join(outbox.table.kind()))?;
        Ok((output.name.clone(), check))
    };
    sinks::all(plan).map(fit).collect()
}

/// A sink, its table and what carries rows there.
struct Sink {
    /// Its name in cases.
    table: String,
    memory: Memory,
    settings: Settings,
    partitions: i32,
    delivery: Option<Box<dyn Deliver>>,
}

/// A table in memory, by how its store makes rows exact.
enum Memory {
    Tokens(MemoryTable),
    Positions(MemoryStore),
}

impl Memory {
    fn new(twin: &Twin, check: Option<Arc<Check>>, clock: Arc<dyn Clock>, fault: Option<(TableFault, u32)>) -> Memory {
        match twin {
            Twin::Tokens(changed_by) => {
                let table = MemoryTable::new(clock, WINDOW);
                let table = changed_by.clone().map_or(table.clone(), |key| table.changed_by(key));
                fault.iter().for_each(|(fault, skip)| table.inject(*skip, *fault));
                Memory::Tokens(check.map_or(table.clone(), |check| table.checked(check)))
            }
            Twin::Positions(writing) => {
                let store = MemoryStore::new(writing.clone());
                fault.iter().for_each(|(fault, skip)| store.inject(*skip, *fault));
                Memory::Positions(check.map_or(store.clone(), |check| store.checked(check)))
            }
        }
    }

    /// A new connection, which may crash.
    fn open(&self, trigger: &Arc<Trigger>) -> Store {
        let trigger = trigger.clone();
        match self {
            Memory::Tokens(table) => Store::Tokens(Box::new(CrashingTarget { target: table.target(), trigger })),
            Memory::Positions(store) => Store::Positions(Box::new(CrashingTarget { target: store.connection(), trigger })),
        }
    }

    fn is_struck(&self) -> bool {
        match self {
            Memory::Tokens(table) => table.is_struck(),
            Memory::Positions(store) => store.is_struck(),
        }
    }

    fn rows(&self) -> Vec<TableRow> {
        match self {
            Memory::Tokens(table) => table.rows(),
            Memory::Positions(store) => store.rows(),
        }
    }
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
        let sinks = plan.outboxes().map(|(output, outbox)| Sink::new(plan, fits, output, outbox, clock.clone(), schedule)).collect();
        Sinks { sinks, broker, clock, trigger }
    }

    /// One step of every delivery; those that ended are restarted. True if something was done.
    pub fn step(&mut self) -> Result<bool, String> {
        let mut busy = false;
        for sink in &mut self.sinks {
            let delivery = match &mut sink.delivery {
                Some(delivery) => delivery,
                none => {
                    let store = sink.memory.open(&self.trigger);
                    match store.deliver(self.broker.clone(), self.clock.clone(), sink.settings.clone(), Arc::default()) {
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

    /// The rows of every table, by its name in cases.
    pub fn rows(&self) -> Vec<(String, Vec<Result<Value, String>>)> {
        let rows = |sink: &Sink| sink.memory.rows().iter().map(|row| serde_json::from_str(&row.json).map_err(|e| e.to_string())).collect();
        self.sinks.iter().map(|sink| (sink.table.clone(), rows(sink))).collect()
    }
}

impl Sink {
    fn new(plan: &Plan, fits: &Fits, output: &Output, outbox: &OutboxSink, clock: Arc<dyn Clock>, schedule: &Schedule) -> Sink {
        let twin = sinks::of(outbox.table.as_ref()).map_or(Twin::Tokens(None), |sink| sink.twin(&outbox.rows));
        let memory = Memory::new(&twin, fits.get(&output.name).cloned(), clock, schedule.table_fault);
        let group = plan.names.sink_group(&output.name);
        let defaults = Settings::new(&plan.pipeline, &output.name, &outbox.topic, &group, "case");
        let limits = Limits { rows: schedule.epoch_rows.clamp(1, 100) as usize, flush: 20, ..defaults.limits };
        let settings = Settings { dead_letters: Some(plan.names.refused(&output.name)), limits, backoff: (10, 1_000), ..defaults };
        Sink { table: of_table(plan, outbox.table.as_ref()), memory, settings, partitions: outbox.partitions, delivery: None }
    }
}
