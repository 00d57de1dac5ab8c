//! `hw`: declarative stream processing for Kafka. Composition only: the engine and the operators know nothing of
//! Kafka clients, HTTP or each other; here they are combined. A library so that the system tests can run the contract suites
//! against the real services.

pub mod authoring;
pub mod cases;
pub mod check;
pub mod cli;
pub mod config;
pub mod diagnose;
pub mod observe;
pub mod pipeline_files;
pub mod registry;
pub mod schema_registry;
pub mod sinks;
pub mod style;
pub mod web;
pub mod worker;
