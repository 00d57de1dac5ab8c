//! `aggregate` as a state machine.
//!
//! ```text
//! on_batch   the aggregates of the batch are read; of those commands that are the next ones of their aggregates, all of a kind at
//!            once: repeats are answered, the others decided; what changed is written, and timers are set
//! on_time    ids of commands that are old enough are removed
//! on_timer   its event happens
//! ```
//!
//! Invariant: what a command leads to follows from the state of its aggregate before it, and from nothing else in the batch: commands that
//! are decided together are for different aggregates, and one that can't be decided is taken out before the others are decided again.

use std::sync::Arc;

use operator_core::{Batch, Context, Input, Operator, Port, Progress, StateError, Time, Timer};

use crate::cells::Cell;
use crate::decide::World;
use crate::decided::{Decided, Refused};
use crate::outcomes::Outcomes;
use crate::outputs::Outputs;
use crate::plan::AggregatePlan;
use crate::rows::{LastRecord, Rows, Turn};
use crate::subjects::Subjects;

/// One `aggregate` step in one partition.
pub struct Aggregating {
    pub(crate) plan: Arc<AggregatePlan>,
    pub(crate) outcomes: Option<Outcomes>,
    last_record: LastRecord,
}

impl Aggregating {
    pub fn new(plan: Arc<AggregatePlan>) -> Aggregating {
        let outcomes = plan.outcomes.clone();
        Aggregating { plan, outcomes, last_record: LastRecord::default() }
    }

    /// Decides commands of one kind, each of another aggregate; those that can't be computed are refused.
    fn decide(
        &mut self,
        command: Option<usize>,
        mut turns: Vec<Turn>,
        (rows, subjects): (&mut Rows<'_>, &mut Subjects),
        outputs: &mut Outputs<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        let plan = self.plan.clone();
        while !turns.is_empty() {
            let mut world =
                World { plan: &plan, rows: &mut *rows, subjects: &mut *subjects, state: &*cx.state(), steps: outputs.has_changes() };
            let wrong = match world.decide(command, &turns)? {
                Ok(decided) => {
                    self.take(decided, (rows, subjects), outputs, cx)?;
                    break;
                }
                Err(wrong) if wrong.is_empty() => return Err(StateError::new("commands were refused for no reason: this is a bug")),
                Err(mut wrong) => {
                    // Several expressions can fail for one command.
                    wrong.sort_by_key(|(at, _)| *at);
                    wrong.dedup_by_key(|(at, _)| *at);
                    wrong
                }
            };
            for (at, why) in &wrong {
                let Some(turn) = turns.get(*at).copied() else { continue };
                match why {
                    Refused::Failed(cause) => outputs.refused.push((turn.row, cause.clone())),
                    Refused::Violates(invariant) => {
                        let mut world =
                            World { plan: &plan, rows: &mut *rows, subjects: &mut *subjects, state: &*cx.state(), steps: false };
                        let decided = world.violated(command.unwrap_or_default(), *invariant, turn)?;
                        self.take(decided, (rows, subjects), outputs, cx)?;
                    }
                }
            }
            let mut at = 0;
            turns.retain(|_| {
                at += 1;
                wrong.binary_search_by_key(&(at - 1), |(known, _)| *known).is_err()
            });
        }
        Ok(())
    }

    /// What was decided is so from now on.
    fn take(
        &mut self,
        decided: Decided,
        (rows, subjects): (&Rows<'_>, &mut Subjects),
        outputs: &mut Outputs<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        let system = |row: usize| rows.system.row(row);
        for step in decided.steps {
            let since = match step.number {
                0 => subjects.list.get(step.turn.place).map_or(0, |subject| subject.time),
                _ => system(step.turn.row).time,
            };
            let before = before(&self.plan, since, step.before);
            outputs.change(step.turn.row, before, step.after, system(step.turn.row));
        }
        for (hand, turns) in decided.hands {
            hand.keep(subjects, |at| turns.get(at).map_or(0, |turn| system(turn.row).time));
        }
        for piece in &decided.pieces {
            outputs.add(piece, system)?;
        }
        self.remember(&decided.pieces, (rows, subjects), cx)
    }
}

/// The state before an event, if the aggregate had one, with its time.
pub fn before(plan: &AggregatePlan, time: i64, cell: Cell) -> Option<(Cell, i64)> {
    let first = Arc::ptr_eq(&cell.rows, &plan.state.first);
    (!first).then_some((cell, time))
}

impl Operator for Aggregating {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let plan = self.plan.clone();
        let mut rows = Rows::new(&plan, batch, &mut self.last_record)?;
        let mut subjects = Subjects::timed(&plan);
        let mut outputs = Outputs::new(&plan, &rows.causes, cx);
        let mut waiting = rows.waiting(&plan, &mut subjects, &mut outputs);
        subjects.load(&*cx.state())?;
        while let Some((command, turns)) = waiting.next() {
            let turns = self.answer_repeats(turns, (&rows, &subjects), &mut outputs, cx)?;
            self.decide(command, turns, (&mut rows, &mut subjects), &mut outputs, cx)?;
        }
        subjects.save(cx.state())?;
        self.set_timers(&subjects, cx)?;
        let passed = batch.num_rows().saturating_sub(outputs.refused.len());
        cx.pass(Port::OUT, arrow::array::RecordBatch::new_empty(plan.emitted.schema().clone()), passed);
        // In the order in which they came, whatever was decided first.
        outputs.refused.sort_by_key(|(row, _)| *row);
        outputs.refused.drain(..).for_each(|(row, cause)| cx.reject(batch, row, cause));
        outputs.emit(&rows.keys, cx)
    }

    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let Some(outcomes) = &mut self.outcomes else { return Ok(Progress::Done) };
        let more = outcomes.expire(time.watermark, time.budget, cx.state())?;
        Ok(if more { Progress::More } else { Progress::Done })
    }

    fn on_timer(&mut self, timer: &Timer, time: Time, cx: &mut Context<'_>) -> Result<(), StateError> {
        self.fire(timer, time, cx)
    }

    fn on_restore(&mut self) {
        if let Some(outcomes) = &mut self.outcomes {
            outcomes.forget();
        }
        self.last_record = LastRecord::default();
    }
}
