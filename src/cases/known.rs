//! What the files of a case may be named after: a name that nothing reads or writes is a slip of the pen, and an expectation
//! that nothing can meet or miss.

use headwater_engine::plan::{Plan, Target, TopicName, dead_letters};
use operator_core::diagnostic::did_you_mean;

use super::files::{Case, Line};
use crate::diagnose::Problem;

/// # Errors
/// A file is named after a topic or table that the pipeline has nothing to do with.
pub fn check(plan: &Plan, case: &Case) -> Result<(), Problem> {
    let inputs: Vec<&str> = plan
        .stages
        .iter()
        .flat_map(|stage| &stage.inputs)
        .flat_map(|input| &input.topics)
        .map(|topic| topic.name.as_ref())
        .chain(plan.tables.iter().map(|table| table.topic.name.as_ref()))
        .filter(|topic| !topic.starts_with("hw."))
        .collect();
    let wrong = |file: String, what: String, help: Option<String>| {
        let problem = Problem::plain(format!("{}: {what}", case.dir.join(file).display()));
        problem.with_help(help)
    };
    if !case.inputs.iter().flat_map(|(_, lines)| lines).any(|line| matches!(line, Line::Record { .. })) {
        let help = format!("write records into in.{}.jsonl", inputs.first().unwrap_or(&"<topic>"));
        return Err(wrong(String::new(), "this case has no input, and shows nothing".into(), Some(help)));
    }
    if let Some((topic, _)) = case.inputs.iter().find(|(topic, _)| !inputs.contains(&topic.as_str())) {
        let help = did_you_mean(topic, inputs.iter().copied());
        return Err(wrong(format!("in.{topic}.jsonl"), format!("no source or table reads `{topic}`"), help));
    }
    let outputs = outputs(plan, &inputs);
    match case.expected.keys().find(|name| !outputs.iter().any(|output| output.is(name))) {
        Some(name) => {
            let help = did_you_mean(name, outputs.iter().map(|output| output.name.as_str()));
            Err(wrong(Case::file(name), format!("nothing writes `{}`", name.trim_start_matches("table.")), help))
        }
        None => Ok(()),
    }
}

/// Something that is written: a topic, `table.` and a table, or all topics whose names begin and end like this.
struct Written {
    name: String,
    /// What follows the value of a column, if that is part of the name.
    after: Option<String>,
}

impl Written {
    fn is(&self, name: &str) -> bool {
        match &self.after {
            Some(after) => name.starts_with(&self.name) && name.ends_with(after.as_str()),
            None => name == self.name,
        }
    }
}

fn outputs(plan: &Plan, inputs: &[&str]) -> Vec<Written> {
    let one = |name: String| Written { name, after: None };
    let written = plan.stages.iter().flat_map(|stage| &stage.outputs).filter_map(|output| match &output.target {
        Target::Repartition { .. } => None,
        Target::Outbox { table, .. } => Some(one(format!("table.{table}"))),
        Target::Topic(sink) => Some(match &sink.topic {
            TopicName::Fixed(name) => one(name.to_string()),
            TopicName::Column(before, _, after) => Written { name: before.to_string(), after: Some(after.to_string()) },
        }),
    });
    let sinks = plan.stages.iter().flat_map(|stage| &stage.outputs).filter(|output| matches!(output.target, Target::Outbox { .. }));
    let refused = sinks.map(|output| one(plan.names.refused(&output.name).to_string()));
    written.chain(refused).chain(inputs.iter().map(|topic| one(dead_letters(topic)))).collect()
}
