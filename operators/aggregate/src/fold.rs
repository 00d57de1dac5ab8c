//! Events change state: the only code that does, whether a command or a timer led to them, or a topic has them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::is_null;
use arrow::compute::kernels::zip::zip;
use operator_core::stores::MAX_ROW;
use operator_core::{State, StateError, keys, memory};
use operator_event::{CORRELATION_ID, unwritable};

use crate::cells::{Cell, gather};
use crate::plan::{AggregatePlan, Change, Collection, EventPlan, Failures, Part, Value, seen};
use crate::state::structure;
use crate::subjects::Subjects;

/// What events of one command after the other have changed so far, and nobody else sees yet: one row for each aggregate.
#[derive(Debug)]
pub struct Hand {
    /// Places of the aggregates, all different.
    pub places: Vec<usize>,
    pub states: Vec<Cell>,
    /// Entries: collection, key, what it is now.
    pub entries: Vec<Vec<(usize, Vec<u8>, Cell)>>,
}

/// Events of one kind, one for each aggregate of a [`Hand`].
pub struct Happened<'a> {
    pub event: &'a EventPlan,
    /// The columns of their data, as a record.
    pub data: ArrayRef,
    /// When they happened.
    pub times: ArrayRef,
    /// Their correlation ids, and their own ids, if those are kept ([`AggregatePlan::keeps_causes`]).
    pub causes: [ArrayRef; 2],
}

impl Happened<'_> {
    /// Events that can't be written to a topic, each with why: state must not have what no topic says.
    pub fn unwritable(&self) -> Failures {
        let members = self.data.as_struct_opt().map(|data| data.columns()).unwrap_or_default();
        let columns = self.event.columns.iter().map(|field| field.name().as_str()).zip(members);
        unwritable(&columns.chain([(CORRELATION_ID, &self.causes[0])]).collect::<Vec<_>>())
    }
}

/// The entries of a collection that events are about.
struct About {
    collection: usize,
    column: ArrayRef,
    keys: Vec<Vec<u8>>,
    /// The rows of the entries.
    rows: ArrayRef,
}

impl Hand {
    /// The aggregates at these places as they are.
    pub fn new(places: Vec<usize>, subjects: &Subjects) -> Hand {
        let states = places.iter().filter_map(|place| subjects.list.get(*place)).map(|subject| subject.state.clone()).collect();
        Hand { entries: vec![Vec::new(); places.len()], states, places }
    }

    /// The entry with this key of the aggregate at `at` in the hand.
    fn entry<'a>(&'a self, at: usize, collection: usize, key: &[u8], subjects: &'a Subjects) -> Option<&'a Cell> {
        let own = self.entries.get(at)?.iter().rfind(|(of, known, _)| *of == collection && known == key);
        own.map(|(_, _, cell)| cell).or_else(|| subjects.entry(*self.places.get(at)?, collection, key))
    }

    fn set_entry(&mut self, at: usize, collection: usize, key: &[u8], now: Cell) {
        let Some(entries) = self.entries.get_mut(at) else { return };
        match entries.iter_mut().find(|(of, known, _)| *of == collection && known == key) {
            Some((_, _, cell)) => *cell = now,
            None => entries.push((collection, key.to_vec(), now)),
        }
    }

    /// The entries of a collection that are in the hand and not gone, each with the row of the hand.
    pub fn entries_of(&self, collection: usize) -> Vec<(usize, &Cell)> {
        let all = self.entries.iter().enumerate().flat_map(|(at, entries)| entries.iter().map(move |entry| (at, entry)));
        all.filter(|(_, (of, _, cell))| *of == collection && !cell.is_null()).map(|(at, (_, _, cell))| (at, cell)).collect()
    }

    /// What was changed is so from now on: the time of the change by the row of the hand.
    pub fn keep(self, subjects: &mut Subjects, time: impl Fn(usize) -> i64) {
        for (at, ((place, state), entries)) in self.places.into_iter().zip(self.states).zip(self.entries).enumerate() {
            subjects.set(place, state, time(at));
            entries.into_iter().for_each(|(collection, key, cell)| subjects.set_entry(place, collection, &key, cell));
        }
    }
}

/// Lets events change what is in the hand. Nothing is changed if one of them fails, which is added to `failed`, its first reason
/// first.
///
/// # Errors
/// State can't be read.
pub fn apply(
    plan: &AggregatePlan,
    subjects: &mut Subjects,
    state: &dyn State,
    hand: &mut Hand,
    happened: &Happened<'_>,
    failed: &mut Failures,
) -> Result<(), StateError> {
    let about = entries_of(plan, subjects, state, hand, happened, failed)?;
    if !failed.is_empty() {
        return Ok(());
    }
    let (event, rows) = (happened.event, hand.places.len());
    let states = gather(hand.states.iter())?;
    let env = event.scope.batch(rows, |part| match part {
        Part::State => plan.state.record(&states),
        Part::Entry(collection) => entry_column(plan, collection, &about),
        Part::Data => Ok(happened.data.clone()),
        Part::Time => Ok(happened.times.clone()),
        Part::Input(_) | Part::Member(_) => Err(StateError::new("an event reads no input: this is a bug")),
    })?;
    let mut columns = plan.state.columns(&states)?.to_vec();
    let mut changed: Vec<(&About, ArrayRef)> = Vec::new();
    for change in &event.changes {
        let of = change.collection().and_then(|collection| about.iter().find(|about| about.collection == collection));
        match (change, of) {
            (Change::State { column, value }, _) => {
                let values = value.evaluate(&env, failed)?;
                let field = plan.state.record.get(*column);
                missing(field.filter(|field| !field.is_nullable()).map(|field| field.name().as_str()), "state", &values, failed);
                if let Some(column) = columns.get_mut(*column) {
                    *column = values;
                }
            }
            (Change::Entry { collection, values }, Some(about)) => {
                let Some(of) = plan.collections.get(*collection) else { continue };
                if let Some(now) = changed_entries(of, about, values, &env, &happened.causes, failed)? {
                    changed.push((about, now));
                }
            }
            (Change::Delete { collection }, Some(about)) => {
                let Some(of) = plan.collections.get(*collection) else { continue };
                changed.push((about, of.none.clone()));
            }
            (_, None) => return Err(StateError::new("an event is about no entry: this is a bug")),
        }
    }
    if !failed.is_empty() {
        return Ok(());
    }
    let kept: Vec<ArrayRef> = columns.iter().chain(happened.causes.iter().filter(|_| plan.state.keeps_cause)).cloned().collect();
    too_large(&kept, "the state", failed);
    if !failed.is_empty() {
        return Ok(());
    }
    let versions: Int64Array = plan.state.versions(&states)?.unary(|version: i64| version.saturating_add(1));
    let now = plan.state.rows(versions, Some(happened.causes.clone()), columns)?;
    hand.states = Cell::of(&now).collect();
    for (about, now) in changed {
        for (at, key) in about.keys.iter().enumerate() {
            // One row that is no entry stands for all that are gone.
            let row = if now.len() == 1 { 0 } else { at };
            hand.set_entry(at, about.collection, key, Cell { rows: now.clone(), row });
        }
    }
    Ok(())
}

/// The entries that events are about.
fn entries_of(
    plan: &AggregatePlan,
    subjects: &mut Subjects,
    state: &dyn State,
    hand: &Hand,
    happened: &Happened<'_>,
    failed: &mut Failures,
) -> Result<Vec<About>, StateError> {
    let mut all = Vec::new();
    for (collection, keyed) in &happened.event.entries {
        let env = keyed.scope.batch(hand.places.len(), |part| match part {
            Part::Data => Ok(happened.data.clone()),
            Part::Time => Ok(happened.times.clone()),
            Part::Member(place) => member(&happened.data, place),
            _ => Err(StateError::new("the key of an entry reads the event alone: this is a bug")),
        })?;
        let column = keys::canonical(&keyed.value.evaluate(&env, failed)?);
        let name = plan.collections.get(*collection).map_or("", |of| of.name.as_str());
        for at in (0..column.len()).filter(|at| column.is_null(*at)) {
            failed.push((at, format!("the event is about no entry of `{name}`: its key is null")));
        }
        let keys: Vec<Vec<u8>> = (0..column.len()).map(|at| encoded(&column, at)).collect();
        for (at, (place, key)) in hand.places.iter().zip(&keys).enumerate() {
            failed.extend(subjects.refused(*place, key).map(|cause| (at, cause)));
        }
        let wanted = hand.places.iter().zip(&keys).map(|(place, key)| (*place, key.as_slice()));
        subjects.load_entries(*collection, wanted, state)?;
        let cells: Option<Vec<&Cell>> = keys.iter().enumerate().map(|(at, key)| hand.entry(at, *collection, key, subjects)).collect();
        let cells = cells.ok_or_else(|| StateError::new("an entry was not read: this is a bug"))?;
        let rows = gather(cells.into_iter())?;
        all.push(About { collection: *collection, column, keys, rows });
    }
    Ok(all)
}

/// A column of events.
fn member(data: &ArrayRef, place: usize) -> Result<ArrayRef, StateError> {
    let column = data.as_struct_opt().and_then(|data| data.columns().get(place));
    column.cloned().ok_or_else(|| StateError::new("an event lacks a column: this is a bug"))
}

/// A value as the key of an entry.
pub fn encoded(column: &ArrayRef, row: usize) -> Vec<u8> {
    let mut key = Vec::new();
    keys::encode(std::slice::from_ref(column), row, &mut key);
    key
}

fn entry_column(plan: &AggregatePlan, collection: usize, about: &[About]) -> Result<ArrayRef, StateError> {
    let about = about.iter().find(|about| about.collection == collection);
    match (plan.collections.get(collection), about) {
        (Some(of), Some(about)) => seen_rows(of, &about.rows),
        _ => Err(StateError::new("an event reads an entry that it is not about: this is a bug")),
    }
}

/// Entries as expressions read them.
///
/// # Errors
/// They are not rows of the collection: a bug.
pub fn seen_rows(of: &Collection, rows: &ArrayRef) -> Result<ArrayRef, StateError> {
    let rows = rows.as_struct_opt().ok_or_else(|| StateError::new("rows are not entries: this is a bug"))?;
    Ok(Arc::new(structure(&of.seen, seen(of, rows), rows.nulls().cloned())?))
}

/// Entries after a change of some of their columns; nothing if one failed.
fn changed_entries(
    of: &Collection,
    about: &About,
    values: &[(usize, Value)],
    env: &arrow::array::RecordBatch,
    causes: &[ArrayRef; 2],
    failed: &mut Failures,
) -> Result<Option<ArrayRef>, StateError> {
    let broken = |e: arrow::error::ArrowError| StateError::new(format!("entries can't be changed: {e}"));
    let new: BooleanArray = is_null(about.rows.as_ref()).map_err(broken)?;
    let before = about.rows.as_struct_opt().and_then(|rows| rows.columns().get(of.begin()..)).unwrap_or_default();
    let mut columns: Vec<ArrayRef> = vec![about.column.clone()];
    columns.extend(causes.iter().filter(|_| of.keeps_cause).cloned());
    let first_failure = failed.len();
    for (place, (column, before)) in of.columns.iter().zip(before).enumerate() {
        let given = values.iter().find(|(of, _)| *of == place);
        let now = match (given, &column.default) {
            (Some((_, value)), _) => value.evaluate(env, failed)?,
            (None, _) if new.true_count() == 0 => before.clone(),
            (None, Some(default)) => zip(&new, &arrow::array::Scalar::new(default), before).map_err(broken)?,
            (None, None) => before.clone(),
        };
        let required = (!column.field.is_nullable()).then_some(column.field.name().as_str());
        missing(required, &of.name, &now, failed);
        columns.push(now);
    }
    too_large(&columns, &format!("the entry of `{}`", of.name), failed);
    if failed.len() > first_failure {
        return Ok(None);
    }
    Ok(Some(Arc::new(structure(&of.fields, columns, None)?)))
}

/// Rows in which a column that must have a value has none; of one that failed, why it did comes before that.
fn missing(required: Option<&str>, of: &str, values: &ArrayRef, failed: &mut Failures) {
    let Some(name) = required.filter(|_| values.null_count() > 0) else { return };
    failed.extend((0..values.len()).filter(|row| values.is_null(*row)).map(|row| (row, format!("`{of}.{name}` would be null"))));
}

/// Rows that can't be kept, because they would not fit into a record of the changelog.
fn too_large(columns: &[ArrayRef], what: &str, failed: &mut Failures) {
    let rows = columns.first().map_or(0, |column| column.len());
    let size = |from: usize, count: usize| columns.iter().map(|column| memory::bytes(column.as_ref(), from, count)).sum::<usize>();
    if size(0, rows) <= MAX_ROW {
        return;
    }
    let large = (0..rows).filter(|row| size(*row, 1) > MAX_ROW);
    failed.extend(large.map(|row| (row, format!("{what} would have {} bytes; the limit is {MAX_ROW}", size(row, 1)))));
}
