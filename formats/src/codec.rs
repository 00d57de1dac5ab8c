//! What a format implements: bytes of a record's value to a row, and rows to bytes.
//!
//! The engine holds decoders and encoders behind these traits and names no format. One call appends or writes one record;
//! everything that depends on columns alone is done when a decoder is made, or once per batch.

use arrow::array::RecordBatch;

use crate::avro::{AvroDecoder, AvroEncoder, AvroRows};
use crate::builder::RowBuilder;
use crate::cause::DecodeError;
use crate::json::JsonDecoder;
use crate::json_encode::{JsonEncoder, JsonRows};

/// Bytes to rows.
pub trait Decoder: Send {
    /// Appends one record as one row.
    ///
    /// # Errors
    /// [`DecodeError::UnknownSchema`] if [`Decoder::add_schema`] was not called yet for the schema that the record names, else
    /// [`DecodeError::Bad`]. `rows` is then as it was before.
    fn decode(&mut self, value: &[u8], rows: &mut RowBuilder) -> Result<(), DecodeError>;

    /// The text of a schema that [`Decoder::decode`] asked for.
    ///
    /// # Errors
    /// Its records can't be read: why. They are bad from now on.
    fn add_schema(&mut self, id: u32, text: &str) -> Result<(), String> {
        let _ = text;
        Err(format!("records of this format have no schema {id}"))
    }
}

/// Rows to bytes.
pub trait Encoder: Send {
    /// Resolves the columns of a batch.
    ///
    /// # Errors
    /// Its columns differ from those the encoder was made for.
    fn batch<'a>(&'a self, rows: &'a RecordBatch) -> Result<Box<dyn Encoded + 'a>, String>;
}

/// The rows of one batch, ready to be written.
pub trait Encoded {
    /// Appends one row to `out`; `false`, and nothing appended, if its record has no value.
    ///
    /// # Errors
    /// The row can't be written in this format: why. `out` is as it was before.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, String>;
}

/// The JSON in a record: behind magic byte and schema id, if a registry's serializer wrote it. No JSON begins with a zero byte.
pub fn json_payload(value: &[u8]) -> &[u8] {
    match value {
        [0, _, _, _, _, json @ ..] => json,
        plain => plain,
    }
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, value: &[u8], rows: &mut RowBuilder) -> Result<(), DecodeError> {
        JsonDecoder::decode(self, json_payload(value), rows)
    }
}

impl Encoder for JsonEncoder {
    fn batch<'a>(&'a self, rows: &'a RecordBatch) -> Result<Box<dyn Encoded + 'a>, String> {
        Ok(Box::new(JsonEncoder::batch(self, rows)?))
    }
}

impl Encoded for JsonRows<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, String> {
        JsonRows::write(self, row, out).map(|()| true)
    }
}

impl Decoder for AvroDecoder {
    fn decode(&mut self, value: &[u8], rows: &mut RowBuilder) -> Result<(), DecodeError> {
        AvroDecoder::decode(self, value, rows)
    }

    fn add_schema(&mut self, id: u32, text: &str) -> Result<(), String> {
        self.add_writer(id, text)
    }
}

impl Encoder for AvroEncoder {
    fn batch<'a>(&'a self, rows: &'a RecordBatch) -> Result<Box<dyn Encoded + 'a>, String> {
        Ok(Box::new(AvroEncoder::batch(self, rows)?))
    }
}

impl Encoded for AvroRows<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, String> {
        AvroRows::write(self, row, out).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::json_payload;

    #[test]
    fn json_is_found_behind_the_id_of_its_schema() {
        assert_eq!(json_payload(b"{}"), b"{}");
        assert_eq!(json_payload(b"\0\0\0\0\x07{}"), b"{}");
        assert_eq!(json_payload(b"\0\0"), b"\0\0");
    }
}
