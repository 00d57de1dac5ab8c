//! The `aggregate` step as written in YAML.

use operator_core::{Diagnostic, Interval, PlanCx, Planned, Spec};
use operator_expr::{Columns, NamedSql, Sql};
use schemars::JsonSchema;

use crate::written::{Change, Declared, Named, Rules};

/// Each key has a state. A command is decided by the first of its rules whose `when` is true: events happen (`emit`), something is answered
/// (`reply`), or the command is rejected (`reject`). Events are the only thing that changes the state, by `apply`, which reads the state, the
/// event and nothing else: so the state can be made of its events again (`hw replay`). Commands of a key are decided one after the other,
/// and events, state and the position of the input are committed together.
///
/// Ports: the main output has the events, with `metadata.sequence` as the version of the aggregate after each; `rejected` the rejections, with
/// `reason` and `command`; `replies` the answers, also those to commands that came again; `violations` the rejections whose reason is an
/// invariant; `state` a stream of changes by the key, with `version`. All but `state` are in the event envelope.
///
/// Aggregates as a whole, with repeats, timers, changes of a running one and limits: [Aggregates](../aggregates.md).
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The column, or the list of columns, that says which aggregate a command is for; a path such as `data.sku` reaches into a structure. A
    /// command with a null in it is a dead letter. Events have the columns in their `data`, by the last part of their path.
    pub key: Columns,
    /// The column, a text, that names the command: a key of `on`. Others are rejected, as `unknown_command`.
    #[serde(default = "event_type")]
    pub command: String,
    /// The column, a text, of a command's id; `eventId` if the input has that. A command whose id has been seen is a repeat: it changes
    /// nothing, and what it led to is said again on the port `replies`, under the same ids. A null, or an empty text, is no id. Rows that a
    /// `map` unnests from one record share its `eventId`: name a column that differs among them.
    #[serde(default)]
    pub id: Option<String>,
    /// How long the ids of commands are kept, and what they led to, in event time: longer than anybody takes to send a command again. A
    /// command with an id that is further than this behind the watermark of its partition may be a repeat, and is rejected (`too_old`).
    #[serde(default = "week")]
    pub remember: Interval,
    /// The version that the sender of a command knows, a whole number: if it is not null and not the aggregate's version, the command is
    /// rejected (`version`). An aggregate that nothing has happened to has the version 0.
    #[serde(default)]
    pub expect: Option<Sql>,
    /// The columns of the state, each with a type as in a source's `schema`, and what it is at first: `long = 0`, or `string?` for a null.
    /// Columns may be added at the end while there is state.
    #[serde(default)]
    pub state: Named<Declared>,
    /// Collections within an aggregate, of which each entry is stored by itself: reservations, order lines. A command, and an event, is about
    /// one entry of each collection, whose columns expressions read by the name of the collection; they are null where it is not there.
    #[serde(default)]
    pub entries: Named<Entries>,
    /// For each command its rules, or one rule. The first whose `when` is true decides; without such a rule the command is rejected
    /// (`no_rule`). Expressions read the columns of the input, `state`, and of each collection the entry that the command is about. A command
    /// that can't be computed is a dead letter, and changes nothing.
    pub on: Named<Rules>,
    /// For each event what it changes: columns of the state (`on_hand: state.on_hand + data.quantity`), and entries: some of their columns
    /// (`reservation: { quantity: data.quantity }`, which makes the entry if it is not there), or `reservation: delete`. Expressions read
    /// `state`, entries, the event's `data` and `_time`. `{}` is written for an event that changes nothing.
    #[serde(default)]
    pub apply: Named<Named<Change>>,
    /// Events that come by themselves, by the wall clock, and never before commands that were written before their time. One that is refused
    /// is tried again after 1, 2, 4 and more minutes, for 45 days.
    #[serde(default)]
    pub timers: Named<Timer>,
    /// Conditions over `state` that hold after every event: a command whose events would break one is rejected whole, with the name of the
    /// invariant as reason. They need not hold before the first event.
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
    /// The columns of an entry, with their types. One that is not nullable and has no default must be set when an entry is made. Columns may
    /// be added at the end while there is state, if they are nullable or have a default.
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
    /// When, a timestamp: an expression over the columns of the entry, or over `state`. Null: not at all. The timer is set when this changes,
    /// and deleted when it becomes null, or the entry is gone.
    pub at: Sql,
    /// The event that comes then, with this time as its own. It is caused by the event that last changed the entry, or the aggregate.
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
