//! Rows by key that stay until they are removed.

use arrow::datatypes::DataType;

use super::bytes::{Reader, after, put_i128};
use super::{RowCodec, StoreLayout, put_value, read_value, split, unreadable};
use crate::batch::Millis;
use crate::state::{State, StateError};

/// The rows of a table that a stream of changes makes: one under each (group, id), read by group.
///
/// ```text
/// tag · group · id    01 · 00 · time as varint · row
/// ```
#[derive(Clone, Debug)]
pub struct KeyedRows {
    tag: u8,
    group: Vec<DataType>,
    id: Vec<DataType>,
    codec: RowCodec,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedRow<'a> {
    /// The id's columns, encoded.
    pub id: &'a [u8],
    pub time: Millis,
    /// The row, encoded.
    pub row: &'a [u8],
}

impl KeyedRows {
    /// `tag`: the byte that its keys begin with, of no other store of the step. `group`, `id`: types of the columns, all groupable
    /// ([`is_groupable`](crate::keys::is_groupable)).
    pub fn new(tag: u8, group: Vec<DataType>, id: Vec<DataType>, codec: RowCodec) -> KeyedRows {
        KeyedRows { tag, group, id, codec }
    }

    pub fn codec(&self) -> &RowCodec {
        &self.codec
    }

    pub fn layout(&self) -> StoreLayout {
        let kind = format!("rows by group and key, entries {}, groups of {} columns", self.tag, self.group.len());
        let key = self.group.iter().chain(&self.id).cloned().collect();
        StoreLayout { kind, key, row: self.codec.fields().clone() }
    }

    fn entry_key(&self, group: &[u8], id: &[u8]) -> Vec<u8> {
        let mut entry = Vec::with_capacity(1 + group.len() + id.len());
        entry.push(self.tag);
        entry.extend_from_slice(group);
        entry.extend_from_slice(id);
        entry
    }

    /// Sets the row under (group, id). It must not be [`too_large`](super::too_large).
    ///
    /// # Errors
    /// State can't be written.
    pub fn put(&self, group: &[u8], row: &KeyedRow<'_>, state: &mut dyn State) -> Result<(), StateError> {
        let mut value = Vec::with_capacity(row.row.len() + 12);
        put_value(0, &[], &mut value);
        put_i128(row.time.into(), &mut value);
        value.extend_from_slice(row.row);
        state.put(&self.entry_key(group, row.id), &value)
    }

    /// Removes the row under (group, id), if there is one.
    ///
    /// # Errors
    /// State can't be written.
    pub fn delete(&self, group: &[u8], id: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        state.delete(&self.entry_key(group, id))
    }

    /// The time of the row under (group, id), whose bytes are put into `row`; `None` if it is missing.
    ///
    /// # Errors
    /// State can't be read.
    pub fn get(&self, group: &[u8], id: &[u8], state: &dyn State, row: &mut Vec<u8>) -> Result<Option<Millis>, StateError> {
        if !state.get(&self.entry_key(group, id), row)? {
            return Ok(None);
        }
        let (time, stored) = read(row)?;
        let length = stored.len();
        row.drain(..row.len() - length);
        Ok(Some(time))
    }

    /// Visits the rows of a group, in the order of their ids, until `visit` returns false.
    ///
    /// # Errors
    /// State can't be read.
    pub fn rows(&self, group: &[u8], state: &dyn State, visit: &mut dyn FnMut(KeyedRow<'_>) -> bool) -> Result<(), StateError> {
        let from = self.entry_key(group, &[]);
        let mut failure = None;
        state.scan(&from, &after(&from), &mut |key, value| {
            let entry = key.get(1..).ok_or_else(unreadable).and_then(|key| {
                let (_, id) = split(&self.group, key)?;
                let (id, rest) = split(&self.id, id)?;
                let (time, row) = read(value)?;
                if rest.is_empty() { Ok(KeyedRow { id, time, row }) } else { Err(unreadable()) }
            });
            match entry {
                Ok(entry) => visit(entry),
                Err(error) => {
                    failure = Some(error);
                    false
                }
            }
        })?;
        failure.map_or(Ok(()), Err)
    }
}

/// The time and the row in an entry's value.
fn read(value: &[u8]) -> Result<(Millis, &[u8]), StateError> {
    let (_, rest) = read_value(value)?;
    let mut reader = Reader::new(rest);
    let time = reader.i64().ok_or_else(unreadable)?;
    Ok((time, reader.rest()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use arrow::datatypes::Fields;

    use super::*;
    use crate::keys::encode;
    use crate::state::MemoryState;

    fn key(text: &str) -> Vec<u8> {
        let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
        let mut bytes = Vec::new();
        encode(&[column], 0, &mut bytes);
        bytes
    }

    #[test]
    fn rows_are_found_by_group_and_by_id() {
        let rows = KeyedRows::new(7, vec![DataType::Utf8], vec![DataType::Utf8], RowCodec::new(Fields::empty()));
        let mut state = MemoryState::default();
        for (group, id, time) in [("a", "x", 5), ("a", "y", -6), ("ab", "x", 7), ("", "z", 8), ("a", "x", 9)] {
            rows.put(&key(group), &KeyedRow { id: &key(id), time, row: id.as_bytes() }, &mut state).unwrap();
        }
        let found = |group: &str, state: &MemoryState| {
            let mut found = Vec::new();
            let mut visit = |row: KeyedRow<'_>| {
                found.push((row.id.to_vec(), row.time, row.row.to_vec()));
                true
            };
            rows.rows(&key(group), state, &mut visit).unwrap();
            found
        };
        assert_eq!(found("a", &state), [(key("x"), 9, b"x".to_vec()), (key("y"), -6, b"y".to_vec())]);
        assert_eq!(found("ab", &state).len(), 1);
        assert_eq!(found("b", &state), []);
        let mut row = Vec::new();
        assert_eq!((rows.get(&key("a"), &key("y"), &state, &mut row).unwrap(), row.as_slice()), (Some(-6), &b"y"[..]));
        rows.delete(&key("a"), &key("y"), &mut state).unwrap();
        assert_eq!(rows.get(&key("a"), &key("y"), &state, &mut row).unwrap(), None);
        assert_eq!(found("a", &state).len(), 1);
        // Bytes that are no entry are an error.
        state.put(&[&[7][..], &key("q"), &[9]].concat(), &[1, 0, 2]).unwrap();
        assert!(rows.rows(&key("q"), &state, &mut |_| true).is_err());
    }
}
