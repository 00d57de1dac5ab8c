//! The options of a load: together they determine it.

use crate::schedule::Spike;

/// What determines a load, to the byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Everything random follows from it. Products and customers follow from it alone; event ids also from `start_ms`, so that two
    /// loads into the same topics do not repeat each other's ids.
    pub seed: u64,
    /// Number of products.
    pub products: u32,
    /// Number of customers at the start.
    pub customers: u32,
    /// Event time at which the load starts, milliseconds since 1970.
    pub start_ms: i64,
    /// Events per second of event time.
    pub event_rate: f64,
    /// A burst in the event rate.
    pub spike: Option<Spike>,
    /// How far an event's own time may lie before its record time.
    pub out_of_order_ms: i64,
    /// Share of events that are sent a second time. With `out_of_order_ms` 0 hardly any second copy can keep the bound, and those
    /// that cannot are left out.
    pub duplicates: f64,
    /// Share of orders in schema version 2.
    pub v2_share: f64,
    /// Share of orders that arrive 5 to 15 minutes late. Off (0) unless the late port is to be shown.
    pub late: f64,
    /// Whether the full product and customer tables come first.
    pub tables: bool,
    /// Where it ends.
    pub limit: Limit,
}

/// Where a load ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// After so many events, not counting the table rows sent first.
    Events(u64),
    /// After so many seconds of event time.
    Seconds(f64),
    /// Never by itself.
    Endless,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            products: 2_000,
            customers: 50_000,
            start_ms: 1_755_000_000_000,
            event_rate: 1_000.0,
            spike: None,
            out_of_order_ms: 3_000,
            duplicates: 0.001,
            v2_share: 0.0,
            late: 0.0,
            tables: true,
            limit: Limit::Endless,
        }
    }
}
