//! Passwords and keys in plain text.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use headwater_engine::yaml::Node;
use operator_core::Diagnostic;
use regex::Regex;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use super::{Config, Sections};
use crate::diagnose::Source;

/// Keys whose values are secret.
static KEYS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)(password|passwd|passwrd|pwd|secret|token|api[._-]?key|private[._-]?key|jaas)").ok());
/// Keys that only sound like it.
static NO_KEYS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?i)(url|location|mechanism|name|type|path)$").ok());
/// Parts of texts that are secret, whatever their key: a password in a URL, tokens of large services.
static PARTS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)://[^/\s:@]+:[^/\s@$]+@|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{30,}|\bxox[bp]-[A-Za-z0-9-]{20,}").ok()
});
/// Texts that are secret as a whole: private keys, JAAS options with a password.
static WHOLES: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?i)-----BEGIN [A-Z ]*PRIVATE KEY|\bpassword\s*=\s*['"]?[^'"\s${]"#).ok());

/// The keys that an environment's configuration has somewhere, and whether a text, a number, or true or false belongs there.
struct Keys(BTreeMap<String, bool>);

impl Keys {
    fn of(sections: &Sections) -> Keys {
        let mut generator = SchemaGenerator::default();
        let root = Config::json_schema(&mut generator).to_value();
        let mut keys = Keys(BTreeMap::new());
        let stores: Vec<(&str, Value)> = sections.0.iter().map(|kind| (kind.name, (kind.schema)(&mut generator).to_value())).collect();
        let definitions = Value::Object(generator.take_definitions(true));
        keys.collect(&root, &definitions);
        keys.collect(&definitions, &definitions);
        stores.into_iter().for_each(|(name, schema)| keys.add(name, is_scalar(&schema, &definitions)));
        keys
    }

    fn add(&mut self, key: &str, scalar: bool) {
        *self.0.entry(key.to_string()).or_default() |= scalar;
    }

    fn collect(&mut self, schema: &Value, definitions: &Value) {
        for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.add(key, is_scalar(property, definitions));
        }
        match schema {
            Value::Object(members) => members.values().for_each(|member| self.collect(member, definitions)),
            Value::Array(items) => items.iter().for_each(|item| self.collect(item, definitions)),
            _ => {}
        }
    }

    /// What stands under a key that no configuration has may be a secret whose key is misspelt, and what stands where a mapping belongs one
    /// that is misplaced; what stands in an address may be a password, however it is written.
    fn may_hide(&self, path: &[String], text: &str) -> bool {
        let fits = |path: &[String]| {
            path.iter().all(|key| self.0.contains_key(key)) && path.last().is_some_and(|key| self.0.get(key).copied().unwrap_or_default())
        };
        let known = match path {
            [kafka, properties, name, rest @ ..] if kafka == "kafka" && properties == "properties" => {
                headwater_kafka::is_property(name) && (rest.is_empty() || fits(rest))
            }
            path => fits(path),
        };
        !known || (matches!(key_of(path), "url" | "bootstrap") && text.contains('@'))
    }
}

fn is_scalar(schema: &Value, definitions: &Value) -> bool {
    let scalar = |name: &Value| matches!(name.as_str(), Some("string" | "integer" | "number" | "boolean"));
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next());
    match (schema.get("type"), reference.and_then(|name| definitions.get(name))) {
        (Some(Value::Array(types)), _) => types.iter().any(scalar),
        (Some(name), _) => scalar(name),
        (None, named) => named.is_some_and(|named| is_scalar(named, definitions)),
    }
}

/// The secret part of a text, if there is one.
fn secret(key: &str, text: &str, environment: bool) -> Option<Range<usize>> {
    let found = |pattern: &LazyLock<Option<Regex>>, text: &str| pattern.as_ref().is_some_and(|p| p.is_match(text));
    // `password: { env: NAME }` names where the secret is.
    let variable = text.starts_with("${") && !text.contains(":-");
    let named = ["env", "file"].contains(&key) || text.is_empty() || variable;
    let by_key = environment && !named && found(&KEYS, key) && !found(&NO_KEYS, key);
    if by_key || found(&WHOLES, text) {
        return Some(0..text.len());
    }
    PARTS.as_ref().and_then(|parts| parts.find(text)).map(|part| part.range())
}

fn key_of(path: &[String]) -> &str {
    path.iter().rev().find(|key| key.parse::<usize>().is_err()).map_or("", String::as_str)
}

/// Secrets in a file. In a pipeline keys are columns, so only values are looked at there.
pub fn plain_secrets(root: &Node, environment: bool) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    root.texts(&mut |path, _, text| {
        if let Some(range) = secret(key_of(path), text, environment) {
            let problem = Diagnostic::warning("plain-secret", "this looks like a secret in plain text");
            let help = "write `{ env: NAME }` or `{ file: path }` in the environment file, and change the secret if the file was shared";
            found.push(problem.at(path.iter().cloned()).within(range).help(help));
        }
    });
    found
}

/// A text that is no YAML, without what follows keys of secrets in their lines. Bytes keep their places.
pub fn blanked_lines(text: &str) -> Arc<str> {
    let blank = |line: &str| match KEYS.as_ref().and_then(|keys| keys.find(line)) {
        Some(key) => {
            let (shown, rest) = line.split_at(key.end());
            let hidden = rest.chars().map(|c| if matches!(c, ':' | '\n') { c.to_string() } else { "*".repeat(c.len_utf8()) });
            hidden.fold(shown.to_string(), |line, c| line + &c)
        }
        None => line.to_string(),
    };
    text.split_inclusive('\n').map(blank).collect::<String>().into()
}

/// The texts of an environment that may be secrets, as they are read: what messages must not repeat.
pub fn hidden(root: &Node, sections: &Sections) -> Vec<String> {
    let (mut found, keys) = (Vec::new(), Keys::of(sections));
    root.texts(&mut |path, _, text| {
        if !text.is_empty() && (keys.may_hide(path, text) || secret(key_of(path), text, true).is_some()) {
            found.push(text.to_string());
        }
    });
    found
}

/// The text of a file with every secret in it blanked out: what reports show of it. Bytes keep their places. `environment`: the file is
/// a configuration with these sections of stores.
pub fn blanked(source: &Source, root: &Node, environment: Option<&Sections>) -> Arc<str> {
    let (mut bytes, keys) = (source.text.as_bytes().to_vec(), environment.map(Keys::of));
    root.texts(&mut |path, node, text| {
        let whole = keys.as_ref().is_some_and(|keys| keys.may_hide(path, text));
        let Some(range) = secret(key_of(path), text, keys.is_some()).or(whole.then_some(0..text.len())) else { return };
        let (from, to) = (source.byte(node.place.start), source.byte(node.place.end));
        // If a part can't be found verbatim, the whole value is hidden.
        let part = source.text.get(from..to).and_then(|written| written.find(text.get(range)?)).map(|at| from + at);
        let range = match part.filter(|_| !whole && PARTS.as_ref().is_some_and(|parts| parts.is_match(text))) {
            Some(start) => start..to,
            None => from..to,
        };
        for byte in bytes.get_mut(range).unwrap_or_default().iter_mut().filter(|byte| **byte != b'\n') {
            *byte = b'*';
        }
    });
    String::from_utf8(bytes).map_or_else(|_| source.text.clone(), Into::into)
}
