//! Decoding and encoding of one order event of 418 bytes: five fields of fifteen, as JSON and as Avro, per record. And those five fields as
//! a line of CSV.
//!
//! Run with `cargo bench -p headwater-formats`. Times are per batch of 10 000 records, throughput per record.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use apache_avro::types::Value;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use headwater_formats::{
    AvroDecoder, AvroEncoder, AvroReader, CsvDecoder, CsvDialect, CsvEncoder, Decoder, Encoder, JsonDecoder, JsonEncoder, RowBuilder,
    avro_to_arrow,
};

const RECORDS: usize = 10_000;
const REGIONS: [&str; 6] = ["eu-west", "eu-north", "us-east", "us-west", "ap-south", "ap-east"];
const STATES: [&str; 4] = ["CREATED", "PAID", "SHIPPED", "CANCELLED"];
const PAYMENTS: [&str; 4] = ["card", "paypal", "invoice", "voucher"];
const CITIES: [&str; 5] = ["Prague", "Berlin", "Amsterdam", "Barcelona", "Copenhagen"];

const AVRO: &str = r#"{"type":"record","name":"Order","fields":[
    {"name":"order_id","type":"string"},{"name":"product_id","type":"string"},{"name":"customer_id","type":"string"},
    {"name":"amount","type":"double"},{"name":"quantity","type":"int"},{"name":"currency","type":"string"},{"name":"status","type":"string"},
    {"name":"region","type":"string"},{"name":"payment","type":"string"},{"name":"event_time","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"created_ns","type":"long"},{"name":"address","type":{"type":"record","name":"Address","fields":[
        {"name":"street","type":"string"},{"name":"city","type":"string"},{"name":"zip","type":"string"}]}},
    {"name":"coupon","type":["null","string"]},{"name":"express","type":"boolean"},{"name":"note","type":"string"}]}"#;

/// SplitMix64: the same orders in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One order as JSON and as Avro.
fn order(number: u64, random: &mut Random, avro: &apache_avro::Schema) -> (Vec<u8>, Vec<u8>) {
    let (a, b) = (random.next(), random.next());
    let (id, product, customer) = (format!("o-{number:012}"), format!("p-{:05}", a % 10_000), format!("c-{:07}", (a >> 20) % 1_000_000));
    let (cents, quantity, time, created) =
        ((a >> 40) % 20_000, 1 + b % 9, 1_754_994_600_000 + number / 20, 1_754_994_600_000_000_000 + number * 50_000);
    let (status, region, payment) = (STATES[(b >> 16) as usize % 4], REGIONS[(b >> 18) as usize % 6], PAYMENTS[(b >> 21) as usize % 4]);
    let (street, city, zip) =
        (format!("{} Long Street", 1 + (b >> 24) % 200), CITIES[(b >> 32) as usize % 5], format!("{:05}", (b >> 35) % 100_000));
    let (express, note) = (b & 0x4000_0000 == 0, format!("please leave the parcel at the reception desk, code {b:016x}"));
    let mut json = Vec::new();
    write!(
        json,
        "{{\"order_id\":\"{id}\",\"product_id\":\"{product}\",\"customer_id\":\"{customer}\",\"amount\":{}.{:02},\"quantity\":{quantity},\"currency\":\"EUR\",\"status\":\"{status}\",\"region\":\"{region}\",\"payment\":\"{payment}\",\"event_time\":{time},\"created_ns\":{created},\"address\":{{\"street\":\"{street}\",\"city\":\"{city}\",\"zip\":\"{zip}\"}},\"coupon\":null,\"express\":{express},\"note\":\"{note}\"}}",
        cents / 100,
        cents % 100
    )
    .unwrap();
    let text = |s: &str| Value::String(s.to_string());
    let named = |fields: Vec<(&str, Value)>| Value::Record(fields.into_iter().map(|(n, v)| (n.to_string(), v)).collect());
    let value = named(vec![
        ("order_id", text(&id)),
        ("product_id", text(&product)),
        ("customer_id", text(&customer)),
        ("amount", Value::Double(cents as f64 / 100.0)),
        ("quantity", Value::Int(quantity as i32)),
        ("currency", text("EUR")),
        ("status", text(status)),
        ("region", text(region)),
        ("payment", text(payment)),
        ("event_time", Value::TimestampMillis(time as i64)),
        ("created_ns", Value::Long(created as i64)),
        ("address", named(vec![("street", text(&street)), ("city", text(city)), ("zip", text(&zip))])),
        ("coupon", Value::Union(0, Box::new(Value::Null))),
        ("express", Value::Boolean(express)),
        ("note", text(&note)),
    ]);
    let mut framed = vec![0, 0, 0, 0, 1];
    framed.extend(apache_avro::to_avro_datum(avro, value).unwrap());
    (json, framed)
}

fn five_fields() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("order_id", DataType::Utf8, false),
        Field::new("product_id", DataType::Utf8, false),
        Field::new("amount", DataType::Float64, false),
        Field::new("quantity", DataType::Int32, false),
        Field::new("event_time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
    ]))
}

fn benches(c: &mut Criterion) {
    let avro = apache_avro::Schema::parse_str(AVRO).unwrap();
    let mut random = Random(1);
    let orders: Vec<(Vec<u8>, Vec<u8>)> = (0..RECORDS as u64).map(|i| order(i, &mut random, &avro)).collect();
    let mean = orders.iter().map(|(json, _)| json.len()).sum::<usize>() / RECORDS;
    assert!((400..430).contains(&mean), "an order has {mean} bytes");
    let mut group = c.benchmark_group("order");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let all = avro_to_arrow(AVRO).unwrap();
    for (name, schema) in [("5 of 15 fields", five_fields()), ("all fields", all.clone())] {
        let (mut decoder, mut rows) = (JsonDecoder::new(&schema), RowBuilder::new(&schema, RECORDS).unwrap());
        group.bench_function(format!("json decode, {name}"), |b| {
            b.iter(|| {
                orders.iter().for_each(|(json, _)| decoder.decode(json, &mut rows).unwrap());
                black_box(rows.finish().unwrap())
            });
        });
        let mut decoder = AvroDecoder::new(AvroReader::new(AVRO, &schema).unwrap());
        decoder.add_writer(1, AVRO).unwrap();
        group.bench_function(format!("avro decode, {name}"), |b| {
            b.iter(|| {
                orders.iter().for_each(|(_, avro)| decoder.decode(avro, &mut rows).unwrap());
                black_box(rows.finish().unwrap())
            });
        });
        let mut oracle = arrow_json::ReaderBuilder::new(plain(&schema)).with_batch_size(RECORDS).build_decoder().unwrap();
        group.bench_function(format!("arrow-json decode, {name}"), |b| {
            b.iter(|| {
                orders.iter().for_each(|(json, _)| assert_eq!(oracle.decode(json).unwrap(), json.len()));
                black_box(oracle.flush().unwrap())
            });
        });
    }
    let (mut decoder, mut rows) = (JsonDecoder::new(&all), RowBuilder::new(&all, RECORDS).unwrap());
    orders.iter().for_each(|(json, _)| decoder.decode(json, &mut rows).unwrap());
    let batch = rows.finish().unwrap();
    let mut out = Vec::new();
    let encoder = JsonEncoder::new(&all);
    group.bench_function("json encode, all fields", |b| {
        b.iter(|| {
            let rows = encoder.batch(&batch).unwrap();
            out.clear();
            (0..RECORDS).for_each(|row| rows.write(row, &mut out).unwrap());
            black_box(out.len())
        });
    });
    let encoder = AvroEncoder::new(AVRO, &all, 1).unwrap();
    group.bench_function("avro encode, all fields", |b| {
        b.iter(|| {
            let rows = encoder.batch(&batch).unwrap();
            out.clear();
            (0..RECORDS).for_each(|row| rows.write(row, &mut out).unwrap());
            black_box(out.len())
        });
    });
    lines(&mut group, &orders);
    group.finish();
}

/// Five fields of the orders as lines.
fn lines(group: &mut BenchmarkGroup<'_, WallTime>, orders: &[(Vec<u8>, Vec<u8>)]) {
    let schema = five_fields();
    let (mut decoder, mut rows) = (JsonDecoder::new(&schema), RowBuilder::new(&schema, RECORDS).unwrap());
    orders.iter().for_each(|(json, _)| decoder.decode(json, &mut rows).unwrap());
    let batch = rows.finish().unwrap();
    let encoder = CsvEncoder::new(CsvDialect::default(), &schema);
    let mut out = Vec::new();
    group.bench_function("csv encode, 5 fields", |b| {
        b.iter(|| {
            let rows = encoder.batch(&batch).unwrap();
            out.clear();
            (0..RECORDS).for_each(|row| assert!(rows.write(row, &mut out).unwrap()));
            black_box(out.len())
        });
    });
    let encoded = encoder.batch(&batch).unwrap();
    let line = |row| {
        let mut line = Vec::new();
        encoded.write(row, &mut line).unwrap();
        line
    };
    let lines: Vec<Vec<u8>> = (0..RECORDS).map(line).collect();
    let mut decoder = CsvDecoder::new(CsvDialect::default(), &schema, &schema);
    group.bench_function("csv decode, 5 fields", |b| {
        b.iter(|| {
            lines.iter().for_each(|line| decoder.decode(line, &mut rows).unwrap());
            black_box(rows.finish().unwrap())
        });
    });
}

/// arrow-json parses `UTC` only with a time zone database.
fn plain(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|f| match f.data_type() {
            DataType::Timestamp(unit, _) => Field::new(f.name(), DataType::Timestamp(*unit, None), f.is_nullable()),
            _ => f.as_ref().clone(),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

criterion_group!(decode, benches);
criterion_main!(decode);
