//! The expected output, computed from the input alone.

use std::collections::{BTreeMap, BTreeSet};

use headwater_engine::sim::MemoryBroker;
use serde_json::Value;

use crate::case::{Case, Order, SILENT_AT, TRAILS};
use crate::harness::Outcome;

pub const OUT_OF_ORDER: i64 = 2_000;
const SIZE: i64 = 10_000;
const LATENESS: i64 = 3_000;
const HOP: i64 = 5_000;
const EXPIRE: i64 = 20_000;
/// `within` of the two deduplications.
const FIRST: i64 = 15_000;
const LAST: i64 = 4_000;

pub type Rows = BTreeMap<String, usize>;

#[derive(Default)]
struct Expected {
    copies: Rows,
    products: Rows,
    late: Rows,
    ids: Vec<(String, i64, i64)>,
    late_ids: usize,
    hops: Rows,
    late_hops: usize,
    sessions: Vec<(String, i64, i64)>,
    /// Rows that go on, duplicates, and the number of late rows.
    first: (Rows, Rows, usize),
    last: (Rows, Rows, usize),
    /// Results of the joins, and the number of their late rows.
    pairs: Rows,
    late_pairs: usize,
    twins: Rows,
    late_twins: usize,
    dead: usize,
}

/// A row with its key and its place: event time, partition, position.
type Placed<'a> = (&'a str, (i64, i32, i64), &'a Order);

/// Divides the rows of each key into runs; one row of each goes on, the others are duplicates.
fn deduplicated(mut rows: Vec<Placed<'_>>, within: i64, keep_last: bool) -> (Rows, Rows) {
    rows.sort_by_key(|(key, place, _)| (*key, *place));
    let (mut kept, mut duplicates) = (Rows::new(), Rows::new());
    let mut rest = rows.as_slice();
    while let Some((key, (began, ..), _)) = rest.first() {
        let length = rest.iter().take_while(|(k, (at, ..), _)| k == key && at - began < within).count();
        let (run, others) = rest.split_at(length);
        let chosen = if keep_last { length - 1 } else { 0 };
        run.iter().enumerate().for_each(|(i, (_, _, order))| count(if i == chosen { &mut kept } else { &mut duplicates }, row(order)));
        rest = others;
    }
    (kept, duplicates)
}

/// Rows of a join in time: of `left` and of `right`.
type Sides<'a> = [Vec<&'a Order>; 2];

/// Every pair with equal keys and times within the bounds; then the rows of `left`, and of `right` if it is a full join, that are in none.
fn joined(rows: &Sides<'_>, full: bool, key: impl Fn(&Order) -> String, (before, after): (i64, i64)) -> Rows {
    let meets = |a: &Order, b: &Order| key(a) == key(b) && (-before..=after).contains(&(b.at - a.at));
    let shown = |order: Option<&Order>| order.map_or("null null".to_string(), |order| format!("{} {}", order.amount, order.at));
    let [left, right] = rows;
    let mut out = Rows::new();
    for a in left {
        let mut alone = true;
        for b in right.iter().filter(|b| meets(a, b)) {
            alone = false;
            count(&mut out, format!("{} {} {}", a.id, shown(Some(a)), shown(Some(b))));
        }
        if alone {
            count(&mut out, format!("{} {} {}", a.id, shown(Some(a)), shown(None)));
        }
    }
    for b in right.iter().filter(|b| full && !left.iter().any(|a| meets(a, b))) {
        count(&mut out, format!("null {} {}", shown(None), shown(Some(b))));
    }
    out
}

/// The orders that can be decoded, in the order of each partition, with the watermark of their partition before them.
pub fn seen(case: &Case) -> Vec<(&Order, Option<i64>)> {
    let mut seen = Vec::new();
    let mut partitions: BTreeMap<(&str, i32), Vec<&Order>> = BTreeMap::new();
    case.orders.iter().for_each(|order| partitions.entry((order.topic, order.partition)).or_default().push(order));
    for orders in partitions.into_values() {
        let (mut half, mut newest) = (0, None);
        for order in orders {
            if order.half != half {
                // It was silent, and followed the clock in steps of a second.
                half = order.half;
                newest = newest.max(Some(SILENT_AT[0] - TRAILS - 500 + OUT_OF_ORDER));
            }
            if !order.broken {
                seen.push((order, newest.map(|newest| newest - OUT_OF_ORDER)));
                newest = newest.max(Some(order.at));
            }
        }
    }
    seen
}

fn expected(case: &Case) -> Expected {
    let mut out = Expected { dead: case.orders.iter().filter(|order| order.broken).count(), ..Expected::default() };
    let mut products: BTreeMap<(String, i64), (u64, i64, BTreeSet<String>)> = BTreeMap::new();
    let mut ids: BTreeMap<(String, i64), i64> = BTreeMap::new();
    let mut hops: BTreeMap<(String, i64), (u64, i64)> = BTreeMap::new();
    // Newest row, total and number of rows.
    let mut sessions: BTreeMap<String, (i64, i64, i64)> = BTreeMap::new();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let (mut pairs, mut twins): (Sides<'_>, Sides<'_>) = Default::default();
    for (order, watermark) in seen(case) {
        if order.amount < 0 {
            continue;
        }
        match case.refuses(order) {
            true => out.dead += 1,
            false => count(&mut out.copies, format!("{} {} {}", order.id, order.product, order.amount)),
        }
        let place = (order.at, order.partition, order.offset);
        match watermark.is_some_and(|w| order.at < w - LATENESS) {
            true => out.first.2 += 1,
            false => first.push((order.id.as_str(), place, order)),
        }
        match watermark.is_some_and(|w| order.at < w) {
            true => out.last.2 += 1,
            false => last.push((order.product.as_str(), place, order)),
        }
        let is_big = order.amount >= 60;
        match watermark.is_some_and(|w| order.at < w - 1_000) {
            true => out.late_pairs += 1 + usize::from(is_big),
            false => {
                pairs[0].push(order);
                pairs[1].extend(is_big.then_some(order));
            }
        }
        match watermark.is_some_and(|w| order.at < w - 3_000) {
            true => out.late_twins += 1 + usize::from(is_big),
            false => {
                twins[0].extend(is_big.then_some(order));
                twins[1].push(order);
            }
        }
        let start = order.at.div_euclid(SIZE) * SIZE;
        let closed = |lateness: i64| watermark.is_some_and(|w| start + SIZE + lateness <= w);
        if closed(LATENESS) {
            count(&mut out.late, row(order));
        } else {
            let cell = products.entry((order.product.clone(), start)).or_default();
            cell.0 += 1;
            cell.1 += order.amount;
            cell.2.insert(order.id.clone());
        }
        if closed(0) {
            out.late_ids += 1;
        } else {
            let total = ids.entry((order.id.clone(), start)).or_default();
            *total += order.amount;
            out.ids.push((order.id.clone(), start, *total));
        }
        let newer = order.at.div_euclid(HOP) * HOP;
        let open: Vec<i64> = [newer - HOP, newer].into_iter().filter(|s| watermark.is_none_or(|w| s + SIZE > w)).collect();
        out.late_hops += usize::from(open.is_empty());
        for start in open {
            let cell = hops.entry((order.product.clone(), start)).or_default();
            *cell = (cell.0 + 1, cell.1 + order.amount);
        }
        let now = watermark.map_or(order.at, |w| w.max(order.at));
        let session = sessions.entry(order.id.clone()).or_insert((order.at, 0, 0));
        if session.0 + EXPIRE <= now && session.2 > 0 {
            *session = (order.at, 0, 0);
        }
        *session = (session.0.max(order.at), session.1 + order.amount, session.2 + 1);
        out.sessions.push((order.id.clone(), session.2, session.1));
    }
    // The silence at the end closes every window, and ends every run.
    (out.first.0, out.first.1) = deduplicated(first, FIRST, false);
    (out.last.0, out.last.1) = deduplicated(last, LAST, true);
    out.pairs = joined(&pairs, false, |order| order.id.clone(), (0, 4_000));
    out.twins = joined(&twins, true, |order| order.product.clone(), (1_000, 1_000));
    for ((product, start), (n, total, distinct)) in products {
        count(&mut out.products, format!("{product} {start} {n} {total} {}", distinct.len()));
    }
    for ((product, start), (n, total)) in hops {
        count(&mut out.hops, format!("{product} {start} {n} {total}"));
    }
    out
}

fn row(order: &Order) -> String {
    format!("{} {} {} {}", order.id, order.product, order.amount, order.at)
}

pub fn count(rows: &mut Rows, row: String) {
    *rows.entry(row).or_default() += 1;
}

fn read(broker: &MemoryBroker, topic: &str) -> Vec<Value> {
    let records = broker.read_all_committed(topic);
    records.iter().map(|r| serde_json::from_slice(r.value.as_deref().expect("a value")).expect("JSON")).collect()
}

fn millis(value: &Value) -> i64 {
    let text = value.as_str().expect("a timestamp");
    let (date, time) = text.trim_end_matches('Z').split_once('T').expect("ISO-8601");
    let numbers: Vec<i64> = date.split('-').chain(time.split([':', '.'])).map(|n| n.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second, milli] = numbers[..] else { panic!("{text}") };
    // Days since 1970 by Howard Hinnant's civil calendar formula.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + milli
}

pub fn compare(what: &str, seed: u64, expected: &Rows, found: &Rows) {
    if expected != found {
        let missing: Vec<_> = expected.iter().filter(|(k, n)| found.get(*k) != Some(n)).take(5).collect();
        let wrong: Vec<_> = found.iter().filter(|(k, n)| expected.get(*k) != Some(n)).take(5).collect();
        panic!("seed {seed}: {what} differs.\n expected: {missing:?}\n found:    {wrong:?}");
    }
}

fn copies_of(broker: &MemoryBroker) -> Rows {
    counted(broker, "copies", copy)
}

fn copy(v: &Value) -> String {
    let text = |k: &str| v[k].as_str().unwrap().to_string();
    format!("{} {} {}", text("id"), text("product"), v["amount"])
}

/// Each record of a topic as a text.
fn counted(broker: &MemoryBroker, topic: &str, text: impl Fn(&Value) -> String) -> Rows {
    let mut rows = Rows::new();
    read(broker, topic).iter().for_each(|v| count(&mut rows, text(v)));
    rows
}

fn products_of(broker: &MemoryBroker) -> Rows {
    counted(broker, "products", |v| {
        format!("{} {} {} {} {}", v["product"].as_str().unwrap(), millis(&v["window_start"]), v["n"], v["total"], v["ids"])
    })
}

fn hops_of(broker: &MemoryBroker) -> Rows {
    counted(broker, "hops", |v| format!("{} {} {} {}", v["product"].as_str().unwrap(), millis(&v["window_start"]), v["n"], v["total"]))
}

fn rows_of(broker: &MemoryBroker, topic: &str) -> Rows {
    counted(broker, topic, |v| format!("{} {}", copy(v), millis(&v["at"])))
}

/// Without transactions rows may come twice, but none is lost: neither one that passes a step nor one that a step has held.
pub fn check_nothing_lost(outcome: &Outcome, seed: u64) {
    let expected = expected(&outcome.case).copies;
    for topics in [vec!["copies"], vec!["first", "later", "late-first"], vec!["last", "earlier", "late-last"]] {
        let mut found = Rows::new();
        for v in topics.iter().flat_map(|topic| read(&outcome.broker, topic)) {
            count(&mut found, copy(&v));
        }
        let lost: Vec<_> = expected.iter().filter(|(row, n)| found.get(*row).is_none_or(|f| f < *n)).collect();
        assert!(lost.is_empty(), "seed {seed}: {topics:?}: lost {lost:?}");
    }
}

/// What was committed is part of what follows from these orders.
pub fn check_nothing_wrong(case: &Case, broker: &MemoryBroker, what: &str) {
    let expected = expected(case);
    for (topic, rows, found) in [
        ("copies", &expected.copies, copies_of(broker)),
        ("products", &expected.products, products_of(broker)),
        ("late", &expected.late, rows_of(broker, "late")),
        ("first", &expected.first.0, rows_of(broker, "first")),
        ("later", &expected.first.1, rows_of(broker, "later")),
        ("last", &expected.last.0, rows_of(broker, "last")),
        ("hops", &expected.hops, hops_of(broker)),
    ] {
        let wrong: Vec<_> = found.iter().filter(|(row, n)| rows.get(*row).is_none_or(|expected| expected < *n)).take(5).collect();
        assert!(wrong.is_empty(), "{what}: {topic} has {wrong:?}");
    }
}

/// On update, the order per key matters too.
fn updates(what: &str, seed: u64, expected: &[(String, i64, i64)], found: &[(String, i64, i64)]) {
    assert_eq!(found.len(), expected.len(), "seed {seed}: updates of {what}");
    let keys: BTreeSet<&String> = expected.iter().map(|(id, _, _)| id).collect();
    for key in keys {
        let of = |rows: &[(String, i64, i64)]| rows.iter().filter(|(id, _, _)| id == key).map(|(_, a, b)| (*a, *b)).collect::<Vec<_>>();
        assert_eq!(of(found), of(expected), "seed {seed}: {what}: updates of {key} in order");
    }
}

pub fn check(outcome: &Outcome, seed: u64) {
    let expected = expected(&outcome.case);
    let broker = &outcome.broker;
    let text = |v: &Value, k: &str| v[k].as_str().unwrap().to_string();
    compare("copies", seed, &expected.copies, &copies_of(broker));
    compare("products", seed, &expected.products, &products_of(broker));
    let rows_of = |topic: &str| rows_of(broker, topic);
    compare("late rows", seed, &expected.late, &rows_of("late"));
    for (kept, duplicates, late, (rows, duplicate_rows, late_rows)) in
        [("first", "later", "late-first", &expected.first), ("last", "earlier", "late-last", &expected.last)]
    {
        compare(kept, seed, rows, &rows_of(kept));
        compare(duplicates, seed, duplicate_rows, &rows_of(duplicates));
        assert_eq!(rows_of(late).values().sum::<usize>(), *late_rows, "seed {seed}: {late}");
    }
    assert_eq!(read(broker, "late-ids").len(), expected.late_ids, "seed {seed}: late ids");
    compare("hopping windows", seed, &expected.hops, &hops_of(broker));
    assert_eq!(read(broker, "late-hops").len(), expected.late_hops, "seed {seed}: late hops");
    let total = |v: &Value| v["total"].as_i64().unwrap();
    let ids: Vec<_> = read(broker, "ids").iter().map(|v| (text(v, "id"), millis(&v["window_start"]), total(v))).collect();
    updates("ids", seed, &expected.ids, &ids);
    let sessions: Vec<_> = read(broker, "sessions").iter().map(|v| (text(v, "id"), v["n"].as_i64().unwrap(), total(v))).collect();
    updates("sessions", seed, &expected.sessions, &sessions);
    let shown = |v: &Value, amount: &str, at: &str| match v[amount].is_null() {
        true => "null null".to_string(),
        false => format!("{} {}", v[amount], millis(&v[at])),
    };
    let mut pairs = Rows::new();
    for v in read(broker, "pairs") {
        count(&mut pairs, format!("{} {} {}", text(&v, "id"), shown(&v, "amount", "at"), shown(&v, "other", "other_at")));
    }
    compare("pairs", seed, &expected.pairs, &pairs);
    assert_eq!(read(broker, "late-pairs").len(), expected.late_pairs, "seed {seed}: late rows of pairs");
    let mut twins = Rows::new();
    for v in read(broker, "twins") {
        let (left, right) = (shown(&v, "left_amount", "left_at"), shown(&v, "right_amount", "right_at"));
        count(&mut twins, format!("{} {left} {right}", v["left_id"].as_str().unwrap_or("null")));
    }
    compare("twins", seed, &expected.twins, &twins);
    assert_eq!(read(broker, "late-twins").len(), expected.late_twins, "seed {seed}: late rows of twins");
    let dead = broker.read_all_committed("orders.dlq");
    assert_eq!(dead.len(), expected.dead, "seed {seed}: dead letters");
    // The row ledger: every committed row of every step went somewhere.
    for snapshot in &outcome.stats {
        for (step, (rows, ledger)) in &snapshot.steps {
            assert_eq!(*rows as i64, ledger.accounted(), "seed {seed}: ledger of {step:?}: {ledger:?}");
        }
    }
}
