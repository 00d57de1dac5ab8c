//! What is asked for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::LocalError;

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the environment: data, logs and `environment.json`. Created if missing.
    pub dir: PathBuf,
    /// Number of Kafka nodes: 1 or 3. With 3, topics have three replicas and need two in sync.
    pub brokers: u8,
    /// Whether to start the schema registry.
    pub registry: bool,
    /// Whether to start the ClickHouse engine behind its HTTP front.
    pub clickhouse: bool,
    /// Whether to start a PostgreSQL server, which must be installed.
    pub postgres: bool,
    /// Command that runs [`serve_clickhouse`](crate::serve_clickhouse): a program and its leading arguments. The
    /// engine library, the data folder and the address are appended. Empty: [`default_clickhouse_front`].
    pub clickhouse_front: Vec<OsString>,
    /// Gives every Kafka node a second listener that advertises the port of a proxy; see [`Environment::proxied`](crate::Environment::proxied).
    pub proxied: bool,
    /// Settings of every Kafka node besides those that make it a node; these win.
    pub kafka_settings: Vec<(String, String)>,
    /// Options of Kafka's Java besides its own, before them.
    pub kafka_java: Vec<String>,
    /// Ports to use; a port left out is chosen freely.
    pub ports: Ports,
    /// Longest time each service may take from being started to answering.
    pub patience: Duration,
}

/// Ports on 127.0.0.1 that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// Port of the first Kafka node; the others follow one by one.
    pub kafka: Option<u16>,
    /// Port of the schema registry.
    pub registry: Option<u16>,
    /// Port of the ClickHouse HTTP front.
    pub clickhouse: Option<u16>,
    /// Port of PostgreSQL.
    pub postgres: Option<u16>,
}

impl Ports {
    /// The usual ports, which the `local` configuration layer and the compose file also use: 9092, 8081, 8123; 5432.
    pub const USUAL: Ports = Ports { kafka: Some(9092), registry: Some(8081), clickhouse: Some(8123), postgres: Some(5432) };
}

impl Options {
    /// One Kafka node, the registry and ClickHouse, on free ports.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            brokers: 1,
            registry: true,
            clickhouse: true,
            postgres: false,
            clickhouse_front: Vec::new(),
            proxied: false,
            kafka_settings: Vec::new(),
            kafka_java: Vec::new(),
            ports: Ports::default(),
            patience: Duration::from_secs(120),
        }
    }
}

/// The front's command as text, because it is written down.
pub(crate) fn front(options: &Options) -> Result<Vec<String>, LocalError> {
    let command = match options.clickhouse_front.is_empty() {
        true => default_clickhouse_front()?,
        false => options.clickhouse_front.clone(),
    };
    let text = |part: OsString| part.into_string();
    command
        .into_iter()
        .map(text)
        .collect::<Result<_, _>>()
        .map_err(|part| LocalError::Mismatch(format!("the command of the ClickHouse front must be UTF-8: {}", part.display())))
}

/// Looks for a program that can run the ClickHouse front: `HEADWATER_CLICKHOUSE_FRONT`, or `clickhouse-front` or
/// `hw` beside the running program or one folder up (where Cargo puts programs when a test or bench runs).
///
/// # Errors
/// None is there: the message says how to build one.
pub fn default_clickhouse_front() -> Result<Vec<OsString>, LocalError> {
    if let Some(program) = std::env::var_os("HEADWATER_CLICKHOUSE_FRONT").filter(|program| !program.is_empty()) {
        return Ok(vec![program]);
    }
    let current = std::env::current_exe().map_err(LocalError::io("cannot tell which program runs"))?;
    for dir in current.ancestors().skip(1).take(2) {
        let (front, hw) = (dir.join("clickhouse-front"), dir.join("hw"));
        if front.is_file() {
            return Ok(vec![front.into()]);
        }
        if hw.is_file() {
            return Ok(vec![hw.into(), "local".into(), "clickhouse-front".into()]);
        }
    }
    Err(LocalError::MissingTool {
        tool: "clickhouse-front",
        install: "build it with `cargo build -p headwater-devenv`, or name it in HEADWATER_CLICKHOUSE_FRONT",
    })
}
