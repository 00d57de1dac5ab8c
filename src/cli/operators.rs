//! `hw operators`: documentation of the operators.

use clap::Args;
use operator_core::diagnostic::did_you_mean;

use super::{Failure, page};
use crate::authoring::docs;
use crate::diagnose::Problem;
use crate::registry::operators;
use crate::say;
use crate::style::{dim, name, wrapped};

#[derive(Args)]
pub struct OperatorsArgs {
    /// The operator to document; lists all operators without it
    operator: Option<String>,
}

pub fn run(args: &OperatorsArgs) -> Result<(), Failure> {
    let registry = operators();
    let Some(wanted) = &args.operator else {
        for kind in &registry.0 {
            say!("{}", wrapped(&format!("{} {}", name(&format!("{:<8}", kind.name)), kind.summary), 9));
        }
        let more = "hw operators NAME shows keys, types, defaults and an example; docs/recipes.md has pipelines for common tasks";
        say!("{}", dim(&wrapped(more, 0)));
        return Ok(());
    };
    let Some(kind) = registry.get(wanted) else {
        let help = did_you_mean(wanted, registry.names());
        return Err(Failure::Wrong(vec![Problem::plain(format!("unknown operator `{wanted}`")).with_help(help)]));
    };
    page::show(&docs::page(kind));
    Ok(())
}
