//! Orders through the shipped pipelines `inventory` and `order-fulfilment` while workers are killed and frozen, commands come twice, and
//! services refuse, lose, double and delay their answers: every order ends once, and no piece of stock is sold twice. `tests/oracle/orders.py`
//! says what must be true of the events.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headwater_devenv::Ephemeral;

use crate::environment::{HW, configured, exclusive, fresh, oracle, wait_while_it_moves};
use crate::kills::Instants;
use crate::log::{ByKey, Tail, create};
use crate::simulate::simulate;
use crate::worker::{Worker, pipeline};

/// What the pipelines and the services read, and nobody makes before.
const TOPICS: [&str; 11] = [
    "business.orders.placed",
    "business.inventory.events",
    "business.inventory.replies",
    "business.inventory.rejections",
    "business.payments.events",
    "business.shipping.events",
    "business.orders.ended",
    "commands.inventory",
    "commands.payments",
    "commands.shipping",
    "commands.orders",
];
const COMMANDS: &str = "commands.inventory";
/// How long after a command a copy of it comes.
const DOUBLED_AFTER: Duration = Duration::from_secs(3);
/// One in so many disturbances is a freeze.
const FREEZE_EVERY: usize = 4;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// A child that is killed when it is dropped.
struct Simulated(Child);

impl Simulated {
    fn start(environment: &Ephemeral, arguments: &[&str]) -> Simulated {
        let mut command = simulate(environment, arguments);
        Simulated(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("hw starts"))
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two workers of each pipeline.
struct Fleet<'a> {
    environment: &'a Ephemeral,
    dir: &'a Path,
    files: [PathBuf; 2],
    workers: Vec<Option<Worker>>,
}

impl<'a> Fleet<'a> {
    fn start(environment: &'a Ephemeral, dir: &'a Path) -> Fleet<'a> {
        let short = [("timeout: 30s", "timeout: 3s"), ("timeout: 1m", "timeout: 3s")];
        let files = [pipeline(dir, "inventory", &[]), pipeline(dir, "order-fulfilment", &short)];
        let mut fleet = Fleet { environment, dir, files, workers: (0..4).map(|_| None).collect() };
        (0..4).for_each(|slot| fleet.restart(slot));
        fleet
    }

    fn restart(&mut self, slot: usize) {
        if let Some(worker) = self.workers[slot].take() {
            worker.kill();
        }
        self.workers[slot] = Some(Worker::start(self.environment, &self.files[slot % 2], self.dir, slot, None));
    }

    fn disturb(&mut self, n: usize, instants: &mut Instants) {
        let slot = n % 4;
        match &self.workers[slot] {
            Some(worker) if n % FREEZE_EVERY == FREEZE_EVERY - 1 => {
                worker.freeze();
                instants.wait(5_000, 14_000);
                worker.thaw();
            }
            _ => self.restart(slot),
        }
    }
}

/// Writes every seventh command to the inventory once more, some seconds after it came, until it is dropped.
struct Doubling {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Doubling {
    fn start(environment: &Ephemeral) -> Doubling {
        let ending = Arc::new(AtomicBool::new(false));
        let (commands, copies) = (Tail::new(environment, COMMANDS), ByKey::new(environment, COMMANDS));
        let ends = ending.clone();
        let thread = std::thread::spawn(move || {
            let (mut waiting, mut seen) = (VecDeque::new(), 0);
            loop {
                let last = ends.load(Ordering::Relaxed);
                match commands.next(Duration::from_millis(100)) {
                    Some(command) => {
                        seen += 1;
                        waiting.extend((seen % 7 == 1).then(|| (Instant::now() + DOUBLED_AFTER, command)));
                    }
                    None if last => break,
                    None => {}
                }
                while let Some((_, command)) = waiting.pop_front_if(|(due, _)| last || *due <= Instant::now()) {
                    copies.send(command.key.as_deref().unwrap_or_default(), command.value.as_deref());
                }
            }
            copies.flush();
            seen
        });
        Doubling { ending, thread: Some(thread) }
    }

    /// Ends it; how many commands there were.
    fn end(mut self) -> usize {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.take().expect("it ends once").join().expect("commands are doubled")
    }
}

impl Drop for Doubling {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

/// `HW_ORDERS=4000 HW_KILLS=30` is the long form, `HW_ORDERS=1000000 HW_RATE=2000 HW_KILLS=130` with a release in `HW_PROGRAM` the longest.
#[test]
fn every_order_ends_once_and_no_stock_is_sold_twice() {
    let (_turn, environment) = (exclusive(), fresh());
    let dir = tempfile::tempdir().unwrap();
    TOPICS.iter().for_each(|topic| create(&environment, topic, 6));
    let (orders, kills) = (number("HW_ORDERS", 400), number("HW_KILLS", 8));
    let mut fleet = Fleet::start(&environment, dir.path());
    let behaviour = ["--latency", "5ms..60ms", "--lose", "0.05", "--double", "0.05", "--late", "0.02", "--late-by", "4s..8s"];
    let services: Vec<Simulated> = [("payments", "0.1"), ("shipping", "0.03")]
        .iter()
        .map(|(service, refused)| Simulated::start(&environment, &[&[*service, "--decline", *refused], &behaviour[..]].concat()))
        .collect();
    // Of the hottest there is too little; the load lasts about as long as the disturbances.
    let (count, rate) = (orders.to_string(), number("HW_RATE", (orders / (3 * kills).max(1)).max(10)).to_string());
    let stock = (orders / 10).max(40).to_string();
    let shop =
        ["orders", "--count", &count, "--rate", &rate, "--skus", "100", "--hot", "4", "--buckets", "4", "--lines", "3", "--stock", &stock];
    let mut shop = Simulated::start(&environment, &shop);
    let (began, mut instants, ended) = (Instant::now(), Instants(11), Tail::new(&environment, "business.orders.ended"));
    let doubling = Doubling::start(&environment);
    for n in 0..kills {
        instants.wait(500, 4_000);
        fleet.disturb(n, &mut instants);
    }
    let mut ends = 0;
    wait_while_it_moves("the orders", Duration::from_secs(120), || {
        ends += std::iter::from_fn(|| ended.next(Duration::from_millis(100))).take(10_000).count();
        if ends >= orders { Ok(()) } else { Err(format!("{ends} orders have ended")) }
    });
    let seconds = began.elapsed().as_secs_f64();
    assert!(shop.0.wait().expect("a process of ours").success(), "the shop has failed");
    let commands = doubling.end();
    println!("{ends} orders in {seconds:.0} s, {:.0} commands to the inventory per second", commands as f64 / seconds);
    let said = oracle(&["orders", "--bootstrap", &environment.bootstrap, "--wait", &(240 + orders / 100).to_string()]);
    println!("{said}");
    assert!(said.contains(&format!("\"orders\": {orders}")) && !said.contains("\"cancelled\": 0"), "{said}");
    for worker in fleet.workers.into_iter().flatten() {
        assert!(worker.stop().success(), "SIGTERM ends cleanly");
    }
    drop(services);
    // The state of the stock is what its events make of it.
    let mut replay = Command::new(&*HW);
    configured(replay.args(["replay", "--check"]).arg(&fleet.files[0]), &environment);
    let replayed = replay.output().expect("hw starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(replayed.status.success(), "{}{}", said(&replayed.stdout), said(&replayed.stderr));
}
