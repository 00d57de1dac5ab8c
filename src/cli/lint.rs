//! `hw lint`: reports every problem of pipelines and environment files at once, from the files alone.

use std::path::{Path, PathBuf};

use clap::Args;
use operator_core::Severity;
use operator_saga::check::Explored;

use super::{Failure, Schemas, folders};
use crate::authoring::lint::{self, CONVENTION, Document, Rules};
use crate::authoring::sagas::Checked;
use crate::diagnose::Problem;
use crate::{pipeline_files, say};

#[derive(Args)]
#[command(after_help = "Examples:
  hw lint pipelines config               every pipeline and configuration in these folders
  hw lint --strict --json pipeline.yaml | jq .code
  hw lint --sagas pipeline.yaml          what can happen to its sagas: lost, doubled, late answers, timeouts
  hw explain-error unknown-column

Exit codes: 0 no errors (and, with --strict, no warnings), 1 a file can't be checked, 2 errors.")]
pub struct LintArgs {
    /// Pipeline files, environment files, and folders to search for both; - is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    schemas: Schemas,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
    /// Print one JSON object per problem to standard output
    #[arg(long)]
    json: bool,
    /// Explore what can happen to sagas, and report a case that breaks what must hold
    #[arg(long)]
    sagas: bool,
    /// With --sagas: events from the beginning of a saga, at most
    #[arg(long, value_name = "N", default_value_t = operator_saga::check::DEPTH, requires = "sagas")]
    depth: usize,
    /// Regular expression for topic names
    #[arg(long, default_value = CONVENTION, hide_default_value = true)]
    topics: String,
}

pub fn run(args: &LintArgs) -> Result<(), Failure> {
    let mut found = Vec::new();
    let files = folders::files(&args.files, &[Document::Pipeline, Document::Environment])?;
    for file in &files {
        let folder = args.schemas.read(file)?;
        let rules = Rules::new(&folder, &args.topics).map_err(|e| Failure::Wrong(vec![Problem::plain(format!("--topics: {e}"))]))?;
        let mut problems = lint::check(file, &rules);
        if args.sagas {
            problems.extend(sagas(file, args));
        }
        if args.strict {
            problems.iter_mut().for_each(|p| p.severity = Severity::Error);
        }
        if problems.is_empty() && !args.json {
            say!("{}: {}", file.display(), crate::style::good("ok"));
        }
        found.extend(problems);
    }
    let mut twice = lint::same_names(&files);
    if args.strict {
        twice.iter_mut().for_each(|p| p.severity = Severity::Error);
    }
    found.extend(twice);
    if args.json {
        found.iter().for_each(|p| say!("{}", p.json()));
    }
    // The content of a file that can't be read is unknown.
    if let Some(unreadable) = found.iter().position(|p| p.place().is_none() && p.code == "error") {
        let problem = found.remove(unreadable);
        if !args.json {
            pipeline_files::print(&found);
        }
        return Err(problem.into());
    }
    let wrong = found.iter().any(|p| p.severity == Severity::Error);
    match (wrong, args.json) {
        (true, false) => Err(Failure::Wrong(found)),
        (true, true) => Err(Failure::Said),
        (false, json) => {
            if !json {
                pipeline_files::print(&found);
                if files.len() > 1 {
                    say!("{} files checked", files.len());
                }
            }
            Ok(())
        }
    }
}

/// What is wrong with the sagas of a file that is a pipeline; says what was explored of the others.
fn sagas(file: &Path, args: &LintArgs) -> Vec<Problem> {
    let Ok(loaded) = pipeline_files::load(file) else { return Vec::new() };
    let checked = crate::authoring::sagas::checked(&loaded, args.depth);
    let one = |Checked { step, outcome }: Checked| {
        let Explored { worlds, depth, complete } = match outcome {
            Ok(explored) => explored,
            Err(problem) => return Some(problem),
        };
        if !args.json {
            let all = if complete { "all there are" } else { "there are more: --depth" };
            say!("{}: saga `{step}`: {worlds} states, up to {depth} events from the beginning, {all}", file.display());
        }
        None
    };
    checked.into_iter().filter_map(one).collect()
}
