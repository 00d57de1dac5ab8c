//! `map`: computes columns, and makes a row of each element of a list.
//!
//! Three shapes, one idea: what the output's columns are.
//!
//! ```text
//! select: { revenue: quantity * price }     these columns and no others
//! add:    { revenue: quantity * price }     all columns of the input and these (a known name: that column changes)
//! drop:   [raw]                             all columns of the input but these; goes with `add`
//! ```
//!
//! `unnest: data.items AS item` comes first: the row is repeated for each element of the list, with the element as one
//! more column `item`. Time, watermark and offset are repeated with it.
//!
//! The ledger counts input rows: a row passes once however many rows its list makes, a row whose list is empty or null
//! is filtered (or kept with a null element: `unnest_empty: keep`). If any expression fails for any element of a row,
//! the whole row is rejected, once, with the first cause: half an order is worse than none. The operator keeps no
//! state and rows stay in their partition.
//!
//! What does not read the element is computed once per input row and then repeated, so that a list is not copied for
//! each of its own elements. Honest limit: an expression that reads both the element and a struct holding the list
//! (`item.quantity * data.rate`) does copy that struct per element; a `map` before it that adds `rate` avoids that.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod operator;
mod plan;
mod spec;

pub use spec::{Empty, Map};
