//! This client's permissions, asked from the brokers without using them.

use std::collections::BTreeMap;

use headwater_engine::broker::BrokerError;
use rdkafka::bindings as sys;

use super::native::string;
use super::{codes, describe};

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
    /// It does not exist, or the user may not describe it.
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
    let mut rights = BTreeMap::new();
    if names.is_empty() {
        return Ok(rights);
    }
    let mut count = 0_usize;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        match kind {
            Kind::Topics => {
                let answer = describe::describe_topics(client, names, true)?;
                let result = sys::rd_kafka_event_DescribeTopics_result(answer.event());
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
                let answer = describe::describe_groups(client, names, true)?;
                let result = sys::rd_kafka_event_DescribeConsumerGroups_result(answer.event());
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
    let (code, allowed): (i32, Vec<i32>) =
        unsafe { (describe::code_of(error), (0..count).map(|at| operations.add(at).cast::<i32>().read()).collect()) };
    match code {
        0 => {}
        codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC => return Ok(Rights::Unseen),
        code if codes::is_authorization(code) => return Ok(Rights::Unseen),
        code => return Err(codes::error(what, code)),
    }
    let known = [Operation::Read, Operation::Write, Operation::Describe];
    Ok(Rights::Known(known.into_iter().filter(|operation| allowed.contains(&operation.code())).collect()))
}
