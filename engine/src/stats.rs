//! A worker's statistics. Numbers of rows count what is committed: an epoch's counts join when its
//! transaction did, so that the row ledger (rule R3) is exact whatever was rewound in between.

mod life;

use std::collections::BTreeMap;
use std::sync::Arc;

use operator_core::{Ledger, Millis};
use parking_lot::Mutex;

use crate::broker::{Outcome, TopicPartition};
use crate::time::Held;

pub use life::{Life, Pulse};

/// Upper bounds of latency buckets in milliseconds.
pub const LATENCY_BUCKETS: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 60_000.0];

/// A histogram with the buckets above.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    pub buckets: [u64; LATENCY_BUCKETS.len()],
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    /// The value below which the part `q` of what was observed is, as if a bucket's values were spread evenly; infinite above the last
    /// bound, 0 while nothing was observed.
    pub fn quantile(&self, q: f64) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let rank = (self.count as f64 * q).max(1.0);
        let (mut below, mut from) = (0.0, 0.0);
        for (bound, n) in LATENCY_BUCKETS.iter().zip(self.buckets) {
            if n > 0 && below + n as f64 >= rank {
                return from + (bound - from) * (rank - below) / n as f64;
            }
            (below, from) = (below + n as f64, *bound);
        }
        f64::INFINITY
    }

    /// What was observed since `before`, an earlier state of the same histogram.
    pub fn since(&self, before: &Histogram) -> Histogram {
        let mut buckets = self.buckets;
        buckets.iter_mut().zip(before.buckets).for_each(|(n, before)| *n = n.saturating_sub(before));
        Histogram { buckets, count: self.count.saturating_sub(before.count), sum: self.sum - before.sum }
    }

    fn observe(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        if let Some(bucket) = LATENCY_BUCKETS.iter().position(|b| value <= *b).and_then(|i| self.buckets.get_mut(i)) {
            *bucket += 1;
        }
    }
}

/// Records of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    pub records: u64,
    pub rows: u64,
    /// Without a value.
    pub skipped: u64,
    pub dead: u64,
    /// Event times that look like another unit than milliseconds; their rows are among the dead or the others.
    pub wrong_unit: u64,
}

impl SourceCounts {
    fn add(&mut self, other: &SourceCounts) {
        self.records += other.records;
        self.rows += other.rows;
        self.skipped += other.skipped;
        self.dead += other.dead;
        self.wrong_unit += other.wrong_unit;
    }
}

/// What was written to an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputCounts {
    pub rows: u64,
    pub records: u64,
    /// Of keys, values and headers, before compression.
    pub bytes: u64,
    /// Rows that could not be written.
    pub refused: u64,
}

impl OutputCounts {
    fn add(&mut self, other: &OutputCounts) {
        self.rows += other.rows;
        self.records += other.records;
        self.bytes += other.bytes;
        self.refused += other.refused;
    }
}

/// The class of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A source could not make a row of a record, or refuses its event time.
    Undecodable,
    /// A step refused a row.
    Rejected,
    /// An output could not write a row.
    Unwritable,
}

/// Commits that were not known to succeed, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitFailures {
    pub aborted: u64,
    pub fenced: u64,
    pub unknown: u64,
}

/// What one epoch did.
#[derive(Default)]
pub struct Counts {
    pub sources: BTreeMap<TopicPartition, SourceCounts>,
    /// Step, partition, rows that went in, and what became of them.
    pub steps: Vec<(Arc<str>, i32, u64, Ledger)>,
    /// Step, named port, rows that came out of it.
    pub ports: Vec<(Arc<str>, String, u64)>,
    /// By sink or repartition topic.
    pub outputs: BTreeMap<String, OutputCounts>,
    /// By the source, step or output that they come from, and class.
    pub dead_letters: BTreeMap<(String, Cause), u64>,
}

impl Counts {
    /// Records of a source's partition were read.
    pub(crate) fn read(&mut self, partition: &TopicPartition, read: &SourceCounts) {
        match self.sources.get_mut(partition) {
            Some(counts) => counts.add(read),
            None => drop(self.sources.insert(partition.clone(), *read)),
        }
    }

    pub(crate) fn written(&mut self, output: &str, written: &OutputCounts) {
        let counts = match self.outputs.get_mut(output) {
            Some(counts) => counts,
            None => self.outputs.entry(output.to_string()).or_default(),
        };
        counts.add(written);
    }

    pub(crate) fn dead_letter(&mut self, step: &str, cause: Cause) {
        *self.dead_letters.entry((step.to_string(), cause)).or_default() += 1;
    }
}

/// The state of a worker's numbers at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub sources: BTreeMap<TopicPartition, SourceCounts>,
    /// By step and partition: rows in, and where they went.
    pub steps: BTreeMap<(Arc<str>, i32), (u64, Ledger)>,
    /// By step and named port: rows that came out of it.
    pub ports: BTreeMap<(Arc<str>, String), u64>,
    /// By sink or repartition topic.
    pub outputs: BTreeMap<String, OutputCounts>,
    /// By source, step or output that they come from, and class.
    pub dead_letters: BTreeMap<(String, Cause), u64>,
    pub epochs: u64,
    /// Wall clock of the last commit.
    pub last_commit: Option<Millis>,
    pub commit_failures: CommitFailures,
    /// Assignments that lanes received.
    pub rebalances: u64,
    pub rewinds: u64,
    /// From an epoch's first record to its commit, and from seal to commit, in milliseconds.
    pub epoch_latency: Histogram,
    pub commit_latency: Histogram,
    /// From the timestamp of an epoch's oldest record to its commit.
    pub end_to_end: Histogram,
    /// By partition: committed position, end of the partition as last seen, watermark.
    pub partitions: BTreeMap<TopicPartition, PartitionStats>,
    /// Records left to restore and to restore in all, by task.
    pub restoring: BTreeMap<(usize, i32), (u64, u64)>,
    /// Tasks by lane: of the lanes that know their assignment.
    pub tasks: BTreeMap<usize, Vec<(usize, i32)>>,
    /// Partitions that wait, and for what.
    pub waiting: BTreeMap<TopicPartition, String>,
    /// Silent partitions that can't follow the wall clock, and why.
    pub held: BTreeMap<TopicPartition, Held>,
    /// Topics of sources with more partitions than the worker was planned for: planned, found.
    pub grown: BTreeMap<Arc<str>, (i32, i32)>,
    /// State of steps by task and step: committed entries, and bytes of their keys and values.
    pub state: BTreeMap<(usize, i32, Arc<str>), (usize, usize)>,
    /// Local checkpoints that can't be written, and why.
    pub unwritten: BTreeMap<(usize, i32, Arc<str>), String>,
    /// Attempts to write a local checkpoint that failed.
    pub checkpoint_failures: u64,
    /// When a local checkpoint was last written.
    pub checkpointed: Option<Millis>,
    /// Restarts of lanes.
    pub restarts: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct PartitionStats {
    pub position: i64,
    pub end: i64,
    pub watermark: Option<Millis>,
}

impl Snapshot {
    fn forget_restores(&mut self) {
        let owned: Vec<(usize, i32)> = self.tasks.values().flatten().copied().collect();
        self.restoring.retain(|task, _| owned.contains(task));
    }
}

/// Shared by the lanes of a worker.
#[derive(Default)]
pub struct Stats(Mutex<Snapshot>, life::Lives);

impl Stats {
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().clone()
    }

    /// How each lane is doing.
    pub fn lanes(&self) -> BTreeMap<usize, Life> {
        self.1.all()
    }

    /// What a lane shows by that its loop turns.
    pub fn pulse(&self, lane: usize) -> Pulse {
        self.1.pulse(lane)
    }

    /// A lane makes progress: it has committed, or runs for long.
    pub(crate) fn is_well(&self, lane: usize) {
        self.1.is_well(lane);
    }

    /// An epoch is committed, at `wall`. The durations: of the epoch, of its commit, and since its oldest record.
    pub(crate) fn committed(&self, counts: &Counts, wall: Millis, (epoch, commit): (Millis, Millis), end_to_end: Option<Millis>) {
        let mut s = self.0.lock();
        s.last_commit = Some(wall);
        for (partition, c) in &counts.sources {
            s.sources.entry(partition.clone()).or_default().add(c);
        }
        for (step, partition, rows, ledger) in &counts.steps {
            let total = s.steps.entry((step.clone(), *partition)).or_default();
            total.0 += rows;
            total.1.add(ledger);
        }
        counts.ports.iter().for_each(|(step, port, rows)| *s.ports.entry((step.clone(), port.clone())).or_default() += rows);
        for (output, written) in &counts.outputs {
            s.outputs.entry(output.clone()).or_default().add(written);
        }
        counts.dead_letters.iter().for_each(|(from, n)| *s.dead_letters.entry(from.clone()).or_default() += n);
        s.epochs += 1;
        s.epoch_latency.observe(epoch as f64);
        s.commit_latency.observe(commit as f64);
        if let Some(latency) = end_to_end {
            s.end_to_end.observe(latency as f64);
        }
    }

    /// A commit ended; if it did not succeed, it counts as a failure.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        let failures = &mut self.0.lock().commit_failures;
        match outcome {
            Outcome::Committed { .. } => {}
            Outcome::Aborted(_) => failures.aborted += 1,
            Outcome::Fenced(_) => failures.fenced += 1,
            Outcome::Unknown(_) => failures.unknown += 1,
        }
    }

    pub(crate) fn position(&self, partition: &TopicPartition, offset: i64, watermark: Option<Millis>) {
        let mut s = self.0.lock();
        let p = s.partitions.entry(partition.clone()).or_default();
        p.position = offset;
        p.end = p.end.max(offset);
        p.watermark = watermark;
    }

    /// The end of a partition as last seen.
    pub fn end(&self, partition: &TopicPartition, offset: i64) {
        if let Some(p) = self.0.lock().partitions.get_mut(partition) {
            p.end = p.end.max(offset);
        }
    }

    /// The lane knows its tasks and their positions; there may be none for it.
    pub(crate) fn assigned(&self, lane: usize, tasks: impl IntoIterator<Item = (usize, i32)>) {
        let mut s = self.0.lock();
        s.rebalances += 1;
        s.tasks.insert(lane, tasks.into_iter().collect());
        s.forget_restores();
    }

    /// The lane has no assignment: it ended, or the group is moving partitions.
    pub(crate) fn unassigned<'a>(&self, lane: usize, partitions: impl Iterator<Item = &'a TopicPartition>) {
        let mut s = self.0.lock();
        for (stage, partition) in s.tasks.remove(&lane).unwrap_or_default() {
            s.state.retain(|(of, at, _), _| (*of, *at) != (stage, partition));
            s.unwritten.retain(|(of, at, _), _| (*of, *at) != (stage, partition));
        }
        for partition in partitions {
            s.partitions.remove(partition);
            s.waiting.remove(partition);
            s.held.remove(partition);
        }
        s.forget_restores();
    }

    /// A topic has more partitions than the worker was planned for: what is in them is not read.
    pub(crate) fn grown(&self, topic: &Arc<str>, planned: i32, found: i32) {
        let mut s = self.0.lock();
        if s.grown.get(topic).is_none_or(|(_, known)| found > *known) {
            s.grown.insert(topic.clone(), (planned, found));
            tracing::error!(%topic, planned, found, "the topic has more partitions than at the start: the new ones are not read. Restart all workers of the pipeline; if a step has state, run `hw run --dry-run` first: it shows what to give up");
        }
    }

    /// What holds the watermark of a silent partition back, if anything does; another reason than before is logged.
    pub(crate) fn held(&self, partition: &TopicPartition, held: Option<Held>) {
        let mut s = self.0.lock();
        let before = match held {
            Some(held) => s.held.insert(partition.clone(), held),
            None => s.held.remove(partition),
        };
        match (before.map(|before| before.reason()), held) {
            (before, Some(held)) if before != Some(held.reason()) => {
                tracing::warn!(%partition, reason = held.reason(), "the watermark is held back: {held}");
            }
            (Some(_), None) => tracing::info!(%partition, "the watermark is no longer held back"),
            _ => {}
        }
    }

    /// How large a step's committed state is.
    pub(crate) fn state(&self, (stage, partition): (usize, i32), step: &str, entries: usize, bytes: usize) {
        self.0.lock().state.insert((stage, partition, step.into()), (entries, bytes));
    }

    /// A local checkpoint was written, or could not be: in the log when this begins and when it ends.
    pub(crate) fn checkpoint(&self, (stage, partition): (usize, i32), step: &str, written: Result<(), String>, wall: Millis) {
        let mut s = self.0.lock();
        let key = (stage, partition, step.into());
        let before = s.unwritten.len();
        match written {
            Ok(()) => {
                s.checkpointed = Some(wall);
                if s.unwritten.remove(&key).is_some() && s.unwritten.is_empty() {
                    tracing::info!("local checkpoints are written again");
                }
            }
            Err(cause) => {
                s.checkpoint_failures += 1;
                if before == 0 {
                    tracing::warn!(step, partition, %cause, "a local checkpoint can't be written: results are not affected, but a restart reads the whole changelog. It is tried again with pauses");
                }
                s.unwritten.insert(key, cause);
            }
        }
    }

    pub(crate) fn restoring(&self, task: (usize, i32), left: u64, total: u64) {
        let mut s = self.0.lock();
        if left == 0 {
            s.restoring.remove(&task)
        } else {
            s.restoring.insert(task, (left, total))
        };
    }

    pub(crate) fn waiting(&self, partition: &TopicPartition, why: &str) {
        self.0.lock().waiting.insert(partition.clone(), why.to_string());
    }

    pub(crate) fn waits_no_more(&self, partition: &TopicPartition) {
        self.0.lock().waiting.remove(partition);
    }

    pub(crate) fn rewound(&self) {
        self.0.lock().rewinds += 1;
    }

    /// A lane ended and is restarted.
    pub fn restarted(&self, lane: usize, cause: &str, now: Millis) {
        self.1.restarted(lane, cause, now);
        self.0.lock().restarts += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_its_bucket() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(0.95), 0.0);
        (0..100).for_each(|_| h.observe(30.0));
        assert_eq!([0.5, 1.0].map(|q| h.quantile(q)), [35.0, 50.0]);
        let before = h.clone();
        h.observe(70_000.0);
        assert_eq!((h.since(&before).count, h.since(&before).quantile(0.95)), (1, f64::INFINITY));
        assert_eq!(h.quantile(0.5), 35.15);
    }
}
