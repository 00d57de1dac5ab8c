//! What a load contains, counted while it is generated: the numbers that a demonstration compares with what came out.
//!
//! Everything is counted twice over: `distinct` counts each event once, `duplicates` counts the second copies. A pipeline that
//! does not deduplicate sees the sum of both ([`Totals::sent`]); one that does sees `distinct`. The exception is counting distinct
//! order ids, which no second copy changes: compare that with `distinct.orders` (or the `orders` of a cell) either way.
//!
//! Late orders (`Options::late`) are counted like all others: which of them a window still accepts is the pipeline's to say.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use crate::event::{Event, Order, Payload};
use crate::topics::Topic;

/// An order with a total above this is of high value (more than 1000.00).
pub const HIGH_VALUE_CENTS: i64 = 100_000;

const MINUTE_MS: i64 = 60_000;

/// The totals of a load.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Each event once.
    pub distinct: Sums,
    /// The second copies alone.
    pub duplicates: Sums,
}

/// Sums over a set of events. Money in cents, all currencies added up as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sums {
    /// Records per topic, table rows included.
    pub records: BTreeMap<Topic, u64>,
    /// Orders.
    pub orders: u64,
    /// Orders made to arrive minutes late.
    pub late_orders: u64,
    /// Order lines.
    pub lines: u64,
    /// Pieces over all lines.
    pub quantity: i64,
    /// Sum of quantity times unit price over all lines.
    pub revenue_cents: i64,
    /// Orders above [`HIGH_VALUE_CENTS`].
    pub high_value_orders: u64,
    /// Sum of the totals of those.
    pub high_value_cents: i64,
    /// Sum of payments.
    pub paid_cents: i64,
    /// Revenue by category.
    pub revenue_by_category: BTreeMap<&'static str, i64>,
    /// Orders, pieces and revenue by minute of event time and product.
    #[serde(serialize_with = "cells")]
    pub by_minute: BTreeMap<MinuteProduct, Cell>,
    /// Sum of adjustments by product. Never negative in `distinct`.
    #[serde(serialize_with = "by_name")]
    pub stock: BTreeMap<Arc<str>, i64>,
}

/// A minute of event time (its start, milliseconds since 1970) and a product.
pub type MinuteProduct = (i64, Arc<str>);

/// One product in one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Orders with at least one line for the product.
    pub orders: u64,
    /// Pieces.
    pub quantity: i64,
    /// Revenue in cents.
    pub revenue_cents: i64,
}

/// The totals that are shown while a load runs, second copies included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SoFar {
    /// Events, without table rows.
    pub events: u64,
    /// Pieces over all order lines.
    pub quantity: i64,
    pub revenue_cents: i64,
}

impl Totals {
    /// What was generated so far, in short: events that were sent twice once.
    pub fn so_far(&self) -> SoFar {
        let sums = &self.distinct;
        let events = sums.records.iter().filter(|(topic, _)| !topic.is_table()).map(|(_, n)| n).sum();
        SoFar { events, quantity: sums.quantity, revenue_cents: sums.revenue_cents }
    }

    /// Counts one event; the model does it for each that it hands out.
    pub fn count(&mut self, event: &Event) {
        let sums = if event.duplicate { &mut self.duplicates } else { &mut self.distinct };
        *sums.records.entry(event.topic()).or_default() += 1;
        match &event.payload {
            Payload::Order(order) => sums.order(order.timestamp_ms, &order.data),
            Payload::Payment(payment) => sums.paid_cents += payment.data.amount_cents,
            Payload::Adjustment(adjustment) => {
                // No entry() by value: the key is shared, and cloning it for each event would be the cost of this function.
                match sums.stock.get_mut(&adjustment.data.sku) {
                    Some(stock) => *stock += i64::from(adjustment.data.delta),
                    None => {
                        sums.stock.insert(adjustment.data.sku.clone(), i64::from(adjustment.data.delta));
                    }
                }
            }
            Payload::Product(_) | Payload::Customer(_) | Payload::Registration(_) => {}
        }
    }

    /// Everything that was sent, second copies included: what a pipeline without deduplication adds up.
    pub fn sent(&self) -> Sums {
        let mut sums = self.distinct.clone();
        sums += &self.duplicates;
        sums
    }

    /// Records of the load and its tables, second copies included.
    pub fn records(&self) -> u64 {
        self.distinct.records.values().chain(self.duplicates.records.values()).sum()
    }
}

impl Sums {
    fn order(&mut self, timestamp_ms: i64, order: &Order) {
        self.orders += 1;
        self.late_orders += u64::from(order.late);
        if order.total_cents > HIGH_VALUE_CENTS {
            self.high_value_orders += 1;
            self.high_value_cents += order.total_cents;
        }
        let minute = timestamp_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
        for (at, item) in order.items.iter().enumerate() {
            let (quantity, again) = (i64::from(item.quantity), order.items.iter().take(at).any(|i| i.product_id == item.product_id));
            let revenue = quantity * item.unit_price_cents;
            self.lines += 1;
            self.quantity += quantity;
            self.revenue_cents += revenue;
            *self.revenue_by_category.entry(item.category).or_default() += revenue;
            *self.by_minute.entry((minute, item.product_id.clone())).or_default() +=
                &Cell { orders: u64::from(!again), quantity, revenue_cents: revenue };
        }
    }
}

impl AddAssign<&Cell> for Cell {
    fn add_assign(&mut self, other: &Cell) {
        self.orders += other.orders;
        self.quantity += other.quantity;
        self.revenue_cents += other.revenue_cents;
    }
}

impl AddAssign<&Sums> for Sums {
    fn add_assign(&mut self, other: &Sums) {
        self.orders += other.orders;
        self.late_orders += other.late_orders;
        self.lines += other.lines;
        self.quantity += other.quantity;
        self.revenue_cents += other.revenue_cents;
        self.high_value_orders += other.high_value_orders;
        self.high_value_cents += other.high_value_cents;
        self.paid_cents += other.paid_cents;
        other.records.iter().for_each(|(topic, n)| *self.records.entry(*topic).or_default() += n);
        other.revenue_by_category.iter().for_each(|(category, n)| *self.revenue_by_category.entry(category).or_default() += n);
        other.by_minute.iter().for_each(|(key, cell)| *self.by_minute.entry(key.clone()).or_default() += cell);
        other.stock.iter().for_each(|(sku, n)| *self.stock.entry(sku.clone()).or_default() += n);
    }
}

/// A pair is not a key in JSON: the cells become a list of rows.
fn cells<S: Serializer>(cells: &BTreeMap<MinuteProduct, Cell>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        minute_ms: i64,
        product_id: &'a str,
        #[serde(flatten)]
        cell: &'a Cell,
    }
    let mut rows = serializer.serialize_seq(Some(cells.len()))?;
    for ((minute_ms, product_id), cell) in cells {
        rows.serialize_element(&Row { minute_ms: *minute_ms, product_id, cell })?;
    }
    rows.end()
}

/// Shared strings as plain ones.
fn by_name<S: Serializer>(sums: &BTreeMap<Arc<str>, i64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(sums.iter().map(|(name, sum)| (&**name, sum)))
}
