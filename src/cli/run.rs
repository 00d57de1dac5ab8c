//! `hw run`: a worker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use headwater_engine::backoff::Backoff;
use headwater_engine::worker::Stop;
use tokio::runtime::Handle;

use super::{Environment, Failure, Schemas, folders, runtime};
use crate::check::Found;
use crate::config::{self, Config};
use crate::diagnose::{Problem, UNREACHABLE};
use crate::observe::http::Pages;
use crate::observe::logs;
use crate::observe::outages::Outages;
use crate::pipeline_files::{self, Loaded};
use crate::say;
use crate::style::{bad, dim, good, wrapped};
use crate::worker::access;
use crate::worker::dry_run;
use crate::worker::preflight;
use crate::worker::run::{self, Prepared};

#[derive(Args, Clone)]
#[command(after_help = "The workers of a pipeline are members of one consumer group. On SIGTERM, SIGHUP or Ctrl-C a worker \
commits its open transaction and leaves; a second signal ends it at once. /metrics, /health and /ready are served on `worker.http`, or --http.

Examples:
  hw run pipeline.yaml --config config/production.yaml --dry-run
  hw run pipeline.yaml --config config/production.yaml --lanes 4
  HW_LOG=debug hw run pipeline.yaml --plain-logs")]
pub struct RunArgs {
    /// The pipeline file, or a folder with one pipeline in it
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    /// Number of lanes (threads that process partitions); overrides `worker.lanes`
    #[arg(long)]
    lanes: Option<usize>,
    /// Address of /metrics, /health and /ready, instead of `worker.http`; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Log plain text instead of JSON
    #[arg(long)]
    plain_logs: bool,
    #[command(flatten)]
    schemas: Schemas,
    /// Connect and check topics, permissions, schemas and tables; process and create nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    if !args.dry_run {
        logs::start(args.plain_logs);
    }
    let args = &RunArgs { pipeline: folders::only(&args.pipeline)?, ..args.clone() };
    if args.dry_run {
        return dry_run(args);
    }
    let loaded = pipeline_files::load(&args.pipeline).map_err(Failure::Wrong)?;
    let config = environment(args)?;
    preflight::check_times(loaded.pipeline.guarantee, loaded.pipeline.commit_interval, &config)?;
    for risk in config::risks(&config) {
        tracing::warn!(setting = risk.path.join("."), "unsafe setting: {}", risk.message);
    }
    let schemas = args.schemas.folder(&args.pipeline)?;
    let runtime = runtime()?;
    let name = loaded.pipeline.name.clone();
    let stop = Stop::default();
    run::stop_on_signals(runtime.handle(), stop.clone());
    let pages = run::open_pages(&config, &name, &Outages::default(), runtime.handle())?;
    let address = pages.address().map(|a| a.to_string()).unwrap_or_default();
    tracing::info!(pipeline = %name, http = %address, "starting");
    let Some(prepared) = ready(loaded, &config, runtime.handle(), &stop, &pages)? else {
        // A question to a service may be under way, which ends with the process; nothing is open.
        tracing::info!(pipeline = %name, "stopped before anything was read");
        std::process::exit(0);
    };
    let running = run::start(&prepared, &config, Some(&schemas), stop, &pages)?;
    tracing::info!(pipeline = %name, lanes = config.worker.lanes, http = %address, "running");
    running.wait()?;
    tracing::info!(pipeline = %name, "stopped");
    Ok(())
}

/// The environment with what the command line sets instead.
fn environment(args: &RunArgs) -> Result<Config, Failure> {
    let mut config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    if let Some(lanes) = args.lanes {
        config.worker.lanes = lanes;
    }
    if args.http.is_some() {
        config.worker.http.clone_from(&args.http);
    }
    Ok(config)
}

/// All checks of a start, without starting.
fn dry_run(args: &RunArgs) -> Result<(), Failure> {
    let loaded = pipeline_files::load(&args.pipeline).map_err(Failure::Wrong)?;
    let config = environment(args)?;
    preflight::check_times(loaded.pipeline.guarantee, loaded.pipeline.commit_interval, &config)?;
    let schemas = args.schemas.folder(&args.pipeline)?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-dry-run", None, runtime.handle(), &Outages::default())?;
    if let Some(why) = services.brokers_away() {
        let away = Problem::plain(why).with_code(UNREACHABLE);
        let distrusted = services.kafka.as_ref().is_some_and(|kafka| kafka.distrusts());
        return Err(if distrusted { Failure::Wrong(vec![away]) } else { away.into() });
    }
    // As at a start: the registry must respond only where the plan needs it.
    let (plan, warnings) = run::plan_on(&loaded, &services).map_err(|problems| match services.unreachable() {
        Some(why) => Problem::plain(why).with_code(UNREACHABLE).into(),
        None => Failure::Wrong(problems),
    })?;
    pipeline_files::print(&warnings);
    say!("{} the pipeline fits the topics and schemas of the environment", good("✓"));
    let kafka = services.kafka.as_ref().ok_or_else(|| Problem::plain("no brokers to ask"))?;
    let (checks, grants) = dry_run::check_all(&plan, kafka, &config, Some(&schemas), runtime.handle())?;
    for check in &checks {
        let line = match &check.found {
            Found::Fine(found) => format!("{} {} {}", good("✓"), check.what, dim(found)),
            Found::Unknown(why) => format!("{} {}: {why}", dim("?"), check.what),
            Found::Wrong(wrong) => format!("{} {}: {wrong}", bad("✗"), check.what),
        };
        say!("{}", wrapped(&line, 2));
    }
    access::show_grants(&grants);
    match checks.iter().filter(|check| check.wrong().is_some()).count() {
        0 => Ok(()),
        wrong => Err(Failure::Wrong(vec![Problem::plain(format!("{wrong} of {} checks failed", checks.len() + 1))])),
    }
}

/// Pauses between attempts to reach services: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Connects and plans. Waits for services that can't be reached yet, as a running worker would; reports problems of the
/// pipeline at once. On a thread of its own, since a question to a service may take longer than somebody who stops
/// the worker wants to wait. `None`: stopped meanwhile.
fn ready(loaded: Loaded, config: &Config, runtime: &Handle, stop: &Stop, pages: &Arc<Pages>) -> Result<Option<Prepared>, Failure> {
    let (config, runtime, stopping, pages) = (config.clone(), runtime.clone(), stop.clone(), pages.clone());
    let thread = std::thread::Builder::new()
        .name("start".into())
        .spawn(move || prepare(&loaded, &config, &runtime, &stopping, &pages))
        .map_err(|e| Problem::plain(e.to_string()))?;
    while !thread.is_finished() {
        if stop.is_stopped() {
            return Ok(None);
        }
        stop.pause(LOOK);
    }
    thread.join().unwrap_or_else(|_| Err(Problem::plain("the start panicked: this is a bug").into()))
}

/// How often the start is looked at.
const LOOK: Duration = Duration::from_millis(10);

fn prepare(loaded: &Loaded, config: &Config, runtime: &Handle, stop: &Stop, pages: &Pages) -> Result<Option<Prepared>, Failure> {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    while !stop.is_stopped() {
        let services =
            run::connect(config, &format!("hw-{}", loaded.pipeline.name), Some(loaded.pipeline.commit_interval), runtime, &pages.outages)?;
        let why = match run::prepare(loaded, services.clone()) {
            Ok(prepared) => return Ok(Some(prepared)),
            // Brokers may answer again by now.
            Err(problems) => match problems.iter().find(|problem| problem.code == UNREACHABLE) {
                Some(problem) => problem.message.clone(),
                None => services.unreachable().ok_or(Failure::Wrong(problems))?,
            },
        };
        pages.waits(&why);
        tracing::warn!(pipeline = %loaded.pipeline.name, cause = %why, "can't reach a service; retrying");
        stop.pause(backoff.pause());
    }
    Ok(None)
}
