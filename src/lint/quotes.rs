//! Expressions that look like a text whose quotes were YAML's: `day: '2026-01-01'` is 2026 minus 1 minus 1, which is 2024.
//!
//! Only what consists of numbers alone is found here: other texts are refused as expressions, with the same help.

use headwater_engine::yaml::{Node, Value};
use operator_core::Diagnostic;

use crate::diagnose::is_sql;

/// Quoted numbers, and quoted numbers with `-` between them, where SQL is expected.
pub fn check(root: &Node) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    super::texts(root, &mut Vec::new(), &mut |path, node, text| {
        if matches!(node.value, Value::Scalar { plain: false, block: false, .. }) && is_sql(path) && only_numbers(text) {
            let meant = if text.contains('-') { "is computed as a difference" } else { "is a number" };
            let problem = Diagnostic::warning("quoted-number", format!("YAML removed the quotes: `{text}` {meant}"));
            let help = format!("a text is written \"'{text}'\", a number without quotes");
            found.push(problem.at(path.iter().cloned()).help(help));
        }
    });
    found
}

fn only_numbers(text: &str) -> bool {
    let number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) && part.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.split('-').all(|part| number(part.trim()))
}

#[cfg(test)]
mod tests {
    use super::only_numbers;

    #[test]
    fn numbers_and_dates_are_found_and_expressions_are_not() {
        for text in ["2026-01-01", "007", "1.5", "0049 - 30"] {
            assert!(only_numbers(text), "{text}");
        }
        for text in ["", "-", "a-1", "total - 1", "1 + 1", "'2026-01-01'", "-1", "2026-01-01T00:00:00Z"] {
            assert!(!only_numbers(text), "{text}");
        }
    }
}
