//! Repairs as events in the topic of the input `repairs`.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use headwater_engine::broker::{Broker, BrokerError, Outgoing};
use headwater_engine::partitioner::Partitioner;
use headwater_engine::pipeline::{From, Source};
use headwater_engine::yaml;
use operator_core::{Path, Spec};
use operator_saga::Saga;
use operator_saga::inspect::Shown;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Step;
use crate::cli::acknowledged;
use crate::diagnose::Problem;

/// Writes a repair; returns the topic.
pub(super) fn write(
    broker: &dyn Broker,
    step: &Step,
    event: &str,
    id: &str,
    at: Option<&str>,
    by: (&str, &str),
) -> Result<String, Problem> {
    let (topic, source) = source(step)?;
    if at.is_some() && !names_steps(step, source) {
        let problem =
            Problem::plain(format!("the input `repairs` of `{}` has no column `data.step`, which says what --at means", step.name));
        return Err(problem.with_help(Some("add `step: string?` to the columns of its source".into())));
    }
    let node = step.loaded.root.find(&["steps", &step.name, Saga::KIND].map(String::from));
    let saga: Option<Saga> = node.and_then(|node| yaml::read_all(node).0);
    let saga = saga.ok_or_else(|| Problem::plain(format!("the step `{}` can't be read: `hw lint` says why", step.name)))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    let value = document(&saga, (event, id, at), by, now)
        .ok_or_else(|| Problem::plain(format!("`{}` and `{}` are not columns that a repair can have", saga.id.repairs, saga.reply)))?;
    let failed = |e: BrokerError| Problem::of_broker(&e);
    let partitions = broker.partitions(&topic).map_err(failed)?;
    let partitions = partitions.ok_or_else(|| Problem::plain(format!("there is no topic `{topic}`")))?;
    let name: Arc<str> = topic.as_str().into();
    let record = Outgoing {
        topic: &name,
        partition: source.partitioner.unwrap_or(Partitioner::Murmur2).partition(id.as_bytes(), partitions),
        timestamp: Some(now),
        key: Some(id.as_bytes()),
        value: Some(value.as_bytes()),
        headers: &[],
        tag: None,
    };
    acknowledged::write(broker.producer(None).map_err(failed)?.as_mut(), [record])?;
    Ok(topic)
}

/// What to do about a saga that a repair would not change.
pub(super) fn help(saga: &Shown) -> String {
    let (id, status) = (&saga.id, saga.view.status.name());
    match &saga.view.step {
        Some(step) => {
            format!("`{id}` is {status} and waits for {step}: `hw saga retry`, or `hw saga skip --at STEP` with one of its steps")
        }
        None => format!("`{id}` is {status}: nothing is left to do"),
    }
}

/// Whether the columns of a repair have the step, as far as the pipeline file says.
fn names_steps(step: &Step, source: &Source) -> bool {
    let declared = |path: &[&str]| step.loaded.root.find(&path.iter().map(|key| key.to_string()).collect::<Vec<_>>()).is_some();
    let name = step.loaded.pipeline.sources.iter().find(|(_, of)| std::ptr::eq(*of, source)).map_or("", |(name, _)| name.as_str());
    source.schema.is_none() || declared(&["sources", name, "schema", "step"]) || declared(&["sources", name, "schema", "data", "step"])
}

/// The topic of the input `repairs`.
fn source(step: &Step) -> Result<(String, &Source), Problem> {
    let pipeline = &step.loaded.pipeline;
    let from = pipeline.steps.get(&step.name).map(|step| &step.from);
    let names: Vec<&str> = match from {
        Some(From::Named(given)) => given.iter().filter(|(input, _)| input == "repairs").flat_map(|(_, names)| names.iter()).collect(),
        _ => Vec::new(),
    };
    let found = match names.as_slice() {
        [name] => pipeline.sources.get(*name),
        _ => None,
    };
    let topic = found.filter(|source| source.format.name() == "json").and_then(|source| Some((source.topic.clone()?, source)));
    topic.ok_or_else(|| {
        let problem = Problem::plain(format!("the input `repairs` of `{}` is not one source with one `topic` in JSON", step.name));
        problem.with_help(Some("let it read such a topic, and nothing else, so that repairs can be written there".into()))
    })
}

/// A repair in the event envelope, with the saga's id where the step looks for it.
fn document(saga: &Saga, (event, id, at): (&str, &str, Option<&str>), (user, reason): (&str, &str), now: i64) -> Option<String> {
    let time = DateTime::from_timestamp_millis(now).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut document = json!({
        "eventId": Uuid::new_v4().to_string(),
        "eventType": event,
        "eventVersion": "1.0",
        "timestamp": time,
        "source": "hw saga",
        "data": { "user": user, "reason": reason },
        "metadata": { "correlationId": id, "causationId": null },
    });
    if let Some(at) = at {
        set(document.as_object_mut()?, &["data", "step"], at)?;
    }
    for (column, value) in [(&saga.id.repairs, id), (&saga.reply, event)] {
        set(document.as_object_mut()?, Path::parse(column)?.names().collect::<Vec<_>>().as_slice(), value)?;
    }
    Some(document.to_string())
}

/// Sets a text at a path; records on it are made.
fn set(record: &mut Map<String, Value>, path: &[&str], text: &str) -> Option<()> {
    match path {
        [] => None,
        [name] => {
            record.insert((*name).to_string(), text.into());
            Some(())
        }
        [name, rest @ ..] => set(record.entry((*name).to_string()).or_insert_with(|| json!({})).as_object_mut()?, rest, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_has_the_id_where_the_step_looks_for_it() {
        let saga = |id: &str, reply: &str| -> Saga {
            let steps = r#"{ "pay": { "send": { "command": "a" }, "done": "b", "timeout": "1m" } }"#;
            let ends = r#"{ "completed": "c", "compensated": "d" }"#;
            let text = format!(
                r#"{{ "id": {{ "start": "id", "replies": "id", "repairs": "{id}" }}, "reply": "{reply}", "steps": {steps}, "ends": {ends} }}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let of = |id: &str, reply: &str| {
            let text = document(&saga(id, reply), ("saga.retry", "o1", Some("pay")), ("ana", "why"), 1_700_000_000_000)?;
            serde_json::from_str::<Value>(&text).ok()
        };
        let repair = of("data.saga", "eventType").unwrap();
        assert_eq!(repair["data"], json!({ "user": "ana", "reason": "why", "saga": "o1", "step": "pay" }));
        assert_eq!((&repair["eventType"], &repair["timestamp"]), (&json!("saga.retry"), &json!("2023-11-14T22:13:20.000Z")));
        let repair = of("metadata.correlationId", "what.kind").unwrap();
        assert_eq!((&repair["metadata"]["correlationId"], &repair["what"]["kind"]), (&json!("o1"), &json!("saga.retry")));
        assert_eq!(of("source.id", "eventType"), None, "a text has no fields");
    }
}
