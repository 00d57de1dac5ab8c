//! Every fault does what its documentation says: on both sides, what happened and what was reported.

use super::*;

struct Bed {
    broker: MemoryBroker,
    consumer: Box<dyn Consumer>,
    producer: Box<dyn Producer>,
}

impl Bed {
    fn new(settings: Settings) -> Bed {
        let broker = MemoryBroker::with(MemoryClock::at(0), settings);
        broker.create_topic("in", 1);
        broker.create_topic("out", 1);
        let mut consumer = broker.consumer("g", "lane", &owned(&["in"])).unwrap();
        join(&mut *consumer);
        let producer = broker.producer(Some("lane")).unwrap();
        Bed { broker, consumer, producer }
    }

    /// Writes one record and commits position 1.
    fn run(&mut self) -> Outcome {
        self.producer.begin().unwrap();
        put(&mut *self.producer, "out", 0, "k", Some("v"));
        finish(&mut *self.producer, at("in", 1), self.consumer.membership())
    }

    /// How many records are visible, and whether the position is there.
    fn happened(&self) -> (usize, bool) {
        (values(&self.broker, "out").len(), !self.broker.group_offsets("g").is_empty())
    }
}

#[test]
fn commits_fail_in_four_ways() {
    let cases = [
        (Fault::CommitRefused, "aborted", (0, false), (0, false)),
        (Fault::CommitRequestLost, "unknown", (0, false), (0, false)),
        (Fault::CommitReplyLost, "unknown", (1, true), (1, true)),
        (Fault::CommitLate, "unknown", (0, false), (1, true)),
    ];
    for (fault, reported, at_first, in_the_end) in cases {
        let mut bed = Bed::new(Settings::default());
        bed.broker.inject(0, fault);
        let outcome = match bed.run() {
            Outcome::Aborted(_) => "aborted",
            Outcome::Unknown(_) => "unknown",
            other => panic!("{fault:?}: {other:?}"),
        };
        assert_eq!(outcome, reported, "{fault:?}");
        assert_eq!(bed.happened(), at_first, "{fault:?}");
        assert_eq!(bed.producer.begin().is_ok(), reported == "aborted", "{fault:?}: only a known outcome lets it go on");
        bed.broker.settle();
        assert_eq!(bed.happened(), in_the_end, "{fault:?}");
        bed.producer = bed.broker.producer(Some("lane")).unwrap();
        assert!(matches!(bed.run(), Outcome::Committed { .. }));
        assert_eq!(bed.happened(), (in_the_end.0 + 1, true), "{fault:?}");
        assert_eq!(bed.broker.faults_happened().get(&fault), Some(&1));
    }
}

#[test]
fn a_new_producer_settles_a_late_commit_one_way_or_the_other() {
    let mut endings = [0, 0];
    for seed in 0..100 {
        let mut bed = Bed::new(Settings { seed: Some(seed), ..Settings::default() });
        bed.broker.inject(0, Fault::CommitLate);
        assert!(matches!(bed.run(), Outcome::Unknown(_)));
        bed.producer = bed.broker.producer(Some("lane")).unwrap();
        let settled = bed.happened();
        assert!(matches!(settled, (0, false) | (1, true)), "seed {seed}: {settled:?}");
        bed.broker.settle();
        assert_eq!(bed.happened(), settled, "seed {seed}: nothing may change after a new producer has started");
        endings[settled.0] += 1;
    }
    assert!(endings.iter().all(|&count| count > 0), "{endings:?}");
}

#[test]
fn positions_of_a_dangling_transaction_are_unstable_until_it_times_out() {
    let mut bed = Bed::new(Settings::default());
    bed.broker.inject(0, Fault::CommitRequestLost);
    assert!(matches!(bed.run(), Outcome::Unknown(_)));
    drop(bed.producer);
    bed.broker.append("out", 0, Some(b"k"), Some(b"behind"), None, &[]).unwrap();
    let asked = [TopicPartition::new("in", 0)];
    let clock = bed.broker.clock().unwrap();
    for _ in 0..6 {
        assert_eq!(bed.consumer.committed(&asked).map_err(|error| error.failure), Err(Failure::Transient));
        assert_eq!(bed.broker.last_stable_offset("out", 0), Some(0));
        clock.advance(5_000);
    }
    clock.advance(1);
    assert_eq!(bed.consumer.committed(&asked).unwrap(), [None]);
    assert_eq!(values(&bed.broker, "out"), [(1, some("behind"))]);
}

#[test]
fn a_transaction_that_times_out_ends_its_producer() {
    let mut bed = Bed::new(Settings { session_timeout: 1_000_000, ..Settings::default() });
    bed.producer.begin().unwrap();
    put(&mut *bed.producer, "out", 0, "k", Some("v"));
    bed.broker.clock().unwrap().advance(30_001);
    // Not Fenced: no one has taken over.
    assert!(matches!(finish(&mut *bed.producer, at("in", 1), bed.consumer.membership()), Outcome::Unknown(_)));
    assert!(bed.producer.begin().is_err());
    assert_eq!(bed.happened(), (0, false));
    bed.producer = bed.broker.producer(Some("lane")).unwrap();
    assert!(matches!(bed.run(), Outcome::Committed { .. }));
}

#[test]
fn records_that_are_not_delivered_abort_the_transaction() {
    for seed in 0..50 {
        let mut bed = Bed::new(Settings { seed: Some(seed), ..Settings::default() });
        bed.broker.inject(0, Fault::ProduceFails);
        assert!(matches!(bed.run(), Outcome::Aborted(_)), "seed {seed}");
        assert!(matches!(bed.run(), Outcome::Committed { .. }), "seed {seed}");
        bed.broker.settle();
        assert_eq!(bed.happened(), (1, true), "seed {seed}");
    }
}

#[test]
fn a_failed_abort_ends_the_producer() {
    let mut bed = Bed::new(Settings::default());
    bed.producer.begin().unwrap();
    put(&mut *bed.producer, "out", 0, "k", Some("v"));
    bed.broker.inject(0, Fault::AbortFails);
    assert!(bed.producer.abort().is_err());
    assert!(bed.producer.begin().is_err());
    assert_eq!(bed.broker.last_stable_offset("out", 0), Some(0), "it dangles");
    bed.producer = bed.broker.producer(Some("lane")).unwrap();
    assert_eq!(bed.broker.last_stable_offset("out", 0), Some(2));
}

#[test]
fn calls_fail_for_a_moment() {
    let mut bed = Bed::new(Settings::default());
    let partition = TopicPartition::new("in", 0);
    for fault in [Fault::PollFails, Fault::CommittedFails, Fault::BoundsFails, Fault::InitFails] {
        bed.broker.inject(1, fault);
        let broker = bed.broker.clone();
        let mut call = || match fault {
            Fault::PollFails => bed.consumer.poll(1, NOW).map(drop),
            Fault::CommittedFails => bed.consumer.committed(std::slice::from_ref(&partition)).map(drop),
            Fault::BoundsFails => broker.bounds(&partition).map(drop),
            _ => broker.producer(Some("other")).map(drop),
        };
        let results: Vec<_> = (0..3).map(|_| call().map_err(|error| error.failure)).collect();
        assert_eq!(results, [Ok(()), Err(Failure::Transient), Ok(())], "{fault:?}: the second occasion");
    }
    let offsets = at("in", 3);
    for (fault, happened) in [(Fault::OffsetRequestLost, false), (Fault::OffsetReplyLost, true)] {
        bed.broker.inject(0, fault);
        assert_eq!(bed.consumer.commit(&offsets).map_err(|error| error.failure), Err(Failure::Transient));
        assert_eq!(!bed.broker.group_offsets("g").is_empty(), happened, "{fault:?}");
    }
}

#[test]
fn a_member_that_is_kicked_out_loses_its_partitions_and_joins_again() {
    let mut bed = Bed::new(Settings::default());
    let before = bed.consumer.membership();
    bed.broker.inject(0, Fault::Kicked);
    assert!(matches!(bed.consumer.poll(10, NOW).unwrap().as_slice(), [Event::Revoked { lost: true, .. }]));
    bed.producer.begin().unwrap();
    put(&mut *bed.producer, "out", 0, "k", Some("zombie"));
    assert!(matches!(finish(&mut *bed.producer, at("in", 1), before.clone()), Outcome::Fenced(_)));
    assert_eq!(bed.consumer.commit(&at("in", 1)).map_err(|e| e.failure).err(), None, "an empty group takes anything");
    bed.consumer.release().unwrap();
    assert_eq!(join(&mut *bed.consumer).len(), 1);
    let after = bed.consumer.membership();
    assert!(after.generation > before.generation && after.member != before.member);
    assert!(matches!(bed.run(), Outcome::Committed { .. }));
}

#[test]
fn a_rebalance_without_reason_bumps_the_generation() {
    let mut bed = Bed::new(Settings::default());
    let before = bed.consumer.membership();
    bed.broker.inject(0, Fault::Rebalance);
    assert!(matches!(bed.consumer.poll(10, NOW).unwrap().as_slice(), [Event::Revoked { lost: false, .. }]));
    assert!(matches!(bed.run(), Outcome::Committed { .. }), "until it is released, the old generation commits");
    bed.consumer.release().unwrap();
    join(&mut *bed.consumer);
    assert!(bed.consumer.membership().generation > before.generation);
    bed.producer.begin().unwrap();
    assert!(matches!(finish(&mut *bed.producer, at("in", 2), before), Outcome::Fenced(_)));
}

#[test]
fn the_hole_is_open_without_the_guard() {
    for (guard_membership, committed) in [(true, false), (false, true)] {
        let mut bed = Bed::new(Settings { guard_membership, ..Settings::default() });
        bed.producer.begin().unwrap();
        let forged = Membership { generation: -1, member: String::new(), ..bed.consumer.membership() };
        let outcome = finish(&mut *bed.producer, at("in", 7), forged);
        assert_eq!(matches!(outcome, Outcome::Committed { .. }), committed, "{outcome:?}");
        assert_eq!(bed.broker.group_offsets("g").len(), usize::from(committed));
    }
}

#[test]
fn positions_written_later_win_over_markers_that_arrive_later() {
    for seed in 0..50 {
        let mut bed = Bed::new(Settings { seed: Some(seed), ..Settings::default() });
        let mut other = bed.broker.producer(Some("other")).unwrap();
        for offset in 1..20 {
            let producer = if offset % 2 == 0 { &mut bed.producer } else { &mut other };
            producer.begin().unwrap();
            let outcome = finish(&mut **producer, at("in", offset), bed.consumer.membership());
            assert!(matches!(outcome, Outcome::Committed { .. }));
        }
        bed.broker.settle();
        let positions: Vec<i64> = bed.broker.group_offsets("g").into_values().map(|c| c.offset).collect();
        assert_eq!(positions, [19], "seed {seed}");
    }
}
