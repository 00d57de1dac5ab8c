//! Colours of what commands print. `anstream` leaves them out where output is not a terminal or `NO_COLOR` is set.

use std::fmt::Arguments;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use textwrap::{WordSeparator, WordSplitter};

/// Prints a line for users or programs to standard output.
#[macro_export]
macro_rules! say {
    ($($line:tt)*) => { $crate::style::print(format_args!($($line)*)) };
}

/// Prints the line of [`say!`]. A closed pipe (`hw schema | head`) is not an error and ends no work.
pub fn print(line: Arguments<'_>) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// The width at which text is wrapped: the terminal's, from 80 to 120 columns; 80 if output is not a terminal.
pub fn width() -> usize {
    textwrap::termwidth().clamp(80, 120)
}

/// How text is wrapped: at spaces only, so that paths, URLs and code stay whole.
pub fn wrapping<'a>() -> textwrap::Options<'a> {
    textwrap::Options::new(width()).break_words(false).word_separator(WordSeparator::AsciiSpace).word_splitter(WordSplitter::NoHyphenation)
}

/// A text wrapped at [`width`]; lines after the first are indented by `indent` columns.
pub fn wrapped(text: &str, indent: usize) -> String {
    textwrap::fill(text, wrapping().subsequent_indent(&" ".repeat(indent)))
}

fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

pub fn good(text: &str) -> String {
    paint(AnsiColor::Green.on_default().bold(), text)
}

pub fn bad(text: &str) -> String {
    paint(AnsiColor::Red.on_default().bold(), text)
}

/// The subject of a line.
pub fn strong(text: &str) -> String {
    paint(Style::new().bold(), text)
}

/// A name from the pipeline.
pub fn name(text: &str) -> String {
    paint(AnsiColor::Cyan.on_default(), text)
}

/// Secondary text.
pub fn dim(text: &str) -> String {
    paint(Style::new().dimmed(), text)
}
