//! The scripts of `aggregate`, and the example of its documentation.

use std::collections::BTreeMap;

use operator_aggregate::Aggregate;

#[test]
fn scripts() {
    operator_script::check_dir::<Aggregate>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let planned = operator_script::plan_example::<Aggregate>(&BTreeMap::new()).unwrap();
    assert!(planned.starts_with("output out: eventId: string"), "{planned}");
}
