//! `hw run`: a worker.

use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{Environment, Failure, runtime};
use crate::{prepare, run};

#[derive(Args)]
pub struct RunArgs {
    /// The pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    /// Lanes (threads that process partitions), instead of `worker.lanes`
    #[arg(long)]
    lanes: Option<usize>,
    /// Log lines for people instead of JSON
    #[arg(long)]
    plain_logs: bool,
}

/// Logs to standard error: JSON for machines, or plain. `HW_LOG` filters (`info` by default).
pub fn logs(plain: bool) {
    let filter = EnvFilter::try_from_env("HW_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, in the demo for one, keeps the first subscriber.
    let _ = match plain {
        true => builder.with_ansi(false).try_init(),
        false => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
}

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    logs(args.plain_logs);
    let loaded = prepare::load(&args.pipeline).map_err(|p| Failure::Wrong(vec![p]))?;
    let mut config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    if let Some(lanes) = args.lanes {
        config.worker.lanes = lanes;
    }
    let runtime = runtime()?;
    let name = loaded.pipeline.name.clone();
    let services = run::connect(&config, &format!("hw-{name}"), runtime.handle())?;
    let prepared = run::prepare(&loaded, services).map_err(Failure::Wrong)?;
    let running = run::start(&prepared, &config)?;
    run::stop_on_signals(runtime.handle(), running.stop.clone());
    let address = running.address.map(|a| a.to_string()).unwrap_or_default();
    tracing::info!(pipeline = %name, lanes = config.worker.lanes, http = %address, "running");
    running.wait()?;
    tracing::info!(pipeline = %name, "stopped: everything processed is committed");
    Ok(())
}
