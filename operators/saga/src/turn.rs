//! One call of the operator: the sagas that it touches, the effects that wait, the rows that come out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use operator_core::batch::SystemRow;
use operator_core::changes::{ADDED, GONE};
use operator_core::stores::{KeyedRow, too_large};
use operator_core::{Context, Millis, Port, StateError, TimerKind};
use operator_event::{EventRows, Uuid};

use crate::codec::Kept;
use crate::definition::{Call, Said};
use crate::machine::{Effect, Event, Ignored, Instance, Place, State, Task, step};
use crate::operator::{Stores, task_of};
use crate::outputs::{Cause, IgnoredRows, States, StuckRow, StuckRows, View, answer_key, text_of};
use crate::plan::SagaPlan;
use crate::program::Program;
use crate::spec::INPUTS;
use crate::start::Begun;

const COMMANDS: Port = Port(0);
const ENDED: Port = Port(1);
const STATES: Port = Port(2);
const STUCK: Port = Port(3);
const IGNORED: Port = Port(4);

/// A saga in memory.
pub struct Live {
    key: Vec<u8>,
    pub id: String,
    pub kept: Kept,
    /// What was kept of its starting row.
    pub row: Vec<u8>,
    /// What was kept of answers, by step and line ([`answer_key`]), and what of it is new.
    pub answers: BTreeMap<Vec<u8>, Vec<u8>>,
    fresh: Vec<Vec<u8>>,
    is_new: bool,
    changed: bool,
    forgotten: bool,
    /// Effects that wait.
    pub waiting: usize,
}

/// An effect that waits.
pub struct Pending {
    pub live: usize,
    pub effect: Effect,
    pub cause: Cause,
    pub sequence: i64,
    /// Why the saga was compensated, by then.
    pub why: Option<String>,
    /// Where its row comes among those of its port.
    pub place: u64,
}

/// One call.
pub struct Turn<'p> {
    pub plan: &'p SagaPlan,
    now: Millis,
    by_key: HashMap<Vec<u8>, usize>,
    pub lives: Vec<Live>,
    pub pending: Vec<Pending>,
    places: u64,
    pub commands: EventRows<'p>,
    pub ended: EventRows<'p>,
    states: States,
    stuck: StuckRows,
    ignored: IgnoredRows,
    /// Ends that can't be computed.
    pub broken: Vec<(RecordBatch, String)>,
    pub passed: usize,
}

impl Live {
    pub fn new(key: &[u8], kept: Kept, row: Vec<u8>, answers: BTreeMap<Vec<u8>, Vec<u8>>) -> Live {
        let id = text_of(key).unwrap_or_default().to_string();
        Live { key: key.to_vec(), id, kept, row, answers, fresh: Vec::new(), is_new: false, changed: false, forgotten: false, waiting: 0 }
    }

    /// A saga that begins.
    pub fn begin(key: &[u8], id: &str, program: &Program, instance: Instance, row: Vec<u8>) -> Live {
        let kept = Kept { definition: program.version.clone(), instance, sequence: 0, since: 0, timer: None };
        Live { id: id.to_string(), is_new: true, ..Live::new(key, kept, row, BTreeMap::new()) }
    }

    /// Why it can't be kept, if so.
    pub fn too_large(&self) -> Option<String> {
        too_large(&self.key, &[]).or_else(|| self.kept.too_large())
    }
}

impl<'p> Turn<'p> {
    pub fn new(plan: &'p SagaPlan, now: Millis) -> Turn<'p> {
        Turn {
            plan,
            now,
            by_key: HashMap::new(),
            lives: Vec::new(),
            pending: Vec::new(),
            places: 0,
            commands: EventRows::new(&plan.commands),
            ended: EventRows::new(&plan.ended),
            states: States::default(),
            stuck: StuckRows::default(),
            ignored: IgnoredRows::default(),
            broken: Vec::new(),
            passed: 0,
        }
    }

    /// The saga under `key`, if there is one.
    pub fn find(&mut self, key: &[u8], stores: &Stores, cx: &mut Context<'_>) -> Result<Option<usize>, StateError> {
        if let Some(place) = self.by_key.get(key) {
            return Ok(Some(*place));
        }
        Ok(stores.live(key, cx)?.map(|live| self.add(live)))
    }

    pub fn add(&mut self, live: Live) -> usize {
        let place = self.lives.len();
        self.by_key.insert(live.key.clone(), place);
        self.lives.push(live);
        place
    }

    pub fn live(&self, place: usize) -> Result<&Live, StateError> {
        self.lives.get(place).ok_or_else(|| StateError::new("a saga is missing: this is a bug"))
    }

    /// The definition that a saga began with.
    pub fn program(&self, place: usize, programs: &BTreeMap<String, Arc<Program>>) -> Result<Arc<Program>, StateError> {
        let version = &self.live(place)?.kept.definition;
        let missing = || StateError::new(format!("the definition {version}, with which a saga began, is missing in state"));
        programs.get(version).cloned().ok_or_else(missing)
    }

    /// Keeps an answer; one that repeats another only if that is not there.
    pub fn keep(&mut self, place: usize, program: &Program, at: Place, answer: Vec<u8>, repeats: bool) {
        let (Some(live), Some(step)) = (self.lives.get_mut(place), program.definition.steps.get(at.step)) else { return };
        let key = answer_key(&step.name, live.kept.instance.task(at).map_or("", |task| task.line.as_str()));
        if !repeats || !live.answers.contains_key(&key) {
            live.answers.insert(key.clone(), answer);
            live.fresh.push(key);
            live.changed = true;
        }
    }

    /// A row begins the saga that has begun already, with the same lines and the same to keep.
    pub fn is_repeat(&self, place: usize, begun: &Begun) -> bool {
        let Some(live) = self.lives.get(place) else { return false };
        let lines = |tasks: &Vec<Task>| tasks.iter().map(|task| task.line.clone()).collect::<Vec<_>>();
        live.row == begun.kept && live.kept.instance.steps.iter().map(lines).eq(begun.lines.iter().cloned())
    }

    pub fn place_of(&self, place: usize, step: usize, line: Option<&str>) -> Option<Place> {
        task_of(&self.lives.get(place)?.kept.instance, step, line)
    }

    pub fn overdue(&self, place: usize, time: Millis) -> Option<Place> {
        self.lives.get(place)?.kept.instance.overdue(time)
    }

    /// The saga's timer is not set any more.
    pub fn fired(&mut self, place: usize, time: Millis) {
        if let Some(live) = self.lives.get_mut(place).filter(|live| live.kept.timer == Some(time)) {
            (live.kept.timer, live.changed) = (None, true);
        }
    }

    /// Forgets a saga whose time is over.
    pub fn forget(&mut self, place: usize, time: Millis, system: &SystemRow) {
        let Some(live) = self.lives.get_mut(place) else { return };
        live.forgotten = live.kept.instance.has_ended() && live.kept.instance.forget.is_some_and(|forget| forget <= time);
        if live.forgotten {
            let view = View::of(&live.kept, &self.plan.program.definition);
            self.states.push(&live.id, view, GONE, *system);
        }
    }

    pub fn ignore(
        &mut self,
        id: Option<&str>,
        input: usize,
        event: Option<&str>,
        reason: &'static str,
        system: &SystemRow,
        cx: &mut Context<'_>,
    ) {
        cx.filtered(1);
        self.ignored.push(id, INPUTS.get(input).copied().unwrap_or_default(), event, reason, derived(system));
    }

    /// Runs the machine: its effects wait, and what changes in the saga's state is noted.
    ///
    /// # Errors
    /// The event changed nothing.
    pub fn apply(&mut self, place: usize, program: &Program, event: Event<'_>, cause: &Cause) -> Result<(), Ignored> {
        let live = self.lives.get_mut(place).ok_or(Ignored::Unexpected)?;
        let before = (!(live.is_new && event == Event::Begin)).then(|| View::of(&live.kept, &program.definition));
        let mut effects = Vec::new();
        step(&program.definition, &mut live.kept.instance, event, self.now, &mut effects)?;
        live.changed = true;
        let system = derived(&cause.system);
        let mut after = View::of(&live.kept, &program.definition);
        if before.as_ref().is_none_or(|before| (before.status, &before.step) != (after.status, &after.step)) {
            (live.kept.since, after.since) = (system.time, system.time);
        }
        if before.as_ref() != Some(&after) {
            if let Some(before) = before {
                self.states.push(&live.id, before, GONE, system);
            }
            self.states.push(&live.id, after, ADDED, system);
        }
        for effect in effects {
            if let Effect::Stuck { at } = effect {
                let task = live.kept.instance.task(at);
                let row = StuckRow {
                    step: program.definition.steps.get(at.step).map_or_else(String::new, |step| step.name.clone()),
                    line: task.map(|task| task.line.clone()).filter(|line| !line.is_empty()),
                    attempts: task.map_or(0, |task| task.undos),
                    definition: program.version.clone(),
                    cause: live.kept.instance.trouble.clone(),
                };
                self.stuck.push(&live.id, row, system);
                continue;
            }
            live.kept.sequence += 1;
            live.waiting += 1;
            let why = Some(live.kept.instance.cause.clone()).filter(|why| !why.is_empty());
            let (cause, sequence) = (Cause { system, id: cause.id.clone() }, live.kept.sequence as i64);
            self.pending.push(Pending { live: place, effect, cause, sequence, why, place: self.places });
            self.places += 1;
        }
        Ok(())
    }

    /// Lets the effects of a saga come first, before something else happens to it.
    pub fn settle(&mut self, place: usize, programs: &BTreeMap<String, Arc<Program>>) -> Result<(), StateError> {
        if self.live(place)?.waiting > 0 { self.flush(programs) } else { Ok(()) }
    }

    /// The id of a command.
    pub fn command_id(&self, id: &str, program: &Program, instance: &Instance, at: Place, call: Call, number: u32) -> Uuid {
        let step = program.definition.steps.get(at.step).map_or("", |step| step.name.as_str());
        let line = instance.task(at).map_or("", |task| task.line.as_str());
        self.plan.ids.of(id, &[step.as_bytes(), line.as_bytes(), &[call as u8], &number.to_be_bytes()])
    }

    /// Which of a task's questions, or undos, the command with the id `causation` is.
    pub fn number(&self, place: usize, program: &Program, (at, said): (Place, Said), causation: &str) -> Option<u32> {
        let live = self.lives.get(place)?;
        let task = live.kept.instance.task(at)?;
        let (call, sent) = match said {
            Said::NotFound => (Call::Ask, task.asks),
            Said::Undone | Said::NotUndone => (Call::Undo, task.undos),
            Said::Done | Said::Failed => return None,
        };
        let is_it = |number: &u32| self.command_id(&live.id, program, &live.kept.instance, at, call, *number).to_string() == causation;
        (1..=sent).rev().find(is_it)
    }

    /// The id of the command that a task waits for.
    pub fn last_command(&self, place: usize, program: &Program, at: Place) -> String {
        let Some(live) = self.lives.get(place) else { return String::new() };
        let task = live.kept.instance.task(at);
        let call = match task.map(|task| task.state) {
            Some(State::Asked | State::AskPausing) => Call::Ask,
            Some(State::Undoing | State::UndoPausing) => Call::Undo,
            _ => Call::Do,
        };
        let number = task.map_or(0, |task| task.attempts());
        self.command_id(&live.id, program, &live.kept.instance, at, call, number).to_string()
    }

    /// Computes what still waits, writes what changed, and emits all rows.
    pub fn finish(mut self, stores: &Stores, programs: &BTreeMap<String, Arc<Program>>, cx: &mut Context<'_>) -> Result<(), StateError> {
        self.flush(programs)?;
        let mut bytes = Vec::new();
        for live in self.lives.iter_mut().filter(|live| live.changed || live.forgotten) {
            let due = live.kept.instance.due().filter(|_| !live.forgotten);
            if due != live.kept.timer {
                if let Some(set) = live.kept.timer {
                    cx.timers().delete(set, TimerKind::Wall, &live.key)?;
                }
                if let Some(due) = due {
                    cx.timers().set(due, TimerKind::Wall, &live.key)?;
                }
                live.kept.timer = due;
            }
            if live.forgotten {
                stores.instances.delete(&live.key, &[], cx.state())?;
                stores.kept.delete(&live.key, &[], cx.state())?;
                for answer in live.answers.keys() {
                    stores.answers.delete(&live.key, answer, cx.state())?;
                }
                continue;
            }
            bytes.clear();
            live.kept.put(&mut bytes);
            stores.instances.put(&live.key, &KeyedRow { id: &[], time: live.kept.since, row: &bytes }, cx.state())?;
            for id in live.fresh.drain(..) {
                let row = live.answers.get(&id).map_or(&[][..], Vec::as_slice);
                stores.answers.put(&live.key, &KeyedRow { id: &id, time: live.kept.since, row }, cx.state())?;
            }
            if live.is_new {
                stores.kept.put(&live.key, &KeyedRow { id: &[], time: live.kept.since, row: &live.row }, cx.state())?;
            }
        }
        cx.pass(COMMANDS, self.commands.finish()?, self.passed);
        cx.emit(ENDED, self.ended.finish()?);
        cx.emit(STATES, self.states.finish(&self.plan.states)?);
        cx.emit(STUCK, self.stuck.finish(&self.plan.stuck)?);
        cx.emit(IGNORED, self.ignored.finish(&self.plan.ignored)?);
        for (row, why) in self.broken {
            cx.reject_result(row, why, 0);
        }
        Ok(())
    }
}

/// A row that the step makes has no place in its input.
fn derived(system: &SystemRow) -> SystemRow {
    SystemRow { offset: -1, change: ADDED, ..*system }
}
