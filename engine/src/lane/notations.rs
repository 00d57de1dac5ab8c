//! How the keys that steps rely on are written: the same way in all topics of a step, since the step has state.
//!
//! State and rows meet in the partition of a key's bytes. If producers write keys in another notation after a pause, rows of a
//! value come to another partition than the state of that value. So the notation of a topic is in the manifest before the first
//! epoch with its rows commits, and every later lane begins with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{LaneEnd, Runtime};
use crate::manifest::store::StoreError;
use crate::notation::Notation;
use crate::plan::{InputKind, Plan};

/// The notations of the keys that steps rely on.
pub(super) struct Notations {
    /// By step, with the topic that has it.
    of_steps: BTreeMap<Arc<str>, (Notation, Arc<str>)>,
    /// By topic: those that the manifest has.
    recorded: BTreeMap<Arc<str>, Notation>,
    /// Topics whose notation was seen and is not in the manifest yet.
    seen: Vec<(Arc<str>, Notation)>,
}

impl Notations {
    /// Those that the manifest had when the worker started.
    pub fn new(plan: &Plan) -> Notations {
        let mut known = Notations { of_steps: BTreeMap::new(), recorded: BTreeMap::new(), seen: Vec::new() };
        for input in plan.stages.iter().flat_map(|stage| &stage.inputs) {
            let InputKind::Source(decode) = &input.kind else { continue };
            for topic in &input.topics {
                let (Some(step), Some(notation)) = (&decode.relied_on_by, topic.notation) else { continue };
                known.of_steps.entry(step.clone()).or_insert((notation, topic.name.clone()));
                known.recorded.insert(topic.name.clone(), notation);
            }
        }
        known
    }

    /// The notation of earlier keys that `step` relies on, and a topic that has it, if `notation` is another one.
    pub fn differing(&mut self, step: &Arc<str>, notation: Notation, topic: &Arc<str>) -> Option<(Notation, Arc<str>)> {
        let (known, first) = self.of_steps.entry(step.clone()).or_insert_with(|| (notation, topic.clone()));
        if *known != notation {
            return Some((*known, first.clone()));
        }
        if !self.recorded.contains_key(topic) {
            self.recorded.insert(topic.clone(), notation);
            self.seen.push((topic.clone(), notation));
        }
        None
    }

    /// Writes what was seen to the manifest.
    ///
    /// # Errors
    /// The brokers can't be asked, or another worker has seen another notation.
    pub fn record(&mut self, runtime: &Runtime) -> Result<(), LaneEnd> {
        for (topic, notation) in std::mem::take(&mut self.seen) {
            let noted = runtime.noted.note(runtime.broker.as_ref(), &runtime.plan.names, &topic, notation);
            let known = noted.map_err(|e| match e {
                StoreError::Broker(e) => LaneEnd::from(e),
                other => LaneEnd::Stop(other.to_string()),
            })?;
            if known != notation {
                return Err(LaneEnd::Stop(format!(
                    "keys of {topic} are written as {notation} here and as {known} where another worker reads, so equal values differ in \
                     their bytes and are in several partitions. Let all producers write keys alike"
                )));
            }
        }
        Ok(())
    }
}
