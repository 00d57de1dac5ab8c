//! Topics and positions that go: the pipeline ends with the reason and stays refused, and nothing wrong was committed.

use std::collections::BTreeMap;

use headwater_engine::broker::Broker;
use headwater_engine::sim::{Faults, MemoryBroker};

use crate::case::{Case, Random};
use crate::fleet::Fleet;
use crate::harness::{PIPELINE, faults_of_calls};
use crate::oracle;
use crate::seeds;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    ChangelogDeleted,
    ChangelogCreatedAgain,
    RepartitionDeleted,
    RepartitionCreatedAgain,
    SourceCreatedAgain,
    /// Only while no worker runs: a group with members keeps its positions.
    PositionsDeleted,
}

const LOSSES: [Loss; 6] = [
    Loss::ChangelogDeleted,
    Loss::ChangelogCreatedAgain,
    Loss::RepartitionDeleted,
    Loss::RepartitionCreatedAgain,
    Loss::SourceCreatedAgain,
    Loss::PositionsDeleted,
];

/// Steps whose changelogs have entries as soon as some orders were processed.
const WITH_STATE: [&str; 5] = ["per_product", "per_id", "first", "pairs", "sessions"];

impl Loss {
    fn happens(self, broker: &MemoryBroker, random: &mut Random) {
        let changelog = format!("hw.simulated.{}.changelog", WITH_STATE[random.below(WITH_STATE.len() as u64) as usize]);
        let again = |topic: &str, config: &[(&str, &str)]| {
            let partitions = broker.partitions(topic).unwrap().unwrap();
            broker.delete_topic(topic);
            broker.create_topic_with(topic, partitions, config);
        };
        match self {
            Loss::ChangelogDeleted => broker.delete_topic(&changelog),
            Loss::ChangelogCreatedAgain => again(&changelog, &[("cleanup.policy", "compact")]),
            Loss::RepartitionDeleted => broker.delete_topic("hw.simulated.per_product.repartition"),
            Loss::RepartitionCreatedAgain => again("hw.simulated.per_product.repartition", &[]),
            Loss::SourceCreatedAgain => again("orders", &[]),
            Loss::PositionsDeleted => broker.delete_group("hw.simulated"),
        }
    }

    /// What a start is refused for.
    fn codes(self) -> &'static [&'static str] {
        match self {
            Loss::ChangelogDeleted | Loss::ChangelogCreatedAgain => &["lost-topic"],
            // Their positions went with them.
            Loss::RepartitionDeleted | Loss::RepartitionCreatedAgain => &["lost-topic", "lost-positions"],
            Loss::SourceCreatedAgain => &["recreated-topic"],
            Loss::PositionsDeleted => &["lost-positions"],
        }
    }
}

/// Turns in which all workers must have learnt of it.
const NOTICE: u64 = 3_000;

fn lose(seed: u64, loss: Loss, running: bool) {
    let what = format!("seed {seed}: {loss:?}, running: {running}");
    let case = Case { in_transactions: false, ..Case::new(seed) };
    let versions = [PIPELINE.to_owned()];
    let mut fleet = Fleet::new(&case, seed, &versions);
    let mut random = Random::new(seed ^ 99);
    fleet.run.broker().set_faults(faults_of_calls(seed));
    fleet.trouble(0..120 + random.below(60) as usize, &[]);
    if seed.is_multiple_of(2) {
        fleet.run.broker().set_faults(Faults::none());
    }
    if !running {
        fleet.kill();
    }
    // A leader that does not answer would hide what a start finds.
    fleet.run.world.heal();
    let before = fleet.run.input();
    loss.happens(fleet.run.broker(), &mut random);
    let (mut refused, mut turn) = (BTreeMap::<&str, u64>::new(), 0);
    while turn < NOTICE {
        turn += 1;
        fleet.run.pass(1 + random.below(8) as i64);
        for code in fleet.turn(random.below(3) as usize, turn) {
            *refused.entry(code).or_default() += 1;
        }
    }
    assert_eq!(fleet.running(), 0, "{what}: {:?}", fleet.happened);
    assert!(refused.keys().any(|code| loss.codes().contains(code)), "{what}: refused for {refused:?}, {:?}", fleet.happened);
    fleet.run.broker().set_faults(Faults::none());
    fleet.run.pass(120_000);
    fleet.run.broker().settle();
    oracle::check_nothing_wrong(&before, fleet.run.broker(), &what);
}

#[test]
fn what_is_lost_is_refused_and_nothing_wrong_was_committed() {
    for seed in seeds() {
        let loss = LOSSES[seed as usize % LOSSES.len()];
        let running = loss != Loss::PositionsDeleted && (seed as usize / LOSSES.len()).is_multiple_of(2);
        lose(seed, loss, running);
    }
}
