//! What a load promises: the same for the same options, within its bounds, and plausible.

use std::collections::{HashMap, HashSet};

use headwater_generate::{Event, Limit, Model, Options, Payload, Reason, Sums, Topic, encode_json};

fn options() -> Options {
    Options { products: 300, customers: 1_000, limit: Limit::Events(40_000), duplicates: 0.01, v2_share: 0.3, ..Options::default() }
}

fn load(options: Options) -> Vec<Event> {
    Model::new(options).collect()
}

fn bytes(options: Options) -> Vec<Vec<u8>> {
    load(options).iter().map(|event| encode_json(event).unwrap()).collect()
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let (one, two) = (bytes(options()), bytes(options()));
    assert_eq!(one.len(), 300 + 1_000 + 40_000);
    assert!(one == two);
}

/// A change of the generator changes every figure that was ever measured with it: this test makes that a decision.
#[test]
fn the_sequence_changes_only_on_purpose() {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = bytes(options()).iter().flatten().fold(0xcbf2_9ce4_8422_2325, fnv);
    assert_eq!(format!("{hash:016x}"), "7131731f5bcf9bd7");
}

#[test]
fn another_seed_or_start_gives_other_ids() {
    let ids = |options: Options| -> HashSet<String> {
        load(Options { limit: Limit::Events(2_000), tables: false, duplicates: 0.0, ..options })
            .iter()
            .filter_map(|event| match &event.payload {
                Payload::Order(order) => Some(order.event_id.to_string()),
                _ => None,
            })
            .collect()
    };
    let base = ids(options());
    assert!(base.is_disjoint(&ids(Options { seed: 2, ..options() })));
    assert!(base.is_disjoint(&ids(Options { start_ms: options().start_ms + 1, ..options() })));
    assert!(base.iter().all(|id| id.as_bytes()[14] == b'4'), "ids have the shape of version 4");
}

#[test]
fn products_and_customers_follow_from_the_seed_alone() {
    let tables = |options: Options| -> Vec<(String, bool)> {
        load(Options { limit: Limit::Events(0), ..options }).iter().map(|event| (event.key(), event.topic().is_table())).collect()
    };
    let base = tables(options());
    assert_eq!(base, tables(Options { start_ms: 5_000_000_000, event_rate: 7.0, duplicates: 0.5, ..options() }));
    assert!(base.iter().all(|(_, table)| *table));
}

#[test]
fn a_shorter_load_is_a_prefix_of_a_longer_one() {
    let (short, long) = (load(Options { limit: Limit::Events(5_000), ..options() }), load(options()));
    assert!(short == long[..short.len()]);
}

#[test]
fn events_stay_within_the_out_of_order_bound() {
    for bound in [0, 500, 3_000] {
        let (mut arrived, mut newest, mut reordered) = (i64::MIN, i64::MIN, 0);
        for event in load(Options { out_of_order_ms: bound, tables: false, duplicates: 0.05, ..options() }) {
            assert!(event.timestamp_ms >= arrived, "record times never decrease");
            arrived = event.timestamp_ms;
            let time = event.event_time_ms();
            assert!(time <= arrived && arrived - time <= bound, "{time} arrives at {arrived}");
            assert!(time >= newest.saturating_sub(bound));
            reordered += u32::from(time < newest);
            newest = newest.max(time);
        }
        assert!(bound == 0 || reordered > 1_000, "{reordered} out of order with {bound} ms");
    }
}

#[test]
fn orders_of_one_customer_do_not_overtake_each_other() {
    let mut latest = HashMap::new();
    for event in load(Options { customers: 20, ..options() }) {
        if let (Payload::Order(order), false) = (&event.payload, event.duplicate) {
            let before = latest.insert(order.data.customer_id, order.timestamp_ms);
            assert!(before <= Some(order.timestamp_ms));
        }
    }
    assert!(latest.len() >= 20);
}

#[test]
fn a_duplicate_is_the_same_event_again() {
    let (mut seen, mut again) = (HashMap::new(), 0);
    for event in load(options()).iter().filter(|event| !event.topic().is_table()) {
        let (key, bytes) = (event.key(), encode_json(event).unwrap());
        let id = serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["eventId"].to_string();
        match seen.get(&id) {
            None => {
                assert!(!event.duplicate);
                seen.insert(id, (key, bytes));
            }
            Some(first) => {
                assert!(event.duplicate && *first == (key, bytes));
                again += 1;
            }
        }
    }
    // One per cent was asked for, less those whose turn came too late.
    assert!((250..=450).contains(&again), "{again}");
}

#[test]
fn payments_follow_their_orders() {
    let (mut orders, mut payments) = (HashMap::new(), 0);
    for event in load(options()).iter().filter(|event| !event.duplicate) {
        match &event.payload {
            Payload::Order(order) => {
                orders.insert(order.data.order_id, order.clone());
            }
            Payload::Payment(payment) => {
                let order = &orders[&payment.data.order_id];
                assert_eq!(payment.causation_id, Some(order.event_id));
                assert_eq!(payment.correlation_id, order.correlation_id);
                assert_eq!(payment.data.amount_cents, order.data.total_cents);
                assert!(payment.timestamp_ms > order.timestamp_ms);
                let (before, after) = (&event.headers().unwrap(), order.correlation_id.simple().to_string());
                assert_eq!(before.traceparent.len(), 55);
                assert!(before.traceparent.starts_with(&format!("00-{after}-")));
                payments += 1;
            }
            _ => {}
        }
    }
    assert!(payments > 8_000 && orders.len() > payments, "{payments} of {}", orders.len());
}

#[test]
fn products_sell_by_popularity_and_stock_never_falls_below_zero() {
    let (mut sold, mut stock, mut reasons, mut low) = (HashMap::new(), HashMap::new(), HashSet::new(), 0);
    for event in load(options()).iter().filter(|event| !event.duplicate) {
        match &event.payload {
            Payload::Order(order) => {
                order.data.items.iter().for_each(|item| *sold.entry(item.product_id.clone()).or_insert(0) += 1);
                assert!((1..=5).contains(&order.data.items.len()));
            }
            Payload::Adjustment(adjustment) => {
                let balance = stock.entry(adjustment.data.sku.clone()).or_insert(0);
                *balance += adjustment.data.delta;
                assert!(*balance >= 0);
                low += u32::from(*balance <= adjustment.data.reorder_level && adjustment.data.reason != Reason::Received);
                reasons.insert(adjustment.data.reason as u8);
            }
            _ => {}
        }
    }
    let mut counts: Vec<i32> = sold.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let (total, head): (i32, i32) = (counts.iter().sum(), counts[..30].iter().sum());
    assert!(f64::from(head) > 0.4 * f64::from(total), "the first tenth sells {head} of {total}");
    assert!(counts[0] > 5 * counts[100] && *counts.last().unwrap() < counts[0] / 20);
    assert_eq!(reasons.len(), 5);
    assert!(low > 100, "stock falls to the reorder level now and then: {low}");
}

#[test]
fn late_orders_are_minutes_late_and_off_by_default() {
    let late = |options| {
        let events = load(options);
        let lags: Vec<i64> = events
            .iter()
            .filter_map(|event| match &event.payload {
                Payload::Order(order) if order.data.late => Some(event.timestamp_ms - order.timestamp_ms),
                _ => None,
            })
            .collect();
        lags
    };
    assert!(late(options()).is_empty());
    let lags = late(Options { late: 0.05, ..options() });
    assert!(lags.len() > 300 && lags.iter().all(|lag| (300_000..=900_000).contains(lag)), "{}", lags.len());
}

#[test]
fn limits_and_spikes_count_events_of_the_load() {
    let spike = Some("10x@2s:1s".parse().unwrap());
    let options = Options { limit: Limit::Seconds(4.0), event_rate: 100.0, spike, ..options() };
    let events = load(options.clone());
    let of_second = |second: i64| {
        let from = options.start_ms + second * 1000;
        events.iter().skip(1_300).filter(|event| (from..from + 1000).contains(&event.timestamp_ms)).count()
    };
    assert_eq!([of_second(0), of_second(1), of_second(2), of_second(3)], [100, 100, 1_000, 100]);
    assert!(events.iter().take(1_300).all(|event| event.topic().is_table()));
    let none = load(Options { limit: Limit::Events(0), tables: false, ..options });
    assert!(none.is_empty());
}

#[test]
fn every_topic_has_its_share() {
    let mut model = Model::new(options());
    model.by_ref().for_each(drop);
    let Sums { records, orders, high_value_orders, .. } = model.into_totals().sent();
    assert_eq!(records.len(), 6);
    assert!(records[&Topic::Orders] > 10_000 && records[&Topic::Inventory] > 7_000, "{records:?}");
    assert!(records[&Topic::Registrations] > 300 && records[&Topic::Customers] > 1_300 && records[&Topic::Products] > 400);
    assert!(high_value_orders * 50 > orders && high_value_orders * 10 < orders, "{high_value_orders} of {orders} are of high value");
}
