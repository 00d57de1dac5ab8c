//! What a pipeline will do: its plan as facts, for `hw explain` and `hw graph`.

mod facts;
mod text;

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema};
use headwater_engine::pipeline::{Guarantee, NullValues, OnError, OtherTypes, Pipeline, Start};
use headwater_engine::plan::{Decode, InputKind, Output, Plan, PlanNode, Stage, StageInput, Target, TimeSource, TopicName, Upstream};
use operator_core::batch::user_fields;
use operator_core::{Interval, Port, type_name};
use serde::Serialize;

pub use text::render;

/// The plan of a pipeline.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub pipeline: String,
    pub description: Option<String>,
    pub guarantee: String,
    pub commit_interval: String,
    pub group: String,
    /// Partition counts are assumed: no cluster was asked.
    pub assumed_partitions: bool,
    pub tables: Vec<Entry>,
    pub stages: Vec<ExplainedStage>,
    pub topics: Vec<InternalTopic>,
}

/// A part of the pipeline whose rows stay in one partition.
#[derive(Debug, Serialize)]
pub struct ExplainedStage {
    pub tasks: i32,
    pub entries: Vec<Entry>,
}

/// A source, table, step or sink.
#[derive(Debug, Default, Serialize)]
pub struct Entry {
    /// `source`, `repartition`, `table`, `step` or `sink`.
    pub role: &'static str,
    pub name: String,
    /// The operator of a step; the topic or table of the others.
    pub what: String,
    pub from: Vec<String>,
    /// Settings, defaults included, and what follows from them.
    pub facts: Vec<(String, String)>,
    /// By port: the main one has no name.
    pub schemas: Vec<(String, Vec<Column>)>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
    pub nullable: bool,
}

/// A topic that the pipeline makes.
#[derive(Debug, Serialize)]
pub struct InternalTopic {
    pub name: String,
    pub partitions: i32,
    pub settings: Vec<(String, String)>,
    pub why: String,
}

/// The facts of a plan. `assumed`: partition counts come from no cluster.
pub fn explain(plan: &Plan, pipeline: &Pipeline, assumed: bool) -> Explained {
    let guarantee = match plan.guarantee {
        Guarantee::ExactlyOnce => "exactly once",
        Guarantee::AtLeastOnce => "at least once",
    };
    Explained {
        pipeline: plan.pipeline.clone(),
        description: pipeline.description.clone(),
        guarantee: guarantee.to_string(),
        commit_interval: Interval(plan.commit_interval).to_string(),
        group: plan.names.group(),
        assumed_partitions: assumed,
        tables: plan.tables.iter().map(|table| facts::table(table, pipeline)).collect(),
        stages: plan.stages.iter().map(|stage| explained_stage(plan, stage)).collect(),
        topics: facts::topics(plan, pipeline),
    }
}

fn explained_stage(plan: &Plan, stage: &Stage) -> ExplainedStage {
    let inputs = stage.inputs.iter().map(|input| facts::input(plan, input));
    let nodes = stage.nodes.iter().map(|node| facts::step(stage, node));
    let sinks = stage.outputs.iter().filter(|o| !matches!(o.target, Target::Repartition { .. })).map(|o| facts::sink(plan, stage, o));
    ExplainedStage { tasks: stage.partitions, entries: inputs.chain(nodes).chain(sinks).collect() }
}

/// What an upstream is called in the file.
pub fn upstream(stage: &Stage, upstream: Upstream) -> String {
    match upstream {
        Upstream::Input(i) => stage.inputs.get(i).map(input_name).unwrap_or_default(),
        Upstream::Node(n, port) => stage.nodes.get(n).map(|node| port_name(node, port)).unwrap_or_default(),
    }
}

/// A source by its name, a repartition by the step it feeds.
fn input_name(input: &StageInput) -> String {
    match input.kind {
        InputKind::Source(_) => input.name.clone(),
        InputKind::Repartition { .. } => format!("{} (repartitioned)", input.name),
    }
}

/// `step`, or `step.port`.
pub fn port_name(node: &PlanNode, port: Port) -> String {
    let name = node.planned.outputs.get(usize::from(port.0)).map_or("", |port| port.name.as_str());
    if name.is_empty() { node.step.clone() } else { format!("{}.{name}", node.step) }
}

fn columns(schema: &Schema) -> Vec<Column> {
    let column = |f: &std::sync::Arc<Field>| Column { name: f.name().clone(), data_type: shown(f.data_type()), nullable: f.is_nullable() };
    user_fields(schema).map(column).collect()
}

/// A type with its parts as `schema` declares them: records in braces, lists in brackets, `?` where null is allowed.
fn shown(data_type: &DataType) -> String {
    let part = |f: &Field| format!("{}{}", shown(f.data_type()), if f.is_nullable() { "?" } else { "" });
    match data_type {
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{}: {}", f.name(), part(f))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        DataType::List(item) => format!("[{}]", part(item)),
        other => type_name(other),
    }
}

fn settings(config: &[(String, String)]) -> Vec<(String, String)> {
    let sorted: BTreeMap<_, _> = config.iter().cloned().collect();
    sorted.into_iter().collect()
}
