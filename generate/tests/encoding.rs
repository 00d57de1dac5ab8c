//! What is on the wire is what was counted: totals against a recount of the encoded bytes, by decoders that know nothing of the model.

use std::collections::{BTreeMap, HashSet};

use apache_avro::Schema;
use apache_avro::types::Value;
use headwater_generate::{AvroEncoder, Event, HIGH_VALUE_CENTS, Limit, Model, Options, SchemaIds, Sums, Topic, Totals, encode_json};
use serde::Deserialize;
use serde_json::value::RawValue;

fn load() -> (Vec<Event>, Totals) {
    let options = Options {
        products: 200,
        customers: 500,
        limit: Limit::Events(20_000),
        duplicates: 0.02,
        v2_share: 0.3,
        event_rate: 100.0,
        ..Options::default()
    };
    let mut model = Model::new(options);
    let events = model.by_ref().collect();
    (events, model.into_totals())
}

fn ids() -> SchemaIds {
    let mut next = 0x0102_0300;
    let mut id = |_: &&str| {
        next += 1;
        next
    };
    Topic::ALL.iter().map(|topic| (*topic, topic.schemas().iter().map(&mut id).collect())).collect()
}

/// The part of a totals that can be recounted from orders, payments and adjustments.
#[derive(Debug, Default, PartialEq)]
struct Recount {
    orders: u64,
    lines: u64,
    quantity: i64,
    revenue: i64,
    high_value: (u64, i64),
    paid: i64,
    cells: BTreeMap<(i64, String), (u64, i64, i64)>,
    stock: BTreeMap<String, i64>,
}

impl Recount {
    fn order(&mut self, time: i64, total: i64, items: &[(String, i64, i64)]) {
        let sum: i64 = items.iter().map(|(_, quantity, price)| quantity * price).sum();
        assert_eq!(sum, total, "total is the sum of the lines");
        self.orders += 1;
        self.lines += items.len() as u64;
        if total > HIGH_VALUE_CENTS {
            self.high_value = (self.high_value.0 + 1, self.high_value.1 + total);
        }
        let mut products = HashSet::new();
        for (product, quantity, price) in items {
            self.quantity += quantity;
            self.revenue += quantity * price;
            let cell = self.cells.entry((time - time.rem_euclid(60_000), product.clone())).or_default();
            *cell = (cell.0 + u64::from(products.insert(product)), cell.1 + quantity, cell.2 + quantity * price);
        }
    }

    fn of(sums: &Sums) -> Self {
        let cell = |c: &headwater_generate::Cell| (c.orders, c.quantity, c.revenue_cents);
        assert_eq!(sums.revenue_by_category.values().sum::<i64>(), sums.revenue_cents);
        Recount {
            orders: sums.orders,
            lines: sums.lines,
            quantity: sums.quantity,
            revenue: sums.revenue_cents,
            high_value: (sums.high_value_orders, sums.high_value_cents),
            paid: sums.paid_cents,
            cells: sums.by_minute.iter().map(|((minute, product), c)| ((*minute, product.to_string()), cell(c))).collect(),
            stock: sums.stock.iter().map(|(sku, n)| (sku.to_string(), *n)).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope<'a> {
    event_id: String,
    event_type: String,
    event_version: String,
    timestamp: String,
    source: String,
    #[serde(borrow)]
    data: &'a RawValue,
    metadata: BTreeMap<String, Option<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
    #[serde(borrow)]
    total: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    product_id: String,
    quantity: i64,
    #[serde(borrow)]
    unit_price: &'a RawValue,
}

/// A JSON number with exactly two decimals, as cents.
fn cents(number: &RawValue) -> i64 {
    let (whole, fraction) = number.get().split_once('.').unwrap();
    assert_eq!(fraction.len(), 2, "{number}");
    format!("{whole}{fraction}").parse().unwrap()
}

fn milliseconds(time: &str) -> i64 {
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    chrono::DateTime::parse_from_rfc3339(time).unwrap().timestamp_millis()
}

fn recount_json<'a>(events: impl Iterator<Item = &'a Event>) -> Recount {
    let mut count = Recount::default();
    for event in events {
        let bytes = encode_json(event).unwrap();
        let field = |data: &RawValue, name: &str| serde_json::from_str::<serde_json::Value>(data.get()).unwrap()[name].clone();
        if event.topic().is_table() {
            let row: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            milliseconds(row["updated_at"].as_str().unwrap());
            continue;
        }
        let envelope: Envelope<'_> = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((envelope.event_id.len(), envelope.metadata.len()), (36, 3));
        assert_eq!(envelope.metadata["schemaVersion"].as_ref(), Some(&envelope.event_version));
        match envelope.event_type.as_str() {
            "order.created" => {
                assert_eq!(envelope.source, "order-service");
                let order: Order<'_> = serde_json::from_str(envelope.data.get()).unwrap();
                assert_eq!(event.key(), field(envelope.data, "customerId"));
                let items = order.items.iter().map(|item| (item.product_id.clone(), item.quantity, cents(item.unit_price)));
                count.order(milliseconds(&envelope.timestamp), cents(order.total), &items.collect::<Vec<_>>());
                assert_eq!(envelope.data.get().contains("couponCode"), envelope.event_version == "1.1.0");
            }
            "payment.completed" => {
                assert_eq!(event.key(), field(envelope.data, "orderId"));
                count.paid += (field(envelope.data, "amount").as_f64().unwrap() * 100.0).round() as i64;
            }
            "inventory.adjusted" => {
                assert_eq!(event.key(), field(envelope.data, "sku"));
                *count.stock.entry(event.key()).or_default() += field(envelope.data, "delta").as_i64().unwrap();
            }
            other => assert_eq!(other, "user.registered"),
        }
    }
    count
}

fn get<'a>(record: &'a Value, name: &str) -> &'a Value {
    let Value::Record(fields) = record else { panic!("{record:?} is no record") };
    &fields.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("no {name} in {record:?}")).1
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Uuid(id) => id.to_string(),
        other => panic!("{other:?} is no text"),
    }
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Int(n) => i64::from(*n),
        Value::TimestampMillis(n) => *n,
        Value::Bytes(bytes) => {
            let first = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
            bytes.iter().fold(first, |number, byte| (number << 8) | i64::from(*byte))
        }
        other => panic!("{other:?} is no number"),
    }
}

/// Decodes with the schema that the id names, resolved to a reader's schema, as a consumer of version `reader` would.
///
/// Decimals are read as the bytes they are on the wire: apache-avro 0.21 refuses to resolve a decimal whose value takes fewer bytes
/// than its precision could ("Precision 12 too small to hold decimal values with 2 bytes"), although the specification allows it.
struct Decoder(BTreeMap<Topic, Vec<Schema>>);

impl Decoder {
    fn new() -> Self {
        let parse = |text: &&str| Schema::parse_str(&text.replace(r#""logicalType": "decimal", "#, "")).unwrap();
        Decoder(Topic::ALL.iter().map(|topic| (*topic, topic.schemas().iter().map(parse).collect())).collect())
    }

    fn decode(&self, bytes: &[u8], topic: Topic, reader: usize) -> (usize, Value) {
        assert_eq!(bytes[0], 0);
        let id = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        let version = ids()[&topic].iter().position(|known| *known == id).unwrap();
        let (schemas, mut rest) = (&self.0[&topic], &bytes[5..]);
        let value = apache_avro::from_avro_datum(&schemas[version], &mut rest, Some(&schemas[reader])).unwrap();
        assert!(rest.is_empty(), "{} bytes left over", rest.len());
        (version, value)
    }
}

fn recount_avro<'a>(events: impl Iterator<Item = &'a Event>) -> (Recount, [u64; 2]) {
    let (mut count, mut versions) = (Recount::default(), [0, 0]);
    let (encoder, decoder) = (AvroEncoder::new(&ids()).unwrap(), Decoder::new());
    for event in events {
        let (version, value) = decoder.decode(&encoder.encode(event).unwrap(), event.topic(), 0);
        match event.topic() {
            Topic::Orders => {
                versions[version] += 1;
                let data = get(&value, "data");
                assert_eq!(text(get(data, "customerId")), event.key());
                let Value::Array(items) = get(data, "items") else { panic!("items are no array") };
                let item = |item: &Value| (text(get(item, "productId")), number(get(item, "quantity")), number(get(item, "unitPrice")));
                count.order(number(get(&value, "timestamp")), number(get(data, "total")), &items.iter().map(item).collect::<Vec<_>>());
            }
            Topic::Payments => count.paid += number(get(get(&value, "data"), "amount")),
            Topic::Inventory => {
                let delta = number(get(get(&value, "data"), "delta"));
                *count.stock.entry(text(get(get(&value, "data"), "sku"))).or_default() += delta;
            }
            Topic::Products | Topic::Customers => {
                assert_eq!(number(get(&value, "updated_at")), event.event_time_ms())
            }
            Topic::Registrations => {
                assert_eq!(text(get(get(&value, "data"), "customerId")), event.key())
            }
        }
    }
    (count, versions)
}

#[test]
fn totals_are_what_the_json_says() {
    let (events, totals) = load();
    assert!(totals.duplicates.orders > 50);
    assert_eq!(recount_json(events.iter()), Recount::of(&totals.sent()));
    assert_eq!(recount_json(events.iter().filter(|event| event.duplicate)), Recount::of(&totals.duplicates));
    assert_eq!(events.len() as u64, totals.records());
}

#[test]
fn totals_are_what_the_avro_says_and_both_versions_suit_a_reader_of_the_first() {
    let (events, totals) = load();
    let (count, [first, second]) = recount_avro(events.iter());
    assert_eq!(count, Recount::of(&totals.sent()));
    assert!(first > 1_000 && second > 1_000 && first > second, "{first} {second}");
    let (distinct, _) = recount_avro(events.iter().filter(|event| !event.duplicate));
    assert_eq!(distinct, Recount::of(&totals.distinct));
}

#[test]
fn a_reader_of_the_second_version_sees_null_where_the_first_had_no_field() {
    let (events, _) = load();
    let (encoder, decoder) = (AvroEncoder::new(&ids()).unwrap(), Decoder::new());
    let mut coupons = HashSet::new();
    for event in events.iter().filter(|event| event.topic() == Topic::Orders).take(2_000) {
        let (version, value) = decoder.decode(&encoder.encode(event).unwrap(), Topic::Orders, 1);
        let Value::Union(_, coupon) = get(get(&value, "data"), "couponCode") else { panic!("no union") };
        coupons.insert((version, **coupon == Value::Null));
    }
    assert_eq!(coupons, HashSet::from([(0, true), (1, true), (1, false)]));
}

#[test]
fn an_encoder_without_all_ids_says_which_are_missing() {
    let mut some = ids();
    some.insert(Topic::Orders, vec![1]);
    let message = AvroEncoder::new(&some).err().unwrap().to_string();
    assert!(message.contains("business.orders.created-value has 2 schema versions, 1 ids"), "{message}");
}

#[test]
fn totals_can_be_written_as_json() {
    let (_, totals) = load();
    let json: serde_json::Value = serde_json::to_value(&totals).unwrap();
    assert_eq!(json["distinct"]["orders"], totals.distinct.orders);
    assert_eq!(json["distinct"]["records"]["business.orders.created"], totals.distinct.records[&Topic::Orders]);
    let row = &json["distinct"]["by_minute"][0];
    assert!(row["minute_ms"].is_i64() && row["product_id"].is_string() && row["revenue_cents"].is_i64());
}
