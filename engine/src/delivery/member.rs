//! A delivery as a member of its group: partitions that are to be opened, or given back once nothing is in progress, and back-pressure.

use std::time::Duration;

use operator_core::Millis;

use super::counters::Counters;
use super::opening::Opening;
use super::pressure::Pressure;
use super::{DeliveryError, Settings};
use crate::broker::{Broker, BrokerError, Consumer, Event, TopicPartition};

/// See the module.
pub(super) struct Member {
    pub consumer: Box<dyn Consumer>,
    opening: Option<Opening>,
    revoking: bool,
    /// No new block is begun: partitions are going, or the delivery ends.
    closing: bool,
    pressure: Pressure,
}

impl Member {
    /// Joins the group.
    ///
    /// # Errors
    /// The broker's answer.
    pub fn join(broker: &dyn Broker, settings: &Settings) -> Result<Member, BrokerError> {
        let consumer = broker.consumer(&settings.group, &settings.instance, &[settings.topic.to_string()])?;
        Ok(Member { consumer, opening: None, revoking: false, closing: false, pressure: Pressure::default() })
    }

    /// What has happened; `None` if the brokers could not be asked now.
    ///
    /// # Errors
    /// An error that does not pass.
    pub fn poll(&mut self, settings: &Settings, wait: Duration, counters: &Counters) -> Result<Option<Vec<Event>>, DeliveryError> {
        match self.consumer.poll(settings.poll_records, wait) {
            Ok(events) => Ok(Some(events)),
            Err(error) => counters.tolerate(error).map(|()| None),
        }
    }

    /// The group has assigned partitions, and what was known of earlier ones is forgotten.
    pub fn assigned(&mut self, partitions: Vec<TopicPartition>) {
        self.pressure = Pressure::default();
        self.closing = false;
        self.opening = Some(Opening::new(partitions));
    }

    /// The group wants partitions back.
    pub fn revoked(&mut self) {
        self.opening = None;
        (self.revoking, self.closing) = (true, true);
    }

    /// Partitions that are to be opened now.
    pub fn opening_due(&mut self, now: Millis) -> Option<Opening> {
        self.opening.take_if(|opening| opening.at() <= now)
    }

    /// Opening has failed: again after a pause.
    pub fn open_again(&mut self, opening: Opening, settings: &Settings, now: Millis) {
        if !self.revoking {
            self.opening = Some(opening.again(settings, now));
        }
    }

    /// When partitions are to be opened.
    pub fn opens_at(&self) -> Option<Millis> {
        self.opening.as_ref().map(Opening::at)
    }

    /// No new block is to be begun.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Partitions are to be given back.
    pub fn is_revoking(&self) -> bool {
        self.revoking
    }

    /// Reading is paused.
    pub fn is_paused(&self) -> bool {
        self.pressure.is_high()
    }

    /// Begins no new block while the delivery is `stopping`. True if it may end.
    pub fn close(&mut self, stopping: bool, is_idle: bool) -> bool {
        self.closing = stopping || self.revoking;
        self.closing && !self.revoking && is_idle
    }

    /// Gives revoked partitions back. True if they are.
    ///
    /// # Errors
    /// An error that does not pass.
    pub fn release(&mut self, counters: &Counters) -> Result<bool, DeliveryError> {
        match self.consumer.release() {
            Ok(()) => {
                (self.revoking, self.closing) = (false, false);
                Ok(true)
            }
            Err(error) => counters.tolerate(error).map(|()| false),
        }
    }

    /// Pauses `reading`, or resumes it, by how many bytes are buffered.
    ///
    /// # Errors
    /// The client's answer.
    pub fn balance(&mut self, bytes: usize, limit: usize, reading: impl Iterator<Item = TopicPartition>) -> Result<(), BrokerError> {
        if self.revoking {
            return Ok(());
        }
        self.pressure.balance(bytes, limit, self.consumer.as_mut(), reading)
    }
}
