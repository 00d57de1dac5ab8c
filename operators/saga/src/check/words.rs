//! Moves in words.

use crate::definition::{Call, Said};
use crate::machine::{Place, State, Status};

use super::world::{Choice, Happens, Model, Move, World};

/// What a task is called. One line is like another.
pub fn task(model: &Model, at: Place) -> String {
    match model.definition.steps.get(at.step) {
        Some(step) if step.lines.is_some() => format!("a line of `{}`", step.name),
        Some(step) => format!("`{}`", step.name),
        None => String::new(),
    }
}

/// A move, and what it leads to.
pub fn of(model: &Model, before: Option<&World>, made: &Move, after: &World) -> String {
    let mut text = match made.event {
        Happens::Begin => "the saga begins".to_string(),
        Happens::Answer(at, said) => answer(model, before.unwrap_or(after), at, said),
        Happens::Due(at) => due(model, before.unwrap_or(after), at),
    };
    for (at, call, _, choice) in &made.sent {
        text.push_str("; ");
        text.push_str(&sent(&task(model, *at), *call, *choice));
    }
    let status = after.instance.status();
    if before.is_some_and(|before| before.instance.status() != status) || matches!(status, Status::Completed) {
        text.push_str(&format!("; the saga is {}", status.name()));
    }
    text
}

fn sent(task: &str, call: Call, choice: Choice) -> String {
    let what = match call {
        Call::Do => format!("the command of {task} is sent"),
        Call::Ask => format!("the participant of {task} is asked"),
        Call::Undo => format!("the undo of {task} is sent"),
    };
    match (call, choice) {
        (_, Choice::CarriedOut) => format!("{what} and carried out"),
        (_, Choice::Refused) => format!("{what} and refused"),
        (Call::Ask, Choice::Answered(Said::NotFound)) => format!("{what} and knows nothing of the command"),
        (Call::Ask, Choice::Answered(Said::Failed)) => format!("{what} and says that it failed"),
        (_, Choice::Answered(_)) => format!("{what} and says that it is done"),
        (_, Choice::Nothing) => format!("{what} and has no effect"),
    }
}

/// The answer by the name of its event.
fn answer(model: &Model, world: &World, at: Place, said: Said) -> String {
    let step = model.definition.steps.get(at.step);
    let named = step.and_then(|step| step.answers().find(|(_, of)| *of == said)).map_or("", |(name, _)| name);
    let state = world.instance.task(at).map(|task| task.state);
    let late = match (said, state) {
        (Said::Done, Some(State::Undone | State::Failed)) => " late",
        (Said::Done | Said::Failed, Some(State::Undoing | State::UndoPausing | State::Stuck | State::Unknown)) => " late",
        _ => "",
    };
    format!("the answer `{named}` to {} comes{late}", task(model, at))
}

fn due(model: &Model, world: &World, at: Place) -> String {
    let name = task(model, at);
    match world.instance.task(at).map(|task| task.state) {
        Some(State::Sent) => format!("no answer to {name} comes in time"),
        Some(State::Asked) => format!("no answer to the question about {name} comes in time"),
        Some(State::Undoing) => format!("no answer to the undo of {name} comes in time"),
        _ => format!("the pause of {name} is over"),
    }
}
