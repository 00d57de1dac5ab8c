//! The Apicurio schema registry with its Confluent-compatible API.
//!
//! Storage is an H2 database in a file rather than in memory, so that a restarted registry still knows its schemas
//! and their ids. Every start sets the global compatibility to `BACKWARD`: Apicurio begins with `NONE`, Confluent's
//! registry with `BACKWARD`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::artifacts::{self, JavaProgram, Progress};
use crate::ports::free_ports;
use crate::process::{Launch, Stop};
use crate::service::Service;
use crate::startup::{Wait, await_ready};
use crate::{LocalError, REGISTRY_VERSION, probe};

/// Path of the Confluent-compatible API.
pub const BASE_PATH: &str = "/apis/ccompat/v7";

/// Fetches the registry and its class data archive.
pub fn prepare(progress: &Progress<'_>) -> Result<JavaProgram, LocalError> {
    let program = artifacts::registry(progress)?;
    program.ensure_archive(progress, |archive| {
        progress("recording the registry's class data archive (once)");
        record_archive(&program, archive)
    });
    Ok(program)
}

fn record_archive(program: &JavaProgram, archive: &Path) -> Result<(), LocalError> {
    let scratch = tempfile::tempdir().map_err(LocalError::io("cannot create a temporary folder"))?;
    let dir = scratch.path();
    let ports = free_ports(2).map_err(LocalError::io("no free ports"))?;
    let [port, management] = ports[..] else {
        return Err(LocalError::Mismatch("no free ports".to_owned()));
    };
    fs::create_dir_all(dir.join("logs")).map_err(LocalError::io("cannot create a temporary folder"))?;
    let mut launch = launch(program, dir, port, management)?;
    launch.args.retain(|arg| !arg.starts_with("-XX:SharedArchiveFile"));
    launch.args.insert(0, format!("-XX:ArchiveClassesAtExit={}", archive.display()));
    let running = launch.spawn().map_err(LocalError::io("cannot run java"))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let wait = Wait { patience: Duration::from_secs(120), cancelled: &|| false };
    let outcome = await_ready(Service::Registry, &launch, running, dir, &wait, || ready(address));
    running.stop(if outcome.is_ok() { Stop::Terminate } else { Stop::Kill }, dir).map_err(LocalError::io("registry"))?;
    outcome
}

/// Says how to start the registry of an environment.
pub fn launch(program: &JavaProgram, root: &Path, port: u16, management: u16) -> Result<Launch, LocalError> {
    let dir = root.join("registry");
    fs::create_dir_all(&dir).map_err(LocalError::io(format!("cannot create {}", dir.display())))?;
    let mut args = vec!["-Xmx384m".to_owned(), "-XX:+UseSerialGC".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()];
    if program.archive.exists() {
        args.push(format!("-XX:SharedArchiveFile={}", program.archive.display()));
    }
    args.extend([
        format!("-Dquarkus.http.port={port}"),
        "-Dquarkus.http.host=127.0.0.1".to_owned(),
        format!("-Dquarkus.management.port={management}"),
        "-Dquarkus.management.host=127.0.0.1".to_owned(),
        "-Dquarkus.http.access-log.enabled=false".to_owned(),
        "-Dquarkus.log.console.color=false".to_owned(),
        format!("-Dapicurio.datasource.url=jdbc:h2:file:{}", dir.join("schemas").display()),
        // The defaults open 20 connections at start.
        "-Dapicurio.datasource.jdbc.initial-size=1".to_owned(),
        "-Dapicurio.datasource.jdbc.min-size=1".to_owned(),
        "-jar".to_owned(),
        program.home.join(format!("apicurio-registry-app-{REGISTRY_VERSION}-runner.jar")).display().to_string(),
    ]);
    let log = root.join("logs").join("registry.log");
    Ok(Launch { program: "java".to_owned(), args, dir, log })
}

/// Whether the registry takes a write and answers a read: the write sets the global compatibility to `BACKWARD`, which
/// a client then reads back. A write that fails is one that is tried again, like every other sign that it is not ready.
pub fn ready(address: SocketAddr) -> bool {
    let config = format!("{BASE_PATH}/config");
    let is_backward = |method, body| matches!(probe::http(address, method, &config, body), Ok((200, text)) if text.contains("BACKWARD"));
    is_backward("PUT", Some(r#"{"compatibility":"BACKWARD"}"#))
        && is_backward("GET", None)
        && matches!(probe::http(address, "GET", &format!("{BASE_PATH}/subjects"), None), Ok((200, _)))
}
