//! `hw demo`: everything on one machine, and the totals side by side.
//!
//! Local services are started in a folder of their own, the generator writes orders, payments and stock movements in
//! real time, the shipped pipelines run in this process, and what ClickHouse holds is compared with what the generator
//! counted. Windows are made shorter than the shipped pipelines', so that results appear soon.

mod embedded;
mod real;
mod show;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use headwater_generate::{GenerateError, Progress, Sums, Totals};
use parking_lot::Mutex;

use super::{Failure, runtime};
use crate::diagnose::{Problem, Source};
use crate::logs;
use crate::prepare;
use crate::run::{self, Prepared, Running, Services};
use crate::say;
use show::Display;

/// The shipped pipelines, and what the demo changes in them.
const PIPELINES: [(&str, &str); 3] = [
    ("order-analytics", include_str!("../../../pipelines/order-analytics/pipeline.yaml")),
    ("inventory-levels", include_str!("../../../pipelines/inventory-levels/pipeline.yaml")),
    ("audit-trail", include_str!("../../../pipelines/audit-trail/pipeline.yaml")),
];
const CHANGES: [(&str, &str); 3] =
    [("tumbling: 1m", "tumbling: 2s"), ("lateness: 2m", "lateness: 500ms"), ("out_of_order: 5s", "out_of_order: 1s, idle: 15s")];
/// How far the generator's events are out of order: within `out_of_order` above. Both are short, so that totals appear soon.
const OUT_OF_ORDER_MS: i64 = 500;
/// How long the totals may take to agree once the load has ended: windows wait for lateness and silence.
const DRAIN: Duration = Duration::from_secs(180);

#[derive(Args)]
pub struct DemoArgs {
    /// Events per second
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Stop the load after this many seconds, wait for the totals to agree, and exit with 1 if they don't
    #[arg(long)]
    seconds: Option<u64>,
    /// Use the in-memory broker even if Java is available
    #[arg(long)]
    embedded: bool,
    /// Folder of the services; the demo deletes what it put there
    #[arg(long, default_value = ".local/demo")]
    dir: PathBuf,
}

/// What the generator has done so far.
#[derive(Default)]
struct Generated {
    progress: Mutex<Option<Progress>>,
    stop: AtomicBool,
}

/// What the demo runs on: real services, or everything in this process.
trait Ground {
    fn services(&self) -> &Services;
    /// Starts the load on its own thread.
    fn load(&self, rate: f64, generated: &Arc<Generated>) -> Result<LoadThread, Problem>;
    fn start(&self, prepared: &Prepared) -> Result<Running, Problem>;
    /// What the tables hold.
    fn held(&self) -> Held;
    /// Name of the place where the tables are.
    fn tables(&self) -> &'static str;
}

/// What the tables hold.
#[derive(Clone, Default)]
struct Held {
    items: f64,
    revenue: f64,
    audited: f64,
    positions: f64,
    /// The latest closed windows, ready to be shown.
    windows: Vec<String>,
}

/// Totals of both sides, in the order they are shown.
struct Comparison {
    rows: Vec<(&'static str, f64, f64)>,
}

impl Comparison {
    fn agrees(&self) -> bool {
        self.rows.iter().all(|(_, expected, found)| (expected - found).abs() < 0.005)
    }
}

pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    if std::env::var_os("HW_LOG").is_some() {
        logs::start(true);
    }
    let runtime = runtime()?;
    if args.embedded || !headwater_local::java_available() {
        if !args.embedded {
            eprintln!("Java 17 or later is not on the PATH (Debian: openjdk-17-jre-headless), so the demo can't start Kafka.");
        }
        eprintln!("It runs in this process: an in-memory broker instead of Kafka, counters instead of ClickHouse tables.");
        let ground = embedded::Embedded::new(args, runtime.handle())?;
        return on(args, &ground, &runtime);
    }
    let environment = real::up(args)?;
    let result =
        real::Real::new(args, &environment, runtime.handle()).map_err(Failure::from).and_then(|ground| on(args, &ground, &runtime));
    if let Err(e) = environment.down(true) {
        eprintln!("can't stop the services: {e}");
    }
    // Only what the demo made itself.
    let _ = std::fs::remove_dir_all(args.dir.join("state"));
    let _ = std::fs::remove_dir(&args.dir);
    result
}

fn on(args: &DemoArgs, ground: &dyn Ground, runtime: &tokio::runtime::Runtime) -> Result<(), Failure> {
    let generated = Arc::new(Generated::default());
    let load = ground.load(args.rate, &generated)?;
    wait_for_topics(ground.services(), &generated)?;
    let mut running = Vec::new();
    for (name, text) in PIPELINES {
        let text = CHANGES.iter().fold(text.to_string(), |text, (old, new)| text.replace(old, new));
        let source = Source::new(format!("pipelines/{name}/pipeline.yaml"), text);
        let loaded = prepare::parse(source).map_err(Failure::Wrong)?;
        let prepared = run::prepare(&loaded, ground.services().clone()).map_err(Failure::Wrong)?;
        running.push(ground.start(&prepared)?);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = interrupted.clone();
    runtime.spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            seen.store(true, Ordering::Relaxed);
        }
    });
    let (started, mut display) = (Instant::now(), Display::new());
    let limit = args.seconds.map(Duration::from_secs);
    while !interrupted.load(Ordering::Relaxed)
        && limit.is_none_or(|l| started.elapsed() < l)
        && !running.iter().any(|r| r.stop.is_stopped())
    {
        display.show(ground, &running, &generated);
        std::thread::sleep(Duration::from_millis(1_000));
    }
    generated.stop.store(true, Ordering::Relaxed);
    let totals = load.join().map_err(|_| Problem::plain("the generator panicked"))?.map_err(|e| Problem::plain(e.to_string()))?;
    let result = summary(ground, &running, &totals, &interrupted);
    for running in &running {
        running.stop.stop();
    }
    for running in running {
        running.wait()?;
    }
    result
}

type LoadThread = std::thread::JoinHandle<Result<Totals, GenerateError>>;

/// The generator creates its topics and tables before the load.
fn wait_for_topics(services: &Services, generated: &Generated) -> Result<(), Problem> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while generated.progress.lock().is_none() || services.broker.partitions("business.inventory.adjusted").ok().flatten().is_none() {
        if Instant::now() > deadline {
            return Err(Problem::plain("the generator's topics were not created in time"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What the tables hold against what the generator sent.
fn compare(held: &Held, sent: &Sums) -> Comparison {
    let events: u64 = sent.records.iter().filter(|(topic, _)| !topic.is_table()).map(|(_, n)| n).sum();
    Comparison {
        rows: vec![
            ("items sold", sent.quantity as f64, held.items),
            ("revenue", sent.revenue_cents as f64 / 100.0, held.revenue),
            ("events in the audit table", events as f64, held.audited),
            ("different audit positions", events as f64, held.positions),
        ],
    }
}

fn summary(ground: &dyn Ground, running: &[Running], totals: &Totals, interrupted: &AtomicBool) -> Result<(), Failure> {
    let sent = totals.sent();
    let deadline = Instant::now() + DRAIN;
    let mut found = compare(&ground.held(), &sent);
    eprintln!("the load has ended; waiting for the last windows to close (Ctrl-C to stop now)");
    let given_up = || interrupted.load(Ordering::Relaxed) || running.iter().any(|r| r.stop.is_stopped());
    interrupted.store(false, Ordering::Relaxed);
    while !found.agrees() && Instant::now() < deadline && !given_up() {
        std::thread::sleep(Duration::from_millis(500));
        found = compare(&ground.held(), &sent);
    }
    say!("{:<28} {:>18} {:>18}", "", "generator", ground.tables());
    for (what, expected, is) in &found.rows {
        let mark = if (expected - is).abs() < 0.005 { "equal" } else { "DIFFERENT" };
        say!("{what:<28} {expected:>18.2} {is:>18.2}  {mark}");
    }
    match found.agrees() {
        true => {
            say!("the totals agree");
            Ok(())
        }
        false => Err(Problem::plain("the totals differ").into()),
    }
}
