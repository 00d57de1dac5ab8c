//! How a step gets its time: it releases what the watermark is past.
//!
//! A step that has more to do than the budget of a round allows continues in the next one. Until it is done, neither it nor the steps
//! after it see a newer watermark.

use operator_core::{Ledger, Millis, NO_WATERMARK, Progress, Time};

use super::{Leaving, Round, Task, TaskError, checks};
use crate::merge::BY_TIME;
use crate::state::Store;

impl Task {
    /// Gives a step the time of its inputs; true if it acted. A step that is not done with a watermark continues with it first.
    pub(super) fn time(&mut self, index: usize, inputs: &[Millis], round: Round<'_>, leaving: &mut Leaving) -> Result<bool, TaskError> {
        let newest = self.input_watermark(index, inputs);
        let mut acted = false;
        while let Some(node) = self.nodes.get(index) {
            let watermark = node.releasing.unwrap_or(newest);
            if watermark <= node.seen {
                break;
            }
            let continued = node.releasing.is_some();
            let time = Time { watermark, emitted: node.passed_on, wall: round.wall, budget: round.budget };
            let origin = self.made_by(index);
            let call = self.call(index, round, (BY_TIME, &origin), leaving, |operator, cx| operator.on_time(time, cx))?;
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
}

fn later(watermark: Millis, delay: Millis) -> Millis {
    if watermark == NO_WATERMARK { watermark } else { watermark.saturating_sub(delay) }
}
