//! Batches as self-describing bytes: an Arrow IPC stream of one schema and one batch.
//!
//! Reading must be safe on bytes from outside. Arrow's reader checks offsets and UTF-8, but trusts the frame around
//! them: a length of 2^62 makes it allocate, a buffer beyond its body makes it panic. So the frame is checked
//! here first: every message and every buffer must lie within the bytes, and the number of rows must be one those
//! bytes can hold. Only then the stream is handed to Arrow.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use arrow::ipc::{self, MessageHeader};

use crate::masked;

/// Nodes and buffers one batch may have.
const MAX_PARTS: usize = 100_000;

/// Writes a batch with its schema, uncompressed. Values under nulls are left out of the bytes.
///
/// # Errors
/// The schema has a type that IPC cannot carry.
pub fn encode_batch(batch: &RecordBatch) -> Result<Vec<u8>, String> {
    let batch = masked::clean(batch).map_err(|e| e.to_string())?;
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(|e| e.to_string())?;
    writer.write(&batch).map_err(|e| e.to_string())?;
    writer.into_inner().map_err(|e| e.to_string())
}

/// Reads what [`encode_batch`] has written. Memory is bounded by a multiple of the length of `bytes`.
///
/// # Errors
/// Anything else than one schema and one uncompressed batch without dictionaries; damaged or hostile bytes.
pub fn decode_batch(bytes: &[u8]) -> Result<RecordBatch, String> {
    check_frame(bytes)?;
    // Arrow states no promise that its reader never panics on bytes it has validated only in part. A panic here would
    // end a lane for the sake of one record, so it is turned into an error; the bytes are dropped with it.
    let outcome = catch_unwind(AssertUnwindSafe(|| read(bytes)));
    let batch = outcome.unwrap_or_else(|_| Err("the batch is damaged".to_string()))?;
    // Columns without buffers (Null) and batches without columns can claim any number of rows.
    if batch.num_rows() > bytes.len().saturating_mul(8) {
        return Err("the batch claims more rows than its bytes can hold".to_string());
    }
    Ok(batch)
}

fn read(bytes: &[u8]) -> Result<RecordBatch, String> {
    let mut decoder = StreamDecoder::new();
    let mut buffer = Buffer::from(bytes); // a copy: aligned, and independent of the record's memory
    let batch = decoder.decode(&mut buffer).map_err(|e| e.to_string())?;
    batch.ok_or_else(|| "the stream holds no batch".to_string())
}

/// Walks the messages: marker, length, flatbuffer, body. Exactly one schema, then one batch, then the end.
fn check_frame(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes;
    for expected in [MessageHeader::Schema, MessageHeader::RecordBatch] {
        let (marker, length) = (word(rest, 0)?, word(rest, 4)?);
        if marker != u32::MAX {
            return Err("not an Arrow stream".to_string());
        }
        let meta = rest.get(8..).and_then(|r| r.get(..length as usize)).ok_or("truncated message")?;
        let message = ipc::root_as_message(meta).map_err(|e| format!("damaged message: {e}"))?;
        if message.header_type() != expected {
            return Err(format!("expected {expected:?}, found {:?}", message.header_type()));
        }
        let body_length = usize::try_from(message.bodyLength()).map_err(|_| "negative body length")?;
        let after = rest.get(8 + meta.len()..).unwrap_or_default();
        let body = after.get(..body_length).ok_or("truncated body")?;
        if let Some(batch) = message.header_as_record_batch() {
            check_batch(batch, body.len())?;
        }
        rest = after.get(body_length..).unwrap_or_default();
    }
    match rest {
        [] => Ok(()),
        [255, 255, 255, 255, 0, 0, 0, 0] => Ok(()),
        _ => Err("more bytes after the batch".to_string()),
    }
}

fn check_batch(batch: ipc::RecordBatch<'_>, body: usize) -> Result<(), String> {
    if batch.compression().is_some() {
        return Err("compressed batches are not accepted".to_string());
    }
    if batch.length() < 0 {
        return Err("negative number of rows".to_string());
    }
    let (nodes, buffers) = (batch.nodes(), batch.buffers());
    if nodes.map_or(0, |n| n.len()) > MAX_PARTS || buffers.map_or(0, |b| b.len()) > MAX_PARTS {
        return Err("too many columns".to_string());
    }
    for node in nodes.iter().flat_map(|n| n.iter()) {
        if node.length() < 0 || node.null_count() < 0 || node.null_count() > node.length() {
            return Err("damaged column lengths".to_string());
        }
    }
    for buffer in buffers.iter().flat_map(|b| b.iter()) {
        let end = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok()).and_then(|(o, l)| o.checked_add(l));
        if end.is_none_or(|end| end > body) {
            return Err("a column reaches beyond the batch".to_string());
        }
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Result<u32, String> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or("truncated stream")?;
    Ok(u32::from_le_bytes(*bytes))
}
