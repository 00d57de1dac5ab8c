//! Change records in Avro, as `apache-avro` writes them.

use apache_avro::Schema;
use apache_avro::types::Value;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, TimeUnit, TimestampMicrosecondType};
use headwater_formats::{AvroChanges, ChangeDecoder, DecodeError, Operation, RowBuilder, changed_columns, with_connect_types};

use crate::columns::*;

/// An envelope as connectors register it. `row`: the fields of the row.
fn envelope(name: &str, row: &str) -> String {
    format!(
        r#"{{"type":"record","name":"Envelope","namespace":"shop","fields":[
            {{"name":"before","type":["null",{{"type":"record","name":"{name}","fields":[{row}]}}],"default":null}},
            {{"name":"after","type":["null","{name}"],"default":null}},
            {{"name":"source","type":{{"type":"record","name":"Source","fields":[{{"name":"db","type":"string"}}]}}}},
            {{"name":"op","type":"string"}},
            {{"name":"ts_ms","type":["null","long"],"default":null}}]}}"#
    )
}

const ID: &str = r#"{"name":"id","type":"long"}"#;
const AT: &str = r#"{"name":"at","type":{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}}"#;
const PRICE: &str = r#"{"name":"price","type":["null",{"type":"bytes","logicalType":"decimal","precision":64,"scale":2}],"default":null}"#;

fn of(fields: Vec<(&str, Value)>) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}

fn row(id: i64, at: i64) -> Value {
    Value::Union(1, Box::new(of(vec![("id", Value::Long(id)), ("at", Value::Long(at))])))
}

fn null() -> Value {
    Value::Union(0, Box::new(Value::Null))
}

fn written(writer: &str, before: Value, after: Value, op: &str) -> Vec<u8> {
    let source = of(vec![("db", Value::String("shop".into()))]);
    let at = Value::Union(1, Box::new(Value::Long(7)));
    let record = of(vec![("before", before), ("after", after), ("source", source), ("op", Value::String(op.into())), ("ts_ms", at)]);
    framed(1, &apache_avro::to_avro_datum(&Schema::parse_str(writer).unwrap(), record).unwrap())
}

#[test]
fn rows_of_an_older_envelope_are_read_as_those_of_the_newest() {
    // The record of the row is called otherwise: it is found by its place.
    let (writer, reader) = (envelope("Value", &format!("{ID},{AT}")), envelope("ConnectDefault", &format!("{ID},{AT},{PRICE}")));
    let reader = with_connect_types(&reader).unwrap();
    let columns = changed_columns(&reader).unwrap();
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let expected = [("id", DataType::Int64, false), ("at", micros, false), ("price", DataType::Decimal128(38, 2), true)];
    assert_eq!(columns, schema(expected.map(|(name, of, nullable)| Field::new(name, of, nullable)).to_vec()));
    let mut decoder = AvroChanges::new(&reader, &columns).unwrap();
    let bytes = written(&writer, row(1, 10), row(1, 20), "u");
    assert_eq!(decoder.read(&bytes), Err(DecodeError::UnknownSchema(1)));
    decoder.add_schema(1, &writer).unwrap();
    let change = decoder.read(&bytes).unwrap().unwrap();
    assert_eq!((change.operation, change.at), (Operation::Update, Some(7)));
    let mut rows = RowBuilder::new(&columns, 2).unwrap();
    for row in [change.before, change.after].into_iter().flatten() {
        decoder.row(row, &mut rows).unwrap();
    }
    let rows = rows.finish().unwrap();
    assert_eq!(rows.column(1).as_primitive::<TimestampMicrosecondType>().values(), &[10, 20]);
    assert_eq!(rows.column(2).as_primitive::<Decimal128Type>().null_count(), 2);
}

#[test]
fn what_is_not_there_is_not_there() {
    let writer = envelope("Value", &format!("{ID},{AT}"));
    let columns = changed_columns(&writer).unwrap();
    let mut decoder = AvroChanges::new(&writer, &columns).unwrap();
    decoder.add_schema(1, &writer).unwrap();
    let found = |decoder: &mut AvroChanges, before, after, op: &str| {
        let bytes = written(&writer, before, after, op);
        decoder.read(&bytes).map(|change| change.map(|c| (c.operation, c.before.is_some(), c.after.is_some())))
    };
    assert_eq!(found(&mut decoder, null(), row(1, 1), "r"), Ok(Some((Operation::Create, false, true))));
    assert_eq!(found(&mut decoder, row(1, 1), null(), "d"), Ok(Some((Operation::Delete, true, false))));
    assert!(matches!(found(&mut decoder, null(), null(), "t"), Err(DecodeError::Bad(why)) if why.contains("truncate")));
}

#[test]
fn bytes_that_are_cut_or_no_envelope_are_bad() {
    let writer = envelope("Value", &format!("{ID},{AT}"));
    let columns = changed_columns(&writer).unwrap();
    let mut decoder = AvroChanges::new(&writer, &columns).unwrap();
    decoder.add_schema(1, &writer).unwrap();
    let bytes = written(&writer, row(1, 10), row(1, 20), "u");
    for end in 0..bytes.len() {
        assert!(matches!(decoder.read(&bytes[..end]), Err(DecodeError::Bad(_))), "{end}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(decoder.read(&longer), Err(DecodeError::Bad(why)) if why.contains("after the end")));
    let plain = r#"{"type":"record","name":"Value","fields":[{"name":"id","type":"long"}]}"#;
    assert!(changed_columns(plain).unwrap_err().contains("not an envelope"));
    assert!(decoder.add_schema(2, plain).is_err());
    assert!(matches!(decoder.read(&framed(2, &[2])), Err(DecodeError::Bad(_))));
}
