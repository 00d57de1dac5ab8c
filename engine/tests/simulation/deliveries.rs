//! The tables that a pipeline's sinks write, in memory and with faults, and the deliveries into them.

use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, TopicPartition};
use headwater_engine::delivery::{
    Deliver, DeliveryError, Limits, MemoryStore, MemoryTable, Settings, Store, TableFault, TableRow, Writing,
};
use headwater_engine::plan::Plan;
use headwater_engine::sim::{MemoryBroker, MemoryClock};

use crate::case::Random;

/// Each of them in ten thousand writes.
const ODDS: u32 = 600;
const OF_TOKENS: [TableFault; 5] =
    [TableFault::Unavailable, TableFault::RequestLost, TableFault::ReplyLost, TableFault::Late, TableFault::AskFails];
const OF_POSITIONS: [TableFault; 4] = [TableFault::Unavailable, TableFault::RequestLost, TableFault::ReplyLost, TableFault::Late];
/// Workers, each with a delivery per sink.
const WORKERS: usize = 2;

/// By how its store makes rows exact.
enum Table {
    /// As ClickHouse does.
    Tokens(MemoryTable),
    /// As PostgreSQL does.
    Positions(MemoryStore),
}

struct Sink {
    name: String,
    table: Table,
    settings: Settings,
    partitions: i32,
    deliveries: Vec<Option<Box<dyn Deliver>>>,
}

/// All sinks of a plan that write to tables: those whose names begin with `positions` into a store with positions.
pub struct Deliveries {
    sinks: Vec<Sink>,
    broker: MemoryBroker,
    clock: Arc<MemoryClock>,
    /// Crashes so far.
    pub died: u64,
}

impl Deliveries {
    pub fn new(plan: &Plan, broker: &MemoryBroker) -> Deliveries {
        let clock = broker.clock().expect("a simulated broker has a virtual clock");
        let sink = |(output, outbox): (&headwater_engine::plan::Output, &headwater_engine::plan::OutboxSink)| {
            let table = match output.name.starts_with("positions") {
                true => Table::Positions(MemoryStore::new(Writing::Insert)),
                false => Table::Tokens(MemoryTable::new(clock.clone(), 10_000)),
            };
            let group = plan.names.sink_group(&output.name);
            let defaults = Settings::new(&plan.pipeline, &output.name, &outbox.topic, &group, "w");
            let limits = Limits { rows: 7, flush: 20, ..defaults.limits };
            let settings = Settings { limits, dead_letters: Some(plan.names.refused(&output.name)), backoff: (10, 1_000), ..defaults };
            let deliveries = (0..WORKERS).map(|_| None).collect();
            Sink { name: output.name.clone(), table, settings, partitions: outbox.partitions, deliveries }
        };
        let sinks = plan.outboxes().map(sink).collect();
        Deliveries { sinks, broker: broker.clone(), clock, died: 0 }
    }

    pub fn disturb(&self, seed: u64) {
        for sink in &self.sinks {
            match &sink.table {
                Table::Tokens(table) => table.seed(seed, &OF_TOKENS.map(|fault| (fault, ODDS))),
                Table::Positions(store) => store.seed(seed, &OF_POSITIONS.map(|fault| (fault, ODDS))),
            }
        }
    }

    pub fn heal(&mut self) {
        for sink in &mut self.sinks {
            match &sink.table {
                Table::Tokens(table) => table.heal(),
                Table::Positions(store) => store.heal(),
            }
            sink.deliveries.iter_mut().for_each(|delivery| *delivery = None);
        }
    }

    /// One step of one delivery, which may die.
    pub fn trouble(&mut self, random: &mut Random) {
        let (sink, worker) = (random.below(self.sinks.len() as u64) as usize, random.below(WORKERS as u64) as usize);
        if let Some(sink) = self.sinks.get_mut(sink) {
            if random.below(300) == 0 {
                sink.deliveries[worker] = None;
                self.died += 1;
            }
            sink.step(worker, &self.broker, &self.clock);
        }
    }

    /// One step of all. True if there is more to deliver.
    pub fn step(&mut self) -> bool {
        for sink in &mut self.sinks {
            (0..WORKERS).for_each(|worker| sink.step(worker, &self.broker, &self.clock));
        }
        self.behind().next().is_some()
    }

    /// Partitions with committed rows that are not delivered, each with the position there.
    pub fn behind(&self) -> impl Iterator<Item = String> {
        self.sinks.iter().flat_map(|sink| sink.behind(&self.broker))
    }

    /// The rows of a sink's table.
    pub fn rows(&self, name: &str) -> Vec<TableRow> {
        let of = |sink: &Sink| match &sink.table {
            Table::Tokens(table) => table.rows(),
            Table::Positions(store) => store.rows(),
        };
        self.sinks.iter().filter(|sink| sink.name == name).flat_map(of).collect()
    }

    /// How often a block was inserted again, of all tables that recognise it.
    pub fn repeats(&self) -> u64 {
        let of = |sink: &Sink| if let Table::Tokens(table) = &sink.table { table.inserts().1 } else { 0 };
        self.sinks.iter().map(of).sum()
    }
}

impl Sink {
    fn step(&mut self, worker: usize, broker: &MemoryBroker, clock: &Arc<MemoryClock>) {
        let Some(slot) = self.deliveries.get_mut(worker) else { return };
        let delivery = match slot.as_mut() {
            Some(delivery) => delivery,
            None => {
                let instance = format!("w{worker}");
                let transactional_id = format!("{}.{instance}.letters", self.settings.group);
                let settings = Settings { instance, transactional_id, ..self.settings.clone() };
                let store = match &self.table {
                    Table::Tokens(table) => Store::Tokens(Box::new(table.target())),
                    Table::Positions(store) => Store::Positions(Box::new(store.connection())),
                };
                let broker: Arc<dyn Broker> = Arc::new(broker.clone());
                // The brokers may not answer now.
                let Ok(delivery) = store.deliver(broker, clock.clone(), settings, Arc::default()) else { return };
                slot.insert(delivery)
            }
        };
        match delivery.step(Duration::ZERO) {
            Ok(_) => {}
            Err(DeliveryError::Broker(_)) => *slot = None,
            Err(e) => panic!("the delivery of `{}` stopped: {e}", self.name),
        }
    }

    fn behind(&self, broker: &MemoryBroker) -> impl Iterator<Item = String> {
        let committed = broker.group_offsets(&self.settings.group);
        (0..self.partitions).filter_map(move |p| {
            let partition = TopicPartition::new(self.settings.topic.clone(), p);
            let position = committed.get(&partition).map_or(0, |c| c.offset);
            broker.has_committed(&self.settings.topic, p, position).then(|| format!("{partition} at {position}"))
        })
    }
}
