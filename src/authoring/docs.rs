//! Pages about operators, made from their Specs: `docs/operators/*.md` and `hw operators`.

use std::fmt::Write;

use headwater_engine::operators::Kind;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The page of an operator.
pub fn page(kind: &Kind) -> String {
    let mut generator = SchemaSettings::draft07().into_generator();
    let root = (kind.schema)(&mut generator).to_value();
    let definitions = generator.take_definitions(true);
    let mut out = format!("# {}\n\n{}\n\n```yaml\n{}```\n", kind.name, kind.summary, kind.example);
    let _ = writeln!(out, "\nThe input of the example has the columns\n\n```text\n{}```", kind.example_input);
    let shape = resolved(&root, &definitions);
    if let Some(text) = shape.get("description").and_then(Value::as_str) {
        let _ = writeln!(out, "\n{}", flowing(text));
    }
    let mut seen = Vec::new();
    tables(&mut out, kind.name, shape, &definitions, &mut seen);
    out
}

/// The definition a schema refers to, or itself.
fn resolved<'a>(schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    let reference = schema.get("$ref").and_then(Value::as_str);
    // `anyOf` a definition and null: an optional one.
    let optional = || schema.get("anyOf").and_then(Value::as_array)?.iter().find_map(|choice| choice.get("$ref").and_then(Value::as_str));
    let reference = reference.or_else(|| match schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        Some([one]) => one.get("$ref").and_then(Value::as_str),
        _ => optional(),
    });
    reference.and_then(|name| definitions.get(name.rsplit('/').next().unwrap_or(name))).unwrap_or(schema)
}

/// Doc comments are wrapped for the source; pages flow.
fn flowing(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

/// A table of the keys of a mapping, then those of the mappings below it.
fn tables(out: &mut String, title: &str, schema: &Value, definitions: &Map<String, Value>, seen: &mut Vec<String>) {
    if seen.iter().any(|known| known == title) {
        return;
    }
    seen.push(title.to_string());
    for alternative in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        let inner = resolved(alternative.get("items").unwrap_or(alternative), definitions);
        tables_of(out, title, inner, definitions, seen);
    }
    tables_of(out, title, schema, definitions, seen);
}

fn tables_of(out: &mut String, title: &str, schema: &Value, definitions: &Map<String, Value>, seen: &mut Vec<String>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object).filter(|p| !p.is_empty()) else { return };
    let key = format!("{title} {}", properties.keys().cloned().collect::<Vec<_>>().join(","));
    if seen.contains(&key) {
        return;
    }
    seen.push(key);
    let required: Vec<&str> = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let _ = writeln!(out, "\n## Keys of `{title}`\n\n| key | type | default | meaning |\n|---|---|---|---|");
    let mut below = Vec::new();
    for (name, property) in properties {
        let of = resolved(property, definitions);
        let default = match property.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_string(),
            None | Some(Value::Null) => "none".to_string(),
            Some(Value::String(text)) if text.is_empty() => "none".to_string(),
            Some(value) => format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_string)),
        };
        let meaning = property.get("description").or(of.get("description")).and_then(Value::as_str).unwrap_or_default();
        let meaning = flowing(meaning).replace("\n\n", " ").replace('|', "\\|");
        let _ = writeln!(out, "| `{name}` | {} | {default} | {meaning}{} |", kind_of(property, definitions), choices(of));
        below.push((format!("{title}.{name}"), of));
        // Of a map, what stands under each of its names.
        if let Some(each) = of.get("additionalProperties").filter(|each| each.is_object()) {
            below.push((format!("{title}.{name}.NAME"), resolved(each, definitions)));
        }
    }
    for (title, of) in below {
        tables(out, &title, of, definitions, seen);
    }
}

/// The values of an enumeration with their meanings.
fn choices(schema: &Value) -> String {
    let mut out = String::new();
    for choice in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let (Some(value), Some(text)) = (choice_of(choice), choice.get("description").and_then(Value::as_str)) else { continue };
        let _ = write!(out, " `{value}`: {}", flowing(text));
    }
    out
}

/// A value of an enumeration as it is written: a word, or a mapping of one key.
fn choice_of(choice: &Value) -> Option<String> {
    let key = || choice.get("properties")?.as_object()?.keys().next();
    choice.get("const").and_then(Value::as_str).map(str::to_string).or_else(|| Some(format!("{{ {}: .. }}", key()?)))
}

/// What kind of value a key has, in a word or two: its type's own (`x-type` in its schema), or JSON's.
fn kind_of(property: &Value, definitions: &Map<String, Value>) -> String {
    let of = resolved(property, definitions);
    if let Some(words) = of.get("x-type").and_then(Value::as_str) {
        return words.into();
    }
    let choices: Vec<String> = of.get("oneOf").and_then(Value::as_array).into_iter().flatten().filter_map(choice_of).collect();
    if !choices.is_empty() {
        return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    }
    let words = |value: &Value| match value.as_str() {
        Some("string") => "text",
        Some("integer" | "number") => "number",
        Some("boolean") => "bool",
        Some("array") => "list",
        Some("object") => "map",
        _ => "",
    };
    match of.get("type") {
        Some(Value::Array(several)) => several.iter().map(words).find(|word| !word.is_empty()).unwrap_or("any").to_string(),
        Some(one) => words(one).to_string(),
        None if of.get("anyOf").is_some() => {
            let parts: Vec<&str> =
                of.get("anyOf").and_then(Value::as_array).into_iter().flatten().filter_map(|c| c.get("type")).map(words).collect();
            if parts.is_empty() { "map or list".into() } else { parts.join(" or ") }
        }
        None => "any".into(),
    }
}

#[cfg(test)]
mod tests;
