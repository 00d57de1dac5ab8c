//! Partitions that are to be opened, at once or after a pause.

use operator_core::Millis;

use super::Settings;
use crate::broker::TopicPartition;

/// Partitions to be opened, not before a monotonic time.
pub(super) struct Opening {
    pub partitions: Vec<TopicPartition>,
    at: Millis,
    failures: u32,
}

impl Opening {
    /// At once.
    pub fn new(partitions: Vec<TopicPartition>) -> Opening {
        Opening { partitions, at: 0, failures: 0 }
    }

    /// It has failed: again after a pause, which grows.
    pub fn again(mut self, settings: &Settings, now: Millis) -> Opening {
        self.failures += 1;
        self.at = now.saturating_add(settings.pause(self.failures));
        self
    }

    /// The time before which nothing is tried.
    pub fn at(&self) -> Millis {
        self.at
    }
}
