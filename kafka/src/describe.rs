//! Questions of the admin kind: what topics and groups are, seen from outside.

use std::collections::BTreeMap;
use std::ffi::c_char;

use headwater_engine::broker::{BrokerError, Committed, Failure, GroupView, TopicId, TopicPartition};
use rdkafka::bindings as sys;

use super::codes;
use super::lists;
use super::native::{Native, c_string, raw, string};

/// How long the brokers may take to answer once. Well below the patience with which questions are repeated (`admin::patiently`): where
/// a coordinator is not available, as on a new cluster, librdkafka 2.12 asks for it three times within a second, and then waits until the
/// state of a connection changes (`rd_kafka_coord_req_handle_FindCoordinator`), which on a quiet cluster is never.
const ANSWER_WITHIN_MS: i32 = 5_000;

/// What a question hands over: the client, the options and the queue for the answer.
pub(super) type Asking = (*mut Native, *mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t);

/// The answer to a question; the results that are read from it live as long as it does.
pub(super) struct Answer(*mut sys::rd_kafka_event_t);

impl Answer {
    pub(super) fn event(&self) -> *mut sys::rd_kafka_event_t {
        self.0
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: owned and destroyed once.
        unsafe { sys::rd_kafka_event_destroy(self.0) };
    }
}

/// Asks a question of the admin kind and waits for the answer. `what` names it in errors; `rights`: the answer is to say what
/// this client may do, too; `send` hands the question to librdkafka.
pub(super) fn question(
    client: *mut Native,
    operation: sys::rd_kafka_admin_op_t,
    what: &str,
    rights: bool,
    send: impl FnOnce(Asking),
) -> Result<Answer, BrokerError> {
    // SAFETY: the client is valid; everything made here is destroyed once, after its last use.
    unsafe {
        let options = sys::rd_kafka_AdminOptions_new(client, operation);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, ANSWER_WITHIN_MS, std::ptr::null_mut(), 0);
        if rights {
            let refused = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
            if !refused.is_null() {
                sys::rd_kafka_error_destroy(refused);
            }
        }
        let queue = sys::rd_kafka_queue_new(client);
        send((client, options, queue));
        let event = sys::rd_kafka_queue_poll(queue, ANSWER_WITHIN_MS + 1_000);
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        if event.is_null() {
            return Err(BrokerError::new(Failure::Transient, format!("{what}: no answer from the brokers")));
        }
        let answer = Answer(event);
        match raw::rd_kafka_event_error(event) {
            0 => Ok(answer),
            code => Err(codes::error(what, code)),
        }
    }
}

/// The ids of topics. A topic that doesn't exist or may not be described is left out.
pub(super) fn topic_ids(client: *mut Native, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError> {
    let mut ids = BTreeMap::new();
    if topics.is_empty() {
        return Ok(ids);
    }
    let answer = describe_topics(client, topics, false)?;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.event());
        let described = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for at in 0..count {
            let topic = *described.add(at);
            let name = string(sys::rd_kafka_TopicDescription_name(topic));
            match code_of(sys::rd_kafka_TopicDescription_error(topic)) {
                0 => {}
                codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC => continue,
                code if codes::is_authorization(code) => continue,
                code => return Err(codes::error(format!("topic {name}"), code)),
            }
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            // Brokers without ids answer with zeros.
            if !id.is_null() && (sys::rd_kafka_Uuid_least_significant_bits(id), sys::rd_kafka_Uuid_most_significant_bits(id)) != (0, 0) {
                ids.insert(name, TopicId(string(sys::rd_kafka_Uuid_base64str(id))));
            }
        }
    }
    Ok(ids)
}

/// Asks for descriptions of topics.
pub(super) fn describe_topics(client: *mut Native, topics: &[String], rights: bool) -> Result<Answer, BrokerError> {
    let texts = topics.iter().map(|name| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    question(client, operation, "describing topics", rights, |(client, options, queue)| {
        // SAFETY: all are valid; the names outlive the call that copies them; the collection is destroyed once.
        unsafe {
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            sys::rd_kafka_DescribeTopics(client, topics, options, queue);
            sys::rd_kafka_TopicCollection_destroy(topics);
        }
    })
}

/// The settings of a topic, by name; none of one that doesn't exist. `None`: this client may not see them.
pub(super) fn topic_config(client: *mut Native, topic: &str) -> Result<Option<Vec<(String, String)>>, BrokerError> {
    let (name, what) = (c_string(topic)?, format!("settings of topic {topic}"));
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
    let answer = question(client, operation, &what, false, |(client, options, queue)| {
        // SAFETY: all are valid; the resource is copied by the call, and destroyed once.
        unsafe {
            let mut resource = sys::rd_kafka_ConfigResource_new(sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC, name.as_ptr());
            sys::rd_kafka_DescribeConfigs(client, &mut resource, 1, options, queue);
            sys::rd_kafka_ConfigResource_destroy(resource);
        }
    })?;
    let mut settings = Vec::new();
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_DescribeConfigs_result(answer.event());
        let resources = sys::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        for at in 0..count {
            let resource = *resources.add(at);
            match raw::rd_kafka_ConfigResource_error(resource) {
                0 => {}
                codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC => continue,
                code if codes::is_authorization(code) => return Ok(None),
                code => return Err(codes::error(&what, code)),
            }
            let mut entries = 0_usize;
            let list = sys::rd_kafka_ConfigResource_configs(resource, &mut entries);
            for entry in (0..entries).map(|at| *list.add(at)) {
                let value = sys::rd_kafka_ConfigEntry_value(entry);
                if !value.is_null() {
                    settings.push((string(sys::rd_kafka_ConfigEntry_name(entry)), string(value)));
                }
            }
        }
    }
    Ok(Some(settings))
}

/// Asks for the descriptions of groups.
pub(super) fn describe_groups(client: *mut Native, groups: &[String], rights: bool) -> Result<Answer, BrokerError> {
    let texts = groups.iter().map(|name| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    question(client, operation, "describing groups", rights, |(client, options, queue)| {
        // SAFETY: all are valid; the names outlive the call that copies them.
        unsafe { sys::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue) };
    })
}

/// A group's members and positions. Positions that an open transaction may still change are those before it.
pub(super) fn group(client: *mut Native, group: &str) -> Result<GroupView, BrokerError> {
    Ok(GroupView { members: members(client, group)?, committed: positions(client, group)? })
}

fn members(client: *mut Native, group: &str) -> Result<usize, BrokerError> {
    let answer = describe_groups(client, &[group.to_string()], false)?;
    let mut members = 0;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_DescribeConsumerGroups_result(answer.event());
        let described = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        for at in 0..count {
            let described = *described.add(at);
            match code_of(sys::rd_kafka_ConsumerGroupDescription_error(described)) {
                0 => members += sys::rd_kafka_ConsumerGroupDescription_member_count(described),
                codes::GROUP_ID_NOT_FOUND => {}
                code => return Err(codes::error(format!("group {group}"), code)),
            }
        }
    }
    Ok(members)
}

pub(super) fn positions(client: *mut Native, group: &str) -> Result<BTreeMap<TopicPartition, Committed>, BrokerError> {
    let name = c_string(group)?;
    let what = format!("positions of the group {group}");
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
    let answer = question(client, operation, &what, false, |(client, options, queue)| {
        // SAFETY: all are valid; no list of partitions means all; the request is copied, and destroyed once.
        unsafe {
            let mut asked = sys::rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), std::ptr::null());
            sys::rd_kafka_ListConsumerGroupOffsets(client, &mut asked, 1, options, queue);
            sys::rd_kafka_ListConsumerGroupOffsets_destroy(asked);
        }
    })?;
    let mut committed = BTreeMap::new();
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(answer.event());
        let groups = sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count);
        for at in 0..count {
            let result = *groups.add(at);
            match code_of(sys::rd_kafka_group_result_error(result)) {
                0 => {}
                codes::GROUP_ID_NOT_FOUND => continue,
                code => return Err(codes::error(&what, code)),
            }
            for listed in lists::read_list(sys::rd_kafka_group_result_partitions(result)) {
                if listed.code != 0 {
                    return Err(codes::error(format!("{what}: {}", listed.partition), listed.code));
                }
                if listed.offset >= 0 {
                    let metadata = String::from_utf8_lossy(&listed.metadata).into_owned();
                    committed.insert(listed.partition, Committed { offset: listed.offset, metadata });
                }
            }
        }
    }
    Ok(committed)
}

/// # Safety
/// `error` is null or valid.
pub(super) unsafe fn code_of(error: *const sys::rd_kafka_error_t) -> i32 {
    // SAFETY: per the contract. Codes are read as integers (see the module text of `codes`).
    unsafe { if error.is_null() { 0 } else { raw::rd_kafka_error_code(error) } }
}
