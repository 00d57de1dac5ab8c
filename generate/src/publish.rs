//! Writes a load to Kafka.
//!
//! The loop: take the next event of the model, wait until it is due (when paced), encode it, hand it to librdkafka; when the
//! queue there is full, serve delivery reports until there is room. The producer is idempotent, so a retry inside librdkafka
//! neither loses nor repeats nor reorders records, and the totals say what is in the topics: the publisher returns them only
//! after every record was acknowledged, and returns an error otherwise.
//!
//! Limit: the producer is not transactional. A load that is killed leaves in the topics what was acknowledged until then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use uuid::fmt::Hyphenated;

use crate::GenerateError;
use crate::encode::{AvroEncoder, encode_json};
use crate::event::Event;
use crate::model::Model;
use crate::options::Options;
use crate::registry::register;
use crate::schedule::{Schedule, Spike};
use crate::topics::Topic;
use crate::totals::{SoFar, Totals};

/// Where a load goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`, or several separated by commas.
    pub bootstrap: String,
    /// Address of the schema registry, needed for Avro.
    pub registry: Option<String>,
    /// Partitions of topics that do not exist yet.
    pub partitions: i32,
    /// Their replication factor; -1 leaves it to the broker.
    pub replication: i32,
}

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Avro in Confluent's wire format; needs a schema registry.
    Avro,
    /// JSON.
    Json,
}

/// How fast a load is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as the broker takes it.
    Fast,
    /// At this rate, with this burst. With `follow_clock` the load starts at the moment its first event is written, so that event
    /// time is the wall clock's; without, event time starts where [`Options::start_ms`] says.
    Paced {
        /// Events per second of wall time.
        rate: f64,
        /// A burst in it.
        spike: Option<Spike>,
        /// Whether event time is wall time.
        follow_clock: bool,
    },
}

/// How far a load is, about once a second.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Records handed to the producer so far, table rows included.
    pub records: u64,
    /// Of those, acknowledged by the broker.
    pub acknowledged: u64,
    /// Records per second since the last report.
    pub rate: f64,
    /// Record time of the latest event, milliseconds since 1970.
    pub time_ms: i64,
    /// How far a paced load lags behind its schedule.
    pub behind: Duration,
    /// What the records so far add up to.
    pub so_far: SoFar,
}

/// Writes the load that `options` determine, first the tables (unless turned off), until its limit or `stop`.
///
/// `begin` is called once, when every table row is acknowledged; events are written after it has returned.
/// Missing topics are created; schemas are registered for Avro. Blocks the calling thread, which must not be one of an async runtime.
///
/// # Errors
/// What could not be reached, was refused or was not acknowledged; see [`GenerateError`].
pub fn publish(
    options: Options,
    target: &Target,
    format: Format,
    pace: Pace,
    stop: &AtomicBool,
    begin: &mut dyn FnMut(),
    progress: &mut dyn FnMut(&Progress),
) -> Result<Totals, GenerateError> {
    let encoder = prepare(target, format)?;
    let context = Deliveries::default();
    let producer: BaseProducer<Deliveries> = client(&target.bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("batch.size", "524288")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "131072")
        // Kafka's own partitioner, so that records of one key lie where a Java client would put them.
        .set("partitioner", "murmur2_random")
        .create_with_context(context.clone())
        .map_err(|error| GenerateError::Kafka(format!("cannot create the producer: {error}")))?;
    let mut run = Run { producer, context, encoder, records: 0, reported: (Instant::now(), 0) };
    let mut model = Model::new(options);
    let (mut begin, mut due) = (Some(begin), None);
    while !stop.load(Ordering::Relaxed) {
        if model.tables_done()
            && let Some(begin) = begin.take()
        {
            run.flush()?;
            begin();
            continue;
        }
        if let Pace::Paced { rate, spike, follow_clock } = pace
            && model.tables_done()
        {
            let (schedule, began) = due.get_or_insert_with(|| {
                if follow_clock {
                    model.start_at(now_ms());
                }
                (Schedule::new(rate, spike), Instant::now())
            });
            let at = *began + Duration::from_micros(schedule.due_us(model.number()));
            if !run.wait_until(at, stop)? {
                break;
            }
        }
        let Some(event) = model.next() else { break };
        run.send(&event)?;
        let next_due = due.as_ref().map(|(s, began)| *began + Duration::from_micros(s.due_us(model.number())));
        run.report(&event, model.totals(), next_due, progress);
    }
    run.flush()?;
    Ok(model.into_totals())
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("client.id", "headwater-generate");
    config
}

/// Registers schemas and creates topics. Both are asynchronous underneath, so a small runtime lives for this long.
fn prepare(target: &Target, format: Format) -> Result<Option<AvroEncoder>, GenerateError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| GenerateError::Runtime(error.to_string()))?;
    runtime.block_on(async {
        let encoder = match (format, &target.registry) {
            (Format::Json, _) => None,
            (Format::Avro, Some(registry)) => Some(AvroEncoder::new(&register(registry).await?)?),
            (Format::Avro, None) => {
                let message = "writing Avro needs the address of a schema registry; without one, write JSON (--format json)".to_owned();
                return Err(GenerateError::Registry(message));
            }
        };
        create_topics(target).await?;
        Ok(encoder)
    })
}

/// Creates the topics that do not exist; those that do stay as they are.
async fn create_topics(target: &Target) -> Result<(), GenerateError> {
    let failed = |error: KafkaError| {
        GenerateError::Kafka(format!("cannot create topics at {}: {error}; check the address and that it is running", target.bootstrap))
    };
    let admin: AdminClient<DefaultClientContext> = client(&target.bootstrap).create().map_err(failed)?;
    let topics: Vec<NewTopic<'_>> = Topic::ALL
        .iter()
        .map(|topic| {
            let new = NewTopic::new(topic.name(), target.partitions, TopicReplication::Fixed(target.replication));
            // Seven days for business events; a table lives as long as its keys.
            if topic.is_table() { new.set("cleanup.policy", "compact") } else { new.set("retention.ms", "604800000") }
        })
        .collect();
    let timeout = Some(Duration::from_secs(30));
    let options = AdminOptions::new().request_timeout(timeout).operation_timeout(timeout);
    for outcome in admin.create_topics(&topics, &options).await.map_err(failed)? {
        match outcome {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                return Err(GenerateError::Kafka(format!("cannot create topic {topic} at {}: {code}", target.bootstrap)));
            }
        }
    }
    Ok(())
}

/// Counts acknowledgements and keeps the first failure.
#[derive(Clone, Default)]
struct Deliveries {
    acknowledged: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<String>>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.failure.lock().get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// A load in progress.
struct Run {
    producer: BaseProducer<Deliveries>,
    context: Deliveries,
    encoder: Option<AvroEncoder>,
    records: u64,
    reported: (Instant, u64),
}

/// A paced load looks at `stop` and at delivery reports this often while it waits.
const TICK: Duration = Duration::from_millis(20);
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Longer than librdkafka's own delivery timeout (five minutes), which ends every record one way or the other.
const FLUSH: Duration = Duration::from_secs(330);

impl Run {
    /// Serves delivery reports until the moment has come; false when stopped before.
    fn wait_until(&self, at: Instant, stop: &AtomicBool) -> Result<bool, GenerateError> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            // Not less than a millisecond: librdkafka's clock has no finer ticks, and the wait would spin.
            self.producer.poll(left.clamp(Duration::from_millis(1), TICK));
            self.check()?;
        }
    }

    fn check(&self) -> Result<(), GenerateError> {
        match self.context.failure.lock().take() {
            Some(why) => Err(GenerateError::Kafka(format!("a record was not acknowledged: {why}"))),
            None => Ok(()),
        }
    }

    fn send(&mut self, event: &Event) -> Result<(), GenerateError> {
        let value = match &self.encoder {
            Some(encoder) => encoder.encode(event)?,
            None => encode_json(event)?,
        };
        let (topic, key) = (event.topic().name(), event.key());
        let mut record = BaseRecord::to(topic).key(key.as_bytes()).payload(value.as_slice()).timestamp(event.timestamp_ms);
        record.headers = headers(event);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    self.producer.poll(TICK);
                    self.check()?;
                    record = returned;
                }
                Err((error, _)) => {
                    return Err(GenerateError::Kafka(format!("cannot write to {topic}: {error}")));
                }
            }
        }
        self.records += 1;
        if self.records.is_multiple_of(256) {
            self.producer.poll(Duration::ZERO);
            self.check()?;
        }
        Ok(())
    }

    fn report(&mut self, event: &Event, totals: &Totals, next_due: Option<Instant>, progress: &mut dyn FnMut(&Progress)) {
        // Reading the clock for every record would cost too much.
        if !self.records.is_multiple_of(64) && next_due.is_none() {
            return;
        }
        let now = Instant::now();
        let (since, before) = self.reported;
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= REPORT_EVERY {
            self.reported = (now, self.records);
            progress(&Progress {
                records: self.records,
                acknowledged: self.context.acknowledged.load(Ordering::Relaxed),
                rate: (self.records - before) as f64 / elapsed.as_secs_f64(),
                time_ms: event.timestamp_ms,
                behind: next_due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due)),
                so_far: totals.so_far(),
            });
        }
    }

    /// Waits until every record is acknowledged.
    fn flush(&self) -> Result<(), GenerateError> {
        let flushed = self.producer.flush(FLUSH);
        self.check()?;
        flushed.map_err(|error| GenerateError::Kafka(format!("records were not acknowledged: {error}")))?;
        let acknowledged = self.context.acknowledged.load(Ordering::Relaxed);
        if acknowledged != self.records {
            let message = format!("{acknowledged} of {} records were acknowledged", self.records);
            return Err(GenerateError::Kafka(message));
        }
        Ok(())
    }
}

fn headers(event: &Event) -> Option<OwnedHeaders> {
    let headers = event.headers()?;
    let mut buffer = [0; Hyphenated::LENGTH];
    let mut id = |key, id: uuid::Uuid, to: OwnedHeaders| {
        let value = &*id.hyphenated().encode_lower(&mut buffer);
        to.insert(Header { key, value: Some(value) })
    };
    let mut owned = id("correlation-id", headers.correlation_id, OwnedHeaders::new_with_capacity(3));
    if let Some(cause) = headers.causation_id {
        owned = id("causation-id", cause, owned);
    }
    Some(owned.insert(Header { key: "traceparent", value: Some(&headers.traceparent) }))
}
