//! `hw operators`: what steps can do.

use clap::Args;
use operator_core::diagnostic::did_you_mean;

use super::Failure;
use crate::diagnose::Problem;
use crate::docs;
use crate::registry::operators;
use crate::say;
use crate::style::{dim, name, strong};

#[derive(Args)]
pub struct OperatorsArgs {
    /// The operator to show; without it, all are listed
    operator: Option<String>,
}

pub fn run(args: &OperatorsArgs) -> Result<(), Failure> {
    let registry = operators();
    let Some(wanted) = &args.operator else {
        for kind in &registry.0 {
            say!("{} {}", name(&format!("{:<8}", kind.name)), kind.summary);
        }
        say!("{}", dim("hw operators NAME shows keys, types, defaults and an example"));
        return Ok(());
    };
    let Some(kind) = registry.get(wanted) else {
        let help = did_you_mean(wanted, registry.names());
        return Err(Failure::Wrong(vec![Problem::plain(format!("there is no operator `{wanted}`")).with_help(help)]));
    };
    for line in docs::page(kind).lines() {
        match line.trim_start_matches('#') {
            title if title.len() < line.len() => say!("{}", strong(title.trim())),
            _ => say!("{line}"),
        }
    }
    Ok(())
}
