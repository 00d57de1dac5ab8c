//! Orders as a shop's customers place them, and the stock that they are to be filled from.

use serde_json::{Value, json};
use uuid::Uuid;

use super::event::{Head, Record, event, id_of, members, money};
use crate::random::{Random, Zipf};

/// What determines orders, times aside.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderOptions {
    /// Everything random follows from it. A second run with it places the same orders, under the same ids.
    pub seed: u64,
    /// Number of orders; `None`: without end.
    pub count: Option<u64>,
    /// Number of SKUs. The first are ordered most.
    pub skus: u32,
    /// Of these, the hottest, whose stock is divided into buckets.
    pub hot: u32,
    /// Buckets of a hot SKU, 1 to 16.
    pub buckets: u32,
    /// Number of customers.
    pub customers: u32,
    /// Least and greatest number of lines of an order. Each has a SKU of its own.
    pub lines: (u32, u32),
    /// Pieces of each SKU that are received before the first order, over all of its buckets.
    pub stock: u64,
}

impl Default for OrderOptions {
    fn default() -> OrderOptions {
        OrderOptions { seed: 1, count: None, skus: 100, hot: 5, buckets: 1, customers: 1_000, lines: (1, 4), stock: 0 }
    }
}

/// The topic of placed orders.
const ORDERS: &str = "business.orders.placed";
/// The topic of commands to the stock.
const STOCK: &str = "commands.inventory";

/// Records of a run: commands that receive the stock, then orders. Times are given by whoever writes them.
#[derive(Debug)]
pub struct Orders {
    options: OrderOptions,
    random: Random,
    popularity: Zipf,
    prices: Vec<i64>,
    customers: Vec<Uuid>,
    number: u64,
}

impl Orders {
    /// The orders that these options determine.
    pub fn new(options: OrderOptions) -> Orders {
        let mut random = Random::new(options.seed, 20);
        let skus = options.skus.max(1);
        Orders {
            popularity: Zipf::new(skus as usize),
            prices: (0..skus).map(|_| random.between(99, 9_999)).collect(),
            customers: (0..options.customers.max(1)).map(|_| random.uuid()).collect(),
            random,
            number: 0,
            options,
        }
    }

    fn buckets(&self, sku: usize) -> u32 {
        if sku < self.options.hot as usize { self.options.buckets.clamp(1, 16) } else { 1 }
    }

    /// Commands that receive the stock for the n-th time (from 0), as of `timestamp_ms`: one for each bucket of each SKU.
    pub fn stock(&self, round: u64, timestamp_ms: i64) -> impl Iterator<Item = Record> + '_ {
        let received = move |sku: usize| (0..self.buckets(sku)).map(move |bucket| self.receive(round, sku, bucket, timestamp_ms));
        (0..self.prices.len()).filter(|_| self.options.stock > 0).flat_map(received)
    }

    fn receive(&self, round: u64, sku: usize, bucket: u32, timestamp_ms: i64) -> Record {
        let (buckets, stock, seed) = (u64::from(self.buckets(sku)), self.options.stock, self.options.seed.to_string());
        // The first buckets take what can't be divided.
        let quantity = stock / buckets + u64::from(u64::from(bucket) < stock % buckets);
        let (name, bucket) = (sku_name(sku), u64::from(bucket));
        let id = id_of(&["receive", &seed, &round.to_string(), &name, &bucket.to_string()]);
        let correlation = id.to_string();
        let data = members([("sku", name.clone().into()), ("bucket", bucket.into()), ("quantity", quantity.into())]);
        let head = Head { id, name: "inventory.receive", source: "warehouse", timestamp_ms, correlation: &correlation, causation: None };
        // As a sink with `key: [data.sku, data.bucket]` writes it: all commands of a bucket are in one partition.
        let key = format!("{{\"sku\":{},\"bucket\":{bucket}}}", json!(name));
        Record { topic: STOCK, key, timestamp_ms, value: event(&head, data) }
    }

    /// The next order, placed at `timestamp_ms`; `None` after the last one.
    pub fn place(&mut self, timestamp_ms: i64) -> Option<Record> {
        if self.options.count.is_some_and(|count| self.number >= count) {
            return None;
        }
        let seed = self.options.seed.to_string();
        let order = id_of(&["order", &seed, &self.number.to_string()]).to_string();
        self.number += 1;
        let customer = self.customers[self.random.index(self.customers.len())].to_string();
        let (low, high) = self.options.lines;
        let lines = self.random.between(i64::from(low.max(1)), i64::from(high.max(low).max(1))).min(self.prices.len() as i64);
        let mut chosen: Vec<usize> = Vec::new();
        while (chosen.len() as i64) < lines {
            let sku = self.popularity.draw(&mut self.random);
            // A SKU is on one line: its reservation is known by the order.
            if !chosen.contains(&sku) {
                chosen.push(sku);
            }
        }
        let mut total = 0;
        let items: Vec<Value> = chosen
            .into_iter()
            .map(|sku| {
                let (quantity, price) = (self.random.pick(&[(70, 1), (18, 2), (7, 3)], 5), self.prices[sku]);
                total += quantity * price;
                json!({ "sku": sku_name(sku), "quantity": quantity, "unitPrice": money(price), "buckets": self.buckets(sku) })
            })
            .collect();
        let data = members([
            ("orderId", order.clone().into()),
            ("customerId", customer.clone().into()),
            ("items", items.into()),
            ("total", money(total)),
            ("currency", "EUR".into()),
        ]);
        let id = id_of(&["placed", &order]);
        let head = Head { id, name: "orders.placed", source: "shop", timestamp_ms, correlation: &order, causation: None };
        Some(Record { topic: ORDERS, key: customer, timestamp_ms, value: event(&head, data) })
    }
}

fn sku_name(number: usize) -> String {
    format!("SKU-{number:05}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn parsed(record: &Record) -> Value {
        serde_json::from_slice(&record.value).unwrap()
    }

    fn all(options: OrderOptions) -> Vec<Record> {
        let mut orders = Orders::new(options);
        std::iter::from_fn(|| orders.place(1_755_000_000_000)).collect()
    }

    #[test]
    fn orders_follow_from_the_seed() {
        let options = OrderOptions { count: Some(500), ..OrderOptions::default() };
        let (first, again) = (all(options.clone()), all(options.clone()));
        assert_eq!((first.len(), &first), (500, &again));
        assert_ne!(first, all(OrderOptions { seed: 2, ..options }));
        let ids: BTreeSet<String> = first.iter().map(|order| parsed(order)["data"]["orderId"].to_string()).collect();
        assert_eq!(ids.len(), 500);
    }

    #[test]
    fn a_few_skus_are_hot_and_no_order_has_one_twice() {
        let mut sold: BTreeMap<String, u64> = BTreeMap::new();
        for order in all(OrderOptions { count: Some(2_000), lines: (1, 8), ..OrderOptions::default() }) {
            let order = parsed(&order);
            let items = order["data"]["items"].as_array().unwrap();
            let skus: BTreeSet<&str> = items.iter().map(|item| item["sku"].as_str().unwrap()).collect();
            assert!((1..=8).contains(&items.len()) && skus.len() == items.len(), "{order}");
            skus.into_iter().for_each(|sku| *sold.entry(sku.to_owned()).or_default() += 1);
        }
        assert!(sold["SKU-00000"] > 5 * sold["SKU-00090"], "{sold:?}");
    }

    #[test]
    fn totals_have_two_places() {
        assert_eq!([money(1_205), money(-5), money(0)].map(|amount| amount.to_string()), ["12.05", "-0.05", "0.00"]);
        for order in all(OrderOptions { count: Some(50), ..OrderOptions::default() }) {
            let total = parsed(&order)["data"]["total"].to_string();
            assert_eq!(total.split_once('.').map(|(_, places)| places.len()), Some(2), "{total}");
        }
    }

    #[test]
    fn buckets_share_the_stock_of_a_hot_sku() {
        let orders = Orders::new(OrderOptions { skus: 3, hot: 1, buckets: 4, stock: 10, ..OrderOptions::default() });
        let received: Vec<(String, u64)> = orders
            .stock(0, 0)
            .map(|command| {
                (parsed(&command)["data"]["sku"].as_str().unwrap().to_owned(), parsed(&command)["data"]["quantity"].as_u64().unwrap())
            })
            .collect();
        let wanted = [("SKU-00000", 3), ("SKU-00000", 3), ("SKU-00000", 2), ("SKU-00000", 2), ("SKU-00001", 10), ("SKU-00002", 10)];
        assert_eq!(received, wanted.map(|(sku, quantity)| (sku.to_owned(), quantity)));
        assert_eq!(Orders::new(OrderOptions::default()).stock(0, 0).count(), 0);
    }
}
