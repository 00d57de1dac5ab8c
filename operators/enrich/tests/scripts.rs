//! The scripts of enrich, and the example of its documentation.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use operator_core::TableInfo;
use operator_enrich::Enrich;

#[test]
fn scripts() {
    operator_script::check_dir::<Enrich>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

fn table(key: &str, fields: Vec<Field>) -> TableInfo {
    let key = fields.iter().filter(|field| field.name() == key).cloned().collect::<Vec<_>>().into();
    TableInfo { schema: Arc::new(Schema::new(fields)), key }
}

#[test]
fn the_example_plans() {
    let products = table("id", vec![Field::new("id", DataType::Utf8, false), Field::new("category", DataType::Utf8, false)]);
    let customers = table("id", vec![Field::new("id", DataType::Int64, false), Field::new("tier", DataType::Utf8, false)]);
    let tables = BTreeMap::from([("products".to_string(), products), ("customers".to_string(), customers)]);
    let planned = operator_script::plan_example::<Enrich>(&tables).unwrap();
    assert_eq!(
        planned,
        "output out: order_id: string, product_id: string, customer_id: long, category: string not null, segment: string [key unchanged]\n\
         tables: customers, products\n\
         detail join products: on product_id = id, adds category, as of latest, missing: dead_letter\n\
         detail join customers: on customer_id = id, adds segment from tier, as of event_time, missing: keep"
    );
}
