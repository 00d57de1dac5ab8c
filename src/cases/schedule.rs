//! The schedules of a family: everything that may happen to a pipeline without changing its output.

use headwater_engine::delivery::TableFault;
use headwater_engine::sim::Fault;

use super::arrival::Arrival;
use super::crash::{Crash, Step};

/// How to run a case.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Names it on the command line.
    pub name: String,
    pub lanes: usize,
    /// Commit after so many records.
    pub epoch_rows: u64,
    /// In which order records of different partitions come.
    pub arrival: Arrival,
    /// The worker dies at a step of the protocol, and starts again.
    pub crash: Option<Crash>,
    /// A lane leaves in the middle.
    pub rebalance: bool,
    /// Restarts have no local checkpoint: state comes from the changelog alone.
    pub cold: bool,
    /// Faults of the log, and how many occasions each lets pass.
    pub faults: Vec<(Fault, u32)>,
    /// The same, of the tables that sinks write.
    pub table_fault: Option<(TableFault, u32)>,
}

impl Schedule {
    /// Nothing happens.
    pub fn plain() -> Schedule {
        Schedule {
            name: "in-one-go".into(),
            lanes: 1,
            epoch_rows: 10_000,
            arrival: Arrival::Together,
            crash: None,
            rebalance: false,
            cold: true,
            faults: Vec::new(),
            table_fault: None,
        }
    }

    /// Row by row in the order of the lines: what a case's files say.
    pub fn reference() -> Schedule {
        Schedule { name: "row-by-row".into(), arrival: Arrival::AsWritten, epoch_rows: 1, ..Schedule::plain() }
    }

    /// Whether every record comes in the order of the lines, behind everything that those before it have caused.
    pub fn is_reference(&self) -> bool {
        self.arrival == Arrival::AsWritten
    }
}

/// Steps of the protocol at which a worker dies: those of lanes, and those of deliveries.
const LANE_STEPS: [Step; 6] = [Step::Join, Step::Init, Step::Read, Step::Send, Step::Commit, Step::Committed];
const TABLE_STEPS: [Step; 2] = [Step::Insert, Step::Position];
/// Faults of a commit, or of the steps before it. An abort is only asked for after something else has failed.
const FAULTS: [(&str, &[Fault]); 9] = [
    ("commit-refused", &[Fault::CommitRefused]),
    ("commit-request-lost", &[Fault::CommitRequestLost]),
    ("commit-reply-lost", &[Fault::CommitReplyLost]),
    ("commit-late", &[Fault::CommitLate]),
    ("send-fails", &[Fault::ProduceFails]),
    ("abort-fails", &[Fault::ProduceFails, Fault::AbortFails]),
    ("init-fails", &[Fault::InitFails]),
    ("expelled", &[Fault::Kicked]),
    ("rebalanced", &[Fault::Rebalance]),
];
/// Orders in which partitions come.
const ARRIVALS: [(&str, Arrival); 6] = [
    ("partitions-ascending", Arrival::Ascending),
    ("partitions-descending", Arrival::Descending),
    ("first-partition-last", Arrival::FirstLast),
    ("partitions-round-robin", Arrival::InTurn),
    ("partitions-random-1", Arrival::Drawn(1)),
    ("partitions-random-2", Arrival::Drawn(2)),
];
/// Faults of an insert.
const TABLE_FAULTS: [(&str, TableFault); 4] = [
    ("insert-unavailable", TableFault::Unavailable),
    ("insert-request-lost", TableFault::RequestLost),
    ("insert-reply-lost", TableFault::ReplyLost),
    ("insert-late", TableFault::Late),
];

/// All schedules, simple ones first. `tables`: some sink writes to a table.
pub fn family(tables: bool) -> Vec<Schedule> {
    let plain = Schedule::plain();
    let mut family = vec![
        Schedule::reference(),
        plain.clone(),
        Schedule { name: "three-lanes-one-leaves".into(), lanes: 3, rebalance: true, ..plain.clone() },
    ];
    family.extend(ARRIVALS.map(|(name, arrival)| Schedule { name: name.into(), arrival, ..plain.clone() }));
    let steps = LANE_STEPS.iter().chain(if tables { &TABLE_STEPS[..] } else { &[] });
    // A worker joins once, and starts two producers.
    let later = |step: &Step| match step {
        Step::Join => 1,
        Step::Init => 2,
        _ => 3,
    };
    for (step, after, occasion) in steps.flat_map(|s| [(s, false, 1), (s, true, 1), (s, false, later(s)), (s, true, later(s))]) {
        if occasion == 1 && family.iter().any(|known| known.crash.is_some_and(|c| c.step == *step && c.after == after)) {
            continue;
        }
        let crash = Crash { step: *step, after, occasion };
        // Both kinds of restore, in turn: from the checkpoint on disk, and from the changelog alone.
        for cold in [false, true] {
            let from = if cold { "-cold" } else { "" };
            let name = format!("crash-{}-{}-{occasion}{from}", if after { "after" } else { "before" }, format!("{step:?}").to_lowercase());
            if !cold || matches!(step, Step::Commit | Step::Committed) {
                family.push(Schedule { name, crash: Some(crash), epoch_rows: 2, cold, ..plain.clone() });
            }
        }
    }
    for (skip, (name, faults)) in [0, 1].into_iter().flat_map(|skip| FAULTS.map(|fault| (skip, fault))) {
        let faults = faults.iter().enumerate().map(|(n, fault)| (*fault, if n == 0 { skip } else { 0 })).collect();
        family.push(Schedule { name: format!("{name}-{}", skip + 1), faults, epoch_rows: 3, ..plain.clone() });
    }
    for (skip, (name, fault)) in [0, 1].into_iter().filter(|_| tables).flat_map(|skip| TABLE_FAULTS.map(|fault| (skip, fault))) {
        family.push(Schedule { name: format!("{name}-{}", skip + 1), table_fault: Some((fault, skip)), epoch_rows: 3, ..plain.clone() });
    }
    family
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn schedules_have_names_of_their_own() {
        let family = family(true);
        let names: BTreeSet<&str> = family.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), family.len());
        assert!(super::family(false).iter().all(|s| s.table_fault.is_none()));
    }
}
