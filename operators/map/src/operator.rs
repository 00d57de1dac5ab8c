//! Runs a planned `map` over batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter, take};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use operator_core::memory::{BUDGET, bytes, keep, size};
use operator_core::{Batch, Context, Input, Operator, Port, StateError};
use operator_expr::{Evaluated, Expr};

/// Where an output column comes from.
pub(crate) enum Source {
    /// A column of the input, by index.
    Kept(usize),
    /// The element.
    Element,
    /// Computed from the input row.
    PerRow(String, Expr),
    /// Computed from the element, over the narrow schema.
    PerElement(String, Expr),
}

pub(crate) struct Unnest {
    pub list: Expr,
    /// Rows without elements are kept with a null element.
    pub keep_empty: bool,
    /// The columns of the input that expressions over elements read.
    pub outer: Vec<usize>,
    /// Those columns and the element.
    pub narrow: SchemaRef,
}

pub(crate) struct Program {
    pub unnest: Option<Unnest>,
    pub sources: Vec<Source>,
    /// The system columns of the input, which end the output.
    pub system: Vec<usize>,
    pub output: SchemaRef,
}

pub(crate) struct Mapping {
    pub program: Arc<Program>,
}

impl Operator for Mapping {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let done = match &self.program.unnest {
            None => project(&self.program, batch, cx),
            Some(unnest) => explode(&self.program, unnest, batch, cx),
        };
        done.map_err(|e| StateError::new(e.to_string()))
    }
}

/// Bytes that a row to be made takes in [`Places`].
const PLACE: usize = 12;

/// The first cause of every failing row.
type Failures = BTreeMap<usize, String>;

fn note(failures: &mut Failures, name: &str, failed: Vec<(usize, String)>, row_of: impl Fn(usize) -> Option<usize>) {
    for (row, cause) in failed {
        if let Some(row) = row_of(row) {
            failures.entry(row).or_insert_with(|| format!("{name}: {cause}"));
        }
    }
}

fn reject(failures: Failures, batch: &Batch, cx: &mut Context<'_>) {
    for (row, cause) in failures {
        cx.reject(batch, row, cause);
    }
}

fn build(output: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(output.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

/// One row out per row in.
fn project(program: &Program, batch: &Batch, cx: &mut Context<'_>) -> Result<(), ArrowError> {
    let rows = &batch.rows;
    let mut failures = Failures::new();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(program.sources.len() + program.system.len());
    for source in &program.sources {
        match source {
            Source::Kept(index) => columns.push(rows.column(*index).clone()),
            Source::PerRow(name, expr) | Source::PerElement(name, expr) => {
                let Evaluated { values, failed } = expr.evaluate(rows);
                note(&mut failures, name, failed, Some);
                columns.push(values);
            }
            Source::Element => return Err(ArrowError::SchemaError("there is no element: `unnest` is not set".into())),
        }
    }
    columns.extend(program.system.iter().map(|i| rows.column(*i).clone()));
    let mut passed = batch.num_rows();
    if !failures.is_empty() {
        let good: BooleanArray = (0..passed).map(|row| Some(!failures.contains_key(&row))).collect();
        columns = columns.iter().map(|c| filter(c, &good)).collect::<Result<_, _>>()?;
        passed -= failures.len();
    }
    reject(failures, batch, cx);
    cx.pass(Port::OUT, build(&program.output, columns, passed)?, passed);
    Ok(())
}

/// The rows to be made: for each its input row, and its element in the list's values if it has one.
struct Places {
    parents: Vec<u32>,
    elements: Vec<Option<u32>>,
    /// Input rows that make no row.
    without: usize,
}

impl Places {
    /// Rows in `failures` make no rows.
    fn of(lists: &ListArray, keep_empty: bool, failures: &Failures) -> Result<Places, ArrowError> {
        let mut places = Places { parents: Vec::new(), elements: Vec::new(), without: 0 };
        for (row, bounds) in lists.value_offsets().windows(2).enumerate() {
            let (parent, [from, to]) = (row as u32, [bounds.first(), bounds.last()].map(|b| b.map_or(0, |b| *b as u32)));
            if failures.contains_key(&row) {
                continue;
            }
            if lists.is_valid(row) && from < to {
                places.parents.extend((from..to).map(|_| parent));
                places.elements.extend((from..to).map(Some));
            } else if keep_empty {
                places.parents.push(parent);
                places.elements.push(None);
            } else {
                places.without += 1;
            }
        }
        Ok(places)
    }

    /// The elements as a column; a slice where they follow each other in memory.
    fn elements(&self, values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        if let (Some(Some(first)), Some(Some(last))) = (self.elements.first(), self.elements.last())
            && (*last as usize + 1).checked_sub(*first as usize) == Some(self.elements.len())
            && self.elements.iter().all(Option::is_some)
        {
            return Ok(values.slice(*first as usize, self.elements.len()));
        }
        take(values, &UInt32Array::from(self.elements.clone()), None)
    }

    /// Only the rows whose input row did not fail.
    fn without(&self, failures: &Failures) -> BooleanArray {
        self.parents.iter().map(|parent| Some(!failures.contains_key(&(*parent as usize)))).collect()
    }
}

/// One row out per element.
fn explode(program: &Program, unnest: &Unnest, batch: &Batch, cx: &mut Context<'_>) -> Result<(), ArrowError> {
    let rows = &batch.rows;
    let mut failures = Failures::new();
    let lists = unnest.list.evaluate(rows);
    note(&mut failures, "unnest", lists.failed, Some);
    let list = lists.values.as_list_opt::<i32>().ok_or_else(|| ArrowError::SchemaError("unnest of a value that is not a list".into()))?;
    let kept = program.sources.iter().filter_map(|source| if let Source::Kept(index) = source { Some(index) } else { None });
    let beside = kept.chain(&program.system).chain(&unnest.outer).map(|index| rows.column(*index));
    reserve(list, &beside.collect::<Vec<_>>())?;
    let places = Places::of(list, unnest.keep_empty, &failures)?;
    let element = places.elements(list.values())?;
    let parents = UInt32Array::from(places.parents.clone());
    let narrow = narrow_rows(unnest, rows, &parents, &element)?;

    let mut columns: Vec<ArrayRef> = Vec::with_capacity(program.sources.len() + program.system.len());
    let mut makes_rows = vec![false; batch.num_rows()];
    for parent in &places.parents {
        if let Some(makes) = makes_rows.get_mut(*parent as usize) {
            *makes = true;
        }
    }
    for source in &program.sources {
        columns.push(match source {
            Source::Kept(index) => take(rows.column(*index), &parents, None)?,
            Source::Element => element.clone(),
            Source::PerRow(name, expr) => {
                let Evaluated { values, failed } = expr.evaluate(rows);
                // A row that makes no row has nothing that could fail.
                note(&mut failures, name, failed, |row| makes_rows.get(row).copied().unwrap_or(false).then_some(row));
                reserve(list, &[&values])?;
                take(&values, &parents, None)?
            }
            Source::PerElement(name, expr) => {
                let Evaluated { values, failed } = expr.evaluate(&narrow);
                note(&mut failures, name, failed, |row| places.parents.get(row).map(|parent| *parent as usize));
                values
            }
        });
    }
    for index in &program.system {
        columns.push(take(rows.column(*index), &parents, None)?);
    }
    if !failures.is_empty() {
        let good = places.without(&failures);
        columns = columns.iter().map(|c| filter(c, &good)).collect::<Result<_, _>>()?;
    }
    let passed = batch.num_rows() - places.without - failures.len();
    cx.filtered(places.without);
    reject(failures, batch, cx);
    let made = columns.first().map_or(0, |c| c.len());
    cx.pass(Port::OUT, build(&program.output, columns, made)?, passed);
    Ok(())
}

/// Asks for the memory that `columns` need beside the elements of `lists`, where each element gets a copy of its row.
fn reserve(lists: &ListArray, columns: &[&ArrayRef]) -> Result<(), ArrowError> {
    // What the longest list of all rows would need is found without looking at each row, and is little in most batches.
    let longest = lists.offsets().lengths().max().unwrap_or(0);
    let mut need = longest.saturating_mul(columns.iter().map(|column| size(column)).sum());
    if need > BUDGET / 4 {
        let row = |row: usize| columns.iter().map(|column| bytes(column.as_ref(), row, 1)).sum::<usize>();
        need = lists.offsets().lengths().enumerate().map(|(at, elements)| elements * (PLACE + row(at))).sum();
    }
    keep(need).map_err(|e| ArrowError::ExternalError(Box::new(e)))
}

/// What expressions over elements read.
fn narrow_rows(unnest: &Unnest, rows: &RecordBatch, parents: &UInt32Array, element: &ArrayRef) -> Result<RecordBatch, ArrowError> {
    let mut columns = unnest.outer.iter().map(|i| take(rows.column(*i), parents, None)).collect::<Result<Vec<_>, _>>()?;
    columns.push(element.clone());
    build(&unnest.narrow, columns, parents.len())
}
