//! A task: one partition of one stage, and the operators that run in it.
//!
//! Rows flow through the operators in plan order, first all batches of a round, then time: an operator's results for
//! a new watermark reach downstream operators before that watermark does (`time.rs`). Rows split across branches are merged back in
//! source-offset order ([`crate::task::merge`]).
//!
//! Every call of an operator is checked (`call.rs`, `checks.rs`): it must account for every row (R3) and emit the planned columns. A
//! failed check is a bug, and aborts the epoch rather than committing it.

pub mod merge;

mod call;
mod checks;
mod time;

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use operator_core::batch::OFFSET;
use operator_core::memory::{self, Exceeded};
use operator_core::{
    Batch, Input, Ledger, Millis, Mode, NO_WATERMARK, Operator, Origin, OutputPort, Port, Rejected, StateError, StateLayout, Tables, Timers,
};

use crate::pipeline::OnError;
use crate::plan::{Stage, Upstream};
use crate::state::Store;
use crate::task::merge::{BatchSeq, BranchRows, in_order};
use crate::union::fit;

/// Something the epoch can't be trusted after.
#[derive(Debug, thiserror::Error)]
#[error("step `{step}`: {message}")]
pub struct TaskError {
    pub step: String,
    pub message: String,
    /// What is in state means nothing to the step: it will not be otherwise the next time.
    pub unreadable: bool,
}

/// Rows that leave the stage, or are refused by one of its steps.
#[derive(Default)]
pub struct StageOutput {
    /// By output of the stage.
    pub rows: Vec<BranchRows>,
    /// (step, row, cause, where it comes from)
    pub rejected: Vec<(Arc<str>, Rejected, Origin)>,
}

/// What a round of a task gets from outside.
#[derive(Clone, Copy)]
pub struct Round<'a> {
    /// The wall clock.
    pub wall: Millis,
    /// Up to which time of the wall clock the inputs were read: its timers for later times have to wait.
    pub reached: Millis,
    /// Entries of state that one call of an operator may release, and timers of a step that may fire.
    pub budget: usize,
    pub tables: &'a dyn Tables,
}

/// What time brought about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ran {
    /// An operator emitted something or changed its state, or is done at last.
    pub acted: bool,
    /// An operator has more to do.
    pub more: bool,
}

struct Node {
    step: Arc<str>,
    operator: Box<dyn Operator>,
    /// `Some` if the step keeps state.
    store: Option<Store>,
    /// `Some` if the step sets timers.
    timers: Option<Timers>,
    /// More timers are due than could fire.
    firing: bool,
    /// The watermark that the operator is done with, and the one that was passed on.
    seen: Millis,
    passed_on: Millis,
    /// The watermark that it works on, while it is not done.
    releasing: Option<Millis>,
    delay: Millis,
    on_error: OnError,
    /// Rows in the open epoch and where they went.
    ledger: Ledger,
    /// Rows that came out in the open epoch, by port.
    emitted: Vec<u64>,
    /// Ports that nothing reads, and whose rows nobody misses.
    unread: Vec<Port>,
    rows_in: u64,
    /// Rows that wait, by branch of the node.
    waiting: Vec<BranchRows>,
}

impl Node {
    /// State is another than the operator knows.
    fn restored(&mut self) {
        self.operator.on_restore();
        if let Some(timers) = &mut self.timers {
            timers.forget();
        }
    }
}

/// The operators of a stage in one partition.
pub struct Task {
    pub stage: usize,
    pub partition: i32,
    plan: Arc<crate::plan::Plan>,
    nodes: Vec<Node>,
    /// Batches that were taken in this round.
    taken: BatchSeq,
}

impl Task {
    pub fn new(plan: &Arc<crate::plan::Plan>, stage: usize, partition: i32) -> Task {
        let of = plan.stages.get(stage);
        let nodes = of.map(|s| s.nodes.as_slice()).unwrap_or_default().iter().enumerate().map(|(index, node)| Node {
            step: node.step.as_str().into(),
            operator: (node.planned.build)(),
            store: node.planned.state.is_some().then(Store::default),
            timers: node.planned.state.as_ref().is_some_and(StateLayout::has_timers).then(Timers::default),
            firing: false,
            seen: NO_WATERMARK,
            passed_on: NO_WATERMARK,
            releasing: None,
            delay: node.planned.delay,
            on_error: node.on_error,
            ledger: Ledger::default(),
            emitted: vec![0; node.planned.outputs.len()],
            unread: of.map(|stage| unread(stage, index)).unwrap_or_default(),
            rows_in: 0,
            waiting: Vec::new(),
        });
        let nodes = nodes.collect();
        Task { stage, partition, plan: plan.clone(), nodes, taken: 0 }
    }

    fn stage(&self) -> Option<&Stage> {
        self.plan.stages.get(self.stage)
    }

    /// Steps with state: node index and store.
    pub fn stores(&mut self) -> impl Iterator<Item = (usize, &mut Store)> {
        self.nodes.iter_mut().enumerate().filter_map(|(i, n)| n.store.as_mut().map(|s| (i, s)))
    }

    pub fn store(&mut self, node: usize) -> Option<&mut Store> {
        self.nodes.get_mut(node).and_then(|n| n.store.as_mut())
    }

    /// Begins with state that was restored. Every step is to be given its time again: some may have been in the middle of
    /// releasing what was over, and only their state says how far they had come.
    pub fn resume(&mut self) {
        for node in &mut self.nodes {
            (node.seen, node.passed_on, node.releasing, node.firing) = (NO_WATERMARK, NO_WATERMARK, None, false);
            node.restored();
            node.waiting.clear();
        }
    }

    /// Forgets the open epoch's rows; state overlays are discarded by the caller, who then calls [`Task::resume`].
    pub fn discard(&mut self) {
        for node in &mut self.nodes {
            if let Some(store) = &mut node.store {
                store.discard();
            }
            node.ledger = Ledger::default();
            node.emitted.fill(0);
            node.rows_in = 0;
            node.waiting.clear();
        }
    }

    /// The open epoch's ledgers by step, and starts the next epoch's.
    pub fn take_ledgers(&mut self) -> Vec<(Arc<str>, i32, u64, Ledger)> {
        let partition = self.partition;
        self.nodes.iter_mut().map(|n| (n.step.clone(), partition, std::mem::take(&mut n.rows_in), std::mem::take(&mut n.ledger))).collect()
    }

    /// Rows that came out of named ports in the open epoch, by step and port, and starts the next epoch's.
    pub fn take_emitted(&mut self) -> Vec<(Arc<str>, String, u64)> {
        let plan = self.plan.clone();
        let nodes = plan.stages.get(self.stage).map(|stage| stage.nodes.as_slice()).unwrap_or_default();
        let mut taken = Vec::new();
        for (node, planned) in self.nodes.iter_mut().zip(nodes) {
            for (rows, port) in node.emitted.iter_mut().zip(&planned.planned.outputs) {
                let rows = std::mem::take(rows);
                if rows > 0 && !port.name.is_empty() {
                    taken.push((node.step.clone(), port.name.clone(), rows));
                }
            }
        }
        taken
    }

    fn input_watermark(&self, node: usize, inputs: &[Millis]) -> Millis {
        let Some(plan) = self.stage().and_then(|s| s.nodes.get(node)) else { return NO_WATERMARK };
        let of = |upstream: &Upstream| match upstream {
            Upstream::Input(i) => inputs.get(*i).copied().unwrap_or(NO_WATERMARK),
            Upstream::Node(n, _) => self.nodes.get(*n).map_or(NO_WATERMARK, |n| n.passed_on),
        };
        plan.branches.iter().map(|branch| of(&branch.from)).min().unwrap_or(NO_WATERMARK)
    }

    /// The watermark that has been passed on to output `output`.
    pub fn output_watermark(&self, output: usize, inputs: &[Millis]) -> Millis {
        match self.stage().and_then(|s| s.outputs.get(output)).map(|o| o.from) {
            Some(Upstream::Input(i)) => inputs.get(i).copied().unwrap_or(NO_WATERMARK),
            Some(Upstream::Node(n, _)) => self.nodes.get(n).map_or(NO_WATERMARK, |n| n.passed_on),
            None => NO_WATERMARK,
        }
    }

    /// Takes a batch of input `input`.
    ///
    /// # Errors
    /// The rows don't fit a step that reads several streams: a bug.
    pub fn push(&mut self, input: usize, batch: Batch, out: &mut StageOutput) -> Result<(), TaskError> {
        let seq = self.taken;
        self.taken += 1;
        self.deliver(Upstream::Input(input), seq, batch.rows, &batch.origin, out)
    }

    fn deliver(
        &mut self,
        from: Upstream,
        seq: BatchSeq,
        rows: RecordBatch,
        origin: &Origin,
        out: &mut StageOutput,
    ) -> Result<(), TaskError> {
        let plan = self.plan.clone();
        let Some(stage) = plan.stages.get(self.stage) else { return Ok(()) };
        let by = |branch: usize, step: &str, columns: Option<&SchemaRef>| {
            let rows = columns.map_or_else(|| Ok(rows.clone()), |columns| fit(&rows, columns));
            let rows = rows.map_err(|e| TaskError { step: step.to_string(), message: e.to_string(), unreadable: false })?;
            Ok(BranchRows { branch, seq, rows, origin: origin.clone() })
        };
        for (node, waits) in stage.nodes.iter().zip(&mut self.nodes) {
            for (number, branch) in node.branches.iter().enumerate().filter(|(_, branch)| branch.from == from) {
                waits.waiting.push(by(number, &node.step, branch.united.as_ref())?);
            }
        }
        for (index, output) in stage.outputs.iter().enumerate().filter(|(_, output)| output.from == from) {
            out.rows.push(by(index, &output.name, output.united.then_some(&output.schema))?);
        }
        Ok(())
    }

    /// Runs everything that waits, then time. `inputs`: the watermark of each input of the stage.
    pub fn run(&mut self, inputs: &[Millis], round: Round<'_>, out: &mut StageOutput) -> Result<Ran, TaskError> {
        let mut ran = Ran::default();
        self.taken = 0;
        for index in 0..self.nodes.len() {
            self.waiting(index, round, out)?;
            ran.acted |= self.time(index, inputs, round, out)?;
        }
        ran.more = self.nodes.iter().any(|node| node.firing || node.releasing.is_some());
        Ok(ran)
    }

    /// Runs one batch of input `input` through the steps, without time.
    ///
    /// # Errors
    /// Inside: the rows would need too much memory, and nothing has happened.
    pub fn try_push(&mut self, input: usize, batch: Batch, round: Round<'_>) -> Result<Result<StageOutput, Exceeded>, TaskError> {
        let before: Vec<(Ledger, u64, Vec<u64>)> = self.nodes.iter().map(|n| (n.ledger, n.rows_in, n.emitted.clone())).collect();
        self.stores().for_each(|(_, store)| store.mark());
        let ran = memory::within(memory::BUDGET, || {
            let mut out = StageOutput::default();
            self.push(input, batch, &mut out)?;
            for index in 0..self.nodes.len() {
                self.waiting(index, round, &mut out)?;
            }
            Ok(out)
        });
        self.taken = 0;
        if let Ok(ran) = ran {
            self.stores().for_each(|(_, store)| store.keep());
            return ran.map(Ok);
        }
        for (node, (ledger, rows_in, emitted)) in self.nodes.iter_mut().zip(before) {
            (node.ledger, node.rows_in, node.emitted) = (ledger, rows_in, emitted);
            node.waiting.clear();
            if let Some(store) = &mut node.store {
                store.undo();
            }
            node.restored();
        }
        Ok(Err(Exceeded))
    }

    /// Runs the batches that wait for a step, one input after the other: branches of different inputs have no common order.
    fn waiting(&mut self, index: usize, round: Round<'_>, out: &mut StageOutput) -> Result<(), TaskError> {
        let mut waiting = self.nodes.get_mut(index).map(|n| std::mem::take(&mut n.waiting)).unwrap_or_default();
        let plan = self.plan.clone();
        let node = plan.stages.get(self.stage).and_then(|stage| stage.nodes.get(index));
        let input_of =
            |branch: &BranchRows| node.and_then(|node| node.branches.get(branch.branch)).map_or(Input::ONLY, |branch| branch.input);
        while let Some(input) = waiting.iter().map(input_of).min() {
            let (of_input, others): (Vec<BranchRows>, Vec<BranchRows>) = waiting.into_iter().partition(|branch| input_of(branch) == input);
            waiting = others;
            let mode = node.and_then(|node| node.branches.iter().find(|branch| branch.input == input)).map(|branch| &branch.mode);
            let ordered = in_order(of_input, mode.and_then(Mode::key)).map_err(|e| self.broken(index, e.to_string()))?;
            for BranchRows { seq, rows, origin, .. } in ordered {
                self.batch(index, (input, seq), &Batch::new(rows, origin), round, out)?;
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        index: usize,
        (input, seq): (Input, BatchSeq),
        batch: &Batch,
        round: Round<'_>,
        out: &mut StageOutput,
    ) -> Result<(), TaskError> {
        let rows = batch.num_rows() as u64;
        let from = (seq, &batch.origin);
        let (ledger, _, ()) = self.call(index, round, from, out, |operator, cx| operator.on_batch(input, batch, cx))?;
        checks::accounts_for(rows, &ledger).map_err(|wrong| self.broken(index, wrong))?;
        if let Some(node) = self.nodes.get_mut(index) {
            node.rows_in += rows;
        }
        Ok(())
    }

    fn port(&self, index: usize, port: Port) -> Option<&OutputPort> {
        self.stage()?.nodes.get(index)?.planned.outputs.get(usize::from(port.0))
    }

    /// The origin of rows that a step makes by itself.
    fn made_by(&self, index: usize) -> Origin {
        let step = self.nodes.get(index).map_or_else(|| "".into(), |node| node.step.clone());
        Origin { topic: step, partition: self.partition, from: -1, to: -1 }
    }

    fn unreadable(&self, index: usize, e: &StateError) -> TaskError {
        TaskError { unreadable: true, ..self.broken(index, e.to_string()) }
    }

    fn broken(&self, index: usize, message: String) -> TaskError {
        let step = self.nodes.get(index).map_or_else(String::new, |n| n.step.to_string());
        TaskError { step, message, unreadable: false }
    }
}

/// Ports of a step that nothing reads. Rows of lossy ports are wanted all the same: a metric says how many there are.
fn unread(stage: &Stage, index: usize) -> Vec<Port> {
    let read: Vec<Upstream> = stage.nodes.iter().flat_map(|node| &node.branches).map(|branch| branch.from).collect();
    let is_read = |from: Upstream| read.contains(&from) || stage.outputs.iter().any(|output| output.from == from);
    let outputs = stage.nodes.get(index).map(|node| node.planned.outputs.as_slice()).unwrap_or_default();
    let ports = (0..).map(Port).zip(outputs).filter(|(port, of)| !of.lossy_if_unread && !is_read(Upstream::Node(index, *port)));
    ports.map(|(port, _)| port).collect()
}

/// Of the record that a row is, or negative.
pub(crate) fn offset_of(row: &RecordBatch) -> i64 {
    let offsets = row.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
    offsets.and_then(|offsets| offsets.values().first().copied()).unwrap_or(-1)
}
