//! `saga`: a business transaction over several participants that always ends.
//!
//! ```text
//! spec, shapes the configuration
//! draft        configuration -> definition: what can be judged without inputs
//! definition   what the machine knows of a saga; stored with the sagas that began with it
//! machine      (definition, instance, event) -> (instance, effects): pure
//! check        the model checker: explores the machine against participants that lose, double and delay
//! program      a definition with its SQL compiled
//! plan         checks against the inputs, ports, layout of the state
//! operator     rows and timers -> events of the machine; turn, effects, start, answers, outputs: its parts
//! invariant    conditions for the checker
//! repairs      what people do, as events of the machine
//! codec        an instance as bytes in state; inspect: reads them outside of a worker
//! ```
//!
//! Invariants, which the model checker and property tests hold the machine to:
//!
//! * A saga ends completed or compensated, never both, or it is stuck, and says so.
//! * What a saga that is compensated has changed is taken back; what one that is completed was to change is there.
//! * While a saga has not ended and is not stuck, a timer is set: nothing waits for an answer alone.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answers;
pub mod check;
mod codec;
pub mod definition;
mod draft;
mod effects;
pub mod inspect;
mod invariant;
pub mod machine;
mod operator;
mod outputs;
mod plan;
mod program;
mod repairs;
mod shapes;
mod spec;
mod start;
mod turn;

pub use repairs::{COMPENSATE, RETRY, SKIP};
pub use spec::Saga;
