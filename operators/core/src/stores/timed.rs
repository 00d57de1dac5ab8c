//! Rows by key that expire.

use arrow::datatypes::DataType;

use super::bytes::{Reader, after, put_ordered};
use super::{Front, RowCodec, StoreLayout, put_value, read_value, split, unreadable};
use crate::batch::Millis;
use crate::state::{State, StateError};

/// Rows under (key, time, sequence), which are read by key and a range of times, and expire by time.
///
/// ```text
/// tag · bucket · key · time · sequence    01 · flags · row
/// ```
///
/// A bucket is a span of time of a power of two, about as long as the ranges that are read: a range lies in two or three
/// buckets, and what is expired lies at the front, so that nothing else is visited to remove it, and no second entry is needed to
/// find it. Rows stay until their whole bucket is over, so up to twice as long as needed; who reads gives the exact range.
#[derive(Clone, Debug)]
pub struct TimedRows {
    tag: u8,
    key: Vec<DataType>,
    codec: RowCodec,
    /// A bucket is `1 << shift` milliseconds.
    shift: u32,
    front: Front,
    /// Room for the key and the value of an entry.
    room: (Vec<u8>, Vec<u8>),
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedRow<'a> {
    /// The key's columns, encoded.
    pub key: &'a [u8],
    pub time: Millis,
    pub sequence: &'a [u8],
    /// Whatever the operator has to remember about the row beside its columns.
    pub flags: u8,
    /// The row, encoded.
    pub row: &'a [u8],
}

impl TimedRows {
    /// `tag`: the byte that its keys begin with, of no other store of the step. `key`: types of the key's columns, all
    /// groupable ([`is_groupable`](crate::keys::is_groupable)). `span`: how long the ranges are that will be read.
    pub fn new(tag: u8, key: Vec<DataType>, codec: RowCodec, span: Millis) -> TimedRows {
        let shift = u64::try_from(span).unwrap_or(0).max(1).checked_next_power_of_two().map_or(62, u64::trailing_zeros);
        TimedRows { tag, key, codec, shift: shift.min(62), front: Front::default(), room: Default::default() }
    }

    pub fn codec(&self) -> &RowCodec {
        &self.codec
    }

    pub fn layout(&self) -> StoreLayout {
        let kind = format!("rows by key and time, entries {}, in spans of {} ms", self.tag, 1i64 << self.shift);
        StoreLayout { kind, key: self.key.clone(), row: self.codec.fields().clone() }
    }

    /// Sets the row under (key, time, sequence); one that is there is replaced. `row.row` is in the encoding of the store's
    /// codec; it must not be [`too_large`](super::too_large).
    ///
    /// # Errors
    /// State can't be written.
    pub fn put(&mut self, row: &TimedRow<'_>, state: &mut dyn State) -> Result<(), StateError> {
        let (mut key, mut value) = std::mem::take(&mut self.room);
        key.clear();
        value.clear();
        self.put_key(row.key, row.time, row.sequence, &mut key);
        put_value(row.flags, row.row, &mut value);
        self.front.added(&key);
        let put = state.put(&key, &value);
        self.room = (key, value);
        put
    }

    /// Removes the row under (key, time, sequence), if there is one.
    ///
    /// # Errors
    /// State can't be written.
    pub fn delete(&self, key: &[u8], time: Millis, sequence: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        state.delete(&self.entry_key(key, time, sequence))
    }

    fn put_prefix(&self, bucket: i64, key: &[u8], out: &mut Vec<u8>) {
        out.push(self.tag);
        put_ordered(bucket, out);
        out.extend_from_slice(key);
    }

    fn put_key(&self, key: &[u8], time: Millis, sequence: &[u8], out: &mut Vec<u8>) {
        self.put_prefix(time >> self.shift, key, out);
        put_ordered(time, out);
        out.extend_from_slice(sequence);
    }

    fn entry_key(&self, key: &[u8], time: Millis, sequence: &[u8]) -> Vec<u8> {
        let mut entry = Vec::with_capacity(17 + key.len() + sequence.len());
        self.put_key(key, time, sequence, &mut entry);
        entry
    }

    fn read<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<TimedRow<'a>, StateError> {
        let mut reader = Reader::new(key);
        let (Some(_), Some(bucket)) = (reader.u8().filter(|tag| *tag == self.tag), reader.ordered()) else { return Err(unreadable()) };
        let (key, rest) = split(&self.key, reader.rest())?;
        let mut reader = Reader::new(rest);
        let time = reader.ordered().filter(|time| time >> self.shift == bucket).ok_or_else(unreadable)?;
        let (flags, row) = read_value(value)?;
        Ok(TimedRow { key, time, sequence: reader.rest(), flags, row })
    }

    /// The flags of the row under (key, time, sequence), whose bytes are put into `row`; `None` if it is missing.
    ///
    /// # Errors
    /// State can't be read.
    pub fn get(&self, key: &[u8], time: Millis, sequence: &[u8], state: &dyn State, row: &mut Vec<u8>) -> Result<Option<u8>, StateError> {
        if !state.get(&self.entry_key(key, time, sequence), row)? {
            return Ok(None);
        }
        let (flags, stored) = read_value(row)?;
        let length = stored.len();
        row.drain(..row.len() - length);
        Ok(Some(flags))
    }

    /// The beginning of the first span of time, from that of `from` on, that has rows.
    ///
    /// # Errors
    /// State can't be read.
    pub fn next_span(&self, from: Millis, state: &dyn State) -> Result<Option<Millis>, StateError> {
        let mut start = vec![self.tag];
        put_ordered(from >> self.shift, &mut start);
        let mut found = None;
        state.scan(&start, &after(&[self.tag]), &mut |key, _| {
            found = Some(Reader::new(key.get(1..).unwrap_or_default()).ordered().ok_or_else(unreadable));
            false
        })?;
        Ok(found.transpose()?.map(|bucket| bucket << self.shift))
    }

    /// Visits the rows of a key with `from <= time <= to`, in the order of (time, sequence), until `visit` returns false. Costs a
    /// look-up per span of time in the range.
    ///
    /// # Errors
    /// State can't be read.
    pub fn rows(
        &self,
        key: &[u8],
        (from, to): (Millis, Millis),
        state: &dyn State,
        visit: &mut dyn FnMut(TimedRow<'_>) -> bool,
    ) -> Result<(), StateError> {
        if from > to {
            return Ok(());
        }
        let (first, last) = (from >> self.shift, to >> self.shift);
        let room = || Vec::with_capacity(18 + key.len());
        let (mut start, mut end): (Vec<u8>, Vec<u8>) = (room(), room());
        let mut read = |key: &[u8], value: &[u8]| self.read(key, value).map(&mut *visit);
        let mut bucket = first;
        while bucket <= last {
            start.clear();
            self.put_prefix(bucket, key, &mut start);
            end.clone_from(&start);
            put_ordered(if bucket == first { from } else { Millis::MIN }, &mut start);
            match to.checked_add(1).filter(|_| bucket == last) {
                Some(next) => put_ordered(next, &mut end),
                None => end = after(&end),
            }
            let (mut more, mut failure) = (true, None);
            state.scan(&start, &end, &mut |key, value| {
                more = read(key, value).unwrap_or_else(|e| {
                    failure = Some(e);
                    false
                });
                more
            })?;
            if let Some(failure) = failure {
                return Err(failure);
            }
            if !more {
                break;
            }
            bucket += 1;
        }
        Ok(())
    }

    /// Removes rows whose whole span of time is before `before`, at most `most` of them; `visit` gets each of them. True if there
    /// are more.
    ///
    /// # Errors
    /// State can't be read or written.
    pub fn expire(
        &mut self,
        before: Millis,
        most: usize,
        state: &mut dyn State,
        visit: &mut dyn FnMut(TimedRow<'_>),
    ) -> Result<bool, StateError> {
        let mut to = vec![self.tag];
        put_ordered(before >> self.shift, &mut to);
        let mut over: Vec<Vec<u8>> = Vec::new();
        let (mut failure, mut more) = (None, false);
        state.scan(&self.front.from(self.tag), &to, &mut |key, value| {
            if over.len() >= most {
                more = true;
                return false;
            }
            failure = self.read(key, value).map(&mut *visit).err();
            over.push(key.to_vec());
            failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        over.iter().try_for_each(|key| state.delete(key))?;
        match over.last() {
            Some(last) if more => self.front.removed(last),
            _ => self.front.removed(&to),
        }
        Ok(more)
    }

    /// State was replaced: see [`Operator::on_restore`](crate::Operator::on_restore).
    pub fn forget(&mut self) {
        self.front = Front::default();
    }
}
