//! Sources as written: topics, record types, columns, event time.

use std::collections::BTreeMap;

use operator_core::Interval;
use operator_core::duration::OrNever;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Key;
use crate::format::Format;
use crate::format::declared::{Declared, EventShape};
use crate::partitioner::Partitioner;

/// A stream to read: one topic, a list, or all that match a pattern.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The topic to read.
    #[serde(default)]
    pub topic: Option<String>,
    /// Topics to read as one stream.
    #[serde(default)]
    pub topics: Option<Vec<String>>,
    /// Read every topic whose whole name matches; `*` stands for any characters: `business.orders.*`. Dead-letter
    /// topics never match. Topics that appear later are read after the next restart.
    #[serde(default)]
    pub pattern: Option<String>,
    /// How record values are encoded.
    #[serde(default)]
    pub format: Format,
    /// The columns of the value, for JSON without a registered schema and for CSV: `{ order_id: string, total: "decimal(12,2)",
    /// items: [{ sku: string, quantity: int }] }`. A trailing `?` on a type allows null. In CSV the order is that of the fields. With
    /// `event: envelope` it declares `data.*`.
    #[serde(default)]
    pub schema: Option<Declared>,
    /// Subject in the schema registry instead of `{topic}-value`.
    #[serde(default)]
    pub subject: Option<String>,
    /// `envelope`: records carry the standard event envelope (eventId, eventType, eventVersion, timestamp, source,
    /// data.*, metadata.*).
    #[serde(default)]
    pub event: Option<EventShape>,
    /// What says the type of a record, where the topic has several `types`: `{ field: eventType }`, `{ header: event-type }` or, of
    /// Avro records, `record_name`.
    #[serde(default, rename = "type")]
    pub type_from: Option<TypeFrom>,
    /// Types of records in the topic, by name. Each is a stream with columns of its own: `from: orders.placed`.
    #[serde(default)]
    pub types: BTreeMap<String, RecordType>,
    /// What to do with records of other types.
    #[serde(default)]
    pub other: OtherTypes,
    /// Where event time comes from and how far out of order rows may be.
    #[serde(default)]
    pub time: EventTime,
    /// The column whose value is the record key, or a list of columns, if the pipeline may rely on it: rows with equal values are
    /// then in one partition already and need no repartition. `{ format: avro }`: the key is a record, and its columns are
    /// `_key.order_id` and so on.
    #[serde(default)]
    pub key: Option<Key>,
    /// How the producers choose the partition of a key, if not as Kafka's Java client does (`murmur2`): the setting
    /// `partitioner` of clients over librdkafka (kcat, and those for Python, Go and .NET), which is `consistent_random`
    /// unless they set it. What is read is compared with it.
    #[serde(default)]
    pub partitioner: Option<Partitioner>,
    /// Where to start when the pipeline has never committed a position.
    #[serde(default)]
    pub start: Start,
    /// What to do with records that have a key but no value.
    #[serde(default)]
    pub null_values: NullValues,
}

/// What says the type of a record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TypeFrom {
    /// The text at this path of the value.
    Field(String),
    /// The header with this name.
    Header(String),
    /// The name of the Avro schema that the record was written with.
    RecordName,
}

/// One type of the records in a topic.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordType {
    /// What the record says if it has this type; without it, the name of the type. Of an Avro schema its name, with its namespace or
    /// without.
    #[serde(default)]
    pub is: Option<String>,
    /// The columns of its values, for JSON without a registered schema and for CSV.
    #[serde(default)]
    pub schema: Option<Declared>,
    /// Subject in the schema registry instead of `{topic}-{is}`.
    #[serde(default)]
    pub subject: Option<String>,
}

/// What to do with records of other types than those of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtherTypes {
    /// Send them to the dead letters.
    #[default]
    DeadLetter,
    /// Count them as filtered.
    Drop,
    /// Read them as the stream `other`, with one column `value` of bytes.
    Keep,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    #[default]
    Earliest,
    Latest,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullValues {
    /// Count them as filtered.
    #[default]
    Skip,
    /// Send them to the dead letters.
    DeadLetter,
}

/// Event time of a stream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventTime {
    /// The timestamp column to take; without it, the record's own timestamp.
    #[serde(default)]
    pub field: Option<String>,
    /// How much earlier than the latest row seen a row may be and still count as in order. The watermark trails the
    /// latest event time of a partition by this much.
    #[serde(default = "default_out_of_order")]
    pub out_of_order: Interval,
    /// A partition that was read to its end and then stays silent this long moves on with the wall clock, so that its
    /// last windows close: its watermark trails the clock by this much. `never` turns that off.
    #[serde(default = "default_idle")]
    pub idle: OrNever,
    /// An event time further ahead of its record's timestamp (or of the clock) than this doesn't move the watermark:
    /// one wrong clock can't make everyone else late.
    #[serde(default = "default_max_future")]
    pub max_future: Interval,
    /// What to do with rows whose event time is decades away from their record's timestamp, where the same number in
    /// another unit is not: seconds written where milliseconds are expected. They are counted and warned of either way.
    #[serde(default)]
    pub wrong_unit: WrongUnit,
}

/// What becomes of a row whose event time looks like seconds, microseconds or nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WrongUnit {
    /// The record goes to the dead letters: taken as milliseconds, its time would be wrong by decades.
    #[default]
    DeadLetter,
    /// Take the time as it is: the data really is of January 1970.
    Accept,
}

impl Default for EventTime {
    fn default() -> EventTime {
        EventTime {
            field: None,
            out_of_order: default_out_of_order(),
            idle: default_idle(),
            max_future: default_max_future(),
            wrong_unit: WrongUnit::default(),
        }
    }
}

fn default_out_of_order() -> Interval {
    Interval(5_000)
}

fn default_idle() -> OrNever {
    OrNever(Some(Interval(60_000)))
}

fn default_max_future() -> Interval {
    Interval(300_000)
}
