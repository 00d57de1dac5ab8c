//! Colours of what commands print. `anstream` leaves them out where output is no terminal or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

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
