//! How sessions are stored in state.
//!
//! ```text
//! 00                                        the watermark up to which sessions were closed here
//! 01 · end · group · anchor                 when to look whether the session is over; no content
//! 02 · group                                the anchors of the group's sessions, in order of time
//! 03 · group · anchor                       first and last time, rows held, and the accumulator of each computed column
//! 03 · group · anchor · aggregate · value   a value that count(DISTINCT) has seen; no content
//! ```
//!
//! A session is named by its anchor, the time of the row that began it: first and last time move while rows come, and its
//! entries would have to move with them. The end under `01` is the one that the session had when it was written first. It is
//! not moved with every row either, only when it has come and the session goes on.

use arrow::datatypes::DataType;
use operator_core::stores::bytes::{Reader, put_i128, put_ordered, put_u64};
use operator_core::{Millis, StateError};

use crate::accumulator::Accumulator;
use crate::groups::read_accumulators;
use crate::layout::{VERSION, put_key, read_value};
use crate::plan::WindowPlan;
use crate::values::Value;

const GROUP: u8 = 2;
const SESSION: u8 = 3;
/// Bytes of an anchor, and of an end with its tag.
const ANCHOR: usize = 8;
const END: usize = 9;

/// A session without its accumulators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Event time of the first row.
    pub first: Millis,
    pub last: Millis,
    /// Rows counted as held here (rule R3).
    pub held: u64,
}

/// Appends the key of the entry that says when to look after a session.
pub fn put_end_key(end: Millis, group: &[u8], anchor: Millis, out: &mut Vec<u8>) {
    put_key(end, group, out);
    put_ordered(anchor, out);
}

/// Reads such a key: end, group, anchor.
pub fn read_end_key(key: &[u8]) -> Result<(Millis, &[u8], Millis), StateError> {
    let unreadable = || StateError::new("the key of a session's end can't be decoded");
    let (end, rest) = key.split_at_checked(END).ok_or_else(unreadable)?;
    let (group, anchor) = rest.split_at_checked(rest.len().wrapping_sub(ANCHOR)).ok_or_else(unreadable)?;
    let time = |bytes: &[u8]| Reader::new(bytes).ordered();
    let end = end.get(1..).and_then(time).ok_or_else(unreadable)?;
    Ok((end, group, time(anchor).ok_or_else(unreadable)?))
}

/// Appends the values of a group's columns to `columns`, one list per column.
pub fn read_columns(group: &[u8], types: &[DataType], columns: &mut [Vec<Option<Value>>]) -> Result<(), StateError> {
    let unreadable = || StateError::new("the group of a session can't be decoded; was the state written with another `by`?");
    let mut reader = Reader::new(group);
    for (data_type, values) in types.iter().zip(columns.iter_mut()) {
        values.push(read_value(&mut reader, data_type).ok_or_else(unreadable)?);
    }
    if reader.is_empty() { Ok(()) } else { Err(unreadable()) }
}

/// Appends the key of the list of a group's sessions.
pub fn put_group_key(group: &[u8], out: &mut Vec<u8>) {
    out.push(GROUP);
    out.extend_from_slice(group);
}

/// Appends the anchors of a group's sessions.
pub fn put_anchors(anchors: impl ExactSizeIterator<Item = Millis>, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(anchors.len() as u64, out);
    anchors.fold(0, |before, anchor| {
        put_i128(i128::from(anchor) - before, out);
        anchor.into()
    });
}

/// Reads them.
pub fn read_anchors(bytes: &[u8]) -> Result<Vec<Millis>, StateError> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let count = (reader.u8()? == VERSION).then(|| reader.u64())??;
        let mut before = 0i128;
        let mut anchors = Vec::new();
        for _ in 0..count {
            before = before.checked_add(reader.i128()?)?;
            anchors.push(Millis::try_from(before).ok()?);
        }
        reader.is_empty().then_some(anchors)
    };
    read().ok_or_else(|| StateError::new("the list of a group's sessions can't be decoded"))
}

/// Appends the key of a session.
pub fn put_session_key(group: &[u8], anchor: Millis, out: &mut Vec<u8>) {
    out.push(SESSION);
    out.extend_from_slice(group);
    put_ordered(anchor, out);
}

/// Appends a session.
pub fn put_session(span: Span, accumulators: &[Accumulator], out: &mut Vec<u8>) {
    out.push(VERSION);
    put_i128(span.first.into(), out);
    put_i128(span.last.into(), out);
    put_u64(span.held, out);
    accumulators.iter().for_each(|a| a.encode(out));
}

/// Reads a session, and appends its accumulators.
pub fn read_session(plan: &WindowPlan, bytes: &[u8], accumulators: &mut Vec<Accumulator>) -> Result<Span, StateError> {
    let unreadable = || StateError::new("a session can't be decoded; was it written with another `compute`?");
    let mut reader = Reader::new(bytes);
    if reader.u8() != Some(VERSION) {
        return Err(unreadable());
    }
    let (first, last) = (reader.i64().ok_or_else(unreadable)?, reader.i64().ok_or_else(unreadable)?);
    let held = reader.u64().ok_or_else(unreadable)?;
    read_accumulators(plan, reader, accumulators)?;
    Ok(Span { first, last, held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_in_order_of_time() {
        let mut keys = Vec::new();
        for (end, anchor) in [(i64::MIN, -5), (-1, i64::MIN), (0, 0), (0, 7), (i64::MAX, i64::MAX)] {
            let mut key = Vec::new();
            put_end_key(end, b"group", anchor, &mut key);
            assert_eq!(read_end_key(&key).unwrap(), (end, &b"group"[..], anchor));
            keys.push(key);
        }
        assert!(keys.is_sorted());
        assert!(read_end_key(&keys[0][..12]).is_err() && read_end_key(&[]).is_err());
    }

    #[test]
    fn anchors_are_read_back_and_damage_is_found() {
        for anchors in [vec![], vec![i64::MIN, -1, 0, 5, i64::MAX]] {
            let mut bytes = Vec::new();
            put_anchors(anchors.iter().copied(), &mut bytes);
            assert_eq!(read_anchors(&bytes).unwrap(), anchors);
            for cut in 0..bytes.len() {
                assert!(read_anchors(&bytes[..cut]).is_err());
            }
        }
        assert!(read_anchors(&[VERSION, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }
}
