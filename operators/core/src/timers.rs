//! Timers: calls that an operator asks for at a time to come.
//!
//! A timer is an entry of the step's state: it is set in the transaction of the rows that led to it, survives crashes and moves with
//! its partition. When its time has come, the engine removes it and calls [`Operator::on_timer`](crate::Operator::on_timer); what
//! the operator does then is committed together with the removal, so a timer fires exactly once. Timers fire in the order of
//! (time, key), each seeing what those before it did; as many in one call as the engine's budget allows.
//!
//! * **Event time** ([`TimerClock::Event`]): once the watermark of the step is not before the timer's time. Which timers fire, and in
//!   which order, depends on the rows only (rule R11), if what the operator does depends on [`Timer::time`] and not on the watermark.
//! * **Wall clock** ([`TimerClock::Wall`]): once the worker's clock is not before the timer's time, whether rows come or not. Which rows
//!   came before it is chance: answers that depend on that are the exception that R11 allows, and lint should say so. In cases and
//!   in simulations the clock is virtual.

use crate::batch::Millis;
use crate::state::{State, StateError};
use crate::stores::{Due, RowCodec, TimeQueue};

/// First bytes of timers' keys in state: of no store of the step.
pub const EVENT_TAG: u8 = 0xf0;
pub const WALL_TAG: u8 = 0xf1;

/// Which time a timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerClock {
    /// The watermark.
    Event,
    /// The clock of the worker.
    Wall,
}

/// A timer whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    pub clock: TimerClock,
    pub time: Millis,
    /// As it was set: what the timer is about. Of two timers with the same clock, time and key there is one.
    pub key: Vec<u8>,
}

/// The timers of a step in a partition. The engine keeps it beside the step's state.
#[derive(Debug)]
pub struct Timers {
    event: Line,
    wall: Line,
}

/// The timers of one clock.
#[derive(Debug)]
struct Line {
    queue: TimeQueue,
    /// The time of the first one; `None` while it is unknown.
    next: Option<Option<Millis>>,
}

impl Line {
    fn new(tag: u8) -> Line {
        Line { queue: TimeQueue::new(tag, Vec::new(), RowCodec::new(arrow::datatypes::Fields::empty())), next: None }
    }
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { event: Line::new(EVENT_TAG), wall: Line::new(WALL_TAG) }
    }
}

impl Timers {
    fn line(&mut self, clock: TimerClock) -> &mut Line {
        match clock {
            TimerClock::Event => &mut self.event,
            TimerClock::Wall => &mut self.wall,
        }
    }

    /// The time of the first timer of `clock`.
    ///
    /// # Errors
    /// State can't be read.
    pub fn next(&mut self, clock: TimerClock, state: &dyn State) -> Result<Option<Millis>, StateError> {
        let line = self.line(clock);
        if let Some(next) = line.next {
            return Ok(next);
        }
        let next = line.queue.first_time(state)?;
        line.next = Some(next);
        Ok(next)
    }

    /// Removes the first timer of `clock` whose time is not after `now` and returns it.
    ///
    /// # Errors
    /// State can't be read or written.
    pub fn take(&mut self, clock: TimerClock, now: Millis, state: &mut dyn State) -> Result<Option<Timer>, StateError> {
        if self.next(clock, state)?.is_none_or(|next| next > now) {
            return Ok(None);
        }
        let line = self.line(clock);
        line.next = None;
        let portion = line.queue.take_before(now.saturating_add(1), 1, state)?;
        let first = portion.iter().next().transpose()?;
        Ok(first.map(|due| Timer { clock, time: due.time, key: due.sequence.to_vec() }))
    }

    fn set(&mut self, clock: TimerClock, time: Millis, key: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        let line = self.line(clock);
        line.next = line.next.map(|next| Some(next.map_or(time, |next| next.min(time))));
        line.queue.put(&Due { time, key: &[], sequence: key, flags: 0, row: &[] }, state)
    }

    fn delete(&mut self, clock: TimerClock, time: Millis, key: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        let line = self.line(clock);
        line.next = None;
        line.queue.delete(time, &[], key, state)
    }

    /// State was replaced.
    pub fn forget(&mut self) {
        for line in [&mut self.event, &mut self.wall] {
            line.queue.forget();
            line.next = None;
        }
    }
}

/// An operator's access to its timers: see [`Context::timers`](crate::Context::timers).
pub struct TimerSetter<'a> {
    pub(crate) timers: &'a mut Timers,
    pub(crate) state: &'a mut dyn State,
}

impl TimerSetter<'_> {
    /// Sets the timer (`clock`, `time`, `key`); setting one that is set changes nothing. One whose time has come fires in the same
    /// round.
    ///
    /// # Errors
    /// State can't be written.
    pub fn set(&mut self, clock: TimerClock, time: Millis, key: &[u8]) -> Result<(), StateError> {
        self.timers.set(clock, time, key, self.state)
    }

    /// Removes the timer (`clock`, `time`, `key`), if it is set and did not fire.
    ///
    /// # Errors
    /// State can't be written.
    pub fn delete(&mut self, clock: TimerClock, time: Millis, key: &[u8]) -> Result<(), StateError> {
        self.timers.delete(clock, time, key, self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryState;

    fn fired(timers: &mut Timers, clock: TimerClock, now: Millis, state: &mut MemoryState) -> Vec<(Millis, String)> {
        let mut fired = Vec::new();
        while let Some(timer) = timers.take(clock, now, state).unwrap() {
            assert_eq!(timer.clock, clock);
            fired.push((timer.time, String::from_utf8(timer.key).unwrap()));
        }
        fired
    }

    #[test]
    fn timers_fire_once_in_the_order_of_time_and_key() {
        let (mut timers, mut state) = (Timers::default(), MemoryState::default());
        for (clock, time, key) in [
            (TimerClock::Event, 20, "b"),
            (TimerClock::Event, 20, "a"),
            (TimerClock::Event, -5, "z"),
            (TimerClock::Wall, 1, "w"),
            (TimerClock::Event, 20, "a"),
            (TimerClock::Event, 21, "later"),
            (TimerClock::Event, 7, "gone"),
        ] {
            TimerSetter { timers: &mut timers, state: &mut state }.set(clock, time, key.as_bytes()).unwrap();
        }
        TimerSetter { timers: &mut timers, state: &mut state }.delete(TimerClock::Event, 7, b"gone").unwrap();
        assert_eq!(timers.next(TimerClock::Event, &state).unwrap(), Some(-5));
        let expected = [(-5, "z".to_string()), (20, "a".to_string()), (20, "b".to_string())];
        assert_eq!(fired(&mut timers, TimerClock::Event, 20, &mut state), expected);
        assert_eq!(fired(&mut timers, TimerClock::Event, 20, &mut state), []);
        assert_eq!(timers.next(TimerClock::Event, &state).unwrap(), Some(21));
        assert_eq!(timers.next(TimerClock::Wall, &state).unwrap(), Some(1));
    }

    #[test]
    fn what_is_set_between_two_timers_fires_in_its_place() {
        let (mut timers, mut state) = (Timers::default(), MemoryState::default());
        let mut set = |timers: &mut Timers, state: &mut MemoryState, time| {
            TimerSetter { timers, state }.set(TimerClock::Wall, time, b"k").unwrap();
        };
        set(&mut timers, &mut state, 10);
        set(&mut timers, &mut state, 30);
        assert_eq!(timers.take(TimerClock::Wall, 100, &mut state).unwrap().map(|t| t.time), Some(10));
        set(&mut timers, &mut state, 20);
        set(&mut timers, &mut state, 5);
        let times: Vec<Millis> = fired(&mut timers, TimerClock::Wall, 100, &mut state).into_iter().map(|(time, _)| time).collect();
        assert_eq!(times, [5, 20, 30]);
        assert_eq!(timers.next(TimerClock::Wall, &state).unwrap(), None);
        // Another worker reads them from state.
        set(&mut timers, &mut state, 40);
        let mut timers = Timers::default();
        assert_eq!(timers.next(TimerClock::Wall, &state).unwrap(), Some(40));
        state.entries.clear();
        timers.forget();
        assert_eq!(timers.next(TimerClock::Wall, &state).unwrap(), None);
    }
}
