//! YAML with locations: every key and value knows its line and column, and every error from deserializing points at the
//! text it is about (rule R8).
//!
//! The tree is built from parser events with limits on size, depth and alias expansion, so that a hostile file costs
//! little ("billion laughs" included). Typed configuration is read from it with serde; a node is its own deserializer.

mod parse;
mod problems;
mod read;

use std::fmt;

use operator_core::diagnostic::THE_KEY;
use serde::de::DeserializeOwned;

pub use parse::parse;
pub use problems::{read_all, unknown_keys};

/// Largest file that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// Most nodes, counting what aliases expand to.
pub const MAX_NODES: usize = 100_000;

/// A place in the text: characters `[start, end)`, with line and column of the start, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub start: usize,
    pub end: usize,
    pub line: usize,
    pub column: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// `plain`: written without quotes, so that `true`, `5` and `null` mean what they look like.
    /// `block`: a literal or folded block, whose text does not start at the place.
    Scalar {
        text: String,
        plain: bool,
        block: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub text: String,
    pub place: Place,
}

/// What is wrong with the text, or with a value for the type that was to be read from it.
#[derive(Clone, Debug, Default)]
pub struct YamlError {
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
    pub place: Option<Place>,
}

impl YamlError {
    fn new(code: &'static str, message: impl Into<String>, place: Place) -> YamlError {
        YamlError { code, message: message.into(), help: None, place: Some(place) }
    }

    fn or_at(mut self, place: Place) -> YamlError {
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for YamlError {}

impl Node {
    /// Reads a typed value.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, YamlError> {
        T::deserialize(self).map_err(|e| e.or_at(self.place))
    }

    /// The value under `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// The keys of a mapping.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries().map(|(key, _)| key.text.as_str())
    }

    /// The keys and values of a mapping.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Node)> {
        let entries = if let Value::Map(entries) = &self.value { entries.as_slice() } else { &[] };
        entries.iter().map(|(key, node)| (key, node))
    }

    /// Visits every text with its path, in which keys and the numbers of list items are.
    pub fn texts<'a>(&'a self, visit: &mut dyn FnMut(&[String], &'a Node, &'a str)) {
        self.texts_below(&mut Vec::new(), visit);
    }

    fn texts_below<'a>(&'a self, path: &mut Vec<String>, visit: &mut dyn FnMut(&[String], &'a Node, &'a str)) {
        let mut below = |key: String, node: &'a Node| {
            path.push(key);
            node.texts_below(path, visit);
            path.pop();
        };
        match &self.value {
            Value::Scalar { text, .. } => visit(path, self, text),
            Value::List(items) => items.iter().enumerate().for_each(|(n, item)| below(n.to_string(), item)),
            Value::Map(entries) => entries.iter().for_each(|(key, value)| below(key.text.clone(), value)),
        }
    }

    /// It is a mapping.
    pub fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    /// The mapping with some of its keys.
    #[must_use]
    pub fn retaining(&self, keep: impl Fn(&str) -> bool) -> Node {
        let mut node = self.clone();
        if let Value::Map(entries) = &mut node.value {
            entries.retain(|(key, _)| keep(&key.text));
        }
        node
    }

    /// Key and value under `key` of a mapping.
    pub fn entry(&self, key: &str) -> Option<(&Key, &Node)> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(k, n)| (k, n)),
            _ => None,
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The place a path leads to, or of the deepest part of it that exists. A path that ends in [`THE_KEY`] means the
    /// key before it rather than its value.
    pub fn locate(&self, path: &[String]) -> Place {
        let Some((first, rest)) = path.split_first() else { return self.place };
        match &self.value {
            Value::Map(_) => match self.entry(first) {
                Some((key, _)) if matches!(rest, [last] if last == THE_KEY) => key.place,
                Some((key, _)) if rest.is_empty() && matches!(self.get(first).map(|n| &n.value), Some(Value::Map(_) | Value::List(_))) => {
                    key.place
                }
                Some((_, node)) => node.locate(rest),
                None => self.place,
            },
            Value::List(items) => first.parse::<usize>().ok().and_then(|i| items.get(i)).map_or(self.place, |n| n.locate(rest)),
            Value::Scalar { .. } => self.place,
        }
    }

    /// The node a path leads to.
    pub fn find(&self, path: &[String]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::Map(_) => node.get(step),
            Value::List(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
            Value::Scalar { .. } => None,
        })
    }

    /// Changes the text of every scalar value (not keys): environment variables. Returns what could not be replaced.
    pub fn substitute(&mut self, replace: &mut dyn FnMut(&str) -> Result<Option<String>, String>) -> Vec<YamlError> {
        match &mut self.value {
            Value::Scalar { text, .. } => match replace(text) {
                Ok(Some(new)) => *text = new,
                Ok(None) => {}
                Err(message) => return vec![YamlError::new("environment", message, self.place)],
            },
            Value::List(items) => return items.iter_mut().flat_map(|n| n.substitute(replace)).collect(),
            Value::Map(entries) => return entries.iter_mut().flat_map(|(_, n)| n.substitute(replace)).collect(),
        }
        Vec::new()
    }

    /// Nothing, or a collection of nothing.
    pub fn is_empty(&self) -> bool {
        match &self.value {
            Value::Scalar { .. } => self.is_null(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        }
    }

    fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true, .. } if matches!(text.as_str(), "" | "~" | "null"))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Example {
        name: String,
        #[serde(default)]
        count: Option<u32>,
        #[serde(default)]
        list: Vec<String>,
    }

    #[test]
    fn points_at_the_mistake() {
        let node = parse("name: a\ncuont: 3\n").unwrap();
        let error = node.read::<Example>().unwrap_err();
        assert_eq!((error.place.unwrap().line, error.place.unwrap().column), (2, 1));
        assert_eq!(error.help.as_deref(), Some("did you mean `count`?"));
        let error = parse("name: a\ncount: three\n").unwrap().read::<Example>().unwrap_err();
        assert_eq!((error.place.unwrap().line, error.place.unwrap().column), (2, 8));
        assert!(parse("a: 1\na: 2").unwrap_err().message.contains("duplicate key"));
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let row = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{row}]\n"));
        }
        assert_eq!(parse(&text).unwrap_err().code, "too-many-nodes");
        let deep = "[".repeat(200);
        assert!(parse(&deep).is_err());
        // Anchors within anchors are copies, too, whether or not an alias uses them.
        let items = vec!["x"; 45_000].join(",");
        let anchors = |n: usize| (0..n).map(|i| format!("&a{i} [")).collect::<String>() + &items + &"]".repeat(n);
        assert!(parse(&anchors(1)).is_ok());
        assert_eq!(parse(&anchors(60)).unwrap_err().code, "too-many-nodes");
    }

    #[test]
    fn many_keys_are_read_and_a_second_one_is_found() {
        let mut text: String = (0..49_000).map(|i| format!("k{i}: 1\n")).collect();
        assert_eq!(parse(&text).unwrap().keys().count(), 49_000);
        text.push_str("k7: 2\n");
        let error = parse(&text).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), ("duplicate-key", "duplicate key `k7` (first on line 8)"));
    }
}
