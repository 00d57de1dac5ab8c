//! A group member over librdkafka.
//!
//! **Rebalance.** The callback runs inside the polling call. It notes the event, wakes the poll and does nothing else;
//! `poll` then reports it in order. Findings in librdkafka 2.12.1 shape this:
//! - `rd_kafka_yield` in a callback makes the *batch* call drop the next message on the floor (`rd_kafka_q_serve_rkmessages`
//!   breaks out after dequeuing it), so the callback wakes the queue with `rd_kafka_queue_yield` instead.
//! - Until the application answers an assignment, the client does not act on the next rebalance
//!   (`rd_kafka_cgrp_handle_Heartbeat`), and a long restore would hold up the whole group. So `poll` answers at once with
//!   an *empty* assignment: the member is steady, heartbeats and can be revoked, and nothing is fetched. What the group
//!   assigned is remembered here, and by the client for the revocation.
//! - [`Consumer::start`] assigns the started partitions with explicit offsets. For a rewind it does the same again, all
//!   started partitions with their positions: stopping and starting a partition raises its version, and queued messages
//!   of an older version are dropped by librdkafka when popped. A check of every set's first offset stands behind that.
//! - Assignments in quick succession end the process, so that each waits for the previous one ([`group::assign`]).
//! - A resumed partition continues where librdkafka thinks the application is, and the batch call counts an end-of-partition
//!   report as a record (`rd_kafka_q_serve_rkmessages`): paused at its end, a partition resumes one record too far and
//!   that record is lost. So [`Consumer::resume`] seeks to the position kept here first.
//!
//! Before a revocation is reported librdkafka has paused the partitions and raised their versions; records that came in
//! the same batch are dropped here: no one has seen them and the next owner reads them.
//!
//! **Offsets** are never stored or committed by the client itself, and `auto.offset.reset=error`: a position that isn't
//! in the log is an error that an operator must resolve, never a silent jump.
//!
//! Honest limits: header names end at their first NUL byte (librdkafka's interface). `pause` throws away what was
//! prefetched for the partition, which is then fetched again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{BrokerError, Committed, Consumer, Event, Failure, Membership, TopicPartition};
use rdkafka::bindings as sys;

use super::admin::Admin;
use super::codes;
use super::committed;
use super::ends::Ends;
use super::group::{self, Group, Rebalance};
use super::lists::{self, PartitionList};
use super::native::{self, Client, ErrorFacts, raw};
use super::records::{Fetched, Fetcher};
use super::settings::{KafkaConfig, Role};

/// How long an offset commit outside transactions, and a question about offsets, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// See the module text.
pub(super) struct KafkaConsumer {
    client: Arc<Client<Group>>,
    fetcher: Fetcher<Group>,
    ends: Ends<Group>,
    admin: Arc<Admin>,
    group: String,
    /// What the group gave this member.
    assigned: BTreeSet<TopicPartition>,
    /// Started partitions and the next offset the lane expects.
    positions: BTreeMap<TopicPartition, i64>,
    paused: BTreeSet<TopicPartition>,
    /// Reported revoked, and not released yet.
    revoked: bool,
    /// An error to report after the events that came before it.
    failed: Option<BrokerError>,
    committed_within: Duration,
}

impl KafkaConsumer {
    pub(super) fn join(
        config: &KafkaConfig,
        admin: &Arc<Admin>,
        group: &str,
        instance: &str,
        topics: &[String],
    ) -> Result<KafkaConsumer, BrokerError> {
        let mut settings = config.settings(Role::Member { group, instance })?;
        group::listen(&mut settings);
        let client = Client::new(false, settings, config.reach(), Arc::new(Group::default()))?;
        // SAFETY: the client is valid. Errors of the client then come by the consumer's queue, which is polled.
        let code = unsafe { raw::rd_kafka_poll_set_consumer(client.ptr()) };
        if code != 0 {
            return Err(codes::error("consumer queue", code));
        }
        // SAFETY: the client is a consumer with a group, so that it has this queue; kept until the client goes.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(client.ptr()) };
        client.keep_queue(queue);
        client.context.wake_through(queue);
        let mut list = PartitionList::new(topics.len());
        for topic in topics {
            list.add(topic, -1)?;
        }
        // SAFETY: client and list are valid; the list is copied.
        let code = unsafe { raw::rd_kafka_subscribe(client.ptr(), list.as_ptr()) };
        if code != 0 {
            return Err(codes::error(format!("subscribing to {}", topics.join(", ")), code));
        }
        Ok(KafkaConsumer {
            fetcher: Fetcher::new(client.clone(), queue),
            ends: Ends::of(&client),
            client,
            admin: admin.clone(),
            group: group.to_owned(),
            assigned: BTreeSet::new(),
            positions: BTreeMap::new(),
            paused: BTreeSet::new(),
            revoked: false,
            failed: None,
            committed_within: config.transaction_timeout + ANSWER_WITHIN,
        })
    }

    /// Tells librdkafka what to read; `None`: nothing, and the group may continue.
    fn assign(&self, list: Option<&PartitionList>) -> Result<(), BrokerError> {
        match group::assign(&self.client, list) {
            0 => Ok(()),
            code => Err(self.error("assigning partitions", code)),
        }
    }

    /// Reads all started partitions, from their positions on.
    fn restart(&self) -> Result<(), BrokerError> {
        self.assign(Some(&self.at_positions(self.positions.keys())?))
    }

    fn at_positions<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<PartitionList, BrokerError> {
        let mut list = PartitionList::new(self.positions.len());
        for partition in partitions {
            if let Some(offset) = self.positions.get(partition) {
                list.add(&partition.topic, partition.partition)?.offset = *offset;
            }
        }
        Ok(list)
    }

    /// Puts paused partitions where the lane is. False if that could not be done, for whatever reason.
    fn seek(&self, paused: &[TopicPartition]) -> bool {
        let Ok(list) = self.at_positions(paused) else { return false };
        // SAFETY: client and list are valid; answers are written into the list.
        let error = unsafe { sys::rd_kafka_seek_partitions(self.client.ptr(), list.as_ptr(), 1_000) };
        ErrorFacts::take(error).is_none() && list.read().iter().all(|listed| listed.code == 0)
    }

    /// An error with the reason that broke the client, where that is why.
    fn error(&self, what: &str, code: i32) -> BrokerError {
        match self.client.fatal() {
            Some((fatal, text)) => {
                let failure = if codes::is_member_fenced(fatal) { Failure::Fenced } else { Failure::Fatal };
                BrokerError::new(failure, format!("{what}: {text}"))
            }
            None => codes::error(what, code),
        }
    }

    /// Reports what the callback noted, in order. True if a revocation is among it.
    fn rebalanced(&mut self, events: &mut Vec<Event>) -> Result<bool, BrokerError> {
        let mut any = false;
        loop {
            match self.client.context.next() {
                None => return Ok(any),
                Some(Rebalance::Assigned(partitions)) => {
                    self.assign(Some(&PartitionList::new(0)))?;
                    self.assigned = partitions.iter().cloned().collect();
                    self.positions.clear();
                    self.revoked = false;
                    // An empty one, too: there are more members than partitions, and this one has nothing to do.
                    events.push(Event::Assigned(partitions));
                }
                Some(Rebalance::Revoked { partitions, lost }) => {
                    any = true;
                    if partitions.is_empty() {
                        self.let_go()?;
                    } else {
                        self.revoked = true;
                        events.push(Event::Revoked { partitions, lost });
                    }
                }
            }
        }
    }

    fn let_go(&mut self) -> Result<(), BrokerError> {
        // A pause outlives the assignment in librdkafka; the next one must not find it.
        let paused: Vec<_> = std::mem::take(&mut self.paused).into_iter().collect();
        self.set_paused(&paused, false)?;
        self.assigned.clear();
        self.positions.clear();
        self.revoked = false;
        self.assign(None)
    }

    fn deliver(&mut self, fetched: Vec<Fetched>, dropping: bool, events: &mut Vec<Event>) {
        for item in fetched {
            match item {
                Fetched::Records { partition, first, last, mut records } => {
                    let Some(expected) = self.positions.get_mut(&partition).filter(|_| !dropping && !self.revoked) else {
                        continue;
                    };
                    if first < *expected {
                        tracing::warn!(%partition, first, expected = *expected, "records from before the position");
                        records.skip_before(*expected);
                        if last < *expected {
                            continue;
                        }
                    }
                    *expected = last + 1;
                    events.push(Event::Records { partition, records: Box::new(records) });
                }
                Fetched::End { partition, offset } => {
                    if let Some(expected) = self.positions.get_mut(&partition).filter(|_| !dropping && !self.revoked) {
                        *expected = offset.max(*expected);
                        events.push(Event::End { partition, offset });
                    }
                }
                Fetched::Error { partition, offset, code, text } => self.note(partition, offset, code, &text),
            }
        }
    }

    /// An error that came by the queue: passing ones are logged, the others end the next poll. The partition then stays
    /// silent until it is started again: what librdkafka delivers behind a damaged batch must not be taken for what
    /// follows the last record.
    fn note(&mut self, partition: Option<TopicPartition>, offset: i64, code: i32, text: &str) {
        let place = match &partition {
            Some(partition) => format!("{partition} at offset {offset}"),
            None => format!("group {}", self.group),
        };
        let Some(failure) = group::failure(code) else {
            self.client.context.quiet.warn(&place, code, text);
            return;
        };
        if let Some(partition) = partition {
            self.positions.remove(&partition);
        }
        self.failed = Some(match code {
            codes::FATAL => self.error(&place, code),
            _ => BrokerError::new(failure, format!("{place}: {text}")),
        });
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], pause: bool) -> Result<(), BrokerError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let list = PartitionList::of(partitions)?;
        // SAFETY: client and list are valid.
        let code = unsafe {
            if pause {
                raw::rd_kafka_pause_partitions(self.client.ptr(), list.as_ptr())
            } else {
                raw::rd_kafka_resume_partitions(self.client.ptr(), list.as_ptr())
            }
        };
        if code == 0 { Ok(()) } else { Err(self.error("pausing partitions", code)) }
    }

    fn check_assigned<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<(), BrokerError> {
        match partitions.into_iter().find(|partition| !self.assigned.contains(*partition)) {
            Some(partition) => Err(BrokerError::new(Failure::Fenced, format!("{partition} is not assigned to this member"))),
            None => Ok(()),
        }
    }
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let context = self.client.context.clone();
        let fetched = self.fetcher.fetch(max, timeout, || context.has_news());
        let mut events = Vec::with_capacity(fetched.len());
        let dropping = self.rebalanced(&mut events)?;
        self.deliver(fetched, dropping, &mut events);
        events.extend(self.ends.answer().map(Event::Ends));
        match self.failed.take() {
            Some(error) if events.is_empty() => Err(error),
            later => {
                self.failed = later;
                Ok(events)
            }
        }
    }

    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        committed::read(&self.client, partitions, self.committed_within, |what, code| self.error(what, code))
    }

    fn start(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), BrokerError> {
        self.check_assigned(positions.iter().map(|(partition, _)| partition))?;
        let paused: Vec<_> = positions.iter().map(|(partition, _)| partition).filter(|p| self.paused.remove(*p)).cloned().collect();
        self.set_paused(&paused, false)?;
        self.positions.extend(positions.iter().cloned());
        self.restart()
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.check_assigned(partitions)?;
        self.set_paused(partitions, true)?;
        self.paused.extend(partitions.iter().cloned());
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.check_assigned(partitions)?;
        let paused: Vec<_> = partitions.iter().filter(|partition| self.paused.remove(*partition)).cloned().collect();
        if paused.is_empty() {
            return Ok(());
        }
        let sought = self.seek(&paused);
        self.set_paused(&paused, false)?;
        if sought { Ok(()) } else { self.restart() }
    }

    fn release(&mut self) -> Result<(), BrokerError> {
        self.let_go()
    }

    fn membership(&self) -> Membership {
        // SAFETY: the client is valid; the metadata object is owned here, its strings are copied before it is destroyed.
        unsafe {
            let metadata = sys::rd_kafka_consumer_group_metadata(self.client.ptr());
            if metadata.is_null() {
                return Membership { group: self.group.clone(), generation: -1, member: String::new(), instance: None };
            }
            let instance = native::string(sys::rd_kafka_consumer_group_metadata_group_instance_id(metadata));
            let membership = Membership {
                group: self.group.clone(),
                generation: sys::rd_kafka_consumer_group_metadata_generation_id(metadata),
                member: native::string(sys::rd_kafka_consumer_group_metadata_member_id(metadata)),
                instance: (!instance.is_empty()).then_some(instance),
            };
            sys::rd_kafka_consumer_group_metadata_destroy(metadata);
            membership
        }
    }

    fn commit(&mut self, offsets: &[(TopicPartition, Committed)]) -> Result<(), BrokerError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let list = PartitionList::at(offsets)?;
        // SAFETY: everything is valid during the calls; the queue and the event are owned here and destroyed once, the
        // event's list is read before that. A late answer finds the queue closed and is dropped.
        unsafe {
            let queue = sys::rd_kafka_queue_new(self.client.ptr());
            let code = raw::rd_kafka_commit_queue(self.client.ptr(), list.as_ptr(), queue, std::ptr::null(), std::ptr::null_mut());
            let mut answer = if code == 0 { None } else { Some(code) };
            if answer.is_none() {
                let event = sys::rd_kafka_queue_poll(queue, native::millis(ANSWER_WITHIN));
                if !event.is_null() {
                    let listed = lists::read_list(sys::rd_kafka_event_topic_partition_list(event));
                    let refused = listed.iter().map(|listed| listed.code).find(|code| *code != 0);
                    let whole = raw::rd_kafka_event_error(event);
                    answer = Some(if whole != 0 { whole } else { refused.unwrap_or(0) });
                    sys::rd_kafka_event_destroy(event);
                }
            }
            sys::rd_kafka_queue_destroy(queue);
            match answer {
                Some(0) => Ok(()),
                Some(code) => Err(self.error("committing offsets", code)),
                // The request lives on in this client and may be sent late, as the member of another generation even: only
                // the end of the client ends it.
                None => Err(BrokerError::fatal(format!("committing offsets: no answer within {} s", ANSWER_WITHIN.as_secs()))),
            }
        }
    }

    fn bounds(&mut self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        self.admin.bounds(partition)
    }

    fn ask_ends(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.ends.ask(partitions)
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        group::close(&self.client, &self.group);
    }
}
