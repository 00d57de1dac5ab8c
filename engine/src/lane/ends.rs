//! How a lane ends, and what interrupts its work without ending it.

use std::fmt::Display;

use crate::broker::BrokerError;
use crate::lane_end::LaneEnd;

/// Why work on the open epoch stopped. It leaves every function through `?`, so that nothing continues on rows, state or positions
/// that are no longer there.
#[derive(Debug)]
pub(super) enum Interrupt {
    /// What is not committed can't be, for this reason: `Lane::step` discards it and reads it again.
    Rewind(String),
    End(LaneEnd),
}

impl From<LaneEnd> for Interrupt {
    fn from(end: LaneEnd) -> Interrupt {
        Interrupt::End(end)
    }
}

impl From<BrokerError> for Interrupt {
    fn from(e: BrokerError) -> Interrupt {
        Interrupt::End(e.into())
    }
}

/// How a lane ends that misses something it must have. Continuing without it could lose rows; a new lane starts from what is committed.
#[cold]
pub(super) fn bug(missing: impl Display) -> LaneEnd {
    LaneEnd::Restart(format!("{missing} is missing: this is a bug"))
}
