//! Rows that are kept or on their way, and that another plan could not read.

use super::*;

/// What is kept or on its way may have nulls, which columns that are required can't take.
#[test]
fn a_column_becomes_required_only_where_no_row_is_left() {
    let optional = PIPELINE.replace("shop: string", "shop: string?").replace(
        "window: { tumbling: 10m, by: [user], compute: { rows: count(*), total: sum(n) } }",
        "dedup: { by: user, within: 1h, keep: last }",
    );
    let required = optional.replace("string?", "string");
    let deployed = || {
        let broker = cluster(3);
        run(&broker, &required).unwrap();
        feed(&broker, 0, "a", 1);
        run(&broker, &optional).unwrap();
        broker
    };
    let broker = deployed();
    let said = refused(&broker, &required);
    assert!(said.contains("changed-state: step `per_user`") && said.contains("columns became required: runs shop"), "{said}");
    broker.delete_topic("hw.carts.per_user.changelog");
    broker.append("hw.carts.per_user.repartition", 0, None, Some(b"a row"), None, &[]).unwrap();
    let said = refused(&broker, &required);
    assert!(said.contains("unread-rows") && said.contains("columns became required: shop"), "{said}");
    // A record of a version that did not say is believed.
    let broker = deployed();
    broker.append("hw.carts.per_user.repartition", 0, None, Some(b"a row"), None, &[]).unwrap();
    let names = Names("carts".into());
    let mut old = store::read(&broker, &names).unwrap().unwrap();
    old.manifest.inputs.values_mut().for_each(|input| input.nullable = None);
    old.manifest.steps.values_mut().for_each(|step| step.nullable = None);
    store::write(&broker, &names, Some(&old), &old.manifest).unwrap();
    start(&broker, &required).unwrap();
}

/// Rows that were written to a repartition topic before something read headers have none.
#[test]
fn headers_are_read_from_where_no_row_without_them_is_left() {
    let without = PIPELINE.replace("topic: carts,", "topic: carts, headers: false,");
    let (headers, topic) = (PIPELINE, "hw.carts.per_user.repartition");
    let broker = cluster(3);
    run(&broker, &without).unwrap();
    broker.append(topic, 0, None, Some(b"a row"), None, &[]).unwrap();
    let said = refused(&broker, headers);
    assert!(said.contains("unread-rows") && said.contains(topic) && said.contains("_headers"), "{said}");
    // Nothing is missing where they are not read any more.
    let broker = cluster(3);
    run(&broker, headers).unwrap();
    broker.append(topic, 0, None, Some(b"a row"), None, &[]).unwrap();
    start(&broker, &without).unwrap();
}
