//! The status for people.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Pipeline;
use super::workers::Worker;
use crate::cli::time;
use crate::say;
use crate::style::{bad, dim, good, name, strong, wrapped};

/// More partitions with lag than anyone reads at once.
const MOST: usize = 20;

pub(super) fn show(pipelines: &[Pipeline]) {
    if pipelines.is_empty() {
        say!("no pipeline is deployed here");
    }
    pipelines.iter().for_each(pipeline);
}

fn pipeline(of: &Pipeline) {
    let well = if of.attention.is_empty() { good("ok") } else { bad("needs attention") };
    let state = if of.group.state.is_empty() { "no group yet".to_string() } else { format!("group {}", of.group.state) };
    say!("{}: {well} {}", name(&of.pipeline), dim(&format!("(version {}, {state})", of.version)));
    for found in &of.attention {
        let since = found.since.as_ref().map_or_else(String::new, |since| format!(" (since {since})"));
        say!("{}", wrapped(&format!("  {} {}: {}{since}", bad("!"), found.place, found.cause), 4));
        say!("{}", wrapped(&format!("    {} {}", dim("to do:"), found.remedy), 6));
    }
    workers(of);
    lag(of);
    for sink in &of.tables {
        let what = if sink.undelivered == 0 {
            "all records are in its table".to_string()
        } else {
            format!("{} records are not in its table yet", sink.undelivered)
        };
        say!("  sink {}: {what}", sink.sink);
    }
    for letters in of.dead_letters.iter().filter(|letters| letters.records > 0) {
        say!("  dead letters: {} in {}", letters.records, letters.topic);
    }
}

fn workers(of: &Pipeline) {
    let mut lanes: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for member in &of.group.members {
        lanes.entry(&member.worker).or_insert((0, &member.host)).0 += 1;
    }
    for (worker, (count, host)) in lanes {
        let lanes = format!("{count} lane{} in the group", if count == 1 { "" } else { "s" });
        let more = match of.workers.iter().find(|answered| answered.name() == Some(worker)) {
            Some(answered) => format!("{}, pages at {}", doing(answered), answered.address),
            None => "its pages were not found (--worker names them)".to_string(),
        };
        say!("  worker {worker} at {host}: {lanes}, {more}");
    }
}

/// What a worker does, on a line.
fn doing(worker: &Worker) -> String {
    let list = |key: &str| worker.status[key].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let tasks: usize = list("lanes").iter().map(|lane| lane["tasks"].as_array().map_or(0, Vec::len)).sum();
    let mut text = format!("{tasks} task{}", if tasks == 1 { "" } else { "s" });
    let left: u64 = list("restoring").iter().filter_map(|task| task["left"].as_u64()).sum();
    if left > 0 {
        text.push_str(&format!(", {left} records of state to restore"));
    }
    if let Some(at) = worker.status["last_commit"].as_i64() {
        text.push_str(&format!(", last commit {}", time(at)));
    }
    text
}

fn lag(of: &Pipeline) {
    let behind: Vec<_> = of.partitions.iter().filter(|partition| partition.lag > 0).collect();
    let total: i64 = behind.iter().map(|partition| partition.lag).sum();
    match behind.len() {
        0 => say!("  lag: none, {} partitions are read to their end", of.partitions.len()),
        n => say!("  lag: {total} records in {n} of {} partitions", of.partitions.len()),
    }
    for at in behind.iter().take(MOST) {
        let position = at.position.map_or_else(|| "no position".to_string(), |position| format!("at {position} of {}", at.end));
        let owner = at.owner.as_ref().map_or_else(String::new, |owner| format!(", {owner}"));
        say!("    {}-{}: {} {}", at.topic, at.partition, at.lag, dim(&format!("({position}{owner})")));
    }
    if behind.len() > MOST {
        say!("    {}", dim(&format!("and {} more: --json has all", behind.len() - MOST)));
    }
    if let Some(lowest) = &of.watermark {
        let at = lowest.at.map_or_else(|| "none yet".to_string(), time);
        say!(
            "{}",
            wrapped(
                &format!(
                    "  watermark: {} {}",
                    strong(&at),
                    dim(&format!("(lowest of the sources: {}-{}; {})", lowest.topic, lowest.partition, lowest.cause))
                ),
                4
            )
        );
    }
}
