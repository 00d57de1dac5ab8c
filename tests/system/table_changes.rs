//! Streams of changes into tables of real stores: the contract, lost replies and restarts, tables that can't take them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::*;
use headwater::sinks::clickhouse::*;
use headwater::sinks::{Place, Sink};
use headwater_devenv::{Ephemeral, Protocol, Proxy};
use headwater_engine::broker::SystemClock;
use headwater_engine::delivery::contract::{changes, changes_block};
use headwater_engine::delivery::{Block, Deliver, Delivery, Position, Positioned, Progress, Reply, Settings, Target};
use headwater_engine::plan::OutboxSink;
use headwater_engine::sim::MemoryBroker;
use headwater_engine::sinks::Incoming;
use headwater_engine::worker::Stop;
use headwater_formats::encode_batch;
use operator_core::CHANGE;
use tokio::runtime::Runtime;

use crate::delivery::{Front, deliver_under_faults, outcome};
use crate::environment::{exclusive, postgres};
use crate::outbox::Outbox;
use crate::postgres::{NUMBERS, at_place, outcome as reply, plain, positioned, through, url};
use crate::postgres_faults::sql;

fn by_id(rows: Incoming) -> Incoming {
    Incoming { changes: Some(vec!["id".to_owned()]), ..rows }
}

/// The store of a sink that takes changes of numbers by `id`.
fn open(runtime: &Runtime, url: &str, table: &str) -> Result<Box<dyn Positioned>, String> {
    let make = |sink: &dyn Sink, place: &Place<'_>| {
        let outbox = OutboxSink { rows: by_id(place.outbox.rows.clone()), ..place.outbox.clone() };
        sink.prepare(&Place { outbox: &outbox, ..*place }).unwrap_or_else(|problem| panic!("{}", problem.message))
    };
    let pipeline = format!("{NUMBERS}sinks: {{ out: {{ from: s, postgres: {table} }} }}\n");
    positioned(at_place(runtime, plain(url), &pipeline, None, make)(&Stop::default()))
}

pub fn in_postgres(environment: &Ephemeral, table: &str) -> Vec<(i64, i64)> {
    let found = postgres(environment, &format!("SELECT id, amount FROM {table} ORDER BY id")).unwrap();
    let number = |text: Option<&str>| text.unwrap().parse::<i64>().unwrap();
    found
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .map(|row| (number(row.first().copied()), number(row.get(1).copied())))
        .collect()
}

/// Writes one block and returns what became of it.
fn write(store: &mut dyn Positioned, block: &Block) -> Reply {
    store.write(block, Position { offset: block.last + 1, row: 0 });
    reply(store)
}

/// Changes of rows in two partitions, in records of some pairs each: what is written to the outbox, and what is left in the end.
pub struct Load {
    pub records: Vec<(i32, Vec<(i64, i64, i8)>)>,
    left: BTreeMap<i64, i64>,
}

impl Load {
    /// Rows come, change and go, a few keys of each partition often.
    pub fn new(records: usize) -> Load {
        let (mut random, mut left, mut all) = (7u64, BTreeMap::new(), Vec::new());
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        for n in 0..records {
            let partition = (n % 2) as i32;
            let mut changes = Vec::new();
            for _ in 0..1 + below(20) {
                let (id, amount) = (below(30) as i64 * 2 + i64::from(partition), below(1_000) as i64);
                let before = left.remove(&id);
                changes.extend(before.map(|before| (id, before, -1)));
                if before.is_none() || below(3) > 0 {
                    left.insert(id, amount);
                    changes.push((id, amount, 1));
                }
            }
            all.push((partition, changes));
        }
        Load { records: all, left }
    }

    fn append(&self, broker: &MemoryBroker) {
        for (partition, changes) in &self.records {
            let ids: ArrayRef = Arc::new(changes.iter().map(|(id, ..)| *id).collect::<Int64Array>());
            let amounts: ArrayRef = Arc::new(changes.iter().map(|(_, amount, _)| *amount).collect::<Int64Array>());
            let signs: ArrayRef = Arc::new(changes.iter().map(|(.., change)| *change).collect::<Int8Array>());
            let rows = RecordBatch::try_from_iter([("id", ids), ("amount", amounts), (CHANGE, signs)]).unwrap();
            broker.append("outbox", *partition, None, Some(&encode_batch(&rows).unwrap()), None, &[]).unwrap();
        }
    }

    pub fn expected(&self) -> Vec<(i64, i64)> {
        self.left.iter().map(|(id, amount)| (*id, *amount)).collect()
    }
}

#[test]
fn postgres_keeps_the_contract_of_changes() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let mut store = open(&runtime, &url(&environment), "changed.numbers").unwrap();
    store.claim(7, None);
    assert_eq!(reply(store.as_mut()), Reply::Claimed(None));
    let mut deliver = |block: &Block| match write(store.as_mut(), block) {
        Reply::Written => Ok(()),
        other => Err(format!("{other:?}")),
    };
    changes(&mut deliver, &mut || Ok(in_postgres(&environment, "changed.numbers"))).unwrap();
}

/// What must be unique moves from one row to another; of rows that go only the key is used.
#[test]
fn rows_go_before_others_come_whatever_their_values_are() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let mut store = open(&runtime, &url(&environment), "swapped.numbers").unwrap();
    store.claim(0, None);
    assert_eq!(reply(store.as_mut()), Reply::Claimed(None));
    sql(&environment, &["ALTER TABLE swapped.numbers ADD UNIQUE (amount), ADD CHECK (amount < 100)"]);
    let block = |first: i64, changes: &[(i64, i64, i8)]| changes_block(0, first, changes).unwrap();
    // The table was altered after it was looked at: the first block finds out.
    assert!(matches!(write(store.as_mut(), &block(0, &[(1, 10, 1), (2, 20, 1)])), Reply::Written | Reply::Unavailable(_)));
    assert_eq!(write(store.as_mut(), &block(2, &[(1, 10, -1), (3, 10, 1)])), Reply::Written);
    // The old amount of 3 does not fit any more, as after an ALTER.
    sql(&environment, &["ALTER TABLE swapped.numbers ALTER amount TYPE smallint"]);
    assert!(matches!(write(store.as_mut(), &block(4, &[(3, 10, -1)])), Reply::Unavailable(_)));
    assert_eq!(write(store.as_mut(), &block(4, &[(3, 100_000, -1)])), Reply::Written);
    assert_eq!(in_postgres(&environment, "swapped.numbers"), [(2, 20)]);
    // A new row that does not fit leaves everything as it was.
    let refused = write(store.as_mut(), &block(5, &[(2, 20, -1), (2, 500, 1)]));
    assert!(matches!(refused, Reply::Refused { .. }), "{refused:?}");
    assert_eq!(in_postgres(&environment, "swapped.numbers"), [(2, 20)]);
}

#[test]
fn a_postgres_table_that_can_not_take_changes_is_refused() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    sql(&environment, &["CREATE SCHEMA unkeyed", "CREATE TABLE unkeyed.numbers (id bigint NOT NULL, amount bigint, UNIQUE (id, amount))"]);
    let why = open(&runtime, &url(&environment), "unkeyed.numbers").err().expect("it has no such key");
    assert!(why.contains("no primary key or unique index is exactly over (\"id\")"), "{why}");
    sql(&environment, &["ALTER TABLE unkeyed.numbers ADD PRIMARY KEY (id)"]);
    let mut store = open(&runtime, &url(&environment), "unkeyed.numbers").unwrap();
    store.claim(0, None);
    assert_eq!(reply(store.as_mut()), Reply::Claimed(None));
    // Rows of a pipeline that had no changes.
    let rows = headwater_engine::delivery::contract::block(0, 0, 0..3, None).unwrap();
    let wrong = write(store.as_mut(), &rows);
    assert!(matches!(&wrong, Reply::Wrong(why) if why.contains("the sink writes amount, id, _change")), "{wrong:?}");
}

/// Lost replies, cut connections, a server that is killed, deliveries that end in the middle.
#[test]
fn changes_are_exact_in_postgres_under_lost_replies_and_restarts() {
    let (mut environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let proxy = through(&environment);
    let address = format!("postgres://{}/postgres", proxy.address());
    drop(open(&runtime, &url(&environment), "coming.numbers").unwrap());
    let (outbox, load) = (Outbox::new(), Load::new(600));
    load.append(&outbox.broker);
    let rounds = outbox.deliver_under_faults(&mut environment, &proxy, "coming", || open(&runtime, &address, "coming.numbers"));
    assert_eq!(in_postgres(&environment, "coming.numbers"), load.expected(), "after {rounds} rounds");
    assert!(outbox.letters().is_empty());
}

const SIGNS: &str = "CREATE TABLE d.signs (id Int64, amount Int64, _partition Int32, _offset Int64, _row Int32, sign Int8) \
     ENGINE = CollapsingMergeTree(sign) ORDER BY id SETTINGS non_replicated_deduplication_window = 10000";

fn numbers() -> Incoming {
    let columns = vec![Field::new("id", DataType::Int64, false), Field::new("amount", DataType::Int64, false)];
    by_id(Incoming::added(Schema::new(columns)))
}

/// A table as it is made for changes, and one with signs.
async fn tables(connection: &Connection) -> [(Table, Inspection); 2] {
    let [versions, signs] = ["versions", "signs"].map(|name| Table::new("d", name));
    ensure_table(connection, &versions, &numbers(), &TableOptions::default()).await.unwrap();
    connection.execute(SIGNS).await.unwrap();
    let mut inspected = Vec::new();
    for table in [versions, signs] {
        let inspection = inspect(connection, &table, &numbers()).await.unwrap();
        inspection.require(Guarantee::ExactlyOnce).unwrap();
        inspected.push((table, inspection));
    }
    inspected.try_into().unwrap()
}

async fn in_clickhouse(connection: &Connection, table: &Table) -> Vec<(i64, i64)> {
    let rows = connection.rows(&format!("SELECT id, amount FROM {}.{} FINAL ORDER BY id", table.database, table.name)).await.unwrap();
    let number = |row: &[String], at: usize| row[at].parse::<i64>().unwrap();
    rows.iter().map(|row| (number(row, 0), number(row, 1))).collect()
}

#[test]
fn clickhouse_keeps_the_contract_of_changes_with_versions_and_with_signs() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let connection = front.connection();
    for (table, inspection) in runtime.block_on(tables(&connection)) {
        let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
        let mut deliver = |block: &Block| {
            // Repeated, under the same token and, where a row is its version, under another one.
            let again = Block { epoch: block.epoch + u64::from(table.name == "versions"), ..block.clone() };
            for block in [block, &again] {
                target.start(block);
                match outcome(&mut target) {
                    Progress::Inserted => {}
                    other => return Err(format!("{other:?}")),
                }
            }
            Ok(())
        };
        let mut content = || Ok(runtime.block_on(in_clickhouse(&connection, &table)));
        changes(&mut deliver, &mut content).unwrap_or_else(|why| panic!("{}: {why}", table.name));
        runtime.block_on(connection.execute(&format!("OPTIMIZE TABLE d.{} FINAL", table.name))).unwrap();
        assert_eq!(content(), Ok(Vec::new()), "merged");
        let rows = headwater_engine::delivery::contract::block(0, 0, 0..3, None).unwrap();
        target.start(&rows);
        let wrong = outcome(&mut target);
        assert!(matches!(&wrong, Progress::Wrong(why) if why.contains("the other way round")), "{wrong:?}");
    }
    // Of a table that knows no changes.
    let plain = Table::new("d", "plain");
    let refused = runtime.block_on(async {
        ensure_table(&connection, &plain, &Incoming { changes: None, ..numbers() }, &TableOptions::default()).await.unwrap();
        inspect(&connection, &plain, &numbers()).await.unwrap().require(Guarantee::AtLeastOnce).unwrap_err().to_string()
    });
    assert!(refused.contains("ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY (`id`)"), "{refused}");
}

/// Lost requests and answers, a server that is killed, deliveries that end in the middle; and a table that forgets what was inserted.
#[test]
fn changes_are_exact_in_clickhouse_under_lost_answers_and_restarts() {
    let (runtime, mut front) = (Runtime::new().unwrap(), Front::up());
    let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), front.address(), Protocol::Http).unwrap();
    let inspected = runtime.block_on(tables(&front.connection()));
    runtime.block_on(async {
        let forget = "ALTER TABLE d.versions MODIFY SETTING non_replicated_deduplication_window = 0";
        front.connection().execute(forget).await.unwrap();
    });
    for (table, inspection) in inspected {
        let connection = Connection::new(Config::new(format!("http://{}", proxy.address()))).unwrap();
        let (broker, load) = (MemoryBroker::realtime(), Load::new(400));
        broker.create_topic("outbox", 2);
        load.append(&broker);
        let mut settings = Settings::new("p", "s", "outbox", "g", "lane");
        settings.limits = headwater_engine::delivery::Limits { rows: 100, bytes: 1 << 20, flush: 5 };
        settings.backoff = (10, 100);
        let rounds = deliver_under_faults(&mut front, &proxy, &broker, 10, || {
            let target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
            let clock = Arc::new(SystemClock::default());
            Delivery::new(Arc::new(broker.clone()), clock, Box::new(target), settings.clone()).unwrap()
        });
        let content = runtime.block_on(in_clickhouse(&front.connection(), &table));
        assert_eq!(content, load.expected(), "{} after {rounds} rounds", table.name);
    }
}

/// Its offsets begin at 0: versions that are there would win over newer ones, and rows with signs would be there twice.
#[test]
fn a_table_with_rows_of_another_outbox_stops_the_delivery() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let connection = front.connection();
    for (table, inspection) in runtime.block_on(tables(&connection)) {
        let target = || ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
        let mut before = target();
        before.start(&changes_block(0, 1_000, &[(1, 10, 1)]).unwrap());
        assert_eq!(outcome(&mut before), Progress::Inserted);
        let broker = MemoryBroker::realtime();
        broker.create_topic("outbox", 2);
        Load::new(2).append(&broker);
        let settings = Settings::new("p", "s", "outbox", "g", "lane");
        let mut lane = Delivery::new(Arc::new(broker), Arc::new(SystemClock::default()), Box::new(target()), settings).unwrap();
        let stopped = (0..2_000).find_map(|_| lane.step(Duration::from_millis(5)).err());
        assert!(stopped.as_ref().is_some_and(|e| e.to_string().contains("the position was lost")), "{}: {stopped:?}", table.name);
    }
}

/// Versions of two outboxes can't be compared, and the row that says that another is gone must not expire first.
#[test]
fn versions_that_could_bring_a_row_back_are_refused() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let connection = front.connection();
    let [(table, _), _] = runtime.block_on(tables(&connection));
    let shared = Config { shared_table: true, ..Config::new(format!("http://{}", front.address())) };
    let shared = Connection::new(shared).unwrap();
    let refused = |connection: &Connection| {
        let inspection = runtime.block_on(inspect(connection, &table, &numbers())).unwrap();
        inspection.require(Guarantee::AtLeastOnce).err().map(|e| e.to_string())
    };
    assert!(refused(&shared).is_some_and(|why| why.contains("`clickhouse.shared_table` is set")));
    for (expiring, accepted) in [("id", true), ("amount", false)] {
        let expire = format!("ALTER TABLE d.versions MODIFY TTL toDateTime({expiring}) + INTERVAL 100 YEAR");
        runtime.block_on(connection.execute(&expire)).unwrap();
        let why = refused(&connection);
        assert_eq!(why.is_none(), accepted, "{why:?}");
        assert!(why.is_none_or(|why| why.contains("its TTL reads `amount`")));
    }
}

/// A CHECK of the table would refuse a row of its key and defaults, and the row would stay.
#[test]
fn of_a_row_that_goes_clickhouse_gets_the_values() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let connection = front.connection();
    let [(table, inspection), _] = runtime.block_on(tables(&connection));
    runtime.block_on(connection.execute("ALTER TABLE d.versions ADD CONSTRAINT positive CHECK amount > 0")).unwrap();
    let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
    for (first, changes) in [(0, [(1, 10, 1), (2, 20, 1)]), (2, [(1, 10, -1), (3, 30, 1)])] {
        target.start(&changes_block(0, first, &changes).unwrap());
        assert_eq!(outcome(&mut target), Progress::Inserted);
    }
    assert_eq!(runtime.block_on(in_clickhouse(&connection, &table)), [(2, 20), (3, 30)]);
}

/// Where a database logs only the keys of rows that go, their other columns are null: the row goes all the same.
#[test]
fn of_a_row_that_goes_clickhouse_gets_the_key() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let connection = front.connection();
    let [(table, inspection), _] = runtime.block_on(tables(&connection));
    let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
    target.start(&changes_block(0, 0, &[(1, 10, 1), (2, 20, 1)]).unwrap());
    assert_eq!(outcome(&mut target), Progress::Inserted);
    let gone = changes_block(0, 2, &[(1, 10, -1)]).unwrap();
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    let columns = gone.rows.schema_ref().fields().iter().zip(gone.rows.columns());
    let columns =
        columns.map(|(field, array)| (field.name().clone(), if field.name() == "amount" { nulls.clone() } else { array.clone() }));
    target.start(&Block { rows: RecordBatch::try_from_iter(columns).unwrap(), ..gone });
    assert_eq!(outcome(&mut target), Progress::Inserted);
    assert_eq!(runtime.block_on(in_clickhouse(&connection, &table)), [(2, 20)]);
}
