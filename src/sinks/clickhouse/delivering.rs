//! Delivery into a table of ClickHouse: the table is created if the configuration says so, then it must pass the gate.

use headwater_engine::delivery::Store;
use headwater_engine::sinks::Incoming;
use headwater_engine::worker::Stop;

use super::config::ClickHouseConfig;
use super::connection::{Config, Connection, Secret, Table};
use super::created::Created;
use super::ddl::{TableOptions, ensure_table, run_file};
use super::failure::ClickHouseError;
use super::guarantee::{Guarantee, Inspection, inspect};
use super::sink::ClickHouseSink;
use super::target::ClickHouse;
use crate::diagnose::Problem;
use crate::sinks::{MakeStore, NoStore, Place, Spec, stopped};

/// Delivery of a sink. What the table can promise is looked at when the delivery runs.
pub(super) fn prepare(sink: &ClickHouseSink, place: &Place<'_>) -> Result<MakeStore, Problem> {
    let name = &place.output.name;
    let config = settings(place).map_err(Problem::plain)?;
    let admission = Admission {
        sink: name.clone(),
        connection: connect(config)?.reporting(place.outages.service(ClickHouseSink::KIND, ClickHouseSink::TITLE, name)),
        table: sink.table().map_err(|e| Problem::plain(format!("sink `{name}`: {e}")))?,
        rows: place.outbox.rows.clone(),
        create: create(sink, config, place).map_err(Problem::plain)?,
        wanted: wanted(config),
    };
    let runtime = place.runtime.clone();
    Ok(Box::new(move |stop: &Stop| {
        let inspection = runtime.block_on(async {
            tokio::select! {
                passed = admission.pass() => passed,
                () = stopped(stop) => Err(NoStore::NotNow("the worker stops".to_string())),
            }
        })?;
        Ok(Store::Tokens(Box::new(ClickHouse::new(admission.connection.clone(), &inspection, runtime.clone()))))
    }))
}

/// The environment's ClickHouse.
pub(super) fn settings<'a>(place: &Place<'a>) -> Result<&'a ClickHouseConfig, String> {
    let missing = || format!("sink `{}` needs ClickHouse: set `clickhouse.url` in the configuration", place.output.name);
    place.config.store().ok_or_else(missing)
}

/// The guarantee that the configuration asks for.
pub(super) fn wanted(config: &ClickHouseConfig) -> Guarantee {
    if config.allow_weaker_guarantee { Guarantee::AtLeastOnce } else { Guarantee::ExactlyOnce }
}

/// A connection to the environment's ClickHouse.
pub fn connect(config: &ClickHouseConfig) -> Result<Connection, Problem> {
    let password = config.password.as_ref().map(|p| p.reveal()).transpose().map_err(Problem::plain)?;
    let tls = config.tls.read().map_err(|(key, why)| Problem::plain(format!("`clickhouse.tls.{key}`: {why}")))?;
    let settings = Config { user: config.user.clone(), password: password.map(Secret::new), tls, ..Config::new(config.url.clone()) };
    Connection::new(settings).map_err(|e| Problem::plain(e.to_string()))
}

/// Exceptions that retrying can't resolve: syntax, unknown database, unknown table, no rights, wrong password.
const FINAL: [i32; 6] = [62, 60, 81, 192, 497, 516];

/// Whether a sink waits until this is over, instead of stopping.
pub(super) fn passes(e: &ClickHouseError) -> bool {
    match e {
        ClickHouseError::Unexpected(_) => false,
        ClickHouseError::Exception { code, .. } => !FINAL.contains(code),
        _ => true,
    }
}

/// What is done before the check about a table that may be missing.
enum Create {
    Never,
    /// A table made for the rows of the sink.
    ForRows,
    /// Whatever the file creates that creates this table.
    ByFile(Created),
}

fn create(sink: &ClickHouseSink, config: &ClickHouseConfig, place: &Place<'_>) -> Result<Create, String> {
    if !config.create_tables {
        return Ok(Create::Never);
    }
    let created = place.created(ClickHouseSink::KIND, |files| Ok(sink.created(files)?.0))?;
    Ok(created.map_or(Create::ForRows, Create::ByFile))
}

/// The check that a table must pass before rows are delivered to it.
struct Admission {
    sink: String,
    connection: Connection,
    table: Table,
    rows: Incoming,
    /// Creates what is missing: by the file, or else for the rows.
    create: Create,
    wanted: Guarantee,
}

impl Admission {
    async fn pass(&self) -> Result<Inspection, NoStore> {
        let failed = |e: ClickHouseError| if passes(&e) { NoStore::NotNow(e.to_string()) } else { NoStore::Refused(e.to_string()) };
        match &self.create {
            Create::ByFile(file) => run_file(&self.connection, file).await.map_err(failed)?,
            Create::ForRows => ensure_table(&self.connection, &self.table, &self.rows, &TableOptions::default()).await.map_err(failed)?,
            Create::Never => {}
        }
        let inspection = inspect(&self.connection, &self.table, &self.rows).await.map_err(failed)?;
        inspection.require(self.wanted).map_err(failed)?;
        let Inspection { version, guarantee, reasons, .. } = &inspection;
        tracing::info!(sink = %self.sink, table = %self.table, %version, %guarantee, ?reasons, "the table was checked");
        Ok(inspection)
    }
}
