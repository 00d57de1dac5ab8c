//! Sessions that are over: emitted in order of their end, and deleted.

use operator_core::stores::bytes::after;
use operator_core::{Context, Millis, Progress, State, StateError, Time};

use super::layout::{
    Span, put_anchors, put_end_key, put_group_key, put_session_key, read_anchors, read_columns, read_end_key, read_session,
};
use crate::accumulator::Accumulator;
use crate::earliest::Earliest;
use crate::layout::{VERSION, range_to};
use crate::plan::WindowPlan;
use crate::results::{MAX_BYTES, MAX_ROWS, Results};

/// When to look after the first session.
pub fn find_earliest(state: &dyn State) -> Result<Earliest, StateError> {
    Earliest::find(state, range_to(Millis::MAX), |key| Ok(read_end_key(key)?.0))
}

/// A session that was looked after.
struct Session {
    /// Where its end is in state now, and where it belongs.
    at: Vec<u8>,
    key: Vec<u8>,
    group: Vec<u8>,
    anchor: Millis,
    end: Millis,
    span: Span,
    accumulators: Vec<Accumulator>,
    /// Of its entry, which has all that its result has.
    bytes: usize,
}

/// Closes sessions that end at `last` or earlier: as many as the budget allows, as many of their DISTINCT values, and about
/// [`MAX_BYTES`].
///
/// Ends in state are those that sessions began with. So the first of them are read, and what is over by then is in order of the
/// ends that sessions really have; those that end behind the portion are moved there. A session is emitted when none of its
/// DISTINCT values is left, so that what is in state says where to go on.
pub fn close(plan: &WindowPlan, gap: Millis, last: Millis, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
    let most = time.budget.clamp(1, MAX_ROWS);
    let (mut ends, mut more) = portion(last, most, cx.state())?;
    let (mut sessions, mut over, mut bytes, mut read) = (Vec::new(), Vec::new(), 0, 0);
    for at in &ends {
        if bytes >= MAX_BYTES {
            more = true;
            break;
        }
        read += 1;
        match look_after(plan, gap, at, cx.state())? {
            Some(session) => {
                bytes += session.bytes;
                sessions.push(session);
            }
            None => cx.state().delete(at)?,
        }
    }
    ends.truncate(read);
    for session in sessions {
        let behind = more && ends.last().is_some_and(|last| session.key > *last);
        if session.end <= last && !behind {
            over.push(session);
        } else if session.key != session.at {
            cx.state().delete(&session.at)?;
            cx.state().put(&session.key, &[VERSION])?;
        }
    }
    over.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let all = over.len();
    over.truncate(drop_values(plan, &over, most, cx.state())?);
    emit(plan, &over, time.emitted, cx)?;
    for session in &over {
        remove(session, cx.state())?;
    }
    Ok(if more || over.len() < all { Progress::More } else { Progress::Done })
}

/// Deletes DISTINCT values of `sessions`, at most `most`. Says how many sessions, from the first on, have none left.
fn drop_values(plan: &WindowPlan, sessions: &[Session], most: usize, state: &mut dyn State) -> Result<usize, StateError> {
    if plan.distinct.is_empty() {
        return Ok(sessions.len());
    }
    let mut left = most;
    let mut of = Vec::new();
    for (place, session) in sessions.iter().enumerate() {
        of.clear();
        put_session_key(&session.group, session.anchor, &mut of);
        let (mut values, mut more) = (Vec::new(), false);
        state.scan(&of, &after(&of), &mut |key, _| {
            if key.len() > of.len() {
                more = values.len() == left;
                if !more {
                    values.push(key.to_vec());
                }
            }
            !more
        })?;
        values.iter().try_for_each(|key| state.delete(key))?;
        if more {
            return Ok(place);
        }
        left -= values.len();
    }
    Ok(sessions.len())
}

/// Keys of the first ends, up to `last` and at most `most`, and whether there are more.
fn portion(last: Millis, most: usize, state: &dyn State) -> Result<(Vec<Vec<u8>>, bool), StateError> {
    let (from, to) = range_to(last);
    let (mut ends, mut more) = (Vec::new(), false);
    state.scan(&from, &to, &mut |key, _| {
        more = ends.len() == most;
        if !more {
            ends.push(key.to_vec());
        }
        !more
    })?;
    Ok((ends, more))
}

/// The session whose end is under `at`; `None` if it is part of another one.
fn look_after(plan: &WindowPlan, gap: Millis, at: &[u8], state: &dyn State) -> Result<Option<Session>, StateError> {
    let (_, group, anchor) = read_end_key(at)?;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    put_session_key(group, anchor, &mut key);
    if !state.get(&key, &mut value)? {
        return Ok(None);
    }
    let mut accumulators = Vec::with_capacity(plan.aggregates.len());
    let span = read_session(plan, &value, &mut accumulators)?;
    let end = span.last.saturating_add(gap);
    let bytes = key.len() + value.len();
    key.clear();
    put_end_key(end, group, anchor, &mut key);
    Ok(Some(Session { at: at.to_vec(), key, group: group.to_vec(), anchor, end, span, accumulators, bytes }))
}

/// Emits the results of `sessions`, and releases their rows.
fn emit(plan: &WindowPlan, sessions: &[Session], emitted: Millis, cx: &mut Context<'_>) -> Result<(), StateError> {
    let mut results = Results::new(plan, true);
    let mut group = vec![Vec::new(); plan.group_types.len()];
    let mut released = 0;
    for session in sessions {
        read_columns(&session.group, &plan.group_types, &mut group)?;
        if results.push_between(plan, (session.span.first, session.end), &session.accumulators, session.span.held) {
            released += session.span.held;
        }
    }
    let unfit = results.emit(plan, &group, emitted, cx)?;
    unfit.into_iter().for_each(|unfit| cx.reject_held(unfit.row, unfit.cause, unfit.inputs));
    cx.release(released);
    Ok(())
}

/// Deletes a session without DISTINCT values: its end, its entry, its place in the list of its group.
fn remove(session: &Session, state: &mut dyn State) -> Result<(), StateError> {
    state.delete(&session.at)?;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    put_session_key(&session.group, session.anchor, &mut key);
    state.delete(&key)?;
    key.clear();
    put_group_key(&session.group, &mut key);
    if !state.get(&key, &mut value)? {
        return Ok(());
    }
    let mut anchors = read_anchors(&value)?;
    anchors.retain(|anchor| *anchor != session.anchor);
    if anchors.is_empty() {
        return state.delete(&key);
    }
    value.clear();
    put_anchors(anchors.iter().copied(), &mut value);
    state.put(&key, &value)
}
