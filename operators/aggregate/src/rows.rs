//! A batch of commands: the aggregates that they are for, and the order in which they are decided.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, UInt32Array};
use arrow::compute::take;
use operator_core::batch::SystemColumns;
use operator_core::{Batch, StateError, keys};
use operator_event::Causes;

use crate::fold::encoded;
use crate::outputs::Outputs;
use crate::plan::{AggregatePlan, Failures, Part};
use crate::subjects::Subjects;
use operator_core::stores::too_large;

/// Bytes of a key that are certainly not too many, whatever their encoding adds.
const FAR_FROM_LIMIT: usize = 1 << 14;

/// The rows of a batch.
pub struct Rows<'a> {
    pub batch: &'a Batch,
    pub keys: Vec<ArrayRef>,
    pub commands: StringArray,
    /// The commands' own ids, if they have some.
    ids: Option<ArrayRef>,
    pub causes: Causes,
    /// Which row of its record each is, of those without an id of their own; empty if all have one.
    lines: Vec<u64>,
    pub system: SystemColumns<'a>,
    /// By collection, the key of the entry that each row is about, encoded; `None` where it has none.
    entries: Vec<Option<EntryKeys>>,
}

/// The entries that rows are about.
struct EntryKeys {
    keys: Vec<Option<Vec<u8>>>,
    failed: Failures,
}

/// The record that was read last, of those whose rows have no ids of their own: several commands can be in one, also across batches.
#[derive(Debug, Default)]
pub struct LastRecord {
    topic: Option<Arc<str>>,
    offset: i64,
    rows: u64,
}

impl LastRecord {
    /// Which row of its record each row of the batch is, of those that have no ids of their own, from 0 on. Rows that other steps made when a
    /// time came are of no record.
    fn lines(&mut self, batch: &Batch, causes: &Causes) -> Vec<u64> {
        let line = |(row, offset): (usize, &i64)| {
            if causes.own_id(row).is_some() {
                return 0;
            }
            if offset < &0 || *offset != self.offset || self.topic.as_ref() != Some(&batch.origin.topic) {
                (self.topic, self.offset, self.rows) = (Some(batch.origin.topic.clone()), *offset, 0);
            }
            self.rows += 1;
            self.rows - 1
        };
        batch.offsets().map(|offsets| offsets.values().iter().enumerate().map(line).collect()).unwrap_or_default()
    }
}

/// Commands that wait for their turn.
///
/// The first one of each aggregate can be decided now. Most of these are of few kinds, and what is decided together costs little
/// more than one: so the kind that most of them are of comes first, and others wait, behind which commands of that kind may be next.
pub struct Waiting {
    /// By kind, behind which are those that there are no rules for: the commands that can be decided.
    first: Vec<Vec<Turn>>,
    /// By row: the kind of its command, and the row of the next one for the same aggregate.
    rows: Vec<(usize, Option<usize>)>,
}

impl Waiting {
    /// Commands of one kind, each for another aggregate: its place, `None` where there are no rules for it. Those before it were decided.
    pub fn next(&mut self) -> Option<(Option<usize>, Vec<Turn>)> {
        let (kind, most) = self.first.iter_mut().enumerate().max_by_key(|(_, turns)| turns.len()).filter(|(_, turns)| !turns.is_empty())?;
        let turns = std::mem::take(most);
        for turn in &turns {
            let next = self.rows.get(turn.row).and_then(|(_, next)| *next);
            next.into_iter().for_each(|row| self.ready(Turn { row, place: turn.place }));
        }
        Some(((kind + 1 < self.first.len()).then_some(kind), turns))
    }

    fn ready(&mut self, turn: Turn) {
        let kind = self.rows.get(turn.row).map_or(0, |(kind, _)| *kind);
        self.first.get_mut(kind).into_iter().for_each(|turns| turns.push(turn));
    }
}

/// A command's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub row: usize,
    /// The place of its aggregate.
    pub place: usize,
}

impl<'a> Rows<'a> {
    /// `last`: the record that the batch before ended with.
    pub fn new(plan: &AggregatePlan, batch: &'a Batch, last: &mut LastRecord) -> Result<Rows<'a>, StateError> {
        let missing = || StateError::new("the batch lacks a column: this is a bug");
        let (fields, columns) = (plan.input.fields(), batch.rows.columns());
        let keys = plan.key.iter().map(|path| path.values(fields, columns).as_ref().map(keys::canonical));
        let commands = plan.command.values(fields, columns).ok_or_else(missing)?;
        let causes = plan.cause.of(fields, batch)?;
        let named = causes.own_ids().is_some_and(|ids| ids.null_count() == 0);
        let lines = if named { Vec::new() } else { last.lines(batch, &causes) };
        Ok(Rows {
            batch,
            keys: keys.collect::<Option<_>>().ok_or_else(missing)?,
            commands: commands.as_string_opt::<i32>().cloned().ok_or_else(missing)?,
            ids: causes.own_ids().map(|ids| Arc::new(ids.clone()) as ArrayRef),
            causes,
            lines,
            system: batch.system()?,
            entries: plan.collections.iter().map(|_| None).collect(),
        })
    }

    /// The id of a command, and which of those with this id it is: several rows of a record that have none have that of their place.
    pub fn cause(&self, row: usize) -> (&str, u64) {
        (self.causes.id(row), self.lines.get(row).copied().unwrap_or_default())
    }

    /// The commands, those of each aggregate one behind the other. Rows without a key are refused.
    pub fn waiting(&self, plan: &AggregatePlan, subjects: &mut Subjects, outputs: &mut Outputs<'_>) -> Waiting {
        let unknown = plan.commands.len();
        let mut waiting = Waiting { first: vec![Vec::new(); unknown + 1], rows: Vec::with_capacity(self.batch.num_rows()) };
        // By the place of the aggregate: the row of its last command.
        let (mut last, mut key): (Vec<usize>, Vec<u8>) = Default::default();
        for row in 0..self.batch.num_rows() {
            let name = self.commands.is_valid(row).then(|| self.commands.value(row));
            let kind = name.and_then(|name| plan.commands.iter().position(|command| command.name == name));
            waiting.rows.push((kind.unwrap_or(unknown), None));
            key.clear();
            keys::encode(&self.keys, row, &mut key);
            let cause = match self.keys.iter().any(|column| column.is_null(row)) {
                true => Some("the key of the aggregate is null".to_string()),
                false => too_large(&key, &[]).or_else(|| self.large_id(row, &key)),
            };
            if let Some(cause) = cause {
                outputs.refused.push((row, cause));
                continue;
            }
            let place = subjects.place(&key);
            match last.get_mut(place) {
                Some(last) => {
                    let before = waiting.rows.get_mut(std::mem::replace(last, row));
                    before.into_iter().for_each(|(_, next)| *next = Some(row));
                }
                None => {
                    last.push(row);
                    waiting.ready(Turn { row, place });
                }
            }
        }
        waiting
    }

    /// Why the id of a command can't be kept behind the key of its aggregate, if so.
    fn large_id(&self, row: usize, key: &[u8]) -> Option<String> {
        let (own, ids) = (self.causes.own_id(row)?, self.ids.as_ref()?);
        // Most are far from the limit, and need not be encoded to be measured.
        if key.len() + own.len() < FAR_FROM_LIMIT {
            return None;
        }
        let mut id = key.to_vec();
        keys::encode(std::slice::from_ref(ids), row, &mut id);
        too_large(&id, &[]).map(|why| format!("the command's id can't be kept: {why}"))
    }

    /// Puts the id of a command, behind the key of its aggregate, into `id`; false if it has none.
    pub fn put_id(&self, turn: Turn, subjects: &Subjects, id: &mut Vec<u8>) -> bool {
        let own = self.ids.as_ref().filter(|ids| ids.is_valid(turn.row));
        let (Some(own), Some(subject)) = (own, subjects.list.get(turn.place)) else { return false };
        id.clone_from(&subject.key);
        keys::encode(std::slice::from_ref(own), turn.row, id);
        true
    }

    /// Values of these rows.
    ///
    /// # Errors
    /// They are not rows of the column: a bug.
    pub fn of(&self, column: &ArrayRef, turns: &[Turn]) -> Result<ArrayRef, StateError> {
        let first = turns.first().map_or(0, |turn| turn.row);
        if turns.iter().zip(first..).all(|(turn, row)| turn.row == row) {
            return Ok(if turns.len() == column.len() { column.clone() } else { column.slice(first, turns.len()) });
        }
        let rows = UInt32Array::from_iter_values(turns.iter().map(|turn| turn.row as u32));
        take(column.as_ref(), &rows, None).map_err(|e| StateError::new(format!("rows of a batch: {e}")))
    }

    /// Computes the keys of the entries of a collection that commands are about; those of these commands whose key fails.
    ///
    /// # Errors
    /// The batch lacks a column: a bug.
    pub fn find_entries(
        &mut self,
        plan: &AggregatePlan,
        collection: usize,
        turns: &[Turn],
        failed: &mut Failures,
    ) -> Result<(), StateError> {
        let Some(slot) = self.entries.get_mut(collection) else { return Ok(()) };
        if slot.is_none() {
            let Some((scope, value)) = plan.collections.get(collection).map(|of| &of.of_command) else { return Ok(()) };
            let missing = || StateError::new("the batch lacks a column: this is a bug");
            let env = scope.batch(self.batch.num_rows(), |part| match part {
                Part::Input(column) => self.batch.rows.columns().get(column).cloned().ok_or_else(missing),
                _ => Err(missing()),
            })?;
            let mut of_rows = Vec::new();
            let column = keys::canonical(&value.evaluate(&env, &mut of_rows)?);
            let keys = (0..column.len()).map(|row| column.is_valid(row).then(|| encoded(&column, row))).collect();
            of_rows.sort_by_key(|(row, _)| *row);
            *slot = Some(EntryKeys { keys, failed: of_rows });
        }
        let of = slot.as_ref().map_or(&[][..], |of| of.failed.as_slice());
        for (at, turn) in turns.iter().enumerate().filter(|_| !of.is_empty()) {
            if let Ok(found) = of.binary_search_by_key(&turn.row, |(row, _)| *row) {
                failed.extend(of.get(found).map(|(_, cause)| (at, cause.clone())));
            }
        }
        Ok(())
    }

    /// The key of the entry of a collection that a command is about, if there is one. [`Rows::find_entries`] has computed it.
    pub fn entry_key(&self, collection: usize, turn: &Turn) -> Option<&[u8]> {
        self.entries.get(collection)?.as_ref()?.keys.get(turn.row)?.as_deref()
    }
}
