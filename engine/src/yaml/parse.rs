//! From text to a tree, within limits.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as ParserSpan};

use super::{Key, MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, Place, Value, YamlError};

impl From<ParserSpan> for Place {
    fn from(span: ParserSpan) -> Place {
        let (start, end) = (span.start.index(), span.end.index());
        Place { start, end, line: span.start.line(), column: span.start.col() + 1 }
    }
}

/// Reads one YAML document.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    if text.len() > MAX_BYTES {
        return Err(YamlError { code: "too-large", message: format!("the file is larger than {MAX_BYTES} bytes"), ..YamlError::default() });
    }
    let mut builder = Builder { stack: Vec::new(), anchors: HashMap::new(), nodes: 0, expanded: 0, root: None, documents: 0 };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let place =
                Place { start: e.marker().index(), end: e.marker().index() + 1, line: e.marker().line(), column: e.marker().col() + 1 };
            let help = Some(syntax_help(e.info()).to_string());
            YamlError { help, ..YamlError::new("yaml-syntax", format!("not valid YAML: {}", e.info()), place) }
        })?;
        builder.event(event, span.into())?;
    }
    builder.root.ok_or_else(|| YamlError { code: "empty", message: "the file is empty".into(), ..YamlError::default() })
}

/// What most likely is wrong where the parser gave up.
fn syntax_help(info: &str) -> &'static str {
    match info {
        _ if info.contains("tab") => "indent with spaces; YAML does not allow tabs",
        _ if info.contains("trailing content") => {
            "a value that starts with a quote ends at the next one, and in `{ .. }` a value ends at a comma: put the whole value in other \
             quotes, such as \"status = 'paid'\""
        }
        _ if info.contains("unexpected character") || info.contains("anchor") => {
            "a YAML value can't start with this character: quote the whole value"
        }
        _ if info.contains("mapping values") => "quote a value that contains `: `, and start all keys of a mapping in the same column",
        _ if info.contains("quoted scalar") || info.contains("end of stream") => {
            "a quote or a bracket in the lines above may not be closed"
        }
        _ if info.contains("flow") => "inside `{ .. }` and `[ .. ]` separate entries with commas, and quote texts that contain commas",
        _ => "check this line and the one above: the keys of a mapping start in the same column, each followed by `: `",
    }
}

/// A collection that is being read.
struct Open {
    anchor: usize,
    node: Node,
    /// A mapping's key that waits for its value.
    key: Option<Key>,
    /// The lines of a mapping's keys.
    lines: HashMap<String, usize>,
}

struct Builder {
    stack: Vec<Open>,
    /// What has an anchor, and its number of nodes.
    anchors: HashMap<usize, (Node, usize)>,
    /// Those of anchors and aliases included: each is a copy.
    nodes: usize,
    /// Bytes that are copied for anchors and aliases.
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
                    return Err(YamlError::new("several-documents", "the file has a second document: move it to a file of its own", place));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some() {
                    return Err(YamlError::new("tag", "tags are not supported: remove it", place));
                }
                let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain, block };
                self.complete(Node { place, value }, anchor, 1)?;
            }
            Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return Err(YamlError::new("tag", "tags are not supported: remove it", place));
            }
            Event::SequenceStart(anchor, None) => self.open(anchor, Node { place, value: Value::List(Vec::new()) })?,
            Event::MappingStart(anchor, None) => self.open(anchor, Node { place, value: Value::Map(Vec::new()) })?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    let mut node = open.node;
                    node.place.end = place.end.max(node.place.start);
                    self.complete(node, open.anchor, 1)?;
                }
            }
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id) else {
                    return Err(YamlError::new("alias", "this alias refers to itself or to nothing", place));
                };
                let size = *size;
                self.expanded += bytes(node);
                within_limits(self.nodes + size, self.expanded, place)?;
                let node = node.clone();
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
        self.stack.push(Open { anchor, node, key: None, lines: HashMap::new() });
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), YamlError> {
        self.nodes += size;
        if anchor > 0 {
            // Anchors within anchors: each is a copy of all that is in it.
            let size = count(&node);
            self.nodes += size;
            self.expanded += bytes(&node);
            within_limits(self.nodes, self.expanded, node.place)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        within_limits(self.nodes, self.expanded, node.place)?;
        let Some(top) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut top.node.value, top.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some(key)) => entries.push((key, node)),
            (Value::Map(entries), None) => {
                let Value::Scalar { text, plain, .. } = node.value else {
                    return Err(YamlError::new("complex-key", "a key must be a plain word", node.place));
                };
                if let Some(error) = entries.last().filter(|_| plain).and_then(|(_, before)| cut_at_comma(before, &text, node.place)) {
                    return Err(error);
                }
                if let Some(first) = top.lines.insert(text.clone(), node.place.line) {
                    let message = format!("duplicate key `{text}` (first on line {first})");
                    return Err(YamlError::new("duplicate-key", message, node.place));
                }
                top.key = Some(Key { text, place: node.place });
            }
            (Value::Scalar { .. }, _) => {}
        }
        Ok(())
    }
}

fn within_limits(nodes: usize, copied: usize, place: Place) -> Result<(), YamlError> {
    let message = match (nodes > MAX_NODES, copied > MAX_BYTES) {
        (true, _) => format!("more than {MAX_NODES} values, counting what anchors and aliases copy"),
        (_, true) => format!("anchors and aliases copy more than {MAX_BYTES} bytes"),
        _ => return Ok(()),
    };
    Err(YamlError::new("too-many-nodes", message, place))
}

/// `{ total: decimal(12,2) }`: between braces the comma begins the next entry.
fn cut_at_comma(before: &Node, key: &str, place: Place) -> Option<YamlError> {
    let count = |text: &str, c| text.matches(c).count();
    let Value::Scalar { text, plain: true, .. } = &before.value else { return None };
    if count(text, '(') <= count(text, ')') || count(key, ')') <= count(key, '(') {
        return None;
    }
    let error = YamlError::new("yaml-syntax", format!("`{text}` ends at the comma"), Place { end: place.end, ..before.place });
    Some(YamlError { help: Some(format!("inside braces, quote a text that contains a comma: \"{text}, {key}\"")), ..error })
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
