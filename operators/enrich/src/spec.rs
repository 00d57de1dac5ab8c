//! The `enrich` step as written in YAML.

use std::borrow::Cow;
use std::fmt;

use operator_core::{Diagnostic, PlanCx, Planned, Spec};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};

/// Adds columns of tables to every row: one join, or a list of joins that are executed in order.
#[derive(Clone, Debug, Default)]
pub struct Enrich {
    pub joins: Vec<Join>,
    /// A list was written: places of findings have the join's number in front.
    pub(crate) listed: bool,
}

/// Looks up one row of a table for every row, and adds columns of it.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Name of the table, from `tables:`.
    pub table: String,
    /// The key to look up: a column, a path such as `data.sku`, or an SQL expression. It is compared with the table's
    /// record key; a number also finds its row in a table with text keys. For a key of several columns a list, in their order.
    pub on: On,
    /// The columns to add: a list of the table's columns, or new names with the table's column each. May be empty where
    /// `missing` is `drop` or `dead_letter`: the step then only checks whether a row exists.
    pub add: Added,
    /// Which version of the table's row is used.
    #[serde(default)]
    pub as_of: AsOf,
    /// What happens to rows for which the table has no row.
    #[serde(default)]
    pub missing: Missing,
    /// Prefix for the name of every added column.
    #[serde(default)]
    pub prefix: String,
}

/// The key to look up: one expression, or one for each column of the table's key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected an expression, or a list of expressions such as `[tenant, data.sku]`")]
pub enum On {
    One(String),
    Several(Vec<String>),
}

impl On {
    /// The expressions, in the order of the key's columns.
    pub fn expressions(&self) -> &[String] {
        match self {
            On::One(expression) => std::slice::from_ref(expression),
            On::Several(expressions) => expressions,
        }
    }

    /// The path of an expression within the join.
    pub(crate) fn place(&self, number: usize) -> Vec<String> {
        match self {
            On::One(_) => vec!["on".into()],
            On::Several(_) => vec!["on".into(), number.to_string()],
        }
    }
}

/// Which version of the table's row is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AsOf {
    /// The newest version read so far.
    #[default]
    Latest,
    /// The version valid at the row's event time, as far back as the table's history is kept.
    EventTime,
}

/// What happens to rows for which the table has no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// They are kept with nulls in the added columns (a left join).
    #[default]
    Keep,
    /// They are dropped and counted as filtered (an inner join).
    Drop,
    /// They go to the dead-letter topic, with the table and the key in the cause.
    DeadLetter,
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AsOf::Latest => "latest",
            AsOf::EventTime => "event_time",
        })
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Missing::Keep => "keep",
            Missing::Drop => "drop",
            Missing::DeadLetter => "dead_letter",
        })
    }
}

/// Added columns in the order they were written: name and column of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    pub columns: Vec<(String, String)>,
    /// `add` was a map, not a list.
    pub(crate) named: bool,
}

impl<'de> Deserialize<'de> for Added {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Added, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Added;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of the table's columns, or new names with a column of the table each")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Added, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = list.next_element::<String>()? {
                    columns.push((column.clone(), column));
                }
                Ok(Added { columns, named: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Added, A::Error> {
                let mut columns: Vec<(String, String)> = Vec::new();
                while let Some((name, column)) = map.next_entry::<String, String>()? {
                    if columns.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format!("`{name}` is added twice")));
                    }
                    columns.push((name, column));
                }
                Ok(Added { columns, named: true })
            }
        }
        deserializer.deserialize_any(InOrder)
    }
}

impl JsonSchema for Added {
    fn schema_name() -> Cow<'static, str> {
        "Added".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "array", "items": { "type": "string", "description": "A column of the table." } },
                { "type": "object", "additionalProperties": { "type": "string", "description": "A column of the table." } }
            ],
            "examples": [["category"], { "segment": "tier" }]
        })
    }
}

impl<'de> Deserialize<'de> for Enrich {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Enrich, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Enrich;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a join such as `{ table: products, on: product_id, add: [category] }`, or a list of joins")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Enrich, A::Error> {
                let mut joins = Vec::new();
                while let Some(join) = list.next_element()? {
                    joins.push(join);
                }
                Ok(Enrich { joins, listed: true })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Enrich, A::Error> {
                let join = Join::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Enrich { joins: vec![join], listed: false })
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Enrich {
    fn schema_name() -> Cow<'static, str> {
        "Enrich".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let join = generator.subschema_for::<Join>();
        json_schema!({
            "description": "Adds columns of tables to every row: one join, or a list of joins that are executed in order.",
            "anyOf": [join.clone(), { "type": "array", "minItems": 1, "items": join }]
        })
    }
}

impl Spec for Enrich {
    const KIND: &'static str = "enrich";
    const SUMMARY: &'static str =
        "Adds columns of a table (a compacted topic) to every row: the latest version, or the one valid at event time.";
    const EXAMPLE: &'static str = "\
steps:
  enriched:
    from: lines
    enrich:
      - { table: products, on: product_id, add: [category], missing: dead_letter }
      - { table: customers, on: customer_id, add: { segment: tier }, as_of: event_time }
";
    const EXAMPLE_INPUT: &'static str = "\
order_id: string
product_id: string
customer_id: long
";

    const REFUSES_CHANGES: Option<&'static str> = None;

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        crate::plan::plan(self, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_join_or_many_and_names_or_a_list() {
        let one: Enrich = serde_json::from_str(r#"{"table":"t","on":"id","add":["b","a"]}"#).unwrap();
        assert_eq!((one.joins.len(), one.listed), (1, false));
        assert_eq!((one.joins[0].as_of, one.joins[0].missing), (AsOf::Latest, Missing::Keep));
        let many: Enrich =
            serde_json::from_str(r#"[{"table":"t","on":"id","add":{"z":"b","a":"c"},"missing":"dead_letter","as_of":"event_time"}]"#)
                .unwrap();
        let names: Vec<&str> = many.joins[0].add.columns.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, many.listed, many.joins[0].as_of), (vec!["z", "a"], true, AsOf::EventTime));
    }

    #[test]
    fn says_what_is_wrong_with_the_shape() {
        for (text, problem) in [
            (r#""products""#, "a join such as"),
            (r#"{"table":"t","on":"id","add":"x"}"#, "a list of the table's columns"),
            (r#"{"table":"t","on":"id","add":[],"missing":"ignore"}"#, "unknown variant `ignore`"),
            (r#"[{"tabel":"t","on":"id","add":[]}]"#, "unknown field `tabel`"),
            (r#"{"table":"t","on":"id","add":{"a":"x","a":"y"}}"#, "`a` is added twice"),
            (r#"{"table":"t","add":[]}"#, "missing field `on`"),
        ] {
            let error = serde_json::from_str::<Enrich>(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn every_field_is_described() {
        let schema = schemars::schema_for!(Join);
        let properties = schema.get("properties").and_then(|p| p.as_object()).unwrap();
        assert_eq!(properties.len(), 6);
        for (name, property) in properties {
            assert!(property.get("description").is_some(), "{name}");
        }
        assert!(schemars::schema_for!(Enrich).get("anyOf").is_some());
    }
}
