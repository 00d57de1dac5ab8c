//! Back-pressure: reading pauses while too much is buffered. The member keeps polling, so it stays in the group.

use crate::broker::{BrokerError, Consumer, TopicPartition};

/// Whether reading is paused.
#[derive(Default)]
pub(super) struct Pressure {
    high: bool,
}

impl Pressure {
    pub fn is_high(&self) -> bool {
        self.high
    }

    /// Pauses `reading` above `limit` bytes, and resumes it below half of that.
    pub fn balance(
        &mut self,
        bytes: usize,
        limit: usize,
        consumer: &mut dyn Consumer,
        reading: impl Iterator<Item = TopicPartition>,
    ) -> Result<(), BrokerError> {
        let high = if self.high { bytes > limit / 2 } else { bytes > limit };
        if high == self.high {
            return Ok(());
        }
        self.high = high;
        let partitions: Vec<TopicPartition> = reading.collect();
        if high { consumer.pause(&partitions) } else { consumer.resume(&partitions) }
    }
}
