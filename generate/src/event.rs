//! What the load consists of: typed events, before any encoding.
//!
//! Money is in integer cents and time in milliseconds since 1970 (UTC) throughout; only an encoder turns them into decimals,
//! numbers and ISO-8601.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::topics::Topic;

/// One record of the load.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Time of the Kafka record: when the event arrives. Never decreases from one event to the next.
    pub timestamp_ms: i64,
    /// What happened.
    pub payload: Payload,
    /// The second copy of an event that was sent before: same eventId, same bytes, later record time.
    pub duplicate: bool,
}

/// The events and table rows, by topic.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "orders are the largest variant and also the most frequent; a box would cost an allocation each"
)]
pub enum Payload {
    /// A row of the product table.
    Product(Product),
    /// A row of the customer table.
    Customer(Customer),
    /// A customer placed an order.
    Order(Envelope<Order>),
    /// A payment for an order went through.
    Payment(Envelope<Payment>),
    /// The stock of a product changed.
    Adjustment(Envelope<Adjustment>),
    /// A customer registered.
    Registration(Envelope<Registration>),
}

/// The platform's envelope around the payload of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<D> {
    /// Identity of the event.
    pub event_id: Uuid,
    /// When it happened: the event time.
    pub timestamp_ms: i64,
    /// Shared by all events of one business transaction; also the trace id of the `traceparent` header.
    pub correlation_id: Uuid,
    /// The event that caused this one.
    pub causation_id: Option<Uuid>,
    /// Span id of the `traceparent` header.
    pub span_id: u64,
    /// What happened.
    pub data: D,
}

/// An order as placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Identity of the order.
    pub order_id: Uuid,
    /// Who ordered; the key of the record.
    pub customer_id: Uuid,
    /// ISO 4217 code.
    pub currency: &'static str,
    /// web, mobile, store or partner.
    pub channel: &'static str,
    /// One to five lines; the same product may appear twice.
    pub items: Vec<Item>,
    /// Sum of quantity times unit price.
    pub total_cents: i64,
    /// Absent for an order collected in a store.
    pub shipping_country: Option<&'static str>,
    /// `Some` in events of schema version 2, which has the field; within, the coupon or its absence.
    pub coupon_code: Option<Option<&'static str>>,
    /// Made to arrive minutes after it happened (`Options::late`), far outside the out-of-order bound.
    pub late: bool,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The product.
    pub product_id: Arc<str>,
    /// Its category: not part of the event, but what a join with the catalogue will find.
    pub category: &'static str,
    /// Pieces.
    pub quantity: i32,
    /// Price of one piece.
    pub unit_price_cents: i64,
}

/// A payment.
#[derive(Debug, Clone, PartialEq)]
pub struct Payment {
    /// Identity of the payment.
    pub payment_id: Uuid,
    /// The order that was paid; the key of the record.
    pub order_id: Uuid,
    /// Who paid.
    pub customer_id: Uuid,
    /// The total of the order.
    pub amount_cents: i64,
    /// ISO 4217 code.
    pub currency: &'static str,
    /// card, paypal, invoice or transfer.
    pub method: &'static str,
}

/// Why stock changed. The order is that of the Avro enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// Goods came in.
    Received,
    /// Set aside for an order.
    Reserved,
    /// A reservation was given up.
    Released,
    /// Goods went out.
    Shipped,
    /// A count found another number.
    Corrected,
}

/// A change of stock.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjustment {
    /// Identity of the adjustment.
    pub adjustment_id: Uuid,
    /// The product; the key of the record.
    pub sku: Arc<str>,
    /// The place.
    pub warehouse: &'static str,
    /// Pieces; positive adds. The sum over all adjustments of a product never falls below zero (duplicates left aside).
    pub delta: i32,
    /// Why.
    pub reason: Reason,
    /// Stock at or below which to reorder; constant per product.
    pub reorder_level: i32,
}

/// A registration.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The new customer; the key of the record.
    pub customer_id: Uuid,
    /// Tier at the start.
    pub tier: &'static str,
    /// ISO 3166 alpha-2 code.
    pub country: &'static str,
    /// web, mobile, store or partner.
    pub channel: &'static str,
}

/// A row of the product table.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// The key.
    pub product_id: Arc<str>,
    /// Name for users.
    pub name: Arc<str>,
    /// One of [`crate::CATEGORIES`]; never changes for a product.
    pub category: &'static str,
    /// List price.
    pub price_cents: i64,
    /// Since when.
    pub updated_at_ms: i64,
}

/// A row of the customer table.
#[derive(Debug, Clone, PartialEq)]
pub struct Customer {
    /// The key.
    pub customer_id: Uuid,
    /// standard, silver, gold or platinum.
    pub tier: &'static str,
    /// ISO 3166 alpha-2 code.
    pub country: &'static str,
    /// Since when.
    pub updated_at_ms: i64,
}

/// The ids that travel as record headers; rows of tables have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Header `correlation-id`.
    pub correlation_id: Uuid,
    /// Header `causation-id`, when there is a cause.
    pub causation_id: Option<Uuid>,
    /// Header `traceparent` (W3C Trace Context): the correlation id as trace id, sampled.
    pub traceparent: String,
}

impl Event {
    /// Where it goes.
    pub fn topic(&self) -> Topic {
        match &self.payload {
            Payload::Product(_) => Topic::Products,
            Payload::Customer(_) => Topic::Customers,
            Payload::Order(_) => Topic::Orders,
            Payload::Payment(_) => Topic::Payments,
            Payload::Adjustment(_) => Topic::Inventory,
            Payload::Registration(_) => Topic::Registrations,
        }
    }

    /// Index into [`Topic::schemas`] of the version it is written with.
    pub fn schema_index(&self) -> usize {
        match &self.payload {
            Payload::Order(order) if order.data.coupon_code.is_some() => 1,
            _ => 0,
        }
    }

    /// The key of the record, UTF-8.
    pub fn key(&self) -> String {
        match &self.payload {
            Payload::Product(product) => product.product_id.to_string(),
            Payload::Customer(customer) => customer.customer_id.to_string(),
            Payload::Order(order) => order.data.customer_id.to_string(),
            Payload::Payment(payment) => payment.data.order_id.to_string(),
            Payload::Adjustment(adjustment) => adjustment.data.sku.to_string(),
            Payload::Registration(registration) => registration.data.customer_id.to_string(),
        }
    }

    /// The event time: the envelope's timestamp, or a table row's `updated_at`.
    pub fn event_time_ms(&self) -> i64 {
        match &self.payload {
            Payload::Product(product) => product.updated_at_ms,
            Payload::Customer(customer) => customer.updated_at_ms,
            Payload::Order(order) => order.timestamp_ms,
            Payload::Payment(payment) => payment.timestamp_ms,
            Payload::Adjustment(adjustment) => adjustment.timestamp_ms,
            Payload::Registration(registration) => registration.timestamp_ms,
        }
    }

    /// The record headers, for events in an envelope.
    pub fn headers(&self) -> Option<Headers> {
        match &self.payload {
            Payload::Product(_) | Payload::Customer(_) => None,
            Payload::Order(order) => Some(order.headers()),
            Payload::Payment(payment) => Some(payment.headers()),
            Payload::Adjustment(adjustment) => Some(adjustment.headers()),
            Payload::Registration(registration) => Some(registration.headers()),
        }
    }
}

impl<D> Envelope<D> {
    fn headers(&self) -> Headers {
        Headers {
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            traceparent: format!("00-{}-{:016x}-01", self.correlation_id.simple(), self.span_id),
        }
    }
}
