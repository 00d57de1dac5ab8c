//! Rows that are events, as operators make them: an envelope around the columns of the event's type.
//!
//! ```text
//! eventId        text, the form of a UUID: follows from what caused the event, and its place ([`Ids`])
//! eventType      text
//! eventVersion   text
//! timestamp      when it happened: the event time of the row
//! source         text: which step made it
//! data           a record: the columns of all event types of the stream, null where a type has not that column
//! metadata       a record
//!   correlationId  text: that of the cause, or the cause's own id where it has none
//!   causationId    text: the id of the cause
//!   sequence       long: where it is in the history of what it is about; null where that has none
//! ```
//!
//! This is the envelope that sources read with `event: envelope`; what such a source does not know (`sequence`) it leaves out.
//!
//! A step plans which columns say what caused a row ([`CauseColumns`]) and which types of events there are ([`Events`]). Then it
//! takes the causes of a batch ([`Causes`]), collects events of one type at a time, as columns ([`EventRows`]), and gets one batch,
//! in the order of the places it gave them.
//!
//! Ids are deterministic: an epoch that is processed again gives the same ids, and so does the same command, when it is sent twice.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod cause;
mod id;
mod kind;
mod rows;
mod writable;

pub use cause::{CauseColumns, Causes};
pub use id::Ids;
pub use kind::{Conflict, EventType, Events};
pub use rows::{EventRows, Head};
pub use uuid::Uuid;
pub use writable::unwritable;

/// The columns of the envelope, by name.
pub const EVENT_ID: &str = "eventId";
pub const EVENT_TYPE: &str = "eventType";
pub const DATA: &str = "data";
pub const METADATA: &str = "metadata";
pub const CORRELATION_ID: &str = "correlationId";
pub const SEQUENCE: &str = "sequence";
