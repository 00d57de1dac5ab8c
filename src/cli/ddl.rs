//! `hw ddl`: tables for sinks.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Schemas, folders};
use crate::diagnose::Problem;
use crate::pipeline_files;
use crate::say;
use crate::sinks;

#[derive(Args)]
#[command(after_help = "Examples:
  hw ddl pipeline.yaml --sink orders_table > schemas/clickhouse/orders.sql
  hw ddl pipeline.yaml --sink orders_table --order-by customer_id,order_id")]
pub struct DdlArgs {
    /// The pipeline file, or a folder with one pipeline in it
    pipeline: PathBuf,
    /// Only this sink
    #[arg(long)]
    sink: Option<String>,
    #[command(flatten)]
    schemas: Schemas,
    /// Sorting key of a ClickHouse table: columns of the table
    #[arg(long, value_delimiter = ',')]
    order_by: Vec<String>,
}

pub fn run(args: &DdlArgs) -> Result<(), Failure> {
    let pipeline = folders::only(&args.pipeline)?;
    let loaded = pipeline_files::load(&pipeline).map_err(Failure::Wrong)?;
    let (plan, _) = pipeline_files::make_plan(&loaded, &args.schemas.read(&pipeline)?).map_err(Failure::Wrong)?;
    let (mut found, mut wrong) = (false, Vec::new());
    for (output, outbox, sink) in sinks::all(&plan).filter(|(output, ..)| args.sink.as_ref().is_none_or(|name| *name == output.name)) {
        found = true;
        match sink.ddl(&outbox.rows, &args.order_by) {
            Ok(statement) => say!("{statement};\n"),
            Err(e) => wrong.push(Problem::plain(format!("sink `{}`: {e}", output.name))),
        }
    }
    match found {
        true if wrong.is_empty() => Ok(()),
        true => Err(Failure::Wrong(wrong)),
        false => Err(Failure::Wrong(vec![Problem::plain("the pipeline has no such sink that writes to a table")])),
    }
}
