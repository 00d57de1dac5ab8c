//! Expressions that look like a text whose quotes were YAML's: `day: '2026-01-01'` is 2026 minus 1 minus 1, which is 2024, and
//! `label: 'currency'` is the column of that name.
//!
//! Only what is a valid expression is found here: other texts are refused as expressions, with the same help.

use headwater_engine::yaml::{Node, Value};
use operator_core::Diagnostic;

use super::expressions::Expressions;

/// Numbers, dates, names and truth values where SQL is expected, if they may have been meant as a text. `sound`: the pipeline has no
/// error, so that a name is one of a column.
pub fn check(root: &Node, expressions: &Expressions, sound: bool) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    root.texts(&mut |path, node, text| {
        let Value::Scalar { plain, block: false, .. } = node.value else { return };
        let problem = match plain {
            _ if !expressions.is_sql(path) => None,
            false if only_numbers(text) => {
                let meant = if text.contains('-') { "is computed as a difference" } else { "is a number" };
                let problem = Diagnostic::warning("quoted-number", format!("YAML removed the quotes: `{text}` {meant}"));
                Some(problem.help(format!("a text is written \"'{text}'\", a number without quotes")))
            }
            true if is_date(text) => {
                let problem = Diagnostic::warning("unquoted-date", format!("`{text}` is computed as a difference of numbers"));
                Some(problem.help(format!("a text is written \"'{text}'\", a date DATE '{text}'")))
            }
            false if sound && is_result(path) && is_name(text) => {
                let is_value = ["true", "false", "null"].iter().any(|value| text.eq_ignore_ascii_case(value));
                let meant = if is_value { "is no text" } else { "is a column" };
                let problem = Diagnostic::warning("quoted-name", format!("YAML removed the quotes: `{text}` {meant}"));
                let other = if is_value { "the value" } else { "the column" };
                Some(problem.help(format!("a text is written \"'{text}'\", {other} without quotes")))
            }
            _ => None,
        };
        found.extend(problem.map(|problem| problem.at(path.iter().cloned())));
    });
    found
}

/// The expression of a column by its name: not one of a list of columns, nor a condition.
fn is_result(path: &[String]) -> bool {
    matches!(path, [_, _, operator, _, name] if operator == "map" && !name.chars().all(|c| c.is_ascii_digit()))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_') && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn is_date(text: &str) -> bool {
    let digits = |part: &str, n: usize| part.len() == n && part.chars().all(|c| c.is_ascii_digit());
    matches!(text.split('-').collect::<Vec<_>>()[..], [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2))
}

fn only_numbers(text: &str) -> bool {
    let number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) && part.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.split('-').all(|part| number(part.trim()))
}

#[cfg(test)]
mod tests {
    use super::{is_date, is_name, only_numbers};

    #[test]
    fn numbers_and_dates_are_found_and_expressions_are_not() {
        for text in ["2026-01-01", "007", "1.5", "0049 - 30"] {
            assert!(only_numbers(text), "{text}");
        }
        for text in ["", "-", "a-1", "total - 1", "1 + 1", "'2026-01-01'", "-1", "2026-01-01T00:00:00Z"] {
            assert!(!only_numbers(text), "{text}");
        }
    }
    #[test]
    fn a_date_and_a_name_are_told_from_expressions() {
        assert!(is_date("2026-01-01"));
        assert!(["2026-1-1", "total-01-01", "2026-01", "2026-01-01-01"].iter().all(|text| !is_date(text)));
        assert!(["currency", "_offset", "true"].iter().all(|text| is_name(text)));
        assert!(["", "a.b", "a + b", "7", "count(*)", "gift card"].iter().all(|text| !is_name(text)));
    }
}
