//! The model: an iterator over the events of one load.
//!
//! One loop: the n-th event is due at a moment that the [`Schedule`] gives. If something is waiting for that moment (the payment
//! of an order, the second copy of an event, the table row of a new customer) it is that event, else a fresh one is drawn. So the
//! total rate is what the schedule says, whatever follows from what.
//!
//! Invariant: the sequence is a function of [`Options`] alone. There is no clock here and no randomness but the seed's; floating
//! point is used only for the schedule and for turning shares into integers. Record times never decrease, and an event's own time
//! lies at most `out_of_order_ms` before its record time, duplicates included (late orders, off by default, are the exception).
//!
//! Honest limits: orders and stock are drawn independently of each other, and a load that stops leaves its last orders unpaid.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::event::{Adjustment, Envelope, Event, Item, Order, Payload, Payment, Reason, Registration};
use crate::options::{Limit, Options};
use crate::random::{Chance, Random};
use crate::schedule::Schedule;
use crate::shop::{Article, Shop, person};
use crate::totals::Totals;
use crate::waiting::{Later, Waiting};

/// Rows of the tables carry a time well before the load, so that every join as of an event's time finds them.
const TABLE_AGE_MS: i64 = 30 * 24 * 3_600 * 1_000;
/// A payment follows its order after this many milliseconds, more often sooner.
const PAYMENT_DELAY_MS: (i64, i64) = (200, 10_000);
const LATE_MS: (i64, i64) = (5 * 60_000, 15 * 60_000);

/// The load as an iterator; see the module.
#[derive(Debug)]
pub struct Model {
    options: Options,
    schedule: Schedule,
    shop: Shop,
    random: Random,
    shares: Shares,
    /// Next row of the initial tables; beyond them all: the load has begun.
    table_row: usize,
    start_ms: i64,
    number: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    queued: u64,
    totals: Totals,
}

#[derive(Debug)]
struct Shares {
    duplicates: Chance,
    v2: Chance,
    late: Chance,
    out_of_order: Chance,
    paid: Chance,
}

impl Model {
    /// The load that these options determine.
    pub fn new(options: Options) -> Self {
        let shop = Shop::new(options.seed, options.products, options.customers);
        Model {
            schedule: Schedule::new(options.event_rate, options.spike),
            random: Random::new(options.seed, 3 ^ options.start_ms as u64),
            shares: Shares {
                duplicates: options.duplicates.into(),
                v2: options.v2_share.into(),
                late: options.late.into(),
                out_of_order: 0.2.into(),
                paid: 0.97.into(),
            },
            table_row: if options.tables { 0 } else { usize::MAX },
            start_ms: options.start_ms,
            number: 0,
            waiting: BinaryHeap::new(),
            queued: 0,
            totals: Totals::default(),
            shop,
            options,
        }
    }

    /// Moves the start of the load, as long as it has not begun: a paced load starts when its tables are written, and that takes
    /// a moment. Only times change by it.
    pub fn start_at(&mut self, start_ms: i64) {
        if self.number == 0 {
            self.start_ms = start_ms;
        }
    }

    /// Whether the initial table rows are all out and the next event is one of the load.
    pub fn tables_done(&self) -> bool {
        self.table_row >= self.shop.articles.len() + self.shop.people.len() || self.number > 0
    }

    /// How many events of the load have come so far.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What has come so far, table rows included.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What came, at the end.
    pub fn into_totals(self) -> Totals {
        self.totals
    }

    fn table_event(&mut self) -> Option<Event> {
        if self.tables_done() {
            return None;
        }
        let (row, products) = (self.table_row, self.shop.articles.len());
        self.table_row += 1;
        let updated_at_ms = self.options.start_ms - TABLE_AGE_MS;
        let payload = match self.shop.articles.get(row) {
            Some(article) => Payload::Product(article.row(updated_at_ms)),
            None => Payload::Customer(self.shop.people.get(row - products)?.row(updated_at_ms)),
        };
        Some(Event { timestamp_ms: self.options.start_ms, payload, duplicate: false })
    }

    fn later(&mut self, due_ms: i64, what: Later) {
        self.queued += 1;
        self.waiting.push(Reverse(Waiting { due_ms, order: self.queued, what: Box::new(what) }));
    }

    /// The event that was waiting for this moment, if any.
    fn due(&mut self, now: i64) -> Option<Event> {
        while self.waiting.peek().is_some_and(|Reverse(next)| next.due_ms <= now) {
            let Reverse(next) = self.waiting.pop()?;
            match *next.what {
                // In a crowd its turn may come too late to keep the bound.
                Later::Again(event) if now - event.event_time_ms() > self.options.out_of_order_ms => {}
                Later::Again(event) => {
                    return Some(Event { timestamp_ms: now, duplicate: true, ..event });
                }
                Later::Join(new) => {
                    let row = new.row(now);
                    self.shop.people.push(new);
                    return Some(Event { timestamp_ms: now, payload: Payload::Customer(row), duplicate: false });
                }
                Later::Pay { order_id, customer_id, amount_cents, currency, cause, correlation, not_before_ms } => {
                    let method = self.random.pick(&[(60, "card"), (25, "paypal"), (10, "invoice")], "transfer");
                    let data = Payment { payment_id: self.random.uuid(), order_id, customer_id, amount_cents, currency, method };
                    let time = self.happened(now).max(not_before_ms.min(now));
                    let mut event = self.envelope(time, data);
                    (event.correlation_id, event.causation_id) = (correlation, Some(cause));
                    return Some(Event { timestamp_ms: now, payload: Payload::Payment(event), duplicate: false });
                }
            }
        }
        None
    }

    /// The time of an event that arrives now: mostly a few milliseconds ago, sometimes as much as the bound.
    fn happened(&mut self, now: i64) -> i64 {
        let bound = self.options.out_of_order_ms.max(0);
        let most = if self.random.chance(self.shares.out_of_order) { bound } else { bound.min(50) };
        now - self.random.between(0, most)
    }

    fn envelope<D>(&mut self, timestamp_ms: i64, data: D) -> Envelope<D> {
        Envelope {
            event_id: self.random.uuid(),
            timestamp_ms,
            correlation_id: self.random.uuid(),
            causation_id: None,
            span_id: self.random.next() | 1,
            data,
        }
    }

    fn fresh(&mut self, now: i64) -> Event {
        let payload = match self.random.below(1_000) {
            0..550 => self.order(now),
            550..950 => self.adjustment(now),
            950..980 => self.registration(now),
            980..990 => {
                let article = self.shop.draw_article(&mut self.random);
                article.change_price(&mut self.random);
                Payload::Product(article.row(now))
            }
            _ => {
                let someone = self.shop.draw_person(&mut self.random);
                someone.change_tier(&mut self.random);
                Payload::Customer(someone.row(now))
            }
        };
        Event { timestamp_ms: now, payload, duplicate: false }
    }

    fn order(&mut self, now: i64) -> Payload {
        let lines = self.random.pick(&[(40, 1), (28, 2), (17, 3), (10, 4)], 5);
        let items: Vec<Item> = (0..lines).map(|_| item(self.shop.draw_article(&mut self.random), &mut self.random)).collect();
        let total_cents = items.iter().map(|item| i64::from(item.quantity) * item.unit_price_cents).sum();
        let late = self.random.chance(self.shares.late);
        let mut time = self.happened(now);
        let someone = self.shop.draw_person(&mut self.random);
        if late {
            time = now - self.random.between(LATE_MS.0, LATE_MS.1);
        } else {
            time = time.max(someone.last_order_ms);
            someone.last_order_ms = time;
        }
        let (customer_id, country) = (someone.id, someone.country);
        let channel = self.random.pick(&[(55, "web"), (33, "mobile"), (8, "store")], "partner");
        let coupon_code = self
            .random
            .chance(self.shares.v2)
            .then(|| self.random.pick(&[(80, None), (12, Some("WELCOME10")), (8, Some("SPRING25"))], None));
        let currency = match country {
            "US" => "USD",
            "GB" => "GBP",
            _ => "EUR",
        };
        let order = Order {
            order_id: self.random.uuid(),
            customer_id,
            currency,
            channel,
            items,
            total_cents,
            shipping_country: (channel != "store").then_some(country),
            coupon_code,
            late,
        };
        let event = self.envelope(time, order);
        if self.random.chance(self.shares.paid) {
            let (low, high) = PAYMENT_DELAY_MS;
            let delay = self.random.between(low, high).min(self.random.between(low, high));
            let pay = Later::Pay {
                order_id: event.data.order_id,
                customer_id,
                amount_cents: total_cents,
                currency,
                cause: event.event_id,
                correlation: event.correlation_id,
                not_before_ms: time + low,
            };
            self.later(now + delay, pay);
        }
        Payload::Order(event)
    }

    fn adjustment(&mut self, now: i64) -> Payload {
        let article = self.shop.draw_article(&mut self.random);
        let low = article.stock <= i64::from(article.reorder_level);
        let random = &mut self.random;
        let (reason, wanted) = if article.stock == 0 || (low && random.below(4) == 0) {
            (Reason::Received, i64::from(article.reorder_level) * 2 + random.between(1, 200))
        } else {
            match random.below(100) {
                0..50 => (Reason::Reserved, -random.between(1, 8)),
                50..60 => (Reason::Released, random.between(1, 3)),
                60..95 => (Reason::Shipped, -random.between(1, 6)),
                _ => (Reason::Corrected, random.between(-2, 2)),
            }
        };
        let delta = wanted.max(-article.stock);
        article.stock += delta;
        let (sku, reorder_level) = (article.id.clone(), article.reorder_level);
        let data = Adjustment {
            adjustment_id: self.random.uuid(),
            sku,
            warehouse: self.random.pick(&[(50, "BER-1"), (30, "AMS-1")], "LYS-1"),
            delta: delta as i32,
            reason,
            reorder_level,
        };
        let time = self.happened(now);
        Payload::Adjustment(self.envelope(time, data))
    }

    fn registration(&mut self, now: i64) -> Payload {
        let mut new = person(&mut self.random);
        new.tier = "standard";
        let data = Registration {
            customer_id: new.id,
            tier: new.tier,
            country: new.country,
            channel: self.random.pick(&[(60, "web"), (35, "mobile")], "store"),
        };
        let time = self.happened(now);
        self.later(now + 20, Later::Join(new));
        Payload::Registration(self.envelope(time, data))
    }

    /// Lets an event be sent again within the bound.
    fn maybe_again(&mut self, event: &Event, now: i64) {
        let last = event.event_time_ms() + self.options.out_of_order_ms;
        if !event.topic().is_table() && self.random.chance(self.shares.duplicates) && last >= now {
            let due_ms = self.random.between(now, last);
            self.later(due_ms, Later::Again(event.clone()));
        }
    }
}

impl Iterator for Model {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if let Some(row) = self.table_event() {
            self.totals.count(&row);
            return Some(row);
        }
        let due_us = self.schedule.due_us(self.number);
        match self.options.limit {
            Limit::Events(most) if self.number >= most => return None,
            Limit::Seconds(most) if due_us as f64 >= most * 1e6 => return None,
            _ => {}
        }
        self.number += 1;
        let now = self.start_ms + (due_us / 1000) as i64;
        let event = match self.due(now) {
            Some(event) => event,
            None => self.fresh(now),
        };
        if !event.duplicate {
            self.maybe_again(&event, now);
        }
        self.totals.count(&event);
        Some(event)
    }
}

fn item(article: &Article, random: &mut Random) -> Item {
    Item {
        product_id: article.id.clone(),
        category: article.category,
        quantity: random.pick(&[(70, 1), (18, 2), (7, 3)], 5),
        unit_price_cents: article.price_cents,
    }
}
