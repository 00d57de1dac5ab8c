//! What the codes of findings mean: the sections of `docs/codes.md`, which is part of the program.

/// The page. A section is `## code`, then text.
const PAGE: &str = include_str!("../../docs/codes.md");

/// Codes in the order of the page, each with its text.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGE.split("\n## ").skip(1).map(|section| {
        let (code, text) = section.split_once('\n').unwrap_or((section, ""));
        // The next group's heading belongs to no code.
        let text = text.split("\n# ").next().unwrap_or(text);
        (code.trim(), text.trim())
    })
}

/// The text of a code.
pub fn text(code: &str) -> Option<&'static str> {
    all().find(|(known, _)| *known == code).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Codes named in the sources that report findings.
    fn reported() -> BTreeSet<String> {
        fn read(dir: &Path, out: &mut BTreeSet<String>, codes: &regex::Regex) {
            for path in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
                if path.is_dir() {
                    read(&path, out, codes);
                } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let text = text.split("#[cfg(test)]").next().unwrap();
                    out.extend(codes.captures_iter(text).filter_map(|c| c.iter().skip(1).flatten().next().map(|m| m.as_str().to_string())));
                }
            }
        }
        let codes = r#"(?:Diagnostic::error|Diagnostic::warning|YamlError::new|ExprError::new|at_table|error|with_code)\(\s*"([a-z-]+)"|pub const UNREACHABLE: &str = "([a-z-]+)"|code: "([a-z-]+)"\.into"#;
        let codes = regex::Regex::new(codes).unwrap();
        let shape = regex::Regex::new(r#"YamlError \{\s*code: "([a-z-]+)""#).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::new();
        for dir in ["engine/src", "operators", "src"] {
            read(&root.join(dir), &mut found, &codes);
            read(&root.join(dir), &mut found, &shape);
        }
        found
    }

    #[test]
    fn every_code_is_explained_and_every_explanation_is_of_a_code() {
        let explained: BTreeSet<String> = all().map(|(code, _)| code.to_string()).collect();
        let reported = reported();
        let missing: Vec<_> = reported.difference(&explained).collect();
        let stale: Vec<_> = explained.difference(&reported).collect();
        assert!(missing.is_empty() && stale.is_empty(), "not explained: {missing:?}; of no code: {stale:?}");
        assert!(reported.len() > 80 && all().all(|(_, text)| text.len() > 40));
    }
}
