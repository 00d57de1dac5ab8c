//! Rows to records: keys, values, partitions and headers, gathered in a [`SendBuffer`] until they may be sent.

mod topic;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use headwater_formats::{Encoder, KeyEncoder, encode_batch, partition};
use operator_core::batch::{FUTURE, OFFSET, WATERMARK, is_written};
use operator_core::changes::{self, CHANGE, has_changes};
use operator_core::{Millis, Origin, Path};

use crate::broker::{Broker, Outgoing};
use crate::format::Layout;
use crate::plan::{Output, SinkKey, Target, TopicSink};
use crate::record::send_buffer::{SendBuffer, TurnedAway};
use crate::task::merge::{BranchRows, merge_keys};

use self::topic::{Known, Rows, Topic};

/// Headers of repartition records: which task wrote the rows, its watermark, and where the rows came from.
pub const WRITER: &[u8] = b"hw-writer";
pub const WRITER_WATERMARK: &[u8] = b"hw-watermark";
/// Up to which time the records of its inputs are in front of this one ([`crate::lane`]'s `reached.rs`).
pub const WRITER_REACHED: &[u8] = b"hw-reached";
pub const ORIGIN: &[u8] = b"hw-origin";

/// Records that carry many rows are cut at this many rows, and at about this many bytes: brokers refuse records above
/// 1 MiB (`message.max.bytes`) by default, and a record too large would abort its transaction forever.
const MAX_ROWS_PER_RECORD: usize = 4_096;
const MAX_BYTES_PER_RECORD: usize = 400_000;
/// A row that makes a larger record than this can't be written: it becomes a dead letter. Clients and brokers refuse
/// records of about 1 MiB by default, and one that is refused would abort its transaction forever.
pub const MAX_RECORD: usize = 900_000;

/// Half of what brokers accept by default.
const MAX_AHEAD: Millis = 1_800_000;

/// A row that could not be written: its place in the batch and why.
pub type Unwritable = (usize, String);

/// Why rows could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// Writing them later may succeed.
    Failed(String),
    /// The topic refuses a record that may not be missing in it.
    Refused(TurnedAway),
}

impl From<String> for WriteError {
    fn from(why: String) -> WriteError {
        WriteError::Failed(why)
    }
}

impl From<&str> for WriteError {
    fn from(why: &str) -> WriteError {
        WriteError::Failed(why.to_string())
    }
}

impl From<TurnedAway> for WriteError {
    fn from(refused: TurnedAway) -> WriteError {
        WriteError::Refused(refused)
    }
}

/// Writes the rows of one output of a stage.
pub struct Writer {
    kind: Kind,
    user: Vec<usize>,
    schema: SchemaRef,
    /// Another output of the stage may write the same topic.
    shared: bool,
    /// The columns of the topic's key: which row a change is about.
    key: Vec<Path>,
}

enum Kind {
    Topic { sink: TopicSink, values: Box<dyn Encoder>, keys: Option<Keys>, topics: BTreeMap<String, Known> },
    Repartition { topic: Arc<str>, partitions: i32, key: Vec<Path> },
    Outbox { topic: Arc<str>, partitions: i32 },
}

/// Where a sink's keys come from.
enum Keys {
    /// The values at this path.
    Plain(Path),
    /// Records of the values at these paths.
    Records(Vec<Path>, SchemaRef, Box<dyn Encoder>),
}

impl Keys {
    /// The values at a path of the rows.
    fn values(path: &Path, rows: &RecordBatch) -> Result<ArrayRef, String> {
        path.values(rows.schema_ref().fields(), rows.columns()).ok_or_else(|| format!("the key column `{path}` is missing"))
    }

    /// The columns of the keys that are records.
    fn records(paths: &[Path], columns: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let arrays = paths.iter().map(|path| Keys::values(path, rows)).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(columns.clone(), arrays).map_err(|e| e.to_string())
    }
}

impl Writer {
    /// `shared`: another output of the stage may write the same topic. `schema_id`: gives the registry's id of a sink's Avro schema, by subject and text.
    pub fn new(output: &Output, shared: bool, schema_id: &dyn Fn(&str, &str) -> Result<u32, String>) -> Result<Writer, String> {
        let user: Vec<usize> = match &output.target {
            Target::Topic(sink) => sink.format.written(&output.schema),
            // A table needs to know what happens to its rows.
            _ => {
                let kept = |name: &str| is_written(name) || name == CHANGE;
                output.schema.fields().iter().enumerate().filter(|(_, f)| kept(f.name())).map(|(i, _)| i).collect()
            }
        };
        let schema: SchemaRef = Arc::new(output.schema.project(&user).map_err(|e| e.to_string())?);
        let kind = match &output.target {
            Target::Topic(sink) => {
                let id = |layout: &Layout, subject: &str| layout.registered.as_ref().map_or(Ok(0), |text| schema_id(subject, text));
                let values = sink.format.encoder(&sink.layout, sink.event, id(&sink.layout, &sink.subject)?)?;
                let keys = match &sink.key {
                    Some(SinkKey { columns, codec: Some(codec) }) => {
                        let id = id(&codec.layout, &codec.subject)?;
                        Some(Keys::Records(columns.clone(), codec.columns.clone(), codec.encoder(id)?))
                    }
                    Some(SinkKey { columns, codec: None }) => columns.first().cloned().map(Keys::Plain),
                    None => None,
                };
                Kind::Topic { sink: sink.clone(), values, keys, topics: BTreeMap::new() }
            }
            Target::Repartition { topic, partitions, key } => {
                Kind::Repartition { topic: topic.clone(), partitions: *partitions, key: key.clone() }
            }
            Target::Outbox(outbox) => Kind::Outbox { topic: outbox.topic.clone(), partitions: outbox.partitions },
        };
        let key = match &output.target {
            Target::Topic(sink) => sink.key.iter().flat_map(|key| &key.columns).cloned().collect(),
            Target::Repartition { .. } | Target::Outbox(_) => Vec::new(),
        };
        Ok(Writer { kind, user, schema, shared, key })
    }

    /// Writes rows. `task`: the partition of the task that made them. Returns rows that can't be written.
    pub fn write(
        &mut self,
        BranchRows { rows, origin, seq, .. }: &BranchRows,
        task: i32,
        broker: &dyn Broker,
        wall: Millis,
        out: &mut SendBuffer,
    ) -> Result<Vec<Unwritable>, WriteError> {
        let user = rows.project(&self.user).map_err(|e| e.to_string())?.with_schema(self.schema.clone()).map_err(|e| e.to_string())?;
        match &mut self.kind {
            Kind::Topic { sink, values, keys, topics } => {
                let key = (!self.key.is_empty()).then_some(self.key.as_slice());
                let merge_keys = if self.shared { merge_keys(rows, *seq, key, std::iter::repeat(0)) } else { Vec::new() };
                let rows = Rows { all: rows, user: &user, merge_keys: &merge_keys, task, wall };
                Topic { sink, values: values.as_ref(), keys: keys.as_ref(), known: topics, broker }.write(&rows, out)
            }
            Kind::Repartition { topic, partitions, key } => repartition(topic, *partitions, key, rows, task, origin, out),
            Kind::Outbox { topic, partitions } => {
                let (values, large) = encode_pieces(&user)?;
                for value in values {
                    // Stamped when written: by event time, old rows could expire before they are delivered.
                    out.push(Outgoing {
                        topic,
                        partition: task.rem_euclid(*partitions),
                        timestamp: None,
                        key: None,
                        value: Some(&value),
                        headers: &[],
                        tag: None,
                    })?;
                }
                Ok(large.into_iter().map(|row| (row, too_large())).collect())
            }
        }
    }

    /// Tells the readers of a repartition topic how far this task's time has come, and what it has reached, if they need to know.
    ///
    /// # Errors
    /// The topic refuses it.
    pub fn watermark(&self, task: i32, watermark: Millis, reached: Option<Millis>, out: &mut SendBuffer) -> Result<(), TurnedAway> {
        let Kind::Repartition { topic, partitions, .. } = &self.kind else { return Ok(()) };
        for partition in 0..*partitions {
            let (writer, mark, reached) = (task.to_string(), watermark.to_string(), reached.map(|reached| reached.to_string()));
            let mut headers: Vec<(&[u8], Option<&[u8]>)> =
                vec![(WRITER, Some(writer.as_bytes())), (WRITER_WATERMARK, Some(mark.as_bytes()))];
            headers.extend(reached.as_ref().map(|reached| (WRITER_REACHED, Some(reached.as_bytes()))));
            out.push(Outgoing { topic, partition, timestamp: None, key: None, value: None, headers: &headers, tag: None })?;
        }
        Ok(())
    }

    /// Another output of the stage may write the same topic.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// The repartition topic it writes, if it does.
    pub fn repartition(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Repartition { topic, .. } => Some(topic),
            _ => None,
        }
    }
}

/// Encodes rows in pieces that fit into a record each; also the rows that don't fit into one alone.
fn encode_pieces(rows: &RecordBatch) -> Result<(Vec<Vec<u8>>, Vec<usize>), String> {
    let n = rows.num_rows();
    let per_row = (rows.get_array_memory_size() / n.max(1)).max(1);
    let size = (MAX_BYTES_PER_RECORD / per_row).clamp(1, MAX_ROWS_PER_RECORD);
    let (mut values, mut large) = (Vec::new(), Vec::new());
    // Rows of very different sizes can make a piece too large after all: it is halved until it fits.
    let signs = changes::of(rows).map(|signs| signs.values().as_ref());
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    while start < n {
        let end = changes::cut(signs, start, (start + size).min(n));
        open.push((start, end - start));
        start = end;
    }
    open.reverse();
    while let Some((start, length)) = open.pop() {
        let value = encode_batch(&rows.slice(start, length))?;
        let half = changes::cut(signs, start, start + length / 2) - start;
        match length {
            _ if value.len() <= MAX_RECORD => values.push(value),
            1 => large.push(start),
            // A pair that fits into no record is taken apart.
            _ if half >= length => open.extend([(start + 1, length - 1), (start, 1)]),
            _ => open.extend([(start + half, length - half), (start, half)]),
        }
    }
    Ok((values, large))
}

fn too_large() -> String {
    format!("the row makes a record of more than {MAX_RECORD} bytes")
}

/// Splits rows by the partition of their key and writes each part as one record, with the columns that the next
/// stage needs: event time, the row's own watermark and source offset among them.
fn repartition(
    topic: &Arc<str>,
    partitions: i32,
    key: &[Path],
    rows: &RecordBatch,
    task: i32,
    origin: &Origin,
    out: &mut SendBuffer,
) -> Result<Vec<Unwritable>, WriteError> {
    let mut parts: Vec<Vec<u32>> = vec![Vec::new(); partitions.max(1) as usize];
    let columns: Vec<ArrayRef> = key
        .iter()
        .map(|path| path.values(rows.schema_ref().fields(), rows.columns()))
        .collect::<Option<_>>()
        .ok_or("a key column is missing")?;
    let single = match columns.as_slice() {
        // Doubles are routed by value instead: -0.0 and 0.0 are one group.
        [column] if operator_core::table::is_record_key(column.data_type()) => KeyEncoder::new(column.as_ref()).ok(),
        _ => None,
    };
    let mut bytes = Vec::new();
    for row in 0..rows.num_rows() {
        bytes.clear();
        match &single {
            // One column: the bytes a standard serializer writes, so that partitions agree with other producers'.
            Some(encoder) => {
                encoder.write(row, &mut bytes);
            }
            None => operator_core::keys::encode(&columns, row, &mut bytes),
        }
        let target = if columns.is_empty() { 0 } else { partition(&bytes, partitions) };
        if let Some(part) = parts.get_mut(target as usize) {
            part.push(row as u32);
        }
    }
    let source = format!("{} {}", origin.topic, origin.partition);
    let writer = task.to_string();
    let headers: [(&[u8], Option<&[u8]>); 2] = [(WRITER, Some(writer.as_bytes())), (ORIGIN, Some(source.as_bytes()))];
    let mut unwritable = Vec::new();
    for (target, part) in parts.into_iter().enumerate().filter(|(_, p)| !p.is_empty()) {
        let taken = take_record_batch(rows, &UInt32Array::from(part.clone())).map_err(|e| e.to_string())?;
        let (values, large) = encode_pieces(&taken)?;
        unwritable.extend(large.iter().filter_map(|at| part.get(*at)).map(|row| (*row as usize, too_large())));
        for value in values {
            out.push(Outgoing {
                topic,
                partition: target as i32,
                timestamp: None,
                key: None,
                value: Some(&value),
                headers: &headers,
                tag: None,
            })?;
        }
    }
    Ok(unwritable)
}

/// Rows read back from a repartition record must have the system columns, and be what the plan takes them for: read without its
/// change, a row that is gone would be added.
pub fn check_repartitioned(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    if has_changes(rows.schema_ref()) && !has_changes(schema) {
        return Err(format!(
            "rows from another version of the pipeline: they are changes (`{CHANGE}`), and this version takes rows that are only added"
        ));
    }
    let columns = schema
        .fields()
        .iter()
        .map(|f| match rows.column_by_name(f.name()) {
            Some(column) => Ok(column.clone()),
            // Rows that were written before this column existed.
            None if f.name() == FUTURE => Ok(Arc::new(BooleanArray::from(vec![false; rows.num_rows()])) as ArrayRef),
            None => Err(f.name().clone()),
        })
        .collect::<Result<Vec<_>, _>>();
    let columns = columns.map_err(|name| format!("rows from an older version of the pipeline: column `{name}` is missing"))?;
    let rows = RecordBatch::try_new(schema.clone(), columns).map_err(|e| format!("rows from an older version of the pipeline: {e}"))?;
    let typed = rows.column_by_name(WATERMARK).and_then(|c| c.as_any().downcast_ref::<Int64Array>()).is_some()
        && rows.column_by_name(OFFSET).is_some();
    if typed { Ok(rows) } else { Err("system columns are missing".to_string()) }
}
