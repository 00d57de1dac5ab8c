//! The scripts of the window, and the example of its documentation.

use std::collections::BTreeMap;

use operator_window::Window;

#[test]
fn scripts() {
    operator_script::check_dir::<Window>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let planned = operator_script::plan_example::<Window>(&BTreeMap::new()).unwrap();
    let first = planned.lines().next().unwrap();
    assert_eq!(
        first,
        "output out: product_id: string, category: string, window_start: timestamp not null, window_end: timestamp not null, \
         orders: long not null, revenue: decimal(38,2) [key by product_id, category]"
    );
}
