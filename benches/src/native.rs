//! librdkafka without a layer in between: what a C program would call, and so the limit for every program above it.
//!
//! Records are taken a batch at a time from the consumer's queue and handed to a closure; the producer copies what it
//! is given and asks for no delivery reports (a transaction that commits has delivered everything).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;

use crate::orders::PARTITIONS;

/// Messages taken from the queue in one call.
const BATCH: usize = 4_096;
/// How long transactional calls may take.
const PATIENCE_MS: c_int = 60_000;

/// Asks for the committed position (`RD_KAFKA_OFFSET_STORED`).
const STORED: i64 = -1_000;

/// A client; destroyed with its last owner.
struct Client(*mut sys::rd_kafka_t);

// SAFETY: an rd_kafka_t may be used from any number of threads at once, as librdkafka documents.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    fn new(kind: sys::rd_kafka_type_t, settings: &[(&str, &str)]) -> Result<Client, String> {
        let mut text: [c_char; 512] = [0; 512];
        // SAFETY: no preconditions; owned until `rd_kafka_new` takes it.
        let conf = unsafe { sys::rd_kafka_conf_new() };
        for (name, value) in settings {
            let (c_name, c_value) = (c_string(name)?, c_string(value)?);
            // SAFETY: `conf` is valid, the strings end in NUL and are copied, `text` has the length given.
            let result = unsafe { sys::rd_kafka_conf_set(conf, c_name.as_ptr(), c_value.as_ptr(), text.as_mut_ptr(), text.len()) };
            if result != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                // SAFETY: still ours.
                unsafe { sys::rd_kafka_conf_destroy(conf) };
                return Err(format!("{name}={value}: {}", string(text.as_ptr())));
            }
        }
        // SAFETY: `conf` is valid and given away on success; on failure the process is about to end.
        let rk = unsafe { sys::rd_kafka_new(kind, conf, text.as_mut_ptr(), text.len()) };
        if rk.is_null() { Err(string(text.as_ptr())) } else { Ok(Client(rk)) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once; owners of things made from it hold the client until those are gone.
        unsafe { sys::rd_kafka_destroy(self.0) };
    }
}

/// A record as fetched.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// What a consumer reads of its topic.
#[derive(Clone, Copy, Debug)]
pub enum Share {
    /// What the group gives it.
    Assigned,
    /// The partitions whose number modulo the second figure is the first, from the committed position on; without
    /// joining the group.
    Of(i32, i32),
}

/// A consumer of one topic with `read_committed`.
pub struct Consumer {
    queue: *mut sys::rd_kafka_queue_t,
    messages: Vec<*mut sys::rd_kafka_message_t>,
    client: Arc<Client>,
}

// SAFETY: queue and messages belong to the client, which is free to move between threads.
unsafe impl Send for Consumer {}

impl Consumer {
    /// `fetch_wait`: how long the broker may hold a fetch back that finds nothing.
    pub fn new(bootstrap: &str, group: &str, topic: &str, share: Share, fetch_wait: Duration) -> Result<Consumer, String> {
        let wait = fetch_wait.as_millis().to_string();
        let settings = [
            ("bootstrap.servers", bootstrap),
            ("group.id", group),
            ("auto.offset.reset", "earliest"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("isolation.level", "read_committed"),
            ("queued.min.messages", "1000000"),
            ("queued.max.messages.kbytes", "32768"),
            ("fetch.queue.backoff.ms", "2"),
            ("fetch.wait.max.ms", &wait),
        ];
        let client = Arc::new(Client::new(sys::rd_kafka_type_t::RD_KAFKA_CONSUMER, &settings)?);
        let topic = c_string(topic)?;
        // SAFETY: the client is valid; the list is made, filled, copied by the call that takes it and destroyed here.
        let queue = unsafe {
            sys::rd_kafka_poll_set_consumer(client.0);
            let list = sys::rd_kafka_topic_partition_list_new(PARTITIONS);
            match share {
                Share::Assigned => {
                    sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), -1);
                    sys::rd_kafka_subscribe(client.0, list);
                }
                Share::Of(rest, modulus) => {
                    for partition in (0..PARTITIONS).filter(|p| p % modulus.max(1) == rest) {
                        (*sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), partition)).offset = STORED;
                    }
                    sys::rd_kafka_assign(client.0, list);
                }
            }
            sys::rd_kafka_topic_partition_list_destroy(list);
            sys::rd_kafka_queue_get_consumer(client.0)
        };
        Ok(Consumer { queue, messages: vec![ptr::null_mut(); BATCH], client })
    }

    /// Hands what has arrived to `each`, after waiting for it up to `wait`. Returns how many records there were.
    pub fn poll(&mut self, wait: Duration, mut each: impl FnMut(Record<'_>) -> Result<(), String>) -> Result<usize, String> {
        let wait = wait.as_millis().min(1_000) as c_int;
        // SAFETY: queue and buffer are valid, the buffer has the length given.
        let n = unsafe { sys::rd_kafka_consume_batch_queue(self.queue, wait, self.messages.as_mut_ptr(), self.messages.len()) };
        let taken = self.messages.get(..n.max(0) as usize).unwrap_or_default();
        let mut records = 0;
        let mut result = Ok(());
        for message in taken {
            // SAFETY: the call above filled this many valid messages, which are ours until destroyed. The code is read
            // as an integer: newer brokers have codes that the enum of the bindings lacks.
            unsafe {
                let m = &**message;
                if ptr::addr_of!(m.err).cast::<i32>().read() == 0 && result.is_ok() {
                    records += 1;
                    let record =
                        Record { partition: m.partition, offset: m.offset, key: bytes(m.key, m.key_len), value: bytes(m.payload, m.len) };
                    result = each(record);
                }
                sys::rd_kafka_message_destroy(*message);
            }
        }
        result.map(|()| records)
    }

    /// What a transaction needs to know of this member.
    pub fn membership(&self) -> Membership {
        // SAFETY: the client is valid; the result is owned by `Membership`.
        Membership(unsafe { sys::rd_kafka_consumer_group_metadata(self.client.0) })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and goes before the client.
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue);
            sys::rd_kafka_consumer_close(self.client.0);
        }
    }
}

/// Membership of a group at one moment.
pub struct Membership(*mut sys::rd_kafka_consumer_group_metadata_t);

// SAFETY: plain data, used by one owner.
unsafe impl Send for Membership {}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0) };
    }
}

/// A producer to one topic.
pub struct Producer {
    topic: *mut sys::rd_kafka_topic_t,
    client: Client,
}

// SAFETY: as for the client, which the topic handle belongs to.
unsafe impl Send for Producer {}
// SAFETY: as above.
unsafe impl Sync for Producer {}

impl Producer {
    /// `transactional_id`: `None` for an idempotent producer without transactions.
    pub fn new(bootstrap: &str, transactional_id: Option<&str>, topic: &str, linger: Duration) -> Result<Producer, String> {
        let linger = linger.as_millis().to_string();
        let mut settings = vec![
            ("bootstrap.servers", bootstrap),
            ("enable.idempotence", "true"),
            ("compression.codec", "lz4"),
            ("linger.ms", linger.as_str()),
            ("batch.size", "1000000"),
            ("batch.num.messages", "10000"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", "65536"),
            ("socket.nagle.disable", "true"),
        ];
        settings.extend(transactional_id.map(|id| ("transactional.id", id)));
        let client = Client::new(sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, &settings)?;
        if transactional_id.is_some() {
            // SAFETY: the client is valid.
            check("init_transactions", unsafe { sys::rd_kafka_init_transactions(client.0, PATIENCE_MS) })?;
        }
        let name = c_string(topic)?;
        // SAFETY: client and name are valid; null asks for the default settings.
        let topic = unsafe { sys::rd_kafka_topic_new(client.0, name.as_ptr(), ptr::null_mut()) };
        if topic.is_null() { Err("no topic handle".into()) } else { Ok(Producer { topic, client }) }
    }

    /// Queues a record; waits while the queue is full.
    pub fn send(&self, partition: i32, key: &[u8], value: &[u8]) -> Result<(), String> {
        for _ in 0..6_000 {
            // SAFETY: handle and slices are valid; F_COPY means that nothing is kept or changed.
            let result = unsafe {
                sys::rd_kafka_produce(
                    self.topic,
                    partition,
                    sys::RD_KAFKA_MSG_F_COPY,
                    value.as_ptr().cast_mut().cast::<c_void>(),
                    value.len(),
                    key.as_ptr().cast::<c_void>(),
                    key.len(),
                    ptr::null_mut(),
                )
            };
            if result == 0 {
                return Ok(());
            }
            self.serve(Duration::from_millis(10));
        }
        Err("the producer's queue stays full: is the broker away?".into())
    }

    /// Lets the client handle its events.
    pub fn serve(&self, wait: Duration) {
        // SAFETY: the client is valid.
        unsafe { sys::rd_kafka_poll(self.client.0, wait.as_millis() as c_int) };
    }

    /// Waits until everything queued is delivered.
    pub fn flush(&self) -> Result<(), String> {
        // SAFETY: the client is valid.
        unsafe { sys::rd_kafka_flush(self.client.0, PATIENCE_MS) };
        // SAFETY: as above.
        match unsafe { sys::rd_kafka_outq_len(self.client.0) } {
            0 => Ok(()),
            n => Err(format!("{n} records are not delivered after {PATIENCE_MS} ms")),
        }
    }

    pub fn begin(&self) -> Result<(), String> {
        // SAFETY: the client is valid.
        check("begin_transaction", unsafe { sys::rd_kafka_begin_transaction(self.client.0) })
    }

    /// Commits the open transaction together with input positions.
    pub fn commit(&self, topic: &str, offsets: &[(i32, i64)], membership: &Membership) -> Result<(), String> {
        let topic = c_string(topic)?;
        // SAFETY: client and membership are valid; the list is made, filled, copied by the call and destroyed here.
        unsafe {
            let list = sys::rd_kafka_topic_partition_list_new(offsets.len() as c_int);
            for (partition, offset) in offsets {
                (*sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition)).offset = *offset;
            }
            let added = sys::rd_kafka_send_offsets_to_transaction(self.client.0, list, membership.0, PATIENCE_MS);
            sys::rd_kafka_topic_partition_list_destroy(list);
            check("send_offsets_to_transaction", added)?;
            check("commit_transaction", sys::rd_kafka_commit_transaction(self.client.0, PATIENCE_MS))
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and goes before the client.
        unsafe { sys::rd_kafka_topic_destroy(self.topic) };
    }
}

/// Version of librdkafka.
pub fn version() -> String {
    // SAFETY: returns a static string.
    string(unsafe { sys::rd_kafka_version_str() })
}

/// # Safety
/// `start` is null or points to `length` bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: per the contract.
    unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) }
}

fn check(call: &str, error: *mut sys::rd_kafka_error_t) -> Result<(), String> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null error is valid and ours; the text is copied before it goes.
    let text = unsafe {
        let text = string(sys::rd_kafka_error_string(error));
        sys::rd_kafka_error_destroy(error);
        text
    };
    Err(format!("{call}: {text}"))
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} contains a NUL character"))
}

fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: librdkafka's strings end in NUL and live until the call that uses them returns.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
