//! `hw new`: a pipeline from a template, its first case, and the schema for the editor.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use headwater_engine::pipeline::can_name_a_pipeline;

use super::Failure;
use crate::authoring::json_schema;
use crate::diagnose::Problem;
use crate::registry;
use crate::say;
use crate::style::{dim, good, name};

#[derive(Args)]
#[command(after_help = "Examples:
  hw new big-orders
  hw new revenue --template window
  cd revenue && hw lint pipeline.yaml && hw test pipeline.yaml")]
pub struct NewArgs {
    /// Name of the pipeline and of its folder
    name: String,
    /// Template to start from
    #[arg(long, short, value_enum, default_value_t = Template::Filter)]
    template: Template,
}

/// Templates of pipelines.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// Filter rows, choose columns, write a topic
    Filter,
    /// Sum per key and minute of event time; late rows go to their own topic
    Window,
    /// Add columns of a table (a compacted topic)
    Enrich,
    /// Route rows to several topics
    FanOut,
    /// Write rows to a ClickHouse table
    Clickhouse,
    /// Decide commands against state by key: event sourcing
    Aggregate,
    /// Carry out a business transaction step by step, or take it back
    Saga,
}

/// A file of a template: where, and what. `NAME` stands for the pipeline's name in both.
type File = (&'static str, &'static str);

macro_rules! files {
    ($template:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../authoring/templates/", $template, "/", $path)))),+]
    };
}

impl Template {
    fn files(self) -> &'static [File] {
        match self {
            Template::Filter => files!("filter": "pipeline.yaml", "cases/only_big_and_paid/why.txt",
                "cases/only_big_and_paid/in.business.orders.created.jsonl",
                "cases/only_big_and_paid/out.analytics.orders.big.jsonl",
                "cases/only_big_and_paid/out.business.orders.created.dlq.jsonl"),
            Template::Window => files!("window": "pipeline.yaml", "cases/two_minutes/why.txt",
                "cases/two_minutes/in.business.orders.created.jsonl",
                "cases/two_minutes/out.analytics.orders.revenue-per-minute.jsonl",
                "cases/two_minutes/out.analytics.orders.too-late.jsonl"),
            Template::Enrich => files!("enrich": "pipeline.yaml", "cases/known_and_unknown/why.txt",
                "cases/known_and_unknown/in.business.users.customers.jsonl",
                "cases/known_and_unknown/in.business.orders.created.jsonl",
                "cases/known_and_unknown/out.analytics.orders.with-customer.jsonl",
                "cases/known_and_unknown/out.business.orders.created.dlq.jsonl"),
            Template::FanOut => files!("fan-out": "pipeline.yaml", "cases/one_order_each/why.txt",
                "cases/one_order_each/in.business.orders.created.jsonl",
                "cases/one_order_each/out.analytics.orders.big.jsonl",
                "cases/one_order_each/out.analytics.orders.foreign.jsonl",
                "cases/one_order_each/out.analytics.orders.other.jsonl"),
            Template::Clickhouse => files!("clickhouse": "pipeline.yaml", "schemas/clickhouse/NAME.sql",
                "cases/a_row_each/why.txt", "cases/a_row_each/in.business.orders.created.jsonl",
                "cases/a_row_each/table.analytics.orders.jsonl"),
            Template::Aggregate => files!("aggregate": "pipeline.yaml", "cases/earned_and_redeemed/why.txt",
                "cases/earned_and_redeemed/in.commands.points.jsonl",
                "cases/earned_and_redeemed/out.business.points.events.jsonl",
                "cases/earned_and_redeemed/out.business.points.replies.jsonl",
                "cases/earned_and_redeemed/out.business.points.rejections.jsonl",
                "cases/earned_and_redeemed/out.analytics.points.balances.jsonl"),
            Template::Saga => files!("saga": "pipeline.yaml", "cases/booked_and_declined/why.txt",
                "cases/booked_and_declined/in.jsonl",
                "cases/booked_and_declined/out.commands.hotels.jsonl",
                "cases/booked_and_declined/out.commands.payments.jsonl",
                "cases/booked_and_declined/out.business.trips.ended.jsonl",
                "cases/booked_and_declined/out.analytics.trips.status.jsonl"),
        }
    }
}

pub fn run(args: &NewArgs) -> Result<(), Failure> {
    let dir = PathBuf::from(&args.name);
    let pipeline = dir.file_name().map_or_else(|| args.name.clone(), |n| n.to_string_lossy().into_owned());
    if !can_name_a_pipeline(&pipeline) {
        let problem = Problem::plain(format!("`{pipeline}` is not a valid pipeline name")).with_code("name");
        return Err(Failure::Wrong(vec![
            problem.with_help(Some("use at most 100 lower-case letters, digits and dashes, no dash first".into())),
        ]));
    }
    if dir.exists() {
        return Err(Failure::Wrong(vec![Problem::plain(format!("{} exists already", dir.display()))]));
    }
    write(&dir, &pipeline, args.template)?;
    say!("{} {}\n", good("created"), name(&dir.display().to_string()));
    say!("  cd {}", dir.display());
    say!("  hw lint pipeline.yaml      {}", dim("check it"));
    say!("  hw test pipeline.yaml      {}", dim("test it under crashes and rebalances"));
    say!("  hw explain pipeline.yaml   {}", dim("what it will do"));
    Ok(())
}

fn write(dir: &Path, pipeline: &str, template: Template) -> Result<(), Problem> {
    let schema = serde_json::to_string_pretty(&json_schema::pipeline(&registry::operators(), &registry::sinks()))
        .map_err(|e| Problem::plain(e.to_string()))?;
    let files = template.files().iter().map(|(path, text)| (path.replace("NAME", pipeline), text.replace("NAME", pipeline)));
    for (path, text) in files.chain([("pipeline.schema.json".to_string(), schema + "\n")]) {
        let path = dir.join(path);
        let fail = |e: std::io::Error| Problem::plain(format!("{}: {e}", path.display()));
        std::fs::create_dir_all(path.parent().unwrap_or(dir)).map_err(fail)?;
        std::fs::write(&path, text).map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::authoring::lint::{self, CONVENTION, Rules};
    use crate::cases::{self, Options};
    use crate::diagnose::Source;
    use crate::pipeline_files::catalog::Folder;

    use super::*;

    #[test]
    fn every_template_is_clean_and_its_case_passes_every_schedule() {
        let dir = tempfile::tempdir().unwrap();
        for template in Template::value_variants() {
            let name = template.to_possible_value().unwrap().get_name().to_string();
            let at = dir.path().join(&name);
            write(&at, &name, *template).unwrap();
            let (pipeline, schemas) = (at.join("pipeline.yaml"), at.join("schemas"));
            let folder = Folder::read(&schemas).unwrap();
            let found = lint::check(&pipeline, &Rules::new(&folder, CONVENTION).unwrap());
            assert!(found.is_empty(), "{name}: {:?}", found.iter().map(|p| &p.message).collect::<Vec<_>>());
            let source = Source::read(&pipeline).unwrap();
            assert_eq!(super::super::fmt::format(&source).unwrap(), *source.text, "{name} is not formatted");
            let suite = cases::suite(&pipeline, &Options { schemas, only: String::new(), schedule: None })
                .unwrap_or_else(|p| panic!("{}", p[0].message));
            let reports = cases::run(&[suite], false, &|| {});
            let failed: Vec<_> = reports.iter().filter_map(|r| r.failure.as_ref()).flat_map(|f| &f.differences).collect();
            assert!(reports.len() == 1 && failed.is_empty(), "{name}: {failed:#?}");
        }
    }
}
