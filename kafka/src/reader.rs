//! Reads partitions without a group, by librdkafka's simple consumer: no coordinator, no rights on any group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{BrokerError, Event, Failure, Reader, TopicPartition};
use rdkafka::bindings as sys;

use super::codes;
use super::native::{Client, Context, raw};
use super::quiet::Quiet;
use super::records::{Fetched, Fetcher};
use super::settings::{KafkaConfig, Role};

#[derive(Default)]
struct Watch(Quiet);

impl Context for Watch {
    fn on_error(&self, code: i32, reason: &str) {
        self.0.warn("reader", code, reason);
    }
}

/// See the module text.
pub(super) struct KafkaReader {
    client: Arc<Client<Watch>>,
    fetcher: Fetcher<Watch>,
    /// The error that ended the reading, reported after the events that came before it, and from then on.
    failed: Option<BrokerError>,
}

impl KafkaReader {
    pub(super) fn open(config: &KafkaConfig, from: &[(TopicPartition, i64)]) -> Result<KafkaReader, BrokerError> {
        let settings = config.settings(Role::Reader)?;
        let client = Client::new(false, settings, config.reach(), Arc::new(Watch::default()))?;
        // SAFETY: the client is valid; the queue is kept until it goes.
        let queue = unsafe { sys::rd_kafka_queue_new(client.ptr()) };
        client.keep_queue(queue);
        let mut topics = BTreeMap::new();
        for (partition, offset) in from {
            if *offset < 0 {
                return Err(BrokerError::fatal(format!("{partition} cannot be read from offset {offset}")));
            }
            let topic = match topics.get(&partition.topic) {
                Some(topic) => *topic,
                None => {
                    let topic = client.topic(&partition.topic)?;
                    topics.insert(partition.topic.clone(), topic);
                    topic
                }
            };
            // SAFETY: topic handle and queue are valid and kept by the client.
            let started = unsafe { sys::rd_kafka_consume_start_queue(topic, partition.partition, *offset, queue) };
            if started != 0 {
                // SAFETY: no preconditions.
                return Err(codes::error(format!("reading {partition}"), unsafe { raw::rd_kafka_last_error() }));
            }
            client.keep_started(topic, partition.partition);
        }
        Ok(KafkaReader { fetcher: Fetcher::new(client.clone(), queue), client, failed: None })
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        // Errors of the client (brokers away) come by its main queue.
        // SAFETY: the client is valid.
        unsafe { sys::rd_kafka_poll(self.client.ptr(), 0) };
        let mut events = Vec::new();
        for item in self.fetcher.fetch(max, timeout, || false) {
            match item {
                Fetched::Records { partition, records, .. } => {
                    events.push(Event::Records { partition, records: Box::new(records) });
                }
                Fetched::End { partition, offset } => events.push(Event::End { partition, offset }),
                Fetched::Error { partition, offset, code, text } => {
                    let place = partition.map_or_else(|| "reader".into(), |p| format!("{p} at offset {offset}"));
                    let Some(failure) = reader_failure(code) else {
                        self.client.context.0.warn(&place, code, &text);
                        continue;
                    };
                    // Nothing behind it is delivered.
                    self.failed = Some(BrokerError::new(failure, format!("{place}: {text}")));
                    break;
                }
            }
        }
        match &self.failed {
            Some(error) if events.is_empty() => Err(error.clone()),
            _ => Ok(events),
        }
    }
}

/// What an error on the reader's queue means; `None`: it passes.
fn reader_failure(code: i32) -> Option<Failure> {
    match code {
        code if codes::is_transient(code) => None,
        // librdkafka continues after a damaged batch, and its records would be lost silently.
        codes::BAD_MSG | codes::BAD_COMPRESSION | codes::INVALID_MSG => Some(Failure::Fatal),
        code => Some(codes::failure(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_waits_for_brokers_and_stops_at_damage() {
        assert_eq!(reader_failure(codes::TRANSPORT), None);
        assert_eq!(reader_failure(codes::NOT_LEADER), None);
        assert_eq!(reader_failure(codes::BAD_MSG), Some(Failure::Fatal));
        assert_eq!(reader_failure(codes::AUTO_OFFSET_RESET), Some(Failure::OutOfRange));
        assert_eq!(reader_failure(codes::TOPIC_AUTHORIZATION_FAILED), Some(Failure::Fatal));
    }
}
