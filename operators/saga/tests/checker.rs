//! The checker finds what is wrong with a saga, and nothing else.

use operator_saga::Saga;
use operator_saga::check::{DEPTH, Explored, Unchecked, Violation, check};

const PAY: &str = r#""pay": { "send": { "command": "p.do" }, "done": "p.done", "failed": "p.failed", "timeout": "1m",
    "undo": { "command": "p.undo", "done": "p.undone" } }"#;
const SHIP: &str = r#""ship": { "send": { "command": "s.do" }, "done": "s.done", "failed": "s.failed", "timeout": "1m", "retry": { "attempts": 1 },
    "undo": { "command": "s.undo", "done": "s.undone", "failed": "s.not_undone" } }"#;

fn saga(steps: &[&str], invariants: &[&str]) -> Saga {
    let ids = r#""id": { "start": "id", "replies": "id", "repairs": "id" }"#;
    let ends = r#""ends": { "completed": "all.done", "compensated": "all.undone" }"#;
    let invariants: Vec<String> = invariants.iter().map(|text| format!("\"{text}\"")).collect();
    let text = format!("{{ {ids}, \"steps\": {{ {} }}, {ends}, \"invariants\": [{}] }}", steps.join(", "), invariants.join(", "));
    serde_json::from_str(&text).unwrap()
}

fn violation(steps: &[&str], invariants: &[&str]) -> Violation {
    match check(&saga(steps, invariants), DEPTH) {
        Err(Unchecked::Violated(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

fn holds(steps: &[&str], invariants: &[&str]) -> Explored {
    check(&saga(steps, invariants), DEPTH).unwrap()
}

#[test]
fn what_holds_is_explored_to_its_end() {
    let lines = r#""reserve": { "each": "lines", "by": "line.sku", "answers_for": "data.sku", "send": { "command": "r.do" }, "done": "r.done",
        "failed": "r.failed", "timeout": "1m", "undo": { "command": "r.undo", "done": "r.undone" } }"#;
    let asked = r#""pay": { "send": { "command": "p.do", "idempotent": false }, "done": "p.done", "failed": "p.failed", "timeout": "1m",
        "unknown": { "command": "p.ask", "not_found": "p.unknown" }, "undo": { "command": "p.undo", "done": "p.undone" } }"#;
    let explored =
        holds(&[lines, asked, SHIP], &["NOT ship.happened OR NOT pay.undone", "NOT completed OR (pay.happened AND ship.happened)"]);
    assert!(explored.complete && (1_000..100_000).contains(&explored.worlds), "{explored:?}");
    // Side by side, and a step that changes nothing.
    let asks = r#""score": { "after": [], "effect": false, "send": { "command": "f.do" }, "done": "f.done", "failed": "f.failed", "timeout": "1m" }"#;
    assert!(holds(&[PAY, asks], &[]).complete);
}

#[test]
fn a_bound_is_said() {
    let explored = check(&saga(&[PAY, SHIP], &[]), 3).unwrap();
    assert_eq!((explored.depth, explored.complete), (3, false));
}

/// Thirteen commands at once, each carried out, refused or lost: more than a million worlds after one move.
#[test]
fn many_commands_at_once_are_cut_and_said_to_be() {
    let step = |n: usize| {
        format!(
            r#""s{n}": {{ "after": [], "send": {{ "command": "{n}.do" }}, "done": "{n}.done", "failed": "{n}.failed", "timeout": "1m",
        "undo": {{ "command": "{n}.undo", "done": "{n}.undone" }} }}"#
        )
    };
    let steps: Vec<String> = (0..13).map(step).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let explored = check(&saga(&steps, &[]), 0).unwrap();
    assert!(!explored.complete && explored.worlds <= 100_000, "{explored:?}");
}

/// The first planted bug: a step has an effect, and nothing takes it back.
#[test]
fn an_effect_without_an_undo_is_found() {
    let reserve = r#""reserve": { "send": { "command": "r.do" }, "done": "r.done", "timeout": "1m" }"#;
    let Violation { what, trace } = violation(&[reserve, PAY], &[]);
    assert_eq!(what, "the saga is compensated, and `reserve` still has its effect");
    assert_eq!(
        trace,
        [
            "the saga begins; the command of `reserve` is sent and carried out",
            "the answer `r.done` to `reserve` comes; the command of `pay` is sent and refused",
            "the answer `p.failed` to `pay` comes; the saga is compensated",
        ]
    );
}

/// The second: a step is sent again without asking what became of it, to a participant that carries it out twice.
#[test]
fn a_repeat_that_is_not_recognised_is_found() {
    let pay = |unknown: &str| {
        format!(
            r#""pay": {{ "send": {{ "command": "p.do", "idempotent": false }}, "done": "p.done", "failed": "p.failed", "timeout": "1m", {unknown}
            "undo": {{ "command": "p.undo", "done": "p.undone" }} }}"#
        )
    };
    let Violation { what, trace } = violation(&[&pay("")], &[]);
    assert_eq!(what, "`pay` has its effect twice");
    assert_eq!(
        trace,
        [
            "the saga begins; the command of `pay` is sent and carried out",
            "no answer to `pay` comes in time",
            "the pause of `pay` is over; the command of `pay` is sent and carried out",
        ]
    );
    assert!(holds(&[&pay(r#""unknown": { "command": "p.ask", "not_found": "p.unknown" },"#)], &[]).complete);
    assert!(holds(&[&pay(r#""retry": { "attempts": 1 },"#)], &[]).complete);
}

/// The third: the last step has no undo, because "nothing comes after it"; but its outcome may never be known.
#[test]
fn an_unknown_outcome_without_an_undo_is_found() {
    let ship =
        r#""ship": { "send": { "command": "s.do" }, "done": "s.done", "failed": "s.failed", "timeout": "1m", "retry": { "attempts": 1 } }"#;
    let Violation { what, trace } = violation(&[PAY, ship], &[]);
    assert_eq!(what, "the saga is compensated, and `ship` still has its effect");
    assert_eq!(trace.len(), 4, "{trace:#?}");
    assert_eq!(
        trace[1..3],
        [
            "the answer `p.done` to `pay` comes; the command of `ship` is sent and carried out",
            "no answer to `ship` comes in time; the undo of `pay` is sent and carried out; the saga is compensating",
        ]
    );
}

#[test]
fn declared_invariants_are_judged_in_every_world() {
    let Violation { what, trace } =
        violation(&[PAY, SHIP], &["NOT pay.happened OR NOT compensated", "NOT pay.undone OR NOT ship.happened", "NOT stuck"]);
    assert_eq!(what, "`NOT stuck` does not hold");
    assert!(trace.last().is_some_and(|line| line.ends_with("the saga is stuck")), "{trace:#?}");
    // A step that is asked for before the one that it needs.
    let early = SHIP.replace(r#""ship": {"#, r#""ship": { "after": [], "#);
    let Violation { trace, .. } = violation(&[PAY, &early], &["NOT ship.happened OR pay.happened OR compensated"]);
    assert_eq!(trace, ["the saga begins; the command of `pay` is sent and refused; the command of `ship` is sent and carried out"]);
}

#[test]
fn what_is_wrong_is_not_explored() {
    let wrong = saga(&[PAY], &["nothing.done"]);
    assert!(matches!(check(&wrong, DEPTH), Err(Unchecked::Wrong(found)) if found[0].code == "unknown-column"));
}
