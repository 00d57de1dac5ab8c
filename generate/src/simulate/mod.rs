//! Simulators of what surrounds the domain pipelines: a shop whose customers place orders and change their data, and the services
//! for payment and shipping, which answer commands.
//!
//! Nothing here talks to Kafka. [`Orders`] and [`Users`] are iterators of records, functions of their options alone, times aside.
//! A [`Participant`] turns each command into the [`Answer`]s to it. What chance decides of a command (decline, loss, delay) is drawn
//! from the seed and the command's id, and its outcome from the idempotency key: so the same commands give the same answers in any
//! order of partitions, and a participant that starts again and reads them again says what it said before, under the same event ids.
//! That is all that at-least-once needs: whoever reads the answers drops ids it has seen.

mod args;
mod event;
mod orders;
mod participant;
mod users;

pub use args::{OrderArgs, ParticipantArgs, UserArgs};
pub use event::{Record, cause_of};
pub use orders::{OrderOptions, Orders};
pub use participant::{Answer, Behaviour, PAYMENTS, Participant, SHIPPING, Service};
pub use users::{UserOptions, Users};
