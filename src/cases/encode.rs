//! From a case's lines to records as producers write them, and from records to what a case's files show.

use arrow::datatypes::SchemaRef;
use headwater_engine::pipeline::{Format, Pipeline};
use headwater_engine::plan::{InputKind, Plan, TimeSource, TopicSink};
use headwater_formats::{AvroDecoder, AvroEncoder, AvroReader, JsonDecoder, RowBuilder, avro_to_arrow};
use operator_core::Millis;
use serde_json::Value;

use super::files::{Case, Content, Line};
use crate::samples;

/// Id of every schema that inputs are written with.
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
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: Option<Millis>,
    pub table: bool,
}

/// A case's input, encoded.
pub struct Records {
    pub steps: Vec<Step>,
    /// Writer schemas by id.
    pub schemas: Vec<(u32, String)>,
    /// The latest time that any record names: what the clock shows at the start.
    pub latest: Millis,
}

impl Records {
    /// The same, with its first steps only.
    pub fn first(&self, steps: usize) -> Records {
        Records { steps: self.steps.iter().take(steps).cloned().collect(), schemas: self.schemas.clone(), latest: self.latest }
    }
}

/// How the values of a topic are written.
struct Shape {
    format: Format,
    schema: SchemaRef,
    avro: Option<(u32, String)>,
    key: Option<Vec<String>>,
    time: Option<Vec<String>>,
    table: bool,
}

/// Encodes the lines of a case as the pipeline's sources and tables read them.
pub fn records(plan: &Plan, pipeline: &Pipeline, case: &Case) -> Result<Records, String> {
    let mut records = Records { steps: Vec::new(), schemas: Vec::new(), latest: 0 };
    for (topic, lines) in &case.inputs {
        let mut shape = shape(plan, pipeline, topic).ok_or_else(|| format!("in.{topic}.jsonl: its schema can't be read"))?;
        if let Some((id, text)) = &mut shape.avro {
            *id = SCHEMA_ID + records.schemas.len() as u32;
            records.schemas.push((*id, text.clone()));
        }
        for (n, line) in lines.iter().enumerate() {
            let step = match line {
                Line::Advance(span) => Step::Advance(*span),
                Line::Record { key, value, timestamp } => {
                    let input =
                        input(&shape, topic, key.as_ref(), value, *timestamp).map_err(|e| format!("in.{topic}.jsonl:{}: {e}", n + 1))?;
                    records.latest = records.latest.max(input.timestamp.unwrap_or(0));
                    Step::Record(input)
                }
            };
            records.steps.push(step);
        }
    }
    // Tables first, time last where files don't say otherwise: a stable sort keeps the order within each.
    records.steps.sort_by_key(|step| match step {
        Step::Record(input) => i32::from(!input.table),
        Step::Advance(_) => 1,
    });
    Ok(records)
}

/// The rows of a case that a source reads, columns of the value only, and what of the case it can't read.
pub fn source_rows(plan: &Plan, source: Option<&str>, case: &Case) -> Result<(samples::Rows, Vec<String>), String> {
    let inputs = plan.stages.iter().flat_map(|stage| &stage.inputs).filter(|i| matches!(i.kind, InputKind::Source(_)));
    let input = inputs.clone().find(|input| source.is_none_or(|name| name == input.name));
    let Some(input) = input else {
        let names: Vec<&str> = inputs.map(|input| input.name.as_str()).collect();
        return Err(format!("there is no source `{}`; there are {}", source.unwrap_or_default(), names.join(", ")));
    };
    let InputKind::Source(decode) = &input.kind else { return Err("not a source".into()) };
    let of_source = case.inputs.iter().filter(|(topic, _)| input.topics.iter().any(|t| t.name.as_ref() == topic));
    let values = of_source.flat_map(|(_, lines)| lines).filter_map(|line| match line {
        Line::Record { value: Content::Json(value), .. } => Some(value.clone()),
        _ => None,
    });
    samples::decode(&decode.value, &values.collect::<Vec<_>>()).map_err(|e| format!("case {}: {e}", case.name))
}

fn shape(plan: &Plan, pipeline: &Pipeline, topic: &str) -> Option<Shape> {
    for input in plan.stages.iter().flat_map(|stage| &stage.inputs) {
        let (InputKind::Source(decode), Some(found)) = (&input.kind, input.topics.iter().find(|t| t.name.as_ref() == topic)) else {
            continue;
        };
        let schema = match &found.avro {
            Some(text) => avro_to_arrow(text).ok()?,
            None => decode.value.clone(),
        };
        let path = |path: &str| path.split('.').map(str::to_string).collect::<Vec<_>>();
        let time = if let TimeSource::Column(path) = &decode.time { Some(path.clone()) } else { None };
        let key = input.key.as_ref().and_then(|key| key.first()).map(|key| path(key));
        let avro = found.avro.as_ref().map(|text| (0, text.to_string()));
        return Some(Shape { format: decode.format, schema, avro, key, time, table: false });
    }
    let table = plan.tables.iter().find(|table| table.topic.name.as_ref() == topic)?;
    let key = pipeline.tables.get(&table.name).map(|spec| vec![spec.key.clone()]);
    let avro = table.topic.avro.as_ref().map(|text| (0, text.to_string()));
    let time = table.time.clone().map(|column| vec![column]);
    Some(Shape { format: table.format, schema: table.schema.clone(), avro, key, time, table: true })
}

fn input(shape: &Shape, topic: &str, key: Option<&Value>, value: &Content, timestamp: Option<Millis>) -> Result<Input, String> {
    let at = |path: &Option<Vec<String>>| match value {
        Content::Json(value) => path.as_ref().and_then(|path| path.iter().try_fold(value, |value, name| value.get(name))),
        _ => None,
    };
    let key = key.or(at(&shape.key)).filter(|key| !key.is_null()).map(|key| key.as_str().map_or_else(|| key.to_string(), str::to_string));
    let event_time = at(&shape.time).and_then(|time| {
        let whole = |time: f64| (time.fract() == 0.0).then_some(time as Millis);
        let number = time.as_i64().or_else(|| time.as_f64().and_then(whole));
        number.or_else(|| chrono::DateTime::parse_from_rfc3339(time.as_str()?).ok().map(|time| time.timestamp_millis()))
    });
    if shape.table && key.is_none() {
        return Err("a record of a table has a key: `@key`, or the column of the table's `key`".into());
    }
    let bytes = match value {
        Content::Nothing => None,
        Content::Raw(bytes) => Some(bytes.clone()),
        Content::Json(value) => Some(encode(shape, value)?),
    };
    Ok(Input {
        topic: topic.to_string(),
        key: key.map(String::into_bytes),
        value: bytes,
        timestamp: timestamp.or(event_time),
        table: shape.table,
    })
}

fn encode(shape: &Shape, value: &Value) -> Result<Vec<u8>, String> {
    let Some((id, text)) = &shape.avro else {
        return match (shape.format, value) {
            (Format::Json, value) if shape.table => {
                // The pipeline counts and skips such a record; in a case it is most likely a slip of the pen.
                let (_, refused) = samples::decode(&shape.schema, std::slice::from_ref(value))?;
                match refused.first().map(|e| e.trim_start_matches("row 1: ")) {
                    Some(why) => Err(format!("the table can't read it, and would skip it: {why}. To show that, write it as `@raw`")),
                    None => Ok(value.to_string().into_bytes()),
                }
            }
            (Format::Json | Format::Debezium, value) => Ok(value.to_string().into_bytes()),
            (_, Value::String(text)) => Ok(text.clone().into_bytes()),
            _ => Err("a record of this format is a text".into()),
        };
    };
    let mut rows = RowBuilder::new(&shape.schema, 1)?;
    let mut decoder = JsonDecoder::new(&shape.schema);
    decoder.decode(value.to_string().as_bytes(), &mut rows).map_err(|e| format!("does not fit the Avro schema: {e}"))?;
    let rows = rows.finish()?;
    let mut bytes = Vec::new();
    AvroEncoder::new(text, &shape.schema, *id)?.batch(&rows)?.write(0, &mut bytes)?;
    Ok(bytes)
}

/// The value of a record that a sink wrote.
pub fn decode(sink: &TopicSink, value: &[u8]) -> Result<Value, String> {
    match (sink.format, &sink.avro) {
        (Format::Json, _) => serde_json::from_slice(value).map_err(|e| e.to_string()),
        (Format::Avro, Some((text, _))) => {
            let schema = avro_to_arrow(text)?;
            let mut decoder = AvroDecoder::new(AvroReader::new(text, &schema)?);
            let id = value.get(1..5).map_or(0, |b| b.iter().fold(0, |id, b| id << 8 | u32::from(*b)));
            decoder.add_writer(id, text)?;
            let mut builder = RowBuilder::new(&schema, 1)?;
            decoder.decode(value, &mut builder).map_err(|e| e.to_string())?;
            samples::json(&builder.finish()?).map(|mut rows| rows.pop().unwrap_or_default())
        }
        _ => Ok(text_or_size(value)),
    }
}

/// Bytes as a person can read them: text, or how many there are.
pub fn text_or_size(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => Value::String(text.to_string()),
        Err(_) => Value::String(format!("{} bytes", value.len())),
    }
}
