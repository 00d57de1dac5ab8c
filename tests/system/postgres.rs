//! The PostgreSQL sink against a real server: the contract, types, refused rows, upserts, outages.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::*;
use headwater::config::Config;
use headwater::diagnose::Source;
use headwater::observe::outages::Outages;
use headwater::pipeline_files::catalog::Folder;
use headwater::pipeline_files::{make_plan, parse};
use headwater::sinks::postgres::PostgresConfig;
use headwater::sinks::{self, NoStore, Place, Sink};
use headwater_devenv::{Ephemeral, Protocol, Proxy};
use headwater_engine::delivery::positioned::contract;
use headwater_engine::delivery::{Block, Position, Positioned, Reply, Store};
use headwater_engine::worker::Stop;
use tokio::runtime::Runtime;

use crate::environment::{exclusive, postgres};
use crate::outbox::Outbox;

/// The server at an address, without TLS and without a password.
pub fn plain(url: &str) -> PostgresConfig {
    PostgresConfig { url: url.to_owned(), user: Some("hw".into()), password: None, tls: None, create_tables: true }
}

pub fn open(runtime: &Runtime, url: &str, pipeline: &str) -> Result<Box<dyn Positioned>, String> {
    open_with(runtime, plain(url), pipeline)
}

/// The store of the only sink of a pipeline, opened as a worker does it.
pub fn open_with(runtime: &Runtime, settings: PostgresConfig, pipeline: &str) -> Result<Box<dyn Positioned>, String> {
    let make = |sink: &dyn Sink, place: &Place<'_>| sink.prepare(place).unwrap_or_else(|problem| panic!("{}", problem.message));
    positioned(at_place(runtime, settings, pipeline, None, make)(&Stop::default()))
}

pub fn positioned(made: Result<Store, NoStore>) -> Result<Box<dyn Positioned>, String> {
    match made {
        Ok(Store::Positions(store)) => Ok(store),
        Ok(Store::Tokens(_)) => panic!("PostgreSQL keeps positions"),
        Err(NoStore::Refused(why) | NoStore::NotNow(why)) => Err(why),
    }
}

/// The only sink of a pipeline in its place; `schemas`: the folder of its files.
pub fn at_place<T>(
    runtime: &Runtime,
    settings: PostgresConfig,
    pipeline: &str,
    schemas: Option<&Path>,
    of: impl FnOnce(&dyn Sink, &Place<'_>) -> T,
) -> T {
    let text = format!("apiVersion: headwater/v1\nname: p\n{pipeline}");
    let loaded = parse(Source::new("p.yaml", text)).unwrap_or_else(|_| panic!("{pipeline}"));
    let folder = Folder::read(std::path::Path::new("tests/no-schemas")).unwrap();
    let (plan, _) = make_plan(&loaded, &folder).unwrap_or_else(|found| panic!("{found:?}"));
    let mut config = Config::default();
    config.set_store("postgres", settings);
    let (output, outbox, sink) = sinks::all(&plan).next().expect("a sink");
    let (runtime, outages) = (runtime.handle(), Outages::default());
    of(sink, &Place { plan: &plan, output, outbox, config: &config, schemas, runtime, outages: &outages })
}

pub fn url(environment: &Ephemeral) -> String {
    environment.postgres.clone().expect("PostgreSQL runs")
}

/// A proxy in front of the server.
pub fn through(environment: &Ephemeral) -> Proxy {
    let upstream = url(environment).trim_start_matches("postgres://").split('/').next().unwrap().parse().unwrap();
    Proxy::start("127.0.0.1:0".parse().unwrap(), upstream, Protocol::Tcp).unwrap()
}

pub fn outcome(store: &mut dyn Positioned) -> Reply {
    loop {
        match store.progress(Duration::from_millis(100)) {
            Reply::Working => {}
            reply => return reply,
        }
    }
}

pub fn ids(environment: &Ephemeral, table: &str) -> Vec<i64> {
    let found = postgres(environment, &format!("SELECT id FROM {table} ORDER BY id")).unwrap();
    found.lines().map(|id| id.parse().unwrap()).collect()
}

#[test]
fn the_real_server_keeps_the_contract_of_positions() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    for (table, mode) in [("contract.inserts", ""), ("contract.upserts", ", mode: upsert, key: [id]")] {
        let pipeline = format!(
            "sources: {{ s: {{ topic: t, schema: {{ id: long, amount: long }} }} }}\nsinks: {{ out: {{ from: s, postgres: {table}{mode} }} }}\n"
        );
        drop(open(&runtime, &url(&environment), &pipeline).unwrap());
        postgres(&environment, &format!("ALTER TABLE {table} ADD CHECK (amount >= 0)")).unwrap();
        let mut connect = || open(&runtime, &url(&environment), &pipeline);
        contract::all(&mut connect, &mut || Ok(ids(&environment, table))).unwrap();
        postgres(&environment, "TRUNCATE contract.headwater_positions").unwrap();
    }
}

/// A failover to a replica, a restored copy or a crash with `synchronous_commit = off`: what was confirmed is gone.
#[test]
fn a_server_that_has_lost_confirmed_commits_is_noticed() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let pipeline = "sources: { s: { topic: t, schema: { id: long, amount: long } } }\nsinks: { out: { from: s, postgres: back.rows } }\n";
    let mut store = open(&runtime, &url(&environment), pipeline).unwrap();
    let claimed = |store: &mut dyn Positioned| {
        store.claim(0, None);
        outcome(store)
    };
    let written = |store: &mut dyn Positioned, number: i64| {
        let block = headwater_engine::delivery::contract::block(0, number, number * 2..number * 2 + 2, None).unwrap();
        store.write(&block, Position { offset: number + 1, row: 0 });
        outcome(store)
    };
    assert_eq!(claimed(store.as_mut()), Reply::Claimed(None));
    assert_eq!([written(store.as_mut(), 0), written(store.as_mut(), 1)], [Reply::Written, Reply::Written]);
    postgres(&environment, "DELETE FROM back.rows WHERE id >= 2").unwrap();
    postgres(&environment, "UPDATE back.headwater_positions SET next_offset = 1").unwrap();
    assert_eq!(written(store.as_mut(), 2), Reply::Fenced, "rows 2 and 3 would be lost");
    assert_eq!(claimed(store.as_mut()), Reply::Claimed(Some(Position { offset: 1, row: 0 })));
    assert_eq!([written(store.as_mut(), 1), written(store.as_mut(), 2)], [Reply::Written, Reply::Written]);
    assert_eq!(ids(&environment, "back.rows"), [0, 1, 2, 3, 4, 5]);
    // The claim is lost, too: the next owner's is another one.
    let epoch = || postgres(&environment, "SELECT epoch FROM back.headwater_positions").unwrap();
    let lost = epoch();
    postgres(&environment, "UPDATE back.headwater_positions SET epoch = epoch - 1").unwrap();
    let mut other = open(&runtime, &url(&environment), pipeline).unwrap();
    assert_eq!(claimed(other.as_mut()), Reply::Claimed(Some(Position { offset: 3, row: 0 })));
    assert_ne!(epoch(), lost);
    assert_eq!(written(store.as_mut(), 3), Reply::Fenced);
}

#[test]
fn every_type_arrives_as_it_was() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let mut list = ListBuilder::new(Int64Builder::new());
    list.append_value([Some(1), None, Some(3)]);
    list.append_value([]);
    let members: Fields = vec![Field::new("sku", DataType::Utf8, false), Field::new("n", DataType::Int32, true)].into();
    let record = StructArray::new(
        members,
        vec![Arc::new(StringArray::from(vec!["a\"", "b"])), Arc::new(Int32Array::from(vec![Some(7), None]))],
        None,
    );
    let uuid = "61f0c404-5cb3-11e7-907b-a6006ad3dba0";
    let money = |values: Vec<i128>| Arc::new(Decimal128Array::from(values).with_precision_and_scale(12, 2).unwrap());
    let columns: Vec<(&str, &str, ArrayRef, [&str; 2])> = vec![
        ("flag", "boolean", Arc::new(BooleanArray::from(vec![true, false])), ["t", "f"]),
        ("small", "smallint", Arc::new(Int64Array::from(vec![-32_768, 32_767])), ["-32768", "32767"]),
        ("middle", "integer", Arc::new(Int32Array::from(vec![i32::MIN, 5])), ["-2147483648", "5"]),
        ("big", "numeric(20,0)", Arc::new(UInt64Array::from(vec![u64::MAX, 0])), ["18446744073709551615", "0"]),
        ("real", "double precision", Arc::new(Float64Array::from(vec![Some(0.1), None])), ["0.1", ""]),
        ("text", "text", Arc::new(StringArray::from(vec![Some("line\n\\ \u{fc}"), None])), ["line\n\\ \u{fc}", ""]),
        ("short", "varchar(3)", Arc::new(StringArray::from(vec!["äöü", ""])), ["äöü", ""]),
        ("bytes", "bytea", Arc::new(BinaryArray::from(vec![&[0u8, 255][..], b""])), ["\\x00ff", "\\x"]),
        ("money", "numeric(12,2)", money(vec![-1, 123_456]), ["-0.01", "1234.56"]),
        ("exact", "numeric", money(vec![10_000_000_000, 0]), ["100000000.00", "0.00"]),
        ("day", "date", Arc::new(Date32Array::from(vec![0, 20_000])), ["1970-01-01", "2024-10-04"]),
        (
            "at",
            "timestamptz",
            Arc::new(TimestampMillisecondArray::from(vec![1_767_225_600_123, -1]).with_timezone("UTC")),
            ["2026-01-01 00:00:00.123+00", "1969-12-31 23:59:59.999+00"],
        ),
        (
            "naive",
            "timestamp(3)",
            Arc::new(TimestampMicrosecondArray::from(vec![1_000, 0])),
            ["1970-01-01 00:00:00.001", "1970-01-01 00:00:00"],
        ),
        ("uuid", "uuid", Arc::new(StringArray::from(vec![uuid, uuid])), [uuid, uuid]),
        ("list", "bigint[]", Arc::new(list.finish()), ["{1,NULL,3}", "{}"]),
        ("record", "jsonb", Arc::new(record), ["{\"n\": 7, \"sku\": \"a\\\"\"}", "{\"n\": null, \"sku\": \"b\"}"]),
        ("mood", "types.mood", Arc::new(StringArray::from(vec!["good", "bad"])), ["good", "bad"]),
    ];
    let types: Vec<String> = columns.iter().map(|(name, native, ..)| format!("\"{name}\" {native}")).collect();
    for statement in [
        "CREATE SCHEMA types".to_owned(),
        "CREATE TYPE types.mood AS ENUM ('good', 'bad')".to_owned(),
        format!("CREATE TABLE types.kinds ({}, n serial)", types.join(", ")),
    ] {
        postgres(&environment, &statement).unwrap();
    }
    let declared = "flag: bool, small: long, middle: int, big: long, real: double?, text: string?, short: string, bytes: bytes, \
        money: \"decimal(12,2)\", exact: \"decimal(12,2)\", day: date, at: timestamp, naive: timestamp, uuid: string, list: [\"long?\"], \
        record: { sku: string, n: int? }, mood: string";
    let pipeline =
        format!("sources: {{ s: {{ topic: t, schema: {{ {declared} }} }} }}\nsinks: {{ out: {{ from: s, postgres: types.kinds }} }}\n");
    let mut store = open(&runtime, &url(&environment), &pipeline).unwrap();
    store.claim(0, None);
    assert_eq!(outcome(store.as_mut()), Reply::Claimed(None));
    let rows = RecordBatch::try_from_iter(columns.iter().map(|(name, _, array, _)| (*name, array.clone()))).unwrap();
    let block = Block { rows, ..headwater_engine::delivery::contract::block(0, 0, 0..2, None).unwrap() };
    store.write(&block, Position { offset: 1, row: 0 });
    assert_eq!(outcome(store.as_mut()), Reply::Written);
    for (name, native, _, expected) in &columns {
        for (at, expected) in expected.iter().enumerate() {
            let sql = format!("SELECT coalesce(\"{name}\"::text, '') FROM types.kinds ORDER BY n OFFSET {at} LIMIT 1");
            let found = postgres(&environment, &sql).unwrap();
            let found = if *name == "flag" { found.chars().take(1).collect() } else { found };
            assert_eq!(found, *expected, "{name} {native}");
        }
    }
}

pub const NUMBERS: &str = "sources: { s: { topic: t, schema: { id: long, amount: long } } }\n";

/// Lost replies, cut connections, a server that is killed, deliveries that end in the middle: the table is exact, and so are the letters.
#[test]
fn delivery_into_postgres_is_exact_under_lost_replies_restarts_and_bad_rows() {
    let (mut environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let proxy = through(&environment);
    let address = format!("postgres://{}/postgres", proxy.address());
    let pipeline = format!("{NUMBERS}sinks: {{ out: {{ from: s, postgres: exact.numbers }} }}\n");
    drop(open(&runtime, &url(&environment), &pipeline).unwrap());
    postgres(&environment, "ALTER TABLE exact.numbers ADD CHECK (amount >= 0)").unwrap();
    let outbox = Outbox::new();
    let (mut id, mut bad) = (0i64, Vec::new());
    for n in 0..400 {
        let count = 1 + n % 50;
        let ids: Vec<i64> = (id..id + count).collect();
        let amounts: Vec<i64> = ids.iter().map(|id| if id % 997 == 0 { -1 } else { *id }).collect();
        bad.extend(ids.iter().filter(|id| *id % 997 == 0).map(|id| ("23514".to_owned(), format!("{{\"id\":{id},\"amount\":-1}}"))));
        outbox.append((n % 2) as i32, vec![("id", Arc::new(Int64Array::from(ids))), ("amount", Arc::new(Int64Array::from(amounts)))]);
        id += count;
    }
    bad.sort();
    let rounds = outbox.deliver_under_faults(&mut environment, &proxy, "exact", || open(&runtime, &address, &pipeline));
    let expected: Vec<i64> = (0..id).filter(|id| id % 997 != 0).collect();
    assert_eq!(ids(&environment, "exact.numbers"), expected, "after {rounds} rounds");
    assert_eq!(outbox.letters(), bad);
    println!("{rounds} rounds, {id} rows, {} letters", bad.len());
}

#[test]
fn a_bad_row_is_a_dead_letter_and_its_neighbours_are_written() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let pipeline =
        "sources: { s: { topic: t, schema: { id: long, note: string?, total: long } } }\nsinks: { out: { from: s, postgres: bad.rows } }\n";
    postgres(&environment, "CREATE SCHEMA bad").unwrap();
    postgres(&environment, "CREATE TABLE bad.rows (id bigint PRIMARY KEY, note varchar(5) NOT NULL, total integer)").unwrap();
    let outbox = Outbox::new();
    let notes = vec![Some("a"), Some("zero\0"), None, Some("longer"), Some("b"), Some("c"), Some("d")];
    let totals = vec![1i64, 2, 3, 4, i64::MAX, 6, 7];
    let columns = |ids: Vec<i64>, notes: Vec<Option<&str>>, totals: Vec<i64>| -> Vec<(&str, ArrayRef)> {
        vec![
            ("id", Arc::new(Int64Array::from(ids))),
            ("note", Arc::new(StringArray::from(notes))),
            ("total", Arc::new(Int64Array::from(totals))),
        ]
    };
    outbox.append(0, columns((0..7).collect(), notes, totals));
    outbox.append(0, columns(vec![6, 8], vec![Some("e"), Some("f")], vec![1, 1]));
    let store = open(&runtime, &url(&environment), pipeline).unwrap();
    assert!(outbox.deliver(store, 2_000, |_| {}));
    assert_eq!(ids(&environment, "bad.rows"), [0, 5, 6, 8]);
    let codes: Vec<String> = outbox.letters().into_iter().map(|(code, _)| code).collect();
    // What the columns don't take is found before it is sent.
    assert_eq!(codes, ["0", "0", "0", "22021", "23505"]);
}

#[test]
fn upserts_leave_the_last_row_of_each_key() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let pipeline = format!("{NUMBERS}sinks: {{ out: {{ from: s, postgres: upserts.numbers, mode: upsert, key: [id] }} }}\n");
    let outbox = Outbox::new();
    for round in 0..10i64 {
        let ids: Vec<i64> = (0..50).flat_map(|id| [id, id]).collect();
        let amounts: Vec<i64> = (0..100).map(|n| round * 100 + n).collect();
        outbox.append(0, vec![("id", Arc::new(Int64Array::from(ids))), ("amount", Arc::new(Int64Array::from(amounts)))]);
    }
    let store = open(&runtime, &url(&environment), &pipeline).unwrap();
    assert!(outbox.deliver(store, 2_000, |_| {}));
    let sql = "SELECT count(*), count(*) FILTER (WHERE amount = 900 + 2 * id + 1) FROM upserts.numbers";
    assert_eq!(postgres(&environment, sql).as_deref(), Ok("50\t50"));
    // A column that is altered under a running delivery.
    postgres(&environment, "ALTER TABLE upserts.numbers ALTER amount TYPE integer").unwrap();
    outbox.append(0, vec![("id", Arc::new(Int64Array::from(vec![1]))), ("amount", Arc::new(Int64Array::from(vec![5])))]);
    assert!(outbox.deliver(open(&runtime, &url(&environment), &pipeline).unwrap(), 2_000, |_| {}));
    assert_eq!(postgres(&environment, "SELECT amount FROM upserts.numbers WHERE id = 1").as_deref(), Ok("5"));
}

#[test]
fn a_table_that_does_not_fit_is_refused_with_everything_that_is_wrong() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    for statement in [
        "CREATE SCHEMA wrong",
        "CREATE UNLOGGED TABLE wrong.numbers (id text, other integer NOT NULL)",
        "CREATE TABLE wrong.plain (id bigint, amount bigint)",
        "CREATE VIEW wrong.view AS SELECT * FROM wrong.plain",
    ] {
        postgres(&environment, statement).unwrap();
    }
    let refused = |table: &str, mode: &str| {
        let pipeline = format!("{NUMBERS}sinks: {{ out: {{ from: s, postgres: {table}{mode} }} }}\n");
        open(&runtime, &url(&environment), &pipeline).err().unwrap_or_else(|| panic!("{table} was accepted"))
    };
    let why = refused("wrong.numbers", "");
    println!("{why}");
    for part in ["column `id`: its type is `text`", "column `amount` is missing", "`other` is NOT NULL without a default", "SET LOGGED"] {
        assert!(why.contains(part), "{why}");
    }
    assert!(refused("wrong.plain", ", mode: upsert, key: [id]").contains("CREATE UNIQUE INDEX ON \"wrong\".\"plain\" (\"id\")"));
    assert!(refused("wrong.view", "").contains("no ordinary or partitioned table"));
}
