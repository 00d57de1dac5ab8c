//! Whether the services outside of this process answer: Kafka, the schema registry, the stores of sinks.
//!
//! A client holds a [`Service`] and reports its results: [`Service::up`] after any answer, and
//! [`Service::down`] when none came. The rest follows from that: an outage is one log line when it starts, one per minute while it
//! lasts and one with its duration when it ends; `/ready`, `/health` and `/metrics` show it by [`Outages::seen`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// How often the log repeats that a service is away.
const REMINDER: Duration = Duration::from_secs(60);

/// The services of a worker. Clones share them.
#[derive(Clone, Default)]
pub struct Outages(Arc<Mutex<Vec<Service>>>);

/// What is known of one service. Clones share it; reporting takes a lock that is held for an instant.
#[derive(Clone)]
pub struct Service {
    name: Arc<str>,
    title: Arc<str>,
    sink: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// A request has been made, successful or not.
    asked: bool,
    outage: Option<Outage>,
}

#[derive(Clone)]
struct Outage {
    cause: String,
    since: SystemTime,
    began: Instant,
    said: Instant,
}

/// A service as the pages show it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `kafka`, `schema_registry`, or a kind of sink: `clickhouse`.
    pub service: Arc<str>,
    /// The service in words: `ClickHouse`.
    pub title: Arc<str>,
    /// The sink that uses it; empty: everything does.
    pub sink: Arc<str>,
    /// `None`: nothing was asked of it yet.
    pub up: Option<bool>,
    /// Why it counts as down, and since when.
    pub outage: Option<(String, SystemTime)>,
}

impl Outages {
    /// The service of this name; the same one for the same arguments. `title`: the service in words. `sink` says which sink uses it, for services whose clients
    /// have little in common: one may answer while the other hangs. Empty for all others.
    pub fn service(&self, name: &str, title: &str, sink: &str) -> Service {
        let mut services = self.0.lock();
        if let Some(known) = services.iter().find(|s| &*s.name == name && &*s.sink == sink) {
            return known.clone();
        }
        let new = Service { name: name.into(), title: title.into(), sink: sink.into(), state: Arc::default() };
        services.push(new.clone());
        new
    }

    /// Whether a service of this name, for whatever sink, is known not to answer.
    pub fn is_down(&self, name: &str) -> bool {
        self.0.lock().iter().any(|service| &*service.name == name && service.state.lock().outage.is_some())
    }

    /// Logs the outages that last, also where no client tries any more. To be called every few seconds.
    pub fn remind(&self) {
        self.0.lock().iter().for_each(|service| service.remind_at(Instant::now()));
    }

    /// All services that were asked for, in the order of that.
    pub fn seen(&self) -> Vec<Seen> {
        let services = self.0.lock();
        services.iter().map(Service::seen).collect()
    }
}

impl Service {
    /// Whether it answered, and why not.
    pub fn report(&self, answered: Result<(), String>) {
        match answered {
            Ok(()) => self.up(),
            Err(why) => self.down(why),
        }
    }

    /// It answered.
    pub fn up(&self) {
        self.up_at(Instant::now());
    }

    /// It did not answer, for this reason. Call it again for every failed attempt: the newest reason is shown.
    pub fn down(&self, cause: impl Into<String>) {
        self.down_at(cause.into(), Instant::now());
    }

    fn up_at(&self, now: Instant) {
        let mut state = self.state.lock();
        state.asked = true;
        if let Some(outage) = state.outage.take() {
            let seconds = now.duration_since(outage.began).as_secs();
            tracing::info!(service = %self.name, sink = %self.sink, seconds, "{} answers again after {seconds} s", self.shown());
        }
    }

    fn down_at(&self, cause: String, now: Instant) {
        let mut state = self.state.lock();
        state.asked = true;
        let Some(outage) = &mut state.outage else {
            tracing::warn!(service = %self.name, sink = %self.sink, %cause, "{} does not answer", self.shown());
            state.outage = Some(Outage { cause, since: SystemTime::now(), began: now, said: now });
            return;
        };
        outage.cause = cause;
    }

    fn remind_at(&self, now: Instant) {
        if let Some(outage) = &mut self.state.lock().outage
            && now.duration_since(outage.said) >= REMINDER
        {
            outage.said = now;
            let seconds = now.duration_since(outage.began).as_secs();
            tracing::warn!(
                service = %self.name, sink = %self.sink, cause = %outage.cause, seconds,
                "{} has not answered for {seconds} s", self.shown()
            );
        }
    }

    fn seen(&self) -> Seen {
        let state = self.state.lock();
        Seen {
            service: self.name.clone(),
            title: self.title.clone(),
            sink: self.sink.clone(),
            up: state.asked.then_some(state.outage.is_none()),
            outage: state.outage.as_ref().map(|outage| (outage.cause.clone(), outage.since)),
        }
    }

    fn shown(&self) -> String {
        shown(&self.title, &self.sink)
    }
}

impl Seen {
    /// The service in words.
    pub fn shown(&self) -> String {
        shown(&self.title, &self.sink)
    }
}

fn shown(title: &str, sink: &str) -> String {
    if sink.is_empty() { title.to_string() } else { format!("{title} (sink `{sink}`)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::logs::Written;

    /// Log lines of what is done in between.
    fn logged(act: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, act);
        written.lines()
    }

    #[test]
    fn an_outage_is_logged_when_it_starts_each_minute_and_when_it_ends() {
        let service = Outages::default().service("clickhouse", "ClickHouse", "orders");
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let lines = logged(|| {
            service.up_at(start);
            for second in 0..130 {
                service.down_at(format!("refused ({second})"), after(second));
                service.remind_at(after(second));
            }
            service.up_at(after(130));
            service.up_at(after(131));
        });
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[0].contains("WARN") && lines[0].contains("ClickHouse (sink `orders`) does not answer"), "{}", lines[0]);
        assert!(lines[0].contains("refused (0)"), "{}", lines[0]);
        assert!(lines[1].contains("has not answered for 60 s") && lines[1].contains("refused (60)"), "{}", lines[1]);
        assert!(lines[2].contains("has not answered for 120 s"), "{}", lines[2]);
        assert!(lines[3].contains("answers again after 130 s"), "{}", lines[3]);
    }

    #[test]
    fn what_is_seen_is_the_newest_cause() {
        let outages = Outages::default();
        let service = outages.service("kafka", "Kafka", "");
        assert_eq!(outages.seen()[0].up, None);
        service.down("first");
        outages.service("kafka", "Kafka", "").down("second");
        let seen = outages.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].up, seen[0].outage.as_ref().map(|(cause, _)| cause.as_str())), (Some(false), Some("second")));
        service.up();
        assert_eq!(outages.seen()[0].up, Some(true));
        assert!(outages.seen()[0].outage.is_none());
    }
}
