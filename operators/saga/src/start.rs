//! What a starting row gives a saga: its lines, and what is kept of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, UInt32Array};
use operator_core::stores::too_large;
use operator_core::{Batch, StateError};

use crate::plan::SagaPlan;
use crate::program::{ID, LINE, LineProgram, list, rows_of, texts};

/// Lines of a step, at most, and bytes of what tells one from another.
const MOST_LINES: usize = 1_000;
const LONGEST_LINE: usize = 256;

/// A saga that can begin.
pub struct Begun {
    /// What the tasks of each step are called.
    pub lines: Vec<Vec<String>>,
    /// What is kept, as a row in state.
    pub kept: Vec<u8>,
}

/// For each row the saga that it begins, or why it can't.
pub fn begun(plan: &SagaPlan, batch: &Batch, ids: &StringArray) -> Result<Vec<Result<Begun, String>>, StateError> {
    let mut failed: BTreeMap<usize, String> = BTreeMap::new();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(plan.keep.len());
    for (name, expr) in &plan.keep {
        let evaluated = expr.evaluate(&batch.rows);
        for (row, cause) in evaluated.failed {
            failed.entry(row).or_insert_with(|| format!("{name}: {cause}"));
        }
        columns.push(evaluated.values);
    }
    let ids: ArrayRef = Arc::new(ids.clone());
    let column = |name: &str| match name {
        ID => Some(ids.clone()),
        _ => plan.scope.kept.find(name).and_then(|(place, _)| columns.get(place).cloned()),
    };
    let mut lines: Vec<Vec<Vec<String>>> = vec![Vec::new(); batch.num_rows()];
    for (step, of_step) in plan.program.definition.steps.iter().zip(&plan.program.lines) {
        match of_step {
            Some(Ok(of_step)) => {
                let names = names(of_step, batch.num_rows(), &column, &step.name, &mut failed)?;
                lines.iter_mut().zip(names).for_each(|(lines, names)| lines.push(names));
            }
            _ => lines.iter_mut().for_each(|lines| lines.push(vec![String::new()])),
        }
    }
    let codec = operator_core::stores::RowCodec::new(plan.scope.kept.clone());
    let writer = codec.writer(&columns)?;
    let mut one = |(row, lines): (usize, Vec<Vec<String>>)| {
        if let Some(why) = failed.remove(&row) {
            return Err(why);
        }
        let mut kept = Vec::new();
        writer.put(row, &mut kept);
        match too_large(&[], &kept) {
            Some(why) => Err(why),
            None => Ok(Begun { lines, kept }),
        }
    };
    Ok(lines.into_iter().enumerate().map(&mut one).collect())
}

/// What the lines of a step are called, of each row. Rows whose lines can't be told apart fail.
fn names(
    lines: &LineProgram,
    rows: usize,
    column: &dyn Fn(&str) -> Option<ArrayRef>,
    step: &str,
    failed: &mut BTreeMap<usize, String>,
) -> Result<Vec<Vec<String>>, StateError> {
    let computed = lines.each.compute(rows, column)?;
    let list = list(&computed)?;
    let (mut parents, mut elements) = (Vec::new(), Vec::new());
    for (row, bounds) in list.value_offsets().windows(2).enumerate() {
        let [from, to] = [bounds.first(), bounds.last()].map(|bound| bound.map_or(0, |bound| *bound as u32));
        if let Some(why) = computed.failed.get(&row) {
            failed.entry(row).or_insert_with(|| why.clone());
        } else if (to - from) as usize > MOST_LINES {
            failed.entry(row).or_insert_with(|| format!("{step}: there are {} lines; the limit is {MOST_LINES}", to - from));
        } else if list.is_valid(row) {
            parents.extend((from..to).map(|_| row as u32));
            elements.extend(from..to);
        }
    }
    let places = UInt32Array::from(parents.clone());
    let items = rows_of(list.values(), &UInt32Array::from(elements))?;
    let of_line = |name: &str| match name {
        LINE => Some(items.clone()),
        _ => column(name).and_then(|values| rows_of(&values, &places).ok()),
    };
    let by = lines.by.compute(parents.len(), of_line)?;
    let called = by.columns.first().map(texts).transpose()?;
    let mut names = vec![Vec::new(); rows];
    let mut known: BTreeSet<(u32, String)> = BTreeSet::new();
    for (element, parent) in parents.iter().enumerate() {
        let name = called.as_ref().filter(|called| called.is_valid(element)).map(|called| called.value(element));
        let why = match (by.failed.get(&element), name) {
            (Some(why), _) => Some(format!("{step}: {why}")),
            (_, None | Some("")) => Some(format!("{step}: what tells its lines apart is missing in one of them")),
            (_, Some(name)) if name.len() > LONGEST_LINE => {
                Some(format!("{step}: what tells its lines apart has {} bytes; the limit is {LONGEST_LINE}", name.len()))
            }
            (_, Some(name)) if !known.insert((*parent, name.to_string())) => Some(format!("{step}: two lines are both `{name}`")),
            _ => None,
        };
        match (why, name, names.get_mut(*parent as usize)) {
            (Some(why), ..) => {
                failed.entry(*parent as usize).or_insert(why);
            }
            (None, Some(name), Some(names)) => names.push(name.to_string()),
            _ => {}
        }
    }
    Ok(names)
}
