//! Pages of the documentation on a terminal: text is wrapped, tables become lists, code is indented and left as it is,
//! but for columns and their types.

use crate::say;
use crate::style::{dim, name, strong, wrapped, wrapping};

/// Before what a key means.
const INDENT: &str = "      ";

/// Prints a page of Markdown.
pub fn show(page: &str) {
    let (mut code, mut columns, mut paragraph) = (false, false, String::new());
    for line in page.lines() {
        let fence = line.starts_with("```");
        if !code && !fence && !line.is_empty() && !line.starts_with(['#', '|']) {
            paragraph.push_str(if paragraph.is_empty() { "" } else { " " });
            paragraph.push_str(line.trim());
            continue;
        }
        flush(&mut paragraph);
        if fence {
            code = !code;
            columns = line == "```text";
        } else if code && columns {
            say!("{}", textwrap::fill(line, wrapping().initial_indent("  ").subsequent_indent("    ")));
        } else if code {
            say!("  {line}");
        } else if let Some(title) = line.strip_prefix('#') {
            say!("{}", strong(title.trim_start_matches('#').trim()));
        } else if let Some(row) = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) {
            entry(row);
        } else if !line.starts_with("|---") {
            say!("{line}");
        }
    }
    flush(&mut paragraph);
}

fn flush(paragraph: &mut String) {
    if !paragraph.is_empty() {
        say!("{}", wrapped(paragraph, 0));
        paragraph.clear();
    }
}

/// One key of a table: `name`, type and default, and below them what it means.
fn entry(row: &str) {
    let cells: Vec<&str> = row.splitn(4, " | ").collect();
    let [key, kind, default, meaning] = cells.as_slice() else { return };
    if *key == "key" {
        return;
    }
    let default = match *default {
        "required" => "required".to_string(),
        "none" => String::new(),
        value => format!("default {}", value.trim_matches('`')),
    };
    say!("  {}  {}  {}", name(key.trim_matches('`')), kind.replace('`', ""), dim(&default));
    let options = wrapping().initial_indent(INDENT).subsequent_indent(INDENT);
    say!("{}\n", textwrap::fill(&meaning.replace("\\|", "|"), options));
}
