//! `hw eval`: SQL as pipelines use it, against sample rows; without an expression, a prompt.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use clap::Args;
use operator_core::type_name;
use operator_expr::Expr;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use serde_json::Value;

use super::{Failure, Schemas};
use crate::cases;
use crate::cases::json_rows::{self, Rows};
use crate::diagnose::{Problem, Source};
use crate::say;
use crate::style::{bad, dim, name, strong, wrapped};

#[derive(Args)]
#[command(after_help = "Rows come from --rows (JSON lines, or - for standard input), or from a case of a pipeline, decoded like \
its source. Without an expression a prompt opens: \\columns lists the columns, \\rows the rows, Tab completes, Ctrl-D ends.

Examples:
  hw eval \"upper(status) || '!'\" --rows orders.jsonl
  echo '{\"n\": 7}' | hw eval 'n % 2 = 0' --rows -
  hw eval --pipeline pipelines/order-analytics/pipeline.yaml --source orders")]
pub struct EvalArgs {
    /// The SQL expression
    sql: Option<String>,
    /// JSON rows, one per line; types are inferred from the values
    #[arg(long, conflicts_with = "pipeline")]
    rows: Option<PathBuf>,
    /// Types of the columns, as in a source's `schema`: `id: string, total: decimal(12,2)?, tags: [string]`
    #[arg(long, requires = "rows")]
    columns: Option<String>,
    /// Use the rows of this pipeline's cases
    #[arg(long)]
    pipeline: Option<PathBuf>,
    /// The source to take rows from, if there are several
    #[arg(long, requires = "pipeline")]
    source: Option<String>,
    /// The case to take rows from, if there are several
    #[arg(long, requires = "pipeline")]
    case: Option<String>,
    #[command(flatten)]
    schemas: Schemas,
    /// Maximum number of rows to print
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

pub fn run(args: &EvalArgs) -> Result<(), Failure> {
    let rows = rows(args)?;
    match &args.sql {
        Some(sql) => evaluate(sql, &rows, args.limit).map_err(|p| Failure::Wrong(vec![p])),
        None => prompt(&rows, args.limit),
    }
}

fn rows(args: &EvalArgs) -> Result<Rows, Failure> {
    if let Some(pipeline) = &args.pipeline {
        let (rows, refused) =
            cases::rows(pipeline, &args.schemas.folder(pipeline)?, args.source.as_deref(), args.case.as_deref()).map_err(Failure::Wrong)?;
        // They are part of the case: the pipeline sends them to the dead letters.
        for refused in refused {
            anstream::eprintln!("{}", wrapped(&format!("{} {}", bad("✗"), dim(&format!("left out: {refused}"))), 2));
        }
        return Ok(rows);
    }
    let Some(path) = &args.rows else {
        // Expressions without columns need no rows.
        return Ok(json_rows::one_empty());
    };
    let text = match path.to_str() {
        Some("-") => std::io::stdin().lock().lines().collect::<Result<Vec<_>, _>>().map(|lines| lines.join("\n")),
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(|e| Problem::plain(format!("{}: {e}", path.display())))?;
    let mut values: Vec<Value> = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |e: serde_json::Error| Problem::plain(format!("{}:{}:{}: {e}", path.display(), n + 1, e.column()));
        values.push(serde_json::from_str(line).map_err(|e| Failure::Wrong(vec![at(e)]))?);
    }
    let schema = match &args.columns {
        Some(columns) => Ok(json_rows::declared(columns).map_err(|e| Failure::Wrong(vec![Problem::plain(format!("--columns: {e}"))]))?),
        None => json_rows::inferred(&values),
    };
    let wrong = |e: String| Problem::plain(format!("{}: {e}", path.display()));
    let decoded = schema.and_then(|schema| json_rows::decode(&Arc::new(schema), &values));
    let (rows, refused) = decoded.map_err(|e| Failure::Wrong(vec![wrong(e)]))?;
    match refused.is_empty() {
        true => Ok(rows),
        false => Err(Failure::Wrong(refused.into_iter().map(wrong).collect())),
    }
}

/// Prints the value of an expression for each row.
fn evaluate(sql: &str, rows: &RecordBatch, limit: usize) -> Result<(), Problem> {
    let expr = Expr::compile(sql, &rows.schema()).map_err(|e| refused(sql, e))?;
    let evaluated = expr.evaluate(rows);
    let null = if expr.nullable() { "?" } else { "" };
    say!("{} {}{}", strong(sql), name(&type_name(expr.data_type())), name(null));
    let shown = rows.num_rows().min(limit);
    let values = json_rows::shown(&evaluated.values.slice(0, shown)).map_err(Problem::plain)?;
    let width = shown.to_string().len();
    for (row, value) in values.iter().enumerate() {
        let number = dim(&format!("{:>width$}", row + 1));
        match evaluated.failed.iter().find(|(failed, _)| *failed == row) {
            Some((_, cause)) => say!("{number}  {} {cause}", bad("✗")),
            None => say!("{number}  {value}"),
        }
    }
    if rows.num_rows() > shown {
        say!("{}", dim(&format!("and {} more", rows.num_rows() - shown)));
    }
    if let Some(finding) = expr.fallible() {
        let help = finding.help.unwrap_or_default();
        say!("{}", wrapped(&dim(&format!("in a pipeline: {}; {help}", finding.message)), 2));
    }
    Ok(())
}

/// What is wrong with an expression, with a mark under it.
fn refused(sql: &str, error: operator_expr::ExprError) -> Problem {
    let mut found = error.diagnostic();
    let named = found.within.clone().and_then(|range| sql.get(range)).unwrap_or_default();
    if found.code == "unknown-column" && named.starts_with('_') {
        found.help = Some("columns of the engine and of the record, such as `_time` and `_key`, exist only in pipelines".into());
    }
    Problem::in_text(&Source::new("expression", sql), found)
}

struct Names(Vec<String>);

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..at).unwrap_or_default();
        let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').map_or(0, |n| n + 1);
        let word = before.get(start..).unwrap_or_default();
        Ok((start, self.0.iter().filter(|name| name.starts_with(word)).cloned().collect()))
    }
}

impl Helper for Names {}
impl Highlighter for Names {}
impl Hinter for Names {
    type Hint = String;
}
impl Validator for Names {}

/// Reads expressions until the end of input.
fn prompt(rows: &RecordBatch, limit: usize) -> Result<(), Failure> {
    let fail = |e: ReadlineError| Problem::plain(format!("can't read the terminal: {e}"));
    let mut editor: Editor<Names, _> = Editor::new().map_err(fail)?;
    editor.set_helper(Some(Names(json_rows::paths(&rows.schema()).into_iter().map(|(path, _)| path).collect())));
    say!("{} rows; {}", rows.num_rows(), dim("\\columns, \\rows, Tab completes, Ctrl-D ends"));
    loop {
        match editor.readline("sql> ") {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                let _ = editor.add_history_entry(&line);
                answer(line.trim(), rows, limit);
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
            Err(e) => return Err(fail(e).into()),
        }
    }
}

fn answer(line: &str, rows: &RecordBatch, limit: usize) {
    match line {
        "\\columns" => columns(&rows.schema()),
        "\\rows" => match json_rows::json(&rows.slice(0, rows.num_rows().min(limit))) {
            Ok(values) => values.iter().for_each(|value| say!("{value}")),
            Err(e) => anstream::eprintln!("{}", Problem::plain(e).render()),
        },
        sql => {
            if let Err(problem) = evaluate(sql, rows, limit) {
                anstream::eprintln!("{}", problem.render());
            }
        }
    }
}

fn columns(schema: &SchemaRef) {
    for (path, data_type) in json_rows::paths(schema) {
        say!("{path} {}", name(&data_type));
    }
}
