//! Verifies that the records of a source are in the partitions that its `key` promises.
//!
//! A step that groups by the `key` of a source needs no repartition, because rows with equal values are already in one
//! partition; and a sink of changes needs all changes of a row in one partition, where they are in order. Only the producers can ensure that,
//! so it is verified while reading: the first records of every partition after an assignment, then a sample. A contradiction stops the worker
//! before the epoch commits.
//!
//! What is compared:
//! - the record's partition with the one that the source's partitioner gives for the key's bytes;
//! - the key with the column, unless the source declares a format of its keys, which says how they are written. It is the value as text or as
//!   Kafka's serializers write it, or the value in another encoding (Avro, JSON), which can't be decoded here: then one value must always have
//!   the same bytes. All keys that a step relies on have one notation, or equal values of two topics would be in different partitions. The manifest remembers it
//!   ([`super::notations`]): state from before a restart is in the partitions of the keys of that time.
//!
//! Rows whose column is null are not checked: producers spread records without a key over all partitions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use operator_core::Path;
use operator_core::batch::OFFSET;
use operator_core::changes::has_changes;

use super::LaneEnd;
use super::intake::Intake;
use super::notations::Notations;
use crate::broker::{Record, RecordSet, TopicPartition};
use crate::format::Format;
use crate::notation::{Notation, hashed};
use crate::partitioner::{KeyHash, Partitioner};
use crate::plan::{Decode, InputTopic, StageInput};
use crate::record_types;

/// Records of a partition that are all looked at, from its assignment on.
const FRESH: u32 = 1_000;
/// After those one of so many, chosen by offset: after a restart it is the same ones again.
const SAMPLE_BITS: u32 = 4;
/// Values that are remembered per partition, to see whether one has two keys.
const REMEMBERED: usize = 1_024;
/// Continues the remedies that make a pipeline repartition.
const THEN_MOVED: &str = "rows are then repartitioned (a step that has state must give it up first: `hw run --dry-run` says how)";

/// Compares the keys of one partition.
pub(super) struct KeyCheck {
    source: String,
    columns: Vec<Path>,
    partitioner: Partitioner,
    pub(super) partitions: i32,
    /// What relies on the key, in words.
    relied_on_by: Arc<str>,
    /// How keys are written whose columns these are, which the source has only with `key`.
    of_key: Option<Format>,
    /// Records are changes, which need a `key`.
    of_changes: bool,
    fresh: u32,
    /// Hashes of values and of the keys they have, where keys are encoded.
    seen: HashMap<u64, u64>,
}

/// A value of the key column.
#[derive(Hash)]
enum Value<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Integer(i64),
    /// Several columns.
    Record(Vec<u8>),
}

impl Value<'_> {
    fn at(columns: &[ArrayRef], row: usize) -> Option<Value<'_>> {
        let [column] = columns else {
            let mut values = Vec::new();
            operator_core::keys::encode(columns, row, &mut values);
            return Some(Value::Record(values));
        };
        match column.data_type() {
            DataType::Utf8 => Some(Value::Text(column.as_string::<i32>().value(row))),
            DataType::Binary => Some(Value::Bytes(column.as_binary::<i32>().value(row))),
            DataType::Int32 => Some(Value::Integer(column.as_primitive::<Int32Type>().value(row).into())),
            DataType::Int64 => Some(Value::Integer(column.as_primitive::<Int64Type>().value(row))),
            _ => {
                let mut value = Vec::new();
                operator_core::keys::encode(columns, row, &mut value);
                Some(Value::Record(value))
            }
        }
    }

    /// How `key` is this value; `None` if it is another value.
    fn notation(&self, key: &[u8]) -> Option<Notation> {
        let text = std::str::from_utf8(key).ok();
        match self {
            Value::Text(value) if key == value.as_bytes() => return Some(Notation::Text),
            Value::Bytes(value) if key == *value => return Some(Notation::Bytes),
            Value::Integer(value) if text.is_some_and(|text| text.parse::<i64>() == Ok(*value)) => {
                // `007` is 7, too: one value must then always be written that way.
                return Some(if is_plain(key) { Notation::Text } else { Notation::Padded });
            }
            Value::Integer(value) if big_endian(key) == Some(*value) => return Some(Notation::Integer(key.len())),
            Value::Text(value) if big_endian(key).is_some_and(|number| value.parse::<i64>() == Ok(number)) => {
                return Some(Notation::Integer(key.len()));
            }
            // No registry has a schema 0: a small integer, and another one.
            Value::Integer(_) if matches!(key, [0, 0, 0, 0, 0, _, _, _]) => return None,
            _ => {}
        }
        if let Some(registered) = Notation::registered(key) {
            return Some(registered);
        }
        match key {
            // A line of CSV may begin like this, too.
            [b'{' | b'[' | b'"', ..] if is_json(key) => Some(Notation::Json),
            // Decodable, but a different value.
            _ if text.is_some_and(|text| !text.contains(char::is_control)) && !matches!(self, Value::Bytes(_) | Value::Record(_)) => None,
            _ => Some(Notation::Bytes),
        }
    }
}

fn is_json(key: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(key).is_ok()
}

/// A number as everyone writes it.
fn is_plain(digits: &[u8]) -> bool {
    match digits.strip_prefix(b"-").unwrap_or(digits) {
        b"0" => digits.len() == 1,
        [first, ..] => first.is_ascii_digit() && *first != b'0',
        [] => false,
    }
}

fn big_endian(key: &[u8]) -> Option<i64> {
    match key.len() {
        2 => Some(i16::from_be_bytes(key.try_into().ok()?).into()),
        4 => Some(i32::from_be_bytes(key.try_into().ok()?).into()),
        8 => Some(i64::from_be_bytes(key.try_into().ok()?)),
        _ => None,
    }
}

impl KeyCheck {
    /// `None` where nothing relies on the source's key.
    pub fn new(input: &StageInput, decode: &Decode, topic: &InputTopic) -> Option<KeyCheck> {
        let relied_on_by = decode.relied_on_by.clone()?;
        let columns = input.key.clone().filter(|key| !key.is_empty())?;
        Some(KeyCheck {
            source: input.name.clone(),
            of_key: decode.key.as_ref().map(|codec| codec.format.clone()),
            of_changes: decode.changes.is_some(),
            columns,
            partitioner: decode.partitioner,
            partitions: topic.partitions,
            relied_on_by,
            fresh: FRESH,
            seen: HashMap::new(),
        })
    }

    /// Compares the records that `rows` were decoded from; they are in `records` from `first` on.
    ///
    /// # Errors
    /// The reason to stop: the step would compute wrong results.
    pub fn check(
        &mut self,
        partition: &TopicPartition,
        rows: &RecordBatch,
        records: &dyn RecordSet,
        first: usize,
        notations: &mut Notations,
    ) -> Result<(), String> {
        let columns: Option<Vec<ArrayRef>> =
            self.columns.iter().map(|path| record_types::values(path, rows.schema_ref().fields(), rows.columns())).collect();
        let offsets = rows.column_by_name(OFFSET).and_then(|c| c.as_any().downcast_ref::<Int64Array>());
        let (Some(columns), Some(offsets)) = (columns, offsets) else { return Err(format!("`{}` is not a column", self.name())) };
        let mut index = first;
        let one_by_one = !has_changes(rows.schema_ref());
        for (row, offset) in offsets.values().iter().enumerate() {
            if self.fresh == 0 && !is_sampled(*offset) {
                continue;
            }
            self.fresh = self.fresh.saturating_sub(1);
            // Rows are records in order, except those that are not rows; of a change record there are two.
            if one_by_one {
                index = index.max(first + row);
            }
            while index < records.len() && records.get(index).offset < *offset {
                index += 1;
            }
            if index < records.len() && columns.iter().any(|column| column.is_valid(row)) {
                let record = records.get(index);
                let wrong = self.contradiction(partition, &record, &columns, row, records, first, notations);
                if let Some((what, remedy)) = wrong {
                    return Err(self.reason(partition, record.offset, &what, &remedy));
                }
            }
        }
        Ok(())
    }

    /// What the record contradicts, and what to do.
    #[allow(clippy::too_many_arguments)]
    fn contradiction(
        &mut self,
        partition: &TopicPartition,
        record: &Record<'_>,
        columns: &[ArrayRef],
        row: usize,
        records: &dyn RecordSet,
        first: usize,
        notations: &mut Notations,
    ) -> Option<(String, String)> {
        let Some(key) = record.key else {
            return Some((format!("it has no key, and its `{}` is not null", self.name()), self.leave_out()));
        };
        if let Some(misplaced) = self.misplaced(partition, key, records, first) {
            return Some(misplaced);
        }
        let value = Value::at(columns, row)?;
        let notation = self.of_key.as_ref().map_or_else(|| value.notation(key), |format| Some(format.notation(key)));
        let Some(notation) = notation else {
            let remedy = format!("{}, or name the column that is the record key", self.leave_out());
            return Some((format!("its key differs from its `{}`", self.name()), remedy));
        };
        if let Some((known, topic)) = notations.differing(&self.relied_on_by, notation, &partition.topic) {
            let what =
                format!("its key is written as {notation}, earlier keys (in {topic}) as {known}, so equal values differ in their bytes");
            return Some((what, format!("Let its producers write keys as before. Or: {}", self.leave_out())));
        }
        if !matches!(notation, Notation::Text | Notation::Integer(_)) {
            let (value, key) = (hashed(&value), hashed(&key));
            let known = match self.seen.len() < REMEMBERED {
                true => *self.seen.entry(value).or_insert(key),
                false => self.seen.get(&value).copied().unwrap_or(key),
            };
            if known != key {
                let what = format!("its key differs from that of an earlier record with the same `{}`", self.name());
                return Some((what, self.leave_out()));
            }
        }
        None
    }

    /// How the pipeline does without the producers' partitions.
    fn leave_out(&self) -> String {
        match (self.of_changes, self.of_key.is_some()) {
            (true, _) => {
                format!("Write `partitioner: unknown` at the source: no sink keeps its rows by their key then, and for steps {THEN_MOVED}")
            }
            (false, false) => format!("Remove `key` from the source: {THEN_MOVED}"),
            (false, true) => format!("Write `partitioner: unknown` at the source: {THEN_MOVED}"),
        }
    }

    /// The columns of the key.
    fn name(&self) -> String {
        self.columns.iter().map(Path::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The key belongs into another partition.
    pub(super) fn misplaced(
        &self,
        partition: &TopicPartition,
        key: &[u8],
        records: &dyn RecordSet,
        first: usize,
    ) -> Option<(String, String)> {
        let home = self.partitioner.partition(key, self.partitions);
        if home == partition.partition {
            return None;
        }
        let declared = self.partitioner.hash().described().0;
        let (found, remedy) = self.likely(partition.partition, records, first);
        Some((format!("its key belongs to partition {home} by `{declared}`, the source's partitioner. {found}"), remedy))
    }

    pub(super) fn reason(&self, partition: &TopicPartition, offset: i64, what: &str, remedy: &str) -> String {
        let (source, by, name) = (&self.source, &self.relied_on_by, self.name());
        format!(
            "{partition} at offset {offset}: source `{source}` has `key: {name}`, which the record contradicts: {what}. Rows with the same \
             `{name}` could be in several partitions, so results of {by} would be wrong. {remedy}"
        )
    }

    /// The partitioner that the records from `first` on fit, and what to do.
    #[cold]
    fn likely(&self, partition: i32, records: &dyn RecordSet, first: usize) -> (String, String) {
        let keys: BTreeSet<&[u8]> = (first..records.len()).filter_map(|index| records.get(index).key).collect();
        let fits = |hash: KeyHash, count: i32| keys.iter().all(|key| hash.partition(key, count) == partition);
        let declared = self.partitioner.hash();
        let n = keys.len();
        if let Some(hash) = KeyHash::ALL.into_iter().filter(|hash| *hash != declared).find(|hash| fits(*hash, self.partitions)) {
            let (found, whose) = hash.described();
            let all = if n == 1 { "The one key read here fits".to_string() } else { format!("All {n} keys read here fit") };
            // With probability 1 in 100, this few keys fit another partitioner by chance.
            let by_chance = f64::from(self.partitions).powi(n.min(100) as i32) < 100.0;
            let hedge = if by_chance {
                "So few keys may fit by chance: check which partitioner the producers use. If it is this one, write"
            } else {
                "Write"
            };
            let remedy = format!(
                "{hedge} `partitioner: {found}` at the source, or {}: rows are then repartitioned. In both cases a step that has \
                 state must give it up first: `hw run --dry-run` shows how",
                if self.of_key.is_some() || self.of_changes { "`partitioner: unknown`" } else { "remove `key`" }
            );
            return (format!("{all} `{found}`, {whose}"), remedy);
        }
        // Not for one partition, which fits everything, nor for a few keys that fit by chance.
        let grown = (2..self.partitions).filter(|_| n >= 3).find(|count| {
            let either = |key: &&[u8]| [*count, self.partitions].iter().any(|count| declared.partition(key, *count) == partition);
            keys.iter().all(either)
        });
        match grown {
            Some(count) => {
                let found = format!(
                    "The keys fit {count} partitions: the topic had that many when it was written, and has {} now",
                    self.partitions
                );
                (found, format!("{}; or write the records again", self.leave_out()))
            }
            None => (
                "The keys read here fit no single partitioner: producers may differ or choose partitions themselves, or partitions \
                 were added while this worker ran"
                    .to_string(),
                self.leave_out(),
            ),
        }
    }
}

impl Intake {
    /// Reading on would give wrong results. Where the topic has grown, that is why keys are in other partitions.
    #[cold]
    pub(super) fn misread(&self, partition: &TopicPartition, why: String) -> LaneEnd {
        let inputs = self.runtime.plan.stages.iter().flat_map(|stage| &stage.inputs);
        let planned = inputs.flat_map(|input| &input.topics).find(|topic| topic.name == partition.topic).map(|topic| topic.partitions);
        let found = self.runtime.broker.partitions(&partition.topic).ok().flatten();
        LaneEnd::Stop(match (planned, found) {
            (Some(planned), Some(found)) if found > planned => format!(
                "{} had {planned} partitions when the worker started and has {found} now: producers spread keys over all of them. Restart \
                 all workers of the pipeline. If it happens again: {why}",
                partition.topic
            ),
            _ => why,
        })
    }
}

/// One in sixteen offsets, without a pattern that transactions' markers could share.
fn is_sampled(offset: i64) -> bool {
    (offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SAMPLE_BITS) == 0
}
