//! Events that come by themselves.
//!
//! When a timer is to fire follows from the state of its aggregate, or from its entry: so what is set is never stored beside it. After a
//! batch the time before and the time now are compared, and where they differ, the timer is deleted and set. One that has fired is
//! not set again for the same time, unless its event was refused: then it is tried again ([`retries`]).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::TimestampMillisecondType;
use operator_core::batch::SystemRow;
use operator_core::stores::bytes::{Reader, put_bytes};
use operator_core::{Context, Millis, StateError, Time, Timer, keys};
use operator_event::{Causes, Uuid};

use crate::cells::{Cell, gather};
use crate::decide::checks;
use crate::decided::{Piece, Refused, To};
use crate::fold::{Hand, Happened, apply, seen_rows};
use crate::operator::{Aggregating, before};
use crate::outputs::Outputs;
use crate::plan::{AggregatePlan, CLOCK, Part, TimerPlan, complete};
use crate::rows::Turn;
use crate::state::{FIRST_CAUSE, structure};
use crate::subjects::{Changed, Subjects};

/// What a timer is about: its name, the key of the aggregate, and that of the entry.
struct About<'a> {
    name: &'a str,
    key: &'a [u8],
    entry: &'a [u8],
}

impl<'a> About<'a> {
    fn put(&self) -> Vec<u8> {
        let mut key = Vec::new();
        [self.name.as_bytes(), self.key, self.entry].iter().for_each(|part| put_bytes(part, &mut key));
        key
    }

    fn read(timer: &'a Timer) -> Option<About<'a>> {
        let mut reader = Reader::new(&timer.key);
        let name = std::str::from_utf8(reader.bytes()?).ok()?;
        let (key, entry) = (reader.bytes()?, reader.bytes()?);
        reader.is_empty().then_some(About { name, key, entry })
    }
}

/// When a timer of each of these rows fires: states, or entries.
///
/// # Errors
/// They are not what the timer is of: a bug.
fn times<'a>(
    plan: &AggregatePlan,
    timer: &TimerPlan,
    cells: impl ExactSizeIterator<Item = &'a Cell> + Clone,
) -> Result<Vec<Option<Millis>>, StateError> {
    let there: Vec<bool> = cells.clone().map(|cell| !cell.is_null() && !Arc::ptr_eq(&cell.rows, &plan.state.first)).collect();
    let env = subject(plan, timer, &gather(cells)?)?;
    // One that fails was refused when it was to be set.
    let values = timer.at.value.evaluate(&env, &mut Vec::new())?;
    let values =
        values.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(|| StateError::new("a timer has no time: this is a bug"))?;
    Ok(values.iter().zip(there).map(|(at, there)| at.filter(|_| there)).collect())
}

/// What the time of a timer is computed from.
fn subject(plan: &AggregatePlan, timer: &TimerPlan, rows: &ArrayRef) -> Result<RecordBatch, StateError> {
    timer.at.scope.batch(rows.len(), |part| match part {
        Part::State => plan.state.record(rows),
        Part::Entry(collection) => seen_of(plan, collection, rows),
        _ => Err(StateError::new("a timer reads what it is of: this is a bug")),
    })
}

fn seen_of(plan: &AggregatePlan, collection: usize, rows: &ArrayRef) -> Result<ArrayRef, StateError> {
    let of = plan.collections.get(collection).ok_or_else(|| StateError::new("there is no such collection: this is a bug"))?;
    seen_rows(of, rows)
}

/// When a timer whose event was refused is tried again: what stood against it may be gone by then. These times follow from the one that it
/// was due at, so that none of them is stored: a minute later, and then after twice the time, for 45 days.
fn retries(due: Millis) -> impl Iterator<Item = Millis> {
    const FIRST: Millis = 60_000;
    (0..=16).map(move |doubled| due.saturating_add(FIRST << doubled))
}

impl Aggregating {
    /// Sets and deletes timers, as what they are of has changed.
    pub(crate) fn set_timers(&self, subjects: &Subjects, cx: &mut Context<'_>) -> Result<(), StateError> {
        for timer in &self.plan.timers {
            let changed = match timer.of {
                None => subjects.changed_states(),
                Some(collection) => subjects.changed_entries(collection),
            };
            if changed.is_empty() {
                continue;
            }
            let before = times(&self.plan, timer, changed.iter().map(|changed| changed.before))?;
            let now = times(&self.plan, timer, changed.iter().map(|changed| changed.now))?;
            let passed: Vec<&Cell> = changed.iter().flat_map(|changed| changed.passed).collect();
            let mut passed = if passed.is_empty() { Vec::new() } else { times(&self.plan, timer, passed.into_iter())? }.into_iter();
            for ((Changed { subject, entry, passed: of, .. }, before), now) in changed.iter().zip(before).zip(now) {
                // A time that was another one in between is set, too: were the commands of two batches, it would be.
                let others = passed.by_ref().take(of.len()).filter(|at| *at != before).count();
                if before == now && others == 0 {
                    continue;
                }
                let about = About { name: &timer.name, key: &subject.key, entry }.put();
                if let Some(before) = before {
                    cx.timers().delete(before, CLOCK, &about)?;
                    if before <= cx.timers().now() {
                        // It has fired: it may be one that is tried again.
                        retries(before).try_for_each(|at| cx.timers().delete(at, CLOCK, &about))?;
                    }
                }
                if let Some(now) = now {
                    cx.timers().set(now, CLOCK, &about)?;
                }
            }
        }
        Ok(())
    }

    /// A timer's event happens.
    pub(crate) fn fire(&mut self, fired: &Timer, time: Time, cx: &mut Context<'_>) -> Result<(), StateError> {
        let plan = self.plan.clone();
        let unknown = || StateError::new("a timer can't be read: was it set by another version of the step?");
        let about = About::read(fired).ok_or_else(unknown)?;
        let timer = plan.timers.iter().find(|timer| timer.name == about.name).ok_or_else(unknown)?;
        let mut subjects = Subjects::new(&plan);
        let place = subjects.place(about.key);
        subjects.load(&*cx.state())?;
        if let Some(collection) = timer.of {
            subjects.load_entries(collection, std::iter::once((place, about.entry)), &*cx.state())?;
        }
        let state = subjects.list.get(place).map(|subject| subject.state.clone()).ok_or_else(unknown)?;
        let subject = match timer.of {
            None => state.clone(),
            Some(collection) => subjects.entry(place, collection, about.entry).cloned().ok_or_else(unknown)?,
        };
        let due = times(&plan, timer, std::iter::once(&subject))?.into_iter().flatten().next();
        let Some(due) = due.filter(|due| *due == fired.time || retries(*due).any(|at| at == fired.time)) else { return Ok(()) };
        let event = Event { plan: &plan, timer, about, place, state, subject, at: fired.time };
        let keys = keys::decode(&plan.key_types(), std::iter::once(event.about.key)).ok_or_else(unknown)?;
        let causes = event.causes()?;
        let mut outputs = Outputs::new(&plan, &causes, cx);
        let system =
            SystemRow { time: fired.time, watermark: time.emitted, offset: -1, future: false, change: operator_core::changes::ADDED };
        let refused = event.happen(&keys, &causes, &mut subjects, &mut outputs, system, cx)?;
        if let Some(next) = retries(due).find(|at| refused.is_some() && *at > fired.time) {
            cx.timers().set(next, CLOCK, &fired.key)?;
        }
        match refused {
            None => {
                subjects.save(cx.state())?;
                self.set_timers(&subjects, cx)?;
            }
            Some(Refused::Violates(invariant)) => {
                let why = plan.invariants.get(invariant).map_or("", |invariant| invariant.name.as_str());
                outputs.add(&event.rejection(why, &keys, To::Violated)?, |_| system)?;
            }
            Some(Refused::Failed(cause)) => {
                let mut row = Outputs::new(&plan, &causes, cx);
                row.add(&event.rejection(&cause, &keys, To::Rejected)?, |_| system)?;
                cx.reject_result(row.rejected()?, cause, 0);
            }
        }
        outputs.emit(&keys, cx)
    }
}

/// An event that comes by itself.
struct Event<'a> {
    plan: &'a AggregatePlan,
    timer: &'a TimerPlan,
    about: About<'a>,
    place: usize,
    state: Cell,
    /// The entry, or the state, that the timer is of.
    subject: Cell,
    at: Millis,
}

impl Event<'_> {
    /// What caused it: the event that its time was set by.
    fn causes(&self) -> Result<Causes, StateError> {
        let missing = || StateError::new("what a timer is of does not say what caused it: this is a bug");
        // By their place: a column of the state, or the key of an entry, may have the same name.
        let text = |place: usize| {
            let rows = self.subject.rows.as_struct_opt()?;
            Some(rows.columns().get(FIRST_CAUSE + place)?.as_string_opt::<i32>()?.slice(self.subject.row, 1))
        };
        let (correlation, causation) = (text(0), text(1));
        Ok(Causes::new(causation.ok_or_else(missing)?, correlation.ok_or_else(missing)?))
    }

    fn turn(&self) -> Turn {
        Turn { row: 0, place: self.place }
    }

    fn version(&self) -> Result<i64, StateError> {
        self.plan.state.version(&self.state).ok_or_else(|| StateError::new("a state has no version: this is a bug"))
    }

    /// The id of an event of this type: of what set the timer, for this time, at this version.
    fn id(&self, cause: &str, kind: &str) -> Result<Uuid, StateError> {
        let (at, version) = (self.at.to_be_bytes(), self.version()?.to_be_bytes());
        let place = [self.about.key, kind.as_bytes(), self.about.name.as_bytes(), self.about.entry, &at[..], &version[..]];
        Ok(self.plan.ids.of(cause, &place))
    }

    /// What a timer makes that can't have its event: a rejection, of no command.
    fn rejection(&self, why: &str, keys: &[ArrayRef], to: To) -> Result<Piece, StateError> {
        let kind = self.plan.events.len() + self.plan.commands.len();
        let texts = [why, &self.timer.name].map(|text| Arc::new(StringArray::from(vec![text])) as ArrayRef);
        let columns = keys.iter().cloned().chain(texts).collect();
        let mut piece = Piece { columns, ..Piece::new(to, kind, 0) };
        piece.push(self.turn(), self.at, self.id("", why)?, self.version()?);
        Ok(piece)
    }

    /// Lets it happen; why it can't, if so: then nothing has changed.
    fn happen(
        &self,
        keys: &[ArrayRef],
        causes: &Causes,
        subjects: &mut Subjects,
        outputs: &mut Outputs<'_>,
        system: SystemRow,
        cx: &mut Context<'_>,
    ) -> Result<Option<Refused>, StateError> {
        let (plan, made) = (self.plan, &self.timer.made);
        let missing = || StateError::new("there is no such event: this is a bug");
        let event = plan.events.get(made.kind).ok_or_else(missing)?;
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![self.at]).with_timezone("UTC"));
        let env = self.timer.scope.batch(1, |part| match part {
            Part::State => plan.state.record(&self.state.rows.slice(self.state.row, 1)),
            Part::Entry(collection) => seen_of(plan, collection, &self.subject.rows.slice(self.subject.row, 1)),
            Part::Time => Ok(times.clone()),
            Part::Input(_) | Part::Data | Part::Member(_) => Err(missing()),
        })?;
        let (mut columns, mut failed) = (keys.to_vec(), Vec::new());
        complete(&mut columns, &event.columns, 1, Some((made, &env)), &mut failed)?;
        if !failed.is_empty() {
            return Ok(failed.into_iter().next().map(|(_, cause)| Refused::Failed(cause)));
        }
        let id = self.id(causes.id(0), &event.name)?;
        let texts = [causes.correlation(0).to_string(), id.to_string()].map(|text| Arc::new(StringArray::from(vec![text])) as ArrayRef);
        let data: ArrayRef = Arc::new(structure(&event.columns, columns.clone(), None)?);
        let happened = Happened { event, data, times, causes: texts };
        let mut hand = Hand::new(vec![self.place], subjects);
        apply(plan, subjects, &*cx.state(), &mut hand, &happened, &mut failed)?;
        let mut wrong: Vec<(usize, Refused)> = failed.into_iter().map(|(at, cause)| (at, Refused::Failed(cause))).collect();
        if wrong.is_empty() {
            checks(plan, &hand, &happened, &mut wrong)?;
        }
        if !wrong.is_empty() {
            return Ok(wrong.into_iter().next().map(|(_, why)| why));
        }
        let mut piece = Piece { columns, ..Piece::new(To::Emitted, made.kind, 0) };
        piece.push(self.turn(), self.at, id, self.version()?.saturating_add(1));
        outputs.add(&piece, |_| system)?;
        let since = subjects.list.get(self.place).map_or(0, |subject| subject.time);
        if let Some(after) = hand.states.first() {
            outputs.change(0, before(plan, since, self.state.clone()), after.clone(), system);
        }
        hand.keep(subjects, |_| self.at);
        Ok(None)
    }
}

/// Why the timers of what is in the hand can't be set, if so.
///
/// # Errors
/// They are not rows of the state: a bug.
pub fn unset(plan: &AggregatePlan, hand: &Hand, wrong: &mut Vec<(usize, Refused)>) -> Result<(), StateError> {
    for timer in plan.timers.iter().filter(|timer| timer.at.value.expr().as_path().is_none()) {
        let cells: Vec<(usize, &Cell)> = match timer.of {
            None => hand.states.iter().enumerate().collect(),
            Some(collection) => hand.entries_of(collection),
        };
        if cells.is_empty() {
            continue;
        }
        let mut failed = Vec::new();
        let rows = gather(cells.iter().map(|(_, cell)| *cell))?;
        timer.at.value.evaluate(&subject(plan, timer, &rows)?, &mut failed)?;
        for (row, cause) in failed {
            let why = || Refused::Failed(format!("the time of the timer `{}`: {cause}", timer.name));
            wrong.extend(cells.get(row).map(|(at, _)| (*at, why())));
        }
    }
    Ok(())
}
