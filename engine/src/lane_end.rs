//! Why a lane, or what reads tables for the lanes, ends.

use crate::broker::{BrokerError, Failure};

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
pub enum LaneEnd {
    /// Start a new lane: this one's position or membership is uncertain.
    #[error("{0}")]
    Restart(String),
    /// Starting again would fail for the same reason: the worker ends.
    #[error("{0}")]
    Stop(String),
}

impl From<BrokerError> for LaneEnd {
    fn from(e: BrokerError) -> LaneEnd {
        match e.failure {
            Failure::OutOfRange => LaneEnd::Stop(e.message),
            _ => LaneEnd::Restart(e.message),
        }
    }
}
