//! What somebody should look at: each with its place, its cause and what to do.

use operator_core::Diagnostic;
use serde::Serialize;
use serde_json::Value;

use super::Pipeline;
use super::cluster::Input;

/// Something that is not as it should be.
#[derive(Serialize)]
pub(super) struct Attention {
    pub(super) what: String,
    #[serde(rename = "where")]
    pub(super) place: String,
    pub(super) cause: String,
    pub(super) remedy: String,
    pub(super) since: Option<String>,
}

fn found(what: &str, place: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Attention {
    Attention { what: what.to_string(), place: place.into(), cause: cause.into(), remedy: remedy.into(), since: None }
}

/// What to do about workers while starts are refused.
const NO_START: &str = "don't start or restart a worker yet, it would be refused: `hw plan` with the pipeline's file says why";

/// All of it, of one pipeline. `refused`: why the deployed version could not be started again.
pub(super) fn all(of: &Pipeline, refused: &[Diagnostic], (silent, gone): (&[(String, String)], &[String])) -> Vec<Attention> {
    let mut all = Vec::new();
    let start = |remedy: &'static str| if refused.is_empty() { remedy } else { NO_START };
    for why in refused {
        let cause = format!("a start would be refused: {} ({})", why.message, why.code);
        all.push(found("start", format!("pipeline {}", of.pipeline), cause, why.help.as_deref().unwrap_or(NO_START)));
    }
    group(of, &start, &mut all);
    for worker in gone {
        let cause =
            "its process on this machine has ended, and the group still has it as a member: it was killed, or is being started again";
        let remedy = start("start it again with `hw run`; its partitions move to other workers after the session timeout");
        all.push(found("worker", format!("worker {worker}"), cause, remedy));
    }
    for (address, why) in silent {
        all.push(found(
            "worker",
            address.as_str(),
            format!("it does not answer: {why}"),
            "see whether it runs, and whether the address is right",
        ));
    }
    for worker in &of.workers {
        let name = worker.name().unwrap_or(&worker.address);
        let version = worker.status["version"].as_u64().filter(|version| *version != of.version);
        if let Some(version) = version {
            let cause = format!("it runs version {version}, and version {} is deployed", of.version);
            all.push(found("version", format!("worker {name}"), cause, start("restart it")));
        }
        for cause in worker.status["health"]["causes"].as_array().into_iter().flatten() {
            let text = |key: &str| cause[key].as_str().unwrap_or_default().to_string();
            let since = cause["since"].as_str().map(str::to_string);
            let place = format!("worker {name}, {}", text("where"));
            all.push(Attention { what: text("what"), place, cause: text("cause"), remedy: text("remedy"), since });
        }
        for warning in worker.status["health"]["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            all.push(found("warning", format!("worker {name}"), warning, "see the cause; results are not affected"));
        }
    }
    all.extend(of.partitions.iter().filter_map(open_transaction));
    all
}

fn group(of: &Pipeline, start: &dyn Fn(&'static str) -> &'static str, all: &mut Vec<Attention>) {
    let place = format!("group {}", of.group.name);
    match of.group.state.as_str() {
        "Stable" => {
            let unowned = of.partitions.iter().filter(|partition| partition.owner.is_none()).count();
            // An assignment that names other topics says nothing of these.
            if (1..of.partitions.len()).contains(&unowned) {
                let cause = format!("{unowned} partitions are assigned to no member");
                all.push(found("assignment", place, cause, start("restart the workers, so that they know of all partitions")));
            }
        }
        "PreparingRebalance" | "CompletingRebalance" => {
            all.push(found(
                "assignment",
                place,
                "the group moves partitions between its members",
                "nothing: it takes seconds, or the session timeout after a kill",
            ));
        }
        _ => all.push(found("workers", place, "it has no members: no worker runs", start("start workers with `hw run`"))),
    }
    for sink in of.tables.iter().filter(|sink| sink.members == 0 && sink.undelivered > 0 && !of.group.members.is_empty()) {
        let cause = format!("{} records of its outbox are not in its table, and no worker delivers them", sink.undelivered);
        all.push(found("sink", format!("sink {}", sink.sink), cause, "see the log of the workers for why the sink has stopped"));
    }
}

/// An open transaction of other producers: what is behind its first record can't be read yet.
fn open_transaction(input: &Input) -> Option<Attention> {
    let from = input.stable_end;
    let read = input.position.is_some_and(|position| position >= from);
    // The pipeline's own transactions are open all the time, for as long as a commit takes.
    if input.source.is_none() || from >= input.end || !read {
        return None;
    }
    let place = format!("{}-{}", input.topic, input.partition);
    let cause = format!("records from offset {from} up to {} can't be read: a transaction is open there, or was a moment ago", input.end);
    let remedy = format!(
        "its producer ends it, or the brokers abort it after its `transaction.timeout.ms`. Which producer: `kafka-transactions describe-producers --topic {} \
         --partition {}`; one that hangs for ever: `kafka-transactions find-hanging`, then `abort`",
        input.topic, input.partition
    );
    Some(found("transaction", place, cause, remedy))
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Group;
    use super::*;

    fn pipeline(state: &str) -> Pipeline {
        let input = |partition, owner: Option<&str>| Input {
            topic: "orders".into(),
            partition,
            source: Some("orders".into()),
            position: Some(0),
            stable_end: 0,
            end: 0,
            lag: 0,
            watermark: None,
            owner: owner.map(String::from),
        };
        Pipeline {
            pipeline: "carts".into(),
            version: 1,
            group: Group { name: "hw.carts".into(), state: state.into(), members: Vec::new() },
            workers: Vec::new(),
            partitions: vec![input(0, Some("a")), input(1, None)],
            watermark: None,
            tables: Vec::new(),
            dead_letters: Vec::new(),
            attention: Vec::new(),
        }
    }

    /// Following the advice to restart workers would be an outage while starts are refused.
    #[test]
    fn nobody_is_sent_to_start_what_would_be_refused() {
        let remedies = |state: &str, refused: &[Diagnostic]| -> Vec<(String, String)> {
            let all = all(&pipeline(state), refused, (&[], &["w".to_string()]));
            all.into_iter().map(|found| (found.what, found.remedy)).collect()
        };
        let said = remedies("Stable", &[]);
        assert!(said[0].1.starts_with("restart the workers") && said[1].1.starts_with("start it again"), "{said:?}");
        let refused = [Diagnostic::error("internal-topics", "the topic `orders` has 2 partitions instead of 1").help("`hw reset`")];
        for state in ["Stable", "Empty"] {
            let said = remedies(state, &refused);
            assert_eq!(said[0], ("start".to_string(), "`hw reset`".to_string()));
            assert!(said.len() == 3 && said[1..].iter().all(|(_, remedy)| remedy == NO_START), "{said:?}");
        }
    }
}
