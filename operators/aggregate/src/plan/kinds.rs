//! The types of events that a step makes, with the columns that its rules give them.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Fields};
use operator_core::{Diagnostic, StateError};
use operator_event::{Conflict, EventType, Events};
use operator_expr::NamedSql;

use super::Found;
use super::scope::{Failures, Scope, Value};

/// What makes an event: its type, and the values that it gives to columns of it, by name; others are null.
#[derive(Clone, Debug)]
pub struct Made {
    pub kind: usize,
    pub values: BTreeMap<String, Value>,
}

impl Made {
    /// The same in another scope.
    ///
    /// # Errors
    /// The scope lacks a column: a bug.
    pub fn within(&self, scope: &Scope) -> Result<Made, Diagnostic> {
        let values = self.values.iter().map(|(name, value)| Ok((name.clone(), value.within(scope)?)));
        Ok(Made { kind: self.kind, values: values.collect::<Result<_, _>>()? })
    }
}

/// Adds the columns of a type that `columns` has not yet: what an event is made with, computed over a batch, or nulls.
///
/// # Errors
/// A value can't be converted to its column's type: a bug.
pub fn complete(
    columns: &mut Vec<ArrayRef>,
    of: &Fields,
    rows: usize,
    with: Option<(&Made, &RecordBatch)>,
    failed: &mut Failures,
) -> Result<(), StateError> {
    for field in of.iter().skip(columns.len()) {
        columns.push(match with.and_then(|(made, env)| Some((made.values.get(field.name())?, env))) {
            Some((value, env)) => value.evaluate(env, failed)?,
            None => new_null_array(field.data_type(), rows),
        });
    }
    Ok(())
}

/// A type while rules are read: columns, how many rules give each, and where it was first given.
#[derive(Debug, Default)]
struct Kind {
    name: String,
    columns: Vec<Given>,
    /// Rules that make it.
    makers: usize,
}

#[derive(Debug)]
struct Given {
    field: Field,
    makers: usize,
    place: Vec<String>,
}

/// All types of a step.
#[derive(Debug)]
pub struct Kinds {
    /// The columns of the key, which every event has first.
    key: Fields,
    kinds: Vec<Kind>,
}

impl Kinds {
    pub fn new(key: Fields) -> Kinds {
        Kinds { key, kinds: Vec::new() }
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.kinds.iter().position(|kind| kind.name == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kinds.iter().map(|kind| kind.name.as_str())
    }

    /// Adds types that are not there yet.
    pub fn declare<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            if self.find(name).is_none() {
                self.kinds.push(Kind { name: name.to_string(), ..Kind::default() });
            }
        }
    }

    /// Adds a type with these columns beside those of the key, which every event of it has by itself.
    pub fn fixed(&mut self, name: &str, columns: &[Field]) -> usize {
        let given = columns.iter().map(|field| Given { field: field.clone(), makers: 0, place: Vec::new() }).collect();
        self.kinds.push(Kind { name: name.to_string(), columns: given, makers: 0 });
        self.kinds.len() - 1
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// An event of the type that a rule makes: `with` is compiled in `scope`. `place`: where `with` is written.
    pub fn made(&mut self, kind: usize, (with, place): (&NamedSql, &[String]), scope: &Scope, found: &mut Found) -> Made {
        let mut values = BTreeMap::new();
        for (name, sql) in with.iter() {
            let place = || place.iter().cloned().chain([name.to_string()]);
            if name.is_empty() || self.key.find(name).is_some() || self.is_fixed(kind, name) {
                let wrong = match name {
                    "" => Diagnostic::error("bad-name", "a column needs a name"),
                    _ => Diagnostic::error("name-taken", format!("`{name}` is a column that the event has by itself")),
                };
                found.problems.push(wrong.at(place()).key().help("choose another name"));
                continue;
            }
            if let Some(value) = found.value(sql, scope, None, place().collect()) {
                self.column(kind, name, &value, place().collect(), found);
                values.insert(name.to_string(), value);
            }
        }
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.makers += 1;
        }
        Made { kind, values }
    }

    fn is_fixed(&self, kind: usize, name: &str) -> bool {
        self.kinds.get(kind).is_some_and(|kind| kind.columns.iter().any(|given| given.field.name() == name && given.place.is_empty()))
    }

    fn column(&mut self, kind: usize, name: &str, value: &Value, place: Vec<String>, found: &mut Found) {
        let Some(kind) = self.kinds.get_mut(kind) else { return };
        let field = Field::new(name, value.data_type().clone(), value.nullable());
        match kind.columns.iter_mut().find(|given| given.field.name() == name) {
            None => kind.columns.push(Given { field, makers: 1, place }),
            Some(given) if given.field.data_type() == field.data_type() => {
                given.makers += 1;
                given.field.set_nullable(given.field.is_nullable() || field.is_nullable());
            }
            Some(given) => {
                let (ours, theirs) = (operator_core::type_name(field.data_type()), operator_core::type_name(given.field.data_type()));
                found.problems.push(conflict(&format!("`{name}` of `{}` is {ours} here and {theirs} elsewhere", kind.name)).at(place));
            }
        }
    }

    /// The columns of a type, those of the key first: nullable where a rule leaves one out.
    pub fn event_type(&self, kind: usize) -> EventType {
        let Some(of) = self.kinds.get(kind) else { return EventType { name: String::new(), columns: self.key.clone() } };
        let columns = of.columns.iter().map(|given| {
            let left_out = !given.place.is_empty() && given.makers < of.makers;
            given.field.clone().with_nullable(given.field.is_nullable() || left_out)
        });
        let columns = self.key.iter().map(|field| field.as_ref().clone()).chain(columns);
        EventType { name: of.name.clone(), columns: columns.collect() }
    }

    /// The events of a port, which are of these types.
    pub fn events(&self, source: &str, kinds: Range<usize>, found: &mut Found) -> Option<Events> {
        let types = kinds.clone().map(|kind| self.event_type(kind)).collect();
        match Events::new(source, types) {
            Ok(events) => Some(events),
            Err(conflicts) => {
                let at = |one: &Conflict| {
                    let kind = self.kinds.get(kinds.start + one.types[1])?;
                    kind.columns.iter().find(|given| *given.field.name() == one.column).map(|given| given.place.clone())
                };
                for one in conflicts {
                    let wrong = conflict(&one.to_string()).at(at(&one).unwrap_or_default());
                    if !found.problems.contains(&wrong) {
                        found.problems.push(wrong);
                    }
                }
                None
            }
        }
    }
}

fn conflict(message: &str) -> Diagnostic {
    let help = "the events of a stream share the columns of `data`: give the columns other names, or convert one with `CAST(x AS ..)`";
    Diagnostic::error("event-columns", message).help(help)
}
