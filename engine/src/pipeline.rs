//! A pipeline as written: sources, tables, steps and sinks. Only the shape is checked here; [`crate::plan`] checks
//! the meaning against schemas and operators.

mod key;
mod source;
mod step;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use operator_core::Interval;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::format::Format;
pub use crate::format::declared::{Declared, EventShape};
use crate::sinks::{SinkTable, Sinks};
use crate::yaml::{Node, YamlError, read_all};
pub use key::{Key, KeyRecord};
pub use source::{EventTime, NullValues, OtherTypes, RecordType, Source, Start, TypeFrom, WrongUnit};
pub use step::{From, Step};

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
    pub commit_interval: Interval,
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

fn default_commit_interval() -> Interval {
    Interval(100)
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
    /// The columns of the value, for JSON without a registered schema and for CSV, there in the order of the fields.
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
    pub history: Option<Interval>,
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
    /// How values are encoded in the topic: `json`, `avro`, `csv`, or `bytes`/`string` for a stream with one column `value`.
    #[serde(default)]
    pub format: Format,
    /// `envelope`: the rows are events (eventId, eventType, timestamp, data.*). In JSON, members of `data` that are null are left
    /// out: its columns are those of all types of events.
    #[serde(default)]
    pub event: Option<EventShape>,
    /// The column that becomes the record key, and so decides the partition, or a field: `data.sku`. A list becomes a record. Without it rows
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
    /// The name by which the topics of a step are called: the one that it had first.
    pub fn topics_named<'n>(&'n self, step: &'n str) -> &'n str {
        self.steps.get(step).and_then(|step| step.was.as_deref()).unwrap_or(step)
    }

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

impl JsonSchema for Sink {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sink".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // The targets add their properties (`hw schema`).
        schemars::json_schema!({ "type": "object", "required": ["from"] })
    }
}
