//! `hw plan`: what a start of this file would do to what is deployed. It asks what `hw run` asks (`manifest::preview`), so that the start
//! does what was shown.

mod against;
mod state;

use std::path::PathBuf;

use clap::Args;
use headwater_engine::broker::Broker;
use headwater_engine::manifest::{self, Impact, Preview};
use headwater_engine::plan::{Plan, topics_to_create};
use operator_core::Diagnostic;
use serde::Serialize;

use self::against::Saved;
use self::state::State;
use super::{Environment, Failure, Schemas, folders, runtime};
use crate::diagnose::{Problem, UNREACHABLE};
use crate::observe::outages::Outages;
use crate::pipeline_files::{self, Loaded};
use crate::say;
use crate::style::{bad, dim, good, name, strong, wrapped};
use crate::worker::{preflight, run};

#[derive(Args)]
#[command(after_help = "Nothing is created or changed. Rights, tables and keys of records are checked by `hw run --dry-run`.

Outcomes, by what a deployment needs:
  no-op       the file says what is deployed; topics that are missing are created
  compatible  a start deploys it: state and positions are used as they are
  blocked     wait first: rows are unread, or workers of another version run
  backfill    state has to be given up, or made again from the records
  breaking    positions or topics don't fit, or were lost
With --json one object: pipeline, outcome, deployed (version, or null), next (version), adopted (it has run without a manifest: state and positions \
are used as they are), assumed (no cluster was asked), changes, refused (code, impact, message, remedy, place: file:line:column, or null), topics (to be \
created: name, partitions), state (step, was: its name before, or null, changelog, fate: kept, new, changed (its entries are of another form), gone (its \
changelog was deleted) or dropped, \
partitions, records, bytes, restore_seconds).

Exit codes: 0 a start would deploy it, 1 failure, 2 it would be refused, or the file is invalid. Services that don't answer are a failure, \
whatever the file says: `hw lint` checks it without them. With --detailed-exitcode: 0 no-op, 1 failure, 2 the file is invalid, 3 compatible, 4 blocked, 5 backfill, 6 breaking.

Examples:
  hw plan pipeline.yaml --config config/production.yaml
  hw history orders --config config/production.yaml --save deployed.json
  hw plan pipeline.yaml --against deployed.json --detailed-exitcode")]
pub struct PlanArgs {
    /// The pipeline file, or a folder with one pipeline in it
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    #[command(flatten)]
    schemas: Schemas,
    /// Compare with a saved manifest instead of asking services: every step is assumed to have state, and no row to be unread
    #[arg(long, value_name = "MANIFEST", conflicts_with = "configs")]
    against: Option<PathBuf>,
    /// Write the manifest that a start would deploy to this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say the outcome by the exit code
    #[arg(long)]
    detailed_exitcode: bool,
}

/// A topic that a start would create.
#[derive(Serialize)]
struct Topic {
    name: String,
    partitions: i32,
}

/// A difference that is refused.
#[derive(Serialize)]
struct Refused {
    code: String,
    impact: &'static str,
    message: String,
    remedy: Option<String>,
    /// `file:line:column`, where there is one.
    place: Option<String>,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    pipeline: String,
    outcome: &'static str,
    /// Version; `None`: nothing is.
    deployed: Option<u64>,
    next: u64,
    /// It has run without a manifest: state and positions are used as they are.
    adopted: bool,
    /// No cluster was asked.
    assumed: bool,
    changes: Vec<String>,
    refused: Vec<Refused>,
    topics: Vec<Topic>,
    state: Vec<State>,
    #[serde(skip)]
    impact: Impact,
    #[serde(skip)]
    problems: Vec<Problem>,
}

pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let file = folders::only(&args.pipeline)?;
    let loaded = pipeline_files::load(&file).map_err(Failure::Wrong)?;
    let report = match &args.against {
        Some(saved) => {
            let names = headwater_engine::plan::Names(loaded.pipeline.name.clone());
            let saved = Saved::read(saved, args.schemas.read(&file)?, &names)?;
            let (plan, warnings) = pipeline_files::make_plan(&loaded, &saved).map_err(Failure::Wrong)?;
            pipeline_files::print(&warnings);
            let cluster = saved.cluster(&names).map_err(|e| Problem::of_broker(&e))?;
            report(&loaded, &plan, &cluster, args)?
        }
        None => {
            let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
            preflight::check_times(loaded.pipeline.guarantee, loaded.pipeline.commit_interval, &config)?;
            let runtime = runtime()?;
            let services = run::connect(&config, "hw-plan", None, runtime.handle(), &Outages::default())?;
            if let Some(why) = services.brokers_away() {
                return Err(Problem::plain(why).with_code(UNREACHABLE).into());
            }
            let (plan, warnings) = run::plan_on(&loaded, &services).map_err(|problems| match services.unreachable() {
                Some(why) => Problem::plain(why).with_code(UNREACHABLE).into(),
                None => Failure::Wrong(problems),
            })?;
            pipeline_files::print(&warnings);
            report(&loaded, &plan, services.broker.as_ref(), args)?
        }
    };
    match args.json {
        true => say!("{}", serde_json::to_string_pretty(&report).map_err(|e| Problem::plain(e.to_string()))?),
        false => show(&report),
    }
    match (args.detailed_exitcode, report.impact) {
        (_, Impact::None) | (false, Impact::Compatible) => Ok(()),
        (false, _) => Err(Failure::Answer(2)),
        (true, Impact::Compatible) => Err(Failure::Answer(3)),
        (true, Impact::Blocked) => Err(Failure::Answer(4)),
        (true, Impact::Backfill) => Err(Failure::Answer(5)),
        (true, Impact::Breaking) => Err(Failure::Answer(6)),
    }
}

fn report(loaded: &Loaded, plan: &Plan, broker: &dyn Broker, args: &PlanArgs) -> Result<Report, Failure> {
    let failed = |e| Failure::Failed(Problem::of_broker(&e));
    let assumed = args.against.is_some();
    let mut preview = manifest::preview(broker, plan).map_err(|e| Problem::plain(e.to_string()))?;
    // The start asks this first. Halfway through a reset nothing else matters.
    let internal = preflight::check_internal(plan, broker).map_err(failed)?;
    if preview.deployed.as_ref().is_none_or(|deployed| deployed.manifest.unfinished.is_none()) {
        preview.verdict.refused.extend(internal);
    }
    let next = preview.next();
    if let Some(file) = &args.save {
        next.save(file).map_err(|e| Problem::plain(format!("{}: {e}", file.display())))?;
    }
    let impact = preview.impact();
    let shown = |(impact, d): (Impact, &Diagnostic)| Refused {
        code: d.code.to_string(),
        impact: impact.name(),
        message: d.message.clone(),
        remedy: d.help.clone(),
        place: preflight::refusal(loaded, d.clone()).place(),
    };
    let refused = preview.verdict.refusals().map(shown).collect();
    let mut topics = Vec::new();
    // Without a cluster nothing is known of the topics of sinks and dead letters.
    for spec in topics_to_create(plan).into_iter().filter(|spec| !assumed || spec.name.starts_with(&plan.names.group())) {
        let own_letters = assumed && spec.name.ends_with(".dlq");
        if !own_letters && broker.partitions(&spec.name).map_err(failed)?.is_none() {
            topics.push(Topic { name: spec.name, partitions: spec.partitions });
        }
    }
    let Preview { deployed, verdict } = preview;
    let was = deployed.as_ref().map(|deployed| &deployed.manifest);
    Ok(Report {
        pipeline: plan.pipeline.clone(),
        outcome: impact.name(),
        deployed: was.map(|was| was.version),
        next: next.version,
        adopted: verdict.adopted,
        assumed,
        changes: verdict.changes,
        refused,
        topics,
        state: if assumed { Vec::new() } else { state::states(broker, was, &next).map_err(failed)? },
        impact,
        problems: verdict.refused.into_iter().map(|d| preflight::refusal(loaded, d)).collect(),
    })
}

fn show(report: &Report) {
    let version = match report.deployed {
        Some(version) => format!("version {version} is deployed"),
        None if report.adopted => "has run without a manifest: its state and positions are used as they are".to_string(),
        None => "nothing is deployed yet".to_string(),
    };
    let assumed =
        if report.assumed { " (by the saved manifest; every step is assumed to have state, and no row to be unread)" } else { "" };
    say!("{}: {version}{}", name(&report.pipeline), dim(assumed));
    report.problems.iter().for_each(|problem| anstream::eprintln!("{}", problem.render()));
    let outcome = match report.impact {
        Impact::None if report.topics.is_empty() => format!("{} a start changes nothing", good("no-op:")),
        Impact::None => format!("{} a start keeps this version, and creates the topics that are missing", good("no-op:")),
        Impact::Compatible => format!("{} a start deploys version {}", good("compatible:"), report.next),
        Impact::Blocked => format!("{} a start is refused for now", bad("blocked:")),
        Impact::Backfill => format!("{} a start is refused: state has to be given up, or made again", bad("needs backfill:")),
        Impact::Breaking => format!("{} a start is refused: positions or topics don't fit", bad("breaking:")),
    };
    say!("{outcome}");
    section("changes", report.changes.iter().map(|change| format!("~ {change}")));
    let partitions = |n: i32| if n == 1 { "1 partition".to_string() } else { format!("{n} partitions") };
    section("topics to create", report.topics.iter().map(|topic| format!("+ {}, {}", topic.name, partitions(topic.partitions))));
    section("state", report.state.iter().map(line));
}

fn section(title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        say!("{}", strong(title));
        lines.for_each(|line| say!("{}", wrapped(&format!("  {line}"), 4)));
    }
}

/// The state of a step on a line.
fn line(state: &State) -> String {
    let size = match (state.bytes, state.restore_seconds) {
        (Some(bytes), Some(seconds)) => format!(
            "{} records, about {} KiB; without local checkpoints one reader takes about {} s",
            state.records,
            bytes.div_ceil(1 << 10),
            seconds.ceil()
        ),
        _ => "no entries".to_string(),
    };
    let was = state.was.as_ref().map_or_else(String::new, |was| format!(" (was {was})"));
    format!("{} {}{was}: {} {}", state.step, state.fate, state.changelog, dim(&format!("({size})")))
}
