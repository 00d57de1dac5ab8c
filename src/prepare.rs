//! From files to a plan: what every command that works on a pipeline does first.

use std::path::Path;

use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Catalog, Plan, plan};
use headwater_engine::yaml::{self, Node};
use operator_core::Severity;

use crate::config::substitute;
use crate::diagnose::{Problem, Source};
use crate::registry::operators;

/// A pipeline file that could be read.
pub struct Loaded {
    pub source: Source,
    pub root: Node,
    pub pipeline: Pipeline,
}

/// Reads a pipeline file. Environment variables are filled in, so that the same file serves every environment.
pub fn load(path: &Path) -> Result<Loaded, Problem> {
    parse(Source::read(path)?)
}

/// Reads a pipeline that is in memory already.
pub fn parse(source: Source) -> Result<Loaded, Problem> {
    let mut root = yaml::parse(&source.text).map_err(|e| Problem::yaml(&source, e))?;
    root.substitute(&mut |text| substitute(text)).map_err(|e| Problem::yaml(&source, e))?;
    let pipeline = Pipeline::read(&root).map_err(|e| Problem::yaml(&source, e))?;
    Ok(Loaded { source, root, pipeline })
}

/// Plans a pipeline against a catalog; warnings come beside the plan.
pub fn make_plan(loaded: &Loaded, catalog: &dyn Catalog) -> Result<(Plan, Vec<Problem>), Vec<Problem>> {
    let show = |found: Vec<_>| found.into_iter().map(|d| Problem::found(&loaded.source, &loaded.root, d)).collect::<Vec<_>>();
    match plan(&loaded.pipeline, &loaded.root, &loaded.source.text, &operators(), catalog) {
        Ok(mut plan) => {
            let warnings = show(std::mem::take(&mut plan.warnings));
            Ok((plan, warnings))
        }
        Err(found) => Err(show(found)),
    }
}

/// Prints problems to standard error and says how many.
pub fn print(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{}", problem.render());
    }
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    if !problems.is_empty() {
        eprintln!("{}, {}", count(errors, "error"), count(warnings, "warning"));
    }
}

#[cfg(test)]
mod tests;
