//! The scripts of `saga`, and the example of its documentation.

use std::collections::BTreeMap;

use operator_saga::Saga;

#[test]
fn scripts() {
    operator_script::check_dir::<Saga>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let planned = operator_script::plan_example::<Saga>(&BTreeMap::new()).unwrap();
    assert!(planned.starts_with("output commands: eventId: string"), "{planned}");
}
