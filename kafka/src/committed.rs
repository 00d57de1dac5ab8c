//! Committed positions of a group.

use std::time::{Duration, Instant};

use headwater_engine::broker::{BrokerError, Committed, TopicPartition};

use super::codes;
use super::group::Group;
use super::lists::PartitionList;
use super::native::{Client, raw};

/// Reads the positions that the group has committed for `partitions`, in their order; tries again for `patience` while the group has
/// no coordinator. `broken`: an error of the client, with the reason that broke it.
pub(super) fn read(
    client: &Client<Group>,
    partitions: &[TopicPartition],
    patience: Duration,
    broken: impl Fn(&str, i32) -> BrokerError,
) -> Result<Vec<Option<Committed>>, BrokerError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let started = Instant::now();
    loop {
        match read_once(client, partitions, &broken) {
            Ok(committed) => return Ok(committed),
            Err((code, _)) if codes::is_transient(code) && started.elapsed() < patience => std::thread::sleep(Duration::from_millis(50)),
            Err((_, error)) => return Err(error),
        }
    }
}

fn read_once(
    client: &Client<Group>,
    partitions: &[TopicPartition],
    broken: impl Fn(&str, i32) -> BrokerError,
) -> Result<Vec<Option<Committed>>, (i32, BrokerError)> {
    let list = PartitionList::of(partitions).map_err(|error| (codes::FATAL, error))?;
    // SAFETY: client and list are valid.
    let code = unsafe { raw::rd_kafka_committed(client.ptr(), list.as_ptr(), 5_000) };
    if code != 0 {
        return Err((code, broken("committed offsets", code)));
    }
    // In the order asked, as librdkafka updates the list in place.
    list.read()
        .into_iter()
        .map(|listed| {
            if listed.code != 0 {
                let what = format!("committed offset of {}", listed.partition);
                return Err((listed.code, codes::error(what, listed.code)));
            }
            if listed.offset < 0 {
                return Ok(None);
            }
            let metadata = String::from_utf8(listed.metadata).map_err(|_| {
                let text = format!("the metadata committed for {} is not UTF-8: written by something else", listed.partition);
                (codes::FATAL, BrokerError::fatal(text))
            })?;
            Ok(Some(Committed { offset: listed.offset, metadata }))
        })
        .collect()
}
