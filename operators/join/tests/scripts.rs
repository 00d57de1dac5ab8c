//! The scripts of `join`.

use std::collections::BTreeMap;

use operator_join::Join;

#[test]
fn scripts() {
    operator_script::check_dir::<Join>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let plan = operator_script::plan_example::<Join>(&BTreeMap::new()).unwrap();
    let expected = "output out: order_id: string, total: decimal(12,2), paid: decimal(12,2) [key renamed order_id as order_id]";
    assert!(plan.starts_with(expected), "{plan}");
}
