//! `/status`: what a worker does, for `hw status`: tasks, positions, watermarks, state, deliveries, and what `/health` says.
//!
//! Programs rely on its shape: members are added, not renamed.

use headwater_engine::broker::TopicPartition;
use headwater_engine::plan::Plan;
use serde_json::{Value, json};

use super::{Pages, Shown};

/// The page. Before the worker runs it has the causes alone.
pub(super) fn page(pages: &Pages) -> Value {
    let health = serde_json::from_str::<Value>(&pages.health().1).unwrap_or_default();
    let mut status = json!({ "pipeline": pages.pipeline, "program": env!("CARGO_PKG_VERSION"), "health": health });
    if let (Some(shown), Some(status)) = (pages.shown(), status.as_object_mut())
        && let Value::Object(more) = running(shown)
    {
        status.extend(more);
    }
    status
}

fn running(shown: &Shown) -> Value {
    let (s, plan) = (shown.stats.snapshot(), shown.plan.as_ref());
    let lives = shown.stats.lanes();
    let task = |(stage, partition): &(usize, i32)| json!({ "stage": stage, "partition": partition, "steps": steps(plan, *stage), "inputs": inputs(plan, *stage, *partition) });
    let lanes = s.tasks.iter().map(|(lane, tasks)| {
        let restarts = lives.get(lane).map_or(0, |life| life.restarts_in_a_row);
        json!({ "lane": lane, "restarts_in_a_row": restarts, "tasks": tasks.iter().map(task).collect::<Vec<_>>() })
    });
    let partitions = s.partitions.iter().map(|(tp, at)| {
        let waits = s.waiting.get(tp);
        let held = s.held.get(tp).map(ToString::to_string);
        let watermark = at.watermark.filter(|watermark| *watermark > 0);
        json!({ "topic": *tp.topic, "partition": tp.partition, "position": at.position, "end": at.end, "watermark": watermark, "held": held, "waits": waits })
    });
    let restoring = s
        .restoring
        .iter()
        .map(|((stage, partition), (left, total))| json!({ "stage": stage, "partition": partition, "left": left, "total": total }));
    let state = s.state.iter().map(|((stage, partition, step), (entries, bytes))| {
        json!({ "stage": stage, "partition": partition, "step": **step, "entries": entries, "bytes": bytes })
    });
    let sinks = shown.deliveries.iter().map(|(sink, counters)| {
        json!({
            "sink": sink, "rows": counters.rows(), "blocks": counters.blocks(), "retries": counters.retries(), "refused": counters.refused(),
            "lag": counters.lag(), "buffered": counters.buffered(), "error": counters.last_error(), "stopped": counters.stopped(),
        })
    });
    json!({
        "worker": shown.worker,
        "version": shown.version,
        "last_commit": s.last_commit,
        "lanes": lanes.collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
        "restoring": restoring.collect::<Vec<_>>(),
        "state": state.collect::<Vec<_>>(),
        "sinks": sinks.collect::<Vec<_>>(),
    })
}

fn steps(plan: &Plan, stage: usize) -> Vec<&str> {
    plan.stages.get(stage).map_or_else(Vec::new, |stage| stage.nodes.iter().map(|node| node.step.as_str()).collect())
}

/// The partitions that a task reads.
fn inputs(plan: &Plan, stage: usize, partition: i32) -> Vec<String> {
    let topics = plan.stages.get(stage).into_iter().flat_map(|stage| &stage.inputs).flat_map(|input| &input.topics);
    let read = topics.filter(|topic| partition < topic.partitions);
    read.map(|topic| TopicPartition::new(topic.name.clone(), partition).to_string()).collect()
}
