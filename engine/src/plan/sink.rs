//! What sinks write: columns, formats, keys, and the guarantee that holds.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use operator_core::batch::written_fields;
use operator_core::path::in_sql;
use operator_core::{Diagnostic, InputInfo, Path, Severity, type_name};

use super::source::{lacks_of_envelope, unknown_sink_column};
use super::{Catalog, Names, OutboxSink, Target, TopicName, TopicSink, changes, key};
use crate::broker::{TopicSpec, is_compacted};
use crate::format::declared::DATA;
use crate::format::{Layout, Rows};
use crate::pipeline::{Key, Sink, SinkTarget, TopicTarget};
use crate::sinks::{Incoming, SinkTable, position_fields};

/// Plans a sink over rows of a stream; `partitions` is that of the stage it hangs on.
pub fn sink(
    name: &str,
    sink: &Sink,
    stream: &InputInfo,
    partitions: i32,
    names: &Names,
    catalog: &dyn Catalog,
) -> (Option<Target>, Vec<Diagnostic>) {
    let (mut wrong, schema) = (Vec::new(), &stream.schema);
    let target = match &sink.to {
        SinkTarget::Topic(topic) => {
            check_topic(topic, schema, &mut wrong);
            let target = topic_sink(topic, &topic.topic, schema, catalog, &mut wrong);
            if let Some(Target::Topic(topic)) = &target {
                wrong.extend(changes::topic_by(topic.key.as_ref(), &stream.mode));
            }
            target
        }
        SinkTarget::Table(table) => {
            let columns = Schema::new(written_fields(schema).cloned().collect::<Vec<_>>());
            let changes = changes::table_by(&stream.mode, &columns).unwrap_or_else(|found| {
                wrong.push(found);
                None
            });
            let rows = Incoming { columns, changes };
            check_table(table.as_ref(), &rows, &mut wrong);
            Some(Target::Outbox(OutboxSink { topic: names.outbox(name), partitions, table: table.clone(), rows }))
        }
    };
    let refused = wrong.iter().any(|found| found.severity == Severity::Error);
    (target.filter(|_| !refused), wrong)
}

/// Whether rows can be written to the table, as far as no server is asked.
fn check_table(table: &dyn SinkTable, rows: &Incoming, wrong: &mut Vec<Diagnostic>) {
    wrong.extend(table.check(rows));
    for column in position_fields().iter().filter(|column| rows.columns.field_with_name(column.name()).is_ok()) {
        let message = format!("`{}` is the name of a column that delivery adds to every row", column.name());
        wrong.push(Diagnostic::error("position-column", message).at([table.kind()]).help("select it under another name first"));
    }
    wrong.extend(table.blocks().check());
}

/// Rows that are written as events have the columns of events.
fn check_event(sink: &TopicTarget, schema: &Schema) -> Option<Diagnostic> {
    sink.event.filter(|_| sink.format.shapes_events())?;
    let problem = match lacks_of_envelope(schema) {
        Some(name) => format!("the rows are no events: they have no `{name}`"),
        None => match schema.field_with_name(DATA).map(|field| field.data_type()) {
            Ok(DataType::Struct(_)) | Err(_) => return None,
            Ok(other) => format!("the rows are no events: `{DATA}` is {}, not a record", type_name(other)),
        },
    };
    let help = "remove `event` if the topic has no events, or make the columns in a `map` step: eventId, eventType, timestamp and data";
    Some(Diagnostic::error("envelope", problem).at(["event"]).help(help))
}

/// The columns that a topic sink names, and the topic it creates.
fn check_topic(sink: &TopicTarget, schema: &SchemaRef, wrong: &mut Vec<Diagnostic>) {
    wrong.extend(check_event(sink, schema));
    for (key, column) in [("timestamp", &sink.timestamp), ("partition", &sink.partition)] {
        if let Some(column) = column {
            match (key, Path::resolve_column(column, schema.fields()).map(|f| f.data_type()).ok_or(())) {
                (_, Err(())) => wrong.push(unknown_sink_column(column, schema).at([key])),
                ("timestamp", Ok(DataType::Timestamp(_, _) | DataType::Int64)) => {}
                ("timestamp", Ok(other)) => wrong.push(
                    Diagnostic::error("time-type", format!("`{column}` is {}, not a timestamp", type_name(other)))
                        .at([key])
                        .help("use a timestamp column, or a long of milliseconds since 1970"),
                ),
                ("partition", Ok(DataType::Int32 | DataType::Int64)) => {}
                ("partition", Ok(other)) => wrong.push(
                    Diagnostic::error("partition-type", format!("`{column}` is {}, but a partition is a whole number", type_name(other)))
                        .at([key]),
                ),
                _ => {}
            }
        }
    }
    if let Some(create) = &sink.create {
        if create.partitions < 1 {
            wrong.push(
                Diagnostic::error("partitions", "`partitions` must be at least 1")
                    .at(["create", "partitions"])
                    .help("write `partitions: 6`"),
            );
        }
        if create.replication.is_some_and(|copies| copies < 1) {
            wrong.push(
                Diagnostic::error("partitions", "`replication` must be at least 1")
                    .at(["create", "replication"])
                    .help("write `replication: 3`, or leave it out for the broker's default"),
            );
        }
    }
}

fn topic_sink(sink: &TopicTarget, topic: &str, schema: &SchemaRef, catalog: &dyn Catalog, wrong: &mut Vec<Diagnostic>) -> Option<Target> {
    // The column's own name, where it was found.
    let named = |text: &str| Path::resolve_column(text, schema.fields()).map_or(text, |field| field.name()).to_string();
    let topic_name = match topic.split_once('{') {
        None => {
            wrong.extend(not_a_topic(topic).map(|found| found.at(["topic"])));
            TopicName::Fixed(topic.into())
        }
        Some((before, rest)) => {
            let Some((column, after)) = rest.split_once('}') else {
                wrong.push(Diagnostic::error("topic-name", "`{` without `}`").at(["topic"]).help("write a column as `audit.{column}`"));
                return None;
            };
            let around = format!("{before}x{after}");
            if after.contains(['{', '}']) {
                let found = Diagnostic::error("topic-name", "a topic's name can contain only one `{column}`").at(["topic"]);
                wrong.push(found.help("compute the whole name in a `map` step, and write `topic: \"{name}\"`"));
            } else {
                wrong.extend(not_a_topic(&around).map(|found| found.at(["topic"])));
            }
            match Path::resolve_column(column, schema.fields()).map(|f| f.data_type()) {
                Some(DataType::Utf8) => {}
                Some(other) => wrong.push(
                    Diagnostic::error("topic-name", format!("`{column}` is {}, but a topic's name needs a text", type_name(other)))
                        .at(["topic"]),
                ),
                None => wrong.push(unknown_sink_column(column, schema).at(["topic"])),
            }
            TopicName::Column(before.into(), named(column), after.into())
        }
    };
    let optional = |column: &Option<String>| column.as_ref().map(|text| named(text));
    let subject = sink.subject.clone().unwrap_or_else(|| format!("{topic}-value"));
    let layout = match schema.project(&sink.format.written(schema)) {
        Ok(columns) => sink.format.check(&Rows { columns: &Arc::new(columns), subject: &subject, topic, catalog }),
        Err(_) => Ok(Layout::default()),
    };
    let layout = layout.unwrap_or_else(|found| {
        wrong.push(found);
        Layout::default()
    });
    let (partitions, create) = match &topic_name {
        TopicName::Fixed(name) => existing(sink, name, catalog, wrong),
        TopicName::Column(..) => (None, sink.create.as_ref().map(|_| topic_spec(sink, topic))),
    };
    let compacted = compacted(sink, &topic_name, catalog);
    if compacted {
        null_key(sink, schema, wrong);
    }
    Some(Target::Topic(TopicSink {
        topic: topic_name,
        partitions,
        format: sink.format.clone(),
        event: sink.event.filter(|_| sink.format.shapes_events()),
        layout,
        subject,
        key: key::of_sink(sink, topic, schema, catalog, wrong),
        timestamp: optional(&sink.timestamp),
        partition: optional(&sink.partition),
        headers: sink.headers,
        set_headers: set_headers(sink, schema, wrong),
        create,
        compacted,
    }))
}

/// The headers that a sink sets, and the columns of their values.
fn set_headers(sink: &TopicTarget, schema: &SchemaRef, wrong: &mut Vec<Diagnostic>) -> Vec<(String, String)> {
    let mut set = Vec::new();
    for (name, text) in &sink.set_headers {
        if name.is_empty() || name.starts_with("hw-") {
            let found = Diagnostic::error("header-name", format!("`{name}` is not a valid name for a header"));
            wrong.push(found.at(["set_headers", name]).key().help("use a name that is not empty and does not start with `hw-`"));
        }
        match Path::resolve_column(text, schema.fields()) {
            None => wrong.push(unknown_sink_column(text, schema).at(["set_headers", name])),
            Some(field) if matches!(field.data_type(), DataType::Utf8 | DataType::Binary) => set.push((name.clone(), field.name().clone())),
            Some(field) => {
                let message = format!("`{text}` is {}, but a header's value is a text or bytes", type_name(field.data_type()));
                let help = format!("add a text column in a `map` step: `CAST({} AS VARCHAR)`", in_sql(field.name()));
                wrong.push(Diagnostic::error("header-type", message).at(["set_headers", name]).help(help));
            }
        }
    }
    set
}

/// As the topic is, or else as it is to be made.
fn compacted(sink: &TopicTarget, topic: &TopicName, catalog: &dyn Catalog) -> bool {
    let known = match topic {
        TopicName::Fixed(name) => catalog.topic_config(name),
        TopicName::Column(..) => Vec::new(),
    };
    match &sink.create {
        Some(create) if known.is_empty() => is_compacted(&create.config),
        _ => is_compacted(known.iter().map(|(name, value)| (name, value))),
    }
}

/// Brokers refuse records without a key for a compacted topic.
fn null_key(sink: &TopicTarget, schema: &SchemaRef, wrong: &mut Vec<Diagnostic>) {
    let key = match &sink.key {
        None => {
            let found = Diagnostic::error("null-key", "the topic is compacted, so every record needs a key");
            wrong.push(found.at(["topic"]).help("set the column to use as the key: `key: id`"));
            return;
        }
        // A record with nulls is a key.
        Some(Key::Columns(_) | Key::Record(_)) => return,
        Some(Key::Column(key)) => Path::resolve(key, schema.fields()).ok(),
    };
    let nullable = |path: &Path| path.nullable_field(schema.fields()).is_some_and(|field| field.is_nullable());
    if let Some(key) = key.filter(nullable) {
        let sql = key.names().map(in_sql).collect::<Vec<_>>().join(".");
        let message = format!("`{key}` can be null, and the topic is compacted: rows without a key become dead letters");
        let help = format!("filter out rows without a key: `filter: {sql} IS NOT NULL`, or compute a key that is never null");
        wrong.push(Diagnostic::warning("null-key", message).at(["key"]).help(help));
    }
}

/// Why Kafka has no topic of this name, if so. Room is left for the `.dlq` of its dead letters.
pub(super) fn not_a_topic(name: &str) -> Option<Diagnostic> {
    let sign = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let possible = !name.is_empty() && name.len() <= 245 && name.chars().all(sign) && !matches!(name, "." | "..");
    let found = || Diagnostic::error("topic-name", format!("`{name}` is not a valid topic name"));
    (!possible).then(|| found().help("use letters, digits, `.`, `_` and `-`, at most 245"))
}

fn topic_spec(sink: &TopicTarget, topic: &str) -> TopicSpec {
    let (partitions, replication, config) = match &sink.create {
        Some(create) => (create.partitions, create.replication, create.config.clone()),
        None => (1, None, Default::default()),
    };
    TopicSpec { name: topic.to_string(), partitions, replication, config: config.into_iter().collect() }
}

fn existing(sink: &TopicTarget, topic: &str, catalog: &dyn Catalog, wrong: &mut Vec<Diagnostic>) -> (Option<i32>, Option<TopicSpec>) {
    match catalog.partitions(topic) {
        Ok(Some(n)) => (Some(n), None),
        Ok(None) => match &sink.create {
            Some(create) => (Some(create.partitions), Some(topic_spec(sink, topic))),
            None => {
                wrong.push(
                    Diagnostic::error("unknown-topic", format!("the topic `{topic}` does not exist"))
                        .at(["topic"])
                        .help("create it, or let the pipeline create it: `create: { partitions: 6 }`"),
                );
                (None, None)
            }
        },
        Err(e) => {
            wrong.push(Diagnostic::error("broker", e).at(["topic"]));
            (None, None)
        }
    }
}
