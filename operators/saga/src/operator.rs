//! `saga` as an operator: rows and timers into events of the machine, its effects into commands, events and state.
//!
//! ```text
//! row, timer -> the saga's event -> machine -> effects wait -> `with` is computed over all that wait -> rows of the ports
//!                                      ^--- a command that can't be computed is an event, too ---'
//! ```
//!
//! The machine runs row by row; expressions are computed for all effects of a batch at once. A row of a saga whose effects wait makes them
//! come first, so that the answer is the same however rows are batched.
//!
//! State: the definitions that sagas began with, by version; the sagas by id; what is kept of their starting rows. One timer per saga, for the
//! first of its deadlines.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, StringArray};
use arrow::datatypes::Fields;
use operator_core::batch::SystemRow;
use operator_core::stores::{KeyedRow, KeyedRows};
use operator_core::{Batch, Context, Input, Operator, State, StateError, Time, Timer, TimerKind};

use crate::answers::Answers;
use crate::codec::Kept;
use crate::definition::{Definition, Step};
use crate::machine::{Event, Ignored, Instance, Place};
use crate::outputs::{Cause, text_of};
use crate::plan::{InputPlan, SagaPlan};
use crate::program::{Program, texts};
use crate::repairs::{self, COMPENSATE, RETRY, SKIP, reason};
use crate::start::{Begun, begun};
use crate::turn::{Live, Turn};

/// The places of the inputs.
const START: usize = 0;
const REPLIES: usize = 1;

/// One `saga` step in one partition.
pub struct SagaOperator {
    plan: Arc<SagaPlan>,
    stores: Stores,
    /// Definitions by version: that of the pipeline, and those in state once they were read.
    programs: BTreeMap<String, Arc<Program>>,
    loaded: bool,
    /// The definition of the pipeline is in state.
    is_kept: bool,
}

/// What the step keeps.
pub struct Stores {
    pub definitions: KeyedRows,
    pub instances: KeyedRows,
    pub kept: KeyedRows,
    pub answers: KeyedRows,
    /// A definition keeps answers: those of a saga are read with it.
    has_answers: bool,
}

impl Stores {
    pub fn new(kept: &Fields) -> Stores {
        let [definitions, instances, kept, answers] = SagaPlan::stores(kept);
        Stores { definitions, instances, kept, answers, has_answers: false }
    }

    /// The definitions that sagas began with, by version. The version is that under which a definition was stored: another version of the
    /// program may write the same definition as another text.
    pub fn versions(&self, state: &dyn State) -> Result<BTreeMap<String, Definition>, StateError> {
        let (mut versions, mut failure) = (BTreeMap::new(), None);
        self.definitions.rows(&[], state, &mut |row| {
            match (text_of(row.id), serde_json::from_slice(row.row)) {
                (Some(version), Ok(definition)) => drop(versions.insert(version.to_string(), definition)),
                (_, Err(e)) => failure = Some(e.to_string()),
                (None, _) => failure = Some("its version is not a text".into()),
            }
            failure.is_none()
        })?;
        let unreadable = |e| StateError::new(format!("the definition of a saga in state can't be read: {e}"));
        failure.map_or(Ok(versions), |e| Err(unreadable(e)))
    }

    /// The saga under `key`.
    pub fn live(&self, key: &[u8], cx: &mut Context<'_>) -> Result<Option<Live>, StateError> {
        let mut bytes = Vec::new();
        if self.instances.get(key, &[], cx.state(), &mut bytes)?.is_none() {
            return Ok(None);
        }
        let kept = Kept::read(&bytes)?;
        // Without transactions a crash can leave a saga without what is kept of its starting row. That row comes again, and begins it.
        if self.kept.get(key, &[], cx.state(), &mut bytes)?.is_none() {
            return Ok(None);
        }
        let mut answers = BTreeMap::new();
        if self.has_answers {
            self.answers.rows(key, cx.state(), &mut |answer| {
                answers.insert(answer.id.to_vec(), answer.row.to_vec());
                true
            })?;
        }
        Ok(Some(Live::new(key, kept, bytes, answers)))
    }
}

/// Which event each row is, and of which saga.
struct Rows<'a> {
    input: &'a InputPlan,
    ids: StringArray,
    types: Option<StringArray>,
    causations: Option<StringArray>,
    users: Option<StringArray>,
    reasons: Option<StringArray>,
    steps: Option<StringArray>,
}

impl<'a> Rows<'a> {
    fn new(input: &'a InputPlan, batch: &Batch) -> Result<Rows<'a>, StateError> {
        let column = |path: &operator_core::Path| {
            let values = path.values(input.schema.fields(), batch.rows.columns());
            let values = values.ok_or_else(|| StateError::new("the batch lacks a column of the saga: this is a bug"))?;
            texts(&values)
        };
        let optional = |path: &Option<operator_core::Path>| path.as_ref().map(column).transpose();
        let (types, causations) = (optional(&input.event_type)?, optional(&input.causation)?);
        let (users, reasons, steps) = (optional(&input.user)?, optional(&input.reason)?, optional(&input.step)?);
        Ok(Rows { input, ids: column(&input.id)?, types, causations, users, reasons, steps })
    }

    fn id(&self, row: usize) -> Option<&str> {
        at(Some(&self.ids), row)
    }

    fn event_type(&self, row: usize) -> Option<&str> {
        at(self.types.as_ref(), row)
    }
}

fn at(texts: Option<&StringArray>, row: usize) -> Option<&str> {
    texts.filter(|texts| row < texts.len() && texts.is_valid(row)).map(|texts| texts.value(row))
}

impl SagaOperator {
    pub fn new(plan: Arc<SagaPlan>) -> SagaOperator {
        let stores = Stores::new(&plan.scope.kept);
        let programs = BTreeMap::from([(plan.program.version.clone(), plan.program.clone())]);
        SagaOperator { plan, stores, programs, loaded: false, is_kept: false }
    }

    /// Reads the definitions of earlier versions.
    fn load(&mut self, cx: &mut Context<'_>) -> Result<(), StateError> {
        if self.loaded {
            return Ok(());
        }
        for (version, definition) in self.stores.versions(cx.state())? {
            if !self.programs.contains_key(&version) {
                let mut program = Program::compile(version.clone(), definition, &self.plan.scope, &mut Vec::new());
                program.bind(false, &self.plan.commands, &self.plan.ended);
                self.programs.insert(version, Arc::new(program));
            }
        }
        self.stores.has_answers = self.programs.values().any(|program| program.definition.steps.iter().any(Step::keeps));
        self.loaded = true;
        Ok(())
    }

    /// Keeps the definition of the pipeline beside the first saga that begins with it.
    fn keep_definition(&mut self, cx: &mut Context<'_>) -> Result<(), StateError> {
        if std::mem::replace(&mut self.is_kept, true) {
            return Ok(());
        }
        let program = &self.plan.program;
        let key = crate::outputs::key(&program.version);
        let mut known = Vec::new();
        if self.stores.definitions.get(&[], &key, cx.state(), &mut known)?.is_some() {
            return Ok(());
        }
        let text = serde_json::to_vec(&program.definition).map_err(|e| StateError::new(e.to_string()))?;
        self.stores.definitions.put(&[], &KeyedRow { id: &key, time: 0, row: &text }, cx.state())
    }

    /// Rows that begin sagas.
    fn start(&mut self, batch: &Batch, turn: &mut Turn<'_>, cx: &mut Context<'_>) -> Result<(), StateError> {
        let plan = self.plan.clone();
        let rows = Rows::new(&plan.inputs[START], batch)?;
        let causes = rows.input.causes.of(rows.input.schema.fields(), batch)?;
        let (system, begun) = (batch.system()?, begun(&plan, batch, &rows.ids)?);
        for (row, begun) in begun.into_iter().enumerate() {
            let Some(id) = rows.id(row).filter(|id| !id.is_empty()) else {
                cx.reject(batch, row, if rows.id(row).is_some() { "the saga's id is empty" } else { "the saga's id is null" });
                continue;
            };
            let cause = Cause { system: system.row(row), id: causes.id(row).to_string() };
            let key = crate::outputs::key(id);
            if let Some(place) = turn.find(&key, &self.stores, cx)? {
                let same = begun.is_ok_and(|begun| turn.is_repeat(place, &begun));
                let why = if same { "a saga of this id has begun before" } else { "a saga of this id has begun before, from another row" };
                turn.ignore(Some(id), START, None, why, &cause.system, cx);
                continue;
            }
            match begun {
                Err(why) => cx.reject(batch, row, why),
                Ok(Begun { lines, kept }) => {
                    let live = Live::begin(&key, id, &plan.program, Instance::new(lines), kept);
                    if let Some(why) = live.too_large() {
                        cx.reject(batch, row, why);
                        continue;
                    }
                    self.keep_definition(cx)?;
                    let place = turn.add(live);
                    // A saga that has just begun ignores nothing.
                    let _ = turn.apply(place, &plan.program, Event::Begin, &cause);
                    turn.passed += 1;
                }
            }
        }
        Ok(())
    }

    /// Answers of participants.
    fn replies(&self, batch: &Batch, turn: &mut Turn<'_>, cx: &mut Context<'_>) -> Result<(), StateError> {
        let rows = Rows::new(&self.plan.inputs[REPLIES], batch)?;
        let causes = rows.input.causes.of(rows.input.schema.fields(), batch)?;
        let system = batch.system()?;
        let mut answers = Answers::default();
        for row in 0..batch.num_rows() {
            // Participants answer others, too.
            let what = rows.event_type(row).filter(|what| self.programs.values().any(|program| program.definition.said(what).is_some()));
            let Some(what) = what else {
                cx.filtered(1);
                continue;
            };
            let cause = Cause { system: system.row(row), id: causes.id(row).to_string() };
            let live = match rows.id(row) {
                Some(id) => turn.find(&crate::outputs::key(id), &self.stores, cx)?,
                None => None,
            };
            let Some(place) = live else {
                turn.ignore(rows.id(row), REPLIES, Some(what), repairs::UNKNOWN, &cause.system, cx);
                continue;
            };
            let program = self.program(turn, place)?;
            let Some((step, said)) = program.definition.said(what) else {
                turn.ignore(rows.id(row), REPLIES, Some(what), reason(Ignored::Unexpected), &cause.system, cx);
                continue;
            };
            let (line, kept) = match answers.of(&program, (step, said), batch, row)? {
                Ok(answer) => answer,
                Err(why) => {
                    cx.reject(batch, row, why);
                    continue;
                }
            };
            turn.settle(place, &self.programs)?;
            let at = turn.place_of(place, step, line.as_deref());
            let done = match at {
                Some(at) => {
                    let number = self::at(rows.causations.as_ref(), row).and_then(|id| turn.number(place, &program, (at, said), id));
                    let done = turn.apply(place, &program, Event::Answer { at, said, number, what }, &cause);
                    if let (Some(kept), Ok(()) | Err(Ignored::Repeat)) = (kept, done) {
                        turn.keep(place, &program, at, kept, done.is_err());
                    }
                    done.map_err(reason)
                }
                None => Err("the saga has no such line"),
            };
            match done {
                Ok(()) => turn.passed += 1,
                Err(why) => turn.ignore(rows.id(row), REPLIES, Some(what), why, &cause.system, cx),
            }
        }
        Ok(())
    }

    /// What people do about sagas.
    fn repairs(&self, batch: &Batch, turn: &mut Turn<'_>, cx: &mut Context<'_>) -> Result<(), StateError> {
        const REPAIRS: usize = 2;
        let rows = Rows::new(&self.plan.inputs[REPAIRS], batch)?;
        let causes = rows.input.causes.of(rows.input.schema.fields(), batch)?;
        let system = batch.system()?;
        for row in 0..batch.num_rows() {
            let (what, cause) = (rows.event_type(row), Cause { system: system.row(row), id: causes.id(row).to_string() });
            let by = [at(rows.users.as_ref(), row), at(rows.reasons.as_ref(), row)].into_iter().flatten().collect::<Vec<_>>().join(": ");
            let why = format!("by hand: {by}");
            let live = match rows.id(row) {
                Some(id) => turn.find(&crate::outputs::key(id), &self.stores, cx)?,
                None => None,
            };
            let done = match live {
                _ if !matches!(what, Some(RETRY | SKIP | COMPENSATE)) => Err(repairs::NO_REPAIR),
                None => Err(repairs::UNKNOWN),
                Some(place) => {
                    let program = self.program(turn, place)?;
                    turn.settle(place, &self.programs)?;
                    let event = repairs::event(&program.definition, what.unwrap_or_default(), at(rows.steps.as_ref(), row), &why);
                    event.and_then(|event| turn.apply(place, &program, event, &cause).map_err(reason))
                }
            };
            match done {
                Ok(()) => turn.passed += 1,
                Err(why) => turn.ignore(rows.id(row), REPAIRS, what, why, &cause.system, cx),
            }
        }
        Ok(())
    }

    /// The definition that a saga began with.
    fn program(&self, turn: &Turn<'_>, place: usize) -> Result<Arc<Program>, StateError> {
        turn.program(place, &self.programs)
    }
}

impl Operator for SagaOperator {
    fn on_batch(&mut self, input: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.load(cx)?;
        let plan = self.plan.clone();
        let mut turn = Turn::new(&plan, cx.timers().now());
        match usize::from(input.0) {
            START => self.start(batch, &mut turn, cx)?,
            REPLIES => self.replies(batch, &mut turn, cx)?,
            _ => self.repairs(batch, &mut turn, cx)?,
        }
        turn.finish(&self.stores, &self.programs, cx)
    }

    fn on_timer(&mut self, timer: &Timer, time: Time, cx: &mut Context<'_>) -> Result<(), StateError> {
        if timer.kind != TimerKind::Wall {
            return Err(StateError::new("a timer of event time is due, and a saga sets none"));
        }
        self.load(cx)?;
        let plan = self.plan.clone();
        let mut turn = Turn::new(&plan, time.wall.max(timer.time));
        // Without transactions state can have the timer of a saga that is gone.
        let Some(place) = turn.find(&timer.key, &self.stores, cx)? else { return Ok(()) };
        let program = self.program(&turn, place)?;
        let system = SystemRow { time: timer.time, watermark: time.emitted, offset: -1, future: false, change: 1 };
        turn.fired(place, timer.time);
        while let Some(at) = turn.overdue(place, timer.time) {
            let cause = Cause { system, id: turn.last_command(place, &program, at) };
            let _ = turn.apply(place, &program, Event::Due { at }, &cause);
        }
        turn.forget(place, timer.time, &system);
        turn.finish(&self.stores, &self.programs, cx)
    }

    fn on_restore(&mut self) {
        // Of the definitions only the pipeline's own is certain; those in state are read again.
        self.programs.retain(|version, _| *version == self.plan.program.version);
        (self.loaded, self.is_kept) = (false, false);
    }
}

/// Where a task is, by the name of its line.
pub fn task_of(instance: &Instance, step: usize, line: Option<&str>) -> Option<Place> {
    let tasks = instance.steps.get(step)?;
    let line = tasks.iter().position(|task| task.line == line.unwrap_or_default())?;
    Some(Place { step, line })
}
