//! The contract between the engine and the operators.
//!
//! An operator is a deterministic state machine over Arrow batches: it does no I/O, reads no clock, draws no random
//! numbers and has no checkpoint code. Everything it may do to the world goes through [`Context`]: emit rows on a port,
//! reject a row with a cause, read and write keyed state, look up a table. The engine owns time, state, commits and
//! restores, and drives each operator with the same calls in the same order:
//!
//! ```text
//! for each batch of each input:   operator.on_batch(input, batch, cx)   rows, in the order of their partition
//! for each timer that is due:     operator.on_timer(timer, time, cx)    in the order of their times and keys
//! then, if time moved:            operator.on_time(time, cx)            watermark and wall clock, never backwards;
//!                                                                       again, while it has more to do
//! ```
//!
//! A bad row is data: [`Context::reject`] sends it to the dead letters in the same transaction. An `Err` means that this
//! epoch cannot be trusted: the engine aborts it and reads the input again.
//!
//! Every input row must be accounted for exactly once (rule R3): emitted, filtered, late, rejected or held in state.
//! The engine checks the [`Ledger`] around every call, so an operator that forgets a row fails loudly.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod batch;
pub mod changes;
pub mod diagnostic;
pub mod duration;
pub mod headers;
pub mod keys;
pub mod memory;
pub mod operator;
pub mod path;
mod planning;
pub mod spec;
pub mod state;
pub mod stores;
pub mod table;
pub mod timers;
pub mod type_names;

pub use batch::{Batch, Millis, NO_WATERMARK, Origin};
pub use changes::{CHANGE, Mode};
pub use diagnostic::{Diagnostic, Severity};
pub use duration::Interval;
pub use operator::{Context, Emitted, Input, Ledger, Operator, Port, Progress, Rejected, Time};
pub use path::Path;
pub use planning::{plan, row_key};
pub use spec::{InputInfo, KeyEffect, OutputPort, PlanCx, Planned, Spec, StateLayout, TableInfo, TableUse, renamed};
pub use state::{MemoryState, State, StateError};
pub use table::{Change, Table, Tables};
pub use timers::{StepTimers, Timer, TimerKind, Timers};
pub use type_names::{name as type_name, parse as parse_type, said as type_said};
