//! Decides commands of one kind, all of which are for different aggregates.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::Int64Type;
use operator_core::{State, StateError};
use operator_event::Uuid;

use crate::cells::{Cell, gather};
use crate::decided::{Decided, Piece, Refused, Step, To};
use crate::fold::{Hand, Happened, apply, seen_rows};
use crate::plan::{AggregatePlan, CommandPlan, Failures, Made, Part, Then, complete};
use crate::rows::{Rows, Turn};
use crate::state::structure;
use crate::subjects::Subjects;
use crate::timers::unset;

/// Why commands of aggregates that the sender knew in another version are rejected.
const OTHER_VERSION: &str = "version";
/// Why commands are rejected that are so far behind the watermark that nobody knows any more whether they were decided.
const TOO_OLD: &str = "too_old";
/// Why commands are rejected that no rule decides about.
const NO_RULE: &str = "no_rule";
/// Why commands are rejected that there are no rules for.
const UNKNOWN_COMMAND: &str = "unknown_command";

/// What the decisions of a batch need.
pub struct World<'a, 'b> {
    pub plan: &'a AggregatePlan,
    pub rows: &'a mut Rows<'b>,
    pub subjects: &'a mut Subjects,
    pub state: &'a dyn State,
    /// Whether the states before and after each event are wanted.
    pub steps: bool,
}

/// Refused commands, by their place among those that were tried.
type Tried = Result<Decided, Vec<(usize, Refused)>>;

fn refused(failed: Failures) -> Vec<(usize, Refused)> {
    failed.into_iter().map(|(at, cause)| (at, Refused::Failed(cause))).collect()
}

impl World<'_, '_> {
    /// Decides commands of one kind, all or none of them: the kind's place, `None` if there are no rules for it.
    ///
    /// # Errors
    /// State can't be read.
    pub fn decide(&mut self, command: Option<usize>, turns: &[Turn]) -> Result<Tried, StateError> {
        let plan = self.plan;
        let Some((kind, of)) = command.and_then(|kind| Some((kind, plan.commands.get(kind)?))) else {
            let mut decided = Decided::default();
            self.reject(UNKNOWN_COMMAND, plan.commands.len(), turns, None, &mut decided)?;
            return Ok(Ok(decided));
        };
        let mut failed = Vec::new();
        let env = self.environment(of, turns, &mut failed)?;
        if !failed.is_empty() {
            return Ok(Err(refused(failed)));
        }
        let mut decided = Decided::default();
        let recent = self.recent(kind, turns, &mut decided)?;
        let mut left = self.expected((kind, of), (turns, recent), &env, &mut failed, &mut decided)?;
        for rule in &of.rules {
            if left.is_empty() || !failed.is_empty() {
                break;
            }
            let chosen = match &rule.when {
                None => std::mem::take(&mut left),
                Some(when) => {
                    let of_left = when.predicate.evaluate(&part(&env, &left)?);
                    failed.extend(of_left.failed.into_iter().filter_map(|(at, cause)| Some((*left.get(at)?, cause))));
                    let (mut chosen, mut rest) = (Vec::new(), Vec::new());
                    for (at, of) in left.iter().enumerate() {
                        if of_left.holds.value(at) { chosen.push(*of) } else { rest.push(*of) }
                    }
                    left = rest;
                    chosen
                }
            };
            if chosen.is_empty() || !failed.is_empty() {
                continue;
            }
            let these: Vec<Turn> = chosen.iter().filter_map(|at| turns.get(*at)).copied().collect();
            let env = part(&env, &chosen)?;
            let mut of_chosen = Vec::new();
            match &rule.then {
                Then::Emit(events) => self.emit(events, &these, &env, &mut of_chosen, &mut decided)?,
                Then::Reply(made) => {
                    let columns = self.columns(made, &these, &env, &mut of_chosen)?;
                    self.add(To::Replies, made.kind, columns, &these, 0, &mut decided);
                }
                Then::Reject(why, made) => self.reject(why, kind, &these, Some((made, &env, &mut of_chosen)), &mut decided)?,
            }
            if !of_chosen.is_empty() {
                let of_all = |(at, why): (usize, Refused)| Some((*chosen.get(at)?, why));
                return Ok(Err(of_chosen.into_iter().filter_map(of_all).collect()));
            }
        }
        if !failed.is_empty() {
            return Ok(Err(refused(failed)));
        }
        self.reject_these(NO_RULE, kind, turns, &left, &mut decided)?;
        Ok(Ok(decided))
    }

    /// Rejects a command whose events would break an invariant.
    ///
    /// # Errors
    /// The rejection can't be put together: a bug.
    pub fn violated(&mut self, command: usize, invariant: usize, turn: Turn) -> Result<Decided, StateError> {
        let mut decided = Decided::default();
        let why = self.plan.invariants.get(invariant).map_or("", |invariant| invariant.name.as_str());
        self.reject(why, command, &[turn], None, &mut decided)?;
        decided.pieces.iter_mut().for_each(|piece| piece.to = To::Violated);
        Ok(decided)
    }

    /// The columns that the expressions of a command read.
    fn environment(&mut self, of: &CommandPlan, turns: &[Turn], failed: &mut Failures) -> Result<RecordBatch, StateError> {
        for collection in of.scope.entries() {
            self.rows.find_entries(self.plan, collection, turns, failed)?;
            let wanted = turns.iter().filter_map(|turn| Some((turn.place, self.rows.entry_key(collection, turn)?)));
            self.subjects.load_entries(collection, wanted, self.state)?;
        }
        let (plan, rows, subjects) = (self.plan, &*self.rows, &*self.subjects);
        let subject = |turn: &Turn| subjects.list.get(turn.place);
        of.scope.batch(turns.len(), |part| match part {
            Part::Input(column) => {
                let column = rows.batch.rows.columns().get(column);
                rows.of(column.ok_or_else(|| StateError::new("the batch lacks a column: this is a bug"))?, turns)
            }
            Part::State => {
                let cells: Vec<&Cell> = turns.iter().filter_map(subject).map(|subject| &subject.state).collect();
                plan.state.record(&gather(cells.into_iter())?)
            }
            Part::Entry(collection) => {
                let Some(of) = plan.collections.get(collection) else { return Err(StateError::new("there is no such collection")) };
                let none = Cell { rows: of.none.clone(), row: 0 };
                let of_turn = |turn: &Turn| subjects.entry(turn.place, collection, rows.entry_key(collection, turn)?);
                let cells: Vec<&Cell> = turns.iter().map(|turn| of_turn(turn).unwrap_or(&none)).collect();
                seen_rows(of, &gather(cells.into_iter())?)
            }
            Part::Data | Part::Member(_) | Part::Time => Err(StateError::new("a rule reads no event: this is a bug")),
        })
    }

    /// Rejects commands that may be repeats of forgotten ones; those that are left, by their place.
    fn recent(&mut self, kind: usize, turns: &[Turn], decided: &mut Decided) -> Result<Vec<usize>, StateError> {
        let Some(outcomes) = &self.plan.outcomes else { return Ok((0..turns.len()).collect()) };
        let old = |turn: &Turn| self.rows.causes.own_id(turn.row).is_some() && outcomes.forgotten(self.rows.system.row(turn.row));
        let (old, recent): (Vec<usize>, Vec<usize>) = (0..turns.len()).partition(|at| turns.get(*at).is_some_and(old));
        self.reject_these(TOO_OLD, kind, turns, &old, decided)?;
        Ok(recent)
    }

    /// Rejects those of the commands in `left` whose sender knew another version; those that are left, by their place.
    fn expected(
        &mut self,
        (kind, of): (usize, &CommandPlan),
        (turns, left): (&[Turn], Vec<usize>),
        env: &RecordBatch,
        failed: &mut Failures,
        decided: &mut Decided,
    ) -> Result<Vec<usize>, StateError> {
        let Some(expect) = &of.expect else { return Ok(left) };
        let wanted = expect.evaluate(env, failed)?;
        let Some(wanted) = wanted.as_primitive_opt::<Int64Type>().filter(|_| failed.is_empty()) else { return Ok(left) };
        let mut versions = Vec::with_capacity(turns.len());
        for turn in turns {
            versions.push(self.version(*turn)?);
        }
        let fits = |at: &usize| wanted.is_null(*at) || versions.get(*at) == Some(&wanted.value(*at));
        let (fit, other): (Vec<usize>, Vec<usize>) = left.into_iter().partition(fits);
        self.reject_these(OTHER_VERSION, kind, turns, &other, decided)?;
        Ok(fit)
    }

    /// Rejects those of the commands that are at these places, if any.
    fn reject_these(&mut self, why: &str, kind: usize, turns: &[Turn], these: &[usize], decided: &mut Decided) -> Result<(), StateError> {
        let these: Vec<Turn> = these.iter().filter_map(|at| turns.get(*at)).copied().collect();
        if these.is_empty() { Ok(()) } else { self.reject(why, kind, &these, None, decided) }
    }

    fn version(&self, turn: Turn) -> Result<i64, StateError> {
        let missing = || StateError::new("an aggregate was not read: this is a bug");
        let cell = &self.subjects.list.get(turn.place).ok_or_else(missing)?.state;
        self.plan.state.version(cell).ok_or_else(missing)
    }

    /// Lets commands lead to events, one after the other.
    fn emit(
        &mut self,
        events: &[Made],
        turns: &[Turn],
        env: &RecordBatch,
        wrong: &mut Vec<(usize, Refused)>,
        decided: &mut Decided,
    ) -> Result<(), StateError> {
        // What is decided follows from the state before, whatever the events before do to it.
        let mut all = Vec::with_capacity(events.len());
        for made in events {
            all.push(self.columns(made, turns, env, wrong)?);
        }
        if !wrong.is_empty() {
            return Ok(());
        }
        let mut hand = Hand::new(turns.iter().map(|turn| turn.place).collect(), self.subjects);
        let times = turns.iter().map(|turn| self.rows.system.row(turn.row).time);
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values(times).with_timezone("UTC"));
        for (number, (made, columns)) in events.iter().zip(all).enumerate() {
            let Some(event) = self.plan.events.get(made.kind) else { continue };
            let data: ArrayRef = Arc::new(structure(&event.columns, columns.clone(), None)?);
            self.add(To::Emitted, made.kind, columns, turns, number, decided);
            let Some(piece) = decided.pieces.last_mut() else { continue };
            let correlations = StringArray::from_iter_values(turns.iter().map(|turn| self.rows.causes.correlation(turn.row)));
            // Nobody else reads them.
            let kept = self.plan.keeps_causes();
            let own = StringArray::from_iter_values(piece.ids.iter().filter(|_| kept).map(Uuid::to_string));
            let happened = Happened { event, data, times: times.clone(), causes: [Arc::new(correlations), Arc::new(own)] };
            let before = if self.steps { hand.states.clone() } else { Vec::new() };
            let mut failed = Vec::new();
            apply(self.plan, self.subjects, self.state, &mut hand, &happened, &mut failed)?;
            if !failed.is_empty() {
                wrong.extend(refused(failed));
                return Ok(());
            }
            checks(self.plan, &hand, &happened, wrong)?;
            if !wrong.is_empty() {
                return Ok(());
            }
            let steps = turns.iter().zip(before).zip(&hand.states);
            decided.steps.extend(steps.map(|((turn, before), after)| Step { turn: *turn, number, before, after: after.clone() }));
        }
        decided.hands.push((hand, turns.to_vec()));
        Ok(())
    }

    /// The columns of events that a rule makes: those of the key, and those that it gives.
    fn columns(
        &mut self,
        made: &Made,
        turns: &[Turn],
        env: &RecordBatch,
        wrong: &mut Vec<(usize, Refused)>,
    ) -> Result<Vec<ArrayRef>, StateError> {
        let mut columns = self.keys(turns)?;
        let mut failed = Vec::new();
        if let Some(kind) = self.plan.replies.types().get(made.kind) {
            complete(&mut columns, &kind.columns, turns.len(), Some((made, env)), &mut failed)?;
        }
        wrong.extend(refused(failed));
        Ok(columns)
    }

    fn keys(&self, turns: &[Turn]) -> Result<Vec<ArrayRef>, StateError> {
        self.rows.keys.iter().map(|column| self.rows.of(column, turns)).collect()
    }

    /// Rejects commands of a kind.
    fn reject(
        &mut self,
        why: &str,
        kind: usize,
        turns: &[Turn],
        with: Option<(&Made, &RecordBatch, &mut Vec<(usize, Refused)>)>,
        decided: &mut Decided,
    ) -> Result<(), StateError> {
        let mut columns = self.keys(turns)?;
        columns.push(Arc::new(StringArray::from_iter_values(turns.iter().map(|_| why))));
        let commands: ArrayRef = Arc::new(self.rows.commands.clone());
        columns.push(self.rows.of(&commands, turns)?);
        let kind = self.plan.events.len() + kind;
        let mut failed = Vec::new();
        if let Some(of) = self.plan.replies.types().get(kind) {
            let made = with.as_ref().map(|(made, env, _)| (*made, *env));
            complete(&mut columns, &of.columns, turns.len(), made, &mut failed)?;
        }
        if let Some((_, _, wrong)) = with {
            wrong.extend(refused(failed));
        }
        self.add(To::Rejected, kind, columns, turns, 0, decided);
        Ok(())
    }

    /// Adds events, the `number`-th of each command. Those that happen have the version that they lead to, others that of the aggregate.
    fn add(&self, to: To, kind: usize, columns: Vec<ArrayRef>, turns: &[Turn], number: usize, decided: &mut Decided) {
        let name = self.plan.replies.types().get(kind).map_or("", |kind| kind.name.as_str());
        let mut piece = Piece { columns, ..Piece::new(to, kind, number) };
        let happened = if to == To::Emitted { number as i64 + 1 } else { 0 };
        for turn in turns {
            let sequence = self.version(*turn).unwrap_or_default().saturating_add(happened);
            let key = self.subjects.list.get(turn.place).map_or(&[][..], |subject| subject.key.as_slice());
            let id = event_id(self.plan, self.rows.cause(turn.row), key, name, (number, sequence));
            piece.push(*turn, self.rows.system.row(turn.row).time, id, sequence);
        }
        decided.pieces.push(piece);
    }
}

/// The id of the `number`-th event, of this type and with this sequence, that a command led to. `cause`: the command's id, and which of the
/// commands with it this one is.
pub fn event_id(plan: &AggregatePlan, cause: (&str, u64), key: &[u8], kind: &str, (number, sequence): (usize, i64)) -> Uuid {
    let [of_cause, number] = [cause.1, number as u64].map(u64::to_be_bytes);
    plan.ids.of(cause.0, &[&of_cause, key, kind.as_bytes(), &number, &sequence.to_be_bytes()])
}

/// Aggregates of the hand that what happened can't happen to: the event can't be written, a timer can't be set, or an invariant does not
/// hold.
///
/// # Errors
/// They are not rows of the state: a bug.
pub fn checks(plan: &AggregatePlan, hand: &Hand, happened: &Happened<'_>, wrong: &mut Vec<(usize, Refused)>) -> Result<(), StateError> {
    wrong.extend(refused(happened.unwritable()));
    unset(plan, hand, wrong)?;
    if plan.invariants.is_empty() {
        return Ok(());
    }
    let record = plan.state.record(&gather(hand.states.iter())?)?;
    for (number, invariant) in plan.invariants.iter().enumerate() {
        let env = invariant.scope.batch(record.len(), |_| Ok(record.clone()))?;
        let holds = invariant.condition.predicate.evaluate(&env).holds;
        wrong.extend((0..holds.len()).filter(|at| !holds.value(*at)).map(|at| (at, Refused::Violates(number))));
    }
    Ok(())
}

/// These rows of a batch.
fn part(rows: &RecordBatch, these: &[usize]) -> Result<RecordBatch, StateError> {
    if these.len() == rows.num_rows() {
        return Ok(rows.clone());
    }
    let these = UInt32Array::from_iter_values(these.iter().map(|at| *at as u32));
    take_record_batch(rows, &these).map_err(|e| StateError::new(format!("rows of a batch: {e}")))
}
