//! Rejects case files that name a topic or table the pipeline doesn't use (usually a typo).

use std::path::Path;

use headwater_engine::plan::{Plan, Target, TopicName, dead_letters};
use headwater_engine::sinks::SinkTable;
use operator_core::diagnostic::did_you_mean;

use super::files::Case;
use super::topics::TopicSettings;
use crate::diagnose::Problem;

/// What of a case's files names a topic or table that the pipeline has nothing to do with.
pub fn check(plan: &Plan, case: &Case) -> Vec<Problem> {
    let inputs = inputs(plan);
    let wrong = |place: String, what: String, help: Option<String>| Problem::plain(format!("{place}: {what}")).with_help(help);
    let mut problems = Vec::new();
    if case.records().next().is_none() {
        let help = format!("write records into in.{}.jsonl", inputs.first().unwrap_or(&"<topic>"));
        problems.push(wrong(case.dir.display().to_string(), "the case has no input".into(), Some(help)));
    }
    let unread = |topic: &str, place: String| {
        let help = did_you_mean(topic, inputs.iter().copied());
        wrong(place, format!("no source or table reads `{topic}`"), help)
    };
    for input in &case.inputs {
        match &input.topic {
            Some(topic) if !inputs.contains(&topic.as_str()) => problems.push(unread(topic, input.path.display().to_string())),
            Some(_) => {}
            None => {
                let lines = input.lines.iter().filter_map(|line| line.topic.as_ref().map(|topic| (line, topic)));
                let unknown = lines.filter(|(_, topic)| !inputs.contains(&topic.as_str()));
                problems.extend(unknown.map(|(line, topic)| unread(topic, line.place.clone())));
            }
        }
    }
    let outputs = outputs(plan, &inputs);
    for name in case.expected.keys().filter(|name| !outputs.iter().any(|output| output.covers(name))) {
        let help = did_you_mean(name, outputs.iter().map(beginning));
        let place = case.dir.join(Case::file(name)).display().to_string();
        problems.push(wrong(place, format!("nothing writes `{}`", name.trim_start_matches("table.")), help));
    }
    problems
}

/// Topics of a file of settings that the pipeline neither reads nor writes.
pub fn check_settings(plan: &Plan, settings: &TopicSettings, file: &Path) -> Vec<Problem> {
    let inputs = inputs(plan);
    let outputs = outputs(plan, &inputs);
    let unknown = settings.names().filter(|name| !inputs.contains(name) && !outputs.iter().any(|output| output.covers(name)));
    let problem = |name: &str| {
        let known = inputs.iter().copied().chain(outputs.iter().map(beginning));
        let problem = Problem::plain(format!("{}: the pipeline doesn't use `{name}`", file.display()));
        problem.with_help(did_you_mean(name, known))
    };
    unknown.map(problem).collect()
}

fn inputs(plan: &Plan) -> Vec<&str> {
    let sources = plan.stages.iter().flat_map(|stage| &stage.inputs).flat_map(|input| &input.topics);
    let topics = sources.chain(plan.tables.iter().map(|table| &table.topic)).map(|topic| topic.name.as_ref());
    topics.filter(|topic| !topic.starts_with("hw.")).collect()
}

/// What a case calls the rows of a table: its file is `table.<name>.jsonl`. Where tables of two stores have one name, the store is in
/// front: `table.postgres.<name>.jsonl`.
pub fn of_table(plan: &Plan, table: &dyn SinkTable) -> String {
    let (kind, name) = (table.kind(), table.name());
    let is_shared = plan.outboxes().any(|(_, other)| other.table.name() == name && other.table.kind() != kind);
    if is_shared { format!("table.{kind}.{name}") } else { format!("table.{name}") }
}

/// What is written: topics, and tables as `table.` and their name.
fn outputs(plan: &Plan, inputs: &[&str]) -> Vec<TopicName> {
    let one = |name: String| TopicName::Fixed(name.into());
    let written = plan.stages.iter().flat_map(|stage| &stage.outputs).flat_map(|output| match &output.target {
        Target::Repartition { .. } => Vec::new(),
        Target::Outbox(outbox) => vec![one(of_table(plan, outbox.table.as_ref()))],
        Target::Topic(sink) => vec![sink.topic.clone()],
    });
    let refused = plan.outboxes().map(|(output, _)| one(plan.names.refused(&output.name).to_string()));
    written.chain(refused).chain(inputs.iter().map(|topic| one(dead_letters(topic)))).collect()
}

/// The name, or what of it is known: for hints.
fn beginning(name: &TopicName) -> &str {
    match name {
        TopicName::Fixed(name) => name,
        TopicName::Column(before, ..) => before,
    }
}
