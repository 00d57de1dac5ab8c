//! Rows from JSON, for evaluating expressions: columns are declared, or inferred from the values.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use headwater_formats::{JsonDecoder, JsonEncoder, RowBuilder};
use operator_core::batch::is_system;
use operator_core::{parse_type, type_said};
use serde_json::Value;

/// Rows to evaluate expressions on.
pub type Rows = RecordBatch;

/// One row without columns.
pub fn one_empty() -> Rows {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)
        .unwrap_or_else(|_| RecordBatch::new_empty(Arc::new(Schema::empty())))
}

/// `id: string, total: decimal(12,2)?, items: [{ sku: string }]`.
///
/// # Errors
/// What can't be read.
pub fn declared(text: &str) -> Result<Schema, String> {
    let (mut fields, mut depth, mut part): (Vec<Field>, i32, String) = Default::default();
    for c in text.chars().chain([',']) {
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
        if c != ',' || depth > 0 {
            part.push(c);
            continue;
        }
        let (name, of) = part.split_once(':').ok_or_else(|| format!("`{}` is not `name: type`", part.trim()))?;
        let (name, of) = (name.trim().trim_matches('"'), of.trim().trim_matches('"'));
        if fields.iter().any(|field| field.name() == name) {
            return Err(format!("duplicate column `{name}`"));
        }
        let of = of.strip_suffix(" pii").unwrap_or(of).trim_end();
        let (of, nullable) = of.strip_suffix('?').map_or((of, false), |of| (of, true));
        fields.push(Field::new(name, declared_type(of)?, nullable));
        part.clear();
    }
    Ok(Schema::new(fields))
}

fn declared_type(text: &str) -> Result<DataType, String> {
    let text = text.trim();
    if let Some(item) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let (item, nullable) = item.trim().strip_suffix('?').map_or((item, false), |item| (item, true));
        return Ok(DataType::List(Arc::new(Field::new("item", declared_type(item)?, nullable))));
    }
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(fields) => Ok(DataType::Struct(declared(fields)?.fields)),
        None => parse_type(text.trim_matches('"')),
    }
}

/// The columns that hold all values.
///
/// # Errors
/// A value is not an object, or columns mix types.
pub fn inferred(values: &[Value]) -> Result<Schema, String> {
    if values.is_empty() {
        return Err("there are no rows".into());
    }
    if let Some(row) = values.iter().position(|value| !value.is_object()) {
        return Err(format!("row {} is no JSON object", row + 1));
    }
    match values.iter().try_fold(None, |known, value| join(known, kind(value)?))? {
        Some(Kind::Record(fields)) => Ok(Schema::new(record(&fields)?)),
        _ => Err("a row is a JSON object".into()),
    }
}

/// What values of a column have in common.
#[derive(Clone)]
enum Kind {
    Scalar(DataType),
    List(Box<Option<Kind>>),
    /// Columns in the order they were met first.
    Record(Vec<(String, Option<Kind>)>),
}

fn kind(value: &Value) -> Result<Option<Kind>, String> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Bool(_) => Kind::Scalar(DataType::Boolean),
        Value::Number(n) if n.is_i64() => Kind::Scalar(DataType::Int64),
        Value::Number(_) => Kind::Scalar(DataType::Float64),
        Value::String(text) => {
            let time = chrono::DateTime::parse_from_rfc3339(text).is_ok();
            Kind::Scalar(if time { operator_core::batch::time_type() } else { DataType::Utf8 })
        }
        Value::Array(items) => Kind::List(Box::new(items.iter().try_fold(None, |known, item| join(known, kind(item)?))?)),
        Value::Object(members) => {
            Kind::Record(members.iter().map(|(name, value)| Ok((name.clone(), kind(value)?))).collect::<Result<_, String>>()?)
        }
    }))
}

fn join(a: Option<Kind>, b: Option<Kind>) -> Result<Option<Kind>, String> {
    let (Some(a), Some(b)) = (a.clone(), b.clone()) else { return Ok(a.or(b)) };
    Ok(Some(match (a, b) {
        (Kind::Scalar(a), Kind::Scalar(b)) if a == b => Kind::Scalar(a),
        (Kind::Scalar(a), Kind::Scalar(b)) if a.is_numeric() && b.is_numeric() => Kind::Scalar(DataType::Float64),
        // Some texts look like times: then all are texts.
        (Kind::Scalar(a), Kind::Scalar(b)) if !a.is_numeric() && !b.is_numeric() && a != DataType::Boolean && b != DataType::Boolean => {
            Kind::Scalar(DataType::Utf8)
        }
        (Kind::List(a), Kind::List(b)) => Kind::List(Box::new(join(*a, *b)?)),
        (Kind::Record(mut a), Kind::Record(b)) => {
            for (name, kind) in b {
                match a.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = join(known.take(), kind).map_err(|e| format!("`{name}`: {e}"))?,
                    None => a.push((name, kind)),
                }
            }
            Kind::Record(a)
        }
        _ => return Err("a column mixes values of different types: give `--columns`".into()),
    }))
}

fn record(fields: &[(String, Option<Kind>)]) -> Result<Fields, String> {
    fields.iter().map(|(name, kind)| Ok(Arc::new(Field::new(name, data_type(kind.as_ref())?, true)))).collect()
}

fn data_type(kind: Option<&Kind>) -> Result<DataType, String> {
    Ok(match kind {
        // Nothing but nulls was seen.
        None => DataType::Utf8,
        Some(Kind::Scalar(of)) => of.clone(),
        Some(Kind::List(item)) => DataType::List(Arc::new(Field::new("item", data_type(item.as_ref().as_ref())?, true))),
        Some(Kind::Record(fields)) => DataType::Struct(record(fields)?),
    })
}

/// Values as rows of a schema, as a JSON source reads them, and why the others don't fit.
///
/// # Errors
/// The schema has a type that rows can't have.
pub fn decode(schema: &SchemaRef, values: &[Value]) -> Result<(Rows, Vec<String>), String> {
    let mut rows = RowBuilder::new(schema, values.len())?;
    let mut decoder = JsonDecoder::new(schema);
    let mut refused = Vec::new();
    for (n, value) in values.iter().enumerate() {
        if let Err(e) = decoder.decode(value.to_string().as_bytes(), &mut rows) {
            refused.push(format!("row {}: {e}", n + 1));
        }
    }
    Ok((rows.finish()?, refused))
}

/// Rows as JSON values.
pub fn json(batch: &RecordBatch) -> Result<Vec<Value>, String> {
    let encoder = JsonEncoder::new(&batch.schema());
    let json = encoder.batch(batch)?;
    let row = |row: usize| {
        let mut text = Vec::new();
        json.write(row, &mut text)?;
        serde_json::from_slice(&text).map_err(|e| e.to_string())
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The values of one column as a sink would write them; those that JSON has no form for (NaN, spans of time) as Arrow
/// prints them.
pub fn shown(values: &ArrayRef) -> Result<Vec<String>, String> {
    let schema = Arc::new(Schema::new(vec![Field::new("v", values.data_type().clone(), true)]));
    let member = |row: Value| row.get("v").cloned().unwrap_or_default().to_string();
    let shown = |row: usize| {
        let one = RecordBatch::try_new(schema.clone(), vec![values.slice(row, 1)]).map_err(|e| e.to_string())?;
        match json(&one) {
            Ok(rows) => Ok(rows.into_iter().map(member).collect()),
            Err(_) => array_value_to_string(values, row).map_err(|e| e.to_string()),
        }
    };
    (0..values.len()).map(shown).collect()
}

/// Columns and fields by path, with their types.
pub fn paths(schema: &Schema) -> Vec<(String, String)> {
    fn walk(fields: &Fields, before: &str, out: &mut Vec<(String, String)>) {
        for field in fields.iter().filter(|f| !is_system(f.name())) {
            let path = format!("{before}{}", field.name());
            let null = if field.is_nullable() { "?" } else { "" };
            out.push((path.clone(), format!("{}{null}", type_said(field.data_type()))));
            if let DataType::Struct(inner) = field.data_type() {
                walk(inner, &format!("{path}."), out);
            }
        }
    }
    let mut out = Vec::new();
    walk(schema.fields(), "", &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_told_from_values() {
        let values = [
            json!({"id": "a", "n": 1, "at": "2026-01-01T00:00:00Z", "x": null}),
            json!({"n": 1.5, "id": "b", "l": [1, null], "r": {"y": true}}),
        ];
        let schema = inferred(&values).unwrap();
        let shown: Vec<String> = paths(&schema).into_iter().map(|(path, of)| format!("{path} {of}")).collect();
        let expected = ["at timestamp?", "id string?", "n double?", "x string?", "l a list?", "r a record?", "r.y bool?"];
        assert_eq!(shown, expected);
        assert_eq!(decode(&Arc::new(schema), &values).unwrap().0.num_rows(), 2);
        assert!(inferred(&[json!({"a": 1}), json!({"a": "x"})]).is_err());
        assert!(inferred(&[json!(1)]).is_err());
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        let schema = Arc::new(declared("id: string, n: int").unwrap());
        let (rows, refused) = decode(&schema, &[json!({"id": "a", "n": 1}), json!({"id": "b"}), json!({"id": "c", "n": 3})]).unwrap();
        assert_eq!(json(&rows).unwrap(), [json!({"id": "a", "n": 1}), json!({"id": "c", "n": 3})]);
        assert!(refused.len() == 1 && refused[0].starts_with("row 2: "), "{refused:?}");
    }

    #[test]
    fn columns_are_declared_as_in_a_source() {
        let schema = declared("id: string, total: decimal(12,2)?").unwrap();
        assert_eq!(paths(&schema)[1], ("total".to_string(), "decimal(12,2)?".to_string()));
        let schema = declared("l: [long?], o: { a: \"decimal(12,2)\", b: [string]? }?").unwrap();
        let shown: Vec<String> = paths(&schema).into_iter().map(|(path, of)| format!("{path} {of}")).collect();
        assert_eq!(shown, ["l a list", "o a record?", "o.a decimal(12,2)", "o.b a list?"]);
        assert!(declared("a: int, a: long").unwrap_err().contains("duplicate column"));
        assert!(declared("id").is_err() && declared("id: text").is_err());
    }
}
