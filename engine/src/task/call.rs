//! A call of an operator: what it gets, what is checked, and where its rows go.

use operator_core::{Context, Emitted, Ledger, MemoryState, Operator, Origin, Port, Rejected, State, StateError};

use super::{Round, StageOutput, Task, TaskError, checks, offset_of};
use crate::pipeline::OnError;
use crate::plan::Upstream;
use crate::task::merge::{BY_TIME, BatchSeq};

impl Task {
    /// Calls an operator, checks what it emitted and sends it on. Returns whether anything was emitted, and the operator's answer.
    pub(super) fn call<T>(
        &mut self,
        index: usize,
        round: Round<'_>,
        (seq, origin): (BatchSeq, &Origin),
        out: &mut StageOutput,
        run: impl FnOnce(&mut dyn Operator, &mut Context<'_>) -> Result<T, StateError>,
    ) -> Result<(Ledger, bool, T), TaskError> {
        let (mut emitted, mut rejected, mut ledger) = (Vec::new(), Vec::new(), Ledger::default());
        let Some(node) = self.nodes.get_mut(index) else { return Err(self.broken(index, "there is no such step".to_string())) };
        let mut none = MemoryState::default();
        let state: &mut dyn State = match &mut node.store {
            Some(store) => store,
            None => &mut none,
        };
        let result = {
            let cx = Context::new(&mut emitted, &mut rejected, &mut ledger, state, round.tables);
            let mut cx = cx.with_timers(node.timers.as_mut(), round.wall).with_unread(&node.unread);
            run(node.operator.as_mut(), &mut cx)
        };
        let answer = match result {
            Ok(answer) => answer,
            Err(e) => return Err(self.unreadable(index, &e)),
        };
        if node.on_error == OnError::Drop {
            let dropped: u64 = rejected.extract_if(.., |rejected| !rejected.by_config).map(|rejected| rejected.inputs).sum();
            ledger.rejected -= dropped;
            ledger.filtered += dropped;
        }
        node.ledger.add(&ledger);
        let step = node.step.clone();
        let (any, own) = (!emitted.is_empty(), self.made_by(index));
        // A result that was refused, of a step that makes results: its own, whichever row led to it.
        let makes = self.port(index, Port::OUT).is_some_and(|output| output.timed);
        let of = |row: &Rejected| if makes && offset_of(&row.row) < 0 { own.clone() } else { origin.clone() };
        out.rejected.extend(rejected.into_iter().map(|rejected| {
            let origin = of(&rejected);
            (step.clone(), rejected, origin)
        }));
        for Emitted { port, rows } in emitted {
            let Some(output) = self.port(index, port) else {
                return Err(self.broken(index, format!("emitted on port {}, which it doesn't have", port.0)));
            };
            checks::has_columns(&rows, &output.schema).map_err(|wrong| self.broken(index, wrong))?;
            let (seq, origin) = if output.timed { (BY_TIME, &own) } else { (seq, origin) };
            if let Some(emitted) = self.nodes.get_mut(index).and_then(|node| node.emitted.get_mut(usize::from(port.0))) {
                *emitted += rows.num_rows() as u64;
            }
            self.deliver(Upstream::Node(index, port), seq, rows, origin, out)?;
        }
        Ok((ledger, any, answer))
    }
}
