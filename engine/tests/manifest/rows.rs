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

const CHANGES: &str = r#"
apiVersion: headwater/v1
name: carts
sources:
  clicks: { topic: clicks, key: id, format: debezium, schema: { id: string, user: string, n: long } }
steps:
  per_user:
    from: clicks
    window: { unbounded: true, expire: never, emit: changes, by: [user], compute: { rows: count(*), total: sum(n) } }
sinks:
  carts: { from: per_user, topic: carts, key: user, create: { partitions: 1 } }
"#;

/// Leaves a row of a user in the topic between the steps: every lane stops before it has read it.
fn leave_a_row(broker: &MemoryBroker, text: &str, value: &str) {
    let (plan, _) = start(broker, text).unwrap();
    let plan = Arc::new(plan);
    broker.append("clicks", 0, Some(b"1"), Some(value.as_bytes()), Some(1), &[]).unwrap();
    let topic = "hw.carts.per_user.repartition";
    let rows = || broker.read_all_committed(topic).iter().filter(|record| record.value.is_some()).count();
    let (before, mut lane) = (rows(), lane(broker, &plan));
    for _ in 0..300 {
        if rows() > before {
            break;
        }
        broker.clock().unwrap().advance(10);
        lane.step(Duration::ZERO).unwrap();
    }
    assert!(rows() > before);
    drop(lane);
    broker.expire_dropped();
}

/// Read as the other kind, a row that is gone would be added, or nothing would say what happens to a row.
#[test]
fn changes_and_rows_that_are_only_added_are_not_taken_for_each_other() {
    let added = CHANGES.replace("key: id, format: debezium", "format: json");
    let change = r#"{"op":"d","before":{"id":"1","user":"a","n":5},"after":null}"#;
    for (was, is, row) in [(CHANGES, added.as_str(), change), (added.as_str(), CHANGES, r#"{"id":"1","user":"a","n":5}"#)] {
        let broker = cluster(3);
        leave_a_row(&broker, was, row);
        // What the refusal of the state names as its remedy.
        broker.delete_topic("hw.carts.per_user.changelog");
        let said = refused(&broker, is);
        assert!(said.contains("unread-rows") && said.contains("_change"), "{said}");
        // Deployed without a manifest, it is seen where the row is read.
        broker.delete_topic("hw.carts.manifest");
        let (plan, _) = start(&broker, is).unwrap();
        let ended = steps(&broker, &mut lane(&broker, &Arc::new(plan))).unwrap_err();
        assert!(matches!(&ended, LaneEnd::Stop(why) if why.contains("_change")), "{ended}");
    }
}

/// Rows that no sink has delivered yet are of the kind that they were written as.
#[test]
fn a_sink_takes_changes_after_all_rows_of_the_other_kind() {
    let out = "sinks: { out: { from: clicks, elsewhere: a.b } }\n";
    let text = COPY.split("sinks:").next().unwrap().replace("start: latest", "start: earliest") + out;
    let broker = cluster(1);
    feed(&broker, 0, "a", 1);
    run(&broker, &text).unwrap();
    let names = Names("carts".into());
    let changed = |broker: &MemoryBroker| {
        let mut old = store::read(broker, &names).unwrap().unwrap();
        old.manifest.outboxes.values_mut().for_each(|outbox| outbox.changes = true);
        store::write(broker, &names, Some(&old), &old.manifest).unwrap();
    };
    changed(&broker);
    let said = refused(&broker, &text);
    assert!(said.contains("unread-rows: the sink `out` took changes, now it takes rows that are only added"), "{said}");
    assert!(said.contains("delete the topic `hw.carts.out.outbox`"), "{said}");
    // As it is where a sink is removed of which nothing was delivered yet.
    let said = refused(&broker, COPY);
    assert!(said.contains("unread-rows: the sink `out` was removed"), "{said}");
    let broker = cluster(1);
    run(&broker, &text).unwrap();
    changed(&broker);
    let agreed = run(&broker, &text).unwrap();
    assert_eq!(agreed.changes, ["the sink `out` took changes, now it takes rows that are only added"]);
}

/// Of an update that the old filter let through and the new one doesn't, nothing says that the old row is gone.
#[test]
fn rows_that_a_changed_step_leaves_behind_are_announced() {
    let text =
        CHANGES.replace("steps:\n", "steps:\n  few: { from: clicks, filter: n <= 10 }\n  named: { from: few, filter: user <> 'x' }\n");
    let text = text.replace("from: clicks\n    window", "from: few\n    window")
        + "  rows: { from: named, topic: rows, key: id, create: { partitions: 1 } }\n";
    let changes = |was: &str, is: &str| {
        let broker = cluster(1);
        run(&broker, was).unwrap();
        run(&broker, is).unwrap().changes
    };
    let lines = changes(&text, &text.replace("n <= 10", "n <= 5"));
    assert_eq!(lines[0], "step `few`: `filter` was n <= 10, now n <= 5");
    for keeper in ["the state of the step `per_user`", "the sink `rows`"] {
        let line =
            lines.iter().find(|line| line.starts_with(&format!("{keeper} keeps rows as they were before the change of step `few`:")));
        assert!(line.is_some_and(|line| line.contains("give the pipeline another `name`")), "{keeper}: {lines:?}");
    }
    assert_eq!(lines.len(), 3, "the results of the window are taken back: {lines:?}");
    let lines =
        changes(&text, &text.replace("from: named, topic", "from: few, topic").replace("filter: user <> 'x'", "filter: user <> 'y'"));
    assert!(
        lines.iter().any(|line| line.starts_with("the sink `rows` keeps rows as they were before the change of step `named`, its `from`:"))
    );
    // Rows that are only added stay true, and what has no rows yet keeps none.
    let added = text.replace("key: id, format: debezium", "format: json").replace("topic: rows, key: id", "topic: rows");
    let lines = changes(&added, &added.replace("n <= 10", "n <= 5"));
    assert_eq!(lines, ["step `few`: `filter` was n <= 10, now n <= 5"]);
    let without = text.replace("  rows: {", "  other: {").replace("topic: rows", "topic: others");
    let lines = changes(&without, &text.replace("user <> 'x'", "user <> 'y'"));
    assert!(!lines.iter().any(|line| line.contains("keeps rows")), "{lines:?}");
}
