//! A pipeline as written: sources, tables, steps and sinks. Only the shape is checked here; [`crate::plan`] checks
//! the meaning against schemas and operators.

mod key;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use operator_core::Span;
use operator_core::diagnostic::closest;
use operator_core::duration::OrNever;
use schemars::JsonSchema;
use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};

pub use crate::format::Format;
use crate::partitioner::Partitioner;
use crate::sinks::{SinkTable, Sinks};
use crate::yaml::{Node, YamlError, read_all};
pub use key::{Key, KeyRecord};

/// The version of the pipeline language.
pub const API_VERSION: &str = "headwater/v1";

/// A pipeline: what to read, what to do with it, where to write it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Version of this file's language: `headwater/v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Name of the pipeline: lower-case letters, digits and dashes. Consumer group, internal topics and transactional
    /// ids derive from it, so renaming starts a new pipeline.
    pub name: String,
    /// What the pipeline is for, in a sentence.
    #[serde(default)]
    pub description: Option<String>,
    /// What a reader of the outputs may rely on.
    #[serde(default)]
    pub guarantee: Guarantee,
    /// How often a transaction is committed, and so about how long a row waits before it can be read: 10ms to 1m.
    #[serde(default = "default_commit_interval")]
    pub commit_interval: Span,
    /// Streams to read, by name.
    pub sources: BTreeMap<String, Source>,
    /// Compacted topics to look things up in, loaded before the first record, by name.
    #[serde(default)]
    pub tables: BTreeMap<String, Table>,
    /// What to do, by name. Order in the file has no meaning: `from` says what follows what.
    #[serde(default)]
    pub steps: BTreeMap<String, Step>,
    /// Where to write, by name.
    #[serde(deserialize_with = "entries")]
    #[schemars(with = "BTreeMap<String, Sink>")]
    pub sinks: BTreeMap<String, Sink>,
}

fn default_commit_interval() -> Span {
    Span(100)
}

/// What a reader of the outputs may rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Every input record takes effect once: outputs, state and positions are committed in one transaction.
    #[default]
    ExactlyOnce,
    /// No transactions: nothing is lost, but after a crash some outputs appear twice. Lower latency.
    AtLeastOnce,
}

/// One name or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a name, or a list of names such as `[orders, routed.big]`")]
pub enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Names::One(name) => std::slice::from_ref(name).iter().map(String::as_str),
            Names::Many(names) => names.iter().map(String::as_str),
        }
    }
}

/// What a step reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// One input, of one stream or of several that are read as one.
    Only(Names),
    /// An input for each name, in the order of the file.
    Named(Vec<(String, Names)>),
}

impl From {
    /// All streams.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (only, named) = match self {
            From::Only(names) => (Some(names), [].as_slice()),
            From::Named(inputs) => (None, inputs.as_slice()),
        };
        only.into_iter().chain(named.iter().map(|(_, names)| names)).flat_map(Names::iter)
    }
}

// By hand: an untagged enum would not know the location of an error in it.
impl<'de> Deserialize<'de> for From {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<From, D::Error> {
        struct FromVisitor;
        impl<'de> serde::de::Visitor<'de> for FromVisitor {
            type Value = From;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name, a list of names such as `[orders, routed.big]`, or inputs such as `{ left: orders, right: payments }`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<From, E> {
                Ok(From::Only(Names::One(name.to_string())))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<From, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(|names| From::Only(Names::Many(names)))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<From, A::Error> {
                let mut inputs = Vec::new();
                while let Some(input) = map.next_entry()? {
                    inputs.push(input);
                }
                Ok(From::Named(inputs))
            }
        }
        d.deserialize_any(FromVisitor)
    }
}

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
    /// The columns of the value, for JSON without a registered schema: `{ order_id: string, total: "decimal(12,2)",
    /// items: [{ sku: string, quantity: int }] }`. A trailing `?` on a type allows null. With `event: envelope` it
    /// declares `data.*`.
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
    /// The columns of its values, for JSON without a registered schema.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventShape {
    Envelope,
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
    pub out_of_order: Span,
    /// A partition that was read to its end and then stays silent this long moves on with the wall clock, so that its
    /// last windows close: its watermark trails the clock by this much. `never` turns that off.
    #[serde(default = "default_idle")]
    pub idle: OrNever,
    /// An event time further ahead of its record's timestamp (or of the clock) than this doesn't move the watermark:
    /// one wrong clock can't make everyone else late.
    #[serde(default = "default_max_future")]
    pub max_future: Span,
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

fn default_out_of_order() -> Span {
    Span(5_000)
}

fn default_idle() -> OrNever {
    OrNever(Some(Span(60_000)))
}

fn default_max_future() -> Span {
    Span(300_000)
}

/// Declared columns: names to types, nested.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Declared {
    /// A type name; a trailing `?` allows null, ` pii` after that marks personal data.
    Type(String),
    /// A list of one element type.
    List(Vec<Declared>),
    /// A record.
    Record(BTreeMap<String, Declared>),
}

// By hand: an untagged enum would not know the location of an error in it.
impl<'de> Deserialize<'de> for Declared {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Declared, D::Error> {
        struct DeclaredVisitor;
        impl<'de> serde::de::Visitor<'de> for DeclaredVisitor {
            type Value = Declared;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a type such as `string`, a list `[string]`, or a mapping of columns to types")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Declared, E> {
                Ok(Declared::Type(text.to_string()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Declared, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Declared::List)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Declared, A::Error> {
                BTreeMap::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Declared::Record)
            }
        }
        d.deserialize_any(DeclaredVisitor)
    }
}

impl Declared {
    /// A type that ends in ` pii` is that of personal data, which samples don't show.
    pub fn is_private(text: &str) -> bool {
        text.trim_end().ends_with(" pii")
    }

    /// Something in it is personal data.
    pub fn has_private(&self) -> bool {
        match self {
            Declared::Type(text) => Declared::is_private(text),
            Declared::List(items) => items.iter().any(Declared::has_private),
            Declared::Record(fields) => fields.values().any(Declared::has_private),
        }
    }
}

/// A compacted topic to look things up in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The compacted topic.
    pub topic: String,
    /// The column that is the record key; a list of columns, or `{ format: avro }`, if the key is a record.
    pub key: Key,
    /// How record values are encoded.
    #[serde(default)]
    pub format: Format,
    /// The columns of the value, for JSON without a registered schema.
    #[serde(default)]
    pub schema: Option<Declared>,
    /// Subject in the schema registry instead of `{topic}-value`.
    #[serde(default)]
    pub subject: Option<String>,
    /// The timestamp column from which a row is valid, for `as_of: event_time`; without it, the record's timestamp.
    #[serde(default)]
    pub time: Option<String>,
    /// How long replaced rows are kept for `as_of: event_time`; 7d where a join asks for it, else not at all.
    #[serde(default)]
    pub history: Option<Span>,
}

/// What becomes of a row that a step can't compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The source record goes to the dead letters of its topic, with the cause.
    #[default]
    DeadLetter,
    /// The row is left out and counted as filtered.
    Drop,
}

/// A step: where its rows come from and one operator.
#[derive(Clone, Debug)]
pub struct Step {
    pub from: From,
    /// `None`: not decided, which is an error where a cast can fail.
    pub on_error: Option<OnError>,
    /// The operator's key, such as `filter`. Its configuration is read from the tree once the operator is known.
    pub kind: String,
}

/// A place to write to: where its rows come from, and one target.
#[derive(Clone, Debug)]
pub struct Sink {
    /// The source, step or port (`step.port`) whose rows are written.
    pub from: String,
    pub to: SinkTarget,
    /// Keys in its entry that say nothing of this target, but of another.
    pub without_effect: Vec<String>,
}

/// What a sink writes to.
#[derive(Clone, Debug)]
pub enum SinkTarget {
    Topic(TopicTarget),
    /// A table of a store, handed over through an outbox topic.
    Table(Arc<dyn SinkTable>),
}

impl Sink {
    /// The topic it writes, if it writes one.
    pub fn topic(&self) -> Option<&TopicTarget> {
        match &self.to {
            SinkTarget::Topic(topic) => Some(topic),
            SinkTarget::Table(_) => None,
        }
    }

    /// The table it writes to, if it does.
    pub fn table(&self) -> Option<&dyn SinkTable> {
        match &self.to {
            SinkTarget::Topic(_) => None,
            SinkTarget::Table(table) => Some(table.as_ref()),
        }
    }
}

/// A topic to write, and how.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicTarget {
    /// Write to this topic. `{column}` inserts the value of a text column: `audit.{rest}`.
    pub topic: String,
    /// How values are encoded in the topic: `json`, `avro`, or `bytes`/`string` for a stream with one column `value`.
    #[serde(default)]
    pub format: Format,
    /// The column that becomes the record key, and so decides the partition; a list of columns becomes a record. Without it rows
    /// keep the order of their source partition and go to the partition of the same number (modulo the topic's partitions).
    #[serde(default)]
    pub key: Option<Key>,
    /// The column that becomes the record timestamp; without it, event time.
    #[serde(default)]
    pub timestamp: Option<String>,
    /// The whole-number column that is the partition, for full control.
    #[serde(default)]
    pub partition: Option<String>,
    /// Carry the headers of the source record on (correlation, causation, trace context). Rows that an operator made,
    /// such as closed windows, have none.
    #[serde(default = "yes")]
    pub headers: bool,
    /// Headers to set, by name: the text or bytes column with the value. A header with this name that the source record
    /// has is replaced; where the column is null the header is left out.
    #[serde(default)]
    pub set_headers: BTreeMap<String, String>,
    /// Subject in the schema registry instead of `{topic}-value`.
    #[serde(default)]
    pub subject: Option<String>,
    /// Create the topic with this many partitions if it doesn't exist. Without it a missing topic stops the start.
    #[serde(default)]
    pub create: Option<Create>,
}

fn yes() -> bool {
    true
}

/// How to create a topic that is missing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// Copies of each partition; without it, the broker's default.
    #[serde(default)]
    pub replication: Option<i32>,
    /// Topic settings such as `retention.ms`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// Whether a pipeline can be called this: lower-case letters, digits and dashes, a dash not first, at most 100.
pub fn can_name_a_pipeline(name: &str) -> bool {
    let simple = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=100).contains(&name.len()) && !name.starts_with('-') && name.chars().all(simple)
}

impl Pipeline {
    /// Reads a pipeline whose sinks write to topics only.
    pub fn read(root: &Node) -> (Option<Pipeline>, Vec<YamlError>) {
        Pipeline::read_with(root, &Sinks::default())
    }

    /// Reads a pipeline from its YAML tree, with everything that is wrong with its shape. What is wrong is left out of
    /// the pipeline, so that the planner can say what else is; `None` if the file isn't a mapping at all. `sinks`: the tables that
    /// sinks can write to.
    pub fn read_with(root: &Node, sinks: &Sinks) -> (Option<Pipeline>, Vec<YamlError>) {
        let (mut pipeline, mut errors) = read_all::<Pipeline>(root);
        let entries = root.get("sinks").into_iter().flat_map(Node::entries).filter(|(_, entry)| entry.is_map());
        for (key, entry) in entries {
            let from = entry.get("from").and_then(Node::text);
            match (target::read(key, entry, sinks), &mut pipeline, from) {
                (Ok((to, without_effect)), Some(pipeline), Some(from)) => {
                    pipeline.sinks.insert(key.text.clone(), Sink { from: from.to_string(), to, without_effect });
                }
                (Ok(_), ..) => {}
                (Err(wrong), ..) => errors.extend(wrong),
            }
        }
        (pipeline, errors)
    }
}

/// The shape of a section of sinks: mappings with `from`. Their targets are read by who knows the stores.
fn entries<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeMap<String, Sink>, D::Error> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "from")]
        _from: String,
    }
    BTreeMap::<String, Entry>::deserialize(d).map(|_| BTreeMap::new())
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Step, D::Error> {
        struct StepVisitor;
        impl<'de> serde::de::Visitor<'de> for StepVisitor {
            type Value = Step;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a step: `from` and one operator")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Step, A::Error> {
                let (mut from, mut on_error, mut operator) = (None, None, None);
                while let Some(key) = map.next_key_seed(StepKey { operator: operator.as_deref() })? {
                    match key.as_str() {
                        "from" => from = Some(map.next_value()?),
                        "on_error" => on_error = Some(map.next_value()?),
                        _ => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                            operator = Some(key);
                        }
                    }
                }
                let from = from.ok_or_else(|| serde::de::Error::missing_field("from"))?;
                let kind = operator.ok_or_else(|| serde::de::Error::custom("this step has no operator (filter, map, ...)"))?;
                Ok(Step { from, on_error, kind })
            }
        }
        d.deserialize_map(StepVisitor)
    }
}

/// Reads a key of a step, after those that were read: a refusal then knows the place of the key.
struct StepKey<'a> {
    operator: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for StepKey<'_> {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        const OWN: [&str; 2] = ["from", "on_error"];
        let key = String::deserialize(d)?;
        match self.operator {
            _ if OWN.contains(&key.as_str()) => Ok(key),
            _ if closest(&key, OWN).is_some() => Err(serde::de::Error::unknown_field(&key, &OWN)),
            None => Ok(key),
            Some(first) => Err(serde::de::Error::custom(format!(
                "a step has one operator, this one has `{first}` and `{key}`: split it into two steps"
            ))),
        }
    }
}

impl JsonSchema for Sink {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sink".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // The targets add their properties (`hw schema`).
        schemars::json_schema!({ "type": "object", "required": ["from"] })
    }
}

impl JsonSchema for Step {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Step".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // The registry of operators adds one property per kind (`hw schema`).
        schemars::json_schema!({ "type": "object", "required": ["from"] })
    }
}
