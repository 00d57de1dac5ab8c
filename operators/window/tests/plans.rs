//! What planning accepts, derives and refuses.

mod driver;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use driver::plan;
use operator_core::batch::{system_fields, time_type};
use operator_core::{KeyEffect, Path, Severity};

fn schema() -> SchemaRef {
    let data: Fields =
        vec![Field::new("sku", DataType::Utf8, true), Field::new("tags", DataType::new_list(DataType::Utf8, true), true)].into();
    let user = vec![
        Field::new("sku", DataType::Utf8, false),
        Field::new("data", DataType::Struct(data), true),
        Field::new("price", DataType::Decimal128(18, 2), true),
        Field::new("big", DataType::Decimal128(37, 2), true),
        Field::new("amount", DataType::Int32, false),
        Field::new("ratio", DataType::Float32, true),
        Field::new("at", time_type(), true),
    ];
    Arc::new(Schema::new(user.into_iter().chain(system_fields()).collect::<Vec<_>>()))
}

#[test]
fn the_result_has_group_window_and_computed_columns() {
    let spec = r#"{"tumbling":"1m","by":["sku","amount"],"compute":{"z":"count(*)","s":"sum(amount)","p":"sum(price)",
        "a":"avg(price)","ab":"avg(big)","ai":"avg(amount)","r":"sum(ratio)","m":"max(at)","f":"first(sku)","d":"count(DISTINCT data.sku)",
        "q":"approx_percentile(price, 0.99)","e":"sum(amount * 2)"},"lateness":"2m"}"#;
    let planned = plan(spec, &schema()).unwrap();
    let main = &planned.outputs[0];
    let fields: Vec<(&str, DataType, bool)> =
        main.schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone(), f.is_nullable())).collect();
    assert_eq!(
        fields,
        [
            ("sku", DataType::Utf8, false),
            ("amount", DataType::Int32, false),
            ("window_start", time_type(), false),
            ("window_end", time_type(), false),
            ("z", DataType::Int64, false),
            ("s", DataType::Int64, false),
            ("p", DataType::Decimal128(38, 2), true),
            ("a", DataType::Decimal128(38, 6), true),
            ("ab", DataType::Decimal128(38, 3), true),
            ("ai", DataType::Float64, false),
            ("r", DataType::Float64, true),
            ("m", time_type(), true),
            ("f", DataType::Utf8, false),
            ("d", DataType::Int64, false),
            ("q", DataType::Float64, true),
            ("e", DataType::Int64, true),
            ("_time", time_type(), false),
            ("_watermark", DataType::Int64, false),
            ("_offset", DataType::Int64, false),
            ("_future", DataType::Boolean, false),
        ]
    );
    assert_eq!(main.key, KeyEffect::Columns(vec!["sku".into(), "amount".into()]));
    assert_eq!(planned.needs_key, Some(vec![vec![Path::column("sku"), Path::column("amount")]]));
    let late = &planned.outputs[1];
    assert_eq!((late.name.as_str(), &late.key, late.lossy_if_unread), ("late", &KeyEffect::Unchanged, true));
    assert_eq!(late.schema, schema());
    assert_eq!((planned.delay, planned.state.is_some(), planned.warnings.len()), (120_000, true, 0));
    let details: Vec<&str> = planned.details.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(details, ["windows", "lateness", "emit", "state per group and window", "state expires"]);
}

#[test]
fn a_path_is_grouped_by_under_its_last_name() {
    let planned = plan(r#"{"hopping":{"size":"5m","every":"1m"},"by":["data.sku"],"compute":{"n":"count(*)"}}"#, &schema()).unwrap();
    assert_eq!(planned.outputs[0].schema.field(0).name(), "sku");
    assert_eq!(planned.needs_key, Some(vec![vec![Path::column("data").child("sku")]]));
    assert_eq!(planned.outputs[0].key, KeyEffect::Columns(vec!["sku".into()]));
}

#[test]
fn one_group_for_all_is_allowed_with_a_warning() {
    let planned = plan(r#"{"tumbling":"1m","by":[],"compute":{"n":"count(*)"}}"#, &schema()).unwrap();
    assert_eq!((planned.warnings[0].severity, planned.warnings[0].code), (Severity::Warning, "single-partition"));
}

/// Everything that is wrong: code, path, the text meant, and a part of the help.
fn problems(window: &str, by: &str, compute: &str) -> Vec<(&'static str, String, String, String)> {
    let spec = format!(r#"{{{window}"by":{by},"compute":{compute}}}"#);
    let window: serde_json::Value = serde_json::from_str(&spec).unwrap();
    plan(&spec, &schema())
        .err()
        .unwrap_or_default()
        .into_iter()
        .map(|d| {
            let value = d.path.iter().try_fold(&window, |v, key| v.get(key).or_else(|| v.get(key.parse::<usize>().ok()?)));
            let text = value.and_then(|v| v.as_str()).unwrap_or_default();
            let within = d.within.map_or(String::new(), |range| text[range].to_string());
            (d.code, d.path.join("."), within, format!("{}; {}", d.message, d.help.unwrap_or_default()))
        })
        .collect()
}

#[track_caller]
fn refused(window: &str, by: &str, compute: &str, code: &str, path: &str, within: &str, says: &str) {
    let problems = problems(window, by, compute);
    assert!(
        problems.iter().any(|p| p.0 == code && p.1 == path && p.2 == within && p.3.contains(says)),
        "{code} at {path} ({within}) saying {says}: {problems:#?}"
    );
}

#[test]
fn windows_that_make_no_sense() {
    let by = r#"["sku"]"#;
    let n = r#"{"n":"count(*)"}"#;
    refused("", by, n, "no-window", "", "", "tumbling: 1m");
    refused(r#""tumbling":"1m","hopping":{"size":"2m","every":"1m"},"#, by, n, "two-windows", "hopping", "", "remove all but one");
    refused(r#""tumbling":"0s","#, by, n, "empty-window", "tumbling", "", "longer than zero");
    refused(r#""hopping":{"size":"1m","every":"2m"},"#, by, n, "window-gap", "hopping", "", "every: 1m");
    refused(r#""hopping":{"size":"5m","every":"2m"},"#, by, n, "uneven-window", "hopping", "", "4m or 6m");
    refused(r#""hopping":{"size":"1d","every":"1s"},"#, by, n, "too-many-windows", "hopping", "", "at most 1000");
}

/// A month has at least 28 days, and so has each of several.
#[test]
fn an_offset_is_less_than_the_shortest_period() {
    let by = r#"["sku"]"#;
    let n = r#"{"n":"count(*)"}"#;
    for (length, fits, not) in [("1mo", "27d", "28d"), ("3mo", "83d", "84d"), ("12mo", "335d", "336d"), ("2y", "729d", "730d")] {
        let window = |offset| format!(r#""tumbling":"{length}","offset":"{offset}","#);
        assert!(problems(&window(fits), by, n).is_empty(), "{length} and {fits}");
        refused(&window(not), by, n, "calendar-window", "offset", "", "is not less than");
    }
}

#[test]
fn groups_that_cannot_be() {
    let w = r#""tumbling":"1m","#;
    let n = r#"{"n":"count(*)"}"#;
    refused(w, r#"["sky"]"#, n, "unknown-column", "by.0", "sky", "did you mean `sku`?");
    refused(w, r#"["sku","data.tags"]"#, n, "not-groupable", "by.1", "", "group by numbers");
    refused(w, r#"["sku","data.sku"]"#, n, "name-taken", "by.1", "", "rename");
    refused(w, r#"["amount + 1"]"#, n, "not-a-column", "by.0", "", "`map` step");
}

#[test]
fn computed_columns_that_cannot_be() {
    let w = r#""tumbling":"1m","#;
    let by = r#"["sku"]"#;
    refused(w, by, "{}", "nothing-computed", "compute", "", "rows: count(*)");
    refused(w, by, r#"{"sku":"count(*)"}"#, "name-taken", "compute.sku.<key>", "", "another name");
    refused(w, by, r#"{"window_end":"count(*)"}"#, "name-taken", "compute.window_end.<key>", "", "another name");
    refused(w, by, r#"{"_time":"count(*)"}"#, "reserved-name", "compute._time.<key>", "", "engine");
    refused(w, by, r#"{"n":"cuont(sku)"}"#, "unknown-aggregate", "compute.n", "cuont", "did you mean `count`?");
    refused(w, by, r#"{"n":"MEDIAN(price)"}"#, "unknown-aggregate", "compute.n", "MEDIAN", "approx_percentile(x, 0.5)");
    refused(w, by, r#"{"n":"sum(prise)"}"#, "unknown-column", "compute.n", "prise", "did you mean `price`?");
    refused(w, by, r#"{"n":"sum(sku)"}"#, "wrong-type", "compute.n", "", "integers, decimals and doubles");
    refused(w, by, r#"{"n":"max(data.tags)"}"#, "wrong-type", "compute.n", "", "numbers, texts");
    refused(w, by, r#"{"n":"sum(DISTINCT price)"}"#, "distinct-not-supported", "compute.n", "", "only `count`");
    refused(w, by, r#"{"n":"sum(price, amount)"}"#, "wrong-arguments", "compute.n", "", "write sum(x)");
    refused(w, by, r#"{"n":"approx_percentile(price, 99)"}"#, "bad-percentile", "compute.n", "", "from 0 to 1");
    refused(w, by, r#"{"n":"sum(price) + 1"}"#, "not-an-aggregate", "compute.n", "", "map");
    let all = problems(w, r#"["sky"]"#, r#"{"a":"sum(sku)","b":"nope(sku)"}"#);
    assert_eq!(all.len(), 3, "all problems at once: {all:#?}");
}
