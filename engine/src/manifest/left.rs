//! What a changed step leaves behind: rows that a sink or a state keeps, and that nothing would take away.
//!
//! Of an update the old row passes the steps as they are now. If it was passed on as they were, and is not any more, no change says
//! that it is gone. That is no reason to reject a start, as with other logic, but whoever deploys wants to know.

use std::collections::{BTreeMap, BTreeSet};

use super::Manifest;
use super::check::Check;
use crate::definition::Definition;
use crate::plan::{Plan, Target};

impl Check<'_> {
    /// Lists what keeps rows of changes, with the steps before it that differ.
    pub(super) fn left_behind(&mut self, was: &Manifest) {
        let (before, now) = (&was.definition, &self.next.definition);
        let has_state = |step: &str| was.steps.contains_key(step) || self.next.steps.contains_key(step);
        let mut lines = Vec::new();
        for (part, called) in keepers(self.plan) {
            let (Some(old), Some(new)) = (before.get(&part), now.get(&part)) else { continue };
            let steps: BTreeSet<String> = [before, now].iter().flat_map(|definition| above(definition, &part, has_state)).collect();
            let differs = |step: &&String| before.get(&format!("step {step}")) != now.get(&format!("step {step}"));
            let mut differing: Vec<String> = steps.iter().filter(differs).map(|step| format!("step `{step}`")).collect();
            if from(old).ne(from(new)) {
                differing.push("its `from`".to_string());
            }
            if !differing.is_empty() {
                lines.push(format!(
                    "{called} keeps rows as they were before the change of {}: those that the pipeline would not make now stay there, even when their \
                     records change or are deleted. To be rid of them, give the pipeline another `name`, and its sinks other topics and tables",
                    differing.join(", ")
                ));
            }
        }
        self.changes.extend(lines);
    }
}

/// What keeps rows of streams of changes: their parts of the file, and what they are called.
fn keepers(plan: &Plan) -> impl Iterator<Item = (String, String)> {
    plan.stages.iter().flat_map(|stage| {
        let sinks = stage.outputs.iter().filter(|output| output.mode.is_changes() && !matches!(output.target, Target::Repartition { .. }));
        let steps = stage.nodes.iter().filter(|node| node.changelog.is_some() && node.branches.iter().any(|of| of.mode.is_changes()));
        let sinks = sinks.map(|output| (format!("sink {}", output.name), format!("the sink `{}`", output.name)));
        sinks.chain(steps.map(|node| (format!("step {}", node.step), format!("the state of the step `{}`", node.step))))
    })
}

/// The streams that a part reads.
fn from(part: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    let values = part.iter().filter(|(path, _)| *path == "from" || path.starts_with("from."));
    values.flat_map(|(_, names)| names.trim_matches(['[', ']']).split(", "))
}

/// The steps without state through which rows come to a part.
fn above(definition: &Definition, part: &str, has_state: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![part.to_string()]);
    while let Some(part) = open.pop() {
        for name in definition.get(&part).into_iter().flat_map(from) {
            let step = name.split('.').next().unwrap_or(name);
            let part = format!("step {step}");
            if definition.contains_key(&part) && !has_state(step) && found.insert(step.to_string()) {
                open.push(part);
            }
        }
    }
    found
}
