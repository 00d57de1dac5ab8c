//! The changes of an epoch: found by key in constant time, and in the order of their keys once somebody reads many ranges.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::ops::Bound;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::Bytes;

/// So many ranges are read by looking through all keys. An order costs more than that: a copy of every key, and one for each that
/// is added later.
const FEW: u32 = 8;

/// Changed entries; `None` is a deletion.
#[derive(Default)]
pub(super) struct Overlay {
    entries: HashMap<Vec<u8>, Option<Bytes>, foldhash::fast::FixedState>,
    /// The keys in order. Made when the first few ranges were read, and kept from then on: most steps read none or, when a window
    /// closes, one or two; a join would otherwise look through all keys for every row.
    order: OnceCell<BTreeSet<Bytes>>,
    /// Ranges that were read without an order.
    ranges: Cell<u32>,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.take();
        self.ranges.set(0);
    }

    pub fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.entries.get(key)
    }

    pub fn set(&mut self, key: &[u8], value: Option<Bytes>) {
        match self.entries.entry_ref(key) {
            EntryRef::Occupied(mut entry) => drop(entry.insert(value)),
            EntryRef::Vacant(entry) => {
                if let Some(order) = self.order.get_mut() {
                    order.insert(key.into());
                }
                entry.insert(value);
            }
        }
    }

    /// Takes a key out, as if it had not been changed.
    pub fn remove(&mut self, key: &[u8]) {
        self.entries.remove(key);
        if let Some(order) = self.order.get_mut() {
            order.remove(key);
        }
    }

    /// The changed keys in `from <= key < to`, in order. `from` must not be after `to`.
    pub fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut found = Vec::new();
        let mut order = None;
        if self.order.get().is_none() && self.ranges.get() < FEW {
            self.ranges.set(self.ranges.get() + 1);
            found.extend(self.entries.keys().map(Vec::as_slice).filter(|key| *key >= from && *key < to));
            found.sort_unstable();
        } else {
            let all = self.order.get_or_init(|| self.entries.keys().map(|key| key.as_slice().into()).collect());
            order = Some(all.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).map(AsRef::as_ref));
        }
        found.into_iter().chain(order.into_iter().flatten())
    }

    /// Everything, in the order of the keys, to be kept elsewhere.
    pub fn into_sorted(self) -> Vec<(Vec<u8>, Option<Bytes>)> {
        let mut entries: Vec<_> = self.entries.into_iter().collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        entries
    }

    /// Everything, in the order of the keys.
    pub fn sorted(&self) -> Vec<(&[u8], Option<&[u8]>)> {
        let mut entries: Vec<_> = self.entries.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        entries
    }
}
