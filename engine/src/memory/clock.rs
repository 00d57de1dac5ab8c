//! Time that moves only when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use operator_core::Millis;

use crate::broker::Clock;

/// A virtual clock, shared between the broker, the lanes and the test that moves it.
///
/// Wall and monotonic time are separate, as they are on a machine: [`MemoryClock::advance`] moves both,
/// [`MemoryClock::step_wall`] is what an NTP correction does.
#[derive(Debug, Default)]
pub struct MemoryClock {
    elapsed: AtomicI64,
    /// Wall time minus monotonic time.
    wall: AtomicI64,
}

impl MemoryClock {
    /// A clock whose wall shows `wall` (milliseconds since the Unix epoch) and whose monotonic time is 0.
    pub fn at(wall: Millis) -> Arc<MemoryClock> {
        Arc::new(MemoryClock { elapsed: AtomicI64::new(0), wall: AtomicI64::new(wall) })
    }

    /// Lets `millis` pass. Members and transactions whose timeout lies in between are expired at the next call to the
    /// broker, so a test that wants its living members to stay advances in steps shorter than the session timeout and
    /// polls in between.
    pub fn advance(&self, millis: Millis) {
        self.elapsed.fetch_add(millis.max(0), Ordering::SeqCst);
    }

    /// Steps the wall clock without any time passing; may be negative.
    pub fn step_wall(&self, millis: Millis) {
        self.wall.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for MemoryClock {
    fn wall(&self) -> Millis {
        self.wall.load(Ordering::SeqCst).saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> Millis {
        self.elapsed.load(Ordering::SeqCst)
    }
}
