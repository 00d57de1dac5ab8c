//! PostgreSQL as a sink: exactly once by transactions that cover rows and position.
//!
//! ```text
//! sink        the entry in a pipeline file, what lint, `explain` and cases ask about it
//! connection  address, TLS, sessions; an error -> the rows' fault, the configuration's, or it passes
//! table       the table as the server describes it: columns, keys, rights, the table of positions; creating what is missing
//! created     the same from files
//! native      types of columns: which columns go into which types; encode: rows in the binary format of COPY, and which values fit
//! store       claims and transactions
//! delivering  start and dry run
//! ```
//!
//! The client is tokio-postgres: the only maintained one that has binary COPY and runs on the runtime and the OpenSSL that are here anyway
//! (through native-tls). Rejected: sqlx (its own pools, macros and TLS, for one statement per block), libpq (a second C library).
//!
//! Limits. Connections must keep a session (no pooler in transaction mode). The server must not lose what it has confirmed: after a
//! failover to a standby that lacks the last transactions, rows and position are those of the standby, and delivery continues from
//! there; `synchronous_commit` decides whether that can happen.

mod cells;
mod config;
mod connection;
mod created;
mod delivering;
mod encode;
mod native;
mod numeric;
mod sink;
mod sql;
mod statements;
mod store;
mod table;

pub use self::config::PostgresConfig;
pub use self::connection::{Address, Server, address};
pub use self::sink::PostgresSink;
