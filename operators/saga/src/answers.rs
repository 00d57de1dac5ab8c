//! What the answers of a batch say beside their type: the line that each is about, and what is kept of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::array::{Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef};
use operator_core::stores::{RowCodec, RowWriter, too_large};
use operator_core::{Batch, StateError, parse_type, type_name};
use operator_expr::Expr;

use crate::definition::{AnswerColumn, Said, Step};
use crate::program::{Program, texts};

/// The answers of a batch, by definition and step: computed when the first of them needs it.
#[derive(Default)]
pub struct Answers {
    lines: BTreeMap<(String, usize), (StringArray, Failed)>,
    kept: BTreeMap<(String, usize), (RowWriter, Failed)>,
}

/// What is kept of the answers to a step; without columns if nothing is.
#[derive(Debug)]
pub struct AnswerProgram {
    pub fields: Fields,
    /// Over answers; or why they can't be computed any more: what is in state can be read all the same.
    exprs: Result<Vec<Expr>, String>,
}

/// Rows that failed, each with its cause.
type Failed = BTreeMap<usize, String>;

/// The line of an answer, of a step with lines and if it is not null, and what is kept of it.
pub type Answer = (Option<String>, Option<Vec<u8>>);

impl AnswerProgram {
    pub fn new(step: &Step, replies: &SchemaRef) -> AnswerProgram {
        // A type without a name is refused when the pipeline is planned.
        let data_type = |column: &AnswerColumn| parse_type(&column.data_type).unwrap_or(DataType::Null);
        let fields: Fields = step.keep.iter().map(|column| Field::new(&column.name, data_type(column), true)).collect();
        let expr = |(column, field): (&AnswerColumn, &FieldRef)| match Expr::compile(&column.sql, replies) {
            Ok(expr) if expr.data_type() == field.data_type() => Ok(expr),
            Ok(expr) => Err(format!("{}: it was {}, and is {}", column.name, column.data_type, type_name(expr.data_type()))),
            Err(error) => Err(format!("{}: {}", column.name, error.diagnostic().message)),
        };
        let exprs = step.keep.iter().zip(&fields).map(expr).collect();
        AnswerProgram { fields, exprs }
    }

    pub fn exprs(&self) -> &[Expr] {
        self.exprs.as_deref().unwrap_or_default()
    }

    /// The rows that are kept of the answers of a batch, and the answers of which nothing can be kept, each with the reason.
    pub fn compute(&self, rows: &RecordBatch) -> Result<(RowWriter, BTreeMap<usize, String>), StateError> {
        let mut failed = BTreeMap::new();
        let columns = match &self.exprs {
            Ok(exprs) => exprs
                .iter()
                .zip(&self.fields)
                .map(|(expr, field)| {
                    let evaluated = expr.evaluate(rows);
                    for (row, why) in evaluated.failed {
                        failed.entry(row).or_insert_with(|| format!("keep.{}: {why}", field.name()));
                    }
                    evaluated.values
                })
                .collect(),
            Err(why) => {
                failed.extend((0..rows.num_rows()).map(|row| (row, format!("keep.{why}"))));
                self.fields.iter().map(|field| new_null_array(field.data_type(), rows.num_rows())).collect::<Vec<_>>()
            }
        };
        Ok((RowCodec::new(self.fields.clone()).writer(&columns)?, failed))
    }
}

impl Answers {
    /// What a row says about a step. Inside an error, why that can't be computed.
    pub fn of(
        &mut self,
        program: &Program,
        (step, said): (usize, Said),
        batch: &Batch,
        row: usize,
    ) -> Result<Result<Answer, String>, StateError> {
        let line = match self.line(program, step, batch, row)? {
            Ok(line) => line,
            Err(why) => return Ok(Err(format!("answers_for: {why}"))),
        };
        let kept = if said == Said::Done { self.kept(program, step, batch, row)? } else { Ok(None) };
        Ok(kept.map(|kept| (line, kept)))
    }

    fn line(&mut self, program: &Program, step: usize, batch: &Batch, row: usize) -> Result<Result<Option<String>, String>, StateError> {
        let lines = match program.lines.get(step) {
            None | Some(None) => return Ok(Ok(None)),
            Some(Some(Err(why))) => return Ok(Err(why.clone())),
            Some(Some(Ok(lines))) => lines,
        };
        let (values, failed) = match self.lines.entry((program.version.clone(), step)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let evaluated = lines.answers_for.evaluate(&batch.rows);
                unknown.insert((texts(&evaluated.values)?, evaluated.failed.into_iter().collect()))
            }
        };
        Ok(match failed.get(&row) {
            Some(why) => Err(why.clone()),
            None => Ok((row < values.len() && values.is_valid(row)).then(|| values.value(row).to_string())),
        })
    }

    fn kept(&mut self, program: &Program, step: usize, batch: &Batch, row: usize) -> Result<Result<Option<Vec<u8>>, String>, StateError> {
        let Some(answers) = program.answers.get(step).filter(|answers| !answers.fields.is_empty()) else { return Ok(Ok(None)) };
        let (writer, failed) = match self.kept.entry((program.version.clone(), step)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(answers.compute(&batch.rows)?),
        };
        if let Some(why) = failed.get(&row) {
            return Ok(Err(why.clone()));
        }
        let mut kept = Vec::new();
        writer.put(row, &mut kept);
        Ok(match too_large(&[], &kept) {
            Some(why) => Err(format!("keep: {why}")),
            None => Ok(Some(kept)),
        })
    }
}
