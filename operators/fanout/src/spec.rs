//! The YAML of `fanout`, in its two forms.

use std::fmt;

use operator_expr::{NamedSql, Sql};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// To which routes a row goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// To the first whose condition is true.
    #[default]
    First,
    /// To all whose condition is true.
    All,
}

/// Routes rows to named outputs by SQL conditions: `{ match: all, routes: { big: total > 9, rest: default } }`, or
/// just the routes, with `match: first`: `{ big: total > 9, rest: default }`.
#[derive(Clone, Debug)]
pub struct Fanout {
    /// To which routes a row goes.
    pub matching: Match,
    /// The condition of each route, evaluated in order; `default` takes the rows that match no other route.
    pub routes: NamedSql,
    /// Only the routes were written: places in findings have no `routes`.
    pub short: bool,
}

/// A value in the map: a condition or the routes of the long form.
enum Value {
    Sql(Sql),
    Routes(NamedSql),
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SQL condition such as `revenue > 1000`, or `default`")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        NamedSql::deserialize(de::value::MapAccessDeserializer::new(map)).map(Value::Routes)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Sql(Sql(text.to_string())))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Sql(Sql(value.to_string())))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
        d.deserialize_any(ValueVisitor)
    }
}

struct FanoutVisitor;

impl<'de> Visitor<'de> for FanoutVisitor {
    type Value = Fanout;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("routes with a SQL condition each, such as `{ big: total > 9, rest: default }`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fanout, A::Error> {
        let mut matching: Option<Sql> = None;
        let mut long: Option<NamedSql> = None;
        let mut short: Vec<(String, Sql)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "match" {
                matching = Some(map.next_value()?);
                continue;
            }
            match map.next_value::<Value>()? {
                Value::Routes(routes) if name == "routes" => long = Some(routes),
                Value::Routes(_) => {
                    return Err(de::Error::custom(format!("the route `{name}` needs a SQL condition, or `default`")));
                }
                Value::Sql(_) if short.iter().any(|(known, _)| *known == name) => {
                    return Err(de::Error::custom(format!("duplicate route `{name}`")));
                }
                Value::Sql(sql) => short.push((name, sql)),
            }
        }
        // Nothing is left; reading on reports a map that says otherwise.
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        if let (Some(_), Some((name, _))) = (&long, short.first()) {
            return Err(de::Error::custom(format!("unknown field `{name}` beside `routes`, expected `match` or `routes`")));
        }
        let choice = match matching.as_ref().map(Sql::as_str) {
            None | Some("first") => Match::First,
            Some("all") => Match::All,
            Some(other) => return Err(de::Error::custom(format!("`match` is `first` or `all`, not `{other}`"))),
        };
        match (long, matching) {
            (Some(routes), _) => Ok(Fanout { matching: choice, routes, short: false }),
            (None, None) => Ok(Fanout { matching: choice, routes: NamedSql(short), short: true }),
            (None, Some(_)) => Err(de::Error::custom("with `match`, write the routes under `routes`")),
        }
    }
}

impl<'de> Deserialize<'de> for Fanout {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Fanout, D::Error> {
        d.deserialize_map(FanoutVisitor)
    }
}

impl JsonSchema for Fanout {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fanout".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sql = generator.subschema_for::<Sql>();
        let routes = generator.subschema_for::<NamedSql>();
        let mut matching = generator.subschema_for::<Match>();
        matching.insert("default".into(), "first".into());
        json_schema!({
            "description": "Routes rows to named outputs by SQL conditions. Each route is an output: `step.route`.",
            "anyOf": [
                {
                    "type": "object",
                    "description": "Whether a row goes to the first matching route or to all, and the routes.",
                    "properties": {
                        "match": matching,
                        "routes": routes
                    },
                    "required": ["routes"],
                    "additionalProperties": false
                },
                {
                    "type": "object",
                    "description": "Only the routes: a row goes to the first whose condition is true. `default` takes the rest.",
                    "properties": { "routes": false, "match": false },
                    "additionalProperties": sql
                }
            ]
        })
    }
}
