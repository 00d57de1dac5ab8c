//! Orders in the demo: placed, reserved, paid, shipped, or taken back. Services for payment and shipping run beside the pipelines,
//! decline some orders, and lose, double or delay some answers; the books are kept by a reader of the topics.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use headwater_engine::broker::{Broker, Event, TopicPartition, TopicSpec};
use headwater_engine::worker::Stop;
use headwater_generate::simulate::{Behaviour, OrderOptions, Orders as Placing, PAYMENTS, Participant, SHIPPING, Service};
use parking_lot::Mutex;

use super::books::{Books, Orders, Stock, TOPICS};
use crate::cli::simulate::{participant, shop};
use crate::diagnose::Problem;

const PARTITIONS: i32 = 3;
/// The topics that pipelines read before anything is written to them.
const READ: [&str; 9] = [
    "commands.inventory",
    "commands.payments",
    "commands.shipping",
    "commands.orders",
    "business.orders.placed",
    "business.orders.ended",
    "business.inventory.events",
    "business.inventory.replies",
    "business.inventory.rejections",
];
/// How often the warehouse receives the stock of every SKU again.
const RESTOCK: Duration = Duration::from_secs(20);

/// What the shop is like. Of 20 SKUs, the hottest are out of stock from time to time.
fn stock() -> OrderOptions {
    OrderOptions { skus: 20, hot: 2, buckets: 4, customers: 200, lines: (1, 3), stock: 40, ..OrderOptions::default() }
}

/// How payment and shipping behave. Late answers come after the timeouts of the saga, as the demo sets them.
fn behaviour(seed: u64, decline: f64) -> Behaviour {
    Behaviour { seed, latency_ms: (20, 200), decline, lose: 0.05, double: 0.05, late: 0.02, late_ms: (4_000, 6_000) }
}

/// Everything at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub orders: Orders,
    pub stock: Stock,
    /// Answers that were lost, and that came twice.
    pub lost: u64,
    pub doubled: u64,
}

#[derive(Default)]
struct State {
    books: Books,
    /// Of payment and of shipping.
    answered: [participant::Answered; 2],
}

/// The shop, its services and its books, each on a thread.
pub(super) struct Shop {
    broker: Arc<dyn Broker>,
    state: Arc<Mutex<State>>,
    /// Ends the orders.
    closed: Stop,
    /// Ends services and books.
    stop: Stop,
    threads: Vec<JoinHandle<Result<(), Problem>>>,
}

impl Shop {
    /// Creates the topics, opens the services and the books. Orders come with [`Shop::place`].
    pub(super) fn open(broker: &Arc<dyn Broker>) -> Result<Shop, Problem> {
        let spec = |name: &&str| TopicSpec { name: (*name).to_string(), partitions: PARTITIONS, replication: None, config: Vec::new() };
        let topics: Vec<TopicSpec> = READ.iter().chain(&[PAYMENTS.events, SHIPPING.events]).map(spec).collect();
        broker.create_topics(&topics).map_err(|e| Problem::of_broker(&e))?;
        let (closed, stop) = (Stop::default(), Stop::default());
        let mut shop = Shop { broker: broker.clone(), state: Arc::default(), closed, stop, threads: Vec::new() };
        shop.serve(0, &PAYMENTS, behaviour(1, 0.1))?;
        shop.serve(1, &SHIPPING, behaviour(2, 0.03))?;
        let (broker, state, stop) = (broker.clone(), shop.state.clone(), shop.stop.clone());
        shop.spawn("books", move || keep(broker.as_ref(), &state, &stop))?;
        Ok(shop)
    }

    fn serve(&mut self, place: usize, service: &'static Service, behaviour: Behaviour) -> Result<(), Problem> {
        let (broker, state, stop) = (self.broker.clone(), self.state.clone(), self.stop.clone());
        self.spawn(service.name, move || {
            let tell = &mut |so_far: &participant::Answered| state.lock().answered[place] = *so_far;
            participant::run(broker.as_ref(), PARTITIONS, Participant::new(service, behaviour), None, &stop, tell).map(drop)
        })
    }

    /// Receives stock and places orders, `rate` per second, until [`Shop::close`].
    pub(super) fn place(&mut self, rate: f64) -> Result<(), Problem> {
        let (broker, closed) = (self.broker.clone(), self.closed.clone());
        self.spawn("orders", move || {
            let mut orders = Placing::new(stock());
            shop::orders(broker.as_ref(), PARTITIONS, &mut orders, &shop::Pace { rate, restock: Some(RESTOCK) }, &closed, &mut |_| {})
                .map(drop)
        })
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() -> Result<(), Problem> + Send + 'static) -> Result<(), Problem> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work).map_err(|e| Problem::plain(e.to_string()))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Places no more orders; those that were placed go on.
    pub(super) fn close(&self) {
        self.closed.stop();
    }

    pub(super) fn shown(&self) -> Shown {
        let state = self.state.lock();
        let sum = |of: fn(&participant::Answered) -> u64| state.answered.iter().map(of).sum();
        Shown { orders: state.books.orders(), stock: state.books.stock(), lost: sum(|a| a.lost), doubled: sum(|a| a.doubled) }
    }

    /// What is not as it must be when all orders have ended.
    pub(super) fn problems(&self) -> Vec<String> {
        self.state.lock().books.problems()
    }

    /// Ends everything.
    ///
    /// # Errors
    /// Why a service, the orders or the books ended before.
    pub(super) fn end(self) -> Result<(), Problem> {
        self.closed.stop();
        self.stop.stop();
        let ended = self.threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(Problem::plain("a thread panicked"))));
        ended.collect::<Vec<_>>().into_iter().collect()
    }
}

/// Enters everything that is committed in the topics.
fn keep(broker: &dyn Broker, state: &Mutex<State>, stop: &Stop) -> Result<(), Problem> {
    let mut from = Vec::new();
    for topic in TOPICS {
        let partitions = broker.partitions(topic).map_err(|e| Problem::of_broker(&e))?.unwrap_or_default();
        from.extend((0..partitions).map(|partition| (TopicPartition::new(topic, partition), 0)));
    }
    let mut reader = broker.reader(&from).map_err(|e| Problem::of_broker(&e))?;
    while !stop.is_stopped() {
        for event in reader.poll(10_000, Duration::from_millis(50)).map_err(|e| Problem::of_broker(&e))? {
            let Event::Records { records, .. } = event else { continue };
            let books = &mut state.lock().books;
            (0..records.len()).filter_map(|index| records.get(index).value).for_each(|value| books.enter(value));
        }
    }
    Ok(())
}
