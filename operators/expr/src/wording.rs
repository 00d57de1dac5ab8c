//! Rewrites the planner's messages in terms of the pipeline.

use std::sync::LazyLock;

use regex::Regex;

/// Arrow's names of types and those of this language.
const TYPES: [(&str, &str); 10] = [
    (r"Decimal(?:32|64|128|256)\((\d+), ?(-?\d+)\)", "decimal($1,$2)"),
    (r#"Timestamp\((?:ms|Millisecond|Nanosecond|ns)(?:, (?:None|Some\("[^"]*"\)|"[^"]*"))?\)"#, "timestamp"),
    (r"Interval\(\w+\)", "an interval"),
    (r"\b(?:Large)?Utf8(?:View)?\b", "string"),
    (r"\b(?:Large)?Binary(?:View)?\b", "bytes"),
    (r"\bInt32\b", "int"),
    (r"\bInt64\b", "long"),
    (r"\bFloat64\b", "double"),
    (r"\bBoolean\b", "bool"),
    (r"\bDate32\b", "date"),
];

static TRANSLATIONS: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| TYPES.iter().filter_map(|(pattern, name)| Some((Regex::new(pattern).ok()?, *name))).collect());

/// Whole messages, and what they mean to say.
const MESSAGES: [(&str, &str); 8] = [
    (r"Cannot coerce arithmetic expression (.+?) ([-+*/%]+) (.+?) to valid types", "`$2` does not take $1 and $3"),
    (
        r"Cannot infer common argument type for comparison operation (.+?) ([=<>!~*&|^#@+-]+|[A-Z][A-Z ]*) (.+)$",
        "$1 and $3 can't be compared by `$2`",
    ),
    (r"Function '(\w+)' failed to match any signature", "`$1` does not take these values"),
    (r"Failed to coerce arguments .*? function '?(\w+)'?", "`$1` does not take these values"),
    (r"Function '(\w+)' expects (\d+) arguments? but received (\d+)", "`$1` takes $2 argument(s), found $3"),
    (r"^Unsupported ast node[^:]*: (\w+)", "`$1` can't be used in an expression"),
    (r"^Placeholder '(.+?)' was not", "`$1` is a placeholder for a parameter; expressions have no parameters"),
    (r"Error during planning: |Internal error: |External error: |This feature is not implemented: ", ""),
];

static REWRITES: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| MESSAGES.iter().filter_map(|(pattern, text)| Some((Regex::new(pattern).ok()?, *text))).collect());

/// A message about types, with this language's names in it.
pub(crate) fn reworded(message: &str) -> String {
    let named =
        [("Struct(", "a record"), ("List(", "a list")].into_iter().fold(message.to_string(), |text, (open, name)| named(text, open, name));
    let mut text = TRANSLATIONS.iter().fold(named, |text, (pattern, name)| pattern.replace_all(&text, *name).into_owned());
    for (pattern, meaning) in REWRITES.iter() {
        match pattern.captures(&text) {
            Some(found) if !meaning.is_empty() => {
                let mut said = String::new();
                found.expand(meaning, &mut said);
                return said;
            }
            Some(_) => text = pattern.replace_all(&text, "").into_owned(),
            None => {}
        }
    }
    text
}

/// Types made of parts are only named: from `open` to its closing bracket.
fn named(mut text: String, open: &str, name: &str) -> String {
    while let Some(start) = text.find(open) {
        let mut depth = 0;
        let end = text.get(start..).and_then(|rest| {
            rest.char_indices().find_map(|(at, c)| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                (c == ')' && depth == 0).then_some(start + at + 1)
            })
        });
        let start = text.get(..start).and_then(|before| before.strip_suffix("non-null ")).map_or(start, str::len);
        text.replace_range(start..end.unwrap_or(text.len()), name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_types_as_the_language_does() {
        for (theirs, ours) in [
            (
                "Cannot coerce arithmetic expression Decimal128(14, 2) + List(non-null Struct(a: Int32)) to valid types",
                "`+` does not take decimal(14,2) and a list",
            ),
            ("Error during planning: Cannot coerce arithmetic expression Utf8 * Int64 to valid types", "`*` does not take string and long"),
            (
                "Internal error: Function 'round' failed to match any signature, errors: Error during planning: x",
                "`round` does not take these values",
            ),
            ("Function 'upper' expects 1 arguments but received 2", "`upper` takes 1 argument(s), found 2"),
            ("Cannot infer common argument type for comparison operation List(Utf8) = Utf8", "a list and string can't be compared by `=`"),
            (
                "Cannot infer common argument type for comparison operation Timestamp(ms, \"UTC\") = Boolean",
                "timestamp and bool can't be compared by `=`",
            ),
        ] {
            assert_eq!(reworded(theirs), ours);
        }
    }
}
