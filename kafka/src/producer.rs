//! A transactional producer over librdkafka.
//!
//! The lane thread begins and sends; a committer thread of the producer's own ends transactions, because every call
//! that does blocks for a network round trip or, with brokers away, for much longer. One at a time: `begin` and `send`
//! happen only while no commit is in progress, and the two threads meet in [`Shared`].
//!
//! Records are given to librdkafka as they come, as far as one request per partition takes them, and are sent by the flush at the
//! transaction's end; the rest is held and follows in rounds ([`rounds`]). Delivery reports are served by whoever flushes, the
//! committer as a rule. A failed report marks the transaction: it can only be aborted. Waiting for reports through
//! `rd_kafka_flush` is as quick as they come, *because* there is a report callback; without one it would look every 10 ms.
//!
//! **Records that the brokers refuse** are found in the delivery reports ([`refusals`](super::refusals)). Where a batch is refused
//! as a whole (it is too large for its topic), all producers make smaller batches from the next transaction on, down to one
//! record each: then the record is named, if it is one, and the batches fit, if it was none. Later they grow again
//! ([`Batches`]).
//!
//! **A producer that must be replaced.** librdkafka repeats `EndTxn` by itself when a connection breaks or an answer
//! takes longer than `socket.timeout.ms`. It has no KIP-890 part 2, so that a late copy on the old connection is not
//! told apart from the end of the *next* transaction, which it would commit or abort half-way. So when the end of a
//! transaction met a broken connection or took that long, the answer is believed (it is the broker's), but the client is
//! replaced before the next transaction: the new one raises the epoch, and the late copy is refused. This costs one
//! `InitProducerId`, inside `begin`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use headwater_engine::broker::{
    BrokerError, Committed, Failure, Membership, Outcome, Outgoing, Producer, Progress, Refused, TopicPartition,
};
use parking_lot::{Condvar, Mutex};
use rdkafka::bindings as sys;

use super::batches::Batches;
use super::codes;
use super::commit::{self, Job};
use super::deliveries::{self, Deliveries};
use super::native::{Client, ErrorFacts};
use super::rounds::{self, ClientHeld, ClientRounds, Limits, Rounds};
use super::settings::{KafkaConfig, Role};

/// How long a lane waits for an abort.
const ABORT_WITHIN: Duration = Duration::from_secs(60);
/// How long dropping a producer waits for its committer.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// What the two threads of a producer share.
#[derive(Default)]
pub(super) struct Shared {
    progress: Mutex<Option<Progress>>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn set(&self, progress: Progress) {
        *self.progress.lock() = Some(progress);
        self.changed.notify_all();
    }
}

pub(super) type ProducerClient = Client<Deliveries>;

/// See the module text.
pub(super) struct KafkaProducer {
    config: KafkaConfig,
    transactional_id: Option<String>,
    client: Arc<ProducerClient>,
    rounds: ClientRounds,
    /// Without transactions: changes of state, which follow when everything else is acknowledged.
    state: ClientRounds,
    shared: Arc<Shared>,
    /// To the committer thread; `None` once closing.
    jobs: Option<Sender<Job>>,
    /// Disconnected when the committer has ended.
    ended: Receiver<()>,
    /// The last result of `progress`, to wait for a change.
    reported: Option<Progress>,
    begun: Instant,
    open: bool,
    /// Bytes of a batch of this client.
    batch: u32,
    /// Of clients to come, of all producers.
    batches: Arc<Batches>,
    /// By this client before it was replaced, or at once.
    refused: Vec<Refused>,
}

impl KafkaProducer {
    /// For a transactional one: returns when whatever an earlier producer with this id left open is settled.
    pub(super) fn open(config: &KafkaConfig, transactional_id: Option<&str>, batches: &Arc<Batches>) -> Result<KafkaProducer, BrokerError> {
        let batch = batches.bytes();
        let (client, limits) = connect(config, transactional_id, batch)?;
        let shared = Arc::new(Shared::default());
        let (jobs, work) = crossbeam_channel::unbounded();
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let for_thread = shared.clone();
        std::thread::Builder::new()
            .name("kafka-commit".into())
            .spawn(move || {
                commit::run(&work, &for_thread);
                drop(end);
            })
            .map_err(|error| BrokerError::fatal(format!("can't start a commit thread: {error}")))?;
        Ok(KafkaProducer {
            config: config.clone(),
            transactional_id: transactional_id.map(str::to_owned),
            client,
            rounds: Rounds::new(limits),
            state: Rounds::holding(limits),
            shared,
            jobs: Some(jobs),
            ended,
            reported: None,
            begun: Instant::now(),
            open: false,
            batch,
            batches: batches.clone(),
            refused: Vec::new(),
        })
    }

    /// The records that wait to be handed over.
    fn take_held(&mut self) -> [ClientHeld; 2] {
        [self.rounds.end(), self.state.end()]
    }

    fn submit(&self, job: Job) -> Result<(), BrokerError> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(BrokerError::fatal("the committer thread has ended")) }
    }

    /// Replaces a client whose last `EndTxn` may still arrive a second time, or whose batches have another size than they should.
    fn replace_if_suspect(&mut self) -> Result<(), BrokerError> {
        let bytes = self.batches.bytes();
        if bytes != self.batch {
            return self.replace(&format!("its batches are now limited to {bytes} bytes"));
        }
        if self.transactional_id.is_none() || !self.client.context.suspect.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.replace("the last transaction ended on a broken or slow connection")
    }

    /// A new client with the same id. Its start settles what the old one left: aborted, unless a commit was sent.
    fn replace(&mut self, why: &str) -> Result<(), BrokerError> {
        tracing::info!(transactional_id = self.transactional_id, "replacing a producer: {why}");
        self.collect_refused();
        let batch = self.batches.bytes();
        let (client, limits) = connect(&self.config, self.transactional_id.as_deref(), batch)?;
        (self.client, self.batch) = (client, batch);
        (self.rounds, self.state) = (Rounds::new(limits), Rounds::holding(limits));
        Ok(())
    }

    fn collect_refused(&mut self) {
        let found = self.client.context.take_refused(self.batch == 1);
        self.refused.extend(found.refused);
        if found.unclear
            && let Some(smaller) = self.batches.refused(self.batch)
        {
            tracing::warn!("the brokers refuse a batch of records (the topic's max.message.bytes); limiting batches to {smaller} bytes");
        }
    }

    /// What a failed call means.
    fn failed(&self, what: &str, facts: &ErrorFacts) -> BrokerError {
        if let Some((code, text)) = self.client.fatal() {
            let failure = if codes::is_producer_fenced(code) { Failure::Fenced } else { Failure::Fatal };
            return BrokerError::new(failure, format!("{what}: {text}"));
        }
        let failure = match facts.code {
            // A partition that does not exist: no retry helps with this plan.
            codes::UNKNOWN_PARTITION | codes::UNKNOWN_TOPIC => Failure::Fatal,
            code => codes::failure(code),
        };
        BrokerError::new(failure, format!("{what}: {}", facts.text))
    }
}

/// A client that is ready to begin transactions, and what its requests take.
fn connect(config: &KafkaConfig, transactional_id: Option<&str>, batch: u32) -> Result<(Arc<ProducerClient>, Limits), BrokerError> {
    let mut settings = config.settings(Role::Producer { transactional_id, batch })?;
    deliveries::listen(&mut settings);
    let limits = Limits::of(&settings);
    let client = Client::new(true, settings, config.reach(), Arc::new(Deliveries::default()))?;
    let Some(id) = transactional_id else { return Ok((client, limits)) };
    // An old transaction is waited for until the brokers have ended it.
    let deadline = Instant::now() + 2 * config.transaction_timeout + Duration::from_secs(20);
    loop {
        // SAFETY: the client is valid. -1: librdkafka's own limit of twice the transaction timeout.
        let error = unsafe { sys::rd_kafka_init_transactions(client.ptr(), -1) };
        let Some(facts) = ErrorFacts::take(error) else { return Ok((client, limits)) };
        let what = format!("starting transactions as {id}: {}", facts.text);
        if !facts.retriable && !codes::is_transient(facts.code) {
            return Err(BrokerError::new(codes::failure(facts.code), what));
        }
        if Instant::now() >= deadline {
            return Err(BrokerError::new(Failure::Transient, what));
        }
        tracing::warn!(transactional_id = id, "{what}; retrying");
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Producer for KafkaProducer {
    fn begin(&mut self) -> Result<(), BrokerError> {
        // SAFETY: the client is valid. Callbacks touch only its context.
        unsafe { sys::rd_kafka_poll(self.client.ptr(), 0) };
        self.replace_if_suspect()?;
        self.client.context.reset();
        self.refused.clear();
        *self.shared.progress.lock() = None;
        self.reported = None;
        if self.transactional_id.is_some() {
            // SAFETY: the client is valid.
            if let Some(facts) = ErrorFacts::take(unsafe { sys::rd_kafka_begin_transaction(self.client.ptr()) }) {
                return Err(self.failed("beginning a transaction", &facts));
            }
        }
        self.begun = Instant::now();
        self.open = true;
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), BrokerError> {
        if self.client.context.failed.load(Ordering::Relaxed)
            && let Some((_, text)) = self.client.context.failure()
        {
            return Err(BrokerError::new(Failure::AbortTransaction, text));
        }
        let last = self.transactional_id.is_none() && record.tag.is_some();
        let rounds = if last { &mut self.state } else { &mut self.rounds };
        if let Some(facts) = rounds.send_to(&self.client, &record)? {
            let what = format!("record for {}-{}", record.topic, record.partition);
            if facts.code != codes::MSG_SIZE_TOO_LARGE {
                return Err(self.failed(&what, &facts));
            }
            let cause = format!("{what}: {}", facts.text);
            self.refused.push(Refused { record: record.fingerprint(), cause: cause.clone() });
            return Err(BrokerError::new(Failure::Refused, cause));
        }
        if self.rounds.held() + self.state.held() > self.config.send_buffer {
            // Back-pressure. It ends: what can't be delivered fails after the transaction timeout.
            let context = self.client.context.clone();
            let held = self.take_held();
            rounds::deliver(&self.client, held, || !context.failed.load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn commit(&mut self, offsets: Vec<(TopicPartition, Committed)>, membership: Membership) -> Result<(), BrokerError> {
        if !self.open {
            return Err(BrokerError::fatal("commit without an open transaction"));
        }
        self.open = false;
        self.reported = None;
        self.shared.set(Progress::Sending);
        let held = self.take_held();
        self.submit(Job::Commit {
            client: self.client.clone(),
            held,
            offsets,
            membership,
            transactional: self.transactional_id.is_some(),
            expires: self.begun + self.config.transaction_timeout,
        })
    }

    fn progress(&mut self, timeout: Duration) -> Progress {
        let mut progress = self.shared.progress.lock();
        if *progress == self.reported && self.reported.is_some() && !matches!(self.reported, Some(Progress::Done(_))) {
            let reported = self.reported.clone();
            self.shared.changed.wait_while_for(&mut progress, |now| *now == reported, timeout);
        }
        if let Some(Progress::Done(Outcome::Committed { .. })) = *progress
            && *progress != self.reported
            && let Some(larger) = self.batches.committed(self.batch)
        {
            tracing::info!("no batch was refused for a while; raising the limit to {larger} bytes");
        }
        self.reported = progress.clone();
        progress.clone().unwrap_or_else(|| Progress::Done(Outcome::Aborted("no commit is under way".into())))
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        if !self.open {
            return Ok(());
        }
        self.open = false;
        drop(self.take_held());
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.submit(Job::Abort { client: self.client.clone(), transactional: self.transactional_id.is_some(), reply })?;
        match answer.recv_timeout(ABORT_WITHIN) {
            // librdkafka breaks permanently when it aborts a transaction whose first partition the brokers have not
            // accepted yet, because they were still writing the end of the previous one: it sends `EndTxn` for a
            // transaction they don't know. Nothing was committed, and a new client settles the rest.
            Ok(Err(error)) if self.transactional_id.is_some() && error.failure != Failure::Fenced => self.replace(&error.message),
            Ok(result) => result,
            Err(_) => Err(BrokerError::new(Failure::Transient, "aborting a transaction takes too long")),
        }
    }

    fn refused(&mut self) -> Vec<Refused> {
        self.collect_refused();
        std::mem::take(&mut self.refused)
    }
}

impl Drop for KafkaProducer {
    /// An open transaction is not committed: its records are thrown away here and the brokers end it when a producer of
    /// the same id starts, or by its timeout.
    fn drop(&mut self) {
        self.jobs = None;
        if self.ended.recv_timeout(CLOSE_WITHIN) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            tracing::warn!(transactional_id = self.transactional_id, "a commit is still pending; leaking the producer");
        }
    }
}
