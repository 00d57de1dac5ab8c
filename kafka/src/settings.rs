//! What a user may set of a Kafka client, what Headwater sets, and what nobody may.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use headwater_engine::broker::BrokerError;

use super::native::Settings;

/// When librdkafka gives up on a request and its connection. A transaction whose end took this long makes its producer
/// suspect; see [`producer`].
pub(super) const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// About how long the client that asks the first questions pauses before it connects again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Bytes that make a fetch worth its while: some forty records of a few hundred bytes.
const GATHERED: u32 = 16_384;

/// Client properties that nobody may set: they make the client load a library or run a command.
const LOADS_OR_RUNS: [&str; 4] = ["plugin.library.paths", "sasl.kerberos.kinit.cmd", "ssl.engine.location", "ssl.providers"];

/// Client properties a user may not set either: each carries part of a guarantee, or is set from a field of its own.
pub const RESERVED: [&str; 29] = [
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "client.id",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "linger.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.poll.interval.ms",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "queue.buffering.max.ms",
    "session.timeout.ms",
    "socket.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// Whether a user may set this client property, to this value where it is known.
///
/// # Errors
/// It is [`RESERVED`], loads code, or librdkafka has no such property or no such value of it.
pub fn check_property(name: &str, value: Option<&str>) -> Result<(), String> {
    if LOADS_OR_RUNS.contains(&name) {
        return Err(format!("Kafka client setting `{name}` loads a library or runs a command, which Headwater does not allow"));
    }
    if RESERVED.contains(&name) {
        return Err(format!("Kafka client setting `{name}` is set by Headwater and can't be changed"));
    }
    value.map_or(Ok(()), |value| Settings::new().set(name, value).map_err(|e| e.message))
}

/// Whether the Kafka client has a setting of this name.
pub fn is_property(name: &str) -> bool {
    // Not every setting takes an empty text, but then that is what is wrong.
    Settings::new().set(name, "").map_or_else(|e| !e.message.contains("does not exist"), |()| true)
}

/// Whether a transaction may take this long.
///
/// # Errors
/// It would end before a request does.
pub fn check_transaction_timeout(timeout: Duration) -> Result<(), String> {
    match timeout > SOCKET_TIMEOUT {
        true => Ok(()),
        false => Err(format!("`transaction_timeout` must be above {} s", SOCKET_TIMEOUT.as_secs())),
    }
}

/// How to reach a cluster and how to behave there.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// Shown in the brokers' logs and metrics.
    pub client_id: String,
    /// Further librdkafka settings: security, tuning. Not those in [`RESERVED`]. Never printed.
    pub properties: BTreeMap<String, String>,
    /// After this long the brokers abort an open transaction: bounds how long a killed worker's partitions wait.
    pub transaction_timeout: Duration,
    /// After this long without a heartbeat a member is out of its group.
    pub session_timeout: Duration,
    /// After this long without a poll a member is out of its group.
    pub max_poll_interval: Duration,
    /// How long a broker holds a fetch that finds nothing. Records that arrive end it early.
    pub fetch_wait: Duration,
    /// How long a broker waits for [`GATHERED`] bytes before it answers a fetch of a group's member; 0: it answers at the first record.
    pub gather: Duration,
    /// Prefetched bytes per consumer, about.
    pub fetch_buffer: usize,
    /// Bytes that a producer's client holds, and as many again that wait for their round; beyond that [`Producer::send`](headwater_engine::broker::Producer::send) waits.
    pub send_buffer: usize,
    /// Lanes keep their membership over a restart (`group.instance.id`). A stuck lane then holds its partitions until
    /// the session timeout.
    pub static_membership: bool,
}

impl KafkaConfig {
    /// Defaults for the cluster at `bootstrap`.
    pub fn new(bootstrap: impl Into<String>) -> KafkaConfig {
        KafkaConfig {
            bootstrap: bootstrap.into(),
            client_id: "headwater".into(),
            properties: BTreeMap::new(),
            transaction_timeout: Duration::from_secs(20),
            session_timeout: Duration::from_secs(10),
            max_poll_interval: Duration::from_secs(300),
            fetch_wait: Duration::from_millis(50),
            gather: Duration::ZERO,
            fetch_buffer: 16 << 20,
            send_buffer: 32 << 20,
            static_membership: false,
        }
    }

    /// The same for a pipeline with this commit interval. What a lane reads becomes visible at its next commit, so fetches may gather
    /// records meanwhile: answered record by record they take more CPU time, here and in the broker, than the records do.
    pub fn committing_every(self, interval: Duration) -> KafkaConfig {
        KafkaConfig { gather: (interval / 5).min(self.fetch_wait), ..self }
    }

    /// What every client needs to connect: the user's properties and the address.
    fn connection(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = [("bootstrap.servers", self.bootstrap.as_str()), ("client.id", self.client_id.as_str())];
        self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(own)
    }

    /// What a client needs to know beside its settings: the address, and whether it renews tokens.
    pub(super) fn reach(&self) -> (&str, bool) {
        (&self.bootstrap, self.oauth())
    }

    pub(super) fn oauth(&self) -> bool {
        let mechanism = |name: &str| self.properties.get(name).is_some_and(|value| value.contains("OAUTHBEARER"));
        mechanism("sasl.mechanism") || mechanism("sasl.mechanisms")
    }

    pub(super) fn check(&self) -> Result<(), BrokerError> {
        for name in self.properties.keys() {
            check_property(name, None).map_err(BrokerError::fatal)?;
        }
        if self.bootstrap.trim().is_empty() {
            return Err(BrokerError::fatal("no bootstrap servers"));
        }
        check_transaction_timeout(self.transaction_timeout).map_err(BrokerError::fatal)
    }

    /// Settings of a client: ours first where a user may tune, the user's, then those that carry guarantees.
    pub(super) fn settings(&self, role: Role<'_>) -> Result<Settings, BrokerError> {
        let mut settings = Settings::new();
        for (name, value) in self.tunable(&role) {
            settings.set(name, &value)?;
        }
        for (name, value) in self.connection() {
            settings.set(name, value)?;
        }
        settings.set("socket.timeout.ms", &SOCKET_TIMEOUT.as_millis().to_string())?;
        match role {
            Role::Member { group, instance } => {
                self.fetching(&mut settings)?;
                settings.set("client.id", &format!("{}-{instance}", self.client_id))?;
                settings.set("group.id", group)?;
                settings.set("group.protocol", "classic")?;
                settings.set("partition.assignment.strategy", "range")?;
                settings.set("session.timeout.ms", &self.session_timeout.as_millis().to_string())?;
                settings.set("max.poll.interval.ms", &self.max_poll_interval.as_millis().to_string())?;
                if self.static_membership {
                    settings.set("group.instance.id", instance)?;
                }
            }
            Role::Reader => self.fetching(&mut settings)?,
            Role::Questions => {
                settings.set("isolation.level", "read_uncommitted")?;
                settings.set("allow.auto.create.topics", "false")?;
            }
            Role::Producer { transactional_id, batch } => {
                settings.set("batch.size", &batch.to_string())?;
                settings.set("enable.idempotence", "true")?;
                settings.set("acks", "all")?;
                settings.set("max.in.flight", "5")?;
                // Also how long a record may wait for a broker: librdkafka wants it within the transaction's time.
                let timeout = self.transaction_timeout.as_millis().to_string();
                settings.set("message.timeout.ms", &timeout)?;
                // Records are sent by the flush at the end of their epoch, which is no longer than this as a rule.
                settings.set("linger.ms", &(self.transaction_timeout / 2).as_millis().to_string())?;
                if let Some(id) = transactional_id {
                    settings.set("client.id", &format!("{}-{id}", self.client_id))?;
                    settings.set("transactional.id", id)?;
                    settings.set("transaction.timeout.ms", &timeout)?;
                }
            }
        }
        Ok(settings)
    }

    fn fetching(&self, settings: &mut Settings) -> Result<(), BrokerError> {
        settings.set("isolation.level", "read_committed")?;
        settings.set("enable.auto.commit", "false")?;
        settings.set("enable.auto.offset.store", "false")?;
        settings.set("auto.offset.reset", "error")?;
        settings.set("enable.partition.eof", "true")?;
        settings.set("check.crcs", "true")?;
        settings.set("allow.auto.create.topics", "false")
    }

    fn tunable(&self, role: &Role<'_>) -> Vec<(&'static str, String)> {
        let mut settings = vec![("socket.nagle.disable", "true".to_owned()), ("reconnect.backoff.max.ms", "2000".into())];
        match role {
            Role::Questions => settings.extend([
                // It is the first to log in.
                ("reconnect.backoff.ms", FIRST_PAUSE.as_millis().to_string()),
                // Otherwise librdkafka connects when it is asked to. A request that waits for a broker asks for that at every change of a
                // connection's state, and that cancels the backoff: two requests at a time keep trying without a pause while a broker is
                // away. The price is a connection to each broker.
                ("enable.sparse.connections", "false".into()),
            ]),
            Role::Member { .. } | Role::Reader => {
                settings.extend([
                    ("fetch.wait.max.ms", self.fetch_wait.as_millis().to_string()),
                    ("fetch.error.backoff.ms", "100".into()),
                    // A full queue otherwise rests for a whole second before it is filled again.
                    ("fetch.queue.backoff.ms", "2".into()),
                    ("queued.max.messages.kbytes", (self.fetch_buffer / 1024).max(1).to_string()),
                    ("queued.min.messages", "1000000".into()),
                ]);
                if let Role::Member { .. } = role {
                    // A rebalance is noticed by the answer to a heartbeat.
                    let heartbeat = (self.session_timeout / 10).min(Duration::from_secs(1)).as_millis().max(100);
                    settings.push(("heartbeat.interval.ms", heartbeat.to_string()));
                    if !self.gather.is_zero() {
                        settings.push(("fetch.wait.max.ms", self.gather.as_millis().to_string()));
                        settings.push(("fetch.min.bytes", GATHERED.to_string()));
                    }
                }
            }
            Role::Producer { .. } => settings.extend([
                ("compression.codec", "lz4".to_owned()),
                ("batch.num.messages", "10000".into()),
                ("queue.buffering.max.messages", "1000000".into()),
                ("queue.buffering.max.kbytes", (self.send_buffer / 1024).max(1).to_string()),
                ("retry.backoff.ms", "50".into()),
            ]),
        }
        settings
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("bootstrap", &self.bootstrap)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("transaction_timeout", &self.transaction_timeout)
            .field("session_timeout", &self.session_timeout)
            .field("static_membership", &self.static_membership)
            .finish_non_exhaustive()
    }
}

/// What a client is for.
pub(super) enum Role<'a> {
    Member {
        group: &'a str,
        instance: &'a str,
    },
    Reader,
    /// Metadata and watermarks.
    Questions,
    Producer {
        transactional_id: Option<&'a str>,
        /// Bytes of a batch.
        batch: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kafka;

    fn with(properties: &[(&str, &str)]) -> KafkaConfig {
        let mut config = KafkaConfig::new("127.0.0.1:1");
        config.properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        config
    }

    fn refusal(config: KafkaConfig) -> String {
        Kafka::connect(config).err().expect("refused").message
    }

    #[test]
    fn every_reserved_setting_is_one_librdkafka_knows() {
        for name in RESERVED.into_iter().chain(LOADS_OR_RUNS) {
            // Values don't matter: what counts is that the name is not refused as unknown.
            let message = Settings::new().set(name, "?").err().map(|error| error.message).unwrap_or_default();
            assert!(!message.contains("does not exist"), "{message}");
        }
    }

    #[test]
    fn settings_that_carry_a_guarantee_are_refused_by_name() {
        for name in RESERVED.into_iter().chain(LOADS_OR_RUNS) {
            assert!(refusal(with(&[(name, "x")])).contains(&format!("`{name}`")));
        }
    }

    #[test]
    fn neither_errors_nor_debug_output_show_values() {
        let canary = "c4n4ry-s3cr3t";
        for name in ["sasl.password", "no.such.setting", "fetch.wait.max.ms", "security.protocol", "acks"] {
            let config = with(&[(name, canary), ("ssl.key.password", canary)]);
            assert!(!format!("{config:?}").contains(canary));
            if let Err(error) = Kafka::connect(config) {
                assert!(!format!("{error} {error:?}").contains(canary), "{error}");
                assert!(error.message.contains(name), "{error}");
            }
        }
    }

    #[test]
    fn a_user_may_tune() {
        let config = with(&[("retry.backoff.ms", "20"), ("fetch.wait.max.ms", "100"), ("compression.codec", "zstd")]);
        assert!(Kafka::connect(config).is_ok());
    }

    #[test]
    fn fetches_gather_for_a_fifth_of_the_commit_interval() {
        let gather = |interval| with(&[]).committing_every(Duration::from_millis(interval)).gather.as_millis();
        assert_eq!([10, 20, 100, 1_000].map(gather), [2, 4, 20, 50]);
        let settings = |config: KafkaConfig| {
            let settings = config.settings(Role::Member { group: "-", instance: "-" }).unwrap();
            (settings.number("fetch.min.bytes"), settings.number("fetch.wait.max.ms"))
        };
        assert_eq!(settings(with(&[])), (1, 50));
        assert_eq!(settings(with(&[]).committing_every(Duration::from_millis(20))), (16_384, 4));
        let tuned = with(&[("fetch.min.bytes", "1")]).committing_every(Duration::from_millis(20));
        assert_eq!(settings(tuned), (1, 4));
    }

    #[test]
    fn a_transaction_must_outlive_a_lost_connection() {
        let mut config = with(&[]);
        config.transaction_timeout = SOCKET_TIMEOUT;
        assert!(refusal(config).contains("transaction_timeout"));
        assert!(refusal(KafkaConfig::new(" ")).contains("bootstrap"));
    }
}
