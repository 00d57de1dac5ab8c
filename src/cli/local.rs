//! `hw local`: services on this machine without Docker.

mod topic;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use headwater_devenv::{Environment, Options};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::diagnose::Problem;
use crate::say;

/// Where `hw local up` keeps its services, and other commands look for them.
pub const DIR: &str = ".local/environment";

#[derive(Args)]
#[command(after_help = "All services listen on 127.0.0.1. The first start downloads Kafka and the registry (with Maven) and the \
ClickHouse engine (with npm).

Examples:
  hw local up && eval \"$(hw local env)\"
  hw local topic business.orders.created --partitions 6
  hw local topic business.catalog.products --set cleanup.policy=compact
  hw local topic business.orders.created --partitions 12     grows it if it exists
  hw local topic business.orders.created --delete
  hw local down --wipe")]
pub struct LocalArgs {
    #[command(subcommand)]
    command: Command,
    /// Folder of the services
    #[arg(long, global = true, default_value = DIR)]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Start Kafka, the schema registry and the ClickHouse engine, and wait until they are ready
    Up {
        /// Number of Kafka brokers: 1 or 3
        #[arg(long, default_value_t = 1)]
        brokers: u8,
        /// Start PostgreSQL, too, which must be installed
        #[arg(long)]
        postgres: bool,
    },
    /// Stop the services
    Down {
        /// Delete their data, too
        #[arg(long)]
        wipe: bool,
    },
    /// Show the addresses and whether the services run
    Status,
    /// Print the addresses as shell variables: eval "$(hw local env)"
    Env,
    /// Create a topic, give it more partitions, or delete it
    Topic(topic::TopicArgs),
    /// Serve the ClickHouse engine over HTTP (started by `up`)
    #[command(hide = true)]
    ClickhouseFront { library: PathBuf, data: PathBuf, address: std::net::SocketAddr },
}

pub fn run(args: &LocalArgs) -> Result<(), Failure> {
    let plain = |e: headwater_devenv::LocalError| Failure::from(Problem::plain(e.to_string()));
    match &args.command {
        Command::Up { brokers, postgres } => {
            let options = Options { postgres: *postgres, ..options(args.dir.clone(), *brokers)? };
            let environment = up(&options).map_err(plain)?;
            print(&environment);
            Ok(())
        }
        Command::Down { wipe } => {
            match Environment::load(&args.dir).map_err(plain)? {
                Some(environment) => {
                    environment.down(*wipe).map_err(plain)?;
                    let done = if *wipe { "stopped, and its data deleted" } else { "stopped; its data is kept" };
                    say!("{}: {done}", args.dir.display());
                }
                None => say!("nothing runs in {}", args.dir.display()),
            }
            Ok(())
        }
        Command::Status => {
            match Environment::load(&args.dir).map_err(plain)? {
                Some(environment) => print(&environment),
                None => say!("nothing runs in {}", args.dir.display()),
            }
            Ok(())
        }
        Command::Env => {
            let environment = running(&args.dir)?;
            say!("export HW_BOOTSTRAP={}", environment.bootstrap);
            say!("export HW_REGISTRY={}", environment.registry.unwrap_or_default());
            say!("export HW_CLICKHOUSE={}", environment.clickhouse.unwrap_or_default());
            environment.postgres.iter().for_each(|url| say!("export HW_POSTGRES={url}"));
            Ok(())
        }
        Command::Topic(wanted) => Ok(topic::run(wanted, &running(&args.dir)?.bootstrap)?),
        Command::ClickhouseFront { library, data, address } => headwater_devenv::serve_clickhouse(library, data, *address).map_err(plain),
    }
}

fn running(dir: &Path) -> Result<Environment, Problem> {
    let environment = Environment::load(dir).map_err(|e| Problem::plain(e.to_string()))?;
    environment.ok_or_else(|| Problem::plain(format!("nothing runs in {}: `hw local up` starts it", dir.display())))
}

/// Everything, with this very program as the ClickHouse front.
pub fn options(dir: PathBuf, brokers: u8) -> Result<Options, Problem> {
    let program = std::env::current_exe().map_err(|e| Problem::plain(e.to_string()))?;
    let mut options = Options::new(dir);
    options.brokers = brokers;
    options.registry = true;
    options.clickhouse = true;
    options.clickhouse_front = vec![program.into(), "local".into(), "clickhouse-front".into()];
    Ok(options)
}

/// Starts services, telling what is being done.
pub fn up(options: &Options) -> Result<Environment, headwater_devenv::LocalError> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    let environment = Environment::up(options, &mut |message| bar.set_message(message.to_string()));
    bar.finish_and_clear();
    environment
}

fn print(environment: &Environment) {
    for service in environment.status() {
        let state = if service.alive { "up" } else { "down" };
        let pid = service.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        say!("{:<12} {:<22} {state}{pid}  {}", service.service.to_string(), service.address.to_string(), service.what);
    }
}
