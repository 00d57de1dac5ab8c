//! The contract suites that the simulation passes, against the real services: what makes the simulation believable.

use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use headwater::sinks::clickhouse::{Config, Connection, Guarantee, Table, inspect};
use headwater_engine::contract::{self, Patience};
use headwater_engine::sinks::Incoming;
use headwater_kafka::{Kafka, KafkaConfig};

use crate::environment::{clickhouse, exclusive};

#[test]
fn kafka_keeps_the_contract_of_the_log() {
    let environment = exclusive();
    let config = KafkaConfig {
        session_timeout: Duration::from_secs(3),
        transaction_timeout: Duration::from_secs(12),
        ..KafkaConfig::new(environment.bootstrap.clone())
    };
    let broker = Kafka::connect(config).expect("Kafka answers");
    let mut last = 0;
    let mut names = |label: &str| {
        last += 1;
        format!("contract-{label}-{last}")
    };
    let patience = Patience { polls: 600, timeout: Duration::from_millis(100) };
    let broken: Vec<String> = contract::all_with(&broker, &mut names, patience)
        .into_iter()
        .filter_map(|(clause, result)| result.err().map(|why| format!("{clause}: {why}")))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_table_that_forgets_tokens_is_refused() {
    let environment = exclusive();
    clickhouse(&environment, "CREATE DATABASE IF NOT EXISTS gate").unwrap();
    clickhouse(
        &environment,
        "CREATE TABLE gate.forgets (id Int64, _partition Int32, _offset Int64, _row Int32) ENGINE = MergeTree ORDER BY id",
    )
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connection = Connection::new(Config::new(environment.clickhouse.clone().unwrap())).unwrap();
    let rows = |of: DataType| Incoming::added(Schema::new(vec![Field::new("id", of, false)]));
    let schema = rows(DataType::Int64);
    let inspection = runtime.block_on(inspect(&connection, &Table::parse("gate.forgets").unwrap(), &schema)).unwrap();
    let refused = inspection.require(Guarantee::ExactlyOnce).unwrap_err().to_string();
    assert!(refused.contains("non_replicated_deduplication_window"), "{refused}");
    let wrong = rows(DataType::Utf8);
    let inspection = runtime.block_on(inspect(&connection, &Table::parse("gate.forgets").unwrap(), &wrong)).unwrap();
    assert!(inspection.require(Guarantee::AtLeastOnce).unwrap_err().to_string().contains("`id`"), "{:?}", inspection.problems);
}
