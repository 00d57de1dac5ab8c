//! Facts about each part of a plan.

use headwater_engine::plan::{TablePlan, dead_letters, topics_to_create};

use operator_core::changes::has_changes;
use operator_core::{Mode, Path};

use super::*;
use crate::registry::title;
use crate::sinks;

fn key(key: Option<&Vec<Path>>) -> String {
    match key {
        None => "unknown".to_string(),
        Some(columns) if columns.is_empty() => "all rows in one partition".to_string(),
        Some(paths) => paths.iter().map(Path::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// What the rows of a stream of changes are.
fn changes(mode: &Mode) -> String {
    format!("{mode}: an update is the old row, which is gone, and the new one")
}

pub(super) fn input(plan: &Plan, input: &StageInput) -> Entry {
    // Columns of several types are those of the ports.
    let several = matches!(&input.kind, InputKind::Source(decode) if decode.types.is_some());
    let schemas = if several { Vec::new() } else { vec![(String::new(), columns(&input.schema))] };
    match &input.kind {
        InputKind::Source(decode) => {
            let topics = input.topics.iter().map(|t| format!("{} ({} partitions)", t.name, t.partitions));
            let facts = source(decode, input);
            Entry {
                role: "source",
                name: input.name.clone(),
                what: topics.collect::<Vec<_>>().join(", "),
                facts,
                schemas,
                ..Entry::default()
            }
        }
        InputKind::Repartition { why, .. } => {
            let topic = input.topics.first();
            let what = topic.map_or_else(String::new, |t| format!("{} ({} partitions)", t.name, t.partitions));
            let from = plan.stages.iter().flat_map(|stage| {
                let feeds = |output: &&Output| matches!(&output.target, Target::Repartition { topic: t, .. } if topic.is_some_and(|own| own.name == *t));
                stage.outputs.iter().filter(feeds).map(|output| upstream(stage, output.from)).collect::<Vec<_>>()
            });
            let facts = vec![
                ("key".to_string(), key(input.key.as_ref())),
                ("why".to_string(), why.clone()),
                ("time".to_string(), "carries the watermarks of the tasks that write it, so in-time rows stay in time".to_string()),
            ];
            Entry { role: "repartition", name: input.name.clone(), what, from: from.collect(), facts, schemas }
        }
    }
}

fn source(decode: &Decode, input: &StageInput) -> Vec<(String, String)> {
    let time = match &decode.time {
        TimeSource::Record => "the record's timestamp".to_string(),
        TimeSource::Change => "when the connector saw the change (`ts_ms`)".to_string(),
        TimeSource::Column(path) => path.to_string(),
    };
    let idle = decode.idle.map_or("never".to_string(), |idle| format!("after {}", Interval(idle)));
    let facts = [
        ("format", decode.format.described()),
        ("key", key(input.key.as_ref())),
        ("time", time),
        ("out of order", format!("{} behind the latest row", Interval(decode.out_of_order))),
        ("idle", format!("{idle} a silent partition follows the clock")),
        ("max future", format!("{}; rows further ahead don't advance the watermark", Interval(decode.max_future))),
        ("start", if decode.start == Start::Earliest { "earliest" } else { "latest" }.to_string()),
        ("null values", if decode.null_values == NullValues::Skip { "skipped and counted" } else { "dead letters" }.to_string()),
        ("dead letters", input.topics.iter().map(|t| dead_letters(&t.name)).collect::<Vec<_>>().join(", ")),
    ];
    let mut facts = facts.map(|(name, value)| (name.to_string(), value)).to_vec();
    if input.mode.is_changes() {
        facts.insert(1, ("rows".to_string(), changes(&input.mode)));
    }
    if let Some(types) = &decode.types {
        let all = types.types.iter().map(|of| if of.is == of.name { of.name.clone() } else { format!("{} ({})", of.name, of.is) });
        let other = match types.other {
            OtherTypes::DeadLetter => "dead letters",
            OtherTypes::Drop => "dropped and counted",
            OtherTypes::Keep => "the stream `other`",
        };
        let types = [("types by", types.described()), ("types", all.collect::<Vec<_>>().join(", ")), ("other types", other.to_string())];
        facts.splice(1..1, types.map(|(name, value)| (name.to_string(), value)));
    }
    facts
}

pub(super) fn table(table: &TablePlan, pipeline: &Pipeline) -> Entry {
    let key = pipeline.tables.get(&table.name).map(|t| t.key.to_string()).unwrap_or_default();
    let history = table.history.map_or("the latest row per key".to_string(), |h| format!("replaced rows for {}", Interval(h)));
    let facts = [
        ("format", table.format.described()),
        ("key", key),
        ("time", table.time.clone().unwrap_or_else(|| "the record's timestamp".to_string())),
        ("history", history),
        ("memory", "one copy per worker, read to its end before the first record is processed".to_string()),
    ];
    Entry {
        role: "table",
        name: table.name.clone(),
        what: format!("{} ({} partitions)", table.topic.name, table.topic.partitions),
        facts: facts.map(|(name, value)| (name.to_string(), value)).to_vec(),
        schemas: vec![(String::new(), columns(&table.schema))],
        ..Entry::default()
    }
}

pub(super) fn step(stage: &Stage, node: &PlanNode) -> Entry {
    let mut facts = node.planned.details.clone();
    let mut add = |name: &str, value: String| facts.push((name.to_string(), value));
    add("rows that fail", if node.on_error == OnError::Drop { "dropped and counted" } else { "dead letters" }.to_string());
    add("key after it", key(node.keys.first().and_then(Option::as_ref)));
    let mode = node.planned.outputs.first().map(|port| &port.mode);
    if let Some(mode) = mode.filter(|mode| mode.is_changes()) {
        add("rows", mode.to_string());
    }
    if node.planned.delay > 0 {
        add("time after it", format!("{} behind its input", Interval(node.planned.delay)));
    }
    if let Some(changelog) = &node.changelog {
        add("state kept in", changelog.to_string());
    }
    let schemas = node.planned.outputs.iter().map(|port| (port.name.clone(), columns(&port.schema)));
    Entry {
        role: "step",
        name: node.step.clone(),
        what: node.kind.clone(),
        from: node.branches.iter().map(|branch| upstream(stage, branch.from)).collect(),
        facts,
        schemas: schemas.collect(),
    }
}

pub(super) fn sink(plan: &Plan, stage: &Stage, output: &Output) -> Entry {
    let once = plan.guarantee == Guarantee::ExactlyOnce;
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| facts.push((name.to_string(), value));
    let what = match &output.target {
        Target::Topic(sink) => {
            add("format", sink.format.described());
            if sink.layout.registered.is_some() {
                add("subject", sink.subject.clone());
            }
            let key = sink.key.as_ref().map(|key| {
                let columns = key.columns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                key.codec.as_ref().map_or(columns.clone(), |codec| format!("{columns} as a record in {}", codec.format.described()))
            });
            if has_changes(&output.schema) {
                add("changes", "a record is the row as it is; one without a value says that the row is gone".to_string());
            }
            if sink.event.is_some() {
                add("event", "an envelope; members of `data` that are null are left out".to_string());
            }
            add("key", key.unwrap_or_else(|| "none: rows go to the partition with their task's number".to_string()));
            add("timestamp", sink.timestamp.clone().unwrap_or_else(|| "event time".to_string()));
            if let Some(partition) = &sink.partition {
                add("partition", partition.clone());
            }
            add("headers", if sink.headers { HEADERS } else { "none" }.to_string());
            let set: Vec<String> = sink.set_headers.iter().map(|(name, column)| format!("{name} from `{column}`")).collect();
            if !set.is_empty() {
                add("sets headers", set.join(", "));
            }
            add("guarantee", topic_guarantee(once).to_string());
            match &sink.topic {
                TopicName::Fixed(name) => name.to_string(),
                TopicName::Column(before, column, after) => format!("{before}{{{column}}}{after}"),
            }
        }
        Target::Outbox(outbox) => {
            let (table, blocks) = (outbox.table.as_ref(), outbox.table.blocks());
            let sink = sinks::of(table);
            sink.iter().flat_map(|sink| sink.facts(&outbox.rows)).for_each(|(name, value)| add(name, value));
            add("blocks", format!("after {} or {} rows", Interval(blocks.flush), blocks.rows));
            add("outbox topic", outbox.topic.to_string());
            add("refused rows", plan.names.refused(&output.name).to_string());
            sink.iter().for_each(|sink| add("guarantee", sink.guarantee(&outbox.rows, once)));
            format!("{} {}", title(table.kind()), table.name())
        }
        Target::Repartition { .. } => String::new(),
    };
    let schemas = vec![(String::new(), columns(&output.schema))];
    Entry { role: "sink", name: output.name.clone(), what, from: vec![upstream(stage, output.from)], facts, schemas }
}

const HEADERS: &str = "copied from the source record; rows made by an operator, such as window results, have none";

fn topic_guarantee(once: bool) -> &'static str {
    match once {
        true => {
            "exactly once for readers with isolation.level=read_committed: rows, state and input positions are committed in one transaction"
        }
        false => "at least once: after a crash some rows appear twice (`guarantee: at_least_once`)",
    }
}

const CREATED: &str = "output, created if it is missing";

pub(super) fn topics(plan: &Plan, pipeline: &Pipeline) -> Vec<InternalTopic> {
    let mut topics = Vec::new();
    for spec in topics_to_create(plan) {
        let why = match spec.name.rsplit('.').next().filter(|_| spec.name.starts_with("hw.")) {
            Some("changelog") => "state of a step, restored by the worker that takes over its partition",
            Some("repartition") => "rows repartitioned by another key",
            Some("outbox") => "rows to be written to a table",
            Some("dlq") => "rows that the table refused",
            Some("manifest") => "what state and positions belong to",
            _ if spec.name.ends_with(".dlq") => "records that could not be processed, with the cause",
            _ => CREATED,
        };
        topics.push(InternalTopic { name: spec.name, partitions: spec.partitions, settings: settings(&spec.config), why: why.to_string() });
    }
    // Without a cluster every topic is taken to exist.
    for sink in pipeline.sinks.values() {
        let Some((name, create)) = sink.topic().and_then(|to| Some((&to.topic, to.create.as_ref()?))) else { continue };
        if topics.iter().all(|topic| topic.name != *name) {
            let config: Vec<_> = create.config.clone().into_iter().collect();
            let (partitions, settings) = (create.partitions, settings(&config));
            topics.push(InternalTopic { name: name.clone(), partitions, settings, why: CREATED.to_string() });
        }
    }
    topics
}
