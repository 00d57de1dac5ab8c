//! The `aggregate` step: event sourcing. Commands are decided against the state of a key; what happened comes out as events, and events
//! are the only thing that changes state.
//!
//! ```text
//! command -- rules, over state --> events --+--> out          rejection --> rejected (and violations)
//!                                           |
//!                            state <-- apply, invariants      repeat, reply --> replies
//! ```
//!
//! All commands of a key are in one partition, and there is one task for it: so decisions about a key are made one after the other, and
//! nothing has to be locked. Events, state, ids of commands and the position of the input are committed in one transaction.
//!
//! Commands of different keys don't depend on each other, so they are decided together: of the commands that are next for their keys,
//! those of one kind, and each expression of a rule is evaluated once for all of them. State is read once for a batch and written once; entries of a collection are stored each by itself, so that an aggregate can have very many of them.
//!
//! ```text
//! spec, written   the configuration       plan       checks, compiled expressions, the planned step
//! rows, subjects  commands and state of   decide     what commands lead to         fold      what events change
//!                 a batch                 operator   the state machine             timers    events that come by themselves
//! outcomes, repeats                       commands that come again                 outputs   rows on their way to the ports
//! ```
//!
//! The changelog of the state is the snapshot of every aggregate: a restart reads it, and no event.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod cells;
mod decide;
mod decided;
mod fold;
mod operator;
mod outcomes;
mod outputs;
mod plan;
mod repeats;
mod replay;
mod rows;
mod spec;
mod state;
mod subjects;
mod timers;
mod written;

pub use replay::{Found, Replay};
pub use spec::{Aggregate, Entries, Timer};
pub use written::{Change, Declared, Emit, Emitted, Named, Rule, Rules};
