//! YAML with places: every key and value knows its line and column, and every error from deserializing points at the
//! text it is about (rule R8).
//!
//! The tree is built from parser events with limits on size, depth and alias expansion, so that a hostile file costs
//! little ("billion laughs" included). Typed configuration is read from it with serde; a node is its own deserializer.

use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as ParserSpan};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use operator_core::diagnostic::closest;

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

impl From<ParserSpan> for Place {
    fn from(span: ParserSpan) -> Place {
        let (start, end) = (span.start.index(), span.end.index());
        Place { start, end, line: span.start.line(), column: span.start.col() + 1 }
    }
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

impl de::Error for YamlError {
    fn custom<T: fmt::Display>(message: T) -> YamlError {
        YamlError { code: "invalid-value", message: message.to_string(), ..YamlError::default() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> YamlError {
        let help = match closest(field, expected.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if expected.is_empty() => "no keys are allowed here".to_string(),
            None => format!("allowed here: {}", expected.join(", ")),
        };
        YamlError { code: "unknown-key", message: format!("unknown key `{field}`"), help: Some(help), place: None }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> YamlError {
        let help = match closest(variant, expected.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("allowed here: {}", expected.join(", ")),
        };
        YamlError { code: "unknown-value", message: format!("unknown value `{variant}`"), help: Some(help), place: None }
    }

    fn missing_field(field: &'static str) -> YamlError {
        YamlError { code: "missing-key", message: format!("`{field}` is missing"), ..YamlError::default() }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> YamlError {
        YamlError { code: "wrong-type", message: format!("found {found}, expected {expected}"), ..YamlError::default() }
    }
}

/// Reads one YAML document.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    if text.len() > MAX_BYTES {
        return Err(YamlError { code: "too-large", message: format!("the file is larger than {MAX_BYTES} bytes"), ..YamlError::default() });
    }
    let mut builder = Builder { stack: Vec::new(), anchors: Vec::new(), nodes: 0, expanded: 0, root: None, documents: 0 };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let place =
                Place { start: e.marker().index(), end: e.marker().index() + 1, line: e.marker().line(), column: e.marker().col() + 1 };
            YamlError::new("yaml-syntax", format!("not valid YAML: {}", e.info()), place)
        })?;
        builder.event(event, span.into())?;
    }
    builder.root.ok_or_else(|| YamlError { code: "empty", message: "the file is empty".into(), ..YamlError::default() })
}

/// A collection that is being read.
struct Open {
    anchor: usize,
    node: Node,
    /// A mapping's key that waits for its value.
    key: Option<Key>,
}

struct Builder {
    stack: Vec<Open>,
    anchors: Vec<(usize, Node, usize)>,
    nodes: usize,
    /// Bytes that aliases stand for.
    expanded: usize,
    root: Option<Node>,
    documents: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), YamlError> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(YamlError::new("several-documents", "one document per file, please", place));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some() {
                    return Err(YamlError::new("tag", "tags have no meaning here", place));
                }
                let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain, block };
                self.complete(Node { place, value }, anchor, 1)?;
            }
            Event::SequenceStart(anchor, _) => self.open(anchor, Node { place, value: Value::List(Vec::new()) })?,
            Event::MappingStart(anchor, _) => self.open(anchor, Node { place, value: Value::Map(Vec::new()) })?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    let mut node = open.node;
                    node.place.end = place.end.max(node.place.start);
                    self.complete(node, open.anchor, 1)?;
                }
            }
            Event::Alias(id) => {
                let found = self.anchors.iter().find(|(anchor, _, _)| *anchor == id).cloned();
                let Some((_, node, size)) = found else {
                    return Err(YamlError::new("alias", "this alias refers to itself or to nothing", place));
                };
                self.expanded += bytes(&node);
                if self.expanded > MAX_BYTES {
                    return Err(YamlError::new("too-many-nodes", format!("aliases expand to more than {MAX_BYTES} bytes"), place));
                }
                self.complete(node, 0, size)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize, node: Node) -> Result<(), YamlError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(YamlError::new("too-deep", format!("nested deeper than {MAX_DEPTH} levels"), node.place));
        }
        self.stack.push(Open { anchor, node, key: None });
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), YamlError> {
        self.nodes += size;
        if self.nodes > MAX_NODES {
            return Err(YamlError::new(
                "too-many-nodes",
                format!("more than {MAX_NODES} values, counting what aliases expand to"),
                node.place,
            ));
        }
        if anchor > 0 {
            self.anchors.push((anchor, node.clone(), count(&node)));
        }
        let Some(top) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut top.node.value, top.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some(key)) => entries.push((key, node)),
            (Value::Map(entries), None) => {
                let Value::Scalar { text, .. } = node.value else {
                    return Err(YamlError::new("complex-key", "a key must be a plain word", node.place));
                };
                if let Some((first, _)) = entries.iter().find(|(key, _)| key.text == text) {
                    let message = format!("`{text}` stands here twice (first in line {})", first.place.line);
                    return Err(YamlError::new("duplicate-key", message, node.place));
                }
                top.key = Some(Key { text, place: node.place });
            }
            (Value::Scalar { .. }, _) => {}
        }
        Ok(())
    }
}

/// Bytes of the texts in a node.
fn bytes(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { text, .. } => text.len(),
        Value::List(items) => items.iter().map(bytes).sum(),
        Value::Map(entries) => entries.iter().map(|(key, value)| key.text.len() + bytes(value)).sum(),
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|(_, n)| 1 + count(n)).sum(),
    }
}

impl Node {
    /// Reads a typed value.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, YamlError> {
        T::deserialize(self).map_err(|e| e.or_at(self.place))
    }

    /// The value under `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
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

    /// The place a path leads to, or of the deepest part of it that exists.
    pub fn locate(&self, path: &[String]) -> Place {
        let Some((first, rest)) = path.split_first() else { return self.place };
        match &self.value {
            Value::Map(_) => match self.entry(first) {
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

    /// Changes the text of every scalar value (not keys): environment variables.
    pub fn substitute(&mut self, replace: &mut dyn FnMut(&str) -> Result<Option<String>, String>) -> Result<(), YamlError> {
        match &mut self.value {
            Value::Scalar { text, .. } => match replace(text) {
                Ok(Some(new)) => *text = new,
                Ok(None) => {}
                Err(message) => return Err(YamlError::new("environment", message, self.place)),
            },
            Value::List(items) => items.iter_mut().try_for_each(|n| n.substitute(replace))?,
            Value::Map(entries) => entries.iter_mut().try_for_each(|(_, n)| n.substitute(replace))?,
        }
        Ok(())
    }

    fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true, .. } if matches!(text.as_str(), "" | "~" | "null"))
    }
}

macro_rules! numbers {
    ($($method:ident => $visit:ident: $type:ty, $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
            let text = self.scalar(&visitor)?;
            let number: $type = text.replace('_', "").parse().map_err(|_| {
                YamlError::new("wrong-type", format!("`{text}` is not {}", $what), self.place)
            })?;
            visitor.$visit(number)
        }
    )*};
}

impl Node {
    fn scalar(&self, expected: &dyn de::Expected) -> Result<&str, YamlError> {
        match &self.value {
            Value::Scalar { text, .. } => Ok(text),
            Value::List(_) => Err(YamlError::new("wrong-type", format!("found a list, expected {expected}"), self.place)),
            Value::Map(_) => Err(YamlError::new("wrong-type", format!("found a mapping, expected {expected}"), self.place)),
        }
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = YamlError;

    numbers! {
        deserialize_i8 => visit_i64: i64, "a whole number";
        deserialize_i16 => visit_i64: i64, "a whole number";
        deserialize_i32 => visit_i64: i64, "a whole number";
        deserialize_i64 => visit_i64: i64, "a whole number";
        deserialize_u8 => visit_u64: u64, "a whole number from 0";
        deserialize_u16 => visit_u64: u64, "a whole number from 0";
        deserialize_u32 => visit_u64: u64, "a whole number from 0";
        deserialize_u64 => visit_u64: u64, "a whole number from 0";
        deserialize_f32 => visit_f64: f64, "a number";
        deserialize_f64 => visit_f64: f64, "a number";
        deserialize_bool => visit_bool: bool, "`true` or `false`";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar { .. } if self.is_null() => visitor.visit_unit(),
            Value::Scalar { text, plain, .. } => {
                if *plain {
                    if let Ok(b) = text.parse::<bool>() {
                        return visitor.visit_bool(b);
                    }
                    if let Ok(i) = text.parse::<i64>() {
                        return visitor.visit_i64(i);
                    }
                    if let Some(f) = text.parse::<f64>().ok().filter(|f| f.is_finite()) {
                        return visitor.visit_f64(f);
                    }
                }
                visitor.visit_str(text)
            }
        }
        .map_err(|e| e.or_at(self.place))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        let text = self.scalar(&visitor)?;
        visitor.visit_str(text).map_err(|e: YamlError| e.or_at(self.place))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, YamlError> {
        visitor.visit_newtype_struct(self).map_err(|e: YamlError| e.or_at(self.place))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::List(items) => visitor.visit_seq(Items(items.iter())).map_err(|e| e.or_at(self.place)),
            _ => Err(YamlError::new("wrong-type", "expected a list", self.place)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }).map_err(|e| e.or_at(self.place)),
            _ if self.is_null() => visitor.visit_map(Entries { rest: [].iter(), value: None }).map_err(|e| e.or_at(self.place)),
            _ => Err(YamlError::new("wrong-type", "expected a mapping (`key: value`)", self.place)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, YamlError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::Scalar { text, .. } => visitor.visit_enum(text.as_str().into_deserializer()).map_err(|e: YamlError| e.or_at(self.place)),
            Value::Map(entries) if entries.len() == 1 => visitor
                .visit_enum(de::value::MapAccessDeserializer::new(Entries { rest: entries.iter(), value: None }))
                .map_err(|e| e.or_at(self.place)),
            _ => Err(YamlError::new("wrong-type", "expected one word or one `key: value`", self.place)),
        }
    }

    serde::forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = YamlError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, YamlError> {
        self.0.next().map(|node| seed.deserialize(node).map_err(|e| e.or_at(node.place))).transpose()
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a Node>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = YamlError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, YamlError> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some(node);
        let deserializer: de::value::StrDeserializer<'_, YamlError> = key.text.as_str().into_deserializer();
        seed.deserialize(deserializer).map(Some).map_err(|e| e.or_at(key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, YamlError> {
        match self.value.take() {
            Some(node) => seed.deserialize(node).map_err(|e| e.or_at(node.place)),
            None => Err(de::Error::custom("value without a key")),
        }
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
        assert!(parse("a: 1\na: 2").unwrap_err().message.contains("twice"));
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
    }
}
