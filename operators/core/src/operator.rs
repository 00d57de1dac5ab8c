//! What an operator does and what it may do to the world.

use arrow::array::RecordBatch;

use crate::batch::{Batch, Millis, NO_WATERMARK};
use crate::state::{State, StateError};
use crate::table::Tables;
use crate::timers::{StepTimers, Timer, Timers};

/// An output of a step, by its place in [`Planned::outputs`](crate::Planned). Port 0 is the main output (`step`), the
/// others are read as `step.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

impl Port {
    /// The main output.
    pub const OUT: Port = Port(0);
}

/// An input of a step, by its place in [`Spec::INPUTS`](crate::Spec::INPUTS). A step without named inputs has input 0 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Input(pub u16);

impl Input {
    /// The only input of a step that names none.
    pub const ONLY: Input = Input(0);
}

/// Time as one step sees it. Never moves backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// No row with an earlier event time is to be expected any more from any input, up to lateness.
    pub watermark: Millis,
    /// The watermark that the steps after this one have seen so far: rows emitted now come before the new one.
    pub emitted: Millis,
    /// Wall clock of the worker (virtual in tests). For timers that must fire in real time, never for lateness.
    pub wall: Millis,
    /// Entries of state that one call may release or drop, at least 1. What is left is for the next call ([`Progress::More`]).
    pub budget: usize,
}

impl Default for Time {
    fn default() -> Time {
        Time { watermark: NO_WATERMARK, emitted: NO_WATERMARK, wall: 0, budget: usize::MAX }
    }
}

/// How far an operator has come with a new time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything that the time brings about has happened.
    Done,
    /// The budget is used up. The engine may commit, and then calls again.
    More,
}

/// A deterministic state machine over batches. See the crate documentation for the loop that drives it.
pub trait Operator: Send {
    /// Takes the rows of one batch of an input. Must account for every row once (see [`Ledger`]).
    fn on_batch(&mut self, input: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError>;

    /// Called after the batches of a round when time moved, and again with the same watermark while it returns
    /// [`Progress::More`] and after a restore. Steps downstream see the watermark once it returns [`Progress::Done`].
    ///
    /// How far it has come must be evident from the state: between two calls there can be batches (whose rows have this
    /// watermark or a later one), a commit, or a restore.
    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let _ = (time, cx);
        Ok(Progress::Done)
    }

    /// Called for each timer that the step has set ([`Context::timers`]), once its time has come: before `on_time` for a watermark that
    /// reached it, or when the worker's clock did. The timer is gone from state by then. `time` is that of the call, which may be later
    /// than the timer's; results must not depend on how much, but for `_watermark`, which is [`Time::emitted`] of the call.
    fn on_timer(&mut self, timer: &Timer, time: Time, cx: &mut Context<'_>) -> Result<(), StateError> {
        let _ = (time, cx);
        Err(StateError::new(format!("a timer of {:?} time {} is due, but the step handles none", timer.kind, timer.time)))
    }

    /// State was replaced under the operator (restore, rewind): forget whatever was cached from it.
    fn on_restore(&mut self) {}
}

/// Where the rows of a step's input went (rule R3). For every `on_batch`:
/// rows in = passed + filtered + late + rejected + held; `on_time` and `on_timer` move rows from held to passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Input rows that went on (as one row, several after an unnest, or as part of an emitted aggregate).
    pub passed: u64,
    pub filtered: u64,
    pub late: u64,
    pub rejected: u64,
    /// Rows kept in state: net change, negative when a closed window releases its rows.
    pub held: i64,
}

impl Ledger {
    /// Input rows accounted for.
    pub fn accounted(&self) -> i64 {
        (self.passed + self.filtered + self.late + self.rejected) as i64 + self.held
    }

    pub fn add(&mut self, other: &Ledger) {
        self.passed += other.passed;
        self.filtered += other.filtered;
        self.late += other.late;
        self.rejected += other.rejected;
        self.held += other.held;
    }
}

/// Rows emitted by an operator on one of its ports, with their system columns.
#[derive(Debug)]
pub struct Emitted {
    pub port: Port,
    pub rows: RecordBatch,
}

/// A row that an operator refused, to be dead-lettered.
#[derive(Debug)]
pub struct Rejected {
    /// The configuration asks for this (`missing: dead_letter`): it is not a failure that `on_error` decides about.
    pub by_config: bool,
    /// The one row, with its system columns.
    pub row: RecordBatch,
    pub cause: String,
    /// Input rows that this one stands for in the ledger: 1 for a row of the input; for a result (of a window), the rows
    /// that are in no other result.
    pub inputs: u64,
}

/// An operator's only way to act.
pub struct Context<'a> {
    emitted: &'a mut Vec<Emitted>,
    rejected: &'a mut Vec<Rejected>,
    ledger: &'a mut Ledger,
    state: &'a mut dyn State,
    tables: &'a dyn Tables,
    timers: Option<&'a mut Timers>,
    /// Wall clock.
    now: Millis,
    unread: &'a [Port],
}

impl<'a> Context<'a> {
    /// For a step without timers.
    pub fn new(
        emitted: &'a mut Vec<Emitted>,
        rejected: &'a mut Vec<Rejected>,
        ledger: &'a mut Ledger,
        state: &'a mut dyn State,
        tables: &'a dyn Tables,
    ) -> Context<'a> {
        Context { emitted, rejected, ledger, state, tables, timers: None, now: 0, unread: &[] }
    }

    /// Gives the step its timers, if its layout has any. `now`: what the worker's clock shows.
    pub fn with_timers(self, timers: Option<&'a mut Timers>, now: Millis) -> Context<'a> {
        Context { timers, now, ..self }
    }

    /// Says which ports nothing reads.
    pub fn with_unread(self, unread: &'a [Port]) -> Context<'a> {
        Context { unread, ..self }
    }

    /// Whether anything reads the port. Rows of one that is not read are counted and dropped, so a step need not make them.
    pub fn is_read(&self, port: Port) -> bool {
        !self.unread.contains(&port)
    }

    /// Emits `rows` (user columns, then system columns) that stand for `inputs` rows of the input: equal to the row
    /// count after a projection, smaller after an unnest. Empty batches are not passed on, but still counted.
    pub fn pass(&mut self, port: Port, rows: RecordBatch, inputs: usize) {
        self.ledger.passed += inputs as u64;
        self.emit(port, rows);
    }

    /// Emits rows that are not accounted for by themselves: results of held rows, copies on a second route.
    pub fn emit(&mut self, port: Port, rows: RecordBatch) {
        if rows.num_rows() > 0 {
            self.emitted.push(Emitted { port, rows });
        }
    }

    /// Counts rows that a condition left out.
    pub fn filtered(&mut self, rows: usize) {
        self.ledger.filtered += rows as u64;
    }

    /// Counts and emits rows that came after everything they belong to was closed.
    pub fn late(&mut self, port: Port, rows: RecordBatch) {
        self.ledger.late += rows.num_rows() as u64;
        self.emit(port, rows);
    }

    /// Counts rows now held in state.
    pub fn hold(&mut self, rows: usize) {
        self.ledger.held += rows as i64;
    }

    /// Counts rows that leave the state as part of an emitted result.
    pub fn release(&mut self, rows: u64) {
        self.ledger.held -= rows as i64;
        self.ledger.passed += rows;
    }

    /// Counts rows that leave the state and go no further, because a condition left them out.
    pub fn filtered_held(&mut self, rows: u64) {
        self.ledger.held -= rows as i64;
        self.ledger.filtered += rows;
    }

    /// Sends row `row` of `batch` to the dead letters with its cause, in the epoch's transaction.
    pub fn reject(&mut self, batch: &Batch, row: usize, cause: impl Into<String>) {
        self.reject_result(batch.rows.slice(row, 1), cause, 1);
    }

    /// Sends a result that can't be emitted to the dead letters. `inputs`: input rows that nothing else accounts for.
    pub fn reject_result(&mut self, result: RecordBatch, cause: impl Into<String>, inputs: u64) {
        self.ledger.rejected += inputs;
        self.rejected.push(Rejected { by_config: false, row: result, cause: cause.into(), inputs });
    }

    /// The same for a result of rows that are held in state.
    pub fn reject_held(&mut self, result: RecordBatch, cause: impl Into<String>, inputs: u64) {
        self.ledger.held -= inputs as i64;
        self.reject_result(result, cause, inputs);
    }

    /// The same, because the configuration asks for it.
    pub fn dead_letter(&mut self, batch: &Batch, row: usize, cause: impl Into<String>) {
        self.reject(batch, row, cause);
        if let Some(rejected) = self.rejected.last_mut() {
            rejected.by_config = true;
        }
    }

    /// The step's keyed state in this partition.
    pub fn state(&mut self) -> &mut dyn State {
        self.state
    }

    /// The step's timers in this partition: a part of its state, which its layout must name
    /// ([`StateLayout::timers`](crate::StateLayout::timers)).
    pub fn timers(&mut self) -> StepTimers<'_> {
        StepTimers { timers: self.timers.as_deref_mut(), state: &mut *self.state, now: self.now }
    }

    /// The tables of the pipeline, loaded before the first record.
    pub fn tables(&self) -> &'a dyn Tables {
        self.tables
    }
}
