//! What a saga does, as far as the machine must know it: steps with their commands, answers and limits.
//!
//! A definition is stored beside the sagas that began with it, once per version, so that they end under it whatever the pipeline says by
//! then. Its version is a hash of its text.

use operator_core::Millis;
use serde::{Deserialize, Serialize};

/// A saga as it was defined when an instance began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// In the order of the file; a step follows only steps before it.
    pub steps: Vec<Step>,
    /// The event of a saga that is completed.
    pub completed: Message,
    /// The event of a saga that is compensated.
    pub compensated: Message,
    /// Attempts of an undo after which the saga is stuck.
    pub stuck_after: u32,
    /// How long a saga that has ended is remembered.
    pub remember: Millis,
}

/// A step of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    /// Places of the steps that must be done before.
    pub after: Vec<usize>,
    /// The step has one command per element of a list.
    pub lines: Option<Lines>,
    pub send: Message,
    /// The participant recognises a command that it has had already.
    pub idempotent: bool,
    /// It changes something at the participant.
    pub effect: bool,
    pub done: Vec<String>,
    pub failed: Vec<String>,
    /// What is kept of the answer that says that it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<AnswerColumn>,
    pub timeout: Millis,
    pub retry: Retry,
    pub unknown: Option<Question>,
    pub undo: Option<Undo>,
}

/// A column that is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerColumn {
    pub name: String,
    /// SQL over the answer.
    pub sql: String,
    /// The type, as pipeline files spell it: what is in state is read with it.
    pub data_type: String,
}

/// The list of a step's lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// SQL: the list.
    pub each: String,
    /// SQL over `line`: what tells the lines of a saga apart.
    pub by: String,
    /// SQL over an answer: the line that it is about.
    pub answers_for: String,
}

/// A command or an event, and the columns of its data: names and SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub event_type: String,
    pub with: Vec<(String, String)>,
}

/// How often something is tried, and how long between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub attempts: u32,
    pub backoff: Millis,
    pub max_backoff: Millis,
}

/// What is asked where the outcome of a command is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub send: Message,
    pub done: Vec<String>,
    pub failed: Vec<String>,
    pub not_found: Vec<String>,
    pub timeout: Millis,
    pub retry: Retry,
}

/// What takes a step back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    pub send: Message,
    pub done: Vec<String>,
    pub failed: Vec<String>,
    pub timeout: Millis,
    /// Its attempts are those after which the saga is stuck.
    pub retry: Retry,
}

/// What an answer says about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Said {
    Done,
    Failed,
    /// The participant knows nothing of the command that was asked about.
    NotFound,
    Undone,
    NotUndone,
}

/// Which command of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Do,
    Ask,
    Undo,
}

impl Retry {
    /// The pause after `failures` attempts, at least one: it doubles from one to the next.
    pub fn pause(&self, failures: u32) -> Millis {
        self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(32)).min(self.max_backoff)
    }
}

impl Step {
    /// The types of answers, with what each says. One that stands for several things comes once for each.
    pub fn answers(&self) -> impl Iterator<Item = (&str, Said)> {
        fn each(types: &[String], said: Said) -> impl Iterator<Item = (&str, Said)> {
            types.iter().map(move |name| (name.as_str(), said))
        }
        let asked = self.unknown.iter().flat_map(|question| {
            each(&question.done, Said::Done).chain(each(&question.failed, Said::Failed)).chain(each(&question.not_found, Said::NotFound))
        });
        let undone = self.undo.iter().flat_map(|undo| each(&undo.done, Said::Undone).chain(each(&undo.failed, Said::NotUndone)));
        each(&self.done, Said::Done).chain(each(&self.failed, Said::Failed)).chain(asked).chain(undone)
    }

    /// Later steps may need what its answer says.
    pub fn keeps(&self) -> bool {
        !self.keep.is_empty()
    }

    /// The command of this kind, if the step has one.
    pub fn message(&self, call: Call) -> Option<&Message> {
        match call {
            Call::Do => Some(&self.send),
            Call::Ask => self.unknown.as_ref().map(|question| &question.send),
            Call::Undo => self.undo.as_ref().map(|undo| &undo.send),
        }
    }
}

impl Definition {
    /// The step that an answer of this type is about, and what it says. Planning sees to it that there is one at most.
    pub fn said(&self, event_type: &str) -> Option<(usize, Said)> {
        self.steps.iter().enumerate().find_map(|(place, step)| {
            let (_, said) = step.answers().find(|(name, _)| *name == event_type)?;
            Some((place, said))
        })
    }

    /// The steps whose answers a command of this step can read: those that are done before it, and for an undo the step itself. What a step
    /// with lines keeps is read by other lines of the same name.
    pub fn readable(&self, step: usize, call: Call) -> Vec<usize> {
        let mut readable: Vec<usize> = Vec::from_iter((call == Call::Undo).then_some(step));
        let mut left: Vec<usize> = self.steps.get(step).map_or_else(Vec::new, |step| step.after.clone());
        while let Some(before) = left.pop() {
            if !readable.contains(&before) {
                readable.push(before);
                left.extend(self.steps.get(before).iter().flat_map(|step| &step.after));
            }
        }
        let has_lines = |step: usize| self.steps.get(step).is_some_and(|step| step.lines.is_some());
        let keeps = |step: usize| self.steps.get(step).is_some_and(Step::keeps);
        readable.retain(|before| keeps(*before) && (has_lines(step) || !has_lines(*before)));
        readable.sort_unstable();
        readable
    }

    /// Why a command of a step can't read what another one keeps, if it can't.
    pub fn unreadable(&self, step: usize, name: &str) -> Option<String> {
        let own = &self.steps.get(step)?.name;
        let other = self.steps.iter().find(|other| other.name == name)?;
        Some(match other.keeps() {
            false => format!("let `{name}` keep it of its answer: `keep: {{ .. }}`"),
            true if other.lines.is_some() && self.steps.get(step)?.lines.is_none() => self.of_lines(name)?,
            true if other.name == *own => format!("only the undo of `{own}` can read what it keeps: its answer is not there before"),
            true => format!("`{name}` is not done before `{own}`: its answer is not there yet"),
        })
    }

    /// Why what a step keeps can't be read where there is no line, if it can't.
    pub fn of_lines(&self, name: &str) -> Option<String> {
        let step = self.steps.iter().find(|step| step.name == name)?;
        Some(match step.keeps() {
            true => format!(
                "`{name}` keeps an answer for each of its lines: only commands of lines can read it, each that of the line of its name"
            ),
            false => format!("let `{name}` keep it of its answer: `keep: {{ .. }}`"),
        })
    }

    /// All commands, with the step and which of its commands each is.
    pub fn commands(&self) -> impl Iterator<Item = (usize, Call, &Message)> {
        self.steps.iter().enumerate().flat_map(|(place, step)| {
            [Call::Do, Call::Ask, Call::Undo].into_iter().filter_map(move |call| Some((place, call, step.message(call)?)))
        })
    }
}
