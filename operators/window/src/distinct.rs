//! Values of `count(DISTINCT)`: each is an entry in state, right behind that of its group, so that one more value doesn't rewrite
//! a large set.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use operator_core::stores::bytes::{Reader, put_i128};
use operator_core::{State, StateError};

use crate::layout::{VERSION, put_distinct_key};

/// Keys of values met in this batch, so that a value which is met again costs no look into state.
#[derive(Debug, Default)]
pub struct Distinct {
    hasher: FixedState,
    /// Hash and range in `keys`.
    values: HashTable<(u64, usize, usize)>,
    keys: Vec<u8>,
    buffer: Vec<u8>,
}

impl Distinct {
    /// Notes that the group under `group_key` has met `value` (encoded) in the aggregate at place `aggregate`; true if it is new.
    /// `stored`: it may be in state since an earlier batch.
    pub fn is_new(
        &mut self,
        group_key: &[u8],
        aggregate: usize,
        value: &[u8],
        stored: bool,
        state: &mut dyn State,
    ) -> Result<bool, StateError> {
        let start = self.keys.len();
        put_distinct_key(group_key, aggregate as u16, value, &mut self.keys);
        let end = self.keys.len();
        let keys = &self.keys;
        let key = keys.get(start..).unwrap_or_default();
        let hash = self.hasher.hash_one(key);
        if self.values.find(hash, |(h, from, to)| *h == hash && keys.get(*from..*to) == Some(key)).is_some() {
            self.keys.truncate(start);
            return Ok(false);
        }
        self.values.insert_unique(hash, (hash, start, end), |(hash, _, _)| *hash);
        if stored && state.get(key, &mut self.buffer)? {
            return Ok(false);
        }
        // Not empty: an empty value could be taken for a deletion in the changelog.
        state.put(key, &[VERSION])?;
        Ok(true)
    }

    /// The same where rows come and go: an entry has in how many rows its value is, and how often the value counts is changed by what is
    /// returned. Rows of a value that come and go in one batch are few, so nothing is remembered of it.
    pub fn change(
        &mut self,
        group_key: &[u8],
        (aggregate, value): (usize, &[u8]),
        change: i8,
        state: &mut dyn State,
    ) -> Result<i64, StateError> {
        let unreadable = || StateError::new("how often a DISTINCT value is there can't be decoded");
        let mut key = Vec::with_capacity(group_key.len() + 2 + value.len());
        put_distinct_key(group_key, aggregate as u16, value, &mut key);
        let before = match state.get(&key, &mut self.buffer)? {
            true => self.buffer.split_first().and_then(|(_, count)| Reader::new(count).i64()).ok_or_else(unreadable)?,
            false => 0,
        };
        let after = before + i64::from(change);
        if after == 0 {
            state.delete(&key)?;
        } else {
            self.buffer.clear();
            self.buffer.push(VERSION);
            put_i128(after.into(), &mut self.buffer);
            state.put(&key, &self.buffer)?;
        }
        Ok(i64::from(after > 0) - i64::from(before > 0))
    }

    /// Values in memory.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.values.clear();
        self.keys.clear();
    }
}
