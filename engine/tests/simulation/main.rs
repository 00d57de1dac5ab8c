//! The lane under simulation: the code that runs in production, over the in-memory broker, with seeded faults, crashes
//! and rebalances. An oracle that knows only the input and the pipeline's meaning says what must come out.
//!
//! A failure prints its seed; `HW_SEED=<n> cargo test -p headwater-engine --test simulation` runs that one again, and
//! `HW_SEEDS=<n>` runs as many (30 by default).

mod harness;
mod keys;
mod oracle;

use harness::{Case, Run};

fn seeds() -> Vec<u64> {
    match (std::env::var("HW_SEED"), std::env::var("HW_SEEDS")) {
        (Ok(seed), _) => vec![seed.parse().expect("HW_SEED is a number")],
        (_, Ok(n)) => (0..n.parse().expect("HW_SEEDS is a number")).collect(),
        _ => (0..30).collect(),
    }
}

/// Input, lanes, no trouble.
#[test]
fn an_undisturbed_run_is_what_the_oracle_says() {
    for seed in seeds() {
        let case = Case::new(seed);
        let outcome = Run::new(&case, seed).undisturbed();
        oracle::check(&case, &outcome, seed);
    }
}

/// The same input with every fault the world knows, lanes that die and come back, and more or fewer of them.
#[test]
fn faults_change_nothing() {
    for seed in seeds() {
        let case = Case::new(seed);
        let outcome = Run::new(&case, seed).disturbed();
        oracle::check(&case, &outcome, seed);
    }
}

/// `guarantee: at_least_once` gives up on "once", not on "at least".
#[test]
fn without_transactions_nothing_is_lost() {
    for seed in seeds() {
        let case = Case::new(seed);
        let outcome = Run::at_least_once(&case, seed).disturbed();
        oracle::check_nothing_lost(&case, &outcome, seed);
    }
}
