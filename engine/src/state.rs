//! The state of one step in one partition: committed entries, and overlays for what is not committed yet (rule R2).
//!
//! Two epochs can be in progress at once (rule R10): the one whose commit is in flight and the open one. Reads see the
//! open overlay, then the committing one, then the committed entries. Only an acknowledged commit moves an overlay
//! down; anything else throws both away. So memory never runs ahead of the changelog.

use std::collections::BTreeMap;
use std::ops::Bound;

use hashbrown::HashMap;
use operator_core::{State, StateError};

type Bytes = Box<[u8]>;
type Overlay = HashMap<Vec<u8>, Option<Bytes>, foldhash::fast::FixedState>;

/// State of a step in a partition.
#[derive(Default)]
pub struct Store {
    committed: BTreeMap<Bytes, Bytes>,
    committing: Overlay,
    open: Overlay,
    bytes: usize,
    /// What the open overlay had where it was changed since [`Store::mark`], in the order of the changes.
    undo: Option<Vec<(Vec<u8>, Option<Option<Bytes>>)>>,
}

impl Store {
    /// Number of committed entries.
    pub fn len(&self) -> usize {
        self.committed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.committed.is_empty()
    }

    /// Bytes of committed keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The open epoch changed something.
    pub fn is_dirty(&self) -> bool {
        !self.open.is_empty()
    }

    /// Ends the open epoch: its writes, in key order, go to the changelog (`None` is a tombstone). The previous
    /// epoch must have been settled.
    pub fn seal(&mut self, mut write: impl FnMut(&[u8], Option<&[u8]>)) {
        debug_assert!(self.committing.is_empty(), "the epoch before was not settled");
        std::mem::swap(&mut self.committing, &mut self.open);
        let mut entries: Vec<_> = self.committing.iter().collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for (key, value) in entries {
            write(key, value.as_deref());
        }
    }

    /// The commit is acknowledged: its writes, in key order, become committed (and go to the local checkpoint).
    pub fn apply(&mut self, mut visit: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut entries: Vec<_> = std::mem::take(&mut self.committing).into_iter().collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in entries {
            visit(&key, value.as_deref());
            self.load(&key, value.as_deref());
        }
    }

    /// The epoch is void: forget everything that is not committed.
    pub fn discard(&mut self) {
        self.committing.clear();
        self.open.clear();
    }

    /// What changes from here on can be taken back by [`Store::undo`], until [`Store::keep`].
    pub fn mark(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// The changes since the mark stay.
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Takes back the changes since the mark.
    pub fn undo(&mut self) {
        for (key, before) in self.undo.take().unwrap_or_default().into_iter().rev() {
            match before {
                Some(value) => self.open.insert(key, value),
                None => self.open.remove(&key),
            };
        }
    }

    fn set(&mut self, key: &[u8], value: Option<Bytes>) {
        if let Some(undo) = &mut self.undo {
            undo.push((key.to_vec(), self.open.get(key).cloned()));
        }
        *self.open.entry_ref(key).or_insert(None) = value;
    }

    /// Sets a committed entry while restoring; `None` deletes it.
    pub fn load(&mut self, key: &[u8], value: Option<&[u8]>) {
        let replaced = match value {
            Some(value) => {
                self.bytes += key.len() + value.len();
                self.committed.insert(key.into(), value.into())
            }
            None => self.committed.remove(key),
        };
        if let Some(old) = replaced {
            self.bytes -= (key.len() + old.len()).min(self.bytes);
        }
    }

    /// Every committed entry in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.committed.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))
    }

    fn overlaid(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.open.get(key).or_else(|| self.committing.get(key)).map(|v| v.as_deref())
    }
}

impl State for Store {
    fn get(&self, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StateError> {
        value.clear();
        let found = match self.overlaid(key) {
            Some(overlaid) => overlaid,
            None => self.committed.get(key).map(|v| v.as_ref()),
        };
        if let Some(bytes) = found {
            value.extend_from_slice(bytes);
        }
        Ok(found.is_some())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.set(key, Some(value.into()));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.set(key, None);
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StateError> {
        if from >= to {
            return Ok(());
        }
        let within = |key: &&[u8]| *key >= from && *key < to;
        let mut fresh: Vec<&[u8]> = self.open.keys().chain(self.committing.keys()).map(Vec::as_slice).filter(within).collect();
        fresh.sort_unstable();
        fresh.dedup();
        let mut fresh = fresh.into_iter().peekable();
        let mut old = self.committed.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        loop {
            let (key, value) = match (fresh.peek(), old.peek()) {
                (None, None) => return Ok(()),
                (Some(f), o) if o.is_none_or(|(k, _)| *f <= k.as_ref()) => {
                    let key = *f;
                    fresh.next();
                    old.next_if(|(k, _)| k.as_ref() == key);
                    (key, self.overlaid(key).flatten())
                }
                _ => match old.next() {
                    Some((key, value)) => (key.as_ref(), Some(value.as_ref())),
                    None => return Ok(()),
                },
            };
            if let Some(value) = value
                && !visit(key, value)
            {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use operator_core::MemoryState;
    use proptest::prelude::*;

    use super::*;

    fn all(state: &dyn State) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut entries = Vec::new();
        state
            .scan(&[], &[0xff; 8], &mut |k, v| {
                entries.push((k.to_vec(), v.to_vec()));
                true
            })
            .unwrap();
        entries
    }

    #[derive(Clone, Debug)]
    enum Op {
        Put(u8, u8),
        Delete(u8),
        Commit,
        Abort,
        Mark,
        Undo,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0u8..20, any::<u8>()).prop_map(|(k, v)| Op::Put(k, v)),
            3 => (0u8..20).prop_map(Op::Delete),
            1 => Just(Op::Commit),
            1 => Just(Op::Abort),
            1 => Just(Op::Mark),
            1 => Just(Op::Undo),
        ]
    }

    proptest! {
        /// Against the plain model, with its state copied at every commit.
        #[test]
        fn behaves_like_the_model(ops in proptest::collection::vec(op(), 1..200)) {
            let (mut store, mut model, mut saved) = (Store::default(), MemoryState::default(), MemoryState::default());
            let mut in_flight: Option<MemoryState> = None;
            let mut marked: Option<MemoryState> = None;
            for op in ops {
                match op {
                    Op::Put(k, v) => { store.put(&[k], &[v]).unwrap(); model.put(&[k], &[v]).unwrap(); }
                    Op::Delete(k) => { store.delete(&[k]).unwrap(); model.delete(&[k]).unwrap(); }
                    Op::Mark => { store.mark(); marked = Some(model.clone()); }
                    Op::Undo => { store.undo(); if let Some(before) = marked.take() { model = before; } }
                    Op::Commit => {
                        store.keep();
                        marked = None;
                        if let Some(done) = in_flight.take() { store.apply(|_, _| ()); saved = done; }
                        store.seal(|_, _| ());
                        in_flight = Some(model.clone());
                    }
                    Op::Abort => { store.keep(); marked = None; store.discard(); in_flight = None; model = saved.clone(); }
                }
                prop_assert_eq!(all(&store), all(&model));
                let mut value = Vec::new();
                for k in 0..20u8 {
                    prop_assert_eq!(store.get(&[k], &mut value).unwrap(), model.entries.contains_key(&[k][..]));
                }
            }
        }
    }
}
