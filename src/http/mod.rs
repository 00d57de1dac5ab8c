//! A worker's HTTP pages: `/metrics` for Prometheus, `/health` (the process works), `/ready` (it processes its
//! partitions). Loopback by default.

mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use headwater_engine::stats::Stats;
use headwater_engine::tables::LoadedTables;
use tokio::net::TcpListener;

use crate::outages::Outages;

pub use metrics::render;

/// What the pages tell about.
#[derive(Clone)]
pub struct Shown {
    pub pipeline: String,
    /// How many lanes this worker has.
    pub lanes: usize,
    pub stats: Arc<Stats>,
    pub tables: Arc<LoadedTables>,
    pub deliveries: Vec<(String, Arc<headwater_engine::delivery::Counters>)>,
    pub outages: Outages,
}

impl Shown {
    /// Services that don't answer, and why.
    fn down(&self) -> impl Iterator<Item = String> {
        let down = self.outages.seen().into_iter().filter_map(|seen| Some((seen.shown(), seen.outage?.0)));
        down.map(|(service, cause)| format!("{service} does not answer: {cause}"))
    }

    /// Sinks that have stopped permanently, and why.
    fn stopped(&self) -> impl Iterator<Item = (&str, String)> {
        self.deliveries.iter().filter_map(|(sink, counters)| Some((sink.as_str(), counters.stopped()?)))
    }
}

/// Serves the pages until the runtime ends. Returns the address (port 0 took a free one).
pub async fn serve(address: &str, shown: Shown) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind(address).await.map_err(|e| format!("can't listen on {address}: {e}"))?;
    let bound = listener.local_addr().map_err(|e| e.to_string())?;
    let router =
        Router::new().route("/metrics", get(metrics_page)).route("/health", get(health)).route("/ready", get(ready)).with_state(shown);
    tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            tracing::error!(cause = %e, "the HTTP server ended");
        }
    });
    Ok(bound)
}

async fn metrics_page(State(shown): State<Shown>) -> impl IntoResponse {
    match render(&shown) {
        Ok(text) => (StatusCode::OK, [("content-type", "text/plain; version=0.0.4")], text),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], e),
    }
}

/// The process works, also where a sink has stopped: starting it again would not help. What holds results back stands below.
async fn health(State(shown): State<Shown>) -> String {
    let snapshot = shown.stats.snapshot();
    let held = snapshot.held;
    let unwritten = snapshot.unwritten.iter().map(|((_, partition, step), cause)| {
        format!("warning: the local checkpoint of step `{step}`, partition {partition}, can't be written: {cause}\n")
    });
    let down = shown.down().map(|down| down + "\n");
    let stopped = shown.stopped().map(|(sink, why)| format!("stopped: sink `{sink}`: {why}\n"));
    let held = held.iter().map(|(partition, held)| format!("the watermark of {partition} is held back: {held}\n"));
    "ok\n".to_string() + &down.chain(stopped).chain(held).chain(unwritten).collect::<String>()
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    let snapshot = shown.stats.snapshot();
    let mut reasons: Vec<String> = shown.down().collect();
    if !shown.tables.ready() {
        reasons.push("tables are being loaded".to_string());
    }
    reasons.extend(shown.tables.waits());
    reasons.extend(snapshot.grown.iter().map(|(topic, (planned, found))| {
        format!(
            "{topic} has {found} partitions and had {planned} at the start: the new ones are not read. Restart all workers of the pipeline; \
             if a step has state, run `hw run --dry-run` first: it shows what to give up"
        )
    }));
    let lanes = shown.lanes.saturating_sub(snapshot.tasks.len());
    if lanes > 0 {
        let cause = snapshot.last_error.as_deref().map_or(String::new(), |cause| format!(" (last failure: {cause})"));
        reasons.push(format!("{lanes} of {} lanes have no assignment from the consumer group{cause}", shown.lanes));
    }
    reasons.extend(snapshot.waiting.iter().map(|(partition, why)| format!("{partition} waits: {why}")));
    reasons.extend(shown.stopped().map(|(sink, why)| format!("sink `{sink}`: {why}: it has stopped")));
    let running = shown.deliveries.iter().filter(|(_, counters)| counters.stopped().is_none());
    reasons.extend(running.filter_map(|(sink, counters)| Some(format!("sink `{sink}`: {}", counters.last_error()?))));
    reasons.extend(
        snapshot.restoring.iter().map(|((stage, partition), (left, total))| {
            format!("stage {stage} partition {partition}: {left} of {total} records to restore")
        }),
    );
    match reasons.is_empty() {
        true => (StatusCode::OK, "ready\n".to_string()),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}
