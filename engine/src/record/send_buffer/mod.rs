//! What an epoch writes, until it may be handed to the producer (rule R10).
//!
//! Every record enters through one door, [`SendBuffer::add`], which knows the records that brokers have refused: such a record is turned
//! away there, and whoever writes it decides what becomes of its row.

mod refusals;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::broker::{BrokerError, Outgoing, Producer, Refused};
use crate::record::buffer::{Entry, RecordBuffer};

use refusals::Refusals;
pub use refusals::TooManyRefused;

/// A record that the brokers refuse because of its content.
#[derive(Debug)]
pub struct TurnedAway {
    /// Where it was to go, and the brokers' words.
    pub cause: String,
    topic: Arc<str>,
    /// Of key and value.
    bytes: usize,
    has_key: bool,
}

impl TurnedAway {
    /// What to do where a topic refuses a record that may not be missing in it: state, rows in flight, dead letters.
    pub fn indispensable(&self) -> String {
        let (key, settings) = match self.has_key {
            true => ("", "`max.message.bytes`"),
            false => (" without a key", "`cleanup.policy`, `max.message.bytes`"),
        };
        format!(
            "{}. No record may be missing in `{}`: change its settings ({settings}) so that it accepts one of {} bytes{key}, and restart the \
             worker",
            self.cause, self.topic, self.bytes
        )
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct SendBuffer {
    pub(crate) records: RecordBuffer,
    refusals: Refusals,
}

impl SendBuffer {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.records.bytes()
    }

    /// Adds one record.
    ///
    /// # Errors
    /// The brokers refuse it.
    pub fn push(&mut self, record: Outgoing<'_>) -> Result<(), TurnedAway> {
        let start = self.records.bytes();
        let entry = self.records.entry(record);
        self.add(entry, start)
    }

    /// Adds a record whose bytes are those from `start` on.
    ///
    /// # Errors
    /// The brokers refuse it; its bytes are gone.
    pub(crate) fn add(&mut self, entry: Entry, start: usize) -> Result<(), TurnedAway> {
        // The hash of a record is computed only while some are known to be refused.
        if !self.refusals.is_empty()
            && let Some(turned_away) = self.turned_away(&entry)
        {
            self.records.bytes.truncate(start);
            return Err(turned_away);
        }
        self.records.entries.push(entry);
        Ok(())
    }

    #[cold]
    fn turned_away(&mut self, entry: &Entry) -> Option<TurnedAway> {
        let mut headers = Vec::new();
        let record = self.records.record(entry, &mut headers);
        let cause = self.refusals.meet(record.fingerprint())?;
        let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        Some(TurnedAway { cause, topic: entry.topic.clone(), bytes, has_key: record.key.is_some() })
    }

    /// Hands everything to `producer`, in order.
    pub fn send(&mut self, producer: &mut dyn Producer) -> Result<(), BrokerError> {
        self.records.send(producer)
    }

    /// Forgets the records of an epoch that is not committed.
    pub fn discard(&mut self) {
        self.records.clear();
        self.refusals.unmeet();
    }

    /// Takes note of what brokers have refused; true if any of it is new.
    ///
    /// # Errors
    /// They refuse so much that it is not the records that are wrong.
    pub fn learn(&mut self, refused: Vec<Refused>) -> Result<bool, TooManyRefused> {
        self.refusals.learn(refused)
    }

    /// The epoch is sealed: the refused records that it met, for [`SendBuffer::committed`].
    pub fn sealed(&mut self) -> BTreeSet<u64> {
        self.refusals.sealed()
    }

    /// An epoch that met these is committed: their rows are dead letters now.
    pub fn committed(&mut self, met: &BTreeSet<u64>) {
        self.refusals.committed(met);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(topic: &'a Arc<str>, key: Option<&'a [u8]>, value: &'a [u8]) -> Outgoing<'a> {
        Outgoing { topic, partition: 0, timestamp: None, key, value: Some(value), headers: &[(b"h", Some(b"1"))], tag: None }
    }

    fn values(buffer: &SendBuffer) -> Vec<String> {
        let mut values = Vec::new();
        let Ok(()) = buffer.records.visit(0, |record| {
            values.push(String::from_utf8_lossy(record.value.unwrap()).into_owned());
            Ok::<(), std::convert::Infallible>(())
        });
        values
    }

    #[test]
    fn refused_records_are_turned_away_until_they_are_committed_as_dead_letters() {
        let topic: Arc<str> = "t".into();
        let mut buffer = SendBuffer::default();
        let refused = |value: &[u8]| Refused { record: record(&topic, None, value).fingerprint(), cause: "no".into() };
        assert!(buffer.learn(vec![refused(b"b"), refused(b"d")]).unwrap());
        assert!(!buffer.learn(vec![refused(b"b")]).unwrap(), "nothing new");
        let taken = |buffer: &mut SendBuffer, value: &[u8]| buffer.push(record(&topic, None, value)).is_ok();
        assert_eq!([&b"a"[..], b"b", b"c", b"d"].map(|value| taken(&mut buffer, value)), [true, false, true, false]);
        assert_eq!(values(&buffer), ["a", "c"]);
        let before = buffer.bytes();
        assert!(!taken(&mut buffer, b"d"));
        assert_eq!(buffer.bytes(), before, "it leaves nothing");
        // An epoch that did not meet them changes nothing, nor does one that is discarded.
        buffer.discard();
        let met = buffer.sealed();
        assert!(met.is_empty());
        buffer.committed(&met);
        assert!(!taken(&mut buffer, b"b") && !taken(&mut buffer, b"d"));
        let met = buffer.sealed();
        buffer.committed(&met);
        assert!(taken(&mut buffer, b"b"));
    }

    #[test]
    fn what_may_not_be_missing_names_the_settings_that_refuse_it() {
        let topic: Arc<str> = "orders.dlq".into();
        let mut buffer = SendBuffer::default();
        let keyed = || record(&topic, Some(b"k"), b"vv");
        let refused = |record: &Outgoing<'_>| Refused { record: record.fingerprint(), cause: "no".into() };
        buffer.learn(vec![refused(&record(&topic, None, b"v")), refused(&keyed())]).unwrap();
        let said = buffer.push(record(&topic, None, b"v")).unwrap_err().indispensable();
        assert!(said.contains("`orders.dlq`") && said.contains("`cleanup.policy`") && said.contains("without a key"), "{said}");
        let said = buffer.push(keyed()).unwrap_err().indispensable();
        assert!(!said.contains("cleanup.policy") && said.contains("accepts one of 3 bytes,"), "{said}");
    }
}
