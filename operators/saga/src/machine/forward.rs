//! The steps forward: commands, their answers, and what is done when none comes.

use super::{Ignored, Machine, Phase, Place, State, times};
use crate::definition::Call;

impl Machine<'_> {
    /// Begins every step whose time has come; completes the saga if all are done.
    pub(super) fn go_on(&mut self) {
        let mut complete: Vec<bool> = Vec::with_capacity(self.definition.steps.len());
        for (place, step) in self.definition.steps.iter().enumerate() {
            let ready = step.after.iter().all(|before| complete.get(*before).copied().unwrap_or(false));
            let tasks = self.instance.steps.get(place).map_or(0, Vec::len);
            let mut done = ready;
            for at in (0..tasks).map(|line| Place { step: place, line }) {
                let state = self.instance.task(at).map(|task| task.state);
                if ready && state == Some(State::Waiting) {
                    self.send(at, Call::Do);
                }
                done &= state == Some(State::Done);
            }
            complete.push(done);
        }
        if complete.iter().all(|done| *done) {
            self.end(Phase::Completed);
        }
    }

    pub(super) fn done(&mut self, at: Place) -> Result<(), Ignored> {
        let phase = self.instance.phase;
        let has_undo = self.definition.steps.get(at.step).is_some_and(|step| step.undo.is_some());
        let task = self.task(at)?;
        match (phase, task.state) {
            (Phase::Completed, _) => Err(Ignored::Ended),
            (_, State::Waiting | State::Skipped) => Err(Ignored::Unexpected),
            (_, State::Done) => Err(Ignored::Repeat),
            (Phase::Running, _) => {
                task.settle(State::Done);
                let order = self.instance.next_order();
                self.task(at)?.order = order;
                self.go_on();
                Ok(())
            }
            (_, State::Undoing | State::UndoPausing | State::Stuck) => {
                if std::mem::replace(&mut task.stale, task.undos) == task.undos {
                    Err(Ignored::Repeat)
                } else {
                    Ok(())
                }
            }
            (_, State::Undone | State::Failed) if has_undo => {
                task.stale = task.undos;
                (self.instance.phase, self.instance.forget) = (Phase::Compensating, None);
                self.send(at, Call::Undo);
                Ok(())
            }
            // Its undo is still to come, if it has one.
            (Phase::Compensating, State::Unknown | State::Failed) => {
                task.state = State::Done;
                Ok(())
            }
            _ => Err(Ignored::Ended),
        }
    }

    pub(super) fn failed(&mut self, at: Place, what: &str) -> Result<(), Ignored> {
        let phase = self.instance.phase;
        let task = self.task(at)?;
        match (phase, task.state) {
            (Phase::Completed | Phase::Compensated, _) => Err(Ignored::Ended),
            (_, State::Waiting | State::Skipped) => Err(Ignored::Unexpected),
            (Phase::Running, _) if task.in_flight() => {
                // Of another attempt, nothing is known.
                task.settle(if task.attempt == 1 { State::Failed } else { State::Unknown });
                self.place_in_order(at);
                let cause = self.about(at, what);
                self.compensate(cause);
                Ok(())
            }
            (Phase::Compensating, State::Unknown) if task.attempt == 1 => {
                task.settle(State::Failed);
                Ok(())
            }
            (_, State::Failed) => Err(Ignored::Repeat),
            _ => Err(Ignored::Late),
        }
    }

    pub(super) fn not_found(&mut self, at: Place, number: Option<u32>) -> Result<(), Ignored> {
        let retry = self.definition.steps.get(at.step).map(|step| step.retry).ok_or(Ignored::Unexpected)?;
        let phase = self.instance.phase;
        let task = self.task(at)?;
        if phase != Phase::Running || number != Some(task.asks) || !matches!(task.state, State::Asked | State::AskPausing) {
            return Err(if matches!(phase, Phase::Completed | Phase::Compensated) { Ignored::Ended } else { Ignored::Late });
        }
        task.failures = 0;
        let attempt = task.attempt;
        if attempt < retry.attempts {
            self.pause(at, State::Pausing, retry.pause(attempt));
        } else {
            self.exhausted(at, &format!("nothing is known of it after {}", times(attempt)));
        }
        Ok(())
    }

    pub(super) fn due(&mut self, at: Place) -> Result<(), Ignored> {
        let step = self.definition.steps.get(at.step).ok_or(Ignored::Unexpected)?;
        let task = self.task(at)?;
        let attempt = task.attempt;
        match task.state {
            State::Sent if step.unknown.is_some() => {
                task.failures = 0;
                self.send(at, Call::Ask);
            }
            State::Sent if attempt < step.retry.attempts => self.pause(at, State::Pausing, step.retry.pause(attempt)),
            State::Sent => self.exhausted(at, &format!("no answer after {}", times(attempt))),
            State::Pausing => self.send(at, Call::Do),
            State::Asked => {
                task.failures += 1;
                let (failures, retry) = (task.failures, step.unknown.as_ref().map_or(step.retry, |question| question.retry));
                if failures < retry.attempts {
                    self.pause(at, State::AskPausing, retry.pause(failures));
                } else {
                    self.exhausted(at, &format!("no answer to the question what became of it, after {}", times(failures)));
                }
            }
            State::AskPausing => self.send(at, Call::Ask),
            State::Undoing => self.undo_failed(at, "no answer"),
            State::UndoPausing => self.send(at, Call::Undo),
            _ => return Err(Ignored::Unexpected),
        }
        Ok(())
    }

    pub(super) fn broken(&mut self, at: Place, call: Call, why: &str) -> Result<(), Ignored> {
        let task = self.task(at)?;
        let cause = format!("the command can't be computed: {why}");
        match (call, task.state) {
            (Call::Do, State::Sent) => self.failed(at, &cause),
            (Call::Ask, State::Asked) => {
                self.exhausted(at, &cause);
                Ok(())
            }
            (Call::Undo, State::Undoing) => {
                self.give_up(at, &cause);
                Ok(())
            }
            _ => Err(Ignored::Late),
        }
    }

    /// The task is given up without knowing what it did.
    pub(super) fn exhausted(&mut self, at: Place, what: &str) {
        let cause = self.about(at, what);
        if let Some(task) = self.instance.task_mut(at) {
            task.settle(State::Unknown);
        }
        self.place_in_order(at);
        self.compensate(cause);
    }
}
