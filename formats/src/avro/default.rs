//! Default values of fields: JSON in the schema, Avro's encoding when they are used.

use apache_avro::Schema;
use serde_json::Value;

use super::schema::{AvroSchema, Layout, default_of, layout, type_name};
use super::wire::write_long;
use crate::number::parse_decimal;

/// Defaults nested deeper than this are refused; a record that contains itself by default has no end.
const MAX_DEPTH: usize = 64;

/// Appends a default as the schema encodes it. For a union the default may be of any branch (Avro 1.12); the first that
/// fits is taken.
pub(crate) fn encode_default(names: &AvroSchema, json: &Value, schema: &Schema, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("the default is nested too deep".to_string());
    }
    let schema = names.resolve(schema)?;
    let wrong = || format!("the default is not a valid {}", type_name(schema));
    match schema {
        Schema::Union(union) => {
            for (index, branch) in union.variants().iter().enumerate() {
                let mut value = Vec::new();
                if encode_default(names, json, branch, &mut value, depth + 1).is_ok() {
                    write_long(index as i64, out);
                    out.extend_from_slice(&value);
                    return Ok(());
                }
            }
            return Err(wrong());
        }
        Schema::Record(record) => {
            let object = json.as_object().ok_or_else(wrong)?;
            for field in &record.fields {
                let value = object.get(&field.name).or_else(|| default_of(field)).ok_or_else(wrong)?;
                encode_default(names, value, &field.schema, out, depth + 1).map_err(|e| format!("{}: {e}", field.name))?;
            }
        }
        Schema::Array(array) => {
            let items = json.as_array().ok_or_else(wrong)?;
            write_count(items.len(), out);
            for item in items {
                encode_default(names, item, &array.items, out, depth + 1)?;
            }
            if !items.is_empty() {
                out.push(0);
            }
        }
        Schema::Map(map) => {
            let entries = json.as_object().ok_or_else(wrong)?;
            write_count(entries.len(), out);
            for (key, value) in entries {
                write_bytes(key.as_bytes(), out);
                encode_default(names, value, &map.types, out, depth + 1)?;
            }
            if !entries.is_empty() {
                out.push(0);
            }
        }
        Schema::Enum(symbols) => {
            let symbol = json.as_str().ok_or_else(wrong)?;
            let index = symbols.symbols.iter().position(|s| s == symbol).ok_or_else(wrong)?;
            write_long(index as i64, out);
        }
        scalar => encode_scalar(json, layout(scalar), out).ok_or_else(wrong)?,
    }
    Ok(())
}

fn encode_scalar(json: &Value, layout: Layout, out: &mut Vec<u8>) -> Option<()> {
    match layout {
        Layout::Null => json.as_null()?,
        Layout::Bool => out.push(u8::from(json.as_bool()?)),
        Layout::Int => write_long(i32::try_from(whole(json)?).ok()?.into(), out),
        Layout::Long => write_long(whole(json)?, out),
        Layout::Float => out.extend_from_slice(&(json.as_f64()? as f32).to_le_bytes()),
        Layout::Double => out.extend_from_slice(&json.as_f64()?.to_le_bytes()),
        Layout::Text => write_bytes(json.as_str()?.as_bytes(), out),
        Layout::Bytes => write_bytes(&latin1(json.as_str()?)?, out),
        Layout::Fixed(size) => out.extend_from_slice(&latin1(json.as_str()?).filter(|b| b.len() == size)?),
        _ => return None,
    }
    Some(())
}

/// A whole number, also as `3.0` or `3e0`.
fn whole(json: &Value) -> Option<i64> {
    let Value::Number(number) = json else { return None };
    i64::try_from(parse_decimal(number.to_string().as_bytes(), 38, 0).ok()?).ok()
}

/// Bytes in JSON defaults are written as the characters U+0000 to U+00FF.
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

fn write_count(count: usize, out: &mut Vec<u8>) {
    write_long(count as i64, out);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_count(bytes.len(), out);
    out.extend_from_slice(bytes);
}
