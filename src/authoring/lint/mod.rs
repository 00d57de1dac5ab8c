//! Findings of `hw lint` beyond the planner's: naming conventions, committed secrets, ids that rows share.

mod expressions;
mod ids;
mod names;
mod quotes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headwater_engine::pipeline::Guarantee;
use headwater_engine::plan::Plan;
use headwater_engine::yaml::{self, Node, YamlError};
use operator_core::diagnostic::closest;
use operator_core::{Diagnostic, Severity};

use self::expressions::Expressions;
use crate::config::{self, Config, blanked, blanked_lines, hidden};
use crate::diagnose::{Problem, Source};
use crate::pipeline_files::catalog::Folder;
use crate::pipeline_files::{self, Loaded};
use crate::registry::{operators, sections, sinks};
use crate::sinks;

pub use names::CONVENTION;

/// More findings than anyone reads at once.
const MOST: usize = 100;

/// What files are checked against.
pub struct Rules<'a> {
    folder: &'a Folder,
    /// What topic names look like: a regular expression for the whole name.
    topics: regex::Regex,
    convention: &'a str,
    expressions: Expressions,
}

impl Rules<'_> {
    /// `convention`: a regular expression for names of topics, such as [`CONVENTION`].
    ///
    /// # Errors
    /// It is not a regular expression.
    pub fn new<'a>(folder: &'a Folder, convention: &'a str) -> Result<Rules<'a>, String> {
        let topics = regex::Regex::new(&format!("^(?:{convention})$")).map_err(|e| e.to_string())?;
        Ok(Rules { folder, topics, convention, expressions: Expressions::of(&operators()) })
    }
}

/// Every problem of a file, a pipeline or the configuration of an environment, in the order of the file.
pub fn check(path: &Path, rules: &Rules<'_>) -> Vec<Problem> {
    match Source::read(path) {
        Ok(source) => check_source(source, rules),
        Err(problem) => vec![problem],
    }
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    Pipeline,
    Environment,
}

/// What a file is for, by its keys, misspelt ones included; `None`: it has none of either.
pub fn document(root: &Node) -> Option<Document> {
    let like = |known: &[&str]| root.keys().filter(|key| closest(key, known.iter().copied()).is_some()).count();
    let sections: Vec<&str> = ["kafka", "worker", "local", "schema_registry"].into_iter().chain(sinks().names()).collect();
    let environment = like(&sections);
    let pipeline = like(&["apiVersion", "name", "sources", "tables", "steps", "sinks"]);
    match environment.max(pipeline) {
        0 => None,
        _ if environment > pipeline => Some(Document::Environment),
        _ => Some(Document::Pipeline),
    }
}

/// Pipelines among the files that have the name of one before them.
pub fn same_names(files: &[PathBuf]) -> Vec<Problem> {
    let mut names: BTreeMap<String, &Path> = BTreeMap::new();
    let mut found = Vec::new();
    for path in files {
        let Some((source, root)) = Source::read(path).ok().and_then(|source| Some((source.clone(), yaml::parse(&source.text).ok()?)))
        else {
            continue;
        };
        let name = root.get("name").and_then(Node::text).filter(|_| document(&root) == Some(Document::Pipeline));
        let Some(name) = name else { continue };
        match names.get(name) {
            Some(first) => {
                let message =
                    format!("`{name}` is the name of {}, too: they would share consumer group, topics and state", first.display());
                let twice = Diagnostic::warning("same-name", message).at(["name"]);
                found.push(Problem::found(&source, &root, twice.help("give each pipeline that runs on one cluster a name of its own")));
            }
            None => {
                names.insert(name.to_string(), path);
            }
        }
    }
    found
}

pub(crate) fn check_source(source: Source, rules: &Rules<'_>) -> Vec<Problem> {
    // The text as written, before environment variables are filled in.
    let raw = match yaml::parse(&source.text) {
        Ok(raw) => raw,
        Err(e) => return vec![Problem::yaml(&source, e).shown_in(&blanked_lines(&source.text))],
    };
    let is_environment = document(&raw) == Some(Document::Environment);
    let mut problems = if is_environment { environment(&source, &raw) } else { pipeline(source.clone(), rules) };
    let show = |found: Vec<Diagnostic>| found.into_iter().take(MOST).map(|d| Problem::found(&source, &raw, d)).collect::<Vec<_>>();
    problems.extend(show(config::plain_secrets(&raw, is_environment)));
    if !is_environment {
        problems.extend(show(names::check(&raw, &rules.topics, rules.convention)));
        problems.extend(show(ids::check(&raw)));
        let sound = problems.iter().all(|problem| problem.severity != Severity::Error);
        problems.extend(show(quotes::check(&raw, &rules.expressions, sound)));
    }
    problems.sort_by_key(Problem::position);
    problems.truncate(MOST);
    let sections = is_environment.then(sections);
    let blanked = blanked(&source, &raw, sections.as_ref());
    problems.into_iter().map(|problem| problem.shown_in(&blanked)).collect()
}

/// The variables of an environment are known there only: what depends on them is left out.
fn environment(source: &Source, raw: &Node) -> Vec<Problem> {
    let sections = sections();
    let (config, errors) = Config::read(raw, &sections);
    let found =
        config.iter().flat_map(|config| [config::check(config), config::risks(config)].concat()).map(|d| Problem::found(source, raw, d));
    let hidden = hidden(raw, &sections);
    let depends = |e: &YamlError| {
        e.place.and_then(|p| source.text.get(source.byte(p.start)..source.byte(p.end))).is_some_and(|text| text.contains("${"))
    };
    errors.into_iter().filter(|e| !depends(e)).map(|e| Problem::yaml(source, e).without(&hidden)).chain(found).collect()
}

fn pipeline(source: Source, rules: &Rules<'_>) -> Vec<Problem> {
    let loaded = match pipeline_files::parse(source) {
        Ok(loaded) => loaded,
        Err(problems) => return problems,
    };
    match pipeline_files::make_plan(&loaded, rules.folder) {
        Ok((plan, mut problems)) => {
            problems.extend(of_plan(&loaded, &plan, rules));
            problems
        }
        Err(problems) => problems,
    }
}

/// What sinks find in the statements that create their tables.
fn of_plan(loaded: &Loaded, plan: &Plan, rules: &Rules<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (output, outbox, sink) in sinks::all(plan) {
        let files = rules.folder.dir.join(outbox.table.kind());
        match sink.lint(&outbox.rows, plan.guarantee == Guarantee::ExactlyOnce, &files) {
            Ok(found) => {
                let placed = found.into_iter().map(|d| d.under(["sinks", &output.name]));
                problems.extend(placed.map(|d| Problem::found(&loaded.source, &loaded.root, d)));
            }
            Err(why) => problems.push(Problem::plain(why)),
        }
    }
    problems
}

#[cfg(test)]
mod tests;
