//! The lane under simulation: the code that runs in production, over the in-memory broker, with seeded faults, crashes
//! and rebalances. An oracle that knows only the input and the pipeline's meaning computes the expected output.
//!
//! A failure prints its seed; `HW_SEED=<n> cargo test -p headwater-engine --test simulation` runs that one again, and
//! `HW_SEEDS=<n>` runs as many (18 by default).

// A test reads from top to bottom, as what it tells happens.
#![allow(clippy::too_many_lines)]

/// A pipeline over the orders of a case: its steps and sinks.
macro_rules! over_orders {
    ($rest:literal) => {
        concat!(
            "apiVersion: headwater/v1
name: simulated
commit_interval: 20ms
sources:
  orders:
    topic: orders
    format: json
    schema: { id: string, product: string, amount: long, at: timestamp }
    time: { field: at, out_of_order: 2s, idle: 60s }
    key: id
",
            $rest
        )
    };
}

mod aggregate;
mod any_keys;
mod case;
mod deliveries;
mod elsewhere;
mod fleet;
mod harness;
mod keys;
mod lost;
mod masked;
mod oracle;
mod played;
mod portions;
mod process;
mod remind;
mod sagas;
mod sealing;
mod several;
mod timers;
mod versions;
mod world;

use case::Case;
use harness::Run;
use headwater_engine::sim::{CommittedRecord, FAULTS, Fault};
use std::collections::BTreeMap;
use world::TROUBLES;

/// As many seeds are run by default.
const DEFAULT: u64 = 18;

fn seeds() -> Vec<u64> {
    match (std::env::var("HW_SEED"), std::env::var("HW_SEEDS")) {
        (Ok(seed), _) => vec![seed.parse().expect("HW_SEED is a number")],
        (_, Ok(n)) => (0..n.parse().expect("HW_SEEDS is a number")).collect(),
        _ => (0..DEFAULT).collect(),
    }
}

/// Input, lanes, no trouble.
#[test]
fn an_undisturbed_run_is_what_the_oracle_says() {
    for seed in seeds() {
        let case = Case::new(seed);
        let outcome = Run::new(&case, seed).undisturbed();
        oracle::check(&outcome, seed);
    }
}

/// The same input with every fault the world knows, lanes that die and come back, and more or fewer of them.
#[test]
fn faults_change_nothing() {
    let (mut faults, mut troubles) = (BTreeMap::new(), BTreeMap::new());
    let seeds = seeds();
    for &seed in &seeds {
        let case = Case::new(seed);
        let outcome = Run::new(&case, seed).disturbed();
        oracle::check(&outcome, seed);
        outcome.faults.iter().for_each(|(fault, count)| *faults.entry(*fault).or_insert(0) += count);
        outcome.troubles.iter().for_each(|(trouble, count)| *troubles.entry(*trouble).or_insert(0) += count);
    }
    println!("{} seeds: {troubles:?} {faults:?}", seeds.len());
    if seeds.len() as u64 >= DEFAULT {
        for trouble in TROUBLES {
            assert!(troubles.contains_key(&trouble), "{trouble:?} never happened: {troubles:?}");
        }
        // Positions are not committed without a transaction.
        for fault in FAULTS.iter().filter(|fault| !matches!(fault, Fault::OffsetRequestLost | Fault::OffsetReplyLost)) {
            assert!(faults.contains_key(fault), "{fault:?} never happened: {faults:?}");
        }
    }
}

/// `guarantee: at_least_once` gives up on "once", not on "at least".
#[test]
fn without_transactions_nothing_is_lost() {
    for seed in seeds().into_iter().step_by(2) {
        let case = Case::new(seed);
        let outcome = Run::at_least_once(&case, seed).disturbed();
        oracle::check_nothing_lost(&outcome, seed);
    }
}

/// A record that the brokers refuse for what it is becomes a dead letter; what is beside it in its transaction is written once.
#[test]
fn what_the_brokers_refuse_is_a_dead_letter_and_the_rest_flows() {
    for seed in seeds().into_iter().step_by(3) {
        let case = Case::refused(seed);
        let outcome = Run::new(&case, seed).undisturbed();
        oracle::check(&outcome, seed);
        let outcome = Run::new(&case, seed).disturbed();
        oracle::check(&outcome, seed);
        let refused: Vec<_> = case.orders.iter().filter(|order| !order.broken && order.amount >= 0 && case.refuses(order)).collect();
        assert!(!refused.is_empty());
        let letters = outcome.broker.read_all_committed("orders.dlq");
        let header = |letter: &CommittedRecord, name: &str| {
            let found = letter.headers.iter().find(|(n, _)| n == name.as_bytes()).and_then(|(_, value)| value.clone());
            String::from_utf8(found.unwrap_or_default()).unwrap()
        };
        let of_copies: Vec<_> = letters.iter().filter(|letter| header(letter, "hw-step") == "copies").collect();
        assert_eq!(of_copies.len(), refused.len(), "seed {seed}");
        for letter in of_copies {
            assert!(header(letter, "hw-cause").contains("message too large"), "{}", header(letter, "hw-cause"));
            assert!(letter.value.as_ref().is_some_and(|value| value.starts_with(b"{\"id\"")), "the record as it came");
        }
    }
}
