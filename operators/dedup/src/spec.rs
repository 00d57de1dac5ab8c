//! The `dedup` step as written in YAML.

use std::fmt;

use operator_core::{Diagnostic, Interval, PlanCx, Planned, Spec};
use operator_expr::Columns;
use schemars::JsonSchema;

/// Lets one of several rows with the same key pass that are less than a length of event time apart.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dedup {
    /// The column, or the list of columns, that equal rows have in common: an id of the event. A path such as `data.orderId`
    /// reaches into a structure. A row with a null in one of them is equal to no other and passes.
    pub by: Columns,
    /// Length of event time. The rows of a key, in the order of event time (then of topic, partition and offset), form runs: a run
    /// begins with the first row that is in none, and has every row less than `within` after its first.
    pub within: Interval,
    /// Which row of a run goes on; the others are duplicates and go to the port `duplicates`.
    #[serde(default)]
    pub keep: Keep,
    /// When rows come out.
    #[serde(default)]
    pub emit: Emit,
    /// How far a row may be behind the watermark of its partition. Rows further behind go to the port `late`.
    #[serde(default)]
    pub lateness: Interval,
}

/// Which row of a run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first.
    #[default]
    First,
    /// The last: it comes out `within` after the first, when its run is over.
    Last,
}

/// When rows come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// In the order of event time, once the watermark and `lateness` have passed them. The answer depends on the rows only.
    #[default]
    OnWatermark,
    /// As they come: a row is a duplicate if one of its key, less than `within` before or after it, went on before. Which of two
    /// rows from different partitions that is depends on which one arrived first; of a source whose `key` is part of `by`, equal rows are in
    /// one partition.
    AtOnce,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keep::First => "first",
            Keep::Last => "last",
        })
    }
}

impl Spec for Dedup {
    const KIND: &'static str = "dedup";
    const SUMMARY: &'static str = "Lets one of several rows with the same key within a length of time pass.";
    const EXAMPLE: &'static str = "\
steps:
  once:
    from: orders
    dedup:
      by: eventId
      within: 24h
      keep: first
";
    const EXAMPLE_INPUT: &'static str = "\
eventId: string
data: struct<orderId: string, total: double>
";

    fn pass_through_ports(&self) -> Vec<String> {
        ["", "duplicates", "late"].map(str::to_string).to_vec()
    }

    const REFUSES_CHANGES: Option<&'static str> =
        Some("remove the step: a stream of changes has one row per key at a time, and a delivery that comes twice changes nothing");

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        crate::plan::plan(self, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_one_or_a_list() {
        let of = |by: &str| serde_json::from_str::<Dedup>(&format!(r#"{{"by":{by},"within":"1h"}}"#)).map(|dedup| dedup.by);
        assert_eq!(of(r#""a.b""#).unwrap(), Columns { columns: vec!["a.b".into()], list: false });
        assert_eq!(of(r#"["a","b"]"#).unwrap(), Columns { columns: vec!["a".into(), "b".into()], list: true });
        assert!(of("7").unwrap_err().to_string().contains("a column such as `eventId`, or a list of columns"));
    }

    #[test]
    fn every_field_is_described() {
        let schema = schemars::schema_for!(Dedup);
        let properties = schema.get("properties").and_then(|p| p.as_object()).unwrap();
        assert_eq!(properties.len(), 5);
        for (name, property) in properties {
            assert!(property.get("description").is_some(), "{name}");
        }
    }
}
