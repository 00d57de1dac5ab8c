//! Delivery reports of one producer: what failed, and where tagged records were written.

use std::ffi::{c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use headwater_engine::broker::{Outgoing, Refused};
use parking_lot::Mutex;
use rdkafka::bindings as sys;

use super::codes;
use super::native::{self, Context, Native, NativeMessage, Settings};
use super::outgoing::Opaque;
use super::quiet::Quiet;
use super::records;
use super::refusals::{Found, Refusals};

/// What the callbacks of a producer's client see.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Looked at for every record sent.
    pub(super) failed: AtomicBool,
    /// The first failed delivery of this transaction.
    failure: Mutex<Option<(i32, String)>>,
    /// What the brokers refuse.
    refusals: Mutex<Refusals>,
    /// The highest offset per tag.
    tags: Mutex<Vec<(u32, i64)>>,
    /// A transaction is being ended: a broken connection now makes the client suspect.
    pub(super) ending: AtomicBool,
    pub(super) suspect: AtomicBool,
    quiet: Quiet,
}

impl Deliveries {
    /// Forgets the last transaction.
    pub(super) fn reset(&self) {
        *self.failure.lock() = None;
        *self.refusals.lock() = Refusals::default();
        self.tags.lock().clear();
        self.ending.store(false, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
    }

    pub(super) fn failure(&self) -> Option<(i32, String)> {
        if self.failed.load(Ordering::Relaxed) { self.failure.lock().clone() } else { None }
    }

    pub(super) fn take_tags(&self) -> Vec<(u32, i64)> {
        std::mem::take(&mut *self.tags.lock())
    }

    /// The records that were refused for themselves; forgets them. `alone`: batches have one record each.
    pub(super) fn take_refused(&self, alone: bool) -> Found {
        self.refusals.lock().take(alone)
    }

    fn delivered(&self, tag: u32, offset: i64) {
        let mut tags = self.tags.lock();
        // Reports come partition by partition: the tag wanted is nearly always the last one.
        match tags.iter_mut().rev().find(|(known, _)| *known == tag) {
            Some((_, highest)) => *highest = offset.max(*highest),
            None => tags.push((tag, offset)),
        }
    }

    /// A connection was closed. While a transaction is being ended its request may be on its way there, and may arrive
    /// after its copy on the next connection: at the next transaction of this producer.
    fn closed(&self) {
        if self.ending.load(Ordering::Relaxed) {
            self.suspect.store(true, Ordering::Relaxed);
        }
    }

    /// The client does not take this record: known as if the brokers had refused it.
    pub(super) fn not_taken(&self, code: i32, refused: Refused) {
        let text = refused.cause.clone();
        self.refusals.lock().report(0, 0, code, || refused);
        self.not_delivered(code, text);
    }

    fn not_delivered(&self, code: i32, text: String) {
        self.failure.lock().get_or_insert((code, text));
        self.failed.store(true, Ordering::Relaxed);
    }
}

impl Context for Deliveries {
    fn on_error(&self, code: i32, reason: &str) {
        if self.ending.load(Ordering::Relaxed) && matches!(code, codes::TRANSPORT | codes::ALL_BROKERS_DOWN | codes::TIMED_OUT) {
            self.suspect.store(true, Ordering::Relaxed);
        }
        self.quiet.warn("producer", code, reason);
    }
}

/// Has deliveries reported to the client's context, which must be [`Deliveries`].
pub(super) fn listen(settings: &mut Settings) {
    // SAFETY: settings are valid; the callback matches the opaque pointer that `Client::new` sets.
    unsafe { sys::rd_kafka_conf_set_dr_msg_cb(settings.as_ptr(), Some(on_delivery)) };
    // SAFETY: as above.
    unsafe { sys::rd_kafka_conf_set_closesocket_cb(settings.as_ptr(), Some(on_close)) };
}

/// Every connection that is closed, for whatever reason: librdkafka reports few of them as errors.
unsafe extern "C" fn on_close(socket: c_int, opaque: *mut c_void) -> c_int {
    // SAFETY: `opaque` is the context of this client; the socket is librdkafka's to close, which it leaves to this callback.
    unsafe {
        (*(opaque as *const Deliveries)).closed();
        drop(OwnedFd::from_raw_fd(socket));
    }
    0
}

unsafe extern "C" fn on_delivery(_rk: *mut Native, message: *const NativeMessage, opaque: *mut c_void) {
    // SAFETY: `opaque` is the context of this client; `message` is valid during the call.
    unsafe {
        let deliveries = &*(opaque as *const Deliveries);
        let code = records::code(message);
        let opaque = Opaque::of((*message)._private);
        if code != 0 {
            let topic = native::string(sys::rd_kafka_topic_name((*message).rkt));
            let what = format!("record for {topic}-{}: {}", (*message).partition, native::describe(code));
            let refused = || refused(message, opaque, &topic, &what);
            deliveries.refusals.lock().report((*message).rkt as usize, (*message).partition, code, refused);
            deliveries.not_delivered(code, what.clone());
        } else if let Opaque::Tag(tag) = opaque {
            deliveries.delivered(tag, (*message).offset);
        }
    }
}

/// # Safety
/// `message` is that of a delivery report, valid.
unsafe fn refused(message: *const NativeMessage, opaque: Opaque, topic: &str, cause: &str) -> Refused {
    let mut headers = Vec::new();
    // SAFETY: per the contract; the header values live as long as the message.
    let (key, value) = unsafe {
        records::visit_headers(message, &mut |name, value| headers.push((name.to_vec(), value.map(<[u8]>::to_vec))));
        let key = records::bytes((*message).key as *const u8, (*message).key_len);
        let value = records::bytes((*message).payload as *const u8, (*message).len);
        (key, value)
    };
    let headers: Vec<(&[u8], Option<&[u8]>)> = headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref())).collect();
    let (timestamp, tag) = match opaque {
        Opaque::Tag(tag) => (None, Some(tag)),
        Opaque::Time(time) => (time, None),
    };
    // SAFETY: per the contract.
    let partition = unsafe { (*message).partition };
    let record = Outgoing { topic: &topic.into(), partition, timestamp, key, value, headers: &headers, tag };
    Refused { record: record.fingerprint(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_offset_per_tag_is_kept() {
        let deliveries = Deliveries::default();
        for (tag, offset) in [(7, 10), (0, 3), (7, 12), (7, 11), (0, 4)] {
            deliveries.delivered(tag, offset);
        }
        assert_eq!(deliveries.take_tags(), [(7, 12), (0, 4)]);
        assert_eq!(deliveries.take_tags(), []);
    }

    #[test]
    fn the_first_failed_delivery_is_the_one_told_and_a_new_transaction_forgets_it() {
        let deliveries = Deliveries::default();
        assert_eq!(deliveries.failure(), None);
        deliveries.not_delivered(codes::MSG_TIMED_OUT, "first".into());
        deliveries.not_delivered(codes::PURGE_QUEUE, "second".into());
        assert_eq!(deliveries.failure(), Some((codes::MSG_TIMED_OUT, "first".into())));
        deliveries.reset();
        assert_eq!(deliveries.failure(), None);
    }

    #[test]
    fn a_connection_closed_while_ending_makes_the_client_suspect() {
        let deliveries = Deliveries::default();
        deliveries.closed();
        assert!(!deliveries.suspect.load(Ordering::Relaxed));
        deliveries.ending.store(true, Ordering::Relaxed);
        deliveries.closed();
        assert!(deliveries.suspect.load(Ordering::Relaxed));
    }

    #[test]
    fn only_a_connection_broken_while_ending_makes_the_client_suspect() {
        let deliveries = Deliveries::default();
        deliveries.on_error(codes::TRANSPORT, "closed");
        assert!(!deliveries.suspect.load(Ordering::Relaxed));
        deliveries.ending.store(true, Ordering::Relaxed);
        deliveries.on_error(codes::AUTHENTICATION, "wrong password");
        assert!(!deliveries.suspect.load(Ordering::Relaxed));
        deliveries.on_error(codes::TRANSPORT, "closed");
        assert!(deliveries.suspect.load(Ordering::Relaxed));
    }
}
