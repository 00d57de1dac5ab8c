//! The `aggregate` step as written in YAML.

use operator_core::{Diagnostic, Interval, PlanCx, Planned, Spec};
use operator_expr::{Columns, NamedSql, Sql};
use schemars::JsonSchema;

use crate::written::{Change, Declared, Named, Rules};

/// Decides commands: state by key, rules that make events of commands, and events as the only thing that changes state.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The column, or the list of columns, that says which aggregate a command is for. Commands of one aggregate are decided one after
    /// the other.
    pub key: Columns,
    /// The column, a text, that names the command.
    #[serde(default = "event_type")]
    pub command: String,
    /// The column, a text, of a command's id; `eventId` if the input has that. A command whose id has been seen is a repeat: it changes
    /// nothing, and what it led to is said again on the port `replies`.
    #[serde(default)]
    pub id: Option<String>,
    /// How long the ids of commands are kept, and what they led to, in event time. A command with an id that is further than this behind the
    /// watermark may be a repeat, and is rejected (`too_old`).
    #[serde(default = "week")]
    pub remember: Interval,
    /// The version that the sender of a command knows: if it is not null and not the aggregate's version, the command is rejected.
    #[serde(default)]
    pub expect: Option<Sql>,
    /// The columns of the state, each with a type as in a source's `schema`, and what it is at first: `long = 0`, or `string?` for a null.
    #[serde(default)]
    pub state: Named<Declared>,
    /// Collections within an aggregate, of which each entry is stored by itself: reservations, order lines.
    #[serde(default)]
    pub entries: Named<Entries>,
    /// For each command its rules. The first whose `when` is true decides; without such a rule the command is rejected. Expressions read
    /// the columns of the input, `state`, and of each collection the entry that the command is about.
    pub on: Named<Rules>,
    /// For each event what it changes: columns of the state, and entries. Expressions read `state`, entries, the event's `data` and
    /// `_time`.
    #[serde(default)]
    pub apply: Named<Named<Change>>,
    /// Events that come by themselves, by the wall clock.
    #[serde(default)]
    pub timers: Named<Timer>,
    /// Conditions over `state` that hold after every event: a command whose events would break one is rejected.
    #[serde(default)]
    pub invariants: NamedSql,
}

/// A collection of entries.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entries {
    /// The name that an entry's key has as a column of it.
    pub key: String,
    /// The key, an expression over the columns of a command, and over those of an event that changes an entry: `data.order_id`.
    pub of: Sql,
    /// The columns of an entry, with their types. One that is not nullable and has no default must be set when an entry is made.
    #[serde(default)]
    pub columns: Named<Declared>,
}

/// An event that comes at a time that the state tells.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// A timer of each entry of this collection; without it, one of the aggregate.
    #[serde(default)]
    pub of: Option<String>,
    /// When, a timestamp: an expression over the columns of the entry, or over `state`. Null: not at all.
    pub at: Sql,
    /// The event that comes then.
    pub emit: String,
    /// Its columns, beside those of the key: expressions over `state`, the entry and `_time`, which is the time of the timer.
    #[serde(default)]
    pub with: NamedSql,
}

fn event_type() -> String {
    operator_event::EVENT_TYPE.to_string()
}

fn week() -> Interval {
    Interval(7 * 24 * 3_600_000)
}

impl Spec for Aggregate {
    const KIND: &'static str = "aggregate";
    const SUMMARY: &'static str = "Decides commands against the state of a key, and emits what happened as events: event sourcing.";
    const EXAMPLE: &'static str = "\
steps:
  stock:
    from: commands
    aggregate:
      key: data.sku
      state: { on_hand: long = 0, reserved: long = 0 }
      on:
        inventory.receive:
          - { when: data.quantity > 0, emit: inventory.received, with: { quantity: data.quantity } }
          - { reject: not_positive }
        inventory.reserve:
          - { when: state.on_hand - state.reserved >= data.quantity, emit: inventory.reserved, with: { quantity: data.quantity } }
          - { reject: out_of_stock }
      apply:
        inventory.received: { on_hand: state.on_hand + data.quantity }
        inventory.reserved: { reserved: state.reserved + data.quantity }
      invariants:
        not_oversold: state.on_hand - state.reserved >= 0
";
    const EXAMPLE_INPUT: &'static str = "\
eventId: string
eventType: string
data: struct<sku: string, quantity: long>
";

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        crate::plan::plan(self, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_described() {
        let schema = schemars::schema_for!(Aggregate);
        let properties = schema.get("properties").and_then(|p| p.as_object()).unwrap();
        assert_eq!(properties.len(), 11);
        for (name, property) in properties {
            assert!(property.get("description").is_some(), "{name}");
        }
    }
}
