//! What operators do to a pipeline from outside: topics and groups that are deleted, positions that are set. And what they look at:
//! who the members of a group are, and where partitions end.

use std::collections::BTreeMap;

use headwater_engine::broker::{BrokerError, Committed, TopicPartition};
use rdkafka::bindings as sys;

use super::admin::patiently;
use super::describe::{self, code_of, question};
use super::lists::{self, PartitionList};
use super::native::{Native, c_string, raw, string};
use super::{Kafka, codes};

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first record that is left.
    First,
    /// Behind the last record.
    End,
    /// Behind the last record that `read_committed` readers can read.
    StableEnd,
    /// The first record with this timestamp (milliseconds since 1970) or a later one; behind the last record if there is no such record.
    Time(i64),
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub client_id: String,
    /// Its stable name, if it has one.
    pub instance: Option<String>,
    /// Where it connects from.
    pub host: String,
    pub partitions: Vec<TopicPartition>,
}

/// A group as its coordinator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The state in Kafka's words: `Stable`, `Empty`, `PreparingRebalance`, ...
    pub state: String,
    pub members: Vec<Member>,
}

impl Kafka {
    /// Deletes topics, with their records and all groups' positions in them. One that doesn't exist is no error.
    ///
    /// # Errors
    /// A topic can't be deleted. Those before it may be.
    pub fn delete_topics(&self, topics: &[String]) -> Result<(), BrokerError> {
        if topics.is_empty() {
            return Ok(());
        }
        for (topic, code) in patiently(|| delete_topics(self.admin.ptr(), topics))? {
            match code {
                0 | codes::UNKNOWN_TOPIC_OR_PART | codes::UNKNOWN_TOPIC => {}
                code => return Err(codes::error(format!("deleting topic {topic}"), code)),
            }
        }
        Ok(())
    }

    /// The names of all groups that this client may see.
    pub fn groups(&self) -> Result<Vec<String>, BrokerError> {
        patiently(|| groups(self.admin.ptr()))
    }

    /// Deletes groups, with their positions. One that doesn't exist is no error.
    ///
    /// # Errors
    /// A group has members, or can't be deleted. Those before it may be.
    pub fn delete_groups(&self, names: &[String]) -> Result<(), BrokerError> {
        // One per question: their coordinators differ.
        names.iter().try_for_each(|group| patiently(|| delete_group(self.admin.ptr(), group)))
    }

    /// Sets positions of a group that has no members.
    ///
    /// # Errors
    /// The group has members, or a position can't be set.
    pub fn set_positions(&self, group: &str, positions: &[(TopicPartition, i64)]) -> Result<(), BrokerError> {
        if positions.is_empty() {
            return Ok(());
        }
        patiently(|| set_positions(self.admin.ptr(), group, positions))
    }

    /// The offsets of places in partitions.
    ///
    /// # Errors
    /// A partition's leader doesn't answer.
    pub fn offsets(&self, places: &[(TopicPartition, Place)]) -> Result<BTreeMap<TopicPartition, i64>, BrokerError> {
        let (stable, other): (Vec<_>, Vec<_>) = places.iter().cloned().partition(|(_, place)| *place == Place::StableEnd);
        let mut found = patiently(|| offsets(self.admin.ptr(), &stable, true))?;
        found.append(&mut patiently(|| offsets(self.admin.ptr(), &other, false))?);
        // No record is so late.
        let late: Vec<_> = other.into_iter().filter(|(partition, _)| found.get(partition) == Some(&-1)).collect();
        let ends: Vec<_> = late.into_iter().map(|(partition, _)| (partition, Place::End)).collect();
        found.append(&mut patiently(|| offsets(self.admin.ptr(), &ends, false))?);
        Ok(found)
    }

    /// The members of a group; none of one that doesn't exist.
    pub fn members(&self, group: &str) -> Result<Members, BrokerError> {
        patiently(|| members(self.admin.ptr(), group))
    }
}

fn delete_topics(client: *mut Native, topics: &[String]) -> Result<Vec<(String, i32)>, BrokerError> {
    let names = topics.iter().map(|name| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS;
    let answer = question(client, operation, "deleting topics", false, |(client, options, queue)| {
        // SAFETY: all are valid; the names are copied; what is made here is destroyed once, after the call that copies it.
        unsafe {
            let mut asked: Vec<_> = names.iter().map(|name| sys::rd_kafka_DeleteTopic_new(name.as_ptr())).collect();
            sys::rd_kafka_DeleteTopics(client, asked.as_mut_ptr(), asked.len(), options, queue);
            sys::rd_kafka_DeleteTopic_destroy_array(asked.as_mut_ptr(), asked.len());
        }
    })?;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_DeleteTopics_result(answer.event());
        let topics = sys::rd_kafka_DeleteTopics_result_topics(result, &mut count);
        let found = (0..count).map(|at| *topics.add(at));
        Ok(found.map(|t| (string(sys::rd_kafka_topic_result_name(t)), raw::rd_kafka_topic_result_error(t))).collect())
    }
}

fn groups(client: *mut Native) -> Result<Vec<String>, BrokerError> {
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS;
    let answer = question(client, operation, "listing groups", false, |(client, options, queue)| {
        // SAFETY: all are valid.
        unsafe { sys::rd_kafka_ListConsumerGroups(client, options, queue) };
    })?;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let (mut count, mut errors) = (0_usize, 0_usize);
        let result = sys::rd_kafka_event_ListConsumerGroups_result(answer.event());
        let failed = sys::rd_kafka_ListConsumerGroups_result_errors(result, &mut errors);
        if errors > 0 {
            // A broker did not answer: groups of its own would be missing.
            return Err(codes::error("listing groups", code_of(*failed)));
        }
        let listed = sys::rd_kafka_ListConsumerGroups_result_valid(result, &mut count);
        Ok((0..count).map(|at| string(sys::rd_kafka_ConsumerGroupListing_group_id(*listed.add(at)))).collect())
    }
}

fn delete_group(client: *mut Native, group: &str) -> Result<(), BrokerError> {
    let (name, what) = (c_string(group)?, format!("deleting the group {group}"));
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETEGROUPS;
    let answer = question(client, operation, &what, false, |(client, options, queue)| {
        // SAFETY: all are valid; the name is copied; the request is destroyed once, after the call that copies it.
        unsafe {
            let mut asked = sys::rd_kafka_DeleteGroup_new(name.as_ptr());
            sys::rd_kafka_DeleteGroups(client, &mut asked, 1, options, queue);
            sys::rd_kafka_DeleteGroup_destroy(asked);
        }
    })?;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_DeleteGroups_result(answer.event());
        let groups = sys::rd_kafka_DeleteGroups_result_groups(result, &mut count);
        for result in (0..count).map(|at| *groups.add(at)) {
            match code_of(sys::rd_kafka_group_result_error(result)) {
                0 | codes::GROUP_ID_NOT_FOUND => {}
                code => return Err(codes::error(&what, code)),
            }
        }
    }
    Ok(())
}

fn set_positions(client: *mut Native, group: &str, positions: &[(TopicPartition, i64)]) -> Result<(), BrokerError> {
    let (name, what) = (c_string(group)?, format!("positions of the group {group}"));
    let at = |(partition, offset): &(TopicPartition, i64)| (partition.clone(), Committed { offset: *offset, metadata: String::new() });
    let list = PartitionList::at(&positions.iter().map(at).collect::<Vec<_>>())?;
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS;
    let answer = question(client, operation, &what, false, |(client, options, queue)| {
        // SAFETY: all are valid; the list is copied; the request is destroyed once, after the call that copies it.
        unsafe {
            let mut asked = sys::rd_kafka_AlterConsumerGroupOffsets_new(name.as_ptr(), list.as_ptr());
            sys::rd_kafka_AlterConsumerGroupOffsets(client, &mut asked, 1, options, queue);
            sys::rd_kafka_AlterConsumerGroupOffsets_destroy(asked);
        }
    })?;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_AlterConsumerGroupOffsets_result(answer.event());
        let groups = sys::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &mut count);
        for result in (0..count).map(|at| *groups.add(at)) {
            match code_of(sys::rd_kafka_group_result_error(result)) {
                0 => {}
                code => return Err(codes::error(&what, code)),
            }
            for listed in lists::read_list(sys::rd_kafka_group_result_partitions(result)) {
                if listed.code != 0 {
                    return Err(codes::error(format!("{what}: {}", listed.partition), listed.code));
                }
            }
        }
    }
    Ok(())
}

fn offsets(client: *mut Native, places: &[(TopicPartition, Place)], stable: bool) -> Result<BTreeMap<TopicPartition, i64>, BrokerError> {
    let mut found = BTreeMap::new();
    if places.is_empty() {
        return Ok(found);
    }
    let mut list = PartitionList::new(places.len());
    for (partition, place) in places {
        list.add(&partition.topic, partition.partition)?.offset = match place {
            Place::First => -2,
            Place::End | Place::StableEnd => -1,
            Place::Time(at) => (*at).max(0),
        };
    }
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
    let answer = question(client, operation, "offsets of partitions", false, |(client, options, queue)| {
        // SAFETY: all are valid, and outlive the call, which copies what it needs.
        unsafe {
            if stable {
                let level = sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
                let refused = sys::rd_kafka_AdminOptions_set_isolation_level(options, level);
                if !refused.is_null() {
                    sys::rd_kafka_error_destroy(refused);
                }
            }
            sys::rd_kafka_ListOffsets(client, list.as_ptr(), options, queue);
        }
    })?;
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_ListOffsets_result(answer.event());
        let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
        for at in 0..count {
            let listed = lists::read_element(sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(at)));
            if listed.code != 0 {
                return Err(codes::error(format!("offsets of {}", listed.partition), listed.code));
            }
            found.insert(listed.partition, listed.offset);
        }
    }
    Ok(found)
}

fn members(client: *mut Native, group: &str) -> Result<Members, BrokerError> {
    let answer = describe::describe_groups(client, &[group.to_string()], false)?;
    let mut found = Members::default();
    // SAFETY: arrays hold the counts that come with them; results live as long as the answer. The state's name is static.
    unsafe {
        let mut count = 0_usize;
        let result = sys::rd_kafka_event_DescribeConsumerGroups_result(answer.event());
        let described = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        for described in (0..count).map(|at| *described.add(at)) {
            match code_of(sys::rd_kafka_ConsumerGroupDescription_error(described)) {
                0 => {}
                codes::GROUP_ID_NOT_FOUND => continue,
                code => return Err(codes::error(format!("group {group}"), code)),
            }
            found.state = string(sys::rd_kafka_consumer_group_state_name(sys::rd_kafka_ConsumerGroupDescription_state(described)));
            for at in 0..sys::rd_kafka_ConsumerGroupDescription_member_count(described) {
                let member = sys::rd_kafka_ConsumerGroupDescription_member(described, at);
                let assignment = sys::rd_kafka_MemberDescription_assignment(member);
                let listed = lists::read_list(sys::rd_kafka_MemberAssignment_partitions(assignment));
                let instance = string(sys::rd_kafka_MemberDescription_group_instance_id(member));
                found.members.push(Member {
                    client_id: string(sys::rd_kafka_MemberDescription_client_id(member)),
                    instance: (!instance.is_empty()).then_some(instance),
                    host: string(sys::rd_kafka_MemberDescription_host(member)),
                    partitions: listed.into_iter().map(|listed| listed.partition).collect(),
                });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::KafkaConfig;

    #[test]
    fn ends_are_known_and_groups_that_do_not_exist_have_no_members() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 2, 1).unwrap();
        let kafka = Kafka::connect(KafkaConfig::new(cluster.bootstrap_servers())).unwrap();
        let at = |place| [(TopicPartition::new("t", 0), place), (TopicPartition::new("t", 1), place)];
        for place in [Place::First, Place::End, Place::StableEnd, Place::Time(1)] {
            let found = kafka.offsets(&at(place)).unwrap();
            assert_eq!(found.into_values().collect::<Vec<_>>(), [0, 0], "{place:?}");
        }
    }
}
