//! Pipelines that are changed while they run: workers of two versions run beside each other where the manifest allows it, and are
//! refused where it does not. What both versions compute is as if nothing had been changed.

use std::collections::BTreeMap;

use crate::case::Case;
use crate::fleet::Fleet;
use crate::harness::PIPELINE;
use crate::oracle;
use crate::{DEFAULT, seeds};

/// What a start may be refused for: a window of another size, or a step that is gone, while there is state, or beside workers of the
/// version before.
const ALLOWED: [&str; 3] = ["changed-state", "unread-rows", "workers-running"];

fn versions() -> Vec<String> {
    let changed = |text: &str, old: &str, new: &str| {
        assert!(text.contains(old));
        text.replace(old, new)
    };
    let with = |text: &str, step: &str, sink: &str| changed(text, "sinks:\n", &format!("{step}\nsinks:\n{sink}\n"));
    // A step with state beside the others, and one behind a repartition topic of its own.
    let more = with(
        PIPELINE,
        "  added: { from: paid, window: { tumbling: 5s, by: [id], compute: { n: count(*) } } }",
        "  added: { from: added, topic: added, key: id, create: { partitions: 1 } }",
    );
    let most = with(
        &more,
        "  by_amount: { from: paid, window: { tumbling: 10s, by: [amount], compute: { n: count(*) } } }",
        "  by_amount: { from: by_amount, topic: by-amount, create: { partitions: 1 } }",
    );
    let slower = changed(&most, "commit_interval: 20ms", "commit_interval: 50ms");
    let other = changed(&most, "window: { tumbling: 10s, by: [product]", "window: { tumbling: 5s, by: [product]");
    vec![PIPELINE.to_owned(), more, most, slower, other]
}

#[test]
fn versions_that_come_and_go_change_no_result() {
    let versions = versions();
    let (seeds, mut happened) = (seeds(), BTreeMap::<String, u64>::new());
    for &seed in seeds.iter().step_by(3) {
        let case = Case::new(seed);
        let mut fleet = Fleet::new(&case, seed, &versions);
        fleet.whole = 2;
        fleet.needs_state = Some((versions.len() - 1, "hw.simulated.per_product.changelog"));
        let (outcome, counts) = fleet.play(&ALLOWED);
        oracle::check(&outcome, seed);
        counts.into_iter().for_each(|(what, count)| *happened.entry(what).or_default() += count);
    }
    println!("{} seeds: {happened:?}", seeds.len().div_ceil(3));
    for what in ["turns of two versions at once", "changed-state", "workers-running"] {
        assert!((seeds.len() as u64) < DEFAULT || happened.contains_key(what), "{what} never happened: {happened:?}");
    }
}
