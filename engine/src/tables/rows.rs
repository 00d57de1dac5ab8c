//! Records of a table's topic into rows and deletions.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Schema, SchemaRef, TimestampMillisecondType};
use headwater_formats::{DecodeError, Decoder, JsonDecoder, RowBuilder, json_payload};
use operator_core::batch::time_type;
use operator_core::{Change, Millis};
use serde_json::value::RawValue;

use crate::broker::Record;
use crate::format::Content;
use crate::format::debezium::envelope;
use crate::plan::TablePlan;
use crate::schemas::{Lookup, SchemaSource};

enum Values {
    Rows(Box<dyn Decoder>),
    Changes { after: JsonDecoder, keys: Box<RowKeys> },
}

/// Decodes the records of one table.
pub(super) struct Rows {
    pub name: String,
    pub topic: Arc<str>,
    /// Partitions that are read.
    pub partitions: i32,
    time: Option<usize>,
    values: Values,
    rows: RowBuilder,
}

/// A change whose row is not in a batch yet.
pub(super) struct Pending<'r> {
    key: Cow<'r, [u8]>,
    since: Millis,
    offset: i64,
    row: Option<u32>,
}

impl Rows {
    pub fn new(table: &TablePlan) -> Result<Rows, String> {
        let values = match table.format.content() {
            Content::Change => {
                Values::Changes { after: JsonDecoder::new(&table.schema), keys: Box::new(RowKeys::new(&table.schema, &table.key)?) }
            }
            _ => Values::Rows(table.format.decoder(table.topic.avro.as_deref(), &table.schema)?.0),
        };
        Ok(Rows {
            name: table.name.clone(),
            topic: table.topic.name.clone(),
            partitions: table.topic.partitions,
            time: table.time.as_ref().and_then(|name| table.schema.index_of(name).ok()),
            values,
            rows: RowBuilder::new(&table.schema, 1_024)?,
        })
    }

    /// Decodes a record: what it changes goes to `out`.
    ///
    /// # Errors
    /// Nothing was added: the record is bad, or the registry has not answered yet.
    pub fn read<'r>(&mut self, record: &Record<'r>, schemas: &dyn SchemaSource, out: &mut Vec<Pending<'r>>) -> Result<(), DecodeError> {
        let decoder = match &mut self.values {
            Values::Changes { after, keys } => return changed(record, after, keys, &mut self.rows, out).map_err(DecodeError::Bad),
            Values::Rows(decoder) => decoder.as_mut(),
        };
        let key = record.key.ok_or_else(|| DecodeError::Bad("the record has no key".into()))?;
        if let Some(value) = record.value {
            decode(decoder, value, &mut self.rows, schemas)?;
        }
        let row = record.value.map(|_| last(&self.rows));
        out.push(Pending { key: key.into(), since: record.timestamp.unwrap_or(0), offset: record.offset, row });
        Ok(())
    }

    /// The rows read so far, and what they change.
    pub fn finish<'p>(&mut self, partition: i32, pending: &'p mut [Pending<'_>]) -> Result<(RecordBatch, Vec<Change<'p>>), String> {
        let rows = self.rows.finish()?;
        if let Some(column) = self.time.map(|i| rows.column(i)) {
            let times = cast(column, &time_type()).map_err(|e| e.to_string())?;
            let times = times.as_primitive::<TimestampMillisecondType>();
            for change in &mut *pending {
                if let Some(row) = change.row.map(|r| r as usize).filter(|r| times.is_valid(*r)) {
                    change.since = times.value(row);
                }
            }
        }
        let change = |p: &'p Pending<'_>| Change { key: &p.key, since: p.since, partition, offset: p.offset, row: p.row };
        Ok((rows, pending.iter().map(change).collect()))
    }
}

/// Appends a row; asks the registry for the schema that the record names.
fn decode(decoder: &mut dyn Decoder, value: &[u8], rows: &mut RowBuilder, schemas: &dyn SchemaSource) -> Result<(), DecodeError> {
    match decoder.decode(value, rows) {
        Err(DecodeError::UnknownSchema(id)) => match schemas.lookup(id) {
            Lookup::Known(text) => {
                decoder.add_schema(id, &text).map_err(DecodeError::Bad)?;
                decoder.decode(value, rows)
            }
            Lookup::NotFound => Err(DecodeError::Bad(format!("the schema registry has no schema with id {id}"))),
            Lookup::Unusable(why) => Err(DecodeError::Bad(format!("schema {id} can't be used: {why}"))),
            Lookup::Pending | Lookup::Unavailable(_) => Err(DecodeError::UnknownSchema(id)),
        },
        other => other,
    }
}

fn last(rows: &RowBuilder) -> u32 {
    rows.len().saturating_sub(1) as u32
}

/// A change record: the new row under its key, the old one deleted where it had another key or there is no new one.
fn changed<'r>(
    record: &Record<'r>,
    after: &mut JsonDecoder,
    keys: &mut RowKeys,
    rows: &mut RowBuilder,
    out: &mut Vec<Pending<'r>>,
) -> Result<(), String> {
    let change = record.value.map(|value| envelope::read(json_payload(value))).transpose()?.flatten();
    let since = change.and_then(|c| c.at).or(record.timestamp).unwrap_or(0);
    let mut push = |key: Vec<u8>, row| out.push(Pending { key: key.into(), since, offset: record.offset, row });
    let before = change.and_then(|c| c.before).map(|row| keys.of_row(row)).transpose();
    let Some(row) = change.and_then(|c| c.after) else {
        // Where `before` lacks the key, the record's own has it.
        let key = match (before, record.key) {
            (Ok(Some(key)), _) => key,
            (_, Some(key)) => match keys.of_record(key) {
                Ok(key) => key,
                // It is there for compaction: the change record before it has deleted the row.
                Err(_) if change.is_none() => return Ok(()),
                Err(e) => return Err(e),
            },
            (_, None) => return Err("it deletes an unknown row: it has neither the key in `before` nor a record key".into()),
        };
        push(key, None);
        return Ok(());
    };
    let key = keys.of_row(row)?;
    after.decode(row.as_bytes(), rows).map_err(|e| e.to_string())?;
    if let Some(before) = before.ok().flatten().filter(|before| *before != key) {
        push(before, None);
    }
    push(key, Some(last(rows)));
    Ok(())
}

/// The key of rows in JSON, as the bytes that joins look for.
struct RowKeys {
    /// The column, as JSON.
    name: String,
    decoder: JsonDecoder,
    rows: RowBuilder,
}

impl RowKeys {
    fn new(schema: &SchemaRef, column: &str) -> Result<RowKeys, String> {
        let field = schema.field_with_name(column).map_err(|e| e.to_string())?.clone().with_nullable(false);
        let schema: SchemaRef = Arc::new(Schema::new(vec![field]));
        let name = serde_json::to_string(column).map_err(|e| e.to_string())?;
        Ok(RowKeys { name, decoder: JsonDecoder::new(&schema), rows: RowBuilder::new(&schema, 1)? })
    }

    fn of_row(&mut self, row: &str) -> Result<Vec<u8>, String> {
        self.decoder.decode(row.as_bytes(), &mut self.rows).map_err(|e| e.to_string())?;
        let rows = self.rows.finish()?;
        let mut key = Vec::new();
        operator_core::table::put_record_key(rows.column(0), 0, &mut key);
        Ok(key)
    }

    /// A record key: an object of key columns, one value as converters to JSON write it, or the value itself.
    fn of_record(&mut self, key: &[u8]) -> Result<Vec<u8>, String> {
        let Ok(value) = envelope::unwrap(key) else { return Ok(key.to_vec()) };
        if value.starts_with('{') {
            return self.of_row(value);
        }
        let row = serde_json::from_str::<&RawValue>(value).map(|value| format!("{{{}:{value}}}", self.name));
        Ok(row.ok().and_then(|row| self.of_row(&row).ok()).unwrap_or_else(|| key.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn record_keys_are_read_however_they_are_written() {
        let keys = |data_type| RowKeys::new(&Arc::new(Schema::new(vec![Field::new("id", data_type, false)])), "id").unwrap();
        let mut texts = keys(DataType::Utf8);
        for key in [
            &br#"{"id":"7"}"#[..],
            br#"{"schema":{"type":"string"},"payload":{"id":"7"}}"#,
            br#"{"schema":{"type":"string"},"payload":"7"}"#,
            br#""7""#,
            b"7",
        ] {
            assert_eq!(texts.of_record(key).unwrap(), b"7", "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(texts.of_record(br#""a","id":"b""#).unwrap(), br#""a","id":"b""#, "no JSON");
        let mut numbers = keys(DataType::Int32);
        for key in [&br#"{"id":7}"#[..], br#"{"schema":{"type":"int32"},"payload":7}"#, b"7", &[0, 0, 0, 7]] {
            assert_eq!(numbers.of_record(key).unwrap(), [0, 0, 0, 7], "{}", String::from_utf8_lossy(key));
        }
        assert!(numbers.of_record(br#"{"other":7}"#).is_err());
    }
}
