//! `hw status`: how deployed pipelines are doing, from Kafka and from the pages of their workers.

mod attention;
mod cluster;
mod show;
mod workers;

use clap::Args;
use headwater_engine::broker::Broker;
use headwater_engine::manifest::{self, store};
use headwater_engine::plan::Names;
use headwater_kafka::Kafka;
use operator_core::Millis;
use serde::Serialize;
use std::path::PathBuf;
use tokio::runtime::Handle;

use self::attention::Attention;
use self::cluster::{Cluster, Group, Input, Letters, Outbox};
use self::workers::Worker;
use super::{Environment, Failure, folders, runtime};
use crate::config::Config;
use crate::diagnose::{Problem, UNREACHABLE};
use crate::observe::outages::Outages;
use crate::say;
use crate::worker::run;

#[derive(Args)]
#[command(
    after_help = "Lag, watermarks and members come from Kafka, tasks, restores, sinks and what holds them up from the workers' page /status. Workers are found \
by --worker, by the state folder of this machine, and at the hosts of the group's members with the port of `worker.http` in the configuration \
(or 9644): start workers on other hosts with an address that can be reached from here.

With --json one object with `pipelines`, each: pipeline, version, group (name, state, members), workers (address, status: the page /status), partitions (topic, \
partition, source, position, stable_end, end, lag, watermark, owner), watermark (at, topic, partition, cause; null: not known), tables (sink, undelivered, \
members), dead_letters (topic, records), attention (what, where, cause, remedy, since).
Exit codes: 0 all is well, 1 failure, 3 something needs attention. Sagas that are stuck are not looked for: `hw saga list --stuck --check` finds them.

Examples:
  hw status --config config/production.yaml
  hw status orders --config config/production.yaml --json
  hw status pipeline.yaml --worker 10.0.0.7:9644 --worker 10.0.0.8:9644"
)]
pub struct StatusArgs {
    /// The pipeline: its name, its file, or a folder with one pipeline in it. Default: all that are deployed
    pipeline: Option<PathBuf>,
    #[command(flatten)]
    environment: Environment,
    /// Address of a worker's pages; several times for several
    #[arg(long = "worker", value_name = "ADDRESS")]
    workers: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The lowest watermark of the sources: no window behind a repartition closes before it.
#[derive(Serialize)]
struct Watermark {
    at: Option<Millis>,
    topic: String,
    partition: i32,
    cause: String,
}

/// A pipeline as it is now.
#[derive(Serialize)]
struct Pipeline {
    pipeline: String,
    version: u64,
    group: Group,
    workers: Vec<Worker>,
    partitions: Vec<Input>,
    watermark: Option<Watermark>,
    tables: Vec<Outbox>,
    dead_letters: Vec<Letters>,
    attention: Vec<Attention>,
}

#[derive(Serialize)]
struct Report {
    pipelines: Vec<Pipeline>,
}

pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let chosen = args.pipeline.as_deref().map(folders::name_of).transpose()?;
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-status", None, runtime.handle(), &Outages::default())?;
    if let Some(why) = services.brokers_away() {
        return Err(Problem::plain(why).with_code(UNREACHABLE).into());
    }
    let kafka = services.kafka.as_ref().ok_or_else(|| Problem::plain("no brokers to ask"))?;
    let names = match chosen {
        Some(name) => vec![name],
        None => deployed(kafka)?,
    };
    let mut report = Report { pipelines: Vec::new() };
    for name in names {
        report.pipelines.push(status(kafka, name, &config, args, runtime.handle())?);
    }
    match args.json {
        true => say!("{}", serde_json::to_string_pretty(&report).map_err(|e| Problem::plain(e.to_string()))?),
        false => show::show(&report.pipelines),
    }
    match report.pipelines.iter().all(|pipeline| pipeline.attention.is_empty()) {
        true => Ok(()),
        false => Err(Failure::Answer(3)),
    }
}

/// The pipelines that have a manifest.
fn deployed(kafka: &Kafka) -> Result<Vec<String>, Problem> {
    let name = |topic: String| Some(topic.strip_prefix("hw.")?.strip_suffix(".manifest")?.to_string());
    let topics = kafka.topics().map_err(|e| Problem::of_broker(&e))?;
    Ok(topics.into_iter().filter_map(name).filter(|name| headwater_engine::pipeline::can_name_a_pipeline(name)).collect())
}

fn status(kafka: &Kafka, pipeline: String, config: &Config, args: &StatusArgs, runtime: &Handle) -> Result<Pipeline, Problem> {
    let names = Names(pipeline.clone());
    let deployed = store::read(kafka, &names).map_err(|e| Problem::plain(e.to_string()))?;
    let Some(deployed) = deployed else {
        return Err(Problem::plain(format!(
            "the pipeline `{pipeline}` is not deployed here: there is no manifest in the topic `{}`",
            names.manifest()
        )));
    };
    let manifest = &deployed.manifest;
    let Cluster { group, inputs, outboxes, dead_letters } = cluster::ask(kafka, &names, manifest).map_err(|e| Problem::of_broker(&e))?;
    let (workers, silent) = workers::ask(&pipeline, &group, config, &args.workers, runtime);
    let mut inputs = inputs;
    // Where the group's assignment names other topics, the workers know.
    for input in inputs.iter_mut().filter(|input| input.owner.is_none()) {
        let reads = |worker: &&Worker| worker.partition(&input.topic, input.partition).is_some();
        input.owner = workers.iter().find(reads).and_then(|worker| Some(worker.name()?.to_string()));
    }
    let mut status = Pipeline {
        pipeline,
        version: manifest.version,
        watermark: lowest(&inputs, &workers),
        group,
        workers,
        partitions: inputs,
        tables: outboxes,
        dead_letters,
        attention: Vec::new(),
    };
    let refused = manifest::lost(kafka, &names, &deployed.manifest).map_err(|e| Problem::of_broker(&e))?;
    let gone = workers::gone(&status.group, &config.worker.state_dir.join(&status.pipeline));
    status.attention = attention::all(&status, &refused, (&silent, &gone));
    Ok(status)
}

/// The source partition with the lowest watermark, and why it is not higher. One that has none yet holds back everything.
fn lowest(inputs: &[Input], workers: &[Worker]) -> Option<Watermark> {
    let lowest = inputs.iter().filter(|input| input.source.is_some() && input.position.is_some()).min_by_key(|input| input.watermark)?;
    let said = |key: &str| {
        let mut own = workers.iter().filter_map(|worker| worker.partition(&lowest.topic, lowest.partition));
        own.find_map(|at| at[key].as_str().map(str::to_string))
    };
    let cause = said("held").or_else(|| said("waits")).unwrap_or_else(|| match lowest.lag {
        0 => "all of its records are read, and none came since".to_string(),
        lag => format!("{lag} records are not read yet"),
    });
    Some(Watermark { at: lowest.watermark, topic: lowest.topic.clone(), partition: lowest.partition, cause })
}
