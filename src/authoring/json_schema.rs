//! JSON Schema of pipeline files, for editors: completion, documentation under the pointer, errors while typing.

use headwater_engine::operators::Operators;
use headwater_engine::pipeline::{Pipeline, TopicTarget};
use headwater_engine::sinks::Sinks;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema, with one property per operator in a step, and the keys of every target in a sink. Draft 07, which YAML language servers
/// know best.
pub fn pipeline(registry: &Operators, sinks: &Sinks) -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let root = Pipeline::json_schema(&mut generator);
    let mut properties = Map::new();
    properties.insert("from".into(), from(registry));
    properties.insert("on_error".into(), on_error());
    let was = "The name that the step had when it was deployed first, if it was renamed: its state and its topics keep that name.";
    properties.insert("was".into(), json!({ "description": was, "type": "string" }));
    for kind in &registry.0 {
        let reference = (kind.schema)(&mut generator).to_value();
        let example = format!("{}\n\n```yaml\n{}```", kind.summary, kind.example);
        properties.insert(kind.name.into(), json!({ "description": kind.summary, "markdownDescription": example, "allOf": [reference] }));
    }
    let targets: Vec<Value> = std::iter::once(generator.subschema_for::<TopicTarget>().to_value())
        .chain(sinks.0.iter().map(|kind| (kind.schema)(&mut generator).to_value()))
        .collect();
    let mut definitions = generator.take_definitions(true);
    let sink = sink(sinks, &targets, &definitions);
    definitions.insert("Sink".into(), sink);
    definitions.insert(
        "Step".into(),
        json!({
            "description": "A step: `from` and exactly one operator.",
            "type": "object",
            "required": ["from"],
            "minProperties": 2,
            "dependencies": exactly_one(&registry.names().collect::<Vec<_>>()),
            "properties": properties,
            "additionalProperties": false,
        }),
    );
    let mut schema = root.to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
        object.insert("title".into(), "Headwater pipeline".into());
        object.insert("definitions".into(), Value::Object(definitions));
        if let Some(version) = object.get_mut("properties").and_then(|p| p.get_mut("apiVersion")).and_then(Value::as_object_mut) {
            version.insert("const".into(), headwater_engine::pipeline::API_VERSION.into());
        }
    }
    let known = schema.get("definitions").cloned().unwrap_or_default();
    inline(&mut schema, &known);
    documented(&mut schema);
    schema
}

/// One of these keys, and no other of them. Expressed by exclusion, because editors offer no completion inside a failing `oneOf`.
fn exactly_one(names: &[&str]) -> Map<String, Value> {
    let others = |name: &str| names.iter().filter(|other| **other != name).map(|other| json!({ "required": [other] })).collect::<Vec<_>>();
    names.iter().map(|name| ((*name).to_string(), json!({ "not": { "anyOf": others(name) } }))).collect()
}

/// An entry of `sinks`: the keys of all targets, because editors choose no alternative before its key is written.
fn sink(sinks: &Sinks, targets: &[Value], definitions: &Map<String, Value>) -> Value {
    let name = json!({ "type": "string" });
    let mut properties = Map::new();
    properties
        .insert("from".into(), json!({ "description": "The source, step or port (`step.port`) whose rows are written.", "anyOf": [name] }));
    for target in targets {
        let reference = target.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next());
        let known = reference.and_then(|name| definitions.get(name)).and_then(|known| known.get("properties")).and_then(Value::as_object);
        for (key, property) in known.into_iter().flatten() {
            match properties.get_mut(key) {
                None => drop(properties.insert(key.clone(), property.clone())),
                Some(first) if first == property => {}
                Some(first) => *first = either(first, property),
            }
        }
    }
    let names: Vec<&str> = std::iter::once("topic").chain(sinks.names()).collect();
    json!({
        "description": "A sink: `from`, exactly one target, and the target's settings.",
        "type": "object",
        "required": ["from"],
        "minProperties": 2,
        "dependencies": exactly_one(&names),
        "properties": properties,
        "additionalProperties": false,
    })
}

/// A key that means something else for another target.
fn either(first: &Value, second: &Value) -> Value {
    let said = |value: &Value| value.get("description").and_then(Value::as_str).unwrap_or_default().to_string();
    json!({ "description": format!("{}\n\n{}", said(first), said(second)), "anyOf": [first, second] })
}

fn from(registry: &Operators) -> Value {
    let name = json!({ "type": "string" });
    let list = json!({ "type": "array", "minItems": 1, "items": name });
    let mut forms = vec![name.clone(), list.clone()];
    for kind in registry.0.iter().filter(|kind| !kind.inputs.is_empty()) {
        let inputs: Map<String, Value> = kind.inputs.iter().map(|input| (input.to_string(), json!({ "anyOf": [name, list] }))).collect();
        forms.push(json!({ "type": "object", "required": kind.inputs, "properties": inputs, "additionalProperties": false }));
    }
    json!({
        "description": "The source, step or port (`step.port`) whose rows the step reads, or a list of them with the same columns. Of an operator with several inputs, that of each by its name: `{ left: orders, right: payments }`.",
        "anyOf": forms,
    })
}

fn on_error() -> Value {
    json!({
        "description": "Treatment of rows that the operator can't compute.",
        "default": "dead_letter",
        "oneOf": [
            { "const": "dead_letter", "description": "The source record goes to the dead-letter topic of its source, with the cause." },
            { "const": "drop", "description": "The row is dropped and counted as filtered." },
        ],
    })
}

/// Inlines definitions where a property has its own description: editors show the description of the definition
/// otherwise.
fn inline(value: &mut Value, definitions: &Value) {
    match value {
        Value::Object(object) => {
            while let Some(definition) = referred(object, definitions) {
                object.remove("allOf");
                for (key, part) in definition {
                    object.entry(key).or_insert(part);
                }
            }
            object.values_mut().for_each(|part| inline(part, definitions));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| inline(item, definitions)),
        _ => {}
    }
}
/// The definition that a schema refers to, apart from its own description. One that refers to itself stays a reference.
fn referred(object: &Map<String, Value>, definitions: &Value) -> Option<Map<String, Value>> {
    let [one] = object.get("allOf")?.as_array()?.as_slice() else { return None };
    let name = one.get("$ref")?.as_str()?.rsplit('/').next()?;
    let definition = definitions.get(name)?;
    (!definition.to_string().contains("Declared")).then(|| definition.as_object().cloned()).flatten()
}

/// Line breaks of doc comments are not line breaks for a reader: editors show descriptions as they are.
fn documented(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(text)) = object.get_mut("description") {
                let paragraphs: Vec<String> = text.split("\n\n").map(|p| p.replace('\n', " ")).collect();
                *text = paragraphs.join("\n\n");
            }
            object.values_mut().for_each(documented);
        }
        Value::Array(items) => items.iter_mut().for_each(documented),
        _ => {}
    }
}
