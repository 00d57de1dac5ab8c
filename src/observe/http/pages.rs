//! `/health` and `/ready`: what holds a worker up, each with its place and since when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use headwater_engine::broker::Clock;
use headwater_engine::delivery::Counters;
use headwater_engine::plan::Plan;
use headwater_engine::stats::{Life, Stats};
use headwater_engine::tables::LoadedTables;
use operator_core::Millis;
use parking_lot::Mutex;
use serde::Serialize;

use super::serve;
use crate::diagnose::Problem;
use crate::observe::outages::Outages;

/// What is open where the pages are not on loopback.
pub const EXPOSED: &str = "the pages are reachable from other machines without a password: anyone who can connect reads topic and sink names, \
error causes and all metrics. Allow only the monitoring system in the firewall or network policy";

/// A cause that lasts this long is logged, those of services apart, which are logged at once.
const WORTH_A_LINE: Duration = Duration::from_secs(5);
/// How often the pages look for themselves, so that they know since when something holds.
const LOOK: Duration = Duration::from_secs(1);
/// Restarts in a row, and their duration in milliseconds, that count as endless.
const ENDLESS: (u32, Millis) = (5, 120_000);
/// A lane that doesn't turn its loop for this long, and a transaction's timeout more, in milliseconds, hangs.
const HANGS: Millis = 120_000;

/// What the pages of a running worker tell about.
#[derive(Clone)]
pub struct Shown {
    /// The worker's name.
    pub worker: String,
    /// The deployed version that it runs.
    pub version: u64,
    pub plan: Arc<Plan>,
    pub stats: Arc<Stats>,
    pub clock: Arc<dyn Clock>,
    pub tables: Arc<LoadedTables>,
    pub deliveries: Vec<(String, Arc<Counters>)>,
}

/// What the pages tell about, from before the worker runs.
pub struct Pages {
    pub pipeline: String,
    /// How many lanes this worker has.
    pub lanes: usize,
    pub outages: Outages,
    address: OnceLock<SocketAddr>,
    transaction_timeout: Duration,
    shown: OnceLock<Shown>,
    /// What a start waits for, if it does.
    starting: Mutex<Option<String>>,
    /// What holds the worker up, by kind and place: since when, and whether it is in the log.
    since: Mutex<BTreeMap<(&'static str, String), (Instant, SystemTime, bool)>>,
}

/// Something that holds the worker up.
struct Cause {
    what: &'static str,
    place: String,
    why: String,
    /// `None`: since the pages first saw it.
    since: Option<SystemTime>,
}

/// What to do about a cause of this kind.
fn remedy(what: &str) -> &'static str {
    match what {
        "service" => "bring the service back, or correct its address in the configuration; the worker goes on by itself",
        "start" => "the start goes on by itself once what it waits for is there",
        "tables" | "table" => {
            "nothing, while the topics of the tables are being read; a table that waits for a schema needs it in the registry"
        }
        "partitions" => "restart all workers of the pipeline; if a step has state, look at `hw plan` first",
        "assignment" => {
            "nothing, while the group moves partitions (seconds, or the session timeout after a kill); else see the worker's log"
        }
        "partition" => "it goes on once what it waits for is there: a schema in the registry, a leader, the end of a transaction",
        "sink" => "correct the cause at the table or its store; a sink that has stopped needs a restart of the worker then",
        "restore" => "nothing: the state is being read; it takes as long as the changelog is large",
        "restarts" => "correct the cause that is named, or report it with the worker's log; a restart may help",
        "hangs" => "restart the worker, and report it with the worker's log",
        _ => "see the worker's log",
    }
}

/// A cause as the pages show it.
#[derive(Serialize)]
struct Line {
    what: &'static str,
    #[serde(rename = "where")]
    place: String,
    cause: String,
    remedy: &'static str,
    since: String,
}

#[derive(Serialize)]
struct Health {
    /// `ok`; `waiting`: it will go on by itself; `failing`: a restart may help.
    status: &'static str,
    causes: Vec<Line>,
    /// What does not hold up the worker, and yet should be looked at.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    causes: Vec<Line>,
}

impl Pages {
    pub fn new(pipeline: &str, lanes: usize, transaction_timeout: Duration, outages: Outages) -> Pages {
        Pages {
            pipeline: pipeline.to_string(),
            lanes,
            outages,
            address: OnceLock::new(),
            transaction_timeout,
            shown: OnceLock::new(),
            starting: Mutex::default(),
            since: Mutex::default(),
        }
    }

    /// Serves the pages of a worker at `address`; an empty one: it has none.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub fn open(self, address: Option<&str>, runtime: &tokio::runtime::Handle) -> Result<Arc<Pages>, Problem> {
        let pages = Arc::new(self);
        let looking = pages.clone();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                looking.lines(looking.causes());
            }
        });
        if address != Some("") {
            let bound = runtime.block_on(serve(address, pages.clone())).map_err(Problem::plain)?;
            if !bound.ip().is_loopback() {
                tracing::warn!(http = %bound, "{EXPOSED}");
            }
            // It is opened once.
            let _ = pages.address.set(bound);
        }
        Ok(pages)
    }

    /// Where they are served, if they are.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    /// The start waits for this.
    pub fn waits(&self, why: &str) {
        *self.starting.lock() = Some(why.to_string());
    }

    /// The worker runs from now on.
    pub fn runs(&self, shown: Shown) {
        // A worker starts once.
        let _ = self.shown.set(shown);
    }

    /// The running worker; `None` while it starts.
    pub fn shown(&self) -> Option<&Shown> {
        self.shown.get()
    }

    /// Whether the process should go on, and the page. It should while it makes progress, and while it waits for something outside of
    /// it: a restart would not bring that back. Nor would it help a sink that has stopped.
    pub fn health(&self) -> (bool, String) {
        let failing = self.failing();
        let causes = self.causes();
        let status = match (failing.is_empty(), causes.is_empty()) {
            (false, _) => "failing",
            (true, false) => "waiting",
            (true, true) => "ok",
        };
        let causes = self.lines(failing.into_iter().chain(causes).collect());
        (status != "failing", page(&Health { status, causes, warnings: self.warnings() }))
    }

    /// Whether the worker processes all that it is to process, and the page.
    pub fn ready(&self) -> (bool, String) {
        let causes = self.lines(self.causes());
        let ready = causes.is_empty();
        (ready, page(&Ready { ready, causes }))
    }

    /// Lanes that don't help themselves. While Kafka is away nothing can be said about them.
    fn failing(&self) -> Vec<Cause> {
        let Some(shown) = self.shown.get().filter(|_| !self.outages.is_down("kafka")) else { return Vec::new() };
        let (now, patience) = (shown.clock.monotonic(), HANGS + self.transaction_timeout.as_millis() as Millis);
        let mut causes = Vec::new();
        for (lane, life) in shown.stats.lanes() {
            let place = format!("lane {lane}");
            if life.restarts_in_a_row >= ENDLESS.0 && now - life.failing_since >= ENDLESS.1 {
                let seconds = (now - life.failing_since) / 1_000;
                let why =
                    format!("{} restarts within {seconds} s without a commit; the last cause: {}", life.restarts_in_a_row, life.cause);
                causes.push(Cause { what: "restarts", place, why, since: ago(seconds) });
            } else if now - life.beat > patience {
                let seconds = (now - life.beat) / 1_000;
                let why = format!("its loop has not turned for {seconds} s");
                causes.push(Cause { what: "hangs", place, why, since: ago(seconds) });
            }
        }
        causes
    }

    /// What does not hold up the worker.
    fn warnings(&self) -> Vec<String> {
        let Some(snapshot) = self.shown.get().map(|shown| shown.stats.snapshot()) else { return Vec::new() };
        let held = snapshot.held.iter().map(|(partition, held)| format!("the watermark of {partition} is held back: {held}"));
        let unwritten = snapshot.unwritten.iter().map(|((_, partition, step), cause)| {
            format!("the local checkpoint of step `{step}`, partition {partition}, can't be written: {cause}")
        });
        held.chain(unwritten).collect()
    }

    fn causes(&self) -> Vec<Cause> {
        let mut causes = Vec::new();
        for seen in self.outages.seen() {
            if let Some((why, since)) = &seen.outage {
                let why = format!("{} does not answer: {why}", seen.shown());
                causes.push(Cause { what: "service", place: seen.shown(), why, since: Some(*since) });
            }
        }
        let mut found = |what, place: String, why: String| causes.push(Cause { what, place, why, since: None });
        let Some(shown) = self.shown.get() else {
            let waits = self.starting.lock().clone();
            let why = waits.map_or_else(|| "the worker is starting".to_string(), |why| format!("the start waits: {why}"));
            found("start", format!("pipeline `{}`", self.pipeline), why);
            return causes;
        };
        let snapshot = shown.stats.snapshot();
        if !shown.tables.ready() {
            found("tables", "all tables".to_string(), "tables are being loaded".to_string());
        }
        shown.tables.waits().into_iter().for_each(|wait| found("table", wait.clone(), wait));
        for (topic, (planned, partitions)) in &snapshot.grown {
            let why = format!(
                "{topic} has {partitions} partitions and had {planned} at the start: the new ones are not read. Restart all workers of the \
                 pipeline; if a step has state, run `hw run --dry-run` first: it shows what to give up"
            );
            found("partitions", format!("topic {topic}"), why);
        }
        if let Some(why) = unassigned(self.lanes, |lane| snapshot.tasks.contains_key(&lane), &shown.stats.lanes()) {
            found("assignment", "lanes".to_string(), why);
        }
        for (partition, why) in &snapshot.waiting {
            found("partition", partition.to_string(), format!("{partition} waits: {why}"));
        }
        for (sink, counters) in &shown.deliveries {
            match (counters.stopped(), counters.last_error()) {
                (Some(why), _) => found("sink", format!("sink `{sink}`"), format!("sink `{sink}`: {why}: it has stopped")),
                (None, Some(why)) => found("sink", format!("sink `{sink}`"), format!("sink `{sink}`: {why}")),
                (None, None) => {}
            }
        }
        for ((stage, partition), (left, total)) in &snapshot.restoring {
            let why = format!("stage {stage} partition {partition}: {left} of {total} records to restore");
            found("restore", format!("stage {stage} partition {partition}"), why);
        }
        causes
    }

    /// Gives causes the time since which they hold, and logs those that last.
    fn lines(&self, causes: Vec<Cause>) -> Vec<Line> {
        self.outages.remind();
        let mut known = self.since.lock();
        known.retain(|key, _| causes.iter().any(|cause| (cause.what, &cause.place) == (key.0, &key.1)));
        let line = |cause: Cause| {
            let since = cause.since.unwrap_or_else(|| {
                let first = || (Instant::now(), SystemTime::now(), false);
                let (began, since, logged) = known.entry((cause.what, cause.place.clone())).or_insert_with(first);
                if !*logged && began.elapsed() >= WORTH_A_LINE {
                    *logged = true;
                    tracing::warn!(pipeline = %self.pipeline, what = cause.what, place = %cause.place, cause = %cause.why, "the worker is not ready");
                }
                *since
            });
            let since = DateTime::<Utc>::from(since).to_rfc3339_opts(SecondsFormat::Secs, true);
            Line { what: cause.what, place: cause.place, cause: cause.why, remedy: remedy(cause.what), since }
        };
        causes.into_iter().map(line).collect()
    }
}

/// Lanes without an assignment, and why one of them failed since its last commit.
fn unassigned(lanes: usize, is_assigned: impl Fn(usize) -> bool, lives: &BTreeMap<usize, Life>) -> Option<String> {
    let without: Vec<usize> = (0..lanes).filter(|lane| !is_assigned(*lane)).collect();
    let failed = without.iter().filter_map(|lane| lives.get(lane)).find(|life| life.restarts_in_a_row > 0);
    let cause = failed.map_or(String::new(), |life| format!(" (last failure: {})", life.cause));
    (!without.is_empty()).then(|| format!("{} of {lanes} lanes have no assignment from the consumer group{cause}", without.len()))
}

fn ago(seconds: Millis) -> Option<SystemTime> {
    SystemTime::now().checked_sub(Duration::from_secs(seconds.unsigned_abs()))
}

fn page(body: &impl Serialize) -> String {
    serde_json::to_string_pretty(body).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cause of a failure days ago was shown in an outage of Kafka.
    #[test]
    fn only_a_failure_since_the_last_commit_is_a_cause() {
        let failing = Life { restarts_in_a_row: 2, cause: "Topic authorization failed".into(), ..Life::default() };
        let lives = BTreeMap::from([(0, Life::default()), (1, failing)]);
        let without = |assigned: &[usize]| unassigned(2, |lane| assigned.contains(&lane), &lives);
        assert_eq!(without(&[0, 1]), None);
        assert_eq!(without(&[1]).unwrap(), "1 of 2 lanes have no assignment from the consumer group");
        let of_both = "2 of 2 lanes have no assignment from the consumer group (last failure: Topic authorization failed)";
        assert_eq!(without(&[]).unwrap(), of_both);
    }
}
