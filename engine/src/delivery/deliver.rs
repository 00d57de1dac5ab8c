//! What drives a delivery, whatever makes it exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operator_core::Millis;

use super::DeliveryError;
use super::counters::Counters;
use crate::broker::Clock;

/// How long what is under way may take when the delivery ends.
pub(super) const FINISH: Millis = 5_000;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done; there may be more to do.
    Busy,
    /// Waits for records, for the target or for time to pass.
    Idle,
    /// The brokers could not be asked. Wait a moment before the next step.
    Unavailable,
}

/// A delivery, whatever makes it exact.
pub trait Deliver: Send {
    /// One round: handle events of the group, read, and continue with the current block. Waits up to `timeout` if there is nothing to do.
    ///
    /// # Errors
    /// Delivery has ended and the object must be dropped; nothing is lost.
    fn step(&mut self, timeout: Duration) -> Result<Step, DeliveryError>;

    /// Begins no new block while it is `stopping`. True if nothing is in progress then.
    fn close(&mut self, stopping: bool) -> bool;

    /// Forgets everything that is not stored: it is read and decided again.
    fn forget(&mut self);

    fn clock(&self) -> &dyn Clock;

    /// Counters to read from anywhere.
    fn counters(&self) -> Arc<Counters>;

    /// Steps until `stop` is set, then settles what is in progress if that takes no longer than [`FINISH`]. Otherwise it leaves what
    /// a crash leaves.
    ///
    /// # Errors
    /// Those of [`Deliver::step`].
    fn run(&mut self, stop: &AtomicBool) -> Result<(), DeliveryError> {
        const TICK: Duration = Duration::from_millis(100);
        let mut until = None;
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if self.close(stopping) {
                return Ok(());
            }
            let now = self.clock().monotonic();
            if stopping && now >= *until.get_or_insert(now.saturating_add(FINISH)) {
                self.forget();
                return Ok(());
            }
            if self.step(TICK)? == Step::Unavailable {
                std::thread::sleep(TICK);
            }
        }
    }
}

/// How long it is from `now` until `at`, both monotonic; for ever if nothing is due.
pub(super) fn left_until(at: Option<Millis>, now: Millis) -> Duration {
    let left = at.map_or(i64::MAX, |at| at.saturating_sub(now));
    Duration::from_millis(u64::try_from(left).unwrap_or(0))
}
