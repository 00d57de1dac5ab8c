//! CPU time of a program by thread: a thread that spins shows as one that takes a whole core.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// Shown by name.
const SHOWN: usize = 6;

/// CPU time of every thread at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    at: Instant,
    /// By thread id: its name and the seconds it has used.
    used: BTreeMap<u32, (String, f64)>,
}

/// The threads of a process now. Empty if it has ended.
pub fn now(process: i32) -> Look {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let used = tasks.filter_map(|task| {
        let thread = task.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        Some((thread, used(&stat)?))
    });
    Look { at: Instant::now(), used: used.collect() }
}

/// CPU seconds of a process so far. None if it has ended.
pub fn total(process: i32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(used(&stat)?.1)
}

/// Name and CPU seconds in `/proc/<pid>/stat` and `/proc/<pid>/task/<tid>/stat`: the name is in parentheses and may contain any; user and system
/// time are the fields 14 and 15 of the line.
fn used(stat: &str) -> Option<(String, f64)> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let mut fields = tail.split(' ').skip(11).map(|ticks| ticks.parse::<f64>().ok());
    // Linux tells times to programs in hundredths of a second, whatever its own clock does.
    Some((name.to_string(), (fields.next()?? + fields.next()??) / 100.0))
}

/// Shares of a core that threads took over some time, the busiest first.
#[derive(Clone, Debug)]
pub struct Threads(Vec<(String, f64)>);

impl Threads {
    /// Of the threads that were there at both moments.
    pub fn between(from: &Look, to: &Look) -> Threads {
        let seconds = (to.at - from.at).as_secs_f64().max(0.01);
        let both = to.used.iter().filter_map(|(thread, (name, after))| {
            let (_, before) = from.used.get(thread)?;
            Some((name.clone(), (after - before) / seconds))
        });
        let mut shares: Vec<_> = both.collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        Threads(shares)
    }

    /// Of the busiest thread.
    pub fn busiest(&self) -> f64 {
        self.0.first().map_or(0.0, |(_, share)| *share)
    }

    /// Of all threads.
    pub fn all(&self) -> f64 {
        self.0.iter().map(|(_, share)| share).sum()
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} % of a core", 100.0 * self.all())?;
        self.0.iter().take(SHOWN).try_for_each(|(name, share)| write!(f, ", {name} {:.0} %", 100.0 * share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_blanks_are_read() {
        let line = "17 (rdk:broker (1) x) S 1 1 1 0 -1 4194368 10 0 0 0 150 50 0 0 20 0 9 0 100";
        assert_eq!(used(line), Some(("rdk:broker (1) x".to_string(), 2.0)));
        assert_eq!(used("17 (x) S 1"), None);
    }

    #[test]
    fn shares_are_of_threads_that_lived_all_the_time() {
        let look = |at, used: &[(u32, f64)]| Look { at, used: used.iter().map(|(id, s)| (*id, (format!("t{id}"), *s))).collect() };
        let start = Instant::now();
        let later = start + std::time::Duration::from_secs(2);
        let threads = Threads::between(&look(start, &[(1, 5.0), (2, 1.0)]), &look(later, &[(1, 5.5), (2, 3.0), (3, 9.0)]));
        assert_eq!(threads.to_string(), "125 % of a core, t2 100 %, t1 25 %");
    }
}
