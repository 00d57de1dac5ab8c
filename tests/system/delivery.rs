//! The ClickHouse sink against the real engine (libchdb behind our HTTP front), with lost answers, restarts and bad rows.
//! Each test has an engine of its own: some of them kill it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::*;
use headwater::sinks::clickhouse::*;
use headwater_devenv::{Lose, Protocol, Proxy};
use headwater_engine::broker::{SystemClock, TopicPartition};
use headwater_engine::delivery::{Answer, CLEAN, Deliver, Delivery, DeliveryError, Limits, Progress, Range, Settings, Target, contract};
use headwater_engine::sim::MemoryBroker;
use headwater_engine::sinks::Incoming;
use headwater_formats::encode_batch;
use tokio::runtime::Runtime;

use crate::environment::{HW, exclusive};

/// An engine of a test's own, while no one else uses the machine.
pub struct Front {
    _turn: std::sync::MutexGuard<'static, headwater_devenv::Ephemeral>,
    child: Option<Child>,
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Front {
    pub fn up() -> Front {
        // The shared environment fetches the engine's library and gives away a port.
        let turn = exclusive();
        let port = SocketAddr::from(([127, 0, 0, 1], turn.free_port().unwrap()));
        let mut front = Front { _turn: turn, child: None, dir: tempfile::tempdir().unwrap(), address: port };
        front.start();
        front
    }

    pub fn start(&mut self) {
        let library: PathBuf = headwater_devenv::cache_dir().join(format!("libchdb-{}", headwater_devenv::CHDB_VERSION)).join("libchdb.so");
        let mut command = Command::new(&*HW);
        command.args(["local", "clickhouse-front"]).arg(library).arg(self.dir.path().join("data")).arg(self.address.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("{}: {e}", *HW)));
        while std::net::TcpStream::connect(self.address).is_err() {
            assert!(self.child.as_mut().unwrap().try_wait().unwrap().is_none(), "the front has ended");
            std::thread::yield_now();
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn is_down(&self) -> bool {
        self.child.is_none()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn connection(&self) -> Connection {
        Connection::new(Config::new(format!("http://{}", self.address))).unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.kill();
    }
}

fn rows() -> Incoming {
    Incoming::added(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("amount", DataType::Int64, false)]))
}

pub async fn prepared(connection: &Connection, table: &Table) -> Inspection {
    ensure_table(connection, table, &rows(), &TableOptions::default()).await.unwrap();
    connection.execute(&format!("ALTER TABLE {} ADD CONSTRAINT positive CHECK amount >= 0", table.quoted())).await.unwrap();
    let inspection = inspect(connection, table, &rows()).await.unwrap();
    inspection.require(Guarantee::ExactlyOnce).unwrap();
    inspection
}

pub async fn found(connection: &Connection, table: &Table) -> Vec<contract::Found> {
    let rows = connection.rows(&format!("SELECT _partition, _offset, _row, id FROM {} ORDER BY ALL", table.quoted())).await.unwrap();
    let number = |row: &[String], at: usize| row[at].parse::<i64>().unwrap();
    rows.iter()
        .map(|r| contract::Found { partition: number(r, 0) as i32, offset: number(r, 1), row: number(r, 2) as i32, id: number(r, 3) })
        .collect()
}

pub fn outcome(target: &mut dyn Target) -> Progress {
    loop {
        match target.progress(Duration::from_millis(100)) {
            Progress::Working => {}
            progress => return progress,
        }
    }
}

#[test]
fn the_real_engine_passes_the_contract() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let (connection, table) = (front.connection(), Table::new("d", "contract"));
    let inspection = runtime.block_on(prepared(&connection, &table));
    assert!(inspection.reasons.is_empty(), "{:?}", inspection.reasons);
    println!("{inspection:?}");
    let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
    contract::all(&mut target, &mut || Ok(runtime.block_on(found(&connection, &table)))).unwrap();
    // Blocks of the largest size are one block each.
    let large = contract::block(101, 0, 0..1_000_000, None).unwrap();
    for _ in 0..2 {
        target.start(&large);
        assert_eq!(outcome(&mut target), Progress::Inserted);
    }
    target.ask(&Range::all("x".into(), 101));
    assert_eq!(outcome(&mut target), Progress::Answered(Answer::Counted { rows: 1_000_000, distinct: 1_000_000 }));
}

#[test]
fn the_gate_tells_what_holds_and_what_would_help() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let connection = front.connection();
    runtime.block_on(async {
        let run = async |sql: &str| connection.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let look = async |name: &str| inspect(&connection, &Table::new("d", name), &rows()).await;
        run("CREATE DATABASE d").await;
        let columns = "id Int64, amount Int64, _partition Int32, _offset Int64, _row Int32";
        run(&format!("CREATE TABLE d.plain ({columns}) ENGINE = MergeTree ORDER BY id")).await;
        let inspection = look("plain").await.unwrap();
        assert_eq!(inspection.guarantee, Guarantee::AtLeastOnce);
        let refused = inspection.require(Guarantee::ExactlyOnce).unwrap_err().to_string();
        println!("{refused}");
        inspection.require(Guarantee::AtLeastOnce).unwrap();
        // The fix that is named fixes it.
        run(&inspection.fixes[0]).await;
        assert_eq!(look("plain").await.unwrap().guarantee, Guarantee::ExactlyOnce);
        // Views.
        run("CREATE TABLE d.sums (id Int64) ENGINE = MergeTree ORDER BY id").await;
        run("CREATE MATERIALIZED VIEW d.`first view` TO d.sums AS SELECT id FROM d.plain").await;
        run("CREATE MATERIALIZED VIEW d.second ENGINE = MergeTree ORDER BY id AS SELECT id FROM d.sums").await;
        let inspection = look("plain").await.unwrap();
        assert_eq!((inspection.guarantee, inspection.fixes.len()), (Guarantee::AtLeastOnce, 2), "{inspection:?}");
        for fix in &inspection.fixes {
            run(fix).await;
        }
        assert_eq!(look("plain").await.unwrap().guarantee, Guarantee::ExactlyOnce);
        // Engines.
        run(&format!("CREATE TABLE d.replacing ({columns}) ENGINE = ReplacingMergeTree ORDER BY (_partition, _offset, _row)")).await;
        assert_eq!(look("replacing").await.unwrap().guarantee, Guarantee::EffectivelyOnce);
        run(&format!("CREATE TABLE d.memory ({columns}) ENGINE = Memory")).await;
        let inspection = look("memory").await.unwrap();
        assert_eq!(inspection.guarantee, Guarantee::AtLeastOnce);
        assert!(inspection.require(Guarantee::ExactlyOnce).unwrap_err().to_string().contains("engine Memory"));
        // Columns.
        run("CREATE TABLE d.wrong (id String, _partition Int32, _offset Int64, _row Int32, at DateTime DEFAULT now()) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 10000").await;
        let inspection = look("wrong").await.unwrap();
        assert_eq!(inspection.problems.len(), 2, "{inspection:?}");
        let refused = inspection.require(Guarantee::AtLeastOnce).unwrap_err().to_string();
        println!("{refused}");
        assert!(refused.contains("ADD COLUMN `amount` Int64") && refused.contains("use `Int64`"));
        assert!(inspection.reasons.iter().any(|reason| reason.contains("now()")));
        assert!(look("missing").await.unwrap_err().to_string().contains("does not exist"));
    });
}

#[test]
fn failures_are_told_apart() {
    let (runtime, mut front) = (Runtime::new().unwrap(), Front::up());
    let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), front.address, Protocol::Http).unwrap();
    let table = Table::new("d", "faults");
    let inspection = runtime.block_on(prepared(&front.connection(), &table));
    let config = Config { max_execution: Duration::from_secs(1), ..Config::new(format!("http://{}", proxy.address())) };
    let connection = Connection::new(config).unwrap();
    let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
    let mut insert = |partition: i32| {
        target.start(&contract::block(partition, 0, 0..10, None).unwrap());
        outcome(&mut target)
    };
    // Lost on the way there, lost on the way back: the outcome is unknown.
    proxy.lose_http("INSERT", Lose::Request, 1);
    assert!(matches!(insert(0), Progress::Unknown(_)));
    proxy.lose_http("INSERT", Lose::Response, 1);
    assert!(matches!(insert(1), Progress::Unknown(_)));
    let count = |partition: i32| runtime.block_on(found(&front.connection(), &table)).iter().filter(|f| f.partition == partition).count();
    assert_eq!((count(0), count(1)), (0, 10));
    assert_eq!((insert(0), insert(1)), (Progress::Inserted, Progress::Inserted));
    assert_eq!((count(0), count(1)), (10, 10));
    // No connection: certainly not.
    proxy.refuse().unwrap();
    // (The first attempt may still find a pooled connection whose end it has not noticed.)
    assert!(matches!(insert(2), Progress::Unavailable(_) | Progress::Unknown(_)));
    assert!(matches!(insert(2), Progress::Unavailable(_)));
    // Silence.
    proxy.blackhole().unwrap();
    assert!(matches!(insert(2), Progress::Unknown(why) if why.contains("within")));
    proxy.pass().unwrap();
    assert_eq!(insert(2), Progress::Inserted);
    // The table is gone.
    runtime.block_on(front.connection().execute("RENAME TABLE d.faults TO d.elsewhere")).unwrap();
    assert!(matches!(insert(3), Progress::Unknown(why) if why.contains("UNKNOWN_TABLE")));
    runtime.block_on(front.connection().execute("RENAME TABLE d.elsewhere TO d.faults")).unwrap();
    assert_eq!(insert(3), Progress::Inserted);
    front.kill();
    assert!(!matches!(insert(4), Progress::Inserted | Progress::Refused { .. }));
    front.start();
    assert_eq!(insert(4), Progress::Inserted);
    assert_eq!(runtime.block_on(found(&front.connection(), &table)).len(), 50);
}

#[test]
fn tables_are_created_as_their_file_says() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let connection = front.connection();
    let dir = tempfile::tempdir().unwrap();
    let text = "-- rows and their sums\nCREATE DATABASE IF NOT EXISTS sums;\n\
        CREATE TABLE d.orders (id Int64, amount Int64, note String DEFAULT 'x; y', _partition Int32, _offset Int64, _row Int32)\n\
        ENGINE = MergeTree PARTITION BY id % 2 ORDER BY id SETTINGS non_replicated_deduplication_window = 500;\n\
        CREATE TABLE sums.orders (id Int64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 500;\n\
        CREATE DICTIONARY d.names (id UInt64) PRIMARY KEY id SOURCE(NULL()) LAYOUT(FLAT()) LIFETIME(0);\n\
        CREATE MATERIALIZED VIEW d.summing TO sums.orders AS SELECT id FROM d.orders;\n";
    std::fs::write(dir.path().join("orders.sql"), text).unwrap();
    let tables = tables_in(dir.path()).unwrap();
    let created = tables.get("d.orders").unwrap();
    runtime.block_on(async {
        // Again, it changes nothing, and what is missing comes back.
        for _ in 0..2 {
            run_file(&connection, created).await.unwrap();
            let inspection = inspect(&connection, &created.table, &rows()).await.unwrap();
            inspection.require(Guarantee::ExactlyOnce).unwrap();
            assert_eq!((inspection.window, inspection.views), (500, 1), "{inspection:?}");
            let key =
                connection.rows("SELECT partition_key, sorting_key FROM system.tables WHERE database = 'd' AND name = 'orders'").await;
            assert_eq!(key.unwrap(), [["id % 2", "id"]]);
            connection.execute("DROP TABLE d.summing").await.unwrap();
        }
    });
    std::fs::write(dir.path().join("orders.sql"), format!("{text}DROP TABLE d.x;")).unwrap();
    let refused = runtime.block_on(run_file(&connection, tables_in(dir.path()).unwrap().get("d.orders").unwrap())).unwrap_err().to_string();
    assert!(refused.contains("DROP TABLE d.x") && refused.contains("orders.sql"), "{refused}");
}

/// Delivers 200 records of each of two partitions while requests and answers are lost, connections are cut, the server is killed (in
/// rounds before `kills_before`), and deliveries end in the middle. Returns how many deliveries that took.
pub fn deliver_under_faults(
    front: &mut Front,
    proxy: &Proxy,
    broker: &MemoryBroker,
    kills_before: usize,
    lane: impl Fn() -> Delivery,
) -> usize {
    let settled = || {
        let positions = broker.group_offsets("g");
        (0..2).all(|p| positions.get(&TopicPartition::new("outbox", p)).is_some_and(|c| c.offset == 200 && c.metadata == CLEAN))
    };
    let mut rounds = 0;
    while !settled() {
        rounds += 1;
        match rounds % 4 {
            0 if rounds < kills_before => front.kill(),
            1 => proxy.lose_http("INSERT", Lose::Response, 2),
            2 => proxy.lose_http("INSERT", Lose::Request, 1),
            _ => proxy.cut_after(headwater_devenv::Direction::ToServer, 3_000),
        }
        let mut lane = lane();
        let steps = if rounds > 30 { 100_000 } else { 25 + rounds * 3 };
        for _ in 0..steps {
            lane.step(Duration::from_millis(5)).unwrap();
            if front.is_down() && lane.counters().last_error().is_some() {
                front.start();
            }
            if settled() {
                break;
            }
        }
        drop(lane);
        if front.is_down() {
            front.start();
        }
    }
    rounds
}

/// Delivers from an in-memory log; several lanes one after the other, each ended in the middle.
#[test]
fn delivery_is_exact_under_lost_answers_restarts_and_bad_rows() {
    let (runtime, mut front) = (Runtime::new().unwrap(), Front::up());
    let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), front.address, Protocol::Http).unwrap();
    let table = Table::new("d", "exact");
    let inspection = runtime.block_on(prepared(&front.connection(), &table));
    runtime.block_on(async {
        let direct = front.connection();
        direct
            .execute("CREATE TABLE d.sums (id Int64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 10000")
            .await
            .unwrap();
        direct.execute("CREATE MATERIALIZED VIEW d.summing TO d.sums AS SELECT id FROM d.exact").await.unwrap();
    });
    let connection = Connection::new(Config::new(format!("http://{}", proxy.address()))).unwrap();
    let broker = MemoryBroker::realtime();
    broker.create_topic("outbox", 2);
    broker.create_topic("outbox.dlq", 1);
    let (mut id, mut bad) = (0i64, 0);
    for n in 0..400 {
        let count = 1 + n % 50;
        let ids: Vec<i64> = (id..id + count).collect();
        let amounts: Vec<i64> = ids.iter().map(|id| if id % 997 == 0 { -1 } else { *id }).collect();
        bad += amounts.iter().filter(|a| **a < 0).count();
        let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(Int64Array::from(ids))), ("amount", Arc::new(Int64Array::from(amounts)))];
        let value = encode_batch(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        broker.append("outbox", (n % 2) as i32, None, Some(&value), None, &[]).unwrap();
        id += count;
    }
    let mut settings = Settings::new("p", "s", "outbox", "g", "lane");
    settings.dead_letters = Some("outbox.dlq".into());
    settings.limits = Limits { rows: 200, bytes: 1 << 20, flush: 5 };
    settings.backoff = (10, 100);
    let lane = || {
        let target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
        Delivery::new(Arc::new(broker.clone()), Arc::new(SystemClock::default()), Box::new(target), settings.clone()).unwrap()
    };
    let rounds = deliver_under_faults(&mut front, &proxy, &broker, 20, lane);
    let rows = runtime.block_on(found(&front.connection(), &table));
    let mut ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..id).filter(|id| id % 997 != 0).collect::<Vec<_>>(), "{rounds} rounds");
    let sums = runtime.block_on(front.connection().rows("SELECT count(), uniqExact(id) FROM d.sums")).unwrap();
    assert_eq!(sums[0], [ids.len().to_string(), ids.len().to_string()]);
    assert_eq!(broker.read_all_committed("outbox.dlq").len(), bad);
    println!("{rounds} rounds, {} rows, {bad} bad, {} faults", ids.len(), proxy.lost());
}

#[test]
fn a_view_that_refuses_stops_delivery() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let (connection, table) = (front.connection(), Table::new("d", "viewed"));
    let inspection = runtime.block_on(prepared(&connection, &table));
    runtime.block_on(async {
        connection
            .execute("CREATE TABLE d.behind (id Int64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 10000")
            .await
            .unwrap();
        connection
            .execute("CREATE MATERIALIZED VIEW d.view TO d.behind AS SELECT id + throwIf(id = 3, 'no threes') AS id FROM d.viewed")
            .await
            .unwrap();
    });
    let broker = MemoryBroker::realtime();
    broker.create_topic("outbox", 1);
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(Int64Array::from(vec![1, 2, 3]))), ("amount", Arc::new(Int64Array::from(vec![1, 2, 3])))];
    let value = encode_batch(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    broker.append("outbox", 0, None, Some(&value), None, &[]).unwrap();
    let mut settings = Settings::new("p", "s", "outbox", "g", "lane");
    settings.limits.flush = 1;
    let run = || {
        let target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
        let mut lane =
            Delivery::new(Arc::new(broker.clone()), Arc::new(SystemClock::default()), Box::new(target), settings.clone()).unwrap();
        let (counters, stop) = (lane.counters(), Arc::new(AtomicBool::new(false)));
        let watch = stop.clone();
        let watcher = std::thread::spawn(move || {
            while counters.rows() < 3 && !watch.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            watch.store(true, Ordering::Relaxed);
        });
        let result = lane.run(&stop);
        stop.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        result
    };
    match run() {
        Err(DeliveryError::Refused { why, .. }) => assert!(why.contains("materialized view") && why.contains("no threes"), "{why}"),
        other => panic!("{other:?}: {:?}", runtime.block_on(found(&connection, &table))),
    }
    // Once the view is corrected, the same block completes both tables.
    runtime.block_on(async {
        connection.execute("DROP TABLE d.view").await.unwrap();
        connection.execute("CREATE MATERIALIZED VIEW d.view TO d.behind AS SELECT id FROM d.viewed").await.unwrap();
    });
    run().unwrap();
    let count = |sql: &str| runtime.block_on(connection.rows(sql)).unwrap()[0][0].clone();
    assert_eq!(count("SELECT count() FROM d.viewed"), "3");
    println!("behind the view: {}", count("SELECT count() FROM d.behind"));
}
