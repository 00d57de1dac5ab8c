//! Topics: which exist, their bounds and settings, and creating new ones.
//!
//! Questions go through one librdkafka client of the consumer kind, because a producer's metadata request may create
//! the topic it asks about. It reads uncommitted: under `read_committed` librdkafka answers a question for the high
//! watermark with the last stable offset, and a restore that stops there, below an open transaction, is silently short. Creating topics and reading their settings is rare: `rdkafka`'s admin client is made for it
//! and dropped again.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use headwater_engine::broker::{BrokerError, Failure, GroupView, TopicId, TopicPartition, TopicSpec};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::bindings as sys;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::codes;
use super::describe;
use super::native::{self, Client, Context, NativeTopic, raw};
use super::quiet::Quiet;
use super::rights::{self, Kind, Rights};
use super::{KafkaConfig, Role};

/// How long a question about the cluster may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// And the first one: more likely the address is wrong than all brokers away, and someone waits.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Watch {
    quiet: Quiet,
    /// What last went wrong, in librdkafka's words: they name the broker.
    reason: parking_lot::Mutex<String>,
    answered: AtomicBool,
}

impl Context for Watch {
    fn on_error(&self, code: i32, reason: &str) {
        self.quiet.warn("metadata", code, reason);
        // The reason of the last broker says more than that all brokers are down.
        if code != codes::ALL_BROKERS_DOWN || self.reason.lock().is_empty() {
            *self.reason.lock() = reason.to_owned();
        }
    }
}

/// A topic as the cluster describes it.
struct Described {
    name: String,
    partitions: i32,
    /// Every partition has a leader.
    usable: bool,
    code: i32,
}

pub(super) struct Admin {
    config: KafkaConfig,
    client: Arc<Client<Watch>>,
    /// Handles of topics asked about: librdkafka wants one per question, and keeps what it knows by it.
    topics: parking_lot::Mutex<std::collections::HashMap<String, Handle>>,
}

#[derive(Clone, Copy)]
struct Handle(*mut NativeTopic);

// SAFETY: topic handles may be used from any thread; the client that keeps them is beside the map.
unsafe impl Send for Handle {}

impl Admin {
    pub(super) fn connect(config: &KafkaConfig) -> Result<Admin, BrokerError> {
        let settings = config.settings(Role::Questions)?;
        let client = Client::new(false, settings, config.reach(), Arc::new(Watch::default()))?;
        Ok(Admin { config: config.clone(), client, topics: Default::default() })
    }

    pub(super) fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        let described = self.ask(Some(topic))?.into_iter().find(|described| described.name == topic);
        match described {
            None => Ok(None),
            Some(Described { code: codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC, .. }) => Ok(None),
            // No leader yet for some partition: the topic is there anyway.
            Some(Described { code: 0 | codes::LEADER_NOT_AVAILABLE, partitions, .. }) => Ok((partitions > 0).then_some(partitions)),
            Some(Described { code, .. }) => Err(codes::error(format!("topic {topic}"), code)),
        }
    }

    pub(super) fn topics(&self) -> Result<Vec<String>, BrokerError> {
        let mut names: Vec<_> = self.ask(None)?.into_iter().filter(|topic| topic.code == 0).map(|t| t.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        let topic = native::c_string(&partition.topic)?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let (mut low, mut high) = (0_i64, 0_i64);
            // SAFETY: client and pointers are valid for the call.
            let code = unsafe {
                raw::rd_kafka_query_watermark_offsets(self.client.ptr(), topic.as_ptr(), partition.partition, &mut low, &mut high, 5_000)
            };
            if code == 0 {
                return Ok((low, high));
            }
            if !codes::is_transient(code) || Instant::now() >= deadline {
                return Err(codes::error(format!("offsets of {partition}"), code));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Metadata of one topic or all, asked for again while brokers cannot be reached.
    fn ask(&self, topic: Option<&str>) -> Result<Vec<Described>, BrokerError> {
        let handle = topic.map(|topic| self.handle(topic)).transpose()?;
        let watch = &self.client.context;
        let patience = if watch.answered.load(Ordering::Relaxed) { ANSWER_WITHIN } else { FIRST_ANSWER_WITHIN };
        let deadline = Instant::now() + patience;
        loop {
            // Errors of the client are served here, for the log.
            // SAFETY: the client is valid.
            unsafe { sys::rd_kafka_poll(self.client.ptr(), 0) };
            let mut metadata = std::ptr::null();
            let only = handle.map_or(std::ptr::null_mut(), |handle| handle.0);
            let all = i32::from(handle.is_none());
            // SAFETY: client and handle are valid; on success `metadata` is set and owned here.
            let code = unsafe { raw::rd_kafka_metadata(self.client.ptr(), all, only, &mut metadata, 5_000) };
            if code == 0 && !metadata.is_null() {
                watch.answered.store(true, Ordering::Relaxed);
                // SAFETY: valid until destroyed, and destroyed once, after copying.
                unsafe {
                    let described = describe(metadata);
                    sys::rd_kafka_metadata_destroy(metadata);
                    return Ok(described);
                }
            }
            if !codes::is_transient(code) || Instant::now() >= deadline {
                let reason = watch.reason.lock();
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                return Err(codes::error(format!("no answer from the brokers at {}{why}", self.config.bootstrap), code));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn handle(&self, topic: &str) -> Result<Handle, BrokerError> {
        let mut topics = self.topics.lock();
        if let Some(handle) = topics.get(topic) {
            return Ok(*handle);
        }
        let handle = Handle(self.client.topic(topic)?);
        topics.insert(topic.to_owned(), handle);
        Ok(handle)
    }

    pub(super) fn create(&self, wanted: &[TopicSpec]) -> Result<(), BrokerError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let new: Vec<_> = wanted.iter().map(new_topic).collect();
        let admin = self.admin_client()?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN)).operation_timeout(Some(ANSWER_WITHIN));
        let results = wait_for(admin.create_topics(&new, &options)).map_err(|error| failed("creating topics", &error))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(codes::error(format!("creating topic {topic}"), code as i32)),
            }
        }
        wanted.iter().try_for_each(|spec| self.wait_until_usable(spec))
    }

    pub(super) fn rights(&self, kind: Kind, names: &[String]) -> Result<BTreeMap<String, Rights>, BrokerError> {
        patiently(|| rights::ask(self.client.ptr(), kind, names))
    }

    pub(super) fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError> {
        patiently(|| describe::topic_ids(self.client.ptr(), topics))
    }

    pub(super) fn group(&self, group: &str) -> Result<GroupView, BrokerError> {
        patiently(|| describe::group(self.client.ptr(), group))
    }

    pub(super) fn could_create(&self, wanted: &[TopicSpec]) -> Result<Vec<(String, Option<String>)>, BrokerError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let new: Vec<_> = wanted.iter().map(new_topic).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN)).validate_only(true);
        let admin = self.admin_client()?;
        let results = wait_for(admin.create_topics(&new, &options)).map_err(|error| failed("asking to create topics", &error))?;
        let answer = results.into_iter().map(|result| match result {
            Ok(topic) | Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => (topic, None),
            Err((topic, code)) => (topic, Some(native::describe(code as i32))),
        });
        Ok(answer.collect())
    }

    fn wait_until_usable(&self, spec: &TopicSpec) -> Result<(), BrokerError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let described = self.ask(Some(&spec.name))?.into_iter().find(|topic| topic.name == spec.name);
            if described.is_some_and(|topic| topic.code == 0 && topic.usable) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let text = format!("topic {} was created but cannot be used yet", spec.name);
                return Err(BrokerError::new(Failure::Transient, text));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn config_of(&self, topic: &str) -> Result<Vec<(String, String)>, BrokerError> {
        let admin = self.admin_client()?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
        let what = format!("settings of topic {topic}");
        let resources = [ResourceSpecifier::Topic(topic)];
        let results = wait_for(admin.describe_configs(&resources, &options)).map_err(|error| failed(&what, &error))?;
        let mut settings = Vec::new();
        for result in results {
            match result {
                Ok(resource) => {
                    let told = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                    settings.extend(told);
                }
                Err(code) if codes::is_authorization(code as i32) => {
                    tracing::warn!(topic, "not permitted to read the topic's settings");
                }
                Err(code) => return Err(codes::error(&what, code as i32)),
            }
        }
        Ok(settings)
    }

    fn admin_client(&self) -> Result<AdminClient<DefaultClientContext>, BrokerError> {
        let mut config = rdkafka::ClientConfig::new();
        for (name, value) in self.config.connection() {
            config.set(name, value);
        }
        // The error may quote the value of a setting, hence a password; `Kafka::connect` has tried them all anyway.
        config.create().map_err(|_| BrokerError::fatal("librdkafka refuses the settings of the admin client"))
    }
}

/// Asks again while the answer is that it may come later: from a coordinator that is still loading, for one.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, BrokerError>) -> Result<T, BrokerError> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        match ask() {
            Err(error) if error.failure == Failure::Transient && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(100));
            }
            answer => return answer,
        }
    }
}

fn new_topic(spec: &TopicSpec) -> NewTopic<'_> {
    // -1: the broker's default.
    let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication.unwrap_or(-1)));
    spec.config.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
}

fn failed(what: &str, error: &KafkaError) -> BrokerError {
    match error.rdkafka_error_code() {
        Some(code) => codes::error(what, code as i32),
        None => BrokerError::new(Failure::Transient, format!("{what}: {error}")),
    }
}

/// # Safety
/// `metadata` is valid.
unsafe fn describe(metadata: *const sys::rd_kafka_metadata) -> Vec<Described> {
    // SAFETY: per the contract; arrays hold the stated counts and are null only if empty. Error codes are read as
    // integers (see the module text of `codes`).
    unsafe {
        let topics = usize::try_from((*metadata).topic_cnt).unwrap_or(0);
        (0..topics)
            .map(|at| {
                let topic = (*metadata).topics.add(at);
                let partitions = usize::try_from((*topic).partition_cnt).unwrap_or(0);
                let usable = (0..partitions).all(|at| {
                    let partition = (*topic).partitions.add(at);
                    std::ptr::addr_of!((*partition).err).cast::<i32>().read() == 0 && (*partition).leader >= 0
                });
                Described {
                    name: native::string((*topic).topic),
                    partitions: (*topic).partition_cnt,
                    usable: usable && partitions > 0,
                    code: std::ptr::addr_of!((*topic).err).cast::<i32>().read(),
                }
            })
            .collect()
    }
}

/// Waits for a future of the admin client, which completes it from its own thread. No runtime is needed, so that this
/// may be called on any thread.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
