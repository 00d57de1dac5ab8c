//! Transactions: the open epoch, and the one whose commit is in flight (rules R1, R10).
//!
//! Two producers take turns. Records of the open epoch are handed to its producer once every record of the epoch before is acknowledged,
//! which keeps their order; the commit of an epoch starts after that of the one before has ended, because it builds on its state.

use std::collections::BTreeSet;
use std::time::Duration;

use operator_core::Millis;

use super::ends::Interrupt;
use super::partition::DecodedChunk;
use super::{LaneConfig, LaneEnd, Runtime, TaskId};
use crate::broker::{Committed, Failure, MAX_METADATA, Membership, Outcome, Producer, Progress, Refused, TopicPartition};
use crate::record::send_buffer::SendBuffer;
use crate::stats::{Counts, Stats};
use crate::time::encode_watermarks;

/// An epoch may be discarded this often in a row before the lane gives up.
const MAX_REWINDS: u32 = 5;

/// What to do about the outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Overlays become state.
    Apply,
    /// Overlays are thrown away, and the input is read again from the committed positions.
    Rewind,
    /// The lane ends; another one starts from what is committed, whatever that is.
    Restart,
}

/// The decision, as a table.
///
/// Unknown and fenced outcomes are handled alike: this lane can't know what is committed, and a new lane finds out by
/// the only means there is. Its producers' start settles the old transactions (a transaction that reached its commit
/// marker stays committed, anything else is aborted), the group's committed positions say which one it was, and state
/// is what the changelog says. Using the old producer again after an unknown outcome could tear the next transaction.
pub fn decide(outcome: &Outcome) -> Next {
    match outcome {
        Outcome::Committed { .. } => Next::Apply,
        Outcome::Aborted(_) => Next::Rewind,
        Outcome::Fenced(_) | Outcome::Unknown(_) => Next::Restart,
    }
}

/// When the open epoch ends.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Input records.
    pub records: u64,
    /// Of output, including what is not handed to the producer yet.
    pub bytes: usize,
    /// Time since its first record.
    pub interval: Millis,
}

/// What the open epoch has done so far.
#[derive(Default)]
struct Epoch {
    opened: Option<Millis>,
    records: u64,
    /// Of output, handed to the producer.
    bytes: usize,
    /// Earliest record timestamp, for end-to-end latency.
    oldest: Option<Millis>,
    touched: BTreeSet<TopicPartition>,
    counts: Counts,
}

/// The position of a partition, with the watermarks that are committed beside it.
pub(super) struct Position {
    pub partition: TopicPartition,
    pub committed: Committed,
    pub watermarks: Vec<Millis>,
}

impl Position {
    /// # Errors
    /// There are more watermarks than can be committed.
    pub fn new(partition: &TopicPartition, offset: i64, watermarks: Vec<Millis>) -> Result<Position, LaneEnd> {
        let metadata = encode_watermarks(&watermarks);
        if metadata.len() > MAX_METADATA {
            return Err(LaneEnd::Stop(format!(
                "the {} writer watermarks of {partition} take {} bytes, above the {MAX_METADATA}-byte limit of offset metadata; \
                 use fewer upstream partitions",
                watermarks.len(),
                metadata.len()
            )));
        }
        Ok(Position { partition: partition.clone(), committed: Committed { offset, metadata }, watermarks })
    }
}

/// The node of a task whose state a transaction changes. Its place among these is the tag of its changelog records.
pub(super) type Changed = (TaskId, usize);

/// What an epoch commits besides the records handed to its producer.
pub(super) struct Sealed {
    pub positions: Vec<Position>,
    pub changed: Vec<Changed>,
    /// Refused records that became dead letters.
    pub refused: BTreeSet<u64>,
    pub counts: Counts,
    /// When it was sealed and opened (monotonic).
    pub at: Millis,
    pub opened: Millis,
    pub oldest: Option<Millis>,
}

struct InFlight {
    /// Every record is acknowledged: the next epoch's may be sent.
    acknowledged: bool,
    sealed: Sealed,
}

/// How a commit ended.
pub(super) enum Ended {
    /// With the highest offset written for each tag.
    Committed(Box<Sealed>, Vec<(u32, i64)>),
    Aborted(String),
}

/// See the module documentation.
pub(super) struct Commits {
    limits: Limits,
    /// The producer of the open epoch, and whether its transaction has begun.
    open: Box<dyn Producer>,
    begun: bool,
    epoch: Epoch,
    /// The producer of the epoch before.
    before: Box<dyn Producer>,
    in_flight: Option<InFlight>,
    /// Epochs discarded since the last commit.
    rewinds: u32,
}

impl Commits {
    /// Blocks while earlier transactions of this lane's ids are settled.
    pub fn start(runtime: &Runtime, config: &LaneConfig) -> Result<Commits, LaneEnd> {
        let plan = &runtime.plan;
        let producer = |which| {
            let id = plan.names.transactional_id(&config.worker, config.index, which);
            runtime.broker.producer(plan.is_transactional().then_some(id).as_deref())
        };
        Ok(Commits {
            limits: Limits { records: config.epoch_rows, bytes: config.epoch_bytes, interval: plan.commit_interval },
            open: producer(0)?,
            begun: false,
            epoch: Epoch::default(),
            before: producer(1)?,
            in_flight: None,
            rewinds: 0,
        })
    }

    /// The open epoch commits positions of these partitions.
    pub fn touch(&mut self, partitions: impl IntoIterator<Item = TopicPartition>, now: Millis) {
        self.epoch.touched.extend(partitions);
        if !self.epoch.touched.is_empty() {
            self.epoch.opened.get_or_insert(now);
        }
    }

    /// The records of a chunk belong to the open epoch.
    pub fn read(&mut self, chunk: &DecodedChunk, now: Millis) {
        if chunk.taken > 0 {
            self.epoch.opened.get_or_insert(now);
            self.epoch.records += chunk.taken as u64;
            self.epoch.touched.insert(chunk.partition.clone());
            self.epoch.oldest = [self.epoch.oldest, chunk.oldest].into_iter().flatten().min();
        }
        if chunk.from_source {
            self.epoch.counts.read(&chunk.partition, &chunk.counts());
        }
    }

    /// A step has released so much of its state: an epoch has room for as many entries as records.
    pub fn released(&mut self, entries: u64) {
        self.epoch.records += entries;
    }

    /// What the open epoch counts.
    pub fn counts(&mut self) -> &mut Counts {
        &mut self.epoch.counts
    }

    /// Whether a commit is in flight.
    pub fn is_committing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether records of the open epoch may be handed over: everything of the epoch before is acknowledged.
    pub fn may_send(&self) -> bool {
        self.in_flight.as_ref().is_none_or(|before| before.acknowledged)
    }

    /// Nothing of an open epoch exists here: no position, no transaction begun.
    pub fn is_empty(&self) -> bool {
        self.epoch.touched.is_empty() && !self.begun
    }

    /// Whether the open epoch takes no more records. `waiting`: bytes of output that are not handed over.
    pub fn is_full(&self, waiting: usize) -> bool {
        self.epoch.records >= self.limits.records || self.epoch.bytes + waiting >= self.limits.bytes
    }

    /// Whether the open epoch is to be sealed.
    pub fn is_due(&self, waiting: usize, now: Millis) -> bool {
        self.epoch.opened.is_some_and(|opened| self.is_full(waiting) || now - opened >= self.limits.interval)
    }

    /// How long until the open epoch is due; `None` without one, and while it is overdue because the one before is not settled.
    pub fn until_due(&self, now: Millis) -> Option<Duration> {
        let left = self.epoch.opened? + self.limits.interval - now;
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis)
    }

    /// Partitions whose positions the open epoch commits.
    pub fn touched(&self) -> impl Iterator<Item = &TopicPartition> {
        self.epoch.touched.iter()
    }

    /// Hands the buffer to the producer of the open epoch if that is allowed.
    pub fn send(&mut self, buffer: &mut SendBuffer) -> Result<(), Interrupt> {
        if buffer.is_empty() || !self.may_send() {
            return Ok(());
        }
        self.begin()?;
        let bytes = buffer.bytes();
        match buffer.send(self.open.as_mut()) {
            Ok(()) => {
                self.epoch.bytes += bytes;
                Ok(())
            }
            Err(e) if matches!(e.failure, Failure::AbortTransaction | Failure::Refused | Failure::Transient) => {
                Err(Interrupt::Rewind(e.message))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn begin(&mut self) -> Result<(), LaneEnd> {
        if !self.begun {
            self.open.begin()?;
            self.begun = true;
        }
        Ok(())
    }

    /// Forgets an epoch in which nothing happened.
    pub fn close_empty(&mut self) {
        self.epoch = Epoch::default();
    }

    /// Starts the commit of the open epoch. The one before must be settled.
    pub fn seal(
        &mut self,
        positions: Vec<Position>,
        changed: Vec<Changed>,
        refused: BTreeSet<u64>,
        membership: Membership,
        now: Millis,
    ) -> Result<(), LaneEnd> {
        if positions.is_empty() {
            // Without a position the group does not fence the commit.
            return Err(LaneEnd::Restart("the epoch has no positions: this is a bug".into()));
        }
        self.begin()?;
        let offsets = positions.iter().map(|position| (position.partition.clone(), position.committed.clone())).collect();
        let Epoch { opened, oldest, counts, .. } = std::mem::take(&mut self.epoch);
        let sealed = Sealed { positions, changed, refused, counts, at: now, opened: opened.unwrap_or(now), oldest };
        self.in_flight = Some(InFlight { acknowledged: false, sealed });
        self.begun = false;
        std::mem::swap(&mut self.open, &mut self.before);
        Ok(self.before.commit(offsets, membership)?)
    }

    /// Asks how the commit in flight goes, waiting up to `wait`; `None` while it has not ended.
    ///
    /// # Errors
    /// Whether it is committed is uncertain.
    pub fn settle(&mut self, wait: Duration, stats: &Stats) -> Result<Option<Ended>, LaneEnd> {
        let Some(mut in_flight) = self.in_flight.take() else { return Ok(None) };
        let outcome = match self.before.progress(wait) {
            Progress::Done(outcome) => outcome,
            progress => {
                in_flight.acknowledged |= progress == Progress::Acknowledged;
                self.in_flight = Some(in_flight);
                return Ok(None);
            }
        };
        stats.ended(&outcome);
        match (decide(&outcome), outcome) {
            (Next::Apply, Outcome::Committed { tags }) => {
                self.rewinds = 0;
                Ok(Some(Ended::Committed(Box::new(in_flight.sealed), tags)))
            }
            (Next::Rewind, outcome) => Ok(Some(Ended::Aborted(format!("{outcome:?}")))),
            (_, outcome) => Err(LaneEnd::Restart(format!("a commit was fenced or its outcome is unknown: {outcome:?}"))),
        }
    }

    /// An epoch is discarded for this reason. `differs`: the next attempt is another one.
    ///
    /// # Errors
    /// That happens again and again.
    pub fn discarded(&mut self, cause: &str, differs: bool) -> Result<(), LaneEnd> {
        self.rewinds = if differs { 0 } else { self.rewinds + 1 };
        if self.rewinds > MAX_REWINDS {
            return Err(LaneEnd::Restart(format!("{MAX_REWINDS} epochs in a row could not be committed: {cause}")));
        }
        Ok(())
    }

    /// Aborts the open epoch.
    pub fn abort(&mut self) -> Result<(), LaneEnd> {
        self.epoch = Epoch::default();
        if std::mem::take(&mut self.begun) {
            self.open.abort()?;
        }
        Ok(())
    }

    /// The records that brokers refused because of their content, each once.
    pub fn refused(&mut self) -> Vec<Refused> {
        [&mut self.open, &mut self.before].into_iter().flat_map(|producer| producer.refused()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certain_commit_is_applied() {
        assert_eq!(decide(&Outcome::Committed { tags: vec![] }), Next::Apply);
        assert_eq!(decide(&Outcome::Aborted(String::new())), Next::Rewind);
        assert_eq!(decide(&Outcome::Fenced(String::new())), Next::Restart);
        assert_eq!(decide(&Outcome::Unknown(String::new())), Next::Restart);
    }
}
