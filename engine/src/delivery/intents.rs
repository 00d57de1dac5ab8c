//! Intents of a delivery: committed before an insert, decided on after a restart, replaced by a clean position in the end.

use operator_core::Millis;

use super::block::Range;
use super::decide::{Action, decide};
use super::lane::{Delivery, PACE};
use super::work::{Doing, For, Next};
use super::{DeliveryError, Stop};
use crate::broker::{Committed, Failure};
use crate::failpoint::failpoint;

impl Delivery {
    pub(super) fn record(&mut self, number: i32) -> Result<Next, DeliveryError> {
        let wall = self.clock.wall();
        let Some(pinned) = self.pinned(number) else { return Ok(Next::Done) };
        if !pinned.doubt {
            // No attempt was made yet, so the token's age begins now.
            pinned.intent.created = wall;
        }
        let position = pinned.position();
        let next = self.commit(number, position, Doing::Record)?;
        if let (Next::Done, Some(pinned)) = (&next, self.pinned(number)) {
            failpoint("delivery-intent");
            pinned.recorded = true;
        }
        Ok(next)
    }

    pub(super) fn clean(&mut self, number: i32) -> Result<Next, DeliveryError> {
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(Next::Done) };
        if partition.is_idle() {
            partition.done = partition.done.max(partition.buffer.next());
        }
        let position = partition.clean();
        let next = self.commit(number, position, Doing::Clean);
        failpoint("delivery-committed");
        next
    }

    /// Commits a position of a partition. [`Next::Done`]: it is stored, or everything was given up.
    pub(super) fn commit(&mut self, number: i32, position: Committed, again: Doing) -> Result<Next, DeliveryError> {
        let Some(partition) = self.partitions.get(&number) else { return Ok(Next::Done) };
        let tp = partition.tp.clone();
        let begun = self.clock.monotonic();
        if !self.member.consumer.membership().is_fencing() {
            self.start_over("the group has not confirmed this member");
            return Ok(Next::Done);
        }
        match self.member.consumer.commit(&[(tp, position)]) {
            Ok(()) => {
                self.confirmed = Some(begun);
                if let Some(partition) = self.partitions.get_mut(&number) {
                    partition.stored_at = begun;
                    if partition.pinned.is_none() {
                        self.counters.settled();
                    }
                }
                Ok(Next::Done)
            }
            Err(error) if error.failure == Failure::Fenced => {
                self.start_over(&error.message);
                Ok(Next::Done)
            }
            Err(error) => self.counters.tolerate(error).map(|()| Next::Pause(again)),
        }
    }

    pub(super) fn decide(&mut self, number: i32) -> Result<Next, DeliveryError> {
        let (now, wall, window) = (self.clock.monotonic(), self.clock.wall(), self.safe_window());
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(Next::Done) };
        let Some(pinned) = &mut partition.pinned else { return Ok(Next::Done) };
        let facts = pinned.facts(window, self.target.as_ref(), wall);
        match decide(&pinned.stored(), &facts) {
            Action::Insert if self.paced > now => Ok(Next::At(self.paced, Doing::Decide)),
            Action::Insert => {
                let fresh = self.confirmed.is_some_and(|at| now - at < self.settings.session_timeout / 2);
                if !fresh || !pinned.recorded {
                    return Ok(Next::Then(Doing::Record));
                }
                let Some(block) = pinned.block(&self.settings, number) else { return Ok(Next::Done) };
                pinned.attempts += 1;
                pinned.table = None;
                if pinned.attempts > 1 {
                    self.counters.retried();
                }
                self.paced = now.saturating_add(PACE);
                self.target.start(&block);
                failpoint("delivery-inserting");
                Ok(Next::Then(Doing::Wait(For::Insert)))
            }
            Action::Ask if pinned.quiet_at > now => {
                let at = pinned.quiet_at;
                Ok(self.count_at(number, at, Doing::Decide))
            }
            Action::Ask => match self.range(number) {
                Some(range) => {
                    self.target.ask(&range);
                    Ok(Next::Then(Doing::Wait(For::Doubt)))
                }
                None => Ok(Next::Done),
            },
            Action::Skip => {
                self.counters.found(facts.part_rows);
                self.settle(number)
            }
            Action::Stop(stop) => Err(DeliveryError::Stopped { partition: partition.tp.clone(), stop }),
            Action::Read { .. } | Action::Rebuild { .. } => {
                let stop = Stop::Beyond { at: pinned.intent.last, high: pinned.intent.first };
                Err(DeliveryError::Stopped { partition: partition.tp.clone(), stop })
            }
        }
    }

    /// Waits until an earlier insert can no longer happen: its rows are counted then, not before. That takes longer than a minute,
    /// so it is shown as what holds the sink up.
    pub(super) fn count_at(&mut self, number: i32, at: Millis, doing: Doing) -> Next {
        let left = at.saturating_sub(self.clock.monotonic());
        if left > 0 {
            let seconds = (left + 999) / 1_000;
            let cause = format!("waits {seconds} s before it counts the rows of an unfinished insert, which may still happen until then");
            tracing::info!(topic = %self.settings.topic, partition = number, %cause, "rows wait in the outbox topic");
            self.counters.failed(cause);
        }
        Next::At(at, doing)
    }

    pub(super) fn range(&self, number: i32) -> Option<Range> {
        self.partitions.get(&number)?.pinned.as_ref()?.block(&self.settings, number)?.range()
    }
}
