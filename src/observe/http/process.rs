//! Numbers of this process from the kernel, under the names that Prometheus' client libraries use.

use std::path::Path;

use super::families::{CPU, Family, MAX_FDS, OPEN_FDS, RESIDENT, STARTED, THREADS, VIRTUAL};

/// Clock ticks per second in `/proc`: `USER_HZ`, which Linux keeps at 100 whatever the kernel's own clock.
const TICKS: f64 = 100.0;

/// The metrics of this process that can be read.
pub(super) fn numbers() -> Vec<(Family, f64)> {
    let mut numbers = Vec::new();
    if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
        numbers.push((CPU, stat.cpu_ticks / TICKS));
        if let Some(booted) = read("/proc/stat").and_then(|text| field(&text, "btime")) {
            numbers.push((STARTED, booted + stat.started_ticks / TICKS));
        }
    }
    if let Some(status) = read("/proc/self/status") {
        numbers.extend(field(&status, "Threads:").map(|threads| (THREADS, threads)));
        // Sizes are in kB, which are KiB.
        numbers.extend(field(&status, "VmSize:").map(|size| (VIRTUAL, size * 1_024.0)));
        numbers.extend(field(&status, "VmRSS:").map(|size| (RESIDENT, size * 1_024.0)));
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // Less the one that reads the folder.
        numbers.push((OPEN_FDS, open.count().saturating_sub(1) as f64));
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        numbers.push((MAX_FDS, limit as f64));
    }
    numbers
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Of `/proc/self/stat`; fields have the numbers of proc(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    started_ticks: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The program's name, in parentheses, may contain anything, also parentheses.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Stat { cpu_ticks: field(14)? + field(15)?, started_ticks: field(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let text = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 7 0 1234 1048576 99 18446744073709551615";
        assert_eq!(Stat::parse(text), Some(Stat { cpu_ticks: 300.0, started_ticks: 1234.0 }));
        assert_eq!(Stat::parse("42 (a"), None);
    }

    #[test]
    fn this_process_has_all_metrics() {
        let found = numbers();
        assert_eq!(found.len(), 7);
        let value = |name: &str| found.iter().find(|(family, _)| family.name == name).map(|(_, value)| *value).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        // The kernel's time of boot has whole seconds.
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(value("process_resident_memory_bytes") > 1e6 && value("process_open_fds") <= value("process_max_fds"), "{now}");
    }
}
