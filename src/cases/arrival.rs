//! Arrival orders of the records of different partitions. Kafka keeps the order within a partition only, so the output must
//! be the same for every interleaving, as far as the pipeline defines it ([`Comparison`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use headwater_engine::plan::{InputKind, Output, Plan, SinkKey, Stage, Target, TopicName, Upstream};
use operator_core::{KeyEffect, Port};

use super::case_names::of_table;
use super::encode::Input;

/// An order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// All at once: what is polled first is the lane's choice.
    Together,
    /// In the order of the case's lines, each when everything before it is settled.
    AsWritten,
    /// One partition after the other, each when the previous one is settled.
    Ascending,
    Descending,
    /// As ascending, but the first partition comes last.
    FirstLast,
    /// A record of each partition in turn.
    InTurn,
    /// Any partition next, drawn from a seed.
    Drawn(u64),
}

impl Arrival {
    /// The records in portions: one is written when the previous one is settled. Within a partition the order stays.
    pub fn portions<'a>(self, records: &[&'a Input]) -> Vec<Vec<&'a Input>> {
        let mut partitions: BTreeMap<(&str, i32), VecDeque<&Input>> = BTreeMap::new();
        for record in records {
            partitions.entry((record.topic.as_str(), record.partition)).or_default().push_back(record);
        }
        let whole = |queues: Vec<VecDeque<&'a Input>>| queues.into_iter().map(Vec::from).collect();
        let mut queues: Vec<VecDeque<&Input>> = partitions.into_values().collect();
        match self {
            Arrival::Together if records.is_empty() => Vec::new(),
            Arrival::Together => vec![records.to_vec()],
            Arrival::AsWritten => records.iter().map(|record| vec![*record]).collect(),
            Arrival::Ascending => whole(queues),
            Arrival::Descending => {
                queues.reverse();
                whole(queues)
            }
            Arrival::FirstLast => {
                let first = queues.len().min(1);
                queues.rotate_left(first);
                whole(queues)
            }
            Arrival::InTurn => one_by_one(queues, |turn, of| turn % of),
            Arrival::Drawn(seed) => {
                let mut random = seed;
                one_by_one(queues, |_, of| {
                    // The constants of Knuth's MMIX.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (random >> 33) as usize % of
                })
            }
        }
    }
}

/// `next`: the turn and the number of partitions with records left give the partition whose turn it is.
fn one_by_one(mut queues: Vec<VecDeque<&Input>>, mut next: impl FnMut(usize, usize) -> usize) -> Vec<Vec<&Input>> {
    let mut portions = Vec::new();
    let mut turn = 0;
    while !queues.is_empty() {
        let at = next(turn, queues.len());
        match queues.get_mut(at).and_then(VecDeque::pop_front) {
            Some(record) => {
                portions.push(vec![record]);
                turn = at + 1;
            }
            None => drop(queues.remove(at)),
        }
    }
    portions
}

/// How an output is compared where records arrive in another order than that of the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same rows.
    Rows,
    /// Updates of groups whose rows come from several partitions: what a group looks like in between depends on which of
    /// them comes first, what it looks like in the end doesn't. The columns tell groups apart.
    LastOf(Vec<String>),
    /// Changes of rows that come from several partitions: how often a row is written depends on which of them comes first, which rows
    /// are there in the end doesn't. Record keys tell them apart.
    LastOfKeys,
    /// Made from such updates in between: the pipeline does not define the output.
    Open,
}

/// What of a pipeline's answers depends on the order of arrival.
pub struct Dependence {
    outputs: Vec<(TopicName, Comparison, bool)>,
    /// Steps that work on updates in between: what they refuse depends on arrival.
    steps: BTreeSet<String>,
}

impl Dependence {
    /// `keeps_rows`: the step of this name and kind gives a row for each row.
    pub fn of(plan: &Plan, keeps_rows: &dyn Fn(&str, &str) -> bool) -> Dependence {
        let mut dependence = Dependence { outputs: Vec::new(), steps: BTreeSet::new() };
        // The rows of each repartition topic.
        let mut topics: BTreeMap<String, Comparison> = BTreeMap::new();
        for stage in &plan.stages {
            let inputs: Vec<Comparison> = stage.inputs.iter().map(|input| input_comparison(input, &topics)).collect();
            let mut nodes: Vec<Comparison> = Vec::new();
            for node in &stage.nodes {
                let before = node.branches.iter().map(|branch| at(branch.from, stage, &inputs, &nodes)).fold(Comparison::Rows, worse);
                if before != Comparison::Rows {
                    dependence.steps.insert(node.step.clone());
                }
                let main = node.planned.outputs.first();
                let updates = node.planned.state.is_some() && main.is_some_and(|port| !port.timed);
                let changes = main.is_some_and(|port| port.mode.is_changes());
                nodes.push(match (before, main.map(|port| &port.key)) {
                    (Comparison::Rows, _) if changes && node.planned.state.is_some() && meets_others(stage) => Comparison::LastOfKeys,
                    (Comparison::LastOfKeys, _) if changes => Comparison::LastOfKeys,
                    (Comparison::Rows, Some(KeyEffect::Columns(by))) if updates && meets_others(stage) => {
                        let window = main.filter(|port| port.schema.index_of("window_start").is_ok()).map(|_| "window_start".to_string());
                        Comparison::LastOf(by.iter().cloned().chain(window).collect())
                    }
                    (Comparison::Rows, _) if updates && meets_others(stage) => Comparison::Open,
                    (Comparison::LastOf(by), _) if keeps_rows(&node.step, &node.kind) => Comparison::LastOf(by),
                    (Comparison::Rows, _) => Comparison::Rows,
                    _ => Comparison::Open,
                });
            }
            for output in &stage.outputs {
                let comparison = comparable(at(output.from, stage, &inputs, &nodes), output);
                match &output.target {
                    Target::Repartition { topic, .. } => {
                        let known = topics.remove(topic.as_ref()).unwrap_or(Comparison::Rows);
                        topics.insert(topic.to_string(), worse(known, comparison));
                    }
                    Target::Topic(sink) => dependence.add(sink.topic.clone(), comparison, has_order(stage, output, sink.key.as_ref())),
                    Target::Outbox(outbox) => {
                        dependence.add(TopicName::Fixed(of_table(plan, outbox.table.as_ref()).into()), comparison, false);
                    }
                }
            }
        }
        dependence
    }

    fn add(&mut self, name: TopicName, comparison: Comparison, ordered: bool) {
        // Updates of several steps in one topic: which comes last is undefined.
        let shared = self.outputs.iter().any(|(known, _, _)| *known == name);
        let comparison = if shared && comparison != Comparison::Rows { Comparison::Open } else { comparison };
        self.outputs.push((name, comparison, ordered));
    }

    fn named<'a>(&'a self, output: &'a str) -> impl Iterator<Item = &'a (TopicName, Comparison, bool)> {
        self.outputs.iter().filter(move |(name, _, _)| name.covers(output))
    }

    /// How an output (a topic, or `table.` and a table) is compared.
    pub fn comparison(&self, output: &str) -> Comparison {
        self.named(output).map(|(_, comparison, _)| comparison.clone()).fold(Comparison::Rows, worse)
    }

    /// Whether rows of one key in this output have an order.
    pub fn is_ordered(&self, output: &str) -> bool {
        self.named(output).all(|(_, _, ordered)| *ordered)
    }

    /// Whether what this step refuses depends on the order of arrival.
    pub fn is_open(&self, step: &str) -> bool {
        self.steps.contains(step)
    }
}

fn worse(a: Comparison, b: Comparison) -> Comparison {
    match (a, b) {
        (Comparison::Rows, other) | (other, Comparison::Rows) => other,
        (a, b) if a == b => a,
        _ => Comparison::Open,
    }
}

fn at(from: Upstream, stage: &Stage, inputs: &[Comparison], nodes: &[Comparison]) -> Comparison {
    // Late rows are rows as they came. Other ports of a step with state have what its main output has not.
    let decided = |node: usize, port: Port| {
        let planned = stage.nodes.get(node).map(|node| &node.planned).filter(|planned| planned.state.is_some());
        planned.and_then(|planned| planned.outputs.get(usize::from(port.0))).is_some_and(|output| !output.lossy_if_unread)
    };
    let splits = |node: usize| stage.nodes.get(node).is_some_and(|node| node.planned.state.is_none());
    let found = match from {
        Upstream::Input(input) => inputs.get(input),
        Upstream::Node(node, port) => nodes.get(node).filter(|_| port == Port::OUT || splits(node) || decided(node, port)),
    };
    found.cloned().unwrap_or(Comparison::Rows)
}

fn input_comparison(input: &headwater_engine::plan::StageInput, topics: &BTreeMap<String, Comparison>) -> Comparison {
    input.topics.iter().filter_map(|topic| topics.get(topic.name.as_ref())).cloned().fold(Comparison::Rows, worse)
}

/// Rows of several partitions, or topics, are in one task of this stage.
fn meets_others(stage: &Stage) -> bool {
    let topics: usize = stage.inputs.iter().map(|input| input.topics.len()).sum();
    topics > 1 || stage.inputs.iter().any(|input| matches!(input.kind, InputKind::Repartition { .. }))
}

/// Groups can be distinguished only by columns that still exist.
fn comparable(comparison: Comparison, output: &Output) -> Comparison {
    match comparison {
        Comparison::LastOf(by) if !by.iter().all(|column| output.schema.index_of(column).is_ok()) => Comparison::Open,
        Comparison::LastOfKeys if matches!(output.target, Target::Outbox(_)) => Comparison::Open,
        other => other,
    }
}

/// Windows that close together are in order within a group only, and results of a join not at all.
fn has_order(stage: &Stage, output: &Output, key: Option<&SinkKey>) -> bool {
    let mut from = output.from;
    while let Upstream::Node(node, port) = from {
        let Some(node) = stage.nodes.get(node) else { break };
        let timed = node.planned.outputs.get(usize::from(port.0)).filter(|port| port.timed);
        if let Some(port) = timed {
            // The pairs of a join come as their rows do.
            let KeyEffect::Columns(by) = &port.key else { return false };
            return key.is_some_and(|key| {
                key.columns.len() == by.len()
                    && key.columns.iter().all(|path| path.as_column().is_some_and(|column| by.iter().any(|own| own == column)))
            });
        }
        match node.branches.first() {
            // Rows of different inputs come in any order.
            Some(first) if node.branches.iter().any(|branch| branch.input != first.input) => return false,
            Some(first) => from = first.from,
            None => break,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(topic: &str, partition: i32, n: u8) -> Input {
        Input { topic: topic.into(), partition, key: None, value: Some(vec![n]), headers: Vec::new(), timestamp: None, table: false }
    }

    #[test]
    fn every_arrival_keeps_the_order_of_a_partition_and_loses_nothing() {
        let all = [input("a", 1, 0), input("b", 0, 1), input("a", 0, 2), input("a", 1, 3), input("b", 0, 4), input("a", 0, 5)];
        let all: Vec<&Input> = all.iter().collect();
        let numbers = |arrival: Arrival| {
            let portions = arrival.portions(&all);
            portions.iter().map(|p| p.iter().map(|i| i.value.as_ref().unwrap()[0]).collect()).collect::<Vec<Vec<u8>>>()
        };
        assert_eq!(numbers(Arrival::Together), [[0, 1, 2, 3, 4, 5]]);
        assert_eq!(numbers(Arrival::Ascending), [[2, 5], [0, 3], [1, 4]]);
        assert_eq!(numbers(Arrival::Descending), [[1, 4], [0, 3], [2, 5]]);
        assert_eq!(numbers(Arrival::FirstLast), [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(numbers(Arrival::InTurn), [[2], [0], [1], [5], [3], [4]]);
        let drawn: BTreeSet<Vec<u8>> = (0..20).map(|seed| numbers(Arrival::Drawn(seed)).concat()).collect();
        assert!(drawn.len() > 10);
        for order in drawn {
            let at = |n: u8| order.iter().position(|m| *m == n).unwrap();
            assert!(order.len() == 6 && at(2) < at(5) && at(0) < at(3) && at(1) < at(4), "{order:?}");
        }
        assert!(Arrival::Together.portions(&[]).is_empty());
    }
}
