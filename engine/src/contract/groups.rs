//! Clauses: who owns what, and that no one else commits for it.

use std::collections::BTreeSet;

use super::Verdict;
use super::harness::{Contract, at, expect, later, nobody, put, said, texts};
use super::transactions::nothing_happened;
use crate::broker::{Consumer, Event, GroupView, Membership, Outcome, TopicPartition};

/// How many polls without an event are taken for "it waits".
const QUIET_POLLS: u32 = 10;

/// A member as a lane would drive it.
struct Lane {
    consumer: Box<dyn Consumer>,
    holds: BTreeSet<TopicPartition>,
    /// Revoked and not released.
    revoking: bool,
}

impl Lane {
    fn new(consumer: Box<dyn Consumer>) -> Lane {
        Lane { consumer, holds: BTreeSet::new(), revoking: false }
    }

    fn poll(&mut self, contract: &Contract<'_>) -> Verdict {
        let events = later(self.consumer.poll(50, contract.patience.timeout)).map_err(said("poll"))?;
        for event in events.unwrap_or_default() {
            match event {
                Event::Assigned(_) if self.revoking || !self.holds.is_empty() => {
                    return Err("assigned before what it had was released".to_owned());
                }
                Event::Assigned(partitions) => {
                    let start: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
                    self.consumer.start(&start).map_err(said("start"))?;
                    self.holds = partitions.into_iter().collect();
                }
                Event::Revoked { partitions, lost } => {
                    expect("lost", lost, false)?;
                    expect("revoked", partitions.into_iter().collect(), self.holds.clone())?;
                    self.revoking = true;
                }
                Event::Records { partition, .. } | Event::End { partition, .. } => {
                    if self.revoking || !self.holds.contains(&partition) {
                        return Err(format!("{partition} delivers although it is not this member's"));
                    }
                }
                Event::Ends(_) => {}
            }
        }
        Ok(())
    }

    fn release(&mut self) -> Verdict {
        self.consumer.release().map_err(said("release"))?;
        self.holds.clear();
        self.revoking = false;
        Ok(())
    }

    fn poll_and_release(&mut self, contract: &Contract<'_>) -> Verdict {
        self.poll(contract)?;
        if self.revoking { self.release() } else { Ok(()) }
    }
}

/// Polls two lanes until both own something and together they own all.
fn share(contract: &Contract<'_>, lanes: [&mut Lane; 2], all: &BTreeSet<TopicPartition>) -> Verdict {
    let [first, second] = lanes;
    contract.patiently("a shared assignment", || {
        first.poll_and_release(contract)?;
        second.poll_and_release(contract)?;
        if let Some(both) = first.holds.intersection(&second.holds).next() {
            return Err(format!("{both} belongs to two members"));
        }
        let shared = !first.holds.is_empty() && !second.holds.is_empty();
        Ok((shared && first.holds.union(&second.holds).eq(all)).then_some(()))
    })
}

/// A second member gets its part only after the first has let go of everything; both parts cover all partitions, and the
/// same numbers of two topics with equally many partitions go to the same member.
pub fn two_members_share(contract: &mut Contract<'_>) -> Verdict {
    let (a, b) = (contract.topic("left", 5)?, contract.topic("right", 5)?);
    let all: BTreeSet<TopicPartition> = a.iter().chain(&b).cloned().collect();
    let names: Vec<&str> = a.iter().chain(&b).map(|partition| &*partition.topic).step_by(5).collect();
    let group = contract.name("group");
    let mut first = Lane::new(contract.consumer(&group, "lane-a", &names)?);
    contract.patiently("all partitions for the only member", || {
        first.poll_and_release(contract)?;
        Ok((first.holds == all).then_some(()))
    })?;
    let alone = first.consumer.membership();
    expect("a member that has joined is fencing", alone.is_fencing(), true)?;

    let mut second = Lane::new(contract.consumer(&group, "lane-b", &names)?);
    expect("a member that has not joined is fencing", second.consumer.membership().is_fencing(), false)?;
    contract.patiently("revocation", || {
        second.poll(contract)?;
        first.poll(contract)?;
        Ok(first.revoking.then_some(()))
    })?;
    for _ in 0..QUIET_POLLS.min(contract.patience.polls) {
        second.poll(contract)?;
        first.poll(contract)?;
        expect("assigned while another member has not released", second.holds.len(), 0)?;
    }
    first.release()?;
    share(contract, [&mut first, &mut second], &all)?;
    for lane in [&first, &second] {
        let of = |partitions: &[TopicPartition]| -> Vec<i32> {
            let held = partitions.iter().filter(|partition| lane.holds.contains(partition));
            held.map(|partition| partition.partition).collect()
        };
        expect("partition numbers of two topics in one member", of(&a), of(&b))?;
    }
    let shared = first.consumer.membership();
    expect("the generation moves on", shared.generation > alone.generation, true)?;
    expect("generation of the other member", second.consumer.membership().generation, shared.generation)
}

/// A transaction of a member of an older generation is fenced, and leaves nothing.
pub fn stale_membership_is_fenced(contract: &mut Contract<'_>) -> Verdict {
    let source = contract.topic("stale", 2)?;
    let output = contract.partition("stale-output")?;
    let partition = source.first().ok_or("two partitions were asked for")?;
    let topics = [&*partition.topic];
    let group = contract.name("group");
    let all: BTreeSet<TopicPartition> = source.iter().cloned().collect();
    let mut first = Lane::new(contract.consumer(&group, "lane-a", &topics)?);
    contract.patiently("all partitions for the only member", || {
        first.poll_and_release(contract)?;
        Ok((first.holds == all).then_some(()))
    })?;
    let stale = first.consumer.membership();
    let mut second = Lane::new(contract.consumer(&group, "lane-b", &topics)?);
    share(contract, [&mut first, &mut second], &all)?;

    let stranger = Membership { member: format!("{}-not", stale.member), ..first.consumer.membership() };
    for zombie in [stale, stranger] {
        let id = contract.name("writer");
        let mut producer = contract.producer(Some(&id))?;
        producer.begin().map_err(said("begin"))?;
        put(&mut *producer, &output, "zombie").map_err(said("send"))?;
        let offsets = vec![(partition.clone(), at(9, "zombie")), (output.clone(), at(9, "zombie"))];
        match contract.finish(&mut *producer, offsets, zombie)? {
            Outcome::Fenced(_) => {}
            other => return Err(format!("commit of a stale member: {other:?}, expected Fenced")),
        }
        expect("position", contract.committed(&mut *first.consumer, partition)?, None)?;
        nothing_happened(contract, &mut *first.consumer, &output)?;
    }
    Ok(())
}

/// Brokers would take a commit without generation and member from anyone (KAFKA-9365): the implementation doesn't send it.
pub fn membership_that_does_not_fence_is_refused(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("unfenced")?;
    let mut consumer = contract.sole_consumer(&partition)?;
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    let member = consumer.membership();
    let forged = [
        Membership { generation: -1, member: String::new(), ..member.clone() },
        Membership { generation: -1, ..member.clone() },
        Membership { member: String::new(), ..member.clone() },
    ];
    for membership in forged {
        producer.begin().map_err(said("begin"))?;
        put(&mut *producer, &partition, "unfenced").map_err(said("send"))?;
        let offsets = vec![(partition.clone(), at(9, ""))];
        match contract.finish(&mut *producer, offsets, membership)? {
            Outcome::Aborted(_) => {}
            other => return Err(format!("commit without fencing: {other:?}, expected Aborted")),
        }
        nothing_happened(contract, &mut *consumer, &partition)?;
    }
    producer.begin().map_err(said("begin"))?;
    put(&mut *producer, &partition, "fenced").map_err(said("send"))?;
    contract.finish_well(&mut *producer, vec![(partition.clone(), at(1, ""))], member)?;
    let log = contract.read(std::slice::from_ref(&partition))?;
    expect("records", texts(&log, &partition), vec!["fenced".to_owned()])
}

/// A member commits positions without a transaction, with metadata up to the limit.
pub fn commits_outside_transactions(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("outside")?;
    contract.write(&partition, &["a", "b", "c"])?;
    let mut consumer = contract.sole_consumer(&partition)?;
    let long = "m".repeat(crate::broker::MAX_METADATA);
    for position in [at(1, "v1"), at(2, &long), at(1, "")] {
        let offsets = [(partition.clone(), position.clone())];
        contract.patiently("commit", || later(consumer.commit(&offsets)).map_err(said("commit")))?;
        expect("committed", contract.committed(&mut *consumer, &partition)?, Some(position))?;
    }
    // A later transaction overrides it.
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    producer.begin().map_err(said("begin"))?;
    contract.finish_well(&mut *producer, vec![(partition.clone(), at(3, "txn"))], consumer.membership())?;
    producer.begin().map_err(said("begin"))?;
    contract.finish_well(&mut *producer, Vec::new(), nobody())?;
    expect("committed", contract.committed(&mut *consumer, &partition)?, Some(at(3, "txn")))
}

/// Members and positions of a group can be seen without joining it.
pub fn groups_are_seen_from_outside(contract: &mut Contract<'_>) -> Verdict {
    let nobodys = contract.name("group");
    let broker = contract.broker;
    let seen = |group: &str| broker.group(group).map_err(said("group"));
    expect("a group that doesn't exist", seen(&nobodys)?, GroupView::default())?;
    let partition = contract.partition("seen")?;
    contract.write(&partition, &["a", "b"])?;
    let mut consumer = contract.sole_consumer(&partition)?;
    let group = consumer.membership().group;
    expect("members, no positions", seen(&group)?, GroupView { members: 1, committed: Default::default() })?;
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    producer.begin().map_err(said("begin"))?;
    contract.finish_well(&mut *producer, vec![(partition.clone(), at(2, "hw1 a b"))], consumer.membership())?;
    expect("committed", contract.committed(&mut *consumer, &partition)?, Some(at(2, "hw1 a b")))?;
    expect("positions", seen(&group)?.committed, [(partition, at(2, "hw1 a b"))].into())
}
