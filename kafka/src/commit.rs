//! The committer: ends transactions, on its own thread.
//!
//! ```text
//! wait for every delivery report -> Acknowledged -> add the group's offsets -> EndTxn -> Done(outcome)
//! ```
//!
//! The calls are made without a time limit, as librdkafka's documentation asks: a limit on `commit_transaction` leaves
//! client and broker with different ideas of the transaction. A lane that will not wait drops the producer.
//!
//! [`verdict`] is the whole policy, and pure. Its rule: *not committed* is reported only if the commit request cannot
//! have been sent; afterwards everything but success is [`Outcome::Unknown`], which is always safe, because a new
//! producer with the same id settles the old transaction and the group's offsets tell which way. This includes errors
//! that librdkafka calls abortable when they come from the commit itself: its own source notes that the request "may
//! have succeeded" then (`rd_kafka_txn_handle_EndTxn`).
//!
//! A transaction that ran out of its time looks like fencing to the client: brokers raise the producer's epoch for both.
//! It is distinguished by its age, since the reactions differ: a fenced lane stops, a lane whose transaction timed out takes
//! a new producer and continues.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use headwater_engine::broker::{BrokerError, Committed, Failure, Membership, Outcome, Progress, TopicPartition};
use headwater_engine::failpoint::failpoint;
use rdkafka::bindings as sys;

use super::codes;
use super::lists::PartitionList;
use super::native::{self, ErrorFacts};
use super::producer::{ProducerClient, Shared};
use super::rounds::{self, ClientHeld};
use super::settings::SOCKET_TIMEOUT;

/// Between two attempts at a call that may be repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What the lane asks of its committer.
pub(super) enum Job {
    Commit {
        client: Arc<ProducerClient>,
        /// Records that the client was not given yet.
        held: [ClientHeld; 2],
        offsets: Vec<(TopicPartition, Committed)>,
        membership: Membership,
        transactional: bool,
        /// When the brokers give the transaction up.
        expires: Instant,
    },
    Abort {
        client: Arc<ProducerClient>,
        transactional: bool,
        reply: Sender<Result<(), BrokerError>>,
    },
}

/// Works until the lane hangs up.
pub(super) fn run(work: &Receiver<Job>, shared: &Shared) {
    for job in work {
        match job {
            Job::Commit { client, held, offsets, membership, transactional, expires } => {
                let outcome = if transactional {
                    Ending { client: &client, shared, expires }.commit(held, &offsets, &membership)
                } else {
                    acknowledge_only(&client, held, shared)
                };
                // The lane may drop the producer as soon as it sees this: release the client first.
                drop(client);
                shared.set(Progress::Done(outcome));
            }
            Job::Abort { client, transactional, reply } => {
                let result = if transactional { abort(&client) } else { abandon(&client) };
                drop(client);
                // The lane may have given up waiting.
                let _ = reply.send(result);
            }
        }
    }
}

/// The step at which a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Waiting for delivery reports.
    Acknowledge,
    /// `send_offsets_to_transaction`.
    Offsets,
    /// `commit_transaction`: the request may be in flight.
    EndTransaction,
}

/// What to do about a failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same call again.
    Again,
    /// Abort, and if that works this is the outcome.
    Abort(Outcome),
    /// Nothing more can be done with this producer.
    Settled(Outcome),
}

/// See the module text. `expired`: the transaction is older than its timeout.
pub(super) fn verdict(step: Step, facts: &ErrorFacts, expired: bool) -> Verdict {
    let text = facts.text.clone();
    if facts.fatal {
        return Verdict::Settled(match step {
            Step::EndTransaction => Outcome::Unknown(text),
            _ if codes::is_producer_fenced(facts.code) && !expired => Outcome::Fenced(text),
            _ => Outcome::Unknown(text),
        });
    }
    if facts.retriable {
        return Verdict::Again;
    }
    if !facts.requires_abort {
        return Verdict::Settled(Outcome::Unknown(text));
    }
    match step {
        // The client counts failed deliveries itself and then doesn't send the request.
        Step::EndTransaction if facts.code != codes::INCONSISTENT => Verdict::Settled(Outcome::Unknown(text)),
        _ if codes::is_member_fenced(facts.code) => Verdict::Abort(Outcome::Fenced(text)),
        _ => Verdict::Abort(Outcome::Aborted(text)),
    }
}

struct Ending<'a> {
    client: &'a ProducerClient,
    shared: &'a Shared,
    expires: Instant,
}

impl Ending<'_> {
    fn commit(&self, held: [ClientHeld; 2], offsets: &[(TopicPartition, Committed)], membership: &Membership) -> Outcome {
        let context = &self.client.context;
        context.ending.store(true, Ordering::Relaxed);
        let result = self
            .acknowledge(held)
            .and_then(|()| {
                self.shared.set(Progress::Acknowledged);
                failpoint("after-produce");
                self.add_offsets(offsets, membership)
            })
            .and_then(|()| {
                failpoint("after-send-offsets");
                self.end()
            });
        match result {
            Ok(()) => {
                failpoint("after-commit");
                Outcome::Committed { tags: context.take_tags() }
            }
            Err(outcome) => outcome,
        }
    }

    fn acknowledge(&self, held: [ClientHeld; 2]) -> Result<(), Outcome> {
        // After a failure librdkafka holds back what it would have to repeat, until the abort: no report comes for that.
        rounds::deliver(self.client, held, || !self.client.context.failed.load(Ordering::Relaxed));
        match (self.client.fatal(), self.client.context.failure()) {
            (Some((code, text)), _) => {
                let facts = ErrorFacts { code, fatal: true, retriable: false, requires_abort: false, text };
                Err(self.settle(Step::Acknowledge, &facts).unwrap_or(Outcome::Unknown(facts.text)))
            }
            (None, Some((_, text))) => Err(self.aborted(Outcome::Aborted(text))),
            (None, None) => Ok(()),
        }
    }

    fn add_offsets(&self, offsets: &[(TopicPartition, Committed)], membership: &Membership) -> Result<(), Outcome> {
        if !membership.is_fencing() {
            let text = format!(
                "member {:?} of group {} at generation {} would not be fenced",
                membership.member, membership.group, membership.generation
            );
            return Err(self.aborted(Outcome::Aborted(text)));
        }
        if offsets.is_empty() {
            return Ok(());
        }
        let prepared = PartitionList::at(offsets).and_then(|list| Ok((list, Member::new(membership)?)));
        let (list, member) = prepared.map_err(|error| self.aborted(Outcome::Aborted(error.message)))?;
        loop {
            // SAFETY: client, list and member are valid; all are copied. -1: until the transaction's own timeout.
            let error = unsafe { sys::rd_kafka_send_offsets_to_transaction(self.client.ptr(), list.as_ptr(), member.0, -1) };
            let Some(facts) = ErrorFacts::take(error) else { return Ok(()) };
            match self.settle(Step::Offsets, &facts) {
                Some(outcome) => return Err(outcome),
                None if self.expired() => return Err(self.aborted(Outcome::Aborted(facts.text))),
                None => std::thread::sleep(AGAIN_AFTER),
            }
        }
    }

    fn end(&self) -> Result<(), Outcome> {
        // Broken before the request could be sent?
        if let Some((code, text)) = self.client.fatal() {
            let facts = ErrorFacts { code, fatal: true, retriable: false, requires_abort: false, text };
            return Err(self.settle(Step::Offsets, &facts).unwrap_or(Outcome::Unknown(facts.text)));
        }
        failpoint("before-commit");
        let started = Instant::now();
        loop {
            // SAFETY: the client is valid.
            let error = unsafe { sys::rd_kafka_commit_transaction(self.client.ptr(), -1) };
            if started.elapsed() >= SOCKET_TIMEOUT {
                self.client.context.suspect.store(true, Ordering::Relaxed);
            }
            let Some(facts) = ErrorFacts::take(error) else { return Ok(()) };
            match self.settle(Step::EndTransaction, &facts) {
                Some(outcome) => return Err(outcome),
                None => std::thread::sleep(AGAIN_AFTER),
            }
        }
    }

    fn expired(&self) -> bool {
        Instant::now() >= self.expires
    }

    /// Does what the verdict says; `None`: call again.
    fn settle(&self, step: Step, facts: &ErrorFacts) -> Option<Outcome> {
        match verdict(step, facts, self.expired()) {
            Verdict::Again => None,
            Verdict::Abort(outcome) => Some(self.aborted(outcome)),
            Verdict::Settled(outcome) => Some(outcome),
        }
    }

    /// Aborts; a producer that cannot even do that is of no more use.
    fn aborted(&self, outcome: Outcome) -> Outcome {
        match (abort(self.client), outcome) {
            (Ok(()), outcome) => outcome,
            // The new owner decides, whatever happened to this producer.
            (Err(_), Outcome::Fenced(text)) => Outcome::Fenced(text),
            (Err(error), outcome) => Outcome::Unknown(format!("{}, after {outcome:?}", error.message)),
        }
    }
}

/// The end of what only looks like a transaction: `guarantee: at_least_once`.
fn acknowledge_only(client: &ProducerClient, held: [ClientHeld; 2], shared: &Shared) -> Outcome {
    rounds::deliver(client, held, || true);
    match (client.fatal(), client.context.failure()) {
        (Some((_, text)), _) => Outcome::Unknown(text),
        (None, Some((_, text))) => Outcome::Aborted(text),
        (None, None) => {
            shared.set(Progress::Acknowledged);
            failpoint("after-produce");
            Outcome::Committed { tags: client.context.take_tags() }
        }
    }
}

fn abort(client: &ProducerClient) -> Result<(), BrokerError> {
    client.context.ending.store(true, Ordering::Relaxed);
    let started = Instant::now();
    loop {
        // SAFETY: the client is valid.
        let error = unsafe { sys::rd_kafka_abort_transaction(client.ptr(), -1) };
        if started.elapsed() >= SOCKET_TIMEOUT {
            client.context.suspect.store(true, Ordering::Relaxed);
        }
        let Some(facts) = ErrorFacts::take(error) else { return Ok(()) };
        if !facts.retriable {
            let fenced = facts.fatal && codes::is_producer_fenced(facts.code);
            let failure = if fenced { Failure::Fenced } else { Failure::Fatal };
            return Err(BrokerError::new(failure, format!("aborting a transaction: {}", facts.text)));
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// Without a transaction, records not yet sent can be kept back; those in progress arrive.
fn abandon(client: &ProducerClient) -> Result<(), BrokerError> {
    // SAFETY: the client is valid.
    unsafe { sys::rd_kafka_purge(client.ptr(), sys::RD_KAFKA_PURGE_F_QUEUE) };
    rounds::flush_while(client, || true);
    match client.fatal() {
        Some((_, text)) => Err(BrokerError::fatal(text)),
        None => Ok(()),
    }
}

/// The group membership in librdkafka's form.
struct Member(*mut sys::rd_kafka_consumer_group_metadata_t);

impl Member {
    fn new(membership: &Membership) -> Result<Member, BrokerError> {
        let group = native::c_string(&membership.group)?;
        let member = native::c_string(&membership.member)?;
        let instance = membership.instance.as_deref().map(native::c_string).transpose()?;
        let instance = instance.as_ref().map_or(std::ptr::null(), |instance| instance.as_ptr());
        // SAFETY: the strings are valid and copied; the object is owned by `Member`.
        let made = unsafe {
            sys::rd_kafka_consumer_group_metadata_new_with_genid(group.as_ptr(), membership.generation, member.as_ptr(), instance)
        };
        Ok(Member(made))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: owned and destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(code: i32, flag: &str) -> ErrorFacts {
        ErrorFacts { code, fatal: flag == "fatal", retriable: flag == "retriable", requires_abort: flag == "abort", text: "why".into() }
    }

    fn unknown() -> Verdict {
        Verdict::Settled(Outcome::Unknown("why".into()))
    }

    const STEPS: [Step; 3] = [Step::Acknowledge, Step::Offsets, Step::EndTransaction];

    #[test]
    fn what_may_be_repeated_is_repeated() {
        for step in STEPS {
            assert_eq!(verdict(step, &facts(codes::TIMED_OUT, "retriable"), false), Verdict::Again);
        }
    }

    #[test]
    fn an_error_of_no_class_says_nothing_about_the_transaction() {
        for step in STEPS {
            assert_eq!(verdict(step, &facts(codes::STATE, ""), false), unknown());
        }
    }

    #[test]
    fn a_member_that_is_gone_is_fenced_though_librdkafka_calls_it_abortable() {
        for code in [codes::ILLEGAL_GENERATION, codes::UNKNOWN_MEMBER_ID, codes::FENCED_INSTANCE_ID, codes::REBALANCE_IN_PROGRESS] {
            let expected = Verdict::Abort(Outcome::Fenced("why".into()));
            assert_eq!(verdict(Step::Offsets, &facts(code, "abort"), false), expected, "{code}");
        }
        let other = verdict(Step::Offsets, &facts(codes::TOPIC_AUTHORIZATION_FAILED, "abort"), false);
        assert_eq!(other, Verdict::Abort(Outcome::Aborted("why".into())));
    }

    #[test]
    fn once_the_commit_may_be_under_way_nothing_but_success_is_certain() {
        for code in [codes::FENCED, codes::PRODUCER_FENCED, codes::INVALID_PRODUCER_EPOCH, codes::TRANSPORT, 48] {
            assert_eq!(verdict(Step::EndTransaction, &facts(code, "fatal"), false), unknown(), "{code}");
            assert_eq!(verdict(Step::EndTransaction, &facts(code, "abort"), false), unknown(), "{code}");
        }
        let counted = verdict(Step::EndTransaction, &facts(codes::INCONSISTENT, "abort"), false);
        assert_eq!(counted, Verdict::Abort(Outcome::Aborted("why".into())));
    }

    #[test]
    fn a_transaction_that_ran_out_is_not_mistaken_for_another_producer() {
        let fenced = facts(codes::INVALID_PRODUCER_EPOCH, "fatal");
        assert_eq!(verdict(Step::Offsets, &fenced, false), Verdict::Settled(Outcome::Fenced("why".into())));
        assert_eq!(verdict(Step::Offsets, &fenced, true), unknown());
        assert_eq!(verdict(Step::Acknowledge, &facts(codes::TOPIC_AUTHORIZATION_FAILED, "fatal"), false), unknown());
    }
}
