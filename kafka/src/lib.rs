//! Kafka: the engine's [`Broker`] over librdkafka.
//!
//! The hot paths use librdkafka's C interface directly: records are taken and handed over in batches, without a Rust
//! object, an allocation or a callback per record, and error codes and header names from other programs cannot
//! panic. What each part guarantees, and which finding in librdkafka's source it rests on, is in its module:
//! [`consumer`] (rebalances, positions), [`producer`] and [`commit`] (transactions), [`records`] (waiting, memory),
//! [`reader`], [`admin`], [`ends`].
//!
//! Settings: a user may add any client property (security, tuning) except those that carry a guarantee; see
//! [`RESERVED`]. Property values are never printed, neither by `Debug` nor in errors: they hold passwords.

mod admin;
mod batches;
mod codes;
mod commit;
mod committed;
mod consumer;
mod create;
mod deliveries;
mod describe;
mod ends;
mod group;
mod lists;
mod manage;
mod native;
mod outgoing;
mod producer;
mod quiet;
mod reader;
mod records;
mod refusals;
mod rights;
mod rounds;
mod settings;
mod watch;

pub use manage::{Member, Members, Place};
pub use rights::{Creation, Operation, Rights};
pub use settings::{KafkaConfig, RESERVED, check_property, check_transaction_timeout, is_property};

use settings::Role;

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_engine::broker::{Broker, BrokerError, Consumer, GroupView, Producer, Reader, TopicId, TopicPartition, TopicSpec};

/// A Kafka cluster. Shared by all lanes of a worker; every consumer, producer and reader is a client of its own.
pub struct Kafka {
    config: KafkaConfig,
    admin: Arc<admin::Admin>,
    batches: Arc<batches::Batches>,
}

impl Kafka {
    /// Checks the settings and prepares to connect.
    ///
    /// Nothing is sent yet: brokers that are away are noticed by the first question.
    ///
    /// # Errors
    /// A property that is reserved, unknown to librdkafka or malformed; the message names it without its value.
    pub fn connect(config: KafkaConfig) -> Result<Kafka, BrokerError> {
        config.check()?;
        // Tried for every kind of client now, so that a lane doesn't fail later.
        config.settings(Role::Member { group: "-", instance: "-" })?;
        let batch = config.properties.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(1_000_000);
        config.settings(Role::Producer { transactional_id: Some("-"), batch })?;
        let admin = Arc::new(admin::Admin::connect(&config)?);
        Ok(Kafka { config, admin, batches: Arc::new(batches::Batches::new(batch)) })
    }

    /// Tells every few seconds whether the brokers answer, until this is dropped; two questions in a row without an answer are an
    /// outage. The cause is the client's last error.
    pub fn report(&self, tell: impl Fn(Result<(), String>) + Send + 'static) {
        self.admin.report(tell);
    }

    /// That the brokers have refused this client's login from the start, if so.
    pub fn refuses_login(&self) -> Option<BrokerError> {
        self.admin.refuses_login()
    }

    /// No broker could be asked from the start because of a certificate: waiting does not make it right.
    pub fn distrusts(&self) -> bool {
        self.admin.distrusts()
    }

    /// What this client may do to topics.
    pub fn rights_on_topics(&self, topics: &[String]) -> Result<BTreeMap<String, Rights>, BrokerError> {
        self.admin.rights(rights::Kind::Topics, topics)
    }

    /// What this client may do in groups. One that does not exist yet is answered for, too.
    pub fn rights_on_groups(&self, groups: &[String]) -> Result<BTreeMap<String, Rights>, BrokerError> {
        // One group per question: their coordinators differ.
        let asked = groups.iter().map(|group| self.admin.rights(rights::Kind::Groups, std::slice::from_ref(group)));
        asked.collect::<Result<Vec<_>, _>>().map(|rights| rights.into_iter().flatten().collect())
    }

    /// The addresses that the brokers were asked for at first.
    pub fn bootstrap(&self) -> &str {
        &self.config.bootstrap
    }

    /// Who this client is for the brokers' access rules, as far as its settings tell.
    pub fn principal(&self) -> String {
        let property = |name: &str| self.config.properties.get(name).map(String::as_str);
        match (property("security.protocol").map(str::to_ascii_lowercase).as_deref(), property("sasl.username")) {
            (None | Some("plaintext"), _) => "User:ANONYMOUS".into(),
            (Some("sasl_ssl" | "sasl_plaintext"), Some(user)) => format!("User:{user}"),
            // The subject of a certificate, or what a token or a ticket says.
            _ => "User:NAME".into(),
        }
    }

    /// Which of these topics could be created, without doing it.
    pub fn could_create(&self, topics: &[TopicSpec]) -> Result<Vec<(String, Creation)>, BrokerError> {
        self.admin.could_create(topics)
    }
}

impl Broker for Kafka {
    fn consumer(&self, group: &str, instance: &str, topics: &[String]) -> Result<Box<dyn Consumer>, BrokerError> {
        Ok(Box::new(consumer::KafkaConsumer::join(&self.config, &self.admin, group, instance, topics)?))
    }

    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, BrokerError> {
        Ok(Box::new(producer::KafkaProducer::open(&self.config, transactional_id, &self.batches)?))
    }

    fn reader(&self, from: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BrokerError> {
        Ok(Box::new(reader::KafkaReader::open(&self.config, from)?))
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        self.admin.partitions(topic)
    }

    fn topics(&self) -> Result<Vec<String>, BrokerError> {
        self.admin.topics()
    }

    fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        self.admin.bounds(partition)
    }

    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), BrokerError> {
        self.admin.create(topics)
    }

    fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError> {
        self.admin.topic_ids(topics)
    }

    fn group(&self, group: &str) -> Result<GroupView, BrokerError> {
        self.admin.group(group)
    }

    fn topic_config(&self, topic: &str) -> Result<Vec<(String, String)>, BrokerError> {
        self.admin.config_of(topic)
    }
}
