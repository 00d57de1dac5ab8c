//! Dead letters of a delivery: refused rows, written in one transaction with the position after them.
//!
//! The format is that of all dead letters ([`crate::record::dead_letter`]); a letter's value is the row without its position.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::Settings;
use crate::broker::{Broker, BrokerError, Committed, Failure, Membership, Producer, Progress, TopicPartition};
use crate::record::dead_letter::{Content, DeadLetter, row_value};
use crate::sinks::position_fields;

/// A row that the table refuses.
pub(super) struct RefusedRow {
    pub source: TopicPartition,
    pub position: (i64, i32),
    pub row: RecordBatch,
    /// The store's own.
    pub code: String,
    pub message: String,
}

pub(super) struct DeadLetters {
    pipeline: Arc<str>,
    sink: Arc<str>,
    topic: Option<Arc<str>>,
    transactional_id: String,
    producer: Option<Box<dyn Producer>>,
    partitions: i32,
    /// The topic has refused the letter that is to be written: it goes without its row.
    without_row: bool,
}

impl DeadLetters {
    pub fn new(settings: &Settings) -> DeadLetters {
        DeadLetters {
            pipeline: settings.pipeline.clone(),
            sink: settings.sink.clone(),
            topic: settings.dead_letters.clone(),
            transactional_id: settings.transactional_id.clone(),
            producer: None,
            partitions: 0,
            without_row: false,
        }
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
    pub fn send(
        &mut self,
        broker: &dyn Broker,
        letter: &RefusedRow,
        position: Committed,
        membership: Membership,
    ) -> Result<(), BrokerError> {
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

    fn write(&mut self, letter: &RefusedRow) -> Result<(), BrokerError> {
        let (Some(topic), Some(producer)) = (&self.topic, &mut self.producer) else {
            return Err(BrokerError::fatal("no dead-letter topic"));
        };
        let positions = position_fields();
        let value =
            row_value(&letter.row, |column| positions.iter().any(|position| position.name() == column)).map_err(BrokerError::fatal)?;
        let (offset, row) = letter.position;
        let dead = DeadLetter {
            pipeline: &self.pipeline,
            step: &self.sink,
            cause: &letter.message,
            topic: &letter.source.topic,
            partition: letter.source.partition,
            offset,
            row: Some((row, &letter.code)),
        };
        producer.begin()?;
        dead.write(&Content::row(&value), !self.without_row, (topic, self.partitions), |record| producer.send(record))
    }

    pub fn progress(&mut self, timeout: Duration) -> Option<Progress> {
        self.producer.as_mut().map(|producer| producer.progress(timeout))
    }
}
