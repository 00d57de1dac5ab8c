//! The SQL expressions a window reads: group columns and arguments of aggregates, compiled once and evaluated once per
//! batch, however often they are used.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use operator_core::Diagnostic;
use operator_expr::Expr;

/// Expressions by their place.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    expressions: Vec<(String, Expr)>,
}

/// The values of all expressions for one batch.
#[derive(Debug)]
pub struct InputRows {
    pub values: Vec<ArrayRef>,
    /// Rows that some expression failed for, in order, each once with its first cause.
    pub failed: Vec<(usize, String)>,
}

impl Inputs {
    /// The place of `sql`, compiled if it is new.
    pub fn add(&mut self, sql: &str, schema: &SchemaRef) -> Result<usize, Diagnostic> {
        if let Some(place) = self.expressions.iter().position(|(known, _)| known == sql) {
            return Ok(place);
        }
        let expression = Expr::compile(sql, schema).map_err(|e| e.diagnostic())?;
        self.expressions.push((sql.to_string(), expression));
        Ok(self.expressions.len() - 1)
    }

    pub fn get(&self, place: usize) -> Option<&Expr> {
        self.expressions.get(place).map(|(_, expression)| expression)
    }

    /// The columns that are read.
    pub fn columns(&self) -> impl Iterator<Item = &String> {
        self.expressions.iter().flat_map(|(_, expression)| expression.columns())
    }

    /// Type and nullability of what is at `place`. Only for columns and fields is a promise of no nulls believed: it
    /// comes from the data's schema; for computed values the planner's is not always kept.
    pub fn column_type(&self, place: usize) -> (DataType, bool) {
        match self.get(place) {
            Some(e) => (e.data_type().clone(), e.nullable() || e.as_path().is_none()),
            None => (DataType::Null, true),
        }
    }

    /// Evaluates everything for `rows`.
    pub fn evaluate(&self, rows: &RecordBatch) -> InputRows {
        let mut values = Vec::with_capacity(self.expressions.len());
        let mut failed = Vec::new();
        for (_, expression) in &self.expressions {
            let evaluated = expression.evaluate(rows);
            values.push(evaluated.values);
            failed.extend(evaluated.failed);
        }
        failed.sort_by_key(|(row, _)| *row); // stable: the first expression's cause stays first
        failed.dedup_by_key(|(row, _)| *row);
        InputRows { values, failed }
    }
}

impl InputRows {
    /// The arrays at `places`.
    pub fn select(&self, places: &[usize]) -> Vec<ArrayRef> {
        places.iter().filter_map(|place| self.values.get(*place).cloned()).collect()
    }
}
