//! Records to rows: values are decoded into columns, then the record's own columns, event time and watermark are added.

mod times;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, StructArray, TimestampMillisecondArray,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use headwater_formats::RowBuilder;
use operator_core::{Batch, Millis, Origin, Path, headers};

use crate::broker::{Record, RecordSet};
use crate::format::Layout;
use crate::pipeline::NullValues;
use crate::plan::{Decode, InputTopic, KeyCodec, Metadata};
use crate::record::headers::of_record;
use crate::record::units::Reference;
use crate::record_types::changes::{self, Changes};
use crate::record_types::{Reading, Took};
use crate::schemas::{self, SchemaSource, Unread};
use crate::time::PartitionTime;

/// A record that could not become a row.
#[derive(Debug)]
pub struct BadRecord {
    /// Its place in the record set.
    pub index: usize,
    pub cause: String,
}

/// What decoding a run of records gave.
pub struct Decoded {
    /// `None` if no row came out.
    pub batch: Option<Batch>,
    pub bad: Vec<BadRecord>,
    /// Records without a value that the source skips.
    pub skipped: u64,
    /// Rows whose event time looks like another unit.
    pub wrong_unit: u64,
    /// Records taken, from the index asked for on.
    pub taken: usize,
    /// Why it stopped early: the schema of the next record isn't known yet.
    pub waits: Option<String>,
}

/// Decodes the records of one topic of a source.
pub struct Decoder {
    plan: Decode,
    topic: Arc<str>,
    layout: Layout,
    schemas: Arc<dyn SchemaSource>,
    reading: Reading,
    /// Where something reads keys that are records.
    keys: Option<Keys>,
    schema: SchemaRef,
    offsets: Vec<i64>,
    timestamps: Vec<Option<Millis>>,
    places: Vec<usize>,
    /// Records of a batch at most.
    most: usize,
    /// A wrong unit of event times was logged.
    warned: bool,
}

/// Record keys that are records, as they are decoded.
struct Keys {
    decoder: Box<dyn headwater_formats::Decoder>,
    rows: RowBuilder,
    /// By row: the record has a key.
    present: Vec<bool>,
}

impl Keys {
    fn new(codec: &KeyCodec) -> Result<Keys, String> {
        let (decoder, rows) = codec.decoder()?;
        Ok(Keys { decoder, rows, present: Vec::new() })
    }

    /// Appends a key, if the record has one.
    ///
    /// # Errors
    /// Nothing was appended.
    fn read(&mut self, key: Option<&[u8]>, schemas: &dyn SchemaSource) -> Result<(), Unread> {
        match key {
            None => self.rows.push_blank(),
            Some(key) => schemas::read(self.decoder.as_mut(), key, &mut self.rows, schemas).map_err(|e| match e {
                Unread::Bad(cause) => Unread::Bad(format!("the key: {cause}")),
                wait => wait,
            })?,
        }
        self.present.push(key.is_some());
        Ok(())
    }

    /// The keys of the rows so far, null where a record has none.
    fn finish(&mut self) -> Result<ArrayRef, String> {
        let rows = self.rows.finish()?;
        let present = NullBuffer::from(std::mem::take(&mut self.present));
        let nulls = (present.null_count() > 0).then_some(present);
        let keys = StructArray::try_new_with_length(rows.schema().fields().clone(), rows.columns().to_vec(), nulls, rows.num_rows());
        keys.map(|keys| Arc::new(keys) as ArrayRef).map_err(|e| e.to_string())
    }
}

/// A batch ends at about this many bytes of columns: small records can have large values (defaults, lists of nulls).
const MAX_BATCH_BYTES: usize = 32 << 20;
/// Milliseconds that have a date within the years 1 to 9999.
const EVENT_TIMES: std::ops::Range<Millis> = -62_135_596_800_000..253_402_300_800_000;
/// Rows per batch at most: columns stay in the processor's caches.
pub const MAX_ROWS: usize = 8_192;

impl Decoder {
    /// `schema`: what the steps see, user columns and system columns.
    pub fn new(plan: &Decode, topic: &InputTopic, schema: &SchemaRef, schemas: Arc<dyn SchemaSource>) -> Result<Decoder, String> {
        let reading = match &plan.types {
            None => Reading::one(&plan.format, &topic.layout, &plan.value, MAX_ROWS),
            Some(types) => Reading::several(&plan.format, types, MAX_ROWS),
        };
        let reading = reading.map_err(|e| format!("`{}`: {e}", topic.name))?;
        let codec = plan.key.as_ref().filter(|_| plan.metadata.contains(&Metadata::Key));
        let keys = codec.map(Keys::new).transpose()?;
        Ok(Decoder {
            plan: plan.clone(),
            topic: topic.name.clone(),
            layout: topic.layout.clone(),
            schemas,
            reading,
            keys,
            schema: schema.clone(),
            offsets: Vec::new(),
            timestamps: Vec::new(),
            places: Vec::new(),
            most: MAX_ROWS,
            warned: false,
        })
    }

    /// The last batch was too large for the steps: the next one has half its `records`.
    pub fn take_fewer(&mut self, records: usize) {
        self.most = (records / 2).max(1);
    }

    /// The last batch was not too large: the next one may have more records.
    pub fn take_more(&mut self) {
        self.most = (self.most * 2).min(MAX_ROWS);
    }

    /// Decodes records from `first` on. Moves `time` past the rows it returns.
    pub fn decode(
        &mut self,
        partition: i32,
        records: &dyn RecordSet,
        first: usize,
        time: &mut PartitionTime,
        wall: Millis,
    ) -> Result<Decoded, String> {
        let mut out = Decoded { batch: None, bad: Vec::new(), skipped: 0, wrong_unit: 0, taken: 0, waits: None };
        self.offsets.clear();
        self.timestamps.clear();
        self.places.clear();
        let last = records.len().min(first + self.most);
        for index in first..last {
            // Not for every record: it looks at every column.
            if (index - first) % 64 == 63 && self.reading.bytes() > MAX_BATCH_BYTES {
                break;
            }
            let record = records.get(index);
            let read = match (record.value, self.plan.null_values) {
                (None, NullValues::Skip) => {
                    out.skipped += 1;
                    out.taken += 1;
                    continue;
                }
                (None, NullValues::DeadLetter) => Err(Unread::Bad("the record has no value".into())),
                (Some(value), _) => self.read(records, index, value, record.key),
            };
            match read {
                Ok(Took { rows: 0, bad: None }) => out.skipped += 1,
                Ok(Took { rows, bad }) => {
                    for _ in 0..rows {
                        self.offsets.push(record.offset);
                        self.timestamps.push(record.timestamp);
                        self.places.push(index);
                    }
                    if let Some(cause) = bad {
                        out.bad.push(BadRecord { index, cause });
                    }
                }
                Err(Unread::Bad(cause)) => out.bad.push(BadRecord { index, cause }),
                Err(Unread::Wait(why)) => {
                    out.waits = Some(why);
                    break;
                }
            }
            out.taken += 1;
        }
        if !self.places.is_empty() {
            self.finish(partition, records, first, time, wall, &mut out)?;
        }
        Ok(out)
    }

    /// Appends a record: a row, and one of its key if that has columns.
    #[inline]
    fn read(&mut self, records: &dyn RecordSet, index: usize, value: &[u8], key: Option<&[u8]>) -> Result<Took, Unread> {
        let took = self.reading.read((records, index), value, self.schemas.as_ref())?;
        match &mut self.keys {
            Some(keys) if took.rows > 0 => match keys.read(key, self.schemas.as_ref()) {
                Ok(()) => Ok(took),
                Err(e) => {
                    self.reading.take_back();
                    Err(e)
                }
            },
            _ => Ok(took),
        }
    }

    fn finish(
        &mut self,
        partition: i32,
        records: &dyn RecordSet,
        first: usize,
        time: &mut PartitionTime,
        wall: Millis,
        out: &mut Decoded,
    ) -> Result<(), String> {
        let fields = self.plan.value.fields();
        let mut columns = self.reading.finish(|rows| conform(rows, fields))?;
        for metadata in self.plan.metadata.clone() {
            columns.push(self.metadata(metadata, partition, records)?);
        }
        let (times, unit) = self.times(&columns)?;
        let mut kept = self.of_one_key(&columns, out)?;
        let mut event_times = Vec::with_capacity(self.places.len());
        let mut watermarks = Vec::with_capacity(self.places.len());
        let mut futures = Vec::with_capacity(self.places.len());
        for (row, at) in times.into_iter().enumerate() {
            let record = self.timestamps.get(row).copied().flatten();
            let reference = Reference::of(&self.plan.time, record, wall);
            let usable = match at {
                _ if kept.get(row) == Some(&false) => Err(None),
                Some(at) if EVENT_TIMES.contains(&at) && !reference.is_far(at) => Ok(at),
                at => {
                    let index = self.places.get(row).copied().unwrap_or(first);
                    self.far(at, unit, reference, &records.get(index), partition, out).map_err(|cause| Some(BadRecord { index, cause }))
                }
            };
            match usable {
                Ok(at) => {
                    let observed = time.observe(at, record, wall);
                    futures.push(observed.is_future);
                    watermarks.push(observed.watermark);
                    event_times.push(at);
                }
                Err(bad) => {
                    out.bad.extend(bad);
                    futures.push(false);
                    watermarks.push(time.watermark());
                    event_times.push(0);
                    if let Some(keep) = kept.get_mut(row) {
                        *keep = false;
                    }
                }
            }
        }
        columns.push(Arc::new(TimestampMillisecondArray::from(event_times).with_timezone("UTC")));
        columns.push(Arc::new(Int64Array::from(watermarks)));
        columns.push(Arc::new(Int64Array::from(self.offsets.clone())));
        columns.push(Arc::new(BooleanArray::from(futures)));
        columns.extend(self.reading.changes().map(Changes::take_signs));
        if self.plan.headers {
            columns.push(self.headers(records));
        }
        let mut rows = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| format!("decoded rows of `{}`: {e}", self.topic))?;
        if kept.contains(&false) {
            rows = filter_record_batch(&rows, &BooleanArray::from(kept)).map_err(|e| e.to_string())?;
            out.bad.sort_by_key(|b| b.index);
        }
        // Both rows of a change can be bad: one record, one dead letter.
        out.bad.dedup_by_key(|b| b.index);
        if rows.num_rows() > 0 {
            let to = self.offsets.last().copied().unwrap_or(-1);
            let origin = Origin { topic: self.topic.clone(), partition, from: records.get(first).offset - 1, to };
            out.batch = Some(Batch::new(rows, origin));
        }
        Ok(())
    }

    /// By row: whether it is to be kept. The rows of a record are about one key.
    fn of_one_key(&self, columns: &[ArrayRef], out: &mut Decoded) -> Result<Vec<bool>, String> {
        let mut kept = vec![true; self.places.len()];
        let Some(key) = &self.plan.changes else { return Ok(kept) };
        for row in changes::with_two_keys(key, self.plan.value.fields(), columns, &self.places)? {
            kept.iter_mut().skip(row).take(2).for_each(|kept| *kept = false);
            let cause = format!("`before` and `after` differ in the key ({}): that is a deletion and an insertion", paths(key));
            out.bad.extend(self.places.get(row).map(|index| BadRecord { index: *index, cause }));
        }
        Ok(kept)
    }

    fn metadata(&mut self, metadata: Metadata, partition: i32, records: &dyn RecordSet) -> Result<ArrayRef, String> {
        if let (Metadata::Key, Some(keys)) = (metadata, &mut self.keys) {
            return keys.finish();
        }
        let n = self.places.len();
        let record = |place: &usize| -> Record<'_> { records.get(*place) };
        Ok(match metadata {
            Metadata::Topic => Arc::new(StringArray::from(vec![self.topic.as_ref(); n])),
            Metadata::Partition => Arc::new(Int32Array::from(vec![partition; n])),
            Metadata::Timestamp => Arc::new(TimestampMillisecondArray::from(self.timestamps.clone()).with_timezone("UTC")),
            Metadata::Key => {
                let mut keys = BinaryBuilder::with_capacity(n, 16 * n);
                for place in &self.places {
                    keys.append_option(record(place).key);
                }
                Arc::new(keys.finish())
            }
            Metadata::Value => {
                let mut values = BinaryBuilder::with_capacity(n, 256 * n);
                for place in &self.places {
                    values.append_option(record(place).value);
                }
                Arc::new(values.finish())
            }
        })
    }

    fn headers(&self, records: &dyn RecordSet) -> ArrayRef {
        let mut column = BinaryBuilder::with_capacity(self.places.len(), 0);
        let mut bytes = Vec::new();
        for place in &self.places {
            bytes.clear();
            records.headers(*place, &mut |name, value| headers::push(&mut bytes, &of_record(name), value));
            column.append_option((!bytes.is_empty()).then_some(bytes.as_slice()));
        }
        Arc::new(column.finish())
    }
}

fn paths(key: &[Path]) -> String {
    key.iter().map(Path::to_string).collect::<Vec<_>>().join(", ")
}

/// The columns of `batch` under the names of `fields`, null where the batch has none.
fn conform(batch: &RecordBatch, fields: &Fields) -> Vec<ArrayRef> {
    fields.iter().map(|field| conform_column(batch.column_by_name(field.name()), field, batch.num_rows())).collect()
}

fn conform_column(column: Option<&ArrayRef>, field: &Field, rows: usize) -> ArrayRef {
    match (column, field.data_type()) {
        (None, data_type) => new_null_array(data_type, rows),
        (Some(column), DataType::Struct(fields)) if column.data_type() != field.data_type() => {
            let Some(record) = column.as_any().downcast_ref::<StructArray>() else { return new_null_array(field.data_type(), rows) };
            let children = fields.iter().map(|f| conform_column(record.column_by_name(f.name()), f, rows)).collect();
            match StructArray::try_new(fields.clone(), children, record.nulls().cloned()) {
                Ok(array) => Arc::new(array),
                Err(_) => new_null_array(field.data_type(), rows),
            }
        }
        (Some(column), _) => column.clone(),
    }
}
