//! The group member: receives its partitions, fetches from them, leaves or disappears.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, transient, unknown_partition};
use super::group::{Group, Standing};
use super::transaction::check_metadata;
use super::{Fault, Shared};
use crate::broker::{BrokerError, Committed, Consumer, Event, Failure, Membership, TopicPartition};

/// How long `committed` waits for open transactions in real time before it says "later".
const UNSTABLE_WAIT: Duration = Duration::from_secs(1);

/// A place to read from.
#[derive(Default)]
pub(super) struct Position {
    /// The next offset; `None` until it is started.
    next: Option<i64>,
    paused: bool,
    /// The end that was reported last.
    ended: Option<i64>,
}

impl Position {
    pub fn at(offset: i64) -> Position {
        Position { next: Some(offset), ..Position::default() }
    }
}

/// Fetches at most about `max` records from `positions`, a fair part from each, and reports every end once.
pub(super) fn fetch(
    cluster: &mut Cluster,
    positions: &mut BTreeMap<TopicPartition, Position>,
    turn: &mut usize,
    max: usize,
) -> Result<Vec<Event>, BrokerError> {
    let mut events = Vec::new();
    let readable = |(tp, p): &(&TopicPartition, &Position)| !p.paused && p.next.is_some() && !cluster.unreachable.contains(*tp);
    let ready: Vec<TopicPartition> = positions.iter().filter(readable).map(|(tp, _)| tp.clone()).collect();
    let count = ready.len();
    *turn = turn.wrapping_add(1 + cluster.schedule.first_of(count));
    let mut left = max.max(1);
    for step in 0..count {
        let Some(partition) = ready.get(turn.wrapping_add(step) % count.max(1)) else { continue };
        let Some(position) = positions.get_mut(partition) else { continue };
        let Some(from) = position.next else { continue };
        if left == 0 || !cluster.schedule.goes_on() {
            continue;
        }
        let limit = cluster.schedule.some_of(left.div_ceil(count - step));
        let log = cluster.log(partition).ok_or_else(|| unknown_partition(partition))?;
        if !log.has(from) {
            let (low, high) = log.bounds();
            let message = format!("{partition}: offset {from} is out of range: the log goes from {low} to {high}");
            return if events.is_empty() { Err(BrokerError::new(Failure::OutOfRange, message)) } else { Ok(events) };
        }
        let (records, next) = log.read(from, limit);
        let end = log.readable();
        left = left.saturating_sub(records.0.len());
        position.next = Some(next);
        if !records.0.is_empty() {
            events.push(Event::Records { partition: partition.clone(), records: Box::new(records) });
        }
        if next == end && position.ended != Some(end) {
            position.ended = Some(end);
            events.push(Event::End { partition: partition.clone(), offset: end });
        }
    }
    Ok(events)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for an assignment.
    Joining,
    Assigned,
    /// `Revoked` was delivered; `release` was not called yet.
    Revoking {
        lost: bool,
    },
}

/// A member of a consumer group of the in-memory world. Dropping it is the death of its process, which the group
/// notices after the session timeout (unless [`super::Settings::leave_on_drop`]).
pub(super) struct MemoryConsumer {
    shared: Arc<Shared>,
    group: String,
    instance: String,
    topics: Vec<String>,
    member: String,
    /// -1 until the first join has completed.
    generation: i32,
    phase: Phase,
    positions: BTreeMap<TopicPartition, Position>,
    turn: usize,
    questions: VecDeque<Question>,
}

/// A question about high watermarks that is in flight.
enum Question {
    /// To the leaders.
    Asked(Vec<TopicPartition>),
    /// And back.
    Answered(Vec<(TopicPartition, i64)>),
}

impl MemoryConsumer {
    pub fn new(shared: Arc<Shared>, cluster: &mut Cluster, group: &str, instance: &str, topics: &[String]) -> MemoryConsumer {
        let now = cluster.clock.monotonic();
        let member = cluster.groups.entry(group.to_owned()).or_default().join(instance, topics, now);
        cluster.complete_rounds();
        MemoryConsumer {
            shared,
            group: group.to_owned(),
            instance: instance.to_owned(),
            topics: topics.to_vec(),
            member,
            generation: -1,
            phase: Phase::Joining,
            positions: BTreeMap::new(),
            turn: 0,
            questions: VecDeque::new(),
        }
    }

    fn group<'a>(&self, cluster: &'a mut Cluster) -> &'a mut Group {
        cluster.groups.entry(self.group.clone()).or_default()
    }

    /// Lets the world continue, after a heartbeat of this member.
    fn tick(&self, cluster: &mut Cluster) {
        let now = cluster.clock.monotonic();
        if let Some(member) = self.group(cluster).members.get_mut(&self.member) {
            member.heard = now;
        }
        cluster.tick();
    }

    fn collect(&mut self, cluster: &mut Cluster, max: usize) -> Result<Vec<Event>, BrokerError> {
        let mut events = self.news(cluster, max)?;
        if let Some(ends) = self.answer(cluster) {
            let place = if cluster.schedule.goes_on() { events.len() } else { 0 };
            events.insert(place, Event::Ends(ends));
        }
        Ok(events)
    }

    /// The answer to the oldest question, if it has arrived.
    fn answer(&mut self, cluster: &mut Cluster) -> Option<Vec<(TopicPartition, i64)>> {
        if self.questions.is_empty() || !cluster.schedule.goes_on() {
            return None;
        }
        self.questions.pop_front().map(|question| match question {
            Question::Asked(partitions) => cluster.ends(&partitions),
            Question::Answered(ends) => ends,
        })
    }

    fn news(&mut self, cluster: &mut Cluster, max: usize) -> Result<Vec<Event>, BrokerError> {
        self.tick(cluster);
        match cluster.faults.strike(&[Fault::PollFails, Fault::Kicked, Fault::Rebalance]) {
            Some(Fault::PollFails) => return Err(transient("poll")),
            Some(Fault::Kicked) => self.group(cluster).remove(&self.member),
            Some(_) => self.group(cluster).prepare(),
            None => {}
        }
        cluster.complete_rounds();
        if matches!(self.phase, Phase::Revoking { .. }) {
            return Ok(Vec::new());
        }
        let member = self.member.clone();
        match self.group(cluster).standing(&member) {
            Standing::Assigned(generation, partitions) => {
                self.generation = generation;
                self.phase = Phase::Assigned;
                self.positions = partitions.iter().map(|p| (p.clone(), Position::default())).collect();
                Ok(vec![Event::Assigned(partitions)])
            }
            Standing::Unknown => Ok(self.revoke(cluster, true, max)),
            Standing::Revoked => Ok(self.revoke(cluster, false, max)),
            Standing::Steady if self.phase == Phase::Assigned => fetch(cluster, &mut self.positions, &mut self.turn, max),
            Standing::Steady => Ok(Vec::new()),
        }
    }

    /// The partitions are to go: after some last records that had been fetched, the application is told, unless there
    /// is nothing to tell.
    fn revoke(&mut self, cluster: &mut Cluster, lost: bool, max: usize) -> Vec<Event> {
        if self.positions.is_empty() {
            self.join_again(cluster, lost);
            return Vec::new();
        }
        let mut events = Vec::new();
        if !cluster.schedule.prompt() && cluster.schedule.goes_on() {
            events = fetch(cluster, &mut self.positions, &mut self.turn, max).unwrap_or_default();
        }
        self.phase = Phase::Revoking { lost };
        let partitions = self.positions.keys().cloned().collect();
        events.push(Event::Revoked { partitions, lost });
        events
    }

    fn join_again(&mut self, cluster: &mut Cluster, lost: bool) {
        self.phase = Phase::Joining;
        let (instance, topics, now) = (self.instance.clone(), self.topics.clone(), cluster.clock.monotonic());
        let member = self.member.clone();
        let group = self.group(cluster);
        if lost || !group.members.contains_key(&member) {
            self.member = group.join(&instance, &topics, now);
            self.generation = -1;
        } else {
            group.rejoin(&member);
        }
        cluster.complete_rounds();
    }

    fn assigned(&mut self, partition: &TopicPartition, call: &str) -> Result<&mut Position, BrokerError> {
        let message = || format!("{call}: {partition} is not assigned to this member");
        self.positions.get_mut(partition).ok_or_else(|| BrokerError::fatal(message()))
    }
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError> {
        let shared = self.shared.clone();
        shared.wait_for_events(timeout, |cluster| self.collect(cluster, max))
    }

    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        let shared = self.shared.clone();
        let mut cluster = shared.lock();
        let deadline = Instant::now() + if shared.realtime { UNSTABLE_WAIT } else { Duration::ZERO };
        loop {
            self.tick(&mut cluster);
            if cluster.faults.strike(&[Fault::CommittedFails]).is_some() {
                return Err(transient("committed"));
            }
            let group = self.group(&mut cluster);
            let Some(unstable) = partitions.iter().find(|partition| group.unstable(partition)) else {
                return Ok(partitions.iter().map(|partition| group.committed(partition)).collect());
            };
            if !shared.wait_until(&mut cluster, deadline) {
                let message = format!("{unstable}: an open transaction may still change its position");
                return Err(BrokerError::new(Failure::Transient, message));
            }
        }
    }

    fn start(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), BrokerError> {
        for (partition, offset) in positions {
            let position = self.assigned(partition, "start")?;
            (position.next, position.ended) = (Some(*offset), None);
        }
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        for partition in partitions {
            self.assigned(partition, "pause")?.paused = true;
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        for partition in partitions {
            self.assigned(partition, "resume")?.paused = false;
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), BrokerError> {
        let Phase::Revoking { lost } = self.phase else {
            return Err(BrokerError::fatal("release: nothing is being revoked"));
        };
        let shared = self.shared.clone();
        let mut cluster = shared.lock();
        self.tick(&mut cluster);
        self.positions.clear();
        self.join_again(&mut cluster, lost);
        shared.changed();
        Ok(())
    }

    fn membership(&self) -> Membership {
        let mut cluster = self.shared.lock();
        if cluster.faults.strike(&[Fault::Kicked]).is_some() {
            self.group(&mut cluster).remove(&self.member);
        }
        // The client's own thread may have learnt that the group has expired this member, and have forgotten who it was,
        // before the application is told by a poll.
        let expired = !self.group(&mut cluster).members.contains_key(&self.member);
        let unknown = self.generation < 0 || (expired && cluster.schedule.goes_on());
        Membership {
            group: self.group.clone(),
            generation: if unknown { -1 } else { self.generation },
            member: if unknown { String::new() } else { self.member.clone() },
            instance: None,
        }
    }

    fn commit(&mut self, offsets: &[(TopicPartition, Committed)]) -> Result<(), BrokerError> {
        check_metadata(offsets).map_err(|error| BrokerError::fatal(error.message))?;
        let membership = self.membership();
        let mut cluster = self.shared.lock();
        self.tick(&mut cluster);
        let fault = cluster.faults.strike(&[Fault::OffsetRequestLost, Fault::OffsetReplyLost]);
        if fault != Some(Fault::OffsetRequestLost) {
            let group = self.group(&mut cluster);
            group.validate(membership.generation, &membership.member, false)?;
            group.commit(offsets);
        }
        fault.map_or(Ok(()), |_| Err(transient("commit")))
    }

    fn bounds(&mut self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        let mut cluster = self.shared.lock();
        self.tick(&mut cluster);
        match cluster.faults.strike(&[Fault::BoundsFails]) {
            Some(_) => Err(transient("bounds")),
            None => cluster.bounds(partition),
        }
    }

    fn ask_ends(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        let shared = self.shared.clone();
        let mut cluster = shared.lock();
        cluster.questions += 1;
        // Leaders answer at once, or when the answer is read: any time in between is allowed.
        self.questions.push_back(match cluster.schedule.goes_on() {
            true => Question::Answered(cluster.ends(partitions)),
            false => Question::Asked(partitions.to_vec()),
        });
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let mut cluster = self.shared.lock();
        let leaves = cluster.settings.leave_on_drop;
        let group = self.group(&mut cluster);
        if leaves {
            group.remove(&self.member);
        } else if let Some(member) = group.members.get_mut(&self.member) {
            member.alive = false;
        }
        cluster.complete_rounds();
        self.shared.changed();
    }
}
