//! Rows that wait for their time.

use arrow::datatypes::DataType;

use super::bytes::{Reader, after, put_ordered};
use super::{Front, MAX_PORTION, RowCodec, StoreLayout, put_value, read_value, split, unreadable};
use crate::batch::Millis;
use crate::state::{State, StateError};

/// Rows under (time, key, sequence), in the order of their times.
///
/// ```text
/// tag · time · key · sequence    01 · flags · row
/// ```
#[derive(Clone, Debug)]
pub struct TimeQueue {
    tag: u8,
    key: Vec<DataType>,
    codec: RowCodec,
    front: Front,
}

/// An entry of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due<'a> {
    pub time: Millis,
    /// The key's columns, encoded.
    pub key: &'a [u8],
    pub sequence: &'a [u8],
    pub flags: u8,
    /// The row, encoded.
    pub row: &'a [u8],
}

impl TimeQueue {
    /// `tag`: the byte that its keys begin with, of no other store of the step. `key`: types of the key's columns, all
    /// groupable ([`is_groupable`](crate::keys::is_groupable)).
    pub fn new(tag: u8, key: Vec<DataType>, codec: RowCodec) -> TimeQueue {
        TimeQueue { tag, key, codec, front: Front::default() }
    }

    pub fn codec(&self) -> &RowCodec {
        &self.codec
    }

    pub fn layout(&self) -> StoreLayout {
        StoreLayout { kind: format!("queue by time, entries {}", self.tag), key: self.key.clone(), row: self.codec.fields().clone() }
    }

    /// Sets the row under (time, key, sequence). `due.row` is in the encoding of the store's codec; it must not be
    /// [`too_large`](super::too_large).
    ///
    /// # Errors
    /// State can't be written.
    pub fn put(&mut self, due: &Due<'_>, state: &mut dyn State) -> Result<(), StateError> {
        let mut value = Vec::with_capacity(due.row.len() + 2);
        put_value(due.flags, due.row, &mut value);
        let key = self.entry_key(due.time, due.key, due.sequence);
        self.front.added(&key);
        state.put(&key, &value)
    }

    /// Removes the row under (time, key, sequence), if there is one.
    ///
    /// # Errors
    /// State can't be written.
    pub fn delete(&self, time: Millis, key: &[u8], sequence: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        state.delete(&self.entry_key(time, key, sequence))
    }

    fn entry_key(&self, time: Millis, key: &[u8], sequence: &[u8]) -> Vec<u8> {
        let mut entry = Vec::with_capacity(9 + key.len() + sequence.len());
        entry.push(self.tag);
        put_ordered(time, &mut entry);
        entry.extend_from_slice(key);
        entry.extend_from_slice(sequence);
        entry
    }

    /// The time of the first entry; `None` if the queue is empty.
    ///
    /// # Errors
    /// State can't be read.
    pub fn first_time(&self, state: &dyn State) -> Result<Option<Millis>, StateError> {
        let mut first = None;
        state.scan(&self.front.from(self.tag), &after(&[self.tag]), &mut |key, _| {
            let mut reader = Reader::new(key);
            first = Some((reader.u8(), reader.ordered()));
            false
        })?;
        match first {
            None => Ok(None),
            Some((_, Some(time))) => Ok(Some(time)),
            Some(_) => Err(unreadable()),
        }
    }

    /// Takes entries with a time before `before` out of the queue, from the first on, at most `most` of them.
    ///
    /// # Errors
    /// State can't be read or written.
    pub fn take_before(&mut self, before: Millis, most: usize, state: &mut dyn State) -> Result<Portion, StateError> {
        let mut to = vec![self.tag];
        put_ordered(before, &mut to);
        let mut portion = Portion { key: self.key.clone(), entries: Vec::new(), more: false };
        let mut bytes = 0;
        state.scan(&self.front.from(self.tag), &to, &mut |key, value| {
            if portion.entries.len() >= most || bytes >= MAX_PORTION {
                portion.more = true;
                return false;
            }
            bytes += key.len() + value.len();
            portion.entries.push((key.to_vec(), value.to_vec()));
            true
        })?;
        portion.entries.iter().try_for_each(|(key, _)| state.delete(key))?;
        match portion.entries.last() {
            Some((last, _)) if portion.more => self.front.removed(last),
            _ => self.front.removed(&to),
        }
        Ok(portion)
    }

    /// State was replaced: see [`Operator::on_restore`](crate::Operator::on_restore).
    pub fn forget(&mut self) {
        self.front = Front::default();
    }
}

/// Entries that were taken out of a queue, in its order.
#[derive(Debug)]
pub struct Portion {
    key: Vec<DataType>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// There are more of them.
    pub more: bool,
}

impl Portion {
    /// The entries; an error for one that can't be read.
    pub fn iter(&self) -> impl Iterator<Item = Result<Due<'_>, StateError>> {
        self.entries.iter().map(|(key, value)| {
            let mut reader = Reader::new(key);
            let (Some(_), Some(time)) = (reader.u8(), reader.ordered()) else { return Err(unreadable()) };
            let (key, sequence) = split(&self.key, reader.rest())?;
            let (flags, row) = read_value(value)?;
            Ok(Due { time, key, sequence, flags, row })
        })
    }
}
