//! The log of a worker: JSON for machines, or plain lines for people, to standard error.
//!
//! Whatever is logged, each line is bounded and free of control characters, and a kind of line (a place in the code) comes at most
//! [`PER_SECOND`] times a second: the rest is counted, and the number follows in a line of its own. Panics are lines of the
//! same form, and so are the problems of a start. `HW_LOG` filters (`info` by default). Only what ends the process before any code of
//! it can run is not a line: the standard library reports memory that can't be allocated in its own words.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_engine::wording::without_values;
use operator_core::Severity;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::diagnose::Problem;

/// Lines of one kind that a second may have.
const PER_SECOND: u32 = 20;
/// Characters of one field, and of all fields of a line together: escaped, a line stays below 4 KiB in all but odd cases, and
/// below 16 KiB in those.
const FIELD: usize = 800;
const FIELDS: usize = 2_400;

/// Programs read the log of this process.
static JSON: AtomicBool = AtomicBool::new(false);

/// Starts the log. A second call, in the demo for one, keeps the first.
pub fn start(plain: bool) {
    let filter = EnvFilter::try_from_env("HW_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let flood = Flood::default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter).with(flood.clone());
    let first = match plain {
        true => registry.with(lines.fmt_fields(DefaultFields::new()).event_format(Lines { plain })).try_init(),
        false => registry.with(lines.fmt_fields(JsonFields::new()).event_format(Lines { plain })).try_init(),
    };
    if first.is_err() {
        return;
    }
    JSON.store(!plain, Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let said = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
        // A function that fails on a row may show its value.
        tracing::error!(place, thread, cause = without_values(said.unwrap_or_default()), "a panic");
    }));
    let counting = std::thread::Builder::new().name("hw-logs".into()).spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            for (line, left_out) in flood.sweep(Instant::now()) {
                tracing::warn!(line, left_out, "too many lines of this kind: the rest is counted");
            }
        }
    });
    if let Err(e) = counting {
        tracing::warn!(cause = %e, "no thread could be started to count lines that are left out");
    }
}

/// Whether text for people may go to standard error: not between lines that programs read, unless somebody looks at a terminal.
pub fn for_people() -> bool {
    !JSON.load(Ordering::Relaxed) || stderr().is_terminal()
}

/// Logs problems, one line each, if programs read the log.
pub fn problems(problems: &[Problem]) {
    if JSON.load(Ordering::Relaxed) {
        problems.iter().for_each(problem);
    }
}

fn problem(problem: &Problem) {
    let Problem { severity, code, message, help, .. } = problem;
    let (place, help) = (problem.place(), help.as_deref());
    match severity {
        Severity::Error => tracing::error!(code, place, help, "{message}"),
        _ => tracing::warn!(code, place, help, "{message}"),
    }
}

/// Logs commands that grant missing rights, one line each, if programs read the log.
pub fn grants(commands: &str) {
    if JSON.load(Ordering::Relaxed) {
        commands.lines().for_each(|command| tracing::error!(command, "this command grants what is missing"));
    }
}

/// Lets a limited number of each kind of line through.
#[derive(Clone, Default)]
struct Flood(Arc<Mutex<HashMap<Identifier, Count>>>);

struct Count {
    since: Instant,
    lines: u32,
    left_out: u64,
    /// The text of the kind.
    line: String,
}

impl Flood {
    fn admit(&self, kind: Identifier, now: Instant, line: impl FnOnce() -> String) -> bool {
        let mut counts = self.0.lock();
        let count = counts.entry(kind).or_insert_with(|| Count { since: now, lines: 0, left_out: 0, line: String::new() });
        if now.duration_since(count.since) >= Duration::from_secs(1) {
            (count.since, count.lines) = (now, 0);
        }
        count.lines = count.lines.saturating_add(1);
        if count.lines <= PER_SECOND {
            return true;
        }
        if count.left_out == 0 {
            count.line = line();
        }
        count.left_out += 1;
        false
    }

    /// The kinds of which lines were left out, and how many, since the last call.
    fn sweep(&self, now: Instant) -> Vec<(String, u64)> {
        let mut counts = self.0.lock();
        counts.retain(|_, count| count.left_out > 0 || now.duration_since(count.since) < Duration::from_secs(1));
        let left_out = counts.values_mut().filter(|count| count.left_out > 0);
        left_out.map(|count| (std::mem::take(&mut count.line), std::mem::take(&mut count.left_out))).collect()
    }
}

impl<S: Subscriber> Layer<S> for Flood {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let text = || {
            let mut fields = Fields::default();
            event.record(&mut fields);
            fields.0.remove("message").and_then(|m| m.as_str().map(str::to_string)).unwrap_or_else(|| event.metadata().name().to_string())
        };
        self.admit(event.metadata().callsite(), Instant::now(), text)
    }
}

/// The fields of an event, each bounded.
#[derive(Default)]
struct Fields(Map<String, Value>, usize);

impl Fields {
    fn text(&mut self, field: &Field, text: &dyn fmt::Display) {
        let mut bounded = Bounded { text: String::new(), left: FIELD.min(FIELDS.saturating_sub(self.1)) };
        // An error is the end of what fits.
        if write!(bounded, "{text}").is_err() {
            bounded.text.push_str("...");
        }
        self.1 += bounded.text.len();
        self.0.insert(field.name().to_string(), bounded.text.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_string(), value.into());
    }
}

/// Text up to a number of bytes, without control characters.
struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            self.left = self.left.checked_sub(c.len_utf8()).ok_or(fmt::Error)?;
            self.text.push(c);
        }
        Ok(())
    }
}

/// Writes an event as a line.
struct Lines {
    plain: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let span = cx.lookup_current().map(|span| {
            let fields = span.extensions().get::<FormattedFields<N>>().map(|fields| fields.fields.clone()).unwrap_or_default();
            (span.name(), fields)
        });
        match self.plain {
            true => plain(&mut out, &time, level, span, fields.0),
            false => json(&mut out, time, level, target, span, fields.0),
        }
    }
}

type Interval = Option<(&'static str, String)>;

fn plain(out: &mut Writer<'_>, time: &str, level: Level, span: Interval, mut fields: Map<String, Value>) -> fmt::Result {
    write!(out, "{time} {level:>5} ")?;
    if let Some((name, fields)) = span {
        write!(out, "{name}{{{fields}}}: ")?;
    }
    if let Some(message) = fields.remove("message").as_ref().and_then(Value::as_str) {
        write!(out, "{message}")?;
    }
    for (name, value) in fields {
        write!(out, " {name}={value}")?;
    }
    writeln!(out)
}

fn json(out: &mut Writer<'_>, time: String, level: Level, target: &str, span: Interval, fields: Map<String, Value>) -> fmt::Result {
    let mut line = Map::new();
    line.insert("timestamp".into(), time.into());
    line.insert("level".into(), level.to_string().into());
    line.extend(fields);
    line.insert("target".into(), target.into());
    if let Some((name, fields)) = span {
        let mut span: Map<String, Value> = serde_json::from_str(&fields).unwrap_or_default();
        span.insert("name".into(), name.into());
        line.insert("span".into(), span.into());
    }
    writeln!(out, "{}", Value::from(line))
}

/// What tests log.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

#[cfg(test)]
impl Written {
    pub(crate) fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().clone()).unwrap().lines().map(str::to_string).collect()
    }
}

#[cfg(test)]
impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use headwater_engine::yaml;
    use operator_core::Diagnostic;

    use super::*;
    use crate::diagnose::Source;

    /// The lines that `run` logs.
    fn logged(plain: bool, run: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let registry = tracing_subscriber::registry().with(Flood::default());
        match plain {
            true => tracing::subscriber::with_default(registry.with(lines.event_format(Lines { plain })), run),
            false => {
                let lines = lines.fmt_fields(JsonFields::new()).event_format(Lines { plain });
                tracing::subscriber::with_default(registry.with(lines), run)
            }
        }
        written.lines()
    }

    #[test]
    fn lines_are_bounded_and_clean() {
        let huge = "\u{1b}[31mx\n\"".repeat(100_000);
        let log = || {
            let _span = tracing::info_span!("lane", lane = 3).entered();
            tracing::warn!(cause = %huge, correlation_id = huge, offset = 7, nothing = None::<&str>, "dead letter {huge}");
        };
        for plain in [false, true] {
            let lines = logged(plain, log);
            assert_eq!(lines.len(), 1);
            assert!(lines[0].len() < 4_096 && !lines[0].contains('\u{1b}'), "{} bytes: {:.300}", lines[0].len(), lines[0]);
            assert!(!lines[0].contains("nothing"), "{:.300}", lines[0]);
        }
        let line: Value = serde_json::from_str(&logged(false, log)[0]).unwrap();
        assert_eq!((&line["offset"], &line["level"], &line["span"]["lane"]), (&7.into(), &"WARN".into(), &3.into()));
        assert!(line["message"].as_str().unwrap().starts_with("dead letter"));
    }

    #[test]
    fn a_problem_is_one_line() {
        let source = Source::new("p.yaml", "steps:\n  big: x\n");
        let root = yaml::parse(&source.text).unwrap();
        let found = Diagnostic::warning("unread", "nothing reads `big`").at(["steps", "big"]).help("remove it");
        let found = Problem::found(&source, &root, found);
        let lines = logged(false, || [found, Problem::plain("can't\nreach \"it\"")].iter().for_each(problem));
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let fields = ["level", "code", "place", "help", "message"].map(|name| &lines[0][name]);
        assert_eq!(fields, ["WARN", "unread", "p.yaml:2:8", "remove it", "nothing reads `big`"]);
        assert_eq!((&lines[1]["level"], &lines[1]["message"]), (&"ERROR".into(), &"can't reach \"it\"".into()));
        assert!(lines[1].get("place").is_none());
    }

    #[test]
    fn a_flood_is_counted() {
        let flood = || (0..1_000).for_each(|n| tracing::warn!(n, "a flood"));
        assert_eq!(logged(false, flood).len(), PER_SECOND as usize);
    }

    #[test]
    fn what_was_left_out_is_told_once_and_lines_come_again() {
        static KIND: tracing::callsite::DefaultCallsite = tracing::callsite::DefaultCallsite::new(&META);
        static META: tracing::Metadata<'static> = tracing::metadata! {
            name: "kind", target: "test", level: Level::WARN, fields: &[], callsite: &KIND, kind: tracing::metadata::Kind::EVENT
        };
        let (flood, start) = (Flood::default(), Instant::now());
        let admit = |now: Instant| flood.admit(Identifier(&KIND), now, || "a kind".to_string());
        assert_eq!((0..50).filter(|_| admit(start)).count(), PER_SECOND as usize);
        assert_eq!(flood.sweep(start), [("a kind".to_string(), 50 - u64::from(PER_SECOND))]);
        assert_eq!(flood.sweep(start), []);
        assert!(!admit(start + Duration::from_millis(999)) && admit(start + Duration::from_secs(1)));
    }
}
