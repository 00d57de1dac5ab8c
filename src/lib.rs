//! `hw`: declarative stream processing for Kafka. Composition only: the engine and the operators know nothing of
//! Kafka clients, HTTP or each other; here they are combined. A library so that the system tests can run the contract suites
//! against the real services.

pub mod access;
pub mod cases;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod clickhouse;
pub mod codes;
pub mod config;
pub mod deliver;
pub mod diagnose;
pub mod docs;
pub mod dry_run;
pub mod explain;
pub mod graph;
pub mod http;
pub mod json_schema;
pub mod kafka;
pub mod lint;
pub mod logs;
pub mod outages;
pub mod postgres;
pub mod preflight;
pub mod prepare;
pub mod registry;
pub mod run;
pub mod sample;
pub mod samples;
pub mod schema_registry;
pub mod sink;
pub mod style;
pub mod web;
