//! What SQL nulls does not leave: no topic of a pipeline has the bytes of a value that was masked.

use headwater_engine::broker::Broker;

use crate::played::Played;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: masked
sources:
  events:
    topic: events
    schema: { id: string, consent: bool, phones: [string], address: { street: string, zip: string }, people: [{ name: string }], note: string }
steps:
  masked:
    from: events
    map:
      select:
        id: id
        phones: CASE WHEN consent THEN phones END
        address: CASE WHEN consent THEN address END
        people: CASE WHEN consent THEN people END
        note: CASE WHEN consent THEN note END
        nullified: nullif(note, 'SECRET note')
  per_note:
    from: masked
    window:
      unbounded: true
      expire: never
      by: [note]
      compute: { n: count(*), phones: count(phones), addresses: count(address), people: count(people), last: last(nullified) }
      emit: on_update
  per_zip:
    from: masked
    window: { unbounded: true, expire: never, by: [address.zip], compute: { n: count(*) }, emit: on_update }
sinks:
  json: { from: masked, topic: json, key: note, create: { partitions: 2 } }
  avro: { from: masked, topic: avro, format: avro, create: { partitions: 2 } }
  table: { from: masked, elsewhere: a.b }
  notes: { from: per_note, topic: notes, create: { partitions: 2 } }
  zips: { from: per_zip, topic: zips, create: { partitions: 2 } }
"#;

#[test]
fn what_sql_nulls_is_in_no_topic() {
    let played = Played::new(PIPELINE, &[("events", 2)]);
    let broker = &played.broker;
    for n in 0..40 {
        let (consent, word) = if n % 3 == 0 { (true, "seen") } else { (false, "SECRET") };
        let value = format!(
            r#"{{"id":"{n}","consent":{consent},"phones":["{word} 1","{word} 2"],"address":{{"street":"{word} street","zip":"{word} {n}"}},"people":[{{"name":"{word} name"}}],"note":"{word} note"}}"#
        );
        broker.append("events", n % 2, None, Some(value.as_bytes()), Some(1_767_225_600_000), &[]).unwrap();
    }
    played.run();
    let topics = broker.topics().unwrap();
    assert!(["json", "avro", "notes", "zips"].iter().all(|name| topics.contains(&(*name).to_string())), "{topics:?}");
    let has = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    for topic in topics.iter().filter(|topic| *topic != "events" && !topic.ends_with(".manifest")) {
        let records = broker.read_all_committed(topic);
        assert_eq!(topic.ends_with(".dlq"), records.is_empty(), "{topic}");
        for record in records {
            let headers = record.headers.iter().filter_map(|(_, value)| value.clone()).flatten();
            let bytes: Vec<u8> = [record.key, record.value].into_iter().flatten().flatten().chain(headers).collect();
            assert!(!has(&bytes, b"SECRET"), "{topic} has a value that was masked: {}", String::from_utf8_lossy(&bytes));
        }
    }
    // All that is null is one group, whatever it was before.
    let last = broker.read_all_committed("zips").pop().and_then(|record| record.value);
    let nulls = broker.read_all_committed("zips").into_iter().filter(|r| has(r.value.as_deref().unwrap_or_default(), b"\"zip\":null"));
    let counts: Vec<String> = nulls.map(|r| String::from_utf8_lossy(&r.value.unwrap_or_default()).into_owned()).collect();
    assert!(counts.last().is_some_and(|count| count.contains("\"n\":26")), "{counts:?} {last:?}");
}
