//! `hw demo`: everything on one machine, and the totals side by side.
//!
//! Local services are started in a folder of their own, the generator writes orders, payments and stock movements in
//! real time, the shipped pipelines run in this process, and what ClickHouse holds is compared with what the generator
//! counted. Windows and timeouts are made shorter than the shipped pipelines', so that results appear soon.
//!
//! Beside it a shop places orders, which are fulfilled by sagas over a stock that can't be oversold ([`orders`]). They are a load of
//! their own and not the generator's orders: those are written as fast as one likes, and nobody fulfils them.

mod books;
mod embedded;
mod orders;
mod real;
mod show;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use headwater_generate::{GenerateError, Progress, Sums, Totals};
use parking_lot::{Condvar, Mutex};

use super::{Failure, runtime};
use crate::diagnose::{Problem, Source};
use crate::observe::logs;
use crate::pipeline_files;
use crate::say;
use crate::worker::run::{self, Prepared, Running, Services};
use orders::Shop;
use show::Display;

/// The shipped pipelines.
const PIPELINES: [(&str, &str); 3] = [
    ("order-analytics", include_str!("../../../pipelines/order-analytics/pipeline.yaml")),
    ("inventory-levels", include_str!("../../../pipelines/inventory-levels/pipeline.yaml")),
    ("audit-trail", include_str!("../../../pipelines/audit-trail/pipeline.yaml")),
];
/// Those that fulfil orders.
const FULFILMENT: [(&str, &str); 2] = [
    ("inventory", include_str!("../../../pipelines/inventory/pipeline.yaml")),
    ("order-fulfilment", include_str!("../../../pipelines/order-fulfilment/pipeline.yaml")),
];
/// What the demo changes in them.
const CHANGES: [(&str, &str); 5] = [
    ("tumbling: 1m", "tumbling: 1s"),
    ("lateness: 2m", "lateness: 200ms"),
    ("out_of_order: 5s", "out_of_order: 500ms, idle: 15s"),
    ("timeout: 30s", "timeout: 3s"),
    ("timeout: 1m", "timeout: 3s"),
];
/// How far the generator's events are out of order: within `out_of_order` above. Both are short, so that totals appear soon.
const OUT_OF_ORDER_MS: i64 = 300;
/// How long the totals may take to agree once the load has ended: windows wait for lateness and silence.
const DRAIN: Duration = Duration::from_secs(180);
/// How long the pipelines may take until they process their partitions.
const START: Duration = Duration::from_secs(60);
/// How often the demo looks at what the tables hold.
const TICK: Duration = Duration::from_millis(100);

#[derive(Args)]
pub struct DemoArgs {
    /// Events per second
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Orders per second that are reserved, paid and shipped; 0: none, and no pipelines for them
    #[arg(long, default_value_t = 20.0)]
    orders: f64,
    /// Stop the load after this many seconds, wait for the totals to agree and for all orders to end, and exit with 1 if they don't
    #[arg(long)]
    seconds: Option<u64>,
    /// Use the in-memory broker even if Java is available
    #[arg(long)]
    embedded: bool,
    /// Folder of the services; the demo deletes what it put there
    #[arg(long, default_value = ".local/demo")]
    dir: PathBuf,
}

/// What the generator has done so far, and how far it may go.
#[derive(Default)]
struct Generated {
    progress: Mutex<Option<Progress>>,
    stop: AtomicBool,
    phase: Mutex<Phase>,
    advanced: Condvar,
}

/// The parts of a load, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
enum Phase {
    /// Topics are created and table rows written.
    #[default]
    Tables,
    /// Topics and tables are there; orders wait for the pipelines.
    Waiting,
    /// Orders are written, since then.
    Orders(Instant),
    /// The generator has ended.
    Ended,
}

impl Generated {
    /// Goes on to `phase`, unless it is there already.
    fn advance(&self, phase: Phase) {
        let mut now = self.phase.lock();
        if *now < phase {
            *now = phase;
            self.advanced.notify_all();
        }
    }

    /// Waits until `done` is true of the phase.
    fn wait(&self, done: impl Fn(Phase) -> bool) -> Phase {
        let mut phase = self.phase.lock();
        self.advanced.wait_while(&mut phase, |phase| !done(*phase));
        *phase
    }

    /// Says that the tables are written and waits until orders may begin.
    fn tables_written(&self) {
        self.advance(Phase::Waiting);
        self.wait(|phase| phase > Phase::Waiting);
    }

    /// How long ago the first order was.
    fn since_first_order(&self) -> Option<Duration> {
        match *self.phase.lock() {
            Phase::Orders(began) => Some(began.elapsed()),
            _ => None,
        }
    }

    /// Ends the load, whatever it waits for.
    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.advance(Phase::Orders(Instant::now()));
    }

    /// Runs a load on a thread of its own.
    fn spawn(
        self: &Arc<Self>,
        load: impl FnOnce(&Generated) -> Result<Totals, GenerateError> + Send + 'static,
    ) -> Result<LoadThread, Problem> {
        let generated = self.clone();
        let work = move || {
            let result = load(&generated);
            generated.advance(Phase::Ended);
            result
        };
        std::thread::Builder::new().name("generator".into()).spawn(work).map_err(|e| Problem::plain(e.to_string()))
    }
}

/// What the demo runs on: real services, or everything in this process.
trait Ground {
    fn services(&self) -> &Services;
    /// Starts the load on its own thread: topics and tables at once, orders when the pipelines process their partitions.
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
    if args.embedded || !headwater_devenv::java_available() {
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
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = interrupted.clone();
    runtime.spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            seen.store(true, Ordering::Relaxed);
        }
    });
    let mut shop = (args.orders > 0.0).then(|| Shop::open(&ground.services().broker)).transpose()?;
    let pipelines = PIPELINES.iter().chain(shop.iter().flat_map(|_| &FULFILMENT));
    let (load, running) = prepare_all(args.rate, pipelines, ground, &generated, &interrupted)?;
    generated.advance(Phase::Orders(Instant::now()));
    if let Some(shop) = &mut shop {
        shop.place(args.orders)?;
    }
    let (started, mut display) = (Instant::now(), Display::new());
    let limit = args.seconds.map(Duration::from_secs);
    while !interrupted.load(Ordering::Relaxed)
        && limit.is_none_or(|l| started.elapsed() < l)
        && !running.iter().any(|r| r.stop.is_stopped())
    {
        display.show(ground, &running, &generated, shop.as_ref());
        std::thread::sleep(TICK);
    }
    generated.end();
    if let Some(shop) = &shop {
        shop.close();
    }
    let totals = ended(load)?;
    let mut result = summary(ground, &running, &totals, &interrupted);
    if let Some(shop) = &shop {
        result = result.and(fulfilled(shop, &running, &interrupted));
    }
    for running in &running {
        running.stop.stop();
    }
    for running in running {
        running.wait()?;
    }
    shop.map_or(Ok(()), Shop::end)?;
    result
}

type LoadThread = std::thread::JoinHandle<Result<Totals, GenerateError>>;

fn ended(load: LoadThread) -> Result<Totals, Problem> {
    load.join().map_err(|_| Problem::plain("the generator panicked"))?.map_err(|e| Problem::plain(e.to_string()))
}

/// Starts the load and the pipelines, and returns when the pipelines process their partitions. Orders don't begin before that: they
/// would be late for their windows, and the first totals, too.
fn prepare_all<'a>(
    rate: f64,
    pipelines: impl Iterator<Item = &'a (&'static str, &'static str)>,
    ground: &dyn Ground,
    generated: &Arc<Generated>,
    interrupted: &AtomicBool,
) -> Result<(LoadThread, Vec<Running>), Failure> {
    let load = ground.load(rate, generated)?;
    if generated.wait(|phase| phase > Phase::Tables) == Phase::Ended {
        ended(load)?;
        return Err(Problem::plain("the generator ended before the first order").into());
    }
    let mut running = Vec::new();
    for (name, text) in pipelines {
        let text = CHANGES.iter().fold(text.to_string(), |text, (old, new)| text.replace(old, new));
        let source = Source::new(format!("pipelines/{name}/pipeline.yaml"), text);
        let loaded = pipeline_files::parse(source).map_err(Failure::Wrong)?;
        let prepared = run::prepare(&loaded, ground.services().clone()).map_err(Failure::Wrong)?;
        running.push(ground.start(&prepared)?);
    }
    let deadline = Instant::now() + START;
    while let Some(waiting) = running.iter().find(|r: &&Running| !r.pages.ready().0)
        && !interrupted.load(Ordering::Relaxed)
        && !running.iter().any(|r| r.stop.is_stopped())
    {
        if Instant::now() > deadline {
            let (pipeline, page) = (&waiting.pages.pipeline, waiting.pages.ready().1);
            return Err(Problem::plain(format!("the pipeline `{pipeline}` does not process its partitions: {page}")).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((load, running))
}

/// What the tables hold against what the generator sent.
fn compare(held: &Held, sent: &Sums) -> Comparison {
    let events: u64 = sent.records.iter().filter(|(topic, _)| !topic.is_table()).map(|(_, n)| n).sum();
    Comparison {
        rows: vec![
            ("items sold", sent.quantity as f64, held.items),
            ("revenue, currencies as one", sent.revenue_cents as f64 / 100.0, held.revenue),
            ("events in the audit table", events as f64, held.audited),
            ("different audit positions", events as f64, held.positions),
        ],
    }
}

fn summary(ground: &dyn Ground, running: &[Running], totals: &Totals, interrupted: &AtomicBool) -> Result<(), Failure> {
    // The pipelines count an event once that was written twice.
    let sent = totals.distinct.clone();
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
    let tables: u64 = sent.records.iter().filter(|(topic, _)| topic.is_table()).map(|(_, n)| n).sum();
    say!("`sent` counted {tables} records of tables, too: events alone are audited");
    match found.agrees() {
        true => {
            say!("the totals agree");
            Ok(())
        }
        false => Err(Problem::plain("the totals differ").into()),
    }
}

/// Waits until all orders have ended, and says how.
fn fulfilled(shop: &Shop, running: &[Running], interrupted: &AtomicBool) -> Result<(), Failure> {
    eprintln!("no more orders are placed; waiting for those that were to end (Ctrl-C to stop now)");
    let deadline = Instant::now() + DRAIN;
    let mut problems = shop.problems();
    while !problems.is_empty()
        && Instant::now() < deadline
        && !interrupted.load(Ordering::Relaxed)
        && !running.iter().any(|r| r.stop.is_stopped())
    {
        std::thread::sleep(Duration::from_millis(200));
        problems = shop.problems();
    }
    let shown = shop.shown();
    say!("{}", show::orders(&shown));
    say!("{}", show::stock(&shown));
    if problems.is_empty() {
        say!("every order has ended once, and every piece of the stock is accounted for");
        return Ok(());
    }
    problems.iter().take(10).for_each(|problem| say!("{problem}"));
    Err(Problem::plain(format!("{} problems with orders and stock", problems.len())).into())
}

#[cfg(test)]
mod tests {
    use headwater_engine::broker::TopicPartition;
    use headwater_generate::Topic;

    use super::*;

    #[test]
    fn orders_begin_when_all_lanes_have_their_partitions() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime().unwrap();
        let args = DemoArgs { rate: 500.0, orders: 0.0, seconds: None, embedded: true, dir: dir.path().to_path_buf() };
        let ground = embedded::Embedded::new(&args, runtime.handle()).unwrap();
        let generated = Arc::new(Generated::default());
        let Ok((load, running)) = prepare_all(args.rate, PIPELINES.iter(), &ground, &generated, &AtomicBool::new(false)) else {
            panic!("the demo starts")
        };
        assert!(running.iter().all(|r| r.pages.ready().0 && !r.shown.stats.snapshot().tasks.is_empty()));
        let records = |topic: Topic| -> i64 {
            let broker = &ground.services().broker;
            let partitions = broker.partitions(topic.name()).unwrap().unwrap_or_default();
            (0..partitions).map(|partition| broker.bounds(&TopicPartition::new(topic.name(), partition)).unwrap().1).sum()
        };
        for topic in Topic::ALL {
            assert_eq!(records(topic) > 0, topic.is_table(), "{}", topic.name());
        }
        generated.advance(Phase::Orders(Instant::now()));
        while ground.held().items == 0.0 {
            assert!(!load.is_finished() && !running.iter().any(|r| r.stop.is_stopped()));
            std::thread::yield_now();
        }
        generated.end();
        assert!(ended(load).unwrap().sent().quantity > 0);
        running.iter().for_each(|r| r.stop.stop());
        running.into_iter().for_each(|r| r.wait().unwrap());
    }

    #[test]
    fn a_load_that_ends_while_it_waits_writes_no_order() {
        let generated = Arc::new(Generated::default());
        let load = generated.spawn(|generated| {
            generated.tables_written();
            assert!(generated.stop.load(Ordering::Relaxed));
            Ok(Totals::default())
        });
        assert_eq!(generated.wait(|phase| phase > Phase::Tables), Phase::Waiting);
        generated.end();
        ended(load.unwrap_or_else(|e| panic!("{}", e.message))).unwrap();
        assert_eq!(generated.wait(|phase| phase == Phase::Ended), Phase::Ended);
    }
}
