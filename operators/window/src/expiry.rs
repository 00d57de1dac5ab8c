//! Groups of an unbounded window that expire: a group without a row for `expire` of event time starts over.
//!
//! Whether a group is over is decided at its next row, by the row's own time and watermark, so that it does not depend on
//! the clock, on how rows were batched or on when the sweep came by (rule R6): a replay forgets what live forgot. The
//! sweep only frees what is over for every row to come, since those have its watermark or a later one.

use operator_core::stores::bytes::after;
use operator_core::{Millis, Progress, State, StateError, Time};

use crate::groups::{read_group, with_time};
use crate::layout::{range_to, read_key};
use crate::plan::WindowPlan;

/// Entries that are read at a time while sweeping.
const MAX_ENTRIES: usize = 1 << 14;
/// Part of `expire` that passes between two sweeps, and the least time.
const SWEEPS: Millis = 8;
const LEAST: Millis = 1_000;

/// A group whose newest row is from `last` is over at `now`: the later of a row's event time and watermark.
pub fn is_over(last: Option<Millis>, expire: Millis, now: Millis) -> bool {
    last.is_some_and(|last| last.saturating_add(expire) <= now)
}

/// When to sweep again.
pub fn next_sweep(watermark: Millis, expire: Millis) -> Millis {
    watermark.saturating_add((expire / SWEEPS).max(LEAST))
}

/// Deletes a group, by its key in state, with its DISTINCT values.
pub fn forget(plan: &WindowPlan, group_key: &[u8], state: &mut dyn State) -> Result<(), StateError> {
    match plan.distinct.is_empty() {
        true => state.delete(group_key),
        false => entries_of(group_key, state)?.iter().try_for_each(|key| state.delete(key)),
    }
}

/// Keys of a group's entry and of its DISTINCT values.
pub fn entries_of(group_key: &[u8], state: &dyn State) -> Result<Vec<Vec<u8>>, StateError> {
    let mut keys = Vec::new();
    // No group's key is the beginning of another's: what begins with it belongs to it.
    state.scan(group_key, &after(group_key), &mut |key, _| {
        keys.push(key.to_vec());
        true
    })?;
    Ok(keys)
}

/// Deletes groups that are over, from `from` on (the first if empty), as many as the budget allows, and says in `from` where to go
/// on. Groups of unknown age, written before groups expired, are as old as this watermark from now on.
pub fn sweep(plan: &WindowPlan, expire: Millis, time: Time, from: &mut Vec<u8>, state: &mut dyn State) -> Result<Progress, StateError> {
    let (first, to) = range_to(Millis::MAX);
    let start = if from.is_empty() { first } else { std::mem::take(from) };
    let (mut columns, mut accumulators) = (vec![Vec::new(); plan.group_types.len()], Vec::new());
    let (mut over, mut dated): (Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>) = Default::default();
    // The group that was dropped last: its DISTINCT values follow and go with it, all of them in the same portion.
    let mut group_key: Vec<u8> = Vec::new();
    let mut look = |key: &[u8], value: &[u8]| -> Result<usize, StateError> {
        let before = over.len();
        if !group_key.is_empty() && key.starts_with(&group_key) {
            over.push(key.to_vec());
        } else if read_key(key, &plan.group_types, &mut columns)?.is_group {
            columns.iter_mut().for_each(Vec::clear);
            accumulators.clear();
            match read_group(plan, value, &mut accumulators)?.last {
                None => dated.push((key.to_vec(), with_time(value, time.watermark))),
                last if is_over(last, expire, time.watermark) => {
                    group_key = key.to_vec();
                    over.push(key.to_vec());
                }
                _ => {}
            }
        }
        Ok(over.len() - before)
    };
    let (mut entries, mut dropped, mut failure, mut open) = (0, 0, None, Vec::new());
    state.scan(&start, &to, &mut |key, value| {
        let full = entries >= MAX_ENTRIES || dropped >= time.budget.max(1);
        if full && (open.is_empty() || !key.starts_with(&open)) {
            from.extend_from_slice(key);
            return false;
        }
        if open.is_empty() || !key.starts_with(&open) {
            open.clear();
            open.extend_from_slice(key);
        }
        entries += 1;
        match look(key, value) {
            Ok(more) => dropped += more,
            Err(e) => failure = Some(e),
        }
        failure.is_none()
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    over.iter().try_for_each(|key| state.delete(key))?;
    dated.iter().try_for_each(|(key, value)| state.put(key, value))?;
    Ok(if from.is_empty() { Progress::Done } else { Progress::More })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_unknown_age_stay() {
        assert!(!is_over(None, 10, Millis::MAX));
        assert!(is_over(Some(0), 10, 10) && !is_over(Some(1), 10, 10) && !is_over(Some(Millis::MAX), 10, 5));
    }
}
