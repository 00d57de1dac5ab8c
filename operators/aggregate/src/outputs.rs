//! What a batch leads to, on its way to the ports.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch};
use operator_core::batch::{SystemRow, system_columns};
use operator_core::changes::{ADDED, GONE};
use operator_core::{Context, Millis, Port, StateError};
use operator_event::{Causes, EventRows, Head, Uuid};

use crate::cells::{Cell, gather};
use crate::decided::{Piece, To};
use crate::plan::{AggregatePlan, state_schema};
use crate::rows::Turn;

const REJECTED: Port = Port(1);
const REPLIES: Port = Port(2);
const VIOLATIONS: Port = Port(3);
const STATE: Port = Port(4);

/// The rows of all ports.
pub struct Outputs<'p> {
    plan: &'p AggregatePlan,
    emitted: EventRows<'p>,
    rejected: EventRows<'p>,
    replies: EventRows<'p>,
    violations: EventRows<'p>,
    /// `None`: nothing reads them.
    changes: Option<Vec<Change>>,
    /// Rows of the batch that lead to nothing, each with why.
    pub refused: Vec<(usize, String)>,
}

/// A change of the state of an aggregate.
struct Change {
    /// Changes come out in the order of their places.
    place: usize,
    /// Where the columns of its key are.
    keys: usize,
    before: Option<(Cell, Millis)>,
    after: Cell,
    system: SystemRow,
}

impl<'p> Outputs<'p> {
    /// `causes`: what leads to the events.
    pub fn new(plan: &'p AggregatePlan, causes: &Causes, cx: &Context<'_>) -> Outputs<'p> {
        let rows = |events| {
            let mut rows = EventRows::new(events);
            rows.causes(causes.clone());
            rows
        };
        Outputs {
            plan,
            emitted: rows(&plan.emitted),
            rejected: rows(&plan.rejected),
            replies: rows(&plan.replies),
            violations: rows(&plan.rejected),
            changes: cx.is_read(STATE).then(Vec::new),
            refused: Vec::new(),
        }
    }

    /// Adds events of one kind. `system`: the system columns of the row that led to one.
    ///
    /// # Errors
    /// They have not the columns of their kind: a bug.
    pub fn add(&mut self, piece: &Piece, system: impl Fn(usize) -> SystemRow) -> Result<(), StateError> {
        let events = piece.turns.iter().zip(&piece.times).zip(piece.ids.iter().zip(&piece.sequences)).enumerate();
        let head = |(at, ((turn, time), (id, sequence))): (usize, ((&Turn, &Millis), (&Uuid, &i64)))| {
            // In the order of commands, and of the events of each.
            let place = ((turn.row as u64) << 32) + piece.number as u64;
            let system = SystemRow { time: *time, ..system(turn.row) };
            (Head { place, id: *id, cause: turn.row, sequence: Some(*sequence), system }, at)
        };
        let heads: Vec<(Head, usize)> = events.map(head).collect();
        let rejection = piece.kind.saturating_sub(self.plan.events.len());
        match piece.to {
            To::Emitted => self.emitted.push(piece.kind, piece.columns.clone(), heads),
            To::Replies => self.replies.push(piece.kind, piece.columns.clone(), heads),
            To::Rejected => self.rejected.push(rejection, piece.columns.clone(), heads),
            To::Violated => {
                self.rejected.push(rejection, piece.columns.clone(), heads.iter().copied())?;
                self.violations.push(rejection, piece.columns.clone(), heads)
            }
        }
    }

    /// Whether something reads changes of state.
    pub fn has_changes(&self) -> bool {
        self.changes.is_some()
    }

    /// Adds a change of state. `row`: which row led to it; `before`: the state before with its time, if there was one.
    pub fn change(&mut self, row: usize, before: Option<(Cell, Millis)>, after: Cell, system: SystemRow) {
        if let Some(changes) = &mut self.changes {
            changes.push(Change { place: row, keys: row, before, after, system });
        }
    }

    /// The rejections.
    ///
    /// # Errors
    /// They can't be put together: a bug.
    pub fn rejected(self) -> Result<RecordBatch, StateError> {
        self.rejected.finish()
    }

    /// Emits everything. `keys`: the columns of the key, by the rows that changes name.
    ///
    /// # Errors
    /// The rows can't be put together: a bug.
    pub fn emit(self, keys: &[ArrayRef], cx: &mut Context<'_>) -> Result<(), StateError> {
        let Outputs { plan, emitted, rejected, replies, violations, changes, .. } = self;
        for (port, rows) in [(Port::OUT, emitted), (REJECTED, rejected), (REPLIES, replies), (VIOLATIONS, violations)] {
            if !rows.is_empty() {
                cx.emit(port, rows.finish()?);
            }
        }
        if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
            cx.emit(STATE, changed(plan, changes, keys)?);
        }
        Ok(())
    }
}

/// Rows that go and rows that come: those of a change next to each other.
fn changed(plan: &AggregatePlan, mut changes: Vec<Change>, keys: &[ArrayRef]) -> Result<RecordBatch, StateError> {
    let broken = |e: arrow::error::ArrowError| StateError::new(format!("changes of the state can't be put together: {e}"));
    changes.sort_by_key(|change| change.place);
    let (mut cells, mut rows, mut signs, mut system): (Vec<&Cell>, Vec<u32>, Vec<i8>, Vec<SystemRow>) = Default::default();
    for change in &changes {
        let before = change.before.iter().map(|(cell, time)| (cell, *time, GONE));
        for (cell, time, sign) in before.chain([(&change.after, change.system.time, ADDED)]) {
            cells.push(cell);
            rows.push(change.keys as u32);
            signs.push(sign);
            system.push(SystemRow { time, ..change.system });
        }
    }
    let states = gather(cells.into_iter())?;
    let rows = arrow::array::UInt32Array::from(rows);
    let keys = keys.iter().map(|column| arrow::compute::take(column.as_ref(), &rows, None).map_err(broken));
    let mut columns = keys.collect::<Result<Vec<ArrayRef>, _>>()?;
    columns.push(Arc::new(plan.state.versions(&states)?));
    columns.extend(plan.state.columns(&states)?.iter().cloned());
    columns.extend(system_columns(system.iter()));
    columns.push(Arc::new(Int8Array::from(signs)));
    RecordBatch::try_new(state_schema(plan), columns).map_err(broken)
}
