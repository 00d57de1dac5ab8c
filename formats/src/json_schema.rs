//! A registered JSON Schema as an Arrow schema.
//!
//! JSON Schema describes which documents are valid, Arrow which columns there are, so only schemas that fix the shape
//! can be mapped: objects with `properties`, arrays with `items`, maps with `additionalProperties`, and scalars. A
//! keyword that leaves the type open (`anyOf` of two types, no `type` at all) is an error that names the place;
//! declare the columns in the pipeline instead. Constraints (`minimum`, `pattern`) are not checked.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::Value;

use crate::column::MAX_SCHEMA_DEPTH;

/// Fields a schema may have in all its levels; `$ref` can multiply a short text beyond any memory.
const MAX_FIELDS: usize = 10_000;

/// Maps a JSON Schema (draft 4 to 2020-12) whose root is an object.
///
/// `integer` becomes Int64, `number` Float64; a string becomes a timestamp in UTC for the format `date-time`, a date for
/// `date`, bytes for `contentEncoding: base64`, else text. A field is nullable unless it is listed in `required` and its
/// type excludes `null`. `$ref` may point into the same document.
///
/// # Errors
/// Names the place in the schema that cannot be mapped.
pub fn json_schema_to_arrow(json_schema: &str) -> Result<SchemaRef, String> {
    let document: Value = serde_json::from_str(json_schema).map_err(|e| format!("not a JSON Schema: {e}"))?;
    let mut mapping = Mapping { document: &document, fields: 0 };
    match mapping.map(&document, "#", 0)? {
        (DataType::Struct(fields), _) => Ok(Arc::new(Schema::new(fields))),
        (other, _) => Err(format!("#: the root must be an object with properties, found {other}")),
    }
}

/// The type of an instant throughout the product.
fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

struct Mapping<'a> {
    document: &'a Value,
    fields: usize,
}

impl<'a> Mapping<'a> {
    /// The Arrow type of a schema, and whether it allows null.
    fn map(&mut self, schema: &'a Value, place: &str, depth: usize) -> Result<(DataType, bool), String> {
        self.fields += 1;
        if depth > MAX_SCHEMA_DEPTH || self.fields > MAX_FIELDS {
            return Err(format!("{place}: the schema is recursive or too large ({MAX_SCHEMA_DEPTH} levels, {MAX_FIELDS} fields)"));
        }
        if let Some(reference) = schema.get("$ref") {
            let target = reference.as_str().and_then(|r| r.strip_prefix('#')).and_then(|p| self.document.pointer(p));
            let target = target.ok_or_else(|| format!("{place}: $ref must point into the same document, found {reference}"))?;
            return self.map(target, place, depth + 1);
        }
        if let Some(choices) = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)) {
            return self.choice(choices, place, depth);
        }
        let (name, nullable) = type_name(schema, place)?;
        let data_type = match name {
            "null" => DataType::Null,
            "boolean" => DataType::Boolean,
            "integer" => DataType::Int64,
            "number" => DataType::Float64,
            "string" => string_type(schema),
            "array" => {
                let items = schema.get("items").ok_or_else(|| format!("{place}: an array needs `items`"))?;
                let (item, nullable) = self.map(items, &format!("{place}/items"), depth + 1)?;
                DataType::List(Arc::new(Field::new("item", item, nullable)))
            }
            "object" => self.object(schema, place, depth)?,
            other => return Err(format!("{place}: unknown type `{}`", other.escape_debug())),
        };
        Ok((data_type, nullable))
    }

    /// A choice between null and one other type.
    fn choice(&mut self, choices: &'a Value, place: &str, depth: usize) -> Result<(DataType, bool), String> {
        let choices = choices.as_array().map(Vec::as_slice).unwrap_or_default();
        let is_null = |choice: &&'a Value| choice.get("type").and_then(Value::as_str) == Some("null");
        let nullable = choices.iter().any(|c| is_null(&c));
        let mut others = choices.iter().filter(|c| !is_null(c));
        match (others.next(), others.next()) {
            (Some(only), None) => {
                let (data_type, inner) = self.map(only, place, depth + 1)?;
                Ok((data_type, inner || nullable))
            }
            _ => Err(format!("{place}: oneOf and anyOf can be mapped only for null and one other type")),
        }
    }

    fn object(&mut self, schema: &'a Value, place: &str, depth: usize) -> Result<DataType, String> {
        let properties = schema.get("properties").and_then(Value::as_object).filter(|p| !p.is_empty());
        let Some(properties) = properties else {
            let values = schema.get("additionalProperties").filter(|v| v.is_object());
            let values = values.ok_or_else(|| format!("{place}: an object needs `properties`, or a schema in `additionalProperties`"))?;
            let (value, nullable) = self.map(values, &format!("{place}/additionalProperties"), depth + 1)?;
            let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, nullable)]);
            return Ok(DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false));
        };
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields = Vec::with_capacity(properties.len());
        for (name, property) in properties {
            let (data_type, nullable) = self.map(property, &format!("{place}/properties/{name}"), depth + 1)?;
            fields.push(Field::new(name, data_type, nullable || !required.contains(&name.as_str())));
        }
        Ok(DataType::Struct(fields.into()))
    }
}

/// The one type that is not null, and whether null is allowed.
fn type_name<'a>(schema: &'a Value, place: &str) -> Result<(&'a str, bool), String> {
    match schema.get("type") {
        Some(Value::String(name)) => Ok((name, name == "null")),
        Some(Value::Array(names)) => {
            let nullable = names.iter().any(|n| n == "null");
            let mut others = names.iter().filter_map(Value::as_str).filter(|n| *n != "null");
            match (others.next(), others.next()) {
                (Some(name), None) => Ok((name, nullable)),
                (None, _) if nullable => Ok(("null", true)),
                _ => Err(format!("{place}: `type` must name one type besides null")),
            }
        }
        Some(_) => Err(format!("{place}: `type` must be a name or a list of names")),
        None if schema.get("properties").is_some() => Ok(("object", false)),
        None => match schema.get("enum").or_else(|| schema.get("const")) {
            Some(Value::Array(values)) if values.iter().all(Value::is_string) => Ok(("string", false)),
            Some(Value::String(_)) => Ok(("string", false)),
            _ => Err(format!("{place}: `type` is missing")),
        },
    }
}

fn string_type(schema: &Value) -> DataType {
    let keyword = |key: &str| schema.get(key).and_then(Value::as_str);
    match (keyword("format"), keyword("contentEncoding")) {
        (Some("date-time"), _) => timestamp(),
        (Some("date"), _) => DataType::Date32,
        (_, Some("base64")) => DataType::Binary,
        _ => DataType::Utf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_envelope_is_mapped() {
        let schema = json_schema_to_arrow(
            r##"{"type":"object","required":["eventId","timestamp","data"],
                "properties":{"eventId":{"type":"string","format":"uuid"},"timestamp":{"type":"string","format":"date-time"},
                  "data":{"$ref":"#/$defs/order"},"labels":{"type":"object","additionalProperties":{"type":"string"}}},
                "$defs":{"order":{"type":"object","required":["total"],"properties":{"total":{"type":"number"},
                  "quantities":{"type":"array","items":{"type":"integer"}},"note":{"oneOf":[{"type":"null"},{"type":"string"}]}}}}}"##,
        )
        .unwrap();
        let field = |name: &str| schema.field_with_name(name).unwrap().clone();
        assert_eq!(field("eventId"), Field::new("eventId", DataType::Utf8, false));
        assert_eq!(field("timestamp"), Field::new("timestamp", timestamp(), false));
        assert!(matches!(field("labels").data_type(), DataType::Map(..)) && field("labels").is_nullable());
        let DataType::Struct(data) = field("data").data_type().clone() else { panic!("not a struct") };
        let inner = |name: &str| data.iter().find(|f| f.name() == name).unwrap().as_ref().clone();
        assert_eq!(inner("total"), Field::new("total", DataType::Float64, false));
        assert_eq!(inner("note"), Field::new("note", DataType::Utf8, true));
        assert_eq!(inner("quantities").data_type(), &DataType::List(Arc::new(Field::new("item", DataType::Int64, false))));
    }

    #[test]
    fn open_recursive_and_exploding_schemas_are_refused() {
        for (schema, cause) in [
            (r#"{"type":"string"}"#, "root must be an object"),
            (r#"{"properties":{"a":{}}}"#, "#/properties/a: `type` is missing"),
            (r#"{"properties":{"a":{"anyOf":[{"type":"string"},{"type":"integer"}]}}}"#, "#/properties/a"),
            (r##"{"properties":{"a":{"$ref":"#"}}}"##, "recursive"),
            (r##"{"properties":{"a":{"$ref":"other.json"}}}"##, "same document"),
            (r#"{"properties":{"a":{"type":"object"}}}"#, "needs `properties`"),
            ("nonsense", "not a JSON Schema"),
        ] {
            let error = json_schema_to_arrow(schema).unwrap_err();
            assert!(error.contains(cause), "{schema}: {error}");
        }
        let doubling: String = (0..40)
            .map(|i| format!(r##""d{i}":{{"properties":{{"a":{{"$ref":"#/$defs/d{n}"}},"b":{{"$ref":"#/$defs/d{n}"}}}}}},"##, n = i + 1))
            .collect();
        let bomb = format!(r##"{{"properties":{{"x":{{"$ref":"#/$defs/d0"}}}},"$defs":{{{doubling}"d40":{{"type":"string"}}}}}}"##);
        assert!(json_schema_to_arrow(&bomb).unwrap_err().contains("too large"));
    }
}
