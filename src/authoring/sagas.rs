//! The model check of the sagas of a pipeline, as findings.

use headwater_engine::yaml::{self, Node};
use operator_core::{Diagnostic, Spec};
use operator_saga::Saga;
use operator_saga::check::{Explored, Unchecked, check};

use crate::diagnose::Problem;
use crate::pipeline_files::Loaded;

/// What the check of a saga came to.
pub struct Checked {
    /// The step.
    pub step: String,
    /// What was explored; or what is wrong.
    pub outcome: Result<Explored, Problem>,
}

/// Checks every saga of a pipeline, at most `depth` moves from its beginning. One whose configuration is wrong is left out: lint reports it.
pub fn checked(loaded: &Loaded, depth: usize) -> Vec<Checked> {
    let steps = loaded.root.get("steps").into_iter().flat_map(Node::entries);
    let of_step = |step: &str, node: &Node| {
        let (saga, errors) = yaml::read_all::<Saga>(node.get(Saga::KIND)?);
        let outcome = match check(&saga.filter(|_| errors.is_empty())?, depth) {
            Ok(explored) => Ok(explored),
            Err(Unchecked::Wrong(_)) => return None,
            Err(Unchecked::Violated(violation)) => {
                let found = Diagnostic::error("saga-violation", violation.what).at(["steps", step, Saga::KIND]).key();
                let trace = violation.trace.iter().enumerate().map(|(n, line)| format!("{}. {line}", n + 1));
                Err(Problem::found(&loaded.source, &loaded.root, found.help(trace.collect::<Vec<_>>().join("\n"))))
            }
        };
        Some(Checked { step: step.to_string(), outcome })
    };
    steps.filter_map(|(key, node)| of_step(&key.text, node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Source;
    use crate::pipeline_files;

    const PIPELINE: &str = "\
apiVersion: headwater/v1
name: fulfilment
sources:
  orders: { topic: business.orders.placed, schema: { id: string } }
  answers: { topic: business.payments.events, schema: { eventType: string, order: string } }
  repairs: { topic: business.orders.repairs, schema: { eventType: string, order: string } }
steps:
  pay:
    from: { start: orders, replies: answers, repairs: repairs }
    saga:
      id: { start: id, replies: order, repairs: order }
      steps:
        pay: { send: { command: payments.authorise }, done: payments.ok, timeout: 1m }
      ends: { completed: orders.confirmed, compensated: orders.cancelled }
sinks:
  out: { from: pay.commands, topic: commands.payments }
";

    fn of(text: &str) -> Vec<Checked> {
        checked(&pipeline_files::parse(Source::new("pipeline.yaml", text)).unwrap_or_else(|_| panic!("a pipeline")), 50)
    }

    #[test]
    fn a_case_that_breaks_what_must_hold_is_a_finding_at_the_saga() {
        let checked = of(PIPELINE);
        let [Checked { step, outcome: Err(problem) }] = checked.as_slice() else { panic!("one saga, which has no undo") };
        assert_eq!((step.as_str(), problem.code.as_str()), ("pay", "saga-violation"));
        assert_eq!(problem.message, "the saga is compensated, and `pay` still has its effect");
        let help = problem.help.clone().unwrap_or_default();
        assert!(help.starts_with("1. the saga begins; the command of `pay` is sent and carried out\n2. no answer"), "{help}");
        assert_eq!(problem.place().as_deref(), Some("pipeline.yaml:10:5"));
    }

    #[test]
    fn what_holds_is_counted_and_what_is_wrong_left_out() {
        let undone = PIPELINE.replace("timeout: 1m }", "timeout: 1m, undo: { command: payments.void, done: payments.voided } }");
        assert!(matches!(of(&undone).as_slice(), [Checked { outcome: Ok(explored), .. }] if explored.complete && explored.worlds > 10));
        assert_eq!(of(&PIPELINE.replace("timeout: 1m }", "timeout: 0s }")).len(), 0);
        assert_eq!(of(&PIPELINE.replace("timeout: 1m }", "timeouts: 1m }")).len(), 0);
    }

    /// Whatever happens to the sagas of shipped pipelines, what must hold does.
    #[test]
    fn shipped_sagas_hold() {
        let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines")).unwrap();
        for path in folders.map(|folder| folder.unwrap().path().join("pipeline.yaml")) {
            let loaded = pipeline_files::load(&path).unwrap_or_else(|_| panic!("{}", path.display()));
            for Checked { step, outcome } in checked(&loaded, 100) {
                let held = outcome.as_ref().is_ok_and(|explored| explored.complete);
                assert!(held, "{}: {step}: {}", path.display(), outcome.err().map_or_else(String::new, |problem| problem.render()));
            }
        }
    }
}
