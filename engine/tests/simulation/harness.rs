//! A pipeline, its input and a schedule of steps, faults and crashes, all from one seed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock, TopicPartition};
use headwater_engine::lane::{LaneConfig, Runtime, Stepped};
use headwater_engine::operators::{Kind, Operators};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Plan, plan, topics_to_create};
use headwater_engine::sim::{BrokerCatalog, CommittedRecord, Fault, Faults, MemoryBroker, MemoryClock};
use headwater_engine::stats::{Snapshot, Stats};
use headwater_engine::yaml;

use crate::case::{Case, Order, PARTITIONS, Random, SILENT_AT, TRAILS};
use crate::deliveries::Deliveries;
use crate::elsewhere::sinks;
use crate::process::Process;
use crate::remind::Remind;
use crate::world::{Trouble, World};

/// Steps of the clock in a silence: shorter than the session timeout.
const STRIDE: i64 = 5_000;
/// Orders of each half that come in the silence behind it.
const LAST: usize = 8;

pub const PIPELINE: &str = over_orders!(
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

/// What came out.
pub struct Outcome {
    pub broker: MemoryBroker,
    pub stats: Vec<Snapshot>,
    /// The orders as they are in the log, by partition and offset.
    pub case: Case,
    pub faults: BTreeMap<Fault, u64>,
    pub troubles: BTreeMap<Trouble, u64>,
    pub deliveries: Deliveries,
}

pub struct Run<'a> {
    case: &'a Case,
    seed: u64,
    broker: MemoryBroker,
    clock: Arc<MemoryClock>,
    plan: Arc<Plan>,
    state: tempfile::TempDir,
    stats: Vec<Arc<Stats>>,
    pub world: World<'a>,
    /// A second process with the transactional ids of a lane that runs.
    second: Option<Process>,
    deliveries: Deliveries,
}

pub fn operators() -> Operators {
    Operators(vec![
        Kind::of::<operator_filter::Filter>(),
        Kind::of::<operator_enrich::Enrich>(),
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

/// Plans a pipeline over the topics that are there.
pub fn planned(broker: &MemoryBroker, text: &str) -> Plan {
    let root = yaml::parse(text).unwrap();
    let pipeline = Pipeline::read_with(&root, &sinks()).0.unwrap();
    plan(&pipeline, &root, &operators(), &BrokerCatalog(broker)).unwrap_or_else(|found| panic!("{found:#?}"))
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
        Run::with(case, seed, text, |_| {})
    }

    /// One that reads topics beside those of the case.
    pub fn with(case: &'a Case, seed: u64, text: &str, create: impl FnOnce(&MemoryBroker)) -> Run<'a> {
        let broker = MemoryBroker::seeded(seed);
        let clock = broker.clock().expect("a simulated broker has a virtual clock");
        case.topics.iter().for_each(|topic| broker.create_topic(topic, PARTITIONS));
        create(&broker);
        let plan = planned(&broker, text);
        broker.create_topics(&topics_to_create(&plan)).unwrap();
        let world = World::new(case, &broker, &plan, seed);
        let (state, deliveries) = (tempfile::tempdir().unwrap(), Deliveries::new(&plan, &broker));
        Run { case, seed, broker, clock, plan: Arc::new(plan), state, stats: Vec::new(), world, second: None, deliveries }
    }

    pub fn broker(&self) -> &MemoryBroker {
        &self.broker
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Lets time pass.
    pub fn pass(&self, millis: i64) {
        self.clock.advance(millis);
    }

    /// A lane of a worker of its own, not started.
    fn lane(&mut self, index: usize) -> Process {
        self.lane_in(index, &format!("lane{index}"))
    }

    fn lane_in(&mut self, index: usize, dir: &str) -> Process {
        self.lane_of(self.plan.clone(), index, dir)
    }

    /// One that runs this plan.
    pub fn lane_of(&mut self, plan: Arc<Plan>, index: usize, dir: &str) -> Process {
        let runtime = runtime(&plan, &self.broker);
        self.stats.push(runtime.stats.clone());
        let state_dir: Option<PathBuf> = (!self.seed.is_multiple_of(3)).then(|| self.state.path().join(dir));
        let config = LaneConfig { state_dir, epoch_rows: 20 + self.seed % 50, ..LaneConfig::new("w", index) };
        Process::new(runtime, config)
    }

    /// The orders of one half.
    pub fn half(&self, half: usize) -> Range<usize> {
        let before = self.case.orders.iter().filter(|order| order.half < half).count();
        before..before + self.case.orders.iter().filter(|order| order.half == half).count()
    }

    /// Two lanes, everything goes well.
    pub fn undisturbed(mut self) -> Outcome {
        let mut lanes: Vec<Process> = (0..2).map(|i| self.lane(i)).collect();
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
        let mut lanes: Vec<Process> = (0..3).map(|i| self.lane(i)).collect();
        for (half, until) in SILENT_AT.into_iter().enumerate() {
            let orders = self.half(half);
            let last = orders.end - LAST;
            self.broker.set_faults(faults_of_calls(self.seed + half as u64));
            self.deliveries.disturb(self.seed + half as u64);
            self.trouble(orders.start..last, &mut random, &mut lanes);
            self.broker.faults_happened().into_iter().for_each(|(fault, count)| *faults.entry(fault).or_default() += count);
            // Everything heals: from here on, progress is owed.
            self.broker.set_faults(Faults::none());
            self.world.heal();
            self.deliveries.heal();
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
    fn trouble(&mut self, orders: Range<usize>, random: &mut Random, lanes: &mut [Process]) {
        let mut orders = orders.peekable();
        for turn in 0..3_000u64 {
            let takes = self.world.turn();
            self.clock.advance(1 + random.below(8) as i64 + takes);
            if random.below(8) == 0 {
                self.world.again().or_else(|| orders.next()).into_iter().for_each(|n| self.world.write(n));
            }
            self.deliveries.trouble(random);
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

    /// The last orders come, and some can't be read for longer than a silence takes: that must not look like one.
    fn hidden_silence(&mut self, orders: Range<usize>, lanes: &mut [Process]) {
        self.world.hides_silence();
        orders.for_each(|n| self.world.write(n));
        let mut strides = 1 + (TRAILS + 10_000) / STRIDE;
        if self.seed % 2 == 1 {
            // Processes that were not scheduled have heard nothing.
            self.clock.advance(TRAILS);
            strides = 2;
        }
        for _ in 0..strides {
            self.clock.advance(STRIDE);
            for turn in 0..100 {
                self.clock.work(1);
                step(&mut lanes[turn % 2], self.seed);
            }
        }
        self.world.heal();
        self.settle(lanes);
    }

    /// Nothing is written until the wall clock shows `until`.
    pub fn silence(&mut self, lanes: &mut [Process], until: i64) {
        let left = until - self.clock.wall();
        assert!(left > 2 * TRAILS, "seed {}: the work left no time for a silent partition: {left}", self.seed);
        while self.clock.wall() < until {
            self.clock.advance(STRIDE.min(until - self.clock.wall()));
            self.work(lanes, 20);
        }
        self.work(lanes, 500);
    }

    /// Steps until every source record is committed and nothing makes progress any more.
    pub fn settle(&mut self, lanes: &mut [Process]) {
        for _ in 0..20 {
            self.work(lanes, 500);
            if self.is_done() {
                return;
            }
        }
        panic!("seed {}: no progress after healing: {:?}", self.seed, self.broker.group_offsets("hw.simulated"));
    }

    /// Steps until nothing has happened for so many turns. That takes time for intervals only: no source gets silent by it.
    fn work(&mut self, lanes: &mut [Process], turns: usize) {
        let mut quiet = 0;
        for turn in 0..30_000 {
            self.clock.work(1);
            let mut busy = self.deliveries.step();
            for lane in lanes.iter_mut() {
                match lane.step() {
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
        let behind: Vec<String> = self.deliveries.behind().collect();
        panic!("seed {}: something is done all the time. Not delivered: {behind:?}", self.seed);
    }

    fn is_done(&self) -> bool {
        let committed = self.broker.group_offsets("hw.simulated");
        let is_read = |topic: &str, p: i32| {
            let position = committed.get(&TopicPartition::new(topic, p)).map_or(0, |c| c.offset);
            !self.broker.has_committed(topic, p, position)
        };
        self.case.topics.iter().all(|topic| (0..PARTITIONS).all(|p| is_read(topic, p)))
    }

    /// The orders as they are in the log.
    pub fn input(&self) -> Case {
        let order = |record: &CommittedRecord| {
            let n: usize = std::str::from_utf8(record.headers[0].1.as_deref().unwrap()).unwrap().parse().unwrap();
            Order { offset: record.offset, ..self.case.orders[n].clone() }
        };
        let records = |topic: &&'static str| self.broker.read_all_committed(topic);
        let orders = self.case.topics.iter().flat_map(records).map(|record| order(&record)).collect();
        Case { orders, ..self.case.clone() }
    }

    pub fn finish(self, lanes: Vec<Process>) -> Outcome {
        for lane in lanes {
            lane.finish(Duration::from_secs(1)).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        }
        let case = self.input();
        assert_eq!(case.orders.len(), self.case.orders.len(), "seed {}: each order is written once", self.seed);
        let stats = self.stats.iter().map(|s| s.snapshot()).collect();
        let Run { broker, world, deliveries, .. } = self;
        Outcome { broker, stats, case, faults: BTreeMap::new(), troubles: world.happened, deliveries }
    }
}

/// Commits are rare, and what can become of them is most of it.
pub fn faults_of_calls(seed: u64) -> Faults {
    let often = [Fault::InitFails, Fault::CommittedFails, Fault::CommitRefused, Fault::CommitRequestLost, Fault::CommitReplyLost];
    let faults = often.into_iter().fold(Faults::everything(seed, 40), |faults, fault| faults.with(fault, 400));
    faults.with(Fault::CommitLate, 400).with(Fault::AbortFails, 400)
}

/// One step of a lane, which may end and start again, but not stop.
fn step(lane: &mut Process, seed: u64) {
    let stepped = lane.step();
    assert!(stepped.is_ok(), "seed {seed}: a lane stopped for good: {stepped:?}");
}
