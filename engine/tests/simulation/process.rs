//! A process of the simulation: a lane through its restarts, and the tables that it reads.

use std::time::Duration;

use headwater_engine::lane::{LaneConfig, LaneEnd, RunningLane, Runtime, Stepped};
use headwater_engine::tables::TableLoader;

/// Stands for a worker with one lane.
pub struct Process {
    runtime: Runtime,
    lane: RunningLane,
    tables: Option<TableLoader>,
}

impl Process {
    /// Nothing is started yet.
    pub fn new(runtime: Runtime, config: LaneConfig) -> Process {
        Process { lane: RunningLane::new(runtime.clone(), config), runtime, tables: None }
    }

    /// One step of the tables, and one of the lane.
    ///
    /// # Errors
    /// Why the process ends, where no restart changes it.
    pub fn step(&mut self) -> Result<Stepped, String> {
        if !self.runtime.plan.tables.is_empty() {
            self.read_tables()?;
        }
        self.lane.step(Duration::ZERO)
    }

    fn read_tables(&mut self) -> Result<(), String> {
        let Runtime { plan, broker, tables, schemas, clock, .. } = &self.runtime;
        let made = match self.tables.take() {
            Some(loader) => Ok(loader),
            None => TableLoader::new(plan, tables.clone(), broker.clone(), schemas.clone(), clock.clone()).map_err(LaneEnd::from),
        };
        match made.and_then(|loader| self.tables.insert(loader).step(Duration::ZERO)) {
            // The loader reads on where it stopped.
            Ok(()) | Err(LaneEnd::Restart(_)) => Ok(()),
            Err(LaneEnd::Stop(why)) => Err(why),
        }
    }

    /// Whether a lane runs.
    pub fn runs(&self) -> bool {
        self.lane.runs()
    }

    /// Commits what was processed and leaves the group.
    ///
    /// # Errors
    /// The last commit failed, or took longer than `patience`.
    pub fn finish(self, patience: Duration) -> Result<(), LaneEnd> {
        self.lane.finish(patience)
    }
}
