//! SQL text, and names of columns, as they are written in YAML.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A SQL expression as a YAML value. `1`, `0.5`, `true` and `null` are YAML numbers, booleans and null before they are
/// SQL, so those are taken as the text they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql(pub String);

impl Sql {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

struct SqlVisitor;

impl Visitor<'_> for SqlVisitor {
    type Value = Sql;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SQL expression such as `revenue > 1000`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Sql, E> {
        Ok(Sql(text.to_string()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Sql, E> {
        Ok(Sql(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Sql, E> {
        Ok(Sql(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Sql, E> {
        Ok(Sql(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Sql, E> {
        Ok(Sql(value.to_string()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Sql, E> {
        Err(E::custom(
            "the expression is missing: in `{ .. }` a comma ends a value, so quote an expression that contains commas; \
             SQL's NULL needs a type: `CAST(NULL AS VARCHAR)`",
        ))
    }
}

impl<'de> Deserialize<'de> for Sql {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Sql, D::Error> {
        d.deserialize_any(SqlVisitor)
    }
}

impl JsonSchema for Sql {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sql".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number", "boolean"],
            "x-type": "SQL",
            "format": "sql",
            "description": "A SQL expression over the columns of the step's input. Names are case-sensitive; fields are \
                            written with dots (`data.total`), texts in single quotes.",
            "examples": ["data.total > 0 AND data.currency IS NOT NULL", "quantity * unit_price"]
        })
    }
}

/// Names and their expressions, in the order they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedSql(pub Vec<(String, Sql)>);

impl NamedSql {
    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, sql)| (name.as_str(), sql.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = NamedSql;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names with a SQL expression each, such as `revenue: quantity * price`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NamedSql, A::Error> {
        let mut named: Vec<(String, Sql)> = Vec::new();
        while let Some((name, sql)) = map.next_entry::<String, Sql>()? {
            if named.iter().any(|(known, _)| *known == name) {
                return Err(de::Error::custom(format!("duplicate name `{name}`")));
            }
            named.push((name, sql));
        }
        Ok(NamedSql(named))
    }
}

impl<'de> Deserialize<'de> for NamedSql {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<NamedSql, D::Error> {
        d.deserialize_map(NamedVisitor)
    }
}

impl JsonSchema for NamedSql {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NamedSql".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sql = generator.subschema_for::<Sql>();
        json_schema!({
            "type": "object",
            "x-type": "map of SQL",
            "description": "Names with a SQL expression each; the order is kept.",
            "additionalProperties": sql
        })
    }
}

/// Columns by name: one, or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    pub columns: Vec<String>,
    /// It was written as a list, which places in findings have.
    pub list: bool,
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Columns, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column such as `eventId`, or a list of columns")
            }

            fn visit_str<E: de::Error>(self, column: &str) -> Result<Columns, E> {
                Ok(Columns { columns: vec![column.to_string()], list: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Columns, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = seq.next_element()? {
                    columns.push(column);
                }
                Ok(Columns { columns, list: true })
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Columns {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Columns".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "type": "string", "description": "A column." },
                { "type": "array", "items": { "type": "string" }, "minItems": 1, "description": "Columns." }
            ]
        })
    }
}
