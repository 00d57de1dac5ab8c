//! The loop of a delivery by intents: events of the group, opening of partitions, back-pressure. Processing of blocks is in `work`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use operator_core::Millis;

use super::counters::Counters;
use super::dead_letters::DeadLetters;
use super::decide::{Action, decide};
use super::deliver::{Deliver, Step, left_until};
use super::intent::Stored;
use super::member::Member;
use super::opening::Opening;
use super::partition::{Partition, Phase};
use super::refusal::Flood;
use super::target::Target;
use super::work::Job;
use super::{DeliveryError, Settings};
use crate::broker::{Broker, BrokerError, Clock, Event, RecordSet, TopicPartition};

/// A lane begins at most one insert in this time, so that it is known how fast all of them fill the target's memory of tokens.
pub(super) const PACE: Millis = 20;

/// Carries the rows of an outbox topic into a table; see the module. Driven by [`Delivery::step`] from one thread.
pub struct Delivery {
    pub(super) settings: Settings,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) member: Member,
    pub(super) target: Box<dyn Target>,
    pub(super) dead_letters: DeadLetters,
    pub(super) counters: Arc<Counters>,
    pub(super) partitions: BTreeMap<i32, Partition>,
    pub(super) job: Option<Job>,
    /// The partition that was served last.
    pub(super) turn: i32,
    /// Monotonic time at which the last commit that succeeded was begun: the group knew this member then.
    pub(super) confirmed: Option<Millis>,
    /// Partitions of the outbox.
    width: i32,
    /// Monotonic time before which no insert is begun.
    pub(super) paced: Millis,
    pub(super) flood: Flood,
}

impl Delivery {
    /// Joins the group. The target must be checked already (tables, guarantee).
    ///
    /// # Errors
    /// Settings that make no sense; the broker's answer to joining.
    pub fn new(
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        target: Box<dyn Target>,
        settings: Settings,
    ) -> Result<Delivery, DeliveryError> {
        settings.check()?;
        let member = Member::join(broker.as_ref(), &settings)?;
        let width = broker.partitions(&settings.topic)?.unwrap_or(1).max(1);
        let dead_letters = DeadLetters::new(&settings);
        Ok(Delivery {
            dead_letters,
            settings,
            broker,
            clock,
            member,
            target,
            counters: Arc::default(),
            partitions: BTreeMap::new(),
            job: None,
            turn: -1,
            confirmed: None,
            width,
            paced: 0,
            flood: Flood::default(),
        })
    }

    /// Goes on counting in `counters`, those of an earlier delivery of the same sink.
    pub fn counting(mut self, counters: Arc<Counters>) -> Delivery {
        self.counters = counters;
        self
    }

    /// How long after its first attempt a block's token is relied on: not longer than the target surely remembers it, with every
    /// lane inserting as fast as [`PACE`] allows. Blocks that are cut by size in a catch-up, and parts of refused ones, come faster
    /// than one per flush interval. There are about as many lanes as lanes of this one's size fit into the topic.
    pub(super) fn safe_window(&self) -> Millis {
        let owned = i32::try_from(self.partitions.len()).unwrap_or(i32::MAX).max(1);
        let lanes = (self.width.max(owned) + owned - 1) / owned;
        let per_second = f64::from(lanes) * 1_000.0 / PACE as f64;
        self.settings.safe_window.min(self.target.remembers(per_second) / 2)
    }

    /// `timeout`, or less if something is due earlier.
    fn wait(&self, timeout: Duration) -> Duration {
        let flush = |p: &Partition| p.buffer.due(&self.settings.limits).filter(|_| p.phase == Phase::Reading);
        let job = self.job.as_ref().map(|job| job.not_before);
        let first = self.partitions.values().filter_map(flush).chain(job).chain(self.member.opens_at()).min();
        left_until(first, self.clock.monotonic()).min(timeout)
    }

    /// Something can be done at once, without waiting for records.
    fn work_waits(&self) -> bool {
        let now = self.clock.monotonic();
        match &self.job {
            Some(job) => job.not_before <= now,
            None => !self.member.is_closing() && self.partitions.values().any(|p| self.wants(p, now)),
        }
    }

    fn hear(&mut self, events: Vec<Event>) -> Result<bool, DeliveryError> {
        let busy = !events.is_empty();
        for event in events {
            match event {
                Event::Assigned(partitions) => {
                    self.forget();
                    self.member.assigned(partitions);
                }
                Event::Revoked { lost, .. } => {
                    if lost {
                        self.forget();
                    }
                    self.member.revoked();
                    self.drop_untried();
                }
                Event::Records { partition, records } => self.take(&partition, records.as_ref())?,
                Event::End { partition, offset } => {
                    self.saw_end(partition.partition, offset)?;
                }
                Event::Ends(_) => {}
            }
        }
        Ok(busy)
    }

    fn saw_end(&mut self, number: i32, offset: i64) -> Result<(), DeliveryError> {
        let patience = self.clock.monotonic().saturating_add(self.settings.patience);
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(()) };
        partition.end = offset;
        partition.buffer.saw_end(offset);
        if let Phase::Rebuilding { until } = &mut partition.phase {
            until.get_or_insert(patience);
        }
        self.pin(number)
    }

    fn take(&mut self, tp: &TopicPartition, records: &dyn RecordSet) -> Result<(), DeliveryError> {
        let now = self.clock.monotonic();
        let Some(partition) = self.partitions.get_mut(&tp.partition) else { return Ok(()) };
        partition.buffer.push_all(tp, records, now)?;
        if let Phase::Rebuilding { until } = &mut partition.phase {
            *until = None;
        }
        partition.end = partition.end.max(partition.buffer.next());
        self.pin(tp.partition)
    }

    /// Pins the block of an intent as soon as it was read.
    fn pin(&mut self, number: i32) -> Result<(), DeliveryError> {
        // A predecessor that the group has forgotten may still start an insert, until its last commit is too old for it.
        let zombie = self.settings.session_timeout / 2 + self.target.max_insert();
        let quiet_at = self.clock.monotonic().saturating_add(zombie);
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(()) };
        if matches!(partition.phase, Phase::Rebuilding { .. }) {
            let (offset, tp) = (partition.buffer.next(), partition.tp.clone());
            let corrupt = |why| DeliveryError::Corrupt { partition: tp.clone(), offset, why };
            if partition.pin_rebuilt(quiet_at).map_err(corrupt)? && self.member.is_paused() {
                self.member.consumer.pause(&[tp])?;
            }
        }
        Ok(())
    }

    /// Finds out where newly assigned partitions stand.
    fn open(&mut self) -> Result<bool, DeliveryError> {
        let now = self.clock.monotonic();
        let Some(opening) = self.member.opening_due(now) else {
            return if self.member.opens_at().is_some() { Ok(false) } else { self.check_patience(now) };
        };
        match self.look(&opening.partitions) {
            Ok(found) => {
                for partition in found {
                    self.begin(partition)?;
                }
                Ok(true)
            }
            Err(error) => {
                self.counters.tolerate(error)?;
                self.member.open_again(opening, &self.settings, now);
                Ok(false)
            }
        }
    }

    fn look(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Partition>, BrokerError> {
        // A transaction that a predecessor of this lane left open hides the positions until it is settled.
        self.dead_letters.settle(self.broker.as_ref())?;
        let committed = self.member.consumer.committed(partitions)?;
        let mut found = Vec::new();
        for (tp, committed) in partitions.iter().zip(committed) {
            let bounds = self.member.consumer.bounds(tp)?;
            let stored = committed.map_or(Stored::Nothing, |c| Stored::read(c.offset, &c.metadata));
            found.push(Partition::new(tp.clone(), stored, bounds));
        }
        Ok(found)
    }

    fn begin(&mut self, mut partition: Partition) -> Result<(), DeliveryError> {
        let plan = decide(&partition.stored, &partition.opening(self.target.as_ref()));
        self.follow(&mut partition, plan)?;
        self.partitions.insert(partition.tp.partition, partition);
        Ok(())
    }

    /// Does what was decided about a partition that is not read yet.
    pub(super) fn follow(&mut self, partition: &mut Partition, plan: Action) -> Result<(), DeliveryError> {
        let (from, phase) = match plan {
            Action::Read { from } => (from, Phase::Reading),
            Action::Rebuild { first, .. } => (first, Phase::Rebuilding { until: None }),
            Action::Stop(stop) => return Err(DeliveryError::Stopped { partition: partition.tp.clone(), stop }),
            Action::Ask | Action::Insert | Action::Skip => return Ok(()),
        };
        partition.read_from(from, phase);
        partition.stored_at = self.clock.monotonic();
        match self.member.consumer.start(&[(partition.tp.clone(), from)]) {
            Ok(()) if self.member.is_paused() && phase == Phase::Reading => {
                Ok(self.member.consumer.pause(std::slice::from_ref(&partition.tp))?)
            }
            result => Ok(result?),
        }
    }

    fn check_patience(&self, now: Millis) -> Result<bool, DeliveryError> {
        for partition in self.partitions.values() {
            let over = matches!(partition.phase, Phase::Rebuilding { until: Some(until) } if until <= now);
            if let Some(stop) = partition.cut_short().filter(|_| over) {
                return Err(DeliveryError::Stopped { partition: partition.tp.clone(), stop });
            }
        }
        Ok(false)
    }

    /// The group has refused a commit. Either an event will say why, or the partitions are opened again.
    pub(super) fn start_over(&mut self, why: &str) {
        self.counters.failed(why);
        let partitions: Vec<TopicPartition> = self.partitions.values().map(|p| p.tp.clone()).collect();
        self.forget();
        self.member.open_again(Opening::new(partitions), &self.settings, self.clock.monotonic());
    }

    /// Gives revoked partitions back once nothing is in progress.
    fn let_go(&mut self) -> Result<bool, DeliveryError> {
        if !self.member.is_revoking() || self.job.is_some() {
            return Ok(false);
        }
        self.forget();
        self.member.release(&self.counters)
    }

    /// A block that is read again is never paused: only when it is whole can it be inserted, and its bytes be freed.
    fn balance(&mut self) -> Result<(), DeliveryError> {
        let bytes = self.partitions.values().map(Partition::bytes).sum();
        let reading = self.partitions.values().filter(|p| p.phase == Phase::Reading).map(|p| p.tp.clone());
        Ok(self.member.balance(bytes, self.settings.max_buffer, reading)?)
    }

    fn count(&self) {
        let lag = self.partitions.values().map(Partition::lag).sum();
        self.counters.standing(lag, self.partitions.values().map(Partition::waiting_rows).sum());
    }
}

impl Deliver for Delivery {
    fn step(&mut self, timeout: Duration) -> Result<Step, DeliveryError> {
        let wait = if self.target_is_busy() || self.work_waits() { Duration::ZERO } else { self.wait(timeout) };
        let Some(events) = self.member.poll(&self.settings, wait, &self.counters)? else { return Ok(Step::Unavailable) };
        let mut busy = self.hear(events)?;
        busy |= self.open()?;
        busy |= self.advance(timeout)?;
        busy |= self.let_go()?;
        self.balance()?;
        self.count();
        Ok(if busy { Step::Busy } else { Step::Idle })
    }

    fn close(&mut self, stopping: bool) -> bool {
        self.member.close(stopping, self.job.is_none())
    }

    /// What a crash leaves, too: the stored intent records which rows may be in the table.
    fn forget(&mut self) {
        self.target.abandon();
        self.dead_letters.abandon();
        self.partitions.clear();
        self.job = None;
        self.confirmed = None;
    }

    fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}
