//! Worker processes: started, killed, started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use headwater_devenv::Ephemeral;

use crate::environment::{HW, configured, page, wait_until};

/// A pipeline file for one test: a shipped one with some text replaced.
pub fn pipeline(dir: &Path, shipped: &str, replace: &[(&str, &str)]) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(shipped).join("pipeline.yaml");
    let mut text = std::fs::read_to_string(&from).expect("a shipped pipeline");
    for (old, new) in replace {
        assert!(text.contains(old), "{} has no {old:?}", from.display());
        text = text.replace(old, new);
    }
    let path = dir.join(format!("{shipped}.yaml"));
    std::fs::write(&path, text).expect("the folder can be written");
    path
}

/// A running worker. Killed when dropped.
pub struct Worker {
    child: Child,
    log: PathBuf,
    /// Length of the log when it was started: what stands before is of an earlier one in the same slot.
    began: usize,
}

impl Worker {
    /// Starts `hw run` on a pipeline with the services' addresses. `slot`: folder of its state, kept between starts.
    pub fn start(environment: &Ephemeral, pipeline: &Path, dir: &Path, slot: usize, fail: Option<&str>) -> Worker {
        Worker::start_with(environment, pipeline, dir, slot, &fail.map_or(vec![], |fail| vec![("HW_FAIL", fail)]))
    }

    /// The same with variables of the environment.
    pub fn start_with(environment: &Ephemeral, pipeline: &Path, dir: &Path, slot: usize, variables: &[(&str, &str)]) -> Worker {
        let mut command = Command::new(&*HW);
        configured(command.arg("run").arg(pipeline), environment);
        command.env("HW_STATE_DIR", dir.join(format!("state-{slot}")));
        command.env_remove("HW_FAIL").envs(variables.iter().copied());
        Worker::spawn(command, dir.join(format!("worker-{slot}.log")))
    }

    /// The same with a configuration that names the services itself.
    pub fn start_configured(config: &Path, pipeline: &Path, dir: &Path) -> Worker {
        let mut command = Command::new(&*HW);
        command.arg("run").arg(pipeline).arg("--config").arg(config).env_remove("HW_FAIL");
        Worker::spawn(command, dir.join("worker.log"))
    }

    fn spawn(mut command: Command, log: PathBuf) -> Worker {
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let began = file.metadata().expect("a log file").len() as usize;
        command.env("HW_LOG", "info");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("hw starts");
        Worker { child, log, began }
    }

    /// SIGKILL, now.
    pub fn kill(mut self) {
        self.child.kill().expect("a process of ours");
        self.child.wait().expect("a process of ours");
    }

    /// SIGTERM, and the exit status. Before that the row ledger must be exact: every test ends with it.
    pub fn stop(mut self) -> ExitStatus {
        self.ledger_is_exact();
        self.signal(rustix::process::Signal::TERM);
        self.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("the worker does not stop:\n{}", self.log_tail()))
    }

    /// SIGTERM, and nothing else.
    pub fn ask_to_stop(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// SIGSTOP: the process does nothing until [`Worker::thaw`].
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("a process of ours");
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a process of ours") {
                return Some(status);
            }
            let (_sender, receiver) = std::sync::mpsc::channel::<()>();
            let _ = receiver.recv_timeout(Duration::from_millis(20));
        }
        None
    }

    /// The address of its pages, from its log.
    pub fn address(&self) -> String {
        let mut found = String::new();
        wait_until("the worker's address", Duration::from_secs(60), || {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last = log
                .get(self.began..)
                .unwrap_or_default()
                .lines()
                .rev()
                .find_map(|l| l.split("\"http\":\"").nth(1).and_then(|r| r.split('"').next()));
            found = last.ok_or_else(|| format!("not in its log:\n{}", self.log_tail()))?.to_string();
            Ok(())
        });
        found
    }

    /// A number from its metrics: the sum over all series whose line contains every part.
    pub fn metric(&self, name: &str, parts: &[&str]) -> Result<f64, String> {
        let text = page(&self.address(), "/metrics")?;
        let lines = text.lines().filter(|l| l.starts_with(name) && parts.iter().all(|p| l.contains(p)));
        Ok(lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Every committed record of a source became a row, was skipped or is a dead letter; every committed row of a step was
    /// passed on, filtered, late, rejected, or is held.
    fn ledger_is_exact(&self) {
        let text = page(&self.address(), "/metrics").unwrap_or_else(|e| panic!("{e}\n{}", self.log_tail()));
        let mut steps: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("headwater_step_rows")) {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            let label = |name: &str| series.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
            let cell = steps.entry(format!("{} {}", label("step"), label("partition"))).or_default();
            let value: f64 = value.parse().expect("a number");
            if series.starts_with("headwater_step_rows_in_total") { cell.0 += value } else { cell.1 += value }
        }
        for (step, (rows, accounted)) in steps {
            assert_eq!(rows, accounted, "the ledger of step and partition `{step}`");
        }
    }

    /// The lines of its log, which are all JSON.
    pub fn log_lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// How many lines of its log, since it was started, have this message.
    pub fn said(&self, message: &str) -> usize {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let begins = format!("\"message\":\"{message}");
        text.get(self.began..).unwrap_or_default().lines().filter(|line| line.contains(&begins)).count()
    }

    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
