//! The producer: buffers records, and ends its transaction in steps that a schedule spreads over several calls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use operator_core::Millis;

use super::cluster::Cluster;
use super::log::Stored;
use super::transaction::{Buffer, Identity, Queued};
use super::{Fault, Shared};
use crate::broker::{BrokerError, Committed, Failure, Membership, Outcome, Outgoing, Producer, Progress, Refused, TopicPartition};

/// A client holds at most this many records back.
const MAX_BUFFERED: usize = 1000;

enum Phase {
    /// No transaction.
    Idle,
    Open,
    /// `commit` was called: records go out.
    Sending(Vec<(TopicPartition, Committed)>, Membership),
    /// All records are in their logs: the commit goes out.
    Acknowledged(Vec<(TopicPartition, Committed)>, Membership),
    /// It is decided, and the answer in flight.
    Answered(Outcome),
    Ended(Outcome),
    /// Good for nothing any more.
    Broken(BrokerError),
}

/// A producer of the in-memory world. Dropping it is the death of its process: what it had buffered is gone, what it
/// had open stays open until its timeout or a new producer with its id.
pub(super) struct MemoryProducer {
    shared: Arc<Shared>,
    client: u64,
    identity: Option<Identity>,
    phase: Phase,
    /// When the transaction began, on the monotonic clock.
    begun: Millis,
}

impl MemoryProducer {
    pub fn new(shared: Arc<Shared>, cluster: &mut Cluster, id: Option<&str>) -> MemoryProducer {
        let identity = id.map(|id| cluster.init(id));
        let client = cluster.number();
        let buffer = Buffer {
            identity: identity.clone(),
            queue: VecDeque::new(),
            tags: BTreeMap::new(),
            failed: None,
            ending: false,
            refused: Vec::new(),
        };
        cluster.buffers.insert(client, buffer);
        MemoryProducer { shared, client, identity, phase: Phase::Idle, begun: 0 }
    }

    fn misuse(&self, call: &str) -> BrokerError {
        let state = match &self.phase {
            Phase::Idle => "no transaction is open",
            Phase::Open => "a transaction is open",
            Phase::Sending(..) | Phase::Acknowledged(..) | Phase::Answered(_) => "a commit is under way",
            Phase::Ended(_) => "the transaction has ended",
            Phase::Broken(error) => return error.clone(),
        };
        BrokerError::fatal(format!("{call}: {state}"))
    }

    /// Empties the buffer and aborts what is open; how the transaction ended because of `error`.
    fn fail(&self, cluster: &mut Cluster, error: BrokerError) -> Outcome {
        if let Some(buffer) = cluster.buffers.get_mut(&self.client) {
            buffer.queue.clear();
            buffer.failed = None;
        }
        let aborted = self.identity.as_ref().map_or(Ok(()), |identity| cluster.end(identity, false));
        let expired = cluster.clock.monotonic() - self.begun > cluster.settings.transaction_timeout;
        match (aborted, error.failure) {
            // The coordinator raises the epoch for both, so a client uses the age: no one has taken over here.
            (Err(fenced), _) if expired => Outcome::Unknown(fenced.message),
            (Err(fenced), _) => Outcome::Fenced(fenced.message),
            (Ok(()), Failure::Fenced) => Outcome::Fenced(error.message),
            (Ok(()), _) => Outcome::Aborted(error.message),
        }
    }

    /// One step towards the end.
    fn step(&self, cluster: &mut Cluster, phase: Phase) -> Phase {
        match phase {
            Phase::Sending(offsets, membership) => {
                cluster.send(self.client);
                let buffer = cluster.buffers.get_mut(&self.client);
                let (left, failed) = buffer.map_or((0, None), |b| (b.queue.len(), b.failed.take()));
                match failed {
                    Some(error) => Phase::Answered(self.fail(cluster, error)),
                    None if left == 0 && cluster.schedule.goes_on() => Phase::Acknowledged(offsets, membership),
                    None => Phase::Sending(offsets, membership),
                }
            }
            Phase::Acknowledged(offsets, membership) if cluster.schedule.goes_on() => {
                Phase::Answered(self.end(cluster, &offsets, &membership))
            }
            Phase::Answered(outcome) if cluster.schedule.goes_on() => Phase::Ended(outcome),
            other => other,
        }
    }

    /// Adds the positions and commits: the point at which the transaction is decided.
    fn end(&self, cluster: &mut Cluster, offsets: &[(TopicPartition, Committed)], membership: &Membership) -> Outcome {
        let tags = |cluster: &Cluster| {
            let tags = cluster.buffers.get(&self.client).map(|buffer| &buffer.tags);
            tags.into_iter().flatten().map(|(tag, offset)| (*tag, *offset)).collect()
        };
        let Some(identity) = &self.identity else {
            return Outcome::Committed { tags: tags(cluster) };
        };
        if !offsets.is_empty()
            && let Err(error) = cluster.offer(identity, offsets, membership)
        {
            return self.fail(cluster, error);
        }
        let possible = [Fault::CommitRefused, Fault::CommitRequestLost, Fault::CommitReplyLost, Fault::CommitLate];
        let lost = |what: &str| Outcome::Unknown(format!("commit timed out: injected fault ({what})"));
        match cluster.faults.strike(&possible) {
            Some(Fault::CommitRefused) => {
                let error = BrokerError::new(Failure::AbortTransaction, "commit refused: injected fault");
                self.fail(cluster, error)
            }
            Some(Fault::CommitRequestLost) => lost("the request was lost"),
            Some(Fault::CommitLate) => {
                cluster.end_late(identity);
                lost("the request is late")
            }
            Some(_) => {
                let _ = cluster.end(identity, true);
                lost("the reply was lost")
            }
            None => match cluster.end(identity, true) {
                Ok(()) => Outcome::Committed { tags: tags(cluster) },
                Err(error) => self.fail(cluster, error),
            },
        }
    }
}

impl Producer for MemoryProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        match &self.phase {
            Phase::Idle => {}
            Phase::Ended(Outcome::Unknown(_)) => {
                return Err(BrokerError::fatal("begin: the last outcome is unknown; start a new producer"));
            }
            Phase::Ended(_) => {}
            _ => return Err(self.misuse("begin")),
        }
        let mut cluster = self.shared.lock();
        if let Some(buffer) = cluster.buffers.get_mut(&self.client) {
            (buffer.tags, buffer.failed, buffer.ending, buffer.refused) = (BTreeMap::new(), None, false, Vec::new());
        }
        if let Some(identity) = &self.identity {
            cluster.check(identity)?;
        }
        self.begun = cluster.clock.monotonic();
        self.phase = Phase::Open;
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), BrokerError> {
        if !matches!(self.phase, Phase::Open) {
            return Err(self.misuse("send"));
        }
        let mut cluster = self.shared.lock();
        cluster.tick();
        let stored = Stored {
            // A Kafka client stamps records that have no time of their own.
            timestamp: Some(record.timestamp.unwrap_or_else(|| cluster.clock.wall())),
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers.iter().map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec))).collect(),
        };
        let partition = TopicPartition { topic: record.topic.clone(), partition: record.partition };
        let buffer = cluster.buffers.get_mut(&self.client);
        let buffer = buffer.ok_or_else(|| BrokerError::fatal("send: the producer is closed"))?;
        if let Some(error) = &buffer.failed {
            return Err(error.clone());
        }
        buffer.queue.push_back(Queued { partition, record: Arc::new(stored), tag: record.tag, fingerprint: record.fingerprint() });
        if buffer.queue.len() > MAX_BUFFERED || cluster.schedule.prompt() {
            cluster.send(self.client);
        }
        self.shared.changed();
        match cluster.buffers.get(&self.client).and_then(|buffer| buffer.failed.clone()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn commit(&mut self, offsets: Vec<(TopicPartition, Committed)>, membership: Membership) -> Result<(), BrokerError> {
        if !matches!(self.phase, Phase::Open) {
            return Err(self.misuse("commit"));
        }
        let mut cluster = self.shared.lock();
        cluster.tick();
        // Without transactions the positions are the consumer's to commit.
        let fences = self.identity.is_none() || offsets.is_empty() || membership.is_fencing();
        self.phase = if cluster.settings.guard_membership && !fences {
            let message = "this member has not joined its group: the commit would not be fenced (KAFKA-9365)";
            Phase::Answered(self.fail(&mut cluster, BrokerError::new(Failure::AbortTransaction, message)))
        } else {
            if let Some(buffer) = cluster.buffers.get_mut(&self.client) {
                buffer.ending = true;
            }
            Phase::Sending(offsets, membership)
        };
        Ok(())
    }

    fn progress(&mut self, _timeout: Duration) -> Progress {
        let shared = self.shared.clone();
        let mut cluster = shared.lock();
        cluster.tick();
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        self.phase = self.step(&mut cluster, phase);
        shared.changed();
        match &self.phase {
            Phase::Sending(..) => Progress::Sending,
            Phase::Acknowledged(..) => Progress::Acknowledged,
            // Only a commit went through the acknowledgement; what failed before is known as soon as it failed.
            Phase::Answered(Outcome::Committed { .. } | Outcome::Unknown(_)) => Progress::Acknowledged,
            Phase::Answered(outcome) | Phase::Ended(outcome) => {
                let outcome = outcome.clone();
                self.phase = Phase::Ended(outcome.clone());
                Progress::Done(outcome)
            }
            Phase::Broken(error) => Progress::Done(Outcome::Unknown(error.message.clone())),
            Phase::Idle | Phase::Open => Progress::Done(Outcome::Aborted("no commit is under way".to_owned())),
        }
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        match &self.phase {
            Phase::Open => {}
            Phase::Idle => return Ok(()),
            Phase::Ended(outcome) if !matches!(outcome, Outcome::Unknown(_)) => return Ok(()),
            _ => return Err(self.misuse("abort")),
        }
        let shared = self.shared.clone();
        let mut cluster = shared.lock();
        cluster.tick();
        if cluster.faults.strike(&[Fault::AbortFails]).is_some() {
            let error = BrokerError::fatal("abort timed out: injected fault");
            self.phase = Phase::Broken(error.clone());
            return Err(error);
        }
        let outcome = self.fail(&mut cluster, BrokerError::new(Failure::AbortTransaction, "aborted"));
        shared.changed();
        let result = match &outcome {
            Outcome::Fenced(message) => Err(BrokerError::new(Failure::Fenced, message.clone())),
            _ => Ok(()),
        };
        self.phase = Phase::Ended(outcome);
        result
    }

    fn refused(&mut self) -> Vec<Refused> {
        let mut cluster = self.shared.lock();
        cluster.buffers.get_mut(&self.client).map(|buffer| std::mem::take(&mut buffer.refused)).unwrap_or_default()
    }
}

impl Drop for MemoryProducer {
    fn drop(&mut self) {
        self.shared.lock().buffers.remove(&self.client);
    }
}
