//! What the handles and clients of one broker share: its world under a lock, and who waits for a change of it.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::cluster::Cluster;
use crate::broker::{BrokerError, Event};

/// In real time, how often a waiting call looks for timeouts that no other call has announced.
const WAKE: Duration = Duration::from_millis(100);

/// What all handles and clients share.
pub(crate) struct Shared {
    cluster: Mutex<Cluster>,
    changed: Condvar,
    pub(super) realtime: bool,
}

impl Shared {
    pub(super) fn new(cluster: Cluster, realtime: bool) -> Shared {
        Shared { cluster: Mutex::new(cluster), changed: Condvar::new(), realtime }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock()
    }

    /// Wakes the clients that wait.
    pub(super) fn changed(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change; false if it is not to wait (any longer).
    pub(super) fn wait_until(&self, cluster: &mut MutexGuard<'_, Cluster>, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if !self.realtime || left.is_zero() {
            return false;
        }
        self.changed.wait_for(cluster, left.min(WAKE));
        true
    }

    /// Asks `collect` until it has something to say; only once where time is virtual.
    pub(super) fn wait_for_events(
        &self,
        timeout: Duration,
        mut collect: impl FnMut(&mut Cluster) -> Result<Vec<Event>, BrokerError>,
    ) -> Result<Vec<Event>, BrokerError> {
        let mut cluster = self.lock();
        let deadline = Instant::now() + timeout;
        loop {
            let events = collect(&mut cluster)?;
            if !events.is_empty() {
                // An assignment or a revocation may be what another member waits for.
                self.changed();
                return Ok(events);
            }
            if !self.wait_until(&mut cluster, deadline) {
                return Ok(events);
            }
        }
    }
}
