//! Values of the configuration that can be written in several forms, or whose order counts.

use std::borrow::Cow;
use std::fmt;

use operator_expr::NamedSql;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::spec::Step;

/// An event: its type, or its type and columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub event: String,
    pub with: NamedSql,
}

/// Names: one, or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(pub Vec<String>);

/// Steps by name, in the order of the file.
#[derive(Clone, Debug)]
pub struct Steps(pub Vec<(String, Step)>);

impl<'de> Deserialize<'de> for Types {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Types, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Types;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a list of names")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Types, E> {
                Ok(Types(vec![name.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Types, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Types)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<End, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            event: String,
            #[serde(default)]
            with: NamedSql,
        }

        struct NameOrWhole;
        impl<'de> Visitor<'de> for NameOrWhole {
            type Value = End;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event type, or `{ event: orders.cancelled, with: { .. } }`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<End, E> {
                Ok(End { event: name.to_string(), with: NamedSql::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<End, A::Error> {
                let Whole { event, with } = Whole::deserialize(MapAccessDeserializer::new(map))?;
                Ok(End { event, with })
            }
        }
        deserializer.deserialize_any(NameOrWhole)
    }
}

impl<'de> Deserialize<'de> for Steps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Steps, D::Error> {
        struct Named;
        impl<'de> Visitor<'de> for Named {
            type Value = Steps;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("steps by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Steps, A::Error> {
                let mut steps: Vec<(String, Step)> = Vec::new();
                while let Some((name, step)) = map.next_entry::<String, Step>()? {
                    if steps.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format!("duplicate step `{name}`")));
                    }
                    steps.push((name, step));
                }
                Ok(Steps(steps))
            }
        }
        deserializer.deserialize_map(Named)
    }
}

impl JsonSchema for Types {
    fn schema_name() -> Cow<'static, str> {
        "Types".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            "x-type": "name or list"
        })
    }
}

impl JsonSchema for End {
    fn schema_name() -> Cow<'static, str> {
        "End".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let with = generator.subschema_for::<NamedSql>();
        json_schema!({
            "anyOf": [
                { "type": "string", "description": "An event type." },
                {
                    "type": "object",
                    "properties": { "event": { "type": "string", "description": "The event type." }, "with": with },
                    "required": ["event"],
                    "additionalProperties": false
                }
            ],
            "x-type": "event",
            "examples": ["orders.confirmed", { "event": "orders.cancelled", "with": { "customer_id": "customer_id" } }]
        })
    }
}

impl JsonSchema for Steps {
    fn schema_name() -> Cow<'static, str> {
        "Steps".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let step = generator.subschema_for::<Step>();
        json_schema!({ "type": "object", "x-type": "map of steps", "additionalProperties": step, "minProperties": 1 })
    }
}
