//! Records that the brokers refuse because of their content. Their transaction is aborted; when the rows are processed again,
//! the record is recognised by its fingerprint and replaced by a dead letter, so that all other records pass.
//!
//! This relies on replays that give the same bytes. Where one doesn't (a row made by time alone), the new record is refused as
//! well and becomes known, too.

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::Refused;

/// Refused records that are not committed as dead letters yet. With more than these it is not the records that are wrong.
const MOST: usize = 10_000;
/// Commits after which a record that was not seen again is forgotten: looking for it costs a hash per record.
const FORGET_AFTER: u32 = 100;

/// The brokers refuse too many records.
#[derive(Debug, thiserror::Error)]
#[error("the brokers refuse more than {MOST} records, the last one because: {0}")]
pub struct TooManyRefused(String);

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
    pub fn learn(&mut self, refused: Vec<Refused>) -> Result<bool, TooManyRefused> {
        let before = self.known.len();
        for Refused { record, cause } in refused {
            if self.known.len() >= MOST {
                return Err(TooManyRefused(cause));
            }
            self.known.insert(record, cause);
        }
        self.quiet = 0;
        Ok(self.known.len() > before)
    }

    /// The cause if a record with this fingerprint is refused; the open epoch has then met it.
    pub fn meet(&mut self, fingerprint: u64) -> Option<String> {
        let cause = self.known.get(&fingerprint)?.clone();
        self.met.insert(fingerprint);
        Some(cause)
    }

    /// The open epoch is discarded.
    pub fn unmeet(&mut self) {
        self.met.clear();
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_again_is_forgotten() {
        let mut refusals = Refusals::default();
        refusals.learn(vec![Refused { record: 1, cause: "no".into() }]).unwrap();
        (0..=FORGET_AFTER).for_each(|_| refusals.committed(&BTreeSet::new()));
        assert!(refusals.is_empty());
    }
}
