//! The pages of workers.
//!
//! Workers are found by their addresses on the command line, by the files that workers of this machine leave in the state folder, and
//! at the hosts of the group's members with the port of `worker.http` in the configuration, or the usual one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;

use super::cluster::Group;
use crate::config::{Config, can_name_a_worker};
use crate::web::{Tls, Web};
use crate::worker::run::{addresses, held};

/// How long a worker may take to answer.
const LIMIT: Duration = Duration::from_secs(3);
/// The most that is read of a page, bytes.
const MOST: usize = 64 << 20;
/// The usual port of the pages.
const PORT: u16 = 9644;

/// A worker that answered.
#[derive(Serialize)]
pub(super) struct Worker {
    pub(super) address: String,
    /// Its page `/status`.
    pub(super) status: Value,
}

impl Worker {
    /// Its name; none while it starts.
    pub(super) fn name(&self) -> Option<&str> {
        self.status["worker"].as_str()
    }

    /// What it says of a partition that it reads.
    pub(super) fn partition(&self, topic: &str, partition: i32) -> Option<&Value> {
        let mut partitions = self.status["partitions"].as_array()?.iter();
        partitions.find(|at| at["topic"] == topic && at["partition"] == partition)
    }
}

/// Asks all that can be found. Those that were named and don't answer are in the second answer, with the cause.
pub(super) fn ask(
    pipeline: &str,
    group: &Group,
    config: &Config,
    named: &[String],
    runtime: &Handle,
) -> (Vec<Worker>, Vec<(String, String)>) {
    let mut wanted: Vec<String> = named.to_vec();
    let local = addresses(&config.worker.state_dir.join(pipeline)).into_iter().map(reachable);
    let port = config.worker.http.as_ref().and_then(|at| at.parse::<SocketAddr>().ok()).map_or(PORT, |at| at.port());
    let remote = group.members.iter().filter(|_| port != 0).filter_map(|member| Some(SocketAddr::new(member.host.parse().ok()?, port)));
    wanted.extend(local.chain(remote).map(|address| address.to_string()));
    wanted.sort_unstable();
    wanted.dedup();
    let answers = runtime.block_on(join_all(wanted.iter().map(|address| page(address))));
    let (mut workers, mut silent): (BTreeMap<String, Worker>, Vec<_>) = (BTreeMap::new(), Vec::new());
    for (address, answer) in wanted.into_iter().zip(answers) {
        match answer {
            Ok(status) if status["pipeline"] == pipeline => {
                // One worker may be found by several addresses.
                let known = status["worker"].as_str().map_or_else(|| address.clone(), str::to_string);
                workers.entry(known).or_insert(Worker { address, status });
            }
            Ok(_) => {}
            Err(why) if named.contains(&address) => silent.push((address, why)),
            Err(_) => {}
        }
    }
    (workers.into_values().collect(), silent)
}

/// Members of the group whose process was one of this machine and has ended: a worker holds its slot of the pipeline's folder as long as it
/// runs.
pub(super) fn gone(group: &Group, folder: &Path) -> Vec<String> {
    let held = held(folder);
    let ended = |worker: &&String| can_name_a_worker(worker) && folder.join(format!("{worker}.lock")).exists() && !held.contains(worker);
    let mut gone: Vec<String> = group.members.iter().map(|member| &member.worker).filter(ended).cloned().collect();
    gone.dedup();
    gone
}

/// An address to connect to, for one that a server listens on.
fn reachable(listens: SocketAddr) -> SocketAddr {
    match listens.ip().is_unspecified() {
        true => SocketAddr::from(([127, 0, 0, 1], listens.port())),
        false => listens,
    }
}

async fn page(address: &str) -> Result<Value, String> {
    let web = Web::new(&format!("http://{address}"), &Tls::default())?;
    let url = web.url().join("status").map_err(|e| e.to_string())?;
    let answer = web.send(web.request(Method::GET, url), LIMIT, MOST).await.map_err(|e| e.to_string())?;
    match answer.status.is_success() {
        true => serde_json::from_slice(&answer.body).map_err(|e| format!("it is no worker: {e}")),
        false => Err(format!("it answers {}", answer.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Member;
    use super::*;
    use crate::worker::run::Slot;

    #[test]
    fn a_member_whose_process_has_ended_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let member = |worker: &str| Member { worker: worker.into(), lane: Some(0), host: "h".into() };
        let members = ["here", "elsewhere", "../here", "killed"].map(member).into();
        let group = Group { name: "hw.p".into(), state: "Stable".into(), members };
        let _here = Slot::take(dir.path(), "p", Some("here")).unwrap();
        drop(Slot::take(dir.path(), "p", Some("killed")).unwrap());
        assert_eq!(gone(&group, &dir.path().join("p")), ["killed"]);
    }
}
