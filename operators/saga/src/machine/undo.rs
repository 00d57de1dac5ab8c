//! The steps back: what was done, and what may have been, is taken back, the last first.

use super::{Effect, Ignored, Machine, Phase, Place, State, Status, Task, shortened, times};
use crate::definition::Call;

impl Machine<'_> {
    pub(super) fn undone(&mut self, at: Place, number: Option<u32>) -> Result<(), Ignored> {
        let task = self.task(at)?;
        if !task.in_undo() {
            return Err(if task.state == State::Undone { Ignored::Repeat } else { Ignored::Unexpected });
        }
        if task.stale == task.undos {
            task.failures = 0;
            self.send(at, Call::Undo);
        } else if number.is_some_and(|number| number <= task.stale) {
            return Err(Ignored::Late);
        } else {
            task.settle(State::Undone);
            self.undo_next();
        }
        self.clear_trouble();
        Ok(())
    }

    pub(super) fn not_undone(&mut self, at: Place, number: Option<u32>, what: &str) -> Result<(), Ignored> {
        let task = self.task(at)?;
        match task.state {
            State::Undoing if number.is_some_and(|number| number < task.undos) => return Err(Ignored::Late),
            State::Undoing => self.undo_failed(at, what),
            State::Undone => return Err(Ignored::Repeat),
            State::UndoPausing | State::Stuck => return Err(Ignored::Late),
            _ => return Err(Ignored::Unexpected),
        }
        Ok(())
    }

    /// Takes back what was done, and what may have been.
    pub(super) fn compensate(&mut self, cause: String) {
        (self.instance.phase, self.instance.cause) = (Phase::Compensating, shortened(cause));
        let places: Vec<Place> = self.instance.tasks().map(|(at, _)| at).collect();
        for at in places {
            let Some(task) = self.instance.task_mut(at) else { continue };
            if task.state == State::Waiting {
                task.settle(State::Skipped);
            } else if task.in_flight() {
                task.settle(State::Unknown);
                self.place_in_order(at);
            }
        }
        self.undo_next();
    }

    /// Undoes the step that was done last, all its tasks at once; when nothing is left, the saga is compensated.
    pub(super) fn undo_next(&mut self) {
        if self.instance.tasks().any(|(_, task)| task.in_undo()) {
            return;
        }
        let undo = |at: Place, task: &Task| {
            let has = self.definition.steps.get(at.step).is_some_and(|step| step.undo.is_some());
            has && matches!(task.state, State::Done | State::Unknown)
        };
        let left: Vec<(u32, Place)> =
            self.instance.tasks().filter(|(at, task)| undo(*at, task)).map(|(at, task)| (task.order, at)).collect();
        let Some((_, last)) = left.iter().max() else { return self.end(Phase::Compensated) };
        for (_, at) in left.iter().filter(|(_, at)| at.step == last.step) {
            if let Some(task) = self.instance.task_mut(*at) {
                task.failures = 0;
            }
            self.send(*at, Call::Undo);
        }
    }

    pub(super) fn undo_failed(&mut self, at: Place, what: &str) {
        let undo = self.definition.steps.get(at.step).and_then(|step| step.undo.as_ref());
        let (Some(undo), Some(task)) = (undo, self.instance.task_mut(at)) else { return };
        task.failures += 1;
        let failures = task.failures;
        if failures < undo.retry.attempts {
            self.pause(at, State::UndoPausing, undo.retry.pause(failures));
        } else {
            self.give_up(at, &format!("{what} after {}", times(failures)));
        }
    }

    pub(super) fn give_up(&mut self, at: Place, what: &str) {
        let trouble = format!("undo of {}", self.about(at, what));
        if let Some(task) = self.instance.task_mut(at) {
            task.settle(State::Stuck);
        }
        self.instance.trouble = shortened(trouble);
        self.effects.push(Effect::Stuck { at });
    }

    pub(super) fn clear_trouble(&mut self) {
        if self.instance.status() != Status::Stuck {
            self.instance.trouble.clear();
        }
    }
}
