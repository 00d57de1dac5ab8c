//! Operator scripts: tests of one operator, drawn as text.
//!
//! ```text
//! # Why this case exists.
//! input: sku: string, ts: timestamp, qty: int
//! time: ts                             event time is column `ts`; without it rows are a second apart
//! spec: { by: [sku], compute: { n: count(*) } }
//!
//! batch
//!  sku | ts       | qty
//!  a   | 12:00:05 | 1
//! time 12:01:00
//! ----
//! emit out: sku=a n=1 | time=12:00:00
//! ledger: in=1 held=1
//!
//! restart
//! ```
//!
//! What the operator did since the last `----` is printed below it, up to the next blank line. [`check_dir`] compares
//! whole files; with `UPDATE=1` in the environment it rewrites them instead. An empty block still prints a line, so an
//! expectation can't be left out.
//!
//! Before the commands:
//! * `input: name: type, ...`: the user columns (types: [`types`]). Without it they are those of the first `batch`.
//! * `spec: ...`: the step's configuration as YAML, on the line or as the indented lines below it.
//! * `time: column`, `out_of_order: 5s` (the watermark trails the newest time by it), `key: a, b` (the input's
//!   partitioning), `show: watermark` (print `_watermark` of emitted rows), `split: no` (see below).
//! * `changes: a, b`: the input is a stream of changes by these columns (`changes:` alone: without a key). Its rows start with `+` or
//!   `-`, and so do emitted ones. A row with `+` is of the same record as the one above it if that has `-`: an update, unless
//!   `_offset` says that they are of two. Without `time` the event time is that of the change.
//! * Of a step with several inputs each is named: `input left: ...`, `key left: a`, `changes left: a`, and below `batch left`.
//!
//! Commands (tables are indented; cells are JSON for lists, structs and quoted texts; `null` or nothing is null):
//! * `batch [partition=1]`: rows, of partition 0 without it. Columns `_time`, `_watermark`, `_offset` and
//!   `_future` override what is computed. Header alone: empty batch.
//! * `time 12:01:00 [wall=12:05:00]`: watermark and clock move (`on_timer` for what is due, `on_time`). `time auto` takes
//!   the watermark from the rows so far.
//! * `restart`: a new operator over the same state. `checkpoint` remembers the state, `rewind` goes back to it with
//!   `on_restore` on the same operator.
//! * `table NAME key=COLUMN[,COLUMN] [at=12:00:00] [history=1h]`: contents of a table, or changes to it when it exists. Columns
//!   are `name:type`. A row that starts with `-` deletes its key, `_time` sets the time of one change.
//! * `plan`: prints what planning made of the step. A spec that is refused prints why at the first command.
//!
//! Besides the expectation, every script checks the contract: all rows of a batch are in the ledger (rule R3), time
//! only moves held rows, emitted rows have the planned schema. [`check_dir`] also runs each script a second time with
//! one row per batch (both rows of an update) and with time in the smallest portions: lines may come in another order within a block, but must be the
//! same, because results depend on the rows and not on how they were batched (rule R6). `split: no` waives that for an
//! operator that prints by batch.

// Part of tests: a script that fails ends its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rows;
mod session;
mod show;
mod stream;
mod tables;
pub mod type_syntax;
mod yaml;

use std::path::Path;

use operator_core::spec::Spec;

use session::Session;

/// Starts every line that reports a broken contract or a script that can't be read.
const BROKEN: &str = "broken:";

/// What running a script gave.
struct Outcome {
    /// The script with what follows each `----` replaced by what happened.
    text: String,
    /// The lines of each block.
    blocks: Vec<Vec<String>>,
    /// `split: no` was given.
    whole_only: bool,
}

/// Runs a script and returns its text with what follows each `----` replaced by what the operator did. Scripts that
/// can't be read and broken contracts show as lines that start with `broken:`.
pub fn run<S: Spec>(script: &str) -> String {
    play::<S>(script, false).text
}

/// Parses the YAML value of a step's kind, in the way scripts do.
///
/// # Errors
/// What is wrong with the YAML or with the spec.
pub fn parse_spec<S: Spec>(yaml: &str) -> Result<S, String> {
    let json = yaml::to_json(yaml)?;
    serde_json::from_str(&json).map_err(|e| e.to_string())
}

/// Plans [`Spec::EXAMPLE`] against [`Spec::EXAMPLE_INPUT`] and returns the plan's outputs as text.
///
/// The example is a pipeline fragment; the value below the kind's key of its first step that has one is taken.
///
/// # Errors
/// What is wrong with the example.
pub fn plan_example<S: Spec>(tables: &std::collections::BTreeMap<String, operator_core::TableInfo>) -> Result<String, String> {
    let json: serde_json::Value = serde_json::from_str(&yaml::to_json(S::EXAMPLE)?).map_err(|e| e.to_string())?;
    let steps = json.get("steps").and_then(|s| s.as_object()).ok_or("the example has no `steps`")?;
    let name = steps.iter().find(|(_, step)| step.get(S::KIND).is_some()).map(|(name, _)| name);
    let name = name.ok_or_else(|| format!("no step of the example has `{}`", S::KIND))?;
    // Taken from the events again, because a JSON value does not keep the order of keys.
    let spec: S = serde_json::from_str(&yaml::to_json_at(S::EXAMPLE, &["steps", name, S::KIND])?).map_err(|e| e.to_string())?;
    let schemas = type_syntax::inputs(S::EXAMPLE_INPUT, S::INPUTS)?;
    let inputs: Vec<_> = schemas
        .iter()
        .map(|schema| operator_core::InputInfo { schema: rows::with_system(schema, false), key: None, mode: operator_core::Mode::Append })
        .collect();
    let (input, others) = inputs.split_first().ok_or("the example has no input")?;
    let planned = operator_core::plan(&spec, &operator_core::PlanCx { others, ..operator_core::PlanCx::new(input, tables) })
        .map_err(|found| found.iter().map(show::diagnostic).collect::<Vec<_>>().join("\n"))?;
    Ok(show::plan(&planned).join("\n"))
}

fn play<S: Spec>(script: &str, one_by_one: bool) -> Outcome {
    let mut session = Session::<S>::new(one_by_one);
    let mut out = Outcome { text: String::new(), blocks: Vec::new(), whole_only: false };
    let mut lines = script.lines().peekable();
    let mut unchecked = false;
    while let Some(line) = lines.next() {
        out.text.push_str(line);
        out.text.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.trim_end() == "----" {
            while lines.next_if(|l| !l.trim().is_empty()).is_some() {}
            let block = session.report();
            for line in &block {
                out.text.push_str(line);
                out.text.push('\n');
            }
            out.blocks.push(block);
            unchecked = false;
            continue;
        }
        let mut body = Vec::new();
        while let Some(next) = lines.next_if(|l| l.starts_with([' ', '\t']) && !l.trim().is_empty()) {
            out.text.push_str(next);
            out.text.push('\n');
            if !next.trim_start().starts_with('#') {
                body.push(next);
            }
        }
        let line = line.split_once(" #").map_or(line, |(command, _)| command).trim();
        unchecked |= session.command(line, &body);
    }
    if unchecked || out.blocks.is_empty() {
        let line = format!("{BROKEN} the commands after the last ---- are not checked");
        out.text.push_str(&format!("{line}\n"));
        out.blocks.push(vec![line]);
    }
    out.whole_only = session.whole_only();
    out
}

/// Runs every `*.txt` script of a directory and compares it with itself: a script is its own expectation. With
/// `UPDATE=1` in the environment, scripts are rewritten instead. Part of a test.
///
/// # Panics
/// When a script differs from what happened, breaks the contract or can't be read, or when the folder has no script.
pub fn check_dir<S: Spec>(dir: impl AsRef<Path>) {
    let dir = dir.as_ref();
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("scripts of `{}` at {}: {e}", S::KIND, dir.display()));
    let mut paths: Vec<_> =
        entries.filter_map(|entry| entry.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "there is no script in {}", dir.display());
    let update = std::env::var("UPDATE").is_ok_and(|v| v == "1");
    let mut problems = Vec::new();
    for path in &paths {
        let script = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let outcome = play::<S>(&script, false);
        if update && outcome.text != script {
            std::fs::write(path, &outcome.text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        } else if outcome.text != script {
            problems.push(format!("{}: not as expected (UPDATE=1 rewrites it)\n{}", path.display(), difference(&script, &outcome.text)));
        }
        problems.extend(outcome.blocks.iter().flatten().filter(|l| l.starts_with(BROKEN)).map(|l| format!("{}: {l}", path.display())));
        if !outcome.whole_only {
            let mut alone = play::<S>(&script, true).blocks;
            let mut whole = outcome.blocks;
            whole.iter_mut().chain(&mut alone).for_each(|block| block.sort());
            if let Some((whole, alone)) = whole.iter().zip(&alone).find(|(a, b)| a != b) {
                let both = difference(&whole.join("\n"), &alone.join("\n"));
                problems.push(format!("{}: one row per batch gives another answer\n{both}", path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n\n"));
}

/// The lines around the first difference.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let same = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let tail = expected.iter().rev().zip(actual.iter().rev()).take_while(|(a, b)| a == b).count();
    let tail = tail.min(expected.len() - same).min(actual.len() - same);
    let marked = |mark: char, lines: &[&str]| -> String {
        let changed = lines.get(same..lines.len() - tail).unwrap_or_default();
        changed.iter().map(|l| format!("{mark} {l}\n")).collect()
    };
    format!("from line {}:\n{}{}", same + 1, marked('-', &expected), marked('+', &actual))
}

#[cfg(test)]
mod tests;
