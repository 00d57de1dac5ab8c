//! The manifest: what a pipeline's state, positions and internal topics belong to.
//!
//! A deployment leaves data in Kafka that has a meaning only together with its plan: accumulators
//! without names, rows in a repartition topic, positions in topics that may be deleted and created again. The topic
//! `hw.<pipeline>.manifest` says what they belong to. Every start compares its plan with it before it joins the group
//! ([`check`]) and rejects changes that state, positions or unread rows can't follow; harmless changes are written as the next
//! version ([`store`]).
//!
//! ```text
//! read -> check -> (refused: stop) -> create topics -> write the next version, if anything differs -> read back -> join
//! ```
//!
//! A version is a deployment: what a running worker adds ([`Keeper`]) keeps its number. The file is recorded, too, so that a start
//! lists every change of it, and a worker notices that another one runs with another file.
//!
//! A record is one JSON document that users can read. It names the record it replaces, and counts only if that was the
//! current manifest: of two workers that write at once the first wins, and the other compares again. So the topic is
//! not compacted, which could keep a record that lost; it holds a record per deployment that changed something.
//!
//! Honest limits: logic that does not show in a layout (such as a filter before a window) is listed, but never a reason to reject a
//! start: it takes effect for later rows, and what streams of changes then leave behind is listed (`left.rs`). A worker that runs notices another version within seconds, not at once.

mod check;
mod deploy;
mod evidence;
mod impact;
mod keeper;
mod left;
mod notation;
mod reset;
mod same;
mod steps;
pub mod store;

use std::collections::BTreeMap;

use operator_core::batch::{HEADERS, is_system};
use operator_core::changes::{CHANGE, has_changes};
use operator_core::spec::nullable;
use operator_core::type_name;
use serde::{Deserialize, Serialize};

pub use check::{Verdict, check};
pub use deploy::{Agreed, DeployError, Preview, deploy, preview};
pub use impact::Impact;
pub use keeper::Keeper;
pub(crate) use keeper::recreated;
pub use notation::Noted;
pub use same::{lost, more_partitions, read_again};

use crate::broker::{Broker, BrokerError, TopicId};
use crate::definition::Definition;
use crate::notation::Notation;
use crate::plan::{InputKind, Plan, Target};

/// Version of the document.
pub const FORMAT: u32 = 1;

/// What is deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Counts the versions of this pipeline, from 1.
    pub version: u64,
    /// Offset of the record that this one replaces; `None` for the first.
    pub replaces: Option<i64>,
    /// What this version changed, a line each; empty in the first one, and in records of versions that did not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// Positions or state are being changed from outside, in words: no worker may start until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<String>,
    /// Topics that the group reads: sources and repartition topics.
    pub inputs: BTreeMap<String, Input>,
    /// Steps with state.
    pub steps: BTreeMap<String, Step>,
    /// Outbox topics, by sink.
    pub outboxes: BTreeMap<String, Outbox>,
    /// What the file said; empty in records of versions that kept none.
    #[serde(default, skip_serializing_if = "Definition::is_empty")]
    pub definition: Definition,
}

/// A topic that the group reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The source that reads it; `None` for a repartition topic.
    pub source: Option<String>,
    pub id: Option<TopicId>,
    pub partitions: i32,
    /// Partitions below this begin at the source's `start`, those that were added later at their beginning.
    pub first_partitions: i32,
    /// Partitions below this have had a committed position.
    pub begun: i32,
    /// Sources: how its keys are written, where a step with state relies on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notation: Option<Notation>,
    /// Repartition topics: the columns that decide the partition, and the columns of the rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Of these, those that may be null; `None` in records of versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<Vec<String>>,
}

/// A step with state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub changelog: String,
    pub id: Option<TopicId>,
    pub partitions: i32,
    /// What puts its groups into partitions.
    pub partitioned: Partitioned,
    /// [`operator_core::StateLayout`]
    pub layout: Vec<(String, String)>,
    /// Its columns that may be null; `None` in records of versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<Vec<String>>,
}

/// What decides in which partition the rows of a step with state are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitioned {
    /// The producers of its sources, with this partitioner where a source has a `key`.
    BySource(Option<String>),
    /// A repartition topic of the pipeline.
    ByRepartition,
}

/// The outbox of a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    pub topic: String,
    pub id: Option<TopicId>,
    pub partitions: i32,
    /// Its rows are changes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub changes: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Manifest {
    /// The manifest of a plan, as the first version, without ids.
    pub fn of(plan: &Plan) -> Manifest {
        let (mut inputs, mut steps, mut outboxes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for stage in &plan.stages {
            for input in &stage.inputs {
                let is_source = matches!(input.kind, InputKind::Source(_));
                for topic in &input.topics {
                    // Columns of the engine's that are not in all rows: what happens to a row, and headers where something reads them.
                    let own = |name: &str| !is_system(name) || [CHANGE, HEADERS].contains(&name);
                    let carried = || input.schema.fields().iter().filter(|f| own(f.name()));
                    let columns = carried().map(|f| format!("{} {}", f.name(), type_name(f.data_type())));
                    let key = input.key.iter().flatten().map(ToString::to_string);
                    let entry = Input {
                        source: is_source.then(|| input.name.clone()),
                        id: None,
                        partitions: topic.partitions,
                        first_partitions: topic.partitions,
                        begun: 0,
                        notation: None,
                        key: if is_source { Vec::new() } else { key.collect() },
                        columns: if is_source { Vec::new() } else { columns.collect() },
                        nullable: (!is_source).then(|| nullable(carried())),
                    };
                    inputs.insert(topic.name.to_string(), entry);
                }
            }
            let sources = stage.inputs.iter().filter_map(|input| match &input.kind {
                // The sources of one stage have one partitioner.
                InputKind::Source(decode) => Some(input.key.as_ref().map(|_| decode.partitioner.hash().described().0.to_string())),
                InputKind::Repartition { .. } => None,
            });
            let partitioned = sources.max().map_or(Partitioned::ByRepartition, Partitioned::BySource);
            for node in &stage.nodes {
                let (Some(changelog), Some(state)) = (&node.changelog, &node.planned.state) else { continue };
                let (changelog, layout, nullable) = (changelog.to_string(), state.facts.clone(), Some(state.nullable.clone()));
                let step = Step { changelog, id: None, partitions: stage.partitions, partitioned: partitioned.clone(), layout, nullable };
                steps.insert(node.step.clone(), step);
            }
            for output in &stage.outputs {
                if let Target::Outbox(outbox) = &output.target {
                    let (topic, changes) = (outbox.topic.to_string(), has_changes(&output.schema));
                    outboxes.insert(output.name.clone(), Outbox { topic, id: None, partitions: outbox.partitions, changes });
                }
            }
        }
        Manifest {
            format: FORMAT,
            version: 1,
            replaces: None,
            changes: Vec::new(),
            unfinished: None,
            inputs,
            steps,
            outboxes,
            definition: plan.definition.clone(),
        }
    }

    /// Topics it names, with what is known of each one's id.
    fn ids(&mut self) -> impl Iterator<Item = (&str, &mut Option<TopicId>)> {
        let inputs = self.inputs.iter_mut().map(|(topic, input)| (topic.as_str(), &mut input.id));
        let steps = self.steps.values_mut().map(|step| (step.changelog.as_str(), &mut step.id));
        inputs.chain(steps).chain(self.outboxes.values_mut().map(|outbox| (outbox.topic.as_str(), &mut outbox.id)))
    }

    fn topics(&mut self) -> Vec<String> {
        self.ids().map(|(topic, _)| topic.to_string()).collect()
    }

    /// Notes the ids that its topics have now.
    ///
    /// # Errors
    /// The brokers can't be asked.
    pub fn identify(&mut self, broker: &dyn Broker) -> Result<(), BrokerError> {
        let found = broker.topic_ids(&self.topics())?;
        self.ids().for_each(|(topic, id)| *id = found.get(topic).cloned());
        Ok(())
    }

    /// Writes it to a file, as [`store::parse`] reads it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, file: &std::path::Path) -> std::io::Result<()> {
        std::fs::write(file, serde_json::to_string_pretty(self)? + "\n")
    }

    /// The same but for its place in the topic.
    fn says_the_same(&self, other: &Manifest) -> bool {
        let place = Manifest { version: other.version, replaces: other.replaces, changes: other.changes.clone(), ..self.clone() };
        place == *other
    }

    /// Tells the plan what the manifest knows of the topics it reads.
    pub fn inform(&self, plan: &mut Plan) {
        for topic in plan.stages.iter_mut().flat_map(|s| &mut s.inputs).flat_map(|i| &mut i.topics) {
            if let Some(input) = self.inputs.get(topic.name.as_ref()) {
                topic.first_partitions = input.first_partitions;
                topic.id.clone_from(&input.id);
                topic.notation = input.notation;
            }
        }
        for node in plan.stages.iter_mut().flat_map(|s| &mut s.nodes) {
            if let Some(step) = self.steps.get(&node.step) {
                node.changelog_id.clone_from(&step.id);
            }
        }
    }
}
