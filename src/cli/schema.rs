//! `hw schema`: the JSON Schema of pipeline files, and the Avro schemas that a pipeline's sinks write with.

use std::path::{Path, PathBuf};

use clap::Args;
use headwater_engine::plan::Target;
use operator_core::diagnostic::names;

use super::{Failure, Schemas};
use crate::diagnose::Problem;
use crate::pipeline_files;
use crate::say;

#[derive(Args)]
#[command(after_help = "Editors with the YAML language server (VS Code, Neovim, Helix, ...) use the schema for completion, \
documentation and error marks. Write it to a file, and name the file on the first line of the pipeline:

  hw schema --output pipeline.schema.json
  # yaml-language-server: $schema=pipeline.schema.json

The Avro schema of a sink is that of the folder `schemas`, or else the one that the worker registers:

  hw schema --sink revenue_topic pipeline.yaml")]
pub struct SchemaArgs {
    /// Print the Avro schema of this sink instead
    #[arg(long, requires = "pipeline")]
    sink: Option<String>,
    /// The pipeline file of the sink
    #[arg(requires = "sink")]
    pipeline: Option<PathBuf>,
    #[command(flatten)]
    schemas: Schemas,
    /// Output file [default: standard output]
    #[arg(long, short)]
    output: Option<PathBuf>,
}

pub fn run(args: &SchemaArgs) -> Result<(), Failure> {
    let schema = match (&args.sink, &args.pipeline) {
        (Some(sink), Some(pipeline)) => of_sink(args, sink, pipeline)?,
        _ => crate::authoring::json_schema::pipeline(&crate::registry::operators(), &crate::registry::sinks()),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(|e| Problem::plain(e.to_string()))? + "\n";
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|e| Problem::plain(format!("{}: {e}", path.display())))?,
        None => say!("{}", text.trim_end()),
    }
    Ok(())
}

fn of_sink(args: &SchemaArgs, sink: &str, pipeline: &Path) -> Result<serde_json::Value, Failure> {
    let loaded = pipeline_files::load(pipeline).map_err(Failure::Wrong)?;
    let (plan, _) = pipeline_files::make_plan(&loaded, &args.schemas.read(pipeline)?).map_err(Failure::Wrong)?;
    let written = plan.stages.iter().flat_map(|stage| &stage.outputs).filter_map(|output| match &output.target {
        Target::Topic(topic) => Some((output.name.as_str(), topic.layout.registered.as_deref()?)),
        _ => None,
    });
    let written: Vec<(&str, &str)> = written.collect();
    match written.iter().find(|(name, _)| *name == sink) {
        Some((_, text)) => Ok(serde_json::from_str(text).map_err(|e| Problem::plain(format!("the schema of `{sink}` is not JSON: {e}")))?),
        None => {
            let problem = Problem::plain(format!("the pipeline has no Avro sink `{sink}`"));
            let help = format!("sinks with `format: avro`: {}", names(written.iter().map(|(name, _)| *name)));
            Err(Failure::Wrong(vec![problem.with_help(Some(help))]))
        }
    }
}
