//! The files of a case.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::compare;
use super::line::{Expected, Line, What};
use super::outcome::{Outcome, Row};
use crate::diagnose::Problem;

/// An input file and its lines.
pub struct Input {
    pub path: PathBuf,
    /// The topic of every line; `None`: each line says its own.
    pub topic: Option<String>,
    pub lines: Vec<Line>,
}

/// A case as its files say.
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    /// In the order of the files' names.
    pub inputs: Vec<Input>,
    /// Expected output: by topic, or by `table.<name>`.
    pub expected: BTreeMap<String, Vec<Expected>>,
    /// What it shows, in a sentence.
    pub why: String,
}

/// The folders of cases, by name.
///
/// # Errors
/// The folder can't be read, or holds no case.
pub fn folders(dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let none = || {
        let problem = Problem::plain(format!("{}: no cases found", dir.display()));
        problem.with_help(Some("a case is a folder in it; `hw test --help` lists its files, `hw sample` creates one from a topic".into()))
    };
    let entries = if dir.is_dir() { fs::read_dir(dir) } else { return Err(none()) };
    let entries = entries.map_err(|e| Problem::plain(format!("{}: {e}", dir.display())))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir() && !is_left_by_a_tool(path));
    folders.sort();
    if folders.is_empty() { Err(none()) } else { Ok(folders) }
}

/// The name of a file or folder.
pub fn name_of(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Topics that files of a case are named after or that its lines name, as far as they can be read.
pub fn topics(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut topics = BTreeSet::new();
    for path in entries.map(|entry| entry.path()) {
        match name_of(&path).strip_prefix("in.").and_then(|name| name.strip_suffix("jsonl")) {
            Some("") => {
                topics.extend(numbered(&path).unwrap_or_default().iter().filter_map(|(n, line)| Line::read(&path, *n, line).ok()?.topic))
            }
            Some(topic) => drop(topics.insert(topic.trim_end_matches('.').to_string())),
            None => {}
        }
    }
    topics
}

/// What editors and file managers leave behind: `.in.x.jsonl.swp`, `why.txt~`, `.DS_Store`.
fn is_left_by_a_tool(path: &Path) -> bool {
    let name = name_of(path);
    name.starts_with('.') || name.ends_with('~')
}

/// Reads a case.
///
/// # Errors
/// Everything that is wrong with its files.
pub fn read(dir: &Path) -> Result<Case, Vec<String>> {
    let fail = |e: std::io::Error| vec![format!("{}: {e}", dir.display())];
    let mut case = Case { name: name_of(dir), dir: dir.to_path_buf(), inputs: Vec::new(), expected: BTreeMap::new(), why: String::new() };
    let entries = fs::read_dir(dir).map_err(fail)?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(|p| !is_left_by_a_tool(p)).collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in paths {
        if let Err(found) = case.take(&path) {
            wrong.extend(found);
        }
    }
    if case.why.is_empty() {
        wrong.push(format!("{}: `why.txt` is missing: write the purpose of the case in one sentence", dir.display()));
    }
    if wrong.is_empty() { Ok(case) } else { Err(wrong) }
}

/// The lines of a file that are not empty, by number.
fn numbered(path: &Path) -> Result<Vec<(usize, String)>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().enumerate();
    Ok(lines.filter(|(_, line)| !line.trim().is_empty()).map(|(n, line)| (n + 1, line.to_string())).collect())
}

fn lines<T>(path: &Path, read: impl Fn(&Path, usize, &str) -> Result<T, String>) -> Result<Vec<T>, Vec<String>> {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for (number, text) in numbered(path).map_err(|e| vec![e])? {
        match read(path, number, &text) {
            Ok(line) => lines.push(line),
            Err(e) => wrong.push(e),
        }
    }
    if wrong.is_empty() { Ok(lines) } else { Err(wrong) }
}

impl Case {
    fn take(&mut self, path: &Path) -> Result<(), Vec<String>> {
        let file = name_of(path);
        let Some(stem) = file.strip_suffix(".jsonl") else {
            if file == "why.txt" {
                self.why = fs::read_to_string(path).map_err(|e| vec![format!("{}: {e}", path.display())])?.trim().to_string();
                return Ok(());
            }
            let files = "in.jsonl, in.*.jsonl, out.*.jsonl, table.*.jsonl, why.txt";
            return Err(vec![format!("{}: not a file of a case ({files})", path.display())]);
        };
        if stem == "in" || stem.starts_with("in.") {
            let topic = stem.strip_prefix("in.").map(str::to_string);
            let lines = lines(path, Line::read)?;
            let misplaced = |line: &&Line| match line.what {
                What::Record(_) => line.topic.is_some() == topic.is_some(),
                What::Advance(_) => false,
            };
            if let Some(line) = lines.iter().find(misplaced) {
                let what = match &topic {
                    Some(_) => "the name of this file already names the topic; put records of several topics into in.jsonl",
                    None => "a record in in.jsonl needs `@topic`",
                };
                return Err(vec![format!("{}: {what}", line.place)]);
            }
            self.inputs.push(Input { path: path.to_path_buf(), topic, lines });
            return Ok(());
        }
        let output = match (stem.strip_prefix("out."), stem.starts_with("table.")) {
            (Some(topic), _) => topic,
            (None, true) => stem,
            _ => return Err(vec![format!("{}: the file's name must start with in., out. or table.", path.display())]),
        };
        self.expected.insert(output.to_string(), lines(path, Expected::read)?);
        Ok(())
    }

    /// The records of the case, with their topics, file by file.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Line)> {
        fn of_file(input: &Input) -> impl Iterator<Item = (&str, &Line)> {
            let topic = input.topic.as_deref();
            input.lines.iter().filter_map(move |line| {
                let is_record = matches!(line.what, What::Record(_));
                is_record.then(|| (topic.or(line.topic.as_deref()).unwrap_or_default(), line))
            })
        }
        self.inputs.iter().flat_map(of_file)
    }

    /// The file of an output.
    pub fn file(output: &str) -> String {
        if output.starts_with("table.") { format!("{output}.jsonl") } else { format!("out.{output}.jsonl") }
    }

    /// Makes the files of what came out the expectation. Files and lines that fit already stay as they were written.
    pub fn write(&self, outcome: &Outcome) -> Result<(), String> {
        let outputs: BTreeSet<&String> = self.expected.keys().chain(outcome.outputs.keys()).collect();
        for output in outputs {
            let expected = self.expected.get(output).map_or(&[][..], Vec::as_slice);
            let rows = outcome.outputs.get(output).map_or(&[][..], Vec::as_slice);
            if compare::compare(expected, rows, &compare::classes(expected, rows)).is_empty() {
                continue;
            }
            let path = self.dir.join(Case::file(output));
            let written = match rows.is_empty() {
                true => fs::remove_file(&path),
                false => {
                    let old = fs::read_to_string(&path).unwrap_or_default();
                    fs::write(&path, updated(&old, expected, rows))
                }
            };
            written.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }
}

/// A line for each row: the old one where it fits.
fn updated(old: &str, expected: &[Expected], rows: &[Row]) -> String {
    let mut left: Vec<&Expected> = expected.iter().collect();
    let line = |row: &Row| {
        let kept = left.iter().position(|expected| compare::fits_row(expected, row)).map(|at| left.remove(at));
        let kept = kept.and_then(|expected| old.lines().nth(expected.line - 1));
        kept.map_or_else(|| row.value.to_string(), str::to_string) + "\n"
    };
    rows.iter().map(line).collect()
}
