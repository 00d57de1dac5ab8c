//! What a difference means for who deploys.

use operator_core::Diagnostic;

/// What a deployment needs, from nothing to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impact {
    /// Nothing differs.
    None,
    /// It can be deployed: state and positions are used as they are.
    Compatible,
    /// It can be deployed later: once rows are read, or no worker of another version runs.
    Blocked,
    /// State has to be given up, or made again from the records.
    Backfill,
    /// Positions or topics don't fit, or were lost.
    Breaking,
}

impl Impact {
    /// The impact of a difference that is refused.
    pub(super) fn of_refusal(refused: &Diagnostic) -> Impact {
        match refused.code {
            "unread-rows" | "workers-running" => Impact::Blocked,
            "changed-state" => Impact::Backfill,
            _ => Impact::Breaking,
        }
    }

    /// Its name in output for programs.
    pub fn name(self) -> &'static str {
        match self {
            Impact::None => "no-op",
            Impact::Compatible => "compatible",
            Impact::Blocked => "blocked",
            Impact::Backfill => "backfill",
            Impact::Breaking => "breaking",
        }
    }
}

impl super::Verdict {
    /// The refusals, each with its impact.
    pub fn refusals(&self) -> impl Iterator<Item = (Impact, &Diagnostic)> {
        self.refused.iter().map(|refused| (Impact::of_refusal(refused), refused))
    }
}
