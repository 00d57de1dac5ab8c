//! What people do about a saga: what it waits for is sent again, or was done by hand.

use super::{Ignored, Machine, Phase, Place, State, Status, Task};
use crate::definition::Call;

impl Machine<'_> {
    /// Sends what is waited for again, at once: also what is stuck, and what pauses.
    pub(super) fn retry(&mut self, step: Option<usize>) -> Result<(), Ignored> {
        let calls: Vec<(Place, Call)> = self.waiting(step, |at, task| {
            let of_step = self.definition.steps.get(at.step);
            match task.state {
                State::Asked | State::AskPausing => Ok(Call::Ask),
                State::Undoing | State::UndoPausing | State::Stuck => Ok(Call::Undo),
                State::Sent if of_step.is_some_and(|step| step.unknown.is_some()) => Ok(Call::Ask),
                // It may have come; after a pause the step itself would send it again.
                State::Sent if !of_step.is_some_and(|step| step.idempotent) => Err(Ignored::NotIdempotent),
                _ => Ok(Call::Do),
            }
        })?;
        for (at, call) in calls {
            self.send(at, call);
        }
        self.clear_trouble();
        Ok(())
    }

    /// Takes what is waited for as done by hand: a command as carried out, an undo as needless. What is not stuck may change while people look
    /// at it, so they name the step that they mean.
    pub(super) fn skip(&mut self, step: Option<usize>) -> Result<(), Ignored> {
        if step.is_none() && !self.instance.has_ended() && self.instance.status() != Status::Stuck {
            return Err(Ignored::NameStep);
        }
        let places = self.waiting(step, |at, task| {
            let keeps = self.definition.steps.get(at.step).is_some_and(|step| step.keeps());
            if keeps && task.in_flight() { Err(Ignored::Needed) } else { Ok(()) }
        })?;
        let running = self.instance.phase == Phase::Running;
        for (at, ()) in places {
            if running {
                self.task(at)?.settle(State::Done);
                self.place_in_order(at);
            } else if step.is_some() || self.task(at)?.state == State::Stuck {
                self.task(at)?.settle(State::Skipped);
            }
        }
        self.clear_trouble();
        if running {
            self.go_on()
        } else {
            self.undo_next()
        }
        Ok(())
    }

    /// The tasks that are waited for, of one step or of all, each with what is to be done about it.
    fn waiting<T>(&self, step: Option<usize>, of: impl Fn(Place, &Task) -> Result<T, Ignored>) -> Result<Vec<(Place, T)>, Ignored> {
        let waiting = self.instance.active().filter(|(at, _)| step.is_none_or(|step| at.step == step));
        let found = waiting.map(|(at, task)| Ok((at, of(at, task)?))).collect::<Result<Vec<_>, _>>()?;
        match found.is_empty() {
            true if self.instance.has_ended() => Err(Ignored::Ended),
            true => Err(Ignored::NotWaiting),
            false => Ok(found),
        }
    }
}
