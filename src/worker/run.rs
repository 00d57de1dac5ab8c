//! Running a pipeline: connect, check, create what is missing, start lanes and deliveries, and stop cleanly.

mod services;
mod slot;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::SystemClock;
use headwater_engine::delivery::Counters;
use headwater_engine::lane::{LaneConfig, Runtime};
use headwater_engine::manifest::store::Deployed;
use headwater_engine::manifest::{DeployError, Keeper, Noted, deploy};
use headwater_engine::plan::{OutboxSink, Output, Plan, TOMBSTONE_RETENTION};
use headwater_engine::worker::{self, Stop};
use operator_core::{Interval, Millis};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::diagnose::Problem;
use crate::observe::http::{Pages, Shown};
use crate::observe::outages::Outages;
use crate::pipeline_files::catalog::Live;
use crate::pipeline_files::{self, Loaded};
use crate::sinks::{self, MakeStore, Place};
use crate::worker::access;
use crate::worker::deliver::{At, Delivering};
use crate::worker::preflight::{check_internal, check_times, refusals, short_lived, tombstones_kept};
use headwater_kafka::Kafka;

pub use services::{Services, connect, registry};
pub use slot::{EXPOSED, Slot, addresses, held, is_a_link, state_folder, writable_by_others};

/// A pipeline that is ready to run: planned against the live services, its topics created.
pub struct Prepared {
    pub plan: Arc<Plan>,
    pub services: Services,
    pub runtime: Runtime,
    pub deployed: Deployed,
    /// How old a local checkpoint may be to be used.
    pub checkpoint_age: Millis,
}

/// Serves the pages of a worker, if it is to have any.
///
/// # Errors
/// The address can't be listened on.
pub fn open_pages(config: &Config, pipeline: &str, outages: &Outages, runtime: &Handle) -> Result<Arc<Pages>, Problem> {
    let timeout = Duration::from_millis(config.kafka.transaction_timeout.millis() as u64);
    Pages::new(pipeline, config.worker.lanes.max(1), timeout, outages.clone()).open(config.worker.http.as_deref(), runtime)
}

/// Plans against the live services; warnings come beside the plan.
///
/// # Errors
/// Everything that is wrong with the pipeline. Commands that grant missing rights have been shown.
pub fn plan_on(loaded: &Loaded, services: &Services) -> Result<(Plan, Vec<Problem>), Vec<Problem>> {
    let catalog = Live::new(services.broker.clone(), services.subjects.clone());
    pipeline_files::make_plan(loaded, &catalog).map_err(|problems| {
        let refused = services.kafka.as_ref().and_then(|kafka| kafka.refuses_login());
        if let Some(e) = refused.or_else(|| catalog.away()) {
            return vec![Problem::of_broker(&e)];
        }
        // A topic that can't be described can't be planned with.
        if let Some(kafka) = services.kafka.as_ref().filter(|_| problems.iter().any(|p| p.code == "broker")) {
            access::show_grants(&access::grants_for_named(&loaded.pipeline, kafka));
        }
        problems
    })
}

/// Plans against the live services and creates the topics the pipeline needs.
pub fn prepare(loaded: &Loaded, services: Services) -> Result<Prepared, Vec<Problem>> {
    let (mut plan, warnings) = plan_on(loaded, &services)?;
    pipeline_files::print(&warnings);
    if let Some(kafka) = &services.kafka {
        may_run(&plan, kafka)?;
    }
    let internal = check_internal(&plan, services.broker.as_ref()).map_err(|e| vec![Problem::of_broker(&e)])?;
    if !internal.is_empty() {
        return Err(refusals(loaded, DeployError::Refused(internal)));
    }
    let agreed = deploy(services.broker.as_ref(), &mut plan).map_err(|e| refusals(loaded, e))?;
    let version = agreed.deployed.manifest.version;
    if agreed.adopted {
        tracing::warn!(pipeline = %plan.pipeline, "the pipeline has run without a manifest: its state and positions are used as they are; later starts are compared with this version");
    }
    for change in &agreed.changes {
        tracing::info!(pipeline = %plan.pipeline, version, %change, "the pipeline has changed");
    }
    let kept = tombstones_kept(&plan, services.broker.as_ref()).map_err(|e| vec![Problem::of_broker(&e)])?;
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
    let (clock, schemas) = (Arc::new(SystemClock::default()), services.schemas.clone());
    let noted = Arc::new(Noted::after(agreed.deployed.clone()));
    let runtime = Runtime { noted, ..Runtime::new(plan.clone(), services.broker.clone(), clock, schemas, schema_ids) };
    Ok(Prepared { plan, services, runtime, deployed: agreed.deployed, checkpoint_age: kept / 2 })
}

/// Whether this client has the rights that the worker will need.
fn may_run(plan: &Plan, kafka: &Kafka) -> Result<(), Vec<Problem>> {
    let access = access::check(plan, kafka).map_err(|e| vec![Problem::of_broker(&e)])?;
    let problems = access.problems();
    if problems.is_empty() {
        return Ok(());
    }
    access::show_grants(&access.grants());
    Err(problems)
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
        let sink = sinks::of(outbox.table.as_ref()).ok_or_else(|| Problem::plain(format!("sink `{}` has no store", output.name)))?;
        sink.prepare(&Place { plan: &prepared.plan, output, outbox, config, schemas, runtime, outages })
    })
}

/// How often the log repeats that a sink has stopped.
const REMINDER: Duration = Duration::from_secs(3_600);

/// Makes what opens the store of an output.
pub type MakeStores<'a> = dyn Fn(&Output, &OutboxSink) -> Result<MakeStore, Problem> + 'a;

/// [`start`] with stores of the caller's own making.
pub fn start_with(prepared: &Prepared, config: &Config, stop: Stop, pages: &Arc<Pages>, make: &MakeStores<'_>) -> Result<Running, Problem> {
    check_times(prepared.plan.guarantee, Interval(prepared.plan.commit_interval), config)?;
    let slot = Slot::take(&config.worker.state_dir, &prepared.plan.pipeline, config.worker.id.as_deref()).map_err(Problem::plain)?;
    let (deliveries, counters) = deliveries(prepared, config, make, &slot, &stop)?;
    if let Some(address) = pages.address() {
        slot.show(address).map_err(Problem::plain)?;
    }
    let shown = Shown {
        worker: slot.name.clone(),
        version: prepared.deployed.manifest.version,
        plan: prepared.plan.clone(),
        stats: prepared.runtime.stats.clone(),
        clock: prepared.runtime.clock.clone(),
        tables: prepared.runtime.tables.clone(),
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
    let (runtime, stopping) = (prepared.runtime.clone(), stop.clone());
    let worker = std::thread::Builder::new()
        .name("worker".into())
        .spawn(move || worker::run(&runtime, lanes, &stopping).map_err(|e| e.to_string()))
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
    let at = At {
        plan: &prepared.plan,
        broker: &prepared.services.broker,
        session_timeout: config.kafka.session_timeout.millis(),
        slot: &slot.name,
    };
    for (output, outbox) in prepared.plan.outboxes() {
        let delivery = Delivering::to(&at, output, outbox, make(output, outbox)?);
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
