//! Records that the brokers refuse because of their content. Their transaction is aborted; when the rows are processed again,
//! the record is recognised by its fingerprint and replaced by a dead letter, so that all other records pass.
//!
//! This relies on replays that give the same bytes. Where one doesn't (a row made by time alone), the new record is refused as
//! well and becomes known, too.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lane, LaneEnd};
use crate::broker::{Outgoing, Refused};
use crate::outbox::Outbox;
use crate::output::Unwritable;

/// Refused records that are not committed as dead letters yet. With more than these it is not the records that are wrong.
const MOST: usize = 10_000;
/// Commits after which a record that was not seen again is forgotten: looking for it costs a hash per record.
const FORGET_AFTER: u32 = 100;

/// What is known of refused records.
#[derive(Default)]
pub(super) struct Refusals {
    /// By fingerprint: where it was to go, and the brokers' words.
    known: BTreeMap<u64, String>,
    /// Those that became dead letters in the open epoch.
    met: BTreeSet<u64>,
    /// Commits since anything was learnt or met.
    quiet: u32,
}

impl Refusals {
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// True if there is anything new.
    pub fn learn(&mut self, refused: Vec<Refused>) -> Result<bool, LaneEnd> {
        self.met.clear();
        let before = self.known.len();
        for Refused { record, cause } in refused {
            if self.known.len() >= MOST {
                return Err(LaneEnd::Stop(format!("the brokers refuse more than {MOST} records, the last one because: {cause}")));
            }
            self.known.insert(record, cause);
        }
        self.quiet = 0;
        Ok(self.known.len() > before)
    }

    /// The refused ones among the records of `outbox` from `start` on: places counted from there, and causes. They are taken out.
    pub fn take_out(&mut self, outbox: &mut Outbox, start: usize) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut place = 0;
        let Ok(()) = outbox.visit(start, |record| {
            let fingerprint = record.fingerprint();
            if let Some(cause) = self.known.get(&fingerprint) {
                self.met.insert(fingerprint);
                found.push((place, cause.clone()));
            }
            place += 1;
            Ok::<(), std::convert::Infallible>(())
        });
        let places: Vec<usize> = found.iter().map(|(place, _)| *place).collect();
        outbox.remove(start, &places);
        found
    }

    /// An epoch was sealed: what it met, for [`Refusals::committed`].
    pub fn sealed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.met)
    }

    /// These became dead letters.
    pub fn committed(&mut self, met: &BTreeSet<u64>) {
        self.known.retain(|record, _| !met.contains(record));
        self.quiet = if met.is_empty() { self.quiet + 1 } else { 0 };
        if self.quiet > FORGET_AFTER {
            self.known.clear();
        }
    }

    fn cause(&self, record: &Outgoing<'_>) -> Option<&String> {
        self.known.get(&record.fingerprint())
    }
}

impl Lane {
    /// Rows of a sink whose records the brokers have refused. The records from `start` on are those of `rows` rows, one each
    /// in their order, except the `unwritable` ones; the refused ones are taken out and added to these.
    pub(super) fn refused_rows(&mut self, start: usize, rows: usize, unwritable: &mut Vec<Unwritable>) {
        if self.refusals.is_empty() {
            return;
        }
        let refused = self.refusals.take_out(&mut self.outbox, start);
        if refused.is_empty() {
            return;
        }
        let without: BTreeSet<usize> = unwritable.iter().map(|(row, _)| *row).collect();
        let written: Vec<usize> = (0..rows).filter(|row| !without.contains(row)).collect();
        unwritable.extend(refused.into_iter().filter_map(|(place, cause)| Some((*written.get(place)?, cause))));
        unwritable.sort_by_key(|(row, _)| *row);
    }

    /// Nothing that waits to be sent is known to be refused.
    ///
    /// # Errors
    /// A record of a topic in which none may be missing is refused: state, rows in flight, dead letters.
    pub(super) fn check_refusals(&self) -> Result<(), LaneEnd> {
        if self.refusals.is_empty() {
            return Ok(());
        }
        self.outbox.visit(0, |record| match self.refusals.cause(&record) {
            None => Ok(()),
            Some(cause) => Err(LaneEnd::Stop(indispensable(&record, cause))),
        })
    }

    /// Asks the producers what was refused. True if anything new was heard: the next attempt is another one.
    pub(super) fn learn_refusals(&mut self) -> Result<bool, LaneEnd> {
        let refused = self.producers.iter_mut().flat_map(|producer| producer.refused()).collect();
        self.refusals.learn(refused)
    }
}

/// What to do where a topic refuses a record that may not be missing in it.
fn indispensable(record: &Outgoing<'_>, cause: &str) -> String {
    let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
    let (key, settings) = match record.key {
        Some(_) => ("", "`max.message.bytes`"),
        None => (" without a key", "`cleanup.policy`, `max.message.bytes`"),
    };
    format!(
        "{cause}. No record may be missing in `{}`: change its settings ({settings}) so that it accepts one of {size} bytes{key}, and restart the worker",
        record.topic
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn filled(values: &[&str]) -> Outbox {
        let (mut outbox, topic): (Outbox, Arc<str>) = (Outbox::default(), "t".into());
        for value in values {
            let value = Some(value.as_bytes());
            outbox.push(Outgoing { topic: &topic, partition: 0, timestamp: None, key: None, value, headers: &[], tag: None });
        }
        outbox
    }

    fn values(outbox: &Outbox) -> Vec<String> {
        let mut values = Vec::new();
        let Ok(()) = outbox.visit(0, |record| {
            values.push(String::from_utf8_lossy(record.value.unwrap()).into_owned());
            Ok::<(), std::convert::Infallible>(())
        });
        values
    }

    fn refused(value: &str) -> Refused {
        let mut record = 0;
        let Ok(()) = filled(&[value]).visit(0, |r| {
            record = r.fingerprint();
            Ok::<(), std::convert::Infallible>(())
        });
        Refused { record, cause: format!("no {value}") }
    }

    #[test]
    fn refused_records_are_taken_out_until_they_are_committed_as_dead_letters() {
        let mut refusals = Refusals::default();
        assert!(refusals.learn(vec![refused("b"), refused("d")]).unwrap());
        assert!(!refusals.learn(vec![refused("b")]).unwrap(), "nothing new");
        let mut outbox = filled(&["b", "a", "b", "c", "d"]);
        assert_eq!(refusals.take_out(&mut outbox, 1), [(1, "no b".to_string()), (3, "no d".to_string())]);
        assert_eq!(values(&outbox), ["b", "a", "c"]);
        let met = refusals.sealed();
        refusals.committed(&BTreeSet::new());
        assert!(!refusals.is_empty());
        refusals.committed(&met);
        assert!(refusals.is_empty());
    }

    #[test]
    fn what_may_not_be_missing_names_the_settings_that_refuse_it() {
        let topic: Arc<str> = "orders.dlq".into();
        let mut record = Outgoing { topic: &topic, partition: 0, timestamp: None, key: None, value: None, headers: &[], tag: None };
        let said = indispensable(&record, "no key");
        assert!(said.contains("`orders.dlq`") && said.contains("`cleanup.policy`") && said.contains("without a key"), "{said}");
        (record.key, record.value) = (Some(b"k".as_slice()), Some(b"vv".as_slice()));
        let said = indispensable(&record, "too large");
        assert!(!said.contains("cleanup.policy") && said.contains("accepts one of 3 bytes,"), "{said}");
    }

    #[test]
    fn what_does_not_come_again_is_forgotten() {
        let mut refusals = Refusals::default();
        refusals.learn(vec![refused("a")]).unwrap();
        (0..=FORGET_AFTER).for_each(|_| refusals.committed(&BTreeSet::new()));
        assert!(refusals.is_empty());
    }
}
