//! The Avro decoder against `apache-avro`: what it writes, resolved by it, must be what we decode.

use apache_avro::Schema;
use apache_avro::types::Value;
use headwater_formats::{AvroDecoder, AvroEncoder, AvroReader, DecodeError, RowBuilder, avro_to_arrow};
use proptest::prelude::*;

use crate::columns::*;

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop.v1","fields":[
    {"name":"id","type":"string"},{"name":"qty","type":"int"},{"name":"total","type":"float"},{"name":"flag","type":"boolean"},
    {"name":"note","type":["null","string"],"default":null},{"name":"rev","type":["long","null"]},
    {"name":"raw","type":"bytes"},{"name":"code","type":{"type":"fixed","name":"Code","size":3}},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["NEW","PAID","GONE"]}},
    {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
        {"name":"sku","type":"string"},{"name":"price","type":["null","double"]},{"name":"opts","type":{"type":"map","values":"int"}}]}}},
    {"name":"labels","type":{"type":"map","values":{"type":"array","items":"long"}}},
    {"name":"first","type":["null","Line"]},
    {"name":"when","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"day","type":{"type":"int","logicalType":"date"}},
    {"name":"time","type":{"type":"int","logicalType":"time-millis"}}]}"#;

/// Fields reordered and left out, promoted, made nullable, added with defaults.
const ORDER_2: &str = r#"{"type":"record","name":"Order","namespace":"shop.v1","fields":[
    {"name":"total","type":"double"},{"name":"qty","type":"long"},{"name":"id","type":["null","string"]},
    {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
        {"name":"opts","type":{"type":"map","values":"double"}},{"name":"price","type":["null","double"]},{"name":"sku","type":"string"},
        {"name":"weight","type":"float","default":1.5}]}}},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["PAID","OTHER","NEW"],"default":"OTHER"}},
    {"name":"labels","type":{"type":"map","values":{"type":"array","items":"double"}}},
    {"name":"currency","type":"string","default":"EUR"},{"name":"score","type":["null","long"],"default":null},
    {"name":"when","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;

const MONEY: &str = r#"{"type":"record","name":"Money","fields":[
    {"name":"b","type":{"type":"bytes","logicalType":"decimal","precision":18,"scale":3}},
    {"name":"f","type":{"type":"fixed","name":"Amount","size":9,"logicalType":"decimal","precision":20,"scale":0}},
    {"name":"us","type":{"type":"long","logicalType":"timestamp-micros"}},{"name":"ns","type":{"type":"long","logicalType":"timestamp-nanos"}},
    {"name":"local","type":{"type":"long","logicalType":"local-timestamp-millis"}},{"name":"tus","type":{"type":"long","logicalType":"time-micros"}}]}"#;

const EVENT: &str = r#"{"type":"record","name":"Event","fields":[{"name":"n","type":"long"},{"name":"data","type":["null",
    {"type":"record","name":"Created","fields":[{"name":"id","type":"string"},{"name":"tags","type":{"type":"array","items":"string"}}]},
    {"type":"record","name":"Paid","fields":[{"name":"cents","type":"long"}]},"string"]},{"name":"tail","type":"int"}]}"#;

const EVENT_N: &str = r#"{"type":"record","name":"Event","fields":[{"name":"tail","type":"int"},{"name":"n","type":"long"}]}"#;

const FAMILIES: [(&str, &str); 6] =
    [(ORDER, ORDER), (ORDER, ORDER_2), (ORDER_2, ORDER_2), (MONEY, MONEY), (EVENT, EVENT), (EVENT, EVENT_N)];

/// A random value of a schema.
fn random(schema: &Schema, all: &[(String, Schema)], dice: &mut Dice) -> Value {
    match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(dice.below(2) == 0),
        Schema::Int => Value::Int(dice.long() as i32),
        Schema::Long => Value::Long(dice.long()),
        Schema::Float => Value::Float(dice.long() as f32 / 3.0),
        Schema::Double => Value::Double(dice.double()),
        Schema::Bytes => Value::Bytes(dice.text().into_bytes()),
        Schema::String => Value::String(dice.text()),
        Schema::Fixed(f) => Value::Fixed(f.size, (0..f.size).map(|_| dice.next() as u8).collect()),
        Schema::Enum(e) => {
            let i = dice.below(e.symbols.len() as u64) as usize;
            Value::Enum(i as u32, e.symbols[i].clone())
        }
        Schema::Array(a) => Value::Array((0..dice.below(4)).map(|_| random(&a.items, all, dice)).collect()),
        Schema::Map(m) => Value::Map((0..dice.below(4)).map(|i| (format!("k{i}"), random(&m.types, all, dice))).collect()),
        Schema::Union(u) => {
            let i = dice.below(u.variants().len() as u64) as usize;
            Value::Union(i as u32, Box::new(random(&u.variants()[i], all, dice)))
        }
        Schema::Record(r) => Value::Record(r.fields.iter().map(|f| (f.name.clone(), random(&f.schema, all, dice))).collect()),
        Schema::Ref { name } => random(&all.iter().find(|(n, _)| *n == name.fullname(None)).unwrap().1.clone(), all, dice),
        Schema::Decimal(d) => {
            let (limit, size) = if d.precision == 18 { (10i64.pow(18), 8) } else { (i64::MAX, 9) };
            let value = dice.long() % limit;
            let bytes = i128::from(value).to_be_bytes();
            Value::Decimal(apache_avro::Decimal::from(&bytes[16 - size..]))
        }
        Schema::TimestampMillis => Value::TimestampMillis(dice.long() % 200_000_000_000_000 / 4),
        Schema::LocalTimestampMillis => Value::LocalTimestampMillis(dice.long() % 200_000_000_000_000 / 4),
        Schema::TimestampMicros => Value::TimestampMicros(dice.long() % 50_000_000_000_000_000),
        Schema::TimestampNanos => Value::TimestampNanos(dice.long()),
        Schema::Date => Value::Date(dice.below(3_000_000) as i32 - 700_000),
        Schema::TimeMillis => Value::TimeMillis(dice.below(86_400_000) as i32),
        Schema::TimeMicros => Value::TimeMicros(dice.below(86_400_000_000) as i64),
        other => panic!("no values of {other:?}"),
    }
}

fn named(schema: &Schema, all: &mut Vec<(String, Schema)>) {
    match schema {
        Schema::Record(r) => {
            all.push((r.name.fullname(None), schema.clone()));
            r.fields.iter().for_each(|f| named(&f.schema, all));
        }
        Schema::Array(a) => named(&a.items, all),
        Schema::Union(u) => u.variants().iter().for_each(|v| named(v, all)),
        _ => {}
    }
}

/// Decimals are equal if their numbers are, whatever their number of bytes; maps compare without order.
fn normal(value: Value) -> Value {
    match value {
        Value::Decimal(d) => {
            let bytes: Vec<u8> = <Vec<u8>>::try_from(&d).unwrap();
            let sign = if bytes.first().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
            let mut wide = vec![sign; 16 - bytes.len()];
            wide.extend(bytes);
            Value::Bytes(wide)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        Value::Map(entries) => Value::Map(entries.into_iter().map(|(k, v)| (k, normal(v))).collect()),
        Value::Union(i, inner) => Value::Union(i, Box::new(normal(*inner))),
        Value::Record(fields) => Value::Record(fields.into_iter().map(|(k, v)| (k, normal(v))).collect()),
        other => other,
    }
}

struct Pair {
    writer: Schema,
    reader: Schema,
    names: Vec<(String, Schema)>,
    decoder: AvroDecoder,
    rows: RowBuilder,
    encoder: AvroEncoder,
}

fn pair((writer, reader): (&str, &str)) -> Pair {
    let columns = avro_to_arrow(reader).unwrap();
    let mut decoder = AvroDecoder::new(AvroReader::new(reader, &columns).unwrap());
    decoder.add_writer(1, writer).unwrap();
    let (writer, reader_schema) = (Schema::parse_str(writer).unwrap(), Schema::parse_str(reader).unwrap());
    let mut names = Vec::new();
    named(&writer, &mut names);
    Pair {
        writer,
        reader: reader_schema,
        names,
        decoder,
        rows: RowBuilder::new(&columns, 8).unwrap(),
        encoder: AvroEncoder::new(reader, &columns, 9).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Write with apache-avro, decode with us, encode with us, read with apache-avro: the value as apache-avro resolves it.
    #[test]
    fn values_are_those_of_apache_avro(seed in any::<u64>(), family in 0usize..FAMILIES.len()) {
        let mut pair = pair(FAMILIES[family]);
        let mut dice = Dice(seed);
        let mut expected = Vec::new();
        for _ in 0..dice.below(6) {
            let body = apache_avro::to_avro_datum(&pair.writer, random(&pair.writer, &pair.names, &mut dice)).unwrap();
            expected.push(apache_avro::from_avro_datum(&pair.writer, &mut body.as_slice(), Some(&pair.reader)).unwrap());
            pair.decoder.decode(&framed(1, &body), &mut pair.rows).unwrap();
        }
        let batch = pair.rows.finish().unwrap();
        assert_consistent(&batch);
        let rows = pair.encoder.batch(&batch).unwrap();
        for (row, expected) in expected.into_iter().enumerate() {
            let mut out = Vec::new();
            rows.write(row, &mut out).unwrap();
            prop_assert_eq!(&out[..5], &[0, 0, 0, 0, 9]);
            let found = apache_avro::from_avro_datum(&pair.reader, &mut &out[5..], None).unwrap();
            prop_assert_eq!(normal(found), normal(expected));
        }
    }

    /// Truncated and damaged records between good ones: the good ones are as if they were alone.
    #[test]
    fn bad_records_leave_no_trace(seed in any::<u64>(), family in 0usize..FAMILIES.len()) {
        let (mut with, mut without) = (pair(FAMILIES[family]), pair(FAMILIES[family]));
        let mut dice = Dice(seed);
        for _ in 0..dice.below(8) {
            let body = apache_avro::to_avro_datum(&with.writer, random(&with.writer, &with.names, &mut dice)).unwrap();
            let good = framed(1, &body);
            if dice.below(2) == 0 {
                let cut = dice.below(good.len() as u64) as usize;
                prop_assert!(matches!(with.decoder.decode(&good[..cut], &mut with.rows), Err(DecodeError::Bad(_))));
                let mut longer = good.clone();
                longer.push(0);
                prop_assert!(matches!(with.decoder.decode(&longer, &mut with.rows), Err(DecodeError::Bad(_))));
            }
            with.decoder.decode(&good, &mut with.rows).unwrap();
            without.decoder.decode(&good, &mut without.rows).unwrap();
        }
        prop_assert_eq!(with.rows.finish().unwrap(), without.rows.finish().unwrap());
    }

    /// Any bytes at all: an outcome, no panic, and consistent columns.
    #[test]
    fn damaged_records_have_an_outcome(seed in any::<u64>(), family in 0usize..FAMILIES.len()) {
        let mut pair = pair(FAMILIES[family]);
        let mut dice = Dice(seed);
        for _ in 0..20 {
            let mut body = apache_avro::to_avro_datum(&pair.writer, random(&pair.writer, &pair.names, &mut dice)).unwrap();
            for _ in 0..1 + dice.below(4) {
                let place = dice.below(body.len() as u64) as usize;
                body[place] = dice.next() as u8;
            }
            let before = pair.rows.len();
            let outcome = pair.decoder.decode(&framed(1, &body), &mut pair.rows);
            prop_assert_eq!(pair.rows.len(), before + usize::from(outcome.is_ok()));
        }
        assert_consistent(&pair.rows.finish().unwrap());
    }
}
