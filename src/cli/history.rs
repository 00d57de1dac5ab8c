//! `hw history`: what was deployed, from the manifest's topic.

use std::path::PathBuf;

use clap::Args;
use headwater_engine::definition::differences;
use headwater_engine::manifest::store::{self, Written};
use headwater_engine::plan::Names;
use serde_json::json;

use super::{Environment, Failure, folders, runtime, time};
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::say;
use crate::style::{dim, strong, wrapped};
use crate::worker::run;

#[derive(Args)]
#[command(
    after_help = "With --json one object per version, the oldest first: version, deployed (time, or null), current, changes (null: not recorded).

Examples:
  hw history pipeline.yaml --config config/production.yaml
  hw history orders --config config/production.yaml --save deployed.json
  hw history orders --save before.json --version 3"
)]
pub struct HistoryArgs {
    /// The pipeline: its name, its file, or a folder with one pipeline in it
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    /// Write the manifest of a version to this file, for `hw plan --against`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// The version to save instead of the current one
    #[arg(long, value_name = "VERSION", requires = "save")]
    version: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &HistoryArgs) -> Result<(), Failure> {
    let name = folders::name_of(&args.pipeline)?;
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-history", None, runtime.handle(), &Outages::default())?;
    let names = Names(name.clone());
    let versions = store::history(services.broker.as_ref(), &names).map_err(|e| Problem::plain(e.to_string()))?;
    let Some(current) = versions.last() else {
        return Err(Problem::plain(format!(
            "the pipeline `{name}` is not deployed here: there is no manifest in the topic `{}`",
            names.manifest()
        ))
        .into());
    };
    if let Some(file) = &args.save {
        let wanted = args.version.unwrap_or(current.manifest.version);
        let found = versions.iter().find(|version| version.manifest.version == wanted);
        let found =
            found.ok_or_else(|| Problem::plain(format!("version {wanted} of `{name}` is not in the topic `{}`", names.manifest())))?;
        found.manifest.save(file).map_err(|e| Problem::plain(format!("{}: {e}", file.display())))?;
        say!("{}", dim(&format!("version {wanted} is in {}", file.display())));
        return Ok(());
    }
    for (place, version) in versions.iter().enumerate() {
        let before = place.checked_sub(1).and_then(|before| versions.get(before));
        show(version, changes(before, version), place + 1 == versions.len(), args.json);
    }
    Ok(())
}

/// What a version changed; `None` where neither it nor its file was recorded.
fn changes(before: Option<&Written>, version: &Written) -> Option<Vec<String>> {
    let recorded = &version.manifest.changes;
    let (was, is) = (before.map(|before| &before.manifest.definition), &version.manifest.definition);
    match was {
        _ if !recorded.is_empty() => Some(recorded.clone()),
        None => (version.manifest.version == 1).then(Vec::new),
        Some(was) => (!was.is_empty() && !is.is_empty()).then(|| differences(was, is, |_| false)),
    }
}

fn show(version: &Written, changes: Option<Vec<String>>, current: bool, as_json: bool) {
    let (number, at) = (version.manifest.version, version.at.map(time));
    if as_json {
        return say!("{}", json!({ "version": number, "deployed": at, "current": current, "changes": changes }));
    }
    let at = at.unwrap_or_else(|| "at an unknown time".to_string());
    say!("{} {at}{}", strong(&format!("version {number}")), dim(if current { " (current)" } else { "" }));
    match changes {
        Some(changes) if changes.is_empty() => say!("  the first one"),
        Some(changes) => changes.iter().for_each(|change| say!("{}", wrapped(&format!("  ~ {change}"), 4))),
        None => say!("  what it changed is not recorded"),
    }
}
