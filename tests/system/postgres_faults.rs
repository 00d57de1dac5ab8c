//! The PostgreSQL sink where the server, its triggers, its users or another worker interfere.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use headwater::sinks::postgres::PostgresConfig;
use headwater_devenv::Ephemeral;
use headwater_engine::delivery::contract::block;
use headwater_engine::delivery::{Position, Reply};
use tokio::runtime::Runtime;

use crate::environment::{exclusive, postgres, wait_until};
use crate::log::{create, produce};
use crate::outbox::Outbox;
use crate::postgres::{NUMBERS, at_place, ids, open, open_with, outcome, plain, url};
use crate::worker::Worker;

fn sink(table: &str) -> String {
    format!("{NUMBERS}sinks: {{ out: {{ from: s, postgres: {table} }} }}\n")
}

pub fn sql(environment: &Ephemeral, statements: &[&str]) {
    for statement in statements {
        postgres(environment, statement).unwrap_or_else(|why| panic!("{statement}: {why}"));
    }
}

fn numbers(ids: std::ops::Range<i64>) -> Vec<(&'static str, ArrayRef)> {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    vec![("id", ids.clone()), ("amount", ids)]
}

/// A server that waits for its standby has committed already when its session is ended.
#[test]
fn a_commit_without_an_answer_is_not_taken_for_no_commit() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let mut store = open(&runtime, &url(&environment), &sink("standby.numbers")).unwrap();
    store.claim(0, None);
    assert_eq!(outcome(store.as_mut()), Reply::Claimed(None));
    let standbys =
        |names: &str| sql(&environment, &[&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"), "SELECT pg_reload_conf()"]);
    standbys("nobody");
    let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    // The server reads the setting when it comes to it: until then commits don't wait.
    let (mut number, mut reply) = (0, Reply::Written);
    while reply == Reply::Written {
        store.write(&block(0, number, number * 10..number * 10 + 10, None).unwrap(), Position { offset: number + 1, row: 0 });
        number += 1;
        reply = Reply::Working;
        while reply == Reply::Working {
            reply = store.progress(Duration::from_millis(100));
            postgres(&environment, waiting).unwrap();
        }
    }
    standbys("");
    assert!(matches!(reply, Reply::Unknown(_)), "{reply:?}");
    store.claim(0, None);
    assert_eq!(outcome(store.as_mut()), Reply::Claimed(Some(Position { offset: number, row: 0 })));
    assert_eq!(ids(&environment, "standby.numbers"), (0..number * 10).collect::<Vec<_>>());
}

/// Whatever code a trigger or an extension chooses, at once or at the commit: the row is a dead letter and the others are written.
#[test]
fn a_row_that_makes_the_server_fail_is_a_dead_letter() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let store = open(&runtime, &url(&environment), &sink("failing.numbers")).unwrap();
    let codes = [(1, "20000"), (2, "21000"), (3, "54000"), (4, "54001"), (5, "XX000"), (6, "HW001"), (7, "P0001"), (8, "38000")];
    let at_commit = [(21, "HW002")];
    let raises = |of: &[(i64, &str)]| -> String {
        let when = |(id, code): &(i64, &str)| format!("IF NEW.id = {id} THEN RAISE EXCEPTION USING ERRCODE = '{code}'; END IF;");
        of.iter().map(when).collect()
    };
    let function = |name: &str, body: &str| {
        format!("CREATE FUNCTION failing.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$")
    };
    sql(
        &environment,
        &[
            &function("at_once", &raises(&codes)),
            &function("at_commit", &raises(&at_commit)),
            "CREATE TRIGGER at_once BEFORE INSERT ON failing.numbers FOR EACH ROW EXECUTE FUNCTION failing.at_once()",
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON failing.numbers DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION failing.at_commit()",
        ],
    );
    let outbox = Outbox::new();
    outbox.append(0, numbers(0..30));
    assert!(outbox.deliver(store, 4_000, |_| {}));
    let letters: Vec<String> = outbox.letters().into_iter().map(|(code, _)| code).collect();
    let mut expected: Vec<&str> = codes.iter().chain(&at_commit).map(|(_, code)| *code).collect();
    expected.sort_unstable();
    assert_eq!(letters, expected);
    let bad = |id: &i64| codes.iter().chain(&at_commit).any(|(bad, _)| bad == id);
    assert_eq!(ids(&environment, "failing.numbers"), (0..30).filter(|id| !bad(id)).collect::<Vec<_>>());
}

/// A statement that runs out of time is tried again with fewer rows.
#[test]
fn a_block_that_takes_too_long_is_written_in_parts() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let store = open(&runtime, &url(&environment), &sink("slow.numbers")).unwrap();
    sql(
        &environment,
        &[
            "CREATE FUNCTION slow.most() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF (SELECT count(*) FROM added) > 7 THEN \
             RAISE EXCEPTION USING ERRCODE = '57014'; END IF; RETURN NULL; END $$",
            "CREATE TRIGGER most AFTER INSERT ON slow.numbers REFERENCING NEW TABLE AS added FOR EACH STATEMENT \
             EXECUTE FUNCTION slow.most()",
        ],
    );
    let outbox = Outbox::new();
    (0..10).for_each(|n| outbox.append(0, numbers(n * 20..n * 20 + 20)));
    assert!(outbox.deliver(store, 4_000, |_| {}));
    assert_eq!(ids(&environment, "slow.numbers"), (0..200).collect::<Vec<_>>());
    assert!(outbox.letters().is_empty());
}

/// No statement runs out of time, all of them together do: the position, the rows, and what is checked at the commit.
#[test]
fn a_block_whose_statements_are_each_in_time_is_written_in_parts() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let store = open(&runtime, &url(&environment), &sink("tardy.numbers")).unwrap();
    let sleeps = |condition: &str| format!("BEGIN IF {condition} THEN PERFORM pg_sleep(26); END IF; RETURN NEW; END");
    let function = |name: &str, body: &str| format!("CREATE FUNCTION tardy.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$");
    sql(
        &environment,
        &[
            &function("position", &sleeps("NEW.next_row = 0 AND (SELECT count(*) FROM tardy.numbers) = 0")),
            &function("rows", &sleeps("(SELECT count(*) FROM added) > 12")),
            &function("commit", &sleeps("NEW.id = 0 AND (SELECT count(*) FROM tardy.numbers) > 12")),
            "CREATE TRIGGER tardy BEFORE UPDATE ON tardy.headwater_positions FOR EACH ROW EXECUTE FUNCTION tardy.position()",
            "CREATE TRIGGER tardy AFTER INSERT ON tardy.numbers REFERENCING NEW TABLE AS added FOR EACH STATEMENT \
             EXECUTE FUNCTION tardy.rows()",
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON tardy.numbers DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION tardy.commit()",
        ],
    );
    let outbox = Outbox::new();
    outbox.append(0, numbers(0..24));
    assert!(outbox.deliver(store, 40_000, |_| {}));
    assert_eq!(ids(&environment, "tardy.numbers"), (0..24).collect::<Vec<_>>());
    assert!(outbox.letters().is_empty());
}

/// Eight bytes of a whole number are eight bytes of a float, too: a block must not go into columns that were altered since they were read.
#[test]
fn a_column_that_is_altered_meanwhile_gets_its_values_in_its_new_type() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    for (table, mode) in [("altered.inserts", ""), ("altered.upserts", ", mode: upsert, key: [id]")] {
        let pipeline = format!("{NUMBERS}sinks: {{ out: {{ from: s, postgres: {table}{mode} }} }}\n");
        let mut store = open(&runtime, &url(&environment), &pipeline).unwrap();
        store.claim(1, None);
        assert_eq!(outcome(store.as_mut()), Reply::Claimed(None));
        let mut write = |number: i64| {
            let block = block(1, number, number * 10..number * 10 + 10, None).unwrap();
            store.write(&block, Position { offset: number + 1, row: 0 });
            outcome(store.as_mut())
        };
        assert_eq!(write(0), Reply::Written);
        postgres(&environment, &format!("ALTER TABLE {table} ALTER amount TYPE numeric(30,4)")).unwrap();
        assert!(matches!(write(1), Reply::Unavailable(why) if why.contains("were altered")));
        assert_eq!([write(1), write(2)], [Reply::Written, Reply::Written]);
        drop(store);
        sql(&environment, &["TRUNCATE altered.headwater_positions"]);
        let outbox = Outbox::new();
        (3..60).for_each(|n| outbox.append(0, numbers(n * 10..n * 10 + 10)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for native in ["bigint", "numeric", "integer", "numeric(20,2)"].iter().cycle().take(20) {
                    sql(&environment, &[&format!("ALTER TABLE {table} ALTER amount TYPE {native}"), "SELECT pg_sleep(0.2)"]);
                }
            });
            assert!(outbox.deliver(open(&runtime, &url(&environment), &pipeline).unwrap(), 20_000, |_| {}));
        });
        let wrong = postgres(&environment, &format!("SELECT count(*), count(*) FILTER (WHERE amount = id) FROM {table}"));
        assert_eq!(wrong.as_deref(), Ok("600\t600"));
        assert!(outbox.letters().is_empty());
        sql(&environment, &["TRUNCATE altered.headwater_positions"]);
    }
}

/// A process that is frozen in the middle of a COPY holds its locks: no limit of time of the server applies there.
#[test]
fn a_worker_that_is_frozen_in_a_copy_does_not_keep_its_partition() {
    let environment = exclusive();
    create(&environment, "iced.json", 1);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("iced.yaml");
    let text = "apiVersion: headwater/v1\nname: iced\nsources: { s: { topic: iced.json, schema: { id: long } } }\n\
                sinks: { out: { from: s, postgres: iced.numbers, flush_interval: 50ms } }\n";
    std::fs::write(&file, text).unwrap();
    sql(&environment, &["CREATE SCHEMA iced", "CREATE TABLE iced.numbers (id bigint PRIMARY KEY)"]);
    let mut sent = 0..0;
    let mut send = |rows: i64| {
        sent = sent.end..sent.end + rows;
        let values: Vec<Vec<u8>> = sent.clone().map(|n| format!("{{\"id\":{n}}}").into_bytes()).collect();
        produce(&environment, "iced.json", &values.iter().map(|value| (0, None, Some(value.as_slice()))).collect::<Vec<_>>());
    };
    let frozen = Worker::start(&environment, &file, dir.path(), 0, Some("postgres-copying:1:hang"));
    send(50);
    let copying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY \"iced\"%' AND state = 'active'";
    wait_until("the worker is in its COPY", Duration::from_secs(60), || match postgres(&environment, copying)?.as_str() {
        "1" => Ok(()),
        other => Err(format!("{other}\n{}", frozen.log_tail())),
    });
    frozen.freeze();
    let other = Worker::start(&environment, &file, dir.path(), 1, None);
    send(50);
    wait_until("the other worker writes", Duration::from_secs(60), || match ids(&environment, "iced.numbers") {
        found if found == (0..100).collect::<Vec<_>>() => Ok(()),
        found => Err(format!("{} rows\n{}", found.len(), other.log_tail())),
    });
    frozen.thaw();
    frozen.kill();
    assert!(other.stop().success());
}

/// The position of another session that is not Headwater's is left alone, and named.
#[test]
fn a_claim_that_someone_holds_up_says_who() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let mut store = open(&runtime, &url(&environment), &sink("held.numbers")).unwrap();
    store.claim(0, None);
    assert_eq!(outcome(store.as_mut()), Reply::Claimed(None));
    let holding = runtime.block_on(async {
        let mut config: tokio_postgres::Config = url(&environment).parse().unwrap();
        let (client, connection) = config.user("hw").application_name("someone").connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN; SELECT * FROM held.headwater_positions FOR UPDATE").await.unwrap();
        client
    });
    store.claim(0, None);
    let reply = outcome(store.as_mut());
    assert!(matches!(&reply, Reply::Unavailable(why) if why.contains("`someone`") && why.contains("pg_terminate_backend")), "{reply:?}");
    drop(holding);
    store.claim(0, None);
    assert_eq!(outcome(store.as_mut()), Reply::Claimed(None));
}

#[test]
fn what_is_missing_is_created_whole_and_with_the_rights_that_are_needed() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("postgres");
    std::fs::create_dir(&folder).unwrap();
    let opened = |settings: PostgresConfig, table: &str| {
        at_place(&runtime, settings, &sink(table), Some(dir.path()), |sink, place| {
            let make = sink.prepare(place).unwrap_or_else(|problem| panic!("{}", problem.message));
            make(&Default::default()).map(drop).map_err(|why| match why {
                headwater::sinks::NoStore::Refused(why) | headwater::sinks::NoStore::NotNow(why) => why,
            })
        })
    };
    let dry = |table: &str| {
        at_place(&runtime, plain(&url(&environment)), &sink(table), Some(dir.path()), |sink, place| sink.dry_run(place, true).map_err(drop))
    };
    // The second statement fails: the first leaves nothing.
    let table = "CREATE SCHEMA IF NOT EXISTS parts; CREATE TABLE parts.numbers (id bigint, amount bigint);";
    std::fs::write(folder.join("parts.sql"), format!("{table} CREATE INDEX ON parts.numbers (amount, nothing);")).unwrap();
    assert!(opened(plain(&url(&environment)), "parts.numbers").unwrap_err().contains("42703"));
    assert_eq!(postgres(&environment, "SELECT to_regclass('parts.numbers') IS NULL").as_deref(), Ok("t"));
    assert!(dry("parts.numbers").unwrap().contains("will be created by"));
    // A user who may create tables in the schema, and no schemas.
    sql(&environment, &["CREATE ROLE modest LOGIN", "CREATE SCHEMA parts", "GRANT USAGE, CREATE ON SCHEMA parts TO modest"]);
    std::fs::write(folder.join("parts.sql"), format!("{table} CREATE INDEX ON parts.numbers (amount);")).unwrap();
    let modest = PostgresConfig { user: Some("modest".into()), ..plain(&url(&environment)) };
    assert_eq!(opened(modest.clone(), "parts.numbers"), Ok(()));
    assert_eq!(
        postgres(&environment, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'parts' AND tablename = 'numbers'").as_deref(),
        Ok("1")
    );
    // A table that does not fit is not excused by a table of positions that will be created.
    sql(&environment, &["CREATE SCHEMA unfit", "CREATE TABLE unfit.numbers (id bigint, amount text)"]);
    assert!(dry("unfit.numbers").is_err());
    sql(&environment, &["ALTER TABLE unfit.numbers ALTER amount TYPE bigint USING 0"]);
    assert!(dry("unfit.numbers").unwrap().contains("the table of positions will be created"));
}

#[test]
fn a_table_of_positions_of_an_older_version_is_extended_or_named() {
    let (environment, runtime) = (exclusive(), Runtime::new().unwrap());
    let pipeline = sink("older.numbers");
    let mut store = open(&runtime, &url(&environment), &pipeline).unwrap();
    store.claim(0, None);
    assert_eq!(outcome(store.as_mut()), Reply::Claimed(None));
    store.write(&block(0, 0, 0..10, None).unwrap(), Position { offset: 1, row: 0 });
    assert_eq!(outcome(store.as_mut()), Reply::Written);
    drop(store);
    sql(&environment, &["ALTER TABLE older.headwater_positions DROP COLUMN topic_id"]);
    let settings = PostgresConfig { create_tables: false, ..plain(&url(&environment)) };
    let why = open_with(&runtime, settings, &pipeline).err().expect("it is refused");
    assert!(why.contains("ALTER TABLE \"older\".\"headwater_positions\" ADD COLUMN IF NOT EXISTS topic_id text"), "{why}");
    let mut store = open(&runtime, &url(&environment), &pipeline).unwrap();
    store.claim(0, None);
    assert_eq!(outcome(store.as_mut()), Reply::Claimed(Some(Position { offset: 1, row: 0 })));
}
