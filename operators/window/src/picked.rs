//! One value out of many, chosen by its row: `first`, `last`, `min_by` and `max_by`.
//!
//! Rows have a total order that does not depend on arrival: event time, then topic, partition and offset. Rows of one
//! record (an unnest) share their place: of those, arrival decides, which is their order in the record.

use std::cmp::Ordering;
use std::sync::Arc;

use operator_core::Millis;
use operator_core::stores::bytes::{Reader, put_bytes, put_i128};

use crate::accumulator::Row;
use crate::values::{Column, Value};

/// The place of a row among all rows of a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place<T> {
    time: Millis,
    topic: T,
    partition: i32,
    offset: i64,
}

impl<T: AsRef<str>> Place<T> {
    fn borrowed(&self) -> Place<&str> {
        Place { time: self.time, topic: self.topic.as_ref(), partition: self.partition, offset: self.offset }
    }
}

impl Place<Arc<str>> {
    /// For values written before positions were kept: at the same time, rows of any partition come after it.
    fn without_position(time: Millis, offset: i64) -> Place<Arc<str>> {
        Place { time, offset, topic: "".into(), partition: -1 }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_i128(self.time.into(), out);
        put_bytes(self.topic.as_bytes(), out);
        put_i128(self.partition.into(), out);
        put_i128(self.offset.into(), out);
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Place<Arc<str>>> {
        let time = reader.i64()?;
        let topic = std::str::from_utf8(reader.bytes()?).ok()?.into();
        Some(Place { time, topic, partition: reader.i64()?.try_into().ok()?, offset: reader.i64()? })
    }
}

impl Row<'_> {
    fn place(&self) -> Place<&str> {
        Place { time: self.time, topic: &self.origin.topic, partition: self.origin.partition, offset: self.offset }
    }

    fn kept_place(&self) -> Place<Arc<str>> {
        Place { time: self.time, topic: self.origin.topic.clone(), partition: self.origin.partition, offset: self.offset }
    }
}

/// Which end of an order is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Least,
    Greatest,
}

impl End {
    /// True if a row that compares as `new` to the kept one replaces it. Of equals, the one that came last is the greatest.
    fn takes(self, new: Ordering) -> bool {
        match self {
            End::Least => new == Ordering::Less,
            End::Greatest => new != Ordering::Less,
        }
    }
}

/// A value and the place of the row it comes from.
#[derive(Clone, Debug)]
pub struct Picked {
    /// The row's time is not believed: any other row replaces it.
    future: bool,
    place: Place<Arc<str>>,
    value: Value,
}

impl Picked {
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Keeps the value in `row` if its row comes before (or after) that of `kept`.
    pub fn add(kept: &mut Option<Box<Picked>>, end: End, column: &Column<'_>, row: Row<'_>) {
        if column.is_null(row.index) {
            return;
        }
        let replaces = match kept {
            Some(kept) if kept.future != row.future => kept.future,
            Some(kept) => end.takes(row.place().cmp(&kept.place.borrowed())),
            None => true,
        };
        if replaces && let Some(value) = column.value(row.index) {
            replace(kept, Picked { future: row.future, place: row.kept_place(), value });
        }
    }

    /// True if this value is to be kept instead of `kept`.
    pub fn replaces(&self, kept: &Picked, end: End) -> bool {
        match self.future == kept.future {
            true => end.takes(self.place.cmp(&kept.place)),
            false => kept.future,
        }
    }

    /// As it was written before positions were kept.
    pub fn decode_without_position(reader: &mut Reader<'_>) -> Option<Picked> {
        let place = Place::without_position(reader.i64()?, reader.i64()?);
        Some(Picked { future: false, place, value: Value::decode(reader)? })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.future.into());
        self.place.encode(out);
        self.value.encode(out);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Option<Picked> {
        let future = reader.u8()? != 0;
        Some(Picked { future, place: Place::decode(reader)?, value: Value::decode(reader)? })
    }
}

/// The value of the row with the least or the greatest order.
#[derive(Clone, Debug)]
pub struct Best {
    order: Value,
    /// Decides between equal orders.
    picked: Picked,
}

impl Best {
    pub fn value(&self) -> &Value {
        &self.picked.value
    }

    /// Keeps the value in `row` if its order is beyond that of `kept`. Rows in which one of the two is null are left out.
    pub fn add(kept: &mut Option<Box<Best>>, end: End, (value, order): (&Column<'_>, &Column<'_>), row: Row<'_>) {
        if value.is_null(row.index) {
            return;
        }
        let replaces = match kept {
            Some(kept) => match order.compare(row.index, &kept.order) {
                None => false,
                Some(Ordering::Equal) if kept.picked.future != row.future => kept.picked.future,
                Some(Ordering::Equal) => end.takes(row.place().cmp(&kept.picked.place.borrowed())),
                Some(other) => end.takes(other),
            },
            None => true,
        };
        if replaces && let (Some(value), Some(order)) = (value.value(row.index), order.value(row.index)) {
            let picked = Picked { future: row.future, place: row.kept_place(), value };
            replace(kept, Best { order, picked });
        }
    }

    /// True if this value is to be kept instead of `kept`.
    pub fn replaces(&self, kept: &Best, end: End) -> bool {
        match self.order.compare(&kept.order) {
            None => false,
            Some(Ordering::Equal) => self.picked.replaces(&kept.picked, end),
            Some(other) => end.takes(other),
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.order.encode(out);
        self.picked.encode(out);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Option<Best> {
        Some(Best { order: Value::decode(reader)?, picked: Picked::decode(reader)? })
    }
}

fn replace<T>(kept: &mut Option<Box<T>>, new: T) {
    match kept {
        Some(kept) => **kept = new,
        None => *kept = Some(Box::new(new)),
    }
}
