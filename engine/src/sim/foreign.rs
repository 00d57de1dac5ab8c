//! A producer of another application: what it has written, and everything behind it, can't be read until its transaction ends.

use std::sync::Arc;

use operator_core::Millis;

use super::log::Stored;
use super::transaction::{Identity, Target};
use super::{Header, MemoryBroker, Shared};
use crate::broker::{BrokerError, TopicPartition};

/// Its transaction begins with the first record. Dropped, it leaves the transaction open, as a process that dies does.
pub struct ForeignProducer {
    shared: Arc<Shared>,
    identity: Identity,
}

impl MemoryBroker {
    /// A producer of another application. What an earlier one with this id left open is aborted. `timeout`: the brokers abort a
    /// transaction that is open for longer.
    pub fn foreign(&self, id: &str, timeout: Millis) -> ForeignProducer {
        let mut cluster = self.shared.lock();
        let identity = cluster.init_with(id, Some(timeout));
        self.shared.changed();
        ForeignProducer { shared: self.shared.clone(), identity }
    }
}

impl ForeignProducer {
    /// Appends within the transaction at once, and returns the offset.
    ///
    /// # Errors
    /// The transaction has timed out, or the broker refuses the record.
    pub fn append(
        &self,
        partition: &TopicPartition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Option<Millis>,
        headers: &[Header],
    ) -> Result<i64, BrokerError> {
        let record = Stored::new(key, value, timestamp, headers);
        let mut cluster = self.shared.lock();
        let transaction = cluster.enlist(&self.identity, Target::Log(partition.clone()))?;
        let offset = cluster.append(partition, Some(transaction), Arc::new(record))?;
        self.shared.changed();
        Ok(offset)
    }

    /// Ends the transaction; its markers arrive when the schedule lets them.
    ///
    /// # Errors
    /// It has timed out, and was aborted.
    pub fn end(self, commit: bool) -> Result<(), BrokerError> {
        let ended = self.shared.lock().end(&self.identity, commit);
        self.shared.changed();
        ended
    }
}
