//! A pipeline file as values by their place: what it said when it was deployed, to list what a new one changes.
//!
//! How it is written makes no difference (order, comments, quotes), nor does what has no effect. Defaults are not filled in: a default
//! that is written out is listed as new.

use std::collections::BTreeMap;

use crate::yaml::{Node, Value};

/// Values by path, for each part of the file: `step totals`, or `commit_interval` for what stands alone.
pub type Definition = BTreeMap<String, BTreeMap<String, String>>;

/// Keys that are lists of parts by name, and what one part is called.
const PARTS: [(&str, &str); 4] = [("sources", "source"), ("tables", "table"), ("steps", "step"), ("sinks", "sink")];
/// Keys whose values change nothing.
const WITHOUT_EFFECT: [&str; 3] = ["apiVersion", "name", "description"];
/// Bytes that a definition may have: it is a part of one record. What is larger is not compared.
const MOST: usize = 500_000;
/// Characters of a value that are shown.
const SHOWN: usize = 80;

/// The definition in a file; empty if it is too large to be kept.
pub fn of(root: &Node) -> Definition {
    let mut definition = Definition::new();
    let Value::Map(entries) = &root.value else { return definition };
    for (key, node) in entries.iter().filter(|(key, _)| !WITHOUT_EFFECT.contains(&key.text.as_str())) {
        match (PARTS.iter().find(|(name, _)| *name == key.text), &node.value) {
            (Some((_, kind)), Value::Map(parts)) => {
                for (name, part) in parts {
                    values(part, String::new(), definition.entry(format!("{kind} {}", name.text)).or_default());
                }
            }
            _ => values(node, String::new(), definition.entry(key.text.clone()).or_default()),
        }
    }
    let size = definition.iter().map(|(part, of)| part.len() + of.iter().map(|(path, value)| path.len() + value.len()).sum::<usize>());
    if size.sum::<usize>() > MOST { Definition::new() } else { definition }
}

fn values(node: &Node, path: String, into: &mut BTreeMap<String, String>) {
    match &node.value {
        Value::Scalar { text, .. } => drop(into.insert(path, text.clone())),
        Value::List(items) => match items.iter().map(Node::text).collect::<Option<Vec<_>>>() {
            Some(texts) => drop(into.insert(path, format!("[{}]", texts.join(", ")))),
            None => items.iter().enumerate().for_each(|(n, item)| values(item, format!("{path}[{n}]"), into)),
        },
        Value::Map(entries) if entries.is_empty() => drop(into.insert(path, "{}".to_string())),
        Value::Map(entries) => {
            for (key, value) in entries {
                let inside = if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
                values(value, inside, into);
            }
        }
    }
}

/// What differs, a line each. `announced`: whether something was said already of a part (``step `totals` ``) that is new or was removed.
pub fn differences(was: &Definition, is: &Definition, announced: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    let parts: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for part in parts {
        let called = match part.split_once(' ') {
            Some((kind, name)) => format!("{kind} `{name}`"),
            None => format!("`{part}`"),
        };
        match (was.get(part), is.get(part)) {
            (Some(was), Some(is)) => lines.extend(changed(was, is).into_iter().map(|(path, how)| match path.as_str() {
                "" => format!("{called} {how}"),
                path => format!("{called}: `{path}` {how}"),
            })),
            (None, _) if !announced(&called) => lines.push(format!("{called} is new")),
            (Some(_), None) if !announced(&called) => lines.push(format!("{called} was removed")),
            _ => {}
        }
    }
    lines
}

/// What differs in one part: the path, which is empty for the part itself, and how.
fn changed(was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let shown = |value: &String| {
        let text: String = value.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.len() < value.len() { format!("{text}...") } else { text }
    };
    let paths: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let how = |path: &String| match (was.get(path), is.get(path)) {
        (Some(was), Some(is)) if was == is => None,
        (Some(was), Some(is)) => Some(format!("was {}, now {}", shown(was), shown(is))),
        (Some(was), None) => Some(format!("was {}, now missing", shown(was))),
        (None, Some(is)) => Some(format!("is new, {}", shown(is))),
        (None, None) => None,
    };
    paths.into_iter().filter_map(|path| Some((path.clone(), how(path)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    const FILE: &str = "
apiVersion: headwater/v1
name: carts
commit_interval: 1s
sources: { clicks: { topic: clicks, schema: { user: string, n: long } } }
steps:
  big: { from: clicks, filter: n > 0 }
  split: { from: big, fanout: [{ as: a, when: n > 5 }, { as: b, when: n <= 5 }] }
sinks: { copy: { from: [split.a, split.b], topic: copy } }
";

    fn lines(changed: &str) -> Vec<String> {
        differences(&of(&parse(FILE).unwrap()), &of(&parse(changed).unwrap()), |_| false)
    }

    #[test]
    fn every_change_of_a_value_is_a_line() {
        for (old, new, line) in [
            ("n > 0", "n > 1", "step `big`: `filter` was n > 0, now n > 1"),
            ("n <= 5", "n < 5", "step `split`: `fanout[1].when` was n <= 5, now n < 5"),
            ("topic: copy", "topic: other", "sink `copy`: `topic` was copy, now other"),
            ("split.b]", "big]", "sink `copy`: `from` was [split.a, split.b], now [split.a, big]"),
            ("n: long", "n: int", "source `clicks`: `schema.n` was long, now int"),
            ("topic: clicks", "topic: clicks, key: user", "source `clicks`: `key` is new, user"),
            ("commit_interval: 1s", "commit_interval: 2s", "`commit_interval` was 1s, now 2s"),
        ] {
            assert_eq!(lines(&FILE.replace(old, new)), [line]);
        }
        assert_eq!(lines(&FILE.replace("  big:", "  large:")), ["step `big` was removed", "step `large` is new"]);
    }

    #[test]
    fn how_a_file_is_written_is_no_change() {
        let other = "
# A comment.
name: 'carts'
description: Copies clicks.
sinks:
  copy:
    topic: \"copy\"
    from: [split.a, split.b]
steps:
  split: { from: big, fanout: [{ when: n > 5, as: a }, { as: b, when: n <= 5 }] }
  big: { filter: n > 0, from: clicks }
sources: { clicks: { topic: clicks, schema: { n: long, user: string } } }
commit_interval: 1s
";
        assert_eq!(lines(other), Vec::<String>::new());
    }
}
