//! `hw lint`: reports every problem of pipelines and environment files at once, from the files alone.

use std::path::PathBuf;

use clap::Args;
use operator_core::Severity;

use super::{Failure, Schemas, folders};
use crate::authoring::lint::{self, CONVENTION, Document, Rules};
use crate::diagnose::Problem;
use crate::say;

#[derive(Args)]
#[command(after_help = "Examples:
  hw lint pipelines config               every pipeline and configuration in these folders
  hw lint --strict --json pipeline.yaml | jq .code
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
            crate::pipeline_files::print(&found);
        }
        return Err(problem.into());
    }
    let wrong = found.iter().any(|p| p.severity == Severity::Error);
    match (wrong, args.json) {
        (true, false) => Err(Failure::Wrong(found)),
        (true, true) => Err(Failure::Said),
        (false, json) => {
            if !json {
                crate::pipeline_files::print(&found);
                if files.len() > 1 {
                    say!("{} files checked", files.len());
                }
            }
            Ok(())
        }
    }
}
