//! What delivery has done so far, for metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::DeliveryError;
use crate::broker::{BrokerError, Failure};

/// Counters of one delivery, shared with whoever shows them. All but `lag` and `buffered` only grow.
///
/// Every row is accounted for: rows read = `rows` + `refused` + rows still buffered, not counting what is read again
/// after a rebalance.
#[derive(Debug, Default)]
pub struct Counters {
    rows: AtomicU64,
    blocks: AtomicU64,
    retries: AtomicU64,
    refused: AtomicU64,
    skipped: AtomicU64,
    lag: AtomicI64,
    buffered: AtomicU64,
    last_error: Mutex<Option<String>>,
    stopped: Mutex<Option<String>>,
}

impl Counters {
    /// Notes an error of the brokers that may pass; returns the others.
    pub(super) fn tolerate(&self, error: BrokerError) -> Result<(), DeliveryError> {
        match error.failure {
            Failure::Transient | Failure::AbortTransaction | Failure::Refused | Failure::Fenced => {
                self.failed(error.message);
                Ok(())
            }
            Failure::OutOfRange | Failure::Fatal => Err(error.into()),
        }
    }

    /// Rows known to be in the table.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Blocks (or parts of blocks) inserted.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Inserts and questions after the first one of their kind.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Rows the table refused, now in the dead letters.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Blocks found in the table by asking it, not inserted again.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Offsets between what is delivered and the end of the assigned partitions, as far as the end is known.
    pub fn lag(&self) -> i64 {
        self.lag.load(Ordering::Relaxed)
    }

    /// Rows read and not inserted yet.
    pub fn buffered(&self) -> u64 {
        self.buffered.load(Ordering::Relaxed)
    }

    /// What went wrong last, or what is waited for; `None` once a block or a row was settled since.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Why the delivery has stopped, if it has.
    pub fn stopped(&self) -> Option<String> {
        self.stopped.lock().clone()
    }

    /// The delivery has stopped.
    pub fn stop(&self, why: &str) {
        *self.stopped.lock() = Some(why.to_owned());
    }

    pub(super) fn inserted(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.settled();
    }

    pub(super) fn found(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.settled();
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dead_lettered(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.settled();
    }

    /// A position with nothing open before it is stored, too.
    pub(super) fn settled(&self) {
        *self.last_error.lock() = None;
    }

    /// Notes what went wrong.
    pub fn failed(&self, why: impl Into<String>) {
        *self.last_error.lock() = Some(why.into());
    }

    pub(super) fn standing(&self, lag: i64, buffered: u64) {
        self.lag.store(lag, Ordering::Relaxed);
        self.buffered.store(buffered, Ordering::Relaxed);
    }
}
