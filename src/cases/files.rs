//! The files of a case.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use operator_core::{Millis, Span};
use serde_json::Value;

use super::compare;
use super::world::{Outcome, Row};
use crate::diagnose::Problem;

/// A line of an input file.
#[derive(Clone, Debug)]
pub enum Line {
    Record {
        key: Option<Value>,
        value: Content,
        timestamp: Option<Millis>,
    },
    /// Time passes.
    Advance(Millis),
}

/// The value of an input record.
#[derive(Clone, Debug)]
pub enum Content {
    Json(Value),
    /// Bytes as they are: what no encoder would write.
    Raw(Vec<u8>),
    Nothing,
}

/// A case as its files say.
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    /// Input by topic, in the order of the files' names.
    pub inputs: Vec<(String, Vec<Line>)>,
    /// What must come out: by topic, or by `table.<name>`; each value with the line it stands in.
    pub expected: BTreeMap<String, Vec<(usize, Value)>>,
    /// What it shows, in a sentence.
    pub why: String,
}

/// Every case in a folder, by name.
pub fn read_all(dir: &Path) -> Result<Vec<Case>, Problem> {
    let fail = |path: &Path, e: std::io::Error| Problem::plain(format!("{}: {e}", path.display()));
    let none = || {
        let problem = Problem::plain(format!("{}: there are no cases", dir.display()));
        problem
            .with_help(Some("a case is a folder in it, `hw test --help` tells with which files; `hw sample` takes one from a topic".into()))
    };
    if !dir.is_dir() {
        return Err(none());
    }
    let mut cases = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| fail(dir, e))? {
        let path = entry.map_err(|e| fail(dir, e))?.path();
        if path.is_dir() && !is_left_by_a_tool(&path) {
            cases.push(read(&path).map_err(Problem::plain)?);
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    if cases.is_empty() { Err(none()) } else { Ok(cases) }
}

/// What editors and file managers leave behind: `.in.x.jsonl.swp`, `why.txt~`, `.DS_Store`.
fn is_left_by_a_tool(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || name.ends_with('~')
}

fn read(dir: &Path) -> Result<Case, String> {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut case = Case { name, dir: dir.to_path_buf(), inputs: Vec::new(), expected: BTreeMap::new(), why: String::new() };
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(|p| !is_left_by_a_tool(p)).collect();
    paths.sort();
    for path in paths {
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(stem) = file.strip_suffix(".jsonl") else {
            if file == "why.txt" {
                case.why = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?.trim().to_string();
                continue;
            }
            return Err(format!("{}: not a file of a case (in.*.jsonl, out.*.jsonl, table.*.jsonl, why.txt)", path.display()));
        };
        let values = lines(&path)?;
        if let Some(topic) = stem.strip_prefix("in.") {
            let read = |(n, value)| line(value).map_err(|e| format!("{}:{n}: {e}", path.display()));
            let lines = values.into_iter().map(read).collect::<Result<_, _>>()?;
            case.inputs.push((topic.to_string(), lines));
        } else if let Some(topic) = stem.strip_prefix("out.") {
            case.expected.insert(topic.to_string(), values);
        } else if stem.starts_with("table.") {
            case.expected.insert(stem.to_string(), values);
        } else {
            return Err(format!("{}: its name begins with none of in., out. and table.", path.display()));
        }
    }
    if case.why.is_empty() {
        return Err(format!("{}: `why.txt` is missing: a sentence that says what this case shows", dir.display()));
    }
    Ok(case)
}

/// The values of a file, each with its line.
fn lines(path: &Path) -> Result<Vec<(usize, Value)>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let numbered = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(n, line)| {
            serde_json::from_str(line).map(|value| (n + 1, value)).map_err(|e| {
                // Its own place is that within the line.
                let text = e.to_string();
                let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
                format!("{}:{}:{}: {what}", path.display(), n + 1, e.column().max(1))
            })
        })
        .collect()
}

fn line(value: Value) -> Result<Line, String> {
    let special = value.as_object().filter(|members| members.keys().any(|key| key.starts_with('@')));
    let Some(members) = special else { return Ok(Line::Record { key: None, value: Content::Json(value), timestamp: None }) };
    if let Some(unknown) = members.keys().find(|key| !["@key", "@value", "@raw", "@timestamp", "@advance"].contains(&key.as_str())) {
        return Err(format!("`{unknown}` is none of @key, @value, @raw, @timestamp and @advance"));
    }
    if let Some(span) = members.get("@advance") {
        if members.len() > 1 {
            return Err("`@advance` stands alone: a record is another line".into());
        }
        let span = span.as_str().ok_or_else(|| format!("`@advance` is a duration in quotes such as \"10m\", not {span}"))?;
        return span.parse::<Span>().map(|span| Line::Advance(span.millis()));
    }
    let content = match (members.get("@value"), members.get("@raw")) {
        (Some(Value::Null), None) => Content::Nothing,
        (Some(value), None) => Content::Json(value.clone()),
        (None, Some(raw)) => Content::Raw(raw.as_str().ok_or("`@raw` is a text")?.as_bytes().to_vec()),
        _ => return Err("a record has either `@value` or `@raw`".into()),
    };
    let timestamp = members.get("@timestamp").map(|t| t.as_i64().ok_or("`@timestamp` is milliseconds since 1970")).transpose()?;
    Ok(Line::Record { key: members.get("@key").cloned(), value: content, timestamp })
}

impl Case {
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
            if compare::compare(output, expected, rows).is_empty() {
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
fn updated(old: &str, expected: &[(usize, Value)], rows: &[Row]) -> String {
    let mut left: Vec<&(usize, Value)> = expected.iter().collect();
    let line = |row: &Row| {
        let kept = left.iter().position(|(_, value)| compare::fits_row(value, row)).map(|at| left.remove(at));
        let kept = kept.and_then(|(number, _)| old.lines().nth(number - 1));
        kept.map_or_else(|| row.value.to_string(), str::to_string) + "\n"
    };
    rows.iter().map(line).collect()
}
