//! `filter`: keeps the rows a condition holds for.
//!
//! Every row is either passed on, filtered (the condition is false or null) or, when the condition cannot be computed
//! for it, rejected with the cause. Batches that pass or go as a whole are not copied. The operator keeps no state and
//! rows stay in their partition.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use arrow::compute::filter_record_batch;
use operator_core::{Batch, Context, Diagnostic, Input, KeyEffect, Operator, OutputPort, PlanCx, Planned, Port, Spec, StateError};
use operator_expr::{Predicate, Sql};
use schemars::JsonSchema;
use serde::Deserialize;

/// Keeps the rows for which this SQL condition is true. Rows for which it is false or null are filtered; rows for which
/// it fails (division by zero, a cast) go to the dead letters with the cause.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Filter(pub Sql);

impl Spec for Filter {
    const KIND: &'static str = "filter";
    const SUMMARY: &'static str = "Keeps the rows for which a SQL condition is true.";
    const EXAMPLE: &'static str = "\
steps:
  valid:
    from: orders
    filter: data.total > 0 AND data.currency IS NOT NULL
";
    const EXAMPLE_INPUT: &'static str = "\
eventId: string
data: struct<orderId: string, total: double, currency: string>
";

    const REFUSES_CHANGES: Option<&'static str> = None;

    fn pass_through_ports(&self) -> Vec<String> {
        vec![String::new()]
    }

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        let schema = &cx.input.schema;
        let predicate = Predicate::compile(self.0.as_str(), schema).map_err(|e| vec![e.diagnostic()])?;
        let fallible = predicate.fallible().into_iter().collect();
        let warnings = constant(&predicate).into_iter().collect();
        let output = OutputPort::main(schema.clone(), KeyEffect::Unchanged).of_mode(&cx.input.mode);
        let reads = predicate.columns().to_vec();
        let planned = Planned::stateless(output, move || Box::new(Filtering { predicate: predicate.clone() })).reads(&reads);
        Ok(Planned { fallible, warnings, ..planned.detail("condition", self.0.as_str()) })
    }
}

/// A condition that says the same of every row.
fn constant(predicate: &Predicate) -> Option<Diagnostic> {
    let (message, help) = match predicate.constant()? {
        true => ("this condition is true for every row", "remove the step, or correct the condition"),
        false => (
            "this condition is never true: no row passes",
            "`= NULL` and `<> NULL` are never true: write IS NULL or IS NOT NULL; `AND false` can go",
        ),
    };
    Some(Diagnostic::warning("unreachable", message).help(help))
}

struct Filtering {
    predicate: Predicate,
}

impl Operator for Filtering {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        let decided = self.predicate.evaluate(&batch.rows);
        let (all, kept, failed) = (batch.num_rows(), decided.holds.true_count(), decided.failed.len());
        for (row, cause) in decided.failed {
            cx.reject(batch, row, cause);
        }
        cx.filtered(all.saturating_sub(kept + failed));
        if kept == all {
            cx.pass(Port::OUT, batch.rows.clone(), all);
        } else if kept > 0 {
            let rows = filter_record_batch(&batch.rows, &decided.holds).map_err(|e| StateError::new(e.to_string()))?;
            cx.pass(Port::OUT, rows, kept);
        }
        Ok(())
    }
}
