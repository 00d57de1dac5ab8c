//! Several record types in one topic, and keys that are records, with the schemas of a real registry.

use std::time::Duration;

use crate::environment::{exclusive, wait_until};
use crate::log::{create, create_with, produce_by_key, read, register};
use crate::worker::Worker;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: record-types
sources:
  orders:
    topic: types.orders
    format: avro
    key: { format: avro }
    time: { idle: never }
    types:
      placed: { is: shop.OrderPlaced }
      cancelled: { is: OrderCancelled, subject: shop.OrderCancelled }
tables:
  prices: { topic: types.prices, schema: { price: long }, key: { format: avro, columns: [sku, tenant] } }
steps:
  priced: { from: orders.placed, enrich: { table: prices, on: [_key.sku, _key.tenant], add: [price] } }
  counts:
    from: orders.placed
    window: { unbounded: true, expire: never, by: [_key.tenant, _key.sku], compute: { n: count(*) }, emit: on_update }
sinks:
  priced: { from: priced, topic: types.priced, create: { partitions: 1 } }
  cancelled: { from: orders.cancelled, topic: types.cancelled, create: { partitions: 1 } }
  counts: { from: counts, topic: types.counts, key: { format: avro, columns: [tenant, sku] }, create: { partitions: 1 } }
"#;

const KEY: &str = r#"{"type":"record","name":"ProductKey","namespace":"shop","fields":[
    {"name":"tenant","type":"string"},{"name":"sku","type":"string"}]}"#;

fn record(name: &str, fields: &[(&str, &str)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, of)| serde_json::json!({ "name": name, "type": of })).collect();
    serde_json::json!({ "type": "record", "name": name, "namespace": "shop", "fields": fields }).to_string()
}

/// A record of texts, behind the id of its schema.
fn texts(id: u32, texts: &[&str]) -> Vec<u8> {
    let mut bytes = [&[0][..], &id.to_be_bytes()].concat();
    for text in texts {
        bytes.push(2 * text.len() as u8);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

#[test]
fn types_and_keys_are_read_by_the_schemas_of_the_registry() {
    let environment = exclusive();
    create(&environment, "types.orders", 3);
    create_with(&environment, "types.prices", 3, &[("cleanup.policy", "compact")]);
    let key = register(&environment, "types.orders-key", KEY);
    register(&environment, "types.prices-key", KEY);
    register(&environment, "types.counts-key", KEY);
    let placed = register(&environment, "types.orders-shop.OrderPlaced", &record("OrderPlaced", &[("order_id", "string")]));
    let cancelled = record("OrderCancelled", &[("order_id", "string"), ("reason", "string")]);
    let cancelled = register(&environment, "shop.OrderCancelled", &cancelled);
    let shipped = register(&environment, "types.orders-shop.OrderShipped", &record("OrderShipped", &[("order_id", "string")]));
    let lamp = texts(key, &["a", "lamp"]);
    let desk = texts(key, &["b", "desk"]);
    let (lamp_price, desk_price) = (br#"{"price":7}"#.as_slice(), br#"{"price":9}"#.as_slice());
    produce_by_key(&environment, "types.prices", &[(&lamp, Some(lamp_price)), (&desk, Some(desk_price)), (&desk, None)]);
    let orders = [
        (lamp.as_slice(), texts(placed, &["o1"])),
        (&lamp, texts(cancelled, &["o1", "late"])),
        (&desk, texts(placed, &["o2"])),
        (&desk, texts(shipped, &["o2"])),
        (&lamp, texts(placed, &["o3"])),
        (b"no record", texts(placed, &["o4"])),
    ];
    let orders: Vec<(&[u8], Option<&[u8]>)> = orders.iter().map(|(key, value)| (*key, Some(value.as_slice()))).collect();
    produce_by_key(&environment, "types.orders", &orders);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("types.yaml");
    std::fs::write(&file, PIPELINE).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let expected = [("types.priced", 3), ("types.cancelled", 1), ("types.counts", 3), ("types.orders.dlq", 2)];
    wait_until("all rows are there", Duration::from_secs(90), || {
        let found = expected.map(|(topic, _)| (topic, read(&environment, topic).len()));
        if found == expected { Ok(()) } else { Err(format!("{found:?}\n{}", worker.log_tail())) }
    });
    let values = |topic: &str| {
        let values = read(&environment, topic).into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap());
        let mut values: Vec<String> = values.collect();
        values.sort();
        values
    };
    assert_eq!(
        values("types.priced"),
        [r#"{"order_id":"o1","price":7}"#, r#"{"order_id":"o2","price":null}"#, r#"{"order_id":"o3","price":7}"#]
    );
    assert_eq!(values("types.cancelled"), [r#"{"order_id":"o1","reason":"late"}"#]);
    let mut keys: Vec<Vec<u8>> = read(&environment, "types.counts").into_iter().map(|record| record.key.unwrap()).collect();
    keys.sort();
    // The id is that of the subject's own version.
    let texts_of = |key: &[u8]| key.get(5..).map(<[u8]>::to_vec);
    assert_eq!(keys.iter().map(|key| texts_of(key)).collect::<Vec<_>>(), [texts_of(&lamp), texts_of(&lamp), texts_of(&desk)]);
    assert!(worker.stop().success());
}
