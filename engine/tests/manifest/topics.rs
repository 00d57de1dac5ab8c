//! Topics that were deleted, created again, extended or left unread, and positions that were lost.

use headwater_engine::manifest::lost;

use super::*;

/// The codes with which the deployed version itself would be refused.
fn again(broker: &MemoryBroker) -> Vec<&'static str> {
    let names = Names("carts".into());
    let deployed = store::read(broker, &names).unwrap().unwrap();
    lost(broker, &names, &deployed.manifest).unwrap().into_iter().map(|found| found.code).collect()
}

#[test]
fn unread_rows_of_a_topic_that_is_not_read_any_more_block_the_change() {
    let broker = deployed();
    broker.create_topic("other", 3);
    let other = PIPELINE.replace("topic: clicks", "topic: other");
    feed(&broker, 1, "b", 2);
    let said = refused(&broker, &other);
    assert!(said.contains("unread-rows: the topic `clicks` was a source") && said.contains("--delete-offsets"), "{said}");
    run(&broker, PIPELINE).unwrap();
    run(&broker, &other).unwrap();
}

#[test]
fn a_deleted_changelog_does_not_become_an_empty_one() {
    let broker = deployed();
    broker.delete_topic("hw.carts.per_user.changelog");
    let said = refused(&broker, PIPELINE);
    assert!(
        said.contains("lost-topic: the topic `hw.carts.per_user.changelog` was deleted, and the state of the step `per_user`"),
        "{said}"
    );
    assert!(said.contains("`hw reset carts --to earliest`"), "{said}");
    assert_eq!(again(&broker), ["lost-topic"], "without the file, too");
    // Created again by hand, it is as empty.
    broker.create_topic_with("hw.carts.per_user.changelog", 3, &[("cleanup.policy", "compact")]);
    assert_eq!(refused(&broker, PIPELINE), said);
    // The remedy: knowingly.
    broker.delete_topic("hw.carts.manifest");
    assert!(run(&broker, PIPELINE).unwrap().adopted);
}

#[test]
fn a_topic_that_was_created_again_is_not_read_on_from_the_middle() {
    let broker = cluster(1);
    run(&broker, COPY).unwrap();
    feed(&broker, 0, "old", 1);
    run(&broker, COPY).unwrap();
    let position = broker.group_offsets("hw.carts");
    broker.delete_topic("clicks");
    broker.create_topic("clicks", 1);
    (0..9).for_each(|n| feed(&broker, 0, &format!("new{n}"), n));
    // Without a position (brokers delete it with the topic) the new topic is read from its beginning.
    let agreed = run(&broker, COPY).unwrap();
    assert!(agreed.changes.iter().any(|c| c.contains("created again")), "{:?}", agreed.changes);
    assert_eq!(values(&broker, "copy").len(), 10);
    assert_eq!(values(&broker, "copy")[1], r#"{"user":"new0"}"#);
    // With one, as in a cluster that was restored, nothing is read.
    broker.delete_topic("clicks");
    broker.create_topic("clicks", 1);
    (0..9).for_each(|n| feed(&broker, 0, &format!("newer{n}"), n));
    broker.set_group_offsets("hw.carts", &position);
    let said = refused(&broker, COPY);
    assert!(
        said.contains("recreated-topic: the topic `clicks` was deleted and created again") && said.contains("hw reset carts --to earliest"),
        "{said}"
    );
    broker.delete_group("hw.carts");
    run(&broker, COPY).unwrap();
    assert_eq!(values(&broker, "copy").len(), 19);
}

#[test]
fn a_worker_stops_when_a_topic_is_created_again_under_it() {
    let broker = cluster(1);
    let (plan, agreed) = start(&broker, COPY).unwrap();
    let plan = Arc::new(plan);
    let mut running = lane(&broker, &plan);
    steps(&broker, &mut running).unwrap();
    let mut keeper = Keeper::new(Arc::new(broker.clone()), plan.clone(), agreed.deployed);
    assert_eq!(keeper.look().unwrap(), None);
    broker.delete_topic("clicks");
    broker.create_topic("clicks", 1);
    (0..9).for_each(|n| feed(&broker, 0, "new", n));
    let why = keeper.look().unwrap().expect("a reason");
    assert!(why.contains("the topic `clicks` was deleted and created again"), "{why}");
    // And the lane itself, when the group gives it the partition again.
    let ended = steps(&broker, &mut running).unwrap_err();
    assert!(matches!(&ended, LaneEnd::Stop(why) if why.contains("deleted and created again")), "{ended}");
    assert_eq!(values(&broker, "copy").len(), 0);
}

#[test]
fn positions_that_were_lost_are_not_chosen_again() {
    let broker = cluster(2);
    run(&broker, COPY).unwrap();
    feed(&broker, 0, "a", 1);
    run(&broker, COPY).unwrap();
    broker.delete_group("hw.carts");
    feed(&broker, 1, "b", 2);
    let said = refused(&broker, COPY);
    assert!(said.contains("lost-positions: the group") && said.contains("partitions 0, 1"), "{said}");
    assert_eq!(again(&broker), ["lost-positions"]);
}

/// A worker that dies before its first commit has begun nowhere.
#[test]
fn a_start_that_came_to_nothing_is_no_loss() {
    let broker = cluster(2);
    let (_, agreed) = start(&broker, COPY).unwrap();
    assert_eq!(agreed.deployed.manifest.version, 1);
    run(&broker, COPY).unwrap();
}

#[test]
fn an_added_partition_begins_at_its_beginning() {
    let broker = cluster(1);
    feed(&broker, 0, "before the first start", 1);
    run(&broker, COPY).unwrap();
    broker.create_topic("clicks", 2);
    feed(&broker, 1, "in the new partition", 2);
    run(&broker, COPY).unwrap();
    assert_eq!(values(&broker, "copy"), [r#"{"user":"in the new partition"}"#]);
}

/// A key may be in another partition of the outbox then, where its changes are in no order with those before.
#[test]
fn partitions_that_are_added_to_a_topic_of_changes_stop_a_table_of_them() {
    let source = "apiVersion: headwater/v1\nname: carts\nsources: { clicks: { topic: clicks, format: debezium, key: user, schema: { user: string } } }\n";
    let table = format!("{source}sinks: {{ out: {{ from: clicks, elsewhere: a.b }} }}\n");
    let broker = cluster(1);
    run(&broker, &table).unwrap();
    run(&broker, &table).unwrap();
    broker.create_topic("clicks", 3);
    let said = refused(&broker, &table);
    assert!(said.contains("changes-sink: the sink `out` takes changes, which were in 1 partitions and are in 3 now"), "{said}");
    // A topic of the rows is by their key.
    let broker = cluster(1);
    let topic = format!("{source}sinks: {{ out: {{ from: clicks, topic: out, key: user, create: {{ partitions: 1 }} }} }}\n");
    run(&broker, &topic).unwrap();
    broker.create_topic("clicks", 3);
    run(&broker, &topic).unwrap();
}

/// A worker that is well could not be started again.
#[test]
fn partitions_that_are_added_are_noticed_before_a_restart() {
    let broker = deployed();
    assert!(again(&broker).is_empty());
    broker.create_topic("clicks", 4);
    assert_eq!(again(&broker), ["internal-topics"]);
    let broker = cluster(1);
    run(&broker, COPY).unwrap();
    broker.create_topic("clicks", 4);
    assert!(again(&broker).is_empty(), "nothing is made of its partitions");
}

/// The version that a reset leaves fits topics that were created again, and one that is not done is the only thing that is said.
#[test]
fn after_a_reset_topics_are_taken_as_they_are() {
    let broker = deployed();
    broker.delete_topic("hw.carts.per_user.changelog");
    let names = Names("carts".into());
    let deployed = store::read(&broker, &names).unwrap().unwrap();
    let begun = store::write(&broker, &names, Some(&deployed), &deployed.manifest.resetting("reset to earliest")).unwrap();
    assert_eq!(again(&broker), ["unfinished-reset"]);
    let said = refused(&broker, &PIPELINE.replace("tumbling: 10m", "tumbling: 5m"));
    assert!(said.starts_with("unfinished-reset: \"reset to earliest\" has begun") && !said.contains("changed-state"), "{said}");
    store::write(&broker, &names, Some(&begun), &begun.manifest.reset(true)).unwrap();
    assert!(again(&broker).is_empty());
    let agreed = run(&broker, PIPELINE).unwrap();
    assert_eq!(agreed.deployed.manifest.changes, ["positions were reset to earliest"]);
}
