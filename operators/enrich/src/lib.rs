//! The `enrich` step: columns of a table added to every row, looked up by the table's record key.
//!
//! ```text
//! for each join:   key of every row (columnar) -> places in the table (one hash lookup per row)
//!                  -> gather the added columns -> rows without a match: keep, drop or dead letter
//! ```
//!
//! A table is a compacted topic that the engine loads before the first record and keeps current. It is keyed by the
//! bytes of the record key, as Kafka's own serializers write them: a text as UTF-8, a 32-bit or 64-bit integer
//! big-endian, bytes as they are ([`operator_core::table::put_record_key`]). The value of `on` is brought to the type of the table's
//! key column first, so a number finds its row in a table keyed by text.
//!
//! Of a stream of changes, rows are kept as they came out ([`changes`]): a row that goes is the one that came.
//!
//! Honest limits: with `as_of: latest` the answer depends on how far the table has been read when the row comes; only
//! `as_of: event_time` gives the same answer on every replay, and only as far back as the table's history is kept.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod changes;
pub mod operator;
pub mod plan;
pub mod spec;

pub use operator::EnrichOperator;
pub use spec::{Added, AsOf, Enrich, Join, Missing};
