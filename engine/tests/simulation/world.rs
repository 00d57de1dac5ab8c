//! What happens around the lanes of a run: other applications, leaders, clocks, machines and disks.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_engine::broker::{Broker, TopicPartition};
use headwater_engine::plan::Plan;
use headwater_engine::sim::{ForeignProducer, MemoryBroker, MemoryClock, Tombstones};

use crate::case::{Case, PARTITIONS, Random};

/// Each with what is expected of it: nothing changes in the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// A transaction of another application, open for a while in a partition of the source, is committed.
    ForeignCommit,
    /// It is aborted, and its records are written again.
    ForeignAbort,
    /// Its producer dies, and aborts it when it returns.
    ForeignDeath,
    /// The leader of a partition, of a source or of the pipeline's own topics, answers no reads.
    Unreachable,
    /// The wall clock shows too much for a while.
    ClockAhead,
    /// The wall clock shows too little for a while.
    ClockBack,
    /// A lane is not scheduled for longer than its session timeout, and then goes on.
    Frozen,
    /// The same for longer than its transaction timeout.
    FrozenLong,
    /// No process is scheduled.
    AllFrozen,
    /// A second process has the transactional ids of the first, which still runs.
    SecondProcess,
    /// A topic has more partitions than when the workers were started.
    Grown,
    /// A changelog is compacted.
    Compacted,
    /// Retention deletes records that were read.
    Retained,
    /// A checkpoint file is gone.
    CheckpointLost,
    /// It was not written to its end.
    CheckpointCut,
    /// A byte of it is another one.
    CheckpointDamaged,
    /// It is the file of an earlier time, as after a restored disk.
    CheckpointOld,
}

pub const TROUBLES: [Trouble; 17] = [
    Trouble::ForeignCommit,
    Trouble::ForeignAbort,
    Trouble::ForeignDeath,
    Trouble::Unreachable,
    Trouble::ClockAhead,
    Trouble::ClockBack,
    Trouble::Frozen,
    Trouble::FrozenLong,
    Trouble::AllFrozen,
    Trouble::SecondProcess,
    Trouble::Grown,
    Trouble::Compacted,
    Trouble::Retained,
    Trouble::CheckpointLost,
    Trouble::CheckpointCut,
    Trouble::CheckpointDamaged,
    Trouble::CheckpointOld,
];

/// Turns in which a lane is not scheduled.
const FREEZE: i64 = 60;
/// Longer than the session timeout, and than the transaction timeout.
const SHORT: i64 = 11_000;
const LONG: i64 = 32_000;
/// What freezes may take while records come: with everything else, less than the `idle` of the source.
const FREEZES: i64 = 40_000;
/// Less than `max_future`, beyond which a process that starts with such a clock takes its rows for rows from the future.
const BACK: i64 = 200_000;

/// A transaction of another application, and the orders in it.
struct Foreign {
    producer: ForeignProducer,
    orders: Vec<usize>,
}

pub struct World<'a> {
    case: &'a Case,
    broker: MemoryBroker,
    clock: Arc<MemoryClock>,
    random: Random,
    group: String,
    changelogs: Vec<String>,
    /// Partitions that lanes read.
    inputs: Vec<TopicPartition>,
    foreign: BTreeMap<TopicPartition, Foreign>,
    /// Orders whose transaction was aborted.
    again: VecDeque<usize>,
    unreachable: Option<TopicPartition>,
    jumped: i64,
    /// A lane that is not scheduled, the time it takes, and the turns left.
    frozen: Option<(usize, i64, i64)>,
    freezes: i64,
    /// A copy of a checkpoint file.
    copy: BTreeMap<PathBuf, Vec<u8>>,
    pub happened: BTreeMap<Trouble, u64>,
    /// Topics get partitions. Who plans again then is refused.
    pub topics_grow: bool,
}

impl<'a> World<'a> {
    pub fn new(case: &'a Case, broker: &MemoryBroker, plan: &Plan, seed: u64) -> World<'a> {
        let topics = plan.stages.iter().flat_map(|stage| &stage.inputs).flat_map(|input| &input.topics);
        let inputs = topics.flat_map(|topic| (0..topic.partitions).map(|p| TopicPartition::new(topic.name.clone(), p))).collect();
        let with_state = plan.stages.iter().flat_map(|stage| &stage.nodes).filter(|node| node.planned.state.is_some());
        World {
            case,
            broker: broker.clone(),
            clock: broker.clock().expect("a simulated broker has a virtual clock"),
            random: Random::new(seed ^ 1_234),
            group: plan.names.group(),
            changelogs: with_state.map(|node| plan.names.changelog(&node.step).to_string()).collect(),
            inputs,
            foreign: BTreeMap::new(),
            again: VecDeque::new(),
            unreachable: None,
            jumped: 0,
            frozen: None,
            freezes: FREEZES,
            copy: BTreeMap::new(),
            happened: BTreeMap::new(),
            topics_grow: true,
        }
    }

    fn count(&mut self, trouble: Trouble) {
        *self.happened.entry(trouble).or_default() += 1;
    }

    /// Writes an order: in the transaction that is open in its partition, or alone.
    pub fn write(&mut self, n: usize) {
        let Some(order) = self.case.orders.get(n) else { return };
        let (key, value, at) = (Some(order.id.as_bytes()), order.text(), Some(order.at));
        let headers = [(b"n".to_vec(), Some(n.to_string().into_bytes()))];
        let partition = TopicPartition::new(order.topic, order.partition);
        let foreign = self.foreign.get_mut(&partition).filter(|_| self.random.below(2) == 0);
        let written = match foreign {
            Some(foreign) => {
                foreign.orders.push(n);
                foreign.producer.append(&partition, key, Some(value.as_bytes()), at, &headers)
            }
            None => self.broker.append(order.topic, order.partition, key, Some(value.as_bytes()), at, &headers),
        };
        written.unwrap();
    }

    /// An order to be written again.
    pub fn again(&mut self) -> Option<usize> {
        self.again.pop_front()
    }

    /// Something may begin or end. Returns the time that passes.
    pub fn turn(&mut self) -> i64 {
        match self.random.below(2_400) {
            0..12 if self.case.in_transactions => self.foreign_begins(),
            12..24 => self.foreign_ends(),
            24..28 => self.leader_fails(),
            28..36 => self.leader_returns(),
            36..38 => self.clock_is_set(),
            38..42 => self.clock_is_right(),
            42..46 => self.freeze(),
            70 if self.topics_grow => self.grow(),
            46..58 => self.compact(),
            58..70 => self.retain(),
            _ => {}
        }
        self.thaw()
    }

    /// A partition of the source.
    fn partition(&mut self) -> TopicPartition {
        let topic = self.case.topics[self.random.below(self.case.topics.len() as u64) as usize];
        TopicPartition::new(topic, self.random.below(PARTITIONS as u64) as i32)
    }

    fn foreign_begins(&mut self) {
        let partition = self.partition();
        if !self.foreign.contains_key(&partition) {
            let producer = self.broker.foreign(&format!("application of {partition}"), i64::MAX / 4);
            self.foreign.insert(partition, Foreign { producer, orders: Vec::new() });
        }
    }

    fn foreign_ends(&mut self) {
        let Some((partition, Foreign { producer, orders })) = self.foreign.pop_first() else { return };
        let commit = self.random.below(3);
        if !orders.is_empty() {
            self.count([Trouble::ForeignCommit, Trouble::ForeignAbort, Trouble::ForeignDeath][commit as usize]);
        }
        match commit {
            0 => return producer.end(true).unwrap(),
            1 => producer.end(false).unwrap(),
            _ => drop(self.broker.foreign(&format!("application of {partition}"), i64::MAX / 4)),
        }
        self.again.extend(orders);
    }

    fn leader_fails(&mut self) {
        if self.unreachable.is_none() {
            let changelogs = self.changelogs.iter().flat_map(|topic| (0..PARTITIONS).map(|p| TopicPartition::new(topic.as_str(), p)));
            let all: Vec<TopicPartition> = changelogs.chain(self.inputs.iter().cloned()).collect();
            let at = self.random.below(all.len() as u64) as usize;
            self.fails(all[at].clone());
        }
    }

    fn fails(&mut self, partition: TopicPartition) {
        self.broker.set_reachable(&partition.topic, partition.partition, false);
        self.unreachable = Some(partition);
        self.count(Trouble::Unreachable);
    }

    fn leader_returns(&mut self) {
        if let Some(partition) = self.unreachable.take() {
            self.broker.set_reachable(&partition.topic, partition.partition, true);
        }
    }

    fn clock_is_set(&mut self) {
        if self.jumped == 0 {
            let (trouble, jump) =
                [(Trouble::ClockAhead, self.case.clock_ahead), (Trouble::ClockBack, -BACK)][self.random.below(2) as usize];
            self.jumped = jump;
            self.clock.step_wall(jump);
            self.count(trouble);
        }
    }

    fn clock_is_right(&mut self) {
        self.clock.step_wall(-std::mem::take(&mut self.jumped));
    }

    fn freeze(&mut self) {
        let (trouble, takes) =
            [(Trouble::Frozen, SHORT), (Trouble::Frozen, SHORT), (Trouble::AllFrozen, SHORT), (Trouble::FrozenLong, LONG)]
                [self.random.below(4) as usize];
        if self.frozen.is_some() || takes > self.freezes {
            return;
        }
        self.freezes -= takes;
        self.count(trouble);
        match trouble {
            Trouble::AllFrozen => self.clock.advance(takes),
            _ => self.frozen = Some((self.random.below(3) as usize, takes, FREEZE)),
        }
    }

    /// The frozen lane is a turn closer to its end. Returns the time of the turn.
    fn thaw(&mut self) -> i64 {
        let Some((lane, takes, left)) = self.frozen else { return 0 };
        self.frozen = (left > 1).then_some((lane, takes, left - 1));
        takes / FREEZE + 1
    }

    pub fn is_frozen(&self, lane: usize) -> bool {
        self.frozen.is_some_and(|(frozen, ..)| frozen == lane)
    }

    /// A topic that is read, or one that is written, gets a partition more, which nobody uses: workers that run have planned without it.
    fn grow(&mut self) {
        let topic = if self.random.below(2) == 0 { self.case.topics[0] } else { "copies" };
        let partitions = self.broker.partitions(topic).ok().flatten();
        if let Some(partitions) = partitions.filter(|partitions| *partitions <= PARTITIONS) {
            self.broker.create_topic(topic, partitions + 1);
            self.count(Trouble::Grown);
        }
    }

    pub fn second_process(&mut self) {
        self.count(Trouble::SecondProcess);
    }

    fn compact(&mut self) {
        if !self.changelogs.is_empty() {
            let at = self.random.below(self.changelogs.len() as u64) as usize;
            self.broker.compact(&self.changelogs[at], Tombstones::Keep);
            self.count(Trouble::Compacted);
        }
    }

    /// Deletes what the group has read of a topic of the pipeline's own.
    fn retain(&mut self) {
        let committed = self.broker.group_offsets(&self.group);
        let own: Vec<_> = committed.into_iter().filter(|(partition, _)| partition.topic.starts_with("hw.")).collect();
        if !own.is_empty() {
            let (partition, committed) = &own[self.random.below(own.len() as u64) as usize];
            self.broker.delete_before(&partition.topic, partition.partition, committed.offset);
            self.count(Trouble::Retained);
        }
    }

    /// A lane has died, and its disk with it, or a part of it.
    pub fn disk(&mut self, dir: &Path) {
        let mut files: Vec<PathBuf> = walk(dir);
        files.sort();
        if files.is_empty() {
            return;
        }
        let file = files.swap_remove(self.random.below(files.len() as u64) as usize);
        let mut bytes = std::fs::read(&file).unwrap();
        match self.random.below(8) {
            0 => {
                std::fs::remove_file(&file).unwrap();
                return self.count(Trouble::CheckpointLost);
            }
            1 => {
                bytes.truncate(self.random.below(bytes.len() as u64) as usize);
                self.count(Trouble::CheckpointCut);
            }
            2 | 3 if !bytes.is_empty() => {
                let at = self.random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.random.below(8);
                self.count(Trouble::CheckpointDamaged);
            }
            _ => {
                let before = self.copy.insert(file.clone(), bytes);
                let Some(before) = before else { return };
                bytes = before;
                self.count(Trouble::CheckpointOld);
            }
        }
        std::fs::write(&file, bytes).unwrap();
    }

    /// Before a silence: time must not pass for a partition whose records can't be read, nor faster than it does.
    pub fn hides_silence(&mut self) {
        if self.case.in_transactions {
            self.foreign_begins();
        }
        let partition = self.partition();
        self.fails(partition);
        self.clock_is_set();
    }

    /// Everything ends: from here on, progress is owed.
    pub fn heal(&mut self) {
        while !self.foreign.is_empty() {
            self.foreign_ends();
        }
        while let Some(n) = self.again() {
            self.write(n);
        }
        self.leader_returns();
        self.clock_is_right();
        (self.frozen, self.freezes) = (None, FREEZES);
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
