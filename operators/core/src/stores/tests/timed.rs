//! Stores of rows, queues and numbers.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{Field, Int64Type};

use super::super::*;
use super::rows::encode;
use crate::batch::Millis;
use crate::state::{MemoryState, State};

fn numbers() -> RowCodec {
    RowCodec::new(vec![Field::new("n", DataType::Int64, true)])
}

fn key(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    keys::encode(&[Arc::new(StringArray::from(vec![text])) as ArrayRef], 0, &mut out);
    out
}

fn number(n: i64) -> Vec<u8> {
    encode(&numbers(), &[Arc::new(Int64Array::from(vec![n])) as ArrayRef], 0)
}

fn read_number(row: &[u8]) -> i64 {
    let mut reader = numbers().reader().unwrap();
    reader.push(row).unwrap();
    reader.take().unwrap()[0].as_primitive::<Int64Type>().value(0)
}

fn found(store: &TimedRows, of: &str, range: (Millis, Millis), state: &MemoryState) -> Vec<(Millis, i64, u8)> {
    let mut found = Vec::new();
    store
        .rows(&key(of), range, state, &mut |row| {
            found.push((row.time, read_number(row.row), row.flags));
            true
        })
        .unwrap();
    found
}

#[test]
fn rows_are_read_by_key_and_range_of_time() {
    let mut store = TimedRows::new(1, vec![DataType::Utf8], numbers(), 1_000);
    let mut state = MemoryState::default();
    for (of, time, n) in [("a", 5_000, 1), ("a", -1, 2), ("a", 0, 3), ("ab", 0, 4), ("", 0, 5), ("a", 1_024, 6), ("a", 1_023, 7)] {
        store.put(&TimedRow { key: &key(of), time, sequence: &[n as u8], flags: 0, row: &number(n) }, &mut state).unwrap();
    }
    assert_eq!(found(&store, "a", (-1, 1_023), &state), [(-1, 2, 0), (0, 3, 0), (1_023, 7, 0)]);
    assert_eq!(found(&store, "a", (1, 1_022), &state), []);
    assert_eq!(found(&store, "a", (1, 0), &state), []);
    assert_eq!(found(&store, "ab", (-5_000, 5_000), &state), [(0, 4, 0)]);
    assert_eq!(found(&store, "", (0, 0), &state), [(0, 5, 0)]);
    // Flags are set by writing the row once more.
    store.put(&TimedRow { key: &key("a"), time: 0, sequence: &[3], flags: 9, row: &number(3) }, &mut state).unwrap();
    assert_eq!(found(&store, "a", (0, 0), &state), [(0, 3, 9)]);
    store.delete(&key("a"), 0, &[3], &mut state).unwrap();
    assert_eq!(found(&store, "a", (0, 0), &state), []);
}

#[test]
fn a_row_is_read_by_its_place() {
    let (store, mut state) = (TimedRows::new(3, vec![DataType::Utf8], numbers(), 100), MemoryState::default());
    let (a, rows) = (key("a"), [(5, b"x", 7, number(1)), (5, b"y", 0, number(2))]);
    for (time, sequence, flags, row) in &rows {
        store.clone().put(&TimedRow { key: &a, time: *time, sequence: *sequence, flags: *flags, row }, &mut state).unwrap();
    }
    let mut found = Vec::new();
    for (time, sequence, flags, row) in &rows {
        assert_eq!(store.get(&a, *time, *sequence, &state, &mut found).unwrap(), Some(*flags));
        assert_eq!(&found, row);
    }
    assert_eq!(store.get(&a, 6, b"x", &state, &mut found).unwrap(), None);
    assert_eq!(store.get(&key("b"), 5, b"x", &state, &mut found).unwrap(), None);
}

#[test]
fn reading_ends_when_the_reader_has_enough() {
    let mut store = TimedRows::new(1, vec![DataType::Utf8], numbers(), 1);
    let mut state = MemoryState::default();
    for n in 0..4 {
        store.put(&TimedRow { key: &key("a"), time: n, sequence: &[], flags: 0, row: &number(n) }, &mut state).unwrap();
    }
    let mut seen = Vec::new();
    store
        .rows(&key("a"), (0, 3), &state, &mut |row| {
            seen.push(row.time);
            row.time < 1
        })
        .unwrap();
    assert_eq!(seen, [0, 1]);
}

#[test]
fn what_is_over_is_removed_in_portions() {
    let mut store = TimedRows::new(1, vec![DataType::Utf8], numbers(), 1_000);
    let mut state = MemoryState::default();
    state.put(&[0], b"of another store").unwrap();
    state.put(&[2], b"of another store").unwrap();
    for n in 0..10 {
        store.put(&TimedRow { key: &key("a"), time: n * 300, sequence: &[], flags: 0, row: &number(n) }, &mut state).unwrap();
    }
    let (mut removed, mut portions) = (Vec::new(), 0);
    let visit = &mut |row: TimedRow<'_>| removed.push(row.time);
    while store.expire(2_047, 2, &mut state, visit).unwrap() {
        portions += 1;
    }
    // Spans of 1,024 ms: the second one is not over at 2,047.
    assert_eq!((removed, portions), (vec![0, 300, 600, 900], 1));
    assert_eq!(found(&store, "a", (0, 3_000), &state).len(), 6);
    assert!(!store.expire(2_048, 100, &mut state, &mut |_| ()).unwrap());
    assert_eq!(found(&store, "a", (0, 3_000), &state).len(), 3);
    assert_eq!(state.entries.len(), 5);
    // What is added to a span that is over goes with the next one.
    store.put(&TimedRow { key: &key("a"), time: 5, sequence: &[], flags: 0, row: &number(1) }, &mut state).unwrap();
    assert!(!store.expire(2_048, 100, &mut state, &mut |_| ()).unwrap());
    assert_eq!(state.entries.len(), 5);
}

#[test]
fn a_queue_gives_its_rows_in_order_and_once() {
    let mut queue = TimeQueue::new(7, vec![DataType::Utf8], numbers());
    let mut state = MemoryState::default();
    for (time, of, n) in [(5, "b", 1), (5, "a", 2), (-3, "z", 3), (9, "a", 4)] {
        queue.put(&Due { time, key: &key(of), sequence: &[1], flags: 2, row: &number(n) }, &mut state).unwrap();
    }
    queue.put(&Due { time: 6, key: &key("a"), sequence: &[1], flags: 2, row: &number(5) }, &mut state).unwrap();
    queue.delete(6, &key("a"), &[1], &mut state).unwrap();
    assert_eq!(queue.first_time(&state).unwrap(), Some(-3));
    let mut take = |before: Millis, state: &mut MemoryState| {
        let portion = queue.take_before(before, 2, state).unwrap();
        let taken = portion.iter().map(|due| {
            let due = due.unwrap();
            assert_eq!((due.sequence, due.flags), (&[1][..], 2));
            (due.time, read_number(due.row))
        });
        (taken.collect::<Vec<_>>(), portion.more)
    };
    assert_eq!(take(9, &mut state), (vec![(-3, 3), (5, 2)], true));
    assert_eq!(take(9, &mut state), (vec![(5, 1)], false));
    assert_eq!(take(9, &mut state), (vec![], false));
    // What comes although its time is over is not forgotten.
    queue.put(&Due { time: 8, key: &key("a"), sequence: &[1], flags: 2, row: &number(6) }, &mut state).unwrap();
    assert_eq!(queue.first_time(&state).unwrap(), Some(8));
    let portion = queue.take_before(Millis::MAX, 1, &mut state).unwrap();
    assert_eq!((portion.iter().count(), portion.more), (1, true));
    assert_eq!(queue.first_time(&state).unwrap(), Some(9));
    assert!(!queue.take_before(Millis::MAX, 1, &mut state).unwrap().more);
    assert_eq!(queue.first_time(&state).unwrap(), None);
}

#[test]
fn a_number_is_kept() {
    let mut state = MemoryState::default();
    let mut number = Number::new(3);
    assert_eq!(number.get(&state).unwrap(), None);
    number.set(-70, &mut state).unwrap();
    assert_eq!((number.get(&state).unwrap(), Number::new(3).get(&state).unwrap()), (Some(-70), Some(-70)));
    state.put(&[3], &[9]).unwrap();
    assert_eq!(number.get(&state).unwrap(), Some(-70));
    number.forget();
    assert!(number.get(&state).is_err());
}

#[test]
fn entries_that_can_not_be_read_are_errors() {
    let mut store = TimedRows::new(1, vec![DataType::Utf8], numbers(), 1_000);
    let mut queue = TimeQueue::new(1, vec![DataType::Utf8], numbers());
    let mut good = MemoryState::default();
    store.put(&TimedRow { key: &key("a"), time: 0, sequence: &[], flags: 0, row: &number(1) }, &mut good).unwrap();
    let entry = good.entries.pop_first().unwrap();
    let damaged: [(Vec<u8>, Vec<u8>); 3] =
        [(entry.0.clone(), vec![9, 0]), (entry.0.clone(), vec![]), (entry.0[..entry.0.len() - 1].to_vec(), entry.1.clone())];
    for (key, value) in damaged {
        let mut state = MemoryState::default();
        state.put(&key, &value).unwrap();
        assert!(store.expire(Millis::MAX, 10, &mut state, &mut |_| ()).is_err(), "{key:?} {value:?}");
        assert_eq!(state.entries.len(), 1, "nothing is removed");
        let unreadable = value != entry.1;
        assert!(queue.take_before(Millis::MAX, 10, &mut state).unwrap().iter().all(|due| due.is_err() == unreadable));
    }
    let mut state = MemoryState::default();
    state.put(&[1, 0], &[]).unwrap();
    queue.forget();
    assert!(queue.first_time(&state).is_err());
}

#[test]
fn sequences_order_by_place_and_number() {
    let sequence = |topic: &str, partition: i32, offset: i64, number: u64| {
        let mut out = Vec::new();
        put_sequence(&Origin { topic: topic.into(), partition, from: -1, to: -1 }, offset, number, &mut out);
        out
    };
    let places = [("a", 0, -1, 7), ("a", 0, -1, 8), ("a", 0, 5, 1), ("a", 1, 2, 0), ("b", 0, 0, 0), ("aa", 0, 0, 0)];
    let sequences: Vec<Vec<u8>> = places.into_iter().map(|(t, p, o, n)| sequence(t, p, o, n)).collect();
    assert!(sequences.is_sorted());
}

#[test]
fn a_layout_says_what_decides_how_entries_are_read() {
    let layout = TimedRows::new(1, vec![DataType::Utf8], numbers(), 900_000).layout();
    let expected =
        [("left kind", "rows by key and time, entries 1, in spans of 1048576 ms"), ("left key", "[string]"), ("left row", "[n long]")];
    assert_eq!(layout.facts("left"), expected.map(|(name, value)| (name.to_string(), value.to_string())));
}

#[test]
fn rows_and_keys_are_bounded() {
    assert_eq!(too_large(&[0; MAX_KEY], &[0; MAX_ROW]), None);
    assert!(too_large(&[0; MAX_KEY + 1], &[]).is_some_and(|cause| cause.contains("65537 bytes")));
    assert!(too_large(&[], &[0; MAX_ROW + 1]).is_some_and(|cause| cause.contains("the limit is 786432")));
}
