//! The scripts of `map`, its example and its JSON Schema.

use std::collections::BTreeMap;

use operator_core::Spec;
use operator_map::Map;

#[test]
fn scripts() {
    operator_script::check_dir::<Map>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let plan = operator_script::plan_example::<Map>(&BTreeMap::new()).unwrap();
    let expected = "output out: order_id: string, customer_id: string, product_id: string, revenue: double \
                    [key renamed data.orderId as order_id, data.customerId as customer_id]";
    assert_eq!(plan.lines().next(), Some(expected), "{plan}");
}

#[test]
fn the_schema_describes_every_setting() {
    let schema = serde_json::to_value(schemars::schema_for!(Map)).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    for name in ["unnest", "unnest_empty", "select", "add", "drop"] {
        assert!(properties[name]["description"].is_string(), "{name}: {schema:#}");
    }
    assert_eq!(schema["additionalProperties"], false);
    assert!(!Map::SUMMARY.is_empty());
}
