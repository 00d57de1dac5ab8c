//! Asynchronous queries for high watermarks.
//!
//! librdkafka sends one ListOffsets request per leader and answers when the last of them has answered or failed; a
//! partition that nothing is known of then has no offset. It reads uncommitted: under `read_committed` the answer would
//! be the last stable offset, which hides open transactions.

use std::ffi::c_char;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{BrokerError, TopicPartition};
use rdkafka::bindings as sys;

use super::lists::PartitionList;
use super::native::{self, Client, Context, ErrorFacts, NativeQueue, raw, string};

/// How long leaders have to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// See the module text.
pub(super) struct Ends<C: Context> {
    client: Arc<Client<C>>,
    queue: *mut NativeQueue,
}

// SAFETY: the queue belongs to the client, which may be used from any thread.
unsafe impl<C: Context> Send for Ends<C> {}

impl<C: Context> Ends<C> {
    pub(super) fn of(client: &Arc<Client<C>>) -> Ends<C> {
        // SAFETY: the client is valid; the queue is kept until it goes.
        let queue = unsafe { sys::rd_kafka_queue_new(client.ptr()) };
        client.keep_queue(queue);
        Ends { client: client.clone(), queue }
    }

    pub(super) fn ask(&self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        let mut list = PartitionList::new(partitions.len());
        for partition in partitions {
            list.add(&partition.topic, partition.partition)?.offset = sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        }
        let uncommitted = sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED;
        // SAFETY: client, list and queue are valid; list and options are copied, the options are owned here and destroyed once.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(self.client.ptr(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
            let mut text = [0 as c_char; 64];
            sys::rd_kafka_AdminOptions_set_request_timeout(options, native::millis(ANSWER_WITHIN), text.as_mut_ptr(), text.len());
            let refused = ErrorFacts::take(sys::rd_kafka_AdminOptions_set_isolation_level(options, uncommitted));
            if refused.is_none() {
                sys::rd_kafka_ListOffsets(self.client.ptr(), list.as_ptr(), options, self.queue);
            }
            sys::rd_kafka_AdminOptions_destroy(options);
            refused.map_or(Ok(()), |facts| Err(BrokerError::fatal(format!("asking for offsets: {}", facts.text))))
        }
    }

    /// The answer to the oldest question, if it has arrived; empty if there was none.
    pub(super) fn answer(&self) -> Option<Vec<(TopicPartition, i64)>> {
        // SAFETY: the queue is valid; the event is owned here and destroyed once, its parts are copied before that. An event
        // without a result of this kind has none.
        unsafe {
            let event = sys::rd_kafka_queue_poll(self.queue, 0);
            if event.is_null() {
                return None;
            }
            let mut ends = Vec::new();
            let result = sys::rd_kafka_event_ListOffsets_result(event);
            if raw::rd_kafka_event_error(event) == 0 && !result.is_null() {
                let mut count = 0;
                let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
                for at in 0..count {
                    let found = sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(at));
                    let code = std::ptr::addr_of!((*found).err).cast::<i32>().read();
                    if code == 0 && (*found).offset >= 0 {
                        ends.push((TopicPartition::new(string((*found).topic), (*found).partition), (*found).offset));
                    }
                }
            }
            sys::rd_kafka_event_destroy(event);
            Some(ends)
        }
    }
}
