//! What ends an epoch before its time.

use std::time::Duration;

use headwater_engine::lane::LaneConfig;

use crate::played::Played;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: sealing
commit_interval: 1m
sources:
  events: { topic: events, format: bytes }
sinks:
  copies: { from: events, topic: copies, format: bytes, create: { partitions: 1 } }
"#;

/// What was handed to the producer counts: it waits there, in memory, for the end of its transaction.
#[test]
fn an_epoch_ends_at_so_many_bytes_of_output() {
    let played = Played::new(PIPELINE, &[("events", 1)]);
    for _ in 0..30 {
        played.broker.append("events", 0, None, Some(&[b'x'; 100]), Some(1_767_225_600_000), &[]).unwrap();
    }
    let mut lane = played.lane(LaneConfig { epoch_bytes: 1_000, poll_rows: 1, ..LaneConfig::new("w", 0) });
    // No time passes.
    for _ in 0..200 {
        lane.step(Duration::ZERO).unwrap();
    }
    assert_eq!(played.broker.read_all_committed("copies").len(), 30);
}
