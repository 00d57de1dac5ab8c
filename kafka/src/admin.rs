//! Topics: which exist, their bounds and settings, and creating new ones.
//!
//! All goes through one librdkafka client of the consumer kind, because a producer's metadata request may create the topic it asks
//! about, and because a client more is a connection more to open at each start. It reads uncommitted: under `read_committed`
//! librdkafka answers a question for the high watermark with the last stable offset, and a restore that stops there, below an open
//! transaction, is silently short.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_engine::broker::{BrokerError, Failure, GroupView, TopicId, TopicPartition, TopicSpec};
use rdkafka::bindings as sys;

use super::codes;
use super::create;
use super::describe;
use super::native::{self, Client, Context, NativeTopic, raw};
use super::quiet::Quiet;
use super::rights::{self, Creation, Kind, Rights};
use super::settings::{KafkaConfig, Role};
use super::watch::Probe;

/// How long a question about the cluster may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// And the first one: more likely the address is wrong than all brokers away, and someone waits.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a first login, or a first certificate, may be refused before that is the answer: a broker may refuse one while it starts.
/// With [`super::settings::FIRST_PAUSE`] between them this is enough for two logins: accounts may be locked after a few.
const TRUST_WITHIN: Duration = Duration::from_secs(1);
/// How often brokers are asked whether they answer.
const REPORT_EVERY: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Watch {
    quiet: Quiet,
    /// What last went wrong, in librdkafka's words: they name the broker.
    reason: parking_lot::Mutex<String>,
    answered: AtomicBool,
    /// The last answer was that the login is refused.
    refused: AtomicBool,
    /// The last connection failed because of a certificate.
    distrusted: AtomicBool,
}

impl Context for Watch {
    fn on_error(&self, code: i32, reason: &str) {
        if code == codes::AUTHENTICATION {
            self.refused.store(true, Ordering::Relaxed);
        }
        if code == codes::SSL && reason.contains("certificate") {
            self.distrusted.store(true, Ordering::Relaxed);
        }
        self.quiet.warn("metadata", code, reason);
        // The reason of the last broker says more than that all brokers are down.
        if code != codes::ALL_BROKERS_DOWN || self.reason.lock().is_empty() {
            *self.reason.lock() = reason.to_owned();
        }
    }
}

impl Watch {
    /// A broker has answered.
    fn answers(&self) {
        self.answered.store(true, Ordering::Relaxed);
        self.refused.store(false, Ordering::Relaxed);
        self.distrusted.store(false, Ordering::Relaxed);
        self.reason.lock().clear();
    }

    fn cause(&self) -> String {
        let reason = self.reason.lock().clone();
        if reason.is_empty() { "connected, but no answer comes".to_string() } else { reason }
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
    /// When the client began to connect.
    began: Instant,
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
        Ok(Admin { config: config.clone(), client, began: Instant::now(), topics: Default::default() })
    }

    /// The client that questions go through.
    pub(super) fn ptr(&self) -> *mut native::Native {
        self.client.ptr()
    }

    pub(super) fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        let described = self.ask(Some(topic))?.into_iter().find(|described| described.name == topic);
        match described {
            None => Ok(None),
            Some(Described { code: codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC, .. }) => Ok(None),
            // No leader yet for some partition: the topic is there anyway.
            Some(Described { code: 0 | codes::LEADER_NOT_AVAILABLE, partitions, .. }) => Ok((partitions > 0).then_some(partitions)),
            Some(Described { code, .. }) if codes::is_authorization(code) => Err(no_right_to_describe(topic)),
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
            if let Some(refused) = self.refuses_login() {
                return Err(refused);
            }
            let mut metadata = std::ptr::null();
            let only = handle.map_or(std::ptr::null_mut(), |handle| handle.0);
            let all = i32::from(handle.is_none());
            // SAFETY: client and handle are valid; on success `metadata` is set and owned here.
            let code = unsafe { raw::rd_kafka_metadata(self.client.ptr(), all, only, &mut metadata, 1_000) };
            if code == 0 && !metadata.is_null() {
                watch.answers();
                // SAFETY: valid until destroyed, and destroyed once, after copying.
                unsafe {
                    let described = describe(metadata);
                    sys::rd_kafka_metadata_destroy(metadata);
                    return Ok(described);
                }
            }
            if !codes::is_transient(code) || Instant::now() >= deadline || self.distrusts() {
                let reason = watch.reason.lock();
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                return Err(codes::error(format!("no answer from the brokers at {}{why}", self.config.bootstrap), code));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// That the brokers refuse this client's login, if so. Of a client that could log in once it may be a password that is being replaced.
    pub(super) fn refuses_login(&self) -> Option<BrokerError> {
        let watch = &self.client.context;
        self.never_answered(&watch.refused).then(|| {
            BrokerError::fatal(format!(
                "the brokers at {} refuse the login of this client: {}. Correct `kafka.properties` (`sasl.username`, `sasl.password`, \
                 `sasl.mechanisms`)",
                self.config.bootstrap,
                watch.reason.lock()
            ))
        })
    }

    /// No broker could be asked yet because of a certificate, the brokers' or this client's.
    pub(super) fn distrusts(&self) -> bool {
        self.never_answered(&self.client.context.distrusted)
    }

    fn never_answered(&self, because: &AtomicBool) -> bool {
        let answered = self.client.context.answered.load(Ordering::Relaxed);
        because.load(Ordering::Relaxed) && !answered && self.began.elapsed() >= TRUST_WITHIN
    }

    pub(super) fn report(&self, tell: impl Fn(Result<(), String>) + Send + 'static) {
        let client = Arc::downgrade(&self.client);
        let work = move || {
            let mut missed = 0;
            while let Some(client) = client.upgrade() {
                // Errors of the client are served here, for the cause.
                // SAFETY: the client is valid.
                unsafe { sys::rd_kafka_poll(client.ptr(), 0) };
                if client.answers() {
                    missed = 0;
                    client.context.answers();
                    tell(Ok(()));
                } else {
                    missed += 1;
                    if missed >= 2 {
                        tell(Err(client.context.cause()));
                    }
                }
                drop(client);
                std::thread::sleep(if missed == 1 { Duration::ZERO } else { REPORT_EVERY });
            }
        };
        if std::thread::Builder::new().name("kafka-report".into()).spawn(work).is_err() {
            tracing::error!("no thread to ask whether Kafka answers");
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

    /// Creates what is missing, and only that: CREATE is a right of its own, which a worker whose topics exist need not have.
    pub(super) fn create(&self, wanted: &[TopicSpec]) -> Result<(), BrokerError> {
        let names: Vec<String> = wanted.iter().map(|spec| spec.name.clone()).collect();
        let found = self.rights(Kind::Topics, &names)?;
        if let Some((topic, _)) = found.iter().find(|(_, rights)| **rights == Rights::Refused) {
            // It may exist: nothing is known of it.
            return Err(no_right_to_describe(topic));
        }
        let missing: Vec<TopicSpec> = wanted.iter().filter(|s| found.get(&s.name).is_none_or(|r| *r == Rights::Missing)).cloned().collect();
        if !missing.is_empty() {
            // If an answer was late, the topics exist when it is asked again.
            for (topic, code) in patiently(|| create::create(self.client.ptr(), &missing, false))? {
                match code {
                    0 | codes::TOPIC_ALREADY_EXISTS => {}
                    code if codes::is_authorization(code) => {
                        return Err(BrokerError::fatal(format!(
                            "the topic `{topic}` is missing, and this client is not permitted to CREATE it"
                        )));
                    }
                    code => return Err(codes::error(format!("creating topic {topic}"), code)),
                }
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

    pub(super) fn could_create(&self, wanted: &[TopicSpec]) -> Result<Vec<(String, Creation)>, BrokerError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let answers = patiently(|| create::create(self.client.ptr(), wanted, true))?;
        let creation = |code| match code {
            0 | codes::TOPIC_ALREADY_EXISTS => Creation::Possible,
            code if codes::is_authorization(code) => Creation::NoRight,
            code => Creation::Refused(native::describe(code)),
        };
        Ok(answers.into_iter().map(|(topic, code)| (topic, creation(code))).collect())
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
        let settings = patiently(|| describe::topic_config(self.client.ptr(), topic))?;
        if settings.is_none() {
            tracing::warn!(topic, "not permitted to DESCRIBE_CONFIGS: the topic's settings are not known");
        }
        Ok(settings.unwrap_or_default())
    }
}

/// Whether the topic exists can't be known then.
fn no_right_to_describe(topic: &str) -> BrokerError {
    BrokerError::fatal(format!("not permitted to DESCRIBE the topic `{topic}`, which READ and WRITE imply"))
}

/// Asks again while the answer is that it may come later: from a coordinator that is still loading, for one.
pub(super) fn patiently<T>(mut ask: impl FnMut() -> Result<T, BrokerError>) -> Result<T, BrokerError> {
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

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    /// One question used up the whole patience: the first start on a new cluster failed after 30 s.
    #[test]
    fn a_coordinator_that_is_not_available_yet_is_asked_for_again() {
        let cluster = MockCluster::new(1).unwrap();
        let admin = Admin::connect(&KafkaConfig::new(cluster.bootstrap_servers())).unwrap();
        admin.topics().unwrap();
        cluster.request_errors(RDKafkaApiKey::FindCoordinator, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 5]);
        let positions = patiently(|| describe::positions(admin.client.ptr(), "g"));
        assert_eq!(positions.map_err(|e| e.message), Ok(BTreeMap::new()));
    }
}
