//! The state of one step in one partition: committed entries, and overlays for what is not committed yet (rule R2).
//!
//! Two epochs can be in progress at once (rule R10): the one whose commit is in flight and the open one. Reads see the
//! open overlay, then the committing one, then the committed entries. Only an acknowledged commit moves an overlay
//! down; anything else throws both away. So memory never runs ahead of the changelog.

pub mod checkpoint;
mod overlay;
mod pages;

use std::cmp::Ordering;
use std::iter::from_fn;

use operator_core::{State, StateError};

use overlay::{Change, Overlay, hash};
use pages::Pages;

/// State of a step in a partition.
#[derive(Default)]
pub struct Store {
    committed: Pages,
    committing: Overlay,
    open: Overlay,
    /// What the open overlay had where it was changed since [`Store::mark`], in the order of the changes.
    undo: Option<Vec<(Vec<u8>, Option<Option<Vec<u8>>>)>>,
}

/// What a commit has changed.
pub struct Applied(Overlay);

impl Applied {
    /// By key, in order; `None` is a deletion.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.sorted()
    }
}

impl Store {
    /// Number of committed entries.
    pub fn len(&self) -> usize {
        self.committed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of committed keys and values.
    pub fn bytes(&self) -> usize {
        self.committed.bytes()
    }

    /// The open epoch changed something.
    pub fn is_dirty(&self) -> bool {
        !self.open.is_empty()
    }

    /// Ends the open epoch: its writes go to the changelog (`None` is a tombstone), in key order, and what is deleted after everything
    /// that is set: without transactions a crash can leave the first part of them, and what moves from one key to another must not be
    /// missing then. The previous epoch must have been settled.
    pub fn seal(&mut self, mut write: impl FnMut(&[u8], Option<&[u8]>)) {
        debug_assert!(self.committing.is_empty(), "the epoch before was not settled");
        self.committing = std::mem::take(&mut self.open);
        self.committing.sort();
        for is_set in [true, false] {
            self.committing.sorted().filter(|(_, value)| value.is_some() == is_set).for_each(|(key, value)| write(key, value));
        }
    }

    /// The commit is acknowledged: its writes become committed. Returns them, for the local checkpoint.
    pub fn apply(&mut self) -> Applied {
        let applied = Applied(std::mem::take(&mut self.committing));
        applied.entries().for_each(|(key, value)| self.load(key, value));
        applied
    }

    /// The epoch is void: forget everything that is not committed.
    pub fn discard(&mut self) {
        (self.committing, self.open) = (Overlay::default(), Overlay::default());
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
                Some(value) => self.open.set(&key, value.as_deref()),
                None => self.open.remove(&key),
            }
        }
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(undo) = &mut self.undo {
            let before = self.open.get(hash(key), key).map(|value| value.map(<[u8]>::to_vec));
            undo.push((key.to_vec(), before));
        }
        self.open.set(key, value);
    }

    /// Sets a committed entry while restoring; `None` deletes it.
    pub fn load(&mut self, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.committed.insert(key, value),
            None => self.committed.remove(key),
        }
    }

    /// Every committed entry in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.committed.entries()
    }
}

impl State for Store {
    fn get(&self, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StateError> {
        value.clear();
        let hash = hash(key);
        let overlaid = self.open.get(hash, key).or_else(|| self.committing.get(hash, key));
        let found = overlaid.unwrap_or_else(|| self.committed.get(key));
        if let Some(bytes) = found {
            value.extend_from_slice(bytes);
        }
        Ok(found.is_some())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.set(key, Some(value));
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
        let committed = self.committed.range(from, to).map(|(key, value)| (key, Some(value)));
        let entries = over(self.open.range(from, to), over(self.committing.range(from, to), committed));
        for (key, value) in entries {
            if let Some(value) = value
                && !visit(key, value)
            {
                break;
            }
        }
        Ok(())
    }
}

/// The entries of both in the order of their keys, and of a key that both have that of `upper`.
fn over<'a>(upper: impl Iterator<Item = Change<'a>>, lower: impl Iterator<Item = Change<'a>>) -> impl Iterator<Item = Change<'a>> {
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    from_fn(move || {
        let order = match (upper.peek(), lower.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => upper.next(),
            Ordering::Greater => lower.next(),
            Ordering::Equal => {
                lower.next();
                upper.next()
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use operator_core::MemoryState;
    use operator_core::stores::{Due, RowCodec, TimeQueue, TimedRow, TimedRows};
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
                        if let Some(done) = in_flight.take() { store.apply(); saved = done; }
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

    fn row(key: u8, time: i64) -> Vec<u8> {
        vec![key, time as u8]
    }

    proptest! {
        /// Typed stores give the same on overlays as on plain state, through commits and aborts.
        #[test]
        fn typed_stores_behave_like_the_model(ops in proptest::collection::vec((0u8..12, 0i64..40, 0u8..4), 1..150)) {
            let codec = RowCodec::new(Vec::<Field>::new());
            let rows = TimedRows::new(1, vec![DataType::UInt8], codec.clone(), 7);
            let queue = TimeQueue::new(2, vec![DataType::UInt8], codec);
            let (mut store, mut model, mut saved) = (Store::default(), MemoryState::default(), MemoryState::default());
            let mut stores = [(rows.clone(), queue.clone()), (rows, queue)];
            let mut in_flight = false;
            for (op, time, key) in ops {
                let mut seen = Vec::new();
                for (state, (rows, queue)) in [&mut store as &mut dyn State, &mut model].into_iter().zip(&mut stores) {
                    let mut found: Vec<(i64, Vec<u8>)> = Vec::new();
                    let key = [1, key];
                    match op {
                        0..4 => rows.put(&TimedRow { key: &key, time, sequence: &[], flags: op, row: &row(key[1], time) }, state).unwrap(),
                        4 => rows.delete(&key, time, &[], state).unwrap(),
                        5 => rows.rows(&key, (time - 10, time), state, &mut |r| { found.push((r.time, r.row.to_vec())); true }).unwrap(),
                        6 => drop(rows.expire(time, 3, state, &mut |r| found.push((r.time, r.row.to_vec()))).unwrap()),
                        7..9 => queue.put(&Due { time, key: &key, sequence: &[op], flags: 0, row: &row(key[1], time) }, state).unwrap(),
                        9 => {
                            let portion = queue.take_before(time, 3, state).unwrap();
                            found.extend(portion.iter().map(|due| due.unwrap()).map(|due| (due.time, due.row.to_vec())));
                        }
                        _ => {}
                    }
                    seen.push((found, queue.first_time(state).unwrap()));
                }
                prop_assert_eq!(&seen[0], &seen[1]);
                match op {
                    10 => {
                        if in_flight { store.apply(); }
                        store.seal(|_, _| ());
                        in_flight = true;
                        saved = model.clone();
                    }
                    11 => {
                        // The commit in flight is settled before anything is discarded.
                        if std::mem::take(&mut in_flight) { store.apply(); }
                        store.discard();
                        model = saved.clone();
                        stores.iter_mut().for_each(|(rows, queue)| { rows.forget(); queue.forget(); });
                    }
                    _ => {}
                }
                prop_assert_eq!(all(&store), all(&model));
            }
        }
    }
}
