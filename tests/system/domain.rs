//! The domain as shipped, on real services: orders are placed while services decline, lose and double answers, and both workers are
//! killed in the middle. Every order ends once, nothing is oversold, and the state of the stock is what its events say.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use headwater_devenv::Ephemeral;
use serde_json::Value;

use crate::environment::{HW, exclusive, fresh, wait_until, wait_while_it_moves};
use crate::log::{create, read};
use crate::simulate::{configured, events, simulate};
use crate::worker::{Worker, pipeline};

/// What pipelines read before anyone has written it.
const TOPICS: [&str; 10] = [
    "commands.inventory",
    "commands.payments",
    "commands.shipping",
    "commands.orders",
    "business.orders.placed",
    "business.inventory.events",
    "business.inventory.replies",
    "business.inventory.rejections",
    "business.payments.events",
    "business.shipping.events",
];
const ORDERS: usize = 200;
/// So short that lost answers are asked for within the test.
const TIMEOUTS: [(&str, &str); 2] = [("timeout: 30s", "timeout: 3s"), ("timeout: 1m", "timeout: 3s")];

/// A service, killed when dropped.
struct Served(Child);

impl Served {
    fn start(environment: &Ephemeral, arguments: &[&str]) -> Served {
        Served(simulate(environment, arguments).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn orders_end_once_and_stock_is_conserved_though_workers_are_killed() {
    let _turn = exclusive();
    let environment = fresh();
    let dir = tempfile::tempdir().unwrap();
    TOPICS.iter().for_each(|topic| create(&environment, topic, 3));
    let files = [pipeline(dir.path(), "inventory", &[]), pipeline(dir.path(), "order-fulfilment", &TIMEOUTS)];
    let start = || [0, 1].map(|slot| Worker::start(&environment, &files[slot], dir.path(), slot, None));
    let workers = start();
    let faults = ["--lose", "0.05", "--double", "0.05", "--late", "0.02", "--late-by", "4s..6s", "-q"];
    let _services = [("payments", "0.1"), ("shipping", "0.05")]
        .map(|(service, decline)| Served::start(&environment, &[&[service, "--decline", decline], &faults[..]].concat()));
    let count = ORDERS.to_string();
    let shop = ["orders", "--count", &count, "--rate", "20", "--skus", "20", "--stock", "20", "--hot", "2", "--buckets", "4", "-q"];
    let _shop = Served::start(&environment, &shop);
    let ended = || read(&environment, "business.orders.ended").len();
    wait_until("some orders end", Duration::from_secs(120), || if ended() > 20 { Ok(()) } else { Err(format!("{} ended", ended())) });
    drop(workers);
    let _workers = start();
    wait_while_it_moves("all orders end", Duration::from_secs(120), || match ended() {
        ended if ended >= ORDERS => Ok(()),
        ended => Err(format!("{ended} ended")),
    });
    // By order.
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for end in events(&environment, "business.orders.ended") {
        ends.entry(text(&end, "/data/orderId")).or_default().push(text(&end, "/eventType"));
    }
    assert!(ends.len() == ORDERS && ends.values().all(|ends| ends.len() == 1), "{ends:?}");
    assert!(["orders.confirmed", "orders.cancelled"].iter().all(|name| ends.values().any(|ends| ends[0] == *name)));
    conserved(&events(&environment, "business.inventory.events"));
    let mut replay = Command::new(HW);
    configured(replay.args(["replay", "--check"]).arg(&files[0]), &environment);
    let replayed = replay.output().unwrap();
    assert!(replayed.status.success(), "{}{}", String::from_utf8_lossy(&replayed.stdout), String::from_utf8_lossy(&replayed.stderr));
}

/// At every event no part of the stock of a bucket is negative, and at the end nothing is reserved.
fn conserved(events: &[Value]) {
    // Available, reserved, shipped.
    let mut stock: BTreeMap<(String, i64), [i64; 3]> = BTreeMap::new();
    for event in events {
        let number = |path: &str| event.pointer(path).and_then(Value::as_i64).unwrap_or_default();
        let quantity = number("/data/quantity");
        let by = match text(event, "/eventType").as_str() {
            "inventory.received" => [quantity, 0, 0],
            "inventory.reserved" => [-quantity, quantity, 0],
            "inventory.confirmed" => [0, -quantity, quantity],
            "inventory.returned" => [0, quantity, -quantity],
            "inventory.released" | "inventory.expired" => [quantity, -quantity, 0],
            other => panic!("{other}"),
        };
        let now = stock.entry((text(event, "/data/sku"), number("/data/bucket"))).or_default();
        now.iter_mut().zip(by).for_each(|(now, by)| *now += by);
        assert!(now.iter().all(|part| *part >= 0), "{event}: {now:?}");
    }
    assert!(stock.len() == 26 && stock.values().all(|[_, reserved, _]| *reserved == 0), "{stock:?}");
    assert_eq!(stock.values().flatten().sum::<i64>(), 20 * 20);
}

fn text(event: &Value, path: &str) -> String {
    event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string()
}
