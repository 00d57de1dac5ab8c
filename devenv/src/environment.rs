//! The environment: what was asked for, what runs, and the operations on it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::LocalError;
use crate::options::Options;
use crate::plan::SavedNode;
use crate::postgres;
use crate::process::Stop;
use crate::service::{Record, Service, ServiceStatus};
use crate::startup::{self, Event, Wait};

const FILE: &str = "environment.json";
/// The addresses as a configuration of `hw`, which reads this file and knows nothing else of the environment.
const CONFIG: &str = "config.yaml";
/// Time a service may take to answer after a restart.
const RESTART: Duration = Duration::from_secs(90);

/// Where a proxy is to listen, and what it is to forward to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The address that clients use.
    pub listen: SocketAddr,
    /// The address of the service itself.
    pub upstream: SocketAddr,
}

/// A running environment: its addresses, and handles to stop and start its services.
///
/// The handle may be dropped, or saved and loaded: the services run until [`Environment::down`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    /// Its folder (absolute).
    pub dir: PathBuf,
    /// `bootstrap.servers` of Kafka.
    pub bootstrap: String,
    /// Base URL of the schema registry's Confluent-compatible API, without a slash at the end.
    pub registry: Option<String>,
    /// URL of the ClickHouse HTTP interface.
    pub clickhouse: Option<String>,
    /// URL of the PostgreSQL database, whose user is `hw`, without a password.
    #[serde(default)]
    pub postgres: Option<String>,
    /// For each Kafka node, where a proxy may stand between it and its clients; empty unless it was asked for.
    /// Clients use [`Environment::proxied_bootstrap`], and a [`Proxy`](crate::Proxy) must run on every route.
    pub proxied: Vec<Route>,
    pub(crate) nodes: Vec<SavedNode>,
    pub(crate) services: Vec<Record>,
}

impl Environment {
    /// Brings the environment up: fetches what is missing, starts everything at once, waits until all of it answers.
    ///
    /// What already runs in this folder is kept; what has died is started again on its port and data. When a
    /// service fails, those that this call started are stopped. Blocks; `progress` receives lines to show.
    ///
    /// # Errors
    /// Missing programs, failed fetches, taken ports, services that end or do not answer (with the end of their
    /// log), and options that do not fit the environment that is there.
    pub fn up(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Environment, LocalError> {
        if !matches!(options.brokers, 1 | 3) {
            return Err(LocalError::Mismatch(format!("a cluster has 1 or 3 brokers, not {}", options.brokers)));
        }
        for part in ["logs", "pids"] {
            let dir = options.dir.join(part);
            fs::create_dir_all(&dir).map_err(LocalError::io(format!("cannot create {}", dir.display())))?;
        }
        let root = fs::canonicalize(&options.dir).map_err(LocalError::io("cannot resolve the environment's folder"))?;
        if root.to_str().is_none_or(|path| path.contains(['\n', ':', ';', ','])) {
            let shown = root.display();
            return Err(LocalError::Mismatch(format!("{shown}: the path must be UTF-8 without colon, semicolon or comma")));
        }
        let _lock = lock(&root)?;
        let mut environment = match Environment::load(&root)? {
            Some(environment) => environment.fits(options)?,
            None => Environment::planned(root, options)?,
        };
        let plan = environment.plan(options)?;
        environment.save()?;
        let mut begun = Vec::new();
        let outcome = startup::run(&plan, |event| {
            match event {
                Event::Progress(line) => progress(&line),
                Event::Started(record) => {
                    begun.push(record.service);
                    environment.put(*record);
                    environment.save()?;
                }
                Event::Failed(failure) => return Err(failure),
            }
            Ok(())
        });
        if let Err(failure) = outcome {
            let _ = environment.stop_all(&begun, Stop::Kill);
            return Err(failure);
        }
        Ok(environment)
    }

    /// Reads the environment of a folder, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, or is not one this version wrote.
    pub fn load(dir: &Path) -> Result<Option<Environment>, LocalError> {
        let file = dir.join(FILE);
        let text = match fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(LocalError::io(format!("cannot read {}", file.display())))?,
        };
        let read = serde_json::from_slice(&text);
        read.map(Some).map_err(|error| LocalError::Mismatch(format!("{} is not readable: {error}", file.display())))
    }

    /// `bootstrap.servers` that leads through the proxies, if they were asked for.
    pub fn proxied_bootstrap(&self) -> Option<String> {
        let addresses: Vec<String> = self.proxied.iter().map(|route| route.listen.to_string()).collect();
        (!addresses.is_empty()).then(|| addresses.join(","))
    }

    /// What runs.
    pub fn status(&self) -> Vec<ServiceStatus> {
        self.services.iter().map(|record| record.status(&self.dir)).collect()
    }

    /// Stops everything. With `wipe` the data is removed as well, so nothing is given time to shut down in order.
    ///
    /// # Errors
    /// A process that does not end, or a folder that cannot be removed.
    pub fn down(&self, wipe: bool) -> Result<(), LocalError> {
        let _lock = lock(&self.dir)?;
        let all: Vec<Service> = self.services.iter().map(|record| record.service).collect();
        self.stop_all(&all, if wipe { Stop::Kill } else { Stop::Terminate })?;
        if wipe { self.remove() } else { Ok(()) }
    }

    /// Stops one service and waits for its end. Its port and data stay as they are for [`Environment::start`].
    ///
    /// # Errors
    /// The service is not part of the environment, or does not end.
    pub fn stop(&self, service: Service, how: Stop) -> Result<(), LocalError> {
        self.record(service)?;
        self.stop_all(&[service], how)
    }

    /// Starts a stopped service again, on the same port and data, and waits until it answers. Does nothing if it
    /// runs.
    ///
    /// # Errors
    /// The service is not part of the environment, ends, or does not answer.
    pub fn start(&mut self, service: Service) -> Result<(), LocalError> {
        let mut record = self.record(service)?.clone();
        if record.alive(&self.dir) {
            return Ok(());
        }
        let from = record.start(&self.dir)?;
        self.put(record.clone());
        self.save()?;
        startup::await_service(&record, &self.dir, from, &Wait { patience: RESTART, cancelled: &|| false })
    }

    /// Stops a service and starts it again.
    ///
    /// # Errors
    /// Those of [`Environment::stop`] and [`Environment::start`].
    pub fn restart(&mut self, service: Service, how: Stop) -> Result<(), LocalError> {
        self.stop(service, how)?;
        self.start(service)
    }

    /// Freezes a service (SIGSTOP): connections stay open and nothing answers, as on a host that hangs.
    ///
    /// # Errors
    /// The service is not part of the environment.
    pub fn pause(&self, service: Service) -> Result<(), LocalError> {
        self.signal(service, Signal::STOP)
    }

    /// Lets a paused service continue.
    ///
    /// # Errors
    /// The service is not part of the environment.
    pub fn resume(&self, service: Service) -> Result<(), LocalError> {
        self.signal(service, Signal::CONT)
    }

    fn signal(&self, service: Service, signal: Signal) -> Result<(), LocalError> {
        let Some(running) = self.record(service)?.running else {
            return Ok(());
        };
        running.signal(signal, &self.dir).map_err(LocalError::io(format!("cannot signal {service}")))
    }

    pub(crate) fn record(&self, service: Service) -> Result<&Record, LocalError> {
        let found = self.services.iter().find(|record| record.service == service);
        found.ok_or(LocalError::NoSuchService(service))
    }

    fn put(&mut self, record: Record) {
        match self.services.iter_mut().find(|known| known.service == record.service) {
            Some(known) => *known = record,
            None => self.services.push(record),
        }
        self.services.sort_by_key(|record| record.service);
    }

    /// Signals all before waiting for any: three Kafka nodes that end one after the other lose their quorum, and
    /// the last one would wait for it in vain.
    fn stop_all(&self, services: &[Service], how: Stop) -> Result<(), LocalError> {
        let chosen = || self.services.iter().filter(|record| services.contains(&record.service));
        let failed = |record: &Record| LocalError::io(format!("cannot stop {}", record.service));
        if how == Stop::Terminate {
            for record in chosen() {
                let Some(running) = record.running else {
                    continue;
                };
                running.signal(Signal::TERM, &self.dir).map_err(failed(record))?;
            }
        }
        for record in chosen() {
            let Some(running) = record.running else {
                continue;
            };
            running.stop(how, &self.dir).map_err(failed(record))?;
            let _ = fs::remove_file(self.dir.join("pids").join(record.service.to_string()));
        }
        Ok(())
    }

    /// The addresses as a configuration of `hw`. Tables are created: what they hold is gone with the environment.
    fn configuration(&self) -> String {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let mut lines = vec!["# Written by `hw local up`: where its services are.".to_owned()];
        lines.push(format!("kafka: {{ bootstrap: {} }}", text(&self.bootstrap)));
        lines.extend(self.registry.iter().map(|url| format!("schema_registry: {{ url: {} }}", text(url))));
        lines.extend(self.clickhouse.iter().map(|url| format!("clickhouse: {{ url: {}, create_tables: true }}", text(url))));
        let user = postgres::USER;
        lines.extend(self.postgres.iter().map(|url| format!("postgres: {{ url: {}, user: {user}, create_tables: true }}", text(url))));
        lines.join("\n") + "\n"
    }

    fn save(&self) -> Result<(), LocalError> {
        let write = |name: &str, text: &[u8]| {
            let (file, part) = (self.dir.join(name), self.dir.join("environment.part"));
            let written = fs::write(&part, text).and_then(|()| fs::rename(&part, &file));
            written.map_err(LocalError::io(format!("cannot write {}", file.display())))
        };
        let json = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        write(FILE, &json.map_err(LocalError::io("cannot describe the environment"))?)?;
        write(CONFIG, self.configuration().as_bytes())
    }

    /// Removes what `up` creates, and the folder if nothing else is in it: it may be a folder of the user's.
    fn remove(&self) -> Result<(), LocalError> {
        let nodes = self.nodes.iter().map(|node| Service::Kafka(node.id).to_string());
        let folders = ["registry", "clickhouse", "postgres", "logs", "pids"].map(str::to_owned);
        for folder in folders.into_iter().chain(nodes) {
            let path = self.dir.join(folder);
            if path.exists() {
                fs::remove_dir_all(&path).map_err(LocalError::io(format!("cannot remove {}", path.display())))?;
            }
        }
        for file in ["cluster.id", "lock", FILE, CONFIG] {
            let _ = fs::remove_file(self.dir.join(file));
        }
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, LocalError> {
    let file = dir.join("lock");
    let failed = || format!("cannot lock {}", file.display());
    let lock = File::create(&file).map_err(LocalError::io(failed()))?;
    lock.lock().map_err(LocalError::io(failed()))?;
    Ok(lock)
}
