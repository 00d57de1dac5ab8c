//! A clock that tests advance.

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
    /// The part of it that was work: neither the wall nor anyone's silence knows of it.
    worked: AtomicI64,
    /// Wall time minus the monotonic time that was no work.
    wall: AtomicI64,
}

impl MemoryClock {
    /// A clock whose wall shows `wall` (milliseconds since the Unix epoch) and whose monotonic time is 0.
    pub fn at(wall: Millis) -> Arc<MemoryClock> {
        Arc::new(MemoryClock { wall: AtomicI64::new(wall), ..MemoryClock::default() })
    }

    /// Lets `millis` pass. Members and transactions whose timeout lies in between are expired at the next call to the
    /// broker, so a test that wants its living members to stay advances in steps shorter than the session timeout and
    /// polls in between.
    pub fn advance(&self, millis: Millis) {
        self.elapsed.fetch_add(millis.max(0), Ordering::SeqCst);
    }

    /// Lets `millis` pass as [`MemoryClock::advance`] does, for intervals and timeouts only.
    pub fn work(&self, millis: Millis) {
        self.worked.fetch_add(millis.max(0), Ordering::SeqCst);
        self.advance(millis);
    }

    /// Steps the wall clock without any time passing; may be negative.
    pub fn step_wall(&self, millis: Millis) {
        self.wall.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for MemoryClock {
    fn wall(&self) -> Millis {
        self.wall.load(Ordering::SeqCst).saturating_add(self.silence())
    }

    fn monotonic(&self) -> Millis {
        self.elapsed.load(Ordering::SeqCst)
    }

    fn silence(&self) -> Millis {
        self.monotonic() - self.worked.load(Ordering::SeqCst)
    }
}
