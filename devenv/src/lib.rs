//! A real local environment without Docker.
//!
//! Streaming guarantees can only be tested against the real thing: an emulated broker has no transaction
//! coordinator, and a table in memory has no deduplication log. This crate starts the real thing on one
//! machine, from artifacts that ordinary package managers deliver:
//!
//! | service | what runs | where it comes from |
//! |---|---|---|
//! | Kafka | Apache Kafka 4.3.1, KRaft, 1 or 3 brokers | Maven |
//! | schema registry | Apicurio 3.0.9, Confluent-compatible API under `/apis/ccompat/v7` | Maven |
//! | ClickHouse | the libchdb 26.7 engine behind our own HTTP front | npm |
//! | PostgreSQL, if asked for | the server that is installed | the distribution's packages |
//!
//! The ClickHouse part deserves its exact name. It is the real engine (parser, MergeTree, deduplication log,
//! materialized views, formats) behind an HTTP layer written here. It shows how inserts and their deduplication
//! behave; it shows nothing about authentication, replication, quotas, `async_insert` or the wire details of a
//! ClickHouse server.
//!
//! # How it works
//!
//! [`Environment::up`] fetches what is missing into a cache folder, starts all services at the same time, each in
//! its own session so that they outlive the caller and its terminal, and waits until each one answers. What
//! runs is written to `environment.json` in the environment's folder the moment it runs, so that an interrupted
//! `up` can still be taken down; `config.yaml` beside it has the addresses as a configuration of `hw`. Nothing is ever stopped by name: a process is signalled only when its id, its
//! start time and its command line are those that were recorded.
//!
//! [`Ephemeral`] is the same in a temporary folder, gone with the process that asked for it, even when that
//! process is killed. [`Proxy`] stands between a client and a service and breaks the connection on demand.
//!
//! # Limits
//!
//! Linux only (`/proc` is how processes are recognised), x86-64 for ClickHouse. Everything listens on 127.0.0.1
//! without authentication or TLS. It is a workbench, not a deployment.

mod artifacts;
mod clickhouse;
mod environment;
mod ephemeral;
mod kafka;
mod options;
mod plan;
mod ports;
mod postgres;
mod probe;
mod process;
mod proxy;
mod registry;
mod service;
mod startup;

use std::path::PathBuf;

pub use artifacts::{cache_dir, java_available};
pub use clickhouse::serve_clickhouse;
pub use environment::{Environment, Route};
pub use ephemeral::Ephemeral;
pub use options::{Options, Ports, default_clickhouse_front};
pub use postgres::USER as POSTGRES_USER;
pub use process::Stop;
pub use proxy::{Direction, Lose, Protocol, Proxy};
pub use service::{Service, ServiceStatus};

/// Version of Apache Kafka that [`Environment::up`] runs.
pub const KAFKA_VERSION: &str = "4.3.1";
/// Version of the Apicurio registry that [`Environment::up`] runs.
pub const REGISTRY_VERSION: &str = "3.0.9";
/// Version of the libchdb package whose engine [`serve_clickhouse`] loads.
pub const CHDB_VERSION: &str = "26.7.3-stable.1";

/// Why the environment could not be started, stopped or read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A program this crate needs is not installed, or is too old.
    #[error("{tool} is missing: {install}")]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// What to install, as a sentence.
        install: &'static str,
    },
    /// A package manager did not deliver an artifact.
    #[error("cannot fetch {what} with `{command}`:\n{output}")]
    Fetch {
        /// The artifact.
        what: String,
        /// The command that was run.
        command: String,
        /// The end of what it printed.
        output: String,
    },
    /// A service ended, or did not answer in time. Carries the end of the service's log.
    #[error("{service} did not start: {reason}\nend of {}:\n{tail}", .log.display())]
    Service {
        /// The service.
        service: Service,
        /// What was observed.
        reason: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A port that was asked for is taken.
    #[error("port {port} on 127.0.0.1 is in use: free it, or let {service} take any free port")]
    PortInUse {
        /// The service that was to listen there.
        service: Service,
        /// The port.
        port: u16,
    },
    /// What was asked for does not fit the environment that exists in the folder.
    #[error("{0}")]
    Mismatch(String),
    /// The service is not part of this environment.
    #[error("this environment has no {0}")]
    NoSuchService(Service),
    /// Another service failed first; this one was not waited for.
    #[error("{0} was not waited for because another service failed")]
    Abandoned(Service),
    /// The ClickHouse engine could not be loaded or started.
    #[error("ClickHouse engine: {0}")]
    Engine(String),
    /// An operation of the operating system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The reason given by the system.
        source: std::io::Error,
    },
}

impl LocalError {
    /// Names the operation an I/O error happened in; for `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LocalError {
        let what = what.into();
        move |source| LocalError::Io { what, source }
    }
}
