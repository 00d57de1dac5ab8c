//! The command line. One file per command; all share exit codes: 0 done, 1 the work failed, 2 the pipeline, its
//! configuration or the command line is wrong.

mod clickhouse;
mod demo;
mod eval;
mod explain;
mod fmt;
mod lint;
mod local;
mod new;
mod operators;
mod run;
mod sample;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::builder::Styles;
use clap::{Args, Parser, Subcommand};

use crate::catalog::Folder;
use crate::config::Config;
use crate::diagnose::Problem;
use crate::prepare;
use crate::say;

/// Headings and names in help texts.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Declarative stream processing for Kafka: YAML pipelines, exactly once.
#[derive(Parser)]
#[command(name = "hw", version, about, styles = STYLES, after_help = "To begin:
  hw new big-orders && cd big-orders     a pipeline with its first case
  hw lint pipeline.yaml                  every mistake, before a record is read
  hw test pipeline.yaml                  its cases, through crashes and rebalances
  hw local up                            Kafka, a schema registry and ClickHouse on this machine
  hw run pipeline.yaml                   a worker; more workers are more of the same command

Exit codes: 0 done, 1 the work failed, 2 the pipeline, its configuration or the command line is wrong.")]
struct Hw {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline until it is told to stop (SIGTERM or Ctrl-C commit what is open first)
    Run(run::RunArgs),
    /// Begin a pipeline from a template, with its first case
    New(new::NewArgs),
    /// Find every mistake in pipelines and configurations, without reading a record
    Lint(lint::LintArgs),
    /// Tell more about the code of an error or warning
    ExplainError(explain::ExplainErrorArgs),
    /// Show what a pipeline will do: schemas, keys, time, repartitions, state, topics, guarantees
    Explain(explain::ExplainArgs),
    /// Draw a pipeline as SVG, DOT or Mermaid
    Graph(explain::GraphArgs),
    /// Show what steps can do: operators with keys, types, defaults, examples
    Operators(operators::OperatorsArgs),
    /// Format pipeline files: one layout, comments stay
    Fmt(fmt::FmtArgs),
    /// Try SQL on sample rows; without an expression, a prompt
    Eval(eval::EvalArgs),
    /// Print the JSON Schema of pipeline files, for editors
    Schema(SchemaArgs),
    /// Run a pipeline's cases: through crashes, rebalances and lost answers, without a broker
    Test(test::TestArgs),
    /// Take records of a real topic into a case, personal data masked
    Sample(sample::SampleArgs),
    /// See it all work: local services, generated orders, the shipped pipelines, live totals
    Demo(demo::DemoArgs),
    /// Generate a realistic e-commerce load
    Generate(GenerateArgs),
    /// Start, stop and look at local services without Docker: Kafka, schema registry, ClickHouse engine
    Local(local::LocalArgs),
    /// Tables for ClickHouse sinks
    Clickhouse(clickhouse::ClickhouseArgs),
}

/// Options of commands that need an environment.
#[derive(Args, Clone)]
pub struct Environment {
    /// Configuration of the environment; several are layers, later ones win. Without it config/local.yaml, or else what
    /// `hw local up` started here
    #[arg(long = "config", short = 'c')]
    pub configs: Vec<PathBuf>,
}

impl Environment {
    pub fn load(&self) -> Result<Config, Problem> {
        let usual = PathBuf::from("config/local.yaml");
        match self.configs.is_empty() {
            false => Config::load(&self.configs),
            true if usual.exists() => Config::load(&[usual]),
            true => Config::of_local(local::DIR),
        }
    }
}

/// The option of commands that take schemas from files.
#[derive(Args, Clone)]
pub struct Schemas {
    /// Where schemas are, by subject: `<subject>/v<n>.avsc`; CREATE TABLE statements are in `clickhouse/*.sql` there. Without
    /// it, the nearest folder `schemas` beside the pipeline or above
    #[arg(long = "schemas", value_name = "FOLDER")]
    pub given: Option<PathBuf>,
}

impl Schemas {
    /// The folder for a pipeline; where none was asked for, it need not be there.
    ///
    /// # Errors
    /// A folder that was asked for is not there.
    pub fn folder(&self, pipeline: &Path) -> Result<PathBuf, Problem> {
        if let Some(given) = &self.given {
            let missing = || Problem::plain(format!("--schemas: there is no folder {}", given.display()));
            return if given.is_dir() { Ok(given.clone()) } else { Err(missing()) };
        }
        let absolute = std::path::absolute(pipeline).unwrap_or_default();
        // Paths as they were written come first: reports name files by them.
        let near = pipeline.ancestors().skip(1).chain(absolute.ancestors().skip(1)).map(|dir| dir.join("schemas"));
        Ok(near.into_iter().find(|dir| dir.is_dir()).unwrap_or_else(|| "schemas".into()))
    }

    /// # Errors
    /// A folder that was asked for is not there, or one can't be read.
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

/// How a command ended badly.
pub enum Failure {
    /// Something the user wrote is wrong.
    Wrong(Vec<Problem>),
    /// The same, and it was said already.
    Said,
    /// The work failed.
    Failed(Problem),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure::Failed(problem)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let hw = Hw::parse();
    let result = match hw.command {
        Command::Run(args) => run::run(&args),
        Command::New(args) => new::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::ExplainError(args) => explain::explain_error(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Graph(args) => explain::draw(&args),
        Command::Operators(args) => operators::run(&args),
        Command::Fmt(args) => fmt::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Schema(args) => schema(&args),
        Command::Test(args) => test::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Generate(args) => generate(args),
        Command::Local(args) => local::run(&args),
        Command::Clickhouse(args) => clickhouse::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Wrong(problems)) => {
            prepare::print(&problems);
            ExitCode::from(2)
        }
        Err(Failure::Said) => ExitCode::from(2),
        Err(Failure::Failed(problem)) => {
            anstream::eprintln!("{}", problem.render());
            ExitCode::FAILURE
        }
    }
}

#[derive(Args)]
#[command(
    after_help = "With the YAML language server (VS Code, Neovim, Helix, ...), a first line in the pipeline makes the editor complete
keys, show their documentation and mark mistakes:

  hw schema --output pipeline.schema.json
  # yaml-language-server: $schema=pipeline.schema.json"
)]
struct SchemaArgs {
    /// Where to write it, instead of standard output
    #[arg(long, short)]
    output: Option<PathBuf>,
}

fn schema(args: &SchemaArgs) -> Result<(), Failure> {
    let schema = crate::json_schema::pipeline(&crate::registry::operators());
    let text = serde_json::to_string_pretty(&schema).map_err(|e| Problem::plain(e.to_string()))? + "\n";
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|e| Problem::plain(format!("{}: {e}", path.display())))?,
        None => say!("{}", text.trim_end()),
    }
    Ok(())
}

fn generate(args: GenerateArgs) -> Result<(), Failure> {
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let bootstrap = config.bootstrap().map_err(Problem::plain)?;
    let registry = config.schema_registry.as_ref().map(|r| r.url.as_str());
    headwater_generate::run(&args.load, bootstrap, registry).map_err(|e| Problem::plain(e.to_string()))?;
    Ok(())
}

/// The runtime for HTTP, the registry and ClickHouse; lanes have threads of their own.
pub fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| Problem::plain(e.to_string()))
}
