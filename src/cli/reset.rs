//! `hw reset`: positions of a stopped pipeline are set, and the state that was made of the rows before them is removed.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;
use headwater_engine::broker::{Broker, TopicPartition};
use headwater_engine::manifest::Manifest;
use headwater_engine::manifest::store::{self, Deployed};
use headwater_engine::plan::Names;
use headwater_kafka::{Kafka, Place};
use operator_core::Severity;
use serde::Serialize;

use super::stopped::{self, Change, Outcome};
use super::{Environment, Failure, folders, runtime, time};
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files;
use crate::say;
use crate::style::{dim, name, strong, wrapped};
use crate::worker::run;

#[derive(Args)]
#[command(
    after_help = "State is made of the rows before the positions, so it is removed with them: changelogs and repartition topics are deleted, and the next \
start creates them. Rows that are waiting for tables stay in their outboxes and are delivered. After a reset to an earlier place sinks get rows \
a second time; their topics and tables are listed, with what to do about them. With --keep-state only positions move: rows that are read twice are counted twice.
A start between the beginning and the end of a reset is refused; the same command, given again, finishes.

With --json one object: pipeline, what, positions (topic, partition, from (null: no position), to), removed (topics), twice (sinks that \
get rows a second time), refused (why a dry run would be refused without --dry-run, or null), done.
Exit codes: 0 done (with --dry-run: shown, and nothing is in its way), 1 failure (workers run, too), 2 the command line is invalid, or nobody can confirm.

Examples:
  hw reset orders --to earliest --config config/production.yaml --dry-run
  hw reset orders --to 2026-11-28T06:00:00Z --config config/production.yaml --yes
  hw reset orders --keep-state --offset business.orders.created:3=1200"
)]
pub struct ResetArgs {
    /// The pipeline: its name, its file, or a folder with one pipeline in it
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    /// Where to read from: `earliest`, `latest`, or a time as in RFC 3339 (the first record with that timestamp or a later one)
    #[arg(long, value_name = "PLACE", required_unless_present = "offsets")]
    to: Option<String>,
    /// Only this topic; several times for several
    #[arg(long = "topic", value_name = "TOPIC", requires = "keep_state")]
    topics: Vec<String>,
    /// An offset of one partition; several times for several
    #[arg(long = "offset", value_name = "TOPIC:PARTITION=OFFSET", requires = "keep_state", conflicts_with_all = ["to", "topics"])]
    offsets: Vec<String>,
    /// Move positions and keep the state as it is
    #[arg(long)]
    keep_state: bool,
    #[command(flatten)]
    change: Change,
}

/// A position that is set.
#[derive(Serialize)]
struct Move {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
}

#[derive(Serialize)]
struct Report {
    pipeline: String,
    what: String,
    positions: Vec<Move>,
    removed: Vec<String>,
    /// What sinks that get rows a second time write, and what to do about it.
    twice: Vec<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

pub fn run(args: &ResetArgs) -> Result<(), Failure> {
    let pipeline = folders::name_of(&args.pipeline)?;
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let place = args.to.as_deref().map(place).transpose().map_err(|p| Failure::Wrong(vec![p]))?;
    let offsets = args.offsets.iter().map(|text| offset(text)).collect::<Result<Vec<_>, _>>().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-reset", None, runtime.handle(), &Outages::default())?;
    let kafka = services.kafka.as_ref().ok_or_else(|| Problem::plain("no brokers to ask"))?;
    let names = Names(pipeline.clone());
    let deployed = store::read(kafka.as_ref(), &names).map_err(|e| Problem::plain(e.to_string()))?;
    let Some(deployed) = deployed else {
        return Err(Problem::plain(format!(
            "the pipeline `{pipeline}` is not deployed here: there is no manifest in the topic `{}`",
            names.manifest()
        ))
        .into());
    };
    let positions = match place {
        Some(place) => moved_to(kafka, &names, sources(kafka, &deployed.manifest, &args.topics)?, place)?,
        None => moved_by(kafka, &names, &deployed.manifest, offsets)?,
    };
    if let Some(Place::Time(at)) = place.filter(|place| matches!(place, Place::Time(at) if *at > Utc::now().timestamp_millis())) {
        let why = format!("--to: {} is in the future: all rows that are unread now are skipped, and later ones are read", time(at));
        let mut warning = Problem::plain(why);
        warning.severity = Severity::Warning;
        pipeline_files::print(&[warning]);
    }
    let mut removed = if args.keep_state { Vec::new() } else { deployed.manifest.made_of_rows() };
    let there = kafka.topics().map_err(|e| Problem::of_broker(&e))?;
    removed.retain(|topic| there.contains(topic));
    let again = positions.iter().any(|to| to.from.is_some_and(|from| to.to < from));
    let twice = if again { twice(&deployed.manifest) } else { Vec::new() };
    let state = if args.keep_state { ", state kept" } else { "" };
    let to = args.to.clone().unwrap_or_else(|| args.offsets.join(", "));
    let what = format!("reset to {to}{state}");
    if let Some(begun) = deployed.manifest.unfinished.as_ref().filter(|begun| **begun != what) {
        let problem = Problem::plain(format!("\"{begun}\" has begun and is not done"));
        return Err(problem.with_help(Some("give that reset again first: it finishes".to_string())).into());
    }
    let mut report = Report { pipeline, what, positions, removed, twice, outcome: Outcome::default() };
    if !args.change.json {
        show(&report);
    }
    let stopped = stopped::check(kafka, &[names.group()]);
    report.outcome = args
        .change
        .make(&stopped, &format!("reset {}?", report.pipeline), || Ok(apply(kafka, &names, &deployed, &report, !args.keep_state)?))?;
    args.change.finish(&report, &report.outcome, &format!("the next start of {} reads from there", name(&report.pipeline)), stopped)
}

/// What sinks write that get rows a second time.
fn twice(manifest: &Manifest) -> Vec<String> {
    let line = |stopped::Written { sink, kind, target }| match kind.as_str() {
        "topic" => format!("{sink}: readers of the topic {target} get these rows again"),
        _ => format!(
            "{sink}: the {kind} table {target} keeps its rows, and sums over it are doubled unless rows replace others by key: delete the rows of \
             what is read again first (from the beginning: `TRUNCATE TABLE {target}`)"
        ),
    };
    stopped::written(manifest).into_iter().map(line).collect()
}

/// In an order that can be repeated from any point: see `manifest::reset`.
fn apply(kafka: &Kafka, names: &Names, deployed: &Deployed, report: &Report, without_state: bool) -> Result<(), Problem> {
    let failed = |e| Problem::of_broker(&e);
    let write = |deployed: &Deployed, next: &Manifest| -> Result<Deployed, Problem> {
        let written = store::write(kafka, names, Some(deployed), next).map_err(|e| Problem::plain(e.to_string()))?;
        match (&written.manifest.unfinished, &written.manifest.changes) == (&next.unfinished, &next.changes) {
            true => Ok(written),
            false => {
                Err(Problem::plain("a worker has started, or another command changes the pipeline: stop it, and give the command again"))
            }
        }
    };
    let begun = write(deployed, &deployed.manifest.resetting(&report.what))?;
    stopped::delete_topics(kafka, &report.removed, &names.group()).map_err(failed)?;
    let positions: Vec<_> = report.positions.iter().map(|to| (TopicPartition::new(to.topic.as_str(), to.partition), to.to)).collect();
    kafka.set_positions(&names.group(), &positions).map_err(failed)?;
    write(&begun, &begun.manifest.reset(without_state)).map(drop)
}

fn place(text: &str) -> Result<Place, Problem> {
    match text {
        "earliest" => Ok(Place::First),
        "latest" => Ok(Place::End),
        time => match DateTime::parse_from_rfc3339(time) {
            Ok(time) => Ok(Place::Time(time.timestamp_millis())),
            Err(_) => {
                Err(Problem::plain(format!("--to: `{time}` is neither `earliest` nor `latest` nor a time such as 2026-11-28T06:00:00Z")))
            }
        },
    }
}

fn offset(text: &str) -> Result<(TopicPartition, i64), Problem> {
    let parts = || {
        let (at, offset) = text.split_once('=')?;
        let (topic, partition) = at.rsplit_once(':')?;
        Some((TopicPartition::new(topic, partition.parse().ok()?), offset.parse().ok().filter(|offset| *offset >= 0)?))
    };
    parts().ok_or_else(|| Problem::plain(format!("--offset: `{text}` is not TOPIC:PARTITION=OFFSET, such as orders:0=1200")))
}

/// The partitions of the sources, or of the chosen topics of them.
fn sources(kafka: &Kafka, manifest: &Manifest, chosen: &[String]) -> Result<Vec<TopicPartition>, Failure> {
    let all: Vec<&String> = manifest.inputs.iter().filter(|(_, input)| input.source.is_some()).map(|(topic, _)| topic).collect();
    if let Some(unknown) = chosen.iter().find(|topic| !all.contains(topic)) {
        return Err(no_source(unknown, manifest));
    }
    let mut partitions = Vec::new();
    for topic in all.into_iter().filter(|topic| chosen.is_empty() || chosen.contains(topic)) {
        let count = kafka.partitions(topic).map_err(|e| Problem::of_broker(&e))?.unwrap_or(0);
        partitions.extend((0..count).map(|partition| TopicPartition::new(topic.as_str(), partition)));
    }
    Ok(partitions)
}

fn no_source(topic: &str, manifest: &Manifest) -> Failure {
    let read = manifest.inputs.iter().filter(|(_, input)| input.source.is_some()).map(|(topic, _)| topic.as_str());
    let help = format!("it reads {}", read.collect::<Vec<_>>().join(", "));
    Failure::Wrong(vec![Problem::plain(format!("the pipeline has no source that reads the topic `{topic}`")).with_help(Some(help))])
}

fn moved_to(kafka: &Kafka, names: &Names, partitions: Vec<TopicPartition>, place: Place) -> Result<Vec<Move>, Problem> {
    let places: Vec<_> = partitions.into_iter().map(|partition| (partition, place)).collect();
    let found = kafka.offsets(&places).map_err(|e| Problem::of_broker(&e))?;
    moves(kafka, names, found.into_iter().collect())
}

fn moved_by(kafka: &Kafka, names: &Names, manifest: &Manifest, offsets: Vec<(TopicPartition, i64)>) -> Result<Vec<Move>, Failure> {
    for (partition, offset) in &offsets {
        if manifest.inputs.get(partition.topic.as_ref()).is_none_or(|input| input.source.is_none()) {
            return Err(no_source(&partition.topic, manifest));
        }
        let (low, high) = kafka.bounds(partition).map_err(|e| Problem::of_broker(&e))?;
        if !(low..=high).contains(offset) {
            let problem = Problem::plain(format!("--offset: {partition} has offsets from {low} to {high}, and {offset} is not among them"));
            return Err(Failure::Wrong(vec![problem]));
        }
    }
    Ok(moves(kafka, names, offsets)?)
}

fn moves(kafka: &Kafka, names: &Names, to: Vec<(TopicPartition, i64)>) -> Result<Vec<Move>, Problem> {
    let committed = kafka.group(&names.group()).map_err(|e| Problem::of_broker(&e))?.committed;
    let made = |(at, to): (TopicPartition, i64)| Move {
        from: committed.get(&at).map(|committed| committed.offset),
        topic: at.topic.to_string(),
        partition: at.partition,
        to,
    };
    Ok(to.into_iter().map(made).collect())
}

fn show(report: &Report) {
    say!("{}: to be {}", name(&report.pipeline), report.what);
    say!("{}", strong("positions"));
    for to in &report.positions {
        let from = to.from.map_or_else(|| "none".to_string(), |from| from.to_string());
        let what = match to.from.map(|from| to.to - from) {
            Some(n) if n < 0 => format!("{} offsets are read again", -n),
            Some(n) if n > 0 => format!("{n} offsets are skipped"),
            _ => "as it is".to_string(),
        };
        say!("  {}-{}: {from} -> {} {}", to.topic, to.partition, to.to, dim(&format!("({what})")));
    }
    if !report.removed.is_empty() {
        say!("{}", strong("topics with state, to be deleted"));
        report.removed.iter().for_each(|topic| say!("  - {topic}"));
    }
    if !report.twice.is_empty() {
        say!("{}", strong("sinks that get rows a second time"));
        report.twice.iter().for_each(|line| say!("{}", wrapped(&format!("  {line}"), 4)));
    }
}
