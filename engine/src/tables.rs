//! Loading tables: compacted topics read from the beginning, kept current, shared by the lanes of a worker.
//!
//! No lane starts before every table has been read to the end that its topic had when the worker started. After that, updates
//! are applied as they come; a row looks up the table as it is at that moment (`as_of: event_time` looks at the
//! version valid at the row's own time instead). Tables are not part of the transaction: a table row and a stream
//! row written at the same moment may meet in either order.
//!
//! Partitions that are added later are read as well. A transaction that is open at the start hides the end of its
//! partition: it is reported at once ([`LoadedTables::waits`]), and after [`OPEN_AT_MOST`] the worker stops.

mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operator_core::{Millis, Table, Tables};
use parking_lot::RwLock;

use self::rows::Rows;
use crate::broker::{Broker, BrokerError, Clock, Event, Reader, RecordSet, TopicPartition};
use crate::lane_end::LaneEnd;
use crate::plan::Plan;
use crate::schemas::{SchemaSource, Unread};
use crate::wording::without_values;

/// The tables of a worker.
pub struct LoadedTables {
    tables: BTreeMap<String, RwLock<Table>>,
    /// Records by table that could not be used.
    bad: parking_lot::Mutex<BTreeMap<String, u64>>,
    /// Records by table whose key has other bytes than an earlier equal one.
    other_bytes: parking_lot::Mutex<BTreeMap<String, u64>>,
    ready: AtomicBool,
    /// Topics that were seen with so many partitions.
    grown: parking_lot::Mutex<BTreeMap<Arc<str>, i32>>,
    /// Partitions that can't be read to their end for now, and why.
    waits: parking_lot::Mutex<BTreeMap<TopicPartition, String>>,
}

impl LoadedTables {
    pub fn new(plan: &Plan) -> LoadedTables {
        let tables: BTreeMap<_, _> =
            plan.tables.iter().map(|t| (t.name.clone(), RwLock::new(Table::new(t.schema.clone(), t.history)))).collect();
        let ready = AtomicBool::new(tables.is_empty());
        let (bad, other_bytes) = Default::default();
        LoadedTables { tables, bad, other_bytes, ready, grown: Default::default(), waits: Default::default() }
    }

    /// The topic of a table has this many partitions: the new ones are read from their beginning.
    pub fn grown(&self, topic: &Arc<str>, partitions: i32) {
        self.grown.lock().insert(topic.clone(), partitions);
    }

    /// What keeps tables from being read to their ends.
    pub fn waits(&self) -> Vec<String> {
        self.waits.lock().values().cloned().collect()
    }

    fn loaded(&self) {
        self.tables.values().for_each(|table| table.write().loaded());
        self.ready.store(true, Ordering::Release);
    }

    /// Every table was read to its end once.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Records per table that could not be used since the worker started.
    pub fn bad_records(&self) -> BTreeMap<String, u64> {
        self.bad.lock().clone()
    }

    fn bad(&self, table: &str, partition: &TopicPartition, offset: i64, cause: &str) {
        *self.bad.lock().entry(table.to_string()).or_default() += 1;
        let cause = without_values(cause);
        tracing::warn!(%partition, offset, cause, table, "skipped an invalid table record; the previous row stays");
    }

    /// Records per table whose key has other bytes than an earlier record with an equal key, since the worker started.
    pub fn keys_in_other_bytes(&self) -> BTreeMap<String, u64> {
        self.other_bytes.lock().clone()
    }

    /// Kafka compacts by the bytes of keys: it keeps the older record for ever, beside the newer one or after a deletion.
    fn other_bytes(&self, table: &str, partition: &TopicPartition, offsets: &[i64]) {
        let Some(offset) = offsets.first() else { return };
        let mut counts = self.other_bytes.lock();
        let count = counts.entry(table.to_string()).or_default();
        if *count == 0 {
            tracing::warn!(
                %partition, offset, table,
                "a key of the table is written in two notations (another schema id, order of members or spaces): compaction keeps a record of \
                 each, so a row that is deleted in one of them is there again after a restart, once its tombstone is gone. Write deletions \
                 with the bytes of the rows' keys"
            );
        }
        *count += offsets.len() as u64;
    }

    /// Rows per table.
    pub fn sizes(&self) -> Vec<(String, usize)> {
        self.tables.iter().map(|(name, t)| (name.clone(), t.read().len())).collect()
    }
}

impl Tables for LoadedTables {
    fn with(&self, name: &str, read: &mut dyn FnMut(&Table)) -> bool {
        self.tables.get(name).map(|t| read(&t.read())).is_some()
    }
}

/// A transaction that stays open this long hides its end for a reason: brokers end it after 15 minutes at most
/// (`transaction.max.timeout.ms`), unless they lost track of it.
const OPEN_AT_MOST: Millis = 20 * 60_000;
/// One that is just being ended is not reported.
const OPEN_AT_LEAST: Millis = 1_000;

/// Reads the topics of all tables.
pub struct TableLoader {
    tables: Arc<LoadedTables>,
    schemas: Arc<dyn SchemaSource>,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    reader: Option<Box<dyn Reader>>,
    /// Where each partition is read on, should the reader break: never from the start again, or rows would go back in
    /// time under running lanes.
    positions: BTreeMap<TopicPartition, i64>,
    rows: Vec<Rows>,
    /// Where each partition ended at the start, until it was reached.
    open: BTreeMap<TopicPartition, Target>,
    waiting: Vec<(TopicPartition, Box<dyn RecordSet>, usize)>,
}

impl TableLoader {
    pub fn new(
        plan: &Plan,
        tables: Arc<LoadedTables>,
        broker: Arc<dyn Broker>,
        schemas: Arc<dyn SchemaSource>,
        clock: Arc<dyn Clock>,
    ) -> Result<TableLoader, BrokerError> {
        let mut rows = Vec::new();
        let (mut positions, mut open) = (BTreeMap::new(), BTreeMap::new());
        for table in &plan.tables {
            rows.push(Rows::new(table).map_err(BrokerError::fatal)?);
            for partition in 0..table.topic.partitions {
                let tp = TopicPartition::new(table.topic.name.clone(), partition);
                let (low, high) = broker.bounds(&tp)?;
                positions.insert(tp.clone(), low);
                if high > low {
                    open.insert(tp, Target { end: high, readable: (-1, 0), warned: false });
                }
            }
        }
        if open.is_empty() {
            tables.loaded();
        }
        Ok(TableLoader { tables, schemas, broker, clock, reader: None, positions, rows, open, waiting: Vec::new() })
    }

    /// Records still to be read before the tables are ready.
    pub fn left(&self) -> usize {
        self.open.len()
    }

    /// Takes what has arrived, waiting up to `wait`. After an error the next call reads on where this one stopped.
    ///
    /// # Errors
    /// [`LaneEnd::Stop`]: no later call will do better.
    pub fn step(&mut self, wait: Duration) -> Result<(), LaneEnd> {
        self.grow()?;
        self.look_for_open_transactions()?;
        if self.positions.is_empty() {
            return Ok(());
        }
        if self.waiting.is_empty() {
            if self.reader.is_none() {
                let from: Vec<_> = self.positions.iter().map(|(tp, at)| (tp.clone(), *at)).collect();
                self.reader = Some(self.broker.reader(&from)?);
            }
            let Some(reader) = &mut self.reader else { return Ok(()) };
            let events = reader.poll(8_192, wait).inspect_err(|_| self.reader = None)?;
            for event in events {
                match event {
                    Event::Records { partition, records } => self.waiting.push((partition, records, 0)),
                    Event::End { partition, offset } => {
                        if let Some(target) = self.open.get_mut(&partition) {
                            target.readable = (offset, self.clock.monotonic());
                            if std::mem::take(&mut target.warned) {
                                self.tables.waits.lock().remove(&partition);
                            }
                        }
                        self.reached(&partition, offset);
                    }
                    _ => {}
                }
            }
        }
        let mut moved = false;
        for (partition, records, first) in std::mem::take(&mut self.waiting) {
            let taken = self.take(&partition, records.as_ref(), first);
            moved |= taken > 0;
            match records.len() > first + taken {
                // The registry has not answered yet.
                true => self.waiting.push((partition, records, first + taken)),
                false => {
                    let next = records.len().checked_sub(1).map_or(0, |last| records.get(last).offset + 1);
                    if let Some(position) = self.positions.get_mut(&partition) {
                        *position = next.max(*position);
                    }
                    self.reached(&partition, next);
                }
            }
        }
        if !moved && !self.waiting.is_empty() {
            // There is no event for an answer of the registry.
            std::thread::sleep(wait);
        }
        Ok(())
    }

    fn reached(&mut self, partition: &TopicPartition, offset: i64) {
        let behind = self.waiting.iter().any(|(p, _, _)| p == partition);
        // The end may have been reported with records before it: behind them there are markers only.
        if !behind && self.open.get(partition).is_some_and(|target| offset.max(target.readable.0) >= target.end) {
            self.open.remove(partition);
            self.tables.waits.lock().remove(partition);
            if self.open.is_empty() {
                self.tables.loaded();
            }
        }
    }

    /// Reads partitions that were added to the topics, from their beginning.
    fn grow(&mut self) -> Result<(), BrokerError> {
        for (topic, partitions) in std::mem::take(&mut *self.tables.grown.lock()) {
            let Some(rows) = self.rows.iter_mut().find(|rows| rows.topic == topic) else { continue };
            for partition in rows.partitions..partitions {
                let tp = TopicPartition::new(topic.clone(), partition);
                let (low, _) = self.broker.bounds(&tp)?;
                tracing::info!(partition = %tp, table = %rows.name, "reading a new partition of a table's topic");
                self.positions.insert(tp, low);
                rows.partitions = partition + 1;
                self.reader = None;
            }
        }
        Ok(())
    }

    /// Names the partitions whose end is hidden by an open transaction, and gives up on those that no broker will end.
    fn look_for_open_transactions(&mut self) -> Result<(), LaneEnd> {
        let now = self.clock.monotonic();
        for (partition, target) in &mut self.open {
            let (offset, since) = target.readable;
            if offset < 0 || offset >= target.end || now - since < OPEN_AT_LEAST {
                continue;
            }
            let why = format!("{partition}: a transaction is open at offset {offset} and hides records up to offset {}", target.end);
            if now - since >= OPEN_AT_MOST {
                let (topic, partition) = (&partition.topic, partition.partition);
                return Err(LaneEnd::Stop(format!(
                    "{why}, for {} minutes, so the table can't be read to its end. Brokers abort a transaction earlier than that, so this one hangs. Abort it: kafka-transactions.sh abort --topic {topic} --partition {partition} --start-offset {offset}",
                    OPEN_AT_MOST / 60_000
                )));
            }
            if !target.warned {
                target.warned = true;
                tracing::warn!("{why}; no task starts until its producer ends it or the brokers abort it (transaction.timeout.ms)");
                self.tables.waits.lock().insert(partition.clone(), why);
            }
        }
        Ok(())
    }

    fn take(&mut self, partition: &TopicPartition, records: &dyn RecordSet, first: usize) -> usize {
        let Some(rows) = self.rows.iter_mut().find(|rows| rows.topic == partition.topic) else { return records.len() - first };
        let (mut changes, mut taken) = (Vec::new(), 0);
        for index in first..records.len() {
            let record = records.get(index);
            match rows.read(&record, self.schemas.as_ref(), &mut changes) {
                Ok(()) => {}
                Err(Unread::Wait(_)) => break,
                Err(Unread::Bad(cause)) => self.tables.bad(&rows.name, partition, record.offset, &cause),
            }
            taken += 1;
        }
        match (rows.finish(partition.partition, &mut changes), self.tables.tables.get(&rows.name)) {
            (Ok(found), Some(table)) => {
                table.write().apply(found.rows, found.changes);
                for offset in found.null_keys {
                    self.tables.bad(&rows.name, partition, offset, "the key has a null");
                }
                self.tables.other_bytes(&rows.name, partition, &found.other_bytes);
            }
            (Err(e), _) => tracing::error!(cause = %e, table = %rows.name, "can't apply table rows"),
            _ => {}
        }
        taken
    }
}

/// Where a partition ended at the start, which is not reached yet.
struct Target {
    end: i64,
    /// The end of what can be read, -1 before it is known, and when it was reported (monotonic).
    readable: (i64, Millis),
    warned: bool,
}
