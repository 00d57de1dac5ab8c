//! Problems as users see them: file, line, column, the text with a mark under it, what is wrong and what would be
//! right.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use headwater_engine::broker::{BrokerError, Failure};
use headwater_engine::yaml::{MAX_BYTES, Node, Place, Value, YamlError};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report, Severity as Level};
use operator_core::{Diagnostic, Severity};
use serde_json::json;
use textwrap::{WordSeparator, WordSplitter};

/// Lines are shown up to here.
const LINE: usize = 500;

/// A location further to the right is named but not shown: the report would not fit.
const FAR: usize = 5_000;

/// Name of what comes by standard input.
const STDIN: &str = "<stdin>";

/// Code of a problem that has none of its own.
const UNCODED: &str = "error";

/// Code of a problem that may pass by itself.
pub const UNREACHABLE: &str = "service-unreachable";

/// A file and its text.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: Arc<str>,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<Arc<str>>) -> Source {
        Source { name: name.into(), text: text.into() }
    }

    /// Reads a file of at most [`MAX_BYTES`], or standard input for `-`.
    pub fn read(path: &Path) -> Result<Source, Problem> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { STDIN.to_string() } else { path.display().to_string() };
        if path.is_dir() {
            return Err(Problem::plain(format!("{name} is a folder: give the path of the pipeline's file in it")));
        }
        let mut bytes = Vec::new();
        let most = MAX_BYTES as u64 + 1;
        let read = match is_stdin {
            true => std::io::stdin().lock().take(most).read_to_end(&mut bytes),
            false => File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)),
        };
        match read {
            Err(e) => Err(Problem::plain(format!("can't read {name}: {e}"))),
            Ok(size) if size > MAX_BYTES => Err(Problem::plain(format!("{name} is larger than 1 MiB")).with_code("too-large")),
            Ok(_) => String::from_utf8(bytes).map(|text| Source::new(name.clone(), text)).map_err(|e| {
                let before = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                Problem::plain(format!("{name}:{line}: not valid UTF-8")).with_help(Some("save the file as UTF-8".into()))
            }),
        }
    }

    pub fn is_stdin(&self) -> bool {
        self.name == STDIN
    }

    /// Byte offset of a character index.
    pub fn byte(&self, index: usize) -> usize {
        self.text.char_indices().nth(index).map_or(self.text.len(), |(at, _)| at)
    }
}

/// Where a problem is.
#[derive(Clone, Debug)]
struct At {
    source: Source,
    /// Bytes of the source, on one line.
    range: Range<usize>,
    line: usize,
    column: usize,
}

/// Something wrong, ready to be shown.
#[derive(Clone, Debug)]
pub struct Problem {
    pub severity: Severity,
    /// The code that `hw explain-error` explains.
    pub code: String,
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    at: Option<Box<At>>,
}

impl Problem {
    /// A problem without a place.
    pub fn plain(message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Error, code: UNCODED.into(), message: message.into(), help: None, at: None }
    }

    /// What brokers answered, or did not: [`UNREACHABLE`] if that may pass by itself.
    pub fn of_broker(e: &BrokerError) -> Problem {
        let problem = Problem::plain(e.to_string());
        if e.failure == Failure::Transient { problem.with_code(UNREACHABLE) } else { problem }
    }

    pub fn with_code(self, code: &str) -> Problem {
        Problem { code: code.into(), ..self }
    }

    pub fn with_help(self, help: Option<String>) -> Problem {
        Problem { help, ..self }
    }

    pub fn yaml(source: &Source, e: YamlError) -> Problem {
        let problem = Problem { code: e.code.to_string(), help: e.help, ..Problem::plain(e.message) };
        problem.at(source, e.place.unwrap_or_default(), None)
    }

    /// A finding of the planner. `root`: the tree its path leads into.
    pub fn found(source: &Source, root: &Node, d: Diagnostic) -> Problem {
        let node = root.find(&d.path);
        let cut = d.code == "syntax" && node.is_some_and(|node| is_cut(source, node));
        let help = match node.filter(|_| d.sql).and_then(unquoted) {
            _ if cut => Some(CUT.to_string()),
            Some(unquoted) if d.code == "syntax" => Some(unquoted),
            Some(unquoted) if d.code == "unknown-column" => Some(match d.help {
                Some(help) => format!("{help}{} {unquoted}", if help.ends_with('?') { "" } else { "." }),
                None => unquoted,
            }),
            _ => d.help,
        };
        let problem = Problem { severity: d.severity, code: d.code.to_string(), help, ..Problem::plain(d.message) };
        if d.path.last().is_some_and(|p| p == "@")
            && let Some(range) = d.within
        {
            // The reader knew the place itself.
            return problem.at(source, place_of(&source.text, range.start, range.end), None);
        }
        let place = root.locate(&d.path);
        let within = d.within.and_then(|range| written(source, root.find(&d.path)?, range));
        problem.at(source, place, within)
    }

    /// A finding about a text as a whole, which is no YAML.
    pub fn in_text(source: &Source, d: Diagnostic) -> Problem {
        let problem = Problem { severity: d.severity, code: d.code.to_string(), help: d.help, ..Problem::plain(d.message) };
        let range = d.within.unwrap_or(0..source.text.len());
        problem.at(source, Place::default(), Some(range))
    }

    fn at(self, source: &Source, place: Place, within: Option<Range<usize>>) -> Problem {
        let range = within.unwrap_or_else(|| source.byte(place.start)..source.byte(place.end));
        // One line is enough to recognise the place.
        let text = &source.text;
        let line_end = text.get(range.start..).and_then(|t| t.find('\n')).map_or(text.len(), |n| range.start + n);
        let marked = text.get(range.start..range.end.min(line_end)).unwrap_or_default();
        let end = (range.start + marked.trim_end().len()).max(range.start + usize::from(range.start < line_end));
        let before = text.get(..range.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let at = At { source: source.clone(), range: range.start..end, line, column };
        Problem { at: Some(Box::new(at)), ..self }
    }

    /// The same problem, shown in another text of the same length: one without the secrets of the file.
    pub fn shown_in(mut self, text: &Arc<str>) -> Problem {
        if let Some(at) = &mut self.at {
            at.source.text = text.clone();
        }
        self
    }

    /// The same problem, without these texts where it quotes them.
    pub fn without(mut self, hidden: &[String]) -> Problem {
        for text in hidden {
            let quoted = |before: &str, after: &str| (format!("{before}{text}{after}"), format!("{before}***{after}"));
            for (found, shown) in [quoted("`", "`"), quoted("\"", "\""), quoted("[", "]"), quoted(": ", " }")] {
                self.message = self.message.replace(&found, &shown);
                self.help = self.help.map(|help| help.replace(&found, &shown));
            }
        }
        self
    }

    /// `file:line:col`, where there is one.
    pub fn place(&self) -> Option<String> {
        self.at.as_ref().map(|at| format!("{}:{}:{}", at.source.name, at.line, at.column))
    }

    /// Where it is among other problems of its file.
    pub fn position(&self) -> (usize, usize) {
        self.at.as_ref().map_or((0, 0), |at| (at.line, at.column))
    }

    /// For machines: one object.
    pub fn json(&self) -> serde_json::Value {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        let mut object = json!({ "severity": severity, "code": self.code, "message": self.message, "help": self.help });
        if let (Some(at), Some(object)) = (&self.at, object.as_object_mut()) {
            let text = at.source.text.get(at.range.clone()).unwrap_or_default();
            let place = json!({ "file": at.source.name, "line": at.line, "column": at.column, "text": text });
            object.extend(place.as_object().cloned().unwrap_or_default());
        }
        object
    }

    /// The whole report, with colours: print it with `anstream`, which removes them where they don't belong.
    pub fn render(&self) -> String {
        let level = if self.severity == Severity::Error { Level::Error } else { Level::Warning };
        let mut diagnostic = MietteDiagnostic::new(self.message.clone()).with_severity(level);
        if let Some(help) = &self.help {
            diagnostic = diagnostic.with_help(help.clone());
        }
        let report = match &self.at {
            None if [UNCODED, UNREACHABLE].contains(&self.code.as_str()) => Report::new(diagnostic),
            None => Report::new(diagnostic.with_code(self.code.clone())),
            Some(at) if at.column > FAR => {
                let message = format!("{}:{}:{}: {}", at.source.name, at.line, at.column, self.message);
                Report::new(MietteDiagnostic { message, ..diagnostic.with_code(self.code.clone()) })
            }
            Some(at) => {
                let (text, range) = cut(&at.source.text, &at.range);
                let diagnostic = diagnostic.with_code(self.code.clone()).with_label(LabeledSpan::underline(range));
                let source = NamedSource::new(&at.source.name, text).with_language("yaml");
                Report::new(diagnostic).with_source_code(source)
            }
        };
        let mut out = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode())
            .with_width(crate::style::width())
            .with_break_words(false)
            .with_word_separator(WordSeparator::AsciiSpace)
            .with_word_splitter(WordSplitter::NoHyphenation);
        if handler.render_report(&mut out, report.as_ref()).is_err() {
            out = self.message.clone();
        }
        out
    }
}

/// A text with its very long lines cut behind the mark, and the mark in it.
fn cut(text: &str, mark: &Range<usize>) -> (String, Range<usize>) {
    if text.lines().all(|line| line.len() <= LINE) {
        return (text.to_string(), mark.clone());
    }
    let (mut out, mut at, mut range) = (String::with_capacity(text.len()), 0, mark.clone());
    for line in text.split_inclusive('\n') {
        let holds = (at..at + line.len()).contains(&mark.start);
        let begins = if holds { mark.start - at } else { 0 };
        let most = (begins + LINE / 2).max(LINE);
        let kept = if line.len() <= most { line.len() } else { line.floor_char_boundary(most) };
        if holds {
            let start = out.len() + begins;
            range = start..(start + mark.len()).min(out.len() + kept);
        }
        out.push_str(line.get(..kept).unwrap_or_default());
        if kept < line.len() {
            out.push_str(" …\n");
        }
        at += line.len();
    }
    (out, range)
}

/// What to do about a text that [`is_cut`].
const CUT: &str = "` #` starts a comment in YAML and ends the text: if it belongs to the text, quote the whole value";

/// What to do about an expression that looks like a text whose quotes were YAML's, as in `kind: 'gift card'`.
fn unquoted(node: &Node) -> Option<String> {
    let Value::Scalar { text, plain: false, block: false } = &node.value else { return None };
    if text.is_empty() {
        return Some("YAML removed the quotes: an empty text is written \"''\"".to_string());
    }
    let looks_like_text = text.chars().any(char::is_alphabetic) && text.chars().all(|c| c.is_alphanumeric() || " _-./:'".contains(c));
    looks_like_text.then(|| format!("YAML removed the quotes: a text is written \"'{}'\"", text.replace('\'', "''")))
}

/// A text without quotes that a comment follows.
fn is_cut(source: &Source, node: &Node) -> bool {
    let after = source.text.get(source.byte(node.place.end)..).unwrap_or_default();
    let line = after.lines().next().unwrap_or_default();
    matches!(node.value, Value::Scalar { plain: true, .. }) && line.trim_start().starts_with('#')
}

fn place_of(text: &str, start: usize, end: usize) -> Place {
    let before: Vec<char> = text.chars().take(start).collect();
    let line = before.iter().filter(|c| **c == '\n').count() + 1;
    let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
    Place { start, end, line, column }
}

/// The bytes of the file in which a range of a scalar's text stands. Quotes, escapes and the folding of lines change
/// only blanks and escape signs, so the characters in between are counted. `None` if the file says something else, as
/// where an environment variable was filled in.
fn written(source: &Source, node: &Node, range: Range<usize>) -> Option<Range<usize>> {
    let Value::Scalar { text, plain, block } = &node.value else { return None };
    let start = source.byte(node.place.start);
    let file = source.text.get(start..)?;
    let quote = if *plain || *block { None } else { file.chars().next() };
    // A block begins in the line after its indicator.
    let skipped = match (*block && file.starts_with(['|', '>']), quote) {
        (true, _) => file.find('\n')? + 1,
        (false, Some(quote)) => quote.len_utf8(),
        (false, None) => 0,
    };
    let file = file.get(skipped..)?;
    let mut signs = file.char_indices().filter(|(_, c)| !c.is_whitespace()).peekable();
    let (mut first, mut last) = (None, None);
    for (at, wanted) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
        let (mut place, mut found) = signs.next()?;
        let escape = (quote == Some('"') && found == '\\') || (quote == Some('\'') && found == '\'');
        if escape && signs.peek().is_some_and(|(_, next)| *next == wanted) {
            (place, found) = signs.next()?;
        }
        if found != wanted {
            return None;
        }
        if at >= range.start {
            first.get_or_insert(place);
        }
        if at < range.end {
            last = Some(place + found.len_utf8());
        }
    }
    let (first, base) = (first?, start + skipped);
    Some(base + first..base + last?.max(first))
}

#[cfg(test)]
mod tests {
    use headwater_engine::yaml;

    use super::*;

    fn marked(text: &str, path: &[&str], range: Range<usize>) -> String {
        let source = Source::new("p.yaml", text);
        let root = yaml::parse(text).unwrap();
        let found = Diagnostic::error("x", "wrong").at(path.iter().copied()).within(range);
        let problem = Problem::found(&source, &root, found);
        let json = problem.json();
        format!("{} {}", problem.place().unwrap(), json["text"].as_str().unwrap())
    }

    #[test]
    fn parts_of_texts_are_found_however_they_are_written() {
        assert_eq!(marked("a: x + wrong", &["a"], 4..9), "p.yaml:1:8 wrong");
        assert_eq!(marked("é: \"x = 'ü' + wrong\"", &["é"], 11..16), "p.yaml:1:15 wrong");
        assert_eq!(marked("a: 'x = ''y'' + wrong'", &["a"], 10..15), "p.yaml:1:17 wrong");
        assert_eq!(marked("a: |\n  x = 'y'\n  + wrong\nb: 1", &["a"], 10..15), "p.yaml:3:5 wrong");
        assert_eq!(marked("a: >-\n  x = 'y'\n\n  + wrong\n", &["a"], 10..15), "p.yaml:4:5 wrong");
        assert_eq!(marked("a: x = 'y'\n  + wrong\n", &["a"], 10..15), "p.yaml:2:5 wrong");
        assert_eq!(marked("a: [1, \"say \\\"wrong\\\"\"]", &["a", "1"], 5..10), "p.yaml:1:15 wrong");
    }

    #[test]
    fn a_problem_can_be_read_by_machines_and_people() {
        let source = Source::new("p.yaml", "a: 1\nb: [x\n");
        let problem = Problem::yaml(&source, yaml::parse(&source.text).unwrap_err());
        assert_eq!((problem.json()["code"].as_str(), problem.json()["line"].as_u64().is_some()), (Some("yaml-syntax"), true));
        let text = anstream::adapter::strip_str(&problem.render()).to_string();
        assert!(text.contains("yaml-syntax") && text.contains("p.yaml:"), "{text}");
    }
}
