//! Record keys that a step with state relies on, written in another way after a pause.

use std::sync::Arc;
use std::time::Duration;

use headwater_engine::lane::LaneEnd;
use headwater_engine::partitioner::KeyHash;
use headwater_engine::sim::MemoryBroker;

use crate::{PIPELINE, cluster, lane, refused, run, start, steps};

/// A key in the format of Avro, with the id of its schema before it.
fn framed(id: u8, user: &str) -> Vec<u8> {
    [&[0, 0, 0, 0, id, 2 * user.len() as u8], user.as_bytes()].concat()
}

fn click(broker: &MemoryBroker, key: &[u8], user: &str) {
    let at = 1_767_225_600_000;
    let value = format!(r#"{{"user":"{user}","shop":"s","n":1,"at":{at}}}"#);
    let partition = KeyHash::Murmur2.partition(key, 3);
    broker.append("clicks", partition, Some(key), Some(value.as_bytes()), Some(at), &[]).unwrap();
}

fn keyed() -> String {
    PIPELINE.replace("topic: clicks", "topic: clicks\n    key: user")
}

/// Why a worker that starts now ends, if it does.
fn stops(broker: &MemoryBroker, text: &str) -> Option<String> {
    let (plan, _) = start(broker, text).unwrap();
    let mut lane = lane(broker, &Arc::new(plan));
    let ended = steps(broker, &mut lane);
    let why = match ended {
        Ok(()) => {
            lane.finish(Duration::from_secs(1)).unwrap();
            None
        }
        Err(LaneEnd::Stop(why)) => Some(why),
        Err(LaneEnd::Restart(why)) => panic!("{why}"),
    };
    broker.clock().unwrap().advance(120_000);
    broker.expire_dropped();
    broker.settle();
    why
}

/// With the rows of the new schema in other partitions, the window of a user would have been two.
#[test]
fn keys_of_another_schema_after_a_pause_are_refused_where_there_is_state() {
    let broker = cluster(3);
    (0..9).for_each(|n| click(&broker, &framed(7, &format!("u{n}")), &format!("u{n}")));
    run(&broker, &keyed()).unwrap();
    // Producers register another schema while no worker runs. The rows of one partition are enough.
    click(&broker, &framed(8, "u1"), "u1");
    for _ in 0..2 {
        let why = stops(&broker, &keyed()).expect("the state is in the partitions of the old keys");
        for said in ["registered schema 8", "earlier keys (in clicks) as a value of the registered schema 7", "Remove `key`"] {
            assert!(why.contains(said), "{said}: {why}");
        }
    }
    // What the remedy says: rows are repartitioned, and the state has to be given up first.
    assert!(refused(&broker, PIPELINE).contains("changed-state"));
    broker.delete_topic("hw.carts.per_user.changelog");
    assert_eq!(stops(&broker, PIPELINE), None);
}

#[test]
fn keys_of_another_schema_are_taken_where_there_is_no_state() {
    let broker = cluster(3);
    let filtered = keyed().replace("n > 0", "n > 1");
    click(&broker, &framed(7, "u1"), "u1");
    run(&broker, &filtered).unwrap();
    click(&broker, &framed(8, "u1"), "u1");
    assert_eq!(stops(&broker, &filtered), None);
}

/// Two workers, each with its own partitions: the manifest is what they have in common.
#[test]
fn a_worker_that_sees_other_keys_than_one_before_stops() {
    let broker = cluster(3);
    click(&broker, &framed(7, "u1"), "u1");
    let (plan, _) = start(&broker, &keyed()).unwrap();
    let plan = Arc::new(plan);
    let mut first = lane(&broker, &plan);
    steps(&broker, &mut first).unwrap();
    first.finish(Duration::from_secs(1)).unwrap();
    broker.expire_dropped();
    // It knows the manifest of its start, in which nothing was noted yet.
    click(&broker, &framed(8, "u2"), "u2");
    let mut second = lane(&broker, &plan);
    let Err(LaneEnd::Stop(why)) = steps(&broker, &mut second) else { panic!("it goes on") };
    assert!(why.contains("as a value of the registered schema 8 here and as a value of the registered schema 7"), "{why}");
}
