//! Creating topics, or asking whether they could be created.

use std::ffi::c_char;

use headwater_engine::broker::{BrokerError, TopicSpec};
use rdkafka::bindings as sys;

use super::describe::question;
use super::native::{Native, c_string, raw, string};

/// New topics as librdkafka wants them; destroyed with this.
struct New(Vec<*mut sys::rd_kafka_NewTopic_t>);

impl New {
    fn of(wanted: &[TopicSpec]) -> Result<New, BrokerError> {
        let mut new = New(Vec::new());
        for spec in wanted {
            let name = c_string(&spec.name)?;
            let mut text = [0 as c_char; 256];
            // -1: the brokers' default.
            let replication = spec.replication.unwrap_or(-1);
            // SAFETY: the name is NUL-terminated, `text` is as large as stated; the result is null or owned here.
            let topic = unsafe { sys::rd_kafka_NewTopic_new(name.as_ptr(), spec.partitions, replication, text.as_mut_ptr(), text.len()) };
            if topic.is_null() {
                return Err(BrokerError::fatal(format!("creating topic {}: {}", spec.name, string(text.as_ptr()))));
            }
            new.0.push(topic);
            for (key, value) in &spec.config {
                let (key, value) = (c_string(key)?, c_string(value)?);
                // SAFETY: the topic is valid; both texts are copied.
                unsafe { sys::rd_kafka_NewTopic_set_config(topic, key.as_ptr(), value.as_ptr()) };
            }
        }
        Ok(new)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // SAFETY: every pointer is owned here and destroyed once.
        self.0.iter().for_each(|topic| unsafe { sys::rd_kafka_NewTopic_destroy(*topic) });
    }
}

/// Creates topics, or with `validate` only asks whether they could be. The answer is a code per topic, 0 for a success.
pub(super) fn create(client: *mut Native, wanted: &[TopicSpec], validate: bool) -> Result<Vec<(String, i32)>, BrokerError> {
    let mut new = New::of(wanted)?;
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS;
    let what = if validate { "asking whether topics could be created" } else { "creating topics" };
    let answer = question(client, operation, what, false, |(client, options, queue)| {
        // SAFETY: all are valid, and outlive the call, which copies what it needs.
        unsafe {
            if validate {
                sys::rd_kafka_AdminOptions_set_validate_only(options, 1, std::ptr::null_mut(), 0);
            }
            sys::rd_kafka_CreateTopics(client, new.0.as_mut_ptr(), new.0.len(), options, queue);
        }
    })?;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_CreateTopics_result(answer.event());
        let topics = sys::rd_kafka_CreateTopics_result_topics(result, &mut count);
        Ok((0..count)
            .map(|at| *topics.add(at))
            .map(|t| (string(sys::rd_kafka_topic_result_name(t)), raw::rd_kafka_topic_result_error(t)))
            .collect())
    }
}
