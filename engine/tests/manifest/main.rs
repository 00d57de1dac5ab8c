//! A pipeline that was deployed and is started again with another file, or with other topics under the same names.

mod aggregates;
mod deployments;
#[path = "../simulation/elsewhere.rs"]
mod elsewhere;
mod keys;
mod rows;
mod topics;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock, TopicPartition};
use headwater_engine::lane::{Lane, LaneConfig, LaneEnd, Runtime};
use headwater_engine::manifest::{Agreed, DeployError, Keeper, deploy, store};
use headwater_engine::operators::{Kind, Operators};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Names, Plan, plan};
use headwater_engine::sim::{BrokerCatalog, MemoryBroker, Tombstones};
use headwater_engine::yaml;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: carts
sources:
  clicks:
    topic: clicks
    schema: { user: string, shop: string, n: long, at: timestamp }
    time: { field: at, out_of_order: 0s, idle: never }
steps:
  big: { from: clicks, filter: n > 0 }
  per_user:
    from: big
    window: { tumbling: 10m, by: [user], compute: { rows: count(*), total: sum(n) } }
sinks:
  carts: { from: per_user, topic: carts, key: user, create: { partitions: 1 } }
"#;

const COPY: &str = r#"
apiVersion: headwater/v1
name: carts
sources:
  clicks: { topic: clicks, start: latest, schema: { user: string } }
sinks:
  copy: { from: clicks, topic: copy, create: { partitions: 1 } }
"#;

fn planned(broker: &MemoryBroker, text: &str) -> Plan {
    let operators = Operators(vec![
        Kind::of::<operator_aggregate::Aggregate>(),
        Kind::of::<operator_dedup::Dedup>(),
        Kind::of::<operator_filter::Filter>(),
        Kind::of::<operator_window::Window>(),
    ]);
    let root = yaml::parse(text).unwrap();
    let pipeline = Pipeline::read_with(&root, &elsewhere::sinks()).0.unwrap();
    plan(&pipeline, &root, &operators, &BrokerCatalog(broker)).unwrap_or_else(|found| panic!("{found:#?}"))
}

fn cluster(partitions: i32) -> MemoryBroker {
    let broker = MemoryBroker::new();
    broker.create_topic("clicks", partitions);
    broker
}

fn feed(broker: &MemoryBroker, partition: i32, user: &str, minute: i64) {
    let at = 1_767_225_600_000 + minute * 60_000;
    // A row from the future moves no watermark.
    let clock = broker.clock().unwrap();
    clock.advance((at - clock.wall()).max(0));
    let value = format!(r#"{{"user":"{user}","shop":"s","n":1,"at":{at}}}"#);
    broker.append("clicks", partition, None, Some(value.as_bytes()), Some(at), &[]).unwrap();
}

fn start(broker: &MemoryBroker, text: &str) -> Result<(Plan, Agreed), Vec<String>> {
    let mut plan = planned(broker, text);
    match deploy(broker, &mut plan) {
        Ok(agreed) => Ok((plan, agreed)),
        Err(DeployError::Store(e)) => panic!("{e}"),
        Err(DeployError::Refused(found)) => {
            Err(found.into_iter().map(|d| format!("{}: {} | {}", d.code, d.message, d.help.unwrap_or_default())).collect())
        }
    }
}

fn lane(broker: &MemoryBroker, plan: &Arc<Plan>) -> Lane {
    lane_with(broker, plan, LaneConfig::new("w", 0))
}

fn lane_with(broker: &MemoryBroker, plan: &Arc<Plan>, config: LaneConfig) -> Lane {
    let runtime = Runtime::simulated(plan, broker, broker.clock().unwrap());
    Lane::start(runtime, config).unwrap()
}

/// Starts a worker with one lane, runs it until nothing makes progress, updates the manifest, and stops it.
fn run(broker: &MemoryBroker, text: &str) -> Result<Agreed, Vec<String>> {
    let (plan, agreed) = start(broker, text)?;
    let plan = Arc::new(plan);
    let mut lane = lane(broker, &plan);
    steps(broker, &mut lane).unwrap();
    Keeper::new(Arc::new(broker.clone()), plan, agreed.deployed.clone()).look().unwrap();
    lane.finish(Duration::from_secs(1)).unwrap();
    broker.expire_dropped();
    Ok(agreed)
}

fn steps(broker: &MemoryBroker, lane: &mut Lane) -> Result<(), LaneEnd> {
    for _ in 0..300 {
        broker.clock().unwrap().advance(10);
        lane.step(Duration::ZERO)?;
    }
    Ok(())
}

/// A deployment with an open window of two users.
fn deployed() -> MemoryBroker {
    let broker = cluster(3);
    (0..3).for_each(|p| feed(&broker, p, "a", 1));
    run(&broker, PIPELINE).unwrap();
    broker
}

fn refused(broker: &MemoryBroker, text: &str) -> String {
    match start(broker, text) {
        Ok((_, agreed)) => panic!("accepted: {:?}", agreed.changes),
        Err(found) => found.join("\n"),
    }
}

fn values(broker: &MemoryBroker, topic: &str) -> Vec<String> {
    broker.read_all_committed(topic).iter().filter_map(|r| r.value.clone()).map(|v| String::from_utf8(v).unwrap()).collect()
}

const COMPUTE: &str = "compute: { rows: count(*), total: sum(n) }";

#[test]
fn what_state_can_not_follow_is_refused_and_the_rest_is_written_as_the_next_version() {
    let broker = deployed();
    let with = |old: &str, new: &str| {
        assert!(PIPELINE.contains(old));
        PIPELINE.replace(old, new)
    };
    for (text, words) in [
        (with("tumbling: 10m", "tumbling: 5m"), "`window`: was tumbling 10m, now tumbling 5m"),
        (with("tumbling: 10m", "hopping: { size: 10m, every: 5m }"), "now hopping 10m every 5m"),
        (with("tumbling: 10m", "session: { gap: 10m }"), "now sessions with a gap of 10m"),
        (with("tumbling: 10m", "tumbling: 10m, offset: 1m"), "now tumbling 10m, offset 1m"),
        (with("tumbling: 10m", "tumbling: 1mo, zone: Europe/Berlin"), "now tumbling 1mo in Europe/Berlin"),
        (with("tumbling: 10m, by", "unbounded: true, emit: on_update, expire: 1d, by"), "now unbounded"),
        (with("by: [user]", "by: [shop]").replace("key: user", "key: shop"), "`by`: was [user string], now [shop string]"),
        (with("by: [user]", "by: [user, shop]"), "now [user string, shop string]"),
        (with(COMPUTE, "compute: { total: sum(n), rows: count(*) }"), "`compute` 1: was count(*), now sum(n integer)"),
        (with("total: sum(n)", "total: min(n)"), "`compute` 2: was sum(n integer), now min(n integer)"),
        (with("total: sum(n)", "total: sum(n), top: max(n)"), "`compute` 3: is new, max(n integer)"),
        (with("topic: clicks", "topic: clicks\n    key: user"), "`key` was added"),
        (with("per_user", "by_user"), "the new step `by_user` keeps the same state: was `per_user` renamed?"),
    ] {
        let said = refused(&broker, &text);
        assert!(said.contains("changed-state: step `per_user`") && said.contains(words), "{words}:\n{said}");
        assert!(said.contains("delete the topic `hw.carts.per_user.changelog`"), "{said}");
    }
    let same = run(&broker, PIPELINE).unwrap();
    assert!(same.changes.is_empty() && !same.adopted, "{:?}", same.changes);
    for harmless in [
        with("total: sum(n)", "sum_of_all: SUM( n )"),
        with(COMPUTE, "compute: { rows: count(*), total: sum(n) }, lateness: 1m"),
        with(COMPUTE, "compute: { rows: count(*), total: sum(n) }, emit: { every: 1m }"),
        with("topic: carts", "topic: carts2"),
        with("filter: n > 0", "filter: n > 0 AND n < 100"),
        with("schema: { user: string, shop: string, n: long,", "schema: { user: string, shop: string, n: int,"),
    ] {
        run(&broker, &harmless).unwrap_or_else(|said| panic!("{harmless}:\n{}", said.join("\n")));
    }
    let added = with(
        "sinks:",
        "  per_shop: { from: big, window: { tumbling: 1m, by: [shop], compute: { n: count(*) } } }\nsinks:\n  shops: { from: per_shop, topic: shops, create: { partitions: 1 } }",
    );
    let before = same.deployed.manifest.version;
    let next = run(&broker, &added).unwrap();
    assert!(next.deployed.manifest.version > before && next.changes.iter().any(|c| c.contains("`per_shop` is new")), "{:?}", next.changes);
    // The state that was refused to others is whole.
    (0..3).for_each(|p| feed(&broker, p, "a", 30));
    run(&broker, &added).unwrap();
    assert_eq!(values(&broker, "carts").len() + values(&broker, "carts2").len(), 1);
    assert!(values(&broker, "carts")[0].contains(r#""rows":3"#));
}

/// Sessions are found by their gap, and calendars by their zone.
#[test]
fn sessions_keep_their_gap_and_days_their_zone() {
    for (windows, other, words) in [
        ("session: { gap: 10m }", "session: { gap: 5m }", "was sessions with a gap of 10m, now sessions with a gap of 5m"),
        (
            "tumbling: 1d, zone: Europe/Berlin",
            "tumbling: 1d, zone: Africa/Cairo",
            "was tumbling 1d in Europe/Berlin, now tumbling 1d in Africa/Cairo",
        ),
        ("tumbling: 1d, zone: Europe/Berlin", "tumbling: 1d", "was tumbling 1d in Europe/Berlin, now tumbling 1d"),
    ] {
        let of = |windows: &str| PIPELINE.replace("tumbling: 10m", windows);
        let broker = cluster(3);
        (0..3).for_each(|p| feed(&broker, p, "a", 1));
        run(&broker, &of(windows)).unwrap();
        let said = refused(&broker, &of(other));
        assert!(said.contains("changed-state: step `per_user`") && said.contains(words), "{words}:\n{said}");
        assert!(run(&broker, &of(windows)).unwrap().changes.is_empty());
    }
}

/// State of a step that relies on `key` is where the declared partitioner puts its groups.
#[test]
fn another_partitioner_is_refused_while_a_step_has_state() {
    let broker = cluster(1);
    feed(&broker, 0, "a", 1);
    let keyed = PIPELINE.replace("topic: clicks\n", "topic: clicks\n    key: user\n");
    run(&broker, &keyed).unwrap();
    let said = refused(&broker, &keyed.replace("key: user\n    schema", "key: user\n    partitioner: consistent_random\n    schema"));
    assert!(said.contains("changed-state: step `per_user`") && said.contains("`partitioner` of its source: was `murmur2"), "{said}");
    run(&broker, &keyed).unwrap();
}

/// The remedy that the refusal names.
#[test]
fn state_that_was_given_up_stands_in_nobodys_way() {
    let broker = deployed();
    let changed = PIPELINE.replace("tumbling: 10m", "tumbling: 5m");
    refused(&broker, &changed);
    broker.delete_topic("hw.carts.per_user.changelog");
    let agreed = run(&broker, &changed).unwrap();
    assert!(agreed.changes.iter().any(|c| c.contains("begins without state")), "{:?}", agreed.changes);
    let renamed = changed.replace("per_user", "by_user");
    (0..3).for_each(|p| feed(&broker, p, "a", 2));
    run(&broker, &changed).unwrap();
    refused(&broker, &renamed);
    broker.delete_topic("hw.carts.per_user.changelog");
    let agreed = run(&broker, &renamed).unwrap();
    let told = |line: &str| agreed.changes.iter().filter(|change| *change == line).count();
    assert_eq!(told("step `per_user` was removed; its changelog was deleted"), 1, "{:?}", agreed.changes);
    assert_eq!(told("step `by_user` is new and begins without state"), 1, "{:?}", agreed.changes);
    assert!(!agreed.changes.iter().any(|change| change == "step `per_user` was removed"), "{:?}", agreed.changes);
}

/// State can follow these, so that they are no reason to refuse; but whoever deploys wants to see them.
#[test]
fn harmless_changes_are_listed_and_a_deployment_is_one_version() {
    let broker = deployed();
    let same = run(&broker, PIPELINE).unwrap();
    assert!(same.changes.is_empty() && same.deployed.manifest.version == 1, "{} {:?}", same.deployed.manifest.version, same.changes);
    let changed = PIPELINE.replace("n > 0", "n > 1").replace("topic: carts", "topic: carts2");
    let next = run(&broker, &changed).unwrap();
    assert_eq!(next.changes, ["sink `carts`: `topic` was carts, now carts2", "step `big`: `filter` was n > 0, now n > 1"]);
    let again = run(&broker, &changed).unwrap();
    assert!(again.changes.is_empty() && again.deployed.manifest.version == 2, "{} {:?}", again.deployed.manifest.version, again.changes);
    // A record of a version that kept no file: nothing is known of the changes, and nothing is made up.
    let names = Names("carts".into());
    let mut old = store::read(&broker, &names).unwrap().unwrap();
    old.manifest.definition.clear();
    store::write(&broker, &names, Some(&old), &old.manifest).unwrap();
    let after = run(&broker, PIPELINE).unwrap();
    assert!(after.changes.is_empty() && after.deployed.manifest.version == 2, "{} {:?}", after.deployed.manifest.version, after.changes);
}

#[test]
fn of_two_that_start_at_once_the_first_wins() {
    let broker = cluster(1);
    let names = Names("carts".into());
    let (_, first) = start(&broker, COPY).unwrap();
    let base = first.deployed;
    let one = headwater_engine::manifest::Manifest { version: 0, ..base.manifest.clone() };
    let mut other = one.clone();
    other.outboxes.insert("x".into(), headwater_engine::manifest::Outbox { topic: "x".into(), id: None, partitions: 1, changes: false });
    let written = store::write(&broker, &names, Some(&base), &one).unwrap();
    let lost = store::write(&broker, &names, Some(&base), &other).unwrap();
    assert_eq!(lost, written, "the second learns of the first");
    assert_eq!(store::read(&broker, &names).unwrap(), Some(written.clone()));
    // Whatever retention leaves of the topic, what is left counts.
    broker.delete_before("hw.carts.manifest", 0, written.offset);
    assert_eq!(store::read(&broker, &names).unwrap(), Some(written));
}

#[test]
fn a_worker_ends_when_another_version_is_deployed_beside_it() {
    let broker = cluster(3);
    let (plan, agreed) = start(&broker, PIPELINE).unwrap();
    let plan = Arc::new(plan);
    let mut running = lane(&broker, &plan);
    steps(&broker, &mut running).unwrap();
    // No state yet, but a worker that is about to write some.
    let said = refused(&broker, &PIPELINE.replace("tumbling: 10m", "tumbling: 5m"));
    assert!(said.contains("workers-running"), "{said}");
    let mut keeper = Keeper::new(Arc::new(broker.clone()), plan, agreed.deployed);
    keeper.look().unwrap();
    // What is only added is not a reason to end.
    start(&broker, &PIPELINE.replace("sinks:", "  per_shop: { from: big, window: { tumbling: 1m, by: [shop], compute: { n: count(*) } } }\nsinks:\n  shops: { from: per_shop, topic: shops, create: { partitions: 1 } }")).unwrap();
    assert_eq!(keeper.look().unwrap(), None);
    assert!(refused(&broker, PIPELINE).contains("workers-running"));
    drop(running);
    broker.expire_dropped();
    // It is dead for the group, and comes back to life after the other version has started.
    start(&broker, &PIPELINE.replace("tumbling: 10m", "tumbling: 5m")).unwrap();
    let why = keeper.look().unwrap().expect("a reason");
    assert!(why.contains("another version of the pipeline was deployed"), "{why}");
}

#[test]
fn a_manifest_of_a_newer_program_is_not_guessed_at() {
    let broker = cluster(1);
    run(&broker, COPY).unwrap();
    broker.append("hw.carts.manifest", 0, None, Some(br#"{"format":2,"what":"ever"}"#), None, &[]).unwrap();
    let mut plan = planned(&broker, COPY);
    match deploy(&broker, &mut plan) {
        Err(DeployError::Store(e)) => assert!(e.to_string().contains("format 2"), "{e}"),
        Err(DeployError::Refused(found)) => panic!("{found:?}"),
        Ok(_) => panic!("accepted"),
    }
}

/// A partition comes back after two days to a worker whose checkpoint has a window that was closed elsewhere meanwhile, and the
/// changelog keeps tombstones for a day. Used for half of that at most, the checkpoint brings nothing back.
#[test]
fn a_checkpoint_that_may_have_missed_deletions_is_not_used() {
    let windows = |age: i64| {
        let (broker, here, there) = (cluster(1), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (plan, _) = start(&broker, PIPELINE).unwrap();
        let plan = Arc::new(plan);
        let run = |dir: &Path| {
            let mut lane =
                lane_with(&broker, &plan, LaneConfig { state_dir: Some(dir.into()), checkpoint_age: age, ..LaneConfig::new("w", 0) });
            steps(&broker, &mut lane).unwrap();
            lane.finish(Duration::from_secs(1)).unwrap();
            broker.expire_dropped();
        };
        feed(&broker, 0, "a", 1);
        run(here.path());
        feed(&broker, 0, "a", 31);
        run(there.path());
        broker.compact("hw.carts.per_user.changelog", Tombstones::Drop);
        feed(&broker, 0, "a", 2 * 1_440);
        run(here.path());
        values(&broker, "carts").len()
    };
    let day = 86_400_000;
    assert_eq!(windows(day * 7 / 2), 3, "the first window came twice");
    assert_eq!(windows(day / 2), 2);
}

/// A version without a manifest may have left state that can't be decoded: the worker ends with the reason instead of restarting forever.
#[test]
fn state_that_can_not_be_read_stops_the_worker() {
    let broker = deployed();
    broker.delete_topic("hw.carts.manifest");
    let changed = PIPELINE.replace(COMPUTE, "compute: { rows: sum(n), total: first(n) }");
    let (plan, _) = start(&broker, &changed).unwrap();
    let mut lane = lane(&broker, &Arc::new(plan));
    feed(&broker, 0, "a", 2);
    let ended = steps(&broker, &mut lane).unwrap_err();
    assert!(matches!(&ended, LaneEnd::Stop(why) if why.contains("step `per_user`") && why.contains("another `compute`")), "{ended}");
}

#[test]
fn what_ran_without_a_manifest_is_taken_as_it_is() {
    let broker = deployed();
    broker.delete_topic("hw.carts.manifest");
    let agreed = run(&broker, PIPELINE).unwrap();
    assert!(agreed.adopted);
    refused(&broker, &PIPELINE.replace("tumbling: 10m", "tumbling: 5m"));
    let partition = TopicPartition::new("hw.carts.manifest", 0);
    assert!(broker.bounds(&partition).unwrap().1 >= 1);
}
