//! The input of the join: orders by their id, and a payment of each, most of them in time.

use std::io::Write;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::native::Producer;
use crate::orders::{Order, Orders, now_ns, partition, random};

/// How long after its order a payment is joined with it, as in `pipelines/wj.yaml`, and how long after it payments come: milliseconds.
const WITHIN: u64 = 600_000;
const LATEST: u64 = 800_000;
/// Event time of the orders, in seconds: six times as long as a row is kept.
const SPAN: u64 = 3_600;

const METHOD: [&str; 4] = ["card", "transfer", "invoice", "wallet"];

/// Orders whose payments have all come by `now`, milliseconds since 1970.
pub fn orders(count: u64, now: i64) -> Orders {
    Orders::new(count, count / SPAN, now - LATEST as i64)
}

/// How long after its order the payment of order `number` comes, in milliseconds.
fn delay(number: u64) -> u64 {
    random(u64::MAX - number) % LATEST
}

/// How order `number` is paid.
pub fn method(number: u64) -> &'static str {
    METHOD[number as usize % METHOD.len()]
}

/// True if the payment of order `number` is joined.
pub fn in_time(number: u64) -> bool {
    delay(number) <= WITHIN
}

/// Event time and order of all payments, in the order of time.
fn payments(orders: &Orders) -> Vec<(i64, u64)> {
    let mut payments: Vec<(i64, u64)> = orders.iter().map(|order| (order.event_time + delay(order.number) as i64, order.number)).collect();
    payments.sort_unstable();
    payments
}

fn id(number: u64, out: &mut Vec<u8>) {
    out.clear();
    // Writing to a vector does not fail.
    let _ = write!(out, "o-{number:012}");
}

/// Fills the two topics.
pub fn fill(cluster: &Cluster, orders: &Orders, topic: &str, payments_topic: &str) -> Result<(), String> {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut send = |topic: &str, rows: &mut dyn Iterator<Item = (u64, Row)>| {
        cluster.create(topic)?;
        let producer = Producer::new(&cluster.bootstrap, None, topic, Duration::from_millis(20))?;
        for (nth, (number, row)) in rows.enumerate() {
            id(number, &mut key);
            value.clear();
            row.value(number, &mut value);
            producer.send(partition(&key), &key, &value)?;
            if nth % 1_024 == 0 {
                producer.serve(Duration::ZERO);
            }
        }
        producer.flush()
    };
    send(topic, &mut orders.iter().map(|order| (order.number, Row::Order(order))))?;
    send(payments_topic, &mut payments(orders).into_iter().map(|(time, number)| (number, Row::Payment(time))))
}

/// What a record is of; a payment with its event time.
enum Row {
    Order(Order),
    Payment(i64),
}

impl Row {
    fn value(&self, number: u64, out: &mut Vec<u8>) {
        match self {
            Row::Order(order) => order.value(now_ns(), out),
            Row::Payment(time) => {
                let method = method(number);
                let _ = write!(
                    out,
                    "{{\"payment_id\":\"x-{number:012}\",\"order_id\":\"o-{number:012}\",\"method\":\"{method}\",\"currency\":\"EUR\",\
                     \"event_time\":{time}}}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_come_in_the_order_of_time_and_three_quarters_of_them_in_time() {
        let orders = orders(36_000, 1_700_000_000_000);
        let payments = payments(&orders);
        assert!(payments.is_sorted() && payments.len() == 36_000);
        assert!(payments.iter().all(|(time, number)| *time >= orders.order(*number).event_time && *time < 1_700_000_000_000));
        let in_time = (0..36_000).filter(|number| in_time(*number)).count();
        assert!((26_000..28_000).contains(&in_time), "{in_time}");
        let mut value = Vec::new();
        Row::Payment(payments[0].0).value(payments[0].1, &mut value);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&value).unwrap()["event_time"].as_i64(), Some(payments[0].0));
    }
}
