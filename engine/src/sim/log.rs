//! One partition: an append-only log with transactions, as a Kafka partition leader keeps it.
//!
//! What readers must cope with is here because it is so in Kafka: a commit or abort marker occupies an offset and is
//! never delivered, aborted records stay in the log, compaction leaves gaps, and nothing at or behind the first record of
//! an open transaction (the last stable offset, LSO) is readable, whoever wrote it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use operator_core::Millis;

use crate::broker::{Record, RecordSet};

/// A header: name bytes (not necessarily UTF-8) and value.
pub type Header = (Vec<u8>, Option<Vec<u8>>);

/// A record as it is stored, shared between the log and whoever fetched it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub timestamp: Option<Millis>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

impl Stored {
    /// A copy of what a client sends.
    pub fn new(key: Option<&[u8]>, value: Option<&[u8]>, timestamp: Option<Millis>, headers: &[Header]) -> Stored {
        Stored { timestamp, key: key.map(<[u8]>::to_vec), value: value.map(<[u8]>::to_vec), headers: headers.to_vec() }
    }

    /// Bytes on the wire, about: what `max.message.bytes` limits.
    pub fn size(&self) -> usize {
        let bytes = |b: &Option<Vec<u8>>| b.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + bytes(value) + 4).sum();
        bytes(&self.key) + bytes(&self.value) + headers + 70
    }
}

/// What [`super::MemoryBroker::compact`] does with tombstones (records with a null value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstones {
    /// As before `delete.retention.ms` has passed.
    Keep,
    /// As after it: a reader that starts from the beginning never learns of the deletion. Markers go too.
    Drop,
}

struct Entry {
    offset: i64,
    transaction: Option<u64>,
    /// `None`: the marker that ended the transaction.
    record: Option<Arc<Stored>>,
}

/// The log of one partition.
#[derive(Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    low: i64,
    next: i64,
    /// Open transactions with the offset of their first record here.
    open: BTreeMap<u64, i64>,
    /// Transactions aborted that still have records here.
    aborted: BTreeSet<u64>,
    /// Number of entries the last compaction left.
    compacted: usize,
    held: Option<i64>,
}

impl Log {
    pub fn append(&mut self, transaction: Option<u64>, record: Arc<Stored>) -> i64 {
        let offset = self.next;
        self.next += 1;
        if let Some(transaction) = transaction {
            self.open.entry(transaction).or_insert(offset);
        }
        self.entries.push_back(Entry { offset, transaction, record: Some(record) });
        offset
    }

    /// Writes the marker that ends `transaction`.
    pub fn end(&mut self, transaction: u64, commit: bool) {
        self.open.remove(&transaction);
        if !commit {
            self.aborted.insert(transaction);
        }
        self.entries.push_back(Entry { offset: self.next, transaction: Some(transaction), record: None });
        self.next += 1;
    }

    /// The last stable offset: the first offset that belongs to an open transaction, or the end of the log.
    pub fn stable(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.next)
    }

    /// Low and high watermark.
    pub fn bounds(&self) -> (i64, i64) {
        (self.low, self.next)
    }

    /// Whether a fetch from `offset` has an answer.
    pub fn has(&self, offset: i64) -> bool {
        (self.low..=self.next).contains(&offset)
    }

    /// Consumers read only what comes before this offset, as if a transaction were open there.
    pub fn hold(&mut self, from: Option<i64>) {
        self.held = from;
    }

    /// The end of what consumers read.
    pub fn readable(&self) -> i64 {
        self.stable().min(self.held.unwrap_or(i64::MAX))
    }

    /// At most `max` committed records from `from` on, and the position after them.
    pub fn read(&self, from: i64, max: usize) -> (Fetched, i64) {
        let stable = self.readable();
        let mut found = Vec::new();
        let start = self.entries.partition_point(|entry| entry.offset < from);
        for entry in self.entries.range(start..) {
            if entry.offset >= stable {
                break;
            }
            if found.len() == max {
                let after = found.last().map_or(from, |(offset, _): &(i64, Arc<Stored>)| offset + 1);
                return (Fetched(found), after);
            }
            if let Some(record) = self.visible(entry) {
                found.push((entry.offset, record.clone()));
            }
        }
        (Fetched(found), stable.max(from))
    }

    fn visible<'a>(&self, entry: &'a Entry) -> Option<&'a Arc<Stored>> {
        let aborted = entry.transaction.is_some_and(|transaction| self.aborted.contains(&transaction));
        if aborted { None } else { entry.record.as_ref() }
    }

    /// Removes what a later record of the same key supersedes and what was aborted, up to the last stable offset.
    pub fn compact(&mut self, tombstones: Tombstones) {
        let stable = self.stable();
        let mut newest: HashMap<&[u8], i64> = HashMap::new();
        for entry in &self.entries {
            if entry.offset < stable
                && let Some(key) = self.visible(entry).and_then(|record| record.key.as_deref())
            {
                newest.insert(key, entry.offset);
            }
        }
        let newest: BTreeSet<i64> = newest.into_values().collect();
        let aborted = std::mem::take(&mut self.aborted);
        self.entries.retain(|entry| match &entry.record {
            _ if entry.offset >= stable => true,
            None => tombstones == Tombstones::Keep,
            Some(_) if entry.transaction.is_some_and(|transaction| aborted.contains(&transaction)) => false,
            Some(record) if record.value.is_none() && tombstones == Tombstones::Drop => false,
            Some(record) => record.key.is_none() || newest.contains(&entry.offset),
        });
        self.aborted = aborted;
        self.forget_aborted();
        self.compacted = self.entries.len();
    }

    /// Moves the low watermark up to `before`, at most to the last stable offset.
    pub fn delete_before(&mut self, before: i64) {
        self.low = self.low.max(before.min(self.stable()));
        while self.entries.front().is_some_and(|entry| entry.offset < self.low) {
            self.entries.pop_front();
        }
        self.forget_aborted();
    }

    /// Keeps about `limit` entries, by compaction or from the front. Amortised: acts only at twice the limit.
    pub fn retain(&mut self, limit: usize, compact: bool) {
        if compact {
            if self.entries.len() >= limit.max(self.compacted.saturating_mul(2)).max(2) {
                self.compact(Tombstones::Keep);
            }
        } else if self.entries.len() > limit.saturating_mul(2) {
            let surplus = self.entries.len() - limit;
            if let Some(first) = self.entries.get(surplus).map(|entry| entry.offset) {
                self.delete_before(first);
            }
        }
    }

    fn forget_aborted(&mut self) {
        if !self.aborted.is_empty() {
            let present: BTreeSet<u64> = self.entries.iter().filter_map(|entry| entry.transaction).collect();
            self.aborted.retain(|transaction| present.contains(transaction));
        }
    }
}

/// Records as a fetch delivers them.
pub(super) struct Fetched(pub Vec<(i64, Arc<Stored>)>);

impl RecordSet for Fetched {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Record<'_> {
        // The trait asks for index < len().
        let (offset, record) = &self.0[index];
        Record { offset: *offset, timestamp: record.timestamp, key: record.key.as_deref(), value: record.value.as_deref() }
    }

    fn headers(&self, index: usize, visit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        for (name, value) in self.0.get(index).map_or(&[][..], |(_, record)| record.headers.as_slice()) {
            visit(name, value.as_deref());
        }
    }
}
