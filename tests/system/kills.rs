//! Workers that are killed, at random instants and at every named step of the protocol, and workers that are frozen for longer than
//! their session and `idle` last, while others take over. The committed output, of windows, sessions, a `dedup` and a `join`, must equal
//! what the oracle computes from the input, to the row, in Kafka, in ClickHouse and in PostgreSQL.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use headwater_devenv::Ephemeral;

use crate::environment::{HW, clickhouse, configured, exclusive, fresh, oracle, postgres, wait_until, wait_while_it_moves};
use crate::log::read;
use crate::worker::{Worker, pipeline};

/// Every named step of the lane's and the delivery's protocol.
const FAILPOINTS: [&str; 15] = [
    "lane-sealed",
    "after-produce",
    "after-send-offsets",
    "before-commit",
    "after-commit",
    "lane-committed",
    "lane-applied",
    "delivery-intent",
    "delivery-inserting",
    "delivery-inserted",
    "delivery-committed",
    "delivery-writing",
    "delivery-written",
    "delivery-shown",
    "delivery-lettered",
];

/// One in so many kills is a freeze.
const FREEZE_EVERY: usize = 10;

/// `HW_KILLS` random kills and freezes (20 by default, and thousands in the long form, see CONTRIBUTING.md).
fn kills() -> usize {
    std::env::var("HW_KILLS").map_or(20, |n| n.parse().expect("HW_KILLS is a number"))
}

fn generator(environment: &Ephemeral, seed: u64, events: usize, rate: usize) -> Child {
    let mut command = Command::new(&*HW);
    configured(command.arg("generate"), environment);
    command.args(["--quiet", "--partitions", "6"]);
    command.args(["--products", "200", "--customers", "500", "--late", "0.01", "--duplicates", "0.002", "--v2-share", "0.3"]);
    // An event every five milliseconds of event time, so that windows close all the while.
    command.args(["--seed", &seed.to_string(), "--events", &events.to_string(), "--rate", &rate.to_string(), "--event-rate", "200"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the generator starts")
}

/// Random instants, the same for every run of a seed.
pub struct Instants(pub u64);

impl Instants {
    /// Does nothing for a while, milliseconds.
    pub fn wait(&mut self, from: u64, to: u64) {
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(self.next(from, to));
    }

    fn next(&mut self, from: u64, to: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(from + (self.0 >> 33) % (to - from))
    }
}

/// The same rows in PostgreSQL, added and by key; a table that refuses some of them, which become dead letters.
const POSTGRES: &str = "  \
  inserts: { from: per_minute, postgres: NAME.inserts, flush_interval: 200ms, block_rows: 500 }
  upserts: { from: per_minute, postgres: NAME.upserts, mode: upsert, key: [product_id], flush_interval: 200ms }
  picky: { from: per_minute, postgres: NAME.picky, flush_interval: 200ms, block_rows: 500 }
";

/// A second source, and steps with state of each other kind: what they mean is in `tests/oracle/steps.py`.
const SOURCE: &str =
    "  payments: { topic: business.payments.completed, format: avro, event: envelope, key: data.orderId, time: { field: timestamp, \
                      out_of_order: 5s, idle: 5s } }
";
const STEPS: &str = "
  sent: { from: orders, filter: data.total > 0 AND data.currency IS NOT NULL }
  all: { from: sent, map: { select: { order_id: data.orderId } } }
  sevens: { from: lines, filter: product_id LIKE '%7' }
  bursts:
    from: sevens
    window:
      session: { gap: 1s }
      by: [product_id]
      compute: { lines: count(*), orders: count(DISTINCT order_id), quantity: sum(quantity) }
  once: { from: all, dedup: { by: order_id, within: 5m, lateness: 30s } }
  receipts: { from: payments, map: { select: { order_id: data.orderId, payment_id: data.paymentId } } }
  paid:
    from: { left: all, right: receipts }
    join:
      kind: left
      on: order_id
      within: { before: 1s, after: 5s }
      select: { order_id: left.order_id, payment_id: right.payment_id }
";
const SINKS: &str = "  \
  bursts: { from: bursts, topic: analytics.NAME.bursts, key: product_id, create: { partitions: 6 } }
  late_lines_of_bursts: { from: bursts.late, topic: analytics.NAME.late-lines-of-bursts, key: product_id, create: { partitions: 6 } }
  once: { from: once, topic: analytics.NAME.once, key: order_id, create: { partitions: 6 } }
  repeats: { from: once.duplicates, topic: analytics.NAME.repeats, key: order_id, create: { partitions: 6 } }
  late_orders: { from: once.late, topic: analytics.NAME.late-orders, key: order_id, create: { partitions: 6 } }
  paid: { from: paid, topic: analytics.NAME.paid, key: order_id, create: { partitions: 6 } }
  late_pairs: { from: paid.late, topic: analytics.NAME.late-pairs, create: { partitions: 6 } }
";

/// Adds them to a pipeline.
fn add_steps(file: &std::path::Path, name: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.replacen("sources:\n", &format!("sources:\n{SOURCE}"), 1);
    let text = text.replacen("\nsinks:\n", &format!("{STEPS}\nsinks:\n{SINKS}").replace("NAME", name), 1);
    std::fs::write(file, text).unwrap();
}

/// Rows of a minute in PostgreSQL, as ClickHouse shows them; `\N` stands for NULL.
fn in_postgres(environment: &Ephemeral, table: &str) -> Result<Vec<String>, String> {
    let time = |column: &str| format!("(extract(epoch FROM {column}) * 1000)::bigint");
    let (start, end) = (time("window_start"), time("window_end"));
    let columns = format!("{start}, {end}, product_id, coalesce(category, '\\N'), orders, quantity, trim_scale(revenue)");
    sorted(&postgres(environment, &format!("SELECT {columns} FROM {table}"))?)
}

fn in_clickhouse(environment: &Ephemeral, table: &str) -> Result<Vec<String>, String> {
    let time = |column: &str| format!("toUnixTimestamp64Milli(toDateTime64({column}, 3, 'UTC'))");
    let (start, end) = (time("window_start"), time("window_end"));
    let columns = format!("{start}, {end}, product_id, category, orders, quantity, toString(revenue)");
    sorted(&clickhouse(environment, &format!("SELECT {columns} FROM {table}"))?)
}

fn sorted(text: &str) -> Result<Vec<String>, String> {
    let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
    rows.sort();
    Ok(rows)
}

/// What is in PostgreSQL equals what is in ClickHouse, which equals what the oracle says.
fn postgres_agrees(environment: &Ephemeral, name: &str) {
    let expected = in_clickhouse(environment, &format!("{name}.revenue_per_minute")).unwrap();
    wait_while_it_moves("the rows in PostgreSQL", Duration::from_secs(60), || {
        let found = in_postgres(environment, &format!("{name}.inserts"))?;
        if found == expected { Ok(()) } else { Err(format!("{} rows instead of {}", found.len(), expected.len())) }
    });
    let keys = format!("SELECT count(DISTINCT product_id) FROM {name}.inserts");
    let keys = postgres(environment, &keys).unwrap();
    assert_eq!(postgres(environment, &format!("SELECT count(*) FROM {name}.upserts")).unwrap(), keys);
    let strangers = format!("SELECT count(*) FROM {name}.upserts u WHERE NOT EXISTS (SELECT FROM {name}.inserts i WHERE i = u)");
    assert_eq!(postgres(environment, &strangers).as_deref(), Ok("0"), "an upserted row is one of the rows");
    // What the picky table does not have is a dead letter, once.
    let refused: Vec<String> = expected.iter().filter(|row| row.split('\t').nth(2).is_some_and(|id| id.ends_with('7'))).cloned().collect();
    let held: Vec<String> = expected.iter().filter(|row| !refused.contains(row)).cloned().collect();
    wait_while_it_moves("the rows in the picky table", Duration::from_secs(60), || {
        let (found, letters) =
            (in_postgres(environment, &format!("{name}.picky"))?, read(environment, &format!("hw.{name}.picky.dlq")).len());
        let said = format!("{} rows and {letters} letters instead of {} and {}", found.len(), held.len(), refused.len());
        if found == held && letters == refused.len() { Ok(()) } else { Err(said) }
    });
    assert!(!refused.is_empty(), "the picky table has refused rows");
}

/// Compares everything that was written with what the oracle computes from the input. `steps`: the added steps, too, and the
/// sources are silent for longer than `idle`, so that everything is out.
fn agrees(environment: &Ephemeral, name: &str, steps: bool) {
    let mut topics: Vec<(&str, &str)> = vec![("revenue", "revenue-per-minute"), ("high_value", "high-value"), ("late", "late-lines")];
    if steps {
        topics.extend([("bursts", "bursts"), ("late_lines_of_bursts", "late-lines-of-bursts"), ("once", "once"), ("repeats", "repeats")]);
        topics.extend([("late_orders", "late-orders"), ("paid", "paid"), ("late_pairs", "late-pairs")]);
    }
    let topics: Vec<String> = topics.iter().map(|(topic, path)| format!(r#""{topic}":"analytics.{name}.{path}""#)).collect();
    let topics = format!("{{{}}}", topics.join(","));
    let table = format!("{name}.revenue_per_minute");
    let mut arguments = vec![
        "order-analytics",
        "--bootstrap",
        &environment.bootstrap,
        "--registry",
        environment.registry.as_deref().unwrap_or_default(),
        "--clickhouse",
        environment.clickhouse.as_deref().unwrap_or_default(),
        "--table",
        &table,
        "--topics-json",
        &topics,
        "--wait",
        "300",
    ];
    if steps {
        arguments.extend(["--all-closed", "--steps"]);
    }
    let text = oracle(&arguments);
    println!("{text}");
}

fn order_analytics(dir: &std::path::Path, name: &str, idle: &str) -> std::path::PathBuf {
    pipeline(
        dir,
        "order-analytics",
        &[
            ("name: order-analytics", &format!("name: {name}")),
            ("out_of_order: 5s", &format!("out_of_order: 5s, idle: {idle}")),
            ("topic: analytics.orders.", &format!("topic: analytics.{name}.")),
            ("clickhouse: analytics.", &format!("clickhouse: {name}.")),
            ("sinks:\n", &format!("sinks:\n{POSTGRES}").replace("NAME", name)),
        ],
    )
}

#[test]
fn killed_workers_change_nothing() {
    let (_turn, environment) = (exclusive(), fresh());
    let dir = tempfile::tempdir().unwrap();
    let file = order_analytics(dir.path(), "killed", "5s");
    add_steps(&file, "killed");
    let mut load = generator(&environment, 1, 10_000_000, 1_500);
    wait_until("the tables", Duration::from_secs(60), || {
        let topics = std::process::Command::new("kcat")
            .args(["-b", &environment.bootstrap, "-L"])
            .output()
            .map_err(|e| format!("install kcat: {e}"))?;
        let text = String::from_utf8_lossy(&topics.stdout).into_owned();
        let made = ["business.orders.created", "business.payments.completed"].iter().all(|topic| text.contains(topic));
        if made { Ok(()) } else { Err("the topics are not made yet".into()) }
    });
    let picky = "CREATE SCHEMA killed; CREATE TABLE killed.picky (window_start timestamptz, window_end timestamptz, product_id text, \
                 category text, orders bigint, quantity bigint, revenue numeric, CHECK (right(product_id, 1) <> '7'))";
    postgres(&environment, picky).unwrap();
    let mut workers: Vec<Option<Worker>> = (0..2).map(|slot| Some(Worker::start(&environment, &file, dir.path(), slot, None))).collect();
    let mut instants = Instants(7);
    // Every named step once; the worker beside takes over in the meantime.
    for (n, point) in FAILPOINTS.iter().enumerate() {
        let slot = n % 2;
        if let Some(worker) = workers[slot].take() {
            worker.kill();
        }
        let mut doomed = Worker::start(&environment, &file, dir.path(), slot, Some(&format!("{point}:1:kill")));
        // Alone it owns every partition, so that it comes past every step.
        if let Some(worker) = workers[1 - slot].take() {
            worker.kill();
        }
        let ended = doomed.wait(Duration::from_secs(240));
        assert!(ended.is_some(), "the worker never came past `{point}` three times:\n{}", doomed.log_tail());
        for (slot, worker) in workers.iter_mut().enumerate() {
            *worker = Some(Worker::start(&environment, &file, dir.path(), slot, None));
        }
    }
    for n in 0..kills() {
        instants.wait(200, 4_000);
        let slot = n % 2;
        if n % FREEZE_EVERY == FREEZE_EVERY / 2 {
            if let Some(worker) = &workers[slot] {
                worker.freeze();
                instants.wait(5_000, 14_000);
                worker.thaw();
            }
            continue;
        }
        if let Some(worker) = workers[slot].take() {
            worker.kill();
        }
        workers[slot] = Some(Worker::start(&environment, &file, dir.path(), slot, None));
    }
    // The load lasted as long as there was something to kill; whatever it wrote by now is the input.
    assert!(load.try_wait().expect("the generator runs").is_none(), "the load ended too early");
    load.kill().expect("a process of ours");
    load.wait().expect("a process of ours");
    if let Err(difference) = std::panic::catch_unwind(|| agrees(&environment, "killed", true)) {
        workers.iter().flatten().for_each(|worker| eprintln!("{}\n", worker.log_tail()));
        std::panic::resume_unwind(difference);
    }
    let positions =
        clickhouse(&environment, "SELECT count() = uniqExact(_partition, _offset, _row) AND count() > 0 FROM killed.revenue_per_minute");
    assert_eq!(positions.as_deref(), Ok("1"), "every row of the table stands for one position");
    postgres_agrees(&environment, "killed");
    for worker in workers.into_iter().flatten() {
        let status = worker.stop();
        assert!(status.success(), "SIGTERM ends cleanly, not with {status}");
    }
}

/// `HW_EVENTS=2000000` is the long form. The whole backlog at once through the repartition: not one row that was in time is late (Kafka Streams loses some
/// here, for its repartition topics carry no time of their source partitions).
#[test]
fn a_catch_up_drops_no_row_that_was_in_time() {
    let (_turn, environment) = (exclusive(), fresh());
    let dir = tempfile::tempdir().unwrap();
    let events = std::env::var("HW_EVENTS").map_or(60_000, |n| n.parse().expect("HW_EVENTS is a number"));
    let load = generator(&environment, 2, events, 1_000_000).wait().expect("the generator ran");
    assert!(load.success(), "the generator failed");
    let file = order_analytics(dir.path(), "caughtup", "never");
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    agrees(&environment, "caughtup", false);
    assert!(worker.stop().success());
}
