//! Records that can't be decoded or processed, between good ones, in each format: the good ones are untouched, each bad
//! one is in the dead letters byte for byte, with its cause and where it came from.

use std::time::Duration;

use crate::environment::{exclusive, wait_until};
use crate::log::{avro_long, create, create_with, produce, read, register};
use crate::worker::Worker;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: poison
sources:
  json: { topic: poison.json, schema: { n: long, d: "long?" } }
  avro: { topic: poison.avro, format: avro }
  text: { topic: poison.text, format: string }
  csv: { topic: poison.csv, format: { csv: { delimiter: ";" } }, schema: { n: long, note: "string?" } }
steps:
  divided: { from: json, map: { add: { q: "100 / coalesce(d, 1)" } } }
sinks:
  json_out: { from: divided, topic: poison.json-out, create: { partitions: 1 } }
  avro_out: { from: avro, topic: poison.avro-out, create: { partitions: 1 } }
  text_out: { from: text, topic: poison.text-out, format: string, create: { partitions: 1 } }
  csv_out: { from: csv, topic: poison.csv-out, format: csv, create: { partitions: 1 } }
"#;

#[test]
fn pills_go_to_the_dead_letters_and_nothing_else_is_touched() {
    let environment = exclusive();
    for topic in ["poison.json", "poison.avro", "poison.text", "poison.csv"] {
        create(&environment, topic, 1);
    }
    let id = register(&environment, "poison.avro-value", r#"{"type":"record","name":"R","fields":[{"name":"n","type":"long"}]}"#);
    let deep = "[".repeat(10_000);
    let json: Vec<&[u8]> = vec![
        b"{\"n\":1",
        b"not json",
        b"{\"n\":\"1\"}",
        b"{\"n\":1.5}",
        b"{\"n\":9223372036854775808}",
        b"{\"n\":NaN}",
        b"{\"n\":null}",
        b"{}",
        b"",
        b"\xff\xfe",
        b"\xef\xbb\xbf{\"n\":1}",
        b"{\"n\":1}x",
        b"{\"n\":1,\"x\":\"\\ud800\"}",
        deep.as_bytes(),
        // Decodes, and fails in the expression: only this row.
        b"{\"n\":1,\"d\":0}",
    ];
    let mut truncated = avro_long(id, 1 << 40);
    truncated.truncate(7);
    let mut trailing = avro_long(id, 1);
    trailing.push(0);
    let mut magic = avro_long(id, 1);
    magic[0] = 1;
    let unknown = avro_long(999_999, 1);
    let overflow = [&avro_long(id, 0)[..5], &[0xff; 11]].concat();
    let avro: Vec<&[u8]> = vec![&truncated, &trailing, &magic, b"\x00\x00", b"", &unknown, &overflow];
    let text: Vec<&[u8]> = vec![b"\xff", b"ok\xc3"];
    let csv: Vec<&[u8]> =
        vec![b"", b"1", b"1;x;2", b"x;1", b"9223372036854775808;x", b"1;\"x", b"1;x\"y", b"1;\"x\"y", b"1;\xff", b"1;x\n2;y"];
    let good_json = |n: usize| format!("{{\"n\":{n}}}").into_bytes();
    let rounds = 5;
    send(&environment, "poison.json", &json, &good_json, rounds);
    send(&environment, "poison.avro", &avro, &|n| avro_long(id, n as i64), rounds);
    send(&environment, "poison.text", &text, &|n| format!("line {n}").into_bytes(), rounds);
    send(&environment, "poison.csv", &csv, &|n| format!("{n};\"a, \"\"b\"\"\"").into_bytes(), rounds);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("poison.yaml");
    std::fs::write(&file, PIPELINE).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    for (topic, pills) in [("poison.json", &json), ("poison.avro", &avro), ("poison.text", &text), ("poison.csv", &csv)] {
        let good = rounds * (pills.len() + 1);
        wait_until(topic, Duration::from_secs(90), || {
            let (found, dead) = (read(&environment, &format!("{topic}-out")).len(), read(&environment, &format!("{topic}.dlq")).len());
            let done = found == good && dead == rounds * pills.len();
            if done {
                Ok(())
            } else {
                Err(format!("{found} of {good} rows, {dead} of {} dead letters\n{}", rounds * pills.len(), worker.log_tail()))
            }
        });
        let mut dead = read(&environment, &format!("{topic}.dlq"));
        dead.sort_by_key(|letter| letter.headers["hw-offset"].parse::<usize>().unwrap());
        for (n, letter) in dead.iter().enumerate() {
            assert_eq!(letter.value.as_deref(), Some(pills[n % pills.len()]), "{topic}: dead letter {n} is not the record that was sent");
            assert_eq!(letter.headers["hw-topic"], topic);
            assert_eq!(letter.headers["hw-partition"], "0");
            assert!(!letter.headers["hw-cause"].is_empty());
            assert_eq!(
                letter.headers["hw-offset"].parse::<usize>().unwrap(),
                offset(n, pills.len()),
                "{topic}: {}",
                letter.headers["hw-cause"]
            );
        }
    }
    let lines: Vec<Vec<u8>> = read(&environment, "poison.csv-out").into_iter().filter_map(|record| record.value).collect();
    assert!(lines.contains(&b"0,\"a, \"\"b\"\"\"".to_vec()), "{:?}", lines.first().map(|line| String::from_utf8_lossy(line)));
    let lines = worker.log_lines();
    let told = lines.iter().find(|line| line["message"] == "dead letter").expect("the log tells of dead letters");
    assert!(told["pipeline"] == "poison" && told["partition"] == 0 && told["offset"].is_number(), "{told}");
    assert!(told.get("correlation_id").is_none() && !told["cause"].as_str().unwrap_or("").is_empty(), "{told}");
    assert!(lines.iter().all(|line| line.to_string().len() < 4_096 && !line.to_string().contains("ok\u{fffd}")), "values in the log");
    let letters = worker.metric("headwater_dead_letters_total", &[]).unwrap();
    wait_until("each dead letter is logged or counted", Duration::from_secs(10), || {
        let left_out = |line: &serde_json::Value| match line["line"] == "dead letter" {
            true => line["left_out"].as_u64().unwrap_or(0),
            false => u64::from(line["message"] == "dead letter"),
        };
        match worker.log_lines().iter().map(left_out).sum::<u64>() {
            counted if counted as f64 == letters => Ok(()),
            counted => Err(format!("{counted} of {letters}")),
        }
    });
    assert!(worker.stop().success(), "the worker is alive and ends cleanly");
}

/// A record that could be read may still be too large to be copied with a cause beside it. Its letter then says where
/// it is, instead of aborting transactions forever.
#[test]
fn what_is_too_large_to_copy_becomes_a_letter_that_says_where_it_is() {
    let environment = exclusive();
    create(&environment, "large.text", 1);
    let large = "y".repeat(990_000);
    let values: [&[u8]; 3] = [b"before", large.as_bytes(), b"after"];
    produce(&environment, "large.text", &values.map(|value| (0, Some("k"), Some(value))));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("large.yaml");
    let text = "apiVersion: headwater/v1\nname: large\nsources: { s: { topic: large.text, format: string } }\n\
                sinks: { out: { from: s, topic: large.text-out, format: string, create: { partitions: 1 } } }\n";
    std::fs::write(&file, text).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    wait_until("rows and letter", Duration::from_secs(60), || {
        let (rows, letters) = (read(&environment, "large.text-out").len(), read(&environment, "large.text.dlq").len());
        if (rows, letters) == (2, 1) { Ok(()) } else { Err(format!("{rows} rows, {letters} letters\n{}", worker.log_tail())) }
    });
    let letter = read(&environment, "large.text.dlq").remove(0);
    assert_eq!((letter.key, letter.value), (None, None));
    assert!(letter.headers["hw-omitted"].contains("990001 bytes"), "{:?}", letter.headers);
    assert_eq!((letter.headers["hw-topic"].as_str(), letter.headers["hw-offset"].as_str()), ("large.text", "1"));
    assert!(worker.stop().success());
}

/// Records that the brokers refuse for what they are, each in the middle of good ones: too large for its topic, a timestamp outside
/// the topic's limits, no key for a compacted topic. Each is a dead letter with the reason, and what is beside it is written.
#[test]
fn what_the_brokers_refuse_is_a_dead_letter_and_the_rest_flows() {
    let environment = exclusive();
    create(&environment, "refused.in", 1);
    create_with(&environment, "refused.keyed", 2, &[("cleanup.policy", "compact")]);
    create_with(&environment, "refused.small", 2, &[("max.message.bytes", "2000")]);
    create_with(&environment, "refused.recent", 2, &[("message.timestamp.before.max.ms", "3600000")]);
    let random = |n: u64, length: usize| -> String {
        let mut state = n;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (state >> 59) as u8 % 26)
        };
        std::iter::repeat_with(next).take(length).collect()
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    // Every tenth has no key, every tenth is large, every tenth old; the others fill batches larger than the small topic takes.
    let value = |n: u64| {
        let id = if n % 10 == 1 { "null".to_owned() } else { format!("\"k{n}\"") };
        let text = random(n, if n % 10 == 2 { 6_000 } else { 300 });
        let at = if n % 10 == 3 { now - 86_400_000 } else { now };
        format!("{{\"id\":{id},\"n\":{n},\"text\":\"{text}\",\"at\":{at}}}").into_bytes()
    };
    let count: u64 = 200;
    let values: Vec<Vec<u8>> = (0..count).map(value).collect();
    produce(&environment, "refused.in", &values.iter().map(|v| (0, None, Some(v.as_slice()))).collect::<Vec<_>>());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("refused.yaml");
    let text = r#"
apiVersion: headwater/v1
name: refused
sources: { s: { topic: refused.in, schema: { id: "string?", n: long, text: string, at: long } } }
steps: { short: { from: s, map: { select: { id: id, n: n, at: at } } } }
sinks:
  keyed: { from: short, topic: refused.keyed, key: id }
  small: { from: s, topic: refused.small }
  recent: { from: short, topic: refused.recent, timestamp: at }
"#;
    std::fs::write(&file, text).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let tenth = count as usize / 10;
    wait_until("rows and letters", Duration::from_secs(120), || {
        let written = ["refused.keyed", "refused.small", "refused.recent"].map(|topic| read(&environment, topic).len());
        let letters = read(&environment, "refused.in.dlq").len();
        let done = written.iter().all(|n| *n == count as usize - tenth) && letters == 3 * tenth;
        if done { Ok(()) } else { Err(format!("{written:?} rows, {letters} letters\n{}", worker.log_tail())) }
    });
    for letter in read(&environment, "refused.in.dlq") {
        let (n, cause) = (letter.headers["hw-offset"].parse::<u64>().unwrap(), letter.headers["hw-cause"].as_str());
        let (step, words) = match n % 10 {
            1 => ("keyed", "takes no record without a key"),
            2 => ("small", "MSG_SIZE_TOO_LARGE"),
            3 => ("recent", "refused.recent"),
            _ => panic!("{n} is good: {cause}"),
        };
        assert_eq!((letter.headers["hw-step"].as_str(), letter.value.as_deref()), (step, Some(values[n as usize].as_slice())), "{n}");
        assert!(cause.contains(words), "{n}: {cause}");
    }
    assert!(worker.stop().success(), "the worker is alive and ends cleanly");
}

/// Rounds of: a good record, then pill and good record in turn.
fn send(environment: &headwater_devenv::Ephemeral, topic: &str, pills: &[&[u8]], good: &dyn Fn(usize) -> Vec<u8>, rounds: usize) {
    let mut values: Vec<Vec<u8>> = Vec::new();
    for round in 0..rounds {
        values.push(good(round));
        for (n, pill) in pills.iter().enumerate() {
            values.push(pill.to_vec());
            values.push(good(n));
        }
    }
    let records: Vec<(i32, Option<&str>, Option<&[u8]>)> = values.iter().map(|v| (0, None, Some(v.as_slice()))).collect();
    produce(environment, topic, &records);
}

/// The offset of the n-th pill.
fn offset(n: usize, pills: usize) -> usize {
    (n / pills) * (2 * pills + 1) + 1 + 2 * (n % pills)
}
