//! An environment that ends with the process that asked for it.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::environment::Environment;
use crate::options::Options;
use crate::process::detach;
use crate::{LocalError, ports};

/// An [`Environment`] in a temporary folder, stopped and removed on drop.
///
/// Tests often keep one in a `static`, which is never dropped, and tests are killed. So a guard process waits on a
/// pipe whose other end only this process holds: when it ends, in whatever way, the guard kills what was started and
/// removes the folder.
#[derive(Debug)]
pub struct Ephemeral {
    environment: Environment,
    guard: Guard,
}

impl Ephemeral {
    /// [`Environment::up`] in a new temporary folder; `options.dir` and `options.ports` are not used.
    ///
    /// # Errors
    /// Those of [`Environment::up`]. Nothing is left running then.
    pub fn up(options: &Options) -> Result<Ephemeral, LocalError> {
        let dir = tempfile::Builder::new().prefix("headwater-").tempdir();
        let dir = dir.map_err(LocalError::io("cannot create a temporary folder"))?.keep();
        let guard = Guard::start(&dir)?;
        let options = Options { dir, ports: Default::default(), ..options.clone() };
        let environment = Environment::up(&options, &mut |_| {})?;
        Ok(Ephemeral { environment, guard })
    }

    /// A port that nothing listens on, for a service of the test's own.
    ///
    /// # Errors
    /// The system has no free port.
    pub fn free_port(&self) -> Result<u16, LocalError> {
        let ports = ports::free_ports(1).map_err(LocalError::io("no free ports"))?;
        ports.first().copied().ok_or_else(|| LocalError::Mismatch("no free ports".to_owned()))
    }
}

impl Deref for Ephemeral {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.environment
    }
}

impl DerefMut for Ephemeral {
    fn deref_mut(&mut self) -> &mut Environment {
        &mut self.environment
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        // The guard would do the same; here it happens before the next line of the test.
        let _ = self.environment.down(true);
        self.guard.release();
    }
}

/// The guard process; its standard input is the pipe.
#[derive(Debug)]
struct Guard {
    child: Child,
    dir: PathBuf,
}

/// Ends the processes noted in `pids` if the folder is in their command line, then removes the folder.
const SCRIPT: &str = r#"cat >/dev/null
for file in "$1"/pids/*; do
  [ -f "$file" ] || continue
  pid=$(cat "$file")
  grep -qaF -- "$1" "/proc/$pid/cmdline" 2>/dev/null && kill -9 "$pid"
done
rm -rf -- "$1""#;

impl Guard {
    fn start(dir: &std::path::Path) -> Result<Guard, LocalError> {
        let dir = fs::canonicalize(dir).map_err(LocalError::io("cannot resolve a temporary folder"))?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "headwater-guard"]).arg(&dir).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        detach(&mut command); // Ctrl-C in the terminal must end the test, not its guard
        let child = command.spawn().map_err(LocalError::io("cannot run sh"))?;
        Ok(Guard { child, dir })
    }

    /// Closes the pipe and waits until the guard has done its work.
    fn release(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        debug_assert!(!self.dir.exists(), "the guard removes the folder");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Launch;
    use std::time::Duration;

    #[test]
    fn the_guard_ends_what_was_noted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap().keep();
        let dir = fs::canonicalize(dir).unwrap();
        fs::create_dir(dir.join("pids")).unwrap();
        let spawn = |argument: &std::path::Path| {
            let args = ["-c", "while :; do sleep 0.05; done"].map(str::to_owned).into_iter();
            let args = args.chain([argument.display().to_string()]).collect();
            let log = "/dev/null".into();
            Launch { program: "sh".to_owned(), args, dir: "/".into(), log }.spawn().unwrap()
        };
        let elsewhere = PathBuf::from("/some/other/folder");
        let (ours, foreign) = (spawn(&dir), spawn(&elsewhere));
        fs::write(dir.join("pids/ours"), ours.pid.to_string()).unwrap();
        fs::write(dir.join("pids/reused"), foreign.pid.to_string()).unwrap();
        drop(Guard::start(&dir).unwrap());
        assert!(ours.wait_gone(&dir, Duration::from_secs(20)));
        assert!(foreign.alive(&elsewhere), "an id that was reused by another program is left alone");
        foreign.stop(crate::Stop::Kill, &elsewhere).unwrap();
        assert!(!dir.exists());
    }
}
