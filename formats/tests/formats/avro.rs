//! The semantics of the Avro decoder, one by one.

use apache_avro::Schema;
use apache_avro::types::Value;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, TimeUnit, TimestampMillisecondType};
use headwater_formats::{AvroDecoder, AvroReader, DecodeError, RowBuilder, arrow_to_avro, avro_to_arrow};

use crate::columns::*;

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"R","namespace":"n.s","fields":[{fields}]}}"#)
}

fn field(schema: &str) -> String {
    record(&format!(r#"{{"name":"a","type":{schema}}}"#))
}

/// Bytes as `apache-avro` writes them.
fn written(writer: &str, fields: Vec<(&str, Value)>) -> Vec<u8> {
    let value = Value::Record(fields.into_iter().map(|(n, v)| (n.to_string(), v)).collect());
    framed(1, &apache_avro::to_avro_datum(&Schema::parse_str(writer).unwrap(), value).unwrap())
}

fn text(value: &str) -> Value {
    Value::String(value.to_string())
}

#[test]
fn schemas_become_arrow_schemas() {
    let schema = avro_to_arrow(&record(
        r#"{"name":"id","type":{"type":"string","logicalType":"uuid"}},{"name":"n","type":["null","int"],"default":null},
           {"name":"m","type":["long","null"]},{"name":"when","type":{"type":"long","logicalType":"timestamp-millis"}},
           {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
           {"name":"kind","type":{"type":"enum","name":"K","symbols":["A"]}},
           {"name":"tags","type":{"type":"array","items":"string"}},{"name":"labels","type":{"type":"map","values":["null","long"]}},
           {"name":"raw","type":{"type":"fixed","name":"F","size":4}},{"name":"uid","type":{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}},
           {"name":"again","type":"K"}, {"name":"local","type":{"type":"long","logicalType":"local-timestamp-micros"}},
           {"name":"span","type":{"type":"fixed","name":"D","size":12,"logicalType":"duration"}},{"name":"more","type":"D"}"#,
    ))
    .unwrap();
    let expected = [
        ("id", DataType::Utf8, false),
        ("n", DataType::Int32, true),
        ("m", DataType::Int64, true),
        ("when", millis(), false),
        ("amount", DataType::Decimal128(12, 2), false),
        ("kind", DataType::Utf8, false),
        ("tags", DataType::List(Field::new("item", DataType::Utf8, false).into()), false),
        ("labels", map_of(DataType::Int64), false),
        ("raw", DataType::FixedSizeBinary(4), false),
        ("uid", DataType::Utf8, false),
        ("again", DataType::Utf8, false),
        ("local", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        ("span", DataType::FixedSizeBinary(12), false),
        ("more", DataType::FixedSizeBinary(12), false),
    ];
    let expected: Vec<Field> = expected.into_iter().map(|(n, t, nullable)| Field::new(n, t, nullable)).collect();
    assert_eq!(schema, crate::columns::schema(expected));
}

#[test]
fn schemas_without_an_arrow_form_are_refused() {
    for (schema, cause) in [
        (r#""string""#.to_string(), "must be a record"),
        ("{".to_string(), "not JSON"),
        (r#"{"type":"recrod"}"#.to_string(), "invalid Avro schema"),
        (record(r#"{"name":"next","type":["null","n.s.R"]}"#), "n.s.R contains itself"),
        (field(r#"{"type":"bytes","logicalType":"decimal","precision":40,"scale":2}"#), "a decimal of 40 digits"),
        (field(r#"{"type":"bytes","logicalType":"big-decimal"}"#), "big-decimal"),
    ] {
        let error = avro_to_arrow(&schema).unwrap_err();
        assert!(error.contains(cause), "{error}");
    }
    let doubling = |inner: String, i: u32| {
        record(&format!(r#"{{"name":"a","type":{inner}}},{{"name":"b","type":"n.s.R{i}"}}"#))
            .replace(r#""name":"R""#, &format!(r#""name":"R{}""#, i + 1))
    };
    let bomb = (0..30).fold(field("\"int\"").replace(r#""name":"R""#, r#""name":"R0""#), doubling);
    assert!(avro_to_arrow(&bomb).unwrap_err().contains("too large"));
    assert!(
        arrow_to_avro(&one(DataType::LargeList(Field::new("i", DataType::Int8, true).into())), "R", "").unwrap_err().starts_with("a: ")
    );
    assert!(arrow_to_avro(&schema(vec![Field::new("a-b", DataType::Int64, true)]), "R", "").unwrap_err().contains("not an Avro name"));
}

#[test]
fn fields_are_reordered_renamed_defaulted_and_skipped() {
    let writer = record(
        r#"{"name":"gone","type":{"type":"array","items":{"type":"record","name":"G","fields":[{"name":"x","type":["null","double"]},{"name":"m","type":{"type":"map","values":"bytes"}}]}}},
           {"name":"old_name","type":"string"},{"name":"n","type":"int"}"#,
    );
    let reader = record(
        r#"{"name":"n","type":"double"},{"name":"name","aliases":["old_name"],"type":["null","string"],"default":null},
           {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2},"default":"\u0004\u00d2"},
           {"name":"tags","type":{"type":"array","items":"string"},"default":["x","y"]},
           {"name":"inner","type":{"type":"record","name":"I","fields":[{"name":"k","type":"long","default":3},{"name":"t","type":["null","string"],"default":null}]},"default":{}},
           {"name":"opt","type":["null","long"],"default":null},{"name":"any","type":["string","null"],"default":"d"}"#,
    );
    let (mut decoder, mut rows) = avro(&reader, &writer);
    let gone = Value::Array(vec![Value::Record(vec![
        ("x".to_string(), Value::Union(1, Box::new(Value::Double(1.0)))),
        ("m".to_string(), Value::Map([("k".to_string(), Value::Bytes(vec![1, 2]))].into())),
    ])]);
    for i in 0..3 {
        let payload = written(&writer, vec![("gone", gone.clone()), ("old_name", text("x")), ("n", Value::Int(i))]);
        decoder.decode(&payload, &mut rows).unwrap();
    }
    let batch = rows.finish().unwrap();
    assert_consistent(&batch);
    assert_eq!(batch.column(0).as_primitive::<Float64Type>().values(), &[0.0, 1.0, 2.0]);
    assert_eq!(texts(&batch, "name"), vec![Some("x".to_string()); 3]);
    assert_eq!(batch.column_by_name("price").unwrap().as_primitive::<Decimal128Type>().values(), &[1234; 3]);
    assert_eq!(batch.column_by_name("tags").unwrap().as_list::<i32>().value(2).as_string::<i32>().value(1), "y");
    assert_eq!(longs(&batch, "opt"), [None; 3]);
    assert_eq!(texts(&batch, "any"), vec![Some("d".to_string()); 3]);
    let inner = batch.column_by_name("inner").unwrap().as_struct();
    assert_eq!(inner.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(1), 3);
}

#[test]
fn only_projected_fields_are_resolved() {
    let writer = record(
        r#"{"name":"a","type":"string"},{"name":"in","type":{"type":"record","name":"I","fields":[{"name":"x","type":"int"},{"name":"y","type":"string"}]}}"#,
    );
    let reader = record(
        r#"{"name":"a","type":"long"},{"name":"in","type":{"type":"record","name":"I","fields":[{"name":"y","type":"string"},{"name":"x","type":"bytes"}]}},{"name":"new","type":"int"}"#,
    );
    let columns = schema(vec![Field::new("in", DataType::Struct(vec![Field::new("y", DataType::Utf8, true)].into()), false)]);
    let mut decoder = AvroDecoder::new(AvroReader::new(&reader, &columns).unwrap());
    decoder.add_writer(1, &writer).unwrap();
    let mut rows = RowBuilder::new(&columns, 1).unwrap();
    let inner = Value::Record(vec![("x".to_string(), Value::Int(5)), ("y".to_string(), text("yes"))]);
    decoder.decode(&written(&writer, vec![("a", text("t")), ("in", inner)]), &mut rows).unwrap();
    assert_eq!(rows.finish().unwrap().column(0).as_struct().column(0).as_string::<i32>().value(0), "yes");
    let wrong = |field: Field| AvroReader::new(&reader, &schema(vec![field])).err().unwrap();
    assert_eq!(wrong(Field::new("nope", DataType::Int64, true)), "nope: not a field of the reader's schema");
    assert_eq!(wrong(Field::new("a", DataType::Utf8, true)), "a: the reader's long cannot be read as Utf8");
}

#[test]
fn writers_alternate_and_unknown_ones_are_asked_for() {
    let reader = record(r#"{"name":"a","type":"long"},{"name":"b","type":["null","string"],"default":null}"#);
    let (old, new) = (field("\"int\""), reader.clone());
    let (mut decoder, mut rows) = avro(&reader, &old);
    decoder.add_writer(2, &new).unwrap();
    let first = written(&old, vec![("a", Value::Int(-1))]);
    let second = {
        let mut bytes = written(&new, vec![("a", Value::Long(1 << 40)), ("b", Value::Union(1, Box::new(text("t"))))]);
        bytes[4] = 2;
        bytes
    };
    for _ in 0..3 {
        decoder.decode(&first, &mut rows).unwrap();
        decoder.decode(&second, &mut rows).unwrap();
        assert_eq!(decoder.decode(&framed(77, &[0]), &mut rows), Err(DecodeError::UnknownSchema(77)));
    }
    assert!(decoder.knows(1) && decoder.knows(2) && !decoder.knows(77));
    let batch = rows.finish().unwrap();
    assert_eq!(longs(&batch, "a"), [Some(-1), Some(1 << 40), Some(-1), Some(1 << 40), Some(-1), Some(1 << 40)]);
    assert_eq!(texts(&batch, "b")[..2], [None, Some("t".to_string())]);
}

#[test]
fn incompatible_writers_are_refused_and_so_are_their_records() {
    let (reader, mut rows) = (field("\"long\""), RowBuilder::new(&one(DataType::Int64), 1).unwrap());
    let mut decoder = AvroDecoder::new(AvroReader::new(&reader, &one(DataType::Int64)).unwrap());
    for (id, writer, cause) in [
        (1, field("\"string\""), "a: string cannot be read as long"),
        (2, record(r#"{"name":"b","type":"long"}"#), "a: the writer's schema does not have it, and it has no default"),
        (3, field(r#"["null","string"]"#), "a: string cannot be read as long"),
        (4, "nonsense".to_string(), "not JSON"),
        (5, "\"long\"".to_string(), "long cannot be read as record"),
    ] {
        let error = decoder.add_writer(id, &writer).unwrap_err();
        assert!(error.contains(cause) && error.contains(&format!("schema {id} cannot be read")), "{error}");
        assert!(decoder.knows(id));
        assert_eq!(decoder.decode(&framed(id, &[2]), &mut rows), Err(DecodeError::Bad(error)));
    }
    decoder.add_writer(1, &reader).unwrap();
    decoder.decode(&framed(1, &[2]), &mut rows).unwrap();
    assert_eq!(longs(&rows.finish().unwrap(), "a"), [Some(1)]);
}

#[test]
fn enums_use_the_readers_symbols_and_default() {
    let of = |symbols: &str, default: &str| field(&format!(r#"{{"type":"enum","name":"K","symbols":[{symbols}]{default}}}"#));
    let writer = of(r#""A","B","C""#, "");
    let (mut decoder, mut rows) = avro(&of(r#""C","A","OTHER""#, r#","default":"OTHER""#), &writer);
    for symbol in 0..3 {
        decoder.decode(&framed(1, &[symbol * 2]), &mut rows).unwrap();
    }
    assert_eq!(texts(&rows.finish().unwrap(), "a"), ["A", "OTHER", "C"].map(|t| Some(t.to_string())));
    assert!(cause(decoder.decode(&framed(1, &[6]), &mut rows).unwrap_err()).contains("does not have"));
    let (mut strict, mut rows) = avro(&of(r#""A""#, ""), &writer);
    assert!(strict.decode(&framed(1, &[0]), &mut rows).is_ok());
    assert!(cause(strict.decode(&framed(1, &[2]), &mut rows).unwrap_err()).contains("does not know"));
}

#[test]
fn unions_are_resolved_branch_by_branch() {
    // A union that only the writer has: its other branch is bad, record by record.
    let (mut decoder, mut rows) = avro(&field("\"long\""), &field(r#"["string","int","null"]"#));
    decoder.decode(&framed(1, &[2, 8]), &mut rows).unwrap();
    assert!(cause(decoder.decode(&framed(1, &[0, 2, 65]), &mut rows).unwrap_err()).contains("string cannot be read as long"));
    assert!(cause(decoder.decode(&framed(1, &[4]), &mut rows).unwrap_err()).starts_with("a: "));
    assert!(cause(decoder.decode(&framed(1, &[6]), &mut rows).unwrap_err()).contains("does not have"));
    assert_eq!(longs(&rows.finish().unwrap(), "a"), [Some(4)]);
    // A union that only the reader has.
    let (mut decoder, mut rows) = avro(&field(r#"["null","double","string"]"#), &field("\"int\""));
    decoder.decode(&framed(1, &[8]), &mut rows).unwrap();
    let batch = rows.finish().unwrap();
    let found = batch.column(0).as_struct();
    assert_eq!(found.column_by_name("double").unwrap().as_primitive::<Float64Type>().value(0), 4.0);
    assert!(found.column_by_name("string").unwrap().is_null(0));
}

#[test]
fn an_envelope_of_several_records_is_a_struct_of_branches() {
    let events = |extra: &str| {
        record(&format!(
            r#"{{"name":"data","type":[{{"type":"record","name":"Created","fields":[{{"name":"id","type":"string"}}]}},
               {{"type":"record","name":"Paid","fields":[{{"name":"cents","type":"int"}}]}}{extra}]}}"#
        ))
    };
    let reader = events("");
    let columns = avro_to_arrow(&reader).unwrap();
    let DataType::Struct(branches) = columns.field(0).data_type() else { panic!("not a struct") };
    assert_eq!(branches.iter().map(|f| (f.name().as_str(), f.is_nullable())).collect::<Vec<_>>(), [("Created", true), ("Paid", true)]);
    assert!(!columns.field(0).is_nullable());
    // A newer writer has a third event; its records are bad, the others are read.
    let (mut decoder, mut rows) = avro(&reader, &events(r#",{"type":"record","name":"Shipped","fields":[]}"#));
    decoder.decode(&framed(1, &[0, 2, b'x']), &mut rows).unwrap();
    decoder.decode(&framed(1, &[2, 10]), &mut rows).unwrap();
    assert!(cause(decoder.decode(&framed(1, &[4]), &mut rows).unwrap_err()).contains("no branch for n.s.Shipped"));
    let batch = rows.finish().unwrap();
    assert_consistent(&batch);
    let data = batch.column(0).as_struct();
    assert_eq!(data.column(0).as_struct().column(0).as_string::<i32>().value(0), "x");
    assert!(data.column(0).is_null(1) && data.column(1).is_null(0) && data.column(1).is_valid(1));
    // Only one branch projected: rows of the other have a struct of nulls.
    let paid = schema(vec![Field::new("data", DataType::Struct(vec![branches[1].clone()].into()), false)]);
    let mut decoder = AvroDecoder::new(AvroReader::new(&reader, &paid).unwrap());
    decoder.add_writer(1, &reader).unwrap();
    let mut rows = RowBuilder::new(&paid, 2).unwrap();
    decoder.decode(&framed(1, &[0, 2, b'x']), &mut rows).unwrap();
    decoder.decode(&framed(1, &[2, 10]), &mut rows).unwrap();
    let batch = rows.finish().unwrap();
    let only = batch.column(0).as_struct().column(0);
    assert!(only.is_null(0) && only.is_valid(1));
}

#[test]
fn logical_types_are_converted() {
    let millis_of = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
    let micros_of = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
    let (mut decoder, mut rows) = avro(&field(millis_of), &field(micros_of));
    decoder.decode(&written(&field(micros_of), vec![("a", Value::TimestampMicros(-1))]), &mut rows).unwrap();
    assert_eq!(rows.finish().unwrap().column(0).as_primitive::<TimestampMillisecondType>().values(), &[-1]);
    for far in [i64::MIN, i64::MAX, 253_402_300_800_000] {
        let (mut decoder, mut rows) = avro(&field(millis_of), &field(millis_of));
        let error = cause(decoder.decode(&written(&field(millis_of), vec![("a", Value::TimestampMillis(far))]), &mut rows).unwrap_err());
        assert!(error.contains("a: timestamp outside the years"), "{error}");
    }
    let decimal = |scale: u32| format!(r#"{{"type":"bytes","logicalType":"decimal","precision":4,"scale":{scale}}}"#);
    let mut decoder = AvroDecoder::new(AvroReader::new(&field(&decimal(2)), &one(DataType::Decimal128(4, 2))).unwrap());
    assert!(decoder.add_writer(2, &field(&decimal(1))).unwrap_err().contains("scale 1 cannot be read with scale 2"));
    decoder.add_writer(1, &field(&decimal(2))).unwrap();
    let mut rows = RowBuilder::new(&one(DataType::Decimal128(4, 2)), 1).unwrap();
    for good in [
        &[2, 0x85][..],
        &[4, 0xff, 0x85],
        &[4, 0x27, 0x0f],
        &[40, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0x85],
    ] {
        decoder.decode(&framed(1, good), &mut rows).unwrap();
    }
    for bad in [
        &[0][..],
        &[4, 0x27, 0x10],
        &[34, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[34, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert!(cause(decoder.decode(&framed(1, bad), &mut rows).unwrap_err()).contains("a: "));
    }
    assert_eq!(rows.finish().unwrap().column(0).as_primitive::<Decimal128Type>().values(), &[-123, -123, 9999, -123]);
}

#[test]
fn a_uuid_of_sixteen_bytes_is_text() {
    let schema = field(r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#);
    let (mut decoder, mut rows) = avro(&schema, &schema);
    let bytes: Vec<u8> = (0..16).map(|i| i * 17).collect();
    decoder.decode(&framed(1, &bytes), &mut rows).unwrap();
    assert_eq!(texts(&rows.finish().unwrap(), "a"), [Some("00112233-4455-6677-8899-aabbccddeeff".to_string())]);
}

#[test]
fn a_null_for_a_column_that_is_not_nullable_is_bad() {
    let schema = field(r#"["null","long"]"#);
    let mut decoder = AvroDecoder::new(AvroReader::new(&schema, &one(DataType::Int64)).unwrap());
    decoder.add_writer(1, &schema).unwrap();
    let mut rows = RowBuilder::new(&one(DataType::Int64), 1).unwrap();
    assert_eq!(cause(decoder.decode(&framed(1, &[0]), &mut rows).unwrap_err()), "a: null, but the field is not nullable");
    decoder.decode(&framed(1, &[2, 4]), &mut rows).unwrap();
    assert_eq!(longs(&rows.finish().unwrap(), "a"), [Some(2)]);
}

/// Types that look alike are distinguished by their names, at every level: the unqualified name, or an alias of the reader's.
#[test]
fn types_of_other_names_are_not_read() {
    let named = |kind: &str, name: &str, more: &str| {
        let inner = match kind {
            "record" => r#""fields":[{"name":"x","type":"long","default":0}]"#,
            "enum" => r#""symbols":["A"]"#,
            _ => r#""size":4"#,
        };
        format!(r#"{{"type":"{kind}","name":"{name}",{more}{inner}}}"#)
    };
    let read = |writer: &str, reader: &str| {
        let projection = avro_to_arrow(reader).unwrap();
        let mut decoder = AvroDecoder::new(AvroReader::new(reader, &projection).unwrap());
        decoder.add_writer(1, writer)
    };
    let (placed, cancelled) = (named("record", "shop.Placed", ""), named("record", "shop.Cancelled", ""));
    let refused = read(&cancelled, &placed).unwrap_err();
    assert!(refused.contains("of type shop.Cancelled, and shop.Placed is expected"), "{refused}");
    assert_eq!(read(&named("record", "store.Placed", ""), &placed), Ok(()), "namespaces are not compared");
    assert_eq!(read(&cancelled, &named("record", "shop.Placed", r#""aliases":["Cancelled"],"#)), Ok(()));
    assert!(read(&cancelled, &named("record", "shop.Placed", r#""aliases":["old.Cancelled"],"#)).is_err());
    for kind in ["record", "enum", "fixed"] {
        for wrap in [field, |t: &str| field(&format!(r#"["null",{t}]"#)), |t: &str| field(&format!(r#"{{"type":"array","items":{t}}}"#))] {
            let (one, other) = (wrap(&named(kind, "One", "")), wrap(&named(kind, "Other", "")));
            assert_eq!(read(&one, &one), Ok(()));
            let refused = read(&other, &one).unwrap_err();
            assert!(refused.contains("n.s.Other, and n.s.One is expected"), "{kind}: {refused}");
            assert_eq!(read(&other, &wrap(&named(kind, "One", r#""aliases":["Other"],"#))), Ok(()), "{kind}");
        }
    }
}
