//! `hw operators`: what steps can do.

use clap::Args;
use operator_core::diagnostic::did_you_mean;

use super::Failure;
use crate::diagnose::Problem;
use crate::docs;
use crate::registry::operators;
use crate::say;
use crate::style::{dim, name, strong};

/// Width of the text, in columns.
const WIDTH: usize = 100;
/// Before what a key means.
const INDENT: &str = "      ";

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
    show(&docs::page(kind));
    Ok(())
}

/// Prints a page of the documentation as a terminal shows it best: tables become lists, code is indented.
fn show(page: &str) {
    let mut code = false;
    for line in page.lines() {
        if line.starts_with("```") {
            code = !code;
        } else if code {
            say!("  {line}");
        } else if let Some(title) = line.strip_prefix('#') {
            say!("{}", strong(title.trim_start_matches('#').trim()));
        } else if let Some(row) = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) {
            entry(row);
        } else if !line.starts_with("|---") {
            say!("{}", textwrap::fill(line, WIDTH));
        }
    }
}

/// One key of a table: `name`, type and default, and below them what it means.
fn entry(row: &str) {
    let cells: Vec<&str> = row.splitn(4, " | ").collect();
    let [key, kind, default, meaning] = cells.as_slice() else { return };
    if *key == "key" {
        return;
    }
    let default = match *default {
        "required" => "required".to_string(),
        "none" => String::new(),
        value => format!("default {}", value.trim_matches('`')),
    };
    say!("  {}  {}  {}", name(key.trim_matches('`')), kind.replace('`', ""), dim(&default));
    let options = textwrap::Options::new(WIDTH).initial_indent(INDENT).subsequent_indent(INDENT);
    say!("{}\n", textwrap::fill(&meaning.replace("\\|", "|"), options.word_splitter(textwrap::WordSplitter::NoHyphenation)));
}
