//! What the model has decided but not yet handed out.

use std::cmp::Ordering;

use uuid::Uuid;

use crate::event::Event;
use crate::shop::Person;

/// Something that happens later, ordered by when and then by who came first.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) due_ms: i64,
    /// Number in the order of queueing.
    pub(crate) order: u64,
    /// Boxed, so that sifting in the heap moves little.
    pub(crate) what: Box<Later>,
}

/// What will happen.
#[derive(Debug)]
pub(crate) enum Later {
    /// The same event is sent again.
    Again(Event),
    /// An order is paid.
    Pay { order_id: Uuid, customer_id: Uuid, amount_cents: i64, currency: &'static str, cause: Uuid, correlation: Uuid, not_before_ms: i64 },
    /// A new customer appears in the table, and orders from then on.
    Join(Person),
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due_ms, self.order).cmp(&(other.due_ms, other.order))
    }
}
