//! Keys are bytes: whatever a producer's serializer wrote comes out again, in the partition where that producer would put it.

use std::collections::BTreeMap;

use headwater_formats::partition;

use crate::played::Played;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: keys
sources:
  events: { topic: events, format: bytes }
steps:
  copies: { from: events, map: { select: { k: _key, t: TRY_CAST(_key AS VARCHAR), value: value } } }
  counts: { from: copies, window: { unbounded: true, expire: never, by: [k], compute: { n: count(*) }, emit: on_update } }
  zoe: { from: events, filter: _key = 'Zoë' }
  texts: { from: copies, map: { select: { k: k, t: t } } }
sinks:
  copies: { from: copies, topic: copies, format: bytes, key: k, create: { partitions: 6 } }
  counts: { from: counts, topic: counts, key: k, create: { partitions: 6 } }
  zoe: { from: zoe, topic: zoe, format: bytes, create: { partitions: 1 } }
  texts: { from: texts, topic: texts, key: k, create: { partitions: 1 } }
"#;

#[test]
fn keys_of_every_serializer_come_out_as_they_came_in() {
    let uuid = [0x9f, 0x1c, 0x7b, 0x52, 0xe1, 0x0a, 0x4c, 0x55, 0x8b, 0x1f, 0xd0, 0x3e, 0x77, 0x6c, 0x51, 0xa9];
    let keys: Vec<Option<&[u8]>> = vec![
        Some(&[0, 0, 0, 0, 0, 1, 0xe2, 0x40]), // a long
        Some(&[0xff, 0xff, 0xff, 0xfe]),       // an int
        Some(&uuid),
        Some(b"\x00\x00\x00\x00\x07\x0cC-1042"), // Avro
        Some("Zoë".as_bytes()),
        Some(b""),
        Some(&[0xff]),
        Some(&[0xfe]),
        None,
    ];
    let played = Played::new(PIPELINE, &[("events", 3)]);
    for (n, key) in keys.iter().cycle().take(2 * keys.len()).enumerate() {
        played.broker.append("events", n as i32 % 3, *key, Some(format!("v{n}").as_bytes()), Some(1_767_225_600_000), &[]).unwrap();
    }
    played.run();
    let read = |topic: &str| played.broker.read_all_committed(topic);
    let copies: BTreeMap<String, Option<Vec<u8>>> =
        read("copies").into_iter().map(|r| (String::from_utf8(r.value.unwrap_or_default()).unwrap(), r.key)).collect();
    for (n, key) in keys.iter().cycle().take(2 * keys.len()).enumerate() {
        assert_eq!(copies.get(&format!("v{n}")).map(|k| k.as_deref()), Some(*key), "v{n}");
    }
    for record in read("copies").into_iter().chain(read("counts")) {
        if let Some(key) = &record.key {
            assert_eq!(record.partition, partition(key, 6), "{key:?}");
        }
    }
    // Each key is its own group, wherever its records were.
    let counts = read("counts");
    for key in &keys {
        let of_key: Vec<_> = counts.iter().filter(|r| r.key.as_deref() == *key).collect();
        assert_eq!(of_key.len(), 2, "{key:?}");
        assert!(String::from_utf8_lossy(of_key[1].value.as_deref().unwrap()).ends_with("\"n\":2}"), "{key:?}");
    }
    assert_eq!(read("zoe").len(), 2);
    let text = |key: &[u8]| {
        let found = read("texts").into_iter().find(|r| r.key.as_deref() == Some(key)).and_then(|r| r.value).unwrap();
        serde_json::from_slice::<serde_json::Value>(&found).unwrap()["t"].clone()
    };
    assert_eq!((text("Zoë".as_bytes()), text(&[0xff])), ("Zoë".into(), serde_json::Value::Null));
}
