//! SQL scalar expressions over Arrow batches: the only crate that uses DataFusion.
//!
//! An expression is compiled once, against its input schema, and then evaluated per batch:
//!
//! ```text
//! text -> syntax tree (limits, positions) -> names checked against the schema (did you mean)
//!      -> logical expression -> types coerced, constants folded -> physical expression with checked arithmetic
//! ```
//!
//! What holds for every compiled expression:
//!
//! * **Deterministic.** The value of a row depends on that row only: no clock, no random numbers, no environment. The
//!   same input gives the same output after a crash, on another worker and in a test.
//! * **A failing row fails alone.** A batch that fails is halved until the failing rows are known ([`Expr::evaluate`]).
//! * **Nothing wraps around.** `+`, `-` and `*` on whole numbers and decimals fail on overflow instead of wrapping, also
//!   between constants, where they are refused when compiling. Bitwise shifts keep their usual meaning.
//! * **A field of a null struct is null**, whatever the memory behind it says ([`functions`]).
//!
//! Identifiers are case-sensitive, fields of structs are reached with dots (`data.items`), list elements count from 1
//! (`data.items[1].price`), texts are in single quotes. A number with a point is a double, next to
//! decimals an exact decimal ([`literals`]).
//!
//! What a row and a batch of rows may ask for is bounded ([`bounded`]). An honest limit: a kernel that panics fails its
//! row, but its message still appears on standard error.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod aggregate;
pub mod bounded;
pub mod compile;
pub mod evaluate;
mod fallible;
pub mod functions;
mod header;
mod key;
pub mod literals;
mod member;
pub mod names;
mod probe;
pub mod refusal;
mod spread;
pub mod syntax;
pub mod text;
mod wording;

pub use aggregate::{AggregateCall, parse_aggregate};
pub use compile::{Expr, Predicate};
pub use evaluate::{Decided, Evaluated};
pub use key::key_column;
pub use refusal::ExprError;
pub use syntax::{canonical, parse_alias};
pub use text::{Columns, NamedSql, Sql};
