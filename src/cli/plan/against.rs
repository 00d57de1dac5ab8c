//! A deployment without services: a cluster in memory that a saved manifest describes.
//!
//! What only a cluster knows is assumed: every step has state, no worker runs, and no row is unread.

use std::path::Path;

use headwater_engine::broker::BrokerError;
use headwater_engine::manifest::{Manifest, store};
use headwater_engine::plan::{Catalog, Names, Registered};
use headwater_engine::sim::MemoryBroker;

use crate::diagnose::Problem;
use crate::pipeline_files::catalog::Folder;

/// What a saved manifest says of the topics of a cluster; schemas come from a folder.
pub(super) struct Saved {
    schemas: Folder,
    manifest: Manifest,
}

impl Saved {
    /// # Errors
    /// The file is no manifest, or that of another pipeline.
    pub(super) fn read(file: &Path, schemas: Folder, names: &Names) -> Result<Saved, Problem> {
        let fail = |why: String| Problem::plain(format!("{}: {why}", file.display()));
        let text = std::fs::read(file).map_err(|e| fail(e.to_string()))?;
        let manifest = store::parse(&text).map_err(fail)?;
        let own = manifest.steps.values().map(|step| &step.changelog).chain(manifest.outboxes.values().map(|outbox| &outbox.topic));
        let prefix = format!("{}.", names.group());
        match own.into_iter().find(|topic| !topic.starts_with(&prefix)) {
            Some(topic) => Err(fail(format!("it is the manifest of another pipeline: it names the topic `{topic}`"))),
            None => Ok(Saved { schemas, manifest }),
        }
    }

    /// The cluster.
    ///
    /// # Errors
    /// The manifest can't be written: a topic that it names can't be created.
    pub(super) fn cluster(&self, names: &Names) -> Result<MemoryBroker, BrokerError> {
        let broker = MemoryBroker::new();
        let mut manifest = self.manifest.clone();
        broker.create_topic(&names.manifest(), 1);
        for (topic, input) in &mut manifest.inputs {
            broker.create_topic(topic, input.partitions);
            // The group has read all of it, and has no positions to be lost.
            input.begun = 0;
        }
        manifest.outboxes.values().for_each(|outbox| broker.create_topic(&outbox.topic, outbox.partitions));
        for step in manifest.steps.values() {
            broker.create_topic(&step.changelog, step.partitions);
            broker.append(&step.changelog, 0, Some(b"assumed"), Some(b"assumed"), None, &[])?;
        }
        manifest.identify(&broker)?;
        store::write(&broker, names, None, &manifest).map_err(|e| BrokerError::fatal(e.to_string()))?;
        Ok(broker)
    }
}

impl Catalog for Saved {
    fn subject(&self, subject: &str) -> Result<Option<Registered>, String> {
        self.schemas.subject(subject)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, String> {
        match self.manifest.inputs.get(topic) {
            Some(input) => Ok(Some(input.partitions)),
            None => self.schemas.partitions(topic),
        }
    }

    fn topics(&self) -> Result<Vec<String>, String> {
        let read = self.manifest.inputs.iter().filter(|(_, input)| input.source.is_some()).map(|(topic, _)| topic.clone());
        let mut topics: Vec<String> = self.schemas.topics()?.into_iter().chain(read).collect();
        topics.sort_unstable();
        topics.dedup();
        Ok(topics)
    }

    fn is_offline(&self) -> bool {
        true
    }
}
