//! Sinks of a running pipeline that write to tables: for each a thread that opens its store, then carries rows over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_engine::backoff::Backoff;
use headwater_engine::broker::{Broker, Failure, SystemClock};
use headwater_engine::delivery::{Counters, DeliveryError, Limits, Settings};
use headwater_engine::plan::{OutboxSink, Output, Plan};
use headwater_engine::worker::Stop;

use crate::sinks::{MakeStore, NoStore};

/// Pauses between restarts of a delivery: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// A delivery that ran this long without failure starts again after the shortest pause.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// The worker that delivers.
pub struct At<'a> {
    pub plan: &'a Plan,
    pub broker: &'a Arc<dyn Broker>,
    /// Milliseconds.
    pub session_timeout: i64,
    pub slot: &'a str,
}

/// Everything to deliver one sink, again after a failure if need be.
pub struct Delivering {
    sink: String,
    broker: Arc<dyn Broker>,
    /// Opens the store again after a failure.
    store: MakeStore,
    settings: Settings,
    counters: Arc<Counters>,
}

impl Delivering {
    /// Delivery of an output to a store.
    pub fn to(at: &At<'_>, output: &Output, outbox: &OutboxSink, store: MakeStore) -> Delivering {
        let At { plan, broker, session_timeout, slot } = at;
        let (names, blocks) = (&plan.names, outbox.table.blocks());
        let group = names.sink_group(&output.name);
        let settings = Settings {
            dead_letters: Some(names.refused(&output.name)),
            transactional_id: format!("{group}.{slot}.letters"),
            limits: Limits { rows: blocks.rows as usize, flush: blocks.flush, ..Settings::new("", "", "", "", "").limits },
            max_buffer: 64 << 20,
            session_timeout: *session_timeout,
            ..Settings::new(&plan.pipeline, &output.name, &outbox.topic, &group, slot)
        };
        Delivering { sink: output.name.clone(), broker: (*broker).clone(), store, settings, counters: Arc::default() }
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Delivers until stopped, or until something is wrong that doesn't pass by itself: the error is its cause.
    pub fn run(self, stop: &Stop) -> Result<(), String> {
        let _span = tracing::info_span!("sink", pipeline = %self.settings.pipeline, sink = %self.sink).entered();
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        while !stop.is_stopped() {
            let store = match (self.store)(stop) {
                Ok(store) => store,
                Err(NoStore::Refused(why)) => return Err(why),
                Err(NoStore::NotNow(_)) if stop.is_stopped() => return Ok(()),
                Err(NoStore::NotNow(why)) => {
                    if self.counters.last_error().as_ref() != Some(&why) {
                        tracing::warn!(cause = %why, "the sink waits for its store; everything else continues");
                    }
                    self.counters.failed(why);
                    stop.pause(backoff.pause());
                    continue;
                }
            };
            let began = Instant::now();
            let clock = Arc::new(SystemClock::default());
            let started = store.deliver(self.broker.clone(), clock, self.settings.clone(), self.counters.clone());
            let ended = started.and_then(|mut delivery| delivery.run(stop.flag()));
            match ended {
                Ok(()) => return Ok(()),
                Err(e) if is_permanent(&e) => return Err(e.to_string()),
                Err(e) => {
                    tracing::warn!(cause = %e, "the delivery ended; restarting it from the last commit");
                    self.counters.failed(e.to_string());
                    if began.elapsed() > WELL_AFTER {
                        backoff.reset();
                    }
                    stop.pause(backoff.pause());
                }
            }
        }
        Ok(())
    }
}

/// It does not pass by itself: trouble with brokers does, what the protocol can't decide doesn't.
fn is_permanent(e: &DeliveryError) -> bool {
    match e {
        DeliveryError::Broker(e) => e.failure == Failure::OutOfRange,
        _ => true,
    }
}
