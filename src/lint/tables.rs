//! ClickHouse tables, as the statements in `schemas/clickhouse/*.sql` create them.

use headwater_engine::pipeline::Guarantee;
use headwater_engine::plan::{Plan, Target};
use operator_core::Diagnostic;
use operator_core::diagnostic::did_you_mean;

use crate::catalog::Folder;
use crate::clickhouse::{columns_for, misfits, unheld_nulls};
use crate::deliver::rows_of;

/// Sinks whose rows don't fit their tables, and tables that nothing creates.
pub fn check(plan: &Plan, folder: &Folder) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for output in plan.stages.iter().flat_map(|stage| &stage.outputs) {
        let Target::Outbox { table, .. } = &output.target else { continue };
        let at = ["sinks", &output.name, "clickhouse"];
        let rows = rows_of(output);
        let created = folder.tables.get(table);
        let columns = created.map_or_else(|| columns_for(&rows), |created| created.columns.clone());
        for null in unheld_nulls(&rows, &columns) {
            let problem = Diagnostic::warning("clickhouse-null", format!("{null}: such rows become dead letters"));
            found.push(problem.at(at).help("replace NULL with `coalesce(x, ..)` in a `map` step, or make the table's column Nullable"));
        }
        let Some(created) = created else {
            let problem = Diagnostic::warning(
                "unknown-clickhouse-table",
                format!("no file creates the table `{table}`, so its types can't be checked"),
            );
            let help = did_you_mean(table, folder.tables.keys().map(String::as_str)).unwrap_or_else(|| {
                "`hw clickhouse ddl pipeline.yaml` prints CREATE TABLE: keep it in a file under schemas/clickhouse".to_string()
            });
            found.push(problem.at(at).help(help));
            continue;
        };
        if plan.guarantee == Guarantee::ExactlyOnce && !created.remembers {
            let message =
                format!("the table in {} does not deduplicate inserts: one whose reply is lost would be stored twice", created.file);
            let problem = Diagnostic::warning("clickhouse-guarantee", message).at(at);
            found.push(problem.help("ENGINE = MergeTree .. SETTINGS non_replicated_deduplication_window = 10000, or a replicated engine"));
        }
        for misfit in misfits(&created.table, &rows, &created.columns) {
            let problem = Diagnostic::error("clickhouse-type", format!("rows don't fit the table in {}: {misfit}", created.file));
            found.push(problem.at(at).help("change the table with ALTER TABLE and in the file, or convert the column in a `map` step"));
        }
    }
    found
}
