//! Columns that the configuration declares: of the state, and of entries.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{Field, FieldRef};
use operator_core::batch::reserved_name;
use operator_core::{Diagnostic, StateError, parse_type};

use super::Found;
use super::scope::{Scope, Value};
use crate::written::{Declared, Named};

/// A declared column.
#[derive(Clone, Debug)]
pub struct Column {
    pub field: FieldRef,
    /// Its value at first, one row; null if the column is nullable and has no other; `None`: it must be set.
    pub default: Option<ArrayRef>,
}

/// The columns that `declared` names; `place` is where they are written. `must`: each needs a value at first.
pub fn columns(declared: &Named<Declared>, must: bool, place: &[&str], found: &mut Found) -> Vec<Column> {
    let mut columns = Vec::new();
    for (name, of) in declared.iter() {
        match column(name, of, must) {
            Ok(column) => columns.push(column),
            Err(wrong) => found.problems.push(wrong.under(place.iter().copied().chain([name]))),
        }
    }
    columns
}

fn column(name: &str, of: &Declared, must: bool) -> Result<Column, Diagnostic> {
    if name.is_empty() {
        return Err(Diagnostic::error("bad-name", "a column needs a name").key());
    }
    if let Some(found) = reserved_name(name) {
        return Err(found.key().help(format!("call it `{}`", name.trim_start_matches('_'))));
    }
    let data_type = parse_type(&of.data_type).map_err(|message| Diagnostic::error("type", message))?;
    let field = Arc::new(Field::new(name, data_type.clone(), of.nullable));
    let default = match &of.default {
        Some(sql) => Some(constant(sql, &field)?),
        None if of.nullable => Some(new_null_array(&data_type, 1)),
        None if must => {
            let found = Diagnostic::error("no-default", format!("`{name}` has no value at first"));
            return Err(found.help(format!("write one, such as `{} = ..`, or allow null: `{}?`", of.data_type, of.data_type)));
        }
        None => None,
    };
    Ok(Column { field, default })
}

/// The value of an expression without columns.
fn constant(sql: &str, field: &Field) -> Result<ArrayRef, Diagnostic> {
    let scope = Scope::new([]);
    // The text is part of a longer one: no place within it.
    let plain = |found: Diagnostic| Diagnostic { within: None, sql: false, ..found };
    let value = Value::compile(sql, &scope, Some(field.data_type())).map_err(plain)?;
    let mut failed = Vec::new();
    let one = scope.batch(1, |_| Err(StateError::new("no column"))).and_then(|one| value.evaluate(&one, &mut failed));
    match (one, failed.pop()) {
        (Ok(one), None) => Ok(one),
        (_, failed) => {
            let cause = failed.map_or_else(|| "it does not fit".to_string(), |(_, cause)| cause);
            Err(Diagnostic::error("constant-error", format!("`{sql}` is not a value of `{}`: {cause}", field.name())))
        }
    }
}
