//! Dead letters of a delivery: refused rows, written in one transaction with the position after them.
//!
//! Record: the row as JSON without its position (or as an Arrow IPC stream, if a column has no JSON form; nothing, if that is too large to be
//! written), without a key, in the partition of
//! the same number. Headers: `hw-cause` (the target's message), `hw-code` (the target's; 0
//! for a row that was not sent), `hw-topic`, `hw-partition`,
//! `hw-offset`, `hw-row`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use headwater_formats::{JsonEncoder, encode_batch};

use super::block::position_fields;
use crate::broker::{Broker, BrokerError, Committed, Failure, Membership, Outgoing, Producer, Progress, TopicPartition};
use crate::output::MAX_RECORD;

/// Longest error message kept in a header, bytes.
const MAX_MESSAGE: usize = 4_096;

/// A row that the table refuses.
pub(super) struct Letter {
    pub source: TopicPartition,
    pub position: (i64, i32),
    pub row: RecordBatch,
    /// The store's own.
    pub code: String,
    pub message: String,
}

pub(super) struct Letters {
    topic: Option<Arc<str>>,
    transactional_id: String,
    producer: Option<Box<dyn Producer>>,
    partitions: i32,
    /// The topic has refused the letter that is to be written: it goes without its row.
    without_row: bool,
}

impl Letters {
    pub fn new(topic: Option<Arc<str>>, transactional_id: String) -> Letters {
        Letters { topic, transactional_id, producer: None, partitions: 0, without_row: false }
    }

    pub fn topic(&self) -> Option<&Arc<str>> {
        self.topic.as_ref()
    }

    /// Creates the producer if needed, which settles what an earlier one with its id left open.
    pub fn settle(&mut self, broker: &dyn Broker) -> Result<(), BrokerError> {
        let (Some(topic), None) = (&self.topic, &self.producer) else { return Ok(()) };
        let missing = || BrokerError::fatal(format!("the dead-letter topic {topic} does not exist"));
        self.partitions = broker.partitions(topic)?.filter(|&n| n > 0).ok_or_else(missing)?;
        self.producer = Some(broker.producer(Some(&self.transactional_id))?);
        Ok(())
    }

    /// Drops the producer, whatever it was doing: only a new one knows.
    pub fn abandon(&mut self) {
        self.producer = None;
    }

    /// Starts a transaction with the letter and the position after it.
    ///
    /// # Errors
    /// Nothing was committed; try again. With [`Failure::Fenced`] it may have been.
    pub fn send(&mut self, broker: &dyn Broker, letter: &Letter, position: Committed, membership: Membership) -> Result<(), BrokerError> {
        self.settle(broker)?;
        let result = self.write(letter).and_then(|()| {
            let offsets = vec![(letter.source.clone(), position)];
            let producer = self.producer.as_mut().ok_or_else(|| BrokerError::fatal("no dead-letter topic"))?;
            producer.commit(offsets, membership).map_err(|error| BrokerError::new(Failure::Fenced, error.message))
        });
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                let refused = self.refused();
                self.abandon();
                refused.and(Err(error))
            }
        }
    }

    /// After a transaction that failed: if the topic refused the letter, it goes without its row next time.
    ///
    /// # Errors
    /// It went without already.
    pub fn refused(&mut self) -> Result<(), BrokerError> {
        let refused = self.producer.as_mut().map(|producer| producer.refused()).unwrap_or_default();
        match refused.into_iter().next() {
            Some(refused) if self.without_row => {
                Err(BrokerError::fatal(format!("can't write to the dead-letter topic: {}", refused.cause)))
            }
            Some(_) => {
                self.without_row = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The letter is committed.
    pub fn written(&mut self) {
        self.without_row = false;
    }

    fn write(&mut self, letter: &Letter) -> Result<(), BrokerError> {
        let (Some(topic), Some(producer)) = (&self.topic, &mut self.producer) else {
            return Err(BrokerError::fatal("no dead-letter topic"));
        };
        let value = value(&letter.row).map_err(BrokerError::fatal)?;
        let message = clip(&letter.message);
        let (offset, row) = letter.position;
        let texts = [letter.source.partition, row].map(|n| n.to_string());
        let [partition, row] = &texts;
        let offset = offset.to_string();
        let headers: [(&[u8], Option<&[u8]>); 6] = [
            (b"hw-cause", Some(message.as_bytes())),
            (b"hw-code", Some(letter.code.as_bytes())),
            (b"hw-topic", Some(letter.source.topic.as_bytes())),
            (b"hw-partition", Some(partition.as_bytes())),
            (b"hw-offset", Some(offset.as_bytes())),
            (b"hw-row", Some(row.as_bytes())),
        ];
        producer.begin()?;
        let partition = letter.source.partition.rem_euclid(self.partitions.max(1));
        let value = Some(value.as_slice()).filter(|value| value.len() <= MAX_RECORD && !self.without_row);
        producer.send(Outgoing { topic, partition, timestamp: None, key: None, value, headers: &headers, tag: None })
    }

    pub fn progress(&mut self, timeout: Duration) -> Option<Progress> {
        self.producer.as_mut().map(|producer| producer.progress(timeout))
    }
}

/// Without the positions, which are headers.
fn value(row: &RecordBatch) -> Result<Vec<u8>, String> {
    let positions = position_fields();
    let fields = row.schema_ref().fields().iter().enumerate();
    let user: Vec<usize> = fields.filter(|(_, field)| !positions.iter().any(|p| p.name() == field.name())).map(|(at, _)| at).collect();
    let row = &row.project(&user).map_err(|e| e.to_string())?;
    let encoder = JsonEncoder::new(&row.schema());
    let mut out = Vec::new();
    match encoder.batch(row).and_then(|rows| rows.write(0, &mut out)) {
        Ok(()) => Ok(out),
        Err(_) => encode_batch(row),
    }
}

fn clip(message: &str) -> &str {
    message.get(..message.floor_char_boundary(MAX_MESSAGE)).unwrap_or(message)
}
