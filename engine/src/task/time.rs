//! How a step gets its time: its timers that are due fire, then it releases what the watermark is past.
//!
//! A step that has more to do than the budget of a round allows continues in the next one. Until it is done, neither it nor the steps
//! after it see a newer watermark.

use operator_core::{Ledger, Millis, NO_WATERMARK, Progress, Time};

use super::{Node, Round, StageOutput, Task, TaskError, checks};
use crate::state::Store;
use crate::task::merge::BY_TIME;

impl Task {
    /// Gives a step the watermark of its inputs and the wall clock; true if it acted. A watermark that it is not done with comes first,
    /// and before each one the timers that it reaches.
    pub(super) fn time(&mut self, index: usize, inputs: &[Millis], round: Round<'_>, out: &mut StageOutput) -> Result<bool, TaskError> {
        let newest = self.input_watermark(index, inputs);
        let (mut acted, mut timers) = (false, round.budget);
        while let Some(node) = self.nodes.get(index) {
            let watermark = node.releasing.unwrap_or(newest).max(node.seen);
            acted |= self.fire(index, watermark, &mut timers, round, out)?;
            let Some(node) = self.nodes.get(index) else { break };
            if node.firing || watermark <= node.seen {
                break;
            }
            let continued = node.releasing.is_some();
            let time = Time { watermark, emitted: node.passed_on, wall: round.wall, budget: round.budget };
            let origin = self.made_by(index);
            let call = self.call(index, round, (BY_TIME, &origin), out, |operator, cx| operator.on_time(time, cx))?;
            let (ledger, emitted, progress) = call;
            checks::moves_held_rows(&ledger).map_err(|wrong| self.broken(index, wrong))?;
            let Some(node) = self.nodes.get_mut(index) else { break };
            acted |= emitted || continued || ledger != Ledger::default() || node.store.as_ref().is_some_and(Store::is_dirty);
            match progress {
                Progress::Done => {
                    (node.seen, node.releasing) = (watermark, None);
                    node.passed_on = node.passed_on.max(later(watermark, node.delay));
                }
                Progress::More => {
                    node.releasing = Some(watermark);
                    break;
                }
            }
        }
        Ok(acted)
    }

    /// Fires the timers of a step that are due, as many as are `left`; true if there was one. Each is removed before its call: the step
    /// may set it again. Those of the wall clock do not overtake what is yet to be read.
    fn fire(
        &mut self,
        index: usize,
        watermark: Millis,
        left: &mut usize,
        round: Round<'_>,
        out: &mut StageOutput,
    ) -> Result<bool, TaskError> {
        let (mut fired, clock) = (false, round.wall.min(round.reached));
        while let Some(Node { timers: Some(timers), store: Some(store), firing, passed_on, .. }) = self.nodes.get_mut(index) {
            let time = Time { watermark, emitted: *passed_on, wall: round.wall, budget: *left };
            let due = if *left > 0 { timers.take(watermark, clock, store) } else { Ok(None) };
            let due = due.and_then(|due| {
                *firing = due.is_none() && timers.is_due(watermark, clock, store)?;
                Ok(due)
            });
            let Some(timer) = due.map_err(|e| self.unreadable(index, &e))? else { break };
            let origin = self.made_by(index);
            let call = self.call(index, round, (BY_TIME, &origin), out, |operator, cx| operator.on_timer(&timer, time, cx))?;
            checks::moves_held_rows(&call.0).map_err(|wrong| self.broken(index, wrong))?;
            *left -= 1;
            fired = true;
        }
        Ok(fired)
    }

    /// The time of the first timer of the wall clock.
    ///
    /// # Errors
    /// State can't be read.
    pub fn next_wake(&mut self) -> Result<Option<Millis>, TaskError> {
        let mut first: Option<Millis> = None;
        for index in 0..self.nodes.len() {
            let Some(Node { timers: Some(timers), store: Some(store), .. }) = self.nodes.get_mut(index) else { continue };
            let next = timers.first_of_wall(store).map_err(|e| self.unreadable(index, &e))?;
            first = first.into_iter().chain(next).min();
        }
        Ok(first)
    }
}

fn later(watermark: Millis, delay: Millis) -> Millis {
    if watermark == NO_WATERMARK { watermark } else { watermark.saturating_sub(delay) }
}
