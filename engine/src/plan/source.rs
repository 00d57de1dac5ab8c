//! What sources and tables look like: topics, reader schemas, columns, event time.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use operator_core::batch::{self, system_fields};
use operator_core::diagnostic::{THE_KEY, did_you_mean};
use operator_core::path::{in_sql, unknown_column};
use operator_core::{Diagnostic, InputInfo, Mode, Path, type_name};

use super::record::RecordColumns;
use super::sink::not_a_topic;
use super::{Catalog, Decode, InputKind, InputTopic, Metadata, StageInput, TablePlan, TimeSource, changes, key, record_types};
use crate::format::declared::DATA;
use crate::format::{Content, Layout, Values};
use crate::partitioner::Partitioner;
use crate::pipeline::{Format, Key, Source, Table};
use crate::record_types::Types;

/// Plans a source. `record`: the columns about the record itself that its rows get.
pub(super) fn source(
    name: &str,
    source: &Source,
    catalog: &dyn Catalog,
    record: &RecordColumns,
) -> Result<(StageInput, Vec<Diagnostic>), Vec<Diagnostic>> {
    let topics = topics(source, catalog).map_err(|d| vec![d])?;
    let types = record_types::of_source(source, &topics, catalog).map_err(|d| vec![d])?;
    let (inputs, value) = values(source, &topics, types.as_ref(), catalog).map_err(|d| vec![d])?;
    let (metadata, headers) = (record.metadata(), record.headers());
    let time = time_of(source, &value, types.as_ref()).map_err(|d| vec![d])?;
    let changes = match source.format.content() {
        Content::Change => Some(changes::key_of(source, &value).map_err(|d| vec![d])?),
        _ => None,
    };
    let (key, codec) = match &changes {
        Some(key) => (Some(key.clone()), None),
        None => key_of(source, &topics, &value, types.as_ref(), catalog).map_err(|d| vec![d])?,
    };
    let key = key.filter(|_| source.partitioner != Some(Partitioner::Unknown));
    // Where it is not known that all changes of a row are in one partition, they have no order, and nothing can be kept by key.
    let row_time = matches!(time, TimeSource::Column(_));
    let mode = changes.as_ref().map_or(Mode::Append, |_| Mode::Changes { key: key.clone().unwrap_or_default(), row_time });
    let value = changes.as_ref().map_or(value.clone(), |key| changes::with_key(&value, key));
    let mut warnings = Vec::new();
    if source.time.idle.0.is_some_and(|idle| idle.0 < 1_000) {
        warnings.push(
            Diagnostic::warning("short-idle", "with `idle` under a second, rows are late after every short pause").at(["time", "idle"]),
        );
    }
    let mut fields: Vec<Arc<Field>> = value.fields().iter().cloned().collect();
    fields.extend(metadata.iter().map(|m| {
        let field = m.field();
        let of = codec.as_ref().filter(|_| *m == Metadata::Key).map(|codec| DataType::Struct(codec.columns.fields().clone()));
        Arc::new(of.map_or_else(|| field.clone(), |of| field.clone().with_data_type(of)))
    }));
    fields.extend(system_fields().map(Arc::new));
    fields.extend(changes.iter().map(|_| Arc::new(operator_core::changes::field())));
    if headers {
        fields.push(Arc::new(Field::new(batch::HEADERS, DataType::Binary, true)));
    }
    let decode = Decode {
        format: source.format.clone(),
        value,
        metadata,
        key: codec,
        types,
        changes,
        time,
        out_of_order: source.time.out_of_order.millis(),
        idle: source.time.idle.0.map(|s| s.millis()),
        max_future: source.time.max_future.millis(),
        wrong_unit: source.time.wrong_unit,
        partitioner: source.partitioner.unwrap_or_default(),
        relied_on_by: None,
        start: source.start,
        pattern: source.pattern.is_some(),
        null_values: source.null_values,
        headers,
    };
    let input = StageInput {
        name: name.to_string(),
        topics: inputs,
        kind: InputKind::Source(decode),
        schema: Arc::new(Schema::new(fields)),
        key,
        mode,
    };
    Ok((input, warnings))
}

/// The topics of a source, and the columns of their values.
fn values(
    source: &Source,
    topics: &[String],
    types: Option<&Types>,
    catalog: &dyn Catalog,
) -> Result<(Vec<InputTopic>, SchemaRef), Diagnostic> {
    let (mut inputs, mut values): (Vec<InputTopic>, Vec<SchemaRef>) = Default::default();
    for topic in topics {
        let partitions = match catalog.partitions(topic) {
            Ok(Some(n)) => n,
            Ok(None) => return Err(missing_topic(topic, catalog)),
            Err(e) => return Err(Diagnostic::error("broker", e).at(["topic"])),
        };
        if let Some(types) = types {
            values.push(types.value());
            inputs.push(InputTopic::new(topic.as_str(), partitions, Layout::default()));
            continue;
        }
        let subject = source.subject.clone().unwrap_or_else(|| format!("{topic}-value"));
        let event = source.format.envelope(source.event, source.schema.is_some());
        let of = Values { declared: source.schema.as_ref(), event, subject: &subject, catalog };
        let layout = source.format.layout(&of)?;
        if event.is_some() {
            envelope_complete(&layout.columns, topic)?;
        }
        values.push(layout.columns.clone());
        inputs.push(InputTopic::new(topic.as_str(), partitions, layout));
    }
    let value: SchemaRef = match values.as_slice() {
        [] => return Err(Diagnostic::error("no-topic", "no topic matches").at(["pattern"]).help("`*` stands for any characters")),
        [one] => one.clone(),
        several => Arc::new(Schema::new(merge(&several.iter().map(|schema| schema.fields()).collect::<Vec<_>>()))),
    };
    if let Some(field) = value.fields().iter().find(|f| !batch::is_written(f.name()) && types.is_none()) {
        let found =
            Diagnostic::error("reserved-column", format!("the records have a column `{}`, a name reserved for the engine", field.name()));
        let at = if source.schema.is_some() { vec!["schema", field.name(), THE_KEY] } else { vec!["format"] };
        return Err(found.at(at).help("names that start with `_` are reserved for the engine; rename the field in the producer"));
    }
    Ok((inputs, value))
}

/// Where event time comes from, in every type if there are several.
fn time_of(source: &Source, value: &SchemaRef, types: Option<&Types>) -> Result<TimeSource, Diagnostic> {
    match types {
        None => time(source, value),
        Some(types) => record_types::in_every_type(types, &["time", "field"], |of| {
            let found = time(source, &of.layout.columns)?;
            let of_column = |path: &Path| path.field(of.layout.columns.fields()).map(|field| field.data_type().clone());
            let data_type = if let TimeSource::Column(path) = &found { of_column(path) } else { None };
            Ok((found, data_type.into_iter().collect()))
        })
        .map(|time| time.unwrap_or(TimeSource::Record)),
    }
}

/// The columns that are the record's key, in every type if there are several.
fn key_of(
    source: &Source,
    topics: &[String],
    value: &SchemaRef,
    types: Option<&Types>,
    catalog: &dyn Catalog,
) -> Result<key::SourceKey, Diagnostic> {
    match (types, &source.key) {
        (Some(types), Some(Key::Column(_) | Key::Columns(_))) => record_types::in_every_type(types, &["key"], |of| {
            let (key, _) = key::of_source(source, topics, of.layout.columns.fields(), catalog)?;
            let of_column = |path: &Path| path.field(of.layout.columns.fields()).map(|field| field.data_type().clone());
            let data_types = key.iter().flatten().filter_map(of_column).collect();
            Ok((key, data_types))
        })
        .map(|key| (key.flatten(), None)),
        _ => key::of_source(source, topics, value.fields(), catalog),
    }
}

/// The schema a step sees of a source.
pub fn input_of(stage_input: &StageInput) -> InputInfo {
    InputInfo { schema: stage_input.schema.clone(), key: stage_input.key.clone(), mode: stage_input.mode.clone() }
}

/// How long replaced rows are kept where some join looks them up as of event time, unless the table says otherwise.
pub(super) const DEFAULT_HISTORY: i64 = 7 * 86_400_000;

/// Plans a table.
pub fn table(name: &str, table: &Table, catalog: &dyn Catalog) -> Result<TablePlan, Diagnostic> {
    if table.format.is_raw() {
        let known = Format::names_of(|content| !matches!(content, Content::Value(_)));
        let found = Diagnostic::error("table-format", format!("a table's `format` is {known}")).at(["format"]);
        return Err(found.help("choose one of them, or read the topic as a source"));
    }
    let partitions = match catalog.partitions(&table.topic) {
        Ok(Some(n)) => n,
        Ok(None) => return Err(missing_topic(&table.topic, catalog)),
        Err(e) => return Err(Diagnostic::error("broker", e).at(["topic"])),
    };
    let subject = table.subject.clone().unwrap_or_else(|| format!("{}-value", table.topic));
    let of = Values { declared: table.schema.as_ref(), event: None, subject: &subject, catalog };
    let layout = table.format.layout(&of)?;
    let schema = layout.columns.clone();
    let column = |key: &'static str, text: &str| {
        Path::resolve_column(text, schema.fields()).ok_or_else(|| unknown_column(text, schema.fields()).at([key]))
    };
    let (key, codec) = key::of_table(table, &schema, catalog)?;
    let time = table.time.as_ref().map(|time| column("time", time)).transpose()?;
    if let Some(wrong) = time.filter(|field| !matches!(field.data_type(), DataType::Timestamp(_, _) | DataType::Int64)) {
        return Err(time_type_error(wrong.name(), wrong.data_type()).at(["time"]));
    }
    let time = time.map(|field| field.name().clone());
    Ok(TablePlan {
        name: name.to_string(),
        topic: InputTopic::new(table.topic.as_str(), partitions, layout),
        format: table.format.clone(),
        schema,
        key,
        codec,
        time,
        history: table.history.map(|h| h.millis()),
    })
}

fn topics(source: &Source, catalog: &dyn Catalog) -> Result<Vec<String>, Diagnostic> {
    let named = |names: &[String]| match names.iter().find_map(|name| not_a_topic(name)) {
        Some(found) => Err(found.at([if source.topic.is_some() { "topic" } else { "topics" }])),
        None => Ok(names.to_vec()),
    };
    match (&source.topic, &source.topics, &source.pattern) {
        (Some(topic), None, None) => named(std::slice::from_ref(topic)),
        (None, Some(topics), None) if !topics.is_empty() => named(topics),
        (None, None, Some(pattern)) => {
            let all = catalog.topics().map_err(|e| Diagnostic::error("broker", e).at(["pattern"]))?;
            let expression = format!("^{}$", regex::escape(pattern).replace("\\*", ".*"));
            let matcher = regex::Regex::new(&expression).map_err(|e| Diagnostic::error("pattern", e.to_string()).at(["pattern"]))?;
            let mut found: Vec<String> =
                all.into_iter().filter(|t| matcher.is_match(t) && !t.ends_with(".dlq") && !t.starts_with("hw.")).collect();
            found.sort();
            let needs_no_topic = source.schema.is_some() || source.subject.is_some() || source.format.is_raw();
            if found.is_empty() && catalog.is_offline() && needs_no_topic {
                return Ok(vec![pattern.clone()]);
            }
            if found.is_empty() {
                let known = match catalog.is_offline() {
                    true => "; without a cluster, only topics with a schema in the schemas folder are known",
                    false => "",
                };
                return Err(Diagnostic::error("no-topic", format!("no topic matches `{pattern}`"))
                    .at(["pattern"])
                    .help(format!("`*` stands for any characters; dead letters and `hw.` topics never match{known}")));
            }
            Ok(found)
        }
        _ => Err(Diagnostic::error("source-topics", "a source reads exactly one of `topic`, `topics` or `pattern`")
            .help("write `topic: business.orders.created`, `topics: [..]` or `pattern: business.orders.*`")),
    }
}

fn missing_topic(topic: &str, catalog: &dyn Catalog) -> Diagnostic {
    let found = Diagnostic::error("unknown-topic", format!("the topic `{topic}` does not exist")).at(["topic"]);
    let topics = catalog.topics().unwrap_or_default();
    match did_you_mean(topic, topics.iter().map(String::as_str)) {
        Some(help) => found.help(help),
        None => found.help("create it, or check the name and the cluster"),
    }
}

pub(super) fn envelope_complete(schema: &Schema, topic: &str) -> Result<(), Diagnostic> {
    let Some(name) = lacks_of_envelope(schema) else { return Ok(()) };
    let message = format!("the schema of `{topic}` is not an event envelope: it has no `{name}`");
    Err(Diagnostic::error("envelope", message).at(["event"]).help("remove `event` if the records have no envelope"))
}

/// A column that every event has, and these rows don't.
pub(super) fn lacks_of_envelope(schema: &Schema) -> Option<&'static str> {
    ["eventId", "eventType", "timestamp", DATA].into_iter().find(|name| schema.field_with_name(name).is_err())
}

/// The columns that some of the schemas have: nullable where one lacks them, left out where types disagree.
fn merge(schemas: &[&Fields]) -> Fields {
    let mut merged: Vec<Arc<Field>> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for name in schemas.iter().flat_map(|fields| fields.iter()).map(|field| field.name()) {
        if !seen.insert(name) {
            continue;
        }
        let same: Vec<&Arc<Field>> = schemas.iter().filter_map(|fields| fields.iter().find(|f| f.name() == name)).collect();
        let nullable = same.len() < schemas.len() || same.iter().any(|f| f.is_nullable());
        let records: Vec<&Fields> =
            same.iter().filter_map(|f| if let DataType::Struct(fields) = f.data_type() { Some(fields) } else { None }).collect();
        let Some(first) = same.first() else { continue };
        if records.len() == same.len() {
            merged.push(Arc::new(Field::new(name, DataType::Struct(merge(&records)), nullable)));
        } else if same.iter().all(|f| f.data_type() == first.data_type()) {
            merged.push(Arc::new(first.as_ref().clone().with_nullable(nullable)));
        }
    }
    merged.into()
}

fn time(source: &Source, value: &Schema) -> Result<TimeSource, Diagnostic> {
    let of_record = if source.format.content() == Content::Change { TimeSource::Change } else { TimeSource::Record };
    let Some(name) = &source.time.field else { return Ok(of_record) };
    let at = |found: Diagnostic| found.at(["time", "field"]);
    let path = Path::resolve(name, value.fields()).map_err(at)?;
    match path.field(value.fields()).map(|field| field.data_type()) {
        Some(other) if !matches!(other, DataType::Timestamp(_, _) | DataType::Int64) => Err(at(time_type_error(name, other))),
        _ => Ok(TimeSource::Column(path)),
    }
}

fn time_type_error(name: &str, found: &DataType) -> Diagnostic {
    Diagnostic::error("time-type", format!("`{name}` is {}, not a timestamp", type_name(found)))
        .help("use a timestamp column, or a long of milliseconds since 1970")
}

/// A column that a sink needs by itself: a field of a record is not one.
pub fn unknown_sink_column(name: &str, schema: &Schema) -> Diagnostic {
    match Path::resolve(name, schema.fields()) {
        Ok(path) => {
            let (last, sql) = (path.last(), path.names().map(in_sql).collect::<Vec<_>>().join("."));
            Diagnostic::error("unknown-column", format!("`{name}` is a field, not a column"))
                .help(format!("make it a column in a `map` step: `add: {{ {last}: {sql} }}`, and write `{last}` here"))
        }
        Err(unknown) => unknown,
    }
}
