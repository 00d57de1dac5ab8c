//! The engine: plans pipelines and runs them exactly once over a log it reaches only through seams.
//!
//! Start at [`lane`], the path of every record. Names neither a Kafka client, nor HTTP, nor any operator family: those
//! are composed in the program (`src/`).

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod backoff;
pub mod broker;
pub mod catalog;
pub mod contract;
pub mod definition;
pub mod delivery;
pub mod failpoint;
pub mod format;
pub mod lane;
mod lane_end;
pub mod manifest;
pub mod notation;
pub mod operators;
pub mod partitioner;
pub mod pipeline;
pub mod plan;
pub mod printable;
pub mod record;
pub mod record_types;
pub mod schemas;
pub mod sim;
pub mod sinks;
pub mod state;
pub mod stats;
pub mod tables;
pub mod task;
pub mod time;
mod union;
pub mod wording;
pub mod worker;
pub mod yaml;
