//! The `window` step as written in YAML.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use operator_core::duration::OrNever;
use operator_core::{Diagnostic, Interval, PlanCx, Planned, Spec};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// Groups rows by columns and time, and computes aggregates per group and window.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Length of windows that follow one another without a gap (`1m`: every row is in one window). Windows start at
    /// whole multiples of their length since 1970-01-01T00:00Z; `1w` is a week that begins on Monday, `1mo` a month, `3mo` a quarter,
    /// `1y` a year. One of this, `hopping`, `session` and `unbounded`.
    #[serde(default)]
    pub tumbling: Option<Length>,
    /// The time zone in which windows of whole days, weeks, months or years begin at midnight, such as `Europe/Berlin`. A day there has
    /// 23 or 25 hours when clocks change.
    #[serde(default)]
    pub zone: Option<String>,
    /// How long after their usual start windows begin, on the clock of `zone`: `tumbling: 1d, offset: 6h` are days from six to six.
    #[serde(default)]
    pub offset: Option<Interval>,
    /// Windows that overlap: every row is in `size / every` of them, so in 10 of `hopping: { size: 10m, every: 1m }`.
    #[serde(default)]
    pub hopping: Option<Hopping>,
    /// Windows that follow the rows: a session lasts until its group has had no row for `gap` of event time. `window_start` is the
    /// time of the first row, `window_end` that of the last one plus the gap.
    #[serde(default)]
    pub session: Option<Session>,
    /// `true`: one window for all time, for running totals such as stock or balances. It never closes, so that results
    /// come with `emit: on_update` or `changes` and no row is late; groups keep their state until they `expire`. Results have the
    /// event time of the row that changed them, and no `window_start` and `window_end`.
    #[serde(default)]
    pub unbounded: bool,
    /// For `unbounded` windows: a group that has had no row for this long (event time) is dropped; its next row starts a new one.
    /// `never` keeps every group forever. `hw lint` asks for one of the two.
    #[serde(default)]
    pub expire: Option<OrNever>,
    /// The columns to group by; a path such as `data.sku` reaches into a structure. Each becomes a column of the result,
    /// named by the last part of its path. `[]` puts all rows into one group, which then lives in one partition.
    pub by: Vec<String>,
    /// The columns to compute: a name, and an aggregate of SQL expressions over the rows of the window. Aggregates:
    /// `count(*)`, `count(x)`, `count(DISTINCT x)`, `sum(x)`, `min(x)`, `max(x)`, `avg(x)`, `first(x)`, `last(x)`
    /// (by event time, then by topic, partition and offset), `min_by(x, order)` and `max_by(x, order)` (`x` of the row with the
    /// least or greatest `order`; of equals the first or last row) and `approx_percentile(x, 0.99)`. All but `count(*)` leave
    /// nulls out. Sums are exact; one that does not fit its column when it is emitted is a dead letter.
    pub compute: Compute,
    /// When results are emitted.
    #[serde(default)]
    pub emit: Emit,
    /// How long a window stays open for late rows after the watermark has passed its end. Later rows go to the port
    /// `late`; for sessions these are all rows that are behind the watermark by more than this.
    #[serde(default)]
    pub lateness: Interval,
}

/// The length of a window: a duration, or a period of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Interval(Interval),
    Weeks(i64),
    Months(i64),
    Years(i64),
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Length, String> {
        const UNITS: [(&str, fn(i64) -> Length); 3] = [("w", Length::Weeks), ("mo", Length::Months), ("y", Length::Years)];
        let text = text.trim();
        let found = UNITS.iter().find_map(|(unit, length)| Some(length(text.strip_suffix(unit)?.trim_end().parse::<u16>().ok()?.into())));
        let or_period = |problem: String| format!("{problem}; or 1w, 1mo, 3mo or 1y of the calendar");
        found.map_or_else(|| text.parse().map(Length::Interval).map_err(or_period), Ok)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Length::Interval(span) => span.fmt(f),
            Length::Weeks(count) => write!(f, "{count}w"),
            Length::Months(count) => write!(f, "{count}mo"),
            Length::Years(count) => write!(f, "{count}y"),
        }
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Length, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Length {
    fn schema_name() -> Cow<'static, str> {
        "WindowLength".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "x-type": "duration, `1w`, `1mo`, `1y`",
            "pattern": "^[0-9]+ ?(ms|s|m|h|d|w|mo|y)$",
            "description": "A length of time: a whole number and a unit (ms, s, m, h, d), or weeks (w), months (mo) or years (y).",
            "examples": ["1m", "1h", "1d", "1w", "1mo"]
        })
    }
}

/// Overlapping windows.
#[derive(Clone, Copy, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hopping {
    /// Length of a window; a whole multiple of `every`.
    pub size: Interval,
    /// A new window starts this often.
    pub every: Interval,
}

/// Windows that end with a pause.
#[derive(Clone, Copy, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The pause: rows of a group with less event time between them are in one session.
    pub gap: Interval,
}

/// When results are emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// One final result per group and window, once the watermark has passed the window's end and `lateness`.
    #[default]
    OnClose,
    /// The current result of the group after every row; nothing when the window closes. For sinks that keep the
    /// newest row per key.
    OnUpdate,
    /// A stream of changes by group: after every row the old result of the group is gone and the new one is there. A group whose rows are
    /// all gone has no result.
    Changes,
    /// The result so far, each time the watermark has passed another multiple of this, of groups with new rows; and the final one when
    /// the window closes. The column `window_final` tells them apart. For sinks that keep the newest row per key.
    Every(Interval),
}

impl Emit {
    /// Results come when rows do, so that nothing is left to say when a window closes.
    pub fn is_by_row(self) -> bool {
        matches!(self, Emit::OnUpdate | Emit::Changes)
    }
}

impl fmt::Display for Emit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Emit::OnClose => f.write_str("on_close"),
            Emit::OnUpdate => f.write_str("on_update"),
            Emit::Changes => f.write_str("changes"),
            Emit::Every(span) => write!(f, "every {span} of event time, and on_close"),
        }
    }
}

/// Names and aggregates, in the order they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compute(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Compute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Compute, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Compute;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names with an aggregate each, such as `orders: count(*)`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Compute, A::Error> {
                let mut entries: Vec<(String, String)> = Vec::new();
                while let Some((name, sql)) = map.next_entry::<String, String>()? {
                    if entries.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format!("duplicate column `{name}`")));
                    }
                    entries.push((name, sql));
                }
                Ok(Compute(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl JsonSchema for Compute {
    fn schema_name() -> Cow<'static, str> {
        "Compute".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "x-type": "map of aggregates",
            "minProperties": 1,
            "additionalProperties": {
                "type": "string",
                "format": "sql",
                "description": "An aggregate of SQL expressions.",
                "examples": ["count(*)", "count(DISTINCT order_id)", "sum(quantity * price)", "approx_percentile(latency, 0.99)"]
            }
        })
    }
}

impl Spec for Window {
    const KIND: &'static str = "window";
    const SUMMARY: &'static str = "Groups rows by columns and time and computes aggregates: one row per group and window.";
    const EXAMPLE: &'static str = "\
steps:
  per_minute:
    from: lines
    window:
      tumbling: 1m
      by: [product_id, category]
      compute:
        orders: count(DISTINCT order_id)
        revenue: sum(revenue)
      lateness: 2m
";
    const EXAMPLE_INPUT: &'static str = "\
order_id: string
product_id: string
category: string
revenue: decimal(18, 2)
";

    const REFUSES_CHANGES: Option<&'static str> = None;

    fn pass_through_ports(&self) -> Vec<String> {
        vec!["late".to_string()]
    }

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        crate::plan::plan(self, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_in_the_order_they_were_written() {
        let window: Window = serde_json::from_str(r#"{"tumbling":"1m","by":["sku"],"compute":{"z":"count(*)","a":"sum(x)"}}"#).unwrap();
        let names: Vec<&str> = window.compute.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["z", "a"]);
        assert_eq!((window.emit, window.lateness), (Emit::OnClose, Interval(0)));
    }

    #[test]
    fn says_what_is_wrong_with_the_shape() {
        for (text, problem) in [
            (r#"{"tumbling":"1m","by":[],"compute":{"a":"count(*)","a":"sum(x)"}}"#, "duplicate column `a`"),
            (r#"{"tumbling":"1m","by":[],"compute":["count(*)"]}"#, "names with an aggregate each"),
            (r#"{"tumbling":"1m","compute":{}}"#, "missing field `by`"),
            (r#"{"tumbling":"1 week","by":[],"compute":{}}"#, "is not a duration"),
            (r#"{"tumble":"1m","by":[],"compute":{}}"#, "unknown field `tumble`"),
            (r#"{"tumbling":"1m","by":[],"compute":{},"emit":"always"}"#, "unknown variant `always`"),
        ] {
            let error = serde_json::from_str::<Window>(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn every_field_is_described() {
        let schema = schemars::schema_for!(Window);
        let properties = schema.get("properties").and_then(|p| p.as_object()).unwrap();
        assert_eq!(properties.len(), 11);
        for (name, property) in properties {
            assert!(property.get("description").is_some(), "{name}");
        }
    }
}
