//! YAML to JSON text, keeping the order of keys. Only what step configurations need: no tags, anchors or several
//! documents. The engine has its own reader with positions; this one keeps the scripts free of the engine.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// The only document of `yaml` as JSON.
///
/// # Errors
/// What is wrong with the YAML.
pub(super) fn to_json(yaml: &str) -> Result<String, String> {
    to_json_at(yaml, &[])
}

/// The value at `path` (keys of mappings) as JSON.
///
/// # Errors
/// What is wrong with the YAML, or that there is nothing at `path`.
pub(super) fn to_json_at(yaml: &str, path: &[&str]) -> Result<String, String> {
    let mut events = Vec::new();
    for event in Parser::new_from_str(yaml) {
        let (event, _) = event.map_err(|e| e.to_string())?;
        if !matches!(event, Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd) {
            events.push(event);
        }
    }
    let mut events = events.into_iter().peekable();
    for key in path {
        descend(&mut events, key)?;
    }
    let mut json = String::new();
    value(&mut events, &mut json)?;
    Ok(json)
}

type Events<'a> = std::iter::Peekable<std::vec::IntoIter<Event<'a>>>;

/// Moves to the value under `key` of the mapping that comes next.
fn descend(events: &mut Events<'_>, key: &str) -> Result<(), String> {
    let missing = || format!("there is no `{key}`");
    if !matches!(events.next(), Some(Event::MappingStart(..))) {
        return Err(missing());
    }
    while let Some(Event::Scalar(name, ..)) = events.next() {
        if name == key {
            return Ok(());
        }
        value(events, &mut String::new())?;
    }
    Err(missing())
}

fn value(events: &mut Events<'_>, json: &mut String) -> Result<(), String> {
    match events.next() {
        Some(Event::Scalar(text, style, ..)) => {
            json.push_str(&scalar(&text, style));
            Ok(())
        }
        Some(Event::SequenceStart(..)) => {
            json.push('[');
            while events.next_if(|e| matches!(e, Event::SequenceEnd)).is_none() {
                separate(json);
                value(events, json)?;
            }
            json.push(']');
            Ok(())
        }
        Some(Event::MappingStart(..)) => {
            json.push('{');
            while events.next_if(|e| matches!(e, Event::MappingEnd)).is_none() {
                separate(json);
                let Some(Event::Scalar(key, ..)) = events.next() else { return Err("a key must be a text".into()) };
                json.push_str(&quoted(&key));
                json.push(':');
                value(events, json)?;
            }
            json.push('}');
            Ok(())
        }
        Some(Event::Alias(_)) => Err("aliases are not supported in scripts".into()),
        _ => Err("the YAML ends too early".into()),
    }
}

fn separate(json: &mut String) {
    if !json.ends_with(['[', '{']) {
        json.push(',');
    }
}

/// Plain scalars by the YAML core schema, everything else as text.
fn scalar(text: &str, style: ScalarStyle) -> String {
    if style != ScalarStyle::Plain {
        return quoted(text);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => "null".into(),
        "true" | "True" | "TRUE" => "true".into(),
        "false" | "False" | "FALSE" => "false".into(),
        // A JSON number is a YAML number; other notations stay texts, which every spec also takes.
        _ if serde_json::from_str::<serde_json::Number>(text).is_ok() => text.into(),
        _ => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
