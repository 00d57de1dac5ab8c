//! Running a pipeline: connect, check, create what is missing, start lanes and deliveries, and stop cleanly.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, BrokerError, Failure, SystemClock};
use headwater_engine::delivery::Counters;
use headwater_engine::lane::{LaneConfig, TOMBSTONE_RETENTION, World};
use headwater_engine::manifest::store::Deployed;
use headwater_engine::manifest::{Keeper, deploy};
use headwater_engine::pipeline::can_name_a_pipeline;
use headwater_engine::plan::{OutboxSink, Output, Plan};
use headwater_engine::schemas::SchemaSource;
use headwater_engine::stats::Stats;
use headwater_engine::tables::LoadedTables;
use headwater_engine::time::TrustedWall;
use headwater_engine::worker::{self, Stop};
use operator_core::{Millis, Span};
use parking_lot::Mutex;
use sha2::Digest;

use crate::access;
use crate::catalog::{Live, NoSubjects, RegistrySubjects, Subjects};
use crate::config::{Config, can_name_a_worker};
use crate::deliver::Delivering;
use crate::diagnose::Problem;
use crate::http::{Pages, Shown};
use crate::kafka::{Kafka, KafkaConfig};
use crate::outages::Outages;
use crate::preflight::{check_internal, check_times, refusals, short_lived, tombstones_kept};
use crate::prepare::{self, Loaded};
use crate::schema_registry::{Registry, RegistryConfig, Schemas};
use crate::sink::{self, MakeStore, Place};

/// What the services of an environment look like from here.
#[derive(Clone)]
pub struct Services {
    pub broker: Arc<dyn Broker>,
    /// The same, where it is real brokers: only they have access rules.
    pub kafka: Option<Arc<Kafka>>,
    pub subjects: Arc<dyn Subjects>,
    pub schemas: Arc<dyn SchemaSource>,
    pub runtime: tokio::runtime::Handle,
    /// Which of them answer; their clients report it.
    pub outages: Outages,
}

/// Connects to the brokers and the registry of an environment, whose clients report to `outages` whether they answer. `commit`: how often a
/// pipeline commits what it reads, if one is to run.
pub fn connect(
    config: &Config,
    client_id: &str,
    commit: Option<Span>,
    runtime: &tokio::runtime::Handle,
    outages: &Outages,
) -> Result<Services, Problem> {
    let kafka = Arc::new(kafka(config, client_id, commit)?);
    let service = outages.service("kafka", "");
    kafka.report(move |answered| service.report(answered));
    let (subjects, schemas): (Arc<dyn Subjects>, Arc<dyn SchemaSource>) = match registry(config)? {
        Some(registry) => {
            let registry = registry.reporting(outages.service("schema_registry", ""));
            let schemas = Schemas::new(registry.clone(), runtime.clone());
            (Arc::new(RegistrySubjects { registry, runtime: runtime.clone() }), Arc::new(schemas))
        }
        None => (Arc::new(NoSubjects), Arc::new(headwater_engine::schemas::MemorySchemas::default())),
    };
    Ok(Services { broker: kafka.clone(), kafka: Some(kafka), subjects, schemas, runtime: runtime.clone(), outages: outages.clone() })
}

/// The brokers of an environment; `commit` as for [`connect`].
fn kafka(config: &Config, client_id: &str, commit: Option<Span>) -> Result<Kafka, Problem> {
    let bootstrap = config.bootstrap().map_err(Problem::plain)?.to_string();
    let mut properties = BTreeMap::new();
    for (name, setting) in &config.kafka.properties {
        properties.insert(name.clone(), setting.reveal().map_err(Problem::plain)?);
    }
    let kafka = KafkaConfig {
        properties,
        transaction_timeout: Duration::from_millis(config.kafka.transaction_timeout.millis() as u64),
        session_timeout: Duration::from_millis(config.kafka.session_timeout.millis() as u64),
        client_id: client_id.to_string(),
        ..KafkaConfig::new(bootstrap.clone())
    };
    let kafka = match commit {
        Some(interval) => kafka.committing_every(Duration::from_millis(interval.millis().unsigned_abs())),
        None => kafka,
    };
    Kafka::connect(kafka).map_err(|e| {
        let problem = Problem::plain(format!("can't reach Kafka at {bootstrap}: {e}"));
        if e.failure == Failure::Transient { problem.with_code(UNREACHABLE) } else { problem }
    })
}

/// A client of the environment's schema registry, if it has one.
pub fn registry(config: &Config) -> Result<Option<Registry>, Problem> {
    let Some(settings) = &config.schema_registry else { return Ok(None) };
    let password = settings.password.as_ref().map(|p| p.reveal()).transpose().map_err(Problem::plain)?;
    let token = settings.token.as_ref().map(|t| t.reveal()).transpose().map_err(Problem::plain)?;
    let tls = settings.tls.read().map_err(|(key, why)| Problem::plain(format!("`schema_registry.tls.{key}`: {why}")))?;
    let settings =
        RegistryConfig { username: settings.username.clone(), password, token, tls, ..RegistryConfig::new(settings.url.clone()) };
    Registry::new(settings).map(Some).map_err(Problem::plain)
}

/// Code of a problem that may pass by itself.
pub const UNREACHABLE: &str = "service-unreachable";

/// A pipeline that is ready to run: planned against the live services, its topics created.
pub struct Prepared {
    pub plan: Arc<Plan>,
    pub services: Services,
    pub world: World,
    pub deployed: Deployed,
    /// How old a local checkpoint may be to be used.
    pub checkpoint_age: Millis,
}

impl Services {
    /// A service that doesn't answer, and what came instead: what failed because of it may work later.
    pub fn unreachable(&self) -> Option<String> {
        self.brokers_away().or_else(|| self.subjects.unreachable())
    }

    /// Why the brokers can't be asked now, if so.
    pub fn brokers_away(&self) -> Option<String> {
        let away = self.broker.topics().err().filter(|e| e.failure == Failure::Transient);
        away.map(|e| format!("Kafka: {e}"))
    }
}

/// Plans against the live services; warnings come beside the plan.
///
/// # Errors
/// Everything that is wrong with the pipeline. Commands that grant missing rights have been shown.
pub fn plan_on(loaded: &Loaded, services: &Services) -> Result<(Plan, Vec<Problem>), Vec<Problem>> {
    let catalog = Live::new(services.broker.clone(), services.subjects.clone());
    prepare::make_plan(loaded, &catalog).map_err(|problems| {
        let refused = services.kafka.as_ref().and_then(|kafka| kafka.refuses_login());
        if let Some(e) = refused.or_else(|| catalog.away()) {
            return vec![of_broker(&e)];
        }
        // A topic that can't be described can't be planned with.
        if let Some(kafka) = services.kafka.as_ref().filter(|_| problems.iter().any(|p| p.code == "broker")) {
            access::show_grants(&access::grants_for_named(&loaded.pipeline, kafka));
        }
        problems
    })
}

/// What brokers answered, or did not: [`UNREACHABLE`] if that may pass by itself.
pub fn of_broker(e: &BrokerError) -> Problem {
    let problem = Problem::plain(e.to_string());
    if e.failure == Failure::Transient { problem.with_code(UNREACHABLE) } else { problem }
}

/// Plans against the live services and creates the topics the pipeline needs.
pub fn prepare(loaded: &Loaded, services: Services) -> Result<Prepared, Vec<Problem>> {
    let (mut plan, warnings) = plan_on(loaded, &services)?;
    prepare::print(&warnings);
    if let Some(kafka) = &services.kafka {
        may_run(&plan, kafka)?;
    }
    check_internal(&plan, services.broker.as_ref()).map_err(|e| vec![of_broker(&e)])?;
    let agreed = deploy(services.broker.as_ref(), &mut plan).map_err(|e| refusals(loaded, e))?;
    let version = agreed.deployed.manifest.version;
    if agreed.adopted {
        tracing::warn!(pipeline = %plan.pipeline, "the pipeline has run without a manifest: its state and positions are used as they are; later starts are compared with this version");
    }
    for change in &agreed.changes {
        tracing::info!(pipeline = %plan.pipeline, version, %change, "the pipeline has changed");
    }
    let kept = tombstones_kept(&plan, services.broker.as_ref()).map_err(|e| vec![of_broker(&e)])?;
    if kept < TOMBSTONE_RETENTION {
        tracing::warn!(pipeline = %plan.pipeline, "{}", short_lived(kept));
    }
    let plan = Arc::new(plan);
    let subjects = services.subjects.clone();
    let known: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let schema_ids = Arc::new(move |subject: &str, text: &str| {
        if let Some(id) = known.lock().get(subject) {
            return Ok(*id);
        }
        let id = subjects.register(subject, text)?;
        known.lock().insert(subject.to_string(), id);
        Ok(id)
    });
    let clock = Arc::new(SystemClock::default());
    let world = World {
        plan: plan.clone(),
        broker: services.broker.clone(),
        wall: Arc::new(TrustedWall::of(clock.as_ref())),
        clock,
        schemas: services.schemas.clone(),
        schema_ids,
        tables: Arc::new(LoadedTables::new(&plan)),
        stats: Arc::new(Stats::default()),
    };
    Ok(Prepared { plan, services, world, deployed: agreed.deployed, checkpoint_age: kept / 2 })
}

/// Whether this client has the rights that the worker will need.
fn may_run(plan: &Plan, kafka: &Kafka) -> Result<(), Vec<Problem>> {
    let access = access::check(plan, kafka).map_err(|e| vec![of_broker(&e)])?;
    let problems = access.problems();
    if problems.is_empty() {
        return Ok(());
    }
    access::show_grants(&access.grants());
    Err(problems)
}

/// A worker's slot: the first free one of the state folder, held by a file lock that dies with the process, so that a
/// restart takes the same slot again and settles what it left open.
pub struct Slot {
    pub name: String,
    pub dir: PathBuf,
    _lock: Option<File>,
}

impl Slot {
    /// Takes `id`, or the first free slot of `state_dir`.
    pub fn take(state_dir: &Path, pipeline: &str, id: Option<&str>) -> Result<Slot, String> {
        let base = state_folder(state_dir, pipeline)?;
        if let Some(id) = id.filter(|id| !can_name_a_worker(id)) {
            return Err(format!(
                "`{id}` can't be the name of a worker (worker.id): letters, digits, `.`, `_` and `-`, a letter or digit first"
            ));
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
        let names: Vec<String> = match id {
            Some(id) => vec![id.to_string()],
            None => {
                // Workers with other state folders on the same host must not share transactional ids.
                let folder = base.canonicalize().map_err(|e| e.to_string())?;
                let mark = sha2::Sha256::digest(folder.as_os_str().as_encoded_bytes());
                let mark: String = mark.iter().take(3).map(|b| format!("{b:02x}")).collect();
                (0..64).map(|n| format!("{host}-{mark}-{n}")).collect()
            }
        };
        for name in names {
            let lock = base.join(format!("{name}.lock"));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&lock)
                .map_err(|e| format!("{}: {e}", lock.display()))?;
            if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Slot { dir: base.join(&name), name, _lock: Some(file) });
            }
        }
        Err(format!("running processes hold every worker slot of {}", base.display()))
    }
}

/// Why a state folder that is a link is refused.
pub fn is_a_link(folder: &Path) -> String {
    format!("the state folder {} is a link: name the folder itself in `worker.state_dir`", folder.display())
}

/// What may have happened in a folder that others can write. One of another owner can't be closed, and is an error.
pub const EXPOSED: &str =
    "other users can write the state folder and may have changed its checkpoints: if in question, delete its files. The start closes it";

/// Whether other users can change what is in a folder.
pub fn writable_by_others(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|found| found.permissions().mode() & 0o022 != 0)
}

/// The folder of a pipeline's workers, readable by their user alone. A folder left by an earlier version is restricted to mode 0700.
///
/// # Errors
/// It can't be made or closed, or it is a link.
pub fn state_folder(state_dir: &Path, pipeline: &str) -> Result<PathBuf, String> {
    if !can_name_a_pipeline(pipeline) {
        return Err(format!("`{pipeline}` can't be the name of a pipeline"));
    }
    let base = state_dir.join(pipeline);
    let fail = |e: std::io::Error| format!("the state folder {} can't be used: {e}", base.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&base).map_err(fail)?;
    if !std::fs::symlink_metadata(&base).map_err(fail)?.is_dir() {
        return Err(is_a_link(&base));
    }
    if writable_by_others(&base) {
        tracing::warn!(folder = %base.display(), "{EXPOSED}");
    }
    std::fs::set_permissions(&base, Permissions::from_mode(0o700)).map_err(fail)?;
    Ok(base)
}

/// A pipeline that runs.
pub struct Running {
    pub stop: Stop,
    pub shown: Shown,
    pub pages: Arc<Pages>,
    /// Why the worker had to end because of what others did to topics.
    changed: Arc<Mutex<Option<String>>>,
    worker: std::thread::JoinHandle<Result<(), String>>,
    deliveries: Vec<std::thread::JoinHandle<Result<(), String>>>,
    _slot: Slot,
}

/// Starts lanes and deliveries to tables, and shows them on the pages; `stop` ends them. `schemas`: the folder with statements that
/// create tables.
pub fn start(prepared: &Prepared, config: &Config, schemas: Option<&Path>, stop: Stop, pages: &Arc<Pages>) -> Result<Running, Problem> {
    let Services { runtime, outages, .. } = &prepared.services;
    start_with(prepared, config, stop, pages, &|output, outbox| {
        let sink = sink::of(outbox.table.as_ref()).ok_or_else(|| Problem::plain(format!("sink `{}` has no store", output.name)))?;
        sink.prepare(&Place { plan: &prepared.plan, output, outbox, config, schemas, runtime, outages })
    })
}

/// How often the log repeats that a sink has stopped.
const REMINDER: Duration = Duration::from_secs(3_600);

/// Makes what opens the store of an output.
pub type MakeStores<'a> = dyn Fn(&Output, &OutboxSink) -> Result<MakeStore, Problem> + 'a;

/// [`start`] with stores of the caller's own making.
pub fn start_with(prepared: &Prepared, config: &Config, stop: Stop, pages: &Arc<Pages>, make: &MakeStores<'_>) -> Result<Running, Problem> {
    check_times(prepared.plan.guarantee, Span(prepared.plan.commit_interval), config)?;
    let slot = Slot::take(&config.worker.state_dir, &prepared.plan.pipeline, config.worker.id.as_deref()).map_err(Problem::plain)?;
    let (deliveries, counters) = deliveries(prepared, config, make, &slot, &stop)?;
    let shown = Shown {
        plan: prepared.plan.clone(),
        stats: prepared.world.stats.clone(),
        clock: prepared.world.clock.clone(),
        tables: prepared.world.tables.clone(),
        deliveries: counters,
    };
    let (epoch_rows, epoch_bytes) = (config.worker.epoch_rows.max(1), config.worker.epoch_bytes.max(1));
    let lane = |index| LaneConfig {
        state_dir: Some(slot.dir.clone()),
        epoch_rows,
        epoch_bytes,
        checkpoint_age: prepared.checkpoint_age,
        ..LaneConfig::new(slot.name.clone(), index)
    };
    let lanes = (0..config.worker.lanes.max(1)).map(lane).collect();
    let (world, stopping) = (prepared.world.clone(), stop.clone());
    let worker = std::thread::Builder::new()
        .name("worker".into())
        .spawn(move || worker::run(&world, lanes, &stopping).map_err(|e| e.to_string()))
        .map_err(|e| Problem::plain(e.to_string()))?;
    let changed = keep_manifest(prepared, &stop)?;
    pages.runs(shown.clone());
    Ok(Running { stop, shown, pages: pages.clone(), changed, worker, deliveries, _slot: slot })
}

/// How often a worker looks at the manifest and at the topics it names.
const LOOK: Duration = Duration::from_secs(2);

/// Maintains the manifest on a detached thread: with brokers away a question takes longer than a worker has
/// to stop.
fn keep_manifest(prepared: &Prepared, stop: &Stop) -> Result<Arc<Mutex<Option<String>>>, Problem> {
    let mut keeper = Keeper::new(prepared.services.broker.clone(), prepared.plan.clone(), prepared.deployed.clone());
    let (changed, stop, pipeline) = (Arc::new(Mutex::new(None)), stop.clone(), prepared.plan.pipeline.clone());
    let found = changed.clone();
    let watch = move || {
        while !stop.is_stopped() {
            match keeper.look() {
                Ok(None) => {}
                Ok(Some(why)) => {
                    *found.lock() = Some(why);
                    return stop.stop();
                }
                Err(e) => tracing::debug!(%pipeline, cause = %e, "can't read the manifest"),
            }
            stop.pause(LOOK);
        }
    };
    std::thread::Builder::new().name("manifest".into()).spawn(watch).map_err(|e| Problem::plain(e.to_string()))?;
    Ok(changed)
}

type Deliveries = (Vec<std::thread::JoinHandle<Result<(), String>>>, Vec<(String, Arc<Counters>)>);

fn deliveries(prepared: &Prepared, config: &Config, make: &MakeStores<'_>, slot: &Slot, stop: &Stop) -> Result<Deliveries, Problem> {
    let (mut threads, mut counters) = (Vec::new(), Vec::new());
    let session_timeout = config.kafka.session_timeout.millis();
    for (output, outbox) in prepared.plan.outboxes() {
        let delivery = Delivering::to(prepared, output, outbox, session_timeout, &slot.name, make(output, outbox)?);
        let (counted, sink, stop) = (delivery.counters(), output.name.clone(), stop.clone());
        counters.push((sink.clone(), counted.clone()));
        let thread = std::thread::Builder::new().name(format!("sink-{sink}")).spawn(move || {
            // A fault stays in its sink: lanes and other sinks continue, and its rows wait in its outbox.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| delivery.run(&stop)));
            let ended = ended.unwrap_or_else(|_| Err("the delivery panicked: this is a bug".to_string()));
            if let Err(cause) = &ended {
                counted.stop(cause);
            }
            while let (Err(cause), false) = (&ended, stop.is_stopped()) {
                tracing::error!(
                    %sink, %cause,
                    "the sink has stopped, everything else continues; its rows stay in the outbox topic for its retention.ms \
                     (7 days unless changed), then they are deleted: fix the cause and restart the worker"
                );
                stop.pause(REMINDER);
            }
            ended.map_err(|cause| format!("sink `{sink}`: {cause}"))
        });
        threads.push(thread.map_err(|e| Problem::plain(e.to_string()))?);
    }
    Ok((threads, counters))
}

impl Running {
    /// Waits until everything has ended; the first cause that does not pass by itself is the error, that of a sink included.
    pub fn wait(self) -> Result<(), Problem> {
        let mut result = Ok(());
        let changed = self.changed.clone();
        for thread in std::iter::once(self.worker).chain(self.deliveries) {
            let ended = thread.join().unwrap_or_else(|_| Err("a thread panicked".into()));
            result = result.and(ended);
        }
        result.and_then(|()| changed.lock().take().map_or(Ok(()), Err)).map_err(Problem::plain)
    }
}

/// Stops on SIGINT, SIGTERM and SIGHUP (a terminal that was closed; there is no configuration to be read again): what is open is
/// committed first. A second signal ends the process at once.
pub fn stop_on_signals(runtime: &tokio::runtime::Handle, stop: Stop) {
    use tokio::signal::unix::{SignalKind, signal};
    let _entered = runtime.enter();
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals else {
        return tracing::error!("can't install signal handlers: a signal ends the process at once");
    };
    runtime.spawn(async move {
        for stopped in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if stopped {
                std::process::exit(130);
            }
            tracing::info!("stopping: committing open transactions");
            stop.stop();
        }
    });
}

#[cfg(test)]
mod starting;

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_slot_stays_in_its_folder_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        for id in ["../../../x", "..", "/x", "a/b", "", "-x", ".hidden", "x\u{0}", &"x".repeat(101)] {
            assert!(Slot::take(&state, "orders", Some(id)).is_err(), "{id}");
        }
        assert!(Slot::take(&state, "../orders", None).is_err());
        // Open to others, as a version before this one left it.
        std::fs::create_dir_all(state.join("orders")).unwrap();
        std::fs::set_permissions(state.join("orders"), Permissions::from_mode(0o755)).unwrap();
        let slot = Slot::take(&state, "orders", Some("worker-1.eu_west")).unwrap();
        assert_eq!(slot.dir, state.join("orders/worker-1.eu_west"));
        assert_eq!((mode(&state.join("orders")), mode(&state.join("orders/worker-1.eu_west.lock"))), (0o700, 0o600));
        let elsewhere = dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, state.join("linked")).unwrap();
        assert!(Slot::take(&state, "linked", None).is_err_and(|e| e.contains("is a link")));
    }
}
