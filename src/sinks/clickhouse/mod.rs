//! ClickHouse as a [`Target`](headwater_engine::delivery::Target): exactly once by insert deduplication.
//!
//! ```text
//! sink      the entry in a pipeline file, what lint, `explain` and cases ask about it; dry_run, delivering: its start
//! gate      once, at the start: version, settings, engine, columns, windows of the table and of every materialized view
//!           behind it -> the guarantee that holds here, and what would have to be changed for a better one
//! target    per block: one INSERT ... FORMAT ArrowStream under a token, every setting that decides how it is split
//!           or recognised pinned in the request
//! http      a request, and the proof that the answer is ClickHouse's: anything else leaves the outcome unknown
//! types     which kinds of columns go into which types
//! fit       which values a column takes: a row with another one is a dead letter
//! failure   an error code -> the rows' fault, certainly not inserted, or the outcome is unknown
//! ddl       a table that fits a schema, with a deduplication window
//! changes   rows that come and go, in tables whose engine (`layout`) takes them
//! ```
//!
//! Why so careful. ClickHouse recognises a repeated insert by its token only if the table remembers tokens (off by default
//! without replication), only within its window, and only if the insert is split into the same blocks again; on
//! any of these it appends the rows again and says nothing. So one delivery block is one insert of one ClickHouse block,
//! the settings are sent with every insert, and tables that forget are refused at the start.
//!
//! Honest limits. The body is sent with chunked
//! transfer encoding: a cut connection is seen by its missing end. A block over several
//! partitions of the table becomes several parts, which ClickHouse writes one after the other; a repeat completes
//! them, a count in between stops delivery. `Distributed` tables are not recognised as exactly once: insert into the
//! local table. Replicated tables are supported by the same rules, but only non-replicated ones are tested.

mod changes;
mod column_types;
mod columns;
mod config;
mod connection;
mod created;
mod ddl;
mod delivering;
mod dry_run;
mod failure;
mod fit;
mod guarantee;
mod http;
mod layout;
mod native;
mod sink;
mod target;
#[cfg(test)]
mod tests;
mod token;
mod views;

pub use self::columns::{Column, column_type, columns_for, compatible, misfits, unheld_nulls};
pub use self::config::ClickHouseConfig;
pub use self::connection::{Config, Connection, Secret, Table};
pub use self::created::{Created, tables_in};
pub use self::ddl::{TableOptions, ddl, ensure_table, run_file};
pub use self::delivering::connect;
pub use self::failure::ClickHouseError;
pub use self::fit::Fit;
pub use self::guarantee::{Guarantee, Inspection, inspect};
pub use self::sink::ClickHouseSink;
pub use self::target::ClickHouse;
