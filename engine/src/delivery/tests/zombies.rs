//! Lanes that the group has forgotten and that don't know it.

use std::collections::BTreeMap;

use super::*;
use crate::broker::{GroupView, TopicId};

/// A broker whose consumers can be made deaf: they receive and send nothing, as behind a broken network, while
/// their commits get through.
struct Deaf(MemoryBroker, Arc<AtomicBool>);

struct DeafConsumer(Box<dyn Consumer>, Arc<AtomicBool>);

impl Broker for Deaf {
    fn consumer(&self, group: &str, instance: &str, topics: &[String]) -> Result<Box<dyn Consumer>, BrokerError> {
        Ok(Box::new(DeafConsumer(self.0.consumer(group, instance, topics)?, self.1.clone())))
    }
    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, BrokerError> {
        self.0.producer(transactional_id)
    }
    fn reader(&self, from: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BrokerError> {
        self.0.reader(from)
    }
    fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        self.0.partitions(topic)
    }
    fn topics(&self) -> Result<Vec<String>, BrokerError> {
        self.0.topics()
    }
    fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        self.0.bounds(partition)
    }
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), BrokerError> {
        self.0.create_topics(topics)
    }
    fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError> {
        self.0.topic_ids(topics)
    }
    fn group(&self, group: &str) -> Result<GroupView, BrokerError> {
        self.0.group(group)
    }
    fn topic_config(&self, topic: &str) -> Result<Vec<(String, String)>, BrokerError> {
        self.0.topic_config(topic)
    }
}

impl Consumer for DeafConsumer {
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError> {
        if self.1.load(Ordering::Relaxed) { Ok(Vec::new()) } else { self.0.poll(max, timeout) }
    }
    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.0.committed(partitions)
    }
    fn start(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), BrokerError> {
        self.0.start(positions)
    }
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.0.pause(partitions)
    }
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.0.resume(partitions)
    }
    fn release(&mut self) -> Result<(), BrokerError> {
        self.0.release()
    }
    fn membership(&self) -> Membership {
        self.0.membership()
    }
    fn commit(&mut self, offsets: &[(TopicPartition, Committed)]) -> Result<(), BrokerError> {
        self.0.commit(offsets)
    }
    fn bounds(&mut self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        self.0.bounds(partition)
    }
    fn ask_ends(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.0.ask_ends(partitions)
    }
}

/// A lane that has stored an intent, was refused by an outage, waits `pause` before it tries again, and is deaf by then.
fn zombie(rig: &mut Rig, pause: i64) -> Delivery {
    rig.append(0, 4, false);
    rig.table.inject(0, TableFault::Unavailable);
    let deaf = Arc::new(AtomicBool::new(false));
    let settings = Settings { backoff: (pause, pause), ..rig.settings.clone() };
    let broker = Arc::new(Deaf(rig.broker.clone(), deaf.clone()));
    let mut lane = Delivery::new(broker, rig.clock.clone(), Box::new(rig.table.target()), settings).unwrap();
    while lane.counters().last_error().is_none() {
        rig.step(&mut lane).unwrap();
    }
    deaf.store(true, Ordering::Relaxed);
    rig.broker.expire(GROUP, "lane");
    lane
}

#[test]
fn a_zombie_asks_the_group_before_it_tries_again() {
    // The table forgets at once: only the group stands between the zombie and a second copy.
    let mut rig = Rig::new(MemoryBroker::new(), 0);
    let mut zombie = zombie(&mut rig, 6_000);
    rig.finish(&mut [rig.lane(1)]);
    rig.clock.advance(6_000);
    for _ in 0..50 {
        rig.step(&mut zombie).unwrap();
    }
    rig.assert_exact("after the zombie");
    assert_eq!(zombie.counters().rows(), 0);
}

#[test]
fn a_new_owner_counts_only_when_no_zombie_can_insert_any_more() {
    let mut late = 0;
    for seed in 1..60 {
        let mut rig = Rig::new(MemoryBroker::new(), 0);
        rig.settings.safe_window = 0;
        let mut zombie = zombie(&mut rig, 4_900);
        rig.table.seed(seed, &[]);
        let mut owner = rig.lane(1);
        for _ in 0..10 {
            rig.step(&mut owner).unwrap();
        }
        // Its last commit is just young enough: it tries once more, and that takes its time.
        rig.table.inject(0, TableFault::Late);
        rig.clock.advance(4_600);
        while zombie.counters().retries() == 0 {
            rig.step(&mut zombie).unwrap();
        }
        late += u32::from(rig.table.rows().is_empty());
        rig.finish(std::slice::from_mut(&mut owner));
        rig.clock.advance(60_000);
        rig.assert_exact(&format!("seed {seed}"));
        assert_eq!((owner.counters().rows(), owner.counters().skipped()), (4, 1), "found by counting");
    }
    assert!(late > 30, "{late}");
}
