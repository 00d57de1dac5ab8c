//! The Kafka that everything runs on, and what is asked of it between measurements.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_devenv::{Ephemeral, Options, Protocol, Proxy};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::Offset;

use crate::orders::PARTITIONS;

const PATIENCE: Duration = Duration::from_secs(10);

/// A broker of our own, or one that runs already.
pub struct Cluster {
    pub bootstrap: String,
    /// The same for the programs that are measured, further away if that was asked for.
    pub distant: String,
    admin: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
    _proxies: Vec<Proxy>,
    _own: Option<Ephemeral>,
}

impl Cluster {
    /// `bootstrap`: a cluster that runs already; otherwise one broker is started and ends with this process. `delay`: its answers to the
    /// programs that are measured take this much longer.
    pub fn up(bootstrap: Option<&str>, delay: Duration) -> Result<Cluster, String> {
        if bootstrap.is_some() && !delay.is_zero() {
            return Err("only the answers of a broker that is started here can be delayed".into());
        }
        let proxied = !delay.is_zero();
        let own = match bootstrap {
            Some(_) => None,
            None => {
                let options = Options { registry: false, clickhouse: false, proxied, ..Options::new("") };
                Some(Ephemeral::up(&options).map_err(|e| e.to_string())?)
            }
        };
        let bootstrap = match (bootstrap, &own) {
            (Some(given), _) => given.to_string(),
            (None, Some(own)) => own.bootstrap.clone(),
            (None, None) => String::new(),
        };
        let routes = own.iter().flat_map(|own| &own.proxied);
        let proxies: Vec<Proxy> = routes
            .map(|route| Proxy::start(route.listen, route.upstream, Protocol::Tcp))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        proxies.iter().for_each(|proxy| proxy.delay(delay));
        let distant = own.as_ref().and_then(|own| own.proxied_bootstrap()).unwrap_or_else(|| bootstrap.clone());
        let admin = ClientConfig::new().set("bootstrap.servers", &bootstrap).create().map_err(|e| e.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        Ok(Cluster { bootstrap, distant, admin, runtime, _proxies: proxies, _own: own })
    }

    /// Creates a topic and waits until it can be used.
    pub fn create(&self, topic: &str) -> Result<(), String> {
        let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(-1));
        let made = self.runtime.block_on(self.admin.create_topics(&[new], &AdminOptions::new().operation_timeout(Some(PATIENCE))));
        for result in made.map_err(|e| e.to_string())? {
            result.map_err(|(name, code)| format!("topic {name}: {code}"))?;
        }
        // The answer comes from the controller; brokers and their leaders follow.
        let started = Instant::now();
        loop {
            let metadata = self.admin.inner().fetch_metadata(Some(topic), PATIENCE).map_err(|e| e.to_string())?;
            let led = metadata.topics().iter().flat_map(|t| t.partitions()).filter(|p| p.leader() >= 0).count();
            if led == PARTITIONS as usize {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("the topic {topic} has {led} partitions with a leader after {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Deletes what a run made: all topics that contain `part` in their name.
    pub fn delete_matching(&self, part: &str) -> Result<(), String> {
        let metadata = self.admin.inner().fetch_metadata(None, PATIENCE).map_err(|e| e.to_string())?;
        let names: Vec<&str> = metadata.topics().iter().map(|t| t.name()).filter(|n| n.contains(part)).collect();
        if !names.is_empty() {
            self.runtime
                .block_on(self.admin.delete_topics(&names, &AdminOptions::new().operation_timeout(Some(PATIENCE))))
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// A look at the committed positions of a group.
    pub fn group(&self, group: &str) -> Result<Group, String> {
        // Without waiting for open transactions: the last committed position is what is asked for.
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted")
            .create()
            .map_err(|e| e.to_string())?;
        Ok(Group(consumer))
    }

    /// Reads everything committed in a topic.
    pub fn read_all(&self, topic: &str, mut each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<u64, String> {
        use rdkafka::message::Message;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "bench-reader")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()
            .map_err(|e| e.to_string())?;
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning).map_err(|e| e.to_string())?;
        }
        consumer.assign(&list).map_err(|e| e.to_string())?;
        let (mut records, mut ended) = (0, std::collections::BTreeSet::new());
        while ended.len() < PARTITIONS as usize {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    records += 1;
                    each(message.payload().unwrap_or_default())?;
                }
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                    ended.insert(partition);
                }
                Some(Err(e)) => return Err(format!("reading {topic}: {e}")),
                None => return Err(format!("reading {topic}: nothing comes after {records} records")),
            }
        }
        Ok(records)
    }
}

/// Committed positions of a consumer group.
pub struct Group(BaseConsumer);

impl Group {
    /// The committed position of each partition of a topic; 0 where nothing is committed.
    pub fn committed(&self, topic: &str) -> Result<BTreeMap<i32, i64>, String> {
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition(topic, partition);
        }
        let list = self.0.committed_offsets(list, PATIENCE).map_err(|e| e.to_string())?;
        let position = |offset| if let Offset::Offset(at) = offset { at } else { 0 };
        Ok(list.elements().iter().map(|e| (e.partition(), position(e.offset()))).collect())
    }

    /// Records of a topic behind the committed positions, transaction markers included.
    pub fn lag(&self, topic: &str) -> Result<i64, String> {
        let mut lag = 0;
        for (partition, at) in self.committed(topic)? {
            let (_, end) = self.0.fetch_watermarks(topic, partition, PATIENCE).map_err(|e| e.to_string())?;
            lag += (end - at).max(0);
        }
        Ok(lag)
    }
}
