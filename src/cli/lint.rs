//! `hw lint`: every problem of a pipeline in one go, from the files alone.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::catalog::Folder;
use crate::diagnose::Problem;
use crate::prepare;

#[derive(Args)]
pub struct LintArgs {
    /// The pipeline files
    #[arg(required = true)]
    pipelines: Vec<PathBuf>,
    /// Where schemas are, by subject: `<subject>/v<n>.avsc`
    #[arg(long, default_value = "schemas")]
    schemas: PathBuf,
}

pub fn run(args: &LintArgs) -> Result<(), Failure> {
    let folder = Folder::read(&args.schemas).map_err(|e| Problem::plain(format!("{}: {e}", args.schemas.display())))?;
    let mut wrong = Vec::new();
    for path in &args.pipelines {
        let checked = prepare::load(path).map_err(|p| vec![p]).and_then(|loaded| prepare::make_plan(&loaded, &folder));
        match checked {
            Ok((_, warnings)) => {
                prepare::print(&warnings);
                println!("{}: ok", path.display());
            }
            Err(problems) => wrong.extend(problems),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Wrong(wrong)) }
}
