//! The window step with sessions as a state machine.

use std::sync::Arc;

use operator_core::{Batch, Context, Input, Millis, Operator, Progress, StateError, Time, keys};

use super::close::{close, find_earliest};
use super::open::Sessions;
use crate::accumulator::Row;
use crate::earliest::Earliest;
use crate::layout::Closed;
use crate::operator::LATE;
use crate::plan::WindowPlan;
use crate::rows::{Fate, Rows};

/// One window step with sessions in one partition.
#[derive(Debug)]
pub struct SessionOperator {
    plan: Arc<WindowPlan>,
    gap: Millis,
    /// As in state; `None` until it was read.
    closed: Option<Closed>,
    /// When to look after the first session in state.
    earliest: Earliest,
    sessions: Sessions,
    /// Encoded group and DISTINCT value of the current row.
    group: Vec<u8>,
    value: Vec<u8>,
}

impl SessionOperator {
    pub fn new(plan: Arc<WindowPlan>, gap: Millis) -> SessionOperator {
        SessionOperator {
            plan,
            gap,
            closed: None,
            earliest: Earliest::Unknown,
            sessions: Sessions::default(),
            group: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Decides on one row and adds it to its session.
    fn add(
        &mut self,
        plan: &WindowPlan,
        rows: &Rows<'_>,
        row: Row<'_>,
        watermark: Millis,
        cx: &mut Context<'_>,
    ) -> Result<Fate, StateError> {
        let Some(end) = plan.windows.last_end(row.time) else {
            return Ok(Fate::Rejected(format!("event time {} is out of range for windows", row.time)));
        };
        if plan.windows.is_late(row.time, watermark) {
            return Ok(Fate::Late);
        }
        self.group.clear();
        keys::encode(&rows.group, row.index, &mut self.group);
        if let Some(cause) = rows.refused(plan, &self.group, row.index) {
            return Ok(Fate::Rejected(cause));
        }
        let Some(slot) = self.sessions.at(plan, &self.group, row.time, self.gap, cx.state())? else {
            return Ok(Fate::Rejected("the group has too many sessions that are not over".to_string()));
        };
        self.sessions.add(plan, slot, &rows.columns, row);
        rows.each_distinct(plan, row.index, &mut self.value, |place, value| {
            self.sessions.add_distinct(plan, slot, place, value, cx.state())
        })?;
        self.earliest.include(end);
        Ok(Fate::Added)
    }
}

impl Operator for SessionOperator {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let plan = self.plan.clone();
        let closed = Closed::of(&mut self.closed, &plan.windows, cx.state())?.judges(&plan.windows);
        let inputs = plan.inputs.evaluate(&batch.rows);
        let rows = Rows::new(&plan, batch, &inputs)?;
        let (added, late) = rows.decide(&plan, closed, cx, |row, watermark, cx| {
            let fate = self.add(&plan, &rows, row, watermark, cx)?;
            if self.sessions.is_full() {
                self.sessions.write_back(&plan, self.gap, cx.state())?;
            }
            Ok(fate)
        })?;
        self.sessions.write_back(&plan, self.gap, cx.state())?;
        cx.hold(added);
        if !late.is_empty() {
            cx.late(LATE, rows.only(&late)?);
        }
        Ok(())
    }

    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let last = self.plan.windows.closed_to(time.watermark);
        if self.earliest == Earliest::Unknown {
            self.earliest = find_earliest(cx.state())?;
        }
        if !self.earliest.is_due(last) {
            return Ok(Progress::Done);
        }
        // Before the first portion: rows can come between two of them.
        let windows = self.plan.windows;
        Closed::of(&mut self.closed, &windows, cx.state())?.advance(time.watermark, &windows, cx.state())?;
        let progress = close(&self.plan, self.gap, last, time, cx)?;
        if progress == Progress::Done {
            self.earliest = Earliest::Unknown;
        }
        Ok(progress)
    }

    fn on_restore(&mut self) {
        self.closed = None;
        self.earliest = Earliest::Unknown;
        self.sessions.clear();
    }
}
