//! The shapes on the wire, shared by both formats: field names and their order, which must be the order of the Avro schemas
//! because apache-avro's serde writer emits fields as they come.
//!
//! The formats differ in two leaves only, time and money. [`Wire`] names the difference, so that a field cannot be in one format
//! and missing in the other.

use std::marker::PhantomData;

use serde::ser::{SerializeStruct, Serializer};
use serde::{Serialize, ser};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::event::{Adjustment, Customer, Envelope, Event, Item, Order, Payload, Payment, Product, Registration};

/// How a format writes time and money.
pub(crate) trait Wire: Copy {
    fn time<S: Serializer>(ms: i64, serializer: S) -> Result<S::Ok, S::Error>;
    fn money<S: Serializer>(cents: i64, serializer: S) -> Result<S::Ok, S::Error>;
}

/// ISO-8601 with milliseconds and Z; numbers with two decimals.
#[derive(Clone, Copy)]
pub(crate) struct Json;

/// timestamp-millis; decimal with scale 2 in the fewest bytes of two's complement, big endian.
#[derive(Clone, Copy)]
pub(crate) struct Avro;

impl Wire for Json {
    fn time<S: Serializer>(ms: i64, serializer: S) -> Result<S::Ok, S::Error> {
        let time = chrono::DateTime::from_timestamp_millis(ms)
            .ok_or_else(|| ser::Error::custom(format_args!("{ms} ms since 1970 lies outside the calendar")))?;
        serializer.collect_str(&time.format("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }

    fn money<S: Serializer>(cents: i64, serializer: S) -> Result<S::Ok, S::Error> {
        let sign = if cents < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
        // As text, because no float can promise its trailing zero.
        RawValue::from_string(text).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl Wire for Avro {
    fn time<S: Serializer>(ms: i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(ms)
    }

    fn money<S: Serializer>(cents: i64, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = cents.to_be_bytes();
        // A leading byte is superfluous when it only repeats the sign bit of the next one.
        let superfluous = bytes
            .windows(2)
            .take_while(|pair| matches!(pair, [0, next] if next & 0x80 == 0) || matches!(pair, [0xff, next] if next & 0x80 != 0))
            .count();
        serializer.serialize_bytes(bytes.get(superfluous..).unwrap_or(&bytes))
    }
}

struct Time<W>(i64, PhantomData<W>);
struct Money<W>(i64, PhantomData<W>);
struct Id(Uuid);

fn time<W>(ms: i64) -> Time<W> {
    Time(ms, PhantomData)
}

fn money<W>(cents: i64) -> Money<W> {
    Money(cents, PhantomData)
}

impl<W: Wire> Serialize for Time<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        W::time(self.0, serializer)
    }
}

impl<W: Wire> Serialize for Money<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        W::money(self.0, serializer)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut [0; uuid::fmt::Hyphenated::LENGTH]))
    }
}

/// A borrowed value in the shape of one format.
struct In<'a, W, T>(&'a T, PhantomData<W>);

fn within<W, T>(value: &T) -> In<'_, W, T> {
    In(value, PhantomData)
}

/// An event in the shape of format `W`.
pub(crate) struct Shaped<'a, W>(pub(crate) &'a Event, pub(crate) W);

impl<W: Wire> Serialize for Shaped<'_, W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.payload {
            Payload::Product(row) => within::<W, _>(row).serialize(serializer),
            Payload::Customer(row) => within::<W, _>(row).serialize(serializer),
            Payload::Order(event) => {
                let version = if event.data.coupon_code.is_some() { "1.1.0" } else { "1.0.0" };
                envelope::<W, _, S>(event, ["order.created", version, "order-service"], serializer)
            }
            Payload::Payment(event) => envelope::<W, _, S>(event, ["payment.completed", "1.0.0", "payment-service"], serializer),
            Payload::Adjustment(event) => envelope::<W, _, S>(event, ["inventory.adjusted", "1.0.0", "inventory-service"], serializer),
            Payload::Registration(event) => envelope::<W, _, S>(event, ["user.registered", "1.0.0", "user-service"], serializer),
        }
    }
}

fn envelope<'a, W: Wire, D, S: Serializer>(
    event: &'a Envelope<D>,
    [kind, version, source]: [&'static str; 3],
    serializer: S,
) -> Result<S::Ok, S::Error>
where
    In<'a, W, D>: Serialize,
{
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct EventMetadata {
        correlation_id: Id,
        causation_id: Option<Id>,
        schema_version: Option<&'static str>,
    }
    let mut record = serializer.serialize_struct("Event", 7)?;
    record.serialize_field("eventId", &Id(event.event_id))?;
    record.serialize_field("eventType", kind)?;
    record.serialize_field("eventVersion", version)?;
    record.serialize_field("timestamp", &time::<W>(event.timestamp_ms))?;
    record.serialize_field("source", source)?;
    record.serialize_field("data", &In::<W, D>(&event.data, PhantomData))?;
    record.serialize_field(
        "metadata",
        &EventMetadata {
            correlation_id: Id(event.correlation_id),
            causation_id: event.causation_id.map(Id),
            schema_version: Some(version),
        },
    )?;
    record.end()
}

/// Writes the `Serialize` of a shape: its Avro field names and where their values come from.
macro_rules! shape {
    ($type:ty as $wire:ident, $value:ident => { $($field:literal: $from:expr,)* }) => {
        impl<$wire: Wire> Serialize for In<'_, $wire, $type> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let $value = self.0;
                let mut record = serializer.serialize_struct(stringify!($type), [$($field),*].len())?;
                $(record.serialize_field($field, &$from)?;)*
                record.end()
            }
        }
    };
}

shape!(Item as W, item => {
    "productId": *item.product_id,
    "quantity": item.quantity,
    "unitPrice": money::<W>(item.unit_price_cents),
});

shape!(Payment as W, payment => {
    "paymentId": Id(payment.payment_id),
    "orderId": Id(payment.order_id),
    "customerId": Id(payment.customer_id),
    "amount": money::<W>(payment.amount_cents),
    "currency": payment.currency,
    "method": payment.method,
});

shape!(Adjustment as W, adjustment => {
    "adjustmentId": Id(adjustment.adjustment_id),
    "sku": *adjustment.sku,
    "warehouse": adjustment.warehouse,
    "delta": adjustment.delta,
    "reason": adjustment.reason,
    "reorderLevel": adjustment.reorder_level,
});

shape!(Registration as W, registration => {
    "customerId": Id(registration.customer_id),
    "tier": registration.tier,
    "country": registration.country,
    "channel": registration.channel,
});

shape!(Product as W, product => {
    "product_id": *product.product_id,
    "name": *product.name,
    "category": product.category,
    "price": money::<W>(product.price_cents),
    "updated_at": time::<W>(product.updated_at_ms),
});

shape!(Customer as W, customer => {
    "customer_id": Id(customer.customer_id),
    "tier": customer.tier,
    "country": customer.country,
    "updated_at": time::<W>(customer.updated_at_ms),
});

impl<W: Wire> Serialize for In<'_, W, Order> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let order = self.0;
        let mut record = serializer.serialize_struct("Order", if order.coupon_code.is_some() { 8 } else { 7 })?;
        record.serialize_field("orderId", &Id(order.order_id))?;
        record.serialize_field("customerId", &Id(order.customer_id))?;
        record.serialize_field("currency", order.currency)?;
        record.serialize_field("channel", order.channel)?;
        record.serialize_field("items", &Items::<W>(&order.items, PhantomData))?;
        record.serialize_field("total", &money::<W>(order.total_cents))?;
        record.serialize_field("shippingCountry", &order.shipping_country)?;
        if let Some(coupon) = &order.coupon_code {
            record.serialize_field("couponCode", coupon)?;
        }
        record.end()
    }
}

struct Items<'a, W>(&'a [Item], PhantomData<W>);

impl<W: Wire> Serialize for Items<'_, W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(within::<W, Item>))
    }
}
