//! What a producer hands to librdkafka and when: never a record that would have to wait for another one's acknowledgement.
//!
//! librdkafka's idempotent producer allows a partition no further request while [`IN_FLIGHT`] or more messages of it are under way.
//! If messages are queued behind them and it is time to send (`linger.ms` is over, or the client is flushed), then
//! `rd_kafka_msgq_allow_wakeup_at` sets the next look at the queue to "now", and the broker's thread polls without waiting until
//! the acknowledgement comes: a core per client, on every cluster that answers later than `linger.ms`. So:
//!
//! - `linger.ms` is longer than an epoch. Records are sent by the flush at the end of their transaction.
//! - A partition is given what fits into one request. Further records are held here, in their order.
//! - The commit works in **rounds**: flush, wait until everything is acknowledged, give every partition its next request.
//!
//! Without transactions, changes of state are held until everything else is acknowledged: a crash in between then leaves rows that come
//! twice, and never state that lacks rows that came nowhere.
//!
//! That costs nothing, as librdkafka would send one request per partition at a time as well. An epoch is bounded in bytes; more than
//! [`KafkaConfig::send_buffer`](super::KafkaConfig::send_buffer) is never held, rounds are then made before the commit.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use headwater_engine::broker::{BrokerError, Outgoing, Refused};
use headwater_engine::record::buffer::RecordBuffer;

use super::codes;
use super::native::{ErrorFacts, NativeTopic, Settings, raw};
use super::outgoing::{self, Headers};
use super::producer::ProducerClient;

/// `RD_KAFKA_IDEMP_MAX_INFLIGHT`: requests of a partition under way at a time, which librdkafka counts in messages.
const IN_FLIGHT: u32 = 5;
/// `RD_KAFKAP_MESSAGE_V2_MAX_OVERHEAD`, which is also more than a header has beside its name and value.
const OVERHEAD: usize = 36;
/// Bytes of a request before its first record, the names in it included, at most about.
const REQUEST: usize = 2_048;

/// What fits into one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    bytes: usize,
    records: u32,
}

impl Limits {
    /// Those of a client with these settings.
    pub(super) fn of(settings: &Settings) -> Limits {
        let bytes = settings.number("batch.size").min(settings.number("message.max.bytes"));
        Limits { bytes: bytes.saturating_sub(REQUEST), records: u32::try_from(settings.number("batch.num.messages")).unwrap_or(u32::MAX) }
    }
}

/// Bytes of a record in a request, at most.
fn size(record: &Outgoing<'_>) -> usize {
    let bytes = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers: usize = record.headers.iter().map(|(name, value)| OVERHEAD + name.len() + bytes(*value)).sum();
    OVERHEAD + bytes(record.key) + bytes(record.value) + headers
}

/// What a partition was given since everything was acknowledged.
#[derive(Clone, Copy, Default)]
struct Given {
    bytes: usize,
    records: u32,
}

impl Given {
    /// Whether a record of this size is sent without waiting for those before it.
    fn takes(self, size: usize, limits: Limits) -> bool {
        self.records < IN_FLIGHT || (self.bytes + size <= limits.bytes && self.records < limits.records)
    }

    fn add(&mut self, size: usize) {
        self.bytes += size;
        self.records += 1;
    }
}

/// Records of a partition that are held.
struct Waiting<T> {
    topic: T,
    records: RecordBuffer,
    /// Of them, given already.
    next: usize,
}

/// A partition written to in the present transaction.
struct Slot<T> {
    given: Given,
    waiting: Option<Box<Waiting<T>>>,
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot { given: Given::default(), waiting: None }
    }
}

/// A topic written to: its name, handle and partitions.
struct Topic<T> {
    name: Arc<str>,
    handle: T,
    slots: Vec<Slot<T>>,
}

/// The open transaction of a producer. `T` is a handle of a topic.
pub(super) struct Rounds<T> {
    limits: Limits,
    /// Every record is held until the end.
    holds: bool,
    topics: Vec<Topic<T>>,
    last: usize,
    held: usize,
}

/// Offers a record to the client: `None` if it was taken.
type Offered = Option<ErrorFacts>;

impl<T: Copy> Rounds<T> {
    pub(super) fn new(limits: Limits) -> Rounds<T> {
        Rounds { limits, holds: false, topics: Vec::new(), last: 0, held: 0 }
    }

    /// For records that must not be sent before all others are acknowledged.
    pub(super) fn holding(limits: Limits) -> Rounds<T> {
        Rounds { holds: true, ..Rounds::new(limits) }
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Gives the record to the client, or holds it.
    ///
    /// # Errors
    /// The client does not take it, for another reason than that it is full.
    pub(super) fn send(
        &mut self,
        record: &Outgoing<'_>,
        open: impl FnOnce(&str) -> Result<T, BrokerError>,
        offer: impl FnOnce(T) -> Offered,
    ) -> Result<Offered, BrokerError> {
        let (limits, holds, size) = (self.limits, self.holds, size(record));
        let topic = self.topic(record.topic, open)?;
        let at = usize::try_from(record.partition).map_err(|_| BrokerError::fatal(format!("partition {}", record.partition)))?;
        if topic.slots.len() <= at {
            topic.slots.resize_with(at + 1, Slot::default);
        }
        let handle = topic.handle;
        let slot = &mut topic.slots[at];
        if !holds && slot.waiting.is_none() && slot.given.takes(size, limits) {
            match offer(handle) {
                None => {
                    slot.given.add(size);
                    return Ok(None);
                }
                Some(facts) if facts.code != codes::QUEUE_FULL => return Ok(Some(facts)),
                Some(_) => {}
            }
        }
        let waiting = slot.waiting.get_or_insert_with(|| Box::new(Waiting { topic: handle, records: RecordBuffer::default(), next: 0 }));
        waiting.records.push(*record);
        self.held += size;
        Ok(None)
    }

    /// By the name's allocation first: the engine hands in the same `Arc` again and again.
    fn topic(&mut self, name: &Arc<str>, open: impl FnOnce(&str) -> Result<T, BrokerError>) -> Result<&mut Topic<T>, BrokerError> {
        let same = |topic: &Topic<T>| Arc::ptr_eq(&topic.name, name);
        if !self.topics.get(self.last).is_some_and(same) {
            let found = self.topics.iter().position(same).or_else(|| self.topics.iter().position(|topic| topic.name == *name));
            self.last = match found {
                Some(at) => at,
                None => {
                    self.topics.push(Topic { name: name.clone(), handle: open(name)?, slots: Vec::new() });
                    self.topics.len() - 1
                }
            };
        }
        Ok(&mut self.topics[self.last])
    }

    /// Takes out the held records, for the committer to send.
    pub(super) fn end(&mut self) -> Held<T> {
        self.held = 0;
        let slots = self.topics.iter_mut().flat_map(|topic| &mut topic.slots);
        let waiting = slots.filter_map(|slot| mem::take(slot).waiting).map(|waiting| *waiting).collect();
        Held { limits: self.limits, waiting }
    }
}

/// Records that wait for their round.
pub(super) struct Held<T> {
    limits: Limits,
    waiting: Vec<Waiting<T>>,
}

impl<T: Copy> Held<T> {
    /// Once everything is acknowledged: gives every partition its next request. True if there was anything to give.
    ///
    /// # Errors
    /// The record that the client does not take, and why.
    fn round(&mut self, mut offer: impl FnMut(T, &Outgoing<'_>) -> Offered) -> Result<bool, (Refused, ErrorFacts)> {
        let (any, mut taken) = (!self.waiting.is_empty(), false);
        for waiting in &mut self.waiting {
            let mut given = Given::default();
            let stopped = waiting.records.visit(waiting.next, |record| {
                let size = size(&record);
                if !given.takes(size, self.limits) {
                    return Err(None);
                }
                match offer(waiting.topic, &record) {
                    None => given.add(size),
                    Some(facts) => {
                        let cause = format!("record for {}-{}: {}", record.topic, record.partition, facts.text);
                        return Err(Some((Refused { record: record.fingerprint(), cause }, facts)));
                    }
                }
                Ok(())
            });
            waiting.next += given.records as usize;
            taken |= given.records > 0;
            match stopped {
                // Room comes with the acknowledgements of this round, if there are any.
                Err(Some((_, facts))) if facts.code == codes::QUEUE_FULL && taken => break,
                Err(Some(refused)) => return Err(refused),
                Ok(()) | Err(None) => {}
            }
        }
        self.waiting.retain(|waiting| waiting.next < waiting.records.len());
        Ok(any)
    }
}

/// The open transaction of a client, and what is held of it.
pub(super) type ClientRounds = Rounds<Handle>;
pub(super) type ClientHeld = Held<Handle>;

/// A topic of a client.
#[derive(Clone, Copy)]
pub(super) struct Handle(pub(super) *mut NativeTopic);

// SAFETY: topic handles may be used from any thread; whoever has one keeps the client beside it, which keeps them alive.
unsafe impl Send for Handle {}

impl ClientRounds {
    /// [`Rounds::send`] to this client.
    pub(super) fn send_to(&mut self, client: &ProducerClient, record: &Outgoing<'_>) -> Result<Offered, BrokerError> {
        self.send(record, |name| client.topic(name).map(Handle), |topic| offer(client, topic, record))
    }
}

impl ClientHeld {
    /// [`Held::round`] of this client. A record that it does not take fails the transaction, like one that the brokers refuse.
    pub(super) fn round_of(&mut self, client: &ProducerClient) -> bool {
        self.round(|topic, record| offer(client, topic, record)).unwrap_or_else(|(refused, facts)| {
            client.context.not_taken(facts.code, refused);
            false
        })
    }
}

/// Waits until every record is delivered or has failed; what is held second is sent once everything before is delivered. It ends: a
/// record fails after the transaction timeout.
pub(super) fn deliver(client: &ProducerClient, held: [ClientHeld; 2], wanted: impl Fn() -> bool) {
    for mut held in held {
        loop {
            flush_while(client, &wanted);
            if client.fatal().is_some() || client.context.failed.load(Ordering::Relaxed) {
                return;
            }
            if !held.round_of(client) {
                break;
            }
        }
    }
}

/// Waits until the client has nothing left, as long as that is `wanted`.
pub(super) fn flush_while(client: &ProducerClient, wanted: impl Fn() -> bool) {
    // SAFETY: the client is valid. Callbacks touch only its context.
    while unsafe { raw::rd_kafka_flush(client.ptr(), 100) } != 0 && client.fatal().is_none() && wanted() {}
}

fn offer(client: &ProducerClient, topic: Handle, record: &Outgoing<'_>) -> Offered {
    let headers = Headers::of(record.headers);
    let refused = outgoing::offer(client, topic.0, record, headers.0);
    if refused.is_none() {
        headers.given_away();
    }
    refused
}

#[cfg(test)]
mod tests;
