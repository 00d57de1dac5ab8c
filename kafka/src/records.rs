//! Fetched records, without copying: a [`MessageSet`] holds librdkafka's messages, whose bytes lie in its fetch buffers.
//!
//! How [`Fetcher::fetch`] waits. `rd_kafka_consume_batch_queue` returns when its array is full or its time is over, so
//! that asking for many with a timeout waits the whole timeout for a trickle. Asked for *one* it returns the moment
//! there is one, on the queue's own condition variable: no wake-up to lose, no thread, no descriptor. So: take what is
//! there; if that is nothing, wait for one, then take what came with it.
//!
//! One record pins the whole response it came in (some hundred kilobytes): a set is for decoding and then dropping.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Record, RecordSet, TopicPartition};
use rdkafka::bindings as sys;

use super::codes;
use super::native::{self, Client, Context, NativeMessage, NativeQueue, NativeTopic};

/// Records per fetch at most, whatever is asked for: bounds the array of pointers.
const MAX_FETCH: usize = 32_768;

/// What a fetch brought, in order.
pub(super) enum Fetched {
    Records { partition: TopicPartition, first: i64, last: i64, records: MessageSet },
    End { partition: TopicPartition, offset: i64 },
    Error { partition: Option<TopicPartition>, offset: i64, code: i32, text: String },
}

/// Consecutive records of one partition.
pub(super) struct MessageSet {
    messages: Vec<*mut NativeMessage>,
    /// The messages' memory belongs to the client.
    _client: Arc<dyn Send + Sync>,
}

// SAFETY: messages are plain memory owned by this set; destroying them from another thread is allowed.
unsafe impl Send for MessageSet {}

impl MessageSet {
    /// Drops the records before `offset` (they are in offset order).
    pub(super) fn skip_before(&mut self, offset: i64) {
        // SAFETY: all pointers are valid messages.
        let stale = self.messages.partition_point(|message| unsafe { (**message).offset } < offset);
        for message in self.messages.drain(..stale) {
            // SAFETY: removed from the set, destroyed once.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
    }
}

impl Drop for MessageSet {
    fn drop(&mut self) {
        for message in &self.messages {
            // SAFETY: owned by this set and destroyed once.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

impl RecordSet for MessageSet {
    fn len(&self) -> usize {
        self.messages.len()
    }

    fn get(&self, index: usize) -> Record<'_> {
        // SAFETY: the message is valid while the set lives; key and value are null or hold the stated lengths.
        unsafe {
            let message = self.messages[index];
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            let timestamp = sys::rd_kafka_message_timestamp(message, &mut kind);
            Record {
                offset: (*message).offset,
                timestamp: (timestamp >= 0).then_some(timestamp),
                key: bytes((*message).key as *const u8, (*message).key_len),
                value: bytes((*message).payload as *const u8, (*message).len),
            }
        }
    }

    fn headers(&self, index: usize, visit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        // SAFETY: the message is valid.
        unsafe { visit_headers(self.messages[index], visit) };
    }
}

/// Visits the headers of a message in order.
///
/// # Safety
/// `message` is valid.
pub(super) unsafe fn visit_headers(message: *const NativeMessage, visit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
    // SAFETY: per the contract; the headers belong to the message; names are NUL-terminated, values have the stated size.
    unsafe {
        let mut headers = std::ptr::null_mut();
        if sys::rd_kafka_message_headers(message, &mut headers) as i32 != 0 || headers.is_null() {
            return;
        }
        for at in 0..sys::rd_kafka_header_cnt(headers) {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0_usize);
            if sys::rd_kafka_header_get_all(headers, at, &mut name, &mut value, &mut size) as i32 != 0 {
                return;
            }
            visit(CStr::from_ptr(name).to_bytes(), bytes(value as *const u8, size));
        }
    }
}

/// # Safety
/// `at` is null or points to `len` bytes that live for `'a`.
pub(super) unsafe fn bytes<'a>(at: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: per the contract.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at, len) })
}

/// Takes messages off one queue of a client.
pub(super) struct Fetcher<C: Context> {
    client: Arc<Client<C>>,
    queue: *mut NativeQueue,
    buffer: Vec<*mut NativeMessage>,
    names: Vec<Arc<str>>,
}

// SAFETY: the queue belongs to the client, which may be used from any thread; the buffer is empty between calls.
unsafe impl<C: Context> Send for Fetcher<C> {}

impl<C: Context> Fetcher<C> {
    /// `queue` is kept by `client`.
    pub(super) fn new(client: Arc<Client<C>>, queue: *mut NativeQueue) -> Fetcher<C> {
        Fetcher { client, queue, buffer: Vec::new(), names: Vec::new() }
    }

    /// About `max` messages; waits up to `timeout` for the first, unless `woken` says there is other news.
    pub(super) fn fetch(&mut self, max: usize, timeout: Duration, woken: impl Fn() -> bool) -> Vec<Fetched> {
        let max = max.clamp(1, MAX_FETCH);
        if self.buffer.len() < max {
            self.buffer.resize(max, std::ptr::null_mut());
        }
        let mut count = self.take(0, 0, max);
        if count == 0 && !timeout.is_zero() && !woken() {
            count = self.take(native::millis(timeout), 0, 1);
            if count == 1 && max > 1 {
                count += self.take(0, 1, max);
            }
        }
        self.group(count)
    }

    fn take(&mut self, timeout_ms: i32, from: usize, to: usize) -> usize {
        // SAFETY: the queue is valid and the buffer has room for `to - from` pointers after `from`.
        let taken = unsafe { sys::rd_kafka_consume_batch_queue(self.queue, timeout_ms, self.buffer.as_mut_ptr().add(from), to - from) };
        usize::try_from(taken).unwrap_or(0)
    }

    fn group(&mut self, count: usize) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        let mut at = 0;
        while at < count {
            let message = self.buffer[at];
            // SAFETY: the first `count` pointers are valid messages owned by this call; each is either moved into a set
            // or destroyed exactly once.
            unsafe {
                if code(message) != 0 {
                    fetched.push(self.other(message));
                    sys::rd_kafka_message_destroy(message);
                    at += 1;
                    continue;
                }
                let (topic, partition) = ((*message).rkt, (*message).partition);
                let run = self.buffer[at..count]
                    .iter()
                    .take_while(|next| (***next).rkt == topic && (***next).partition == partition && code(**next) == 0)
                    .count();
                let messages = self.buffer[at..at + run].to_vec();
                at += run;
                fetched.push(Fetched::Records {
                    partition: TopicPartition { topic: self.name(topic), partition },
                    first: (*message).offset,
                    last: (**self.buffer.get_unchecked(at - 1)).offset,
                    records: MessageSet { messages, _client: self.client.clone() },
                });
            }
        }
        fetched
    }

    /// # Safety
    /// `message` is valid.
    unsafe fn other(&mut self, message: *mut NativeMessage) -> Fetched {
        // SAFETY: per the contract; `rkt` may be null for errors of no topic.
        unsafe {
            let offset = (*message).offset;
            let partition =
                (!(*message).rkt.is_null()).then(|| TopicPartition { topic: self.name((*message).rkt), partition: (*message).partition });
            match (code(message), partition) {
                (codes::PARTITION_EOF, Some(partition)) => Fetched::End { partition, offset },
                (code, partition) => {
                    let text = native::string(sys::rd_kafka_message_errstr(message));
                    Fetched::Error { partition, offset, code, text }
                }
            }
        }
    }

    /// # Safety
    /// `topic` is a valid handle.
    unsafe fn name(&mut self, topic: *mut NativeTopic) -> Arc<str> {
        // SAFETY: per the contract; the name lives as long as the handle.
        let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(topic)) }.to_string_lossy();
        if let Some(known) = self.names.iter().find(|known| ***known == *name) {
            return known.clone();
        }
        let new: Arc<str> = Arc::from(&*name);
        self.names.push(new.clone());
        new
    }
}

/// The error code of a message, as an integer (see the module text of `codes`).
///
/// # Safety
/// `message` is valid.
pub(super) unsafe fn code(message: *const NativeMessage) -> i32 {
    // SAFETY: per the contract; the field is a C enum of the size of an `int`.
    unsafe { std::ptr::addr_of!((*message).err).cast::<i32>().read() }
}
