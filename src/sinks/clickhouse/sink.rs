//! `clickhouse: database.table` in a pipeline file.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::Schema;
use headwater_engine::delivery::Check;
use headwater_engine::sinks::{Blocks, Incoming, SinkTable, is_identifier};
use headwater_formats::JsonEncoder;
use operator_core::diagnostic::did_you_mean;
use operator_core::{Diagnostic, Interval};
use schemars::JsonSchema;
use serde::Deserialize;

use super::changes::{Applied, parts};
use super::columns::{column_type, columns_for, unheld_nulls};
use super::config::ClickHouseConfig;
use super::connection::Table;
use super::created::{Created, tables_in};
use super::ddl::{TableOptions, ddl};
use super::fit::Fit;
use super::{delivering, dry_run};
use crate::check::Found;
use crate::diagnose::Problem;
use crate::sinks::{MakeStore, Place, Sink, Spec, Twin};

/// Rows into a ClickHouse table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseSink {
    /// Write to this ClickHouse table (`database.table`).
    clickhouse: String,
    /// Insert a block at the latest after this long.
    #[serde(default = "crate::sinks::default_flush")]
    flush_interval: Interval,
    /// Rows per block at most.
    #[serde(default = "crate::sinks::default_block_rows")]
    block_rows: u32,
}

impl Spec for ClickHouseSink {
    const KIND: &'static str = "clickhouse";
    const TITLE: &'static str = "ClickHouse";
    const EXAMPLE: &'static str = "analytics.orders";
    type Section = ClickHouseConfig;
}

impl ClickHouseSink {
    pub(super) fn table(&self) -> Result<Table, String> {
        Table::parse(&self.clickhouse)
    }

    /// The file that creates the table, and what files create.
    pub(super) fn created(&self, files: &Path) -> Result<(Option<Created>, Vec<String>), String> {
        let mut tables = tables_in(files)?;
        Ok((tables.remove(&self.clickhouse), tables.into_keys().collect()))
    }
}

impl SinkTable for ClickHouseSink {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn name(&self) -> &str {
        &self.clickhouse
    }

    fn blocks(&self) -> Blocks {
        Blocks { flush: self.flush_interval.millis(), rows: self.block_rows }
    }

    /// Columns of types that ClickHouse doesn't have, or that could not be shown in a case.
    fn check(&self, rows: &Incoming) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let table = &self.clickhouse;
        if table.split('.').count() != 2 || table.split('.').any(|part| !is_identifier(part)) {
            let problem = Diagnostic::error("table-name", format!("`{table}` is not `database.table`")).at([Self::KIND]);
            found.push(problem.help("both parts consist of letters, digits and `_`: `analytics.orders`"));
        }
        for field in rows.columns.fields() {
            let alone = Arc::new(Schema::new(vec![field.clone()]));
            if let Some(why) = column_type(field).err().or(JsonEncoder::check(&alone).err()) {
                let problem = Diagnostic::error("clickhouse-type", format!("the column `{}` can't be written: {why}", field.name()));
                let help = "convert the column in a `map` step, such as CAST(... AS VARCHAR), or leave it out";
                found.push(problem.at([Self::KIND]).help(help));
            }
        }
        found
    }
}

impl Sink for ClickHouseSink {
    fn guarantee(&self, rows: &Incoming, once: bool) -> String {
        match once {
            true if rows.changes.is_some() => {
                "exactly once for readers with FINAL: in a ReplacingMergeTree(version, is_deleted) a repeated row has the same version; a CollapsingMergeTree(sign) must deduplicate inserts (checked at the start)"
            }
            true => {
                "exactly once if the table deduplicates inserts (non_replicated_deduplication_window > 0; checked at the start): a block is identified by its positions in the outbox, so a repeated one is recognised"
            }
            false => "at least once: the outbox itself may contain rows twice (`guarantee: at_least_once`)",
        }
        .to_string()
    }

    fn facts(&self, rows: &Incoming) -> Vec<(&'static str, String)> {
        let by = |key: &Vec<String>| {
            format!("set and deleted by {}: as versions or with signs, as the engine of the table has it", key.join(", "))
        };
        rows.changes.iter().map(|key| ("changes", by(key))).collect()
    }

    /// Rows that don't fit the table, and a table that nothing creates.
    fn lint(&self, rows: &Incoming, once: bool, files: &Path) -> Result<Vec<Diagnostic>, String> {
        let mut found = Vec::new();
        let (created, others) = self.created(files)?;
        let columns = created.as_ref().map_or_else(|| columns_for(&rows.columns), |created| created.columns.clone());
        for null in unheld_nulls(&rows.columns, &columns) {
            let problem = Diagnostic::warning("clickhouse-null", format!("{null}: such rows become dead letters")).at([Self::KIND]);
            found.push(problem.help("replace NULL with `coalesce(x, ..)` in a `map` step, or make the table's column Nullable"));
        }
        let Some(created) = created else {
            let message = format!("no file creates the table `{}`, so its types can't be checked", self.clickhouse);
            let help = did_you_mean(&self.clickhouse, others.iter().map(String::as_str))
                .unwrap_or_else(|| "`hw ddl pipeline.yaml` prints CREATE TABLE: keep it in a file under schemas/clickhouse".to_string());
            found.push(Diagnostic::warning("unknown-clickhouse-table", message).at([Self::KIND]).help(help));
            return Ok(found);
        };
        if once && !created.remembers {
            let message =
                format!("the table in {} does not deduplicate inserts: one whose reply is lost would be stored twice", created.file);
            let problem = Diagnostic::warning("clickhouse-guarantee", message).at([Self::KIND]);
            found.push(problem.help("ENGINE = MergeTree .. SETTINGS non_replicated_deduplication_window = 10000, or a replicated engine"));
        }
        for why in created.takes_no_changes(rows) {
            let problem = Diagnostic::error("changes-sink", format!("the table in {} can't take changes: {why}", created.file));
            let help = "create another table: `hw ddl` prints one that fits. ALTER TABLE changes no engine and no key";
            found.push(problem.at([Self::KIND]).help(help));
        }
        for misfit in created.misfits(rows) {
            let problem = Diagnostic::error("clickhouse-type", format!("rows don't fit the table in {}: {misfit}", created.file));
            let help = "change the table with ALTER TABLE and in the file, or convert the column in a `map` step";
            found.push(problem.at([Self::KIND]).help(help));
        }
        Ok(found)
    }

    fn ddl(&self, rows: &Incoming, order_by: &[String]) -> Result<String, String> {
        ddl(&self.table()?, rows, &TableOptions { order_by: order_by.to_vec(), ..TableOptions::default() })
    }

    fn fits(&self, rows: &Incoming, files: &Path) -> Result<Arc<Check>, String> {
        let created = self.created(files)?.0;
        let columns = created.as_ref().map_or_else(|| columns_for(&rows.columns), |created| created.columns.clone());
        let applied = rows.changes.as_ref().and_then(|key| match &created {
            Some(created) => Applied::of(key, &created.layout),
            None => Some(Applied::made(key)),
        });
        let fit = Fit::new(&columns);
        Ok(Arc::new(move |rows| parts(rows, &fit, applied.as_ref()).map(drop)))
    }

    fn twin(&self, rows: &Incoming) -> Twin {
        Twin::Tokens(rows.changes.clone())
    }

    fn prepare(&self, place: &Place<'_>) -> Result<MakeStore, Problem> {
        delivering::prepare(self, place)
    }

    fn dry_run(&self, place: &Place<'_>, fresh: bool) -> Result<String, Found> {
        dry_run::check(self, place, fresh)
    }
}
