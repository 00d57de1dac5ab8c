//! ClickHouse sinks of a running pipeline: for each a thread that checks its table, then carries rows over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::Schema;
use headwater_engine::broker::{Broker, Failure, SystemClock};
use headwater_engine::delivery::{self, Counters, Delivery, DeliveryError, Limits, Settings};
use headwater_engine::plan::{Output, Target};
use headwater_engine::worker::Stop;
use operator_core::batch::user_fields;

use crate::clickhouse::{
    ClickHouse, ClickHouseError, Config, Connection, Created, Guarantee, Inspection, Secret, Table, TableOptions, ensure_table, inspect,
    run_file,
};
use crate::config::ClickHouseConfig;
use crate::diagnose::Problem;
use crate::run::Prepared;

/// Pauses between restarts of a delivery: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// A delivery that ran this long without failure starts again after the shortest pause.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Everything to deliver one sink, again after a failure if need be.
pub struct Delivering {
    sink: String,
    broker: Arc<dyn Broker>,
    /// Creates the target again after a failure.
    target: MakeTarget,
    settings: Settings,
    counters: Arc<Counters>,
}

/// Why there is no target.
pub enum NoTarget {
    /// The service can't be reached, or is in trouble: it is tried again.
    NotNow(String),
    /// The table can't be written as the pipeline asks; retrying won't help.
    Refused(String),
}

/// Makes a target, again after a failure. Does not outlive a stop.
pub type MakeTarget = Box<dyn Fn(&Stop) -> Result<Box<dyn delivery::Target>, NoTarget> + Send>;

impl Delivering {
    /// Delivery into a table of ClickHouse. What the table can promise is looked at when the delivery runs, after it was created if
    /// the configuration says so: a table that is refused, or a service that does not answer, holds up nothing but this sink.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn prepare(
        prepared: &Prepared,
        output: &Output,
        config: &ClickHouseConfig,
        files: &Tables,
        session_timeout: i64,
        slot: &str,
    ) -> Result<Delivering, Problem> {
        let Target::Outbox { table, .. } = &output.target else {
            return Err(Problem::plain("not a ClickHouse sink"));
        };
        let gate = Gate {
            sink: output.name.clone(),
            connection: connect(config)?.reporting(prepared.services.outages.service("clickhouse", &output.name)),
            table: Table::parse(table).map_err(|e| Problem::plain(format!("sink `{}`: {e}", output.name)))?,
            schema: rows_of(output),
            create: match (config.create_tables, files.get(table)) {
                (false, _) => Create::Never,
                (true, None) => Create::ForRows,
                (true, Some(file)) => Create::ByFile(file.clone()),
            },
            wanted: if config.allow_weaker_guarantee { Guarantee::AtLeastOnce } else { Guarantee::ExactlyOnce },
        };
        let runtime = prepared.services.runtime.clone();
        let make = move |stop: &Stop| -> Result<Box<dyn delivery::Target>, NoTarget> {
            let inspection = runtime.block_on(async {
                tokio::select! {
                    passed = gate.pass() => passed,
                    () = stopped(stop) => Err(NoTarget::NotNow("the worker stops".to_string())),
                }
            })?;
            Ok(Box::new(ClickHouse::new(gate.connection.clone(), &inspection, runtime.clone())))
        };
        Delivering::to(prepared, output, session_timeout, slot, Box::new(make))
    }

    /// Delivery of an output to any target.
    pub fn to(prepared: &Prepared, output: &Output, session_timeout: i64, slot: &str, target: MakeTarget) -> Result<Delivering, Problem> {
        let Target::Outbox { topic, flush, block_rows, .. } = &output.target else {
            return Err(Problem::plain("not a ClickHouse sink"));
        };
        let names = &prepared.plan.names;
        let group = names.sink_group(&output.name);
        let settings = Settings {
            dead_letters: Some(names.refused(&output.name)),
            transactional_id: format!("{group}.{slot}.letters"),
            limits: Limits { rows: *block_rows as usize, flush: *flush, ..Settings::new("", "", "", "").limits },
            max_buffer: 64 << 20,
            session_timeout,
            ..Settings::new(&prepared.plan.pipeline, topic, &group, slot)
        };
        let (sink, broker) = (output.name.clone(), prepared.services.broker.clone());
        Ok(Delivering { sink, broker, target, settings, counters: Arc::default() })
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Delivers until stopped, or until something is wrong that doesn't pass by itself: the error is its cause.
    pub fn run(self, stop: &Stop) -> Result<(), String> {
        let _span = tracing::info_span!("sink", pipeline = %self.settings.pipeline, sink = %self.sink).entered();
        let mut backoff = BACKOFF.0;
        while !stop.is_stopped() {
            let target = match (self.target)(stop) {
                Ok(target) => target,
                Err(NoTarget::Refused(why)) => return Err(why),
                Err(NoTarget::NotNow(_)) if stop.is_stopped() => return Ok(()),
                Err(NoTarget::NotNow(why)) => {
                    if self.counters.last_error().as_ref() != Some(&why) {
                        tracing::warn!(cause = %why, "the sink waits for ClickHouse; everything else continues");
                    }
                    self.counters.failed(why);
                    stop.pause(backoff);
                    backoff = (backoff * 2).min(BACKOFF.1);
                    continue;
                }
            };
            let began = Instant::now();
            let started = Delivery::new(self.broker.clone(), Arc::new(SystemClock::default()), target, self.settings.clone());
            let ended = started.and_then(|delivery| delivery.counting(self.counters.clone()).run(stop.flag()));
            match ended {
                Ok(()) => return Ok(()),
                Err(e) if needs_a_person(&e) => return Err(e.to_string()),
                Err(e) => {
                    tracing::warn!(cause = %e, "the delivery ended; restarting it from the last commit");
                    self.counters.failed(e.to_string());
                    if began.elapsed() > WELL_AFTER {
                        backoff = BACKOFF.0;
                    }
                    stop.pause(backoff);
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
        Ok(())
    }
}

/// Waits for a stop, so that a hung server does not delay it.
async fn stopped(stop: &Stop) {
    while !stop.is_stopped() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Exceptions that retrying can't resolve: syntax, unknown database, unknown table, no rights, wrong password.
const FINAL: [i32; 6] = [62, 60, 81, 192, 497, 516];

/// Whether a sink waits until this is over, instead of stopping.
pub fn passes(e: &ClickHouseError) -> bool {
    match e {
        ClickHouseError::Unexpected(_) => false,
        ClickHouseError::Exception { code, .. } => !FINAL.contains(code),
        _ => true,
    }
}

/// The check that a table must pass before rows are delivered to it.
struct Gate {
    sink: String,
    connection: Connection,
    table: Table,
    schema: Schema,
    /// Creates what is missing: by the file, or else for the rows.
    create: Create,
    wanted: Guarantee,
}

/// What is done before the check about a table that may be missing.
enum Create {
    Never,
    /// A table made for the rows of the sink.
    ForRows,
    /// Whatever the file creates that creates this table.
    ByFile(Created),
}

/// The tables that files create, by `database.table`.
pub type Tables = BTreeMap<String, Created>;

impl Gate {
    async fn pass(&self) -> Result<Inspection, NoTarget> {
        let failed = |e: ClickHouseError| if passes(&e) { NoTarget::NotNow(e.to_string()) } else { NoTarget::Refused(e.to_string()) };
        match &self.create {
            Create::ByFile(file) => run_file(&self.connection, file).await.map_err(failed)?,
            Create::ForRows => ensure_table(&self.connection, &self.table, &self.schema, &TableOptions::default()).await.map_err(failed)?,
            Create::Never => {}
        }
        let inspection = inspect(&self.connection, &self.table, &self.schema).await.map_err(failed)?;
        inspection.require(self.wanted).map_err(failed)?;
        let Inspection { version, guarantee, reasons, .. } = &inspection;
        tracing::info!(sink = %self.sink, table = %self.table, %version, %guarantee, ?reasons, "the table was checked");
        Ok(inspection)
    }
}

/// Trouble with brokers passes; what the protocol can't decide doesn't.
fn needs_a_person(e: &DeliveryError) -> bool {
    match e {
        DeliveryError::Broker(e) => e.failure == Failure::OutOfRange,
        _ => true,
    }
}

/// A connection to the environment's ClickHouse.
pub fn connect(config: &ClickHouseConfig) -> Result<Connection, Problem> {
    let password = config.password.as_ref().map(|p| p.reveal()).transpose().map_err(Problem::plain)?;
    let tls = config.tls.read().map_err(|(key, why)| Problem::plain(format!("`clickhouse.tls.{key}`: {why}")))?;
    let settings = Config { user: config.user.clone(), password: password.map(Secret::new), tls, ..Config::new(config.url.clone()) };
    Connection::new(settings).map_err(|e| Problem::plain(e.to_string()))
}

/// The columns that a sink's table gets.
pub fn rows_of(output: &Output) -> Schema {
    Schema::new(user_fields(&output.schema).cloned().collect::<Vec<_>>())
}
