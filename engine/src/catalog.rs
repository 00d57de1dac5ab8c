//! What planning asks of the world: schemas and topics.

/// Schemas and topics as the planner sees them: the registry and the cluster, or the `schemas/` folder when linting.
pub trait Catalog {
    /// The latest schema of a subject; `None` if the subject doesn't exist.
    fn subject(&self, subject: &str) -> Result<Option<Registered>, String>;
    /// Number of partitions of a topic; `None` if it doesn't exist.
    fn partitions(&self, topic: &str) -> Result<Option<i32>, String>;
    /// Settings of a topic that exists, as far as they are known.
    fn topic_config(&self, _topic: &str) -> Vec<(String, String)> {
        Vec::new()
    }
    /// The names of all topics, for patterns.
    fn topics(&self) -> Result<Vec<String>, String>;
    /// Whether unknown topics may exist: there is no cluster to ask. A pattern that matches none then stands
    /// for one topic, which is named like the pattern.
    fn is_offline(&self) -> bool {
        false
    }
}

/// A schema from the registry.
#[derive(Clone, Debug)]
pub struct Registered {
    pub id: u32,
    pub text: String,
    /// JSON Schema rather than Avro.
    pub json: bool,
}
