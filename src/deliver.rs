//! ClickHouse sinks of a running pipeline: the table is checked at the start, then a thread carries rows over.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use headwater_engine::broker::{Broker, Failure, SystemClock};
use headwater_engine::delivery::{self, Counters, Delivery, DeliveryError, Limits, Settings};
use headwater_engine::plan::{Output, Target};
use headwater_engine::worker::Stop;
use operator_core::batch::user_fields;

use crate::clickhouse::{ClickHouse, Config, Connection, Guarantee, Secret, Table, TableOptions, ensure_table, inspect};
use crate::config::ClickHouseConfig;
use crate::diagnose::Problem;
use crate::run::Prepared;

/// Pauses between restarts of a delivery: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Everything to deliver one sink, again after a failure if need be.
pub struct Delivering {
    sink: String,
    broker: Arc<dyn Broker>,
    /// Makes the target anew after a failure.
    target: MakeTarget,
    settings: Settings,
    counters: Arc<Counters>,
}

/// Makes a target, again after a failure.
pub type MakeTarget = Box<dyn Fn() -> Box<dyn delivery::Target> + Send>;

impl Delivering {
    /// Connects, creates the table if the configuration says so, and looks at what it can promise.
    pub fn prepare(
        prepared: &Prepared,
        output: &Output,
        config: &ClickHouseConfig,
        session_timeout: i64,
        slot: &str,
    ) -> Result<Delivering, Problem> {
        let Target::Outbox { table, .. } = &output.target else {
            return Err(Problem::plain("not a ClickHouse sink"));
        };
        let wrong = |e: &dyn std::fmt::Display| Problem::plain(format!("sink `{}`: {e}", output.name));
        let connection = connect(config)?;
        let table = Table::parse(table).map_err(|e| wrong(&e))?;
        let schema = rows_of(output);
        let runtime = prepared.services.runtime.clone();
        if config.create_tables {
            runtime.block_on(ensure_table(&connection, &table, &schema, &TableOptions::default())).map_err(|e| wrong(&e))?;
        }
        let inspection = runtime.block_on(inspect(&connection, &table, &schema)).map_err(|e| wrong(&e))?;
        let wanted = if config.allow_weaker_guarantee { Guarantee::AtLeastOnce } else { Guarantee::ExactlyOnce };
        inspection.require(wanted).map_err(|e| wrong(&e))?;
        tracing::info!(sink = %output.name, table = %table, version = %inspection.version, guarantee = %inspection.guarantee, reasons = ?inspection.reasons, "the table was checked");
        let target = move || -> Box<dyn delivery::Target> { Box::new(ClickHouse::new(connection.clone(), &inspection, runtime.clone())) };
        Delivering::to(prepared, output, session_timeout, slot, Box::new(target))
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
        Ok(Delivering { sink: output.name.clone(), broker: prepared.services.broker.clone(), target, settings, counters: Arc::default() })
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Delivers until told to stop, or until a person must act.
    pub fn run(self, stop: &Stop) -> Result<(), String> {
        let mut backoff = BACKOFF.0;
        while !stop.is_stopped() {
            let started = Delivery::new(self.broker.clone(), Arc::new(SystemClock::default()), (self.target)(), self.settings.clone());
            let ended = started.and_then(|delivery| delivery.counting(self.counters.clone()).run(stop.flag()));
            match ended {
                Ok(()) => return Ok(()),
                Err(e) if needs_a_person(&e) => return Err(format!("sink `{}`: {e}", self.sink)),
                Err(e) => {
                    tracing::warn!(sink = %self.sink, cause = %e, "delivery ended; a new one goes on from what is committed");
                    stop.pause(backoff);
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
        Ok(())
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
    let settings = Config { user: config.user.clone(), password: password.map(Secret::new), ..Config::new(config.url.clone()) };
    Connection::new(settings).map_err(|e| Problem::plain(format!("ClickHouse: {e}")))
}

/// The columns that a sink's table gets.
pub fn rows_of(output: &Output) -> Schema {
    Schema::new(user_fields(&output.schema).cloned().collect::<Vec<_>>())
}
