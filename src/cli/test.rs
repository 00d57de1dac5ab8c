//! `hw test`: a pipeline's cases, each under every schedule of its family.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::cases;
use crate::diagnose::Problem;

#[derive(Args)]
pub struct TestArgs {
    /// The pipeline files; cases are in the folder `cases` beside each
    #[arg(required = true)]
    pipelines: Vec<PathBuf>,
    /// Where schemas are, by subject: `<subject>/v<n>.avsc`
    #[arg(long, default_value = "schemas")]
    schemas: PathBuf,
    /// Run only cases whose name contains this
    #[arg(long, default_value = "")]
    case: String,
    /// Write what comes out into the cases instead of comparing: read the difference before you keep it
    #[arg(long)]
    update: bool,
}

pub fn run(args: &TestArgs) -> Result<(), Failure> {
    let (mut passed, mut failed) = (0, 0);
    for pipeline in &args.pipelines {
        for report in cases::run(pipeline, &args.schemas, &args.case, args.update).map_err(Failure::Wrong)? {
            let place = pipeline.parent().unwrap_or(pipeline).display();
            match report.failure {
                None => {
                    passed += 1;
                    println!("{place}: {}: ok under {} schedules", report.case, report.schedules);
                }
                Some((schedule, differences)) => {
                    failed += 1;
                    println!("{place}: {}: FAILED, {schedule}", report.case);
                    differences.iter().for_each(|line| println!("{line}"));
                    println!("  again: hw test {} --case {}", pipeline.display(), report.case);
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { Ok(()) } else { Err(Problem::plain(format!("{failed} of {} cases failed", passed + failed)).into()) }
}
