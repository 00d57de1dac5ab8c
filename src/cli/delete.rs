//! `hw delete`: what a stopped pipeline has created is deleted: its topics, its groups, its local state.

use std::path::{Path, PathBuf};

use clap::Args;
use headwater_engine::broker::Broker;
use headwater_engine::manifest::store;
use headwater_engine::plan::{Names, dead_letters};
use headwater_kafka::Kafka;
use serde::Serialize;

use super::stopped::{self, Change, Outcome};
use super::{Environment, Failure, Schemas, folders, runtime};
use crate::config::Config;
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files;
use crate::say;
use crate::sinks::{self, Place};
use crate::style::{name, strong, wrapped};
use crate::worker::run::{self, Services};

#[derive(Args)]
#[command(
    after_help = "Deleted: the topics and groups whose names begin with `hw.<pipeline>.` (no other pipeline can have such), the group \
`hw.<pipeline>`, the folder of local checkpoints on this machine, and with --positions the rows of positions in PostgreSQL. Rows in outboxes that \
are in no table yet are lost. Kept: topics and tables that sinks write, and dead letters of sources; they are listed. Transactional ids expire by themselves.
The manifest is deleted last: the same command, given again, finishes what was interrupted.

With --json one object: pipeline, topics, groups, folder, positions, kept, refused (why a dry run would be refused without --dry-run, or null), done.
Exit codes: 0 done (with --dry-run: shown, and nothing is in its way), 1 failure (workers run, or it is not deployed here), 2 the command line is invalid, or nobody can confirm.

Examples:
  hw delete orders --config config/production.yaml --dry-run
  hw delete pipeline.yaml --config config/production.yaml --positions --yes"
)]
pub struct DeleteArgs {
    /// The pipeline: its name, its file, or a folder with one pipeline in it
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    #[command(flatten)]
    schemas: Schemas,
    /// Delete the positions that stores keep for its sinks, too; needs the pipeline's file
    #[arg(long)]
    positions: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Serialize)]
struct Report {
    pipeline: String,
    topics: Vec<String>,
    groups: Vec<String>,
    /// Of local checkpoints on this machine.
    folder: Option<PathBuf>,
    /// Sinks whose positions in their store are deleted.
    positions: Vec<String>,
    /// What it has written, or may have created, and others may use.
    kept: Vec<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

pub fn run(args: &DeleteArgs) -> Result<(), Failure> {
    let pipeline = folders::name_of(&args.pipeline)?;
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-delete", None, runtime.handle(), &Outages::default())?;
    let kafka = services.kafka.as_ref().ok_or_else(|| Problem::plain("no brokers to ask"))?;
    let names = Names(pipeline);
    let mut report = found(kafka, &names, &config)?;
    if args.positions {
        report.positions = positions(args, &config, &services, false)?;
    }
    if report.topics.is_empty() && report.groups.is_empty() && report.folder.is_none() && report.positions.is_empty() {
        let group = names.group();
        let why = format!("the pipeline `{}` is not deployed here: there is no topic `{group}.*`, no group, and no local state", names.0);
        return Err(Problem::plain(why).into());
    }
    if !args.change.json {
        show(&report);
    }
    let stopped = stopped::check(kafka, &report.groups).and_then(|()| report.folder.as_deref().map_or(Ok(()), running));
    report.outcome = args.change.make(&stopped, &format!("delete all of this of {}?", report.pipeline), || {
        if args.positions {
            positions(args, &config, &services, true)?;
        }
        Ok(apply(kafka, &names, &report)?)
    })?;
    args.change.finish(&report, &report.outcome, &format!("{} is deleted", name(&report.pipeline)), stopped)
}

/// What there is of a pipeline.
fn found(kafka: &Kafka, names: &Names, config: &Config) -> Result<Report, Problem> {
    let failed = |e| Problem::of_broker(&e);
    let (group, prefix) = (names.group(), format!("{}.", names.group()));
    let topics: Vec<String> = kafka.topics().map_err(failed)?.into_iter().filter(|topic| topic.starts_with(&prefix)).collect();
    let mut groups = kafka.groups().map_err(failed)?;
    groups.retain(|name| *name == group || name.starts_with(&prefix));
    groups.sort_unstable();
    let folder = Some(config.worker.state_dir.join(&names.0)).filter(|folder| folder.is_dir());
    // One that can't be read says nothing of what is kept, and is deleted all the same.
    let deployed = store::read(kafka, names).ok().flatten();
    let mut kept = Vec::new();
    for manifest in deployed.iter().map(|deployed| &deployed.manifest) {
        for (topic, _) in manifest.inputs.iter().filter(|(_, input)| input.source.is_some()) {
            kept.push(format!("dead letters of a source: the topic {}", dead_letters(topic)));
        }
        kept.extend(stopped::written(manifest).into_iter().map(|written| {
            let stopped::Written { sink, kind, target } = &written;
            let next = match kind.as_str() {
                "topic" => "a next start writes its rows a second time".to_string(),
                "postgres" => "the sink of a next start stops there unless --positions was given; rows stay: empty the table".to_string(),
                _ => format!("the sink of a next start stops at a table that has rows: empty it first (`TRUNCATE TABLE {target}`)"),
            };
            format!("what the sink {sink} has written: {kind} {target}; {next}")
        }));
    }
    Ok(Report { pipeline: names.0.clone(), topics, groups, folder, positions: Vec::new(), kept, outcome: Outcome::default() })
}

/// The sinks whose stores keep positions; with `delete` these are deleted.
fn positions(args: &DeleteArgs, config: &Config, services: &Services, delete: bool) -> Result<Vec<String>, Failure> {
    if !args.pipeline.exists() {
        let problem = Problem::plain("--positions: the sinks are in the pipeline's file: give the file instead of the name");
        return Err(Failure::Wrong(vec![problem]));
    }
    let file = folders::only(&args.pipeline)?;
    let loaded = pipeline_files::load(&file).map_err(Failure::Wrong)?;
    let (plan, _) = run::plan_on(&loaded, services).map_err(Failure::Wrong)?;
    let (schemas, outages) = (args.schemas.folder(&file)?, Outages::default());
    let mut found = Vec::new();
    for (output, outbox, sink) in sinks::all(&plan) {
        let place = Place { plan: &plan, output, outbox, config, schemas: Some(&schemas), runtime: &services.runtime, outages: &outages };
        if let Some(what) = sink.forget(&place, delete).map_err(|why| Problem::plain(format!("sink `{}`: {why}", output.name)))? {
            found.push(format!("{}: {what}", output.name));
        }
    }
    Ok(found)
}

/// Refuses if a process holds a worker's slot of the folder: it may have lost the brokers and not be a member.
fn running(folder: &Path) -> Result<(), Problem> {
    match run::held(folder) {
        held if held.is_empty() => Ok(()),
        held => {
            let problem = Problem::plain(format!("workers on this machine run: {}", held.join(", ")));
            Err(problem.with_code("workers-running").with_help(Some("stop them".to_string())))
        }
    }
}

fn apply(kafka: &Kafka, names: &Names, report: &Report) -> Result<(), Problem> {
    let failed = |e| Problem::of_broker(&e);
    let manifest = names.manifest();
    let (last, topics): (Vec<String>, Vec<String>) = report.topics.iter().cloned().partition(|topic| *topic == *manifest);
    stopped::delete_topics(kafka, &topics, &names.group()).map_err(failed)?;
    kafka.delete_groups(&report.groups).map_err(failed)?;
    if let Some(folder) = &report.folder {
        std::fs::remove_dir_all(folder).map_err(|e| Problem::plain(format!("{}: {e}", folder.display())))?;
    }
    stopped::delete_topics(kafka, &last, &names.group()).map_err(failed)
}

fn show(report: &Report) {
    say!("{}: {}", name(&report.pipeline), "to be deleted");
    let section = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            say!("{}", strong(title));
            lines.iter().for_each(|line| say!("{}", wrapped(&format!("  {line}"), 4)));
        }
    };
    section("topics", &report.topics);
    section("groups, with their positions", &report.groups);
    section("local checkpoints", &report.folder.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>());
    section("positions in stores", &report.positions);
    section("kept", &report.kept);
}
