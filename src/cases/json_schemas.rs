//! What cases and simulators write fits the JSON Schemas in `schemas`.

use std::path::Path;

use headwater_engine::catalog::Catalog;
use headwater_formats::{JsonDecoder, RowBuilder, json_schema_to_arrow};
use headwater_generate::simulate::{Behaviour, OrderOptions, Orders, PAYMENTS, Participant, Record, SHIPPING, UserOptions, Users};
use serde_json::{Value, json};

use crate::pipeline_files::catalog::Folder;

/// The case of records that are no events of the domain.
const REFUSED: &str = "no_such_command";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Why an event does not fit the schema of its topic. Topics without a JSON Schema take anything.
fn misfit(folder: &Folder, topic: &str, event: &Value) -> Option<String> {
    let registered = folder.subject(&format!("{topic}-value")).unwrap().filter(|registered| registered.json)?;
    let columns = json_schema_to_arrow(&registered.text).unwrap();
    let mut rows = RowBuilder::new(&columns, 1).unwrap();
    if let Err(why) = JsonDecoder::new(&columns).decode(event.to_string().as_bytes(), &mut rows) {
        return Some(format!("{why:?}"));
    }
    let schema: Value = serde_json::from_str(&registered.text).unwrap();
    let types = schema["properties"]["eventType"]["enum"].as_array().unwrap();
    let members = schema["properties"]["data"]["properties"].as_object().unwrap();
    let unknown = event["data"].as_object().unwrap().keys().find(|name| !members.contains_key(*name));
    match unknown {
        _ if !types.contains(&event["eventType"]) => Some(format!("the type {}", event["eventType"])),
        Some(name) => Some(format!("the member `{name}`")),
        None => None,
    }
}

#[test]
fn events_of_cases_fit() {
    let (folder, mut checked, mut found) = (Folder::read(&root().join("schemas")).unwrap(), 0, Vec::new());
    for pipeline in ["inventory", "order-fulfilment"] {
        for case in std::fs::read_dir(root().join("pipelines").join(pipeline).join("cases")).unwrap() {
            let case = case.unwrap().path();
            if case.ends_with(REFUSED) {
                continue;
            }
            for file in std::fs::read_dir(&case).into_iter().flatten() {
                let file = file.unwrap().path();
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let Some(name) = name.strip_suffix(".jsonl").filter(|name| !name.ends_with(".dlq")) else { continue };
                let of_file = name.strip_prefix("in.").or_else(|| name.strip_prefix("out."));
                for line in std::fs::read_to_string(&file).unwrap().lines() {
                    let line: Value = serde_json::from_str(line).unwrap();
                    let Some(topic) = line.get("@topic").and_then(Value::as_str).or(of_file) else { continue };
                    let event = line.get("@value").unwrap_or(&line);
                    // Other topics have rows.
                    if event.get("eventId").is_some_and(Value::is_string) && event.get("data").is_some_and(Value::is_object) {
                        checked += 1;
                        let mut event = event.clone();
                        fill(&mut event);
                        found.extend(misfit(&folder, topic, &event).map(|why| format!("{}: {event}: {why}", file.display())));
                    }
                }
            }
        }
    }
    assert!(checked > 100 && found.is_empty(), "{checked} checked\n{}", found.join("\n"));
}

/// Puts a time where a case accepts any value.
fn fill(value: &mut Value) {
    match value {
        Value::String(text) if text == "<any>" => *value = json!("2026-01-01T00:00:00.000Z"),
        Value::Object(members) => members.values_mut().for_each(fill),
        Value::Array(items) => items.iter_mut().for_each(fill),
        _ => {}
    }
}

#[test]
fn simulated_events_fit() {
    let folder = Folder::read(&root().join("schemas")).unwrap();
    let mut records: Vec<Record> = Vec::new();
    let mut orders = Orders::new(OrderOptions { count: Some(50), stock: 10, buckets: 3, ..OrderOptions::default() });
    records.extend(orders.stock(0, 0));
    records.extend(std::iter::from_fn(|| orders.place(0)));
    let mut users = Users::new(UserOptions { count: Some(200), ..UserOptions::default() });
    records.extend(std::iter::from_fn(|| users.next(0)));
    for (service, commands) in [
        (&PAYMENTS, ["payments.status", "payments.authorise", "payments.status", "payments.void"]),
        (&SHIPPING, ["shipping.status", "shipping.dispatch", "shipping.status", "shipping.cancel"]),
    ] {
        let mut participant = Participant::new(service, Behaviour { decline: 0.5, ..Behaviour::default() });
        for order in 0..20 {
            for (n, name) in commands.iter().enumerate() {
                let mut data = json!({ "orderId": format!("o{order}"), "idempotencyKey": format!("o{order}") });
                if *name == "payments.authorise" {
                    (data["amount"], data["currency"]) = (json!(1.5), json!("EUR"));
                }
                let id = format!("{order}-{n}");
                let command = json!({ "eventId": id, "eventType": name, "timestamp": "2026-01-01T00:00:00Z", "data": data });
                let answers = participant.on(command.to_string().as_bytes()).unwrap();
                records.extend(answers.into_iter().map(|answer| answer.record));
            }
        }
    }
    assert!(records.len() > 400);
    for record in records {
        let event: Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(misfit(&folder, record.topic, &event), None, "{}: {event}", record.topic);
    }
}
