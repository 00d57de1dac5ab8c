//! Processing of the current block: record its intent, decide, insert, split what is refused, settle.
//!
//! ```text
//! Record -> Decide -> Wait(Insert) -> settled: Record the next part or block, or Clean
//!             |            |- refused -> Wait(Refusal) -> halve: Record the first half
//!             |            |                           -> one row: Letter -> settled
//!             |            '- unavailable, unknown -> pause -> Decide
//!             '-> Wait(Doubt) -> Decide
//! ```

use std::time::Duration;

use operator_core::Millis;

use super::DeliveryError;
use super::block::Range;
use super::decide::decide;
use super::intent::Intent;
use super::lane::Delivery;
use super::partition::{Partition, Phase, Pinned};
use super::refusal::Refusal;
use super::target::{Answer, Progress};
use crate::failpoint::failpoint;
use crate::wording::without_values;

/// Code of a row that was not sent to the target, which has codes of its own for those it refuses.
pub(super) const UNFIT: i32 = 0;

/// How often an idle partition stores its position.
const HEARTBEAT: Millis = 3_600_000;

/// The one thing in progress.
pub(super) struct Job {
    pub partition: i32,
    pub doing: Doing,
    /// Monotonic time before which nothing is tried.
    pub not_before: Millis,
    /// Failures of this act in a row, for the pause.
    failures: u32,
}

pub(super) enum Doing {
    /// Ask whether the table has rows of a partition without a position.
    Open,
    /// Commit the intent.
    Record,
    Decide,
    /// The target is busy with this.
    Wait(For),
    /// Count the rows of a refused part.
    Recount(Refusal),
    /// Write a dead letter; `true`: its transaction is being committed.
    DeadLetter(Refusal, bool),
    /// Commit the position without an intent.
    Clean,
}

pub(super) enum For {
    Opening,
    Insert,
    Doubt,
    Refusal(Refusal),
}

/// What follows an act.
pub(super) enum Next {
    /// Do this at once.
    Then(Doing),
    /// Do this after a pause, because something failed.
    Pause(Doing),
    /// Do this not before a monotonic time.
    At(Millis, Doing),
    /// The target or the log has not answered yet.
    Pending(Doing),
    /// Take another partition's turn.
    Done,
}

impl Job {
    fn new(partition: i32, doing: Doing) -> Job {
        Job { partition, doing, not_before: 0, failures: 0 }
    }
}

impl Delivery {
    pub(super) fn target_is_busy(&self) -> bool {
        self.job.as_ref().is_some_and(|job| matches!(job.doing, Doing::Wait(_) | Doing::DeadLetter(_, true)))
    }

    /// Revoked: what was not sent yet is not begun any more. What was sent is waited for.
    pub(super) fn drop_untried(&mut self) {
        let keep = |job: &Job| matches!(job.doing, Doing::Record | Doing::Clean);
        if !self.target_is_busy() {
            self.job = self.job.take().filter(keep);
        }
    }

    /// Whether a partition has something to do now.
    pub(super) fn wants(&self, partition: &Partition, now: Millis) -> bool {
        let full = || partition.phase == Phase::Reading && partition.buffer.ready(&self.settings.limits, now);
        partition.phase == Phase::Opening || partition.pinned.is_some() || full() || Delivery::is_stale(partition, now)
    }

    /// An idle partition stores its position again now and then: markers at its end must not be all that is left of the log
    /// at the stored position, and positions of groups expire.
    fn is_stale(partition: &Partition, now: Millis) -> bool {
        partition.is_idle() && now.saturating_sub(partition.stored_at) >= HEARTBEAT
    }

    /// Goes on with the current block, or with the next. True if something was done.
    pub(super) fn advance(&mut self, timeout: Duration) -> Result<bool, DeliveryError> {
        let now = self.clock.monotonic();
        let Some(mut job) = self.job.take().map_or_else(|| self.choose(now), |job| Ok(Some(job)))? else {
            return Ok(false);
        };
        if job.not_before > now {
            self.job = Some(job);
            return Ok(false);
        }
        let (doing, busy) = match self.act(job.partition, job.doing, timeout)? {
            Next::Done => return Ok(true),
            Next::Then(doing) => {
                job.not_before = 0;
                // Only an answer ends a row of failures, not another question.
                if !matches!(doing, Doing::Wait(_)) {
                    job.failures = 0;
                }
                (doing, true)
            }
            Next::At(at, doing) => {
                job.not_before = at;
                (doing, true)
            }
            Next::Pending(doing) => (doing, false),
            Next::Pause(doing) => {
                job.failures += 1;
                let attempts = self.pinned(job.partition).map_or(0, |pinned| pinned.attempts).max(job.failures);
                job.not_before = self.clock.monotonic().saturating_add(self.settings.pause(attempts));
                if attempts.is_power_of_two() {
                    let (topic, cause) = (&self.settings.topic, self.counters.last_error().unwrap_or_default());
                    tracing::warn!(%topic, partition = job.partition, attempts, %cause, "can't insert; rows wait in the outbox topic and are retried");
                }
                (doing, true)
            }
        };
        job.doing = doing;
        self.job = Some(job);
        if self.member.is_closing() {
            // Nothing new is sent; what is known is still written down.
            let keep = |job: &Job| matches!(job.doing, Doing::Record | Doing::Clean) && job.failures < 3;
            if !self.target_is_busy() {
                self.job = self.job.take().filter(keep);
            }
        }
        Ok(busy)
    }

    /// The next partition in turn that has something to do.
    fn choose(&mut self, now: Millis) -> Result<Option<Job>, DeliveryError> {
        if self.member.is_closing() {
            return Ok(None);
        }
        let after = self.partitions.range(self.turn.saturating_add(1)..).chain(self.partitions.range(..=self.turn));
        let Some(number) = after.into_iter().find(|(_, p)| self.wants(p, now)).map(|(number, _)| *number) else {
            return Ok(None);
        };
        self.turn = number;
        let Some(partition) = self.partitions.get(&number) else { return Ok(None) };
        let doing = match &partition.pinned {
            _ if partition.phase == Phase::Opening => Doing::Open,
            Some(_) => Doing::Decide,
            None if Delivery::is_stale(partition, now) => Doing::Clean,
            None => self.cut(number)?,
        };
        Ok(Some(Job::new(number, doing)))
    }

    /// Cuts the next block of a partition and says how to record it.
    fn cut(&mut self, number: i32) -> Result<Doing, DeliveryError> {
        let (wall, settings, epoch) = (self.clock.wall(), self.target.settings(), self.settings.epoch);
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(Doing::Clean) };
        let cut = partition.buffer.cut(&self.settings.limits).map_err(|why| DeliveryError::Corrupt {
            partition: partition.tp.clone(),
            offset: partition.done,
            why,
        })?;
        if let Some(cut) = cut {
            let rows = cut.num_rows() as u64;
            if rows == 0 {
                partition.done = cut.last + 1;
                return Ok(Doing::Clean);
            }
            let (first, last, crc, path) = (cut.first, cut.last, cut.crc, Default::default());
            let intent = Intent { epoch, first, last, rows, crc, settings, created: wall, path };
            partition.pinned = Some(Pinned::new(intent, cut));
            return Ok(Doing::Record);
        }
        Ok(Doing::Clean)
    }

    pub(super) fn pinned(&mut self, number: i32) -> Option<&mut Pinned> {
        self.partitions.get_mut(&number)?.pinned.as_mut()
    }

    fn act(&mut self, number: i32, doing: Doing, timeout: Duration) -> Result<Next, DeliveryError> {
        match doing {
            Doing::Open => {
                self.target.ask(&Range::all(self.settings.topic.clone(), number));
                Ok(Next::Then(Doing::Wait(For::Opening)))
            }
            Doing::Record => self.record(number),
            Doing::Clean => self.clean(number),
            Doing::Decide => self.decide(number),
            Doing::Recount(refusal) => {
                match self.range(number) {
                    Some(range) => self.target.ask(&range),
                    None => return Ok(Next::Done),
                }
                Ok(Next::Then(Doing::Wait(For::Refusal(refusal))))
            }
            Doing::DeadLetter(refusal, false) => self.write_letter(number, refusal),
            Doing::DeadLetter(refusal, true) => self.letter_progress(number, refusal, timeout),
            Doing::Wait(reason) => {
                let progress = self.target.progress(timeout);
                match (progress, reason) {
                    (Progress::Working, reason) => Ok(Next::Pending(Doing::Wait(reason))),
                    (progress, For::Insert) => self.tried(number, progress),
                    (Progress::Answered(answer), For::Opening) => self.opened(number, answer),
                    (Progress::Answered(answer), For::Doubt) => {
                        if let Some(pinned) = self.pinned(number) {
                            pinned.table = Some(answer);
                        }
                        Ok(Next::Then(Doing::Decide))
                    }
                    (Progress::Answered(answer), For::Refusal(refusal)) => self.split(number, refusal, &answer),
                    (failed, reason) => {
                        self.counters.failed(describe(failed));
                        self.counters.retried();
                        Ok(Next::Pause(match reason {
                            For::Opening => Doing::Open,
                            For::Insert | For::Doubt => Doing::Decide,
                            For::Refusal(refusal) => Doing::Recount(refusal),
                        }))
                    }
                }
            }
        }
    }

    fn opened(&mut self, number: i32, answer: Answer) -> Result<Next, DeliveryError> {
        if let Some(mut partition) = self.partitions.remove(&number) {
            let mut facts = partition.opening(self.target.as_ref());
            facts.table = Some(answer);
            let plan = decide(&partition.stored, &facts);
            self.follow(&mut partition, plan)?;
            self.partitions.insert(number, partition);
        }
        Ok(Next::Done)
    }

    /// An attempt to insert has ended.
    fn tried(&mut self, number: i32, progress: Progress) -> Result<Next, DeliveryError> {
        let quiet_at = self.clock.monotonic().saturating_add(self.target.max_insert());
        match progress {
            Progress::Inserted => {
                failpoint("delivery-inserted");
                let rows = self.pinned(number).and_then(|pinned| pinned.part()).map_or(0, |part| part.num_rows());
                self.counters.inserted(rows as u64);
                self.settle(number)
            }
            Progress::Refused { code, message } => {
                self.counters.failed(format!("rows refused, code {code}: {}", without_values(&message)));
                let refusal = Refusal { code, message };
                if self.target.repeatable() {
                    return self.split(number, refusal, &Answer::Counted { rows: 0, distinct: 0 });
                }
                Ok(Next::Then(Doing::Recount(refusal)))
            }
            Progress::Unfit(message) => {
                // Nothing was sent that the target would remember.
                self.paced = self.clock.monotonic();
                let Some(pinned) = self.pinned(number) else { return Ok(Next::Done) };
                let (doubt, quiet_at) = (pinned.doubt, pinned.quiet_at);
                let refusal = Refusal { code: UNFIT, message };
                if !doubt || self.target.repeatable() {
                    return self.split(number, refusal, &Answer::Counted { rows: 0, distinct: 0 });
                }
                // An earlier attempt may have found other columns in the table.
                Ok(self.count_at(number, quiet_at, Doing::Recount(refusal)))
            }
            Progress::Wrong(why) => Err(DeliveryError::Setup(why)),
            Progress::Unavailable(why) => {
                self.counters.failed(why);
                Ok(Next::Pause(Doing::Decide))
            }
            other => {
                self.counters.failed(describe(other));
                if let Some(pinned) = self.pinned(number) {
                    (pinned.doubt, pinned.quiet_at) = (true, quiet_at);
                }
                Ok(Next::Pause(Doing::Decide))
            }
        }
    }

    /// The part is settled: turn to the next part, or to the next block if it is there, or to nothing.
    pub(super) fn settle(&mut self, number: i32) -> Result<Next, DeliveryError> {
        let (now, wall, settings) = (self.clock.monotonic(), self.clock.wall(), self.target.settings());
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(Next::Done) };
        let Some(pinned) = &mut partition.pinned else { return Ok(Next::Done) };
        if let Some(path) = pinned.intent.path.next() {
            pinned.turn_to(path, settings, wall);
            return Ok(Next::Then(Doing::Record));
        }
        partition.done = pinned.intent.last + 1;
        partition.pinned = None;
        let ready = !self.member.is_closing() && partition.buffer.ready(&self.settings.limits, now);
        Ok(Next::Then(if ready { self.cut(number)? } else { Doing::Clean }))
    }
}

fn describe(progress: Progress) -> String {
    match progress {
        Progress::Unknown(why) | Progress::Unavailable(why) | Progress::Unfit(why) => why,
        Progress::Refused { code, message } => format!("code {code}: {}", without_values(&message)),
        other => format!("unexpected outcome: {other:?}"),
    }
}
