//! Personal data in samples: which fields hold some, and what stands in for their values.

use arrow::datatypes::{DataType, Fields};
use headwater_engine::pipeline::Declared;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// There is a field at this path, through lists and maps.
pub(super) fn exists(fields: &Fields, path: &[String]) -> bool {
    fn inside(data_type: &DataType, path: &[String]) -> bool {
        match data_type {
            _ if path.is_empty() => true,
            DataType::Struct(fields) => exists(fields, path),
            DataType::List(item) | DataType::Map(item, _) => inside(item.data_type(), path),
            _ => false,
        }
    }
    let Some((first, rest)) = path.split_first() else { return false };
    fields.iter().any(|f| f.name() == first && inside(f.data_type(), rest))
}

/// Declared columns whose type ends in ` pii`.
pub(super) fn declared(columns: Option<&Declared>, path: Vec<String>, out: &mut Vec<Vec<String>>) {
    match columns {
        Some(Declared::Type(text)) if Declared::is_private(text) => out.push(path),
        Some(Declared::List(items)) => items.iter().for_each(|item| declared(Some(item), path.clone(), out)),
        Some(Declared::Record(fields)) => {
            for (name, of) in fields {
                declared(Some(of), path.iter().cloned().chain([name.clone()]).collect(), out);
            }
        }
        _ => {}
    }
}

/// The mask of a text: of the same kind, so that the case stays readable.
pub(super) fn masked(text: &str, salt: &str) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update([0]).chain_update(text).finalize();
    if uuid::Uuid::parse_str(text).is_ok() {
        let bytes: [u8; 16] = std::array::from_fn(|n| digest.get(n).copied().unwrap_or_default());
        return uuid::Builder::from_random_bytes(bytes).into_uuid().to_string();
    }
    if chrono::DateTime::parse_from_rfc3339(text).is_ok() {
        return "1970-01-01T00:00:00.000Z".into();
    }
    if chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok() {
        return "1970-01-01".into();
    }
    format!("masked-{}", digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Masks what is at a path, through lists. Equal values stay equal, so that joins and groups keep their meaning.
pub(super) fn mask(value: &mut Value, path: &[String], salt: &str, told: &mut dyn FnMut(&str, &str)) {
    match (value, path) {
        (Value::Array(items), path) => items.iter_mut().for_each(|item| mask(item, path, salt, told)),
        (Value::Object(members), [first, rest @ ..]) => match members.get_mut(first) {
            Some(member) => mask(member, rest, salt, told),
            // The keys of a map, or the branches of a union, are not part of a path.
            None => members.values_mut().for_each(|member| mask(member, path, salt, told)),
        },
        (Value::Object(members), []) => members.values_mut().for_each(|member| mask(member, &[], salt, told)),
        (value @ Value::String(_), []) => {
            let old = value.as_str().unwrap_or_default().to_string();
            let new = masked(&old, salt);
            told(&old, &new);
            *value = Value::String(new);
        }
        (value @ Value::Number(_), []) => {
            told(&value.to_string(), "0");
            *value = Value::from(0);
        }
        (value @ Value::Bool(_), []) => *value = Value::Bool(false),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_marked_is_masked_and_equal_values_stay_equal() {
        let path = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
        let private = [path(&["email"]), path(&["people", "age"]), path(&["people", "phone"])];
        let mut map = json!({"others": {"work": {"street": "A 1"}, "club": {"street": "B 2"}}});
        mask(&mut map, &["others".into(), "street".into()], "salt", &mut |_, _| {});
        assert!(!map.to_string().contains("A 1") && !map.to_string().contains("B 2"), "{map}");
        assert_eq!(masked("2001-02-03", "salt"), "1970-01-01");
        assert!(uuid::Uuid::parse_str(&masked("00000000-0000-4000-8000-000000000001", "salt")).is_ok());
        let mut value = json!({"id": "1", "email": "a@x", "people": [{"phone": "a@x", "age": 40}, {"phone": null, "age": 3}]});
        let mut key = "a@x".to_string();
        for path in &private {
            mask(&mut value, path, "salt", &mut |old, new| {
                if key == old {
                    key = new.to_string();
                }
            });
        }
        let text = value.to_string();
        assert!(!text.contains("a@x") && !text.contains("40"), "{text}");
        assert_eq!(value["email"], value["people"][0]["phone"]);
        assert_eq!(
            (value["id"].as_str(), value["people"][1]["phone"].is_null(), value["email"].as_str()),
            (Some("1"), true, Some(key.as_str()))
        );
        let mut other = json!({"email": "a@x"});
        mask(&mut other, &["email".into()], "another salt", &mut |_, _| {});
        assert_ne!(other["email"], value["email"]);
    }

    #[test]
    fn declared_columns_can_be_marked_too() {
        let columns: Declared = serde_json::from_value(json!({"id": "string", "name": "string? pii", "tags": ["string pii"]})).unwrap();
        let mut private = Vec::new();
        declared(Some(&columns), vec!["data".into()], &mut private);
        assert_eq!(private, [["data", "name"], ["data", "tags"]]);
    }
}
