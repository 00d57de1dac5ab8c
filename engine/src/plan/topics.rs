//! The topics that a plan needs besides those it reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use operator_core::Millis;

use super::{InputKind, Plan, Target, TopicName, dead_letters};
use crate::broker::TopicSpec;

/// Tombstones live this long in changelogs (`delete.retention.ms`, set when they are created).
pub const TOMBSTONE_RETENTION: Millis = 7 * 86_400_000;

/// The topics a plan needs besides those it reads: internal ones, dead letters, and sinks to be created.
pub fn topics_to_create(plan: &Plan) -> Vec<TopicSpec> {
    let spec = |name: &str, partitions: i32, config: &[(&str, String)]| TopicSpec {
        name: name.to_string(),
        partitions,
        replication: None,
        config: config.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
    };
    let week = TOMBSTONE_RETENTION.to_string();
    // Not compacted: of two records that replace the same one the first counts, and compaction would keep the second.
    let forever = [("cleanup.policy", "delete".to_string()), ("retention.ms", "-1".into()), ("retention.bytes", "-1".into())];
    let mut topics = vec![spec(&plan.names.manifest(), 1, &forever)];
    let mut seen: BTreeSet<Arc<str>> = Default::default();
    for stage in &plan.stages {
        for input in &stage.inputs {
            if let InputKind::Source(_) = input.kind {
                topics.extend(
                    input.topics.iter().map(|t| spec(&dead_letters(&t.name), 1, &[("retention.ms", (30 * 86_400_000i64).to_string())])),
                );
            }
        }
        for node in &stage.nodes {
            if let Some(changelog) = &node.changelog {
                topics.push(spec(
                    changelog,
                    stage.partitions,
                    &[("cleanup.policy", "compact".into()), ("delete.retention.ms", week.clone())],
                ));
            }
        }
        for output in &stage.outputs {
            match &output.target {
                Target::Topic(sink) => {
                    let fixed = matches!(sink.topic, TopicName::Fixed(_));
                    topics.extend(sink.create.iter().filter(|_| fixed).cloned());
                }
                Target::Repartition { topic, partitions, .. } => {
                    if seen.insert(topic.clone()) {
                        // A reader that is further behind than this stops with an error rather than losing rows.
                        topics.push(spec(topic, *partitions, &[("retention.ms", week.clone()), ("retention.bytes", "-1".into())]));
                    }
                }
                Target::Outbox(outbox) => {
                    let kept = [("retention.ms", week.clone()), ("retention.bytes", "-1".into())];
                    topics.push(spec(&outbox.topic, outbox.partitions, &kept));
                    topics.push(spec(&plan.names.refused(&output.name), 1, &[("retention.ms", (30 * 86_400_000i64).to_string())]));
                }
            }
        }
    }
    topics
}
