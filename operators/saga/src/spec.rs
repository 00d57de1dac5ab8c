//! The `saga` step as written in YAML.

use operator_core::{Diagnostic, Interval, PlanCx, Planned, Spec};
use operator_expr::{NamedSql, Sql};
use schemars::JsonSchema;

use crate::shapes::{End, Steps, Types};

/// Carries out the steps of a business transaction by commands to its participants, each answered by an event; if a step fails, those that
/// were done are undone in reverse order. Every saga ends: completed, compensated, or stuck until someone repairs it.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Saga {
    /// The saga's id, a text, in the rows of each input.
    pub id: Ids,
    /// The column of the inputs `replies` and `repairs` that says which event a row is.
    #[serde(default = "event_type")]
    pub reply: String,
    /// The column of `replies` with the id of the command that an answer is to. Needed where a question can be answered with `not_found`.
    /// Default: `metadata.causationId`, if there is such a column.
    #[serde(default)]
    pub causation: Option<String>,
    /// What is kept of the starting row, each a SQL expression over it: commands and events are made of these columns, `id` and `attempt`.
    #[serde(default)]
    pub keep: NamedSql,
    /// The steps, in order.
    pub steps: Steps,
    /// The events that say how a saga ended, on the port `ended`.
    pub ends: Ends,
    /// When an undo is given up.
    #[serde(default)]
    pub stuck: StuckAfter,
    /// How long a saga that has ended is remembered, by the clock: late answers find it.
    #[serde(default = "week")]
    pub remember: Interval,
    /// Conditions that hold at every moment, whatever is lost, doubled or late: `hw lint --sagas` looks for a case in which one doesn't. SQL over
    /// `completed`, `compensated`, `stuck`, and for each step `step.done`, `step.undone` and `step.happened` (something is changed at the
    /// participant).
    #[serde(default)]
    pub invariants: Vec<Sql>,
}

fn event_type() -> String {
    "eventType".into()
}

fn week() -> Interval {
    Interval(7 * 86_400_000)
}

/// The columns with the id of the saga.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    /// In rows that begin a saga. A second row of an id is a repeat.
    pub start: String,
    /// In answers of participants.
    pub replies: String,
    /// In what `hw saga retry`, `skip` and `compensate` write.
    pub repairs: String,
}

/// One step.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The steps that must be done before this one; several with the same run side by side. Default: the step above.
    #[serde(default)]
    pub after: Option<Types>,
    /// A list in `keep`: the step sends a command per element, which expressions call `line`, and is done when all are.
    #[serde(default)]
    pub each: Option<Sql>,
    /// With `each`: what tells the lines of a saga apart, such as `line.sku`. No two lines of a saga may have the same.
    #[serde(default)]
    pub by: Option<Sql>,
    /// With `each`: the line that an answer is about, an expression over the answer such as `data.sku`. It is compared with `by` as text.
    #[serde(default)]
    pub answers_for: Option<Sql>,
    /// The command.
    pub send: Send,
    /// The event type, or a list of types, by which the participant says that it is done.
    pub done: Types,
    /// The event types by which it says that it is not, and that nothing is changed.
    #[serde(default)]
    pub failed: Types,
    /// What is kept of the answer that says that the step is done, each a SQL expression over that answer: a text, a number, a bool or a time.
    /// Commands of later steps, the step's own undo and the events of ends read it as `step.column`. It is null where no answer came.
    #[serde(default)]
    pub keep: NamedSql,
    /// How long an answer is waited for, by the clock.
    pub timeout: Interval,
    /// How often the command is sent.
    #[serde(default)]
    pub retry: Retry,
    /// The step changes something at the participant; `false` for one that only asks, which needs no undo. For `hw lint --sagas`.
    #[serde(default = "yes")]
    pub effect: bool,
    /// What to ask the participant when no answer came, before the command is sent again.
    #[serde(default)]
    pub unknown: Option<Question>,
    /// What takes the step back. The participant must take it for a command that it never had, and twice: a step whose outcome is not known is
    /// undone, too.
    #[serde(default)]
    pub undo: Option<Undo>,
}

fn yes() -> bool {
    true
}

/// A command.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// Its event type.
    pub command: String,
    /// The columns of its `data`, each a SQL expression over `id`, `attempt` (1 for the first), the columns of `keep`, `line`, and what is kept of
    /// the answers to steps before this one (`pay.payment_id`).
    #[serde(default)]
    pub with: NamedSql,
    /// The participant recognises a command that it has had already, by a key of the business such as the id of the order, and does not carry it
    /// out twice. For `hw lint --sagas`.
    #[serde(default = "yes")]
    pub idempotent: bool,
}

/// A question about a command whose outcome is not known.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Its event type.
    pub command: String,
    /// The columns of its `data`.
    #[serde(default)]
    pub with: NamedSql,
    /// Event types that say that the command was carried out. Default: those of the step.
    #[serde(default)]
    pub done: Types,
    /// Event types that say that it failed. Default: those of the step.
    #[serde(default)]
    pub failed: Types,
    /// Event types that say that the participant knows nothing of it, and never will: it is sent again.
    #[serde(default)]
    pub not_found: Types,
    /// How long an answer is waited for. Default: as for the step.
    #[serde(default)]
    pub timeout: Option<Interval>,
    /// How often the question is asked in a row.
    #[serde(default)]
    pub retry: Retry,
}

/// A command that takes a step back.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// Its event type.
    pub command: String,
    /// The columns of its `data`.
    #[serde(default)]
    pub with: NamedSql,
    /// Event types that say that the step has no effect any more.
    pub done: Types,
    /// Event types that say that the undo failed; it is tried again, as after a timeout.
    #[serde(default)]
    pub failed: Types,
    /// How long an answer is waited for. Default: as for the step.
    #[serde(default)]
    pub timeout: Option<Interval>,
    /// The pauses between attempts.
    #[serde(default)]
    pub retry: Backoff,
}

/// How often something is sent, and how long after a failure.
#[derive(Clone, Copy, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// At most this often, the first time included.
    pub attempts: u32,
    /// The pause after the first failure; it doubles from one to the next.
    pub backoff: Interval,
    /// The longest pause.
    pub max_backoff: Interval,
}

impl Default for Retry {
    fn default() -> Retry {
        let Backoff { backoff, max_backoff } = Backoff::default();
        Retry { attempts: 3, backoff, max_backoff }
    }
}

/// How long after a failure something is sent again.
#[derive(Clone, Copy, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// The pause after the first failure; it doubles from one to the next.
    pub backoff: Interval,
    /// The longest pause.
    pub max_backoff: Interval,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { backoff: Interval(1_000), max_backoff: Interval(30_000) }
    }
}

/// When an undo is given up: the saga is stuck then.
#[derive(Clone, Copy, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StuckAfter {
    /// After this many attempts that failed in a row.
    pub after: u32,
}

impl Default for StuckAfter {
    fn default() -> StuckAfter {
        StuckAfter { after: 5 }
    }
}

/// The events that say how a saga ended.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// All steps are done.
    pub completed: End,
    /// One failed, and what was done is undone.
    pub compensated: End,
}

/// The inputs.
pub const INPUTS: [&str; 3] = ["start", "replies", "repairs"];

impl Spec for Saga {
    const KIND: &'static str = "saga";
    const SUMMARY: &'static str = "Carries out steps by commands to participants; if one fails, undoes those that were done.";
    const EXAMPLE: &'static str = "\
steps:
  fulfilment:
    from: { start: placed, replies: answers, repairs: repairs }
    saga:
      id: { start: data.orderId, replies: metadata.correlationId, repairs: data.saga }
      keep: { customer_id: data.customerId, lines: data.items, total: data.total }
      steps:
        reserve:
          each: lines
          by: line.sku
          answers_for: data.sku
          send: { command: inventory.reserve, with: { order_id: id, sku: line.sku, quantity: line.quantity } }
          done: inventory.reserved
          failed: inventory.reserve.rejected
          timeout: 30s
          undo: { command: inventory.release, with: { order_id: id, sku: line.sku }, done: inventory.released }
        pay:
          send: { command: payments.authorise, with: { order_id: id, amount: total, idempotency_key: \"concat(id, '-pay')\" } }
          done: payments.authorised
          failed: payments.declined
          timeout: 2m
          unknown: { command: payments.status, with: { order_id: id }, not_found: payments.unknown }
          undo: { command: payments.void, with: { order_id: id }, done: payments.voided }
      ends: { completed: orders.confirmed, compensated: orders.cancelled }
      invariants: [NOT completed OR pay.happened]
";
    const EXAMPLE_INPUT: &'static str = "\
[start]
eventId: string
data: struct<orderId: string, customerId: string, total: decimal(12, 2), items: list<struct<sku: string, quantity: int>>>
[replies]
eventId: string
eventType: string
data: struct<sku: string>
metadata: struct<correlationId: string, causationId: string>
[repairs]
eventId: string
eventType: string
data: struct<saga: string, user: string, reason: string>
";
    const INPUTS: &'static [&'static str] = &INPUTS;

    fn plan(&self, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
        crate::plan::plan(self, cx)
    }
}
