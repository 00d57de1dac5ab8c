//! Encoders are the inverse of decoders.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use headwater_formats::{AvroDecoder, AvroEncoder, AvroReader, JsonEncoder, RowBuilder, arrow_to_avro, avro_to_arrow};
use proptest::prelude::*;

use crate::columns::*;

pub fn wide() -> SchemaRef {
    let inner = DataType::Struct(vec![Field::new("t", DataType::Utf8, true), Field::new("x", DataType::Int32, false)].into());
    schema(vec![
        Field::new("flag", DataType::Boolean, true),
        Field::new("int", DataType::Int32, false),
        Field::new("long", DataType::Int64, true),
        Field::new("float", DataType::Float32, true),
        Field::new("double", DataType::Float64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("bytes", DataType::Binary, true),
        Field::new("fixed", DataType::FixedSizeBinary(3), true),
        Field::new("day", DataType::Date32, true),
        Field::new("time", DataType::Time32(TimeUnit::Millisecond), true),
        Field::new("when", millis(), false),
        Field::new("micros", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("nanos", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), true),
        Field::new("local", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("amount", DataType::Decimal128(38, 4), true),
        Field::new("inner", inner.clone(), true),
        Field::new("items", list_of(inner.clone()), true),
        Field::new("labels", map_of(inner), true),
    ])
}

/// A random array; nulls only where the field allows them.
fn array(field: &Field, rows: usize, dice: &mut Dice) -> ArrayRef {
    let nulls: Vec<bool> = (0..rows).map(|_| field.is_nullable() && dice.below(5) == 0).collect();
    let buffer = nulls.contains(&true).then(|| arrow::buffer::NullBuffer::from(nulls.iter().map(|n| !n).collect::<Vec<_>>()));
    macro_rules! values {
        ($array:ty, $value:expr) => {
            nulls.iter().map(|null| if *null { None } else { Some($value) }).collect::<$array>()
        };
    }
    match field.data_type() {
        DataType::Boolean => Arc::new(values!(BooleanArray, dice.below(2) == 0)),
        DataType::Int32 => Arc::new(values!(Int32Array, dice.long() as i32)),
        DataType::Int64 => Arc::new(values!(Int64Array, dice.long())),
        DataType::Float32 => Arc::new(values!(Float32Array, dice.long() as f32 / 7.0)),
        DataType::Float64 => Arc::new(values!(Float64Array, dice.double())),
        DataType::Utf8 => Arc::new(values!(StringArray, dice.text())),
        DataType::Binary => Arc::new(values!(BinaryArray, dice.text().into_bytes())),
        DataType::FixedSizeBinary(3) => {
            let values: Vec<Option<[u8; 3]>> =
                nulls.iter().map(|null| (!null).then(|| [dice.next() as u8, dice.next() as u8, 0])).collect();
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 3).unwrap())
        }
        DataType::Date32 => Arc::new(values!(Date32Array, dice.below(3_600_000) as i32 - 719_162)),
        DataType::Time32(_) => Arc::new(values!(Time32MillisecondArray, dice.below(86_400_000) as i32)),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => Arc::new(
            values!(TimestampMillisecondArray, dice.below(315_537_897_600_000) as i64 - 62_135_596_800_000).with_timezone_opt(zone.clone()),
        ),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => Arc::new(
            values!(TimestampMicrosecondArray, dice.below(315_537_897_600_000_000) as i64 - 62_135_596_800_000_000)
                .with_timezone_opt(zone.clone()),
        ),
        DataType::Timestamp(_, zone) => Arc::new(values!(TimestampNanosecondArray, dice.long()).with_timezone_opt(zone.clone())),
        DataType::Decimal128(p, s) => {
            let limit = 10i128.pow(u32::from(*p));
            let values = values!(Decimal128Array, (i128::from(dice.long()) * i128::from(dice.long())) % limit);
            Arc::new(values.with_precision_and_scale(*p, *s).unwrap())
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|f| array(f, rows, dice)).collect();
            // What a null struct hides must be as a decoder leaves it, or equality of batches would look at it.
            let array = StructArray::try_new(fields.clone(), columns, buffer).unwrap();
            Arc::new(array)
        }
        DataType::List(item) => {
            let lengths: Vec<usize> = nulls.iter().map(|null| if *null { 0 } else { dice.below(4) as usize }).collect();
            let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths.iter().copied());
            Arc::new(ListArray::try_new(item.clone(), offsets, array(item, lengths.iter().sum(), dice), buffer).unwrap())
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { panic!("not entries") };
            let lengths: Vec<usize> = nulls.iter().map(|null| if *null { 0 } else { dice.below(4) as usize }).collect();
            let keys: StringArray = lengths.iter().flat_map(|n| (0..*n).map(|i| Some(format!("k{i}")))).collect();
            let values = array(&fields[1], keys.len(), dice);
            let entry = StructArray::try_new(fields.clone(), vec![Arc::new(keys), values], None).unwrap();
            let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
            Arc::new(MapArray::try_new(entries.clone(), offsets, entry, buffer, false).unwrap())
        }
        other => panic!("no values of {other}"),
    }
}

pub fn batch(schema: &SchemaRef, rows: usize, dice: &mut Dice) -> RecordBatch {
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(|f| array(f, rows, dice)).collect()).unwrap()
}

fn json_rows(batch: &RecordBatch) -> Vec<String> {
    let encoder = JsonEncoder::new(&batch.schema());
    let rows = encoder.batch(batch).unwrap();
    (0..rows.len())
        .map(|row| {
            let mut out = b"prefix".to_vec();
            rows.write(row, &mut out).unwrap();
            String::from_utf8(out.split_off(6)).unwrap()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn json_reads_back_the_same(seed in any::<u64>(), rows in 0usize..20, cut in 0usize..5) {
        let original = batch(&wide(), rows + cut, &mut Dice(seed)).slice(cut, rows);
        let (outcomes, read) = json(&wide(), &json_rows(&original));
        prop_assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        prop_assert_eq!(read, original);
    }

    #[test]
    fn avro_reads_back_the_same(seed in any::<u64>(), rows in 0usize..20, cut in 0usize..5) {
        let original = batch(&wide(), rows + cut, &mut Dice(seed)).slice(cut, rows);
        let avro = arrow_to_avro(&wide(), "Wide", "test.wide").unwrap();
        prop_assert_eq!(avro_to_arrow(&avro).unwrap(), wide());
        let encoder = AvroEncoder::new(&avro, &wide(), 7).unwrap();
        let mut decoder = AvroDecoder::new(AvroReader::new(&avro, &wide()).unwrap());
        decoder.add_writer(7, &avro).unwrap();
        let mut read = RowBuilder::new(&wide(), rows).unwrap();
        let schema = apache_avro::Schema::parse_str(&avro).unwrap();
        let encoded = encoder.batch(&original).unwrap();
        for row in 0..rows {
            let mut out = Vec::new();
            encoded.write(row, &mut out).unwrap();
            decoder.decode(&out, &mut read).unwrap();
            let mut body = &out[5..];
            apache_avro::from_avro_datum(&schema, &mut body, None).unwrap();
            prop_assert!(body.is_empty());
        }
        prop_assert_eq!(read.finish().unwrap(), original);
    }
}

#[test]
fn json_has_the_documented_notation() {
    let schema = schema(vec![
        Field::new("l", DataType::Int64, false),
        Field::new("d", DataType::Float64, false),
        Field::new("m", DataType::Decimal128(10, 2), false),
        Field::new("t", millis(), false),
        Field::new("s", DataType::Utf8, true),
        Field::new("q\"", DataType::Binary, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![i64::MIN, 1])),
        Arc::new(Float64Array::from(vec![0.1, 1e21])),
        Arc::new(Decimal128Array::from(vec![-5, 12_345]).with_precision_and_scale(10, 2).unwrap()),
        Arc::new(TimestampMillisecondArray::from(vec![0, 1_754_994_600_123]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec![None, Some("a\"\\\n\u{1}/é")])),
        Arc::new(BinaryArray::from(vec![&b""[..], &[0, 255][..]])),
    ];
    let rows = json_rows(&RecordBatch::try_new(schema, columns).unwrap());
    assert_eq!(rows[0], r#"{"l":-9223372036854775808,"d":0.1,"m":-0.05,"t":"1970-01-01T00:00:00.000Z","s":null,"q\"":""}"#);
    assert_eq!(
        rows[1],
        "{\"l\":1,\"d\":1.0e21,\"m\":123.45,\"t\":\"2025-08-12T10:30:00.123Z\",\"s\":\"a\\\"\\\\\\n\\u0001/é\",\"q\\\"\":\"AP8=\"}"
    );
}

#[test]
fn an_event_has_only_the_members_of_its_own_type() {
    let inner: Fields = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Int64, true)].into();
    let data: Fields = vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("none", DataType::Null, true),
        Field::new("r", DataType::Struct(inner.clone()), true),
    ]
    .into();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("data", DataType::Struct(data.clone()), true),
        Field::new("rest", DataType::Struct(inner.clone()), true),
    ]));
    let rows = [
        r#"{"id":null,"data":{"b":"{"},"rest":{"x":null,"y":1}}"#,
        r#"{"id":"i","data":{"a":1,"r":{"x":null,"y":2}},"rest":null}"#,
        r#"{"id":"i","data":{},"rest":null}"#,
        r#"{"id":"i","data":null,"rest":null}"#,
    ];
    let (outcomes, batch) = json(&schema, &rows.map(str::to_string));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let encoder = JsonEncoder::new(&schema).leaving_out_nulls_of("data");
    let encoded = encoder.batch(&batch).unwrap();
    for (row, wanted) in rows.iter().enumerate() {
        let mut out = Vec::new();
        encoded.write(row, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), *wanted);
    }
}

#[test]
fn a_row_that_json_cannot_hold_is_refused_alone() {
    let schema = one(DataType::Float64);
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Float64Array::from(vec![1.0, f64::NAN, f64::INFINITY, 2.0]))]).unwrap();
    let encoder = JsonEncoder::new(&schema);
    let rows = encoder.batch(&batch).unwrap();
    let mut out = Vec::new();
    let outcomes: Vec<Result<(), String>> = (0..5).map(|row| rows.write(row, &mut out)).collect();
    assert!(outcomes[0].is_ok() && outcomes[3].is_ok() && outcomes[4].is_err());
    assert_eq!(outcomes[1], Err("a: NaN and infinities have no JSON form".to_string()));
    assert_eq!(outcomes[2], outcomes[1]);
    assert_eq!(String::from_utf8(out).unwrap(), "{\"a\":1.0}{\"a\":2.0}");
    let far = one(millis());
    let batch =
        RecordBatch::try_new(far.clone(), vec![Arc::new(TimestampMillisecondArray::from(vec![i64::MAX]).with_timezone("UTC"))]).unwrap();
    assert!(JsonEncoder::new(&far).batch(&batch).unwrap().write(0, &mut Vec::new()).unwrap_err().contains("out of range"));
}

#[test]
fn views_and_large_types_of_expressions_are_encoded() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("v", Arc::new(StringViewArray::from(vec!["a longer text than twelve bytes"]))),
        ("l", Arc::new(LargeStringArray::from(vec!["x"]))),
        ("b", Arc::new(BinaryViewArray::from(vec![&[1u8][..]]))),
        ("n", Arc::new(NullArray::new(1))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
    assert_eq!(json_rows(&batch), [r#"{"v":"a longer text than twelve bytes","l":"x","b":"AQ==","n":null}"#]);
}

fn avro_encoder(avro: &str, fields: Vec<Field>) -> Result<AvroEncoder, String> {
    AvroEncoder::new(avro, &(Arc::new(Schema::new(fields)) as SchemaRef), 1)
}

#[test]
fn registered_schemas_are_matched_by_name() {
    let avro = r#"{"type":"record","name":"R","fields":[
        {"name":"id","type":"string"},{"name":"note","type":["null","string"]},{"name":"n","type":"long","default":7},
        {"name":"kind","type":{"type":"enum","name":"K","symbols":["A","B"]}},
        {"name":"when","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
        {"name":"u","type":{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}}]}"#;
    let fields = vec![
        Field::new("u", DataType::Utf8, true),
        Field::new("when", millis(), true),
        Field::new("kind", DataType::Utf8, true),
        Field::new("id", DataType::Utf8, false),
    ];
    let encoder = avro_encoder(avro, fields.clone()).unwrap();
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some(uuid), Some("no"), Some(uuid), None])),
        Arc::new(TimestampMillisecondArray::from(vec![Some(5), None, None, None]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec!["B", "A", "C", "A"])),
        Arc::new(StringArray::from(vec!["x", "y", "z", "w"])),
    ];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let rows = encoder.batch(&batch).unwrap();
    let mut out = Vec::new();
    rows.write(0, &mut out).unwrap();
    let (mut decoder, mut read) = avro_decoder(avro);
    decoder.decode(&out, &mut read).unwrap();
    let read = read.finish().unwrap();
    assert_eq!(texts(&read, "u"), [Some(uuid.to_string())]);
    assert_eq!(texts(&read, "kind"), [Some("B".to_string())]);
    assert_eq!(texts(&read, "note"), [None]);
    assert_eq!(longs(&read, "n"), [Some(7)]);
    assert_eq!(read.column_by_name("when").unwrap().as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0), 5_000);
    let before = out.clone();
    assert_eq!(rows.write(1, &mut out), Err("u: the text is not a UUID".to_string()));
    assert_eq!(rows.write(2, &mut out), Err("kind: the text is not a symbol of the enum".to_string()));
    assert_eq!(rows.write(3, &mut out), Err("u: null, but the field of the Avro schema is not nullable".to_string()));
    assert_eq!(out, before);
}

fn avro_decoder(schema: &str) -> (AvroDecoder, RowBuilder) {
    crate::columns::avro(schema, schema)
}

#[test]
fn what_cannot_be_written_is_found_at_construction() {
    let avro = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"},{"name":"in","type":["null",{"type":"record","name":"I","fields":[{"name":"x","type":"int"}]}]}]}"#;
    let id = Field::new("id", DataType::Utf8, false);
    let inner = |f: Field| Field::new("in", DataType::Struct(vec![f].into()), true);
    for (fields, cause) in [
        (vec![], "id: there is no such column"),
        (vec![Field::new("id", DataType::Int64, false)], "id: Int64 cannot be written as string"),
        (vec![id.clone(), Field::new("more", DataType::Int64, true)], "more: the Avro schema has no such field"),
        (vec![id.clone(), inner(Field::new("x", DataType::Int64, false))], "in.x: Int64 cannot be written as int"),
        (vec![id.clone(), inner(Field::new("y", DataType::Int32, false))], "in: y: the Avro schema has no such field"),
    ] {
        let error = avro_encoder(avro, fields).err().unwrap();
        assert!(error.contains(cause) || error.contains(&cause.replace("in: y", "in.y")), "{error}");
    }
    assert!(avro_encoder(avro, vec![id]).is_ok());
}

#[test]
fn unions_of_several_types_go_both_ways() {
    let avro = r#"{"type":"record","name":"E","fields":[{"name":"data","type":["null",
        {"type":"record","name":"Created","fields":[{"name":"id","type":"string"}]},
        {"type":"record","name":"Paid","fields":[{"name":"cents","type":"long"}]}, "string"]}]}"#;
    let columns = avro_to_arrow(avro).unwrap();
    let documents =
        [r#"{"data":{"Created":{"id":"a"}}}"#, r#"{"data":{"Paid":{"cents":5}}}"#, r#"{"data":{"string":"s"}}"#, r#"{"data":null}"#];
    let (outcomes, batch) = json(&columns, &documents);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let encoder = AvroEncoder::new(avro, &columns, 1).unwrap();
    let (mut decoder, mut read) = avro_decoder(avro);
    let rows = encoder.batch(&batch).unwrap();
    for row in 0..4 {
        let mut out = Vec::new();
        rows.write(row, &mut out).unwrap();
        decoder.decode(&out, &mut read).unwrap();
    }
    assert_eq!(read.finish().unwrap(), batch);
    let (_, two) = json(&columns, &[r#"{"data":{"string":"s","Paid":{"cents":5}}}"#, r#"{"data":{}}"#]);
    let rows = encoder.batch(&two).unwrap();
    for row in 0..2 {
        assert!(rows.write(row, &mut Vec::new()).unwrap_err().contains("exactly one must be set"));
    }
}

/// A null of a list, map or record is not an empty one, whatever is under it: null where the schema can say so, else the row can't be
/// written.
#[test]
fn nulls_of_containers_are_nulls_or_errors() {
    let document = r#"{"l":["hidden"],"m":{"hidden":1},"r":{"x":"hidden"}}"#.to_string();
    let record = DataType::Struct(vec![Field::new("x", DataType::Utf8, false)].into());
    let fields = || {
        vec![
            Field::new("l", list_of(DataType::Utf8), true),
            Field::new("m", map_of(DataType::Int64), true),
            Field::new("r", record.clone(), true),
        ]
    };
    let full = json(&schema(fields()), &[document]).1;
    let types = [
        r#"{"type":"array","items":"string"}"#,
        r#"{"type":"map","values":"long"}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"x","type":"string"}]}"#,
    ];
    for (index, avro_type) in types.iter().enumerate() {
        let field = fields().remove(index);
        let hidden = full.column(index).to_data().into_builder().nulls(Some(vec![false].into())).build().unwrap();
        let batch = RecordBatch::try_new(schema(vec![field.clone()]), vec![make_array(hidden)]).unwrap();
        let write = |field_type: &str| {
            let avro = format!(r#"{{"type":"record","name":"Row","fields":[{{"name":"{}","type":{field_type}}}]}}"#, field.name());
            let (encoder, mut out) = (avro_encoder(&avro, vec![field.clone()]).unwrap(), Vec::new());
            encoder.batch(&batch).unwrap().write(0, &mut out).map(|()| out)
        };
        assert_eq!(write(&format!(r#"["null",{avro_type}]"#)).unwrap()[5..], [0], "{avro_type}");
        let refused = write(avro_type).unwrap_err();
        assert!(refused.contains("null"), "{refused}");
        assert_eq!(json_rows(&batch), [format!(r#"{{"{}":null}}"#, field.name())]);
    }
}
