//! The services of an environment, one by one.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::{Launch, Running};
use crate::{CHDB_VERSION, KAFKA_VERSION, LocalError, REGISTRY_VERSION};

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Service {
    /// A Kafka node, by its id, from 1.
    Kafka(u8),
    /// The schema registry.
    Registry,
    /// The ClickHouse engine behind its HTTP front.
    ClickHouse,
    /// The PostgreSQL server.
    Postgres,
}

impl Service {
    /// Name and version of what runs as this service.
    pub fn what(self) -> String {
        match self {
            Service::Kafka(_) => format!("Apache Kafka {KAFKA_VERSION}"),
            Service::Registry => format!("Apicurio registry {REGISTRY_VERSION}"),
            Service::ClickHouse => format!("libchdb {CHDB_VERSION} engine behind our HTTP front"),
            Service::Postgres => "PostgreSQL".to_owned(),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Kafka(id) => write!(f, "kafka-{id}"),
            Service::Registry => f.write_str("registry"),
            Service::ClickHouse => f.write_str("clickhouse"),
            Service::Postgres => f.write_str("postgres"),
        }
    }
}

/// A service as [`Environment::status`](crate::Environment::status) finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    /// The service.
    pub service: Service,
    /// Its address.
    pub address: SocketAddr,
    /// Its process, if one was started.
    pub pid: Option<u32>,
    /// Whether that process runs.
    pub alive: bool,
    /// Resident memory in KiB, if it runs.
    pub resident_kib: Option<u64>,
    /// What runs there, as it should be called: the ClickHouse service is not a ClickHouse server.
    pub what: String,
    /// Its log file.
    pub log: PathBuf,
}

/// A service of the environment as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub service: Service,
    pub address: SocketAddr,
    pub launch: Launch,
    pub running: Option<Running>,
}

impl Record {
    /// Starts the process and notes its id in `pids`; returns the size its log had before.
    pub fn start(&mut self, root: &Path) -> Result<u64, LocalError> {
        let from = self.launch.log_size();
        let running = self.launch.spawn().map_err(LocalError::io(format!("cannot run {}", self.launch.program)))?;
        self.running = Some(running);
        let file = root.join("pids").join(self.service.to_string());
        fs::write(&file, running.pid.to_string()).map_err(LocalError::io(format!("cannot write {}", file.display())))?;
        Ok(from)
    }

    pub fn alive(&self, root: &Path) -> bool {
        self.running.is_some_and(|running| running.alive(root))
    }

    pub fn status(&self, root: &Path) -> ServiceStatus {
        let alive = self.alive(root);
        ServiceStatus {
            service: self.service,
            address: self.address,
            pid: self.running.map(|running| running.pid),
            alive,
            resident_kib: self.running.filter(|_| alive).and_then(|running| running.resident_kib()),
            what: self.service.what(),
            log: self.launch.log.clone(),
        }
    }
}
