//! From files to a plan: the first step of every command that works on a pipeline.

pub mod catalog;

use std::path::Path;

use headwater_engine::operators::Operators;
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Catalog, Plan, plan};
use headwater_engine::yaml::{self, Node, YamlError};
use operator_core::Severity;

use crate::config::substitute_in_pipeline;
use crate::diagnose::{Problem, Source};
use crate::registry::{operators, sinks};
use crate::style::dim;

/// More findings than anyone reads at once.
const MOST: usize = 200;

/// A pipeline file that could be read, at least in part.
pub struct Loaded {
    pub source: Source,
    pub root: Node,
    pub pipeline: Pipeline,
    /// What is wrong with the file's shape, and was left out of the pipeline.
    pub problems: Vec<Problem>,
}

/// Reads a pipeline file. Environment variables are filled in, so that the same file serves every environment.
///
/// # Errors
/// Nothing can be made of the file: what is wrong with it, all at once.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    parse(Source::read(path).map_err(|p| vec![p])?)
}

/// Reads a pipeline that is in memory already.
///
/// # Errors
/// Those of [`load`].
pub fn parse(source: Source) -> Result<Loaded, Vec<Problem>> {
    let mut root = yaml::parse(&source.text).map_err(|e| vec![Problem::yaml(&source, e)])?;
    let mut errors = root.substitute(&mut |text| substitute_in_pipeline(text));
    // A value that can't be filled in can't be checked.
    let mut known = root.clone();
    let left_out: Vec<String> = errors.iter().filter_map(|e| e.place).filter_map(|place| known.leave_out(place)).collect();
    let (pipeline, unreadable) = Pipeline::read_with(&known, &sinks());
    let follows = |e: &YamlError| e.code == "missing-key" && left_out.iter().any(|key| e.message.contains(&format!("`{key}`")));
    errors.extend(unreadable.into_iter().filter(|e| !follows(e)));
    let problems: Vec<Problem> = errors.into_iter().map(|e| Problem::yaml(&source, e)).collect();
    match pipeline {
        Some(pipeline) => Ok(Loaded { source, root, pipeline, problems }),
        None => Err(problems),
    }
}

/// Plans a pipeline against a catalog; warnings come beside the plan.
///
/// # Errors
/// Everything that is wrong with the pipeline, in the order of the file, warnings included.
pub fn make_plan(loaded: &Loaded, catalog: &dyn Catalog) -> Result<(Plan, Vec<Problem>), Vec<Problem>> {
    make_plan_of(loaded, &operators(), catalog)
}

/// Plans a pipeline of these operators.
///
/// # Errors
/// Those of [`make_plan`].
pub fn make_plan_of(loaded: &Loaded, operators: &Operators, catalog: &dyn Catalog) -> Result<(Plan, Vec<Problem>), Vec<Problem>> {
    let show = |found: Vec<_>| found.into_iter().take(MOST).map(|d| Problem::found(&loaded.source, &loaded.root, d)).collect::<Vec<_>>();
    let (plan, found) = match plan(&loaded.pipeline, &loaded.root, operators, catalog) {
        Ok(mut plan) => {
            let warnings = std::mem::take(&mut plan.warnings);
            (Some(plan), show(warnings))
        }
        Err(found) => (None, show(found)),
    };
    // Outputs may be unread only because their readers were left out.
    let follows = |p: &Problem| !loaded.problems.is_empty() && ["unread", "unread-port", "unused-table"].contains(&p.code.as_str());
    let mut problems: Vec<Problem> = loaded.problems.iter().cloned().chain(found.into_iter().filter(|p| !follows(p))).collect();
    problems.sort_by_key(Problem::position);
    match plan.filter(|_| loaded.problems.is_empty()) {
        Some(plan) => Ok((plan, problems)),
        None => Err(problems),
    }
}

/// Prints problems to standard error and says how many. Where programs read the log of a worker, they are lines of the log instead.
pub fn print(problems: &[Problem]) {
    crate::observe::logs::problems(problems);
    if !crate::observe::logs::for_people() {
        return;
    }
    for problem in problems {
        anstream::eprintln!("{}", problem.render());
    }
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    if !problems.is_empty() {
        eprintln!("{}, {}", count(errors, "error"), count(warnings, "warning"));
    }
    // Of an error, if there is one.
    if let Some(problem) = problems.iter().filter(|p| p.place().is_some()).min_by_key(|p| std::cmp::Reverse(p.severity)) {
        anstream::eprintln!("{}", dim(&format!("more about a code: hw explain-error {}", problem.code)));
    }
}

#[cfg(test)]
mod tests;
