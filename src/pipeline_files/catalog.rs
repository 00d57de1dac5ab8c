//! Where schemas and topics come from: the live registry and cluster, or the `schemas/` folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_engine::broker::{Broker, BrokerError, Failure};
use headwater_engine::plan::{Catalog, Registered};
use parking_lot::Mutex;

use crate::schema_registry::Registry;

/// Subjects of a schema registry, asked and waited for: planning and sinks need them before a record is read.
pub trait Subjects: Send + Sync {
    /// The latest schema of a subject; `None` if there is no such subject.
    fn latest(&self, subject: &str) -> Result<Option<Registered>, String>;
    /// Registers an Avro schema and returns its id.
    fn register(&self, subject: &str, text: &str) -> Result<u32, String>;
    /// Why the registry can't be asked at this moment, if so.
    fn unreachable(&self) -> Option<String> {
        None
    }
}

/// The registry of the environment.
pub struct RegistrySubjects {
    pub registry: Registry,
    pub runtime: tokio::runtime::Handle,
}

impl Subjects for RegistrySubjects {
    fn latest(&self, subject: &str) -> Result<Option<Registered>, String> {
        let found = self.runtime.block_on(self.registry.latest(subject)).map_err(|e| e.to_string())?;
        Ok(found.map(|s| Registered { id: s.id, json: s.is_json(), text: s.schema }))
    }

    fn register(&self, subject: &str, text: &str) -> Result<u32, String> {
        self.runtime.block_on(self.registry.register(subject, text)).map_err(|e| e.to_string())
    }

    fn unreachable(&self) -> Option<String> {
        self.runtime.block_on(self.registry.unavailable()).map(|why| format!("schema registry: {why}"))
    }
}

/// An environment without a registry.
pub struct NoSubjects;

impl Subjects for NoSubjects {
    fn latest(&self, _: &str) -> Result<Option<Registered>, String> {
        Err("no schema registry: set `schema_registry.url` in the configuration".into())
    }

    fn register(&self, subject: &str, _: &str) -> Result<u32, String> {
        self.latest(subject).map(|_| 0)
    }
}

/// The cluster and the registry as they are now; answers are remembered for the life of the catalog.
pub struct Live {
    broker: Arc<dyn Broker>,
    registry: Arc<dyn Subjects>,
    subjects: Mutex<BTreeMap<String, Option<Registered>>>,
    away: Mutex<Option<BrokerError>>,
}

impl Live {
    pub fn new(broker: Arc<dyn Broker>, registry: Arc<dyn Subjects>) -> Live {
        Live { broker, registry, subjects: Mutex::default(), away: Mutex::default() }
    }

    /// An answer that brokers did not give and may give later, if one was missing.
    pub fn away(&self) -> Option<BrokerError> {
        self.away.lock().clone()
    }

    fn failed(&self, e: BrokerError) -> String {
        let message = e.to_string();
        if e.failure == Failure::Transient {
            *self.away.lock() = Some(e);
        }
        message
    }
}

impl Catalog for Live {
    fn subject(&self, subject: &str) -> Result<Option<Registered>, String> {
        if let Some(known) = self.subjects.lock().get(subject) {
            return Ok(known.clone());
        }
        let found = self.registry.latest(subject)?;
        self.subjects.lock().insert(subject.to_string(), found.clone());
        Ok(found)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, String> {
        self.broker.partitions(topic).map_err(|e| self.failed(e))
    }

    /// Without the right to read them, what depends on settings is found when records are refused.
    fn topic_config(&self, topic: &str) -> Vec<(String, String)> {
        match self.broker.partitions(topic) {
            Ok(Some(_)) => self.broker.topic_config(topic).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn topics(&self) -> Result<Vec<String>, String> {
        self.broker.topics().map_err(|e| self.failed(e))
    }
}

/// A folder of schemas: `<subject>/v<n>.avsc`, or `v<n>.json` for a JSON Schema; the highest version counts. Every topic with a schema exists, with six
/// partitions, and so does every topic a pipeline writes.
pub struct Folder {
    /// Versions of each subject.
    subjects: BTreeMap<String, BTreeMap<u32, Version>>,
    /// The folder itself: sinks have their statements in folders of it.
    pub dir: PathBuf,
}

/// A version of a subject.
struct Version {
    text: String,
    /// It is a JSON Schema.
    json: bool,
}

/// Partitions assumed for topics when there is no cluster to ask.
pub const ASSUMED_PARTITIONS: i32 = 6;

impl Folder {
    pub fn read(dir: &Path) -> std::io::Result<Folder> {
        let mut subjects = BTreeMap::new();
        if dir.is_dir() {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let subject = entry.file_name().to_string_lossy().into_owned();
                let versions = if entry.path().is_dir() { versions(&entry.path())? } else { BTreeMap::new() };
                if !versions.is_empty() {
                    subjects.insert(subject, versions);
                }
            }
        }
        Ok(Folder { subjects, dir: dir.to_path_buf() })
    }

    /// The text of one version of a subject.
    pub fn version(&self, subject: &str, version: u32) -> Option<&str> {
        self.subjects.get(subject)?.get(&version).map(|version| version.text.as_str())
    }
}

fn versions(dir: &Path) -> std::io::Result<BTreeMap<u32, Version>> {
    let mut versions = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let version = stem.strip_prefix('v').and_then(|v| v.parse::<u32>().ok());
        let json = match path.extension().and_then(|e| e.to_str()) {
            Some("avsc") => false,
            Some("json") => true,
            _ => continue,
        };
        if let Some(version) = version {
            versions.insert(version, Version { text: std::fs::read_to_string(&path)?, json });
        }
    }
    Ok(versions)
}

impl Catalog for Folder {
    fn subject(&self, subject: &str) -> Result<Option<Registered>, String> {
        let newest = self.subjects.get(subject).and_then(|versions| versions.last_key_value());
        Ok(newest.map(|(id, Version { text, json })| Registered { id: *id, text: text.clone(), json: *json }))
    }

    fn partitions(&self, _: &str) -> Result<Option<i32>, String> {
        Ok(Some(ASSUMED_PARTITIONS))
    }

    fn topics(&self) -> Result<Vec<String>, String> {
        Ok(self.subjects.keys().filter_map(|s| s.strip_suffix("-value")).map(str::to_string).collect())
    }

    fn is_offline(&self) -> bool {
        true
    }
}
