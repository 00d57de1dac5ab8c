//! What events change, when events come by themselves, and what always holds.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, Fields};
use operator_core::Diagnostic;
use operator_core::batch::{TIME, time_type};
use operator_core::diagnostic::{did_you_mean, names};

use super::kinds::{Kinds, Made};
use super::scope::{Condition, Part, Scope, Value};
use super::{Found, Within, at};
use crate::spec::Aggregate;
use crate::written::{Change as Written, Named};

/// What is written for an entry that goes.
const DELETE: &str = "delete";

/// What an event does.
#[derive(Clone, Debug)]
pub struct EventPlan {
    pub name: String,
    /// The columns of its `data`.
    pub columns: Fields,
    /// What its expressions read.
    pub scope: Scope,
    /// The entries that it is about: of these collections, those with these keys.
    pub entries: Vec<(usize, Keyed)>,
    pub changes: Vec<Change>,
}

/// The key of an entry, with what that reads.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub scope: Scope,
    pub value: Value,
}

/// A change that an event makes.
#[derive(Clone, Debug)]
pub enum Change {
    /// Of a column of the state.
    State { column: usize, value: Value },
    /// Of columns of an entry.
    Entry { collection: usize, values: Vec<(usize, Value)> },
    /// The entry is gone.
    Delete { collection: usize },
}

impl Change {
    /// The collection whose entry it changes.
    pub fn collection(&self) -> Option<usize> {
        match self {
            Change::State { .. } => None,
            Change::Entry { collection, .. } | Change::Delete { collection } => Some(*collection),
        }
    }

    fn values(&self) -> Vec<&Value> {
        match self {
            Change::State { value, .. } => vec![value],
            Change::Entry { values, .. } => values.iter().map(|(_, value)| value).collect(),
            Change::Delete { .. } => Vec::new(),
        }
    }

    fn within(&self, scope: &Scope) -> Result<Change, Diagnostic> {
        Ok(match self {
            Change::State { column, value } => Change::State { column: *column, value: value.within(scope)? },
            Change::Entry { collection, values } => {
                let values = values.iter().map(|(column, value)| Ok((*column, value.within(scope)?)));
                Change::Entry { collection: *collection, values: values.collect::<Result<_, Diagnostic>>()? }
            }
            Change::Delete { collection } => Change::Delete { collection: *collection },
        })
    }
}

/// A condition over the state.
#[derive(Clone, Debug)]
pub struct Invariant {
    pub name: String,
    pub scope: Scope,
    pub condition: Condition,
}

/// An event that comes at a time.
#[derive(Clone, Debug)]
pub struct TimerPlan {
    pub name: String,
    /// The collection of whose entries it is; `None`: of the aggregate.
    pub of: Option<usize>,
    /// When, over what it is of.
    pub at: Keyed,
    /// What its expressions read.
    pub scope: Scope,
    pub made: Made,
}

/// What the event of each kind does; `kinds`: how many are emitted, and how many there are beside rejections.
pub fn events(
    aggregate: &Aggregate,
    within: &Within<'_>,
    kinds: &Kinds,
    (emits, events): (usize, usize),
    found: &mut Found,
) -> Vec<EventPlan> {
    for name in aggregate.apply.names().filter(|name| kinds.find(name).is_none_or(|kind| kind >= emits)) {
        let known: Vec<&str> = kinds.names().take(emits).collect();
        let wrong = Diagnostic::error("unknown-event", format!("no rule emits `{name}`")).at(["apply", name]).key();
        let help = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| format!("the events are {}", names(known)));
        found.problems.push(wrong.help(help));
    }
    (0..events).map(|kind| event(aggregate, within, kinds, kind, found)).collect()
}

fn event(aggregate: &Aggregate, within: &Within<'_>, kinds: &Kinds, kind: usize, found: &mut Found) -> EventPlan {
    let of = kinds.event_type(kind);
    let none = Named::default();
    let written = aggregate.apply.iter().find(|(name, _)| *name == of.name).map_or(&none, |(_, changes)| changes);
    let data = (Field::new(operator_event::DATA, DataType::Struct(of.columns.clone()), false), Part::Data);
    let time = (Field::new(TIME, time_type(), false), Part::Time);
    let own = [data, time];
    // An input without an envelope has no `data`: what its columns are called, those of the event are.
    let members = of.columns.iter().enumerate().map(|(place, column)| (column.as_ref().clone(), Part::Member(place)));
    let keys = [Scope::new(own.clone()), Scope::new(members)];
    let full = Scope::new(within.own().chain(own));
    let mut changes = Vec::new();
    for (target, change) in written.iter() {
        changes.extend(one_change(&of.name, target, change, within, &full, found));
    }
    let read: BTreeSet<String> = changes.iter().flat_map(Change::values).flat_map(Value::columns).cloned().collect();
    let scope = full.narrowed(&read);
    let changes = changes.iter().filter_map(|change| found.again(change.within(&scope))).collect::<Vec<_>>();
    let about: BTreeSet<usize> = scope.entries().chain(changes.iter().filter_map(Change::collection)).collect();
    let mut entries = Vec::new();
    for collection in about {
        let Some(of_collection) = within.collections.get(collection) else { continue };
        let wanted = of_collection.key.data_type();
        // Written at the collection: what is wrong there is the event's fault.
        let within = |keys: &Scope| {
            let value = Value::compile(&of_collection.of, keys, Some(wanted))?;
            let scope = keys.narrowed(&value.columns().iter().cloned().collect());
            Ok(Keyed { value: value.within(&scope)?, scope })
        };
        let value = within(&keys[0]).or_else(|wrong| within(&keys[1]).map_err(|_: Diagnostic| wrong));
        match value {
            Ok(keyed) => entries.push((collection, keyed)),
            Err(wrong) => {
                let message = format!("`{}` has no key of an entry of `{}`: {}", of.name, of_collection.name, wrong.message);
                let help = format!("give the event the columns of `of: {}`", of_collection.of);
                found.problems.push(Diagnostic::error("entry-key", message).at(["apply", &of.name, &of_collection.name]).help(help));
            }
        }
    }
    EventPlan { name: of.name, columns: of.columns, scope, entries, changes }
}

fn one_change(event: &str, target: &str, written: &Written, within: &Within<'_>, scope: &Scope, found: &mut Found) -> Option<Change> {
    let place = at(&["apply", event, target]);
    if let Some(column) = within.state.record.iter().position(|field| field.name() == target) {
        let wanted = within.state.record.get(column)?.data_type();
        let Written::Value(sql) = written else {
            let wrong = Diagnostic::error("type-mismatch", format!("`{target}` is a column of the state, which has one value"));
            found.problems.push(wrong.at(place).help("write an expression"));
            return None;
        };
        return Some(Change::State { column, value: found.value(sql.as_str(), scope, Some(wanted), place)? });
    }
    let Some(collection) = within.collections.iter().position(|collection| collection.name == target) else {
        let known = || within.state.record.iter().map(|f| f.name().as_str()).chain(within.collections.iter().map(|c| c.name.as_str()));
        let wrong = Diagnostic::error("unknown-column", format!("the state has no column `{target}`, and there is no such collection"));
        let help = did_you_mean(target, known()).unwrap_or_else(|| format!("there are {}", names(known())));
        found.problems.push(wrong.at(place).key().help(help));
        return None;
    };
    let of = within.collections.get(collection)?;
    match written {
        Written::Value(sql) if sql.as_str() == DELETE => Some(Change::Delete { collection }),
        Written::Value(_) => {
            let wrong =
                Diagnostic::error("type-mismatch", format!("`{target}` is a collection: an event sets columns of an entry, or deletes it"));
            found.problems.push(wrong.at(place).help("write `{ column: expression }` or `delete`"));
            None
        }
        Written::Entry(columns) => {
            let mut values = Vec::new();
            for (name, sql) in columns.iter() {
                let place = place.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
                let Some(column) = of.columns.iter().position(|column| column.field.name() == name) else {
                    let known: Vec<&str> = of.columns.iter().map(|column| column.field.name().as_str()).collect();
                    let wrong = Diagnostic::error("unknown-column", format!("entries of `{target}` have no column `{name}`"));
                    let help = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| format!("the columns are {}", names(known)));
                    found.problems.push(wrong.at(place).key().help(help));
                    continue;
                };
                let wanted = of.columns.get(column)?.field.data_type();
                values.extend(found.value(sql, scope, Some(wanted), place).map(|value| (column, value)));
            }
            Some(Change::Entry { collection, values })
        }
    }
}

/// The invariants.
pub fn invariants(aggregate: &Aggregate, within: &Within<'_>, found: &mut Found) -> Vec<Invariant> {
    let scope = Scope::new(within.of_state());
    let mut invariants = Vec::new();
    for (name, sql) in aggregate.invariants.iter() {
        let Some(condition) = found.condition(sql, &scope, at(&["invariants", name])) else { continue };
        invariants.push(Invariant { name: name.to_string(), scope: scope.clone(), condition });
    }
    invariants
}

/// The timers.
pub fn timers(aggregate: &Aggregate, within: &Within<'_>, kinds: &mut Kinds, found: &mut Found) -> Vec<TimerPlan> {
    let time = (Field::new(TIME, time_type(), false), Part::Time);
    let mut timers = Vec::new();
    for (name, timer) in aggregate.timers.iter() {
        let of = match &timer.of {
            None => None,
            Some(wanted) => match within.collections.iter().position(|collection| collection.name == *wanted) {
                Some(collection) => Some(collection),
                None => {
                    let known: Vec<&str> = within.collections.iter().map(|collection| collection.name.as_str()).collect();
                    let wrong =
                        Diagnostic::error("unknown-column", format!("there is no collection `{wanted}`")).at(["timers", name, "of"]);
                    let help = did_you_mean(wanted, known.iter().copied()).unwrap_or_else(|| format!("there are {}", names(known)));
                    found.problems.push(wrong.help(help));
                    continue;
                }
            },
        };
        let entry = of.and_then(|of| within.collections.get(of).map(|collection| (collection.field(), Part::Entry(of))));
        // What a timer is set by changes only together with it.
        let subject = Scope::new(match &entry {
            Some(entry) => vec![entry.clone()],
            None => within.of_state().collect(),
        });
        let place = at(&["timers", name, "at"]);
        let value = found.value(timer.at.as_str(), &subject, None, place.clone());
        if let Some(value) = value.as_ref().filter(|value| !matches!(value.data_type(), DataType::Timestamp(_, _))) {
            let message = format!("the time of a timer is a timestamp, and this is {}", operator_core::type_said(value.data_type()));
            found.problems.push(Diagnostic { sql: true, ..Diagnostic::error("time-type", message).at(place) });
        }
        let full = Scope::new(within.of_state().chain(entry).chain([time.clone()]));
        let kind = kinds.find(&timer.emit).unwrap_or_default();
        let made = kinds.made(kind, (&timer.with, &at(&["timers", name, "with"])), &full, found);
        let scope = full.narrowed(&made.values.values().flat_map(Value::columns).cloned().collect());
        let (Some(made), Some(value)) = (found.again(made.within(&scope)), value) else { continue };
        let value = value.to(&time_type());
        timers.push(TimerPlan { name: name.to_string(), of, at: Keyed { scope: subject, value }, scope, made });
    }
    timers
}
