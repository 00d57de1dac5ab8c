//! What commands led to: so that one that comes again is answered, and changes nothing.
//!
//! An entry is kept under the command's id, beside its event time: a command is a repeat if one with its id was less than `remember`
//! away, and not more than that behind the watermark of the row's partition. Of a command that is further behind itself nobody knows
//! ([`Outcomes::forgotten`]). Times are divided into spans of the largest power of two
//! that `remember` holds, and an entry lies at the beginning of its span: so a few look-ups find it, and no second entry is needed to
//! remove it when its time is over.

use std::collections::BTreeSet;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Fields};
use operator_core::batch::SystemRow;
use operator_core::stores::bytes::{Reader, put_bytes, put_i128};
use operator_core::stores::{RowCodec, StoreLayout, TimedRow, TimedRows};
use operator_core::{Millis, State, StateError};
use operator_event::{EventType, Events};
use sha2::{Digest, Sha256};

/// The store's first bytes of keys.
const TAG: u8 = 2;
/// Both columns of an entry are there.
const PRESENT: u8 = 0b11;

/// The outcomes of a step's commands: how they are written, and where.
#[derive(Clone, Debug)]
pub struct Outcomes {
    remember: Millis,
    /// A span is `1 << shift` milliseconds.
    shift: u32,
    store: TimedRows,
    /// The span before which everything was removed: nothing has to be sought again until the next one is over.
    removed: Option<i64>,
    /// Spans that may have entries; `None`: it is not known yet. Most commands are looked for in spans that have none.
    spans: Option<BTreeSet<i64>>,
    /// By kind: what says that its columns are still what they were, and how their values are written.
    kinds: Vec<([u8; 8], RowCodec)>,
}

/// An event that a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its kind, if that has still the columns that it had.
    pub kind: Option<usize>,
    pub sequence: i64,
    /// The columns of its data, encoded.
    pub row: Vec<u8>,
}

/// What a command led to, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub time: Millis,
    pub events: Vec<Remembered>,
}

impl Outcomes {
    /// `key`: the columns of the aggregate's key. `replies`: all kinds of events that a command can lead to.
    pub fn new(key: &Fields, remember: Millis, replies: &Events) -> Outcomes {
        let shift = 63 - remember.max(1).leading_zeros();
        let types = key.iter().map(|field| field.data_type().clone()).chain([DataType::Utf8]).collect();
        let columns = vec![Field::new("time", DataType::Int64, false), Field::new("events", DataType::Binary, false)];
        let store = TimedRows::new(TAG, types, RowCodec::new(columns), 1 << shift);
        let kinds = replies.types().iter().map(|kind| (fingerprint(kind), RowCodec::new(kind.columns.clone())));
        Outcomes { remember, shift, store, removed: None, spans: None, kinds: kinds.collect() }
    }

    pub fn layout(&self) -> StoreLayout {
        self.store.layout()
    }

    /// How the columns of events of this kind are written.
    pub fn codec(&self, kind: usize) -> Option<&RowCodec> {
        self.kinds.get(kind).map(|(_, codec)| codec)
    }

    /// What a command of this time led to is not known any more, by the watermark of its row.
    pub fn forgotten(&self, system: SystemRow) -> bool {
        system.time < system.watermark.saturating_sub(self.remember)
    }

    /// What a command of this id led to, which is the last column of `key`.
    ///
    /// # Errors
    /// State can't be read.
    pub fn find(&mut self, key: &[u8], time: Millis, watermark: Millis, state: &dyn State) -> Result<Option<Outcome>, StateError> {
        if self.spans.is_none() {
            self.spans = Some(self.spans_in(state)?);
        }
        let (first, last) = (time.saturating_sub(self.remember) >> self.shift, time.saturating_add(self.remember) >> self.shift);
        let mut row = Vec::new();
        for span in self.spans.iter().flat_map(|spans| spans.range(first..=last)) {
            if self.store.get(key, span << self.shift, &[], state, &mut row)?.is_none() {
                continue;
            }
            let outcome = self.read(&row).ok_or_else(|| StateError::new("what a command led to can't be decoded"))?;
            let near = outcome.time.abs_diff(time) < self.remember.unsigned_abs();
            if near && outcome.time >= watermark.saturating_sub(self.remember) {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// The spans that have entries.
    fn spans_in(&self, state: &dyn State) -> Result<BTreeSet<i64>, StateError> {
        let (mut spans, mut from) = (BTreeSet::new(), Millis::MIN);
        while let Some(time) = self.store.next_span(from, state)? {
            let span = time >> self.shift;
            spans.insert(span);
            let Some(next) = (span + 1).checked_mul(1 << self.shift) else { break };
            from = next;
        }
        Ok(spans)
    }

    fn read(&self, row: &[u8]) -> Option<Outcome> {
        let mut reader = Reader::new(row);
        reader.u8().filter(|present| *present == PRESENT)?;
        let time = reader.i64()?;
        let mut events = Vec::new();
        let mut reader = Reader::new(reader.bytes()?);
        while !reader.is_empty() {
            let print: [u8; 8] = reader.array()?;
            let kind = self.kinds.iter().position(|(known, _)| *known == print);
            events.push(Remembered { kind, sequence: reader.i64()?, row: reader.bytes()?.to_vec() });
        }
        Some(Outcome { time, events })
    }

    /// Remembers what the command led to: `events`, as [`Outcomes::put`] writes them.
    ///
    /// # Errors
    /// State can't be written.
    pub fn keep(&mut self, key: &[u8], time: Millis, events: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        let mut row = vec![PRESENT];
        put_i128(time.into(), &mut row);
        put_bytes(events, &mut row);
        let span = time >> self.shift;
        self.spans.as_mut().map(|spans| spans.insert(span));
        let time = span << self.shift;
        self.store.put(&TimedRow { key, time, sequence: &[], flags: 0, row: &row }, state)
    }

    /// Appends events of a kind to the outcomes of commands: for each row of `columns`, which are those of its data, its sequence and the
    /// place of the outcome.
    ///
    /// # Errors
    /// The columns are not those of the kind: a bug.
    pub fn put(
        &self,
        kind: usize,
        columns: &[ArrayRef],
        events: impl Iterator<Item = (i64, usize)>,
        outcomes: &mut [Vec<u8>],
    ) -> Result<(), StateError> {
        let Some((print, codec)) = self.kinds.get(kind) else {
            return Err(StateError::new("there is no such kind of events: this is a bug"));
        };
        let writer = codec.writer(columns)?;
        let mut bytes = Vec::new();
        for (row, (sequence, outcome)) in events.enumerate() {
            let Some(outcome) = outcomes.get_mut(outcome) else { continue };
            outcome.extend_from_slice(print);
            put_i128(sequence.into(), outcome);
            bytes.clear();
            writer.put(row, &mut bytes);
            put_bytes(&bytes, outcome);
        }
        Ok(())
    }

    /// Removes what no row can repeat any more, at most `most` entries; true if there are more.
    ///
    /// # Errors
    /// State can't be read or written.
    pub fn expire(&mut self, watermark: Millis, most: usize, state: &mut dyn State) -> Result<bool, StateError> {
        let before = watermark.saturating_sub(self.remember);
        let span = Some(before >> self.shift);
        if self.removed >= span {
            return Ok(false);
        }
        let more = self.store.expire(before, most, state, &mut |_| {})?;
        if !more {
            self.removed = span;
            self.spans = self.spans.take().map(|mut spans| spans.split_off(&(before >> self.shift)));
        }
        Ok(more)
    }

    /// State was replaced: see [`Operator::on_restore`](operator_core::Operator::on_restore).
    pub fn forget(&mut self) {
        self.store.forget();
        (self.removed, self.spans) = (None, None);
    }
}

/// Says which type it is, and which columns it has.
fn fingerprint(kind: &EventType) -> [u8; 8] {
    let mut hasher = Sha256::new();
    hasher.update(kind.name.as_bytes());
    for column in &kind.columns {
        hasher.update(format!("\0{} {}", column.name(), operator_core::type_name(column.data_type())).as_bytes());
    }
    let mut print = [0; 8];
    print.iter_mut().zip(hasher.finalize()).for_each(|(byte, of_hash)| *byte = of_hash);
    print
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use operator_core::{MemoryState, NO_WATERMARK};

    use super::*;

    #[test]
    fn commands_are_found_near_their_time_until_the_watermark_is_past_them() {
        let key: Fields = vec![Field::new("sku", DataType::Int64, false)].into();
        let columns: Fields = vec![Field::new("n", DataType::Int64, true)].into();
        let replies = Events::new("s", vec![EventType { name: "a".into(), columns }]).unwrap();
        let mut outcomes = Outcomes::new(&key, 100, &replies);
        let mut state = MemoryState::default();
        let mut events = vec![Vec::new()];
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(5)]));
        outcomes.put(0, &[values], [(7, 0)].into_iter(), &mut events).unwrap();
        let mut id = Vec::new();
        let columns: [ArrayRef; 2] = [Arc::new(Int64Array::from(vec![1])), Arc::new(arrow::array::StringArray::from(vec!["c"]))];
        operator_core::keys::encode(&columns, 0, &mut id);
        outcomes.keep(&id, 1_000, &events[0], &mut state).unwrap();
        let found = |outcomes: &mut Outcomes, time, watermark, state: &MemoryState| outcomes.find(&id, time, watermark, state).unwrap();
        let outcome = found(&mut outcomes, 1_000, NO_WATERMARK, &state).unwrap();
        assert_eq!((outcome.time, outcome.events.len()), (1_000, 1));
        assert_eq!((outcome.events[0].kind, outcome.events[0].sequence), (Some(0), 7));
        for (time, watermark, there) in
            [(901, 0, true), (900, 0, false), (1_099, 0, true), (1_100, 0, false), (1_000, 1_100, true), (1_000, 1_101, false)]
        {
            assert_eq!(found(&mut outcomes, time, watermark, &state).is_some(), there, "{time} {watermark}");
        }
        // Whole spans go, and only once no row can find anything in them.
        assert!(!outcomes.expire(1_100, usize::MAX, &mut state).unwrap());
        assert!(found(&mut outcomes, 1_000, 1_100, &state).is_some());
        outcomes.expire(1_300, usize::MAX, &mut state).unwrap();
        assert!(state.entries.is_empty());
    }
}
