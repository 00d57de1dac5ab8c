//! The window as a state machine: rows in, state changed, results out when time has passed.
//!
//! ```text
//! for each row:  its windows -> those still open at the row's own watermark -> none: late
//!                             -> an aggregate can't take it: dead letter, no trace left
//!                             -> added to all of them, held once (in the last to close)
//! when time moves past the earliest end: scan closed windows, emit, delete, release their rows, a portion at a time
//!                        the earliest pane: merge it into its groups, emit what they are so far ([`crate::panes`])
//! a result that does not fit its column: dead letter, instead of being emitted
//! a row that is gone is taken off again; a group whose rows are all gone has no result
//! ```
//!
//! Invariant (rule R6): what happens to a row depends on the row, on its own partition's watermark before it, and on the
//! state; never on how rows were cut into batches. A window is emitted once: up to where windows were closed is kept in state
//! ([`Closed`]), and rows of those are late even if their own partition lags behind or `lateness` was raised.

use std::sync::Arc;

use operator_core::{Batch, Context, Input, Millis, NO_WATERMARK, Operator, Port, Progress, StateError, Time, keys};

use crate::accumulator::Row;
use crate::bounds::Shape;
use crate::earliest::Earliest;
use crate::expiry::{next_sweep, sweep};
use crate::groups::{Groups, last_held, read_group};
use crate::layout::{Closed, Entry, range_to, read_end, read_key};
use crate::panes;
use crate::plan::WindowPlan;
use crate::results::{Budget, Results};
use crate::rows::{Fate, Rows};
use crate::spec::Emit;
use crate::updates::Updates;

/// The port of rows that came too late.
pub const LATE: Port = Port(1);
/// The cause of a dead letter.
const NEVER_CAME: &str = "more rows of the window are gone than came";

/// One window step in one partition.
#[derive(Debug)]
pub struct WindowOperator {
    plan: Arc<WindowPlan>,
    /// As in state; `None` until it was read.
    closed: Option<Closed>,
    earliest: Earliest,
    /// The same for panes.
    panes: Earliest,
    /// Where to go on with [`panes::gather`]; `None` if that is done for the state as it is.
    strays: Option<Vec<u8>>,
    /// See [`WindowOperator::held_to`]; `None` until it was read.
    held_to: Option<Millis>,
    /// Watermark from which expired groups are looked for again.
    next_sweep: Millis,
    /// Keys of state from which closing and sweeping go on; empty if they are not in the middle.
    closing: Vec<u8>,
    sweeping: Vec<u8>,
    groups: Groups,
    /// Start and end of the calendar's window that the last row was in.
    period: (Millis, Millis),
    /// Encoded group of the current row.
    group: Vec<u8>,
    /// Encoded DISTINCT value of the current row.
    value: Vec<u8>,
    /// Open windows of the current row, last first: end and slot.
    open: Vec<(Millis, usize)>,
}

/// What time brings next.
enum Next {
    /// Panes that are due at this time.
    Panes(Millis),
    /// Windows that end at this time or earlier.
    Close(Millis),
}

impl WindowOperator {
    pub fn new(plan: Arc<WindowPlan>) -> WindowOperator {
        WindowOperator {
            plan,
            closed: None,
            earliest: Earliest::Unknown,
            panes: Earliest::Unknown,
            strays: Some(Vec::new()),
            held_to: None,
            next_sweep: NO_WATERMARK,
            closing: Vec::new(),
            sweeping: Vec::new(),
            groups: Groups::default(),
            period: (0, 0),
            group: Vec::new(),
            value: Vec::new(),
            open: Vec::new(),
        }
    }

    /// The end of the last window that contains `time`. Rows of a calendar's window come one after the other.
    #[inline]
    fn last_end(&mut self, plan: &WindowPlan, time: Millis) -> Option<Millis> {
        let Shape::Calendar(calendar) = plan.windows.shape else { return plan.windows.last_end(time) };
        let (start, end) = self.period;
        if time < start || time >= end {
            self.period = calendar.window(time)?;
        }
        self.period.1.checked_add(plan.windows.lateness)?;
        Some(self.period.1)
    }

    /// Decides on one row and adds it where it belongs.
    fn add(
        &mut self,
        plan: &WindowPlan,
        rows: &Rows<'_>,
        row: Row<'_>,
        watermark: Millis,
        updates: &mut Updates<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Fate, StateError> {
        let Some(last) = self.last_end(plan, row.time) else {
            return Ok(Fate::Rejected(format!("event time {} is out of range for windows", row.time)));
        };
        if plan.windows.is_closed(last, watermark) {
            return Ok(Fate::Late);
        }
        self.group.clear();
        keys::encode(&rows.group, row.index, &mut self.group);
        if let Some(cause) = rows.refused(plan, &self.group, row.index) {
            return Ok(Fate::Rejected(cause));
        }
        // A time that is not believed makes no group older or newer than its partition's time does.
        let now = if row.future { watermark } else { row.time.max(watermark) };
        let age = if row.future { Some(watermark).filter(|time| *time != NO_WATERMARK) } else { Some(row.time) };
        self.open.clear();
        let mut end = last;
        for _ in 0..plan.windows.overlapping() {
            if plan.windows.is_closed(end, watermark) {
                break;
            }
            // No later than the window closes.
            let pane = plan.every.map(|every| panes::at(every, row.time, watermark).min(end.saturating_add(plan.windows.lateness)));
            let slot = self.groups.find(plan, (end, pane), &self.group, cx.state())?;
            let slot = self.groups.renew(plan, slot, (end, &self.group), now, cx.state())?;
            match pane {
                Some(at) => self.panes.include(at),
                None => self.earliest.include(end),
            }
            self.open.push((end, slot));
            end = plan.windows.before(end);
        }
        let by_row = plan.emit.is_by_row();
        if by_row {
            updates.before(&self.groups, &self.open, row.index, cx)?;
        }
        for (nth, (_, slot)) in self.open.iter().enumerate() {
            let holds = nth == 0 && !by_row;
            self.groups.add(plan, *slot, &rows.columns, row, holds, age);
        }
        rows.each_distinct(plan, row.index, &mut self.value, |place, value| {
            self.open.iter().try_for_each(|(_, slot)| self.groups.add_distinct(plan, *slot, (place, value), row.change, cx.state()))
        })?;
        if by_row {
            updates.after(&self.groups, &self.open, row.index, cx)?;
        }
        Ok(Fate::Added)
    }

    /// Emits, deletes and releases windows that end at `last` or earlier, as far as `budget` allows.
    fn close(
        &mut self,
        plan: &WindowPlan,
        last: Millis,
        emitted: Millis,
        budget: &mut Budget,
        cx: &mut Context<'_>,
    ) -> Result<Progress, StateError> {
        let (first, to) = range_to(last);
        let from = if self.closing.is_empty() { first } else { std::mem::take(&mut self.closing) };
        let held_to = self.held_to(plan, cx)?;
        let mut group = vec![Vec::new(); plan.group_types.len()];
        let mut results = Results::new(plan, true);
        let mut accumulators = Vec::new();
        let mut deleted: Vec<Vec<u8>> = Vec::new();
        let mut group_key: Vec<u8> = Vec::new();
        let (mut released, mut gone) = (0, 0);
        let mut read = |key: &[u8], value: &[u8]| -> Result<bool, StateError> {
            // DISTINCT values follow their group, and no group's key is the beginning of another's.
            if group_key.is_empty() || !key.starts_with(&group_key) {
                let Entry { end, is_group } = read_key(key, &plan.group_types, &mut group)?;
                if is_group {
                    group_key.clear();
                    group_key.extend_from_slice(key);
                    accumulators.clear();
                    let held = read_group(plan, value, &mut accumulators)?.held;
                    let rows = plan.rows_of(&accumulators);
                    // Updates have said it, but for rows of the time before `emit` was changed to this.
                    let is_said = plan.emit.is_by_row() && held == 0 && end >= held_to;
                    if is_said || rows == Some(0) {
                        gone += held;
                        group.iter_mut().for_each(|column| drop(column.pop()));
                    } else {
                        results.add_bytes(key.len());
                        let fits = results.push(plan, end, &accumulators, held);
                        let missing = rows.is_some_and(|rows| rows < 0) && fits;
                        results.refuse(missing.then(|| NEVER_CAME.to_string()), held);
                        released += if fits && !missing { held } else { 0 };
                    }
                }
            }
            Ok(results.bytes() >= budget.bytes)
        };
        let (mut full, mut progress) = (Ok(false), Progress::Done);
        cx.state().scan(&from, &to, &mut |key, value| {
            if deleted.len() == budget.entries || matches!(full, Ok(true)) {
                progress = Progress::More;
                return false;
            }
            full = read(key, value);
            deleted.push(key.to_vec());
            full.is_ok()
        })?;
        full?;
        budget.spend(deleted.len(), results.bytes());
        let unfit = results.emit(plan, &group, emitted, cx)?;
        unfit.into_iter().for_each(|unfit| cx.reject_held(unfit.row, unfit.cause, unfit.inputs));
        for key in &deleted {
            cx.state().delete(key)?;
        }
        cx.release(released);
        cx.filtered_held(gone);
        if let (Progress::More, Some(last)) = (progress, deleted.pop()) {
            self.closing = last;
            self.closing.push(0);
        }
        Ok(progress)
    }

    /// The last end of a window that holds rows where results come with rows, which are those of another `emit`. A row is held in the last of its
    /// windows, so earlier ones may have rows that no result has. Held rows become fewer, so nobody else needs to know it.
    fn held_to(&mut self, plan: &WindowPlan, cx: &mut Context<'_>) -> Result<Millis, StateError> {
        if !plan.emit.is_by_row() || plan.windows.overlapping() == 1 {
            return Ok(Millis::MIN);
        }
        let held_to = match self.held_to {
            Some(end) => end,
            None => panes::last_held(cx.state())?.max(last_held(cx.state(), range_to(Millis::MAX), read_end)?),
        };
        self.held_to = Some(held_to);
        Ok(held_to)
    }

    /// What is due first at `watermark`. Panes are due before windows that close at the same time, and everything in the order of
    /// time, so that results come in the same order however far time moves at once.
    fn next(&mut self, watermark: Millis, cx: &mut Context<'_>) -> Result<Option<Next>, StateError> {
        if self.earliest == Earliest::Unknown {
            self.earliest = Earliest::find(cx.state(), range_to(Millis::MAX), read_end)?;
        }
        if self.panes == Earliest::Unknown {
            self.panes = panes::find_earliest(cx.state())?;
        }
        let windows = self.plan.windows;
        let close = self.earliest.end().map(|end| end.saturating_add(windows.lateness)).filter(|close| *close <= watermark);
        Ok(match (self.panes.end().filter(|at| *at <= watermark), close) {
            (Some(at), Some(close)) if close < at => Some(Next::Close(windows.closed_to(at - 1))),
            (Some(_), close) => Some(Next::Panes(close.unwrap_or(watermark))),
            (None, Some(_)) => Some(Next::Close(windows.closed_to(watermark))),
            (None, None) => None,
        })
    }
}

impl Operator for WindowOperator {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let plan = self.plan.clone();
        let closed = Closed::of(&mut self.closed, &plan.windows, cx.state())?.judges(&plan.windows);
        let inputs = plan.inputs.evaluate(&batch.rows);
        let rows = Rows::new(&plan, batch, &inputs)?;
        let mut updates = Updates::new(&plan, &rows);
        let (added, late) = rows.decide(&plan, closed, cx, |row, watermark, cx| {
            let fate = self.add(&plan, &rows, row, watermark, &mut updates, cx)?;
            if !matches!(fate, Fate::Added) {
                updates.complete(&self.groups, cx)?;
            }
            if self.groups.is_full() && !updates.are_open() {
                self.groups.write_back(&plan, cx.state())?;
            }
            Ok(fate)
        })?;
        self.groups.write_back(&plan, cx.state())?;
        match plan.emit {
            Emit::OnClose | Emit::Every(_) => cx.hold(added),
            Emit::OnUpdate | Emit::Changes => {
                updates.emit(cx)?;
                cx.pass(Port::OUT, arrow::array::RecordBatch::new_empty(plan.schema.clone()), added - updates.rejected());
            }
        }
        if !late.is_empty() {
            cx.late(LATE, rows.only(&late)?);
        }
        Ok(())
    }

    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        if let Some(expire) = self.plan.expire
            && time.watermark >= self.next_sweep
        {
            if sweep(&self.plan, expire, time, &mut self.sweeping, cx.state())? == Progress::More {
                return Ok(Progress::More);
            }
            self.next_sweep = next_sweep(time.watermark, expire);
        }
        let plan = self.plan.clone();
        let mut budget = Budget::new(time.budget);
        if let Some(from) = &mut self.strays
            && panes::gather(&plan, from, &mut budget, &mut self.earliest, cx)? == Progress::More
        {
            return Ok(Progress::More);
        }
        self.strays = None;
        while let Some(next) = self.next(time.watermark, cx)? {
            if budget.is_spent() {
                return Ok(Progress::More);
            }
            match next {
                Next::Panes(last) => {
                    panes::merge(&plan, last, time.emitted, &mut budget, &mut self.earliest, cx)?;
                    self.panes = Earliest::Unknown;
                }
                Next::Close(last) => {
                    // Before the first portion: rows can come between two of them.
                    let closed = Closed::of(&mut self.closed, &plan.windows, cx.state())?;
                    closed.advance(time.watermark, &plan.windows, cx.state())?;
                    if self.close(&plan, last, time.emitted, &mut budget, cx)? == Progress::More {
                        return Ok(Progress::More);
                    }
                    self.earliest = Earliest::Unknown;
                }
            }
        }
        Ok(Progress::Done)
    }

    fn on_restore(&mut self) {
        self.closed = None;
        self.earliest = Earliest::Unknown;
        self.panes = Earliest::Unknown;
        self.strays = Some(Vec::new());
        self.held_to = None;
        self.next_sweep = NO_WATERMARK;
        self.closing.clear();
        self.sweeping.clear();
        self.groups.clear();
    }
}
