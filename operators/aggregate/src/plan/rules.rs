//! Rules: what commands lead to.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field};
use operator_core::Diagnostic;

use super::kinds::{Kinds, Made};
use super::scope::{Condition, Part, Scope, Value};
use super::{COMMAND, Found, REASON, Within, at};
use crate::spec::Aggregate;
use crate::written::{Emit, Rule, Rules};

/// What a rejection's type has behind that of the command.
const REJECTED: &str = ".rejected";
/// The rejections of commands that there are no rules for.
const UNKNOWN: &str = "command";

/// A command with its rules.
#[derive(Clone, Debug)]
pub struct CommandPlan {
    pub name: String,
    /// What its expressions read.
    pub scope: Scope,
    /// The version that its sender knows.
    pub expect: Option<Value>,
    pub rules: Vec<RulePlan>,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct RulePlan {
    /// `None`: it decides always.
    pub when: Option<Condition>,
    pub then: Then,
}

/// What a rule decides.
#[derive(Clone, Debug)]
pub enum Then {
    Emit(Vec<Made>),
    Reply(Made),
    /// Why, and the rejection.
    Reject(String, Made),
}

impl Then {
    fn made(&self) -> &[Made] {
        match self {
            Then::Emit(made) => made,
            Then::Reply(made) | Then::Reject(_, made) => std::slice::from_ref(made),
        }
    }

    fn within(&self, scope: &Scope) -> Result<Then, Diagnostic> {
        Ok(match self {
            Then::Emit(made) => Then::Emit(made.iter().map(|made| made.within(scope)).collect::<Result<_, _>>()?),
            Then::Reply(made) => Then::Reply(made.within(scope)?),
            Then::Reject(why, made) => Then::Reject(why.clone(), made.within(scope)?),
        })
    }
}

fn rules(aggregate: &Aggregate) -> impl Iterator<Item = &Rule> {
    aggregate.on.iter().flat_map(|(_, rules)| &rules.rules)
}

/// Adds all kinds of events: those that are emitted, those that are only said again, and rejections. How many there are of the
/// first, and of the first two.
pub fn declare(aggregate: &Aggregate, kinds: &mut Kinds, found: &mut Found) -> (usize, usize) {
    for emit in rules(aggregate).filter_map(|rule| rule.emit.as_ref()) {
        match emit {
            Emit::One(name) => kinds.declare([name.as_str()]),
            Emit::Several(events) => kinds.declare(events.iter().map(|event| event.kind.as_str())),
        }
    }
    kinds.declare(aggregate.timers.iter().map(|(_, timer)| timer.emit.as_str()));
    let emits = kinds.len();
    kinds.declare(rules(aggregate).filter_map(|rule| rule.reply.as_deref()));
    let events = kinds.len();
    let text = |name| Field::new(name, DataType::Utf8, false);
    for name in aggregate.on.names().chain([UNKNOWN]) {
        let rejected = format!("{name}{REJECTED}");
        if kinds.find(&rejected).is_some() {
            let message = format!("`{rejected}` is the type of rejections of `{name}`, and of something else");
            found
                .problems
                .push(Diagnostic::error("name-taken", message).at(["on"]).help("give the other event, or the command, another name"));
        }
        // The command as it was named: of those without rules, nothing else says it.
        kinds.fixed(&rejected, &[text(REASON), Field::new(COMMAND, DataType::Utf8, name == UNKNOWN)]);
    }
    (emits, events)
}

/// All commands, in the order in which they are written.
pub fn commands(aggregate: &Aggregate, within: &Within<'_>, kinds: &mut Kinds, found: &mut Found) -> Vec<CommandPlan> {
    if aggregate.on.is_empty() {
        let wrong = Diagnostic::error("nothing-to-do", "`on` is empty: every command would be rejected").at(["on"]);
        found.problems.push(wrong.help("write rules: `order.pay: { emit: order.paid, with: { .. } }`"));
    }
    let scope = scope(within);
    let expect = aggregate.expect.as_ref().and_then(|sql| found.value(sql.as_str(), &scope, Some(&DataType::Int64), at(&["expect"])));
    let mut commands = Vec::new();
    for (name, written) in aggregate.on.iter() {
        let rules = of_command(name, written, &scope, kinds, found);
        commands.extend(narrowed(name, &rules, expect.as_ref(), &scope, found));
    }
    commands
}

/// What rules read: the input, the state, and the entries that a command is about.
fn scope(within: &Within<'_>) -> Scope {
    let input = within.input.fields().iter().enumerate().map(|(place, field)| (field.as_ref().clone(), Part::Input(place)));
    Scope::new(input.chain(within.own()))
}

fn of_command(name: &str, written: &Rules, scope: &Scope, kinds: &mut Kinds, found: &mut Found) -> Vec<RulePlan> {
    let mut plans = Vec::new();
    let mut decided = false;
    for (number, rule) in written.rules.iter().enumerate() {
        let mut place = at(&["on", name]);
        place.extend(written.list.then(|| number.to_string()));
        if decided {
            let wrong =
                Diagnostic::error("nothing-to-do", "no command reaches this rule: the one before has no `when`, so it decides always");
            found.problems.push(wrong.at(place.clone()).help("give the rule before a condition, or remove this one"));
        }
        decided |= rule.when.is_none();
        let of = |key: &str| place.iter().cloned().chain([key.to_string()]).collect::<Vec<_>>();
        let when = rule.when.as_ref().map(|sql| found.condition(sql.as_str(), scope, of("when")));
        let then = match (&rule.emit, &rule.reply, &rule.reject) {
            (Some(emit), None, None) => emitted(emit, rule, &place, scope, kinds, found),
            (None, Some(kind), None) => {
                let kind = kinds.find(kind).unwrap_or_default();
                Some(Then::Reply(kinds.made(kind, (&rule.with, &of("with")), scope, found)))
            }
            (None, None, Some(why)) => {
                let kind = kinds.find(&format!("{name}{REJECTED}")).unwrap_or_default();
                Some(Then::Reject(why.clone(), kinds.made(kind, (&rule.with, &of("with")), scope, found)))
            }
            _ => {
                let wrong = Diagnostic::error("conflicting-settings", "a rule has exactly one of `emit`, `reply` and `reject`").at(place);
                found.problems.push(wrong.help("write `{ when: .., emit: order.paid, with: { .. } }` or `{ reject: out_of_stock }`"));
                None
            }
        };
        // Without its condition a rule would be another one.
        if let (Some(then), false) = (then, matches!(when, Some(None))) {
            plans.push(RulePlan { when: when.flatten(), then });
        }
    }
    plans
}

fn emitted(emit: &Emit, rule: &Rule, place: &[String], scope: &Scope, kinds: &mut Kinds, found: &mut Found) -> Option<Then> {
    let of = |parts: &[&str]| place.iter().cloned().chain(at(parts)).collect::<Vec<_>>();
    match emit {
        Emit::One(kind) => {
            let kind = kinds.find(kind)?;
            Some(Then::Emit(vec![kinds.made(kind, (&rule.with, &of(&["with"])), scope, found)]))
        }
        Emit::Several(events) => {
            if events.is_empty() || !rule.with.is_empty() {
                let wrong = match events.is_empty() {
                    true => Diagnostic::error("nothing-to-do", "the list of events is empty").at(of(&["emit"])),
                    false => Diagnostic::error("conflicting-settings", "each event of a list has a `with` of its own").at(of(&["with"])),
                };
                found.problems.push(wrong.help("write `emit: [{ type: order.paid, with: { .. } }, ..]`"));
            }
            let made = events.iter().enumerate().filter_map(|(number, event)| {
                let with = of(&["emit", &number.to_string(), "with"]);
                Some(kinds.made(kinds.find(&event.kind)?, (&event.with, &with), scope, found))
            });
            Some(Then::Emit(made.collect()))
        }
    }
}

/// The rules with nothing but the columns that they read.
fn narrowed(name: &str, rules: &[RulePlan], expect: Option<&Value>, scope: &Scope, found: &mut Found) -> Option<CommandPlan> {
    let made = rules.iter().flat_map(|rule| rule.then.made()).flat_map(|made| made.values.values());
    let whens = rules.iter().filter_map(|rule| rule.when.as_ref()).flat_map(|when| when.predicate.columns());
    let read: BTreeSet<String> = made.chain(expect).flat_map(Value::columns).chain(whens).cloned().collect();
    let narrow = scope.narrowed(&read);
    found.reads.extend(narrow.schema.fields().iter().zip(&narrow.parts).filter_map(|(field, part)| match part {
        Part::Input(_) => Some(field.name().clone()),
        _ => None,
    }));
    let again = || {
        let rules = rules.iter().map(|rule| {
            let when = rule.when.as_ref().map(|when| when.within(&narrow)).transpose()?;
            Ok(RulePlan { when, then: rule.then.within(&narrow)? })
        });
        let expect = expect.map(|expect| expect.within(&narrow)).transpose()?;
        Ok(CommandPlan { name: name.to_string(), expect, rules: rules.collect::<Result<_, Diagnostic>>()?, scope: narrow.clone() })
    };
    let again = again();
    found.again(again)
}
