//! Reading without a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::transient;
use super::consumer::{Position, fetch};
use super::{Fault, Shared};
use crate::broker::{BrokerError, Event, Reader, TopicPartition};

pub(super) struct MemoryReader {
    shared: Arc<Shared>,
    positions: BTreeMap<TopicPartition, Position>,
    turn: usize,
}

impl MemoryReader {
    pub fn new(shared: Arc<Shared>, from: &[(TopicPartition, i64)]) -> MemoryReader {
        let positions = from.iter().map(|(partition, offset)| (partition.clone(), Position::at(*offset))).collect();
        MemoryReader { shared, positions, turn: 0 }
    }
}

impl Reader for MemoryReader {
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError> {
        let shared = self.shared.clone();
        shared.wait_for_events(timeout, |cluster| {
            cluster.tick();
            match cluster.faults.strike(&[Fault::PollFails]) {
                Some(_) => Err(transient("poll")),
                None => fetch(cluster, &mut self.positions, &mut self.turn, max),
            }
        })
    }
}
