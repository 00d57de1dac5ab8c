//! Results: pairs, and rows without a match, as columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int8Array, Int64Array, RecordBatch, StructArray, TimestampMillisecondArray, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use operator_core::{Millis, memory};

use crate::plan::{JoinPlan, Select};

/// Rows to be made of the columns of both sides.
#[derive(Default)]
pub struct Results {
    /// The user's columns of each side; `None`: that side is missing in all rows.
    pub sides: [Option<Vec<ArrayRef>>; 2],
    /// The rows in which a side that has columns is not missing; `None`: it is there in all of them.
    pub there: [Option<NullBuffer>; 2],
    /// Event times of each side's rows, where it is there.
    pub times: [Vec<Millis>; 2],
    pub watermarks: Vec<Millis>,
    /// The place of each result among those of its time ([`position`]).
    pub positions: Vec<i64>,
    pub futures: Vec<bool>,
    /// Whether each result is there or gone, of a stream of changes.
    pub changes: Option<Vec<i8>>,
}

/// A result that can't be computed: a row with all columns, and the cause.
pub struct Failed {
    pub row: RecordBatch,
    pub cause: String,
}

impl Results {
    /// The rows of the output, and those that `select` can't compute.
    ///
    /// # Errors
    /// The columns are not those of the plan.
    pub fn build(self, plan: &JoinPlan) -> Result<(RecordBatch, Vec<Failed>), ArrowError> {
        let rows = self.positions.len();
        let system = self.system();
        let fields: Vec<&DataType> = plan.all.fields().iter().map(|field| field.data_type()).collect();
        let widths = [0, 1].map(|side: usize| plan.sides[side].user.len());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
        for (side, from) in [(0, 0), (1, widths[0])] {
            match &self.sides[side] {
                Some(present) => columns.extend(present.iter().cloned()),
                None => columns.extend(fields.iter().skip(from).take(widths[side]).map(|data_type| new_null_array(data_type, rows))),
            }
        }
        columns.extend(system.iter().cloned());
        let Some(select) = &plan.select else {
            make(&columns)?;
            return Ok((RecordBatch::try_new(plan.output.clone(), columns)?, Vec::new()));
        };
        let (values, failures) = self.compute(select, rows)?;
        make(&values)?;
        let output: Vec<ArrayRef> = values.into_iter().chain(system).collect();
        if failures.is_empty() {
            return Ok((RecordBatch::try_new(plan.output.clone(), output)?, Vec::new()));
        }
        let all = RecordBatch::try_new(plan.all.clone(), columns)?;
        let failed = failures.iter().map(|(row, cause)| Failed { row: all.slice(*row, 1), cause: cause.clone() }).collect();
        let good: BooleanArray = (0..rows).map(|row| Some(!failures.contains_key(&row))).collect();
        // What could not be computed is null, which its column may not allow.
        let nullable = plan.output.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let loose = RecordBatch::try_new(Arc::new(Schema::new(nullable.collect::<Vec<_>>())), output)?;
        let kept = filter_record_batch(&loose, &good)?;
        Ok((RecordBatch::try_new(plan.output.clone(), kept.columns().to_vec())?, failed))
    }

    fn system(&self) -> Vec<ArrayRef> {
        let [left, right] = &self.times;
        let times: Vec<Millis> = match (left.is_empty(), right.is_empty()) {
            (true, _) => right.clone(),
            (_, true) => left.clone(),
            _ => left.iter().zip(right).map(|(a, b)| *a.max(b)).collect(),
        };
        let mut system: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")),
            Arc::new(Int64Array::from(self.watermarks.clone())),
            Arc::new(Int64Array::from(self.positions.clone())),
            Arc::new(BooleanArray::from(self.futures.clone())),
        ];
        system.extend(self.changes.iter().map(|changes| Arc::new(Int8Array::from(changes.clone())) as ArrayRef));
        system
    }

    /// The computed columns, and the first cause of every row that fails.
    fn compute(&self, select: &Select, rows: usize) -> Result<(Vec<ArrayRef>, BTreeMap<usize, String>), ArrowError> {
        let mut records: Vec<ArrayRef> = Vec::new();
        let sides = self.sides.iter().zip(&self.there).zip(&self.times);
        for (field, ((present, there), times)) in select.input.fields().iter().zip(sides) {
            let DataType::Struct(fields) = field.data_type() else {
                return Err(ArrowError::SchemaError(format!("`{}` is not a record", field.name())));
            };
            let (columns, nulls): (Vec<ArrayRef>, _) = match present {
                Some(columns) => {
                    let times = TimestampMillisecondArray::new(times.clone().into(), there.clone()).with_timezone("UTC");
                    (columns.iter().cloned().chain([Arc::new(times) as ArrayRef]).collect(), there.clone())
                }
                None => (fields.iter().map(|field| new_null_array(field.data_type(), rows)).collect(), Some(NullBuffer::new_null(rows))),
            };
            records.push(Arc::new(StructArray::try_new(fields.clone(), columns, nulls)?));
        }
        let input = RecordBatch::try_new(select.input.clone(), records)?;
        let (mut values, mut failures) = (Vec::with_capacity(select.columns.len()), BTreeMap::new());
        for (name, expr) in &select.columns {
            let evaluated = expr.evaluate(&input);
            values.push(evaluated.values);
            for (row, cause) in evaluated.failed {
                failures.entry(row).or_insert_with(|| format!("{name}: {cause}"));
            }
        }
        Ok((values, failures))
    }
}

/// Asks for the memory of the columns that were made.
fn make(columns: &[ArrayRef]) -> Result<(), ArrowError> {
    let bytes = columns.iter().map(memory::size).sum();
    memory::keep(bytes).map_err(|e| ArrowError::ExternalError(Box::new(e)))
}

/// The place of a result among those of the same time: a number that depends on the positions of its rows alone, and not on
/// which of them came last. It is negative, because the result is no record. `sequences`: those of the rows, of `left` first.
pub fn position(sequences: [&[u8]; 2]) -> i64 {
    // FNV-1a: it must stay the same, because windows keep it in their state.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let sides = sequences.iter().map(|sequence| sequence.iter().copied());
    let hash = sides.fold(0xcbf2_9ce4_8422_2325, |hash, bytes| step(bytes.fold(hash, step), 0xff));
    -2 - (hash >> 2) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_differ_and_stay_the_same() {
        let all = [position([b"a", b"b"]), position([b"b", b"a"]), position([b"ab", b""]), position([b"", b"ab"])];
        assert!(all.iter().all(|position| *position < -1));
        assert!((0..4).all(|i| (0..4).all(|j| (i == j) == (all[i] == all[j]))));
        assert_eq!(all[0], position([b"a", b"b"]));
    }
}
