//! The transaction coordinator, and the send buffers of its clients.
//!
//! ```text
//! init:  epoch + 1, so that whoever used the id before is fenced; what it left open is aborted
//! first record or offset: the transaction opens (and its timeout begins to run)
//! end:   decided at once, then a marker goes to every partition and group it touched, each in its own time
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use operator_core::Millis;

use super::cluster::Cluster;
use super::faults::Schedule;
use super::log::Stored;
use crate::broker::{BrokerError, Committed, Failure, MAX_METADATA, Membership, Refused, TopicPartition};
use crate::sim::Fault;

/// A transactional id with the epoch its client got.
pub(super) type Identity = (String, u32);

/// What the coordinator knows of a transactional id.
#[derive(Default)]
pub(super) struct Registered {
    epoch: u32,
    open: Option<Open>,
    /// How long a transaction may be open, if its producer says so.
    timeout: Option<Millis>,
}

struct Open {
    transaction: u64,
    since: Millis,
    targets: BTreeSet<Target>,
}

/// Where a marker must go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Log(TopicPartition),
    Group(String),
}

/// A decided transaction whose markers are in flight.
pub(super) struct Completion {
    id: String,
    transaction: u64,
    commit: bool,
    targets: Vec<Target>,
}

/// A commit whose client has given up on the answer.
pub(super) struct Late {
    identity: Identity,
    transaction: u64,
}

/// What a client has taken and not sent.
pub(super) struct Buffer {
    pub identity: Option<Identity>,
    pub queue: VecDeque<Queued>,
    /// The highest offset per tag.
    pub tags: BTreeMap<u32, i64>,
    pub failed: Option<BrokerError>,
    /// The transaction is to end: no more records come.
    pub ending: bool,
    pub refused: Vec<Refused>,
}

impl Buffer {
    /// The record that is sent next.
    fn next(&mut self, schedule: &mut Schedule) -> Option<Queued> {
        // Without transactions what is tagged comes last.
        let untagged = self.queue.iter().filter(|queued| queued.tag.is_none()).count();
        let held = self.identity.is_none() && (untagged > 0 || !self.ending);
        let ready = |queued: &&Queued| !held || queued.tag.is_none();
        let chosen = schedule.first_of(if held { untagged } else { self.queue.len() }.max(1));
        let partition = self.queue.iter().filter(ready).nth(chosen)?.partition.clone();
        let at = self.queue.iter().position(|queued| queued.partition == partition && ready(&queued))?;
        self.queue.remove(at)
    }
}

/// A record that waits to be sent.
pub(super) struct Queued {
    pub partition: TopicPartition,
    pub record: Arc<Stored>,
    pub tag: Option<u32>,
    pub fingerprint: u64,
}

fn fenced(id: &str) -> BrokerError {
    BrokerError::new(Failure::Fenced, format!("{id}: a newer producer has taken over, or the transaction timed out"))
}

impl Cluster {
    /// A new epoch of `id`; whatever the last one left open is aborted before this returns.
    pub fn init(&mut self, id: &str) -> Identity {
        self.init_with(id, None)
    }

    /// The same, with a timeout of its own.
    pub fn init_with(&mut self, id: &str, timeout: Option<Millis>) -> Identity {
        self.complete_all_of(id);
        self.close(id, false);
        self.complete_all_of(id);
        let registered = self.producers.entry(id.to_owned()).or_default();
        registered.epoch += 1;
        registered.timeout = timeout;
        (id.to_owned(), registered.epoch)
    }

    /// # Errors
    /// [`Failure::Fenced`] if another producer or the timeout came in between.
    pub fn check(&self, (id, epoch): &Identity) -> Result<(), BrokerError> {
        match self.producers.get(id) {
            Some(registered) if registered.epoch == *epoch => Ok(()),
            _ => Err(fenced(id)),
        }
    }

    /// The open transaction of `identity`, opened now if necessary, with one more target.
    pub fn enlist(&mut self, identity: &Identity, target: Target) -> Result<u64, BrokerError> {
        self.check(identity)?;
        if self.producers.get(&identity.0).is_some_and(|registered| registered.open.is_none()) {
            // CONCURRENT_TRANSACTIONS: the client retries until the last one's markers are written.
            self.complete_all_of(&identity.0);
        }
        let (number, since) = (self.number(), self.clock.monotonic());
        let registered = self.producers.get_mut(&identity.0).ok_or_else(|| fenced(&identity.0))?;
        let open = registered.open.get_or_insert_with(|| Open { transaction: number, since, targets: BTreeSet::new() });
        open.targets.insert(target);
        Ok(open.transaction)
    }

    /// `TxnOffsetCommit`. Takes what a broker takes, the hole of KAFKA-9365 included.
    pub fn offer(
        &mut self,
        identity: &Identity,
        offsets: &[(TopicPartition, Committed)],
        membership: &Membership,
    ) -> Result<(), BrokerError> {
        check_metadata(offsets)?;
        self.check(identity)?;
        let group = self.groups.entry(membership.group.clone()).or_default();
        group.validate(membership.generation, &membership.member, true)?;
        let transaction = self.enlist(identity, Target::Group(membership.group.clone()))?;
        if let Some(group) = self.groups.get_mut(&membership.group) {
            group.offer(transaction, offsets);
        }
        Ok(())
    }

    /// `EndTxn`: decides the open transaction, if there is one.
    pub fn end(&mut self, identity: &Identity, commit: bool) -> Result<(), BrokerError> {
        self.check(identity)?;
        self.close(&identity.0, commit);
        if self.schedule.prompt() {
            self.complete_all_of(&identity.0);
        }
        Ok(())
    }

    fn close(&mut self, id: &str, commit: bool) {
        if let Some(open) = self.producers.get_mut(id).and_then(|registered| registered.open.take()) {
            let targets = open.targets.into_iter().collect();
            self.completions.push(Completion { id: id.to_owned(), transaction: open.transaction, commit, targets });
        }
    }

    /// The client gives up on its commit; it will arrive later, if it is still welcome then.
    pub fn end_late(&mut self, identity: &Identity) {
        let open = self.producers.get(&identity.0).and_then(|registered| registered.open.as_ref());
        if let Some(transaction) = open.map(|open| open.transaction) {
            self.late.push_back(Late { identity: identity.clone(), transaction });
        }
    }

    /// Lets some late commits arrive; `all` of them where the test says when.
    pub fn deliver_late(&mut self, all: bool) {
        for _ in 0..self.late.len() {
            let Some(late) = self.late.pop_front() else { return };
            if !all && !self.schedule.goes_on() {
                self.late.push_back(late);
                continue;
            }
            let (id, _) = &late.identity;
            let open = self.producers.get(id).and_then(|registered| registered.open.as_ref());
            if open.is_some_and(|open| open.transaction == late.transaction) && self.check(&late.identity).is_ok() {
                self.close(&id.clone(), true);
            }
        }
    }

    /// Aborts what is open for too long; the producer is fenced by a new epoch.
    pub fn expire_transactions(&mut self, now: Millis) {
        let usual = self.settings.transaction_timeout;
        let expired = |registered: &Registered| {
            let limit = now - registered.timeout.unwrap_or(usual);
            registered.open.as_ref().is_some_and(|open| open.since < limit)
        };
        let ids: Vec<String> = self.producers.iter().filter(|(_, registered)| expired(registered)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.close(&id, false);
            self.complete_all_of(&id);
            if let Some(registered) = self.producers.get_mut(&id) {
                registered.epoch += 1;
            }
        }
    }

    /// Lets some markers arrive, in any order.
    pub fn complete_some(&mut self) {
        while !self.completions.is_empty() && self.schedule.goes_on() {
            let at = self.schedule.first_of(self.completions.len());
            let Some(completion) = self.completions.get_mut(at) else { return };
            if !completion.targets.is_empty() {
                let next = self.schedule.first_of(completion.targets.len());
                let target = completion.targets.swap_remove(next);
                let (transaction, commit) = (completion.transaction, completion.commit);
                self.mark(&target, transaction, commit);
            }
            self.completions.retain(|completion| !completion.targets.is_empty());
        }
    }

    pub fn complete_all(&mut self) {
        for completion in std::mem::take(&mut self.completions) {
            for target in &completion.targets {
                self.mark(target, completion.transaction, completion.commit);
            }
        }
    }

    fn complete_all_of(&mut self, id: &str) {
        let (mine, others) = std::mem::take(&mut self.completions).into_iter().partition(|completion| completion.id == id);
        self.completions = mine;
        self.complete_all();
        self.completions = others;
    }

    fn mark(&mut self, target: &Target, transaction: u64, commit: bool) {
        match target {
            Target::Log(partition) => {
                if let Some(log) = self.log_mut(partition) {
                    log.end(transaction, commit);
                }
            }
            Target::Group(group) => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.resolve(transaction, commit);
                }
            }
        }
    }

    /// Sends what some clients have buffered, as their own threads would.
    pub fn send_some(&mut self) {
        let waiting: Vec<u64> = self.buffers.iter().filter(|(_, buffer)| !buffer.queue.is_empty()).map(|(client, _)| *client).collect();
        for client in waiting {
            if self.schedule.goes_on() {
                self.send(client);
            }
        }
    }

    /// Sends some of what `client` has buffered: in order within a partition, the partitions in any order.
    pub fn send(&mut self, client: u64) {
        let Some(buffer) = self.buffers.get(&client) else { return };
        let (queued, identity) = (buffer.queue.len(), buffer.identity.clone());
        if queued == 0 {
            return;
        }
        if self.faults.strike(&[Fault::ProduceFails]).is_some() {
            let error = BrokerError::new(Failure::AbortTransaction, "a record was not delivered: injected fault");
            return self.fail_send(client, error);
        }
        for _ in 0..self.schedule.some_of(queued) {
            let next = self.buffers.get_mut(&client).and_then(|buffer| buffer.next(&mut self.schedule));
            let Some(Queued { partition, record, tag, fingerprint }) = next else { return };
            match self.write(identity.as_ref(), &partition, record) {
                Ok(offset) => {
                    if let (Some(tag), Some(buffer)) = (tag, self.buffers.get_mut(&client)) {
                        let highest = buffer.tags.entry(tag).or_insert(offset);
                        *highest = offset.max(*highest);
                    }
                }
                Err(error) => {
                    if let (Failure::Refused, Some(buffer)) = (error.failure, self.buffers.get_mut(&client)) {
                        buffer.refused.push(Refused { record: fingerprint, cause: error.message.clone() });
                    }
                    return self.fail_send(client, error);
                }
            }
        }
    }

    fn fail_send(&mut self, client: u64, error: BrokerError) {
        if let Some(buffer) = self.buffers.get_mut(&client) {
            buffer.queue.clear();
            buffer.failed = Some(error);
        }
    }

    fn write(&mut self, identity: Option<&Identity>, partition: &TopicPartition, record: Arc<Stored>) -> Result<i64, BrokerError> {
        let transaction = match identity {
            // A partition that doesn't exist must not become a target: no marker could ever be written to it.
            Some(identity) if self.log(partition).is_some() => Some(self.enlist(identity, Target::Log(partition.clone()))?),
            Some(identity) => self.check(identity).map(|()| None)?,
            None => None,
        };
        self.append(partition, transaction, record)
    }
}

/// What every coordinator refuses to store, and this project doesn't write.
pub(super) fn check_metadata(offsets: &[(TopicPartition, Committed)]) -> Result<(), BrokerError> {
    match offsets.iter().find(|(_, c)| c.metadata.len() > MAX_METADATA || !c.metadata.is_ascii()) {
        Some((partition, committed)) => Err(BrokerError::new(
            Failure::AbortTransaction,
            format!("{partition}: metadata of {} bytes: ASCII up to {MAX_METADATA} bytes", committed.metadata.len()),
        )),
        None => Ok(()),
    }
}
