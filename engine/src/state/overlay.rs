//! The changes of an epoch: found by key in constant time, and in the order of their keys once somebody reads ranges.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ops::Bound;

use hashbrown::HashMap;

use super::Bytes;

/// Changed entries; `None` is a deletion.
#[derive(Default)]
pub(super) struct Overlay {
    entries: HashMap<Vec<u8>, Option<Bytes>, foldhash::fast::FixedState>,
    /// The keys in order. Made when a range is read first, and kept from then on: most steps never read one, and those that do
    /// would otherwise look through all keys each time.
    order: OnceCell<BTreeSet<Bytes>>,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.take();
    }

    pub fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.entries.get(key)
    }

    pub fn set(&mut self, key: &[u8], value: Option<Bytes>) {
        if let Some(order) = self.order.get_mut()
            && !self.entries.contains_key(key)
        {
            order.insert(key.into());
        }
        *self.entries.entry_ref(key).or_insert(None) = value;
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
        let order = self.order.get_or_init(|| self.entries.keys().map(|key| key.as_slice().into()).collect());
        order.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).map(AsRef::as_ref)
    }

    /// Everything, in the order of the keys.
    pub fn sorted(&self) -> Vec<(&[u8], Option<&[u8]>)> {
        let mut entries: Vec<_> = self.entries.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        entries
    }
}
