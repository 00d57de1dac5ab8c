//! `hw explain` and `hw graph`: what a pipeline will do.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use headwater_engine::plan::Plan;
use operator_core::diagnostic::did_you_mean;

use super::{Failure, Schemas, folders, page, runtime};
use crate::authoring::codes;
use crate::authoring::explain;
use crate::authoring::graph;
use crate::config::Config;
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files::catalog::Live;
use crate::pipeline_files::{self, Loaded};
use crate::registry::sections;
use crate::say;
use crate::style;
use crate::worker::run;

/// A pipeline and what it is planned against.
#[derive(Args)]
pub struct Planned {
    /// The pipeline file, or a folder with one pipeline in it
    pub pipeline: PathBuf,
    #[command(flatten)]
    pub schemas: Schemas,
    /// Use the cluster and registry of this environment
    #[arg(long = "config", short = 'c')]
    pub configs: Vec<PathBuf>,
}

impl Planned {
    /// Plans the pipeline; warnings are printed.
    pub fn plan(&self) -> Result<(Loaded, Plan), Failure> {
        let pipeline = folders::only(&self.pipeline)?;
        let loaded = pipeline_files::load(&pipeline).map_err(Failure::Wrong)?;
        let (plan, warnings) = if self.configs.is_empty() {
            pipeline_files::make_plan(&loaded, &self.schemas.read(&pipeline)?).map_err(Failure::Wrong)?
        } else {
            let config = Config::load(&self.configs, &sections()).map_err(|p| Failure::Wrong(vec![p]))?;
            let runtime = runtime()?;
            let services = run::connect(&config, "hw-explain", None, runtime.handle(), &Outages::default())?;
            let catalog = Live::new(services.broker.clone(), services.subjects.clone());
            pipeline_files::make_plan(&loaded, &catalog).map_err(Failure::Wrong)?
        };
        pipeline_files::print(&warnings);
        Ok((loaded, plan))
    }
}

#[derive(Args)]
#[command(after_help = "Examples:
  hw explain pipelines/order-analytics/pipeline.yaml
  hw explain pipeline.yaml --config config/production.yaml   with its partitions
  hw explain pipeline.yaml --json | jq '.topics[].name'")]
pub struct ExplainArgs {
    #[command(flatten)]
    planned: Planned,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let (loaded, plan) = args.planned.plan()?;
    let explained = explain::explain(&plan, &loaded.pipeline, args.planned.configs.is_empty());
    match args.json {
        true => say!("{}", serde_json::to_string_pretty(&explained).map_err(|e| Problem::plain(e.to_string()))?),
        false => say!("{}", explain::render(&explained).trim_end()),
    }
    Ok(())
}

/// Languages of graphs.
#[derive(Clone, Copy, ValueEnum)]
enum Language {
    Svg,
    Dot,
    Mermaid,
}

#[derive(Args)]
#[command(after_help = "Examples:
  hw graph pipeline.yaml --output pipeline.svg
  hw graph pipeline.yaml --format mermaid     for Markdown pages
  hw graph pipeline.yaml --format dot | dot -Tpdf -o pipeline.pdf")]
pub struct GraphArgs {
    #[command(flatten)]
    planned: Planned,
    /// Format of the graph [default: by the output file's extension, or SVG]
    #[arg(long)]
    format: Option<Language>,
    /// Output file [default: standard output]
    #[arg(long, short)]
    output: Option<PathBuf>,
}

pub fn draw(args: &GraphArgs) -> Result<(), Failure> {
    let (_, plan) = args.planned.plan()?;
    let graph = graph::graph(&plan);
    let text = match args.format.map_or_else(|| by_name(args.output.as_deref()), Ok)? {
        Language::Svg => graph::svg(&graph),
        Language::Dot => graph::dot(&graph),
        Language::Mermaid => graph::mermaid(&graph),
    };
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|e| Problem::plain(format!("{}: {e}", path.display())))?,
        None => say!("{}", text.trim_end()),
    }
    Ok(())
}

/// The language of a file by its name.
fn by_name(file: Option<&Path>) -> Result<Language, Failure> {
    let Some(file) = file else { return Ok(Language::Svg) };
    match file.extension().unwrap_or_default().to_ascii_lowercase().to_str() {
        Some("svg") => Ok(Language::Svg),
        Some("dot" | "gv") => Ok(Language::Dot),
        Some("mmd" | "mermaid" | "md") => Ok(Language::Mermaid),
        _ => {
            let problem = Problem::plain(format!("{}: unknown extension for a graph", file.display()));
            Err(Failure::Wrong(vec![problem.with_help(Some("use .svg, .dot or .mmd, or set `--format`".into()))]))
        }
    }
}

#[derive(Args)]
pub struct ExplainErrorArgs {
    /// The code, such as `unknown-column`; lists all codes without it
    code: Option<String>,
}

pub fn explain_error(args: &ExplainErrorArgs) -> Result<(), Failure> {
    let Some(code) = &args.code else {
        codes::all().for_each(|(code, _)| say!("{code}"));
        return Ok(());
    };
    let Some(text) = codes::text(code) else {
        let help = did_you_mean(code, codes::all().map(|(code, _)| code));
        let problem = Problem::plain(format!("unknown code `{code}`; `hw explain-error` lists all"));
        return Err(Failure::Wrong(vec![problem.with_help(help)]));
    };
    say!("{}\n", style::strong(code));
    page::show(text);
    Ok(())
}
