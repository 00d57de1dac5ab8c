//! What became of topics and positions, whatever the file says: why the deployed version itself could not be started again.

use operator_core::Diagnostic;

use super::check::replaced;
use super::{Input, Manifest};
use crate::broker::{Broker, BrokerError, GroupView};
use crate::plan::Names;

/// Why a start of the deployed version would be refused, as far as the manifest tells without the file. Changes nothing.
///
/// # Errors
/// The brokers can't be asked.
pub fn lost(broker: &dyn Broker, names: &Names, manifest: &Manifest) -> Result<Vec<Diagnostic>, BrokerError> {
    if let Some(unfinished) = manifest.is_being_reset() {
        return Ok(vec![unfinished]);
    }
    let group = broker.group(&names.group())?;
    let mut now = manifest.clone();
    now.identify(broker)?;
    let mut found = Vec::new();
    for (topic, input) in &manifest.inputs {
        let is_replaced = now.inputs.get(topic).is_some_and(|now| replaced(&input.id, &now.id));
        match &input.source {
            Some(_) if is_replaced => found.extend(recreated_source(&group, names, topic)),
            None if is_replaced => found.extend(lost_topic(&group, names, topic, "rows between two steps")),
            _ => found.extend(lost_positions(&group, names, topic, input)),
        }
        if let Some(source) = &input.source {
            found.extend(grown(broker, names, manifest, (source, topic, input.partitions))?);
        }
    }
    for (step, before) in &manifest.steps {
        if now.steps.get(step).is_some_and(|now| replaced(&before.id, &now.id)) {
            found.extend(lost_topic(&group, names, &before.changelog, &format!("the state of the step `{step}`")));
        }
    }
    for (sink, before) in &manifest.outboxes {
        if now.outboxes.get(sink).is_some_and(|now| replaced(&before.id, &now.id)) {
            found.extend(lost_outbox(&group, names, &before.topic, sink));
        }
    }
    Ok(found)
}

/// Topics of the pipeline's own have as many partitions as the largest of the sources that they are made of.
fn grown(
    broker: &dyn Broker,
    names: &Names,
    manifest: &Manifest,
    (source, topic, was): (&str, &str, i32),
) -> Result<Option<Diagnostic>, BrokerError> {
    let now = broker.partitions(topic)?.unwrap_or(was);
    let between = manifest.inputs.iter().filter(|(_, input)| input.source.is_none()).map(|(topic, input)| (topic, input.partitions));
    let steps = manifest.steps.values().map(|step| (&step.changelog, step.partitions));
    let outboxes = manifest.outboxes.values().map(|outbox| (&outbox.topic, outbox.partitions));
    let mut own = steps.chain(between).chain(outboxes).filter(|(_, own)| (was..now).contains(own));
    Ok(own.next().map(|(first, partitions)| {
        let message =
            format!("the topic `{topic}` of the source `{source}` has {now} partitions instead of {was}, and `{first}` has {partitions}");
        let keyed = manifest.definition.get(&format!("source {source}")).is_some_and(|said| said.keys().any(|key| key.starts_with("key")));
        Diagnostic::error("internal-topics", message).help(more_partitions(names, !manifest.outboxes.is_empty(), keyed))
    }))
}

fn recreated_source(group: &GroupView, names: &Names, topic: &str) -> Option<Diagnostic> {
    let held = group.committed.keys().any(|at| at.topic.as_ref() == topic);
    let message = format!(
        "the topic `{topic}` was deleted and created again: the positions of the group `{}` belong to the old topic",
        names.group()
    );
    held.then(|| Diagnostic::error("recreated-topic", message).help(read_again(names)))
}

/// A topic of the pipeline's own was deleted while the group continues from positions behind it.
pub(super) fn lost_topic(group: &GroupView, names: &Names, topic: &str, what: &str) -> Option<Diagnostic> {
    gone(group, names, topic, what)
        .map(|found| found.help(format!("to make it again: {}. To continue without it: {}", read_again(names), without_manifest(names))))
}

/// The outbox of a sink was deleted: a reset leaves outboxes as they are.
pub(super) fn lost_outbox(group: &GroupView, names: &Names, topic: &str, sink: &str) -> Option<Diagnostic> {
    gone(group, names, topic, &format!("rows of the sink `{sink}` that are not in its table yet"))
        .map(|found| found.help(format!("to start over: {}. To continue without them: {}", start_over(names), without_manifest(names))))
}

fn gone(group: &GroupView, names: &Names, topic: &str, what: &str) -> Option<Diagnostic> {
    let message = format!(
        "the topic `{topic}` was deleted, and {what} with it: the group `{}` would continue as if nothing were missing",
        names.group()
    );
    (!group.committed.is_empty()).then(|| Diagnostic::error("lost-topic", message))
}

fn without_manifest(names: &Names) -> String {
    format!("stop all workers and delete the topic `{}`", names.manifest())
}

/// Partitions that had a position once must have one.
pub(super) fn lost_positions(group: &GroupView, names: &Names, topic: &str, now: &Input) -> Option<Diagnostic> {
    let held = |p: &i32| group.committed.keys().any(|tp| tp.topic.as_ref() == topic && tp.partition == *p);
    let lost: Vec<String> = (0..now.begun).filter(|p| !held(p)).map(|p| p.to_string()).collect();
    if lost.is_empty() {
        return None;
    }
    let (pipeline, group) = (&names.0, names.group());
    let message = format!(
        "the group `{group}` has lost its positions in the topic `{topic}`, partitions {}: they expired while no worker ran (`offsets.retention.minutes`), or were deleted",
        lost.join(", ")
    );
    let set = match now.source {
        Some(_) => format!("`hw reset {pipeline} --keep-state --topic {topic} --to TIME`"),
        None => format!("`kafka-consumer-groups --group {group} --topic {topic} --reset-offsets --to-datetime ... --execute`"),
    };
    let help = format!(
        "set the positions, then start again: {set} (rows read twice are counted twice, skipped rows are lost). To read all rows again: {}",
        read_again(names)
    );
    Some(Diagnostic::error("lost-positions", message).help(help))
}

/// How to read the sources from their beginning, with new state.
pub fn read_again(names: &Names) -> String {
    format!("stop all workers, then `hw reset {} --to earliest` and start again (sinks then get their rows a second time)", names.0)
}

/// How to start like a pipeline that never ran.
pub(super) fn start_over(names: &Names) -> String {
    format!("stop all workers, then `hw delete {}` and start again (sinks then get their rows a second time)", names.0)
}

/// What to do when topics of the pipeline's own need more partitions than they have. `outboxes`: it has some, which a reset leaves as they are.
/// `keyed`: a source has a `key`, by which its older records are in the partitions of the old count.
pub fn more_partitions(names: &Names, outboxes: bool, keyed: bool) -> String {
    let again = if outboxes { start_over(names) } else { read_again(names) };
    let first = if keyed { "remove `key` from the source, whose older records are in the partitions of the old count; " } else { "" };
    format!("{first}{again}; or deploy a copy under another `name`, with other topics and tables for its sinks")
}
