//! Rewinds: what is not committed is discarded and read again.

use std::time::Duration;

use super::commits::Ended;
use super::ends::Interrupt;
use super::{Lane, LaneEnd};

/// How long a rewind waits for the commit in flight, and how long at a time.
const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(100);

impl Lane {
    /// The result of work on the open epoch; `None` if it has to be done again, because the epoch was discarded. The one place that
    /// handles a rewind.
    pub(super) fn rewound<T>(&mut self, worked: Result<T, Interrupt>) -> Result<Option<T>, LaneEnd> {
        let cause = match worked {
            Ok(done) => return Ok(Some(done)),
            Err(Interrupt::End(end)) => return Err(end),
            Err(Interrupt::Rewind(cause)) => cause,
        };
        tracing::warn!(%cause, "rewinding to the committed positions");
        self.runtime.stats.rewound();
        self.abandon()?;
        // Without the records that are refused the next attempt is another one.
        let differs = self.outputs.learn(self.commits.refused())?;
        self.commits.discarded(&cause, differs)?;
        let uncommitted = self.intake.rewind()?;
        self.tasks.rewind();
        self.commits.touch(uncommitted, self.runtime.clock.monotonic());
        Ok(None)
    }

    /// Discards whatever is open. The commit in flight, if any, is waited for: its outcome is what remains.
    pub(super) fn abandon(&mut self) -> Result<(), LaneEnd> {
        self.commits.abort()?;
        self.outputs.buffer.discard();
        for _ in 0..PATIENCE.as_millis() / WAIT.as_millis() {
            if !self.commits.is_committing() {
                return Ok(());
            }
            if let Some(Ended::Committed(sealed, offsets)) = self.commits.settle(WAIT, &self.runtime.stats)? {
                self.apply(*sealed, &offsets)?;
            }
        }
        Err(LaneEnd::Restart("a commit has been pending for more than a minute".into()))
    }
}
