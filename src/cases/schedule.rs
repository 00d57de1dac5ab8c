//! The schedules of a family: whatever may happen to a pipeline without changing what it means.

use headwater_engine::memory::Fault;

/// One way to run a case.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub name: String,
    pub lanes: usize,
    /// Commit after so many records.
    pub epoch_rows: u64,
    /// Let everything settle after each record.
    pub row_by_row: bool,
    /// Kill every lane after so many steps, and start anew.
    pub crash_after: Option<usize>,
    /// A lane leaves in the middle.
    pub rebalance: bool,
    /// Restarts have no local checkpoint.
    pub cold: bool,
    /// A fault, and how many occasions it lets pass.
    pub fault: Option<(Fault, u32)>,
}

impl Schedule {
    /// Nothing happens.
    pub fn plain() -> Schedule {
        Schedule {
            name: "in one go".into(),
            lanes: 1,
            epoch_rows: 10_000,
            row_by_row: false,
            crash_after: None,
            rebalance: false,
            cold: true,
            fault: None,
        }
    }
}

/// Faults that a commit, or what leads to it, can meet.
const FAULTS: [Fault; 9] = [
    Fault::ProduceFails,
    Fault::CommitRefused,
    Fault::CommitRequestLost,
    Fault::CommitReplyLost,
    Fault::CommitLate,
    Fault::AbortFails,
    Fault::InitFails,
    Fault::Kicked,
    Fault::Rebalance,
];

/// All schedules, the plain one first.
pub fn family() -> Vec<Schedule> {
    let plain = Schedule::plain();
    let mut family = vec![
        plain.clone(),
        Schedule { name: "row by row".into(), row_by_row: true, epoch_rows: 1, ..plain.clone() },
        Schedule { name: "three lanes, one leaves in the middle".into(), lanes: 3, rebalance: true, ..plain.clone() },
    ];
    for after in [1, 2, 3, 5, 8, 13, 21, 34] {
        let crash_after = Some(after);
        family.push(Schedule { name: format!("crash after step {after}"), crash_after, epoch_rows: 2, cold: false, ..plain.clone() });
    }
    family.push(Schedule {
        name: "crash after step 12, restored from the changelog alone".into(),
        crash_after: Some(12),
        epoch_rows: 2,
        ..plain.clone()
    });
    for (skip, fault) in [0, 1].into_iter().flat_map(|skip| FAULTS.map(|fault| (skip, fault))) {
        let name = format!("{fault:?} at occasion {}", skip + 1);
        family.push(Schedule { name, fault: Some((fault, skip)), epoch_rows: 3, ..plain.clone() });
    }
    family
}
