//! A lane through its restarts: what a worker, cases and the simulation step.

use std::time::Duration;

use super::{Lane, LaneConfig, LaneEnd, Runtime};

/// What a step of a lane came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It started or did something, or something is not committed yet.
    Busy,
    /// Everything that was read is committed.
    Idle,
    /// It has ended for this reason. The next step starts another one from the last commit.
    Ended(String),
}

/// A lane that is started where it does not run.
pub struct RunningLane {
    runtime: Runtime,
    config: LaneConfig,
    lane: Option<Lane>,
}

impl RunningLane {
    /// Nothing is started yet.
    pub fn new(runtime: Runtime, config: LaneConfig) -> RunningLane {
        RunningLane { runtime, config, lane: None }
    }

    /// One step, or the start, which blocks while earlier transactions of the lane's ids are settled.
    ///
    /// # Errors
    /// Why the lane ends, where no restart changes it.
    pub fn step(&mut self, wait: Duration) -> Result<Stepped, String> {
        let stepped = match &mut self.lane {
            Some(lane) => lane.step(wait).map(|worked| worked || !lane.is_settled()),
            None => Lane::start(self.runtime.clone(), self.config.clone()).map(|lane| {
                self.lane = Some(lane);
                true
            }),
        };
        match stepped {
            Ok(true) => Ok(Stepped::Busy),
            Ok(false) => Ok(Stepped::Idle),
            Err(LaneEnd::Restart(cause)) => {
                self.lane = None;
                Ok(Stepped::Ended(cause))
            }
            Err(LaneEnd::Stop(cause)) => Err(cause),
        }
    }

    /// Whether a lane runs.
    pub fn runs(&self) -> bool {
        self.lane.is_some()
    }

    /// Commits what was processed and leaves the group.
    ///
    /// # Errors
    /// The last commit failed, or took longer than `patience`.
    pub fn finish(self, patience: Duration) -> Result<(), LaneEnd> {
        self.lane.map_or(Ok(()), |lane| lane.finish(patience))
    }
}
