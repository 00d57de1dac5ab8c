//! `hw run --dry-run`: everything a worker needs, checked without creating anything. Of records it reads only keys, where a
//! step relies on them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use headwater_engine::broker::Broker;
use headwater_engine::lane::{Sampled, sample_keys};
use headwater_engine::manifest;
use headwater_engine::plan::{OutboxSink, Output, Plan, TOMBSTONE_RETENTION};
use operator_core::{Diagnostic, Interval};
use rustix::fs::Access;
use tokio::runtime::Handle;

use crate::check::{Check, Found};
use crate::config::Config;
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::registry::title;
use crate::sinks::{self, Place, Sink};
use crate::worker::access;
use crate::worker::preflight::{check_internal, short_lived, tombstones_kept};
use crate::worker::run;
use headwater_kafka::Kafka;

/// The check of the plan against what is deployed.
const DEPLOYED: &str = "deployed version";

/// Bytes below which a state folder has too little room for anything.
const LITTLE_ROOM: u64 = 64 << 20;

fn check(what: impl Into<String>, result: Result<String, String>) -> Check {
    Check::new(what, result)
}

/// Checks a plan against the services of an environment; `schemas`: the folder with statements that create tables. The second answer are commands that grant missing rights.
///
/// # Errors
/// A service can't be asked.
pub fn check_all(
    plan: &Plan,
    kafka: &Kafka,
    config: &Config,
    schemas: Option<&Path>,
    runtime: &Handle,
) -> Result<(Vec<Check>, String), Problem> {
    let access = access::check(plan, kafka).map_err(|e| Problem::plain(e.to_string()))?;
    let grants = access.grants();
    let mut checks = access.checks;
    // Without rights the other questions would only be refused in their own words.
    if checks.iter().all(|check| check.wrong().is_none()) {
        checks.extend(topics(plan, kafka));
    }
    checks.extend(registry(config, runtime)?);
    checks.push(check("state folder", state_folder(&config.worker.state_dir, &plan.pipeline)));
    checks.extend(tables(plan, kafka, config, schemas, runtime));
    Ok((checks, grants))
}

/// Whether the schema registry responds, and how it is verified. The plan may have needed nothing of it.
fn registry(config: &Config, runtime: &Handle) -> Result<Option<Check>, Problem> {
    let Some(registry) = run::registry(config)? else { return Ok(None) };
    let how = registry.verifies().unwrap_or_else(|| "responds".to_string());
    let found = match runtime.block_on(registry.unavailable()) {
        None => Found::Fine(how),
        Some(why) => Found::Unknown(format!("{why}. A worker starts; what needs a schema waits until it responds")),
    };
    Ok(Some(Check { what: "schema registry".to_string(), found }))
}

/// What is in topics, and how they are set.
fn topics(plan: &Plan, kafka: &Kafka) -> Vec<Check> {
    let mut checks: Vec<Check> = match sample_keys(plan, kafka) {
        Ok(sampled) => sampled.into_iter().map(keys_check).collect(),
        Err(e) => vec![check("keys of sources", Err(format!("can't be read: {e}")))],
    };
    let compared = deployed(plan, kafka);
    checks.extend(compared.unwrap_or_else(|e| vec![check(DEPLOYED, Err(format!("can't be compared: {e}")))]));
    let internal = check_internal(plan, kafka).map_err(|e| e.to_string()).and_then(|refused| match refused.is_empty() {
        true => Ok("as planned".to_string()),
        false => Err(refused.into_iter().map(with_remedy).collect::<Vec<_>>().join("; ")),
    });
    checks.push(check("internal topics", internal));
    if plan.stages.iter().flat_map(|s| &s.nodes).any(|n| n.changelog.is_some()) {
        let kept = tombstones_kept(plan, kafka);
        let said = |kept| if kept < TOMBSTONE_RETENTION { short_lived(kept) } else { format!("kept for {}", Interval(kept)) };
        checks.push(check("tombstones of changelogs", kept.map(said).map_err(|e| e.to_string())));
    }
    checks
}

/// Whether a worker can keep local checkpoints, and how much room they have.
fn state_folder(state_dir: &Path, pipeline: &str) -> Result<String, String> {
    let wanted = std::path::absolute(state_dir.join(pipeline)).map_err(|e| format!("{}: {e}", state_dir.display()))?;
    // The start makes what is missing.
    let there = wanted.ancestors().find(|folder| folder.symlink_metadata().is_ok()).unwrap_or(&wanted);
    let fail =
        |e: std::io::Error| format!("{} can't be used: {e}. Set `worker.state_dir` to a folder that the worker may write", there.display());
    if there == wanted && there.symlink_metadata().map_err(fail)?.is_symlink() {
        return Err(crate::worker::run::is_a_link(&wanted));
    }
    if !there.metadata().map_err(fail)?.is_dir() {
        return Err(format!("{} is not a folder: set `worker.state_dir` to another", there.display()));
    }
    rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| fail(e.into()))?;
    let room = rustix::fs::statvfs(there).map_err(|e| fail(e.into()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    // Some file systems don't tell their size.
    if room.f_blocks > 0 && free < LITTLE_ROOM {
        return Err(format!("{} has {} MiB left: checkpoints need about the size of the state", there.display(), free >> 20));
    }
    if room.f_blocks == 0 {
        // It may be no place for files at all, as /proc is, and only trying tells.
        let tried = there.join(".hw-dry-run");
        std::fs::create_dir(&tried).and_then(|()| std::fs::remove_dir(&tried)).map_err(fail)?;
    }
    let readable = there == wanted && wanted.metadata().map_err(fail)?.permissions().mode() & 0o077 != 0;
    let mode = match readable {
        true if run::writable_by_others(&wanted) => format!("; {}", run::EXPOSED),
        true => "; others can read it, the start closes it (mode 700)".to_string(),
        false => String::new(),
    };
    let free = if room.f_blocks > 0 { format!("{} MiB free", free >> 20) } else { "of unknown size".to_string() };
    Ok(format!("{}, {free}{mode}", wanted.display()))
}

/// A refusal on a line.
fn with_remedy(d: Diagnostic) -> String {
    format!("{} ({}). {}", d.message, d.code, d.help.unwrap_or_default())
}

/// What the start would say of the plan and the deployed version.
fn deployed(plan: &Plan, kafka: &Kafka) -> Result<Vec<Check>, manifest::store::StoreError> {
    let manifest::Preview { deployed, verdict } = manifest::preview(kafka, plan)?;
    let what = DEPLOYED;
    if !verdict.refused.is_empty() {
        return Ok(verdict.refused.into_iter().map(|d| check(what, Err(with_remedy(d)))).collect());
    }
    let found = match (deployed, verdict.adopted) {
        (_, true) => "has run without a manifest: its state and positions are used as they are".to_string(),
        (None, _) => "none yet".to_string(),
        (Some(deployed), _) if verdict.changes.is_empty() => format!("{}, the same", deployed.manifest.version),
        (Some(deployed), _) => format!("{}; {}", deployed.manifest.version, verdict.changes.join("; ")),
    };
    Ok(vec![check(what, Ok(found))])
}

fn keys_check((topic, sampled): Sampled) -> Check {
    check(format!("keys of {topic}"), sampled.map(|keys| format!("the newest {keys} are in their partitions")))
}

fn tables(plan: &Plan, kafka: &Kafka, config: &Config, schemas: Option<&Path>, runtime: &Handle) -> Vec<Check> {
    let outages = Outages::default();
    let check = |(output, outbox, sink): (&Output, &OutboxSink, &dyn Sink)| {
        let place = Place { plan, output, outbox, config, schemas, runtime, outages: &outages };
        let group = kafka.group(&plan.names.sink_group(&output.name)).map_err(|e| Found::Wrong(e.to_string()));
        let found = group.and_then(|group| sink.dry_run(&place, group.committed.is_empty()));
        Check {
            what: format!("{} {}", title(outbox.table.kind()), outbox.table.name()),
            found: found.map_or_else(|found| found, Found::Fine),
        }
    };
    sinks::all(plan).map(check).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::state_folder;

    #[test]
    fn the_state_folder_is_looked_at_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let said = state_folder(&state, "orders").unwrap();
        assert!(said.contains("state/orders, ") && said.ends_with("MiB free"), "{said}");
        assert!(!state.exists(), "a dry run makes nothing");
        std::fs::create_dir_all(state.join("orders")).unwrap();
        std::fs::set_permissions(state.join("orders"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(state_folder(&state, "orders").unwrap().contains("others can read it"));
        std::fs::set_permissions(state.join("orders"), std::fs::Permissions::from_mode(0o775)).unwrap();
        assert!(state_folder(&state, "orders").unwrap().contains("other users can write the state folder"));
        let none = state_folder(std::path::Path::new("/proc/nope"), "orders").unwrap_err();
        assert!(none.starts_with("/proc can't be used: ") && none.contains("`worker.state_dir`"), "{none}");
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(state_folder(&dir.path().join("file/state"), "orders").unwrap_err().contains("not a folder"));
        std::os::unix::fs::symlink(state.join("orders"), state.join("linked")).unwrap();
        let (said, at_the_start) = (state_folder(&state, "linked"), crate::worker::run::state_folder(&state, "linked"));
        assert_eq!(said.unwrap_err(), at_the_start.unwrap_err());
    }
}
