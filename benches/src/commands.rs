//! The input of the aggregate: commands to an inventory of few products, and what must come of each.
//!
//! Command `n` is a function of `n` alone. Every second one reserves stock for a new order; the others confirm or release what an earlier
//! order reserved, or are the earlier command once more, under its own id. Stock is short: some orders go empty.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::Write;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::native::Producer;
use crate::orders::{Orders, now_ns, partition, random};

/// Products.
pub const SKUS: u64 = 100;
/// An order is settled when this many more have come.
const LATER: u64 = 1_000;

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Receive,
    Reserve,
    Confirm,
    Release,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its number: its id, but for a command that is sent once more, which has the id of the first one.
    pub number: u64,
    id: u64,
    asked: Asked,
    sku: u64,
    order: u64,
    quantity: u64,
    event_time: i64,
}

/// The commands of a run.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    pub count: u64,
    base: i64,
}

impl Commands {
    /// `now`: milliseconds since 1970, at which the last command was given. Ten in a millisecond.
    pub fn new(count: u64, now: i64) -> Commands {
        Commands { count, base: now - (count / 10) as i64 }
    }

    /// The last one is given when the orders begin.
    pub fn as_many_as(orders: &Orders) -> Commands {
        Commands::new(orders.count, orders.begin())
    }

    pub fn command(&self, number: u64) -> Command {
        let event_time = self.base + (number / 10) as i64;
        let stock = |sku, quantity| Command { number, id: number, asked: Asked::Receive, sku, order: 0, quantity, event_time };
        let Some(place) = number.checked_sub(SKUS) else {
            // A tenth less than what is reserved and not released.
            return stock(number, self.count * 63 / 10_000);
        };
        let reserve = |order: u64| Command {
            number,
            id: SKUS + 2 * order,
            asked: Asked::Reserve,
            sku: random(order) % SKUS,
            order,
            quantity: 1 + random(order) / SKUS % 3,
            event_time,
        };
        match (place % 2, (place / 2).checked_sub(LATER)) {
            (0, _) => reserve(place / 2),
            (_, None) => stock(place / 2 % SKUS, 1),
            (_, Some(order)) => {
                let first = reserve(order);
                match random(order ^ 0xffff_ffff) % 10 {
                    0..6 => Command { id: number, asked: Asked::Confirm, ..first },
                    6..9 => Command { id: number, asked: Asked::Release, ..first },
                    _ => first,
                }
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Command> + '_ {
        (0..self.count).map(|number| self.command(number))
    }

    /// What must come of them.
    pub fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::default();
        self.decide(|command, name, quantity, version| outcomes.add(name, command.sku, command.order, quantity, version));
        outcomes
    }

    /// Which of them lead to an event.
    pub fn accepted(&self) -> Vec<bool> {
        let mut accepted = vec![false; self.count as usize];
        self.decide(|command, _, _, version| accepted[command.number as usize] = version > 0);
        accepted
    }

    /// Calls `decided` with each command that is no repeat, the type of its outcome, the quantity in it, and the version of the product after
    /// the event, or 0 of a rejection.
    fn decide(&self, mut decided: impl FnMut(&Command, &'static str, u64, u64)) {
        let mut products = vec![Product::default(); SKUS as usize];
        for command in self.iter().filter(|command| command.id == command.number) {
            let product = &mut products[command.sku as usize];
            let (name, quantity) = product.decide(&command);
            let accepted = u64::from(!name.ends_with("rejected"));
            product.version += accepted;
            decided(&command, name, quantity, product.version * accepted);
        }
    }
}

/// The stock of a product.
#[derive(Clone, Debug, Default)]
struct Product {
    available: u64,
    reserved: HashMap<u64, u64>,
    version: u64,
}

impl Product {
    /// The type of the outcome, and the quantity in it.
    fn decide(&mut self, command: &Command) -> (&'static str, u64) {
        match command.asked {
            Asked::Receive => {
                self.available += command.quantity;
                ("inventory.received", command.quantity)
            }
            Asked::Reserve if self.available < command.quantity => ("inventory.reserve.rejected", 0),
            Asked::Reserve => {
                self.available -= command.quantity;
                self.reserved.insert(command.order, command.quantity);
                ("inventory.reserved", command.quantity)
            }
            Asked::Confirm => {
                self.reserved.remove(&command.order).map_or(("inventory.confirm.rejected", 0), |n| ("inventory.confirmed", n))
            }
            Asked::Release => match self.reserved.remove(&command.order) {
                Some(quantity) => {
                    self.available += quantity;
                    ("inventory.released", quantity)
                }
                None => ("inventory.release.rejected", 0),
            },
        }
    }
}

/// Outcomes in any order: their number, and the sum of a hash of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcomes {
    pub count: u64,
    sum: u64,
}

impl Outcomes {
    /// `sequence`: the version of the product after the event; 0 of a rejection.
    pub fn add(&mut self, name: &str, sku: u64, order: u64, quantity: u64, sequence: u64) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((name, sku, order, quantity, sequence));
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    /// # Errors
    /// The two differ.
    pub fn compare(&self, expected: &Outcomes) -> Result<(), String> {
        match (self.count, self.sum) == (expected.count, expected.sum) {
            true => Ok(()),
            false => Err(format!("wrong output: {} outcomes, not the {} expected, or others", self.count, expected.count)),
        }
    }
}

impl Command {
    /// Appends the record key.
    pub fn key(&self, out: &mut Vec<u8>) {
        // Writing to a vector does not fail.
        let _ = write!(out, "s-{:03}", self.sku);
    }

    /// Appends the record value. `created`: nanoseconds since 1970.
    pub fn value(&self, created: u64, out: &mut Vec<u8>) {
        let name = match self.asked {
            Asked::Receive => "receive",
            Asked::Reserve => "reserve",
            Asked::Confirm => "confirm",
            Asked::Release => "release",
        };
        let _ = write!(
            out,
            "{{\"id\":\"c-{:012}\",\"type\":\"inventory.{name}\",\"event_time\":{},\"data\":{{\"sku\":\"s-{:03}\",\
             \"order_id\":\"o-{:012}\",\"quantity\":{},\"created_ns\":{created:019}}}}}",
            self.id, self.event_time, self.sku, self.order, self.quantity
        );
    }
}

/// Fills a topic with the commands.
pub fn fill(cluster: &Cluster, topic: &str, commands: &Commands) -> Result<(), String> {
    cluster.create(topic)?;
    let producer = Producer::new(&cluster.bootstrap, None, topic, Duration::from_millis(20))?;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for command in commands.iter() {
        key.clear();
        value.clear();
        command.key(&mut key);
        command.value(now_ns(), &mut value);
        producer.send(partition(&key), &key, &value)?;
        if command.number % 1_024 == 0 {
            producer.serve(Duration::ZERO);
        }
    }
    producer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_orders_go_empty_and_some_commands_come_twice() {
        let commands = Commands::new(100_000, 1_700_000_000_000);
        let outcomes = commands.outcomes();
        let repeats = commands.iter().filter(|command| command.id != command.number).count() as u64;
        assert_eq!(outcomes.count + repeats, 100_000);
        assert!((4_000..6_000).contains(&repeats), "{repeats}");
        let mut empty = 0;
        commands.decide(|_, name, _, _| empty += u64::from(name == "inventory.reserve.rejected"));
        assert!((1_000..12_000).contains(&empty), "{empty}");
        let mut value = Vec::new();
        commands.command(5_000).value(1_700_000_000_000_000_000, &mut value);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&value).unwrap()["type"], "inventory.reserve");
    }
}
