//! Apache Kafka in KRaft mode: every node is broker and controller.
//!
//! A node's storage is formatted without running `StorageTool` each time: the tool runs once per Kafka version
//! while the cache is filled, and its `bootstrap.checkpoint` (the feature levels a new cluster starts with, the
//! same for every cluster) is copied; `meta.properties`, the identity of cluster and node, is written here.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::artifacts::{self, JavaProgram, Progress};
use crate::ports::free_ports;
use crate::process::{Launch, Stop, log_since, random_bytes, tail_lines};
use crate::service::Service;
use crate::startup::{Wait, await_ready};
use crate::{KAFKA_VERSION, LocalError, probe};

/// The line of the log that says a node serves requests.
const STARTED: &str = "Kafka Server started";
const CHECKPOINT: &str = "bootstrap.checkpoint";

/// The ports of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Node id, from 1.
    pub id: u8,
    /// Port of the clients' listener.
    pub client: u16,
    /// Port of the controller listener.
    pub controller: u16,
    /// Port of the second listener and the port it advertises, where a [`Proxy`](crate::Proxy) is to listen.
    pub proxied: Option<(u16, u16)>,
}

/// Fetches Kafka and prepares what all clusters share.
pub fn prepare(progress: &Progress<'_>) -> Result<JavaProgram, LocalError> {
    let program = artifacts::kafka(progress)?;
    let checkpoint = program.home.join(CHECKPOINT);
    program.ensure_archive(progress, |archive| {
        progress("recording Kafka's class data archive (once)");
        record_archive(&program, archive)
    });
    if !checkpoint.exists() {
        // The archive could not be recorded; the checkpoint comes from the same run but is not optional.
        let scratch = tempfile::tempdir().map_err(LocalError::io("cannot create a temporary folder"))?;
        format_with_tool(&program, scratch.path(), Node { id: 1, client: 1, controller: 2, proxied: None })?;
    }
    Ok(program)
}

/// Formats a throwaway node with `StorageTool`, keeps its checkpoint, and runs the node once while the JVM records
/// the classes it loads.
fn record_archive(program: &JavaProgram, archive: &Path) -> Result<(), LocalError> {
    let scratch = tempfile::tempdir().map_err(LocalError::io("cannot create a temporary folder"))?;
    let dir = scratch.path();
    let ports = free_ports(2).map_err(LocalError::io("no free ports"))?;
    let [client, controller] = ports[..] else {
        return Err(LocalError::Mismatch("no free ports".to_owned()));
    };
    let node = Node { id: 1, client, controller, proxied: None };
    format_with_tool(program, dir, node)?;
    let mut launch = launch(program, dir, &dir.join("log"), 512)?;
    launch.args.retain(|arg| !arg.starts_with("-XX:SharedArchiveFile"));
    launch.args.insert(0, format!("-XX:ArchiveClassesAtExit={}", archive.display()));
    let running = launch.spawn().map_err(LocalError::io("cannot run java"))?;
    let service = Service::Kafka(1);
    let wait = Wait { patience: Duration::from_secs(120), cancelled: &|| false };
    let ready = await_ready(service, &launch, running, dir, &wait, || log_since(&launch.log, 0).contains(STARTED));
    running.stop(if ready.is_ok() { Stop::Terminate } else { Stop::Kill }, dir).map_err(LocalError::io("Kafka"))?;
    ready
}

fn format_with_tool(program: &JavaProgram, dir: &Path, node: Node) -> Result<(), LocalError> {
    write_configuration(dir, &dir.join("data"), node, &[node], &[])?;
    let mut tool = Command::new("java");
    tool.args(["-Xmx128m", "-cp"]).arg(class_path(program)?).args(["kafka.tools.StorageTool", "format", "-t"]);
    tool.arg(new_id()?).arg("-c").arg(dir.join("server.properties"));
    let output = tool.output().map_err(LocalError::io("cannot run java"))?;
    if !output.status.success() {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let command = "kafka.tools.StorageTool format".to_owned();
        return Err(LocalError::Fetch { what: "a formatted Kafka node".to_owned(), command, output: tail_lines(&text, 20) });
    }
    let (part, checkpoint) = (program.home.join("checkpoint.part"), program.home.join(CHECKPOINT));
    fs::copy(dir.join("data").join(CHECKPOINT), &part)
        .and_then(|_| fs::rename(&part, checkpoint))
        .map_err(LocalError::io("cannot keep Kafka's bootstrap checkpoint"))
}

/// Writes the configuration of one node of a cluster, formats its storage if it is new, and says how to start it.
pub fn node_launch(
    program: &JavaProgram,
    root: &Path,
    node: Node,
    all: &[Node],
    settings: &[(String, String)],
) -> Result<Launch, LocalError> {
    let dir = root.join(Service::Kafka(node.id).to_string());
    let data = dir.join("data");
    fs::create_dir_all(&data).map_err(LocalError::io(format!("cannot create {}", data.display())))?;
    write_configuration(&dir, &data, node, all, settings)?;
    if !data.join("meta.properties").exists() {
        let cluster = cluster_id(root)?;
        let identity = format!("version=1\ncluster.id={cluster}\nnode.id={}\ndirectory.id={}\n", node.id, new_id()?);
        fs::copy(program.home.join(CHECKPOINT), data.join(CHECKPOINT))
            .and_then(|_| fs::write(data.join("meta.properties"), identity))
            .map_err(LocalError::io(format!("cannot format {}", data.display())))?;
    }
    let log = root.join("logs").join(format!("{}.log", Service::Kafka(node.id)));
    launch(program, &dir, &log, if all.len() == 1 { 768 } else { 512 })
}

fn launch(program: &JavaProgram, dir: &Path, log: &Path, heap_mib: u32) -> Result<Launch, LocalError> {
    let mut args = vec![format!("-Xmx{heap_mib}m")];
    args.extend(["-Xms128m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true"].map(str::to_owned));
    if program.archive.exists() {
        args.push(format!("-XX:SharedArchiveFile={}", program.archive.display()));
    }
    args.push(format!("-Dlog4j2.configurationFile={}", dir.join("log4j2.properties").display()));
    args.extend(["-cp".to_owned(), class_path(program)?, "kafka.Kafka".to_owned()]);
    args.push(dir.join("server.properties").display().to_string());
    Ok(Launch { program: "java".to_owned(), args, dir: dir.to_owned(), log: log.to_owned() })
}

/// All jars in a fixed order: a class data archive is only valid for the class path it was recorded with.
fn class_path(program: &JavaProgram) -> Result<String, LocalError> {
    let lib = program.home.join("lib");
    let entries = fs::read_dir(&lib).map_err(LocalError::io(format!("cannot read {}", lib.display())))?;
    let mut jars: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    jars.retain(|path| path.extension().is_some_and(|extension| extension == "jar"));
    jars.sort();
    if jars.is_empty() {
        return Err(LocalError::Mismatch(format!("{} has no Kafka {KAFKA_VERSION}: remove it to fetch again", lib.display())));
    }
    Ok(jars.iter().map(|jar| jar.display().to_string()).collect::<Vec<_>>().join(":"))
}

fn write_configuration(dir: &Path, data: &Path, node: Node, all: &[Node], settings: &[(String, String)]) -> Result<(), LocalError> {
    let more: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(dir.join("server.properties"), server_properties(data, node, all) + &more))
        .and_then(|()| fs::write(dir.join("log4j2.properties"), LOG4J2))
        .map_err(LocalError::io(format!("cannot write to {}", dir.display())))
}

const LOG4J2: &str = "status=error
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c)%n%throwable
rootLogger.level=warn
rootLogger.appenderRef.out.ref=OUT
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
";

fn server_properties(data: &Path, node: Node, all: &[Node]) -> String {
    let voters: Vec<String> = all.iter().map(|node| format!("{}@127.0.0.1:{}", node.id, node.controller)).collect();
    let (replicas, in_sync) = if all.len() >= 3 { (3, 2) } else { (1, 1) };
    let (mut listeners, mut advertised) = (String::new(), String::new());
    if let Some((port, shown)) = node.proxied {
        listeners = format!(",PROXIED://127.0.0.1:{port}");
        advertised = format!(",PROXIED://127.0.0.1:{shown}");
    }
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{client}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
{FIXED}",
        id = node.id,
        client = node.client,
        controller = node.controller,
        voters = voters.join(","),
        data = data.display(),
    )
}

/// Settings that do not depend on the cluster. Small internal topics start fast; short timers make failures visible
/// soon. Retention is off because it uses record timestamps: test data from last year would be deleted.
const FIXED: &str = "num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
log.retention.ms=-1
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=8388608
";

/// Whether node `id` has logged that it serves requests since its log had `from` bytes, and answers a client's first
/// request with itself among the brokers. The log comes first: a request to a node that still starts waits for it.
pub fn ready(id: u8, address: SocketAddr, log: &Path, from: u64) -> bool {
    log_since(log, from).contains(STARTED) && probe::kafka_brokers(address).is_ok_and(|ids| ids.contains(&i32::from(id)))
}

/// The cluster's id, made up once per environment.
fn cluster_id(root: &Path) -> Result<String, LocalError> {
    let file = root.join("cluster.id");
    if let Ok(id) = fs::read_to_string(&file) {
        return Ok(id);
    }
    let id = new_id()?;
    fs::write(&file, &id).map_err(LocalError::io(format!("cannot write {}", file.display())))?;
    Ok(id)
}

/// A random id as Kafka writes them: 16 bytes in URL-safe base64 without padding.
fn new_id() -> Result<String, LocalError> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let number = u128::from_be_bytes(random_bytes().map_err(LocalError::io("no random numbers"))?) >> 1;
    let digit = |shift: u32| char::from(ALPHABET[(number >> shift) as usize & 63]);
    // 21 digits hold the upper 126 bits, the last one the remaining 2. The top bit is 0: no id begins with '-',
    // which Kafka's tools would take for an option.
    let head: String = (0..21).map(|index| digit(122 - 6 * index)).collect();
    Ok(format!("{head}{}", char::from(ALPHABET[((number & 3) << 4) as usize])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_nodes_vote_and_replicate() {
        let all: Vec<Node> =
            (1..=3).map(|id| Node { id, client: 9091 + u16::from(id), controller: 100 + u16::from(id), proxied: None }).collect();
        let text = server_properties(Path::new("/data"), all[1], &all);
        assert!(text.contains("controller.quorum.voters=1@127.0.0.1:101,2@127.0.0.1:102,3@127.0.0.1:103\n"));
        assert!(text.contains("listeners=PLAINTEXT://127.0.0.1:9093,CONTROLLER://127.0.0.1:102\n"));
        assert!(text.contains("\nmin.insync.replicas=2\n") && text.contains("\nnode.id=2\n"));
    }

    #[test]
    fn the_second_listener_advertises_the_proxy() {
        let node = Node { id: 1, client: 1, controller: 2, proxied: Some((3, 4)) };
        let text = server_properties(Path::new("/data"), node, &[node]);
        assert!(text.contains("\nadvertised.listeners=PLAINTEXT://127.0.0.1:1,PROXIED://127.0.0.1:4\n"), "{text}");
        assert!(text.contains(",PROXIED://127.0.0.1:3\n"), "{text}");
    }

    #[test]
    fn ids_are_22_characters_and_differ() {
        let (one, two) = (new_id().unwrap(), new_id().unwrap());
        assert_eq!((one.len(), two.len()), (22, 22));
        assert_ne!(one, two);
    }
}
