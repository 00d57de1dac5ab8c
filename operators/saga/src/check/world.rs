//! Worlds, and what can happen in them.

use crate::definition::{Call, Definition, Said};
use crate::machine::{Effect, Event, Instance, Phase, Place, State, Status, Task, step};

use super::{ATTEMPTS, LINES};

/// The saga and its participants at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    pub instance: Instance,
    /// What the participant of each task has done and said.
    pub parties: Vec<Vec<Party>>,
    /// The end that was announced.
    pub ended: Option<Phase>,
    /// An end was announced twice.
    pub twice: bool,
    /// How often a `done` came too late, and led to an undo once more.
    late: u8,
}

/// The participant of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    /// How many times the command's effect is there: more than 2 count as 2.
    pub happened: u8,
    /// It has carried the command out, or refused it.
    pub executed: bool,
    pub refused: bool,
    /// The answers that it gave, each of which can come at any time, and again: a bit for each [`Said`]. That nothing is known of the
    /// command is the answer to the last question.
    said: u8,
}

/// What a participant does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    CarriedOut,
    Refused,
    Nothing,
    Answered(Said),
}

/// One move: an event, and what participants do with the commands that it leads to.
#[derive(Clone, Debug)]
pub struct Move {
    pub event: Happens,
    pub sent: Vec<(Place, Call, u32, Choice)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    Begin,
    Answer(Place, Said),
    Due(Place),
}

/// A definition within the bounds.
pub struct Model {
    pub definition: Definition,
}

fn bit(said: Said) -> u8 {
    1 << (said as u8)
}

const SAID: [Said; 5] = [Said::Done, Said::Failed, Said::NotFound, Said::Undone, Said::NotUndone];
/// How often a `done` that is too late leads to an undo once more.
const LATE: u8 = 2;

impl World {
    pub fn party(&self, at: Place) -> Option<&Party> {
        self.parties.get(at.step)?.get(at.line)
    }

    fn party_mut(&mut self, at: Place) -> Option<&mut Party> {
        self.parties.get_mut(at.step)?.get_mut(at.line)
    }

    /// In the order of [`crate::invariant::OF_SAGA`].
    pub fn of_saga(&self) -> [bool; 3] {
        let status = self.instance.status();
        [status == Status::Completed, status == Status::Compensated, status == Status::Stuck]
    }

    /// In the order of [`crate::invariant::OF_STEP`].
    pub fn of_step(&self, step: usize) -> [bool; 3] {
        let all = |state: State| self.instance.steps.get(step).is_some_and(|tasks| tasks.iter().all(|task| task.state == state));
        let happened = self.parties.get(step).is_some_and(|parties| parties.iter().any(|party| party.happened > 0));
        [all(State::Done), all(State::Undone), happened]
    }
}

impl Model {
    pub fn new(definition: &Definition) -> Model {
        let mut definition = definition.clone();
        for step in &mut definition.steps {
            step.retry.attempts = step.retry.attempts.min(ATTEMPTS);
            if let Some(question) = &mut step.unknown {
                question.retry.attempts = question.retry.attempts.min(ATTEMPTS);
            }
            if let Some(undo) = &mut step.undo {
                undo.retry.attempts = undo.retry.attempts.min(ATTEMPTS);
            }
        }
        Model { definition }
    }

    fn beginning(&self) -> World {
        let lines = |step: &crate::definition::Step| match step.lines {
            Some(_) => (1..=LINES).map(|line| line.to_string()).collect(),
            None => vec![String::new()],
        };
        let instance = Instance::new(self.definition.steps.iter().map(lines));
        let parties = instance.steps.iter().map(|tasks| vec![Party::default(); tasks.len()]).collect();
        World { instance, parties, ended: None, twice: false, late: 0 }
    }

    /// Everything that can happen in a world, and the world after it; of none: the beginnings. Ends, with false, when `visit` says false.
    pub fn moves(&self, world: Option<&World>, visit: &mut dyn FnMut(&Move, &World) -> bool) -> bool {
        let Some(world) = world else { return self.happen(&self.beginning(), Happens::Begin, visit) };
        let places: Vec<Place> = world.instance.tasks().map(|(at, _)| at).collect();
        for at in places {
            for said in SAID.into_iter().filter(|said| world.party(at).is_some_and(|party| party.said & bit(*said) != 0)) {
                if !self.happen(world, Happens::Answer(at, said), visit) {
                    return false;
                }
            }
            let waits = world.instance.task(at).is_some_and(|task| task.due.is_some());
            if waits && !self.happen(world, Happens::Due(at), visit) {
                return false;
            }
        }
        true
    }

    fn happen(&self, world: &World, event: Happens, visit: &mut dyn FnMut(&Move, &World) -> bool) -> bool {
        let mut after = world.clone();
        let (mut effects, said) = (Vec::new(), event);
        let event = match event {
            Happens::Begin => Event::Begin,
            Happens::Answer(at, said) => {
                let asked = world.instance.task(at).map(|task| task.asks);
                Event::Answer { at, said, number: asked.filter(|_| said == Said::NotFound), what: "" }
            }
            Happens::Due(at) => Event::Due { at },
        };
        if step(&self.definition, &mut after.instance, event, 0, &mut effects).is_err() {
            return true;
        }
        if matches!(said, Happens::Answer(_, Said::Done)) && world.instance.phase != Phase::Running {
            after.late += 1;
            if after.late > LATE {
                return true;
            }
        }
        for effect in &effects {
            if let Effect::End(phase) = effect {
                after.twice |= after.ended.replace(*phase).is_some();
            }
        }
        self.choose(&after, &effects, &mut Move { event: said, sent: Vec::new() }, visit)
    }

    /// Lets participants decide about the commands, one after the other.
    fn choose(&self, world: &World, effects: &[Effect], made: &mut Move, visit: &mut dyn FnMut(&Move, &World) -> bool) -> bool {
        let Some((effect, rest)) = effects.split_first() else {
            let mut world = world.clone();
            self.normalise(&mut world);
            return visit(made, &world);
        };
        let Effect::Send { at, call, number } = *effect else { return self.choose(world, rest, made, visit) };
        for choice in self.choices(world, at, call) {
            let mut after = world.clone();
            if let Some(party) = after.party_mut(at) {
                self.decide(party, at, call, choice);
            }
            made.sent.push((at, call, number, choice));
            let go_on = self.choose(&after, rest, made, visit);
            made.sent.pop();
            if !go_on {
                return false;
            }
        }
        true
    }

    fn choices(&self, world: &World, at: Place, call: Call) -> Vec<Choice> {
        let (Some(step), Some(party)) = (self.definition.steps.get(at.step), world.party(at)) else { return Vec::new() };
        match call {
            // What was done already is recognised.
            Call::Do if step.idempotent && party.executed => vec![Choice::CarriedOut, Choice::Nothing],
            Call::Do if step.failed.is_empty() => vec![Choice::CarriedOut, Choice::Nothing],
            Call::Do => vec![Choice::CarriedOut, Choice::Refused, Choice::Nothing],
            Call::Undo => vec![Choice::CarriedOut, Choice::Nothing],
            Call::Ask if party.executed => vec![Choice::Answered(Said::Done)],
            Call::Ask if party.refused => vec![Choice::Answered(Said::Failed)],
            Call::Ask if step.unknown.as_ref().is_some_and(|question| question.not_found.is_empty()) => vec![Choice::Nothing],
            Call::Ask => vec![Choice::Answered(Said::NotFound)],
        }
    }

    fn decide(&self, party: &mut Party, at: Place, call: Call, choice: Choice) {
        let Some(step) = self.definition.steps.get(at.step) else { return };
        if call == Call::Ask {
            // An answer to an earlier question says nothing any more.
            party.said &= !bit(Said::NotFound);
        }
        match (call, choice) {
            (Call::Do, Choice::CarriedOut) => {
                let again = party.executed && step.idempotent;
                party.happened = if again { party.happened } else { (party.happened + 1).min(2) };
                party.executed = true;
                party.said |= bit(Said::Done);
            }
            (Call::Do, Choice::Refused) => {
                party.refused = true;
                party.said |= bit(Said::Failed);
            }
            (Call::Undo, Choice::CarriedOut) => {
                party.happened = 0;
                party.said |= bit(Said::Undone);
            }
            (Call::Undo, _) if step.undo.as_ref().is_some_and(|undo| !undo.failed.is_empty()) => party.said |= bit(Said::NotUndone),
            (Call::Ask, Choice::Answered(said)) => party.said |= bit(said),
            _ => {}
        }
    }

    /// What makes no difference any more is made equal: most worlds differ in nothing else.
    fn normalise(&self, world: &mut World) {
        let instance = &mut world.instance;
        (instance.cause, instance.trouble) = Default::default();
        instance.forget = instance.forget.map(|_| 0);
        // Steps are undone in the order in which their last tasks were done.
        let last = |tasks: &Vec<Task>| tasks.iter().filter(|task| counts(task)).map(|task| task.order).max();
        let orders: Vec<Option<u32>> = instance.steps.iter().map(last).collect();
        let rank = |own: Option<u32>| orders.iter().flatten().filter(|order| Some(**order) <= own).count() as u32;
        let ranks: Vec<u32> = orders.iter().map(|own| rank(*own)).collect();
        instance.order = orders.iter().flatten().count() as u32;
        let late = world.late >= LATE;
        for (((tasks, parties), step), order) in instance.steps.iter_mut().zip(&mut world.parties).zip(&self.definition.steps).zip(ranks) {
            for (task, party) in tasks.iter_mut().zip(parties.iter_mut()) {
                task.due = task.due.map(|_| 0);
                let again = task.in_undo() && task.stale == task.undos;
                (task.asks, task.undos, task.stale) = (0, task.in_undo().into(), again.into());
                task.order = if counts(task) { order } else { 0 };
                let open = task.in_flight() || task.state == State::Waiting;
                if !open && task.state != State::Unknown {
                    task.attempt = 0;
                }
                if !open {
                    (party.executed, party.refused) = (false, false);
                }
                let mut matters = bit(Said::Undone) | bit(Said::NotUndone);
                if !late || open || task.state == State::Unknown {
                    matters |= bit(Said::Done);
                }
                if open || (task.state == State::Unknown && task.attempt == 1) {
                    matters |= bit(Said::Failed);
                }
                if matches!(task.state, State::Asked | State::AskPausing) {
                    matters |= bit(Said::NotFound);
                }
                if instance.phase == Phase::Completed || step.undo.is_none() && !open {
                    matters = 0;
                }
                party.said &= matters;
                party.happened = if step.effect { party.happened } else { 0 };
            }
            // Nothing tells one line from another.
            let mut pairs: Vec<(Task, Party)> = tasks.drain(..).zip(parties.drain(..)).collect();
            pairs.sort_by(|(a, of_a), (b, of_b)| {
                (a.state, a.attempt, a.failures, a.stale, a.due, of_a).cmp(&(b.state, b.attempt, b.failures, b.stale, b.due, of_b))
            });
            for (line, (task, party)) in pairs.into_iter().enumerate() {
                let line = if step.lines.is_some() { (line + 1).to_string() } else { String::new() };
                tasks.push(Task { line, ..task });
                parties.push(party);
            }
        }
    }

    /// What is wrong with a world, if anything is.
    pub fn violation(&self, world: &World) -> Option<String> {
        if world.twice {
            return Some("the saga ends twice".into());
        }
        let phase = world.instance.phase;
        if let Some(ended) = world.ended.filter(|ended| (*ended == Phase::Completed) != (phase == Phase::Completed)) {
            let how = if ended == Phase::Completed { "completed and then compensated" } else { "compensated and then completed" };
            return Some(format!("the saga is {how}"));
        }
        for (at, _) in world.instance.tasks() {
            let (Some(party), true) = (world.party(at), self.definition.steps.get(at.step).is_some_and(|step| step.effect)) else {
                continue;
            };
            let name = super::words::task(self, at);
            match (phase, party.happened) {
                (_, 2..) => return Some(format!("{name} has its effect twice")),
                (Phase::Compensated, 1) => return Some(format!("the saga is compensated, and {name} still has its effect")),
                (Phase::Completed, 0) => return Some(format!("the saga is completed, and {name} has no effect")),
                _ => {}
            }
        }
        let waits = matches!(world.instance.status(), Status::Running | Status::Compensating);
        (waits && world.instance.due().is_none()).then(|| "the saga waits for nothing, and has not ended".into())
    }

    /// A world in few bytes: what [`Model::read`] reads.
    pub fn bytes(&self, world: &World) -> Vec<u8> {
        let instance = &world.instance;
        let ended = world.ended.map_or(0, |phase| 1 + phase as u8);
        let told = u8::from(instance.told) | u8::from(instance.forget.is_some()) << 1;
        let mut out = vec![instance.phase as u8, told, ended, world.late];
        for (task, party) in instance.steps.iter().flatten().zip(world.parties.iter().flatten()) {
            let Task { state, attempt, failures, stale, order, due, .. } = task;
            let Party { happened, executed, refused, said } = *party;
            let flags = u8::from(*stale > 0) | u8::from(due.is_some()) << 1 | u8::from(executed) << 2 | u8::from(refused) << 3;
            out.extend([*state as u8, *attempt as u8, *failures as u8, *order as u8, flags, happened, said]);
        }
        out
    }

    pub fn read(&self, bytes: &[u8]) -> Option<World> {
        let (head, mut rest) = bytes.split_first_chunk::<4>()?;
        let mut world = self.beginning();
        world.instance.phase = *Phase::ALL.get(usize::from(head[0]))?;
        world.instance.told = head[1] & 1 != 0;
        world.instance.forget = (head[1] & 2 != 0).then_some(0);
        world.late = head[3];
        world.ended = head[2].checked_sub(1).and_then(|phase| Phase::ALL.get(usize::from(phase)).copied());
        for (task, party) in world.instance.steps.iter_mut().flatten().zip(world.parties.iter_mut().flatten()) {
            let ([state, attempt, failures, order, flags, happened, said], after) = rest.split_first_chunk::<7>()?;
            rest = after;
            task.state = *State::ALL.get(usize::from(*state))?;
            (task.attempt, task.failures, task.order) = ((*attempt).into(), (*failures).into(), (*order).into());
            (task.undos, task.stale) = (task.in_undo().into(), (flags & 1).into());
            task.due = (flags & 2 != 0).then_some(0);
            *party = Party { happened: *happened, executed: flags & 4 != 0, refused: flags & 8 != 0, said: *said };
        }
        world.instance.order = world.instance.steps.iter().flatten().map(|task| task.order).max().unwrap_or(0);
        Some(world)
    }
}

/// Its place in the order of compensation matters still.
fn counts(task: &Task) -> bool {
    matches!(task.state, State::Done | State::Unknown)
}
