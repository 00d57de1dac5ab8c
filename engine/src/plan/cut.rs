//! Cutting a plan into stages, each of which reads topics.

use super::build::Builder;
use super::{InputKind, Stage, Upstream};

impl Builder<'_> {
    /// Cuts the stages out, in flow order: repartitions only lead forward.
    pub(super) fn cut(self) -> Vec<Stage> {
        let mut roots: Vec<usize> = self.inputs.iter().map(|(c, _)| self.component(*c)).collect();
        roots.sort_unstable();
        roots.dedup();
        let roots = self.in_flow_order(roots);
        let stage_of = |c: usize| roots.iter().position(|r| *r == self.component(c)).unwrap_or(0);
        let of_inputs: Vec<usize> = self.inputs.iter().map(|(c, _)| stage_of(*c)).collect();
        let of_nodes: Vec<usize> = self.nodes.iter().map(|(c, _)| stage_of(*c)).collect();
        let of_outputs: Vec<usize> = self.outputs.iter().map(|(c, _)| stage_of(*c)).collect();
        let writer_stage: Vec<usize> = self
            .inputs
            .iter()
            .map(|(_, input)| match input.kind {
                InputKind::Repartition { stage, .. } => stage_of(stage),
                InputKind::Source(_) => 0,
            })
            .collect();
        let partitions: Vec<i32> = roots.iter().map(|r| self.partitions(*r).0).collect();
        let local = |stages: &[usize], index: usize| stages.iter().take(index).filter(|s| Some(*s) == stages.get(index)).count();
        let upstream = |u: Upstream| match u {
            Upstream::Input(i) => Upstream::Input(local(&of_inputs, i)),
            Upstream::Node(n, port) => Upstream::Node(local(&of_nodes, n), port),
        };
        let mut stages: Vec<Stage> =
            partitions.iter().map(|p| Stage { inputs: Vec::new(), nodes: Vec::new(), outputs: Vec::new(), partitions: *p }).collect();
        for (i, (_, mut input)) in self.inputs.into_iter().enumerate() {
            if let InputKind::Repartition { stage, .. } = &mut input.kind {
                *stage = writer_stage.get(i).copied().unwrap_or(0);
            }
            if let Some(stage) = of_inputs.get(i).and_then(|s| stages.get_mut(*s)) {
                stage.inputs.push(input);
            }
        }
        for (i, (_, mut node)) in self.nodes.into_iter().enumerate() {
            node.branches.iter_mut().for_each(|branch| branch.from = upstream(branch.from));
            if let Some(stage) = of_nodes.get(i).and_then(|s| stages.get_mut(*s)) {
                stage.nodes.push(node);
            }
        }
        for (i, (_, mut output)) in self.outputs.into_iter().enumerate() {
            output.from = upstream(output.from);
            if let Some(stage) = of_outputs.get(i).and_then(|s| stages.get_mut(*s)) {
                stage.outputs.push(output);
            }
        }
        stages
    }
}
