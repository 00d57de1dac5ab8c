//! The `join` step as written in YAML.

use std::borrow::Cow;
use std::fmt;

use operator_core::{Diagnostic, Interval, PlanCx, Planned, Spec};
use operator_expr::NamedSql;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::plan::SIDES;

/// Pairs rows of the inputs `left` and `right` that have equal keys: those of two streams if their event times are close to each other, those of
/// two streams of changes as long as both are there.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Which rows without a match come out, too.
    #[serde(default)]
    pub kind: Kind,
    /// The key: a column that both inputs have, a list of such columns, or the columns of each input:
    /// `{ left: order_id, right: data.orderId }`. A row with a null in its key matches nothing.
    pub on: On,
    /// How far apart in event time the two rows may be: `15m` either way, or `{ before: 5m, after: 1h }` if a row of `right`
    /// may be 5 minutes before to 1 hour after the row of `left`. The step keeps rows for about as long. Streams of changes have none: their
    /// rows stay until they are gone.
    #[serde(default)]
    pub within: Option<Within>,
    /// How late rows may come: a row is late if its event time is more than this before the watermark of its partition. Later
    /// rows go to the port `late`.
    #[serde(default)]
    pub lateness: Interval,
    /// The columns of the result, each a SQL expression over `left.column` and `right.column`. Without it the result has all
    /// columns of both; where both have a column of one name, these are called `left_name` and `right_name`.
    #[serde(default)]
    pub select: Option<NamedSql>,
}

/// Which rows without a match come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// None: the results are pairs only.
    #[default]
    Inner,
    /// Those of `left`, with nulls for `right`, once no row can match them any more.
    Left,
    /// Those of `right`, with nulls for `left`.
    Right,
    /// Those of both.
    Full,
}

impl Kind {
    /// Whether unmatched rows of `left` and of `right` come out.
    pub fn outer(self) -> [bool; 2] {
        [matches!(self, Kind::Left | Kind::Full), matches!(self, Kind::Right | Kind::Full)]
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Inner => "inner",
            Kind::Left => "left",
            Kind::Right => "right",
            Kind::Full => "full",
        })
    }
}

/// The columns of the key, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// Columns of these names in both inputs.
    Same(Columns),
    Each(Each),
}

/// A column or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(pub Vec<String>);

/// The columns of each input.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Each {
    /// The columns of `left`.
    pub left: Columns,
    /// The columns of `right` that they are equal to, in the same order.
    pub right: Columns,
}

/// How far apart the rows of a pair may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Within {
    /// How long before the row of `left` the row of `right` may be.
    pub before: Interval,
    /// How long after it.
    pub after: Interval,
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Columns, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column, or a list of columns")
            }

            fn visit_str<E: de::Error>(self, column: &str) -> Result<Columns, E> {
                Ok(Columns(vec![column.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Columns, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Columns)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl<'de> Deserialize<'de> for On {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<On, D::Error> {
        struct SameOrEach;
        impl<'de> Visitor<'de> for SameOrEach {
            type Value = On;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column, a list of columns, or `{ left: order_id, right: data.orderId }`")
            }

            fn visit_str<E: de::Error>(self, column: &str) -> Result<On, E> {
                Ok(On::Same(Columns(vec![column.to_string()])))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<On, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(|columns| On::Same(Columns(columns)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<On, A::Error> {
                Each::deserialize(MapAccessDeserializer::new(map)).map(On::Each)
            }
        }
        deserializer.deserialize_any(SameOrEach)
    }
}

impl<'de> Deserialize<'de> for Within {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Within, D::Error> {
        /// The two bounds.
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Bounds {
            #[serde(default)]
            before: Interval,
            #[serde(default)]
            after: Interval,
        }

        struct EitherWay;
        impl<'de> Visitor<'de> for EitherWay {
            type Value = Within;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as `15m`, or `{ before: 5m, after: 1h }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Within, E> {
                let span = text.parse().map_err(E::custom)?;
                Ok(Within { before: span, after: span })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Within, A::Error> {
                let Bounds { before, after } = Bounds::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Within { before, after })
            }
        }
        deserializer.deserialize_any(EitherWay)
    }
}

impl JsonSchema for Columns {
    fn schema_name() -> Cow<'static, str> {
        "Columns".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "description": "A column, or a path such as `data.orderId`." },
                { "type": "array", "minItems": 1, "items": { "type": "string" } }
            ]
        })
    }
}

impl JsonSchema for On {
    fn schema_name() -> Cow<'static, str> {
        "On".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (same, each) = (generator.subschema_for::<Columns>(), generator.subschema_for::<Each>());
        json_schema!({ "anyOf": [same, each], "examples": ["order_id", ["tenant", "order_id"], { "left": "order_id", "right": "data.orderId" }] })
    }
}

impl JsonSchema for Within {
    fn schema_name() -> Cow<'static, str> {
        "Within".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let span = generator.subschema_for::<Interval>();
        json_schema!({
            "anyOf": [
                span.clone(),
                { "type": "object", "properties": { "before": span.clone(), "after": span }, "additionalProperties": false }
            ],
            "examples": ["15m", { "before": "5m", "after": "1h" }]
        })
    }
}

impl Spec for Join {
    const KIND: &'static str = "join";
    const SUMMARY: &'static str = "Pairs rows of two streams that have equal keys and event times close to each other, or of two tables.";
    const EXAMPLE: &'static str = "\
steps:
  paid:
    from: { left: orders, right: payments }
    join:
      kind: left
      on: { left: order_id, right: data.orderId }
      within: { before: 5m, after: 1h }
      select:
        order_id: left.order_id
        total: left.total
        paid: right.data.amount
";
    const EXAMPLE_INPUT: &'static str = "\
[left]
order_id: string
total: decimal(12, 2)
[right]
data: struct<orderId: string, amount: decimal(12, 2)>
";
    const INPUTS: &'static [&'static str] = &SIDES;
    const REFUSES_CHANGES: Option<&'static str> = None;

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        crate::plan::plan(self, cx)
    }
}
