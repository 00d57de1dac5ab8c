//! The picture of a pipeline: sources, steps, tables, sinks, dead letters, and where rows change their partition.

mod svg;
mod text;

use headwater_engine::plan::{InputKind, Output, Plan, Stage, Target, TopicName, Upstream, dead_letters};

use operator_core::batch::user_fields;

use crate::authoring::explain::port_name;
use crate::registry::title;

pub use svg::svg;
pub use text::{dot, mermaid};

/// The role of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Source,
    Table,
    Step,
    /// Rows go through a topic to the partition of another key.
    Repartition,
    Sink,
    /// What could not be processed.
    DeadLetters,
}

#[derive(Debug)]
pub struct Box {
    /// Unique, of letters, digits and `_`.
    pub id: String,
    pub role: Role,
    pub title: String,
    /// What it is: an operator, a topic, a table.
    pub kind: String,
    /// What it does, shortened.
    pub detail: String,
}

#[derive(Debug)]
pub struct Arrow {
    pub from: String,
    pub to: String,
    /// The port, if it is not the main one.
    pub label: String,
    /// Rows are looked up, not sent.
    pub lookup: bool,
}

#[derive(Debug)]
pub struct Graph {
    pub title: String,
    pub boxes: Vec<Box>,
    pub arrows: Vec<Arrow>,
}

/// Longest text in a box, in characters.
const LONGEST: usize = 42;

fn short(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", one_line.get(..at).unwrap_or_default().trim_end()),
        None => one_line,
    }
}

fn id(role: &str, name: &str) -> String {
    // Two names must not map to one id.
    let safe = name.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() => c.to_string(),
        '_' => "__".to_string(),
        other => format!("_{:x}_", u32::from(other)),
    });
    format!("{role}_{}", safe.collect::<String>())
}

/// The graph of a plan.
pub fn graph(plan: &Plan) -> Graph {
    let mut graph = Graph { title: plan.pipeline.clone(), boxes: Vec::new(), arrows: Vec::new() };
    for table in &plan.tables {
        graph.add(Role::Table, "table", &table.name, "table", &table.topic.name);
    }
    for stage in &plan.stages {
        graph.stage(plan, stage);
    }
    graph
}

impl Graph {
    fn add(&mut self, role: Role, prefix: &str, name: &str, kind: &str, detail: &str) {
        let found = Box { id: id(prefix, name), role, title: short(name), kind: kind.to_string(), detail: short(detail) };
        self.boxes.push(found);
    }

    fn arrow(&mut self, from: String, to: String, label: &str, lookup: bool) {
        self.arrows.push(Arrow { from, to, label: label.to_string(), lookup });
    }

    /// The topics for what `from` could not process; `of` names the box of their own.
    fn dead_letters(&mut self, of: &str, from: String, topics: &str) {
        self.add(Role::DeadLetters, "dlq", of, "topic", topics);
        if let Some(added) = self.boxes.last_mut() {
            added.title = "dead letters".to_string();
        }
        self.arrow(from, id("dlq", of), "", false);
    }

    fn stage(&mut self, plan: &Plan, stage: &Stage) {
        for input in &stage.inputs {
            match &input.kind {
                InputKind::Source(_) => {
                    let topics: Vec<&str> = input.topics.iter().map(|t| t.name.as_ref()).collect();
                    let kind = if input.mode.is_changes() { input.mode.to_string() } else { "source".to_string() };
                    self.add(Role::Source, "source", &input.name, &kind, &topics.join(", "));
                    let letters = topics.iter().map(|topic| dead_letters(topic)).collect::<Vec<_>>();
                    self.dead_letters(&input.name, id("source", &input.name), &letters.join(", "));
                }
                InputKind::Repartition { .. } => {
                    let key = input.key.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let by = if key.is_empty() { "into one partition".to_string() } else { format!("by {key}") };
                    self.add(Role::Repartition, "repartition", &input.name, "repartition", &by);
                }
            }
        }
        for node in &stage.nodes {
            let columns = || {
                let output = node.planned.outputs.first()?;
                Some(user_fields(&output.schema).map(|f| f.name().as_str()).collect::<Vec<_>>().join(", "))
            };
            let detail = node.planned.details.first().map(|(_, value)| value.clone()).or_else(columns);
            self.add(Role::Step, "step", &node.step, &node.kind, &detail.unwrap_or_default());
            for branch in &node.branches {
                let (from, label) = upstream(stage, branch.from);
                self.arrow(from, id("step", &node.step), &label, false);
            }
            for table in &node.planned.tables {
                self.arrow(id("table", &table.name), id("step", &node.step), "", true);
            }
        }
        stage.outputs.iter().for_each(|output| self.output(plan, stage, output));
    }

    fn output(&mut self, plan: &Plan, stage: &Stage, output: &Output) {
        let (from, label) = upstream(stage, output.from);
        let (kind, detail) = match &output.target {
            Target::Repartition { .. } => {
                self.arrow(from, id("repartition", &output.name), &label, false);
                return;
            }
            Target::Topic(sink) => match &sink.topic {
                TopicName::Fixed(name) => ("topic", name.to_string()),
                TopicName::Column(before, column, after) => ("topics", format!("{before}{{{column}}}{after}")),
            },
            Target::Outbox(outbox) => (title(outbox.table.kind()), outbox.table.name().to_string()),
        };
        self.add(Role::Sink, "sink", &output.name, kind, &detail);
        self.arrow(from, id("sink", &output.name), &label, false);
        if matches!(output.target, Target::Outbox(_)) {
            self.dead_letters(&output.name, id("sink", &output.name), &plan.names.refused(&output.name));
        }
    }
}

/// The box rows come from, and the port if it is not the main one.
fn upstream(stage: &Stage, from: Upstream) -> (String, String) {
    match from {
        Upstream::Input(i) => {
            let input = stage.inputs.get(i);
            let role = match input.map(|input| &input.kind) {
                Some(InputKind::Repartition { .. }) => "repartition",
                _ => "source",
            };
            (input.map(|input| id(role, &input.name)).unwrap_or_default(), String::new())
        }
        Upstream::Node(n, port) => match stage.nodes.get(n) {
            None => Default::default(),
            Some(node) => {
                let full = port_name(node, port);
                let label = full.strip_prefix(&node.step).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
                (id("step", &node.step), label.to_string())
            }
        },
    }
}
