//! A consumer group: members, generations, eager rebalances, committed positions.
//!
//! ```text
//! Stable --(a member comes, goes or expires; topics change)--> Preparing
//! Preparing: every member learns that its partitions are revoked, settles, releases = joins the round
//! Preparing --(all members have joined)--> Stable: generation + 1, the range assignor gives every member its part
//! ```
//!
//! A member that died without leaving holds the round up until it is expired, as in Kafka.

use std::collections::{BTreeMap, BTreeSet};

use operator_core::Millis;

use crate::broker::{BrokerError, Committed, Failure, TopicPartition};

pub(super) struct Member {
    pub instance: String,
    pub topics: Vec<String>,
    /// When it was last heard of, on the monotonic clock.
    pub heard: Millis,
    /// False once its client was dropped without leaving.
    pub alive: bool,
    /// Has joined the round in preparation: holds nothing any more.
    joined: bool,
    assignment: Vec<TopicPartition>,
    /// The client has received its assignment.
    notified: bool,
}

/// What a member that polls must learn.
pub(super) enum Standing {
    /// The group doesn't know it (any more).
    Unknown,
    /// A new assignment of this generation.
    Assigned(i32, Vec<TopicPartition>),
    /// It must give up its partitions and join the round.
    Revoked,
    /// Nothing new.
    Steady,
}

#[derive(Default)]
pub(super) struct Group {
    pub generation: i32,
    pub members: BTreeMap<String, Member>,
    preparing: bool,
    joins: u64,
    commits: u64,
    /// Committed positions, each with the order in which it was written.
    offsets: BTreeMap<TopicPartition, (u64, Committed)>,
    /// Positions written in transactions that have not ended here yet.
    pending: BTreeMap<u64, BTreeMap<TopicPartition, (u64, Committed)>>,
}

impl Group {
    /// Adds a member and returns its id.
    pub fn join(&mut self, instance: &str, topics: &[String], now: Millis) -> String {
        self.joins += 1;
        let id = format!("{instance}-{:06}", self.joins);
        let member = Member {
            instance: instance.to_owned(),
            topics: topics.to_vec(),
            heard: now,
            alive: true,
            joined: true,
            assignment: Vec::new(),
            notified: true,
        };
        self.members.insert(id.clone(), member);
        self.prepare_but(Some(&id));
        id
    }

    /// Starts a rebalance, unless one is being prepared.
    pub fn prepare(&mut self) {
        self.prepare_but(None);
    }

    fn prepare_but(&mut self, joined: Option<&str>) {
        if !self.preparing {
            self.preparing = true;
            for (id, member) in &mut self.members {
                member.joined = joined == Some(id.as_str());
            }
        }
    }

    /// A member takes part in the round in preparation, holding nothing any more.
    pub fn rejoin(&mut self, member: &str) {
        if let Some(member) = self.members.get_mut(member) {
            member.joined = true;
            member.assignment.clear();
            member.notified = true;
        }
    }

    pub fn remove(&mut self, member: &str) {
        if self.members.remove(member).is_some() {
            self.prepare();
        }
    }

    pub fn expire_older_than(&mut self, limit: Millis) {
        let dead: Vec<String> = self.members.iter().filter(|(_, member)| member.heard < limit).map(|(id, _)| id.clone()).collect();
        for member in dead {
            self.remove(&member);
        }
    }

    /// Ends the round if everyone has joined it. `partitions` returns the number of partitions of a topic.
    pub fn complete(&mut self, partitions: &dyn Fn(&str) -> i32) {
        if !self.preparing || !self.members.values().all(|member| member.joined) {
            return;
        }
        self.preparing = false;
        self.generation += 1;
        let mut assignments = self.range(partitions);
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
            member.joined = false;
            member.notified = false;
        }
    }

    /// Kafka's `RangeAssignor`: topic by topic, consecutive partitions to the members in the order of their ids, the
    /// first ones getting one more. Topics with equally many partitions and subscribers are therefore co-partitioned.
    fn range(&self, partitions: &dyn Fn(&str) -> i32) -> BTreeMap<String, Vec<TopicPartition>> {
        let topics: BTreeSet<&String> = self.members.values().flat_map(|member| &member.topics).collect();
        let mut assignments: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
        for topic in topics {
            let subscribers: Vec<&String> =
                self.members.iter().filter(|(_, member)| member.topics.contains(topic)).map(|(id, _)| id).collect();
            let count = partitions(topic).max(0) as usize;
            let (each, extra) = (count / subscribers.len().max(1), count % subscribers.len().max(1));
            let mut next = 0;
            for (at, id) in subscribers.into_iter().enumerate() {
                let share = each + usize::from(at < extra);
                let range = next..next + share;
                let mine = range.map(|partition| TopicPartition::new(topic.as_str(), partition as i32));
                assignments.entry(id.clone()).or_default().extend(mine);
                next += share;
            }
        }
        assignments
    }

    /// What the member must learn now. An assignment counts as received once it was returned here.
    pub fn standing(&mut self, member: &str) -> Standing {
        let Some(member) = self.members.get_mut(member) else { return Standing::Unknown };
        if !member.notified {
            member.notified = true;
            return Standing::Assigned(self.generation, member.assignment.clone());
        }
        if self.preparing && !member.joined { Standing::Revoked } else { Standing::Steady }
    }

    /// Whether the group accepts positions from this member of this generation (KIP-447 for transactional ones).
    ///
    /// # Errors
    /// [`Failure::Fenced`], except for what brokers let through: a transactional commit without generation and member
    /// id is accepted from anyone (KAFKA-9365).
    pub fn validate(&self, generation: i32, member: &str, transactional: bool) -> Result<(), BrokerError> {
        if generation < 0 && member.is_empty() && (transactional || self.members.is_empty()) {
            return Ok(());
        }
        if !self.members.contains_key(member) {
            return Err(BrokerError::new(Failure::Fenced, format!("unknown member id {member:?}")));
        }
        if generation != self.generation {
            let message = format!("illegal generation {generation}: the group is at {}", self.generation);
            return Err(BrokerError::new(Failure::Fenced, message));
        }
        Ok(())
    }

    pub fn commit(&mut self, offsets: &[(TopicPartition, Committed)]) {
        for (partition, committed) in offsets {
            self.commits += 1;
            self.offsets.insert(partition.clone(), (self.commits, committed.clone()));
        }
    }

    /// The topic is gone, and so are positions in it.
    pub fn forget(&mut self, topic: &str) {
        self.offsets.retain(|partition, _| partition.topic.as_ref() != topic);
        for pending in self.pending.values_mut() {
            pending.retain(|partition, _| partition.topic.as_ref() != topic);
        }
    }

    /// Positions that count once `transaction` commits.
    pub fn offer(&mut self, transaction: u64, offsets: &[(TopicPartition, Committed)]) {
        let pending = self.pending.entry(transaction).or_default();
        for (partition, committed) in offsets {
            self.commits += 1;
            pending.insert(partition.clone(), (self.commits, committed.clone()));
        }
    }

    /// The marker of `transaction` arrives. What was written later wins, not what was completed later: so the group
    /// coordinator does it.
    pub fn resolve(&mut self, transaction: u64, commit: bool) {
        for (partition, (written, committed)) in self.pending.remove(&transaction).unwrap_or_default() {
            let newer = self.offsets.get(&partition).is_none_or(|(current, _)| *current < written);
            if commit && newer {
                self.offsets.insert(partition, (written, committed));
            }
        }
    }

    /// Whether an open transaction may still change the position (`UNSTABLE_OFFSET_COMMIT`).
    pub fn unstable(&self, partition: &TopicPartition) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(partition))
    }

    pub fn committed(&self, partition: &TopicPartition) -> Option<Committed> {
        self.offsets.get(partition).map(|(_, committed)| committed.clone())
    }

    pub fn all_committed(&self) -> BTreeMap<TopicPartition, Committed> {
        self.offsets.iter().map(|(partition, (_, committed))| (partition.clone(), committed.clone())).collect()
    }
}
