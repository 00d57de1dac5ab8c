//! This client's permissions, asked from the brokers without using them.

use std::collections::BTreeMap;

use headwater_engine::broker::BrokerError;
use rdkafka::bindings as sys;

use super::native::{Native, string};
use super::{codes, describe};

/// An operation, as Kafka's access rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Write,
    Create,
    Describe,
    DescribeConfigs,
    IdempotentWrite,
}

impl Operation {
    const ALL: [Operation; 6] =
        [Operation::Read, Operation::Write, Operation::Create, Operation::Describe, Operation::DescribeConfigs, Operation::IdempotentWrite];

    /// The number in Kafka's protocol.
    fn code(self) -> i32 {
        match self {
            Operation::Read => 3,
            Operation::Write => 4,
            Operation::Create => 5,
            Operation::Describe => 8,
            Operation::DescribeConfigs => 10,
            Operation::IdempotentWrite => 12,
        }
    }
}

/// What may be done to a topic or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// There is no topic of this name.
    Missing,
    /// It may not even be described. Whether it exists is not known.
    Refused,
    /// These brokers don't answer such a question.
    Untold,
    Known(Vec<Operation>),
}

impl Rights {
    /// `None`: it is not known.
    pub fn allow(&self, operation: Operation) -> Option<bool> {
        match self {
            Rights::Missing | Rights::Untold => None,
            Rights::Refused => Some(false),
            Rights::Known(operations) => Some(operations.contains(&operation)),
        }
    }
}

/// Whether a topic could be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    Possible,
    NoRight,
    /// For another reason, in the brokers' words.
    Refused(String),
}

/// What a question is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Topics,
    Groups,
}

/// Asks for the rights on topics or groups. `client` must be valid.
pub(super) fn ask(client: *mut Native, kind: Kind, names: &[String]) -> Result<BTreeMap<String, Rights>, BrokerError> {
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
/// `error` is null or valid; `operations` is null, whatever `count` says, or holds `count` of them.
unsafe fn of(
    what: &str,
    error: *const sys::rd_kafka_error_t,
    operations: *const sys::rd_kafka_AclOperation_t,
    count: usize,
) -> Result<Rights, BrokerError> {
    // SAFETY: per the contract.
    match unsafe { describe::code_of(error) } {
        0 => {}
        codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC => return Ok(Rights::Missing),
        codes::GROUP_ID_NOT_FOUND => return Ok(Rights::Untold),
        code if codes::is_authorization(code) => return Ok(Rights::Refused),
        code => return Err(codes::error(what, code)),
    }
    // Brokers that don't tell come as a null pointer and a count of -1. What was described may be described: none at all is no answer.
    if operations.is_null() || count == 0 {
        return Ok(Rights::Untold);
    }
    // SAFETY: per the contract. Read as integers (see the module text of `codes`).
    let allowed: Vec<i32> = unsafe { (0..count).map(|at| operations.add(at).cast::<i32>().read()).collect() };
    Ok(Rights::Known(Operation::ALL.into_iter().filter(|operation| allowed.contains(&operation.code())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The array was read as long as its count says, which for brokers that don't tell is -1.
    #[test]
    fn brokers_that_do_not_tell_leave_rights_unknown() {
        // SAFETY: null pointers are allowed.
        let untold = unsafe { of("topic t", std::ptr::null(), std::ptr::null(), usize::MAX) }.unwrap();
        assert_eq!((untold.clone(), untold.allow(Operation::Read)), (Rights::Untold, None));
        let read = [sys::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ];
        // SAFETY: the array holds one.
        let known = unsafe { of("topic t", std::ptr::null(), read.as_ptr(), 1) }.unwrap();
        assert_eq!((known.allow(Operation::Read), known.allow(Operation::Write)), (Some(true), Some(false)));
    }
}
