//! A pipeline, its input and a schedule of steps, faults and crashes, all from one seed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock, TopicPartition};
use headwater_engine::lane::{LaneConfig, RunningLane, Runtime, Stepped};
use headwater_engine::operators::{Kind, Operators};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Plan, plan, topics_to_create};
use headwater_engine::sim::{BrokerCatalog, CommittedRecord, Fault, Faults, MemoryBroker, MemoryClock};
use headwater_engine::stats::{Snapshot, Stats};
use headwater_engine::yaml;

use crate::remind::Remind;
use crate::world::{Trouble, World};

pub const PARTITIONS: i32 = 3;

/// What the wall clock shows when the sources have been silent: once between the two halves of the input, and once behind it. By
/// then every partition has followed the clock for minutes.
pub const SILENT_AT: [i64; 2] = [1_767_226_000_000, 1_767_226_400_000];
/// `idle` and `out_of_order` of the source: how far a silent partition trails the clock.
pub const TRAILS: i64 = 62_000;

/// Steps of the clock in a silence: shorter than the session timeout.
const STRIDE: i64 = 5_000;
/// Orders of each half that come in the silence behind it.
const LAST: usize = 8;

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
    /// Where it is in its partition, once it was written.
    pub offset: i64,
}

impl Order {
    /// The value of its record.
    pub fn text(&self) -> String {
        let Order { id, product, amount, at, .. } = self;
        match self.broken {
            true => format!("{{\"id\":\"{id}\",\"amount\":\"x\""),
            false => format!("{{\"id\":\"{id}\",\"product\":\"{product}\",\"amount\":{amount},\"at\":{at}}}"),
        }
    }
}

/// The input of a run.
#[derive(Clone)]
pub struct Case {
    pub orders: Vec<Order>,
    /// A setting of the topic `copies`, of which some orders make records that the brokers refuse.
    pub limit: Option<&'static str>,
    /// In a disturbed run some orders are written in transactions of their application, which decide about their order, too.
    pub in_transactions: bool,
    /// By how many milliseconds the wall clock is wrong at times. Timers of the wall clock that are set meanwhile fire later by as much.
    pub clock_ahead: i64,
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
            orders.push(Order { partition, id, product, amount, at, broken: random.below(40) == 0, half, offset: -1 });
        }
        Case { orders, limit: None, in_transactions: true, clock_ahead: 3_600_000 }
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
    /// The orders as they are in the log, by partition and offset.
    pub case: Case,
    pub faults: BTreeMap<Fault, u64>,
    pub troubles: BTreeMap<Trouble, u64>,
}

pub struct Run<'a> {
    case: &'a Case,
    seed: u64,
    broker: MemoryBroker,
    clock: Arc<MemoryClock>,
    plan: Arc<Plan>,
    state: tempfile::TempDir,
    stats: Vec<Arc<Stats>>,
    world: World<'a>,
    /// A second process with the transactional ids of a lane that runs.
    second: Option<RunningLane>,
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
        let world = World::new(case, &broker, &plan, seed);
        let state = tempfile::tempdir().unwrap();
        Run { case, seed, broker, clock, plan: Arc::new(plan), state, stats: Vec::new(), world, second: None }
    }

    /// A lane of a worker of its own, not started.
    fn lane(&mut self, index: usize) -> RunningLane {
        self.lane_in(index, &format!("lane{index}"))
    }

    fn lane_in(&mut self, index: usize, dir: &str) -> RunningLane {
        let runtime = runtime(&self.plan, &self.broker);
        self.stats.push(runtime.stats.clone());
        let state_dir: Option<PathBuf> = (!self.seed.is_multiple_of(3)).then(|| self.state.path().join(dir));
        let config = LaneConfig { state_dir, epoch_rows: 20 + self.seed % 50, ..LaneConfig::new("w", index) };
        RunningLane::new(runtime, config)
    }

    /// The orders of one half.
    fn half(&self, half: usize) -> Range<usize> {
        let before = self.case.orders.iter().filter(|order| order.half < half).count();
        before..before + self.case.orders.iter().filter(|order| order.half == half).count()
    }

    /// Two lanes, everything goes well.
    pub fn undisturbed(mut self) -> Outcome {
        let mut lanes: Vec<RunningLane> = (0..2).map(|i| self.lane(i)).collect();
        for (half, until) in SILENT_AT.into_iter().enumerate() {
            self.half(half).for_each(|n| self.world.write(n));
            self.settle(&mut lanes);
            self.silence(&mut lanes, until);
        }
        self.finish(lanes)
    }

    /// One to three lanes that die and return while faults happen; then all is healed, all must be done, and the sources are
    /// silent. Twice.
    pub fn disturbed(mut self) -> Outcome {
        let mut random = Random::new(self.seed ^ 77);
        let mut faults = BTreeMap::new();
        let mut lanes: Vec<RunningLane> = (0..3).map(|i| self.lane(i)).collect();
        for (half, until) in SILENT_AT.into_iter().enumerate() {
            let orders = self.half(half);
            let last = orders.end - LAST;
            self.broker.set_faults(faults_of_calls(self.seed + half as u64));
            self.trouble(orders.start..last, &mut random, &mut lanes);
            self.broker.faults_happened().into_iter().for_each(|(fault, count)| *faults.entry(fault).or_default() += count);
            // Everything heals: from here on, progress is owed.
            self.broker.set_faults(Faults::none());
            self.world.heal();
            lanes.clear();
            self.second = None;
            self.clock.advance(120_000);
            self.broker.expire_dropped();
            self.broker.settle();
            lanes = (0..2).map(|i| self.lane(i)).collect();
            self.settle(&mut lanes);
            self.hidden_silence(last..orders.end, &mut lanes);
            self.silence(&mut lanes, until);
            lanes.push(self.lane(2));
        }
        Outcome { faults, ..self.finish(lanes) }
    }

    /// Writes orders while faults happen and lanes die.
    fn trouble(&mut self, orders: Range<usize>, random: &mut Random, lanes: &mut [RunningLane]) {
        let mut orders = orders.peekable();
        for turn in 0..3_000u64 {
            let takes = self.world.turn();
            self.clock.advance(1 + random.below(8) as i64 + takes);
            if random.below(8) == 0 {
                self.world.again().or_else(|| orders.next()).into_iter().for_each(|n| self.world.write(n));
            }
            let index = random.below(3) as usize;
            match random.below(400) {
                0 => {
                    lanes[index] = self.lane(index);
                    self.world.disk(&self.state.path().join(format!("lane{index}")));
                }
                1 if turn % 2 == 0 => self.broker.expire_dropped(),
                2 => {
                    let second = self.lane_in(index, "second");
                    self.world.second_process();
                    self.second = Some(std::mem::replace(&mut lanes[index], second));
                }
                3 | 4 => self.second = None,
                _ => {}
            }
            if let Some(second) = self.second.as_mut().filter(|lane| lane.runs()) {
                step(second, self.seed);
            }
            if !self.world.is_frozen(index) && (lanes[index].runs() || random.below(20) == 0) {
                step(&mut lanes[index], self.seed);
            }
        }
        orders.for_each(|n| self.world.write(n));
    }

    /// The last orders come while time passes, and what hides them must not look like silence.
    fn hidden_silence(&mut self, orders: Range<usize>, lanes: &mut [RunningLane]) {
        self.world.hides_silence();
        for n in orders {
            self.clock.advance(STRIDE);
            self.world.write(n);
            // Lanes that were not scheduled learn that their group has gone on without them.
            if n % 4 == 0 {
                self.clock.advance(3 * STRIDE);
            }
            for turn in 0..200 {
                self.clock.work(1);
                step(&mut lanes[turn % 2], self.seed);
            }
        }
        self.world.heal();
        self.settle(lanes);
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
            let position = committed.get(&TopicPartition::new("orders", p)).map_or(0, |c| c.offset);
            !self.broker.has_committed("orders", p, position)
        })
    }

    fn finish(self, lanes: Vec<RunningLane>) -> Outcome {
        for lane in lanes {
            lane.finish(Duration::from_secs(1)).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        }
        let written = self.broker.read_all_committed("orders");
        let order = |record: &CommittedRecord| {
            let n: usize = std::str::from_utf8(record.headers[0].1.as_deref().unwrap()).unwrap().parse().unwrap();
            Order { offset: record.offset, ..self.case.orders[n].clone() }
        };
        let case = Case { orders: written.iter().map(order).collect(), ..self.case.clone() };
        assert_eq!(case.orders.len(), self.case.orders.len(), "seed {}: each order is written once", self.seed);
        let stats = self.stats.iter().map(|s| s.snapshot()).collect();
        Outcome { broker: self.broker, stats, case, faults: BTreeMap::new(), troubles: self.world.happened }
    }
}

/// Commits are rare, and what can become of them is most of it.
fn faults_of_calls(seed: u64) -> Faults {
    let often = [Fault::InitFails, Fault::CommittedFails, Fault::CommitRefused, Fault::CommitRequestLost, Fault::CommitReplyLost];
    let faults = often.into_iter().fold(Faults::everything(seed, 40), |faults, fault| faults.with(fault, 400));
    faults.with(Fault::CommitLate, 400).with(Fault::AbortFails, 400)
}

/// One step of a lane, which may end and start again, but not stop.
fn step(lane: &mut RunningLane, seed: u64) {
    let stepped = lane.step(Duration::ZERO);
    assert!(stepped.is_ok(), "seed {seed}: a lane stopped for good: {stepped:?}");
}
