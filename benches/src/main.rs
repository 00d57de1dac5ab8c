//! Measures whole pipelines, `hw run` as a user starts it, on a real Kafka, beside a plain client loop that only copies
//! records. What each figure means is in the crate's README.

mod check;
mod cluster;
mod commands;
mod contender;
mod copy;
mod drain;
mod latency;
mod native;
mod orders;
mod payments;
mod process;
mod report;
mod streams;
mod threads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use cluster::Cluster;
use commands::Commands;
use contender::{Contender, Run, Work};
use orders::{Expected, Orders};
use report::{Series, hundredths, thousands};

#[derive(Parser)]
#[command(name = "headwater-benches", version, about = "Throughput and latency of whole pipelines on a real Kafka")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Throughput: copy, W1, W2, W2R, WJ and WA take turns on topics that are full already
    Drain(Settings),
    /// Latency of W1 beside the copy loop, and of WA, at a steady rate
    Latency(Settings),
    /// Both
    All(Settings),
    /// Only fill a topic with orders
    Fill {
        #[arg(long)]
        bootstrap: String,
        #[arg(long, default_value = "bench.orders")]
        topic: String,
        #[arg(long, default_value_t = 2_000_000)]
        records: u64,
        #[arg(long, default_value_t = 20_000)]
        event_rate: u64,
    },
    /// The copy loop, as `drain` and `latency` start it
    #[command(hide = true)]
    Copy(copy::CopyArgs),
}

#[derive(Args, Clone)]
struct Settings {
    /// Orders in the input of a throughput measurement; for the join half as many, and as many payments; for the inventory half as many commands
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Orders per second of event time
    #[arg(long, default_value_t = 20_000)]
    event_rate: u64,
    /// How often every contender has its turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The program under test
    #[arg(long, default_value = "target/release/hw")]
    hw: PathBuf,
    /// Another build of the program, which takes turns with the one under test
    #[arg(long)]
    against: Option<PathBuf>,
    /// Lanes of the program under test; with several numbers, each is measured
    #[arg(long, value_delimiter = ',', default_values_t = [2])]
    lanes: Vec<usize>,
    /// Only contenders whose name contains one of these (copy always runs)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Another program to measure beside: NAME:w1|w2|wj|wa:COMMAND (see the README for what it is given)
    #[arg(long)]
    peer: Vec<String>,
    /// Kafka Streams beside WJ and WA, with these stores
    #[arg(long, value_delimiter = ',')]
    streams: Vec<streams::Stores>,
    /// Commit interval of throughput measurements in milliseconds
    #[arg(long, default_value_t = 100)]
    commit: u64,
    /// Commit intervals of latency measurements in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [20, 50])]
    commits: Vec<u64>,
    /// Orders per second of latency measurements
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Length of a latency measurement in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How much longer the broker's answers take, in milliseconds: a cluster that is far away, or waits for replicas
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// A cluster that runs already; by default one broker is started for the measurement
    #[arg(long)]
    bootstrap: Option<String>,
    /// Also write the tables to benches/results/NAME.md
    #[arg(long)]
    save: Option<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Drain(settings) => measure(&settings, true, false),
        Command::Latency(settings) => measure(&settings, false, true),
        Command::All(settings) => measure(&settings, true, true),
        Command::Copy(args) => copy::run(&args),
        Command::Fill { bootstrap, topic, records, event_rate } => fill(&bootstrap, &topic, records, event_rate),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn fill(bootstrap: &str, topic: &str, records: u64, event_rate: u64) -> Result<(), String> {
    let cluster = Cluster::up(Some(bootstrap), Duration::ZERO)?;
    drain::fill(&cluster, topic, &Orders::new(records, event_rate, now_ms()))
}

fn now_ms() -> i64 {
    (orders::now_ns() / 1_000_000) as i64
}

fn measure(settings: &Settings, throughput: bool, latency: bool) -> Result<(), String> {
    if !settings.hw.is_file() {
        return Err(format!("{} is missing: build it with `cargo build --release`", settings.hw.display()));
    }
    let hw = settings.hw.canonicalize().map_err(|e| e.to_string())?;
    let against = settings.against.as_ref().map(|path| path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))).transpose()?;
    let settings = Settings { hw, against, ..settings.clone() };
    let dir = tempfile::Builder::new().prefix("headwater-bench-").tempdir().map_err(|e| e.to_string())?;
    let cluster = Cluster::up(settings.bootstrap.as_deref(), Duration::from_millis(settings.delay))?;
    let mut text = circumstances(&settings);
    println!("{text}");
    if throughput {
        text += &format!("\n{}", drained(&cluster, &settings, dir.path())?);
    }
    if latency {
        text += &format!("\n{}", delayed(&cluster, &settings, dir.path())?);
    }
    if let Some(name) = &settings.save {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(format!("{name}.md"));
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(|e| e.to_string())?;
        std::fs::write(&path, format!("# {name}\n\n{text}")).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

impl Settings {
    fn wanted(&self, contender: &Contender) -> bool {
        self.only.is_empty() || contender.name == "copy" || self.only.iter().any(|part| contender.name.contains(part.as_str()))
    }

    /// The copy loop, and each work by the program under test and the other one.
    fn contenders(&self, works: &[Work]) -> Vec<Contender> {
        let most = self.lanes.iter().max().copied().unwrap_or(2);
        let mut contenders = vec![Contender::copy(1, 2), Contender::copy(most.max(2), 2)];
        for (work, lanes) in works.iter().flat_map(|work| self.lanes.iter().map(move |lanes| (*work, *lanes))) {
            contenders.push(Contender::headwater(work, lanes));
            contenders.extend(self.against.iter().map(|program| Contender::against(work, lanes, program)));
        }
        contenders
    }

    fn run(&self, cluster: &Cluster, dir: &Path, id: String, input: &str, commit_ms: u64) -> Run {
        let payments = format!("{input}-payments");
        Run { id, bootstrap: cluster.distant.clone(), input: input.into(), payments, commit_ms, hw: self.hw.clone(), dir: dir.into() }
    }
}

fn drained(cluster: &Cluster, settings: &Settings, dir: &Path) -> Result<String, String> {
    let mut contenders = settings.contenders(&[Work::W1, Work::W2, Work::W2R, Work::Join, Work::Aggregate]);
    contenders.extend(settings.peer.iter().map(|p| Contender::peer(p)).collect::<Result<Vec<_>, _>>()?);
    contenders.extend(streams::contenders(&settings.streams)?);
    contenders.push(Contender::copy(1, 1));
    contenders.retain(|c| settings.wanted(c));
    let orders = Orders::new(settings.records, settings.event_rate, now_ms());
    let expected = Expected::of(&orders)?;
    if expected.windows.is_empty() {
        eprintln!("no window of W2 closes within these orders: take more --records, or a lower --event-rate");
    }
    let token = std::process::id() % 100_000;
    let input = format!("bench.orders-{token:05}");
    drain::fill(cluster, &input, &orders)?;
    let (to_join, by_id) = (payments::orders(settings.records / 2, now_ms()), format!("{input}-by-id"));
    if contenders.iter().any(|contender| contender.work == Work::Join) {
        payments::fill(cluster, &to_join, &by_id, &format!("{by_id}-payments"))?;
    }
    let to_decide = format!("{input}-commands");
    if contenders.iter().any(|contender| contender.work == Work::Aggregate) {
        commands::fill(cluster, &to_decide, &Commands::as_many_as(&to_join))?;
    }
    // The first transactions of a broker create its internal topics, and its code is not compiled yet: not counted.
    let warm = settings.run(cluster, dir, format!("d{token:05}x00x00"), &input, settings.commit);
    drain::run(cluster, &Contender::copy(1, 2), &warm, &orders, &expected)?;
    let mut series = Series::default();
    for round in 1..=settings.rounds {
        // Back and forth, so that a machine that slows down favours no one.
        for at in 0..contenders.len() {
            let at = if round % 2 == 1 { at } else { contenders.len() - 1 - at };
            let Some(contender) = contenders.get(at) else { continue };
            let (input, orders) = match contender.work {
                Work::Join => (&by_id, &to_join),
                Work::Aggregate => (&to_decide, &to_join),
                _ => (&input, &orders),
            };
            let run = settings.run(cluster, dir, format!("d{token:05}x{round:02}x{at:02}"), input, settings.commit);
            let figures = drain::run(cluster, contender, &run, orders, &expected)?;
            println!(
                "round {round}: {:<18} {:>9} records/s, {:>9} after {:.2} s, {} CPU s per million ({} in the second half), {} MiB, {} records out",
                contender.name,
                thousands(figures.rate()),
                thousands(figures.running_rate()),
                figures.first.0.as_secs_f64(),
                hundredths(figures.cpu_per_million()),
                hundredths(figures.second_half),
                figures.usage.peak_rss >> 20,
                figures.output
            );
            series.add(&contender.name, figures);
        }
    }
    cluster.delete_matching(&input)?;
    let (records, rounds, commit) = (settings.records, settings.rounds, settings.commit);
    let text =
        format!("Throughput: {records} records, commit interval {commit} ms, medians of {rounds} rounds.\n\n{}", series.table("copy"));
    println!("\n{text}");
    Ok(text)
}

fn delayed(cluster: &Cluster, settings: &Settings, dir: &Path) -> Result<String, String> {
    let mut contenders = settings.contenders(&[Work::W1, Work::Aggregate]);
    contenders.extend(streams::contenders(&settings.streams)?.into_iter().filter(|contender| contender.work == Work::Aggregate));
    contenders.retain(|c| settings.wanted(c));
    let load = latency::Load { rate: settings.rate, length: Duration::from_secs(settings.seconds) };
    let mut series: Vec<(String, u64, Vec<latency::Measurement>)> = Vec::new();
    let mut failed = Vec::new();
    let token = std::process::id() % 100_000;
    for round in 1..=settings.rounds {
        for commit in &settings.commits {
            for (at, contender) in contenders.iter().enumerate() {
                let id = format!("l{token:05}x{round:02}x{commit}x{at}");
                let run = settings.run(cluster, dir, id.clone(), &format!("bench.in-{id}"), *commit);
                let measured = match latency::run(cluster, contender, &run, load) {
                    Ok(measured) => measured,
                    // The copy loop with several lanes can starve the broker: the others are still to be measured.
                    Err(e) => {
                        println!("round {round}: {:<18} commit {commit} ms: no figures", contender.name);
                        failed.push(e);
                        continue;
                    }
                };
                let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| measured.latencies.quantile(q));
                println!("round {round}: {:<18} commit {commit} ms: p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1} ms", contender.name);
                println!("         {}", measured.threads);
                match series.iter_mut().find(|(name, c, _)| *name == contender.name && c == commit) {
                    Some((_, _, runs)) => runs.push(measured),
                    None => series.push((contender.name.clone(), *commit, vec![measured])),
                }
            }
        }
    }
    let (rate, seconds, rounds) = (settings.rate, settings.seconds, settings.rounds);
    let text = format!("Latency: {rate} orders/s for {seconds} s, medians of {rounds} rounds.\n\n{}", report::latency_table(&series));
    println!("\n{text}");
    if failed.is_empty() { Ok(text) } else { Err(failed.join("\n")) }
}

/// What else a figure depends on.
fn circumstances(settings: &Settings) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .and_then(|l| l.split(": ").nth(1))
        .unwrap_or("unknown processor")
        .to_string();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_string();
    let hw = std::process::Command::new(&settings.hw).arg("--version").output().ok();
    let hw = hw.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default();
    let kafka = if settings.bootstrap.is_some() {
        "an existing cluster".to_string()
    } else {
        format!("Apache Kafka {} (1 broker)", headwater_devenv::KAFKA_VERSION)
    };
    let far = if settings.delay > 0 { format!(", answers {} ms late", settings.delay) } else { String::new() };
    let date = chrono::Utc::now().format("%Y-%m-%d %H:%M UTC");
    format!(
        "{date}: {hw}; {kafka}{far}, librdkafka {}; {cores} cores of {model}, broker and clients on them; load average at the start {load}\n",
        native::version()
    )
}
