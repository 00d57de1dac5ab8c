//! Failpoints: places where a test can stop this process at an exact step.
//!
//! A random kill almost never hits the millisecond between "the broker has committed" and "the engine knows". The
//! environment variable `HW_FAIL` does: `HW_FAIL=after-commit:3:kill` kills the process with SIGKILL the third time it
//! comes past [`failpoint`]`("after-commit")`. Several are separated by commas. Actions: `kill` (no destructor, no
//! flush: what a power cut leaves) and `hang` (the thread stops there, the rest of the process continues: a stuck member).
//!
//! The variable is read once. Unset, a failpoint costs one atomic load and a branch, so it can stay in release
//! builds, and tests run the production code. A value that cannot be read is reported on the log and ignored; it never changes
//! what a pipeline does.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static ARMED: OnceLock<Vec<Failpoint>> = OnceLock::new();

/// What happens at an armed failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Hang,
}

#[derive(Debug)]
struct Failpoint {
    point: String,
    /// The pass at which it goes off, counted from 1.
    nth: u64,
    action: Action,
    passed: AtomicU64,
}

impl Failpoint {
    /// Counts a pass through `point`; the action if this is the one.
    fn pass(&self, point: &str) -> Option<Action> {
        if self.point != point {
            return None;
        }
        let pass = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        (pass == self.nth).then_some(self.action)
    }
}

/// Does nothing unless `HW_FAIL` names `point`; see the module's text.
pub fn failpoint(point: &str) {
    let armed = ARMED.get_or_init(|| std::env::var("HW_FAIL").map(|text| read(&text)).unwrap_or_default());
    if armed.is_empty() {
        return;
    }
    for failpoint in armed {
        match failpoint.pass(point) {
            Some(Action::Kill) => kill(point),
            Some(Action::Hang) => hang(point),
            None => {}
        }
    }
}

fn read(text: &str) -> Vec<Failpoint> {
    let mut armed = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match read_one(part) {
            Some(failpoint) => armed.push(failpoint),
            None => tracing::warn!(part, "HW_FAIL is not of the form point:nth:kill or point:nth:hang; ignored"),
        }
    }
    armed
}

fn read_one(part: &str) -> Option<Failpoint> {
    let mut fields = part.split(':');
    let (point, nth, action) = (fields.next()?, fields.next()?, fields.next()?);
    if point.is_empty() || fields.next().is_some() {
        return None;
    }
    let action = match action {
        "kill" => Action::Kill,
        "hang" => Action::Hang,
        _ => return None,
    };
    let nth = nth.parse().ok().filter(|nth| *nth > 0)?;
    Some(Failpoint { point: point.to_owned(), nth, action, passed: AtomicU64::new(0) })
}

fn kill(point: &str) -> ! {
    tracing::error!(point, "failpoint: killing this process");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // Reached only if the signal could not be sent.
    std::process::abort()
}

fn hang(point: &str) -> ! {
    tracing::error!(point, "failpoint: this thread stops here");
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_list_and_leaves_out_what_it_does_not_understand() {
        let armed = read(" after-commit:3:kill, a:1:hang ,b:0:kill,c:1:jump,d:1,:1:kill,e:1:kill:x,f:-1:kill,");
        let seen: Vec<_> = armed.iter().map(|f| (f.point.as_str(), f.nth, f.action)).collect();
        assert_eq!(seen, [("after-commit", 3, Action::Kill), ("a", 1, Action::Hang)]);
    }

    #[test]
    fn goes_off_at_the_nth_pass_only() {
        let failpoint = read_one("p:2:kill").unwrap();
        assert_eq!(failpoint.pass("other"), None);
        assert_eq!(failpoint.pass("p"), None);
        assert_eq!(failpoint.pass("p"), Some(Action::Kill));
        assert_eq!(failpoint.pass("p"), None);
    }
}
