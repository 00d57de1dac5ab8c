//! Every row arrives: without faults, after crashes, through outages, with several lanes, from a thread.

use super::*;

#[test]
fn the_memory_target_passes_the_contract() {
    let clock = MemoryClock::at(0);
    let table = MemoryTable::new(clock.clone(), 1_000).constrained();
    let mut rows = || {
        clock.advance(30_000);
        let id = |json: &str| json[6..].split(',').next().unwrap().parse().unwrap();
        let found = |r: TableRow| contract::Found { partition: r.partition, offset: r.offset, row: r.row, id: id(&r.json) };
        Ok(table.rows().into_iter().map(found).collect())
    };
    contract::all(&mut table.target(), &mut rows).unwrap();
}

#[test]
fn the_memory_target_passes_the_contract_of_changes() {
    let table = MemoryTable::new(MemoryClock::at(0), 10_000).changed_by(vec!["id".into()]);
    let mut target = table.target();
    let mut write = |block: &Block| {
        target.start(block);
        match target.progress(Duration::ZERO) {
            Progress::Inserted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    contract::changes(&mut write, &mut || Ok(content(&table.rows()))).unwrap();
}

#[test]
fn every_row_arrives_once_with_its_position_and_bad_rows_are_set_aside() {
    let mut rig = Rig::plain();
    rig.fill(30, 7);
    let mut lane = rig.lane(0);
    rig.finish(std::slice::from_mut(&mut lane));
    rig.assert_exact("plain");
    let (good, bad) = rig.expected();
    assert!(good.len() > 100 && bad.len() > 3);
    let counters = lane.counters();
    assert_eq!((counters.rows(), counters.refused()), (good.len() as u64, bad.len() as u64));
    assert_eq!((counters.lag(), counters.buffered(), counters.retries(), counters.skipped()), (0, 0, 0, 0));
    assert_eq!(rig.table.inserts(), (counters.blocks(), 0));
}

#[test]
fn a_letter_holds_the_row() {
    let mut rig = Rig::plain();
    rig.append(1, 1, true);
    let mut lane = rig.lane(0);
    rig.finish(std::slice::from_mut(&mut lane));
    let dead_letters = rig.broker.read_all_committed(DLQ);
    let text = String::from_utf8(dead_letters[0].value.clone().unwrap()).unwrap();
    assert_eq!(text, r#"{"id":0,"amount":-1}"#);
    assert_eq!(dead_letters[0].partition, 1);
}

#[test]
fn the_intent_is_stored_before_the_insert_and_names_the_block() {
    let mut rig = Rig::plain();
    for _ in 0..4 {
        rig.append(0, 4, false);
    }
    rig.table.inject(0, TableFault::Unavailable);
    let mut lane = rig.lane(0);
    while lane.counters().last_error().is_none() {
        rig.step(&mut lane).unwrap();
    }
    assert!(rig.table.rows().is_empty());
    let stored = &rig.broker.group_offsets(GROUP)[&TopicPartition::new(TOPIC, 0)];
    let intent = Intent::decode(&stored.metadata).unwrap();
    assert_eq!((stored.offset, intent.first, intent.last, intent.rows), (0, 0, 1, 8));
    rig.finish(std::slice::from_mut(&mut lane));
    rig.assert_exact("after the outage");
}

#[test]
fn a_crash_after_any_step_changes_nothing() {
    let mut steps = 0;
    loop {
        let mut rig = Rig::plain();
        rig.fill(8, 5);
        let mut lane = rig.lane(0);
        let mut done = false;
        for _ in 0..steps {
            rig.step(&mut lane).unwrap();
            done = rig.settled();
        }
        drop(lane);
        rig.broker.expire_dropped();
        let mut lane = rig.lane(0);
        rig.finish_named(std::slice::from_mut(&mut lane), &format!("crash after {steps} steps"));
        rig.assert_exact(&format!("crash after {steps} steps"));
        if done {
            break;
        }
        steps += 1;
    }
    assert!(steps > 50, "{steps}");
}

#[test]
fn a_crash_after_any_step_under_a_table_that_forgets_is_settled_by_counting() {
    let mut skipped = 0;
    for steps in 0..120 {
        let mut rig = Rig::new(MemoryBroker::new(), 0);
        rig.settings.safe_window = 0;
        rig.fill(8, 5);
        let mut lane = rig.lane(0);
        for _ in 0..steps {
            rig.step(&mut lane).unwrap();
        }
        drop(lane);
        rig.broker.expire_dropped();
        let mut lane = rig.lane(0);
        rig.finish_named(std::slice::from_mut(&mut lane), &format!("crash after {steps} steps"));
        rig.assert_exact(&format!("crash after {steps} steps"));
        skipped += lane.counters().skipped();
    }
    assert!(skipped > 5, "{skipped} blocks were found by counting");
}

#[test]
fn an_outage_is_waited_out_with_bounded_memory_and_in_the_group() {
    let mut rig = Rig::plain();
    rig.settings.max_buffer = 5_000;
    for n in 0..200 {
        rig.append(n % PARTITIONS, 3, false);
    }
    rig.table.seed(1, &[(TableFault::Unavailable, 10_000)]);
    rig.settings.poll_records = 5;
    let mut lane = rig.lane(0);
    let largest = 5 * rig.broker.read_all_committed(TOPIC)[0].value.as_ref().unwrap().len();
    for _ in 0..3_000 {
        rig.step(&mut lane).unwrap();
        let bytes: usize = lane.partitions.values().map(partition::Partition::bytes).sum();
        assert!(bytes <= 5_000 + largest, "{bytes}");
    }
    assert!(rig.clock.monotonic() > 4 * rig.settings.session_timeout);
    assert_eq!(rig.broker.members(GROUP), ["lane-0"]);
    assert!(lane.counters().retries() > 2 && lane.counters().last_error().unwrap().contains("injected"));
    assert!(rig.table.rows().is_empty());
    rig.table.heal();
    rig.finish(std::slice::from_mut(&mut lane));
    rig.assert_exact("after the outage");
    assert_eq!(lane.counters().last_error(), None);
}

#[test]
fn pauses_double_up_to_a_limit() {
    let settings = Settings::new("p", "s", "t", "g", "i");
    let pauses: Vec<i64> = [1, 2, 3, 9, 10, 100].map(|n| settings.pause(n)).into();
    assert_eq!(pauses, [100, 200, 400, 25_600, 30_000, 30_000]);
}

#[test]
fn a_second_lane_takes_its_share_and_nothing_twice() {
    let mut rig = Rig::plain();
    rig.fill(20, 0);
    let mut lanes = vec![rig.lane(0)];
    for _ in 0..12 {
        rig.step(&mut lanes[0]).unwrap();
    }
    lanes.push(rig.lane(1));
    rig.finish(&mut lanes);
    for n in 0..60 {
        rig.append(n % PARTITIONS, 2, false);
    }
    rig.finish(&mut lanes);
    rig.assert_exact("two lanes");
    assert!(lanes.iter().all(|lane| lane.counters().rows() > 0));
    assert_eq!(rig.table.inserts().1, 0, "a revocation waits for the insert under way");
}

#[test]
fn settings_without_sense_are_refused() {
    let rig = Rig::plain();
    for rows in [0, MAX_BLOCK_ROWS + 1] {
        let settings = Settings { limits: Limits { rows, ..rig.settings.limits }, ..rig.settings.clone() };
        let target = Box::new(rig.table.target());
        let made = Delivery::new(Arc::new(rig.broker.clone()), rig.clock.clone(), target, settings);
        assert!(matches!(made, Err(DeliveryError::Setup(_))));
    }
}

#[test]
fn a_thread_can_run_it_and_stop_it() {
    let broker = MemoryBroker::realtime();
    broker.create_topic(TOPIC, 1);
    let clock: Arc<dyn Clock> = Arc::new(crate::broker::SystemClock::default());
    let table = MemoryTable::new(clock.clone(), 100).constrained();
    let mut settings = Settings::new("test", "s", TOPIC, GROUP, "lane");
    settings.limits.flush = 1;
    let mut lane = Delivery::new(Arc::new(broker.clone()), clock, Box::new(table.target()), settings).unwrap();
    let (counters, stop) = (lane.counters(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || lane.run(&stopped));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let value = encode_batch(&RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap();
    broker.append(TOPIC, 0, None, Some(&value), None, &[]).unwrap();
    while counters.rows() < 3 {
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap().unwrap();
    assert_eq!(table.rows().len(), 3);
    let position = &broker.group_offsets(GROUP)[&TopicPartition::new(TOPIC, 0)];
    assert_eq!((position.offset, position.metadata.as_str()), (1, CLEAN));
}
