//! Invariants as an author declares them: SQL over what is true of a saga and its participants at a moment.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use operator_core::Diagnostic;
use operator_expr::Predicate;

use crate::definition::Definition;
use crate::spec::Saga;

/// What is true of the whole saga.
pub const OF_SAGA: [&str; 3] = ["completed", "compensated", "stuck"];
/// What is true of a step.
pub const OF_STEP: [&str; 3] = ["done", "undone", "happened"];

/// The columns of invariants.
pub fn columns(definition: &Definition) -> SchemaRef {
    let flag = |name: &str| Field::new(name, DataType::Boolean, false);
    let of_step: Fields = OF_STEP.iter().map(|name| flag(name)).collect();
    let steps = definition.steps.iter().map(|step| Field::new(&step.name, DataType::Struct(of_step.clone()), false));
    Arc::new(Schema::new(OF_SAGA.iter().map(|name| flag(name)).chain(steps).collect::<Vec<_>>()))
}

/// The invariants with their texts; those that can't be compiled are left out.
pub fn compiled(saga: &Saga, definition: &Definition) -> Vec<(String, Predicate)> {
    let schema = columns(definition);
    let each = saga.invariants.iter();
    each.filter_map(|sql| Some((sql.0.clone(), Predicate::compile(&sql.0, &schema).ok()?))).collect()
}

/// What is wrong with the invariants.
pub fn check(saga: &Saga, definition: &Definition, found: &mut Vec<Diagnostic>) {
    for step in definition.steps.iter().filter(|step| OF_SAGA.contains(&step.name.as_str())) {
        let problem = Diagnostic::error("name-taken", format!("invariants have a column `{}` by themselves", step.name));
        found.push(problem.at(["steps", &step.name]).key().help("give the step another name"));
    }
    let schema = columns(definition);
    for (place, sql) in saga.invariants.iter().enumerate() {
        if let Err(error) = Predicate::compile(&sql.0, &schema) {
            found.push(error.diagnostic().at(["invariants".to_string(), place.to_string()]));
        }
    }
}
