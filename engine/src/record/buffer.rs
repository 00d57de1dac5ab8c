//! Records that wait to be sent: their bytes in one buffer, with no allocation per record.

use std::ops::Range;
use std::sync::Arc;

use operator_core::{Millis, headers};

use crate::broker::{BrokerError, Outgoing, Producer};
use crate::task::merge::MergeKey;

/// A record of a [`RecordBuffer`]: its key, value and headers are ranges of the buffer.
pub(crate) struct Entry {
    pub topic: Arc<str>,
    pub partition: i32,
    pub timestamp: Option<Millis>,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    pub headers: Option<Range<usize>>,
    pub tag: Option<u32>,
    /// Among the records of a topic that several sinks write.
    pub merge_key: Option<MergeKey>,
}

/// Records that wait to be sent.
#[derive(Default)]
pub struct RecordBuffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

impl RecordBuffer {
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

    /// Puts the records from `start` on that have a merge key in its order. The others come before them as they are: no topic has
    /// both.
    pub fn arrange(&mut self, start: usize) {
        if let Some(entries) = self.entries.get_mut(start..) {
            entries.sort_by_key(|entry| entry.merge_key);
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
        let mut headers = Vec::new();
        for entry in self.entries.iter().skip(start) {
            headers.clear();
            show(self.record(entry, &mut headers))?;
        }
        Ok(())
    }

    /// An entry with its bytes. `headers` is empty, and holds the record's.
    pub(crate) fn record<'a: 'h, 'h>(&'a self, entry: &'a Entry, headers: &'h mut Vec<(&'a [u8], Option<&'a [u8]>)>) -> Outgoing<'h> {
        let slice = |range: &Option<Range<usize>>| range.as_ref().and_then(|r| self.bytes.get(r.clone()));
        if let Some(bytes) = slice(&entry.headers) {
            headers.extend(headers::iter(bytes));
        }
        Outgoing {
            topic: &entry.topic,
            partition: entry.partition,
            timestamp: entry.timestamp,
            key: slice(&entry.key),
            value: slice(&entry.value),
            headers,
            tag: entry.tag,
        }
    }

    /// Adds one record.
    pub fn push(&mut self, record: Outgoing<'_>) {
        let entry = self.entry(record);
        self.entries.push(entry);
    }

    /// Appends the bytes of a record.
    pub(crate) fn entry(&mut self, record: Outgoing<'_>) -> Entry {
        let key = record.key.map(|k| self.append(k));
        let value = record.value.map(|v| self.append(v));
        let carried = (!record.headers.is_empty()).then(|| {
            let start = self.bytes.len();
            for (name, value) in record.headers {
                headers::push(&mut self.bytes, name, *value);
            }
            start..self.bytes.len()
        });
        Entry {
            topic: record.topic.clone(),
            partition: record.partition,
            timestamp: record.timestamp,
            key,
            value,
            headers: carried,
            tag: record.tag,
            merge_key: None,
        }
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
    fn bytes_are_those_of_keys_values_and_headers() {
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
        let mut buffer = RecordBuffer::default();
        buffer.push(record(b"before", &[]));
        buffer.push(record(b"12", &[]));
        buffer.push(record(b"", &[(b"name", Some(b"1234"))]));
        let with_headers = buffer.bytes_from(2);
        assert!(with_headers >= 3 + 4 + 4, "{with_headers}");
        assert_eq!(buffer.bytes_from(1), 3 + 2 + with_headers);
    }
}
