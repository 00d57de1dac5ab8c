//! Rows to records of a sink's topic: key, value, headers, partition and timestamp of each row.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use headwater_formats::{Encoded, Encoder, KeyEncoder, partition};
use operator_core::Millis;
use operator_core::batch::{OFFSET, TIME, time_type};
use operator_core::changes::{self, GONE};

use super::{Keys, MAX_AHEAD, MAX_RECORD, Unwritable, WriteError};
use crate::broker::{Broker, BrokerError, Failure, is_compacted};
use crate::plan::{TopicName, TopicSink};
use crate::record::buffer::Entry;
use crate::record::headers::HeaderColumns;
use crate::record::send_buffer::SendBuffer;
use crate::task::merge::MergeKey;

/// A topic sink and what it needs to write rows.
pub(super) struct Topic<'a> {
    pub sink: &'a TopicSink,
    pub values: &'a dyn Encoder,
    pub keys: Option<&'a Keys>,
    /// Topics that rows have named.
    pub known: &'a mut BTreeMap<String, Known>,
    pub broker: &'a dyn Broker,
}

/// The rows of a batch: all columns, those that are written, and where each belongs among the rows of other outputs.
pub(super) struct Rows<'a> {
    pub all: &'a RecordBatch,
    pub user: &'a RecordBatch,
    pub merge_keys: &'a [MergeKey],
    /// The partition of the task that made them.
    pub task: i32,
    /// Wall clock, milliseconds.
    pub wall: Millis,
}

impl Topic<'_> {
    /// Writes rows; returns those that can't be written.
    pub fn write(&mut self, rows: &Rows<'_>, out: &mut SendBuffer) -> Result<Vec<Unwritable>, WriteError> {
        let sink = self.sink;
        let (plain, records);
        let keys = match self.keys {
            None => EncodedKeys::None,
            Some(Keys::Plain(path)) => {
                plain = Keys::values(path, rows.all)?;
                EncodedKeys::Plain(KeyEncoder::new(plain.as_ref())?)
            }
            Some(Keys::Records(paths, columns, encoder)) => {
                records = Keys::records(paths, columns, rows.all)?;
                EncodedKeys::Records(encoder.batch(&records)?)
            }
        };
        let encoded = Records::new(sink, rows, keys, self.values.batch(rows.user)?)?;
        let fixed = match (&sink.topic, sink.partitions) {
            (TopicName::Fixed(name), Some(partitions)) => Some(Known { name: name.clone(), partitions, compacted: sink.compacted }),
            _ => None,
        };
        let has_changes = encoded.signs.is_some();
        let mut batch = Batch { topic: self, rows, encoded, fixed, keys: Default::default() };
        let mut unwritable = Vec::new();
        // The row before is not written: this one takes its place.
        let mut replaces = false;
        for row in 0..rows.all.num_rows() {
            if has_changes && batch.is_replaced(row)? {
                replaces = true;
                continue;
            }
            if let Err(cause) = batch.write(row, out)? {
                unwritable.push((row, cause));
                // What it would have replaced is gone all the same.
                if replaces && let Err(cause) = batch.write(row - 1, out)? {
                    unwritable.push((row - 1, cause));
                }
            }
            replaces = false;
        }
        Ok(unwritable)
    }
}

/// The rows of a batch and where they go.
struct Batch<'t, 'a, 'r> {
    topic: &'t mut Topic<'a>,
    rows: &'r Rows<'r>,
    encoded: Records<'r>,
    /// The topic, if it is the same for all rows.
    fixed: Option<Known>,
    /// Room for the keys of two rows.
    keys: (Vec<u8>, Vec<u8>),
}

impl Batch<'_, '_, '_> {
    /// Writes the record of a row. The inner error is that of the row: why it can't be written.
    fn write(&mut self, row: usize, out: &mut SendBuffer) -> Result<Result<(), String>, WriteError> {
        let topic = match self.topic_of(row) {
            Ok(found) => found,
            Err(Unnamed::Later(e)) => return Err(e.into()),
            Err(Unnamed::Never(cause)) => return Ok(Err(cause)),
        };
        let start = out.records.bytes.len();
        Ok(match self.encoded.record(row, topic, &mut out.records.bytes) {
            Ok(record) => out.add(record, start).map_err(|refused| refused.cause),
            Err(cause) => {
                out.records.bytes.truncate(start);
                Err(cause)
            }
        })
    }

    fn topic_of(&mut self, row: usize) -> Result<Known, Unnamed> {
        match &self.fixed {
            Some(fixed) => Ok(fixed.clone()),
            None => named(self.topic.sink, self.rows.all, row, self.topic.known, self.topic.broker),
        }
    }

    /// A row that is gone, and the next one is there instead ([`changes::is_update`]), with the same key and in the same place.
    fn is_replaced(&mut self, row: usize) -> Result<bool, WriteError> {
        let (Some(signs), Some(offsets)) = (self.encoded.signs, self.encoded.offsets) else { return Ok(false) };
        if !changes::is_update(signs, offsets, row) {
            return Ok(false);
        }
        let mut keys = std::mem::take(&mut self.keys);
        let (old, new) = (self.place(row, &mut keys.0)?, self.place(row + 1, &mut keys.1)?);
        let same = old.is_some() && old == new && keys.0 == keys.1;
        self.keys = keys;
        Ok(same)
    }

    /// Where the record of a row goes, and its key; `None` if it has no key or can't be written.
    fn place(&mut self, row: usize, key: &mut Vec<u8>) -> Result<Option<(Arc<str>, i32)>, WriteError> {
        key.clear();
        let topic = match self.topic_of(row) {
            Ok(topic) => topic,
            Err(Unnamed::Later(e)) => return Err(e.into()),
            Err(Unnamed::Never(_)) => return Ok(None),
        };
        if !self.encoded.keys.write(row, key).unwrap_or(false) {
            return Ok(None);
        }
        let partition = self.encoded.partition(row, &topic, Some(key));
        Ok(partition.ok().map(|partition| (topic.name, partition)))
    }
}

/// The rows of a batch, column by column, ready to be written one after the other.
struct Records<'a> {
    sink: &'a TopicSink,
    rows: &'a Rows<'a>,
    keys: EncodedKeys<'a>,
    values: Box<dyn Encoded + 'a>,
    headers: HeaderColumns<'a>,
    /// What `timestamp` says of each row, if it is set.
    stamps: Option<Vec<Option<Millis>>>,
    event_times: Option<&'a [Millis]>,
    /// What `partition` says of each row, if it is set.
    chosen: Option<ArrayRef>,
    /// Of a stream of changes: which rows are there, and which are gone.
    signs: Option<&'a [i8]>,
    /// Of the source records.
    offsets: Option<&'a [i64]>,
}

impl<'a> Records<'a> {
    fn new(sink: &'a TopicSink, rows: &'a Rows<'a>, keys: EncodedKeys<'a>, values: Box<dyn Encoded + 'a>) -> Result<Records<'a>, String> {
        let column = |name: &Option<String>| name.as_ref().and_then(|n| rows.all.column_by_name(n));
        let stamps = column(&sink.timestamp).map(millis).transpose()?;
        let chosen = column(&sink.partition).map(|c| cast(c, &DataType::Int64)).transpose().map_err(|e| e.to_string())?;
        let (headers, event_times) = (HeaderColumns::new(sink, rows.all), times(rows.all));
        let signs = changes::of(rows.all).map(|signs| signs.values().as_ref());
        let offsets = rows.all.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let offsets = offsets.map(|offsets| offsets.values().as_ref());
        Ok(Records { sink, rows, keys, values, headers, stamps, event_times, chosen, signs, offsets })
    }

    fn sign(&self, row: usize) -> Option<i8> {
        self.signs.and_then(|signs| signs.get(row)).copied()
    }

    /// Appends the bytes of a row's record to `bytes`.
    ///
    /// # Errors
    /// The row can't be written: why. Some bytes may have been appended.
    fn record(&self, row: usize, topic: Known, bytes: &mut Vec<u8>) -> Result<Entry, String> {
        let start = bytes.len();
        let has_key = self.keys.write(row, bytes)?;
        if topic.compacted && !has_key {
            let column = self.sink.key.iter().flat_map(|key| &key.columns).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let topic = shown(self.sink, &topic.name);
            return Err(format!("the key `{column}` is null, and the topic {topic} is compacted: it takes no record without a key"));
        }
        let key = has_key.then_some(start..bytes.len());
        let begin = bytes.len();
        // A row that is gone is a record without a value.
        let has_value = self.sign(row) != Some(GONE) && self.values.write(row, bytes)?;
        let value = has_value.then_some(begin..bytes.len());
        let end = bytes.len();
        let headers = self.headers.write(row, bytes).then_some(end..bytes.len());
        let size = bytes.len() - start;
        if size > MAX_RECORD {
            return Err(format!("the record would have {size} bytes, more than the {MAX_RECORD} that can be written"));
        }
        let partition = self.partition(row, &topic, key.clone().and_then(|key| bytes.get(key)))?;
        let (timestamp, merge_key) = (self.timestamp(row), self.rows.merge_keys.get(row).copied());
        Ok(Entry { topic: topic.name, partition, timestamp, key, value, headers, tag: None, merge_key })
    }

    fn partition(&self, row: usize, topic: &Known, key: Option<&[u8]>) -> Result<i32, String> {
        let partitions = topic.partitions;
        match self.chosen.as_ref().map(|c| c.as_primitive::<Int64Type>()).filter(|c| c.is_valid(row)).map(|c| c.value(row)) {
            Some(n) if n >= 0 && n < i64::from(partitions) => Ok(n as i32),
            Some(n) => Err(format!("partition {n} of {}, which has {partitions}", shown(self.sink, &topic.name))),
            None => Ok(key.map_or_else(|| self.rows.task.rem_euclid(partitions), |key| partition(key, partitions))),
        }
    }

    /// Brokers refuse negative timestamps, and those further ahead than `message.timestamp.after.max.ms`: a row from the future would
    /// abort every transaction it is in. Such rows are stamped when written.
    fn timestamp(&self, row: usize) -> Option<Millis> {
        let timestamp = match &self.stamps {
            Some(stamps) => stamps.get(row).copied().flatten(),
            None => self.event_times.and_then(|times| times.get(row).copied()),
        };
        timestamp.filter(|t| (0..self.rows.wall.saturating_add(MAX_AHEAD)).contains(t))
    }
}

fn times(rows: &RecordBatch) -> Option<&[Millis]> {
    let column = rows.column_by_name(TIME)?;
    column.as_primitive_opt::<arrow::datatypes::TimestampMillisecondType>().map(|a| a.values().as_ref())
}

fn millis(column: &ArrayRef) -> Result<Vec<Option<Millis>>, String> {
    if *column.data_type() == DataType::Int64 {
        return Ok(column.as_primitive::<Int64Type>().iter().collect());
    }
    let cast = cast(column, &time_type()).map_err(|e| e.to_string())?;
    Ok(cast.as_primitive::<arrow::datatypes::TimestampMillisecondType>().iter().collect())
}

/// Why a row's topic is not known.
enum Unnamed {
    /// The row is at fault.
    Never(String),
    /// The brokers don't answer: the epoch is tried again.
    Later(String),
}

/// A topic in a cause: in quotes, as a value, if a row has named it. Logs have names, and no values.
fn shown(sink: &TopicSink, topic: &str) -> String {
    match &sink.topic {
        TopicName::Fixed(_) => format!("`{topic}`"),
        TopicName::Column(..) => format!("'{topic}'"),
    }
}

/// The topic a row names, and its partitions.
fn named(
    sink: &TopicSink,
    rows: &RecordBatch,
    row: usize,
    known: &mut BTreeMap<String, Known>,
    broker: &dyn Broker,
) -> Result<Known, Unnamed> {
    let name = match &sink.topic {
        TopicName::Fixed(name) => name.to_string(),
        TopicName::Column(before, column, after) => {
            let text = rows.column_by_name(column).and_then(|c| c.as_string_opt::<i32>()).filter(|c| c.is_valid(row)).map(|c| c.value(row));
            format!("{before}{}{after}", text.ok_or_else(|| Unnamed::Never(format!("`{column}` is null: no topic to write to")))?)
        }
    };
    if let Some(found) = known.get(&name) {
        return Ok(found.clone());
    }
    let legal = !matches!(name.as_str(), "" | "." | "..")
        && name.len() <= 249
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !legal {
        return Err(Unnamed::Never("the row names a topic that can't exist".to_string()));
    }
    let later = |e: BrokerError| match e.failure {
        // It can never succeed: no rights, or a name that brokers refuse.
        Failure::Fatal => Unnamed::Never(e.to_string().replace(&format!("`{name}`"), &name).replace(&name, &shown(sink, &name))),
        _ => Unnamed::Later(e.to_string()),
    };
    if broker.partitions(&name).map_err(later)?.is_none()
        && let Some(create) = &sink.create
    {
        let spec = crate::broker::TopicSpec { name: name.clone(), ..create.clone() };
        broker.create_topics(&[spec]).map_err(later)?;
    }
    let partitions = broker
        .partitions(&name)
        .map_err(later)?
        .ok_or_else(|| Unnamed::Never(format!("the topic {} does not exist", shown(sink, &name))))?;
    // Without permission to read the settings, refused records show them.
    let config = broker.topic_config(&name).unwrap_or_default();
    let compacted = is_compacted(config.iter().map(|(name, value)| (name, value)));
    let found = Known { name: name.as_str().into(), partitions, compacted };
    known.insert(name, found.clone());
    Ok(found)
}

/// The keys of a batch, ready to be written.
enum EncodedKeys<'a> {
    None,
    Plain(KeyEncoder<'a>),
    Records(Box<dyn Encoded + 'a>),
}

impl EncodedKeys<'_> {
    /// Appends the key of a row; `false`, and nothing appended, if it has none.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, String> {
        match self {
            EncodedKeys::None => Ok(false),
            EncodedKeys::Plain(keys) => Ok(keys.write(row, out)),
            EncodedKeys::Records(keys) => keys.write(row, out).map_err(|e| format!("the key: {e}")),
        }
    }
}

/// A topic that a sink writes.
#[derive(Clone)]
pub(super) struct Known {
    name: Arc<str>,
    partitions: i32,
    /// It takes no record without a key.
    compacted: bool,
}
