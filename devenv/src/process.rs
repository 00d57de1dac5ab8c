//! Processes that outlive their parent, and how they are recognised later.
//!
//! A process id alone is not an identity: ids are reused. A process is ours when its id, the time it was started
//! (`starttime` of `/proc/<pid>/stat`, in clock ticks since boot) and the environment's folder in its command line
//! all match what was recorded. Anything else is left alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

/// Time between two looks at a process or a service that is being waited for.
pub const POLL: Duration = Duration::from_millis(20);

/// How a service is ended in a fault test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: the service shuts down in order. After 20 seconds it is killed.
    Terminate,
    /// SIGKILL: the process is gone at once, as after a crash.
    Kill,
}

/// Everything needed to start a process, kept so that it can be started again in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    pub program: String,
    pub args: Vec<String>,
    /// Working folder.
    pub dir: PathBuf,
    /// Standard output and standard error are appended to this file.
    pub log: PathBuf,
}

/// A process that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub pid: u32,
    /// `starttime` of the process in clock ticks since boot.
    pub started: u64,
}

impl Launch {
    /// Starts the process in its own session: no controlling terminal, so neither Ctrl-C nor the end of the
    /// caller reaches it.
    pub fn spawn(&self) -> io::Result<Running> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        detach(&mut command);
        let pid = command.spawn()?.id();
        // A process that ended at once still has its entry (as a zombie) until it is waited for.
        let started = stat(pid).map_or(0, |(_, started)| started);
        Ok(Running { pid, started })
    }

    /// Size of the log now: what a service says after being started begins there.
    pub fn log_size(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |meta| meta.len())
    }
}

/// Puts the command into a new session before it runs.
pub fn detach(command: &mut Command) {
    // SAFETY: the closure runs in the forked child before exec, where only async-signal-safe calls are allowed.
    // setsid is one (POSIX lists it), it does not allocate, and its error is returned without formatting.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

impl Running {
    /// Whether the process still runs and is the one that was started for `marker` (a path in its command line).
    ///
    /// A process that is ending counts as running until its files and sockets are closed: its memory, and with it
    /// the command line, goes first. Then the command line is empty, or cut off if it goes while it is read; so only
    /// one that reads the same twice is taken for a foreign one.
    pub fn alive(&self, marker: &Path) -> bool {
        let marker = marker.as_os_str().as_encoded_bytes();
        let line = || fs::read(format!("/proc/{}/cmdline", self.pid)).ok();
        let ours = |line: &[u8]| line.is_empty() || line.windows(marker.len().max(1)).any(|window| window == marker);
        let foreign = |first: &[u8]| !ours(first) && line().is_some_and(|second| second == first);
        self.exists() && line().is_some_and(|line| !foreign(&line))
    }

    /// Whether the process that was started still has an entry. An ended child of this process is collected.
    fn exists(&self) -> bool {
        match stat(self.pid) {
            Some((state, started)) if started == self.started => match (state, self.pid()) {
                ('X', _) | (_, None) => false,
                // While other threads of the process are still ending, it cannot be collected yet.
                ('Z', Some(pid)) => match waitpid(Some(pid), WaitOptions::NOHANG) {
                    Ok(Some(_)) => false,
                    Ok(None) => true,
                    Err(_) => threads(self.pid) > 1, // not our child: whoever its parent is will collect it
                },
                _ => true,
            },
            _ => false,
        }
    }

    /// Sends a signal if the process is still ours; a process that is gone is not an error.
    pub fn signal(&self, signal: Signal, marker: &Path) -> io::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        if !self.alive(marker) {
            return Ok(());
        }
        match kill_process(pid, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits until the process is gone; false when `patience` ran out first.
    pub fn wait_gone(&self, marker: &Path, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.alive(marker) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }

    /// Ends the process and waits for its end.
    pub fn stop(&self, how: Stop, marker: &Path) -> io::Result<()> {
        if how == Stop::Terminate {
            self.signal(Signal::TERM, marker)?;
            self.signal(Signal::CONT, marker)?; // a paused process acts on SIGTERM only once it continues
            if self.wait_gone(marker, Duration::from_secs(20)) {
                return Ok(());
            }
        }
        self.signal(Signal::KILL, marker)?;
        if self.wait_gone(marker, Duration::from_secs(10)) {
            return Ok(());
        }
        Err(io::Error::other(format!("process {} does not end", self.pid)))
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

/// State letter and start time of a process, from `/proc/<pid>/stat`.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program name in parentheses and may itself contain spaces and parentheses.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // state is field 3 of proc(5), starttime is field 22.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// What was written to a log after `from`, at most 4 MiB of it.
pub fn log_since(log: &Path, from: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.take(4 << 20).read_to_end(&mut text)?;
        Ok(text)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last lines of a log, for error messages.
pub fn log_tail(log: &Path) -> String {
    let size = fs::metadata(log).map_or(0, |meta| meta.len());
    tail_lines(&log_since(log, size.saturating_sub(16 << 10)), 25)
}

/// The last `count` lines of a text.
pub fn tail_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

/// Sixteen random bytes of the system.
pub fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A random number of the system.
pub fn random_u64() -> io::Result<u64> {
    let bytes = random_bytes()?;
    Ok(bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(dir: &Path, script: &str) -> Launch {
        Launch {
            program: "sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned(), dir.display().to_string()],
            dir: dir.to_owned(),
            log: dir.join("log"),
        }
    }

    #[test]
    fn a_process_is_recognised_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let running = launch(dir.path(), "while :; do sleep 0.05; done").spawn().unwrap();
        assert!(running.alive(dir.path()));
        let other = Running { started: running.started + 1, ..running };
        assert!(!other.alive(dir.path()), "another start time is another process");
        assert!(!running.alive(Path::new("/nowhere/else")), "a command line without the marker is foreign");
        kill_process(running.pid().unwrap(), Signal::KILL).unwrap();
        assert!(running.wait_gone(dir.path(), Duration::from_secs(20)));
    }

    #[test]
    fn a_command_line_that_is_cut_off_is_not_foreign() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..150 {
            let mut launch = launch(dir.path(), "exit 0");
            launch.args.insert(2, "x".repeat(60_000));
            let running = launch.spawn().unwrap();
            assert!(running.wait_gone(dir.path(), Duration::from_secs(20)));
            assert!(!Path::new(&format!("/proc/{}", running.pid)).exists(), "it was still ending");
        }
    }

    #[test]
    fn sigterm_is_followed_by_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let running = launch(dir.path(), "while :; do sleep 0.05; done").spawn().unwrap();
        assert!(running.alive(dir.path()));
        running.stop(Stop::Terminate, dir.path()).unwrap();
        assert!(!running.alive(dir.path()));
        assert!(!Path::new(&format!("/proc/{}", running.pid)).exists(), "the child was reaped");
    }

    #[test]
    fn the_log_is_appended_and_read_from_an_offset() {
        let dir = tempfile::tempdir().unwrap();
        let first = launch(dir.path(), "echo one");
        first.spawn().unwrap().wait_gone(dir.path(), Duration::from_secs(20));
        let offset = first.log_size();
        launch(dir.path(), "echo two").spawn().unwrap().wait_gone(dir.path(), Duration::from_secs(20));
        assert_eq!(log_since(&first.log, offset), "two\n");
        assert_eq!(log_tail(&first.log), "one\ntwo");
    }
}
