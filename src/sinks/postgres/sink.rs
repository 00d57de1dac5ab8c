//! `postgres: schema.table` in a pipeline file.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::Schema;
use headwater_engine::delivery::Check;
use headwater_engine::delivery::Writing;
use headwater_engine::sinks::{Blocks, Incoming, SinkTable};
use headwater_formats::JsonEncoder;
use operator_core::diagnostic::did_you_mean;
use operator_core::{Diagnostic, Interval};
use schemars::JsonSchema;
use serde::Deserialize;

use super::config::PostgresConfig;
use super::created::{Created, tables_in};
use super::delivering;
use super::encode::{Encoder, Staging};
use super::native::{Column, column_type, columns_for, misfits};
use super::sql::{MAX_NAME, Table, create_positions};
use super::table::{Wanted, create_table};
use crate::check::Found;
use crate::diagnose::Problem;
use crate::sinks::{MakeStore, Place, Sink, Spec, Twin};

/// Rows into a PostgreSQL table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSink {
    /// Write to this PostgreSQL table (`schema.table`).
    postgres: String,
    /// What a row does to the table: `insert` if nothing is set. A stream of changes sets rows and takes them away by its key.
    #[serde(default)]
    mode: Option<Mode>,
    /// For `mode: upsert`: the columns that identify a row. The table needs a primary key or a unique index over exactly these.
    #[serde(default)]
    key: Option<Vec<String>>,
    /// Write a block at the latest after this long.
    #[serde(default = "crate::sinks::default_flush")]
    flush_interval: Interval,
    /// Rows per block at most.
    #[serde(default = "crate::sinks::default_block_rows")]
    block_rows: u32,
}

/// What a row does to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// It is added.
    Insert,
    /// It replaces the row with the same key, or is added.
    Upsert,
}

impl Spec for PostgresSink {
    const KIND: &'static str = "postgres";
    const TITLE: &'static str = "PostgreSQL";
    const EXAMPLE: &'static str = "public.orders";
    type Section = PostgresConfig;
}

impl PostgresSink {
    /// What it needs of its table.
    pub(super) fn wanted(&self, rows: &Incoming) -> Result<Wanted, String> {
        let (key, changes) = (self.key_of(rows).map(<[String]>::to_vec), rows.changes.is_some());
        Ok(Wanted { table: Table::parse(&self.postgres)?, rows: rows.columns.clone(), key, changes })
    }

    /// The columns that identify a row, if it may replace another one.
    fn key_of<'a>(&'a self, rows: &'a Incoming) -> Option<&'a [String]> {
        match (&rows.changes, self.mode) {
            (Some(key), _) => Some(key),
            (None, Some(Mode::Upsert)) => Some(self.key.as_deref().unwrap_or_default()),
            (None, Some(Mode::Insert) | None) => None,
        }
    }

    /// The file that creates the table, and what files create.
    pub(super) fn created(&self, files: &Path) -> Result<(Option<Created>, Vec<String>), String> {
        let mut tables = tables_in(files)?;
        Ok((tables.remove(&self.postgres), tables.into_keys().collect()))
    }

    /// Changes say by themselves what they do, and to which row.
    fn check_changes(&self, by: &[String], found: &mut Vec<Diagnostic>) {
        let wrong = |message: String| Diagnostic::error("changes-sink", message);
        let shown = by.join(", ");
        if self.mode == Some(Mode::Insert) {
            let problem = wrong("`mode: insert` adds every row, and the rows are changes, of which some take rows away".to_owned());
            found.push(problem.at(["mode"]).help(format!("remove `mode`: rows are set and deleted by {shown}")));
        }
        let same = |key: &Vec<String>| key.len() == by.len() && key.iter().all(|column| by.contains(column));
        if self.key.as_ref().is_some_and(|key| !same(key)) {
            let problem = wrong(format!("the rows are changes by {shown}, and `key` has other columns")).at(["key"]).key();
            found.push(problem.help("remove `key`"));
        }
    }

    fn check_key(&self, rows: &Schema, found: &mut Vec<Diagnostic>) {
        let wrong = |message: String| Diagnostic::error("postgres-key", message);
        match (self.mode.unwrap_or(Mode::Insert), &self.key) {
            (Mode::Insert, None) => {}
            (Mode::Insert, Some(_)) => {
                let problem = wrong("`key` identifies rows to be replaced, and `mode: insert` replaces none".to_owned());
                found.push(problem.at(["key"]).key().help("write `mode: upsert`, or remove `key`"));
            }
            (Mode::Upsert, None) => {
                let problem = wrong("`mode: upsert` needs the columns that identify a row".to_owned());
                found.push(problem.at(["mode"]).help("write `key: [order_id]`"));
            }
            (Mode::Upsert, Some(key)) if key.is_empty() => {
                found.push(wrong("`key` is empty".to_owned()).at(["key"]).key().help("write `key: [order_id]`"));
            }
            (Mode::Upsert, Some(key)) => {
                for (n, column) in key.iter().enumerate() {
                    let at = ["key".to_string(), n.to_string()];
                    if key.iter().take(n).any(|before| before == column) {
                        found.push(wrong(format!("`key` lists `{column}` twice")).at(at).help("remove one"));
                    } else if rows.field_with_name(column).is_err() {
                        let names = rows.fields().iter().map(|field| field.name().as_str());
                        let help = did_you_mean(column, names.clone());
                        let help = help.unwrap_or_else(|| format!("the columns are {}", names.collect::<Vec<_>>().join(", ")));
                        found.push(wrong(format!("`{column}` is not a column of the rows")).at(at).help(help));
                    }
                }
            }
        }
    }

    /// Columns that may be NULL where the table's take none: such rows become dead letters.
    fn unheld_nulls(&self, rows: &Incoming, columns: &[Column]) -> Vec<String> {
        let key = self.key_of(rows).unwrap_or_default();
        let required = |name: &String| key.contains(name) || columns.iter().any(|column| column.name == *name && column.required);
        rows.columns
            .fields()
            .iter()
            .filter(|field| field.is_nullable() && required(field.name()))
            .map(|field| field.name().clone())
            .collect()
    }
}

impl SinkTable for PostgresSink {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn name(&self) -> &str {
        &self.postgres
    }

    fn blocks(&self) -> Blocks {
        Blocks { flush: self.flush_interval.millis(), rows: self.block_rows }
    }

    fn check(&self, rows: &Incoming) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if let Err(why) = Table::parse(&self.postgres) {
            let help = format!("both parts consist of letters, digits and `_`, at most {MAX_NAME}: `public.orders`");
            found.push(Diagnostic::error("table-name", why).at([Self::KIND]).help(help));
        }
        match &rows.changes {
            Some(by) => self.check_changes(by, &mut found),
            None => self.check_key(&rows.columns, &mut found),
        }
        for field in rows.columns.fields() {
            let alone = Arc::new(Schema::new(vec![field.clone()]));
            let long = (field.name().len() > MAX_NAME).then(|| format!("its name has more than {MAX_NAME} bytes"));
            if let Some(why) = long.or(column_type(field.data_type()).err()).or(JsonEncoder::check(&alone).err()) {
                let problem = Diagnostic::error("postgres-type", format!("the column `{}` can't be written: {why}", field.name()));
                let help = "convert or rename the column in a `map` step, such as CAST(... AS VARCHAR), or leave it out";
                found.push(problem.at([Self::KIND]).help(help));
            }
        }
        found
    }
}

impl Sink for PostgresSink {
    fn guarantee(&self, rows: &Incoming, once: bool) -> String {
        match (once, self.key_of(rows)) {
            (true, _) => "exactly once: rows and the position in the outbox are committed in one transaction, under an epoch that fences earlier owners".to_owned(),
            (false, None) => "at least once: the outbox itself may contain rows twice (`guarantee: at_least_once`)".to_owned(),
            (false, Some(_)) => "effectively once: a row that is in the outbox twice replaces itself (`guarantee: at_least_once`)".to_owned(),
        }
    }

    fn facts(&self, rows: &Incoming) -> Vec<(&'static str, String)> {
        let mode = match (self.key_of(rows), &rows.changes) {
            (None, _) => "insert: every row is added".to_owned(),
            (Some(key), None) => format!("upsert: the last row of each {}", key.join(", ")),
            (Some(key), Some(_)) => format!("changes: rows are set and deleted by {}", key.join(", ")),
        };
        vec![("mode", mode)]
    }

    fn lint(&self, rows: &Incoming, _once: bool, files: &Path) -> Result<Vec<Diagnostic>, String> {
        let mut found = Vec::new();
        let (created, others) = self.created(files)?;
        let fields = || rows.columns.fields().iter();
        let columns = created.as_ref().map_or_else(|| columns_for(fields()), |created| created.columns.clone());
        for name in self.unheld_nulls(rows, &columns) {
            let message = format!("column `{name}` may be NULL, which the table does not accept: such rows become dead letters");
            let help =
                "replace NULL with `coalesce(x, ..)` in a `map` step, filter such rows out, or drop NOT NULL from the table's column";
            found.push(Diagnostic::warning("postgres-null", message).at([Self::KIND]).help(help));
        }
        let Some(created) = created else {
            let message = format!("no file creates the table `{}`, so its types can't be checked", self.postgres);
            let help = did_you_mean(&self.postgres, others.iter().map(String::as_str))
                .unwrap_or_else(|| "`hw ddl pipeline.yaml` prints CREATE TABLE: keep it in a file under schemas/postgres".to_string());
            found.push(Diagnostic::warning("unknown-postgres-table", message).at([Self::KIND]).help(help));
            return Ok(found);
        };
        for misfit in misfits(fields(), &created.columns) {
            let problem = Diagnostic::error("postgres-type", format!("rows don't fit the table in {}: {misfit}", created.file));
            let help = "change the table with ALTER TABLE and in the file, or convert the column in a `map` step";
            found.push(problem.at([Self::KIND]).help(help));
        }
        if let Some(key) = self.key_of(rows).filter(|key| !created.has_key(key)) {
            let list = key.join(", ");
            let message = format!("the table in {} has no primary key or unique constraint over exactly ({list})", created.file);
            let problem = Diagnostic::error("postgres-key", message).help(format!("add `PRIMARY KEY ({list})` to the table"));
            found.push(if self.key.is_some() { problem.at(["key"]).key() } else { problem.at([Self::KIND]) });
        }
        Ok(found)
    }

    fn ddl(&self, rows: &Incoming, order_by: &[String]) -> Result<String, String> {
        if !order_by.is_empty() {
            return Err("a PostgreSQL table has no sorting key (`--order-by`)".to_owned());
        }
        let wanted = self.wanted(rows)?;
        Ok(format!("{};\n\n{}", create_table(&wanted), create_positions(&wanted.table)))
    }

    fn fits(&self, rows: &Incoming, files: &Path) -> Result<Arc<Check>, String> {
        let fields = || rows.columns.fields().iter();
        let all = self.created(files)?.0.map_or_else(|| columns_for(fields()), |created| created.columns);
        let written = fields().filter_map(|field| all.iter().find(|column| column.name == *field.name()).cloned());
        let staging = if rows.changes.is_some() { Staging::Changes } else { Staging::None };
        let encoder = Encoder::new(&written.collect::<Vec<_>>(), self.key_of(rows).unwrap_or_default(), staging)?;
        Ok(Arc::new(move |rows| encoder.encode(rows).map(drop)))
    }

    fn twin(&self, rows: &Incoming) -> Twin {
        Twin::Positions(match (self.key_of(rows).map(<[String]>::to_vec), &rows.changes) {
            (None, _) => Writing::Insert,
            (Some(key), None) => Writing::Upsert(key),
            (Some(key), Some(_)) => Writing::Changes(key),
        })
    }

    fn prepare(&self, place: &Place<'_>) -> Result<MakeStore, Problem> {
        delivering::prepare(self, place)
    }

    fn dry_run(&self, place: &Place<'_>, _fresh: bool) -> Result<String, Found> {
        delivering::dry_run(self, place)
    }

    fn forget(&self, place: &Place<'_>, delete: bool) -> Result<Option<String>, String> {
        delivering::forget(self, place, delete)
    }
}
