//! Starting services, all at once, and waiting until each one answers.
//!
//! One thread per service fetches, starts and waits. What it has started it reports at once, and the caller writes
//! that down before anything else happens: if the caller dies now, a later `down` still finds the process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::artifacts::{self, JavaProgram};
use crate::kafka::{self, Node};
use crate::process::{Launch, POLL, Running, log_tail};
use crate::service::{Record, Service};
use crate::{LocalError, postgres, probe, registry};

/// How long to wait, and when to give up earlier.
pub struct Wait<'a> {
    /// The longest time a service may take to answer.
    pub patience: Duration,
    /// Asked between two looks: true when waiting has become pointless.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// Waits until `ready` says so, while the process lives and the time lasts.
pub fn await_ready(
    service: Service,
    launch: &Launch,
    running: Running,
    marker: &Path,
    wait: &Wait<'_>,
    ready: impl Fn() -> bool,
) -> Result<(), LocalError> {
    let deadline = Instant::now() + wait.patience;
    let failed = |reason: String| {
        let (log, tail) = (launch.log.clone(), log_tail(&launch.log));
        Err(LocalError::Service { service, reason, log, tail })
    };
    loop {
        if !running.alive(marker) {
            return failed("the process ended".to_owned());
        }
        if ready() {
            return Ok(());
        }
        if (wait.cancelled)() {
            return Err(LocalError::Abandoned(service));
        }
        if Instant::now() >= deadline {
            return failed(format!("no answer within {} s", wait.patience.as_secs()));
        }
        std::thread::sleep(POLL);
    }
}

/// Waits for a service of an environment. `from` is the size its log had when it was started.
pub fn await_service(record: &Record, marker: &Path, from: u64, wait: &Wait<'_>) -> Result<(), LocalError> {
    let Some(running) = record.running else {
        return Err(LocalError::NoSuchService(record.service));
    };
    let address = record.address;
    let wait_for = |ready: &dyn Fn() -> bool| await_ready(record.service, &record.launch, running, marker, wait, ready);
    match record.service {
        Service::Kafka(id) => wait_for(&|| kafka::ready(id, address, &record.launch.log, from)),
        Service::Registry => wait_for(&|| registry::ready(address)),
        Service::ClickHouse => wait_for(&|| clickhouse_ready(address)),
        Service::Postgres => wait_for(&|| postgres::ready(address)),
    }
}

fn clickhouse_ready(address: SocketAddr) -> bool {
    matches!(probe::http(address, "POST", "/", Some("SELECT 41 + 1")), Ok((200, body)) if body.contains("42"))
}

/// What is to be started, with the ports it is to have.
pub struct Plan {
    pub root: PathBuf,
    /// All nodes of the cluster, because each one's configuration names the others.
    pub nodes: Vec<Node>,
    /// The nodes to start.
    pub start_nodes: Vec<u8>,
    /// Port and management port.
    pub registry: Option<(u16, u16)>,
    pub clickhouse: Option<ClickHousePlan>,
    pub postgres: Option<u16>,
    /// Settings of Kafka nodes besides those that make them nodes.
    pub kafka_settings: Vec<(String, String)>,
    /// Options of Kafka's Java.
    pub kafka_java: Vec<String>,
    pub patience: Duration,
}

/// The front is a program that is given the library, the data folder and the address.
pub struct ClickHousePlan {
    pub front: Vec<String>,
    pub port: u16,
}

/// What the threads tell the caller.
pub enum Event {
    /// One line about what is being done.
    Progress(String),
    /// A process runs: write it down.
    Started(Box<Record>),
    /// A thread gave up.
    Failed(LocalError),
}

/// Runs the plan. `observe` is called on this thread, in the order things happen. Returns the first failure.
pub fn run(plan: &Plan, mut observe: impl FnMut(Event) -> Result<(), LocalError>) -> Result<(), LocalError> {
    let cancelled = AtomicBool::new(false);
    let (sender, events): (Sender<Event>, Receiver<Event>) = mpsc::channel();
    let mut outcome = Ok(());
    std::thread::scope(|scope| {
        let spawn = |work: fn(&Starter<'_>) -> Result<(), LocalError>| {
            let starter = Starter { plan, events: sender.clone(), cancelled: &cancelled };
            scope.spawn(move || {
                if let Err(failure) = work(&starter) {
                    let _ = starter.events.send(Event::Failed(failure));
                }
            });
        };
        if !plan.start_nodes.is_empty() {
            spawn(|starter| starter.kafka());
        }
        if plan.registry.is_some() {
            spawn(|starter| starter.registry());
        }
        if plan.clickhouse.is_some() {
            spawn(|starter| starter.clickhouse());
        }
        if plan.postgres.is_some() {
            spawn(|starter| starter.postgres());
        }
        drop(sender);
        for event in events {
            let observed = match event {
                Event::Failed(failure) => Err(failure),
                event => observe(event),
            };
            if let Err(failure) = observed
                && outcome.is_ok()
            {
                cancelled.store(true, Ordering::Relaxed);
                outcome = Err(failure);
            }
        }
    });
    outcome
}

/// One thread's view of the plan.
struct Starter<'a> {
    plan: &'a Plan,
    events: Sender<Event>,
    cancelled: &'a AtomicBool,
}

impl Starter<'_> {
    fn say(&self, line: &str) {
        let _ = self.events.send(Event::Progress(line.to_owned()));
    }

    fn check(&self, service: Service) -> Result<(), LocalError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(LocalError::Abandoned(service)) } else { Ok(()) }
    }

    /// Starts a process and reports it; returns the record and the size its log had before.
    fn start(&self, service: Service, port: u16, launch: Launch) -> Result<(Record, u64), LocalError> {
        self.check(service)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut record = Record { service, address, launch, running: None };
        let from = record.start(&self.plan.root)?;
        let _ = self.events.send(Event::Started(Box::new(record.clone())));
        Ok((record, from))
    }

    fn await_start(&self, record: &Record, from: u64) -> Result<(), LocalError> {
        let begun = Instant::now();
        let cancelled = || self.cancelled.load(Ordering::Relaxed);
        let wait = Wait { patience: self.plan.patience, cancelled: &cancelled };
        await_service(record, &self.plan.root, from, &wait)?;
        self.say(&format!("{} ready on {} after {:.1} s", record.service, record.address, begun.elapsed().as_secs_f32()));
        Ok(())
    }

    fn kafka(&self) -> Result<(), LocalError> {
        let program: JavaProgram = kafka::prepare(&|line| self.say(line))?;
        let mut started = Vec::new();
        for node in self.plan.nodes.iter().filter(|node| self.plan.start_nodes.contains(&node.id)) {
            let mut launch = kafka::node_launch(&program, &self.plan.root, *node, &self.plan.nodes, &self.plan.kafka_settings)?;
            launch.args.splice(0..0, self.plan.kafka_java.clone());
            started.push(self.start(Service::Kafka(node.id), node.client, launch)?);
        }
        started.iter().try_for_each(|(record, from)| self.await_start(record, *from))
    }

    fn registry(&self) -> Result<(), LocalError> {
        let Some((port, management)) = self.plan.registry else {
            return Ok(());
        };
        let program = registry::prepare(&|line| self.say(line))?;
        let launch = registry::launch(&program, &self.plan.root, port, management)?;
        let (record, from) = self.start(Service::Registry, port, launch)?;
        self.await_start(&record, from)
    }

    fn postgres(&self) -> Result<(), LocalError> {
        let Some(port) = self.plan.postgres else {
            return Ok(());
        };
        let launch = postgres::launch(&self.plan.root, port)?;
        let (record, from) = self.start(Service::Postgres, port, launch)?;
        self.await_start(&record, from)
    }

    fn clickhouse(&self) -> Result<(), LocalError> {
        let Some(clickhouse) = &self.plan.clickhouse else {
            return Ok(());
        };
        let library = artifacts::chdb(&|line| self.say(line))?;
        let dir = self.plan.root.join("clickhouse");
        std::fs::create_dir_all(&dir).map_err(LocalError::io(format!("cannot create {}", dir.display())))?;
        let Some((program, leading)) = clickhouse.front.split_first() else {
            return Err(LocalError::NoSuchService(Service::ClickHouse));
        };
        let mut args = leading.to_vec();
        args.push(library.display().to_string());
        args.push(dir.display().to_string());
        args.push(format!("127.0.0.1:{}", clickhouse.port));
        let log = self.plan.root.join("logs").join("clickhouse.log");
        let launch = Launch { program: program.clone(), args, dir: self.plan.root.clone(), log };
        let (record, from) = self.start(Service::ClickHouse, clickhouse.port, launch)?;
        self.await_start(&record, from)
    }
}
