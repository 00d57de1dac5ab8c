//! From the configuration to a definition: what can be judged without knowing the inputs.

use operator_core::diagnostic::{did_you_mean, names};
use operator_core::{Diagnostic, Interval};
use operator_expr::NamedSql;

use crate::definition::{self, AnswerColumn, Call, Definition, Lines, Message, Question, Retry, Undo};
use crate::program::{ATTEMPT, CAUSE, ID, LINE};
use crate::shapes::{End, Types};
use crate::spec::{self, Saga};

/// The column of a command without `with`, and the first one of an end.
pub const SAGA: &str = "saga";

/// Attempts of anything, at most.
const MOST_ATTEMPTS: u32 = 1_000;
/// Steps of a saga, at most.
const MOST_STEPS: usize = 100;

impl Saga {
    /// The definition, with everything that is wrong with it.
    pub fn definition(&self) -> (Definition, Vec<Diagnostic>) {
        let mut found = Vec::new();
        let steps: Vec<definition::Step> =
            self.steps.0.iter().enumerate().map(|(place, (name, step))| self.step(place, name, step, &mut found)).collect();
        if steps.is_empty() {
            found.push(Diagnostic::error("nothing-to-do", "the saga has no steps").at(["steps"]));
        }
        if steps.len() > MOST_STEPS {
            let message = format!("there are {} steps, at most {MOST_STEPS} are allowed", steps.len());
            found.push(Diagnostic::error("too-long", message).at(["steps"]));
        }
        if !(1..=MOST_ATTEMPTS).contains(&self.stuck.after) {
            found.push(Diagnostic::error("invalid-value", format!("`after` is a number from 1 to {MOST_ATTEMPTS}")).at(["stuck", "after"]));
        }
        self.event_types(&mut found);
        span(self.remember, vec!["remember".into()], &mut found);
        answers(&steps, &mut found);
        let definition = Definition {
            completed: ended(&self.ends.completed, "completed", &mut found),
            compensated: ended(&self.ends.compensated, "compensated", &mut found),
            stuck_after: self.stuck.after,
            remember: self.remember.millis(),
            steps,
        };
        (definition, found)
    }

    /// No event type is empty: `done: ''` would wait for an event that never comes.
    fn event_types(&self, found: &mut Vec<Diagnostic>) {
        let mut check = |types: &[String], at: &[&str]| {
            if types.iter().any(|name| name.trim().is_empty()) {
                found.push(Diagnostic::error("invalid-value", "an event type can't be empty").at(at.to_vec()));
            }
        };
        for (name, step) in &self.steps.0 {
            let mut of_step = |path: &[&str], types: &[String]| check(types, &[&["steps", name.as_str()], path].concat());
            of_step(&["send", "command"], std::slice::from_ref(&step.send.command));
            of_step(&["done"], &step.done.0);
            of_step(&["failed"], &step.failed.0);
            if let Some(question) = &step.unknown {
                of_step(&["unknown", "command"], std::slice::from_ref(&question.command));
                of_step(&["unknown", "done"], &question.done.0);
                of_step(&["unknown", "failed"], &question.failed.0);
                of_step(&["unknown", "not_found"], &question.not_found.0);
            }
            if let Some(undo) = &step.undo {
                of_step(&["undo", "command"], std::slice::from_ref(&undo.command));
                of_step(&["undo", "done"], &undo.done.0);
                of_step(&["undo", "failed"], &undo.failed.0);
            }
        }
        check(std::slice::from_ref(&self.ends.completed.event), &["ends", "completed"]);
        check(std::slice::from_ref(&self.ends.compensated.event), &["ends", "compensated"]);
    }

    fn step(&self, place: usize, name: &str, step: &spec::Step, found: &mut Vec<Diagnostic>) -> definition::Step {
        let at = |key: &str| ["steps", name, key].map(String::from).to_vec();
        let good = name.starts_with(|c: char| c.is_alphabetic()) && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !good {
            let problem = Diagnostic::error("bad-name", format!("`{name}` is not a valid name of a step")).at(["steps", name]).key();
            found.push(problem.help("use a letter, then letters, digits and `_`: invariants refer to the step by its name"));
        }
        span(step.timeout, at("timeout"), found);
        let retry = retry(&step.retry, at("retry"), found);
        if step.done.0.is_empty() {
            found.push(Diagnostic::error("saga-answers", "no event says that the step is done").at(at("done")));
        }
        let timeout = |own: Option<Interval>, key: &str, found: &mut Vec<Diagnostic>| {
            if let Some(own) = own {
                span(own, ["steps", name, key, "timeout"].map(String::from).to_vec(), found);
            }
            own.unwrap_or(step.timeout).millis()
        };
        let or = |own: &Types, of_step: &Types| if own.0.is_empty() { of_step.0.clone() } else { own.0.clone() };
        let unknown = step.unknown.as_ref().map(|question| Question {
            send: message(&question.command, &question.with),
            done: or(&question.done, &step.done),
            failed: or(&question.failed, &step.failed),
            not_found: question.not_found.0.clone(),
            timeout: timeout(question.timeout, "unknown", found),
            retry: self::retry(&question.retry, ["steps", name, "unknown", "retry"].map(String::from).to_vec(), found),
        });
        let undo = step.undo.as_ref().map(|undo| {
            if undo.done.0.is_empty() {
                let problem = Diagnostic::error("saga-answers", "no event says that the step is undone");
                found.push(problem.at(["steps", name, "undo", "done"]));
            }
            let spec::Backoff { backoff, max_backoff } = undo.retry;
            pauses(backoff, max_backoff, ["steps", name, "undo", "retry"].map(String::from).to_vec(), found);
            Undo {
                send: message(&undo.command, &undo.with),
                done: undo.done.0.clone(),
                failed: undo.failed.0.clone(),
                timeout: timeout(undo.timeout, "undo", found),
                retry: Retry { attempts: self.stuck.after, backoff: backoff.millis(), max_backoff: max_backoff.millis() },
            }
        });
        definition::Step {
            name: name.to_string(),
            after: self.after(place, name, step, found),
            lines: lines(name, step, found),
            send: message(&step.send.command, &step.send.with),
            idempotent: step.send.idempotent,
            effect: step.effect,
            done: step.done.0.clone(),
            failed: step.failed.0.clone(),
            keep: self.answer(name, step, found),
            timeout: step.timeout.millis(),
            retry,
            unknown,
            undo,
        }
    }

    /// What is kept of an answer; the types are those of the input. Expressions call it by the name of the step.
    fn answer(&self, name: &str, step: &spec::Step, found: &mut Vec<Diagnostic>) -> Vec<AnswerColumn> {
        let taken = [ID, ATTEMPT, LINE, CAUSE].into_iter().chain(self.keep.iter().map(|(name, _)| name));
        if step.keep.iter().next().is_some() && taken.into_iter().any(|taken| taken == name) {
            let problem = Diagnostic::error("name-taken", format!("expressions over a saga have a column `{name}` already"));
            found.push(problem.at(["steps", name]).key().help("give the step another name: what it keeps is read by it"));
        }
        let column = |(name, sql): (&str, &str)| AnswerColumn { name: name.into(), sql: sql.into(), data_type: String::new() };
        step.keep.iter().map(column).collect()
    }

    /// The places of the steps before a step.
    fn after(&self, place: usize, name: &str, step: &spec::Step, found: &mut Vec<Diagnostic>) -> Vec<usize> {
        let Some(after) = &step.after else { return place.checked_sub(1).into_iter().collect() };
        let above = || self.steps.0.iter().take(place).map(|(name, _)| name.as_str());
        let mut places = Vec::new();
        for before in &after.0 {
            match above().position(|above| above == before) {
                Some(place) => places.push(place),
                None => {
                    let problem = Diagnostic::error("saga-after", format!("there is no step `{before}` above `{name}`"));
                    let known = || match place {
                        0 => "the first step has none before it: remove `after`".to_string(),
                        _ => format!("the steps above are {}", names(above())),
                    };
                    let help = did_you_mean(before, above()).unwrap_or_else(known);
                    found.push(problem.at(["steps", name, "after"]).help(help));
                }
            }
        }
        places
    }
}

fn span(span: Interval, at: Vec<String>, found: &mut Vec<Diagnostic>) {
    if span.millis() <= 0 {
        found.push(Diagnostic::error("invalid-value", "a time to wait is longer than 0").at(at));
    }
}

fn retry(retry: &spec::Retry, at: Vec<String>, found: &mut Vec<Diagnostic>) -> Retry {
    if !(1..=MOST_ATTEMPTS).contains(&retry.attempts) {
        let problem =
            Diagnostic::error("invalid-value", format!("`attempts` is a number from 1 to {MOST_ATTEMPTS}, the first one included"));
        found.push(problem.at(["attempts"]).under(at.clone()));
    }
    pauses(retry.backoff, retry.max_backoff, at, found);
    Retry { attempts: retry.attempts, backoff: retry.backoff.millis(), max_backoff: retry.max_backoff.millis() }
}

/// A pause that grows begins below its limit.
fn pauses(first: Interval, longest: Interval, at: Vec<String>, found: &mut Vec<Diagnostic>) {
    if first > longest {
        let problem =
            Diagnostic::error("invalid-value", format!("`backoff` is {first}, and no pause is longer than `max_backoff`, {longest}"));
        found.push(
            problem.at(["backoff"]).under(at).help(format!("give `max_backoff`, too: `{{ backoff: {first}, max_backoff: {first} }}`")),
        );
    }
}

fn named(with: &NamedSql) -> Vec<(String, String)> {
    with.iter().map(|(name, sql)| (name.to_string(), sql.to_string())).collect()
}

/// A command; without columns it has the saga's id.
fn message(event_type: &str, with: &NamedSql) -> Message {
    let mut with = named(with);
    if with.is_empty() {
        with.push((SAGA.into(), ID.into()));
    }
    Message { event_type: event_type.to_string(), with }
}

/// An end: the saga's id and why it was compensated, then its own columns.
fn ended(end: &End, key: &str, found: &mut Vec<Diagnostic>) -> Message {
    let given = [(SAGA, ID), (CAUSE, CAUSE)];
    for (name, _) in end.with.iter().filter(|(name, _)| given.iter().any(|(given, _)| given == name)) {
        let problem = Diagnostic::error("name-taken", format!("the events of ends have a column `{name}` by themselves"));
        found.push(problem.at(["ends", key, "with", name]).key().help("use another name"));
    }
    let with = given.map(|(name, sql)| (name.to_string(), sql.to_string())).into_iter().chain(named(&end.with));
    Message { event_type: end.event.clone(), with: with.collect() }
}

fn lines(name: &str, step: &spec::Step, found: &mut Vec<Diagnostic>) -> Option<Lines> {
    match (&step.each, &step.by, &step.answers_for) {
        (None, None, None) => None,
        (Some(each), Some(by), Some(answers_for)) => {
            Some(Lines { each: each.0.clone(), by: by.0.clone(), answers_for: answers_for.0.clone() })
        }
        (each, ..) => {
            let message = match each {
                Some(_) => "a step with `each` needs `by`, what tells its lines apart, and `answers_for`, the line that an answer is about",
                None => "`by` and `answers_for` are about the lines of `each`, which is missing",
            };
            let problem = Diagnostic::error("saga-lines", message).at(["steps", name]);
            found.push(problem.help("write `each: lines`, `by: line.sku` and `answers_for: data.sku`"));
            None
        }
    }
}

/// Every type of answer is about one step and says one thing.
fn answers(steps: &[definition::Step], found: &mut Vec<Diagnostic>) {
    let commands = || steps.iter().flat_map(|step| [Call::Do, Call::Ask, Call::Undo].into_iter().filter_map(|call| step.message(call)));
    let mut known: Vec<(&str, definition::Said, &str)> = Vec::new();
    for step in steps {
        for (event_type, said) in step.answers() {
            match known.iter().find(|(other, ..)| *other == event_type) {
                Some((_, same, of)) if *of == step.name && *same == said => {}
                Some((_, _, of)) => {
                    let message = match *of == step.name {
                        true => format!("`{event_type}` says two things about the step `{}`", step.name),
                        false => format!("`{event_type}` is an answer to the steps `{of}` and `{}`", step.name),
                    };
                    let problem = Diagnostic::error("saga-answers", message).at(["steps", &step.name]);
                    found.push(problem.help(
                        "an answer must say by its type alone which step it is about and what became of that: give the participant's events types of their own, \
                         or rename them in a `map` step before this one",
                    ));
                }
                None => {
                    if commands().any(|command| command.event_type == event_type) {
                        let message = format!("`{event_type}` is a command of this saga, and can't be an answer, too");
                        let problem = Diagnostic::error("saga-answers", message).at(["steps", &step.name]);
                        found.push(problem.help("name the event by which the participant answers"));
                    }
                    known.push((event_type, said, &step.name));
                }
            }
        }
    }
}
