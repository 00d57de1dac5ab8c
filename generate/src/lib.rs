//! A deterministic e-commerce load: orders, payments, stock changes and registrations as the platform's services would write them,
//! with the tables of products and customers they refer to.
//!
//! - [`Model`] is the load as an iterator of [`Event`]s, a function of [`Options`] alone, and keeps [`Totals`] of what it handed out.
//! - [`encode_json`] and [`AvroEncoder`] turn events into bytes.
//! - [`publish`] writes a load to Kafka; [`Args`] and [`run`] are the command `hw generate`.
//! - [`simulate`] has what `hw simulate` writes: orders and users, and the answers of services for payment and shipping.
//!
//! ```
//! use headwater_generate::{Limit, Model, Options, encode_json};
//!
//! let mut model = Model::new(Options { tables: false, limit: Limit::Events(100), ..Options::default() });
//! for event in model.by_ref() {
//!     let _bytes = encode_json(&event)?;
//! }
//! assert_eq!(model.totals().records(), 100);
//! # Ok::<(), headwater_generate::GenerateError>(())
//! ```

mod args;
mod encode;
mod event;
mod model;
mod options;
mod publish;
mod random;
mod registry;
mod schedule;
mod shop;
pub mod simulate;
mod topics;
mod totals;
mod waiting;
mod wire;

pub use args::{Args, run, run_until};
pub use encode::{AvroEncoder, SchemaIds, encode_json};
pub use event::{Adjustment, Customer, Envelope, Event, Headers, Item, Order, Payload, Payment, Product, Reason, Registration};
pub use model::Model;
pub use options::{Limit, Options};
pub use publish::{Format, Pace, Progress, Target, publish};
pub use schedule::{Schedule, Spike};
pub use shop::CATEGORIES;
pub use topics::Topic;
pub use totals::{Cell, HIGH_VALUE_CENTS, MinuteProduct, SoFar, Sums, Totals};

/// Why a load could not be written. Each message says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// An event does not fit its schema or the calendar.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The schema registry cannot be reached or refuses a schema.
    #[error("{0}")]
    Registry(String),
    /// The broker cannot be reached, refuses a topic or does not acknowledge a record.
    #[error("Kafka: {0}")]
    Kafka(String),
    /// The small runtime for registration and topic creation cannot be built.
    #[error("cannot start the runtime: {0}")]
    Runtime(String),
}
