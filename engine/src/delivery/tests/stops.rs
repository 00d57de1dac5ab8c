//! What stops a delivery, and uncertain outcomes that it can settle itself.

use std::sync::Arc;

use super::*;
use crate::broker::{Broker, Outgoing};

fn stop_of(error: &DeliveryError) -> &Stop {
    match error {
        DeliveryError::Stopped { stop, .. } => stop,
        other => panic!("expected a stop, got {other}"),
    }
}

#[test]
fn what_cannot_be_decided_stops_with_the_reason() {
    // Deleted before the first delivery.
    let mut rig = Rig::plain();
    rig.append_five();
    rig.broker.delete_before(TOPIC, 0, 2);
    let error = rig.run_until_error(&mut rig.lane(0));
    assert_eq!(stop_of(&error), &Stop::Deleted { at: 0, low: 2 });
    // Deleted after a position was stored.
    let mut rig = Rig::plain();
    rig.append(0, 1, false);
    rig.finish(&mut [rig.lane(0)]);
    rig.broker.expire_dropped();
    rig.append_five();
    rig.broker.delete_before(TOPIC, 0, 3);
    let error = rig.run_until_error(&mut rig.lane(0));
    assert_eq!(stop_of(&error), &Stop::Deleted { at: 1, low: 3 });
    // The position is lost, the rows are there.
    let mut other = Rig::plain();
    other.table = rig.table.clone();
    other.append(0, 1, false);
    let error = other.run_until_error(&mut other.lane(0));
    assert_eq!(stop_of(&error), &Stop::PositionLost { rows: 1 });
    // A tool has reset the position.
    let mut rig = Rig::plain();
    rig.append(0, 1, false);
    rig.commit_as_somebody(0, 1, "");
    let error = rig.run_until_error(&mut rig.lane(0));
    assert!(matches!(stop_of(&error), Stop::Foreign { offset: 1, .. }), "{error}");
    // The topic was recreated.
    let mut rig = Rig::plain();
    rig.append(0, 1, false);
    rig.commit_as_somebody(0, 9, CLEAN);
    let error = rig.run_until_error(&mut rig.lane(0));
    assert_eq!(stop_of(&error), &Stop::Beyond { at: 9, high: 1 });
}

/// Runs until the intent of a first block of partition 0 is stored and its insert has been reported as unknown.
pub(super) fn in_doubt(rig: &Rig, fault: TableFault) {
    rig.table.inject(0, fault);
    let mut lane = rig.lane(0);
    while lane.counters().last_error().is_none() {
        rig.step(&mut lane).unwrap();
    }
    drop(lane);
    rig.broker.expire_dropped();
}

#[test]
fn a_block_whose_records_have_changed_is_not_inserted() {
    let mut rig = Rig::plain();
    rig.broker.create_topic_with("compacted", 1, &[("cleanup.policy", "compact")]);
    rig.settings.topic = "compacted".into();
    for _ in 0..3 {
        let value = rig.value(1, false);
        rig.broker.append("compacted", 0, Some(b"same key"), Some(&value), None, &[]).unwrap();
    }
    in_doubt(&rig, TableFault::RequestLost);
    rig.broker.compact("compacted", Tombstones::Keep);
    let error = rig.run_until_error(&mut rig.lane(0));
    assert!(matches!(stop_of(&error), Stop::Changed { first: 0, last: 2, rows: 3, rows_now: 1, .. }), "{error}");
    assert!(rig.table.rows().is_empty());
}

#[test]
fn an_old_doubt_about_some_of_the_rows_stops() {
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    in_doubt(&rig, TableFault::ReplyLost);
    rig.table.retain(|row| row.row != 2);
    rig.clock.advance(rig.settings.safe_window);
    let error = rig.run_until_error(&mut rig.lane(0));
    assert_eq!(stop_of(&error), &Stop::Partial { first: 0, last: 0, expected: 4, found: 3, distinct: 3 });
}

#[test]
fn other_settings_of_the_target_are_not_trusted_with_old_tokens() {
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    in_doubt(&rig, TableFault::ReplyLost);
    let before = rig.table.inserts();
    let mut lane = rig.lane_with(rig.settings.clone(), rig.table.target().with_settings(2));
    rig.finish(std::slice::from_mut(&mut lane));
    assert_eq!(lane.counters().skipped(), 1);
    assert_eq!(rig.table.inserts(), before);
    rig.assert_exact("counted");
}

#[test]
fn a_table_that_collapses_rows_is_never_counted() {
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    in_doubt(&rig, TableFault::ReplyLost);
    rig.clock.advance(10 * rig.settings.safe_window);
    let mut lane = rig.lane_with(rig.settings.clone(), rig.table.target().with_repeatable());
    rig.finish(std::slice::from_mut(&mut lane));
    assert_eq!((lane.counters().skipped(), rig.table.inserts().1), (0, 1));
}

/// The table has the rows, but a view behind it may have failed: only a token that is remembered could mend that.
#[test]
fn an_old_doubt_before_materialized_views_stops() {
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    in_doubt(&rig, TableFault::ReplyLost);
    rig.clock.advance(10 * rig.settings.safe_window);
    let mut lane = rig.lane_with(rig.settings.clone(), rig.table.target().with_dependents());
    let error = rig.run_until_error(&mut lane);
    assert!(error.to_string().contains("materialized views"), "{error}");
}

/// Markers of transactions are all that is left behind the last row: the position moves past them now and then, or
/// retention would pass it one day.
#[test]
fn an_idle_partition_keeps_its_position_at_the_end() {
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    let mut lanes = [rig.lane(0)];
    rig.finish(&mut lanes);
    let mut other = rig.broker.producer(Some("other")).unwrap();
    other.begin().unwrap();
    let (topic, value) = (rig.settings.topic.clone(), Some(&b"aborted"[..]));
    other.send(Outgoing { topic: &topic, partition: 0, timestamp: None, key: None, value, headers: &[], tag: None }).unwrap();
    other.abort().unwrap();
    let stored = |rig: &Rig| rig.broker.group_offsets(&rig.settings.group).values().map(|c| c.offset).max();
    let end = rig.broker.last_stable_offset(&rig.settings.topic, 0);
    assert!(stored(&rig) < end, "a marker lies behind the last row");
    for _ in 0..1_000 {
        rig.clock.advance(5_000);
        lanes[0].step(std::time::Duration::ZERO).unwrap();
    }
    assert_eq!(stored(&rig), end);
}

#[test]
fn rows_refused_by_a_view_after_they_were_written_stop() {
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    rig.table.inject(0, TableFault::RefusedAfterWrite);
    let mut lane = rig.lane_with(rig.settings.clone(), rig.table.target().with_dependents());
    let error = rig.run_until_error(&mut lane);
    assert!(error.to_string().contains("materialized view"), "{error}");
    assert_eq!(rig.table.rows().len(), 4);
    assert!(rig.dead_letters().is_empty());
}

#[test]
fn refused_rows_without_a_place_to_go_stop_and_stay() {
    let mut rig = Rig::plain();
    rig.settings.dead_letters = None;
    rig.append(0, 4, true);
    let error = rig.run_until_error(&mut rig.lane(0));
    assert!(error.to_string().contains("no dead-letter topic"), "{error}");
    // With a place to go it continues where it stopped.
    rig.broker.expire_dropped();
    rig.settings.dead_letters = Some(DLQ.into());
    rig.finish(&mut [rig.lane(0)]);
    rig.assert_exact("continued");
}

/// Errors are logged and shown by `/ready`: what a target says of a row may quote its values.
#[test]
fn what_stops_or_delays_a_delivery_quotes_no_values() {
    let mut rig = Rig::plain();
    rig.table = MemoryTable::new(rig.clock.clone(), 1_000).checked(Arc::new(|_| Err("column `mail`: 'ann@example.com' of 4711".into())));
    rig.settings.max_refused = 0;
    rig.append(0, 1, false);
    let mut lane = rig.lane(0);
    let error = rig.run_until_error(&mut lane).to_string();
    assert!(error.contains("column `mail`: '..' of #"), "{error}");
}

#[test]
fn a_table_that_refuses_everything_stops() {
    let mut rig = Rig::plain();
    rig.settings.max_refused = 3;
    for _ in 0..6 {
        rig.append(0, 1, true);
    }
    let error = rig.run_until_error(&mut rig.lane(0));
    assert!(error.to_string().contains("more than 3 rows"), "{error}");
    assert_eq!(rig.dead_letters().len(), 3);
}

#[test]
fn a_foreign_record_in_the_outbox_stops() {
    let mut rig = Rig::plain();
    rig.append(0, 1, false);
    rig.broker.append(TOPIC, 0, None, Some(b"{\"not\": \"arrow\"}"), None, &[]).unwrap();
    let error = rig.run_until_error(&mut rig.lane(0));
    assert!(matches!(&error, DeliveryError::Corrupt { offset: 1, .. }), "{error}");
}

/// Other lanes catch up and insert as fast as they may, while the outcome of our block is unknown.
#[test]
fn a_catch_up_of_others_does_not_make_the_table_forget_a_block_that_is_relied_on() {
    const MEMORY: usize = 300;
    let mut rig = Rig::new(MemoryBroker::new(), MEMORY);
    rig.settings.limits.flush = 1_000;
    rig.append(0, 3, false);
    let lane = |number: usize| {
        let settings =
            Settings { instance: format!("lane-{number}"), transactional_id: format!("letters-{number}"), ..rig.settings.clone() };
        rig.lane_with(settings, rig.table.target().with_memory(MEMORY as u32))
    };
    rig.table.inject(0, TableFault::ReplyLost);
    let mut doubtful = lane(0);
    while doubtful.counters().last_error().is_none() {
        rig.step(&mut doubtful).unwrap();
    }
    drop(doubtful);
    rig.broker.expire_dropped();
    assert_eq!(rig.table.rows().len(), 3);
    // As many blocks as the table remembers, as fast as another lane may insert them.
    let began = rig.clock.monotonic();
    let mut other = rig.table.target();
    for n in 0..MEMORY as i64 {
        other.start(&contract::block(7, n, 0..1, None).unwrap());
        while other.progress(Duration::ZERO) == Progress::Working {}
        rig.clock.advance(super::super::lane::PACE);
    }
    assert!(rig.clock.monotonic() - began < rig.settings.safe_window);
    let mut next = lane(1);
    rig.finish(std::slice::from_mut(&mut next));
    let ours = rig.table.rows().iter().filter(|row| row.partition == 0).count();
    assert_eq!((ours, next.counters().skipped()), (3, 1));
}

/// `/ready` shows the last error: a sink with nothing left to do has none.
#[test]
fn an_error_is_over_when_everything_is_settled() {
    // The last row was refused.
    let mut rig = Rig::plain();
    rig.append(0, 1, true);
    let mut lane = rig.lane(0);
    rig.finish(std::slice::from_mut(&mut lane));
    for _ in 0..100 {
        rig.step(&mut lane).unwrap();
    }
    assert_eq!((rig.dead_letters().len(), lane.counters().last_error()), (1, None));
    // The answer to the last insert was lost, and its rows were counted.
    let mut rig = Rig::plain();
    rig.append(0, 4, false);
    in_doubt(&rig, TableFault::ReplyLost);
    rig.clock.advance(rig.settings.safe_window);
    rig.table.inject(1, TableFault::AskFails);
    let mut lane = rig.lane(0);
    rig.finish(std::slice::from_mut(&mut lane));
    for _ in 0..100 {
        rig.step(&mut lane).unwrap();
    }
    assert_eq!((rig.table.is_struck(), lane.counters().skipped(), lane.counters().last_error()), (true, 1, None));
}
