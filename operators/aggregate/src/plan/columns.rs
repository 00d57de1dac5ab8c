//! Columns that the configuration declares: of the state, and of entries.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Scalar, new_null_array};
use arrow::compute::is_null;
use arrow::compute::kernels::zip::zip;
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

impl Column {
    /// The column of rows that were read from state: those from before there was this column read as null, and get its default.
    fn with_default(&self, read: ArrayRef) -> Result<ArrayRef, StateError> {
        let Some(default) = self.default.as_ref().filter(|_| !self.field.is_nullable() && read.null_count() > 0) else { return Ok(read) };
        let filled = is_null(read.as_ref()).and_then(|missing| zip(&missing, &Scalar::new(default), &read));
        filled.map_err(|e| StateError::new(format!("the default of `{}`: {e}", self.field.name())))
    }
}

/// The columns of rows that were read from state, of which the last are those declared: with defaults where rows are from before.
///
/// # Errors
/// They are not these columns: a bug.
pub fn filled(declared: &[Column], mut columns: Vec<ArrayRef>) -> Result<Vec<ArrayRef>, StateError> {
    let read = columns.split_off(columns.len().saturating_sub(declared.len()));
    for (column, read) in declared.iter().zip(read) {
        columns.push(column.with_default(read)?);
    }
    Ok(columns)
}

/// How many of the last columns rows may lack, because they have a value for those from before.
pub fn added(columns: &[Column]) -> usize {
    columns.iter().rev().take_while(|column| column.default.is_some()).count()
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
