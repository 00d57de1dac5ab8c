//! Any name of a column works in every key that takes one, of sources, tables, steps and sinks.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::environment::HW;

const NAMES: [&str; 30] = [
    "plain",
    "a.b",
    "a..b",
    ".",
    "v.v",
    "Date Time",
    " padded ",
    "@ts",
    "fecha-venta",
    "say \"hi\"",
    "\"quoted\"",
    "it's",
    "grün",
    "日本",
    "select",
    "Order",
    "NULL",
    "true",
    "user",
    "current_date",
    "1st",
    "1.5",
    "a,b",
    "a[1]",
    "a: b # c",
    "$x",
    "`x`",
    "\\n",
    "tab\there",
    "*",
];

/// The name in SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn pipeline(name: &str) -> Value {
    let (q, item) = (quoted(name), quoted(&format!("{name} item")));
    let (second, third, sum) = (format!("{name}2"), format!("{name}3"), format!("{name} sum"));
    let inner = format!("r.{q}");
    let running =
        |by: &str| json!({ "unbounded": true, "expire": "never", "by": [by], "compute": { "n": "count(*)" }, "emit": "on_update" });
    json!({
        "apiVersion": "headwater/v1",
        "name": "names",
        "sources": {
            "keyed": { "topic": "business.names.keyed", "schema": { name: "string", "v": "int" }, "key": name },
            "nested": { "topic": "business.names.nested", "schema": { "r": { name: "string" } }, "key": inner },
            "loose": { "topic": "business.names.loose", "schema": { "r": { name: "string" }, name: "string" } },
            "timed": { "topic": "business.names.timed", "schema": { name: "timestamp" }, "time": { "field": name } },
            "listed": { "topic": "business.names.listed", "schema": { name: "int", "items": ["int"] } },
        },
        "tables": {
            "texts": { "topic": "business.names.texts", "schema": { name: "string", "text": "string" }, "key": name },
            "others": { "topic": "business.names.others", "schema": { "id": "string", name: "string" }, "key": "id" },
            "dated": { "topic": "business.names.dated", "schema": { "id": "string", name: "timestamp" }, "key": "id", "time": name },
        },
        "steps": {
            "total": { "from": "keyed", "window": {
                "unbounded": true, "expire": "never", "by": [name], "emit": "on_update",
                "compute": { sum.as_str(): "sum(v)", "last": format!("last({q})"), "kinds": format!("count(DISTINCT {q})") },
            } },
            "in_quotes": { "from": "loose", "window": running(&q) },
            "in_record": { "from": "nested", "window": running(&inner) },
            "in_loose_record": { "from": "loose", "window": running(&inner) },
            "kept": { "from": "keyed", "filter": format!("{q} || '!' = 'x!'") },
            "routed": { "from": "kept", "fanout": { "some": format!("{q} <> ''"), "rest": "default" } },
            "joined": { "from": "routed.some", "enrich": [
                { "table": "texts", "on": q, "add": ["text"] },
                { "table": "others", "on": "text", "add": { second.as_str(): name } },
                { "table": "others", "on": "text", "add": [format!("others.{name}")], "prefix": "of " },
                { "table": "dated", "on": "text", "add": { "at": q }, "as_of": "event_time" },
            ] },
            "renamed": { "from": "joined", "map": { "drop": [name, "at"], "add": { third.as_str(): q } } },
            "selected": { "from": "joined", "map": { "select": { name: format!("upper({q})"), "same": q } } },
            "hours": { "from": "timed", "window": { "tumbling": "1h", "by": [], "compute": { "latest": format!("max({q})") } } },
            "latest": { "from": "hours", "map": { "select": { "latest": "latest" } } },
            "items": { "from": "listed", "map": { "unnest": format!("items AS {item}"), "select": { name: q, "item": item } } },
        },
        "sinks": {
            "total": { "from": "total", "topic": "analytics.names.total", "key": name },
            "in_quotes": { "from": "in_quotes", "topic": "analytics.names.in-quotes", "key": q },
            "in_record": { "from": "in_record", "topic": "analytics.names.in-record", "key": name },
            "in_loose_record": { "from": "in_loose_record", "topic": "analytics.names.in-loose-record" },
            "renamed": { "from": "renamed", "topic": "analytics.names.renamed", "key": third },
            "selected": { "from": "selected", "topic": format!("analytics.names.of-{{{name}}}"), "create": { "partitions": 2 } },
            "latest": { "from": "latest", "topic": "analytics.names.latest" },
            "stamped": { "from": "timed", "topic": "analytics.names.stamped", "timestamp": name },
            "items": { "from": "items", "topic": "analytics.names.items", "partition": name },
        },
    })
}

/// The files of the case: input and expected output.
fn files(name: &str) -> Vec<(&'static str, Vec<Value>)> {
    let (second, third, sum, of) = (format!("{name}2"), format!("{name}3"), format!("{name} sum"), format!("of {name}"));
    let (early, late) = ("2026-06-25T07:15:00.000Z", "2026-06-25T07:45:00.000Z");
    let records = |values: Vec<Value>| values.into_iter().map(|value| json!({ "@value": value })).collect::<Vec<_>>();
    let counted = || records(vec![json!({ name: "x", "n": 1 }), json!({ name: "x", "n": 2 }), json!({ name: "x", "n": 3 })]);
    let renamed = |v: i32| json!({ "v": v, "text": "t", second.as_str(): "o", of.as_str(): "o", third.as_str(): "x" });
    let mut timed = records(vec![json!({ name: early }), json!({ name: late })]);
    timed.push(json!({ "@advance": "3h" }));
    vec![
        ("in.business.names.keyed", records(vec![json!({ name: "x", "v": 1 }), json!({ name: "x", "v": 2 })])),
        ("in.business.names.nested", records(vec![json!({ "r": { name: "x" } }); 3])),
        ("in.business.names.loose", records(["a", "b", "c"].map(|other| json!({ "r": { name: other }, name: "x" })).to_vec())),
        ("in.business.names.timed", timed),
        ("in.business.names.listed", records(vec![json!({ name: 0, "items": [7, 8] })])),
        ("in.business.names.texts", records(vec![json!({ name: "x", "text": "t" })])),
        ("in.business.names.others", records(vec![json!({ "id": "t", name: "o" })])),
        ("in.business.names.dated", records(vec![json!({ "id": "t", name: early })])),
        (
            "out.analytics.names.total",
            records([(1, 1), (3, 1)].map(|(total, kinds)| json!({ name: "x", sum.as_str(): total, "last": "x", "kinds": kinds })).to_vec()),
        ),
        ("out.analytics.names.in-quotes", counted()),
        ("out.analytics.names.in-record", counted()),
        ("out.analytics.names.in-loose-record", records(["a", "b", "c"].map(|other| json!({ name: other, "n": 1 })).to_vec())),
        ("out.analytics.names.renamed", records(vec![renamed(1), renamed(2)])),
        ("out.analytics.names.of-X", records(vec![json!({ name: "X", "same": "x" }); 2])),
        ("out.analytics.names.latest", records(vec![json!({ "latest": late })])),
        ("out.analytics.names.stamped", records(vec![json!({ name: early }), json!({ name: late })])),
        ("out.analytics.names.items", records(vec![json!({ name: 0, "item": 7 }), json!({ name: 0, "item": 8 })])),
    ]
}

fn write(dir: &Path, pipeline: &Value, files: &[(&str, Vec<Value>)]) {
    let case = dir.join("cases/names");
    std::fs::create_dir_all(&case).unwrap();
    std::fs::write(dir.join("pipeline.yaml"), pipeline.to_string()).unwrap();
    std::fs::write(case.join("why.txt"), "names").unwrap();
    for (file, lines) in files {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(case.join(format!("{file}.jsonl")), lines).unwrap();
    }
}

fn tested(dir: &Path) -> String {
    let output =
        Command::new(&*HW).args(["test", "pipeline.yaml", "--schedule", "in-one-go"]).current_dir(dir).output().expect("hw starts");
    let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { String::new() } else { said() }
}

#[test]
fn every_name_works_in_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let failed = NAMES.iter().enumerate().filter_map(|(number, name)| {
        let dir = dir.path().join(number.to_string());
        write(&dir, &pipeline(name), &files(name));
        Some(tested(&dir)).filter(|said| !said.is_empty()).map(|said| format!("{name:?}:\n{said}"))
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{} names fail:\n{}", failed.len(), failed.join("\n"));
}

/// Names that differ in case only, a column that is named like a path, and one without a name at all.
#[test]
fn names_that_are_nearly_the_same_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let running =
        |by: Value, compute: Value| json!({ "unbounded": true, "expire": "never", "by": by, "compute": compute, "emit": "on_update" });
    let pipeline = json!({
        "apiVersion": "headwater/v1",
        "name": "names",
        "sources": {
            "cased": { "topic": "business.names.cased", "schema": { "Name": "string", "name": "string", "NAME": "int" } },
            "dotted": { "topic": "business.names.dotted", "schema": { "a.b": "string", "a": { "b": "string" }, "": "int" } },
        },
        "steps": {
            "cased_total": { "from": "cased", "window": running(json!(["name"]), json!({ "total": "sum(\"NAME\")", "Last": "last(\"Name\")" })) },
            "column": { "from": "dotted", "window": running(json!(["a.b"]), json!({ "n": "count(*)", "none": "sum(\"\")" })) },
            "field": { "from": "dotted", "window": running(json!(["\"a\".b"]), json!({ "n": "count(*)", "sql": "last(a.b)" })) },
        },
        "sinks": {
            "cased": { "from": "cased_total", "topic": "analytics.names.cased", "key": "name" },
            "column": { "from": "column", "topic": "analytics.names.column", "key": "a.b" },
            "field": { "from": "field", "topic": "analytics.names.field", "key": "b" },
        },
    });
    let value = |value: Value| json!({ "@value": value });
    let files = [
        (
            "in.business.names.cased",
            vec![value(json!({ "Name": "A", "name": "x", "NAME": 1 })), value(json!({ "Name": "B", "name": "x", "NAME": 2 }))],
        ),
        (
            "in.business.names.dotted",
            vec![value(json!({ "a.b": "g", "a": { "b": "n1" }, "": 4 })), value(json!({ "a.b": "g", "a": { "b": "n2" }, "": 5 }))],
        ),
        (
            "out.analytics.names.cased",
            vec![value(json!({ "name": "x", "total": 1, "Last": "A" })), value(json!({ "name": "x", "total": 3, "Last": "B" }))],
        ),
        (
            "out.analytics.names.column",
            vec![value(json!({ "a.b": "g", "n": 1, "none": 4 })), value(json!({ "a.b": "g", "n": 2, "none": 9 }))],
        ),
        (
            "out.analytics.names.field",
            vec![value(json!({ "b": "n1", "n": 1, "sql": "n1" })), value(json!({ "b": "n2", "n": 1, "sql": "n2" }))],
        ),
    ];
    write(dir.path(), &pipeline, &files);
    assert_eq!(tested(dir.path()), "");
}
