//! Steps as written: where rows come from, and one operator.

use operator_core::diagnostic::closest;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeSeed;

use super::{Names, OnError};

/// What a step reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// One input, of one stream or of several that are read as one.
    Only(Names),
    /// An input for each name, in the order of the file.
    Named(Vec<(String, Names)>),
}

impl From {
    /// All streams.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (only, named) = match self {
            From::Only(names) => (Some(names), [].as_slice()),
            From::Named(inputs) => (None, inputs.as_slice()),
        };
        only.into_iter().chain(named.iter().map(|(_, names)| names)).flat_map(Names::iter)
    }
}

// By hand: an untagged enum would not know the location of an error in it.
impl<'de> Deserialize<'de> for From {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<From, D::Error> {
        struct FromVisitor;
        impl<'de> serde::de::Visitor<'de> for FromVisitor {
            type Value = From;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name, a list of names such as `[orders, routed.big]`, or inputs such as `{ left: orders, right: payments }`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<From, E> {
                Ok(From::Only(Names::One(name.to_string())))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<From, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(|names| From::Only(Names::Many(names)))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<From, A::Error> {
                let mut inputs = Vec::new();
                while let Some(input) = map.next_entry()? {
                    inputs.push(input);
                }
                Ok(From::Named(inputs))
            }
        }
        d.deserialize_any(FromVisitor)
    }
}

/// A step: where its rows come from and one operator.
#[derive(Clone, Debug)]
pub struct Step {
    pub from: From,
    /// `None`: not decided, which is an error where a cast can fail.
    pub on_error: Option<OnError>,
    /// The name that it had when its topics were created, if it was renamed: they are still called by it.
    pub was: Option<String>,
    /// The operator's key, such as `filter`. Its configuration is read from the tree once the operator is known.
    pub kind: String,
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Step, D::Error> {
        struct StepVisitor;
        impl<'de> serde::de::Visitor<'de> for StepVisitor {
            type Value = Step;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a step: `from` and one operator")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Step, A::Error> {
                let (mut from, mut on_error, mut was, mut operator) = (None, None, None, None);
                while let Some(key) = map.next_key_seed(StepKey { operator: operator.as_deref() })? {
                    match key.as_str() {
                        "from" => from = Some(map.next_value()?),
                        "on_error" => on_error = Some(map.next_value()?),
                        "was" => was = Some(map.next_value()?),
                        _ => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                            operator = Some(key);
                        }
                    }
                }
                let from = from.ok_or_else(|| serde::de::Error::missing_field("from"))?;
                let kind = operator.ok_or_else(|| serde::de::Error::custom("this step has no operator (filter, map, ...)"))?;
                Ok(Step { from, on_error, was, kind })
            }
        }
        d.deserialize_map(StepVisitor)
    }
}

/// Reads a key of a step, after those that were read: a refusal then knows the place of the key.
struct StepKey<'a> {
    operator: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for StepKey<'_> {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        const OWN: [&str; 3] = ["from", "on_error", "was"];
        let key = String::deserialize(d)?;
        match self.operator {
            _ if OWN.contains(&key.as_str()) => Ok(key),
            _ if closest(&key, OWN).is_some() => Err(serde::de::Error::unknown_field(&key, &OWN)),
            None => Ok(key),
            Some(first) => Err(serde::de::Error::custom(format!(
                "a step has one operator, this one has `{first}` and `{key}`: split it into two steps"
            ))),
        }
    }
}

impl JsonSchema for Step {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Step".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // The registry of operators adds one property per kind (`hw schema`).
        schemars::json_schema!({ "type": "object", "required": ["from"] })
    }
}
