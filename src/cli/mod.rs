//! The command line. A file or a folder per command; all share exit codes: 0 success, 1 failure, 2 the pipeline, its
//! configuration or the command line is invalid.

mod acknowledged;
mod ddl;
mod delete;
mod demo;
mod eval;
mod explain;
mod fmt;
mod folders;
mod history;
mod lint;
mod local;
mod new;
mod operators;
mod page;
mod plan;
mod replay;
mod reset;
mod run;
mod saga;
mod sample;
mod schema;
mod simulate;
mod status;
mod step;
mod stopped;
mod test;
mod topic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::builder::Styles;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use operator_core::Millis;

use crate::config::Config;
use crate::diagnose::Problem;
use crate::observe::logs;
use crate::pipeline_files;
use crate::pipeline_files::catalog::Folder;
use crate::registry::sections;

/// Headings and names in help texts.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Declarative stream processing for Kafka: YAML pipelines, exactly once.
#[derive(Parser)]
#[command(name = "hw", version, about, styles = STYLES, after_help = "Getting started:
  hw new big-orders && cd big-orders   create a pipeline and its first case
  hw lint pipeline.yaml                check it
  hw test pipeline.yaml                test it under crashes and rebalances
  hw local up                          start Kafka, a registry and ClickHouse
  hw run pipeline.yaml                 run a worker; repeat to add workers

Exit codes: 0 success, 1 failure, 2 the pipeline, its configuration or the command line is invalid.")]
struct Hw {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline until SIGTERM or Ctrl-C, which commits the open transaction first
    Run(run::RunArgs),
    /// Show what a start would change in what is deployed, and whether state and positions can follow
    Plan(plan::PlanArgs),
    /// List the versions of a pipeline that were deployed, and what each changed
    History(history::HistoryArgs),
    /// Show how deployed pipelines are doing: workers, lag, watermarks, and what needs attention
    Status(status::StatusArgs),
    /// Set the positions of a stopped pipeline, and remove the state that was made of the rows before
    Reset(reset::ResetArgs),
    /// Delete what a stopped pipeline has created: topics, groups, local state
    Delete(delete::DeleteArgs),
    /// Create a pipeline and its first case from a template
    New(new::NewArgs),
    /// Check pipelines and configurations without reading a record
    Lint(lint::LintArgs),
    /// Explain a diagnostic code
    ExplainError(explain::ExplainErrorArgs),
    /// Show what a pipeline will do: schemas, keys, event time, repartitions, state, topics, guarantees
    Explain(explain::ExplainArgs),
    /// Draw a pipeline as SVG, DOT or Mermaid
    Graph(explain::GraphArgs),
    /// Document the operators: keys, types, defaults, examples
    Operators(operators::OperatorsArgs),
    /// Format pipeline files; comments are kept
    Fmt(fmt::FmtArgs),
    /// Evaluate SQL on sample rows; opens a prompt without an expression
    Eval(eval::EvalArgs),
    /// Print the JSON Schema of pipeline files, for editors
    Schema(schema::SchemaArgs),
    /// Test a pipeline's cases under crashes, rebalances and lost replies, without a broker
    Test(test::TestArgs),
    /// Turn records of a real topic into a case, with personal data masked
    Sample(sample::SampleArgs),
    /// Make the state of an aggregate from its events again, and compare
    Replay(replay::ReplayArgs),
    /// Show sagas, and repair those that are stuck
    Saga(saga::SagaArgs),
    /// Run the demo: local services, generated orders, the shipped pipelines, live totals
    Demo(demo::DemoArgs),
    /// Generate a realistic e-commerce load
    Generate(GenerateArgs),
    /// Simulate what surrounds a domain: orders, users, and services that answer commands
    Simulate(simulate::SimulateArgs),
    /// Start and stop local services without Docker: Kafka, schema registry, ClickHouse engine
    Local(local::LocalArgs),
    /// Print CREATE TABLE statements for the sinks that write to tables
    Ddl(ddl::DdlArgs),
}

/// Options of commands that need an environment.
#[derive(Args, Clone)]
pub struct Environment {
    /// Configuration of the environment; several are merged, later ones win. Default: config/local.yaml, or else the
    /// services that `hw local up` started in this folder
    #[arg(long = "config", short = 'c')]
    pub configs: Vec<PathBuf>,
}

impl Environment {
    pub fn load(&self) -> Result<Config, Problem> {
        let usual = PathBuf::from("config/local.yaml");
        match self.configs.is_empty() {
            false => Config::load(&self.configs, &sections()),
            true if usual.exists() => Config::load(&[usual], &sections()),
            true => Config::at_local(local::DIR, &sections()),
        }
    }
}

/// The option of commands that take schemas from files.
#[derive(Args, Clone)]
pub struct Schemas {
    /// Folder of schemas (`<subject>/v<n>.avsc`) and of CREATE TABLE statements (`clickhouse/*.sql`, `postgres/*.sql`).
    /// Default: the nearest folder `schemas`, beside the pipeline or above it
    #[arg(long = "schemas", value_name = "FOLDER")]
    pub given: Option<PathBuf>,
}

impl Schemas {
    /// The folder for a pipeline. It must exist only if the option was given.
    ///
    /// # Errors
    /// The given folder does not exist.
    pub fn folder(&self, pipeline: &Path) -> Result<PathBuf, Problem> {
        if let Some(given) = &self.given {
            let missing = || Problem::plain(format!("--schemas: the folder {} does not exist", given.display()));
            return if given.is_dir() { Ok(given.clone()) } else { Err(missing()) };
        }
        let absolute = std::path::absolute(pipeline).unwrap_or_default();
        // Paths as given come first: reports name files by them.
        let near = pipeline.ancestors().skip(1).chain(absolute.ancestors().skip(1)).map(|dir| dir.join("schemas"));
        Ok(near.into_iter().find(|dir| dir.is_dir()).unwrap_or_else(|| "schemas".into()))
    }

    /// # Errors
    /// The given folder does not exist, or a folder can't be read.
    pub fn read(&self, pipeline: &Path) -> Result<Folder, Problem> {
        let folder = self.folder(pipeline)?;
        Folder::read(&folder).map_err(|e| Problem::plain(format!("{}: {e}", folder.display())))
    }
}

#[derive(Args)]
struct GenerateArgs {
    #[command(flatten)]
    environment: Environment,
    #[command(flatten)]
    load: headwater_generate::Args,
}

/// Why a command failed.
pub enum Failure {
    /// The user's input is wrong.
    Wrong(Vec<Problem>),
    /// The same, already printed.
    Said,
    /// The work failed.
    Failed(Problem),
    /// The same, already printed.
    FailedAsSaid,
    /// The answer is an exit code, as the help of the command says; all else is printed.
    Answer(u8),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure::Failed(problem)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let matches = Hw::command().term_width(crate::style::width()).try_get_matches().unwrap_or_else(|e| misplaced(&e));
    let hw = Hw::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let result = match hw.command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::History(args) => history::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Reset(args) => reset::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::New(args) => new::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::ExplainError(args) => explain::explain_error(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Graph(args) => explain::draw(&args),
        Command::Operators(args) => operators::run(&args),
        Command::Fmt(args) => fmt::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Saga(args) => saga::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Generate(args) => generate(args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Local(args) => local::run(&args),
        Command::Ddl(args) => ddl::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Wrong(problems)) => {
            pipeline_files::print(&problems);
            ExitCode::from(2)
        }
        Err(Failure::Said) => ExitCode::from(2),
        Err(Failure::Failed(problem)) => {
            logs::problems(std::slice::from_ref(&problem));
            if logs::for_people() {
                anstream::eprintln!("{}", problem.render());
            }
            ExitCode::FAILURE
        }
        Err(Failure::FailedAsSaid) => ExitCode::FAILURE,
        Err(Failure::Answer(code)) => ExitCode::from(code),
    }
}

/// Prints why the command line is wrong, and which commands have an option that is unknown where it was written.
fn misplaced(error: &clap::Error) -> ! {
    let option = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) => option.split('=').next(),
        _ => None,
    };
    let takers: Vec<String> = option.map_or_else(Vec::new, |option| taking(&Hw::command(), option));
    if takers.is_empty() {
        error.exit();
    }
    let _ = error.print();
    anstream::eprintln!("\n`{}` is an option of {}, and goes after the command", option.unwrap_or_default(), takers.join(", "));
    std::process::exit(error.exit_code());
}

/// The commands with this option, each with its own name and those of the commands above it.
fn taking(command: &clap::Command, option: &str) -> Vec<String> {
    let is = |arg: &clap::Arg| {
        arg.get_long().is_some_and(|long| option == format!("--{long}"))
            || arg.get_short().is_some_and(|short| option == format!("-{short}"))
    };
    let mut takers: Vec<String> = command.get_arguments().any(is).then(|| command.get_name().to_string()).into_iter().collect();
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        takers.extend(taking(inner, option).into_iter().map(|name| format!("{} {name}", command.get_name())));
    }
    takers
}

fn generate(args: GenerateArgs) -> Result<(), Failure> {
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let bootstrap = config.bootstrap().map_err(Problem::plain)?;
    let registry = config.schema_registry.as_ref().map(|r| r.url.as_str());
    headwater_generate::run(&args.load, bootstrap, registry).map_err(|e| Problem::plain(e.to_string()))?;
    Ok(())
}

/// A point in time, in UTC.
fn time(at: Millis) -> String {
    chrono::DateTime::from_timestamp_millis(at).map_or_else(|| at.to_string(), |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// The runtime for HTTP, the registry and ClickHouse; lanes have their own threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| Problem::plain(e.to_string()))
}
