//! Schemas and batches shared by the tests.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef, TimeUnit};
use headwater_formats::{AvroDecoder, AvroReader, DecodeError, JsonDecoder, RowBuilder, avro_to_arrow};

pub fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

pub fn one(data_type: DataType) -> SchemaRef {
    schema(vec![Field::new("a", data_type, false)])
}

pub fn millis() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

pub fn map_of(value: DataType) -> DataType {
    let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
}

pub fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

/// Decodes documents one after the other; the outcome of each, and the batch of the good ones.
pub fn json<P: AsRef<[u8]>>(schema: &SchemaRef, documents: &[P]) -> (Vec<Result<(), String>>, RecordBatch) {
    let mut decoder = JsonDecoder::new(schema);
    let mut rows = RowBuilder::new(schema, 8).unwrap();
    let outcomes = documents.iter().map(|d| decoder.decode(d.as_ref(), &mut rows).map_err(cause)).collect();
    (outcomes, rows.finish().unwrap())
}

pub fn cause(error: DecodeError) -> String {
    match error {
        DecodeError::Bad(cause) => cause,
        DecodeError::UnknownSchema(id) => panic!("schema {id} should be known"),
    }
}

/// The cause of a document that must be refused.
pub fn json_error(schema: &SchemaRef, document: &[u8]) -> String {
    let (outcomes, batch) = json(schema, &[document]);
    assert_eq!(batch.num_rows(), 0, "{:?} left a row", String::from_utf8_lossy(document));
    outcomes[0].clone().expect_err(&String::from_utf8_lossy(document))
}

/// A decoder of everything in the reader schema, with writer 1.
pub fn avro(reader: &str, writer: &str) -> (AvroDecoder, RowBuilder) {
    let columns = avro_to_arrow(reader).unwrap();
    let mut decoder = AvroDecoder::new(AvroReader::new(reader, &columns).unwrap());
    decoder.add_writer(1, writer).unwrap();
    (decoder, RowBuilder::new(&columns, 8).unwrap())
}

/// The body with Confluent's header for a schema id.
pub fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let array = batch.column_by_name(column).unwrap().as_string::<i32>();
    array.iter().map(|v| v.map(str::to_string)).collect()
}

pub fn longs(batch: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().iter().collect()
}

/// A deterministic source of choices, seeded by the test.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn text(&mut self) -> String {
        const PIECES: [&str; 14] = ["a", "Zed", "žluť", "\"", "\\", "\n", "\r", ",", "\u{1}", "😀", " ", "/", "0123456789abcdef", "\u{7f}"];
        (0..self.below(5)).map(|_| PIECES[self.below(14) as usize]).collect()
    }

    /// Any long, short ones more often.
    pub fn long(&mut self) -> i64 {
        let shift = self.below(64);
        (self.next() as i64) >> shift
    }

    pub fn double(&mut self) -> f64 {
        loop {
            let value = if self.below(2) == 0 { f64::from_bits(self.next()) } else { self.long() as f64 / 100.0 };
            if value.is_finite() {
                return value;
            }
        }
    }
}

/// No bad row may leave a trace: lengths of all columns agree.
pub fn assert_consistent(batch: &RecordBatch) {
    for column in batch.columns() {
        assert_eq!(column.len(), batch.num_rows());
        column.to_data().validate_full().unwrap();
    }
}
