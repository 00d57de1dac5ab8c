//! Lists of partitions, as calls into librdkafka take and give them: with offsets, metadata and an error for each.

use std::ffi::c_int;

use headwater_engine::broker::{BrokerError, Committed, TopicPartition};
use rdkafka::bindings as sys;

use super::native::{c_string, string};

/// A list of partitions with offsets and metadata, for calls that take one.
pub(super) struct PartitionList(*mut sys::rd_kafka_topic_partition_list_t);

impl PartitionList {
    pub(super) fn new(capacity: usize) -> PartitionList {
        // SAFETY: no preconditions; owned by `PartitionList`.
        PartitionList(unsafe { sys::rd_kafka_topic_partition_list_new(c_int::try_from(capacity).unwrap_or(0)) })
    }

    pub(super) fn of<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<PartitionList, BrokerError> {
        let mut list = PartitionList::new(8);
        for partition in partitions {
            list.add(&partition.topic, partition.partition)?;
        }
        Ok(list)
    }

    pub(super) fn at(positions: &[(TopicPartition, Committed)]) -> Result<PartitionList, BrokerError> {
        let mut list = PartitionList::new(positions.len());
        for (partition, committed) in positions {
            let element = list.add(&partition.topic, partition.partition)?;
            element.offset = committed.offset;
            set_metadata(element, committed.metadata.as_bytes());
        }
        Ok(list)
    }

    /// Adds an element with no offset.
    pub(super) fn add(&mut self, topic: &str, partition: i32) -> Result<&mut sys::rd_kafka_topic_partition_t, BrokerError> {
        let c_topic = c_string(topic)?;
        // SAFETY: the list and the name are valid; the element lives until the next call that adds one, and the borrow
        // of `self` ends before that.
        Ok(unsafe { &mut *sys::rd_kafka_topic_partition_list_add(self.0, c_topic.as_ptr(), partition) })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.0
    }

    pub(super) fn read(&self) -> Vec<ListedPartition> {
        // SAFETY: the list is valid.
        unsafe { read_list(self.0) }
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: owned and destroyed once.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

/// An element of a partition list, copied out.
pub(super) struct ListedPartition {
    pub(super) partition: TopicPartition,
    pub(super) offset: i64,
    pub(super) metadata: Vec<u8>,
    pub(super) code: i32,
}

/// Copies a list of librdkafka's.
///
/// # Safety
/// `list` is null or a valid list.
pub(super) unsafe fn read_list(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<ListedPartition> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: per the contract the list is valid; `elems` holds `cnt` elements, and is null only when `cnt` is 0.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        (0..count).map(|at| read_element((*list).elems.add(at))).collect()
    }
}

/// Copies an element of librdkafka's.
///
/// # Safety
/// `element` is valid.
pub(super) unsafe fn read_element(element: *const sys::rd_kafka_topic_partition_t) -> ListedPartition {
    // SAFETY: per the contract; metadata is null or as long as stated.
    unsafe {
        let metadata = if (*element).metadata.is_null() {
            Vec::new()
        } else {
            std::slice::from_raw_parts((*element).metadata as *const u8, (*element).metadata_size).to_vec()
        };
        ListedPartition {
            partition: TopicPartition::new(string((*element).topic), (*element).partition),
            offset: (*element).offset,
            metadata,
            // Read as an integer: see the module text of `codes`.
            code: std::ptr::addr_of!((*element).err).cast::<i32>().read(),
        }
    }
}

fn set_metadata(element: &mut sys::rd_kafka_topic_partition_t, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // SAFETY: the list frees metadata with librdkafka's allocator, so it is allocated with it; the copy fits.
    unsafe {
        let copy = sys::rd_kafka_mem_malloc(std::ptr::null_mut(), bytes.len());
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy.cast::<u8>(), bytes.len());
        element.metadata = copy;
        element.metadata_size = bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_back_what_was_put_in() {
        let at = |topic: &str, partition, offset, metadata: &str| {
            (TopicPartition::new(topic, partition), Committed { offset, metadata: metadata.to_owned() })
        };
        let positions = [at("orders", 3, 17, "v1 \u{e9}t\u{e9}"), at("orders", 0, 0, ""), at("clicks", 1, i64::MAX, "x")];
        let read = PartitionList::at(&positions).unwrap().read();
        assert_eq!(read.len(), positions.len());
        for (listed, (partition, committed)) in read.iter().zip(&positions) {
            assert_eq!(&listed.partition, partition);
            assert_eq!(listed.offset, committed.offset);
            assert_eq!(listed.metadata, committed.metadata.as_bytes());
            assert_eq!(listed.code, 0);
        }
    }

    #[test]
    fn a_name_with_a_nul_is_refused() {
        assert!(PartitionList::of(&[TopicPartition::new("a\0b", 0)]).is_err());
    }
}
