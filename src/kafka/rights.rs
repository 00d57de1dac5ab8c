//! What this client may do: asked of the brokers, without doing it.

use std::collections::BTreeMap;
use std::ffi::c_char;

use headwater_engine::broker::{BrokerError, Failure};
use rdkafka::bindings as sys;

use super::codes;
use super::native::{c_string, raw, string};

/// How long the brokers may take to answer.
const ANSWER_WITHIN_MS: i32 = 30_000;

/// An operation on a topic or group, as Kafka's access rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Write,
    Describe,
}

impl Operation {
    /// The number in Kafka's protocol.
    fn code(self) -> i32 {
        match self {
            Operation::Read => 3,
            Operation::Write => 4,
            Operation::Describe => 8,
        }
    }
}

/// What may be done to a topic or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// There is none of this name, or it may not be seen.
    Unseen,
    Known(Vec<Operation>),
}

impl Rights {
    pub fn allow(&self, operation: Operation) -> bool {
        matches!(self, Rights::Known(operations) if operations.contains(&operation))
    }
}

/// What a question is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Topics,
    Groups,
}

/// Asks for the rights on topics or groups. `client` must be valid.
pub(super) fn ask(client: *mut sys::rd_kafka_t, kind: Kind, names: &[String]) -> Result<BTreeMap<String, Rights>, BrokerError> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let texts = names.iter().map(|name| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let operation = match kind {
        Kind::Topics => sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        Kind::Groups => sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
    };
    // SAFETY: the client is valid per the contract; everything made here is destroyed once, after its last use; the
    // names outlive the call that reads them, which copies them.
    unsafe {
        let options = sys::rd_kafka_AdminOptions_new(client, operation);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, ANSWER_WITHIN_MS, std::ptr::null_mut(), 0);
        let refused = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        let queue = sys::rd_kafka_queue_new(client);
        match kind {
            Kind::Topics => {
                let topics = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                sys::rd_kafka_DescribeTopics(client, topics, options, queue);
                sys::rd_kafka_TopicCollection_destroy(topics);
            }
            Kind::Groups => sys::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue),
        }
        let event = sys::rd_kafka_queue_poll(queue, ANSWER_WITHIN_MS + 1_000);
        let answer = if event.is_null() {
            Err(BrokerError::new(Failure::Transient, "the brokers don't say what this client may do"))
        } else {
            read(event, kind)
        };
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        if !refused.is_null() {
            sys::rd_kafka_error_destroy(refused);
        }
        answer
    }
}

/// # Safety
/// `event` is the answer to the question of this kind.
unsafe fn read(event: *mut sys::rd_kafka_event_t, kind: Kind) -> Result<BTreeMap<String, Rights>, BrokerError> {
    let mut rights = BTreeMap::new();
    // SAFETY: per the contract; arrays hold the counts that come with them, results live as long as the event. Codes are
    // read as integers (see the module text of `codes`).
    unsafe {
        let code = raw::rd_kafka_event_error(event);
        if code != 0 {
            return Err(codes::error("asking what this client may do", code));
        }
        let mut count = 0_usize;
        match kind {
            Kind::Topics => {
                let result = sys::rd_kafka_event_DescribeTopics_result(event);
                let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
                for at in 0..count {
                    let topic = *topics.add(at);
                    let mut allowed = 0_usize;
                    let operations = sys::rd_kafka_TopicDescription_authorized_operations(topic, &mut allowed);
                    let error = sys::rd_kafka_TopicDescription_error(topic);
                    let name = string(sys::rd_kafka_TopicDescription_name(topic));
                    rights.insert(name.clone(), of(&format!("topic {name}"), error, operations, allowed)?);
                }
            }
            Kind::Groups => {
                let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event);
                let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
                for at in 0..count {
                    let group = *groups.add(at);
                    let mut allowed = 0_usize;
                    let operations = sys::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &mut allowed);
                    let error = sys::rd_kafka_ConsumerGroupDescription_error(group);
                    let name = string(sys::rd_kafka_ConsumerGroupDescription_group_id(group));
                    rights.insert(name.clone(), of(&format!("group {name}"), error, operations, allowed)?);
                }
            }
        }
    }
    Ok(rights)
}

/// # Safety
/// `error` is null or valid, `operations` holds `count` of them.
unsafe fn of(
    what: &str,
    error: *const sys::rd_kafka_error_t,
    operations: *const sys::rd_kafka_AclOperation_t,
    count: usize,
) -> Result<Rights, BrokerError> {
    // SAFETY: per the contract.
    let (code, allowed): (i32, Vec<i32>) = unsafe {
        let code = if error.is_null() { 0 } else { raw::rd_kafka_error_code(error) };
        (code, (0..count).map(|at| operations.add(at).cast::<i32>().read()).collect())
    };
    match code {
        0 => {}
        codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC => return Ok(Rights::Unseen),
        code if codes::is_authorization(code) => return Ok(Rights::Unseen),
        code => return Err(codes::error(what, code)),
    }
    let known = [Operation::Read, Operation::Write, Operation::Describe];
    Ok(Rights::Known(known.into_iter().filter(|operation| allowed.contains(&operation.code())).collect()))
}
