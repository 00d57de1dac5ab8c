//! Results before the close (`emit: { every: 10s }`): which rows are in them depends on the rows alone.
//!
//! ```text
//! row -> pane: the first multiple of `every` after its event time and its own watermark
//! watermark reaches the multiple: the pane's rows join those of the panes before, and the group is emitted if any are there
//! ```
//!
//! A result at 10:00:20 so has the rows from before 10:00:20 that came before their partition's watermark was there; all of them
//! are in state when the step's watermark is. Rows that fast partitions have brought already wait in their panes. The last pane of
//! a window is that of its close.
//!
//! Panes are stored before the group's entry, and look like it:
//!
//! ```text
//! 04 · multiple · 01 · window end · group                       rows held, accumulators
//! 04 · multiple · 01 · window end · group · aggregate · value   a value that count(DISTINCT) has seen in them; no content
//! ```

use operator_core::stores::bytes::Reader;
use operator_core::{Context, Millis, Progress, State, StateError};

use crate::accumulator::Accumulator;
use crate::earliest::Earliest;
use crate::groups::{self, Read, put_group, read_group};
use crate::layout::{VERSION, put_time, range_of, read_end, read_key};
use crate::plan::WindowPlan;
use crate::results::{Budget, MAX_BYTES, Results};

const PANE: u8 = 4;

/// The pane of a row, as the time at which it joins the others.
#[inline]
pub fn at(every: Millis, time: Millis, watermark: Millis) -> Millis {
    let newest = time.max(watermark);
    newest.saturating_sub(newest.rem_euclid(every)).saturating_add(every)
}

/// Appends what the key of a pane begins with.
pub fn put_prefix(at: Millis, out: &mut Vec<u8>) {
    put_time(PANE, at, out);
}

/// The time of a pane, and the key of its group's entry.
fn read_prefix(key: &[u8]) -> Result<(Millis, &[u8]), StateError> {
    let mut reader = Reader::new(key);
    let at = reader.u8().and_then(|_| reader.ordered());
    at.map(|at| (at, reader.rest())).ok_or_else(|| StateError::new("the key of a pane can't be decoded"))
}

/// The keys of all panes that are due at `last`.
fn range_to(last: Millis) -> (Vec<u8>, Vec<u8>) {
    range_of(PANE, last)
}

/// The time of the first pane in state.
pub fn find_earliest(state: &dyn State) -> Result<Earliest, StateError> {
    Earliest::find(state, range_to(Millis::MAX), |key| Ok(read_prefix(key)?.0))
}

/// The last end of a window with a pane that holds rows; [`Millis::MIN`] without one.
pub fn last_held(state: &dyn State) -> Result<Millis, StateError> {
    groups::last_held(state, range_to(Millis::MAX), |key| read_end(read_prefix(key)?.1))
}

/// A pane of a group: its entry, and the keys of its DISTINCT values.
struct Pane {
    key: Vec<u8>,
    value: Vec<u8>,
    distinct: Vec<Vec<u8>>,
    /// `distinct` has all that are left. If not, they join the group, and the pane itself does in a later portion.
    whole: bool,
}

/// Whether a pane is taken.
enum Take {
    Yes,
    No,
    /// Nor those after it.
    Stop,
}

/// The panes from `from` up to `last` that `take` wants, by their time and the end of their window: at most `most`, with at most as many
/// DISTINCT values, and about [`MAX_BYTES`]. Also whether there may be more of them.
fn portion(
    (from, last): (&[u8], Millis),
    most: usize,
    state: &dyn State,
    mut take: impl FnMut(Millis, Millis) -> Take,
) -> Result<(Vec<Pane>, bool), StateError> {
    let (first, to) = range_to(last);
    let from = if from.is_empty() { &first } else { from };
    let (mut panes, mut values, mut bytes, mut more, mut failure): (Vec<Pane>, _, _, _, _) = (Vec::new(), 0, 0, false, None);
    state.scan(from, &to, &mut |key, value| {
        // DISTINCT values follow their group, and no group's key is the beginning of another's.
        if let Some(pane) = panes.last_mut().filter(|pane| key.starts_with(&pane.key)) {
            pane.whole = values < most;
            if pane.whole {
                pane.distinct.push(key.to_vec());
                values += 1;
            }
            more = !pane.whole;
            return pane.whole;
        }
        match read_prefix(key).and_then(|(at, key)| Ok(take(at, read_end(key)?))) {
            Ok(Take::No) => return true,
            Ok(Take::Stop) => return false,
            Ok(Take::Yes) if panes.len() == most || bytes >= MAX_BYTES => {
                more = true;
                return false;
            }
            Ok(Take::Yes) => {}
            Err(error) => failure = Some(error),
        }
        bytes += key.len() + value.len();
        panes.push(Pane { key: key.to_vec(), value: value.to_vec(), distinct: Vec::new(), whole: true });
        failure.is_none()
    })?;
    failure.map_or(Ok((panes, more)), Err)
}

/// The first panes that are due at `last`: not those behind the close of one of their windows, which comes first.
fn due(plan: &WindowPlan, last: Millis, most: usize, state: &dyn State) -> Result<Vec<Pane>, StateError> {
    let mut until = last;
    let due = |at, end: Millis| {
        if at > until {
            return Take::Stop;
        }
        until = until.min(end.saturating_add(plan.windows.lateness));
        Take::Yes
    };
    Ok(portion((&[], last), most, state, due)?.0)
}

/// Merges panes that are due behind the close of their window: those of the time before `lateness` was lowered. Nothing is emitted: their
/// rows are in the next result of the window. Goes on at `from`, as many panes as the budget allows.
pub fn gather(
    plan: &WindowPlan,
    from: &mut Vec<u8>,
    budget: &mut Budget,
    earliest: &mut Earliest,
    cx: &mut Context<'_>,
) -> Result<Progress, StateError> {
    let stray = |at, end: Millis| if at > end.saturating_add(plan.windows.lateness) { Take::Yes } else { Take::No };
    let (panes, more) = portion((from, Millis::MAX), budget.entries, cx.state(), stray)?;
    let (mut accumulators, mut buffer) = (Vec::new(), Vec::new());
    for pane in &panes {
        let (_, key) = read_prefix(&pane.key)?;
        budget.spend(1 + pane.distinct.len(), 0);
        accumulators.clear();
        merge_one(plan, pane, key, &mut accumulators, &mut buffer, cx.state())?;
        earliest.include(read_end(key)?);
    }
    match panes.into_iter().next_back() {
        Some(last) if more => {
            *from = last.key;
            Ok(Progress::More)
        }
        _ => Ok(Progress::Done),
    }
}

/// Merges panes that are due at `last` into their groups, as far as the budget allows, and emits those groups. `earliest`: of the
/// windows in state.
pub fn merge(
    plan: &WindowPlan,
    last: Millis,
    emitted: Millis,
    budget: &mut Budget,
    earliest: &mut Earliest,
    cx: &mut Context<'_>,
) -> Result<(), StateError> {
    let panes = due(plan, last, budget.entries, cx.state())?;
    let mut results = Results::new(plan, false);
    let mut group = vec![Vec::new(); plan.group_types.len()];
    let (mut accumulators, mut buffer) = (Vec::new(), Vec::new());
    for pane in &panes {
        // The others come later.
        if results.bytes() >= budget.bytes {
            break;
        }
        budget.spend(1 + pane.distinct.len(), 0);
        let (at, key) = read_prefix(&pane.key)?;
        let entry = read_key(key, &plan.group_types, &mut group)?;
        accumulators.clear();
        merge_one(plan, pane, key, &mut accumulators, &mut buffer, cx.state())?;
        earliest.include(entry.end);
        // What is emitted when the window closes is not emitted now.
        if pane.whole && plan.every.is_some() && !plan.windows.is_closed(entry.end, at) {
            results.push(plan, entry.end, &accumulators, 0);
            results.add_bytes(key.len());
        } else {
            group.iter_mut().for_each(|column| drop(column.pop()));
        }
    }
    budget.spend(0, results.bytes());
    // Their rows are still held.
    results.emit(plan, &group, emitted, cx)?.into_iter().for_each(|unfit| cx.reject_result(unfit.row, unfit.cause, 0));
    Ok(())
}

/// Merges one pane, or some of its DISTINCT values, into the entry under `key`, and appends the accumulators of both.
fn merge_one(
    plan: &WindowPlan,
    pane: &Pane,
    key: &[u8],
    accumulators: &mut Vec<Accumulator>,
    buffer: &mut Vec<u8>,
    state: &mut dyn State,
) -> Result<(), StateError> {
    let Read { mut held, .. } = match state.get(key, buffer)? {
        true => read_group(plan, buffer, accumulators)?,
        false => {
            accumulators.extend(plan.aggregates.iter().map(|a| a.function.empty()));
            Read::default()
        }
    };
    let mut more = Vec::with_capacity(plan.aggregates.len());
    if pane.whole {
        held += read_group(plan, &pane.value, &mut more)?.held;
        state.delete(&pane.key)?;
    }
    for ((aggregate, accumulator), more) in plan.aggregates.iter().zip(accumulators.iter_mut()).zip(more) {
        aggregate.function.merge(accumulator, more);
    }
    for distinct in &pane.distinct {
        let (_, value) = read_prefix(distinct)?;
        if !state.get(value, buffer)? {
            let aggregate = value.get(key.len()..).and_then(|rest| rest.first_chunk::<2>()).map(|place| u16::from_be_bytes(*place));
            if let Some(accumulator) = aggregate.and_then(|place| accumulators.get_mut(usize::from(place))) {
                accumulator.count_distinct(1);
            }
            state.put(value, &[VERSION])?;
        }
        state.delete(distinct)?;
    }
    buffer.clear();
    put_group(held, None, accumulators, buffer);
    state.put(key, buffer)
}

#[cfg(test)]
mod tests {
    use operator_core::NO_WATERMARK;

    use super::*;

    #[test]
    fn a_row_is_in_the_first_result_after_its_time_and_its_watermark() {
        for (time, watermark, expected) in
            [(0, NO_WATERMARK, 10), (9, NO_WATERMARK, 10), (10, NO_WATERMARK, 20), (-1, NO_WATERMARK, 0), (5, 10, 20), (25, 10, 30)]
        {
            assert_eq!(at(10, time, watermark), expected);
        }
        assert_eq!(at(10, i64::MAX, 0), i64::MAX);
    }

    #[test]
    fn panes_are_in_order_of_time() {
        let keys: Vec<Vec<u8>> = [i64::MIN, -1, 0, 1, i64::MAX]
            .iter()
            .map(|at| {
                let mut key = Vec::new();
                put_prefix(*at, &mut key);
                assert_eq!(read_prefix(&key).unwrap(), (*at, &[][..]));
                key
            })
            .collect();
        assert!(keys.is_sorted());
        let (from, to) = range_to(0);
        assert_eq!(keys.iter().filter(|key| **key >= from && **key < to).count(), 3);
        assert!(read_prefix(&[PANE, 0]).is_err());
    }
}
