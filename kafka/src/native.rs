//! The thin, unsafe layer over librdkafka's C interface: clients, settings, errors.
//!
//! Ownership: a [`Client`] owns its `rd_kafka_t`, the queues and the topic handles made through it, and the context its
//! callbacks see. Whatever borrows from the client's memory (fetched records, commits in progress) holds an `Arc` of it,
//! so that the library's "destroy everything else first" holds by construction. Destroying waits for the client's
//! threads, which can take long while brokers are away: it is done on a detached thread.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Arc, Weak};
use std::time::Duration;

use headwater_engine::broker::BrokerError;
use headwater_engine::printable::printable;
use parking_lot::Mutex;
use rdkafka::bindings as sys;

use super::watch::{self, Probe};
use super::{codes, quiet};

pub(super) type Native = sys::rd_kafka_t;
pub(super) type NativeMessage = sys::rd_kafka_message_t;
pub(super) type NativeTopic = sys::rd_kafka_topic_t;
pub(super) type NativeQueue = sys::rd_kafka_queue_t;

/// The same functions as in `rdkafka::bindings`, with error codes as integers (see [`codes`]).
pub(super) mod raw {
    use super::sys::{
        rd_kafka_ConfigResource_t, rd_kafka_error_t, rd_kafka_event_t, rd_kafka_metadata as Metadata, rd_kafka_queue_t, rd_kafka_t,
        rd_kafka_topic_partition_list_t, rd_kafka_topic_result_t, rd_kafka_topic_t,
    };
    use std::ffi::{c_char, c_int, c_void};

    unsafe extern "C" {
        pub(in super::super) fn rd_kafka_error_code(error: *const rd_kafka_error_t) -> c_int;
        pub(in super::super) fn rd_kafka_err2str(code: c_int) -> *const c_char;
        pub(in super::super) fn rd_kafka_err2name(code: c_int) -> *const c_char;
        pub(in super::super) fn rd_kafka_last_error() -> c_int;
        pub(in super::super) fn rd_kafka_fatal_error(rk: *mut rd_kafka_t, text: *mut c_char, size: usize) -> c_int;
        pub(in super::super) fn rd_kafka_assign(rk: *mut rd_kafka_t, list: *const rd_kafka_topic_partition_list_t) -> c_int;
        pub(in super::super) fn rd_kafka_assignment(rk: *mut rd_kafka_t, list: *mut *mut rd_kafka_topic_partition_list_t) -> c_int;
        pub(in super::super) fn rd_kafka_subscribe(rk: *mut rd_kafka_t, list: *const rd_kafka_topic_partition_list_t) -> c_int;
        pub(in super::super) fn rd_kafka_committed(
            rk: *mut rd_kafka_t,
            list: *mut rd_kafka_topic_partition_list_t,
            timeout_ms: c_int,
        ) -> c_int;
        pub(in super::super) fn rd_kafka_pause_partitions(rk: *mut rd_kafka_t, list: *mut rd_kafka_topic_partition_list_t) -> c_int;
        pub(in super::super) fn rd_kafka_resume_partitions(rk: *mut rd_kafka_t, list: *mut rd_kafka_topic_partition_list_t) -> c_int;
        pub(in super::super) fn rd_kafka_query_watermark_offsets(
            rk: *mut rd_kafka_t,
            topic: *const c_char,
            partition: i32,
            low: *mut i64,
            high: *mut i64,
            timeout_ms: c_int,
        ) -> c_int;
        pub(in super::super) fn rd_kafka_commit_queue(
            rk: *mut rd_kafka_t,
            list: *const rd_kafka_topic_partition_list_t,
            queue: *mut rd_kafka_queue_t,
            callback: *const c_void,
            opaque: *mut c_void,
        ) -> c_int;
        pub(in super::super) fn rd_kafka_event_error(event: *mut rd_kafka_event_t) -> c_int;
        pub(in super::super) fn rd_kafka_metadata(
            rk: *mut rd_kafka_t,
            all_topics: c_int,
            only: *mut rd_kafka_topic_t,
            metadata: *mut *const Metadata,
            timeout_ms: c_int,
        ) -> c_int;
        pub(in super::super) fn rd_kafka_topic_result_error(result: *const rd_kafka_topic_result_t) -> c_int;
        pub(in super::super) fn rd_kafka_ConfigResource_error(resource: *const rd_kafka_ConfigResource_t) -> c_int;
        pub(in super::super) fn rd_kafka_flush(rk: *mut rd_kafka_t, timeout_ms: c_int) -> c_int;
        pub(in super::super) fn rd_kafka_consumer_close(rk: *mut rd_kafka_t) -> c_int;
        pub(in super::super) fn rd_kafka_poll_set_consumer(rk: *mut rd_kafka_t) -> c_int;
    }
}

/// What callbacks of a client see. Called from within polling calls, on the thread that polls.
pub(super) trait Context: Send + Sync + 'static {
    /// Something happened that is not the answer to a call: brokers away, wrong credentials.
    fn on_error(&self, code: i32, reason: &str);
}

/// Settings of a client before it exists.
pub(super) struct Settings(*mut sys::rd_kafka_conf_t);

impl Settings {
    pub(super) fn new() -> Settings {
        // SAFETY: no preconditions; the returned object is owned by `Settings`.
        let conf = unsafe { sys::rd_kafka_conf_new() };
        // SAFETY: `conf` is valid; the callback may be called from any thread and keeps no state.
        unsafe { sys::rd_kafka_conf_set_log_cb(conf, Some(on_log)) };
        Settings(conf)
    }

    /// Sets one. The message of a refusal leaves the value out: it may be a password.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), BrokerError> {
        let refuse = |why: &str| Err(BrokerError::fatal(format!("Kafka client setting `{name}` {why}")));
        let (Ok(c_name), Ok(c_value)) = (CString::new(name), CString::new(value)) else {
            return refuse("contains a NUL character");
        };
        let mut text = [0 as c_char; 512];
        // SAFETY: `self.0` is valid, the strings are NUL-terminated, `text` is as large as stated.
        let answer = unsafe { sys::rd_kafka_conf_set(self.0, c_name.as_ptr(), c_value.as_ptr(), text.as_mut_ptr(), text.len()) };
        match answer {
            sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
            sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_UNKNOWN => refuse("does not exist in this build of librdkafka"),
            sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_INVALID => refuse("has a value librdkafka does not accept"),
        }
    }

    /// The value of a setting that is a number; 0 for any other.
    pub(super) fn number(&self, name: &str) -> usize {
        let Ok(name) = CString::new(name) else { return 0 };
        let mut text = [0 as c_char; 64];
        let mut size = text.len();
        // SAFETY: `self.0` and the name are valid, `text` is as large as stated, and is terminated where it is written.
        let answer = unsafe { sys::rd_kafka_conf_get(self.0, name.as_ptr(), text.as_mut_ptr(), &mut size) };
        let known = answer == sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK && size <= text.len();
        if known { string(text.as_ptr()).parse().unwrap_or(0) } else { 0 }
    }

    pub(super) fn as_ptr(&mut self) -> *mut sys::rd_kafka_conf_t {
        self.0
    }

    /// SASL callbacks (OAUTHBEARER's token refresh) on librdkafka's own thread: a client that no one polls for a while
    /// must not lose its token.
    fn sasl_queue(&mut self) {
        // SAFETY: `self.0` is valid.
        unsafe { sys::rd_kafka_conf_enable_sasl_queue(self.0, 1) };
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: still owned: `Client::new` nulls the pointer when librdkafka takes it over.
            unsafe { sys::rd_kafka_conf_destroy(self.0) };
        }
    }
}

/// Parts of a client that must go before it, in this order.
#[derive(Default)]
struct Parts {
    /// Partitions read without a group: must be stopped.
    started: Vec<(*mut NativeTopic, i32)>,
    queues: Vec<*mut NativeQueue>,
    topics: Vec<*mut NativeTopic>,
}

/// A librdkafka client. All calls into it are thread-safe, as librdkafka's are.
pub(super) struct Client<C: Context> {
    rk: *mut Native,
    producer: bool,
    bootstrap: CString,
    pub(super) context: Arc<C>,
    parts: Mutex<Parts>,
}

// SAFETY: librdkafka's client, queue and topic objects may be used from any thread, several at a time.
unsafe impl<C: Context> Send for Client<C> {}
// SAFETY: as above.
unsafe impl<C: Context> Sync for Client<C> {}

impl<C: Context> Client<C> {
    /// `bootstrap` is where it looks for brokers; `oauth`: it renews tokens.
    pub(super) fn new(
        producer: bool,
        mut settings: Settings,
        (bootstrap, oauth): (&str, bool),
        context: Arc<C>,
    ) -> Result<Arc<Client<C>>, BrokerError> {
        let bootstrap = c_string(bootstrap)?;
        if oauth {
            settings.sasl_queue();
        }
        // SAFETY: the context outlives the client: both are kept by `Client` and dropped in this order by its `Drop`.
        unsafe {
            sys::rd_kafka_conf_set_opaque(settings.as_ptr(), Arc::as_ptr(&context) as *mut c_void);
            sys::rd_kafka_conf_set_error_cb(settings.as_ptr(), Some(on_error::<C>));
        }
        let kind = if producer { sys::rd_kafka_type_t::RD_KAFKA_PRODUCER } else { sys::rd_kafka_type_t::RD_KAFKA_CONSUMER };
        let mut text = [0 as c_char; 512];
        // SAFETY: settings are valid; on success librdkafka owns them, on failure we still do.
        let rk = unsafe { sys::rd_kafka_new(kind, settings.as_ptr(), text.as_mut_ptr(), text.len()) };
        if rk.is_null() {
            return Err(BrokerError::fatal(format!("can't start a Kafka client: {}", string(text.as_ptr()))));
        }
        settings.0 = std::ptr::null_mut();
        let client = Arc::new(Client { rk, producer, bootstrap, context, parts: Mutex::default() });
        if oauth {
            // SAFETY: `rk` is valid. A failure leaves the callbacks on the main queue, which is polled as well.
            let error = unsafe { sys::rd_kafka_sasl_background_callbacks_enable(rk) };
            if let Some(facts) = ErrorFacts::take(error) {
                tracing::warn!(reason = facts.text, "SASL callbacks are not served in the background");
            }
        }
        let watched: Weak<Client<C>> = Arc::downgrade(&client);
        watch::watch(watched);
        Ok(client)
    }

    pub(super) fn ptr(&self) -> *mut Native {
        self.rk
    }

    /// Keeps `queue` until the client goes.
    pub(super) fn keep_queue(&self, queue: *mut NativeQueue) {
        self.parts.lock().queues.push(queue);
    }

    /// A handle for `name`, valid as long as the client.
    pub(super) fn topic(&self, name: &str) -> Result<*mut NativeTopic, BrokerError> {
        let c_name = c_string(name)?;
        // SAFETY: `rk` and the name are valid; a null configuration means the client's defaults.
        let topic = unsafe { sys::rd_kafka_topic_new(self.rk, c_name.as_ptr(), std::ptr::null_mut()) };
        if topic.is_null() {
            // SAFETY: no preconditions.
            return Err(codes::error(format!("topic {name}"), unsafe { raw::rd_kafka_last_error() }));
        }
        self.parts.lock().topics.push(topic);
        Ok(topic)
    }

    /// Notes that `partition` of `topic` is being read without a group.
    pub(super) fn keep_started(&self, topic: *mut NativeTopic, partition: i32) {
        self.parts.lock().started.push((topic, partition));
    }

    /// The error that broke this client permanently, if any.
    pub(super) fn fatal(&self) -> Option<(i32, String)> {
        let mut text = [0 as c_char; 512];
        // SAFETY: `rk` is valid, `text` is as large as stated.
        let code = unsafe { raw::rd_kafka_fatal_error(self.rk, text.as_mut_ptr(), text.len()) };
        (code != 0).then(|| (code, string(text.as_ptr())))
    }
}

impl<C: Context> Probe for Client<C> {
    /// Asks for the list of brokers, and of nothing else.
    fn answers(&self) -> bool {
        // SAFETY: the client is valid; queue, options and event are owned here and destroyed once. A late answer finds
        // the queue closed and is dropped.
        unsafe {
            let queue = sys::rd_kafka_queue_new(self.rk);
            let options = sys::rd_kafka_AdminOptions_new(self.rk, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER);
            let mut text = [0 as c_char; 64];
            sys::rd_kafka_AdminOptions_set_request_timeout(options, 1_000, text.as_mut_ptr(), text.len());
            sys::rd_kafka_DescribeCluster(self.rk, options, queue);
            let event = sys::rd_kafka_queue_poll(queue, 2_000);
            let answered = !event.is_null() && raw::rd_kafka_event_error(event) == 0;
            if !event.is_null() {
                sys::rd_kafka_event_destroy(event);
            }
            sys::rd_kafka_AdminOptions_destroy(options);
            sys::rd_kafka_queue_destroy(queue);
            answered
        }
    }

    fn bootstrap(&self) {
        tracing::debug!("a Kafka client reaches no broker; starting again from the bootstrap servers");
        // SAFETY: client and string are valid; the string is copied.
        unsafe { sys::rd_kafka_brokers_add(self.rk, self.bootstrap.as_ptr()) };
    }
}

impl<C: Context> Drop for Client<C> {
    fn drop(&mut self) {
        let last = Remains {
            rk: self.rk,
            producer: self.producer,
            parts: std::mem::take(&mut *self.parts.lock()),
            _context: self.context.clone(),
        };
        // If no thread can be had, the client is leaked rather than waited for.
        if std::thread::Builder::new().name("kafka-destroy".into()).spawn(move || last.destroy()).is_err() {
            tracing::error!("can't start a thread to destroy a Kafka client; leaking it");
        }
    }
}

struct Remains<C> {
    rk: *mut Native,
    producer: bool,
    parts: Parts,
    _context: Arc<C>,
}

// SAFETY: as for `Client`; the pointers have no other owner any more.
unsafe impl<C: Send + Sync> Send for Remains<C> {}

impl<C> Remains<C> {
    fn destroy(self) {
        // SAFETY: every pointer was made by the matching constructor, is owned here alone and is destroyed once, the
        // client last.
        unsafe {
            for (topic, partition) in self.parts.started {
                sys::rd_kafka_consume_stop(topic, partition);
            }
            for queue in self.parts.queues {
                sys::rd_kafka_queue_destroy(queue);
            }
            if self.producer {
                // What was never committed is not to be sent any more.
                let flags = sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT | sys::RD_KAFKA_PURGE_F_NON_BLOCKING;
                sys::rd_kafka_purge(self.rk, flags);
            }
            for topic in self.parts.topics {
                sys::rd_kafka_topic_destroy(topic);
            }
            sys::rd_kafka_destroy_flags(self.rk, sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        }
    }
}

/// What librdkafka says about a failed transactional call (KIP-360's four classes are the three flags and none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ErrorFacts {
    pub(super) code: i32,
    pub(super) fatal: bool,
    pub(super) retriable: bool,
    pub(super) requires_abort: bool,
    pub(super) text: String,
}

impl ErrorFacts {
    /// Takes ownership of an error object; `None` is success.
    pub(super) fn take(error: *mut sys::rd_kafka_error_t) -> Option<ErrorFacts> {
        if error.is_null() {
            return None;
        }
        // SAFETY: `error` is valid and owned here; it is read before it is destroyed.
        unsafe {
            let facts = ErrorFacts {
                code: raw::rd_kafka_error_code(error),
                fatal: sys::rd_kafka_error_is_fatal(error) != 0,
                retriable: sys::rd_kafka_error_is_retriable(error) != 0,
                requires_abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
                text: string(sys::rd_kafka_error_string(error)),
            };
            sys::rd_kafka_error_destroy(error);
            Some(facts)
        }
    }
}

pub(super) fn c_string(text: &str) -> Result<CString, BrokerError> {
    CString::new(text).map_err(|_| BrokerError::fatal(format!("{text:?} contains a NUL character")))
}

/// Longest line of librdkafka that is logged, bytes: it repeats what brokers say.
const LONGEST: usize = 2_000;

/// A C string as text; what is not UTF-8 in it is replaced.
pub(super) fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: librdkafka's strings are NUL-terminated and live at least until the call returns.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A code in words, with its name.
pub(super) fn describe(code: i32) -> String {
    // SAFETY: any integer is allowed; both return static or thread-local strings.
    unsafe { format!("{} ({})", string(raw::rd_kafka_err2str(code)), string(raw::rd_kafka_err2name(code))) }
}

/// Milliseconds for a C call: rounded up, so that a short wait doesn't turn into none.
pub(super) fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

unsafe extern "C" fn on_error<C: Context>(_rk: *mut Native, code: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: `opaque` is the context given in `Client::new`, alive as long as the client.
    let context = unsafe { &*(opaque as *const C) };
    context.on_error(code, &printable(&string(reason), LONGEST));
}

unsafe extern "C" fn on_log(_rk: *const Native, level: c_int, facility: *const c_char, text: *const c_char) {
    quiet::log(level, &string(facility), &printable(&string(text), LONGEST));
}
