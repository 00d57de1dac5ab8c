//! The sessions that one batch touches: read from state once each, extended and merged in memory row by row, written back once.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use operator_core::{Millis, State, StateError};

use super::layout::{Span, put_anchors, put_end_key, put_group_key, put_session, put_session_key, read_anchors, read_session};
use crate::accumulator::{Accumulator, Row};
use crate::distinct::Distinct;
use crate::expiry::entries_of;
use crate::groups::{MAX_IN_MEMORY, accumulate};
use crate::plan::WindowPlan;
use crate::values::Column;

/// Most sessions of one group at a time: their list is one entry of state.
const MAX_SESSIONS: usize = 1 << 16;

/// A group whose sessions are in memory, at least by their anchors.
#[derive(Debug)]
struct Group {
    hash: u64,
    /// Its columns, encoded, in `Sessions::groups_of`.
    from: usize,
    to: usize,
    /// In order of time, and the slot of each that was read.
    sessions: Vec<(Millis, Option<usize>)>,
    changed: bool,
}

#[derive(Debug)]
struct Slot {
    group: usize,
    anchor: Millis,
    span: Span,
    /// It was in state before this batch.
    stored: bool,
    /// DISTINCT values of it may be in state that were not met in this batch.
    valued: bool,
    changed: bool,
    /// It is part of another one now.
    merged: bool,
}

/// Sessions in memory.
#[derive(Debug, Default)]
pub struct Sessions {
    hasher: FixedState,
    places: HashTable<usize>,
    groups: Vec<Group>,
    columns: Vec<u8>,
    slots: Vec<Slot>,
    /// Accumulators of the slots, one after the other.
    accumulators: Vec<Accumulator>,
    distinct: Distinct,
    /// Key and value of an entry.
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Sessions {
    /// The session of `group` that a row at `time` belongs to: begun, extended or merged from two, so that it has the row's time.
    /// `None` if the group has too many sessions to begin another one.
    pub fn at(
        &mut self,
        plan: &WindowPlan,
        group: &[u8],
        time: Millis,
        gap: Millis,
        state: &mut dyn State,
    ) -> Result<Option<usize>, StateError> {
        let group = self.group(group, state)?;
        let sessions = self.groups.get(group).map(|g| g.sessions.as_slice()).unwrap_or_default();
        // Sessions are apart by `gap`, so that only the two whose anchors are next to the row can have a part in it.
        let next = sessions.partition_point(|(anchor, _)| *anchor <= time);
        let (before, count) = (next.checked_sub(1), sessions.len());
        let left = match before {
            Some(before) => self.read(plan, group, before, state)?.filter(|slot| self.span(*slot).last.saturating_add(gap) > time),
            None => None,
        };
        let right = self.read(plan, group, next, state)?.filter(|slot| self.span(*slot).first.saturating_sub(gap) < time);
        let slot = match (left, right) {
            (Some(left), Some(right)) => {
                self.merge(plan, left, right, state)?;
                if let Some(group) = self.groups.get_mut(group) {
                    group.sessions.remove(next);
                    group.changed = true;
                }
                left
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) if count >= MAX_SESSIONS => return Ok(None),
            (None, None) => self.begin(plan, group, next, time),
        };
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.span.first = slot.span.first.min(time);
            slot.span.last = slot.span.last.max(time);
            slot.changed = true;
        }
        Ok(Some(slot))
    }

    /// The place of a group; its anchors are read from state when it is met first.
    fn group(&mut self, group: &[u8], state: &dyn State) -> Result<usize, StateError> {
        let hash = self.hasher.hash_one(group);
        let Sessions { places, groups, columns, .. } = self;
        let same = |place: &usize| groups.get(*place).is_some_and(|g| g.hash == hash && columns.get(g.from..g.to) == Some(group));
        if let Some(place) = places.find(hash, same) {
            return Ok(*place);
        }
        self.key.clear();
        put_group_key(group, &mut self.key);
        let anchors = if state.get(&self.key, &mut self.value)? { read_anchors(&self.value)? } else { Vec::new() };
        let from = columns.len();
        columns.extend_from_slice(group);
        let place = groups.len();
        let sessions = anchors.into_iter().map(|anchor| (anchor, None)).collect();
        groups.push(Group { hash, from, to: columns.len(), sessions, changed: false });
        places.insert_unique(hash, place, |place| groups.get(*place).map_or(0, |g| g.hash));
        Ok(place)
    }

    /// The slot of the session at `place` in its group, if there is one.
    fn read(&mut self, plan: &WindowPlan, group: usize, place: usize, state: &dyn State) -> Result<Option<usize>, StateError> {
        let Some(of) = self.groups.get_mut(group) else { return Ok(None) };
        let (from, to) = (of.from, of.to);
        let Some((anchor, known)) = of.sessions.get_mut(place) else { return Ok(None) };
        if known.is_none() {
            self.key.clear();
            put_session_key(self.columns.get(from..to).unwrap_or_default(), *anchor, &mut self.key);
            if !state.get(&self.key, &mut self.value)? {
                return Err(StateError::new("a session that its group lists is not in state"));
            }
            let span = read_session(plan, &self.value, &mut self.accumulators)?;
            *known = Some(self.slots.len());
            self.slots.push(Slot { group, anchor: *anchor, span, stored: true, valued: true, changed: false, merged: false });
        }
        Ok(*known)
    }

    fn begin(&mut self, plan: &WindowPlan, group: usize, place: usize, time: Millis) -> usize {
        let slot = self.slots.len();
        let span = Span { first: time, last: time, held: 0 };
        self.slots.push(Slot { group, anchor: time, span, stored: false, valued: false, changed: true, merged: false });
        self.accumulators.extend(plan.aggregates.iter().map(|a| a.function.empty()));
        if let Some(group) = self.groups.get_mut(group) {
            group.sessions.insert(place, (time, Some(slot)));
            group.changed = true;
        }
        slot
    }

    /// Makes `right` a part of `left`.
    fn merge(&mut self, plan: &WindowPlan, left: usize, right: usize, state: &mut dyn State) -> Result<(), StateError> {
        let width = plan.aggregates.len();
        for (place, aggregate) in plan.aggregates.iter().enumerate() {
            let taken = self.accumulators.get_mut(right * width + place).map(|a| std::mem::replace(a, aggregate.function.empty()));
            if let (Some(taken), Some(into)) = (taken, self.accumulators.get_mut(left * width + place)) {
                aggregate.function.merge(into, taken);
            }
        }
        if !plan.distinct.is_empty() {
            self.move_values(plan, left, right, state)?;
        }
        let Some(span) = self.slots.get_mut(right).map(|slot| {
            slot.merged = true;
            slot.span
        }) else {
            return Ok(());
        };
        if let Some(slot) = self.slots.get_mut(left) {
            slot.span.first = slot.span.first.min(span.first);
            slot.span.last = slot.span.last.max(span.last);
            slot.span.held += span.held;
        }
        Ok(())
    }

    /// Moves the values that a DISTINCT has seen in `right`, and counts those that are new to `left`.
    fn move_values(&mut self, plan: &WindowPlan, left: usize, right: usize, state: &mut dyn State) -> Result<(), StateError> {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        self.put_key(right, &mut from);
        self.put_key(left, &mut to);
        for key in entries_of(&from, state)? {
            let value = key.get(from.len()..).unwrap_or_default();
            let Some((aggregate, value)) = value.split_first_chunk::<2>() else { continue };
            let aggregate = usize::from(u16::from_be_bytes(*aggregate));
            if self.distinct.is_new(&to, aggregate, value, true, state)?
                && let Some(accumulator) = self.accumulators.get_mut(left * plan.aggregates.len() + aggregate)
            {
                accumulator.count_distinct(1);
            }
            state.delete(&key)?;
        }
        if let Some(slot) = self.slots.get_mut(left) {
            slot.valued = true;
        }
        Ok(())
    }

    fn span(&self, slot: usize) -> Span {
        self.slots.get(slot).map(|slot| slot.span).unwrap_or_default()
    }

    /// Appends the key of the session in `slot`.
    fn put_key(&self, slot: usize, out: &mut Vec<u8>) {
        if let Some(slot) = self.slots.get(slot)
            && let Some(group) = self.groups.get(slot.group)
        {
            put_session_key(self.columns.get(group.from..group.to).unwrap_or_default(), slot.anchor, out);
        }
    }

    /// Adds `row`, which no aggregate refuses, and counts it as held.
    #[inline]
    pub fn add(&mut self, plan: &WindowPlan, slot: usize, columns: &[Column<'_>], row: Row<'_>) {
        let width = plan.aggregates.len();
        accumulate(plan, self.accumulators.get_mut(slot * width..(slot + 1) * width).unwrap_or_default(), columns, row);
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.span.held += 1;
        }
    }

    /// Notes that `slot` has met `value` (encoded) in the `count(DISTINCT)` at place `aggregate`.
    pub fn add_distinct(
        &mut self,
        plan: &WindowPlan,
        slot: usize,
        aggregate: usize,
        value: &[u8],
        state: &mut dyn State,
    ) -> Result<(), StateError> {
        let mut key = std::mem::take(&mut self.key);
        key.clear();
        self.put_key(slot, &mut key);
        let valued = self.slots.get(slot).is_some_and(|slot| slot.valued);
        let new = self.distinct.is_new(&key, aggregate, value, valued, state)?;
        self.key = key;
        if new && let Some(accumulator) = self.accumulators.get_mut(slot * plan.aggregates.len() + aggregate) {
            accumulator.count_distinct(1);
        }
        Ok(())
    }

    /// True if there is more in memory than there should be.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= MAX_IN_MEMORY || self.groups.len() >= MAX_IN_MEMORY || self.distinct.len() >= MAX_IN_MEMORY
    }

    /// Writes what has changed to state, in the order it was met, and forgets everything.
    pub fn write_back(&mut self, plan: &WindowPlan, gap: Millis, state: &mut dyn State) -> Result<(), StateError> {
        let width = plan.aggregates.len().max(1);
        for (slot, accumulators) in self.slots.iter().zip(self.accumulators.chunks(width)) {
            let Some(group) = self.groups.get(slot.group) else { continue };
            let columns = self.columns.get(group.from..group.to).unwrap_or_default();
            self.key.clear();
            put_session_key(columns, slot.anchor, &mut self.key);
            if slot.merged {
                // What says when to look after it finds nothing then.
                if slot.stored {
                    state.delete(&self.key)?;
                }
                continue;
            }
            if slot.changed {
                self.value.clear();
                put_session(slot.span, accumulators, &mut self.value);
                state.put(&self.key, &self.value)?;
            }
            if !slot.stored {
                self.key.clear();
                put_end_key(slot.span.last.saturating_add(gap), columns, slot.anchor, &mut self.key);
                state.put(&self.key, &[crate::layout::VERSION])?;
            }
        }
        for group in self.groups.iter().filter(|group| group.changed) {
            self.key.clear();
            put_group_key(self.columns.get(group.from..group.to).unwrap_or_default(), &mut self.key);
            self.value.clear();
            put_anchors(group.sessions.iter().map(|(anchor, _)| *anchor), &mut self.value);
            state.put(&self.key, &self.value)?;
        }
        self.clear();
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.places.clear();
        self.groups.clear();
        self.columns.clear();
        self.slots.clear();
        self.accumulators.clear();
        self.distinct.clear();
    }
}
