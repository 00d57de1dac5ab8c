//! A pipeline, its input and a schedule of steps, faults and crashes, all from one seed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock};
use headwater_engine::lane::{LaneConfig, RunningLane, Runtime, Stepped};
use headwater_engine::operators::{Kind, Operators};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Plan, plan, topics_to_create};
use headwater_engine::sim::{BrokerCatalog, Faults, MemoryBroker, MemoryClock};
use headwater_engine::stats::{Snapshot, Stats};
use headwater_engine::yaml;

use crate::remind::Remind;

pub const PARTITIONS: i32 = 3;

/// What the wall clock shows when the sources have been silent: once between the two halves of the input, and once behind it. By
/// then every partition has followed the clock for minutes.
pub const SILENT_AT: [i64; 2] = [1_767_226_000_000, 1_767_226_400_000];
/// `idle` and `out_of_order` of the source: how far a silent partition trails the clock.
pub const TRAILS: i64 = 62_000;

/// Steps of the clock in a silence: shorter than the session timeout.
const STRIDE: i64 = 5_000;

const PIPELINE: &str = over_orders!(
    r#"steps:
  paid: { from: orders, filter: amount >= 0 }
  per_product:
    from: paid
    window: { tumbling: 10s, by: [product], compute: { n: count(*), total: sum(amount), ids: count(DISTINCT id) }, lateness: 3s }
  per_id:
    from: paid
    window: { tumbling: 10s, by: [id], compute: { total: sum(amount) }, emit: on_update }
  hops:
    from: paid
    window: { hopping: { size: 10s, every: 5s }, by: [product], compute: { n: count(*), total: sum(amount) } }
  sessions:
    from: paid
    window: { unbounded: true, expire: 20s, by: [id], compute: { total: sum(amount), n: count(*) }, emit: on_update }
  first: { from: paid, dedup: { by: id, within: 15s, lateness: 3s } }
  last: { from: paid, dedup: { by: [product], within: 4s, keep: last } }
  big: { from: paid, filter: amount >= 60 }
  pairs:
    from: { left: paid, right: big }
    join:
      kind: left
      on: id
      within: { before: 0s, after: 4s }
      lateness: 1s
      select: { id: left.id, at: left.at, amount: left.amount, other: right.amount, other_at: right.at }
  twins:
    from: { left: big, right: paid }
    join: { kind: full, on: product, within: 1s, lateness: 3s }
sinks:
  copies: { from: paid, topic: copies, key: id, create: { partitions: 2 } }
  products: { from: per_product, topic: products, key: product, create: { partitions: 2 } }
  late: { from: per_product.late, topic: late, key: id, create: { partitions: 1 } }
  ids: { from: per_id, topic: ids, key: id, create: { partitions: 2 } }
  late_ids: { from: per_id.late, topic: late-ids, create: { partitions: 1 } }
  hops: { from: hops, topic: hops, key: product, create: { partitions: 2 } }
  late_hops: { from: hops.late, topic: late-hops, create: { partitions: 1 } }
  sessions: { from: sessions, topic: sessions, key: id, create: { partitions: 2 } }
  first: { from: first, topic: first, key: id, create: { partitions: 2 } }
  later: { from: first.duplicates, topic: later, key: id, create: { partitions: 2 } }
  late_first: { from: first.late, topic: late-first, create: { partitions: 1 } }
  last: { from: last, topic: last, key: product, create: { partitions: 2 } }
  earlier: { from: last.duplicates, topic: earlier, key: product, create: { partitions: 2 } }
  late_last: { from: last.late, topic: late-last, create: { partitions: 1 } }
  pairs: { from: pairs, topic: pairs, create: { partitions: 2 } }
  late_pairs: { from: pairs.late, topic: late-pairs, create: { partitions: 1 } }
  twins: { from: twins, topic: twins, create: { partitions: 2 } }
  late_twins: { from: twins.late, topic: late-twins, create: { partitions: 1 } }
"#
);

/// One input record.
#[derive(Clone, Debug)]
pub struct Order {
    pub partition: i32,
    pub id: String,
    pub product: String,
    pub amount: i64,
    pub at: i64,
    /// Not a record that can be decoded.
    pub broken: bool,
    /// The half of the input it belongs to: the sources are silent behind each.
    pub half: usize,
}

/// The input of a run.
pub struct Case {
    pub orders: Vec<Order>,
    /// A setting of the topic `copies`, of which some orders make records that the brokers refuse.
    pub limit: Option<&'static str>,
}

/// Small deterministic random numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

impl Case {
    pub fn new(seed: u64) -> Case {
        let mut random = Random::new(seed);
        let start = 1_767_225_000_000;
        let mut orders = Vec::new();
        for i in 0..400 {
            let id = format!("id{}", random.below(20));
            let half = usize::from(i >= 200);
            // The second half is as new as the clock; what is older than the silence before it is late.
            let begin = if half == 0 { start } else { SILENT_AT[0] - 200 * 250 };
            let before = match random.below(24) {
                0 | 1 => 25_000,
                2 if half == 1 => 300_000,
                _ => 0,
            };
            let at = begin + i * 250 + random.below(3_000) as i64 - 1_500 - before;
            let partition = headwater_formats::partition(id.as_bytes(), PARTITIONS);
            let amount = random.below(100) as i64 - 10;
            let product = format!("p{}", random.below(5));
            orders.push(Order { partition, id, product, amount, at, broken: random.below(40) == 0, half });
        }
        Case { orders, limit: None }
    }

    /// Some orders are too large for the topic `copies`, though not for others.
    pub fn refused(seed: u64) -> Case {
        let mut random = Random::new(seed ^ 5);
        let mut case = Case { limit: Some("{ max.message.bytes: '400' }"), ..Case::new(seed) };
        for order in case.orders.iter_mut().filter(|_| random.below(10) == 0) {
            order.product.extend(std::iter::repeat_n('x', 400));
        }
        case
    }

    /// The brokers refuse its copy.
    pub fn refuses(&self, order: &Order) -> bool {
        self.limit.is_some() && order.product.len() > 100
    }
}

/// What came out.
pub struct Outcome {
    pub broker: MemoryBroker,
    pub stats: Vec<Snapshot>,
}

pub struct Run<'a> {
    case: &'a Case,
    seed: u64,
    broker: MemoryBroker,
    clock: Arc<MemoryClock>,
    plan: Arc<Plan>,
    state: tempfile::TempDir,
    stats: Vec<Arc<Stats>>,
}

pub fn operators() -> Operators {
    Operators(vec![
        Kind::of::<operator_filter::Filter>(),
        Kind::of::<operator_map::Map>(),
        Kind::of::<operator_window::Window>(),
        Kind::of::<operator_fanout::Fanout>(),
        Kind::of::<operator_dedup::Dedup>(),
        Kind::of::<operator_join::Join>(),
        Kind::of::<operator_aggregate::Aggregate>(),
        Kind::of::<operator_saga::Saga>(),
        Kind::of::<Remind>(),
    ])
}

/// What lanes get from outside.
pub fn runtime(plan: &Arc<Plan>, broker: &MemoryBroker) -> Runtime {
    let clock = broker.clock().expect("a simulated broker has a virtual clock");
    Runtime::simulated(plan, broker, clock)
}

impl<'a> Run<'a> {
    pub fn new(case: &'a Case, seed: u64) -> Run<'a> {
        let settings = case.limit.map_or_else(String::new, |limit| format!(", config: {limit}"));
        let copies = "topic: copies, key: id, create: { partitions: 2";
        Run::of(case, seed, &PIPELINE.replace(copies, &format!("{copies}{settings}")))
    }

    /// The same pipeline without transactions.
    pub fn at_least_once(case: &'a Case, seed: u64) -> Run<'a> {
        Run::of(case, seed, &PIPELINE.replace("commit_interval:", "guarantee: at_least_once\ncommit_interval:"))
    }

    /// Another pipeline named `simulated`.
    pub fn of(case: &'a Case, seed: u64, text: &str) -> Run<'a> {
        let broker = MemoryBroker::seeded(seed);
        let clock = broker.clock().expect("a simulated broker has a virtual clock");
        broker.create_topic("orders", PARTITIONS);
        let root = yaml::parse(text).unwrap();
        let pipeline = Pipeline::read(&root).0.unwrap();
        let plan = plan(&pipeline, &root, &operators(), &BrokerCatalog(&broker)).unwrap_or_else(|found| panic!("{found:#?}"));
        broker.create_topics(&topics_to_create(&plan)).unwrap();
        Run { case, seed, broker, clock, plan: Arc::new(plan), state: tempfile::tempdir().unwrap(), stats: Vec::new() }
    }

    /// A lane of a worker of its own, not started.
    fn lane(&mut self, index: usize) -> RunningLane {
        let runtime = runtime(&self.plan, &self.broker);
        self.stats.push(runtime.stats.clone());
        let state_dir: Option<PathBuf> = (!self.seed.is_multiple_of(3)).then(|| self.state.path().join(format!("lane{index}")));
        let config = LaneConfig { state_dir, epoch_rows: 20 + self.seed % 50, ..LaneConfig::new("w", index) };
        RunningLane::new(runtime, config)
    }

    fn feed(&self, order: &Order) {
        let value = match order.broken {
            true => format!("{{\"id\":\"{}\",\"amount\":\"x\"", order.id),
            false => {
                let at = order.at;
                format!("{{\"id\":\"{}\",\"product\":\"{}\",\"amount\":{},\"at\":{at}}}", order.id, order.product, order.amount)
            }
        };
        self.broker.append("orders", order.partition, Some(order.id.as_bytes()), Some(value.as_bytes()), Some(order.at), &[]).unwrap();
    }

    /// Two lanes, everything goes well.
    pub fn undisturbed(mut self) -> Outcome {
        let mut lanes: Vec<RunningLane> = (0..2).map(|i| self.lane(i)).collect();
        for (half, until) in SILENT_AT.into_iter().enumerate() {
            self.case.orders.iter().filter(|order| order.half == half).for_each(|order| self.feed(order));
            self.settle(&mut lanes);
            self.silence(&mut lanes, until);
        }
        self.finish(lanes)
    }

    /// One to three lanes that die and return while faults happen; then all is healed, all must be done, and the sources are
    /// silent. Twice.
    pub fn disturbed(mut self) -> Outcome {
        let mut random = Random::new(self.seed ^ 77);
        let mut lanes: Vec<RunningLane> = (0..3).map(|i| self.lane(i)).collect();
        for (half, until) in SILENT_AT.into_iter().enumerate() {
            self.broker.set_faults(Faults::everything(self.seed, 60));
            self.trouble(half, &mut random, &mut lanes);
            // Everything heals: from here on, progress is owed.
            self.broker.set_faults(Faults::none());
            lanes.clear();
            self.clock.advance(120_000);
            self.broker.expire_dropped();
            self.broker.settle();
            lanes = (0..2).map(|i| self.lane(i)).collect();
            self.settle(&mut lanes);
            self.silence(&mut lanes, until);
            lanes.push(self.lane(2));
        }
        self.finish(lanes)
    }

    /// Feeds one half of the input while faults happen and lanes die.
    fn trouble(&mut self, half: usize, random: &mut Random, lanes: &mut [RunningLane]) {
        let case = self.case;
        let mut orders = case.orders.iter().filter(|order| order.half == half).peekable();
        for turn in 0..3_000u64 {
            self.clock.advance(1 + random.below(8) as i64);
            if orders.peek().is_some() && random.below(3) == 0 {
                orders.next().into_iter().for_each(|order| self.feed(order));
            }
            let index = random.below(3) as usize;
            match random.below(400) {
                0 => lanes[index] = self.lane(index),
                1 if turn % 2 == 0 => self.broker.expire_dropped(),
                _ => {}
            }
            if lanes[index].runs() || random.below(20) == 0 {
                let stepped = lanes[index].step(Duration::ZERO);
                assert!(stepped.is_ok(), "seed {}: a lane stopped for good: {stepped:?}", self.seed);
            }
        }
        orders.for_each(|order| self.feed(order));
    }

    /// Nothing is written until the wall clock shows `until`.
    fn silence(&self, lanes: &mut [RunningLane], until: i64) {
        let left = until - self.clock.wall();
        assert!(left > 2 * TRAILS, "seed {}: the work left no time for a silent partition: {left}", self.seed);
        while self.clock.wall() < until {
            self.clock.advance(STRIDE.min(until - self.clock.wall()));
            self.work(lanes, 20);
        }
        self.work(lanes, 500);
    }

    /// Steps until every source record is committed and nothing makes progress any more.
    fn settle(&self, lanes: &mut [RunningLane]) {
        for _ in 0..20 {
            self.work(lanes, 500);
            if self.is_done() {
                return;
            }
        }
        panic!("seed {}: no progress after healing: {:?}", self.seed, self.broker.group_offsets("hw.simulated"));
    }

    /// Steps until nothing has happened for so many turns. That takes time for intervals only: no source gets silent by it.
    fn work(&self, lanes: &mut [RunningLane], turns: usize) {
        let mut quiet = 0;
        for turn in 0..10_000 {
            self.clock.work(1);
            let mut busy = false;
            for lane in lanes.iter_mut() {
                match lane.step(Duration::ZERO) {
                    Ok(Stepped::Busy) => busy = true,
                    Ok(Stepped::Idle) => {}
                    ended => panic!("seed {}: after healing, turn {turn}: {ended:?}", self.seed),
                }
            }
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet > turns {
                return;
            }
        }
        panic!("seed {}: something is done all the time", self.seed);
    }

    fn is_done(&self) -> bool {
        let committed = self.broker.group_offsets("hw.simulated");
        (0..PARTITIONS).all(|p| {
            let partition = headwater_engine::broker::TopicPartition::new("orders", p);
            let end = self.broker.last_stable_offset("orders", p).unwrap_or(0);
            end == 0 || committed.get(&partition).is_some_and(|c| c.offset == end)
        })
    }

    fn finish(self, lanes: Vec<RunningLane>) -> Outcome {
        for lane in lanes {
            lane.finish(Duration::from_secs(1)).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        }
        Outcome { broker: self.broker, stats: self.stats.iter().map(|s| s.snapshot()).collect() }
    }
}
