//! Kafka as a test sees it: a plain producer and a plain `read_committed` reader, over rdkafka and nothing of ours.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_devenv::Ephemeral;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

fn client(environment: &Ephemeral) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &environment.bootstrap);
    config
}

pub fn create(environment: &Ephemeral, topic: &str, partitions: i32) {
    create_with(environment, topic, partitions, &[]);
}

/// Creates a topic with settings.
pub fn create_with(environment: &Ephemeral, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = client(environment).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let topics = [settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))];
    for result in runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
}

/// Adds partitions to a topic, so that it has this many.
pub fn add_partitions(environment: &Ephemeral, topic: &str, partitions: usize) {
    let admin: AdminClient<DefaultClientContext> = client(environment).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wanted = [NewPartitions::new(topic, partitions)];
    for result in runtime.block_on(admin.create_partitions(&wanted, &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
}

/// Deletes topics and waits until no broker lists them.
pub fn delete(environment: &Ephemeral, topics: &[&str]) {
    let admin: AdminClient<DefaultClientContext> = client(environment).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for result in runtime.block_on(admin.delete_topics(topics, &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
    crate::environment::wait_until("topics are gone", Duration::from_secs(30), || {
        let all = admin.inner().fetch_metadata(None, Duration::from_secs(10)).map_err(|e| e.to_string())?;
        let left: Vec<&str> = all.topics().iter().map(|t| t.name()).filter(|name| topics.contains(name)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Writes records to partitions, in order, and waits until they are acknowledged.
pub fn produce(environment: &Ephemeral, topic: &str, records: &[(i32, Option<&str>, Option<&[u8]>)]) {
    let producer: BaseProducer = client(environment).set("enable.idempotence", "true").create().unwrap();
    for (partition, key, value) in records {
        let mut record = BaseRecord::<str, [u8]>::to(topic).partition(*partition);
        record.key = *key;
        record.payload = *value;
        producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// Writes one record with headers and waits until it is acknowledged.
pub fn produce_with(environment: &Ephemeral, topic: &str, partition: i32, key: Option<&str>, value: &[u8], headers: &[(&str, String)]) {
    let producer: BaseProducer = client(environment).create().unwrap();
    let all = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let mut record = BaseRecord::<str, [u8]>::to(topic).partition(partition).payload(value).headers(all);
    record.key = key;
    producer.send(record).map_err(|(e, _)| e).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// Writes records where Kafka's Java client would put their keys.
pub struct ByKey {
    producer: BaseProducer,
    topic: String,
}

impl ByKey {
    pub fn new(environment: &Ephemeral, topic: &str) -> ByKey {
        ByKey { producer: client(environment).set("partitioner", "murmur2_random").create().unwrap(), topic: topic.into() }
    }

    pub fn send(&self, key: &[u8], value: Option<&[u8]>) {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).key(key);
        record.payload = value;
        while let Err((error, again)) = self.producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            self.producer.poll(Duration::from_millis(100));
            record = again;
        }
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until everything is acknowledged.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_secs(30)).unwrap();
    }
}

/// Writes records like [`ByKey`], and waits until they are acknowledged.
pub fn produce_by_key(environment: &Ephemeral, topic: &str, records: &[(&[u8], Option<&[u8]>)]) {
    let producer = ByKey::new(environment, topic);
    records.iter().for_each(|(key, value)| producer.send(key, *value));
    producer.flush();
}

/// Opens a transaction with one record, which the brokers have.
pub fn begin(environment: &Ephemeral, id: &str, topic: &str, partition: i32, key: &str, value: &[u8]) -> BaseProducer {
    let producer: BaseProducer = client(environment).set("transactional.id", id).create().unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    producer.begin_transaction().unwrap();
    let record = BaseRecord::<str, [u8]>::to(topic).partition(partition).key(key).payload(value);
    producer.send(record).map_err(|(e, _)| e).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    producer
}

/// A consumer of all partitions of a topic from their beginning, and how many those are.
fn from_the_beginning(environment: &Ephemeral, topic: &str) -> (BaseConsumer, usize) {
    let mut config = client(environment);
    config
        .set("group.id", "test-reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    (consumer, list.count())
}

fn as_read(message: &BorrowedMessage<'_>) -> Read {
    let text = |header: Header<'_, &[u8]>| (header.key.to_string(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned());
    Read {
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map(|headers| headers.iter().map(text).collect()).unwrap_or_default(),
    }
}

/// What is committed in a topic, from its beginning, as it comes.
pub struct Tail(BaseConsumer);

impl Tail {
    pub fn new(environment: &Ephemeral, topic: &str) -> Tail {
        Tail(from_the_beginning(environment, topic).0)
    }

    /// The next record, if there is one within this time.
    pub fn next(&self, within: Duration) -> Option<Read> {
        let deadline = Instant::now() + within;
        loop {
            match self.0.poll(deadline.saturating_duration_since(Instant::now()))? {
                Ok(message) => return Some(as_read(&message)),
                Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Everything committed in a topic, to its end; nothing where there is no such topic yet.
pub fn read(environment: &Ephemeral, topic: &str) -> Vec<Read> {
    let (consumer, partitions) = from_the_beginning(environment, topic);
    let (mut records, mut ended) = (Vec::new(), std::collections::BTreeSet::new());
    let deadline = Instant::now() + Duration::from_secs(30);
    while ended.len() < partitions {
        assert!(Instant::now() < deadline, "{topic} can't be read to its end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => records.push(as_read(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(e)) => panic!("{topic}: {e}"),
            None => {}
        }
    }
    records
}

/// Registers an Avro schema and returns its id.
pub fn register(environment: &Ephemeral, subject: &str, schema: &str) -> u32 {
    let registry = environment.registry.clone().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let body = serde_json::json!({ "schema": schema });
        let answer = reqwest::Client::new().post(format!("{registry}/subjects/{subject}/versions")).json(&body).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}")) as u32
    })
}

/// A record `{n: long}` in the Confluent wire format, written by hand.
pub fn avro_long(id: u32, n: i64) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&id.to_be_bytes());
    let mut zigzag = ((n << 1) ^ (n >> 63)) as u64;
    while zigzag >= 0x80 {
        bytes.push((zigzag as u8 & 0x7f) | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes
}
