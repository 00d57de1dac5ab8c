//! Colours of what commands print. `anstream` leaves them out where output is no terminal or `NO_COLOR` is set.

use std::fmt::Arguments;
use std::io::Write;

use anstyle::{AnsiColor, Style};

/// Prints a line for people or programs to standard output.
#[macro_export]
macro_rules! say {
    ($($line:tt)*) => { $crate::style::print(format_args!($($line)*)) };
}

/// What [`say!`] does. A reader who has seen enough (`hw schema | head`) is no error, and ends no work.
pub fn print(line: Arguments<'_>) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
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

/// What a line is about.
pub fn strong(text: &str) -> String {
    paint(Style::new().bold(), text)
}

/// A name of the pipeline's own.
pub fn name(text: &str) -> String {
    paint(AnsiColor::Cyan.on_default(), text)
}

/// Beside the point.
pub fn dim(text: &str) -> String {
    paint(Style::new().dimmed(), text)
}
