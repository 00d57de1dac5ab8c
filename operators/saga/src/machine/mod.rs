//! The machine: one pure function from (definition, instance, event) to the instance afterwards and what is to happen.
//!
//! ```text
//! task      waiting -> sent -> done                           compensation   done, unknown -> undoing -> undone
//!                      sent -> pausing -> sent (next attempt)                                undoing -> pausing -> undoing
//!                      sent -> asked -> done, failed, pausing                                undoing -> stuck
//!                      sent, asked -> unknown, failed         never sent     waiting -> skipped
//! instance  running -> completed
//!           running -> compensating -> compensated             stuck: compensating, and a task is stuck
//! ```
//!
//! A task is one command of a step: the step itself, or one of its lines. It knows no I/O, no SQL and no clock: what time it is comes with the
//! event. The operator runs it, and the model checker ([`crate::check`]) explores it; there is no second one.
//!
//! What makes answers harmless that are late, doubled or in another order:
//!
//! * An answer counts by what its task is waiting for, not by when it was sent: a second `done` finds its task done.
//! * A task that failed after more than one attempt, or that was in flight when compensation began, is of unknown outcome: it is undone, too.
//! * A `done` for a task that is being undone, or was, leads to its undo once more: the effect may have come after the first one.
//! * That nothing is known of a command counts only as the answer to the last question, and that an undo failed only as the answer to the last
//!   undo, if it is known which one it is about ([`Event::Answer`]'s `number`).

mod forward;
mod repair;
mod state;
mod undo;

use operator_core::Millis;

use crate::definition::{Call, Definition, Said};

pub use state::{Phase, State, Status};

/// Bytes of a cause or a trouble, at most: they are in state, in every row of `state` and in the event of the end.
pub const LONGEST_TEXT: usize = 1_000;

/// One command of a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// What tells it from the other lines; empty for a step without lines.
    pub line: String,
    pub state: State,
    /// Commands, questions and undos sent so far: the numbers of the last ones.
    pub attempt: u32,
    pub asks: u32,
    pub undos: u32,
    /// Questions, or undos, in a row that failed.
    pub failures: u32,
    /// A `done` came when this many undos were sent: their answers do not say that the effect is gone.
    pub stale: u32,
    /// The order in which tasks became done, or of unknown outcome; 0 for those that did not.
    pub order: u32,
    /// When it is waited for no longer.
    pub due: Option<Millis>,
}

/// A saga on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    pub phase: Phase,
    /// The tasks of each step.
    pub steps: Vec<Vec<Task>>,
    /// The largest order so far.
    pub order: u32,
    /// Its end was announced.
    pub told: bool,
    /// Why it is compensated; empty while it is not.
    pub cause: String,
    /// Why it is stuck; empty while it is not.
    pub trouble: String,
    /// When it is forgotten.
    pub forget: Option<Millis>,
}

/// What happens to a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event<'a> {
    Begin,
    /// An answer, called `what`. `number`: which of the task's questions, or undos, it is about, if that is known.
    Answer {
        at: Place,
        said: Said,
        number: Option<u32>,
        what: &'a str,
    },
    /// The task's time is up.
    Due {
        at: Place,
    },
    /// The command can't be computed.
    Broken {
        at: Place,
        call: Call,
        why: &'a str,
    },
    /// `saga.retry`: what is waited for, of one step or of all, is sent again at once.
    Retry {
        step: Option<usize>,
    },
    /// `saga.skip`: what is waited for was done by hand, or taken back. Without a step: what is stuck.
    Skip {
        step: Option<usize>,
    },
    /// `saga.compensate`.
    Compensate {
        why: &'a str,
    },
}

/// A task: its step and its place among the step's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub step: usize,
    pub line: usize,
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// A command: the `number`-th of its kind for this task.
    Send { at: Place, call: Call, number: u32 },
    /// The saga has ended, in [`Phase::Completed`] or [`Phase::Compensated`]. Once per saga.
    End(Phase),
    /// The undo of this task was given up.
    Stuck { at: Place },
}

/// Why an event changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// The saga has ended.
    Ended,
    /// The same was said before.
    Repeat,
    /// It is too late to matter.
    Late,
    /// Nothing was asked that this answers.
    Unexpected,
    /// The saga is compensated already.
    Compensating,
    /// The saga does not wait for this step.
    NotWaiting,
    /// What is not stuck is skipped by its name only.
    NameStep,
    /// The participant would carry the command out twice.
    NotIdempotent,
    /// Later steps need what this one answers.
    Needed,
}

impl Task {
    pub fn new(line: String) -> Task {
        let (attempt, asks, undos, failures, stale, order) = (0, 0, 0, 0, 0, 0);
        Task { line, state: State::Waiting, attempt, asks, undos, failures, stale, order, due: None }
    }

    /// A command was sent and its outcome is not known yet.
    pub fn in_flight(&self) -> bool {
        matches!(self.state, State::Sent | State::Pausing | State::Asked | State::AskPausing)
    }

    /// It is being undone, or its undo was given up.
    pub fn in_undo(&self) -> bool {
        matches!(self.state, State::Undoing | State::UndoPausing | State::Stuck)
    }

    /// The number of the command that it waits for.
    pub fn attempts(&self) -> u32 {
        match self.state {
            State::Asked | State::AskPausing => self.asks,
            _ if self.in_undo() || self.state == State::Undone => self.undos,
            _ => self.attempt,
        }
    }

    fn settle(&mut self, state: State) {
        (self.state, self.due, self.failures) = (state, None, 0);
    }
}

impl Instance {
    /// A saga that has not begun. `lines`: for each step, what its tasks are called.
    pub fn new(lines: impl IntoIterator<Item = Vec<String>>) -> Instance {
        let steps = lines.into_iter().map(|lines| lines.into_iter().map(Task::new).collect()).collect();
        let (cause, trouble) = Default::default();
        Instance { phase: Phase::Running, steps, order: 0, told: false, cause, trouble, forget: None }
    }

    pub fn task(&self, at: Place) -> Option<&Task> {
        self.steps.get(at.step)?.get(at.line)
    }

    fn task_mut(&mut self, at: Place) -> Option<&mut Task> {
        self.steps.get_mut(at.step)?.get_mut(at.line)
    }

    /// All tasks with their places.
    pub fn tasks(&self) -> impl Iterator<Item = (Place, &Task)> {
        let of = |(step, tasks): (usize, &'_ Vec<Task>)| (0..tasks.len()).map(move |line| Place { step, line }).collect::<Vec<_>>();
        self.steps.iter().enumerate().flat_map(of).filter_map(|at| Some((at, self.task(at)?)))
    }

    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Running => Status::Running,
            Phase::Completed => Status::Completed,
            Phase::Compensated => Status::Compensated,
            Phase::Compensating if self.tasks().any(|(_, task)| task.state == State::Stuck) => Status::Stuck,
            Phase::Compensating => Status::Compensating,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Completed | Phase::Compensated)
    }

    /// When something is to be done about it, if nothing happens before.
    pub fn due(&self) -> Option<Millis> {
        self.tasks().filter_map(|(_, task)| task.due).chain(self.forget).min()
    }

    /// The task whose time was up first, at `time` or before.
    pub fn overdue(&self, time: Millis) -> Option<Place> {
        let due = self.tasks().filter_map(|(at, task)| Some((task.due.filter(|due| *due <= time)?, at)));
        due.min().map(|(_, at)| at)
    }

    /// The tasks that keep it from going on, in their order.
    pub fn active(&self) -> impl Iterator<Item = (Place, &Task)> {
        self.tasks().filter(|(_, task)| task.in_flight() || task.in_undo())
    }

    fn next_order(&mut self) -> u32 {
        self.order += 1;
        self.order
    }
}

/// What an event makes of a saga. `now`: what the clock shows, from which deadlines count; nothing else depends on it.
/// Effects are added to `effects`.
///
/// # Errors
/// The event changed nothing, and why.
pub fn step(
    definition: &Definition,
    instance: &mut Instance,
    event: Event<'_>,
    now: Millis,
    effects: &mut Vec<Effect>,
) -> Result<(), Ignored> {
    let mut machine = Machine { definition, instance, now, effects };
    match event {
        Event::Begin => machine.go_on(),
        Event::Answer { at, said, number, what } => match said {
            Said::Done => machine.done(at)?,
            Said::Failed => machine.failed(at, what)?,
            Said::NotFound => machine.not_found(at, number)?,
            Said::Undone => machine.undone(at, number)?,
            Said::NotUndone => machine.not_undone(at, number, what)?,
        },
        Event::Due { at } => machine.due(at)?,
        Event::Broken { at, call, why } => machine.broken(at, call, why)?,
        Event::Retry { step } => machine.retry(step)?,
        Event::Skip { step } => machine.skip(step)?,
        Event::Compensate { why } => match machine.instance.phase {
            Phase::Running => machine.compensate(why.to_string()),
            Phase::Compensating => return Err(Ignored::Compensating),
            _ => return Err(Ignored::Ended),
        },
    }
    Ok(())
}

struct Machine<'a> {
    definition: &'a Definition,
    instance: &'a mut Instance,
    now: Millis,
    effects: &'a mut Vec<Effect>,
}

impl Machine<'_> {
    fn task(&mut self, at: Place) -> Result<&mut Task, Ignored> {
        self.instance.task_mut(at).ok_or(Ignored::Unexpected)
    }

    fn after(&self, span: Millis) -> Option<Millis> {
        Some(self.now.saturating_add(span))
    }

    /// Sends the next command of a kind and waits for its answer. A step without this kind has nothing to send.
    fn send(&mut self, at: Place, call: Call) {
        let Some(step) = self.definition.steps.get(at.step) else { return };
        let (state, timeout) = match call {
            Call::Do => (State::Sent, step.timeout),
            Call::Ask => (State::Asked, step.unknown.as_ref().map_or(step.timeout, |question| question.timeout)),
            Call::Undo => (State::Undoing, step.undo.as_ref().map_or(step.timeout, |undo| undo.timeout)),
        };
        let due = self.after(timeout);
        let Some(task) = self.instance.task_mut(at) else { return };
        let number = match call {
            Call::Do => &mut task.attempt,
            Call::Ask => &mut task.asks,
            Call::Undo => &mut task.undos,
        };
        *number += 1;
        let number = *number;
        (task.state, task.due) = (state, due);
        self.effects.push(Effect::Send { at, call, number });
    }

    fn pause(&mut self, at: Place, state: State, pause: Millis) {
        let due = self.after(pause);
        if let Some(task) = self.instance.task_mut(at) {
            (task.state, task.due) = (state, due);
        }
    }

    fn end(&mut self, phase: Phase) {
        self.instance.phase = phase;
        self.instance.forget = self.after(self.definition.remember);
        if !std::mem::replace(&mut self.instance.told, true) {
            self.effects.push(Effect::End(phase));
        }
    }

    fn place_in_order(&mut self, at: Place) {
        let order = self.instance.next_order();
        if let Some(task) = self.instance.task_mut(at) {
            task.order = order;
        }
    }

    /// The step, and the line, that something is about.
    fn about(&self, at: Place, what: &str) -> String {
        let name = self.definition.steps.get(at.step).map_or("", |step| step.name.as_str());
        match self.instance.task(at).map(|task| task.line.as_str()).filter(|line| !line.is_empty()) {
            Some(line) => format!("{name} ({line}): {what}"),
            None => format!("{name}: {what}"),
        }
    }
}

/// A text within [`LONGEST_TEXT`].
fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT - 3));
        text.push_str("...");
    }
    text
}

fn times(attempts: u32) -> String {
    if attempts == 1 { "1 attempt".into() } else { format!("{attempts} attempts") }
}
