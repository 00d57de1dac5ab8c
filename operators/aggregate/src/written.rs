//! Values of the configuration that can be written in more than one form.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use operator_expr::{NamedSql, Sql};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Names with a value each, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named(Vec::new())
    }
}

impl<T> Named<T> {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<T>, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names with a value each")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut named: Vec<(String, T)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if named.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format!("duplicate name `{name}`")));
                    }
                    named.push((name, value));
                }
                Ok(Named(named))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

/// The type of a column, and what it is at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub data_type: String,
    pub nullable: bool,
    /// An expression without columns.
    pub default: Option<String>,
}

impl<'de> Deserialize<'de> for Declared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Declared, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (of, default) = text.split_once('=').map_or((text.as_str(), None), |(of, default)| (of, Some(default.trim().to_string())));
        let (of, nullable) = of.trim().strip_suffix('?').map_or((of.trim(), false), |of| (of.trim_end(), true));
        Ok(Declared { data_type: of.to_string(), nullable, default })
    }
}

impl JsonSchema for Declared {
    fn schema_name() -> Cow<'static, str> {
        "DeclaredColumn".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "x-type": "type = default",
            "description": "A type as in a source's `schema`, such as `long`; `?` behind it allows null; `= 0` is the value at first.",
            "examples": ["long = 0", "string?", "decimal(12,2) = 0"]
        })
    }
}

/// The rules of a command: one, or a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// They were written as a list, which places in findings have.
    pub list: bool,
}

/// What a command leads to, if `when` is true and no rule before decides: exactly one of `emit`, `reply` and `reject`.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A condition; without it the rule decides always.
    #[serde(default)]
    pub when: Option<Sql>,
    /// The event that happened, or a list of events: `[{ type: order.paid, with: { .. } }]`. All are computed from the state before the
    /// command; `apply` sees each after the one before.
    #[serde(default)]
    pub emit: Option<Emit>,
    /// An event that is said on the port `replies`, because it happened before: nothing changes.
    #[serde(default)]
    pub reply: Option<String>,
    /// Why the command is rejected: a word, which the rejection has as `reason`.
    #[serde(default)]
    pub reject: Option<String>,
    /// Columns of the event, the reply or the rejection, beside those of the key.
    #[serde(default)]
    pub with: NamedSql,
}

/// The events that a rule emits.
#[derive(Clone, Debug, PartialEq)]
pub enum Emit {
    /// A type of events; its columns are those of the rule's `with`.
    One(String),
    Several(Vec<Emitted>),
}

/// One of several events.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Emitted {
    /// The type of the event.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its columns, beside those of the key.
    #[serde(default)]
    pub with: NamedSql,
}

/// What an event does to a column of the state, or to an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The column's new value; of a collection `delete`: the entry is gone.
    Value(Sql),
    /// The new values of an entry's columns, which is made if it is not there. Others stay as they are.
    Entry(NamedSql),
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rules, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Rules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of rules such as `{ when: .., emit: .. }`, or one rule")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rules, A::Error> {
                Ok(Rules { rules: vec![Rule::deserialize(MapAccessDeserializer::new(map))?], list: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Rules, A::Error> {
                Ok(Rules { rules: Vec::deserialize(SeqAccessDeserializer::new(list))?, list: true })
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Rules {
    fn schema_name() -> Cow<'static, str> {
        "Rules".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rule = generator.subschema_for::<Rule>();
        json_schema!({ "anyOf": [{ "type": "array", "items": rule }, rule] })
    }
}

impl<'de> Deserialize<'de> for Emit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Emit, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Emit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type of events, or a list such as `[{ type: order.paid, with: { amount: data.amount } }]`")
            }

            fn visit_str<E: de::Error>(self, kind: &str) -> Result<Emit, E> {
                Ok(Emit::One(kind.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Emit, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Emit::Several)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Emit {
    fn schema_name() -> Cow<'static, str> {
        "Emit".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Emitted>();
        json_schema!({ "anyOf": [{ "type": "string", "description": "A type of events." }, { "type": "array", "items": one }] })
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Change, D::Error> {
        struct ValueOrEntry;
        impl<'de> Visitor<'de> for ValueOrEntry {
            type Value = Change;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression such as `state.total + data.amount`, `delete`, or columns of an entry with an expression each")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Change, E> {
                Ok(Change::Value(Sql(text.to_string())))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Change, E> {
                Ok(Change::Value(Sql(value.to_string())))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Change, E> {
                Ok(Change::Value(Sql(value.to_string())))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Change, E> {
                Ok(Change::Value(Sql(value.to_string())))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Change, E> {
                Ok(Change::Value(Sql(value.to_string())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Change, A::Error> {
                NamedSql::deserialize(MapAccessDeserializer::new(map)).map(Change::Entry)
            }
        }
        deserializer.deserialize_any(ValueOrEntry)
    }
}

impl JsonSchema for Change {
    fn schema_name() -> Cow<'static, str> {
        "Change".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (value, entry) = (generator.subschema_for::<Sql>(), generator.subschema_for::<NamedSql>());
        json_schema!({ "anyOf": [value, entry] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_declared_with_a_type_and_a_default() {
        let of = |text: &str| serde_json::from_str::<Declared>(&format!("{text:?}")).unwrap();
        let declared = |data_type: &str, nullable, default: Option<&str>| Declared {
            data_type: data_type.into(),
            nullable,
            default: default.map(str::to_string),
        };
        assert_eq!(of("long = 0"), declared("long", false, Some("0")));
        assert_eq!(of("decimal(12,2)? = 1.5"), declared("decimal(12,2)", true, Some("1.5")));
        assert_eq!(of(" string ? "), declared("string", true, None));
    }

    #[test]
    fn names_keep_their_order_and_come_once() {
        let named = serde_json::from_str::<Named<Declared>>(r#"{"b":"long = 0","a":"int?"}"#).unwrap();
        assert_eq!(named.names().collect::<Vec<_>>(), ["b", "a"]);
        assert!(serde_json::from_str::<Named<Declared>>(r#"{"b":"long?","b":"int?"}"#).is_err());
    }

    #[test]
    fn rules_events_and_changes_have_several_forms() {
        let rules = |json: &str| serde_json::from_str::<Rules>(json).unwrap();
        assert_eq!(rules(r#"{"emit":"a"}"#).rules, rules(r#"[{"emit":"a"}]"#).rules);
        let several = rules(r#"[{"when":true,"emit":[{"type":"a","with":{"n":1}},{"type":"b"}]}]"#);
        assert!(matches!(&several.rules[0].emit, Some(Emit::Several(events)) if events.len() == 2));
        let changes = serde_json::from_str::<Named<Change>>(r#"{"n":1,"ok":true,"e":{"x":"data.x"},"gone":"delete"}"#).unwrap();
        assert!(matches!(&changes.0[2].1, Change::Entry(columns) if columns.iter().count() == 1));
        assert_eq!(changes.0[0].1, Change::Value(Sql("1".into())));
    }
}
