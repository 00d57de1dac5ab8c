//! A running worker's part for the manifest: it records that positions exist, and notices recreated topics and new versions.

use std::sync::Arc;

use super::Manifest;
use super::check::conflict;
use super::store::{Deployed, StoreError, read, write};
use crate::broker::{Broker, TopicPartition};
use crate::definition::differences;
use crate::plan::Plan;

/// Looks after the manifest of a running worker.
pub struct Keeper {
    broker: Arc<dyn Broker>,
    plan: Arc<Plan>,
    deployed: Deployed,
}

impl Keeper {
    /// For a worker whose plan agrees with `deployed`.
    pub fn new(broker: Arc<dyn Broker>, plan: Arc<Plan>, deployed: Deployed) -> Keeper {
        Keeper { broker, plan, deployed }
    }

    /// Looks once. The answer is why the worker must end, if so.
    ///
    /// # Errors
    /// The brokers can't be asked, or the topic can't be read.
    pub fn look(&mut self) -> Result<Option<String>, StoreError> {
        if let Some(why) = self.replaced_topic()? {
            return Ok(Some(why));
        }
        if let Some(why) = self.other_version()? {
            return Ok(Some(why));
        }
        self.note_positions()?;
        Ok(None)
    }

    /// A topic that was deleted, or deleted and created again, since the start.
    fn replaced_topic(&mut self) -> Result<Option<String>, StoreError> {
        let mut manifest = self.deployed.manifest.clone();
        let found = self.broker.topic_ids(&manifest.topics())?;
        for (topic, id) in manifest.ids().filter(|(topic, id)| id.is_some() && found.get(*topic) != id.as_ref()) {
            if found.contains_key(topic) && id.is_some() {
                return Ok(Some(recreated(topic)));
            }
            // Asked by another request, too: one broker may not know of it yet.
            if self.broker.partitions(topic)?.is_none() {
                return Ok(Some(format!("the topic `{topic}` was deleted while the pipeline ran")));
            }
        }
        Ok(None)
    }

    /// Another worker has deployed another version that this one can't run beside.
    fn other_version(&mut self) -> Result<Option<String>, StoreError> {
        let names = &self.plan.names;
        let (_, high) = self.broker.bounds(&TopicPartition::new(names.manifest(), 0))?;
        if high <= self.deployed.offset + 1 {
            return Ok(None);
        }
        let Some(deployed) = read(self.broker.as_ref(), names)? else { return Ok(None) };
        if deployed.offset == self.deployed.offset {
            return Ok(None);
        }
        if let Some(why) = deployed.manifest.is_being_reset() {
            return Ok(Some(why.message));
        }
        let why = conflict(&Manifest::of(&self.plan), &deployed.manifest);
        let (mine, theirs) = (&self.plan.definition, &deployed.manifest.definition);
        if why.is_none() && deployed.manifest.version != self.deployed.manifest.version && !theirs.is_empty() {
            let pipeline = &self.plan.pipeline;
            for difference in differences(mine, theirs, |_| false) {
                let version = deployed.manifest.version;
                tracing::warn!(%pipeline, version, %difference, "another version was deployed, and this worker runs beside it: restart it");
            }
        }
        self.deployed = deployed;
        Ok(why.map(|why| format!("another version of the pipeline was deployed, which this worker can't run beside: {why}")))
    }

    /// Notes topics of which every partition has a committed position now: should those be gone one day, they were lost.
    fn note_positions(&mut self) -> Result<(), StoreError> {
        if self.deployed.manifest.inputs.values().all(|input| input.begun >= input.partitions) {
            return Ok(());
        }
        let group = self.broker.group(&self.plan.names.group())?;
        let mut next = self.deployed.manifest.clone();
        for (topic, input) in &mut next.inputs {
            let begun = |p: &i32| group.committed.contains_key(&TopicPartition::new(topic.as_str(), *p));
            if (0..input.partitions).all(|p| begun(&p)) {
                input.begun = input.partitions;
            }
        }
        if next != self.deployed.manifest {
            self.deployed = write(self.broker.as_ref(), &self.plan.names, Some(&self.deployed), &next)?;
        }
        Ok(())
    }
}

/// The reason to end when a topic is another one than at the start.
pub(crate) fn recreated(topic: &str) -> String {
    format!(
        "the topic `{topic}` was deleted and created again while the pipeline ran: positions and state belong to the old topic. Restart the worker for the possible remedies"
    )
}
