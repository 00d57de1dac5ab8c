//! Rows in an outbox in memory, which a delivery writes into a real PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use headwater_devenv::{Direction, Ephemeral, Proxy, Service, Stop};
use headwater_engine::broker::{SystemClock, TopicPartition};
use headwater_engine::delivery::{Counters, Limits, Positioned, Settings, Store};
use headwater_engine::sim::{Header, MemoryBroker};
use headwater_formats::encode_batch;

use crate::environment::postgres;

/// Rows in an outbox in memory, delivered by a real delivery into the real server.
pub struct Outbox {
    pub broker: MemoryBroker,
    pub settings: Settings,
}

impl Outbox {
    pub fn new() -> Outbox {
        let broker = MemoryBroker::realtime();
        broker.create_topic("outbox", 2);
        broker.create_topic("outbox.dlq", 1);
        let mut settings = Settings::new("p", "s", "outbox", "g", "lane");
        settings.dead_letters = Some("outbox.dlq".into());
        settings.limits = Limits { rows: 200, bytes: 1 << 20, flush: 5 };
        settings.backoff = (10, 100);
        Outbox { broker, settings }
    }

    pub fn append(&self, partition: i32, columns: Vec<(&str, ArrayRef)>) {
        let value = encode_batch(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        self.broker.append("outbox", partition, None, Some(&value), None, &[]).unwrap();
    }

    /// Delivers for so many steps, or until every record is delivered.
    pub fn deliver(&self, store: Box<dyn Positioned>, steps: usize, mut each: impl FnMut(usize)) -> bool {
        let (broker, clock, counters) = (Arc::new(self.broker.clone()), Arc::new(SystemClock::default()), Arc::<Counters>::default());
        let mut delivery = Store::Positions(store).deliver(broker, clock, self.settings.clone(), counters).unwrap();
        for step in 0..steps {
            each(step);
            delivery.step(Duration::from_millis(5)).unwrap();
            if self.settled() {
                return true;
            }
        }
        false
    }

    fn settled(&self) -> bool {
        let ends = |partition| self.broker.last_stable_offset("outbox", partition).unwrap_or(0);
        let positions = self.broker.group_offsets("g");
        (0..2).all(|p| positions.get(&TopicPartition::new("outbox", p)).map_or(0, |c| c.offset) >= ends(p))
    }

    pub fn letters(&self) -> Vec<(String, String)> {
        let header = |headers: &[Header], name: &str| {
            let found = headers.iter().find(|(known, _)| known == name.as_bytes());
            String::from_utf8(found.and_then(|(_, value)| value.clone()).unwrap_or_default()).unwrap()
        };
        let letters = self.broker.read_all_committed("outbox.dlq");
        let mut found: Vec<_> = letters
            .iter()
            .map(|letter| (header(&letter.headers, "hw-code"), String::from_utf8(letter.value.clone().unwrap_or_default()).unwrap()))
            .collect();
        found.sort();
        found
    }

    /// Delivers everything while answers are lost, connections are cut, the server is killed, and deliveries end in the middle. `schema`
    /// has the positions. Returns how many deliveries that took.
    pub fn deliver_under_faults(
        &self,
        environment: &mut Ephemeral,
        proxy: &Proxy,
        schema: &str,
        open: impl Fn() -> Result<Box<dyn Positioned>, String>,
    ) -> usize {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 200, "{:?}", postgres(environment, &format!("SELECT * FROM {schema}.headwater_positions")));
            if rounds == 3 || rounds == 7 {
                environment.restart(Service::Postgres, Stop::Kill).unwrap();
            }
            let Ok(store) = open() else { continue };
            let steps = if rounds > 40 { 100_000 } else { 20 + rounds * 4 };
            let done = self.deliver(store, steps, |step| match (rounds % 3, step) {
                (0, 10) => proxy.cut_after(Direction::ToServer, 2_000),
                (1, 10) => proxy.cut_after(Direction::ToClient, 200),
                _ => {}
            });
            self.broker.expire_dropped();
            if done {
                return rounds;
            }
        }
    }
}
