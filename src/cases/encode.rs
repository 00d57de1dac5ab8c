//! Encodes a case's lines as producers would, and decodes records into the lines of a case's files.

use std::collections::BTreeMap;

use headwater_engine::format;
use headwater_engine::pipeline::{Format, Pipeline};
use headwater_engine::plan::{InputKind, KeyCodec, Plan, TopicSink};
use headwater_engine::record_types::{By, RecordType};
use headwater_engine::sim::Header;
use operator_core::{Millis, Path};
use serde_json::Value;

use super::files::Case;
use super::line::{Content, Line, Record, SchemaName, What, Wrong, shown};
use super::shape::{Shape, shape};
use crate::cases::json_rows;
use crate::pipeline_files::catalog::Folder;

/// Id of the first schema that inputs are written with.
const SCHEMA_ID: u32 = 1;

/// What happens in a case, in order.
#[derive(Clone)]
pub enum Step {
    Record(Input),
    Advance(Millis),
}

/// A record to be written.
#[derive(Clone)]
pub struct Input {
    pub topic: String,
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    pub timestamp: Option<Millis>,
    pub table: bool,
}

/// A case's input, encoded.
pub struct Records {
    pub steps: Vec<Step>,
    /// Writer schemas by id.
    pub schemas: Vec<(u32, String)>,
    /// What the clock shows at the start: then no record names a time that the clock has not reached when it comes, whatever `@at` and
    /// `@advance` say.
    pub latest: Millis,
}

impl Records {
    /// The same, with its first steps only.
    pub fn first(&self, steps: usize) -> Records {
        Records { steps: self.steps.iter().take(steps).cloned().collect(), schemas: self.schemas.clone(), latest: self.latest }
    }
}

/// The row that a record is about.
fn row<'v>(format: &Format, value: &'v Value) -> &'v Value {
    if format.content() != format::Content::Change {
        return value;
    }
    let change = change(value);
    changed_row(change).unwrap_or(change)
}

/// The row that a change is about: the new one or, if it was deleted, the old one.
pub(crate) fn changed_row(change: &Value) -> Option<&Value> {
    ["after", "before"].into_iter().filter_map(|side| change.get(side)).find(|row| row.is_object())
}

/// A change without the schema beside it.
fn change(value: &Value) -> &Value {
    value.get("payload").filter(|_| value.get("schema").is_some()).unwrap_or(value)
}

/// Encodes the records of a case.
struct Encoder<'a> {
    plan: &'a Plan,
    pipeline: &'a Pipeline,
    folder: &'a Folder,
    shapes: BTreeMap<String, Shape>,
    /// Writer schemas; the index of one is its id.
    schemas: Vec<String>,
}

/// Encodes the lines of a case as the pipeline's sources and tables read them.
///
/// # Errors
/// Every line that can't be encoded, with its place.
pub fn records(plan: &Plan, pipeline: &Pipeline, folder: &Folder, case: &Case) -> Result<Records, Vec<String>> {
    let mut encoder = Encoder { plan, pipeline, folder, shapes: BTreeMap::new(), schemas: Vec::new() };
    let (mut timeline, mut latest, mut wrong) = (Vec::new(), 0, Vec::new());
    let mut end = 0;
    for file in &case.inputs {
        let mut now: Millis = 0;
        for line in &file.lines {
            match line.at {
                Some(at) if at < now => {
                    wrong.push(line.wrong(&Wrong("@at", "`@at` is before that of an earlier line: lines are in order of time".into())))
                }
                Some(at) => now = at,
                None => {}
            }
            match &line.what {
                What::Advance(span) => now = now.saturating_add(*span),
                What::Record(record) => {
                    let topic = file.topic.as_deref().or(line.topic.as_deref()).unwrap_or_default();
                    match encoder.input(topic, record) {
                        Ok(input) => {
                            latest = latest.max(input.timestamp.unwrap_or(0).saturating_sub(now));
                            // Tables first, unless their own file sets the time.
                            timeline.push((now, !(input.table && file.topic.is_some()), input));
                        }
                        Err(e) => wrong.push(line.wrong(&e)),
                    }
                }
            }
        }
        end = end.max(now);
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    // Files are read concurrently: the sort keeps the order within each.
    timeline.sort_by_key(|(at, later, _)| (*at, *later));
    let (mut steps, mut now) = (Vec::new(), 0);
    for (at, _, input) in timeline {
        if at > now {
            steps.push(Step::Advance(at - now));
            now = at;
        }
        steps.push(Step::Record(input));
    }
    if end > now {
        steps.push(Step::Advance(end - now));
    }
    let schemas = encoder.schemas.into_iter().enumerate().map(|(at, text)| (SCHEMA_ID + at as u32, text)).collect();
    Ok(Records { steps, schemas, latest })
}

impl Encoder<'_> {
    fn input(&mut self, topic: &str, record: &Record) -> Result<Input, Wrong> {
        if !self.shapes.contains_key(topic) {
            let unknown = || Wrong("@topic", format!("can't read the schema of `{topic}`"));
            let shape = shape(self.plan, self.pipeline, topic).ok_or_else(unknown)?;
            // The first ids are those of the topics, in the order of the files.
            let of_types = shape.types.iter().flat_map(|types| &types.types).map(|of| &of.layout);
            let layouts = std::iter::once(&shape.layout).chain(of_types).chain(shape.codec.as_ref().map(|codec| &codec.layout));
            for text in layouts.filter_map(|layout| layout.registered.as_ref()) {
                schema_id(&mut self.schemas, text);
            }
            self.shapes.insert(topic.to_string(), shape);
        }
        let Some(shape) = self.shapes.get(topic) else { return Err(Wrong("@topic", format!("no source or table reads `{topic}`"))) };
        let of_type = of_type(shape, record)?;
        let writer = writer(shape, of_type, record.schema.as_ref(), self.folder, &mut self.schemas)?;
        let of_row = match &record.value {
            Content::Json(value) => Some(row(&shape.format, value)),
            _ => None,
        };
        let at = |path: &Option<Path>| path.as_ref().and_then(|path| path.names().try_fold(of_row?, |value, name| value.get(name)));
        let key = key(shape, record, &mut self.schemas).map_err(|e| Wrong("@key", e))?;
        let of_change = match &record.value {
            Content::Json(value) if shape.format.content() == format::Content::Change => change(value).get("ts_ms"),
            _ => None,
        };
        let event_time = at(&shape.time).or(of_change).and_then(|time| {
            let whole = |time: f64| (time.fract() == 0.0).then_some(time as Millis);
            let number = time.as_i64().or_else(|| time.as_f64().and_then(whole));
            number.or_else(|| chrono::DateTime::parse_from_rfc3339(time.as_str()?).ok().map(|time| time.timestamp_millis()))
        });
        if shape.table && key.is_none() {
            return Err(Wrong("@key", "a record of a table needs a key: `@key`, or the column of the table's `key`".into()));
        }
        let value = match &record.value {
            Content::Nothing => None,
            Content::Raw(bytes) => {
                let id = record.schema.as_ref().and(writer.as_ref()).map(|(id, _)| *id);
                Some(id.map_or_else(|| bytes.clone(), |id| with_id(id, bytes)))
            }
            Content::Json(value) => Some(encode(shape, of_type, writer.as_ref(), value).map_err(|e| Wrong("@value", e))?),
        };
        let partition = match record.partition {
            Some(partition) if !(0..shape.partitions).contains(&partition) => {
                let help = "set more in `cases/topics.yaml`";
                return Err(Wrong("@partition", format!("`{topic}` has {} partitions; {help}", shape.partitions)));
            }
            Some(partition) => partition,
            None => key.as_ref().map_or(0, |key| shape.partitioner.partition(key, shape.partitions)),
        };
        let timestamp = record.timestamp.or(event_time);
        let mut headers = record.headers.clone();
        if let (Some(of), Some(By::Header(name))) = (of_type, shape.types.as_ref().map(|types| &types.by)) {
            headers.push((name.clone().into_bytes(), Some(of.is.clone().into_bytes())));
        }
        Ok(Input { topic: topic.to_string(), partition, key, value, headers, timestamp, table: shape.table })
    }
}

/// The type that a line gives its record.
fn of_type<'s>(shape: &'s Shape, record: &Record) -> Result<Option<&'s RecordType>, Wrong> {
    let wrong = |what: String| Err(Wrong("@type", what));
    let Some(types) = &shape.types else {
        return if record.of_type.is_some() { wrong("the source has no `types`".into()) } else { Ok(None) };
    };
    let known = || types.types.iter().map(|of| of.name.as_str()).collect::<Vec<_>>().join(", ");
    match (&record.of_type, &types.by) {
        (Some(_), By::Field(path)) => wrong(format!("the type of these records is in their value, at `{path}`")),
        (Some(name), _) => match types.types.iter().find(|of| of.name == *name) {
            Some(of) => Ok(Some(of)),
            None => wrong(format!("the source has no type `{name}`: use {}", known())),
        },
        (None, By::RecordName) if record.schema.is_none() && matches!(record.value, Content::Json(_)) => {
            wrong(format!("a record of this topic needs `@type`: {}", known()))
        }
        (None, By::Field(path)) => {
            let Content::Json(value) = &record.value else { return Ok(None) };
            let is = path.names().try_fold(value, |value, name| value.get(name)).and_then(Value::as_str);
            Ok(types.types.iter().find(|of| Some(of.is.as_str()) == is))
        }
        (None, _) => Ok(None),
    }
}

/// The id of a writer schema, new or known.
fn schema_id(schemas: &mut Vec<String>, text: &str) -> u32 {
    let at = schemas.iter().position(|known| known == text).unwrap_or_else(|| {
        schemas.push(text.to_string());
        schemas.len() - 1
    });
    SCHEMA_ID + at as u32
}

/// The id of the schema that a record is written with and, if there is such a schema, its text. `None`: without any.
fn writer(
    shape: &Shape,
    of_type: Option<&RecordType>,
    named: Option<&SchemaName>,
    folder: &Folder,
    schemas: &mut Vec<String>,
) -> Result<Option<(u32, Option<String>)>, Wrong> {
    let wrong = |what: String| Err(Wrong("@schema", what));
    let (layout, subject) = of_type.map_or((&shape.layout, &shape.subject), |of| (&of.layout, &of.subject));
    match (named, &layout.registered) {
        (None, own) => Ok(own.as_ref().map(|text| (schema_id(schemas, text), Some(text.to_string())))),
        (Some(_), None) if !shape.format.is_registered() => wrong(format!("values in `{}` have no registered schema", shape.format.name())),
        (Some(SchemaName::Id(id)), _) => {
            let known = (*id as usize).checked_sub(SCHEMA_ID as usize).and_then(|at| schemas.get(at)).cloned();
            Ok(Some((*id, known)))
        }
        (Some(SchemaName::Version(of, version)), _) => {
            let subject = of.as_ref().unwrap_or(subject);
            match folder.version(subject, *version) {
                Some(text) => Ok(Some((schema_id(schemas, text), Some(text.to_string())))),
                None => wrong(format!("the folder of schemas has no {subject}/v{version}.avsc")),
            }
        }
    }
}

/// The key of a record: as the line has it, or from the columns of its value.
fn key(shape: &Shape, record: &Record, schemas: &mut Vec<String>) -> Result<Option<Vec<u8>>, String> {
    let codec = shape.codec.as_ref();
    let mut encode = |codec: &KeyCodec, json: &str| {
        let id = codec.layout.registered.as_ref().map_or(0, |text| schema_id(schemas, text));
        codec.format.encode_json(json, &codec.layout, id)
    };
    match (&record.key, codec) {
        (Some(Some(json)), Some(codec)) if record.key_is_record => {
            return encode(codec, std::str::from_utf8(json).map_err(|e| e.to_string())?).map(Some);
        }
        (Some(key), _) => return Ok(key.clone()),
        (None, _) => {}
    }
    let Content::Json(value) = &record.value else { return Ok(None) };
    let value = row(&shape.format, value);
    let of = |path: &Path| path.names().try_fold(value, |value, name| value.get(name)).filter(|value| !value.is_null());
    let record: Option<serde_json::Map<String, Value>> =
        shape.key.iter().map(|path| Some((path.last().to_string(), of(path)?.clone()))).collect();
    let Some(record) = record.filter(|record| !record.is_empty()) else { return Ok(None) };
    match (record.values().next(), codec, record.len()) {
        (Some(one), None, 1) => Ok(Some(one.as_str().map_or_else(|| one.to_string(), str::to_string).into_bytes())),
        (_, None, _) => Ok(Some(Value::Object(record).to_string().into_bytes())),
        (_, Some(codec), _) => encode(codec, &Value::Object(record).to_string()).map(Some),
    }
}

/// The key of a record that a sink wrote, as a case has it: a record as JSON.
pub fn decode_key(sink: &TopicSink, key: Vec<u8>) -> Result<Vec<u8>, String> {
    let Some(codec) = sink.key.as_ref().and_then(|key| key.codec.as_ref()) else { return Ok(key) };
    Ok(codec.format.decode_json(&key, &codec.layout)?.map_or(key, String::into_bytes))
}

/// Bytes behind the header of the wire format of schema registries.
fn with_id(id: u32, bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), bytes].concat()
}

/// The rows of a case that a source reads, columns of the value only, and what of the case it can't read.
pub fn source_rows(plan: &Plan, source: Option<&str>, case: &Case) -> Result<(json_rows::Rows, Vec<String>), String> {
    let inputs = plan.stages.iter().flat_map(|stage| &stage.inputs).filter(|i| matches!(i.kind, InputKind::Source(_)));
    let input = inputs.clone().find(|input| source.is_none_or(|name| name == input.name));
    let Some(input) = input else {
        let names: Vec<&str> = inputs.map(|input| input.name.as_str()).collect();
        return Err(format!("there is no source `{}`; the sources are {}", source.unwrap_or_default(), names.join(", ")));
    };
    let InputKind::Source(decode) = &input.kind else { return Err("not a source".into()) };
    if let Some(types) = &decode.types {
        let ports = types.types.iter().map(|of| format!("{}.{}", input.name, of.name)).collect::<Vec<_>>().join(", ");
        return Err(format!("`{}` has records of several types, {ports}: give the columns and the rows of one", input.name));
    }
    let of_source = case.records().filter(|(topic, _)| input.topics.iter().any(|t| t.name.as_ref() == *topic));
    let json = |line: &Line| match &line.what {
        What::Record(record) => {
            if let Content::Json(value) = &record.value {
                Some(row(&decode.format, value).clone())
            } else {
                None
            }
        }
        What::Advance(_) => None,
    };
    let values = of_source.filter_map(|(_, line)| json(line));
    json_rows::decode(&decode.value, &values.collect::<Vec<_>>()).map_err(|e| format!("case {}: {e}", case.name))
}

/// `writer`: id and text of the registered schema.
fn encode(shape: &Shape, of_type: Option<&RecordType>, writer: Option<&(u32, Option<String>)>, value: &Value) -> Result<Vec<u8>, String> {
    let (id, registered) = match writer {
        Some((id, None)) => return Err(format!("no schema has the id {id}; to test that, write the record's bytes as `@raw`")),
        Some((id, Some(text))) => (*id, Some(text.as_str().into())),
        None => (0, None),
    };
    if shape.table && shape.format.content() == format::Content::Row && registered.is_none() {
        // The pipeline counts and skips such a record; in a case it is most likely a typo.
        let (_, refused) = json_rows::decode(&shape.schema, std::slice::from_ref(value))?;
        if let Some(why) = refused.first().map(|e| e.trim_start_matches("row 1: ")) {
            return Err(format!("the table can't decode it and would skip it: {why}. To test that, write it as `@raw`"));
        }
    }
    let layout = of_type.map_or(&shape.layout, |of| &of.layout).with(registered);
    shape.format.encode_json(&value.to_string(), &layout, id)
}

/// The value of a record that a sink wrote.
pub fn decode(sink: &TopicSink, value: &[u8]) -> Result<Value, String> {
    let json = sink.format.decode_json(value, &sink.layout)?;
    json.map_or_else(|| Ok(shown(value)), |json| serde_json::from_str(&json).map_err(|e| e.to_string()))
}
