//! A partition follows the wall clock only where its silence is proven: what stops a lane from hearing (a frozen process, a
//! foreign open transaction, a leader that can't be reached, a clock that jumps) must not make rows late.

use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Clock, Outcome, Outgoing, Producer, Progress, TopicPartition};
use headwater_engine::lane::{Lane, LaneConfig, LaneEnd, Runtime};
use headwater_engine::operators::{Kind, Operators};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{plan, topics_to_create};
use headwater_engine::sim::{BrokerCatalog, MemoryBroker, MemoryClock, Settings};
use headwater_engine::stats::Stats;
use headwater_engine::yaml;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: silence
commit_interval: 20ms
sources:
  orders:
    topic: orders
    schema: { id: string, at: timestamp }
    time: { field: at, out_of_order: 0s, idle: 5s }
    key: id
steps:
  per_id: { from: orders, window: { tumbling: 1s, by: [id], compute: { n: count(*) }, lateness: 0s } }
sinks:
  counts: { from: per_id, topic: counts, key: id, create: { partitions: 1 } }
  late: { from: per_id.late, topic: late, create: { partitions: 1 } }
"#;

/// Wall time at which a run starts.
const START: i64 = 1_767_225_600_000;

struct Run {
    broker: MemoryBroker,
    clock: Arc<MemoryClock>,
    runtime: Runtime,
    lane: Lane,
    stats: Arc<Stats>,
}

impl Run {
    /// A lane that polls one record at a time, both partitions read to their ends, the first row of each at [`START`].
    fn new() -> Run {
        Run::of(PIPELINE)
    }

    fn of(text: &str) -> Run {
        let settings =
            Settings { session_timeout: i64::MAX / 4, transaction_timeout: i64::MAX / 4, leave_on_drop: true, ..Settings::default() };
        let clock = MemoryClock::at(START);
        let broker = MemoryBroker::with(clock.clone(), settings);
        broker.create_topic("orders", 2);
        let root = yaml::parse(text).unwrap();
        let pipeline = Pipeline::read(&root).0.unwrap();
        let operators = Operators(vec![Kind::of::<operator_window::Window>()]);
        let plan = Arc::new(plan(&pipeline, &root, &operators, &BrokerCatalog(&broker)).unwrap_or_else(|found| panic!("{found:#?}")));
        broker.create_topics(&topics_to_create(&plan)).unwrap();
        let runtime = Runtime::simulated(&plan, &broker, clock.clone());
        let (lane, stats) = (Run::lane(&runtime), runtime.stats.clone());
        let mut run = Run { broker, clock, runtime, lane, stats };
        run.put(0, START);
        run.put(1, START);
        run.turns(100);
        run
    }

    fn lane(runtime: &Runtime) -> Lane {
        Lane::start(runtime.clone(), LaneConfig { poll_rows: 1, ..LaneConfig::new("w", 0) }).unwrap()
    }

    /// The lane ends, and the worker starts another one.
    fn restart(&mut self) {
        self.lane = Run::lane(&self.runtime);
    }

    /// A row with this event time, stamped by its producer with the wall clock of the present.
    fn put(&self, partition: i32, at: i64) {
        let value = value(partition, at);
        self.broker.append("orders", partition, Some(id(partition).as_bytes()), Some(value.as_bytes()), Some(at), &[]).unwrap();
    }

    /// The lane works; hardly any time passes.
    fn turns(&mut self, turns: usize) {
        for _ in 0..turns {
            self.clock.advance(1);
            self.lane.step(Duration::ZERO).unwrap();
        }
    }

    /// Time passes while the lane works.
    fn pass(&mut self, millis: i64) {
        for _ in 0..millis / 100 {
            self.clock.advance(98);
            self.turns(2);
        }
    }

    fn late(&self) -> usize {
        self.broker.read_all_committed("late").len()
    }

    /// Windows that are closed, by partition of the source.
    fn closed(&self, partition: i32) -> usize {
        let wanted = format!("\"id\":\"{}\"", id(partition));
        let records = self.broker.read_all_committed("counts");
        records.iter().filter(|r| r.value.as_deref().is_some_and(|v| String::from_utf8_lossy(v).contains(&wanted))).count()
    }

    /// Why the time of a partition is held back.
    fn held(&self, partition: i32) -> Option<&'static str> {
        self.stats.snapshot().held.get(&TopicPartition::new("orders", partition)).map(|held| held.reason())
    }

    fn now(&self) -> i64 {
        self.clock.wall()
    }
}

/// A key that belongs into this partition.
fn id(partition: i32) -> String {
    let mut ids = (0..).map(|n| format!("k{n}"));
    ids.find(|id| headwater_formats::partition(id.as_bytes(), 2) == partition).unwrap()
}

fn value(partition: i32, at: i64) -> String {
    format!("{{\"id\":\"{}\",\"at\":{at}}}", id(partition))
}

/// A transaction of someone else with one row.
fn open_transaction(run: &Run, partition: i32, at: i64) -> Box<dyn Producer> {
    let mut foreign = run.broker.producer(Some("foreign")).unwrap();
    foreign.begin().unwrap();
    let (key, value) = (id(partition), value(partition, at));
    let topic: Arc<str> = "orders".into();
    let record = Outgoing {
        topic: &topic,
        partition,
        timestamp: Some(at),
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()),
        headers: &[],
        tag: None,
    };
    foreign.send(record).unwrap();
    foreign
}

fn commit(run: &Run, foreign: &mut dyn Producer) {
    let nobody = headwater_engine::broker::Membership { group: String::new(), generation: -1, member: String::new(), instance: None };
    foreign.commit(Vec::new(), nobody).unwrap();
    run.broker.settle();
    let ended = (0..10).map(|_| foreign.progress(Duration::ZERO)).find(|progress| matches!(progress, Progress::Done(_)));
    assert_eq!(ended, Some(Progress::Done(Outcome::Committed { tags: Vec::new() })));
}

#[test]
fn a_silent_partition_closes_its_windows() {
    let mut run = Run::new();
    run.pass(8_000);
    assert_eq!((run.closed(0), run.closed(1)), (1, 1));
    // A row that is older than the silence allows is late; one that is not is in time.
    run.put(1, START + 500);
    run.put(1, run.now() - 1_000);
    run.turns(100);
    assert_eq!(run.late(), 1);
}

#[test]
fn a_frozen_process_has_heard_nothing() {
    let mut run = Run::new();
    let before = run.now();
    run.clock.advance(9_000);
    for second in 1..9 {
        run.put(0, before + second * 1_000);
        run.put(1, before + second * 1_000);
    }
    run.turns(100);
    assert_eq!(run.late(), 0, "rows that came while the process was frozen");
    run.pass(8_000);
    assert_eq!((run.closed(0), run.closed(1)), (9, 9));
}

#[test]
fn rows_behind_a_foreign_open_transaction_are_not_late() {
    let mut run = Run::new();
    let at = run.now();
    let mut foreign = open_transaction(&run, 1, at);
    run.pass(10_000);
    assert_eq!((run.closed(0), run.held(0)), (1, None), "the other partition goes on");
    assert_eq!(run.held(1), Some("unread"));
    let asked = run.broker.questions();
    run.pass(60_000);
    let asked = run.broker.questions() - asked;
    assert!((50..=61).contains(&asked), "{asked} questions in a minute for what takes long");
    commit(&run, foreign.as_mut());
    run.turns(100);
    assert_eq!(run.late(), 0, "a row whose transaction was open for a minute");
}

#[test]
fn what_holds_time_back_is_shown_as_it_is_now() {
    let mut run = Run::new();
    let _foreign = open_transaction(&run, 1, run.now());
    run.pass(10_000);
    run.put(1, run.now());
    run.pass(2_000);
    let held = run.stats.snapshot().held.get(&TopicPartition::new("orders", 1)).map(ToString::to_string);
    assert!(held.as_ref().is_some_and(|held| held.contains("from offset 1 up to 3")), "{held:?}");
}

#[test]
fn a_key_in_another_partition_of_a_topic_that_grew_is_named_so() {
    let mut run = Run::new();
    run.broker.create_topic("orders", 3);
    // What was in partition 0 is in partition 1 now.
    let key = (0..).map(|n| format!("k{n}"));
    let key = key
        .into_iter()
        .find(|key| headwater_formats::partition(key.as_bytes(), 2) == 0 && headwater_formats::partition(key.as_bytes(), 3) == 1);
    let (key, at) = (key.unwrap(), run.now());
    run.broker
        .append("orders", 1, Some(key.as_bytes()), Some(format!("{{\"id\":\"{key}\",\"at\":{at}}}").as_bytes()), Some(at), &[])
        .unwrap();
    let ended = (0..10).find_map(|_| run.lane.step(Duration::ZERO).err());
    let Some(LaneEnd::Stop(why)) = ended else { panic!("{ended:?}") };
    assert!(why.starts_with("orders had 2 partitions when the worker started and has 3 now"), "{why}");
}

#[test]
fn a_wall_clock_that_jumps_ahead_carries_no_mark() {
    let mut run = Run::new();
    run.pass(6_000);
    run.clock.step_wall(3_600_000);
    run.pass(3_000);
    assert_eq!(run.held(1), Some("clock"));
    run.clock.step_wall(-3_600_000);
    run.put(1, run.now());
    run.turns(100);
    assert_eq!(run.late(), 0, "a row stamped after the clock was set right");
}

#[test]
fn a_lane_that_starts_after_a_jump_does_not_believe_the_clock() {
    let mut run = Run::new();
    run.pass(6_000);
    run.clock.step_wall(3_600_000);
    run.restart();
    run.pass(8_000);
    let held = run.held(1);
    run.clock.step_wall(-3_600_000);
    run.put(1, run.now());
    run.turns(100);
    assert_eq!((held, run.late()), (Some("clock"), 0), "a row stamped after the clock was set right");
}

#[test]
fn records_of_the_pipeline_itself_do_not_confirm_its_clock() {
    let mut run = Run::of(&PIPELINE.replace("    key: id\n", ""));
    run.pass(6_000);
    run.clock.step_wall(3_600_000);
    // It goes through a repartition topic, where this machine stamps it.
    run.put(0, run.now() - 3_600_000);
    run.pass(3_000);
    let held = run.held(1);
    run.clock.step_wall(-3_600_000);
    run.put(1, run.now());
    run.pass(1_000);
    assert_eq!((held, run.late()), (Some("clock"), 0), "a row stamped after the clock was set right");
}

#[test]
fn rows_are_not_from_the_future_because_the_clock_was_set_back() {
    let mut run = Run::new();
    run.clock.step_wall(-3_600_000);
    for partition in [0, 1] {
        run.put(partition, START + 1_000);
        run.put(partition, START + 3_000);
    }
    run.turns(100);
    assert_eq!((run.closed(0), run.closed(1)), (2, 2));
}

#[test]
fn a_wall_clock_that_was_set_back_is_named() {
    let mut run = Run::new();
    run.clock.step_wall(-3_600_000);
    run.pass(9_000);
    assert_eq!(run.held(1), Some("clock"));
    run.clock.step_wall(3_600_000);
    run.pass(2_000);
    assert_eq!((run.closed(1), run.held(1)), (1, None));
}

#[test]
fn a_wall_clock_that_jumps_back_and_is_set_right_goes_on() {
    let mut run = Run::new();
    run.clock.step_wall(-3_600_000);
    run.pass(8_000);
    assert_eq!(run.closed(1), 0, "it is an hour ago");
    run.clock.step_wall(3_600_000);
    run.pass(2_000);
    assert_eq!(run.closed(1), 1);
}

#[test]
fn a_leader_that_cannot_be_reached_is_not_silent() {
    let mut run = Run::new();
    run.broker.set_reachable("orders", 1, false);
    run.pass(2_000);
    run.put(1, run.now());
    run.pass(20_000);
    assert_eq!((run.closed(0), run.held(1)), (1, Some("no_answer")));
    run.broker.set_reachable("orders", 1, true);
    run.turns(100);
    assert_eq!(run.late(), 0, "a row that nobody could read for twenty seconds");
    run.pass(8_000);
    assert_eq!((run.closed(1), run.held(1)), (2, None), "silence counts again");
}
