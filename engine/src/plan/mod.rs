//! From a pipeline to the plan that lanes execute.
//!
//! A plan is a list of **stages**. A stage is a part of the pipeline whose rows stay in one partition: its inputs are
//! co-partitioned topics, its operators form a DAG, its outputs are topics. Where a step needs another key, the
//! planner ends the stage in a repartition topic and begins the next one there. Each partition of a stage is a
//! **task**; lanes share the tasks out through the consumer group, and recovery is per task.

mod build;
mod changes;
mod checks;
mod cut;
mod inputs;
mod key;
mod names;
mod record;
mod record_types;
mod remembered;
mod sink;
mod source;
mod streams;
mod topics;

use std::sync::Arc;

use arrow::datatypes::{Fields, SchemaRef};
use operator_core::{Diagnostic, Input, Millis, Mode, Path, Planned, Port};

use crate::broker::TopicId;
use crate::definition::Definition;
use crate::format::Layout;
use crate::notation::Notation;
use crate::partitioner::Partitioner;
use crate::pipeline::{EventShape, Format, Guarantee, NullValues, OnError, Start, WrongUnit};
use crate::record_types::Types;
use crate::sinks::{Incoming, SinkTable};

pub use crate::catalog::{Catalog, Registered};
pub use build::plan;
pub use key::{KeyCodec, SinkKey};
pub use names::{Names, dead_letters};
pub use topics::{TOMBSTONE_RETENTION, topics_to_create};

/// A pipeline that passed its checks.
pub struct Plan {
    pub pipeline: String,
    pub guarantee: Guarantee,
    pub commit_interval: Millis,
    pub tables: Vec<TablePlan>,
    /// In flow order: a stage comes after the stages whose repartition topics it reads.
    pub stages: Vec<Stage>,
    pub warnings: Vec<Diagnostic>,
    pub names: Names,
    /// What the file says.
    pub definition: Definition,
}

impl Plan {
    /// Whether outputs, state and positions are committed together.
    pub fn is_transactional(&self) -> bool {
        self.guarantee == Guarantee::ExactlyOnce
    }

    fn sources(&self) -> impl Iterator<Item = &InputTopic> {
        let inputs = self.stages.iter().flat_map(|s| &s.inputs);
        inputs.filter(|i| matches!(i.kind, InputKind::Source(_))).flat_map(|i| &i.topics)
    }

    /// The sinks that write to tables.
    pub fn outboxes(&self) -> impl Iterator<Item = (&Output, &OutboxSink)> {
        self.stages.iter().flat_map(|stage| &stage.outputs).filter_map(|output| match &output.target {
            Target::Outbox(outbox) => Some((output, outbox)),
            _ => None,
        })
    }

    /// `topic` is one of the source topics.
    pub fn reads(&self, topic: &str) -> bool {
        self.sources().any(|t| t.name.as_ref() == topic)
    }

    /// The first source topic: whose dead letters take rows that no single record stands for.
    pub fn first_source(&self) -> Arc<str> {
        self.sources().next().map_or_else(|| "".into(), |t| t.name.clone())
    }
}

/// A part of the pipeline whose rows stay in one partition.
pub struct Stage {
    pub inputs: Vec<StageInput>,
    /// In flow order.
    pub nodes: Vec<PlanNode>,
    pub outputs: Vec<Output>,
    /// Number of tasks: the largest partition count among the inputs.
    pub partitions: i32,
}

/// Where a node's or an output's rows come from, within its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    Input(usize),
    Node(usize, Port),
}

/// Topics read as one stream.
pub struct StageInput {
    pub name: String,
    pub topics: Vec<InputTopic>,
    pub kind: InputKind,
    /// User columns, then system columns.
    pub schema: SchemaRef,
    pub key: Option<Vec<Path>>,
    /// Whether its rows are events, or changes.
    pub mode: Mode,
}

pub struct InputTopic {
    pub name: Arc<str>,
    pub partitions: i32,
    /// Partitions below this begin at `start`, those that were added later at their beginning. The manifest knows.
    pub first_partitions: i32,
    /// The topic it must be, once the manifest was read.
    pub id: Option<TopicId>,
    /// How its keys are written, where a step relies on them. The manifest knows.
    pub notation: Option<Notation>,
    /// What its values look like: no columns where each of several types has its own, or where the topic is the pipeline's own.
    pub layout: Layout,
}

impl InputTopic {
    /// A topic known only from the catalog.
    pub fn new(name: impl Into<Arc<str>>, partitions: i32, layout: Layout) -> InputTopic {
        InputTopic { name: name.into(), partitions, first_partitions: partitions, id: None, notation: None, layout }
    }
}

pub enum InputKind {
    Source(Decode),
    /// A repartition topic: batches of rows with the watermarks of the tasks that wrote them (rule R6).
    Repartition {
        /// Stage and number of tasks that write it.
        stage: usize,
        writers: i32,
        /// Why rows can't stay where they are.
        why: String,
    },
}

/// How records become rows.
#[derive(Clone)]
pub struct Decode {
    pub format: Format,
    /// The columns of the value.
    pub value: SchemaRef,
    /// Columns about the record itself that the pipeline uses, after those of the value.
    pub metadata: Vec<Metadata>,
    /// How record keys become columns, if they are records.
    pub key: Option<KeyCodec>,
    /// The types of its records, if there are several: `value` is then their union.
    pub types: Option<Types>,
    /// Of change records: the columns that say which row of the table a change is about.
    pub changes: Option<Vec<Path>>,
    pub time: TimeSource,
    pub out_of_order: Millis,
    pub idle: Option<Millis>,
    pub max_future: Millis,
    pub wrong_unit: WrongUnit,
    /// How producers choose partitions by the record key.
    pub partitioner: Partitioner,
    /// What needs the source's key to decide the partition, in words: a step that does without a repartition, or a sink of changes.
    pub relied_on_by: Option<Arc<str>>,
    pub start: Start,
    /// Its topics are found by a pattern.
    pub pattern: bool,
    pub null_values: NullValues,
    /// Carry headers along.
    pub headers: bool,
}

/// A column about the record itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    Topic,
    Partition,
    Key,
    Timestamp,
    Value,
}

/// Where event time comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeSource {
    /// The record's timestamp.
    Record,
    /// When the connector saw the change, or else the record's timestamp.
    Change,
    /// A column, by its path.
    Column(Path),
}

/// A step in its stage.
pub struct PlanNode {
    pub step: String,
    pub kind: String,
    pub planned: Planned,
    /// The streams it reads.
    pub branches: Vec<Branch>,
    pub on_error: OnError,
    /// By port: the columns whose values decide a row's partition, when known.
    pub keys: Vec<Option<Vec<Path>>>,
    /// The topic its state is changelogged to.
    pub changelog: Option<Arc<str>>,
    /// The topic that must be, once the manifest was read.
    pub changelog_id: Option<TopicId>,
}

/// A stream that a step reads.
pub struct Branch {
    pub from: Upstream,
    /// The input of the step that it belongs to.
    pub input: Input,
    /// Of an input of several streams: the columns that their rows are brought into.
    pub united: Option<SchemaRef>,
    pub mode: Mode,
}

/// A topic that a stage writes.
pub struct Output {
    /// Name of the sink, or of the step that a repartition feeds.
    pub name: String,
    pub from: Upstream,
    pub schema: SchemaRef,
    pub mode: Mode,
    /// Its rows are brought into `schema`: other streams are read together with this one.
    pub united: bool,
    pub target: Target,
}

impl Output {
    /// What its rows are counted under: the sink, or the repartition topic, because a step may have the name of a sink.
    pub fn counted_as(&self) -> &str {
        match &self.target {
            Target::Repartition { topic, .. } => topic,
            Target::Topic(_) | Target::Outbox(_) => &self.name,
        }
    }
}

pub enum Target {
    Topic(TopicSink),
    Repartition { topic: Arc<str>, partitions: i32, key: Vec<Path> },
    Outbox(OutboxSink),
}

/// Rows for a table of a store, handed over through a topic of the pipeline's own (rule R4).
#[derive(Clone)]
pub struct OutboxSink {
    /// The outbox.
    pub topic: Arc<str>,
    pub partitions: i32,
    pub table: Arc<dyn SinkTable>,
    pub rows: Incoming,
}

/// A topic written for others to read.
#[derive(Clone)]
pub struct TopicSink {
    pub topic: TopicName,
    /// `None` for topics whose name depends on the row: asked when first used.
    pub partitions: Option<i32>,
    pub format: Format,
    /// Its rows are events, and written as such.
    pub event: Option<EventShape>,
    /// What its values look like, with the schema that is registered with the subject.
    pub layout: Layout,
    pub subject: String,
    pub key: Option<SinkKey>,
    pub timestamp: Option<String>,
    pub partition: Option<String>,
    pub headers: bool,
    /// Headers that are set, and the columns of their values.
    pub set_headers: Vec<(String, String)>,
    /// To be created if missing.
    pub create: Option<crate::broker::TopicSpec>,
    /// The topic takes no record without a key. Of topics whose name depends on the row: those it creates.
    pub compacted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicName {
    Fixed(Arc<str>),
    /// Text before, column, text after.
    Column(String, String, String),
}

impl TopicName {
    /// Whether a sink with this name may write to `topic`. A name with a column covers no dead-letter topic: these belong to sources.
    pub fn covers(&self, topic: &str) -> bool {
        match self {
            TopicName::Fixed(name) => name.as_ref() == topic,
            TopicName::Column(before, _, after) => {
                topic.starts_with(before.as_str()) && topic.ends_with(after.as_str()) && !topic.ends_with(".dlq")
            }
        }
    }
}

/// A compacted topic to load.
pub struct TablePlan {
    pub name: String,
    pub topic: InputTopic,
    pub format: Format,
    pub schema: SchemaRef,
    /// The columns of the record key.
    pub key: Fields,
    /// How record keys are read, if they are records.
    pub codec: Option<KeyCodec>,
    pub time: Option<String>,
    /// `Some` if a step looks rows up as of event time.
    pub history: Option<Millis>,
}
