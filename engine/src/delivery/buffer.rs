//! Records of one partition that are read and not inserted yet, and how blocks are cut from them.
//!
//! A block is a run of whole records. Where it ends is decided once, when it is cut, by size or by time; from then on the
//! intent remembers it. So cutting may depend on the clock and on how records arrived, and rebuilding ([`Buffer::rebuild`])
//! may not: it takes the offsets of the intent and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use crc32fast::Hasher;
use headwater_formats::decode_batch;
use operator_core::Millis;

use super::DeliveryError;
use super::block::Rows;
use crate::broker::{RecordSet, TopicPartition};
use crate::sinks::{MAX_BLOCK_ROWS, OFFSET, PARTITION, ROW, position_fields};

/// How large a block gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub rows: usize,
    pub bytes: usize,
    /// A record waits for others at most this long.
    pub flush: Millis,
}

/// A run of records ready to be inserted.
#[derive(Clone, Debug)]
pub struct Cut {
    pub first: i64,
    pub last: i64,
    /// CRC-32 over offset, length and bytes of every record.
    pub crc: u32,
    /// Bytes of the records.
    pub bytes: usize,
    /// Rows with position columns; `None` where the records have no rows.
    pub rows: Option<RecordBatch>,
}

impl Cut {
    pub fn num_rows(&self) -> usize {
        self.rows.as_ref().map_or(0, RecordBatch::num_rows)
    }

    /// What decides where it is halved.
    pub fn shape(&self) -> Rows<'_> {
        self.rows.as_ref().map_or(Rows::from(0), Rows::from)
    }
}

struct Piece {
    offset: i64,
    arrived: Millis,
    bytes: usize,
    crc: Hasher,
    rows: Option<RecordBatch>,
}

impl Piece {
    fn num_rows(&self) -> usize {
        self.rows.as_ref().map_or(0, RecordBatch::num_rows)
    }
}

/// Records of one partition, in offset order.
pub struct Buffer {
    partition: i32,
    pieces: VecDeque<Piece>,
    /// Everything below is here, delivered, or does not exist.
    next: i64,
    rows: usize,
    bytes: usize,
}

impl Buffer {
    /// An empty buffer that expects records from `next` on.
    pub fn new(partition: i32, next: i64) -> Buffer {
        Buffer { partition, pieces: VecDeque::new(), next, rows: 0, bytes: 0 }
    }

    /// The next offset not seen yet.
    pub fn next(&self) -> i64 {
        self.next
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the records of a partition of the outbox.
    ///
    /// # Errors
    /// One is not what a pipeline writes into its outbox.
    pub fn push_all(&mut self, tp: &TopicPartition, records: &dyn RecordSet, now: Millis) -> Result<(), DeliveryError> {
        for index in 0..records.len() {
            let record = records.get(index);
            let corrupt = |why| DeliveryError::Corrupt { partition: tp.clone(), offset: record.offset, why };
            self.push(record.offset, record.value, now).map_err(corrupt)?;
        }
        Ok(())
    }

    /// Adds a record; one that was seen already is ignored.
    ///
    /// # Errors
    /// The value is not what a pipeline writes into its outbox.
    pub fn push(&mut self, offset: i64, value: Option<&[u8]>, now: Millis) -> Result<(), String> {
        if offset < self.next {
            return Ok(());
        }
        let rows = match value {
            None => None,
            Some(value) => Some(decode_batch(value)?).filter(|rows| rows.num_rows() > 0),
        };
        if let Some(rows) = &rows {
            self.check(rows)?;
        }
        let value = value.unwrap_or_default();
        let mut crc = Hasher::new();
        crc.update(&offset.to_le_bytes());
        crc.update(&(value.len() as u64).to_le_bytes());
        crc.update(value);
        let piece = Piece { offset, arrived: now, bytes: value.len(), crc, rows };
        self.rows += piece.num_rows();
        self.bytes += piece.bytes;
        self.next = offset + 1;
        self.pieces.push_back(piece);
        Ok(())
    }

    fn check(&self, rows: &RecordBatch) -> Result<(), String> {
        if rows.num_rows() > MAX_BLOCK_ROWS {
            return Err(format!("one record with {} rows; {MAX_BLOCK_ROWS} are allowed", rows.num_rows()));
        }
        let schema = rows.schema_ref();
        match [PARTITION, OFFSET, ROW].into_iter().find(|name| schema.index_of(name).is_ok()) {
            Some(name) => Err(format!("the rows already have a column `{name}`, which delivery adds: rename it")),
            None => Ok(()),
        }
    }

    /// Everything below `offset` was read: it is the end of what can be read now.
    pub fn saw_end(&mut self, offset: i64) {
        self.next = self.next.max(offset);
    }

    /// When the oldest record has waited long enough; `None` if nothing is buffered.
    pub fn due(&self, limits: &Limits) -> Option<Millis> {
        self.pieces.front().map(|piece| piece.arrived.saturating_add(limits.flush))
    }

    /// Whether a block is to be cut now: one is full, or the oldest record has waited long enough.
    pub fn ready(&self, limits: &Limits, now: Millis) -> bool {
        self.due(limits).is_some_and(|due| due <= now) || self.rows >= limits.rows || self.bytes >= limits.bytes
    }

    /// Cuts the next block; `None` if nothing is buffered.
    ///
    /// # Errors
    /// The rows cannot be put together, which the checks at the entrance rule out.
    pub fn cut(&mut self, limits: &Limits) -> Result<Option<Cut>, String> {
        let (mut rows, mut bytes, mut count) = (0, 0, 0);
        let mut schema: Option<SchemaRef> = None;
        for piece in &self.pieces {
            rows += piece.num_rows();
            bytes += piece.bytes;
            let found = piece.rows.as_ref().map(RecordBatch::schema_ref);
            let other = found.zip(schema.as_ref()).is_some_and(|(a, b)| a != b);
            if count > 0 && (other || rows > limits.rows.min(MAX_BLOCK_ROWS) || bytes > limits.bytes) {
                break;
            }
            schema = schema.or_else(|| found.cloned());
            count += 1;
        }
        self.take(count)
    }

    /// The block `first..=last` of an intent; `None` as long as not all of it was read.
    ///
    /// # Errors
    /// The rows have different schemas or are too many: this is not a block that was ever cut.
    pub fn rebuild(&mut self, first: i64, last: i64) -> Result<Option<Cut>, String> {
        if self.next <= last {
            return Ok(None);
        }
        let count = self.pieces.iter().take_while(|piece| piece.offset <= last).count();
        if self.pieces.iter().take(count).map(Piece::num_rows).sum::<usize>() > MAX_BLOCK_ROWS {
            return Err(format!("offsets {first} to {last} hold more rows than a block can"));
        }
        let cut = self.take(count)?;
        Ok(Some(cut.unwrap_or(Cut { first, last, crc: Hasher::new().finalize(), bytes: 0, rows: None })))
    }

    fn take(&mut self, count: usize) -> Result<Option<Cut>, String> {
        let taken: Vec<Piece> = self.pieces.drain(..count.min(self.pieces.len())).collect();
        let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return Ok(None) };
        let (first, last) = (first.offset, last.offset);
        let (mut crc, mut bytes) = (Hasher::new(), 0);
        for piece in &taken {
            self.rows -= piece.num_rows();
            bytes += piece.bytes;
            crc.combine(&piece.crc);
        }
        self.bytes -= bytes;
        let rows = assemble(self.partition, &taken)?;
        Ok(Some(Cut { first, last, crc: crc.finalize(), bytes, rows }))
    }
}

/// One batch of all rows, with their positions.
fn assemble(partition: i32, pieces: &[Piece]) -> Result<Option<RecordBatch>, String> {
    let batches: Vec<&RecordBatch> = pieces.iter().filter_map(|piece| piece.rows.as_ref()).collect();
    let Some(schema) = batches.first().map(|rows| rows.schema()) else { return Ok(None) };
    if batches.iter().any(|rows| *rows.schema_ref() != schema) {
        return Err("the rows have different columns".to_owned());
    }
    let joined = concat_batches(&schema, batches).map_err(|e| e.to_string())?;
    let places = || pieces.iter().flat_map(|piece| (0..piece.num_rows()).map(|row| (piece.offset, row as i32)));
    let positions: [ArrayRef; 3] = [
        Arc::new(Int32Array::from(vec![partition; joined.num_rows()])),
        Arc::new(places().map(|(offset, _)| offset).collect::<Int64Array>()),
        Arc::new(places().map(|(_, row)| row).collect::<Int32Array>()),
    ];
    let fields: Vec<Arc<Field>> = schema.fields().iter().cloned().chain(position_fields().map(Arc::new)).collect();
    let columns = joined.columns().iter().cloned().chain(positions).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map(Some).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use headwater_formats::encode_batch;

    use super::*;

    const LIMITS: Limits = Limits { rows: 4, bytes: 1 << 20, flush: 100 };

    fn record(ids: &[i64]) -> Vec<u8> {
        let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        encode_batch(&RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap()
    }

    fn positions(cut: &Cut) -> Vec<(i64, i64, i32)> {
        use arrow::array::AsArray;
        use arrow::datatypes::{Int32Type, Int64Type};
        let rows = cut.rows.as_ref().unwrap();
        let (ids, offsets) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(2).as_primitive::<Int64Type>());
        let places = rows.column(3).as_primitive::<Int32Type>();
        (0..rows.num_rows()).map(|i| (ids.value(i), offsets.value(i), places.value(i))).collect()
    }

    fn filled() -> Buffer {
        let mut buffer = Buffer::new(3, 0);
        for (offset, ids) in [(0, &[1, 2][..]), (1, &[3]), (4, &[4, 5])] {
            buffer.push(offset, Some(&record(ids)), offset * 10).unwrap();
        }
        buffer
    }

    #[test]
    fn blocks_are_whole_records_up_to_the_limit_with_positions() {
        let mut buffer = filled();
        assert_eq!((buffer.rows(), buffer.next()), (5, 5));
        let cut = buffer.cut(&LIMITS).unwrap().unwrap();
        assert_eq!((cut.first, cut.last), (0, 1));
        assert_eq!(positions(&cut), [(1, 0, 0), (2, 0, 1), (3, 1, 0)]);
        let cut = buffer.cut(&LIMITS).unwrap().unwrap();
        assert_eq!((cut.first, cut.last), (4, 4));
        assert!(buffer.cut(&LIMITS).unwrap().is_none());
        assert_eq!((buffer.rows(), buffer.bytes()), (0, 0));
    }

    #[test]
    fn a_block_is_ready_when_full_or_when_its_oldest_record_has_waited() {
        let mut buffer = Buffer::new(0, 0);
        assert!(!buffer.ready(&LIMITS, 1_000));
        buffer.push(0, Some(&record(&[1])), 50).unwrap();
        assert!(!buffer.ready(&LIMITS, 149));
        assert!(buffer.ready(&LIMITS, 150));
        buffer.push(1, Some(&record(&[1, 2, 3])), 60).unwrap();
        assert!(buffer.ready(&LIMITS, 60));
        assert!(Buffer { bytes: 1 << 20, ..Buffer::new(0, 0) }.ready(&LIMITS, 0));
    }

    #[test]
    fn rebuilding_gives_the_same_block_however_the_records_arrived() {
        let mut once = filled();
        let cut = once.cut(&LIMITS).unwrap().unwrap();
        let mut again = Buffer::new(3, 0);
        for (offset, ids) in [(0, &[1, 2][..]), (1, &[3])] {
            assert!(again.rebuild(0, 1).unwrap().is_none(), "not all of it was read");
            again.push(offset, Some(&record(ids)), 7_777).unwrap();
        }
        again.push(4, Some(&record(&[4, 5])), 7_777).unwrap();
        let rebuilt = again.rebuild(0, 1).unwrap().unwrap();
        assert_eq!((rebuilt.first, rebuilt.last, rebuilt.crc), (cut.first, cut.last, cut.crc));
        assert_eq!(positions(&rebuilt), positions(&cut));
        assert_eq!(again.rows(), 2);
    }

    #[test]
    fn a_missing_or_different_record_changes_the_checksum() {
        let crc = |records: &[(i64, Option<Vec<u8>>)]| {
            let mut buffer = Buffer::new(0, 0);
            for (offset, value) in records {
                buffer.push(*offset, value.as_deref(), 0).unwrap();
            }
            buffer.saw_end(10);
            let cut = buffer.rebuild(0, 9).unwrap().unwrap();
            (cut.num_rows(), cut.crc)
        };
        let all = crc(&[(0, Some(record(&[1]))), (1, Some(record(&[2]))), (2, None)]);
        for other in [
            crc(&[(0, Some(record(&[1]))), (1, Some(record(&[2])))]),
            crc(&[(0, Some(record(&[1]))), (1, Some(record(&[3]))), (2, None)]),
            crc(&[(0, Some(record(&[1]))), (2, Some(record(&[2]))), (3, None)]),
            crc(&[]),
        ] {
            assert_ne!(all, other);
        }
    }

    #[test]
    fn other_columns_begin_another_block() {
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let other = encode_batch(&RecordBatch::try_from_iter([("name", names)]).unwrap()).unwrap();
        let mut buffer = Buffer::new(0, 0);
        buffer.push(0, Some(&record(&[1])), 0).unwrap();
        buffer.push(1, None, 0).unwrap();
        buffer.push(2, Some(&other), 0).unwrap();
        let lasts: Vec<i64> = std::iter::from_fn(|| buffer.cut(&LIMITS).unwrap()).map(|cut| cut.last).collect();
        assert_eq!(lasts, [1, 2]);
    }

    #[test]
    fn what_a_pipeline_never_writes_is_refused() {
        let mut buffer = Buffer::new(0, 5);
        assert!(buffer.push(5, Some(b"{}"), 0).is_err());
        let taken: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let taken = encode_batch(&RecordBatch::try_from_iter([("_row", taken)]).unwrap()).unwrap();
        assert!(buffer.push(5, Some(&taken), 0).unwrap_err().contains("`_row`"));
        assert_eq!(buffer.next(), 5);
        buffer.push(4, Some(b"seen before"), 0).unwrap();
        assert_eq!((buffer.rows(), buffer.next()), (0, 5));
    }

    #[test]
    fn empty_records_make_a_block_without_rows() {
        let mut buffer = Buffer::new(0, 0);
        buffer.push(0, None, 0).unwrap();
        buffer.push(1, Some(&record(&[])), 0).unwrap();
        let cut = buffer.cut(&LIMITS).unwrap().unwrap();
        assert_eq!((cut.first, cut.last, cut.num_rows()), (0, 1, 0));
    }
}
