//! `hw sample`: records of a real topic as the input of a case, with personal data masked.

mod masking;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::Schema;
use headwater_engine::broker::{Broker, Event, Record, TopicPartition};
use headwater_engine::format::{Content, Layout};
use headwater_engine::pipeline::{Format, Key, Pipeline};
use headwater_engine::plan::{InputKind, KeyCodec, Plan, TimeSource};
use headwater_engine::schemas::{Lookup, SchemaSource};
use headwater_formats::{DecodeError, Decoder, RowBuilder};
use operator_core::Path as ColumnPath;
use serde_json::{Value, json};

use self::masking::{declared, exists, mask, masked};
use crate::cases::{changed_row, json_rows};

/// Silence after which what was read is all there is.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to take.
pub struct Wanted {
    /// A source or table of the pipeline; the first source if left out.
    pub stream: Option<String>,
    pub count: usize,
    /// From the beginning rather than the end of the topic.
    pub earliest: bool,
    /// Fields to mask besides those that the schema marks.
    pub mask: Vec<String>,
    /// Equal values are masked alike under the same salt.
    pub salt: String,
}

/// A topic with what its records look like.
struct Stream {
    topic: String,
    partitions: i32,
    format: Format,
    /// Its columns: of JSON, nothing else goes into a sample, for a field that is not declared can't be marked.
    layout: Layout,
    /// The column that is the key, if it is one value.
    key: Option<Vec<String>>,
    /// How keys are read, if they are records.
    codec: Option<KeyCodec>,
    record_time: bool,
    private: Vec<Vec<String>>,
}

/// What was taken.
pub struct Sample {
    pub topic: String,
    /// Lines of `in.<topic>.jsonl`.
    pub lines: Vec<Value>,
    pub masked: Vec<String>,
    /// Records that could not be read and may hold what must be masked.
    pub left_out: usize,
}

/// Reads the sample.
///
/// # Errors
/// The pipeline has no such stream, or its topic can't be read.
pub fn take(plan: &Plan, pipeline: &Pipeline, broker: &dyn Broker, schemas: &dyn SchemaSource, wanted: &Wanted) -> Result<Sample, String> {
    let mut stream = stream(plan, pipeline, wanted.stream.as_deref())?;
    for path in &wanted.mask {
        let parts = names(path, &stream.layout.columns);
        if !exists(stream.layout.columns.fields(), &parts) {
            return Err(format!("there is no field `{path}` to mask in {}", stream.topic));
        }
        stream.private.extend(stream.in_record(parts));
    }
    let mut records = read(broker, &stream, wanted)?;
    records.sort_by_key(|record| (record.timestamp, record.partition, record.offset));
    if !wanted.earliest {
        records.drain(..records.len().saturating_sub(wanted.count));
    }
    records.truncate(wanted.count);
    let mut values = Values::new(&stream)?;
    let mut sample = Sample {
        topic: stream.topic.clone(),
        lines: Vec::new(),
        masked: stream.private.iter().filter_map(|names| Some(ColumnPath::from_names(names.iter().cloned())?.to_string())).collect(),
        left_out: 0,
    };
    for record in &records {
        match values.line(&stream, record, schemas, &wanted.salt) {
            Some(line) => sample.lines.push(line),
            None => sample.left_out += 1,
        }
    }
    Ok(sample)
}

/// The names of a path, through lists and maps, too.
fn names(text: &str, columns: &Schema) -> Vec<String> {
    match ColumnPath::parse(text).filter(|_| columns.field_with_name(text).is_err()) {
        Some(path) => path.names().map(str::to_string).collect(),
        None => vec![text.to_string()],
    }
}

fn one_column(key: &Key, columns: &Schema) -> Option<Vec<String>> {
    if let Key::Column(column) = key { Some(names(column, columns)) } else { None }
}

fn stream(plan: &Plan, pipeline: &Pipeline, name: Option<&str>) -> Result<Stream, String> {
    let inputs = plan.stages.iter().flat_map(|s| &s.inputs);
    for input in inputs {
        let (InputKind::Source(decode), Some(spec)) = (&input.kind, pipeline.sources.get(&input.name)) else { continue };
        if name.is_some_and(|name| name != input.name) {
            continue;
        }
        let Some(topic) = input.topics.first() else { continue };
        if decode.types.is_some() {
            return Err(format!(
                "`{}` has records of several types: read one of them as a source of a pipeline of its own to sample it",
                input.name
            ));
        }
        let mut private = topic.layout.registered.as_ref().map_or_else(Vec::new, |text| decode.format.private(text));
        for around in around(&decode.format, spec.event.is_some()) {
            declared(spec.schema.as_ref(), around, &mut private);
        }
        return Ok(Stream {
            topic: topic.name.to_string(),
            partitions: topic.partitions,
            format: decode.format.clone(),
            layout: topic.layout.clone(),
            key: spec.key.as_ref().and_then(|key| one_column(key, &decode.value)),
            codec: decode.key.clone(),
            record_time: decode.time == TimeSource::Record,
            private,
        });
    }
    let table = plan.tables.iter().find(|table| name == Some(table.name.as_str()));
    let Some((table, spec)) = table.and_then(|table| Some((table, pipeline.tables.get(&table.name)?))) else {
        let known: Vec<&str> = pipeline.sources.keys().chain(pipeline.tables.keys()).map(String::as_str).collect();
        return Err(format!("there is no source or table `{}`; there are {}", name.unwrap_or_default(), known.join(", ")));
    };
    let mut private = table.topic.layout.registered.as_ref().map_or_else(Vec::new, |text| table.format.private(text));
    for around in around(&table.format, false) {
        declared(spec.schema.as_ref(), around, &mut private);
    }
    Ok(Stream {
        topic: table.topic.name.to_string(),
        partitions: table.topic.partitions,
        format: table.format.clone(),
        layout: table.topic.layout.clone(),
        key: one_column(&spec.key, &table.schema),
        codec: table.codec.clone(),
        record_time: table.time.is_none(),
        private,
    })
}

/// Where the columns of a row are in a record: a change has two rows.
fn around(format: &Format, is_event: bool) -> Vec<Vec<String>> {
    match format.content() {
        Content::Change => vec![vec!["before".into()], vec!["after".into()]],
        _ if is_event => vec![vec!["data".into()]],
        _ => vec![Vec::new()],
    }
}

impl Stream {
    /// The places of a column in a record.
    fn in_record(&self, column: Vec<String>) -> Vec<Vec<String>> {
        around(&self.format, false).into_iter().map(|place| [place, column.clone()].concat()).collect()
    }

    /// The key of a change record in JSON: an object of columns, or the value of one.
    fn masked_key(&self, key: String, salt: &str) -> String {
        let column = |path: &'_ Vec<String>| path.split_first().filter(|(side, _)| *side == "after").map(|(_, column)| column.to_vec());
        let columns: Vec<Vec<String>> = self.private.iter().filter_map(column).collect();
        match serde_json::from_str::<Value>(&key) {
            Ok(mut object @ Value::Object(_)) if !columns.is_empty() => {
                columns.iter().for_each(|column| mask(&mut object, column, salt, &mut |_, _| {}));
                object.to_string()
            }
            Ok(Value::Object(_)) => key,
            _ if self.key.as_ref().is_some_and(|path| columns.contains(path)) => masked(&key, salt),
            _ => key,
        }
    }
}

/// A record, kept.
struct Kept {
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Kept {
    fn of(partition: i32, record: Record<'_>) -> Kept {
        let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Kept { partition, offset: record.offset, timestamp: record.timestamp, key: bytes(record.key), value: bytes(record.value) }
    }
}

fn read(broker: &dyn Broker, stream: &Stream, wanted: &Wanted) -> Result<Vec<Kept>, String> {
    let fail = |e: headwater_engine::broker::BrokerError| e.to_string();
    let mut from = Vec::new();
    for partition in (0..stream.partitions).map(|p| TopicPartition::new(stream.topic.as_str(), p)) {
        let (low, high) = broker.bounds(&partition).map_err(fail)?;
        let start = if wanted.earliest { low } else { low.max(high - wanted.count as i64) };
        if start < high {
            from.push((partition, start));
        }
    }
    let mut open: BTreeMap<TopicPartition, usize> = from.iter().map(|(partition, _)| (partition.clone(), 0)).collect();
    let mut reader = broker.reader(&from).map_err(fail)?;
    let (mut kept, mut last) = (Vec::new(), Instant::now());
    while !open.is_empty() && last.elapsed() < PATIENCE {
        for event in reader.poll(1_000, Duration::from_millis(200)).map_err(fail)? {
            last = Instant::now();
            match event {
                Event::Records { partition, records } => {
                    let taken = open.get(&partition).copied().unwrap_or(wanted.count);
                    let room = records.len().min(wanted.count.saturating_sub(taken));
                    kept.extend((0..room).map(|n| Kept::of(partition.partition, records.get(n))));
                    if taken + room >= wanted.count {
                        open.remove(&partition);
                    } else if let Some(taken) = open.get_mut(&partition) {
                        *taken += room;
                    }
                }
                Event::End { partition, .. } => drop(open.remove(&partition)),
                _ => {}
            }
        }
    }
    Ok(kept)
}

/// Reads values of a stream; `None`: they are shown as text.
struct Values {
    rows: Option<(Box<dyn Decoder>, RowBuilder)>,
    keys: Option<(Box<dyn Decoder>, RowBuilder)>,
}

impl Values {
    fn new(stream: &Stream) -> Result<Values, String> {
        if stream.format.is_raw() {
            return Ok(Values { rows: None, keys: None });
        }
        let (decoder, columns) = stream.format.decoder(&stream.layout, &stream.layout.columns)?;
        let keys = stream.codec.as_ref().map(KeyCodec::decoder).transpose()?;
        Ok(Values { rows: Some((decoder, RowBuilder::new(&columns, 1)?)), keys })
    }

    /// A line of a case; `None` if the record can't be read and might hold what must be masked.
    fn line(&mut self, stream: &Stream, record: &Kept, schemas: &dyn SchemaSource, salt: &str) -> Option<Value> {
        if let (Some((decoder, rows)), Some(bytes)) = (&mut self.keys, &record.key) {
            let mut key = row(decoder.as_mut(), rows, bytes, schemas)?;
            stream.private.iter().for_each(|path| mask(&mut key, path, salt, &mut |_, _| {}));
            let value = record.value.as_ref().map(|bytes| self.value(bytes, schemas)).map_or(Some(Value::Null), |value| value);
            let mut value = value?;
            stream.private.iter().for_each(|path| mask(&mut value, path, salt, &mut |_, _| {}));
            let mut line = json!({ "@key": key, "@value": value });
            if let (Some(timestamp), Some(line), true) = (record.timestamp, line.as_object_mut(), stream.record_time) {
                line.insert("@timestamp".into(), timestamp.into());
            }
            return Some(line);
        }
        let key = record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        let is_change = stream.format.content() == Content::Change;
        // A case writes the key from the row. Of bytes that can't be read here, nothing is shown.
        let key = if is_change { key.filter(|_| !stream.format.is_registered()).map(|key| stream.masked_key(key, salt)) } else { key };
        let Some(bytes) = &record.value else {
            let private = !is_change && stream.key.as_ref().is_some_and(|path| stream.private.contains(path));
            let key = key.map(|key| if private { masked(&key, salt) } else { key });
            return (!is_change || key.is_some()).then(|| with_key(json!({ "@value": null }), key));
        };
        let Some(mut value) = self.value(bytes, schemas) else {
            let text = String::from_utf8(bytes.clone()).ok().filter(|_| stream.private.is_empty())?;
            return Some(with_key(json!({ "@raw": text }), key));
        };
        let mut key = key;
        for path in &stream.private {
            mask(&mut value, path, salt, &mut |old, new| {
                if key.as_deref() == Some(old) {
                    key = Some(new.to_string());
                }
            });
        }
        let row = match is_change {
            true => changed_row(&value),
            false => Some(&value),
        };
        let in_value = stream.key.as_ref().and_then(|path| path.iter().try_fold(row?, |value, name| value.get(name)));
        let in_value = in_value.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string));
        let special = value.as_object().is_some_and(|members| members.keys().any(|name| name.starts_with('@')));
        if in_value == key && !stream.record_time && !special {
            return Some(value);
        }
        let mut line = with_key(json!({ "@value": value }), key.filter(|key| in_value.as_ref() != Some(key)));
        if let (Some(timestamp), Some(line), true) = (record.timestamp, line.as_object_mut(), stream.record_time) {
            line.insert("@timestamp".into(), timestamp.into());
        }
        Some(line)
    }

    fn value(&mut self, bytes: &[u8], schemas: &dyn SchemaSource) -> Option<Value> {
        let Some((decoder, rows)) = &mut self.rows else {
            return String::from_utf8(bytes.to_vec()).ok().map(Value::String);
        };
        row(decoder.as_mut(), rows, bytes, schemas)
    }
}

/// Bytes as a row; `None` if they can't be read.
fn row(decoder: &mut dyn Decoder, rows: &mut RowBuilder, bytes: &[u8], schemas: &dyn SchemaSource) -> Option<Value> {
    match decoder.decode(bytes, rows) {
        Ok(()) => {}
        Err(DecodeError::UnknownSchema(id)) => {
            decoder.add_schema(id, &wait_for(schemas, id)?).ok()?;
            decoder.decode(bytes, rows).ok()?;
        }
        Err(DecodeError::Bad(_)) => return None,
    }
    json_rows::json(&rows.finish().ok()?).ok()?.pop()
}

/// The text of a registered schema; `None` if the registry has it not, or does not say for a while.
pub fn wait_for(schemas: &dyn SchemaSource, id: u32) -> Option<Arc<str>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match schemas.lookup(id) {
            Lookup::Known(text) => return Some(text),
            Lookup::NotFound | Lookup::Unusable(_) => return None,
            Lookup::Pending | Lookup::Unavailable(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    None
}

fn with_key(mut line: Value, key: Option<String>) -> Value {
    if let (Some(key), Some(members)) = (key, line.as_object_mut()) {
        members.insert("@key".into(), key.into());
    }
    line
}

/// Writes a sample into a case beside the pipeline; returns its file.
///
/// # Errors
/// There is such a file already, or it can't be written.
pub fn write(sample: &Sample, pipeline: &Path, case: &str) -> Result<PathBuf, String> {
    let dir = pipeline.parent().unwrap_or(Path::new(".")).join("cases").join(case);
    let file = dir.join(format!("in.{}.jsonl", sample.topic));
    if file.exists() {
        return Err(format!("{} exists already: choose another `--case`", file.display()));
    }
    let fail = |e: std::io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir_all(&dir).map_err(fail)?;
    // Records of a real topic: for who took them to pass on.
    let mut out = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file).map_err(fail)?;
    sample.lines.iter().try_for_each(|line| writeln!(out, "{line}")).map_err(fail)?;
    let why = dir.join("why.txt");
    if !why.exists() {
        std::fs::write(&why, format!("Records sampled from {}: say here what they show.\n", sample.topic)).map_err(fail)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use headwater_engine::schemas::MemorySchemas;

    use super::*;

    #[test]
    fn both_rows_and_the_key_of_a_change_are_masked() {
        let path = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
        let stream = Stream {
            topic: "shop.public.users".into(),
            partitions: 1,
            format: serde_json::from_value("debezium".into()).unwrap(),
            layout: Layout::of(Arc::new(json_rows::declared("email: string, age: int").unwrap())),
            key: Some(path(&["email"])),
            codec: None,
            record_time: false,
            private: vec![path(&["before", "email"]), path(&["after", "email"])],
        };
        let mut values = Values::new(&stream).unwrap();
        let mut line = |key: &str, value: Option<&str>| {
            let bytes = |text: &str| text.as_bytes().to_vec();
            let record = Kept { partition: 0, offset: 0, timestamp: Some(1), key: Some(bytes(key)), value: value.map(bytes) };
            values.line(&stream, &record, &MemorySchemas::default(), "salt").unwrap()
        };
        let update =
            r#"{"schema":{},"payload":{"op":"u","before":{"email":"a@x","age":1},"after":{"email":"a@x","age":2},"source":{"row":"a@x"}}}"#;
        let (update, end) = (line(r#"{"email":"a@x"}"#, Some(update)), line("a@x", None));
        assert!(!format!("{update}{end}").contains("a@x"), "{update} {end}");
        let masked = &end["@key"];
        assert_eq!((&update["@value"]["before"]["email"], &update["@value"]["after"]["email"]), (masked, masked));
        assert_eq!(update["@key"], json!({ "email": masked }).to_string());
        assert_eq!(update["@value"]["after"]["age"], 2);
    }

    #[test]
    fn a_line_of_csv_is_sampled_as_an_object_of_its_columns() {
        let path = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
        let stream = Stream {
            topic: "shop.users".into(),
            partitions: 1,
            format: serde_json::from_value(json!({ "csv": { "delimiter": ";" } })).unwrap(),
            layout: Layout::of(Arc::new(json_rows::declared("age: int?, email: string").unwrap())),
            key: Some(path(&["email"])),
            codec: None,
            record_time: false,
            private: vec![path(&["email"])],
        };
        let mut values = Values::new(&stream).unwrap();
        let mut line = |value: &str| {
            let record = Kept { partition: 0, offset: 0, timestamp: Some(1), key: Some(b"a@x".to_vec()), value: Some(value.into()) };
            values.line(&stream, &record, &MemorySchemas::default(), "salt")
        };
        assert_eq!(line(";'a@x").unwrap(), json!({ "@key": "a@x", "@value": { "age": null, "email": masked("'a@x", "salt") } }));
        assert_eq!(line("7;a@x").unwrap(), json!({ "age": 7, "email": masked("a@x", "salt") }));
        // It can't be read, and may hold what must be masked.
        assert_eq!(line("a@x"), None);
    }
}
