//! Problems as people see them: file, line, column, the text with a mark under it, what is wrong and what would be
//! right.

use std::path::Path;

use headwater_engine::yaml::{Node, Place, Value, YamlError};
use miette::{GraphicalReportHandler, LabeledSpan, MietteDiagnostic, NamedSource, Report, Severity as Level};
use operator_core::{Diagnostic, Severity};

/// A file and its text.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    /// Reads a file of at most [`headwater_engine::yaml::MAX_BYTES`].
    pub fn read(path: &Path) -> Result<Source, Problem> {
        let name = path.display().to_string();
        let size = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        if size > headwater_engine::yaml::MAX_BYTES as u64 {
            return Err(Problem::plain(format!("{name} is larger than a mebibyte")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Problem::plain(format!("{name} can't be read: {e}")))?;
        Ok(Source { name, text })
    }

    /// Byte offset of a character index.
    fn byte(&self, index: usize) -> usize {
        self.text.char_indices().nth(index).map_or(self.text.len(), |(at, _)| at)
    }
}

/// Something wrong, ready to be shown.
#[derive(Debug)]
pub struct Problem {
    pub report: Report,
    pub severity: Severity,
    /// `file:line:col`, where there is one.
    pub place: Option<String>,
    pub code: String,
    pub message: String,
}

impl Problem {
    /// A problem without a place.
    pub fn plain(message: impl Into<String>) -> Problem {
        let message = message.into();
        let report = Report::new(MietteDiagnostic::new(message.clone()));
        Problem { report, severity: Severity::Error, place: None, code: "error".into(), message }
    }

    pub fn yaml(source: &Source, e: YamlError) -> Problem {
        let at = e.place.unwrap_or_default();
        Problem::new(source, Severity::Error, e.code, e.message, e.help, at, None)
    }

    /// A finding of the planner. `root`: the tree its path leads into.
    pub fn found(source: &Source, root: &Node, d: Diagnostic) -> Problem {
        if d.path.last().is_some_and(|p| p == "@")
            && let Some(range) = d.within.clone()
        {
            // The reader knew the place itself.
            let place = place_of(&source.text, range.start, range.end);
            return Problem::new(source, d.severity, d.code, d.message, d.help, place, None);
        }
        let place = root.locate(&d.path);
        // A range inside a text counts from where the text starts, which is known for texts on one line.
        let plain = root.find(&d.path).and_then(|n| match &n.value {
            Value::Scalar { plain, block: false, .. } => Some(if *plain { 0 } else { 1 }),
            _ => None,
        });
        let within = d.within.clone().zip(plain).map(|(range, quote)| (range.start + quote, range.end + quote));
        Problem::new(source, d.severity, d.code, d.message, d.help, place, within)
    }

    fn new(
        source: &Source,
        severity: Severity,
        code: &str,
        message: String,
        help: Option<String>,
        place: Place,
        within: Option<(usize, usize)>,
    ) -> Problem {
        let start = source.byte(place.start);
        let end = source.byte(place.end).max(start);
        let (start, end, column) = match within {
            Some((from, to)) if start + to <= end.max(start + to) && start + to <= source.text.len() => {
                (start + from, start + to, place.column + from)
            }
            _ => (start, end, place.column),
        };
        // One line is enough to recognise the place.
        let line_end = source.text.get(start..).and_then(|t| t.find('\n')).map_or(source.text.len(), |n| start + n);
        let end = end.min(line_end).max(start + usize::from(start < line_end));
        let at = format!("{}:{}:{}", source.name, place.line.max(1), column.max(1));
        let mut diagnostic = MietteDiagnostic::new(message.clone())
            .with_code(code)
            .with_severity(if severity == Severity::Error { Level::Error } else { Level::Warning })
            .with_label(LabeledSpan::underline(start..end));
        if let Some(help) = help {
            diagnostic = diagnostic.with_help(help);
        }
        let report = Report::new(diagnostic).with_source_code(NamedSource::new(&source.name, source.text.clone()).with_language("yaml"));
        Problem { report, severity, place: Some(at), code: code.to_string(), message }
    }

    /// The whole report; colours only for a terminal.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let theme = match std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none() {
            true => miette::GraphicalTheme::unicode(),
            false => miette::GraphicalTheme::unicode_nocolor(),
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(110);
        if handler.render_report(&mut out, self.report.as_ref()).is_err() {
            out = self.message.clone();
        }
        match &self.place {
            Some(place) => format!("{place}\n{out}"),
            None => out,
        }
    }
}

fn place_of(text: &str, start: usize, end: usize) -> Place {
    let before: Vec<char> = text.chars().take(start).collect();
    let line = before.iter().filter(|c| **c == '\n').count() + 1;
    let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
    Place { start, end, line, column }
}
