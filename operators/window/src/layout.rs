//! How windows are stored in state.
//!
//! ```text
//! 00                                            the watermark and the end up to which windows were closed here
//! 01 · window end · group                       (time of the newest row,) rows held, and the accumulator of each computed
//!                                               column
//! 01 · window end · group · aggregate · value   a value that count(DISTINCT) has seen; no content
//! ```
//!
//! The window's end is big-endian with its sign flipped, so that windows are in order of time and closing is one scan
//! from the front. The group is [`operator_core::keys::encode`]: its columns are read back from there when a window
//! closes and are not stored a second time. Values of a DISTINCT are their own entries, right behind their group,
//! so that one more value doesn't rewrite a large set.

use arrow::datatypes::DataType;
use operator_core::stores::bytes::{Reader, put_ordered};
use operator_core::{Millis, NO_WATERMARK, State, StateError};

use crate::bounds::Windows;
use crate::values::Value;

/// Version of everything written to state here.
pub const VERSION: u8 = 1;
/// Version of a group's entry that says when its newest row was: of windows whose groups expire.
pub const VERSION_TIMED: u8 = 2;
/// Key of the entry of [`Closed`].
const CLOSED: &[u8] = &[0];

const WINDOW: u8 = 1;
/// Bytes of a key up to the group.
const END: usize = 9;

/// Up to where windows were closed: those that end by `end` were emitted or will be, at `watermark`. Both are kept, since `lateness`, which
/// is between them, may be another one at the next start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closed {
    pub watermark: Millis,
    pub end: Millis,
}

impl Closed {
    /// Reads it from state. Versions that kept no end closed windows by the `lateness` of today, as far as anyone knows.
    pub fn read(windows: &Windows, state: &dyn State) -> Result<Closed, StateError> {
        let mut value = Vec::new();
        if !state.get(CLOSED, &mut value)? {
            return Ok(Closed { watermark: NO_WATERMARK, end: NO_WATERMARK });
        }
        let unreadable = || StateError::new("the stored watermark of the last closed window can't be decoded");
        let mut reader = Reader::new(&value);
        let (Some(VERSION), Some(watermark)) = (reader.u8(), reader.array()) else { return Err(unreadable()) };
        let watermark = Millis::from_be_bytes(watermark);
        let end =
            if reader.is_empty() { windows.closed_to(watermark) } else { Millis::from_be_bytes(reader.array().ok_or_else(unreadable)?) };
        Ok(Closed { watermark, end })
    }

    /// What is `known` of it; read from state first.
    pub fn of<'c>(known: &'c mut Option<Closed>, windows: &Windows, state: &dyn State) -> Result<&'c mut Closed, StateError> {
        match known {
            Some(closed) => Ok(closed),
            None => Ok(known.insert(Closed::read(windows, state)?)),
        }
    }

    /// Windows that end by now are closed: their rows are late from here on.
    pub fn advance(&mut self, watermark: Millis, windows: &Windows, state: &mut dyn State) -> Result<(), StateError> {
        let now = Closed { watermark: watermark.max(self.watermark), end: windows.closed_to(watermark).max(self.end) };
        if now != *self {
            let mut value = vec![VERSION];
            value.extend_from_slice(&now.watermark.to_be_bytes());
            value.extend_from_slice(&now.end.to_be_bytes());
            state.put(CLOSED, &value)?;
            *self = now;
        }
        Ok(())
    }

    /// The least watermark that rows are judged by: later than `watermark` if `lateness` was raised, so that windows that were closed stay so.
    pub fn judges(&self, windows: &Windows) -> Millis {
        match self.end {
            NO_WATERMARK => self.watermark,
            end => end.saturating_add(windows.lateness).max(self.watermark),
        }
    }
}

/// Appends the key of a group's entry in the window that ends at `end`.
pub fn put_key(end: Millis, group: &[u8], out: &mut Vec<u8>) {
    put_time(WINDOW, end, out);
    out.extend_from_slice(group);
}

/// Appends a tag and a time: what keys in order of time begin with.
pub fn put_time(tag: u8, time: Millis, out: &mut Vec<u8>) {
    out.push(tag);
    put_ordered(time, out);
}

/// Appends the key of one value of a `count(DISTINCT ..)`.
pub fn put_distinct_key(group_key: &[u8], aggregate: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(group_key);
    out.extend_from_slice(&aggregate.to_be_bytes());
    out.extend_from_slice(value);
}

/// The range of keys of all windows that end at `last` or earlier.
pub fn range_to(last: Millis) -> (Vec<u8>, Vec<u8>) {
    range_of(WINDOW, last)
}

/// The range of keys that [`put_time`] began with `tag` and a time up to `last`.
pub fn range_of(tag: u8, last: Millis) -> (Vec<u8>, Vec<u8>) {
    let mut to = Vec::with_capacity(END);
    match last.checked_add(1) {
        Some(end) => put_time(tag, end, &mut to),
        None => to.push(tag + 1),
    }
    (vec![tag], to)
}

/// The end of the window whose group, or one of its values, is under `key`.
pub fn read_end(key: &[u8]) -> Result<Millis, StateError> {
    let mut reader = Reader::new(key);
    let end = reader.u8().filter(|tag| *tag == WINDOW).and_then(|_| reader.ordered());
    end.ok_or_else(|| StateError::new("the key of a window's entry can't be decoded"))
}

/// What a key below the window tag names.
#[derive(Debug, PartialEq)]
pub struct Entry {
    pub end: Millis,
    /// False for a value of a DISTINCT.
    pub is_group: bool,
}

/// Reads a key; the values of the group columns are appended to `group`, one list per column, if the key is that of
/// a group's entry.
pub fn read_key(key: &[u8], types: &[DataType], group: &mut [Vec<Option<Value>>]) -> Result<Entry, StateError> {
    let unreadable = || StateError::new("a window's key can't be decoded; was the state written with another `by`?");
    let end = read_end(key)?;
    let mut reader = Reader::new(key.get(END..).unwrap_or_default());
    for (data_type, values) in types.iter().zip(group.iter_mut()) {
        values.push(read_value(&mut reader, data_type).ok_or_else(unreadable)?);
    }
    let is_group = reader.is_empty();
    if !is_group {
        group.iter_mut().for_each(|values| drop(values.pop()));
    }
    Ok(Entry { end, is_group })
}

/// Reads one column of `keys::encode` back.
pub fn read_value(reader: &mut Reader<'_>, data_type: &DataType) -> Option<Option<Value>> {
    use DataType::*;
    match reader.u8()? {
        0 => return Some(None),
        1 => {}
        _ => return None,
    }
    let int = match data_type {
        Utf8 | Binary => {
            let length = u32::from_be_bytes(reader.array()?);
            return Some(Some(Value::Bytes(reader.take(length as usize)?.to_vec())));
        }
        Float32 | Float64 => return reader.f64().map(|v| Some(Value::Float(v))),
        Boolean | UInt8 => reader.u8()?.into(),
        Int8 => i8::from_be_bytes(reader.array()?).into(),
        Int16 => i16::from_be_bytes(reader.array()?).into(),
        Int32 | Date32 => i32::from_be_bytes(reader.array()?).into(),
        Int64 | Timestamp(_, _) => i64::from_be_bytes(reader.array()?).into(),
        UInt16 => u16::from_be_bytes(reader.array()?).into(),
        UInt32 => u32::from_be_bytes(reader.array()?).into(),
        UInt64 => u64::from_be_bytes(reader.array()?).into(),
        Decimal128(_, _) => i128::from_be_bytes(reader.array()?),
        _ => return None,
    };
    Some(Some(Value::Int(int)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
        Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray, UInt8Array, UInt16Array, UInt32Array,
        UInt64Array,
    };
    use operator_core::{MemoryState, keys};

    use super::*;
    use crate::values::build;

    #[test]
    fn groups_of_every_type_are_read_back_from_their_key() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("grün"), None])),
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(Int8Array::from(vec![Some(-1), None])),
            Arc::new(Int16Array::from(vec![Some(-2), None])),
            Arc::new(Int32Array::from(vec![Some(-3), None])),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
            Arc::new(UInt8Array::from(vec![Some(255), None])),
            Arc::new(UInt16Array::from(vec![Some(65_535), None])),
            Arc::new(UInt32Array::from(vec![Some(u32::MAX), None])),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
            Arc::new(Float32Array::from(vec![Some(1.5), None])),
            Arc::new(Float64Array::from(vec![Some(-2.25), None])),
            Arc::new(Date32Array::from(vec![Some(19_000), None])),
            Arc::new(TimestampMillisecondArray::from(vec![Some(-5), None]).with_timezone("UTC")),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(7), None])),
            Arc::new(Decimal128Array::from(vec![Some(-12_345), None]).with_precision_and_scale(20, 3).unwrap()),
        ];
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        assert!(types.iter().all(keys::is_groupable));
        let mut group = vec![Vec::new(); columns.len()];
        for row in 0..2 {
            let mut bytes = Vec::new();
            keys::encode(&columns, row, &mut bytes);
            let mut key = Vec::new();
            put_key(-60_000, &bytes, &mut key);
            assert_eq!(read_key(&key, &types, &mut group).unwrap(), Entry { end: -60_000, is_group: true });
            let mut distinct = Vec::new();
            put_distinct_key(&key, 3, b"x", &mut distinct);
            assert!(!read_key(&distinct, &types, &mut group).unwrap().is_group);
            assert!(distinct.starts_with(&key) && distinct > key);
            assert!(read_key(&key[..key.len() - 1], &types, &mut group.clone()).is_err());
        }
        for (column, values) in columns.iter().zip(&group) {
            assert_eq!(build(column.data_type(), values).as_ref(), column.as_ref());
        }
    }

    #[test]
    fn what_was_closed_by_earlier_versions_is_read() {
        let windows = Windows { lateness: 10, ..Windows::UNBOUNDED };
        let mut state = MemoryState::default();
        let mut closed = Closed::read(&windows, &state).unwrap();
        assert_eq!((closed.judges(&windows), closed.end), (NO_WATERMARK, NO_WATERMARK));
        state.put(CLOSED, &[&[VERSION][..], &100i64.to_be_bytes()].concat()).unwrap();
        closed = Closed::read(&windows, &state).unwrap();
        assert_eq!((closed, closed.judges(&windows)), (Closed { watermark: 100, end: 90 }, 100));
        closed.advance(120, &windows, &mut state).unwrap();
        closed = Closed::read(&Windows { lateness: 50, ..windows }, &state).unwrap();
        assert_eq!((closed.end, closed.judges(&Windows { lateness: 50, ..windows })), (110, 160));
        state.put(CLOSED, &[VERSION, 1]).unwrap();
        assert!(Closed::read(&windows, &state).is_err());
    }

    #[test]
    fn windows_are_in_order_of_time() {
        let ends = [i64::MIN, -60_000, -1, 0, 1, 60_000, i64::MAX];
        let keys: Vec<Vec<u8>> = ends
            .iter()
            .map(|end| {
                let mut key = Vec::new();
                put_key(*end, b"g", &mut key);
                key
            })
            .collect();
        assert!(keys.is_sorted());
        for (end, key) in ends.iter().zip(&keys) {
            let (from, to) = range_to(*end);
            let inside: Vec<bool> = keys.iter().map(|k| *k >= from && *k < to).collect();
            assert_eq!(inside, ends.iter().map(|e| e <= end).collect::<Vec<_>>());
            assert!(key.as_slice() > CLOSED);
        }
    }
}
