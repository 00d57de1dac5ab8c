//! Pipelines that are changed from outside: none of their workers may run, and who changes them confirms it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdin};
use std::time::{Duration, Instant};

use clap::Args;
use headwater_engine::broker::{Broker, BrokerError};
use headwater_engine::manifest::Manifest;
use headwater_kafka::Kafka;
use serde::Serialize;

use super::Failure;
use crate::diagnose::Problem;
use crate::say;
use crate::style::{dim, good, strong};

/// How long brokers may go on to list a topic that was deleted.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Refuses if a group has members.
///
/// # Errors
/// It has, or the brokers can't be asked.
pub(super) fn check(kafka: &Kafka, groups: &[String]) -> Result<(), Problem> {
    for group in groups {
        let found = kafka.members(group).map_err(|e| Problem::of_broker(&e))?;
        if !found.members.is_empty() {
            let members: Vec<String> = found.members.iter().map(|member| format!("{} at {}", member.client_id, member.host)).collect();
            let help = "stop all workers of the pipeline. One that was killed stays a member until its session times out \
                        (`kafka.session_timeout`)";
            let problem = Problem::plain(format!("the group `{group}` has members: {}", members.join(", ")));
            return Err(problem.with_code("workers-running").with_help(Some(help.to_string())));
        }
    }
    Ok(())
}

/// How somebody asks for a change.
#[derive(Args)]
pub(super) struct Change {
    /// Show what would change
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// What became of a change.
#[derive(Serialize, Default)]
pub(super) struct Outcome {
    /// Why a dry run would be refused if it were none.
    refused: Option<String>,
    done: bool,
}

impl Change {
    /// Makes the change if the pipeline is `stopped` and somebody confirms it. A dry run makes none.
    ///
    /// # Errors
    /// It is not stopped, nobody confirms, or the change fails.
    pub(super) fn make(
        &self,
        stopped: &Result<(), Problem>,
        question: &str,
        change: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Outcome, Failure> {
        if self.dry_run {
            return Ok(Outcome { refused: stopped.as_ref().err().map(|problem| problem.message.clone()), done: false });
        }
        stopped.clone()?;
        confirm(question, self.yes)?;
        change()?;
        Ok(Outcome { refused: None, done: true })
    }

    /// Prints the report as JSON, or what is `done`.
    ///
    /// # Errors
    /// Without `--dry-run` the change would be refused.
    pub(super) fn finish(
        &self,
        report: &impl Serialize,
        outcome: &Outcome,
        done: &str,
        stopped: Result<(), Problem>,
    ) -> Result<(), Failure> {
        match (self.json, outcome.done) {
            (true, _) => say!("{}", serde_json::to_string_pretty(report).map_err(|e| Problem::plain(e.to_string()))?),
            (false, true) => say!("{} {done}", good("done:")),
            (false, false) => say!("{}", dim("nothing was changed")),
        }
        stopped.map_err(|mut problem| {
            problem.message = format!("without --dry-run this would be refused: {}", problem.message);
            problem.into()
        })
    }
}

/// What a sink writes, as the file of the deployed version says.
pub(super) struct Written {
    pub(super) sink: String,
    /// `topic`, or the store of the table.
    pub(super) kind: String,
    pub(super) target: String,
}

/// What the sinks of the deployed version write; empty where its manifest keeps no definition.
pub(super) fn written(manifest: &Manifest) -> Vec<Written> {
    let of = |(part, values): (&String, &BTreeMap<String, String>)| {
        let sink = part.strip_prefix("sink ")?.to_string();
        let (kind, target) = values.iter().find(|(key, _)| ["topic", "clickhouse", "postgres"].contains(&key.as_str()))?;
        Some(Written { sink, kind: kind.clone(), target: target.clone() })
    };
    manifest.definition.iter().filter_map(of).collect()
}

/// Deletes topics, and waits until they and the group's positions in them are gone.
///
/// # Errors
/// A topic can't be deleted, or does not go away.
pub(super) fn delete_topics(kafka: &Kafka, topics: &[String], group: &str) -> Result<(), BrokerError> {
    kafka.delete_topics(topics)?;
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let mut left = Vec::new();
        for topic in topics {
            if kafka.partitions(topic)?.is_some() {
                left.push(topic.clone());
            }
        }
        let positions = kafka.group(group)?.committed;
        left.extend(positions.keys().filter(|at| topics.iter().any(|topic| *topic == *at.topic)).map(|at| format!("the position in {at}")));
        match left.as_slice() {
            [] => return Ok(()),
            left if Instant::now() >= deadline => {
                return Err(BrokerError::fatal(format!("the brokers were asked to delete {}, and still have it", left.join(", "))));
            }
            _ => std::thread::sleep(LOOK),
        }
    }
}

/// Asks whether to go on, unless that was said on the command line.
///
/// # Errors
/// Nobody can be asked, or the answer is no.
fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !stdin().is_terminal() {
        let problem = Problem::plain("this has to be confirmed, and standard input is no terminal");
        return Err(Failure::Wrong(vec![problem.with_help(Some("look at what is shown, then add `--yes`".to_string()))]));
    }
    anstream::eprint!("{} [y/N] ", strong(question));
    let mut answer = String::new();
    let read = std::io::stderr().flush().and_then(|()| stdin().read_line(&mut answer));
    read.map_err(|e| Problem::plain(format!("the answer can't be read: {e}")))?;
    match answer.trim() {
        "y" | "yes" => Ok(()),
        _ => Err(Problem::plain("nothing was changed").into()),
    }
}
