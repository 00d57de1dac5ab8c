//! The files of a case.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use operator_core::{Millis, Span};
use serde_json::Value;

use super::world::Outcome;

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
pub fn read_all(dir: &Path) -> Result<Vec<Case>, String> {
    let fail = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    if !dir.is_dir() {
        return Err(format!("{}: there are no cases", dir.display()));
    }
    let mut cases = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| fail(dir, e))? {
        let path = entry.map_err(|e| fail(dir, e))?.path();
        if path.is_dir() {
            cases.push(read(&path)?);
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn read(dir: &Path) -> Result<Case, String> {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut case = Case { name, dir: dir.to_path_buf(), inputs: Vec::new(), expected: BTreeMap::new(), why: String::new() };
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok()).map(|e| e.path()).collect();
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
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(n, line)| {
            serde_json::from_str(line).map(|value| (n + 1, value)).map_err(|e| format!("{}:{}:{}: {e}", path.display(), n + 1, e.column()))
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
        return span.as_str().unwrap_or_default().parse::<Span>().map(|span| Line::Advance(span.millis()));
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

    /// Makes the files of what came out the expectation.
    pub fn write(&self, outcome: &Outcome) -> Result<(), String> {
        let write = |file: PathBuf, text: String| fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()));
        for output in self.expected.keys().filter(|output| !outcome.outputs.contains_key(*output)) {
            let path = self.dir.join(Case::file(output));
            fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        for (output, rows) in &outcome.outputs {
            let text = rows.iter().map(|row| row.value.to_string() + "\n").collect();
            write(self.dir.join(Case::file(output)), text)?;
        }
        Ok(())
    }
}
