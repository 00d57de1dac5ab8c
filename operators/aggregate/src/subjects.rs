//! The aggregates that a batch is about: read from state once, and written back once.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use hashbrown::HashMap;
use operator_core::stores::{KeyedRow, key_too_large};
use operator_core::{Millis, State, StateError, keys};

use crate::cells::{Cell, gather};
use crate::plan::AggregatePlan;

/// An entry of a collection.
#[derive(Debug)]
pub struct Entry {
    pub now: Cell,
    /// As it is in state.
    stored: Cell,
    /// What it was in between, in a batch that sets timers.
    passed: Vec<Cell>,
}

/// An aggregate.
#[derive(Debug)]
pub struct Subject {
    /// Its key, encoded.
    pub key: Vec<u8>,
    pub state: Cell,
    /// As it is in state.
    stored: Cell,
    /// What it was in between, in a batch that sets timers.
    passed: Vec<Cell>,
    /// When it last changed: what is in state, and now.
    pub time: Millis,
    /// By collection and key, those that were asked for.
    entries: Vec<HashMap<Vec<u8>, Entry>>,
}

/// The aggregates of a batch, each with a place of its own.
#[derive(Debug)]
pub struct Subjects {
    plan: Arc<AggregatePlan>,
    pub list: Vec<Subject>,
    places: HashMap<Vec<u8>, usize>,
    /// How many have their state.
    loaded: usize,
    /// Whether what aggregates and entries were in between is kept.
    timed: bool,
}

/// What changed of what a timer is set by: the aggregate, the key of the entry if it is one, before and now.
pub struct Changed<'a> {
    pub subject: &'a Subject,
    pub entry: &'a [u8],
    pub before: &'a Cell,
    /// What it was in between: after each command, or timer, but the last.
    pub passed: &'a [Cell],
    pub now: &'a Cell,
}

impl Subjects {
    pub fn new(plan: &Arc<AggregatePlan>) -> Subjects {
        Subjects { plan: plan.clone(), list: Vec::new(), places: HashMap::new(), loaded: 0, timed: false }
    }

    /// The same, for a batch that sets timers.
    pub fn timed(plan: &Arc<AggregatePlan>) -> Subjects {
        Subjects { timed: !plan.timers.is_empty(), ..Subjects::new(plan) }
    }

    /// The place of the aggregate with this key, whose state is to be loaded.
    pub fn place(&mut self, key: &[u8]) -> usize {
        if let Some(place) = self.places.get(key) {
            return *place;
        }
        let first = Cell { rows: self.plan.state.first.clone(), row: 0 };
        let entries = self.plan.collections.iter().map(|_| HashMap::new()).collect();
        self.list.push(Subject { key: key.to_vec(), state: first.clone(), stored: first, passed: Vec::new(), time: Millis::MIN, entries });
        self.places.insert(key.to_vec(), self.list.len() - 1);
        self.list.len() - 1
    }

    /// Reads the state of the aggregates that have got a place since the last time.
    ///
    /// # Errors
    /// State can't be read.
    pub fn load(&mut self, state: &dyn State) -> Result<(), StateError> {
        let shape = &self.plan.state;
        let (mut reader, mut bytes, mut there) = (shape.codec().reader()?, Vec::new(), Vec::new());
        for (place, subject) in self.list.iter_mut().enumerate().skip(self.loaded) {
            if let Some(time) = shape.store.get(&subject.key, &[], state, &mut bytes)? {
                subject.time = time;
                reader.push(&bytes)?;
                there.push(place);
            }
        }
        self.loaded = self.list.len();
        if there.is_empty() {
            return Ok(());
        }
        let rows = shape.read(&mut reader)?;
        for (place, cell) in there.into_iter().zip(Cell::of(&rows)) {
            if let Some(subject) = self.list.get_mut(place) {
                (subject.state, subject.stored) = (cell.clone(), cell);
            }
        }
        Ok(())
    }

    /// Reads entries of a collection, of the aggregates at these places, that were not read yet.
    ///
    /// # Errors
    /// State can't be read.
    pub fn load_entries<'k>(
        &mut self,
        collection: usize,
        wanted: impl Iterator<Item = (usize, &'k [u8])>,
        state: &dyn State,
    ) -> Result<(), StateError> {
        let Some(of) = self.plan.collections.get(collection) else { return Ok(()) };
        let (mut bytes, mut found): (Vec<u8>, Vec<Vec<u8>>) = Default::default();
        let mut there: Vec<(usize, &[u8])> = Vec::new();
        for (place, key) in wanted {
            let Some(subject) = self.list.get_mut(place) else { continue };
            let Some(entries) = subject.entries.get_mut(collection).filter(|entries| !entries.contains_key(key)) else { continue };
            let none = Cell { rows: of.none.clone(), row: 0 };
            entries.insert(key.to_vec(), Entry { now: none.clone(), stored: none, passed: Vec::new() });
            if of.store.get(&subject.key, key, state, &mut bytes)?.is_some() {
                found.push(std::mem::take(&mut bytes));
                there.push((place, key));
            }
        }
        if there.is_empty() {
            return Ok(());
        }
        let mut reader = of.codec().reader()?;
        found.iter().try_for_each(|row| reader.push(row))?;
        let types = [of.key.data_type().clone()];
        let unreadable = || StateError::new("the key of an entry can't be decoded");
        let keys = keys::decode(&types, there.iter().map(|(_, key)| *key)).ok_or_else(unreadable)?;
        let rows = of.read(keys, &mut reader)?;
        for ((place, key), cell) in there.into_iter().zip(Cell::of(&rows)) {
            if let Some(entry) = self.entry_mut(place, collection, key) {
                (entry.now, entry.stored) = (cell.clone(), cell);
            }
        }
        Ok(())
    }

    fn entry_mut(&mut self, place: usize, collection: usize, key: &[u8]) -> Option<&mut Entry> {
        self.list.get_mut(place)?.entries.get_mut(collection)?.get_mut(key)
    }

    /// An entry that was read.
    pub fn entry(&self, place: usize, collection: usize, key: &[u8]) -> Option<&Cell> {
        Some(&self.list.get(place)?.entries.get(collection)?.get(key)?.now)
    }

    /// The state of the aggregate at `place` is another one, since `time`.
    pub fn set(&mut self, place: usize, state: Cell, time: Millis) {
        if let Some(subject) = self.list.get_mut(place) {
            let before = std::mem::replace(&mut subject.state, state);
            subject.time = time;
            if self.timed && !same(&before, &subject.stored) {
                subject.passed.push(before);
            }
        }
    }

    /// An entry, which was read, is another one, or gone.
    pub fn set_entry(&mut self, place: usize, collection: usize, key: &[u8], now: Cell) {
        let timed = self.timed;
        if let Some(entry) = self.entry_mut(place, collection, key) {
            let before = std::mem::replace(&mut entry.now, now);
            if timed && !same(&before, &entry.stored) {
                entry.passed.push(before);
            }
        }
    }

    /// The states of aggregates that changed.
    pub fn changed_states(&self) -> Vec<Changed<'_>> {
        let changed = self.list.iter().filter(|subject| !same(&subject.state, &subject.stored));
        changed
            .map(|subject| Changed { subject, entry: &[], before: &subject.stored, passed: &subject.passed, now: &subject.state })
            .collect()
    }

    /// The entries of a collection that changed.
    pub fn changed_entries(&self, collection: usize) -> Vec<Changed<'_>> {
        let mut all = Vec::new();
        for subject in &self.list {
            let entries = subject.entries.get(collection).into_iter().flatten();
            let changed = entries.filter(|(_, entry)| !same(&entry.now, &entry.stored));
            all.extend(changed.map(|(key, entry)| Changed {
                subject,
                entry: key,
                before: &entry.stored,
                passed: &entry.passed,
                now: &entry.now,
            }));
        }
        all
    }

    /// Why the entry can't be kept, if so.
    pub fn refused(&self, place: usize, entry: &[u8]) -> Option<String> {
        let key = self.list.get(place).map_or(0, |subject| subject.key.len());
        key_too_large(key + entry.len())
    }

    /// Writes what changed.
    ///
    /// # Errors
    /// State can't be written.
    pub fn save(&self, state: &mut dyn State) -> Result<(), StateError> {
        let plan = &self.plan;
        let states = self.changed_states();
        if !states.is_empty() {
            let rows = gather(states.iter().map(|changed| changed.now))?;
            let writer = plan.state.codec().writer(columns(&rows, 0))?;
            let mut bytes = Vec::new();
            for (row, Changed { subject, .. }) in states.iter().enumerate() {
                bytes.clear();
                writer.put(row, &mut bytes);
                plan.state.store.put(&subject.key, &KeyedRow { id: &[], time: subject.time, row: &bytes }, state)?;
            }
        }
        for (place, collection) in plan.collections.iter().enumerate() {
            let (gone, there): (Vec<_>, Vec<_>) = self.changed_entries(place).into_iter().partition(|changed| changed.now.is_null());
            for Changed { subject, entry, .. } in gone {
                collection.store.delete(&subject.key, entry, state)?;
            }
            if there.is_empty() {
                continue;
            }
            let rows = gather(there.iter().map(|changed| changed.now))?;
            let writer = collection.codec().writer(columns(&rows, 1))?;
            let mut bytes = Vec::new();
            for (row, Changed { subject, entry, .. }) in there.iter().enumerate() {
                bytes.clear();
                writer.put(row, &mut bytes);
                collection.store.put(&subject.key, &KeyedRow { id: entry, time: 0, row: &bytes }, state)?;
            }
        }
        Ok(())
    }
}

/// The columns of a record, from one on.
fn columns(rows: &ArrayRef, from: usize) -> &[ArrayRef] {
    rows.as_struct_opt().and_then(|rows| rows.columns().get(from..)).unwrap_or_default()
}

/// One row of one array.
fn same(a: &Cell, b: &Cell) -> bool {
    a.row == b.row && Arc::ptr_eq(&a.rows, &b.rows) || a.is_null() && b.is_null()
}
