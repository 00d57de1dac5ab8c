//! The groups that one batch touches: read from state once each, changed in memory row by row, written back once.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use operator_core::stores::bytes::{Reader, put_i128, put_u64};
use operator_core::{Millis, State, StateError};

use crate::accumulator::{Accumulator, Function, Row};
use crate::distinct::Distinct;
use crate::expiry::{forget, is_over};
use crate::layout::{VERSION, VERSION_TIMED, put_key};
use crate::panes::put_prefix;
use crate::plan::WindowPlan;
use crate::values::Column;

/// More groups or distinct values than this are written back in the middle of a batch: a bound on memory.
pub const MAX_IN_MEMORY: usize = 1 << 16;

/// A group of one window while a batch is worked on.
#[derive(Debug)]
struct Slot {
    hash: u64,
    /// Its key in `Groups::keys`.
    from: usize,
    to: usize,
    /// Rows counted as held here (rule R3).
    held: u64,
    /// Event time of the newest row, where groups expire.
    last: Option<Millis>,
    /// It was in state before this batch, so DISTINCT values of it may be, too.
    stored: bool,
    changed: bool,
}

/// Groups in memory. All buffers are kept from batch to batch, so a batch allocates only for what has no fixed size.
#[derive(Debug, Default)]
pub struct Groups {
    hasher: FixedState,
    places: HashTable<usize>,
    slots: Vec<Slot>,
    /// Keys of the slots, one after the other.
    keys: Vec<u8>,
    /// Accumulators of the slots, one after the other.
    accumulators: Vec<Accumulator>,
    distinct: Distinct,
    buffer: Vec<u8>,
}

impl Groups {
    /// The slot of `group` in the window that ends at `end`, or in its pane; read from state when it is met first.
    pub fn find(
        &mut self,
        plan: &WindowPlan,
        (end, pane): (Millis, Option<Millis>),
        group: &[u8],
        state: &dyn State,
    ) -> Result<usize, StateError> {
        let from = self.keys.len();
        if let Some(pane) = pane {
            put_prefix(pane, &mut self.keys);
        }
        put_key(end, group, &mut self.keys);
        let to = self.keys.len();
        let Groups { hasher, places, slots, keys, .. } = self;
        let key = keys.get(from..).unwrap_or_default();
        let hash = hasher.hash_one(key);
        let same = |place: &usize| slots.get(*place).is_some_and(|s| s.hash == hash && keys.get(s.from..s.to) == Some(key));
        if let Some(place) = places.find(hash, same).copied() {
            self.keys.truncate(from);
            return Ok(place);
        }
        let stored = state.get(key, &mut self.buffer)?;
        let Read { held, last } = if stored {
            read_group(plan, &self.buffer, &mut self.accumulators)?
        } else {
            self.accumulators.extend(plan.aggregates.iter().map(|a| a.function.empty()));
            Read::default()
        };
        let place = self.slots.len();
        self.slots.push(Slot { hash, from, to, held, last, stored, changed: false });
        let slots = &self.slots;
        self.places.insert_unique(hash, place, |place| slots.get(*place).map_or(0, |s| s.hash));
        Ok(place)
    }

    /// Resets a group whose newest row is too old by now; returns its slot.
    pub fn renew(
        &mut self,
        plan: &WindowPlan,
        slot: usize,
        (end, group): (Millis, &[u8]),
        now: Millis,
        state: &mut dyn State,
    ) -> Result<usize, StateError> {
        let Some(Slot { from, to, last, .. }) = self.slots.get(slot) else { return Ok(slot) };
        if !plan.expire.is_some_and(|expire| is_over(*last, expire, now)) {
            return Ok(slot);
        }
        let key = self.keys.get(*from..*to).unwrap_or_default().to_vec();
        // Nothing of it may stay in memory either.
        self.write_back(plan, state)?;
        forget(plan, &key, state)?;
        self.find(plan, (end, None), group, state)
    }

    /// The accumulators of `slot`, in the order of the plan's aggregates.
    pub fn accumulators(&self, plan: &WindowPlan, slot: usize) -> &[Accumulator] {
        let width = plan.aggregates.len();
        self.accumulators.get(slot * width..(slot + 1) * width).unwrap_or_default()
    }

    /// Adds `row`, which no aggregate refuses, and counts it as held if this is where it is accounted for. `age`: the event
    /// time that makes the group as new, if one is known.
    #[inline]
    pub fn add(&mut self, plan: &WindowPlan, slot: usize, columns: &[Column<'_>], row: Row<'_>, holds: bool, age: Option<Millis>) {
        let width = plan.aggregates.len();
        accumulate(plan, self.accumulators.get_mut(slot * width..(slot + 1) * width).unwrap_or_default(), columns, row);
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.changed = true;
            slot.held += u64::from(holds);
            if plan.expire.is_some() {
                slot.last = slot.last.max(age);
            }
        }
    }

    /// Notes that a row of `slot` has `value` (encoded) in the `count(DISTINCT)` at place `aggregate`, or has it no longer.
    pub fn add_distinct(
        &mut self,
        plan: &WindowPlan,
        slot: usize,
        (aggregate, value): (usize, &[u8]),
        change: i8,
        state: &mut dyn State,
    ) -> Result<(), StateError> {
        let Some(Slot { from, to, stored, .. }) = self.slots.get(slot) else { return Ok(()) };
        let key = self.keys.get(*from..*to).unwrap_or_default();
        let more = match plan.rows {
            Some(_) => self.distinct.change(key, (aggregate, value), change, state)?,
            None => self.distinct.is_new(key, aggregate, value, *stored, state)?.into(),
        };
        if let Some(accumulator) = self.accumulators.get_mut(slot * plan.aggregates.len() + aggregate) {
            accumulator.count_distinct(more);
        }
        Ok(())
    }

    /// True if there is more in memory than there should be.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= MAX_IN_MEMORY || self.distinct.len() >= MAX_IN_MEMORY
    }

    /// Writes changed groups to state, in the order they were met, and forgets everything.
    pub fn write_back(&mut self, plan: &WindowPlan, state: &mut dyn State) -> Result<(), StateError> {
        let width = plan.aggregates.len().max(1);
        for (slot, accumulators) in self.slots.iter().zip(self.accumulators.chunks(width)).filter(|(s, _)| s.changed) {
            let key = self.keys.get(slot.from..slot.to).unwrap_or_default();
            if plan.rows.is_some() && slot.held == 0 && accumulators.iter().all(Accumulator::is_empty) {
                // All rows that came are gone.
                if slot.stored {
                    state.delete(key)?;
                }
                continue;
            }
            self.buffer.clear();
            put_group(slot.held, slot.last.filter(|_| plan.expire.is_some()), accumulators, &mut self.buffer);
            state.put(key, &self.buffer)?;
        }
        self.clear();
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.places.clear();
        self.slots.clear();
        self.keys.clear();
        self.accumulators.clear();
        self.distinct.clear();
    }
}

/// Adds `row`, which no aggregate refuses, to the accumulators of a group. Values of a DISTINCT are counted apart.
#[inline(always)]
pub fn accumulate(plan: &WindowPlan, accumulators: &mut [Accumulator], columns: &[Column<'_>], row: Row<'_>) {
    for (aggregate, accumulator) in plan.aggregates.iter().zip(accumulators) {
        match aggregate.inputs.as_slice() {
            _ if aggregate.function == Function::CountDistinct => {}
            [] => aggregate.function.add(accumulator, None, row),
            [value, order] => {
                if let (Some(value), Some(order)) = (columns.get(*value), columns.get(*order)) {
                    aggregate.function.add_ordered(accumulator, value, order, row);
                }
            }
            [input, ..] => aggregate.function.add(accumulator, columns.get(*input), row),
        }
    }
}

/// Appends a group's entry: rows held, the time of its newest row where groups expire, accumulators.
pub fn put_group(held: u64, last: Option<Millis>, accumulators: &[Accumulator], out: &mut Vec<u8>) {
    match last {
        None => out.push(VERSION),
        Some(last) => {
            out.push(VERSION_TIMED);
            put_i128(last.into(), out);
        }
    }
    put_u64(held, out);
    accumulators.iter().for_each(|a| a.encode(out));
}

/// A group's entry without a time, with one.
pub fn with_time(value: &[u8], last: Millis) -> Vec<u8> {
    let mut timed = vec![VERSION_TIMED];
    put_i128(last.into(), &mut timed);
    timed.extend_from_slice(value.get(1..).unwrap_or_default());
    timed
}

/// What a group's entry says besides its accumulators.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    /// Rows it holds.
    pub held: u64,
    /// Event time of its newest row, if that was kept.
    pub last: Option<Millis>,
}

/// Reads a group's entry, and appends its accumulators.
pub fn read_group(plan: &WindowPlan, bytes: &[u8], accumulators: &mut Vec<Accumulator>) -> Result<Read, StateError> {
    let unreadable = || StateError::new("a window's state can't be decoded; was it written with another `compute`?");
    let mut reader = Reader::new(bytes);
    let read = read_head(&mut reader).ok_or_else(unreadable)?;
    read_accumulators(plan, reader, accumulators)?;
    Ok(read)
}

/// What stands before a group's accumulators; `None` for the value of a DISTINCT, too.
fn read_head(reader: &mut Reader<'_>) -> Option<Read> {
    let last = match reader.u8()? {
        VERSION => None,
        VERSION_TIMED => Some(reader.i64()?),
        _ => return None,
    };
    Some(Read { held: reader.u64()?, last })
}

/// The last end of a window with an entry in a range that holds rows; [`Millis::MIN`] without one. `end`: that in a key.
pub fn last_held(
    state: &dyn State,
    (from, to): (Vec<u8>, Vec<u8>),
    end: impl Fn(&[u8]) -> Result<Millis, StateError>,
) -> Result<Millis, StateError> {
    let (mut last, mut failure) = (Millis::MIN, None);
    state.scan(&from, &to, &mut |key, value| {
        if read_head(&mut Reader::new(value)).is_some_and(|read| read.held > 0) {
            match end(key) {
                Ok(end) => last = last.max(end),
                Err(error) => failure = Some(error),
            }
        }
        failure.is_none()
    })?;
    failure.map_or(Ok(last), Err)
}

/// Appends the accumulators that are left to read: nothing may follow them.
pub fn read_accumulators(plan: &WindowPlan, mut reader: Reader<'_>, accumulators: &mut Vec<Accumulator>) -> Result<(), StateError> {
    let unreadable = || StateError::new("a window's state can't be decoded; was it written with another `compute`?");
    for aggregate in &plan.aggregates {
        accumulators.push(aggregate.function.decode(&mut reader).ok_or_else(unreadable)?);
    }
    if reader.is_empty() { Ok(()) } else { Err(unreadable()) }
}
