//! What is wrong with a pipeline, where, and what would be right.

use std::ops::Range;

/// The last part of a path that means the key before it.
pub const THE_KEY: &str = "<key>";

/// How serious a finding is: an error stops the pipeline before a record is read, a warning does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

/// One finding about a pipeline. The place is a path into the YAML (`["compute", "revenue"]`, relative to the step
/// when a [`Spec`](crate::Spec) reports it) and, inside a text value, a byte range; the engine turns both into
/// `file:line:col`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable kebab-case name of the kind of finding, such as `unknown-column`.
    pub code: &'static str,
    pub path: Vec<String>,
    /// The part of the value's text that is meant, in bytes.
    pub within: Option<Range<usize>>,
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// The value is a SQL expression.
    pub sql: bool,
}

impl Diagnostic {
    pub fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, code, path: Vec::new(), within: None, message: message.into(), help: None, sql: false }
    }

    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message) }
    }

    /// Sets the place: a path of keys (and list indices as decimal text).
    pub fn at<I, S>(mut self, path: I) -> Diagnostic
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.path = path.into_iter().map(Into::into).collect();
        self
    }

    /// The key at the end of the path is meant, not its value.
    pub fn key(mut self) -> Diagnostic {
        self.path.push(THE_KEY.to_string());
        self
    }

    /// Puts `prefix` before the path: the caller knows where the value it planned is rooted.
    pub fn under<I, S>(mut self, prefix: I) -> Diagnostic
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let mut path: Vec<String> = prefix.into_iter().map(Into::into).collect();
        path.append(&mut self.path);
        self.path = path;
        self
    }

    pub fn within(mut self, range: Range<usize>) -> Diagnostic {
        self.within = Some(range);
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

/// "did you mean `status`?" for the closest of `known`, if one is close enough to be a likely typo.
pub fn did_you_mean<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(unknown, known).filter(|name| *name != unknown && !unknown.is_empty()).map(|name| format!("did you mean `{name}`?"))
}

/// The name in `known` that someone most likely meant by `unknown`.
pub fn closest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&unknown.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.len().max(unknown.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `a`, `b` and `c`: a list of names in a sentence.
pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    match quoted.split_last() {
        None => "none".to_string(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_likely_typos_only() {
        assert_eq!(did_you_mean("statuz", ["status", "total"]).as_deref(), Some("did you mean `status`?"));
        assert_eq!(did_you_mean("zzz", ["status", "total"]), None);
        assert_eq!(names(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
