//! Timers: calls that an operator asks for at a time to come.
//!
//! A timer is an entry of the step's state: it is set in the transaction of the rows that led to it, survives crashes and moves with
//! its partition. When its time has come, the engine removes it and calls [`Operator::on_timer`](crate::Operator::on_timer); what
//! the operator does then is committed together with the removal, so a timer fires exactly once. Timers fire one by one in the order
//! of (time, key), each seeing what those before it did, and as many in one round as the engine's budget allows.
//!
//! * **Event time** ([`TimerKind::Event`]): once the watermark of the step is not before the timer's time. Which timers fire, and in
//!   which order, depends on the rows alone (rule R11), if a row sets timers for later times than its `_watermark` only, and if what
//!   the operator does depends on [`Timer::time`] and not on the watermark.
//! * **Wall clock** ([`TimerKind::Wall`]): once the worker's clock is not before the timer's time, whether rows come or not, and
//!   everything that was in the step's inputs before that time has come; in a backlog once the watermark is there. Rows that were
//!   appended about that time, or come in one batch with those that set it, may come before it: answers that depend on it are the
//!   exception that R11 allows. In cases and simulations the clock is virtual.
//!
//! A step that uses timers says so in its layout ([`StateLayout::timers`](crate::StateLayout::timers)).

use arrow::datatypes::Fields;

use crate::batch::Millis;
use crate::state::{State, StateError};
use crate::stores::{Due, RowCodec, TimeQueue};

/// First bytes of the keys of timers in state: those of no store of the step.
const EVENT_TAG: u8 = 0xf0;
const WALL_TAG: u8 = 0xf1;

/// Which time a timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerKind {
    /// The watermark.
    Event,
    /// The clock of the worker.
    Wall,
}

/// A timer whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// When it was to fire: event time or wall clock, by its kind.
    pub time: Millis,
    pub kind: TimerKind,
    /// What it is about, as it was set.
    pub key: Vec<u8>,
}

/// The timers of a step in a partition: how the engine finds those that are due in the step's state.
#[derive(Debug)]
pub struct Timers {
    event: Pending,
    wall: Pending,
}

/// The timers of one kind.
#[derive(Debug)]
struct Pending {
    kind: TimerKind,
    queue: TimeQueue,
    /// The time of the first one; `None` while it is unknown.
    first: Option<Option<Millis>>,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { event: Pending::new(TimerKind::Event, EVENT_TAG), wall: Pending::new(TimerKind::Wall, WALL_TAG) }
    }
}

impl Timers {
    /// Removes the first timer that is due and returns it. Those of event time come first: they depend on rows alone.
    ///
    /// # Errors
    /// State can't be read or written.
    pub fn take(&mut self, watermark: Millis, wall: Millis, state: &mut dyn State) -> Result<Option<Timer>, StateError> {
        match self.event.take(watermark, state)? {
            None => self.wall.take(wall, state),
            due => Ok(due),
        }
    }

    /// Whether a timer is due.
    ///
    /// # Errors
    /// State can't be read.
    pub fn is_due(&mut self, watermark: Millis, wall: Millis, state: &dyn State) -> Result<bool, StateError> {
        Ok(self.event.is_due(watermark, state)? || self.wall.is_due(wall, state)?)
    }

    /// The time of the first timer of the wall clock.
    ///
    /// # Errors
    /// State can't be read.
    pub fn first_of_wall(&mut self, state: &dyn State) -> Result<Option<Millis>, StateError> {
        self.wall.first(state)
    }

    /// State was replaced (restore, rewind): what is remembered of it is forgotten.
    pub fn forget(&mut self) {
        for pending in [&mut self.event, &mut self.wall] {
            pending.queue.forget();
            pending.first = None;
        }
    }

    fn of(&mut self, kind: TimerKind) -> &mut Pending {
        match kind {
            TimerKind::Event => &mut self.event,
            TimerKind::Wall => &mut self.wall,
        }
    }
}

impl Pending {
    fn new(kind: TimerKind, tag: u8) -> Pending {
        Pending { kind, queue: TimeQueue::new(tag, Vec::new(), RowCodec::new(Fields::empty())), first: None }
    }

    fn first(&mut self, state: &dyn State) -> Result<Option<Millis>, StateError> {
        if let Some(first) = self.first {
            return Ok(first);
        }
        let first = self.queue.first_time(state)?;
        self.first = Some(first);
        Ok(first)
    }

    fn is_due(&mut self, now: Millis, state: &dyn State) -> Result<bool, StateError> {
        Ok(self.first(state)?.is_some_and(|first| first <= now))
    }

    fn take(&mut self, now: Millis, state: &mut dyn State) -> Result<Option<Timer>, StateError> {
        if !self.is_due(now, state)? {
            return Ok(None);
        }
        self.first = None;
        let portion = self.queue.take_before(now.saturating_add(1), 1, state)?;
        let due = portion.iter().next().transpose()?;
        Ok(due.map(|due| Timer { time: due.time, kind: self.kind, key: due.sequence.to_vec() }))
    }

    fn set(&mut self, time: Millis, key: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        self.first = self.first.map(|first| Some(first.map_or(time, |first| first.min(time))));
        self.queue.put(&Due { time, key: &[], sequence: key, flags: 0, row: &[] }, state)
    }

    fn delete(&mut self, time: Millis, key: &[u8], state: &mut dyn State) -> Result<(), StateError> {
        // Unless it is the first, the first stays what it is.
        self.first = self.first.filter(|first| first.is_none_or(|first| first < time));
        self.queue.delete(time, &[], key, state)
    }
}

/// An operator's access to its timers: see [`Context::timers`](crate::Context::timers).
pub struct StepTimers<'a> {
    pub(crate) timers: Option<&'a mut Timers>,
    pub(crate) state: &'a mut dyn State,
    pub(crate) now: Millis,
}

impl StepTimers<'_> {
    /// What the worker's clock shows (virtual in tests): the base of a time for [`TimerKind::Wall`]. Nothing else may depend on it.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Sets the timer (`time`, `kind`, `key`); nothing changes if it is set already. One whose time has come fires in the same round.
    /// The key must not be [`too_large`](crate::stores::too_large).
    ///
    /// # Errors
    /// State can't be written, or the step's layout has no timers.
    pub fn set(&mut self, time: Millis, kind: TimerKind, key: &[u8]) -> Result<(), StateError> {
        let (timers, state) = self.parts()?;
        timers.of(kind).set(time, key, state)
    }

    /// Removes the timer (`time`, `kind`, `key`) if it is set: it does not fire.
    ///
    /// # Errors
    /// Those of [`StepTimers::set`].
    pub fn delete(&mut self, time: Millis, kind: TimerKind, key: &[u8]) -> Result<(), StateError> {
        let (timers, state) = self.parts()?;
        timers.of(kind).delete(time, key, state)
    }

    fn parts(&mut self) -> Result<(&mut Timers, &mut dyn State), StateError> {
        let timers = self.timers.as_deref_mut().ok_or_else(|| StateError::new("the layout of the step has no timers: this is a bug"))?;
        Ok((timers, &mut *self.state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryState;

    struct Step {
        timers: Timers,
        state: MemoryState,
    }

    impl Step {
        fn new() -> Step {
            Step { timers: Timers::default(), state: MemoryState::default() }
        }

        fn own(&mut self) -> StepTimers<'_> {
            StepTimers { timers: Some(&mut self.timers), state: &mut self.state, now: 0 }
        }

        /// Everything that is due, as kind, time and key.
        fn fired(&mut self, watermark: Millis, wall: Millis) -> Vec<(TimerKind, Millis, String)> {
            let mut fired = Vec::new();
            while self.timers.is_due(watermark, wall, &self.state).unwrap() {
                let Timer { time, kind, key } = self.timers.take(watermark, wall, &mut self.state).unwrap().unwrap();
                fired.push((kind, time, String::from_utf8(key).unwrap()));
            }
            assert_eq!(self.timers.take(watermark, wall, &mut self.state).unwrap(), None);
            fired
        }
    }

    #[test]
    fn timers_fire_once_in_the_order_of_time_and_key() {
        use TimerKind::{Event, Wall};
        let mut step = Step::new();
        for (kind, time, key) in
            [(Event, 20, "b"), (Event, 20, "a"), (Event, -5, "z"), (Wall, 1, "w"), (Event, 20, "a"), (Event, 21, "later"), (Wall, 9, "v")]
        {
            step.own().set(time, kind, key.as_bytes()).unwrap();
        }
        let expected = [(Event, -5, "z"), (Event, 20, "a"), (Event, 20, "b"), (Wall, 1, "w")];
        assert_eq!(step.fired(20, 8), expected.map(|(kind, time, key)| (kind, time, key.to_string())));
        assert_eq!(step.fired(20, 8), []);
        assert_eq!(step.timers.first_of_wall(&step.state).unwrap(), Some(9));
        assert_eq!(step.fired(21, 8).len(), 1);
    }

    #[test]
    fn what_is_set_or_deleted_between_two_timers_takes_effect_in_its_place() {
        let mut step = Step::new();
        for time in [10, 30, 40] {
            step.own().set(time, TimerKind::Wall, b"k").unwrap();
        }
        assert_eq!(step.timers.take(Millis::MIN, 100, &mut step.state).unwrap().map(|t| t.time), Some(10));
        step.own().set(20, TimerKind::Wall, b"k").unwrap();
        step.own().set(5, TimerKind::Wall, b"k").unwrap();
        step.own().delete(30, TimerKind::Wall, b"k").unwrap();
        step.own().delete(30, TimerKind::Wall, b"unknown").unwrap();
        let times: Vec<Millis> = step.fired(Millis::MIN, 100).into_iter().map(|(_, time, _)| time).collect();
        assert_eq!(times, [5, 20, 40]);
        assert_eq!(step.timers.first_of_wall(&step.state).unwrap(), None);
    }

    #[test]
    fn the_first_timer_is_known_whatever_is_set_deleted_or_restored() {
        let mut step = Step::new();
        let first = |step: &mut Step| step.timers.first_of_wall(&step.state).unwrap();
        assert_eq!(first(&mut step), None);
        step.own().set(7, TimerKind::Wall, b"a").unwrap();
        step.own().set(9, TimerKind::Wall, b"b").unwrap();
        assert_eq!(first(&mut step), Some(7));
        step.own().delete(9, TimerKind::Wall, b"b").unwrap();
        assert_eq!(first(&mut step), Some(7));
        step.own().set(8, TimerKind::Wall, b"b").unwrap();
        step.own().delete(7, TimerKind::Wall, b"a").unwrap();
        assert_eq!(first(&mut step), Some(8));
        // Another worker reads it from state.
        step.timers = Timers::default();
        assert_eq!(first(&mut step), Some(8));
        step.state.entries.clear();
        step.timers.forget();
        assert_eq!(first(&mut step), None);
    }

    #[test]
    fn a_step_without_timers_can_set_none() {
        let mut state = MemoryState::default();
        let mut none = StepTimers { timers: None, state: &mut state, now: 0 };
        assert!(none.set(1, TimerKind::Event, b"k").is_err() && none.delete(1, TimerKind::Event, b"k").is_err());
        assert!(state.entries.is_empty());
    }
}
