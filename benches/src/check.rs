//! A fast wrong answer is not an answer: outputs are read back with `read_committed` and compared with what the orders
//! say.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cluster::Cluster;
use crate::commands::{Commands, Outcomes};
use crate::contender::{Run, Work};
use crate::orders::{Expected, Orders};
use crate::payments;

#[derive(Deserialize)]
struct Projected<'a> {
    order_id: &'a str,
    total: f64,
}

#[derive(Deserialize)]
struct Windowed<'a> {
    product_id: &'a str,
    #[serde(borrow)]
    window_end: &'a RawValue,
    orders: u64,
    revenue: f64,
}

#[derive(Deserialize)]
struct Joined<'a> {
    order_id: &'a str,
    product_id: &'a str,
    payment_id: &'a str,
    amount: f64,
    method: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    event_type: &'a str,
    #[serde(borrow)]
    data: Decision<'a>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Decision<'a> {
    sku: &'a str,
    order_id: &'a str,
    quantity: Option<u64>,
}

#[derive(Deserialize)]
struct Metadata {
    sequence: Option<u64>,
}

/// ISO 8601, or milliseconds since 1970.
fn millis(instant: &RawValue) -> Result<i64, String> {
    let text = instant.get().trim_matches('"');
    text.parse().or_else(|_| chrono::DateTime::parse_from_rfc3339(text).map(|t| t.timestamp_millis())).map_err(|e| format!("{text}: {e}"))
}

/// The number behind the letter and dash of an id.
fn number(id: &str) -> Result<u64, String> {
    id.get(2..).and_then(|digits| digits.parse().ok()).ok_or_else(|| format!("not an id of ours: {id}"))
}

fn parse<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(value)))
}

/// Compares what a run wrote with what it must contain. Returns the number of its records.
pub fn output(cluster: &Cluster, run: &Run, work: Work, orders: &Orders, expected: &Expected) -> Result<u64, String> {
    let topic = &run.output();
    match work {
        Work::Copy => {
            let records = cluster.read_all(topic, |_| Ok(()))?;
            same("records", records, orders.count).map(|()| records)
        }
        Work::W1 => projected(cluster, topic, expected),
        Work::W2 | Work::W2R => windowed(cluster, topic, expected),
        Work::Join => joined(cluster, topic, orders),
        Work::Aggregate => decided(cluster, [topic, &run.rejected()], &Commands::as_many_as(orders)),
    }
}

fn same(what: &str, found: u64, expected: u64) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("wrong output: {found} {what}, not {expected}")) }
}

fn projected(cluster: &Cluster, topic: &str, expected: &Expected) -> Result<u64, String> {
    let (mut numbers, mut cents) = (0, 0);
    let records = cluster.read_all(topic, |value| {
        let row: Projected<'_> = parse(value)?;
        numbers += number(row.order_id)?;
        cents += (row.total * 100.0).round() as u64;
        Ok(())
    })?;
    same("records", records, expected.large)?;
    same("as the sum of order numbers", numbers, expected.numbers)?;
    same("cents as the sum of totals", cents, expected.total_cents)?;
    Ok(records)
}

fn windowed(cluster: &Cluster, topic: &str, expected: &Expected) -> Result<u64, String> {
    let mut left = expected.windows.clone();
    let mut rows = 0;
    let records = cluster.read_all(topic, |value| {
        let row: Windowed<'_> = parse(value)?;
        let place = (number(row.product_id)?, millis(row.window_end)?);
        let cell =
            left.remove(&place).ok_or_else(|| format!("wrong output: no such window, or twice: {}", String::from_utf8_lossy(value)))?;
        if row.orders != cell.orders || (row.revenue * 100.0).round() as u64 != cell.cents {
            return Err(format!("wrong output: {} instead of {cell:?}", String::from_utf8_lossy(value)));
        }
        rows += row.orders;
        Ok(())
    })?;
    same("results are missing", left.len() as u64, 0)?;
    same("rows in closed windows", rows, expected.windowed)?;
    Ok(records)
}

/// Each order whose payment came in time, once, with that payment.
fn joined(cluster: &Cluster, topic: &str, orders: &Orders) -> Result<u64, String> {
    let mut missing: Vec<bool> = (0..orders.count).map(payments::in_time).collect();
    let records = cluster.read_all(topic, |value| {
        let row: Joined<'_> = parse(value)?;
        let id = number(row.order_id)?;
        let expected = usize::try_from(id).ok().and_then(|id| missing.get_mut(id)).is_some_and(std::mem::take);
        let (order, cents) = (orders.order(id), (row.amount * 100.0).round() as u64);
        let columns_of_order = cents == order.cents && number(row.product_id)? == order.product;
        let columns_of_payment = number(row.payment_id)? == id && row.method == payments::method(id);
        match expected && columns_of_order && columns_of_payment {
            true => Ok(()),
            false => Err(format!("wrong output: no such pair, or twice: {}", String::from_utf8_lossy(value))),
        }
    })?;
    same("pairs are missing", missing.iter().filter(|missing| **missing).count() as u64, 0)?;
    Ok(records)
}

/// What came of each command, once.
fn decided(cluster: &Cluster, topics: [&str; 2], commands: &Commands) -> Result<u64, String> {
    let mut found = Outcomes::default();
    for topic in topics {
        cluster.read_all(topic, |value| {
            let Outcome { event_type, data, metadata } = parse(value)?;
            let accepted = metadata.sequence.filter(|_| !event_type.ends_with(".rejected")).unwrap_or(0);
            found.add(event_type, number(data.sku)?, number(data.order_id)?, data.quantity.unwrap_or(0), accepted);
            Ok(())
        })?;
    }
    found.compare(&commands.outcomes())?;
    Ok(found.count)
}
