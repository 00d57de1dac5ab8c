//! Records of a table's topic into rows and deletions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Fields, Schema, SchemaRef, TimestampMillisecondType};
use headwater_formats::{ChangeDecoder, ChangedRow, Decoder, RowBuilder};
use operator_core::batch::time_type;
use operator_core::table::put_key;
use operator_core::{Change, Millis};
use serde_json::value::RawValue;

use crate::broker::Record;
use crate::format::debezium::envelope;
use crate::format::{Content, Format, Layout};
use crate::notation::hashed;
use crate::plan::{KeyCodec, TablePlan};
use crate::schemas::{self, SchemaSource, Unread};

enum Values {
    /// Values, and keys that are records.
    Rows(Box<dyn Decoder>, Option<(Box<dyn Decoder>, RowBuilder)>),
    Changes(Box<dyn ChangeDecoder>, Box<RowKeys>),
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
    /// Of the rows that are there, where keys are records: hashes of the key and of the bytes that it was last written as.
    written: HashMap<u64, u64>,
}

/// What records change.
pub(super) struct Changes<'p> {
    pub rows: RecordBatch,
    pub changes: Vec<Change<'p>>,
    /// Offsets of records whose key has a null: no row is found by it.
    pub null_keys: Vec<i64>,
    /// Offsets of records whose key has other bytes than an earlier equal one. Compaction keeps both.
    pub other_bytes: Vec<i64>,
}

/// What a row is found by.
enum Key<'r> {
    Bytes(Cow<'r, [u8]>),
    /// A row of the keys that are records, and the bytes it was read from.
    Row(u32, &'r [u8]),
    /// One with a null in it.
    Null,
}

/// A change whose row is not in a batch yet.
pub(super) struct Pending<'r> {
    key: Key<'r>,
    since: Millis,
    offset: i64,
    row: Option<u32>,
}

impl Rows {
    pub fn new(table: &TablePlan) -> Result<Rows, String> {
        let values = match table.format.content() {
            Content::Change => {
                let keys = RowKeys::new(&table.format, &table.topic.layout, &table.key)?;
                Values::Changes(table.format.changes(&table.topic.layout, &table.schema)?.0, Box::new(keys))
            }
            _ => {
                let keys = table.codec.as_ref().map(KeyCodec::decoder).transpose()?;
                Values::Rows(table.format.decoder(&table.topic.layout, &table.schema)?.0, keys)
            }
        };
        Ok(Rows {
            name: table.name.clone(),
            topic: table.topic.name.clone(),
            partitions: table.topic.partitions,
            time: table.time.as_ref().and_then(|name| table.schema.index_of(name).ok()),
            values,
            rows: RowBuilder::new(&table.schema, 1_024)?,
            written: HashMap::new(),
        })
    }

    /// Decodes a record: what it changes goes to `out`.
    ///
    /// # Errors
    /// Nothing was added: the record is bad, or the registry has not answered yet.
    pub fn read<'r>(&mut self, record: &Record<'r>, schemas: &dyn SchemaSource, out: &mut Vec<Pending<'r>>) -> Result<(), Unread> {
        let (decoder, keys) = match &mut self.values {
            Values::Changes(decoder, keys) => return changed(record, decoder.as_mut(), keys, &mut self.rows, schemas, out),
            Values::Rows(decoder, keys) => (decoder.as_mut(), keys),
        };
        let bytes = record.key.ok_or_else(|| Unread::Bad("the record has no key".into()))?;
        let before = self.rows.len();
        if let Some(value) = record.value {
            schemas::read(decoder, value, &mut self.rows, schemas)?;
        }
        let key = match keys {
            None => Key::Bytes(bytes.into()),
            Some((decoder, rows)) => {
                schemas::read(decoder.as_mut(), bytes, rows, schemas).map_err(|e| {
                    self.rows.truncate(before);
                    match e {
                        Unread::Bad(cause) => Unread::Bad(format!("the key: {cause}")),
                        wait => wait,
                    }
                })?;
                Key::Row(last(rows), bytes)
            }
        };
        let row = record.value.map(|_| last(&self.rows));
        out.push(Pending { key, since: record.timestamp.unwrap_or(0), offset: record.offset, row });
        Ok(())
    }

    /// The rows read so far, and what they change.
    pub fn finish<'p>(&mut self, partition: i32, pending: &'p mut [Pending<'_>]) -> Result<Changes<'p>, String> {
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
        let (mut null_keys, mut other_bytes) = (Vec::new(), Vec::new());
        if let Values::Rows(_, Some((_, keys))) = &mut self.values {
            let columns = keys.finish()?.columns().to_vec();
            for change in &mut *pending {
                let Key::Row(row, written) = change.key else { continue };
                let mut key = Vec::new();
                if !put_key(&columns, row as usize, &mut key) {
                    null_keys.push(change.offset);
                    change.key = Key::Null;
                    continue;
                }
                let (hash, written) = (hashed(&key), hashed(written));
                let before = match change.row {
                    Some(_) => self.written.insert(hash, written),
                    None => self.written.remove(&hash),
                };
                if before.is_some_and(|before| before != written) {
                    other_bytes.push(change.offset);
                }
                change.key = Key::Bytes(key.into());
            }
        }
        let change = |p: &'p Pending<'_>| match &p.key {
            Key::Bytes(key) => Some(Change { key, since: p.since, partition, offset: p.offset, row: p.row }),
            Key::Row(..) | Key::Null => None,
        };
        Ok(Changes { rows, changes: pending.iter().filter_map(change).collect(), null_keys, other_bytes })
    }
}

fn last(rows: &RowBuilder) -> u32 {
    rows.len().saturating_sub(1) as u32
}

/// A change record: the new row under its key, the old one deleted where it had another key or there is no new one.
fn changed<'r>(
    record: &Record<'r>,
    decoder: &mut dyn ChangeDecoder,
    keys: &mut RowKeys,
    rows: &mut RowBuilder,
    schemas: &dyn SchemaSource,
    out: &mut Vec<Pending<'r>>,
) -> Result<(), Unread> {
    let change = record.value.map(|value| schemas::change(decoder, value, schemas)).transpose()?.flatten();
    let since = change.and_then(|c| c.at).or(record.timestamp).unwrap_or(0);
    let mut push = |key: Vec<u8>, row| out.push(Pending { key: Key::Bytes(key.into()), since, offset: record.offset, row });
    let before = change.and_then(|c| c.before).map(|row| keys.of_row(row, schemas)).transpose();
    let Some(row) = change.and_then(|c| c.after) else {
        // Where `before` lacks the key, the record's own has it.
        let key = match (before, record.key) {
            (Ok(Some(key)), _) => key,
            (_, Some(key)) => match keys.of_record(key, schemas) {
                Ok(key) => key,
                // It is there for compaction: the change record before it has deleted the row.
                Err(_) if change.is_none() => return Ok(()),
                Err(e) => return Err(e),
            },
            (_, None) => {
                return Err(Unread::Bad("it deletes an unknown row: it has neither the key in `before` nor a record key".into()));
            }
        };
        push(key, None);
        return Ok(());
    };
    let key = keys.of_row(row, schemas)?;
    schemas::row(decoder, row, rows, schemas)?;
    if let Some(before) = before.ok().flatten().filter(|before| *before != key) {
        push(before, None);
    }
    push(key, Some(last(rows)));
    Ok(())
}

/// The keys of rows in change records, as the bytes that joins look for.
struct RowKeys {
    /// The columns, as JSON; `None`: record keys are not in JSON.
    names: Option<Vec<String>>,
    decoder: Box<dyn ChangeDecoder>,
    rows: RowBuilder,
}

impl RowKeys {
    fn new(format: &Format, layout: &Layout, columns: &Fields) -> Result<RowKeys, String> {
        let fields: Fields = columns.iter().map(|field| field.as_ref().clone().with_nullable(false)).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let name = |field: &Arc<arrow::datatypes::Field>| serde_json::to_string(field.name()).map_err(|e| e.to_string());
        let names = columns.iter().map(name).collect::<Result<_, _>>()?;
        let names = (!format.is_registered()).then_some(names);
        Ok(RowKeys { names, decoder: format.changes(layout, &schema)?.0, rows: RowBuilder::new(&schema, 1)? })
    }

    fn of_row(&mut self, row: ChangedRow<'_>, schemas: &dyn SchemaSource) -> Result<Vec<u8>, Unread> {
        schemas::row(self.decoder.as_mut(), row, &mut self.rows, schemas)?;
        let rows = self.rows.finish().map_err(Unread::Bad)?;
        let mut key = Vec::new();
        put_key(rows.columns(), 0, &mut key);
        Ok(key)
    }

    /// A record key in JSON: an object of key columns, one value as converters to JSON write it, or the value itself.
    fn of_record(&mut self, key: &[u8], schemas: &dyn SchemaSource) -> Result<Vec<u8>, Unread> {
        let Some(names) = &self.names else { return Err(Unread::Bad("it does not say what the row was (`before`)".into())) };
        let Ok(value) = envelope::unwrap(key) else { return Ok(key.to_vec()) };
        if value.starts_with('{') {
            return self.of_row(ChangedRow::plain(value.as_bytes()), schemas);
        }
        let [name] = names.as_slice() else { return Err(Unread::Bad("the record key lacks columns of the table's `key`".into())) };
        let row = serde_json::from_str::<&RawValue>(value).map(|value| format!("{{{name}:{value}}}"));
        Ok(row.ok().and_then(|row| self.of_row(ChangedRow::plain(row.as_bytes()), schemas).ok()).unwrap_or_else(|| key.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn record_keys_are_read_however_they_are_written() {
        let format: Format = serde_json::from_value("debezium".into()).unwrap();
        let keys = |data_type| RowKeys::new(&format, &Layout::default(), &vec![Field::new("id", data_type, false)].into()).unwrap();
        let none = crate::schemas::MemorySchemas::default();
        let mut texts = keys(DataType::Utf8);
        for key in [
            &br#"{"id":"7"}"#[..],
            br#"{"schema":{"type":"string"},"payload":{"id":"7"}}"#,
            br#"{"schema":{"type":"string"},"payload":"7"}"#,
            br#""7""#,
            b"7",
        ] {
            assert_eq!(texts.of_record(key, &none).unwrap(), b"7", "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(texts.of_record(br#""a","id":"b""#, &none).unwrap(), br#""a","id":"b""#, "no JSON");
        let mut numbers = keys(DataType::Int32);
        for key in [&br#"{"id":7}"#[..], br#"{"schema":{"type":"int32"},"payload":7}"#, b"7", &[0, 0, 0, 7]] {
            assert_eq!(numbers.of_record(key, &none).unwrap(), [0, 0, 0, 7], "{}", String::from_utf8_lossy(key));
        }
        assert!(numbers.of_record(br#"{"other":7}"#, &none).is_err());
    }
}
