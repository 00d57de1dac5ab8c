//! Refused blocks: halving them until each bad row is alone, and writing those rows to the dead-letter topic.

use std::time::Duration;

use operator_core::Millis;

use super::DeliveryError;
use super::dead_letters::RefusedRow;
use super::intent::{CLEAN, Intent};
use super::lane::Delivery;
use super::target::Answer;
use super::work::{Doing, Next, UNFIT};
use crate::broker::{Committed, Failure, Outcome, Progress};
use crate::wording::without_values;

/// Refused rows are counted over this long: a stream of them means that it is not the rows that are wrong.
const FLOOD: Millis = 60_000;

/// Refused rows since a monotonic time.
#[derive(Default)]
pub(super) struct Flood {
    since: Millis,
    rows: u64,
}

impl Flood {
    /// Counts a refused row; true if there are more than `limit` of them within [`FLOOD`].
    pub fn is_over(&mut self, now: Millis, limit: u64) -> bool {
        if now - self.since > FLOOD {
            *self = Flood { since: now, rows: 0 };
        }
        self.rows += 1;
        self.rows > limit
    }
}

/// The target's message.
#[derive(Clone)]
pub(super) struct Refusal {
    pub code: i32,
    pub message: String,
}

impl Delivery {
    /// A part was refused: halve it, or set its one row aside.
    pub(super) fn split(&mut self, number: i32, refusal: Refusal, answer: &Answer) -> Result<Next, DeliveryError> {
        let (wall, settings, limit) = (self.clock.wall(), self.target.settings(), self.settings.max_refused);
        let now = self.clock.monotonic();
        let (dead_letters, dependents) = (self.dead_letters.topic().is_some(), self.target.has_dependents());
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(Next::Done) };
        let tp = partition.tp.clone();
        let Some(pinned) = &mut partition.pinned else { return Ok(Next::Done) };
        let offset = pinned.intent.first;
        let all = pinned.part().map_or(0, |part| part.num_rows() as u64);
        let (code, message) = (&refusal.code, without_values(&refusal.message));
        let refused = |why: String| Err(DeliveryError::Refused { partition: tp, offset, why });
        match answer {
            Answer::Counted { rows: 0, .. } => {}
            // Without materialized views, a refused block has left nothing, counted or not. One that is not sent
            // now may have been sent before, when its rows did fit.
            Answer::Uncountable(_) if !dependents && (*code != UNFIT || !pinned.doubt) => {}
            // An earlier attempt inserted them, before the table was altered.
            Answer::Counted { rows, distinct } if pinned.doubt && !dependents && *rows == all && *distinct == all => {
                self.counters.found(all);
                return self.settle(number);
            }
            Answer::Counted { rows, .. } => {
                return refused(format!(
                    "rows refused (code {code}), but the table has {rows} of them: a materialized view of the table \
                     has probably refused them after they were written; fix the view and restart the worker: {message}"
                ));
            }
            Answer::Uncountable(why) => {
                return refused(format!("rows refused (code {code}), and it is unknown whether some are in the table ({why}): {message}"));
            }
        }
        if let Some(half) = pinned.intent.path.halved(pinned.cut.shape()) {
            pinned.turn_to(half, settings, wall);
            return Ok(Next::Then(Doing::Record));
        }
        if !dead_letters {
            return refused(format!("a row is refused (code {code}) and there is no dead-letter topic: {message}"));
        }
        if self.flood.is_over(now, limit) {
            return refused(format!("more than {limit} rows refused within a minute, the last with code {code}: {message}"));
        }
        Ok(Next::Then(Doing::DeadLetter(refusal, false)))
    }

    /// Starts the transaction of a dead letter and the position after it.
    pub(super) fn write_letter(&mut self, number: i32, refusal: Refusal) -> Result<Next, DeliveryError> {
        let (settings, wall) = (self.target.settings(), self.clock.wall());
        let membership = self.member.consumer.membership();
        if !membership.is_fencing() {
            self.start_over("the group has not confirmed this member");
            return Ok(Next::Done);
        }
        let Some(range) = self.range(number) else { return Ok(Next::Done) };
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(Next::Done) };
        let source = partition.tp.clone();
        let Some(pinned) = &mut partition.pinned else { return Ok(Next::Done) };
        let Some(row) = pinned.part() else { return Ok(Next::Done) };
        let position = match pinned.intent.path.next() {
            Some(path) => {
                let after = Intent { path, settings, created: wall, ..pinned.intent.clone() };
                Committed { offset: after.first, metadata: after.encode() }
            }
            None => Committed { offset: pinned.intent.last + 1, metadata: CLEAN.to_owned() },
        };
        let Refusal { code, message } = refusal.clone();
        let letter = RefusedRow { source, position: range.from, row, code: code.to_string(), message };
        match self.dead_letters.send(self.broker.as_ref(), &letter, position, membership) {
            Ok(()) => Ok(Next::Then(Doing::DeadLetter(refusal, true))),
            Err(error) if error.failure == Failure::Fenced => {
                self.start_over(&error.message);
                Ok(Next::Done)
            }
            Err(error) => self.counters.tolerate(error).map(|()| Next::Pause(Doing::DeadLetter(refusal, false))),
        }
    }

    pub(super) fn letter_progress(&mut self, number: i32, refusal: Refusal, timeout: Duration) -> Result<Next, DeliveryError> {
        let outcome = match self.dead_letters.progress(timeout) {
            Some(Progress::Done(outcome)) => outcome,
            Some(_) => return Ok(Next::Pending(Doing::DeadLetter(refusal, true))),
            None => Outcome::Unknown("the producer is gone".to_owned()),
        };
        match outcome {
            Outcome::Committed { .. } => {
                self.counters.dead_lettered();
                self.dead_letters.written();
                self.letter_written(number);
                Ok(Next::Done)
            }
            Outcome::Aborted(why) => {
                self.dead_letters.refused()?;
                self.counters.failed(why);
                Ok(Next::Pause(Doing::DeadLetter(refusal, false)))
            }
            // The group's stored position shows it, once a new producer has settled the transaction.
            Outcome::Fenced(why) | Outcome::Unknown(why) => {
                self.start_over(&why);
                Ok(Next::Done)
            }
        }
    }

    /// The letter and the position after it are committed.
    fn letter_written(&mut self, number: i32) {
        let (settings, wall) = (self.target.settings(), self.clock.wall());
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        let Some(pinned) = &mut partition.pinned else { return };
        match pinned.intent.path.next() {
            Some(path) => {
                pinned.turn_to(path, settings, wall);
                pinned.recorded = true;
            }
            None => {
                partition.done = pinned.intent.last + 1;
                partition.pinned = None;
            }
        }
    }
}
