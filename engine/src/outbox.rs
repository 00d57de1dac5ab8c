//! Records that wait to be sent: those of an epoch, while those of the epoch before are not all acknowledged (rule R10),
//! in one buffer, with no allocation per record.

use std::ops::Range;
use std::sync::Arc;

use operator_core::{Millis, headers};

use crate::broker::{BrokerError, Outgoing, Producer};
use crate::order::Place;

/// A record: its key, value and headers are ranges of the buffer.
pub(crate) struct Entry {
    pub topic: Arc<str>,
    pub partition: i32,
    pub timestamp: Option<Millis>,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    pub headers: Option<Range<usize>>,
    pub tag: Option<u32>,
    /// Among the records of a topic that several sinks write.
    pub place: Option<Place>,
}

/// Records that wait to be sent.
#[derive(Default)]
pub struct Outbox {
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of keys, values and headers of the records from `start` on.
    pub fn bytes_from(&self, start: usize) -> usize {
        let length = |range: &Option<Range<usize>>| range.as_ref().map_or(0, Range::len);
        let records = self.entries.iter().skip(start);
        records.map(|entry| length(&entry.key) + length(&entry.value) + length(&entry.headers)).sum()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
    }

    /// Puts the records from `start` on that have a place in its order. The others come before them as they are: no topic has
    /// both.
    pub fn arrange(&mut self, start: usize) {
        if let Some(entries) = self.entries.get_mut(start..) {
            entries.sort_by_key(|entry| entry.place);
        }
    }

    /// Hands everything to `producer`, in order.
    pub fn send(&mut self, producer: &mut dyn Producer) -> Result<(), BrokerError> {
        self.visit(0, |record| producer.send(record))?;
        self.clear();
        Ok(())
    }

    /// Shows the records from `start` on, until one is an error.
    pub fn visit<E>(&self, start: usize, mut show: impl FnMut(Outgoing<'_>) -> Result<(), E>) -> Result<(), E> {
        let slice = |range: &Option<Range<usize>>| range.as_ref().and_then(|r| self.bytes.get(r.clone()));
        let mut carried: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
        for entry in self.entries.iter().skip(start) {
            carried.clear();
            if let Some(bytes) = slice(&entry.headers) {
                carried.extend(headers::iter(bytes));
            }
            show(Outgoing {
                topic: &entry.topic,
                partition: entry.partition,
                timestamp: entry.timestamp,
                key: slice(&entry.key),
                value: slice(&entry.value),
                headers: &carried,
                tag: entry.tag,
            })?;
        }
        Ok(())
    }

    /// Takes out the records at these places, counted from `start`, in order. Costs nothing for those before `start`.
    pub fn remove(&mut self, start: usize, places: &[usize]) {
        if places.is_empty() || start >= self.entries.len() {
            return;
        }
        let mut at = 0;
        let behind = self.entries.split_off(start);
        self.entries.extend(behind.into_iter().filter(|_| {
            let stays = places.binary_search(&at).is_err();
            at += 1;
            stays
        }));
    }

    /// Adds one record.
    pub fn push(&mut self, record: Outgoing<'_>) {
        let key = record.key.map(|k| self.append(k));
        let value = record.value.map(|v| self.append(v));
        let carried = (!record.headers.is_empty()).then(|| {
            let start = self.bytes.len();
            for (name, value) in record.headers {
                headers::push(&mut self.bytes, name, *value);
            }
            start..self.bytes.len()
        });
        self.entries.push(Entry {
            topic: record.topic.clone(),
            partition: record.partition,
            timestamp: record.timestamp,
            key,
            value,
            headers: carried,
            tag: record.tag,
            place: None,
        });
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_records_that_stay() {
        let topic: Arc<str> = "t".into();
        let record = |value: &'static [u8], headers| Outgoing {
            topic: &topic,
            partition: 0,
            timestamp: None,
            key: Some(b"key"),
            value: Some(value),
            headers,
            tag: None,
        };
        let mut outbox = Outbox::default();
        outbox.push(record(b"before", &[]));
        outbox.push(record(b"12", &[]));
        outbox.push(record(b"refused", &[]));
        outbox.push(record(b"", &[(b"name", Some(b"1234"))]));
        outbox.remove(1, &[1]);
        let with_headers = outbox.bytes_from(2);
        assert!(with_headers >= 3 + 4 + 4, "{with_headers}");
        assert_eq!(outbox.bytes_from(1), 3 + 2 + with_headers);
    }
}
