//! librdkafka's callbacks to a group member, and how the member leaves.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Duration;

use headwater_engine::broker::{Failure, TopicPartition};
use parking_lot::Mutex;
use rdkafka::bindings as sys;

use super::codes;
use super::lists::{self, PartitionList};
use super::native::{Client, Context, Native, NativeQueue, Settings, raw};
use super::quiet::Quiet;

/// How long closing a consumer may take before it is left behind.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A rebalance, noted by the callback.
pub(super) enum Rebalance {
    Assigned(Vec<TopicPartition>),
    Revoked { partitions: Vec<TopicPartition>, lost: bool },
}

/// What the callbacks share with the consumer.
#[derive(Default)]
pub(super) struct Group {
    rebalances: Mutex<VecDeque<Rebalance>>,
    queue: AtomicPtr<NativeQueue>,
    closing: AtomicBool,
    pub(super) quiet: Quiet,
}

impl Group {
    /// The queue whose waiting reader a rebalance wakes; it lives as long as the client.
    pub(super) fn wake_through(&self, queue: *mut NativeQueue) {
        self.queue.store(queue, Ordering::Release);
    }

    pub(super) fn has_news(&self) -> bool {
        !self.rebalances.lock().is_empty()
    }

    pub(super) fn next(&self) -> Option<Rebalance> {
        self.rebalances.lock().pop_front()
    }
}

impl Context for Group {
    fn on_error(&self, code: i32, reason: &str) {
        self.quiet.warn("consumer", code, reason);
    }
}

/// Has rebalances noted in the client's context, which must be a [`Group`].
pub(super) fn listen(settings: &mut Settings) {
    // SAFETY: settings are valid; the callback matches the opaque pointer that `Client::new` sets.
    unsafe { sys::rd_kafka_conf_set_rebalance_cb(settings.as_ptr(), Some(on_rebalance)) };
}

/// Tells librdkafka what to read; `None`: nothing. Returns librdkafka's code.
///
/// Every partition of the assignment before is stopped by that, by an operation whose answer comes back through the queue
/// of the client's main thread. A second assignment that overtakes the answer stops the partition again, and the second
/// answer ends the process (`rd_kafka_assignment_partition_stopped: Assertion rktp->rktp_started failed`, 2.12.1). So two
/// questions go through the same queue first: the first is answered behind the assignment before, the second behind the
/// stops that one asked for, and what is sent then comes after their answers.
pub(super) fn assign(client: &Client<Group>, list: Option<&PartitionList>) -> i32 {
    for _ in 0..2 {
        let mut asked = std::ptr::null_mut();
        // SAFETY: the client is valid; the list, if there is one, is owned here and destroyed once.
        unsafe {
            raw::rd_kafka_assignment(client.ptr(), &mut asked);
            if !asked.is_null() {
                sys::rd_kafka_topic_partition_list_destroy(asked);
            }
        }
    }
    let list = list.map_or(std::ptr::null_mut(), PartitionList::as_ptr);
    // SAFETY: client and list are valid; the list is copied.
    unsafe { raw::rd_kafka_assign(client.ptr(), list) }
}

/// Leaves the group. Closing has been seen to hang; after [`CLOSE_WITHIN`] the client is left to its thread.
pub(super) fn close(client: &Arc<Client<Group>>, group: &str) {
    client.context.closing.store(true, Ordering::Release);
    let client = client.clone();
    let (done, closed) = crossbeam_channel::bounded(1);
    let spawned = std::thread::Builder::new().name("kafka-close".into()).spawn(move || {
        // A rebalance that was reported and not answered would be waited for.
        assign(&client, None);
        // SAFETY: the client is a consumer; called once. Callbacks run in here and see `closing`.
        unsafe { raw::rd_kafka_consumer_close(client.ptr()) };
        let _ = done.send(());
    });
    if spawned.is_err() || closed.recv_timeout(CLOSE_WITHIN).is_err() {
        tracing::warn!(group, "closing the consumer takes too long; leaking it");
    }
}

/// What an error on the consumer's queue means; `None`: it passes, or a rebalance event follows.
pub(super) fn failure(code: i32) -> Option<Failure> {
    match code {
        codes::AUTO_OFFSET_RESET | codes::OFFSET_OUT_OF_RANGE | codes::LOG_TRUNCATION => Some(Failure::OutOfRange),
        codes::FENCED_INSTANCE_ID => Some(Failure::Fenced),
        // librdkafka continues after the damaged batch: to continue with it would lose its records silently.
        codes::BAD_MSG | codes::BAD_COMPRESSION | codes::INVALID_MSG => Some(Failure::Fatal),
        codes::FATAL => Some(Failure::Fatal),
        code if codes::is_authorization(code) => Some(Failure::Fatal),
        // `MAX_POLL_EXCEEDED` among them: the partitions are then revoked as lost.
        _ => None,
    }
}

unsafe extern "C" fn on_rebalance(
    rk: *mut Native,
    code: sys::rd_kafka_resp_err_t,
    list: *mut sys::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the context of this client, `rk` and `list` are valid during the call; the queue, if stored,
    // lives as long as the client.
    unsafe {
        let group = &*(opaque as *const Group);
        if group.closing.load(Ordering::Acquire) {
            raw::rd_kafka_assign(rk, std::ptr::null());
            return;
        }
        let partitions = lists::read_list(list).into_iter().map(|listed| listed.partition).collect();
        let event = if code as i32 == codes::ASSIGN_PARTITIONS {
            Rebalance::Assigned(partitions)
        } else {
            Rebalance::Revoked { partitions, lost: sys::rd_kafka_assignment_lost(rk) != 0 }
        };
        group.rebalances.lock().push_back(event);
        let queue = group.queue.load(Ordering::Acquire);
        if !queue.is_null() {
            sys::rd_kafka_queue_yield(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_batches_and_lost_positions_stop_the_lane() {
        for code in [codes::BAD_MSG, codes::BAD_COMPRESSION, codes::INVALID_MSG, codes::FATAL] {
            assert_eq!(failure(code), Some(Failure::Fatal), "{code}");
        }
        for code in [codes::AUTO_OFFSET_RESET, codes::OFFSET_OUT_OF_RANGE, codes::LOG_TRUNCATION] {
            assert_eq!(failure(code), Some(Failure::OutOfRange), "{code}");
        }
        assert_eq!(failure(codes::TOPIC_AUTHORIZATION_FAILED), Some(Failure::Fatal));
    }

    #[test]
    fn brokers_away_and_rebalances_do_not() {
        for code in [codes::TRANSPORT, codes::ALL_BROKERS_DOWN, codes::MAX_POLL_EXCEEDED, codes::UNKNOWN_TOPIC_OR_PART] {
            assert_eq!(failure(code), None, "{code}");
        }
    }
}
