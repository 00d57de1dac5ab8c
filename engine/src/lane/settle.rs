//! Epochs end here: sealed into a transaction, and settled by its outcome.

use std::collections::BTreeSet;
use std::time::Duration;

use operator_core::Millis;

use super::time::Behind;
use super::{Epoch, Lane, LaneEnd};
use crate::broker::{Committed, MAX_METADATA, Outcome, Outgoing, Progress, TopicPartition};
use crate::failpoint::failpoint;
use crate::lane::assignment::is_transactional;
use crate::lane::restore::step;
use crate::stats::Counts;
use crate::time::encode_watermarks;

/// An epoch may be thrown away this often in a row before the lane gives up.
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

/// An epoch whose commit is in progress.
pub(super) struct InFlight {
    producer: usize,
    /// Everything is acknowledged: the next epoch may be sent.
    pub acknowledged: bool,
    positions: Vec<(TopicPartition, i64, Vec<Millis>)>,
    /// Tag of changelog records: the task and node they belong to.
    tags: Vec<((usize, i32), usize)>,
    counts: Counts,
    sealed: Millis,
    opened: Millis,
    oldest: Option<Millis>,
    /// Refused records that became dead letters.
    refused: BTreeSet<u64>,
}

impl Lane {
    /// Ends the open epoch: changelog, watermarks and positions join its outputs, and the commit starts. Does nothing
    /// while the epoch before is in flight (n+1 commits only after n did).
    pub(super) fn seal(&mut self) -> Result<(), LaneEnd> {
        if self.in_flight.is_some() {
            return Ok(());
        }
        if self.is_sealed() {
            self.epoch = Epoch::default();
            return Ok(());
        }
        let now = self.world.clock.monotonic();
        let tags = self.write_changelog();
        self.tell_watermarks();
        let delivery = self.delivery;
        self.flush()?;
        if delivery != self.delivery {
            // Sending failed and everything was rewound: there is nothing to commit.
            return Ok(());
        }
        let epoch = std::mem::take(&mut self.epoch);
        let mut counts = epoch.counts;
        for owned in self.tasks.values_mut() {
            counts.steps.extend(owned.task.take_ledgers());
        }
        let mut positions = Vec::new();
        let mut offsets = Vec::new();
        for partition in epoch.touched {
            let Some(input) = self.partitions.get(&partition) else { continue };
            let marks = input.marks();
            let metadata = encode_watermarks(&marks);
            if metadata.len() > MAX_METADATA {
                let bytes = metadata.len();
                return Err(LaneEnd::Stop(format!(
                    "the {} writer watermarks of {partition} take {bytes} bytes, above the {MAX_METADATA}-byte limit of offset metadata; \
                     use fewer upstream partitions",
                    marks.len()
                )));
            }
            let offset = input.position();
            offsets.push((partition.clone(), Committed { offset, metadata }));
            positions.push((partition, offset, marks));
        }
        if offsets.is_empty() {
            // Without a position the group does not fence the commit.
            return Err(LaneEnd::Restart("the epoch has no positions: this is a bug".into()));
        }
        self.begin()?;
        failpoint("lane-sealed");
        let membership = self.consumer.membership();
        let producer = self.current;
        self.in_flight = Some(InFlight {
            producer,
            acknowledged: false,
            positions,
            tags,
            counts,
            sealed: now,
            opened: epoch.opened.unwrap_or(now),
            oldest: epoch.oldest,
            refused: self.refusals.sealed(),
        });
        self.begun = false;
        self.current = (self.current + 1) % self.producers.len().max(1);
        if let Some(producer) = self.producers.get_mut(producer) {
            producer.commit(offsets, membership)?;
        }
        Ok(())
    }

    fn write_changelog(&mut self) -> Vec<((usize, i32), usize)> {
        let mut tags = Vec::new();
        let plan = self.world.plan.clone();
        for (id, owned) in &mut self.tasks {
            let Some(stage) = plan.stages.get(id.0) else { continue };
            for (index, store) in owned.task.stores() {
                let Some(topic) = stage.nodes.get(index).and_then(|n| n.changelog.as_ref()) else { continue };
                if !store.is_dirty() {
                    continue;
                }
                let tag = tags.len() as u32;
                tags.push((*id, index));
                store.seal(|key, value| {
                    self.outbox.push(Outgoing {
                        topic,
                        partition: id.1,
                        timestamp: None,
                        key: Some(key),
                        value,
                        headers: &[],
                        tag: Some(tag),
                    });
                });
            }
        }
        tags
    }

    /// Repartition topics get the watermark of each task that writes them (rule R6).
    fn tell_watermarks(&mut self) {
        let ids: Vec<(usize, i32)> = self.tasks.keys().copied().collect();
        for id in ids {
            let watermarks = self.watermarks(id);
            let (Some(owned), Some(writers)) = (self.tasks.get_mut(&id), self.writers.get(id.0)) else { continue };
            for (index, writer) in writers.iter().enumerate() {
                let Some(topic) = writer.repartition() else { continue };
                // Several streams may go through one topic: its readers get the slowest watermark.
                let same = |other: &usize| writers.get(*other).is_some_and(|w| w.repartition() == Some(topic));
                let marks = (0..writers.len()).filter(same).map(|i| owned.task.output_watermark(i, &watermarks));
                let watermark = marks.min().unwrap_or(operator_core::NO_WATERMARK);
                if let Some(told) = owned.told.get_mut(index)
                    && watermark > *told
                {
                    *told = watermark;
                    writer.watermark(id.1, watermark, &mut self.outbox);
                }
            }
        }
    }

    /// Asks how the commit in flight goes, and acts on its outcome.
    pub(super) fn settle(&mut self, wait: Duration) -> Result<(), LaneEnd> {
        let Some(in_flight) = &mut self.in_flight else { return Ok(()) };
        let Some(producer) = self.producers.get_mut(in_flight.producer) else { return Ok(()) };
        let outcome = match producer.progress(wait) {
            Progress::Sending => return Ok(()),
            Progress::Acknowledged => {
                in_flight.acknowledged = true;
                return Ok(());
            }
            Progress::Done(outcome) => outcome,
        };
        let Some(in_flight) = self.in_flight.take() else { return Ok(()) };
        self.world.stats.ended(&outcome);
        match (decide(&outcome), outcome) {
            (Next::Apply, Outcome::Committed { tags }) => self.apply(in_flight, &tags),
            (Next::Rewind, outcome) => self.rewind(&format!("{outcome:?}")),
            (_, outcome) => Err(LaneEnd::Restart(format!("a commit was fenced or its outcome is unknown: {outcome:?}"))),
        }
    }

    fn apply(&mut self, done: InFlight, tags: &[(u32, i64)]) -> Result<(), LaneEnd> {
        failpoint("lane-committed");
        self.rewinds = 0;
        self.refusals.committed(&done.refused);
        if !is_transactional(&self.world.plan) {
            let offsets: Vec<_> = done
                .positions
                .iter()
                .map(|(tp, offset, marks)| (tp.clone(), Committed { offset: *offset, metadata: encode_watermarks(marks) }))
                .collect();
            self.consumer.commit(&offsets)?;
        }
        let (wall, now) = (self.world.clock.wall(), self.world.clock.monotonic());
        for (index, (id, node)) in done.tags.iter().enumerate() {
            let next = tags.iter().find(|(tag, _)| *tag as usize == index).map(|(_, offset)| offset + 1);
            let Some(owned) = self.tasks.get_mut(id) else { continue };
            let checkpoint = owned.checkpoints.iter_mut().find(|(n, _)| n == node).map(|(_, c)| c);
            let Some(store) = owned.task.store(*node) else { continue };
            let mut entries = Vec::new();
            let keep = checkpoint.is_some();
            store.apply(|key, value| {
                if keep {
                    entries.push((key.to_vec(), value.map(<[u8]>::to_vec)));
                }
            });
            failpoint("lane-applied");
            let step = step(&self.world.plan, *id, *node);
            self.world.stats.state(*id, step, store.len(), store.bytes());
            if let Some(written) = checkpoint.and_then(|checkpoint| checkpoint.committed(store, &entries, next, (now, wall))) {
                self.world.stats.checkpoint(*id, step, written.map_err(|e| e.to_string()), wall);
            }
        }
        for (partition, offset, marks) in done.positions {
            if let Some(input) = self.partitions.get_mut(&partition) {
                input.committed = offset;
                input.uncommitted = false;
                input.stored_at = self.world.clock.monotonic();
                input.committed_marks = marks.clone();
            }
            self.world.stats.position(&partition, offset, marks.iter().copied().min());
        }
        self.world.stats.is_well(self.config.index);
        let (took, end_to_end) = ((now - done.opened, now - done.sealed), done.oldest.map(|t| wall.saturating_sub(t)));
        self.world.stats.committed(&done.counts, wall, took, end_to_end);
        Ok(())
    }

    /// Writes local checkpoints that could not be written with their commit; `last`: the lane ends.
    pub(super) fn catch_up_checkpoints(&mut self, last: bool) {
        let times @ (_, wall) = (self.world.clock.monotonic(), self.world.clock.wall());
        for (id, owned) in self.tasks.iter_mut().filter(|(_, owned)| owned.started) {
            for (node, checkpoint) in &mut owned.checkpoints {
                let Some(store) = owned.task.store(*node) else { continue };
                if let Some(written) = checkpoint.catch_up(store, last, times) {
                    self.world.stats.checkpoint(*id, step(&self.world.plan, *id, *node), written.map_err(|e| e.to_string()), wall);
                }
            }
        }
    }

    /// Throws away what is not committed and reads it again.
    pub(super) fn rewind(&mut self, cause: &str) -> Result<(), LaneEnd> {
        self.rewinds += 1;
        self.delivery += 1;
        tracing::warn!(%cause, "rewinding to the committed positions");
        self.world.stats.rewound();
        self.abort_open()?;
        if self.learn_refusals()? {
            // The next attempt is another one: without these records.
            self.rewinds = 0;
        }
        if self.rewinds > MAX_REWINDS {
            return Err(LaneEnd::Restart(format!("{MAX_REWINDS} epochs in a row could not be committed: {cause}")));
        }
        let (mut positions, mut first) = (Vec::new(), Vec::new());
        for (partition, input) in &mut self.partitions {
            input.rewind();
            if input.started {
                positions.push((partition.clone(), input.next));
                if input.uncommitted {
                    first.push(partition.clone());
                }
            }
        }
        self.touch(first);
        for owned in self.tasks.values_mut() {
            owned.task.discard();
            owned.task.resume();
            owned.behind = Behind::Restored;
            owned.told.fill(operator_core::NO_WATERMARK);
        }
        self.consumer.start(&positions)?;
        Ok(())
    }

    /// Aborts whatever is open. The commit in flight, if any, is waited for: its outcome is the base to rewind to.
    fn abort_open(&mut self) -> Result<(), LaneEnd> {
        if self.begun {
            self.begun = false;
            if let Some(producer) = self.producers.get_mut(self.current) {
                producer.abort()?;
            }
        }
        self.outbox.clear();
        self.epoch = Epoch::default();
        let mut patience = 600;
        while self.in_flight.is_some() {
            self.settle_before_rewind()?;
            patience -= 1;
            if patience == 0 {
                return Err(LaneEnd::Restart("a commit has been pending for more than a minute".into()));
            }
        }
        Ok(())
    }

    fn settle_before_rewind(&mut self) -> Result<(), LaneEnd> {
        let Some(in_flight) = &self.in_flight else { return Ok(()) };
        let Some(producer) = self.producers.get_mut(in_flight.producer) else { return Ok(()) };
        if let Progress::Done(outcome) = producer.progress(Duration::from_millis(100))
            && let Some(in_flight) = self.in_flight.take()
        {
            self.world.stats.ended(&outcome);
            return match (decide(&outcome), outcome) {
                (Next::Apply, Outcome::Committed { tags }) => self.apply(in_flight, &tags),
                (Next::Rewind, _) => Ok(()),
                (_, outcome) => Err(LaneEnd::Restart(format!("the outcome of a commit is unknown: {outcome:?}"))),
            };
        }
        Ok(())
    }

    /// Commits everything processed so far and waits for it.
    pub(super) fn commit_all(&mut self, patience: Duration) -> Result<(), LaneEnd> {
        let turns = (patience.as_millis() / 50).max(1);
        for _ in 0..turns {
            if self.in_flight.is_none() {
                if self.is_sealed() {
                    return Ok(());
                }
                self.seal()?;
            }
            self.settle(Duration::from_millis(50))?;
        }
        match self.in_flight.is_none() && self.is_sealed() {
            true => Ok(()),
            false => Err(LaneEnd::Restart("the last commit did not end in time".into())),
        }
    }

    /// Nothing of an open epoch exists: no position, no record, no transaction begun.
    fn is_sealed(&self) -> bool {
        self.epoch.touched.is_empty() && self.outbox.is_empty() && !self.begun
    }

    /// The partitions are someone else's already: nothing may be committed.
    pub(super) fn abandon(&mut self) -> Result<(), LaneEnd> {
        self.abort_open()
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
