//! The product on real services: Kafka, the schema registry, the ClickHouse engine and PostgreSQL, workers as processes, a load from
//! the generator, and an oracle in Python that shares no code with any of it.
//!
//! One environment serves all tests of this binary; each test has pipelines, topics and tables of its own names or runs
//! after the others are done ([`environment::exclusive`]). Needs Java 17, Maven, npm and Python; a missing tool fails
//! with what to install.

// A test reads from top to bottom, as what it tells happens.
#![allow(clippy::too_many_lines)]

mod certificates;
mod changes;
mod cli;
mod columns;
mod contracts;
mod delivery;
mod demo;
mod environment;
mod files;
mod keys;
mod kills;
mod log;
mod metrics;
mod names;
mod order_kills;
mod outages;
mod outbox;
mod outputs;
mod plan;
mod poison;
mod postgres;
mod postgres_faults;
mod postgres_outages;
mod record_types;
mod replay;
mod reset;
mod rights;
mod sagas;
mod silence;
mod simulate;
mod status;
mod table_changes;
mod table_kills;
mod tidy;
mod tls;
mod tooling;
mod width;
mod words;
mod worker;
