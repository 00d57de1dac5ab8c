//! Every external name of a pipeline: topics, groups, transactional ids. All begin with `hw.<pipeline>.`, so that
//! one prefixed ACL covers them.

use std::sync::Arc;

/// Names of a pipeline's own topics, group and transactions.
#[derive(Clone, Debug)]
pub struct Names(pub String);

impl Names {
    pub fn group(&self) -> String {
        format!("hw.{}", self.0)
    }

    pub fn sink_group(&self, sink: &str) -> String {
        format!("hw.{}.{sink}", self.0)
    }

    pub fn changelog(&self, step: &str) -> Arc<str> {
        format!("hw.{}.{step}.changelog", self.0).into()
    }

    pub fn repartition(&self, step: &str) -> Arc<str> {
        format!("hw.{}.{step}.repartition", self.0).into()
    }

    /// Where it stands what state and positions belong to.
    pub fn manifest(&self) -> Arc<str> {
        format!("hw.{}.manifest", self.0).into()
    }

    pub fn outbox(&self, sink: &str) -> Arc<str> {
        format!("hw.{}.{sink}.outbox", self.0).into()
    }

    /// Where rows go that a sink's table refuses.
    pub fn refused(&self, sink: &str) -> Arc<str> {
        format!("hw.{}.{sink}.dlq", self.0).into()
    }

    /// Stable per worker slot and lane, so that a restarted worker aborts what it left open at once (T9).
    pub fn transactional_id(&self, worker: &str, lane: usize, which: usize) -> String {
        format!("hw.{}.{worker}.{lane}.{which}", self.0)
    }
}

/// The dead-letter topic of a topic (ADR-005).
pub fn dead_letters(topic: &str) -> String {
    format!("{topic}.dlq")
}
