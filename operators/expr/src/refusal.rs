//! Why an expression was not accepted.

use std::fmt;
use std::ops::Range;

use operator_core::Diagnostic;

/// An expression that cannot be compiled: what is wrong, where in its text, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    pub message: String,
    /// The part of the SQL text that is meant, in bytes; `None` where it is the whole.
    pub within: Option<Range<usize>>,
    /// What would be right.
    pub help: Option<String>,
    /// Stable kebab-case name of the kind of finding, such as `unknown-column`.
    pub code: &'static str,
}

impl ExprError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> ExprError {
        ExprError { message: message.into(), within: None, help: None, code }
    }

    pub(crate) fn at(mut self, within: Option<Range<usize>>) -> ExprError {
        self.within = within;
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> ExprError {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn help_if(mut self, help: Option<String>) -> ExprError {
        self.help = help.or(self.help);
        self
    }

    /// The finding as the planner reports it; the caller adds the path with [`Diagnostic::at`].
    pub fn diagnostic(self) -> Diagnostic {
        Diagnostic { within: self.within, help: self.help, sql: true, ..Diagnostic::error(self.code, self.message) }
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ExprError {}
