//! `hw clickhouse`: tables for sinks.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use headwater_engine::plan::Target;

use super::{Failure, Schemas};
use crate::clickhouse::{Table, TableOptions, ddl};
use crate::deliver::rows_of;
use crate::diagnose::Problem;
use crate::prepare;
use crate::say;

#[derive(Args)]
pub struct ClickhouseArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print CREATE TABLE statements for the ClickHouse sinks of a pipeline, with deduplication enabled
    Ddl {
        /// The pipeline file
        pipeline: PathBuf,
        /// Only this sink
        #[arg(long)]
        sink: Option<String>,
        #[command(flatten)]
        schemas: Schemas,
        /// Sorting key: columns of the table
        #[arg(long, value_delimiter = ',')]
        order_by: Vec<String>,
    },
}

pub fn run(args: &ClickhouseArgs) -> Result<(), Failure> {
    let Command::Ddl { pipeline, sink, schemas, order_by } = &args.command;
    let loaded = prepare::load(pipeline).map_err(Failure::Wrong)?;
    let (plan, _) = prepare::make_plan(&loaded, &schemas.read(pipeline)?).map_err(Failure::Wrong)?;
    let mut found = false;
    for output in plan.stages.iter().flat_map(|s| &s.outputs) {
        let Target::Outbox { table, .. } = &output.target else { continue };
        if sink.as_ref().is_some_and(|s| *s != output.name) {
            continue;
        }
        found = true;
        let table = Table::parse(table).map_err(Problem::plain)?;
        let options = TableOptions { order_by: order_by.clone(), ..TableOptions::default() };
        say!("{};\n", ddl(&table, &rows_of(output), &options).map_err(|e| Problem::plain(format!("sink `{}`: {e}", output.name)))?);
    }
    match found {
        true => Ok(()),
        false => Err(Failure::Wrong(vec![Problem::plain("the pipeline has no such ClickHouse sink")])),
    }
}
