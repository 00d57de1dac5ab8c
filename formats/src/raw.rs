//! Values as they are: one column of bytes or text.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::builder::RowBuilder;
use crate::cause::{DecodeError, Fail};
use crate::codec::{Decoder, Encoded, Encoder};
use crate::column::Data;
use crate::view::{self, Values, View};

/// Takes a value as the only column of a row, which is Binary or Utf8.
pub struct RawDecoder {
    schema: SchemaRef,
}

impl RawDecoder {
    /// A decoder into the only column of `schema`.
    pub fn new(schema: &SchemaRef) -> RawDecoder {
        RawDecoder { schema: SchemaRef::clone(schema) }
    }
}

impl Decoder for RawDecoder {
    fn decode(&mut self, value: &[u8], rows: &mut RowBuilder) -> Result<(), DecodeError> {
        rows.attempt(&self.schema, |root| {
            let column = match &mut root.data {
                Data::Struct(columns) => columns.first_mut(),
                _ => None,
            };
            let Some(column) = column else { return Err(Fail::new("there is no column for the value")) };
            match &mut column.data {
                Data::Binary(values) => values.push(value)?,
                Data::Utf8(_) if simdutf8::basic::from_utf8(value).is_err() => return Err(Fail::new("the value is not UTF-8 text")),
                Data::Utf8(values) => values.push(value)?,
                _ => return Err(Fail::new("the column for the value is neither bytes nor text")),
            }
            column.rows.valid();
            root.rows.valid();
            Ok(())
        })?;
        Ok(())
    }
}

/// Writes the only column of the rows, which is Binary or Utf8, as it is. Where it is null the record has no value.
pub struct RawEncoder {
    schema: SchemaRef,
}

impl RawEncoder {
    /// An encoder of the only column of `schema`.
    pub fn new(schema: &SchemaRef) -> RawEncoder {
        RawEncoder { schema: SchemaRef::clone(schema) }
    }
}

impl Encoder for RawEncoder {
    fn batch<'a>(&'a self, rows: &'a RecordBatch) -> Result<Box<dyn Encoded + 'a>, String> {
        let column = view::columns(rows, &self.schema)?.into_iter().next().ok_or("there is no column for the value")?;
        Ok(Box::new(RawRows { column, rows: rows.num_rows() }))
    }
}

struct RawRows<'a> {
    column: View<'a>,
    rows: usize,
}

impl Encoded for RawRows<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool, String> {
        if row >= self.rows || self.column.is_null(row) {
            return Ok(false);
        }
        match &self.column.values {
            Values::Text(texts) => out.extend_from_slice(texts.get(row).as_bytes()),
            Values::Bytes(blobs) => out.extend_from_slice(blobs.get(row)),
            _ => return Err("a value is bytes or text".into()),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn there_and_back(of: DataType, values: &[&[u8]]) -> Vec<Result<Vec<u8>, String>> {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("value", of, true)]));
        let mut rows = RowBuilder::new(&schema, 4).unwrap();
        let mut decoder = RawDecoder::new(&schema);
        let read: Vec<_> = values.iter().map(|value| decoder.decode(value, &mut rows).map_err(|e| e.to_string())).collect();
        let (batch, encoder) = (rows.finish().unwrap(), RawEncoder::new(&schema));
        let encoded = encoder.batch(&batch).unwrap();
        let mut row = 0..;
        read.into_iter()
            .map(|read| {
                let mut bytes = Vec::new();
                read.map(|()| assert!(encoded.write(row.next().unwrap(), &mut bytes).unwrap()))?;
                Ok(bytes)
            })
            .collect()
    }

    #[test]
    fn values_are_copied_as_they_are() {
        let found = there_and_back(DataType::Binary, &[b"a", &[0, 255], b""]);
        assert_eq!(found, [Ok(b"a".to_vec()), Ok(vec![0, 255]), Ok(vec![])]);
    }

    #[test]
    fn text_is_utf_8_and_nothing_else() {
        let found = there_and_back(DataType::Utf8, &["žluť".as_bytes(), &[0xff], b"b"]);
        assert_eq!(found, [Ok("žluť".as_bytes().to_vec()), Err("the value is not UTF-8 text".to_string()), Ok(b"b".to_vec())]);
    }
}
