//! Loading tables: compacted topics read from the beginning, kept current, shared by the lanes of a worker.
//!
//! No lane starts before every table was read to where its topic ended when the worker started. After that, updates
//! are applied as they come; a row looks up the table as it is at that moment (`as_of: event_time` looks at the
//! version in force at the row's own time instead). Tables are not part of the transaction: a table row and a stream
//! row written at the same moment may meet in either order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::TimestampMillisecondType;
use headwater_formats::{AvroDecoder, AvroReader, DecodeError, JsonDecoder, RowBuilder};
use operator_core::batch::time_type;
use operator_core::{Millis, Table, Tables};
use parking_lot::RwLock;

use crate::broker::{Broker, BrokerError, Event, Reader, RecordSet, TopicPartition};
use crate::decode::json_payload;
use crate::pipeline::Format;
use crate::plan::{Plan, TablePlan};
use crate::schemas::{Lookup, SchemaSource};

/// The tables of a worker.
pub struct LoadedTables {
    tables: BTreeMap<String, RwLock<Table>>,
    /// Records by table that could not be used.
    bad: parking_lot::Mutex<BTreeMap<String, u64>>,
    ready: AtomicBool,
}

impl LoadedTables {
    pub fn new(plan: &Plan) -> LoadedTables {
        let tables: BTreeMap<_, _> =
            plan.tables.iter().map(|t| (t.name.clone(), RwLock::new(Table::new(t.schema.clone(), t.history)))).collect();
        let ready = AtomicBool::new(tables.is_empty());
        LoadedTables { tables, bad: Default::default(), ready }
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
        tracing::warn!(%partition, offset, cause, table, "a table record can't be used; the row before it stays");
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

enum Values {
    Json(JsonDecoder),
    Avro(AvroDecoder),
}

struct Loading {
    plan: TablePlan0,
    values: Values,
    rows: RowBuilder,
}

/// The parts of a table's plan that loading needs.
struct TablePlan0 {
    name: String,
    topic: Arc<str>,
    time: Option<usize>,
}

/// Reads the topics of all tables.
pub struct TableLoader {
    tables: Arc<LoadedTables>,
    schemas: Arc<dyn SchemaSource>,
    broker: Arc<dyn Broker>,
    reader: Option<Box<dyn Reader>>,
    /// Where each partition is read on, should the reader break: never from the start again, or rows would go back in
    /// time under running lanes.
    positions: BTreeMap<TopicPartition, i64>,
    loading: Vec<Loading>,
    /// Where each partition ended at the start, until it was reached.
    open: BTreeMap<TopicPartition, i64>,
    waiting: Vec<(TopicPartition, Box<dyn RecordSet>, usize)>,
}

impl TableLoader {
    pub fn new(
        plan: &Plan,
        tables: Arc<LoadedTables>,
        broker: Arc<dyn Broker>,
        schemas: Arc<dyn SchemaSource>,
    ) -> Result<TableLoader, BrokerError> {
        let mut loading = Vec::new();
        let (mut positions, mut open) = (BTreeMap::new(), BTreeMap::new());
        for table in &plan.tables {
            loading.push(Loading::new(table).map_err(BrokerError::fatal)?);
            for partition in 0..table.topic.partitions {
                let tp = TopicPartition::new(table.topic.name.clone(), partition);
                let (low, high) = broker.bounds(&tp)?;
                positions.insert(tp.clone(), low);
                if high > low {
                    open.insert(tp, high);
                }
            }
        }
        if open.is_empty() {
            tables.ready.store(true, Ordering::Release);
        }
        Ok(TableLoader { tables, schemas, broker, reader: None, positions, loading, open, waiting: Vec::new() })
    }

    /// Records still to be read before the tables are ready.
    pub fn left(&self) -> usize {
        self.open.len()
    }

    /// Takes what has arrived, waiting up to `wait`. After an error the next call reads on where this one stopped.
    pub fn step(&mut self, wait: Duration) -> Result<(), BrokerError> {
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
                    Event::End { partition, offset } => self.reached(&partition, offset),
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
            // Nothing tells when the registry has answered.
            std::thread::sleep(wait);
        }
        Ok(())
    }

    fn reached(&mut self, partition: &TopicPartition, offset: i64) {
        let behind = self.waiting.iter().any(|(p, _, _)| p == partition);
        if !behind && self.open.get(partition).is_some_and(|end| offset >= *end) {
            self.open.remove(partition);
            if self.open.is_empty() {
                self.tables.ready.store(true, Ordering::Release);
            }
        }
    }

    fn take(&mut self, partition: &TopicPartition, records: &dyn RecordSet, first: usize) -> usize {
        let Some(loading) = self.loading.iter_mut().find(|l| l.plan.topic == partition.topic) else { return records.len() - first };
        let mut changes: Vec<(&[u8], Millis, Option<u32>)> = Vec::new();
        let mut taken = 0;
        for index in first..records.len() {
            let record = records.get(index);
            let (Some(key), at) = (record.key, record.timestamp.unwrap_or(0)) else {
                self.tables.bad(&loading.plan.name, partition, record.offset, "it has no key");
                taken += 1;
                continue;
            };
            let row = match record.value {
                None => None,
                Some(value) => match loading.value(value, self.schemas.as_ref()) {
                    Ok(()) => Some((loading.rows.len() - 1) as u32),
                    Err(DecodeError::UnknownSchema(_)) => break,
                    Err(DecodeError::Bad(cause)) => {
                        self.tables.bad(&loading.plan.name, partition, record.offset, &cause);
                        taken += 1;
                        continue;
                    }
                },
            };
            changes.push((key, at, row));
            taken += 1;
        }
        if let Err(e) = loading.apply(&self.tables, changes) {
            tracing::error!(cause = %e, table = %loading.plan.name, "table rows could not be applied");
        }
        taken
    }
}

impl Loading {
    fn new(table: &TablePlan) -> Result<Loading, String> {
        let values = match (table.format, &table.topic.avro) {
            (Format::Avro, Some(text)) => Values::Avro(AvroDecoder::new(AvroReader::new(text, &table.schema)?)),
            (Format::Json, _) => Values::Json(JsonDecoder::new(&table.schema)),
            _ => return Err(format!("table `{}`: a table's records are JSON or Avro", table.name)),
        };
        let time = table.time.as_ref().and_then(|name| table.schema.index_of(name).ok());
        let plan = TablePlan0 { name: table.name.clone(), topic: table.topic.name.clone(), time };
        Ok(Loading { plan, values, rows: RowBuilder::new(&table.schema, 1_024)? })
    }

    fn value(&mut self, value: &[u8], schemas: &dyn SchemaSource) -> Result<(), DecodeError> {
        let decoder = match &mut self.values {
            Values::Json(decoder) => return decoder.decode(json_payload(value), &mut self.rows),
            Values::Avro(decoder) => decoder,
        };
        match decoder.decode(value, &mut self.rows) {
            Err(DecodeError::UnknownSchema(id)) => match schemas.lookup(id) {
                Lookup::Known(text) => {
                    decoder.add_writer(id, &text).map_err(DecodeError::Bad)?;
                    decoder.decode(value, &mut self.rows)
                }
                Lookup::NotFound => Err(DecodeError::Bad(format!("the schema registry has no schema with id {id}"))),
                Lookup::Pending | Lookup::Unavailable(_) => Err(DecodeError::UnknownSchema(id)),
            },
            other => other,
        }
    }

    fn apply(&mut self, tables: &LoadedTables, mut changes: Vec<(&[u8], Millis, Option<u32>)>) -> Result<(), String> {
        let rows = self.rows.finish()?;
        if let Some(column) = self.plan.time.map(|i| rows.column(i)) {
            let times = cast(column, &time_type()).map_err(|e| e.to_string())?;
            let times = times.as_primitive::<TimestampMillisecondType>();
            for (_, at, row) in &mut changes {
                if let Some(row) = row.map(|r| r as usize).filter(|r| times.is_valid(*r)) {
                    *at = times.value(row);
                }
            }
        }
        if let Some(table) = tables.tables.get(&self.plan.name) {
            table.write().apply(rows, changes);
        }
        Ok(())
    }
}
