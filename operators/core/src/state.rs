//! Keyed state as operators see it. The engine owns it: it overlays the writes of an open epoch, changelogs them in
//! the epoch's transaction, and restores them on another worker (rule R2). Operators have no checkpoint code.

use std::collections::BTreeMap;

/// The state cannot be trusted (a local store failed, a record in it cannot be read): the epoch is aborted.
#[derive(Debug, thiserror::Error)]
#[error("state: {0}")]
pub struct StateError(pub String);

impl StateError {
    pub fn new(message: impl Into<String>) -> StateError {
        StateError(message.into())
    }
}

/// The keyed state of one step in one partition. Keys are ordered by their bytes.
pub trait State {
    /// Replaces the content of `value` with the value under `key`; false (and `value` empty) if `key` is absent.
    fn get(&self, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StateError>;
    /// Sets `key` to `value`.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError>;
    /// Removes `key`; removing what does not exist is allowed.
    fn delete(&mut self, key: &[u8]) -> Result<(), StateError>;
    /// Visits the entries with `from <= key < to` in key order until `visit` returns false.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StateError>;
}

/// Plain state in memory: what operator scripts run on, and the model for the engine's own.
#[derive(Clone, Debug, Default)]
pub struct MemoryState {
    pub entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl State for MemoryState {
    fn get(&self, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StateError> {
        value.clear();
        let found = self.entries.get(key);
        if let Some(bytes) = found {
            value.extend_from_slice(bytes);
        }
        Ok(found.is_some())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.entries.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.entries.remove(key);
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StateError> {
        if from >= to {
            return Ok(());
        }
        for (key, value) in self.entries.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to))) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
