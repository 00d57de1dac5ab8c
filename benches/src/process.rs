//! A measured process.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process has to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// What an ended process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all its threads, from start to end.
    pub cpu: Duration,
    /// Most resident memory at a time, in bytes.
    pub peak_rss: u64,
}

/// A child process with its output in a log file. Killed when dropped before it was stopped.
pub struct Measured {
    pid: Pid,
    log: PathBuf,
    pub started: Instant,
    running: bool,
}

impl Measured {
    pub fn start(mut command: Command, log: &Path) -> Result<Measured, String> {
        let file = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let other = file.try_clone().map_err(|e| e.to_string())?;
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(|| {
                // An interrupted benchmark leaves nothing behind.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let started = Instant::now();
        let child =
            command.stdin(Stdio::null()).stdout(other).stderr(file).spawn().map_err(|e| format!("{command:?} does not start: {e}"))?;
        // From here on the process is waited for with wait4, the only call that returns its usage.
        Ok(Measured { pid: Pid::from_child(&child), log: log.to_path_buf(), started, running: true })
    }

    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Fails with the end of its log if it has ended by itself.
    pub fn check(&mut self) -> Result<(), String> {
        match self.wait(false) {
            None => Ok(()),
            Some((status, _)) => Err(format!("the process ended by itself (wait status {status}):\n{}", self.log_tail())),
        }
    }

    /// SIGTERM, and what it used.
    pub fn stop(mut self) -> Result<Usage, String> {
        // Not from wait4: `ru_maxrss` counts the memory of the parent that was mapped between fork and exec.
        let peak_rss = self.peak_rss();
        kill_process(self.pid, Signal::TERM).map_err(|e| e.to_string())?;
        let asked = Instant::now();
        while asked.elapsed() < END {
            if let Some((_, cpu)) = self.wait(false) {
                return Ok(Usage { cpu, peak_rss });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("the process does not end on SIGTERM:\n{}", self.log_tail()))
    }

    fn peak_rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
    }

    /// The status and CPU time of the process if it has ended.
    fn wait(&mut self, block: bool) -> Option<(i32, Duration)> {
        if !self.running {
            return None;
        }
        let mut status = 0;
        // SAFETY: all-zero is a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let options = if block { 0 } else { libc::WNOHANG };
        // SAFETY: the pointers are valid for the call; the process is our child and no one else waits for it.
        let ended = unsafe { libc::wait4(self.id(), &mut status, options, &mut usage) };
        if ended != self.id() {
            return None;
        }
        self.running = false;
        let time = |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
        Some((status, time(usage.ru_utime) + time(usage.ru_stime)))
    }

    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if self.running {
            let _ = kill_process(self.pid, Signal::KILL);
            self.wait(true);
        }
    }
}
