//! The books of the demo: what the topics of orders and stock say, added up by code of its own, and what must be true of it.
//!
//! At every moment no part of the stock is negative. At the end every order has ended once; a confirmed one has taken exactly what it
//! ordered, a cancelled one has taken nothing, and what was received is what is available, reserved or shipped.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

/// The stock of a bucket, in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock {
    pub received: i64,
    pub available: i64,
    pub reserved: i64,
    pub shipped: i64,
}

/// An order that was placed.
#[derive(Debug, Default)]
struct Order {
    /// What it ordered, by SKU.
    lines: BTreeMap<String, i64>,
    /// Ends that name it, and whether the last one confirms it.
    ends: u64,
    confirmed: bool,
    out_of_stock: bool,
    declined: bool,
}

/// How orders stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub placed: u64,
    pub confirmed: u64,
    pub cancelled: u64,
    /// Cancelled ones of which a line was out of stock, or the payment declined.
    pub out_of_stock: u64,
    pub declined: u64,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Books {
    orders: HashMap<String, Order>,
    /// By SKU and bucket.
    stock: BTreeMap<(String, i64), Stock>,
    /// What an order has taken of a SKU, reserved or shipped.
    taken: HashMap<(String, String), (i64, i64)>,
    /// Events that were counted: one that comes twice counts once.
    seen: HashSet<String>,
    wrong: Vec<String>,
}

/// Topics with events that the books know.
pub(super) const TOPICS: [&str; 5] = [
    "business.orders.placed",
    "business.orders.ended",
    "business.inventory.events",
    "business.inventory.rejections",
    "business.payments.events",
];

impl Books {
    /// Enters an event, whatever its topic. What is no event is left out.
    pub fn enter(&mut self, value: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(value) else { return };
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
        let number = |path: &str| event.pointer(path).and_then(Value::as_i64).unwrap_or_default();
        if !self.seen.insert(text("/eventId")) {
            return;
        }
        let (name, order) = (text("/eventType"), text("/data/orderId"));
        match name.as_str() {
            "orders.placed" => {
                let items = event.pointer("/data/items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let line = |item: &Value| Some((item.get("sku")?.as_str()?.to_string(), item.get("quantity")?.as_i64()?));
                self.orders.entry(order).or_default().lines = items.iter().filter_map(line).collect();
            }
            "orders.confirmed" | "orders.cancelled" => {
                let ended = self.orders.entry(order).or_default();
                (ended.ends, ended.confirmed) = (ended.ends + 1, name == "orders.confirmed");
            }
            "payments.declined" => self.orders.entry(order).or_default().declined = true,
            "inventory.reserve.rejected" if text("/data/reason") == "out_of_stock" => {
                self.orders.entry(order).or_default().out_of_stock = true;
            }
            stock => {
                let (sku, bucket, quantity) = (text("/data/sku"), number("/data/bucket"), number("/data/quantity"));
                self.move_stock(stock, &sku, bucket, &order, quantity);
            }
        }
    }

    fn move_stock(&mut self, event: &str, sku: &str, bucket: i64, order: &str, quantity: i64) {
        let (received, available, reserved, shipped) = match event {
            "inventory.received" | "inventory.adjusted" => (quantity, quantity, 0, 0),
            "inventory.reserved" => (0, -quantity, quantity, 0),
            "inventory.confirmed" => (0, 0, -quantity, quantity),
            "inventory.returned" => (0, 0, quantity, -quantity),
            "inventory.released" | "inventory.expired" => (0, quantity, -quantity, 0),
            _ => return,
        };
        let stock = self.stock.entry((sku.to_string(), bucket)).or_default();
        stock.received += received;
        stock.available += available;
        stock.reserved += reserved;
        stock.shipped += shipped;
        if stock.available < 0 || stock.reserved < 0 || stock.shipped < 0 {
            self.wrong.push(format!("{sku}, bucket {bucket}, after {event} of order {order}: {stock:?}"));
        }
        if !order.is_empty() {
            let taken = self.taken.entry((order.to_string(), sku.to_string())).or_default();
            *taken = (taken.0 + reserved, taken.1 + shipped);
        }
    }

    /// How orders stand now.
    pub fn orders(&self) -> Orders {
        let mut all = Orders::default();
        for order in self.orders.values() {
            let cancelled = order.ends > 0 && !order.confirmed;
            all.placed += u64::from(!order.lines.is_empty());
            all.confirmed += u64::from(order.ends > 0 && order.confirmed);
            all.cancelled += u64::from(cancelled);
            all.out_of_stock += u64::from(cancelled && order.out_of_stock);
            all.declined += u64::from(cancelled && order.declined && !order.out_of_stock);
        }
        all
    }

    /// The stock of everything together.
    pub fn stock(&self) -> Stock {
        self.stock.values().fold(Stock::default(), |sum, one| Stock {
            received: sum.received + one.received,
            available: sum.available + one.available,
            reserved: sum.reserved + one.reserved,
            shipped: sum.shipped + one.shipped,
        })
    }

    /// What is not as it must be when all orders have ended, in words; nothing if all is.
    pub fn problems(&self) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        for (id, order) in &self.orders {
            match order.ends {
                _ if order.lines.is_empty() => wrong.push(format!("order {id} was never placed")),
                0 => wrong.push(format!("order {id} has not ended")),
                1 => {}
                ends => wrong.push(format!("order {id} has ended {ends} times")),
            }
            for (sku, quantity) in &order.lines {
                let taken = self.taken.get(&(id.clone(), sku.clone())).copied().unwrap_or_default();
                let due = if order.confirmed { (0, *quantity) } else { (0, 0) };
                if order.ends == 1 && taken != due {
                    let (reserved, shipped) = taken;
                    wrong.push(format!("order {id} ordered {quantity} of {sku}, and has {reserved} reserved and {shipped} shipped"));
                }
            }
        }
        let all = self.stock();
        if all.received != all.available + all.reserved + all.shipped {
            wrong.push(format!("stock is not conserved: {all:?}"));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn enter(books: &mut Books, name: &str, data: &Value) {
        let id = format!("{name} {data}");
        let event = json!({ "eventId": id, "eventType": name, "data": data }).to_string();
        books.enter(event.as_bytes());
        // A copy changes nothing.
        books.enter(event.as_bytes());
    }

    fn placed() -> Books {
        let mut books = Books::default();
        enter(&mut books, "inventory.received", &json!({ "sku": "A", "bucket": 0, "quantity": 5 }));
        enter(&mut books, "orders.placed", &json!({ "orderId": "o", "items": [{ "sku": "A", "quantity": 2 }] }));
        enter(&mut books, "inventory.reserved", &json!({ "sku": "A", "bucket": 0, "orderId": "o", "quantity": 2 }));
        books
    }

    #[test]
    fn a_confirmed_order_has_what_it_ordered() {
        let mut books = placed();
        assert_eq!(books.problems(), ["order o has not ended"]);
        enter(&mut books, "orders.confirmed", &json!({ "orderId": "o" }));
        assert_eq!(books.problems(), ["order o ordered 2 of A, and has 2 reserved and 0 shipped"]);
        enter(&mut books, "inventory.confirmed", &json!({ "sku": "A", "bucket": 0, "orderId": "o", "quantity": 2 }));
        assert_eq!(books.problems(), [""; 0]);
        assert_eq!(books.stock(), Stock { received: 5, available: 3, reserved: 0, shipped: 2 });
        assert_eq!(books.orders(), Orders { placed: 1, confirmed: 1, ..Orders::default() });
    }

    #[test]
    fn a_cancelled_order_has_nothing() {
        let mut books = placed();
        enter(&mut books, "payments.declined", &json!({ "orderId": "o" }));
        enter(&mut books, "orders.cancelled", &json!({ "orderId": "o" }));
        assert_eq!(books.problems().len(), 1);
        enter(&mut books, "inventory.released", &json!({ "sku": "A", "bucket": 0, "orderId": "o", "quantity": 2 }));
        assert_eq!(books.problems(), [""; 0]);
        assert_eq!(books.orders(), Orders { placed: 1, cancelled: 1, declined: 1, ..Orders::default() });
    }

    #[test]
    fn what_is_oversold_or_ends_twice_is_found() {
        let mut books = placed();
        enter(&mut books, "inventory.reserved", &json!({ "sku": "A", "bucket": 0, "orderId": "p", "quantity": 4 }));
        enter(&mut books, "orders.cancelled", &json!({ "orderId": "o" }));
        enter(&mut books, "orders.confirmed", &json!({ "orderId": "o" }));
        let problems = books.problems().join("\n");
        assert!(problems.contains("bucket 0, after inventory.reserved of order p") && problems.contains("ended 2 times"), "{problems}");
    }
}
