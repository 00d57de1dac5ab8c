//! The rows of the ports that are no events: states of sagas, stuck sagas, what was ignored.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, Int32Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::SchemaRef;
use operator_core::batch::{SystemRow, system_columns};
use operator_core::{Millis, StateError, keys};

use crate::codec::Kept;
use crate::definition::Definition;
use crate::machine::{Status, Task};

/// What led to an event: the system columns of what it makes, and the id of the row, or of the command whose time was up.
#[derive(Clone, Debug)]
pub struct Cause {
    pub system: SystemRow,
    pub id: String,
}

/// A text as a key in state.
pub fn key(text: &str) -> Vec<u8> {
    let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let mut key = Vec::with_capacity(text.len() + 5);
    keys::encode(&[column], 0, &mut key);
    key
}

/// A step and a line as a key in state.
pub fn answer_key(step: &str, line: &str) -> Vec<u8> {
    let columns = [step, line].map(|text| Arc::new(StringArray::from(vec![text])) as ArrayRef);
    let mut key = Vec::with_capacity(step.len() + line.len() + 10);
    keys::encode(&columns, 0, &mut key);
    key
}

/// The text of a key.
pub fn text_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(5..)?).ok()
}

/// A saga as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub status: Status,
    /// The steps that it waits for.
    pub step: Option<String>,
    /// The number of the command that it waits for; of several, the largest.
    pub attempts: u32,
    /// Since when status and step are what they are.
    pub since: Millis,
    pub definition: String,
    /// Why it is compensated, or stuck.
    pub cause: Option<String>,
}

impl View {
    pub fn of(kept: &Kept, definition: &Definition) -> View {
        let Kept { instance, definition: version, since, .. } = kept;
        let name = |step: usize| definition.steps.get(step).map_or("", |step| step.name.as_str());
        let mut steps: Vec<usize> = instance.active().map(|(at, _)| at.step).collect();
        steps.dedup();
        let step = steps.iter().map(|step| name(*step)).collect::<Vec<_>>().join(", ");
        let status = instance.status();
        let cause = if status == Status::Stuck { &instance.trouble } else { &instance.cause };
        View {
            status,
            step: Some(step).filter(|step| !step.is_empty()),
            attempts: instance.active().map(|(_, task): (_, &Task)| task.attempts()).max().unwrap_or(0),
            since: *since,
            definition: version.clone(),
            cause: Some(cause.clone()).filter(|cause| !cause.is_empty()),
        }
    }
}

/// Changes of states.
#[derive(Default)]
pub struct States(Vec<(String, View, i8, SystemRow)>);

/// Sagas that got stuck.
#[derive(Default)]
pub struct StuckRows(Vec<(String, StuckRow, SystemRow)>);

/// A saga that got stuck, and where.
pub struct StuckRow {
    pub step: String,
    pub line: Option<String>,
    pub attempts: u32,
    pub definition: String,
    pub cause: String,
}

/// Rows that changed nothing.
#[derive(Default)]
pub struct IgnoredRows(Vec<(Option<String>, &'static str, Option<String>, &'static str, SystemRow)>);

fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn numbers(values: impl IntoIterator<Item = u32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values.into_iter().map(|number| i32::try_from(number).unwrap_or(i32::MAX))))
}

fn times(values: impl IntoIterator<Item = Millis>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// `columns` with the system columns behind them.
fn batch<'a>(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    system: impl Iterator<Item = &'a SystemRow> + Clone,
    signs: Option<Vec<i8>>,
) -> Result<RecordBatch, StateError> {
    let signs = signs.map(|signs| Arc::new(Int8Array::from(signs)) as ArrayRef);
    let columns = columns.into_iter().chain(system_columns(system)).chain(signs).collect();
    RecordBatch::try_new(schema.clone(), columns).map_err(|e| StateError::new(format!("the rows of sagas: {e}")))
}

impl States {
    pub fn push(&mut self, id: &str, view: View, sign: i8, system: SystemRow) {
        self.0.push((id.to_string(), view, sign, system));
    }

    pub fn finish(self, schema: &SchemaRef) -> Result<RecordBatch, StateError> {
        let rows = &self.0;
        let columns = vec![
            texts(rows.iter().map(|(id, ..)| Some(id.as_str()))),
            texts(rows.iter().map(|(_, view, ..)| Some(view.status.name()))),
            texts(rows.iter().map(|(_, view, ..)| view.step.as_deref())),
            numbers(rows.iter().map(|(_, view, ..)| view.attempts)),
            times(rows.iter().map(|(_, view, ..)| view.since)),
            texts(rows.iter().map(|(_, view, ..)| Some(view.definition.as_str()))),
            texts(rows.iter().map(|(_, view, ..)| view.cause.as_deref())),
        ];
        let signs = rows.iter().map(|(_, _, sign, _)| *sign).collect();
        batch(schema, columns, rows.iter().map(|(.., system)| system), Some(signs))
    }
}

impl StuckRows {
    pub fn push(&mut self, id: &str, row: StuckRow, system: SystemRow) {
        self.0.push((id.to_string(), row, system));
    }

    pub fn finish(self, schema: &SchemaRef) -> Result<RecordBatch, StateError> {
        let rows = &self.0;
        let columns = vec![
            texts(rows.iter().map(|(id, ..)| Some(id.as_str()))),
            texts(rows.iter().map(|(_, row, _)| Some(row.step.as_str()))),
            texts(rows.iter().map(|(_, row, _)| row.line.as_deref())),
            numbers(rows.iter().map(|(_, row, _)| row.attempts)),
            texts(rows.iter().map(|(_, row, _)| Some(row.definition.as_str()))),
            texts(rows.iter().map(|(_, row, _)| Some(row.cause.as_str()))),
        ];
        batch(schema, columns, rows.iter().map(|(.., system)| system), None)
    }
}

impl IgnoredRows {
    pub fn push(&mut self, id: Option<&str>, input: &'static str, event: Option<&str>, reason: &'static str, system: SystemRow) {
        self.0.push((id.map(str::to_string), input, event.map(str::to_string), reason, system));
    }

    pub fn finish(self, schema: &SchemaRef) -> Result<RecordBatch, StateError> {
        let rows = &self.0;
        let columns = vec![
            texts(rows.iter().map(|(id, ..)| id.as_deref())),
            texts(rows.iter().map(|(_, input, ..)| Some(*input))),
            texts(rows.iter().map(|(_, _, event, ..)| event.as_deref())),
            texts(rows.iter().map(|(_, _, _, reason, _)| Some(*reason))),
        ];
        batch(schema, columns, rows.iter().map(|(.., system)| system), None)
    }
}
