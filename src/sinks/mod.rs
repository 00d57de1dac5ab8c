//! The seam of sinks that write to tables: what the folder of a store implements. Lint, `explain`, graphs, cases, the dry run, metrics
//! and the worker know this seam, never the store; `src/registry.rs` has the list.
//!
//! A store delivers by one of two protocols ([`delivery::Store`]): it recognises repeated inserts (ClickHouse), or it keeps the position
//! beside the rows in one transaction (PostgreSQL). Either way the rows come from the sink's outbox topic.

pub mod clickhouse;
pub mod postgres;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::delivery::{self, Check, Writing};
use headwater_engine::plan::{OutboxSink, Output, Plan};
use headwater_engine::sinks::{Blocks, Incoming, SinkKind, SinkTable, keys_of, read_as};
use headwater_engine::worker::Stop;
use operator_core::{Diagnostic, Interval};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::check::Found;
use crate::config::{Config, SectionKind, SectionSpec};
use crate::diagnose::Problem;
use crate::observe::outages::Outages;

/// A sink that writes to a table, configured.
pub trait Sink: SinkTable {
    /// What a reader of the table may rely on, for `hw explain`. `once`: every row is in the outbox once.
    fn guarantee(&self, rows: &Incoming, once: bool) -> String;

    /// What the sink does with rows besides cutting blocks, for `hw explain`.
    fn facts(&self, rows: &Incoming) -> Vec<(&'static str, String)>;

    /// Findings from the statements in `files`, the folder of the store. `once`: the pipeline asks for exactly once. Paths are
    /// relative to the sink.
    ///
    /// # Errors
    /// A file can't be read.
    fn lint(&self, rows: &Incoming, once: bool, files: &Path) -> Result<Vec<Diagnostic>, String>;

    /// The statement that creates a table for the rows. `order_by`: a sorting key, where the store has such.
    ///
    /// # Errors
    /// The rows or the key don't fit.
    fn ddl(&self, rows: &Incoming, order_by: &[String]) -> Result<String, String>;

    /// Whether the columns take rows: as the statements in `files` create them, or else as they are created for the rows.
    ///
    /// # Errors
    /// A file can't be read.
    fn fits(&self, rows: &Incoming, files: &Path) -> Result<Arc<Check>, String>;

    /// A store in memory that delivers in the same way, for cases.
    fn twin(&self, rows: &Incoming) -> Twin;

    /// Prepares delivery. Nothing is asked of the store yet: one that does not answer holds up nothing but this sink.
    ///
    /// # Errors
    /// The configuration can't be used.
    fn prepare(&self, place: &Place<'_>) -> Result<MakeStore, Problem>;

    /// Whether delivery could begin, and what it promises. `fresh`: the sink has not delivered anything yet.
    ///
    /// # Errors
    /// It could not, or that is unknown.
    fn dry_run(&self, place: &Place<'_>, fresh: bool) -> Result<String, Found>;

    /// The positions that the store keeps for the sink, in words; with `delete` they are deleted. `None`: it keeps none.
    ///
    /// # Errors
    /// The store can't be asked.
    fn forget(&self, _place: &Place<'_>, _delete: bool) -> Result<Option<String>, String> {
        Ok(None)
    }
}

/// What a table in memory is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Twin {
    /// It recognises repeated inserts by tokens. The columns: it takes changes by these.
    Tokens(Option<Vec<String>>),
    /// It keeps positions beside the rows.
    Positions(Writing),
}

/// Where a sink is in its pipeline and its environment.
pub struct Place<'a> {
    pub plan: &'a Plan,
    pub output: &'a Output,
    pub outbox: &'a OutboxSink,
    pub config: &'a Config,
    /// The folder of schemas, whose folder of the store has statements that create tables.
    pub schemas: Option<&'a Path>,
    pub runtime: &'a Handle,
    pub outages: &'a Outages,
}

impl Place<'_> {
    /// What the folder of the store `kind` has of `of`; nothing without a folder of schemas.
    ///
    /// # Errors
    /// Those of `of`.
    pub fn created<T>(&self, kind: &str, of: impl FnOnce(&Path) -> Result<Option<T>, String>) -> Result<Option<T>, String> {
        self.schemas.map_or(Ok(None), |schemas| of(&schemas.join(kind)))
    }
}

/// The `*.sql` files of a folder, which may be missing, by name, with their texts.
///
/// # Errors
/// A file can't be read.
pub fn sql_files(dir: &Path) -> Result<Vec<(String, String)>, String> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let at = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    let entries = std::fs::read_dir(dir).map_err(|e| at(dir, e))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "sql")).collect();
    paths.sort();
    let read = |path: std::path::PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path.display().to_string(), text)),
        Err(e) => Err(at(&path, e)),
    };
    paths.into_iter().map(read).collect()
}

/// `flush_interval` of a sink that does not set it.
pub fn default_flush() -> Interval {
    Interval(1_000)
}

/// `block_rows` of a sink that does not set it.
pub fn default_block_rows() -> u32 {
    100_000
}

/// Why there is no store to deliver to.
pub enum NoStore {
    /// It can't be reached, or is in trouble: it is tried again.
    NotNow(String),
    /// The table can't be written as the pipeline asks; retrying won't help.
    Refused(String),
}

/// Waits for a stop, so that a hung server does not delay it.
pub async fn stopped(stop: &Stop) {
    while !stop.is_stopped() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Opens a store for delivery, again after a failure. Does not outlive a stop.
pub type MakeStore = Box<dyn Fn(&Stop) -> Result<delivery::Store, NoStore> + Send>;

/// The entry of a sink in a pipeline file.
pub trait Spec: Sink + DeserializeOwned + JsonSchema {
    /// The key that names the table: `clickhouse`. Also the section of the configuration, and the folder under `schemas`.
    const KIND: &'static str;
    /// The store in words: `ClickHouse`.
    const TITLE: &'static str;
    /// A table's name.
    const EXAMPLE: &'static str;
    /// The section of the configuration.
    type Section: SectionSpec;
}

/// A store: its sinks, and its section of the configuration.
pub struct StoreKind {
    pub sink: SinkKind,
    pub section: SectionKind,
}

/// The store of the sinks that `S` describes.
pub fn kind<S: Spec>() -> StoreKind {
    let sink = SinkKind {
        name: S::KIND,
        title: S::TITLE,
        example: S::EXAMPLE,
        schema: |generator| generator.subschema_for::<S>(),
        keys: keys_of::<S>,
        read: |entry| read_as::<S>(entry, |spec| Arc::new(Held(Box::new(spec)))),
    };
    StoreKind { sink, section: SectionKind::of::<S::Section>(S::KIND) }
}

/// What the engine holds of a sink.
#[derive(Debug)]
struct Held(Box<dyn Sink>);

impl SinkTable for Held {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn blocks(&self) -> Blocks {
        self.0.blocks()
    }

    fn check(&self, rows: &Incoming) -> Vec<Diagnostic> {
        self.0.check(rows)
    }
}

/// The sink behind a table of a plan. Every table that was read by a kind of [`kind`] has one.
pub fn of<'a>(table: &'a (dyn SinkTable + 'static)) -> Option<&'a dyn Sink> {
    (table as &dyn Any).downcast_ref::<Held>().map(|held| held.0.as_ref())
}

/// The sinks of a plan that write to tables.
pub fn all(plan: &Plan) -> impl Iterator<Item = (&Output, &OutboxSink, &dyn Sink)> {
    plan.outboxes().filter_map(|(output, outbox)| Some((output, outbox, of(outbox.table.as_ref())?)))
}
