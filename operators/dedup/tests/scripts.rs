//! The scripts of `dedup`, and the example of its documentation.

use std::collections::BTreeMap;

use operator_dedup::Dedup;

#[test]
fn scripts() {
    operator_script::check_dir::<Dedup>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let planned = operator_script::plan_example::<Dedup>(&BTreeMap::new()).unwrap();
    assert!(planned.starts_with("output out: eventId: string, data: struct<"), "{planned}");
}
