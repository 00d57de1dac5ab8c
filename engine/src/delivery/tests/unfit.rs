//! Rows whose values the columns of the table do not take.

use super::*;

/// Takes no row whose id can be divided by seven.
fn picky(rows: &RecordBatch) -> Result<(), String> {
    let ids = rows.column(0).as_primitive::<Int64Type>();
    if ids.values().iter().any(|id| id % 7 == 0) { Err("column `id`: sevens do not fit".into()) } else { Ok(()) }
}

fn ids(rows: &[TableRow]) -> Vec<i64> {
    let id = |row: &TableRow| row.json.trim_start_matches("{\"id\":").split(',').next().unwrap().parse().unwrap();
    let mut ids: Vec<i64> = rows.iter().map(id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn each_row_that_does_not_fit_is_one_dead_letter_whatever_crashes() {
    for crash_after in [None, Some(3), Some(17), Some(40)] {
        let mut rig = Rig::plain();
        rig.table = MemoryTable::new(rig.clock.clone(), 1_000).checked(Arc::new(picky));
        for _ in 0..30 {
            rig.append(0, 5, false);
        }
        if let Some(steps) = crash_after {
            let mut lane = rig.lane(0);
            for _ in 0..steps {
                rig.step(&mut lane).unwrap();
            }
            drop(lane);
            rig.broker.expire_dropped();
        }
        rig.finish(&mut [rig.lane(1)]);
        rig.broker.settle();
        let all = 0..rig.next_id;
        assert_eq!(ids(&rig.table.rows()), all.clone().filter(|id| id % 7 != 0).collect::<Vec<_>>(), "{crash_after:?}");
        let dead_letters = rig.broker.read_all_committed(DLQ);
        let header = |record: &crate::sim::CommittedRecord, name: &str| {
            let found = record.headers.iter().find(|(found, _)| found == name.as_bytes()).unwrap();
            String::from_utf8(found.1.clone().unwrap()).unwrap()
        };
        assert_eq!(dead_letters.len(), all.filter(|id| id % 7 == 0).count(), "{crash_after:?}");
        for letter in &dead_letters {
            assert_eq!(header(letter, "hw-cause"), "column `id`: sevens do not fit");
            assert_eq!(header(letter, "hw-code"), "0");
        }
    }
}

#[test]
fn a_row_that_was_never_sent_is_not_asked_for() {
    let mut rig = Rig::plain();
    rig.table = MemoryTable::new(rig.clock.clone(), 1_000).checked(Arc::new(picky));
    // One question opens each partition; the next would fail.
    rig.table.inject(PARTITIONS as u32, TableFault::AskFails);
    for partition in 0..PARTITIONS {
        rig.append(partition, 7, false);
    }
    rig.finish(&mut [rig.lane(0)]);
    assert!(!rig.table.is_struck());
}

/// All rows are in the table, which is unknown because the reply was lost; and now they no longer fit: the table was
/// altered, or another version judges.
fn altered_after_a_lost_answer() -> Rig {
    let mut rig = Rig::plain();
    rig.append(0, 7, false);
    rig.table.inject(0, TableFault::ReplyLost);
    let mut lane = rig.lane(0);
    while lane.counters().last_error().is_none() {
        rig.step(&mut lane).unwrap();
    }
    drop(lane);
    rig.broker.expire_dropped();
    rig.table = rig.table.clone().checked(Arc::new(picky));
    rig
}

#[test]
fn rows_that_are_in_the_table_already_are_skipped_whatever_fits_now() {
    let rig = altered_after_a_lost_answer();
    let mut lane = rig.lane(1);
    rig.finish(std::slice::from_mut(&mut lane));
    assert_eq!((ids(&rig.table.rows()).len(), rig.broker.read_all_committed(DLQ).len(), lane.counters().skipped()), (7, 0, 1));
}

#[test]
fn rows_that_may_be_in_a_table_that_cannot_be_counted_are_not_inserted_in_parts() {
    let rig = altered_after_a_lost_answer();
    let mut lane = rig.lane_with(rig.settings.clone(), rig.table.target().with_uncountable());
    let error = rig.run_until_error(&mut lane);
    assert!(error.to_string().contains("it is unknown whether"), "{error}");
    assert_eq!((rig.table.rows().len(), rig.broker.read_all_committed(DLQ).len()), (7, 0));
}

/// Nothing was sent, so that nothing fills the table's memory of tokens.
#[test]
fn blocks_that_are_not_sent_are_not_paced() {
    let mut rig = Rig::plain();
    rig.table = MemoryTable::new(rig.clock.clone(), 1_000).checked(Arc::new(|_| Err("nothing fits".into())));
    rig.settings.limits.flush = 0;
    rig.append(0, 8, false);
    let began = rig.clock.monotonic();
    let mut lane = rig.lane(0);
    // Time stands still.
    for _ in 0..1_000 {
        lane.step(Duration::ZERO).unwrap();
    }
    assert_eq!(rig.clock.monotonic(), began);
    rig.broker.settle();
    assert_eq!(rig.broker.read_all_committed(DLQ).len(), 8);
}
